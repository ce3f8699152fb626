//! `relevo up`: everything in one process.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use relevo_pg::embedded::EmbeddedServer;
use relevo_runs::api_keys::{self, Scope, Secret};
use relevo_settings::{Loaded, Settings};
use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::args::UpArgs;
use crate::commands::services::{Base, flag, listen, telemetry};
use crate::failure::{Advise as _, Exit, Failure, OrFail as _};
use crate::output::Output;
use crate::{control, embedded, shutdown};

/// Name of the key made on the first start.
const FIRST_KEY: &str = "first key, made by relevo up";

/// File of the data directory that keeps that key.
const KEY_FILE: &str = "api-key";

/// How long stopping the embedded server may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Runs it.
pub async fn up(config: Option<&Path>, args: UpArgs, out: Output) -> Result<(), Failure> {
    let mut loaded = control::load(config)?;
    flag(&mut loaded, "api.listen", args.listen, "--listen")?;
    flag(&mut loaded, "worker.concurrency", args.concurrency, "--concurrency")?;
    control::check_schedules(&loaded.settings)?;
    let mut settings = loaded.settings.clone();
    telemetry(&settings, "up")?;
    let stop = shutdown::on_signal()?;
    let server = embedded::start_into(&mut settings).await?;
    let outcome = serve(settings, loaded, args.no_worker, server.as_ref(), &stop, out).await;
    if let Some(server) = server {
        match tokio::time::timeout(STOP_TIMEOUT, server.stop()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::error!(
                error = &error as &dyn std::error::Error,
                "the embedded database didn't stop; the next start adopts it"
            ),
            Err(_) => {
                tracing::error!("the embedded database doesn't stop; the next start adopts it");
            }
        }
    }
    outcome
}

async fn serve(
    settings: Settings,
    started: Loaded,
    no_worker: bool,
    server: Option<&EmbeddedServer>,
    stop: &CancellationToken,
    out: Output,
) -> Result<(), Failure> {
    // Before anything is changed: an address in use is noticed at once.
    let listener = listen(settings.api.listen).await?;
    let address = listener.local_addr().context("the API's address can't be read")?;
    let pool = control::connect(&settings, "relevo", settings.database.max_connections).await?;
    control::migrate(&pool).await?;
    let first_key = first_key(&settings, &pool).await?;
    let base = Base::new(settings, started.file.clone(), pool);
    base.follow_file(started, stop);
    let mut services =
        vec![base.api(listener, stop.clone()), base.scheduler(None, stop.clone())];
    if !no_worker {
        services.push(base.worker(None, stop.clone()));
    }
    announce(&base.settings, &address.to_string(), server, first_key.as_ref(), no_worker, out)?;
    base.run(services, stop).await
}

/// On the first start makes an API key, so that the API can be used at all.
///
/// Killed between the two steps, it leaves a key whose secret nobody has: the next start revokes
/// such a one and makes another.
async fn first_key(settings: &Settings, pool: &PgPool) -> Result<Option<Secret>, Failure> {
    let path = key_path(settings);
    if path.exists() {
        return Ok(None);
    }
    let keys = api_keys::list(pool).await.context("the API keys can't be read")?;
    for key in keys.iter().filter(|key| key.revoked_at.is_none()) {
        if key.name != FIRST_KEY || key.last_used_at.is_some() {
            // Somebody has a key that opens everything he needs.
            return Ok(None);
        }
        api_keys::revoke(pool, key.id).await.context("an API key nobody has can't be revoked")?;
    }
    let (_, secret) = api_keys::create(pool, FIRST_KEY, &[Scope::Admin])
        .await
        .context("the first API key can't be made")?;
    write_key(&path, secret.expose())
        .with_context(|| format!("the first API key can't be written to {}", path.display()))
        .or_exit(Exit::Configuration)
        .advise("data_dir must be a folder this user may write to")?;
    Ok(Some(secret))
}

fn key_path(settings: &Settings) -> PathBuf {
    settings.data_dir.join(KEY_FILE)
}

/// Under its final name the file is complete, and nobody else could ever read it.
fn write_key(path: &Path, secret: &str) -> std::io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let unfinished = path.with_extension("new");
    match std::fs::remove_file(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    std::fs::rename(&unfinished, path)
}

/// Says where everything is.
fn announce(
    settings: &Settings,
    address: &str,
    server: Option<&EmbeddedServer>,
    first_key: Option<&Secret>,
    no_worker: bool,
    out: Output,
) -> Result<(), Failure> {
    let key_file = key_path(settings);
    let key_file = key_file.exists().then_some(key_file);
    let document = json!({
        "api": format!("http://{address}"),
        "metrics": format!("http://{address}/metrics"),
        "key_file": key_file,
        "first_key": first_key.map(Secret::expose),
        "data_dir": settings.data_dir,
        "embedded_database": server.map(|server| server.data()),
        "worker_concurrency": if no_worker { 0 } else { settings.worker.concurrency },
        "sources": settings.backup.keys().collect::<Vec<_>>(),
    });
    out.document(&document, || {
        let mut lines = vec![
            format!("relevo {} is up", env!("CARGO_PKG_VERSION")),
            format!("  API        http://{address}/api/v1/"),
            format!("  metrics    http://{address}/metrics"),
        ];
        if let Some(path) = &key_file {
            lines.push(format!("  API key    in {}", path.display()));
        }
        if let Some(secret) = first_key {
            lines.push(format!("             {}   (shown this once)", secret.expose()));
        }
        match server {
            Some(server) => {
                lines.push(format!("  database   its own, in {}", server.data().display()));
            }
            None => lines.push("  database   as configured".to_owned()),
        }
        if no_worker {
            lines.push("  worker     none in this process; start `relevo worker`".to_owned());
        } else {
            let concurrency = settings.worker.concurrency;
            lines.push(format!(
                "  worker     {concurrency} jobs at a time; `relevo worker` adds more"
            ));
        }
        for (name, source) in &settings.backup {
            let when = if source.schedule_enabled {
                format!(
                    "every {} h from {} ({})",
                    source.sync_interval_hours,
                    source.first_slot.format("%H:%M"),
                    source.timezone
                )
            } else {
                "only when asked".to_owned()
            };
            lines.push(format!("  source     {name}: {when}"));
        }
        if settings.backup.is_empty() {
            lines.push(
                "  source     none; docs/backup-import.md tells how to add a shop".to_owned(),
            );
        }
        lines.push("Look around: relevo run list, relevo queue list. Ctrl-C stops it.".to_owned());
        lines.join("\n")
    })
}
