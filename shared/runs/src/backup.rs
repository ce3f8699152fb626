//! Starting a run of the backup import: the one way in for API, command line and scheduler.

use relevo_jobs::RequestBackup;
use relevo_queue::Queue;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::{NewRun, RunError, RunId, Runs, typed_job, uploads};

/// How the gateway is asked: `auto`, `webhook` or `sync`.
pub use relevo_jobs::RequestMode as BackupMode;

/// The pipeline's name, as in [`crate::Run::pipeline`].
pub const PIPELINE: &str = "backup";

/// How a run is asked for; stored as the run's options.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StartOptions {
    /// How the gateway is asked.
    #[serde(default)]
    pub mode: BackupMode,
    /// Replaces the target even when the backup is suspiciously small against the last one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
    /// The upload to load, in place of what the source's kind would bring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub upload: Option<i64>,
}

/// Creates a run and enqueues its first job, both in the caller's transaction, so that there is never
/// one without the other. The transaction stays usable after [`RunError::AlreadyActive`].
///
/// # Errors
/// [`RunError::AlreadyActive`] names the run that the source is busy with;
/// [`RunError::UploadUnusable`] says why an upload cannot be loaded: roll back then.
pub async fn start_in(
    tx: &mut PgConnection,
    queue: &Queue,
    source: &str,
    options: &StartOptions,
    trigger: &str,
) -> Result<RunId, RunError> {
    let runs = Runs::new(queue.pool().clone());
    let run = NewRun {
        pipeline: PIPELINE.to_owned(),
        source: source.to_owned(),
        trigger: trigger.to_owned(),
        options: serde_json::to_value(options)
            .map_err(|error| sqlx::Error::Encode(error.into()))?,
    };
    let id = runs.create_in(tx, &run).await?;
    if let Some(upload) = options.upload {
        uploads::use_in(tx, upload, source, id).await?;
    }
    let first = typed_job(&RequestBackup { run_id: id.0, mode: options.mode, round: 1 });
    queue.enqueue_in(tx, &[first]).await?;
    Ok(id)
}
