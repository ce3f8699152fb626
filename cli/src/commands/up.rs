//! `relevo up`: everything in one process.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use relevo_pg::embedded::EmbeddedServer;
use relevo_runs::api_keys::{self, Scope, Secret};
use relevo_settings::{Loaded, Settings};
use relevo_worker::OwnKinds;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::args::UpArgs;
use crate::audited::Audited;
use crate::commands::console;
use crate::commands::services::{API, Base, flag, listen, telemetry};
use crate::control::ControlPlane;
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
pub async fn up(
    config: Option<&Path>,
    args: UpArgs,
    own: OwnKinds,
    out: Output,
) -> Result<(), Failure> {
    let mut loaded = control::load(config)?;
    flag(&mut loaded, "api.listen", args.listen, "--listen")?;
    flag(&mut loaded, "worker.concurrency", args.concurrency, "--concurrency")?;
    let stop = shutdown::on_signal()?;
    let worker = (!args.no_worker).then_some(own);
    run(loaded, worker, &stop, Some(out)).await
}

/// Runs everything with these settings until `stop`: without a worker unless there is one, and
/// silently unless there is somebody to tell.
pub async fn run(
    loaded: Loaded,
    worker: Option<OwnKinds>,
    stop: &CancellationToken,
    out: Option<Output>,
) -> Result<(), Failure> {
    control::check_schedules(&loaded.settings)?;
    let mut settings = loaded.settings.clone();
    telemetry(&settings, "up")?;
    let server = embedded::start_into(&mut settings).await?;
    let outcome = serve(settings, loaded, worker, server.as_ref(), stop, out).await;
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
    worker: Option<OwnKinds>,
    server: Option<&EmbeddedServer>,
    stop: &CancellationToken,
    out: Option<Output>,
) -> Result<(), Failure> {
    // Before anything is changed: an address in use is noticed at once.
    let listener = listen(settings.api.listen).await?;
    let address = listener.local_addr().context("the API's address can't be read")?;
    let pool = control::connect(&settings, "relevo", settings.database.max_connections).await?;
    control::migrate(&settings, &pool).await?;
    let first_key = first_key(&ControlPlane::with(settings.clone(), pool.clone())).await?;
    console::keep_address(&settings, &listener);
    // Whatever requests wait for, the scheduler and the worker have connections.
    let requests = control::connect_for_requests(&settings, API).await?;
    let no_worker = worker.is_none();
    let base = Base::new(settings, started.file.clone(), pool)
        .answering_by(requests)
        .with_kinds(worker.unwrap_or_default());
    base.follow_file(started, stop);
    let mut services = vec![base.api(listener, stop.clone()), base.scheduler(None, stop.clone())];
    if !no_worker {
        services.push(base.worker(None, stop.clone()));
    }
    if let Some(out) = out {
        let address = address.to_string();
        announce(&base.settings, &address, server, first_key.as_ref(), no_worker, out)?;
    }
    base.run(services, stop).await
}

/// On the first start makes an API key, so that the API can be used at all, unless somebody has one.
///
/// The unfinished file is there before the key is. Killed before the commit, it leaves a file that
/// opens nothing, and the next start begins anew; killed after it, a file whose key is good, and the
/// next start gives it its name. Keys of other hosts are never touched.
async fn first_key(control: &ControlPlane) -> Result<Option<Secret>, Failure> {
    let path = key_path(&control.settings);
    if path.exists() {
        return Ok(None);
    }
    let unfinished = path.with_extension("new");
    let trouble = || format!("the first API key can't be written to {}", path.display());
    let advice = "data_dir must be a folder this user may write to";
    let mut audited = Audited::begin(control).await?;
    // Hosts that start at once make one key.
    api_keys::lock_in(&mut audited.tx).await.context("the API keys can't be locked")?;
    let left = std::fs::read_to_string(&unfinished).unwrap_or_default();
    let left = api_keys::verify(&control.pool, left.trim()).await;
    if left.context("the API keys can't be read")?.is_some() {
        finish_key(&unfinished, &path)
            .with_context(trouble)
            .or_exit(Exit::Configuration)
            .advise(advice)?;
        return Ok(None);
    }
    let keys = api_keys::list(&control.pool).await.context("the API keys can't be read")?;
    if keys.iter().any(|key| key.revoked_at.is_none()) {
        return Ok(None);
    }
    let (key, secret) = api_keys::create_in(&mut audited.tx, FIRST_KEY, &[Scope::Admin])
        .await
        .context("the first API key can't be made")?;
    write_key(&unfinished, secret.expose())
        .with_context(trouble)
        .or_exit(Exit::Configuration)
        .advise(advice)?;
    let after = json!({"name": key.name, "scopes": key.scopes});
    audited.commit("key.create", &key.id.to_string(), None, Some(after)).await?;
    finish_key(&unfinished, &path)
        .with_context(trouble)
        .or_exit(Exit::Configuration)
        .advise(advice)?;
    Ok(Some(secret))
}

fn key_path(settings: &Settings) -> PathBuf {
    settings.data_dir.join(KEY_FILE)
}

/// Writes the unfinished file, which nobody else could ever read, and sees it on the disk.
fn write_key(unfinished: &Path, secret: &str) -> std::io::Result<()> {
    let folder = unfinished.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    match std::fs::remove_file(unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(unfinished)?;
    writeln!(file, "{secret}")?;
    file.sync_all()?;
    File::open(folder)?.sync_all()
}

/// Gives the file its final name, under which it is complete.
fn finish_key(unfinished: &Path, path: &Path) -> std::io::Result<()> {
    std::fs::rename(unfinished, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
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
        "console": format!("http://{address}/console"),
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
            format!("  console    http://{address}/console   (`relevo console link` logs in)"),
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
