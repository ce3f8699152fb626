//! The configuration file, looked at again while a service runs.
//!
//! A file is taken up when it has changed and then stayed the same for a moment, so that one that is
//! just being written is not read by halves, or at once on SIGHUP. One that makes no sense, or is
//! gone, changes nothing: what was read before stays in force, and the log says so. Keys that hold
//! from the next start only are named.

use std::path::Path;
use std::time::{Duration, SystemTime};

use relevo_settings::{InForce, Loaded};
use relevo_telemetry::redact;
use secrecy::ExposeSecret as _;
use tokio_util::sync::CancellationToken;

use crate::{control, embedded};

/// How often the file is looked at: a changed one is taken up at the second look that finds it the
/// same.
const PAUSE: Duration = Duration::from_secs(2);

/// What tells one version of a file from another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Mark {
    modified: SystemTime,
    size_bytes: u64,
    /// A file put in another's place may be as long and as old.
    inode: u64,
}

impl Mark {
    async fn of(path: &Path) -> Option<Self> {
        let metadata = tokio::fs::metadata(path).await.ok()?;
        #[cfg(unix)]
        let inode = std::os::unix::fs::MetadataExt::ino(&metadata);
        #[cfg(not(unix))]
        let inode = 0;
        Some(Self { modified: metadata.modified().ok()?, size_bytes: metadata.len(), inode })
    }
}

/// Why a changed file is not in force.
enum Refusal {
    /// It makes no sense; it is looked at when it has changed again.
    File(String),
    /// Something else is missing, which may come.
    Now(String),
}

/// Watches the file of a process that was `started` with these settings, until `stop`. Without a
/// file there is nothing to watch.
pub async fn watch(started: Loaded, in_force: InForce, stop: CancellationToken) {
    let Some(path) = started.file.clone() else { return };
    let mut read = Mark::of(&path).await;
    let mut seen = read.clone();
    let mut hangup = Hangup::new();
    loop {
        let is_asked = tokio::select! {
            () = stop.cancelled() => return,
            () = hangup.heard() => true,
            () = tokio::time::sleep(PAUSE) => false,
        };
        let now = Mark::of(&path).await;
        let is_settled = now == seen;
        seen.clone_from(&now);
        if !is_asked && (now == read || !is_settled) {
            continue;
        }
        read = now;
        let problem = match take_up(&path, &started, &in_force).await {
            Ok(()) => continue,
            Err(Refusal::File(problem)) => problem,
            Err(Refusal::Now(problem)) => {
                read = None;
                problem
            }
        };
        if in_force.version().problem.is_none_or(|(known, _)| known != problem) {
            tracing::error!(
                path = %path.display(),
                problem,
                "the configuration file makes no sense or cannot be used; what was read before stays in force"
            );
            in_force.refuse(problem);
        }
    }
}

/// Reads the file again, with the environment over it, and puts it in force.
async fn take_up(path: &Path, started: &Loaded, in_force: &InForce) -> Result<(), Refusal> {
    let again = path.to_owned();
    let flags = started.clone();
    let read = tokio::task::spawn_blocking(move || {
        relevo_settings::load(Some(&again), &|name| std::env::var(name).ok())?.with_flags_of(&flags)
    });
    let loaded = match read.await {
        Ok(Ok(loaded)) => loaded,
        Ok(Err(error)) => return Err(Refusal::File(relevo_errors::chain(&error))),
        Err(error) => return Err(Refusal::Now(relevo_errors::chain(&error))),
    };
    for secret in loaded.secrets() {
        redact::hide(secret.expose_secret());
    }
    control::check_schedules(&loaded.settings).map_err(|failure| Refusal::File(failure.line()))?;
    let waiting = loaded.waiting_for_restart(started);
    let mut settings = loaded.settings.taken_up_by(&in_force.now());
    embedded::find_targets(&mut settings).await.map_err(|failure| Refusal::Now(failure.line()))?;
    tracing::info!(
        path = %path.display(),
        sources = settings.backup.len(),
        schedules = settings.schedule.len(),
        "the configuration file was read again and is in force"
    );
    if !waiting.is_empty() {
        tracing::warn!(
            path = %path.display(),
            keys = waiting.join(", "),
            "some of what was changed in the configuration file holds from the next start only"
        );
    }
    in_force.replace(settings);
    Ok(())
}

/// SIGHUP, where there is such a thing.
struct Hangup {
    #[cfg(unix)]
    signal: Option<tokio::signal::unix::Signal>,
}

impl Hangup {
    fn new() -> Self {
        Self {
            #[cfg(unix)]
            signal: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())
                .inspect_err(|error| {
                    tracing::warn!(
                        error = error as &dyn std::error::Error,
                        "SIGHUP cannot be heard; the configuration file is looked at all the same"
                    );
                })
                .ok(),
        }
    }

    async fn heard(&mut self) {
        #[cfg(unix)]
        if let Some(signal) = &mut self.signal
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending::<()>().await;
    }
}
