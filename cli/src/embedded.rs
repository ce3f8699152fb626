//! The embedded Postgres of the data directory: found by commands, started by `relevo up`.

use std::path::Path;

use anyhow::Context as _;
use relevo_pg::embedded::{EmbeddedHandle, EmbeddedServer};
use relevo_settings::Settings;
use relevo_telemetry::redact;
use secrecy::{ExposeSecret as _, SecretString};

use crate::failure::{Advise as _, Exit, Failure, OrFail as _};

/// The control plane's URL on the embedded server that somebody else runs.
pub async fn find(data_dir: &Path) -> Result<SecretString, Failure> {
    let url = find_handle(data_dir).await?.url().clone();
    redact::hide(url.expose_secret());
    Ok(url)
}

async fn find_handle(data_dir: &Path) -> Result<EmbeddedHandle, Failure> {
    EmbeddedServer::find(data_dir)
        .await
        .with_context(|| {
            format!("the embedded database under {} can't be used", data_dir.display())
        })
        .or_exit(Exit::ControlPlane)?
        .ok_or_else(|| {
            Failure::new(
                Exit::ControlPlane,
                format!(
                    "no database is configured, and no embedded one runs under {}",
                    data_dir.display()
                ),
            )
            .advise(
                "set database.url (RELEVO_DATABASE_URL), or start `relevo up` with this data_dir",
            )
        })
}

/// Finds the embedded server where no database is configured, and writes its addresses into the
/// settings.
pub async fn find_into(settings: &mut Settings) -> Result<(), Failure> {
    if settings.database.url.is_some() {
        return Ok(());
    }
    let handle = find_handle(&settings.data_dir).await?;
    write_into(settings, &handle).await
}

/// Finds the embedded server for targets on it, where there are any.
pub async fn find_targets(settings: &mut Settings) -> Result<(), Failure> {
    if settings.embedded_targets().is_empty() {
        return Ok(());
    }
    let handle = find_handle(&settings.data_dir).await?;
    write_into(settings, &handle).await
}

/// Starts the embedded server, or adopts the one that runs, where no database is configured.
pub async fn start_into(settings: &mut Settings) -> Result<Option<EmbeddedServer>, Failure> {
    if settings.database.url.is_some() {
        return Ok(None);
    }
    let server = EmbeddedServer::start_or_adopt(&settings.data_dir)
        .await
        .context("the embedded database can't be started")
        .or_exit(Exit::ControlPlane)
        .advise("or give a database of your own: RELEVO_DATABASE_URL=postgres://…")?;
    write_into(settings, server.handle()).await?;
    Ok(Some(server))
}

/// The control plane and every target that is a database of this server.
async fn write_into(settings: &mut Settings, handle: &EmbeddedHandle) -> Result<(), Failure> {
    for (source, database) in settings.embedded_targets() {
        let url = handle
            .database_url(&database)
            .await
            .with_context(|| format!("the target database of the source {source} can't be used"))
            .or_exit(Exit::ControlPlane)?;
        redact::hide(url.expose_secret());
        settings.set_target(&source, url);
    }
    redact::hide(handle.url().expose_secret());
    settings.database.url = Some(handle.url().clone());
    Ok(())
}
