//! What the configuration asks of the clock, now and whenever it changes.
//!
//! Every process watches its own file; the leader's is in force. A configuration whose schedules
//! make no sense, or a file that cannot be read, changes nothing: what was read before stays in
//! force, and the log, the metric and the list of schedules say so.

use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use relevo_errors::chain;
use relevo_settings::Version;
use relevo_telemetry::metrics::Metrics;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::schedule::{ConfiguredError, NewSchedule, configured};

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
    /// What a version of the settings asks for.
    pub(crate) fn of(version: Version) -> Result<Self, ConfiguredError> {
        let schedules = Arc::new(configured(&version.settings)?);
        let Version { file, loaded_at, problem, .. } = version;
        Ok(Self { schedules, path: file, loaded_at, problem })
    }
}

/// Follows the settings until `stop`.
pub(crate) async fn run(
    mut versions: watch::Receiver<Version>,
    metrics: Arc<Metrics>,
    wanted: watch::Sender<Wanted>,
    stop: CancellationToken,
) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            changed = versions.changed() => if changed.is_err() {
                // Nobody can change them any more.
                stop.cancelled().await;
                return;
            },
        }
        let version = versions.borrow_and_update().clone();
        match Wanted::of(version) {
            Ok(now) => {
                for schedule in now.schedules.iter() {
                    metrics.declare_schedule(&schedule.name);
                }
                metrics.schedule_file_valid.set(if now.problem.is_none() { 1.0 } else { 0.0 });
                wanted.send_replace(now);
            }
            Err(error) => {
                let problem = chain(&error);
                tracing::error!(problem, "the schedules make no sense; those of before stay");
                metrics.schedule_file_valid.set(0.0);
                wanted.send_modify(|wanted| wanted.problem = Some((problem, Utc::now())));
            }
        }
    }
}
