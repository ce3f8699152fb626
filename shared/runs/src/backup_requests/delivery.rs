//! The delivery of a backup, by webhook or in the gateway's answer: recorded once, however often and
//! however concurrently it comes.

use chrono::{DateTime, Utc};
use relevo_jobs::{BackupDeadline, DownloadDump};
use relevo_queue::{JobId, Queue, QueueError};
use serde_json::json;
use sqlx::{Connection as _, PgConnection};

use super::{BackupRequest, ERROR_CHARS_MAX, GATEWAY_JOB_ID_CHARS_MAX, RequestState};
use crate::{LogLevel, Run, RunError, RunId, Runs, bounded, typed_job};

/// What a run's log says of a backup that its gateway delivered.
pub const BY_GATEWAY: &str = "the gateway delivered the backup";

/// Where a finished backup can be fetched. The URL's host has been checked by the caller, with
/// [`super::check_download_url`].
#[derive(Clone, Debug, PartialEq)]
pub struct Delivery {
    /// Where.
    pub download_url: String,
    /// The file's name, where the gateway gave it.
    pub filename: Option<String>,
    /// Its exact length, where the gateway gave it.
    pub filesize_bytes: Option<i64>,
    /// Its length in MB, rounded, where the gateway gave it.
    pub filesize_mb: Option<f64>,
    /// Until when it can be fetched, where the gateway said so.
    pub expires_at: Option<DateTime<Utc>>,
}

/// What a webhook reports.
#[derive(Clone, Debug, PartialEq)]
pub enum Report {
    /// The backup is there.
    Completed(Delivery),
    /// The gateway could not make it.
    Failed {
        /// What it said.
        error: String,
    },
}

/// What a delivery came to. Each is a success for who delivered.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Delivered {
    /// Recorded; the download is enqueued.
    Download(JobId),
    /// A failure, recorded; the job that decides what follows is enqueued.
    FollowUp(JobId),
    /// The same was recorded before; nothing has changed.
    Repeat,
    /// The run has ended, or fetches another backup by now; nothing follows.
    TooLate,
}

/// Why a delivery was not taken.
#[derive(Debug, thiserror::Error)]
pub enum DeliverError {
    /// The request is gone.
    #[error("there is no backup request {0}")]
    NotFound(i64),
    /// The gateway promised this request's backup under another id.
    #[error("this request waits for the backup {expected:?}, not for {found:?}")]
    OtherBackup {
        /// The id that the gateway promised.
        expected: String,
        /// The id that was delivered.
        found: String,
    },
    /// The control plane failed; the delivery can be repeated.
    #[error("the delivery could not be recorded")]
    Failed(#[from] RunError),
}

impl From<sqlx::Error> for DeliverError {
    fn from(error: sqlx::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<QueueError> for DeliverError {
    fn from(error: QueueError) -> Self {
        Self::Failed(error.into())
    }
}

/// Takes a webhook's report for a request: recorded, and what follows enqueued, in one transaction.
/// When this returns, it is durable. Two at once wait for each other; the second is a repeat.
///
/// `gateway_job_id` is the id in the report; where the gateway promised another one for this request,
/// and was called only once for it, the report is refused; where its promise was lost on the way the
/// id is noted.
///
/// # Errors
/// [`DeliverError`]; nothing has changed then.
pub async fn deliver(
    queue: &Queue,
    request_id: i64,
    gateway_job_id: Option<&str>,
    report: &Report,
) -> Result<Delivered, DeliverError> {
    let mut conn = queue.pool().acquire().await?;
    let mut tx = conn.begin().await?;
    let (run, request) = lock(&mut tx, queue, request_id).await?;
    if let (Some(expected), Some(found)) = (&request.gateway_job_id, gateway_job_id)
        && expected != found
        && !asked_again(&mut tx, request_id).await?
    {
        return Err(DeliverError::OtherBackup {
            expected: expected.clone(),
            found: bounded::text(found, GATEWAY_JOB_ID_CHARS_MAX),
        });
    }
    let delivered = match report {
        Report::Completed(delivery) => {
            record(&mut tx, queue, &run, &request, gateway_job_id, delivery, BY_GATEWAY).await?
        }
        Report::Failed { error } => {
            record_failure(&mut tx, queue, &run, &request, gateway_job_id, error).await?
        }
    };
    tx.commit().await?;
    Ok(delivered)
}

/// Takes a backup that is there without a webhook, by the gateway's synchronous answer or because
/// nobody had to be asked, in the caller's transaction: the same effect as a webhook with the same
/// news. `told` is what the run's log says of it. True when this is what enqueued the download.
///
/// # Errors
/// [`DeliverError`].
pub async fn delivered_in(
    tx: &mut PgConnection,
    queue: &Queue,
    request_id: i64,
    delivery: &Delivery,
    told: &str,
) -> Result<bool, DeliverError> {
    let (run, request) = lock(tx, queue, request_id).await?;
    let delivered = record(tx, queue, &run, &request, None, delivery, told).await?;
    Ok(matches!(delivered, Delivered::Download(_)))
}

/// Whether the gateway was called more than once for a request: then it may know the backup by the
/// id of any of the calls, also of one whose answer was lost.
async fn asked_again(tx: &mut PgConnection, request_id: i64) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "-- backup_requests::asked_again
        SELECT count(*) > 1 FROM relevo.backup_token WHERE request_id = $1",
    )
    .bind(request_id)
    .fetch_one(tx)
    .await
}

/// Locks the request's run, then the request: everybody's order.
async fn lock(
    tx: &mut PgConnection,
    queue: &Queue,
    request_id: i64,
) -> Result<(Run, BackupRequest), DeliverError> {
    let run_id: Option<RunId> = sqlx::query_scalar(
        "-- backup_requests::lock
        SELECT run_id FROM relevo.backup_request WHERE id = $1",
    )
    .bind(request_id)
    .fetch_optional(&mut *tx)
    .await?;
    let run_id = run_id.ok_or(DeliverError::NotFound(request_id))?;
    let runs = Runs::new(queue.pool().clone());
    let run = runs.get_for_update_in(tx, run_id).await?.ok_or(RunError::NotFound(run_id))?;
    let request = super::get_for_update_in(tx, request_id)
        .await?
        .ok_or(DeliverError::NotFound(request_id))?;
    Ok((run, request))
}

async fn record(
    tx: &mut PgConnection,
    queue: &Queue,
    run: &Run,
    request: &BackupRequest,
    gateway_job_id: Option<&str>,
    delivery: &Delivery,
    told: &str,
) -> Result<Delivered, DeliverError> {
    let waits = matches!(request.state, RequestState::Asked | RequestState::Answered);
    if request.state == RequestState::Delivered {
        return Ok(Delivered::Repeat);
    }
    if run.state.is_ended() {
        if waits {
            super::close_in(
                tx,
                request.id,
                super::CloseAs::Expired,
                "the backup came after the run had ended",
            )
            .await?;
        }
        return Ok(Delivered::TooLate);
    }
    // A backup that was given up and comes after all is welcome while the run still waits for one.
    if !waits && any_delivered(tx, run.id).await? {
        return Ok(Delivered::TooLate);
    }
    supersede_others(tx, run.id, request).await?;
    let job = typed_job(&DownloadDump { run_id: run.id.0, request_id: request.id });
    let job = enqueue(tx, queue, run.in_trace(job)).await?;
    let filename =
        delivery.filename.clone().or_else(|| super::gateway::filename_of(&delivery.download_url));
    sqlx::query(
        "-- backup_requests::record
        UPDATE relevo.backup_request
        SET state = 'delivered', delivered_at = now(), download_url = $2, filename = $3,
            filesize_bytes = $4, filesize_mb = $5, expires_at = $6, next_job_id = $7,
            gateway_job_id = coalesce(gateway_job_id, $8), error = NULL, ended_at = NULL
        WHERE id = $1",
    )
    .bind(request.id)
    .bind(&delivery.download_url)
    .bind(filename.as_deref().map(|name| bounded::text(name, 300)))
    .bind(delivery.filesize_bytes.filter(|bytes| *bytes > 0))
    .bind(delivery.filesize_mb.filter(|mb| *mb > 0.0 && *mb < 1e12))
    .bind(delivery.expires_at)
    .bind(job)
    .bind(gateway_job_id.map(|id| bounded::text(id, GATEWAY_JOB_ID_CHARS_MAX)))
    .execute(&mut *tx)
    .await?;
    let fields = json!({
        "request_id": request.id,
        "filename": filename,
        "filesize_bytes": delivery.filesize_bytes,
        "filesize_mb": delivery.filesize_mb,
    });
    log(tx, queue, run.id, LogLevel::Info, told, &fields).await?;
    Ok(Delivered::Download(job))
}

async fn record_failure(
    tx: &mut PgConnection,
    queue: &Queue,
    run: &Run,
    request: &BackupRequest,
    gateway_job_id: Option<&str>,
    error: &str,
) -> Result<Delivered, DeliverError> {
    if !matches!(request.state, RequestState::Asked | RequestState::Answered) {
        return Ok(Delivered::Repeat);
    }
    let job = if run.state.is_ended() {
        None
    } else {
        let job = typed_job(&BackupDeadline { run_id: run.id.0, request_id: request.id });
        Some(enqueue(tx, queue, run.in_trace(job)).await?)
    };
    sqlx::query(
        "-- backup_requests::record_failure
        UPDATE relevo.backup_request
        SET state = 'failed', error = $2, ended_at = now(), next_job_id = $3,
            gateway_job_id = coalesce(gateway_job_id, $4)
        WHERE id = $1",
    )
    .bind(request.id)
    .bind(bounded::text(error, ERROR_CHARS_MAX))
    .bind(job)
    .bind(gateway_job_id.map(|id| bounded::text(id, GATEWAY_JOB_ID_CHARS_MAX)))
    .execute(&mut *tx)
    .await?;
    let message = format!("the gateway could not make the backup: {error}");
    log(tx, queue, run.id, LogLevel::Warn, &message, &json!({"request_id": request.id})).await?;
    Ok(job.map_or(Delivered::TooLate, Delivered::FollowUp))
}

/// Whether a request of the run has been delivered.
async fn any_delivered(tx: &mut PgConnection, run_id: RunId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "-- backup_requests::any_delivered
        SELECT EXISTS (
            SELECT 1 FROM relevo.backup_request WHERE run_id = $1 AND state = 'delivered'
        )",
    )
    .bind(run_id)
    .fetch_one(tx)
    .await
}

/// Gives up the run's other requests that still wait, so that only one download starts.
async fn supersede_others(
    tx: &mut PgConnection,
    run_id: RunId,
    request: &BackupRequest,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- backup_requests::supersede_others
        UPDATE relevo.backup_request
        SET state = 'expired', ended_at = now(), error = 'round ' || $3 || ' was delivered first'
        WHERE run_id = $1 AND id <> $2 AND state IN ('asked', 'answered')",
    )
    .bind(run_id)
    .bind(request.id)
    .bind(request.round.to_string())
    .execute(tx)
    .await?;
    Ok(())
}

async fn enqueue(
    tx: &mut PgConnection,
    queue: &Queue,
    job: relevo_queue::NewJob,
) -> Result<JobId, QueueError> {
    let enqueued = queue.enqueue_in(tx, &[job]).await?;
    // One job in, one answer out.
    enqueued.first().map(|enqueued| enqueued.id).ok_or_else(|| QueueError::Corrupt {
        table: "job",
        what: "an enqueue of one job gave no answer".to_owned(),
    })
}

async fn log(
    tx: &mut PgConnection,
    queue: &Queue,
    run_id: RunId,
    level: LogLevel,
    message: &str,
    fields: &serde_json::Value,
) -> Result<(), RunError> {
    Runs::new(queue.pool().clone()).log_in(tx, run_id, level, message, fields).await
}
