//! The configuration file, looked at again while the scheduler runs.
//!
//! Every process watches its own file; the leader's is in force. A file is taken up when it has
//! changed and then stayed the same for a moment, so that one that is just being written is not
//! read by halves, or at once on SIGHUP. One that makes no sense, or is gone, changes nothing: what
//! was read before stays in force, and the log, the metric and the list of schedules say so.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};
use relevo_errors::chain;
use relevo_settings::Settings;
use relevo_telemetry::metrics::Metrics;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::schedule::{ConfiguredError, NewSchedule, configured};

/// How often the file is looked at: a changed one is taken up at the second look that finds it the
/// same.
const PAUSE: Duration = Duration::from_secs(2);

/// The configuration file of this process, and how to read it again.
#[derive(Clone)]
pub struct ConfigurationFile {
    /// Where it is.
    pub path: PathBuf,
    /// Reads it as at the start, with the environment over it; says what is wrong with it.
    pub load: Arc<dyn Fn() -> Result<Settings, String> + Send + Sync>,
}

/// What the configuration asks for, and what is wrong with what is on disk now.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) schedules: Arc<Vec<NewSchedule>>,
    pub(crate) path: Option<PathBuf>,
    pub(crate) loaded_at: DateTime<Utc>,
    /// Why the file as it is now is not in force, and since when.
    pub(crate) problem: Option<(String, DateTime<Utc>)>,
}

impl Wanted {
    /// What the settings of the start ask for.
    pub(crate) fn of(settings: &Settings, path: Option<PathBuf>) -> Result<Self, ConfiguredError> {
        let schedules = Arc::new(configured(settings)?);
        Ok(Self { schedules, path, loaded_at: Utc::now(), problem: None })
    }
}

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

/// Watches `file` until `stop`.
pub(crate) async fn run(
    file: ConfigurationFile,
    metrics: Arc<Metrics>,
    wanted: watch::Sender<Wanted>,
    stop: CancellationToken,
) {
    let mut read = Mark::of(&file.path).await;
    let mut seen = read.clone();
    let mut hangup = Hangup::new();
    loop {
        let is_asked = tokio::select! {
            () = stop.cancelled() => return,
            () = hangup.heard() => true,
            () = tokio::time::sleep(PAUSE) => false,
        };
        let now = Mark::of(&file.path).await;
        let is_settled = now == seen;
        seen.clone_from(&now);
        if !is_asked && (now == read || !is_settled) {
            continue;
        }
        read = now;
        take_up(&file, &metrics, &wanted).await;
    }
}

async fn take_up(file: &ConfigurationFile, metrics: &Metrics, wanted: &watch::Sender<Wanted>) {
    let load = Arc::clone(&file.load);
    let loaded = tokio::task::spawn_blocking(move || load()).await;
    let read = match loaded {
        Ok(Ok(settings)) => configured(&settings).map_err(|error| chain(&error)),
        Ok(Err(problem)) => Err(problem),
        Err(error) => Err(chain(&error)),
    };
    let path = file.path.display();
    match read {
        Ok(schedules) => {
            tracing::info!(
                path = %path,
                schedules = schedules.len(),
                "the configuration file was read again; its schedules are in force"
            );
            for schedule in &schedules {
                metrics.declare_schedule(&schedule.name);
            }
            metrics.schedule_file_valid.set(1.0);
            wanted.send_modify(|wanted| {
                wanted.schedules = Arc::new(schedules);
                wanted.loaded_at = Utc::now();
                wanted.problem = None;
            });
        }
        Err(problem) => {
            tracing::error!(
                path = %path,
                problem,
                "the configuration file makes no sense; the schedules read before stay in force"
            );
            metrics.schedule_file_valid.set(0.0);
            wanted.send_modify(|wanted| wanted.problem = Some((problem, Utc::now())));
        }
    }
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
