//! Cancelling: a waiting job ends here and now, a running one is asked to.

use std::collections::BTreeMap;

use sqlx::{Acquire as _, PgConnection, Row as _};

use crate::admit::{self, Keys};
use crate::batch::{self, Ended};
use crate::queue::CancelOutcome;
use crate::sql::{CHANNEL_CONTROL, history_columns, storable};
use crate::view::JobState;
use crate::{BatchId, JobId, QueueError};

const LOCK_JOB: &str = "-- lock_job
    SELECT state::text AS state, ordering_key, limit_key FROM relevo.job WHERE id = $1 FOR UPDATE";

const REQUEST: &str = "-- request_cancel
    UPDATE relevo.job
    SET cancel_requested_at = coalesce(cancel_requested_at, now()),
        cancel_reason = coalesce(cancel_reason, $2)
    WHERE id = $1 RETURNING session_id";

const CANCEL: &str = concat!(
    "-- cancel_job
    WITH gone AS (DELETE FROM relevo.job WHERE id = $1 RETURNING *)
    INSERT INTO relevo.job_history (",
    history_columns!(),
    ", state, finished_at, cancel_reason) SELECT ",
    history_columns!(),
    ", 'cancelled', now(), $2 FROM gone RETURNING batch_id"
);

/// The state of a job that is not in `relevo.job`.
const FIND_ENDED: &str = "-- find_ended_state
    SELECT state::text AS state FROM relevo.job_history WHERE id = $1
    UNION ALL SELECT 'dead' FROM relevo.dead_letter WHERE id = $1";

/// In a transaction of its own, or as a part of the caller's; with the keys to admit at after it.
pub(crate) async fn cancel(
    connection: &mut PgConnection,
    id: JobId,
    reason: &str,
) -> Result<(CancelOutcome, Keys), QueueError> {
    let reason = storable(reason);
    let mut transaction = connection.begin().await?;
    let mut keys = Keys::default();
    let outcome = match lock(&mut transaction, id).await? {
        Found::Nowhere => CancelOutcome::NotFound,
        Found::Ended(state) => CancelOutcome::AlreadyEnded(state),
        Found::Locked(JobState::Running, _) => {
            let row =
                sqlx::query(REQUEST).bind(id).bind(&reason).fetch_one(&mut *transaction).await?;
            let session: i64 = row.try_get("session_id")?;
            sqlx::query("-- notify_cancel\nSELECT pg_notify($1, $2)")
                .bind(CHANNEL_CONTROL)
                .bind(format!("{session} {id}"))
                .execute(&mut *transaction)
                .await?;
            CancelOutcome::Requested
        }
        Found::Locked(_, freed) => {
            keys = freed;
            let batch: Option<BatchId> = sqlx::query_scalar(CANCEL)
                .bind(id)
                .bind(&reason)
                .fetch_one(&mut *transaction)
                .await?;
            if let Some(batch) = batch {
                let ended = Ended { cancelled: 1, ..Ended::default() };
                batch::settle(&mut transaction, &BTreeMap::from([(batch, ended)])).await?;
            }
            CancelOutcome::Cancelled
        }
    };
    transaction.commit().await?;
    Ok((outcome, keys))
}

/// Where a job is.
pub(crate) enum Found {
    /// Unfinished, and locked; with its keys.
    Locked(JobState, Keys),
    /// In the history or the dead letters.
    Ended(JobState),
    /// There is none.
    Nowhere,
}

/// Finds a job and locks it if it is unfinished. Looks twice: a dead letter that goes back to work
/// between two looks is seen by neither.
pub(crate) async fn lock(connection: &mut PgConnection, id: JobId) -> Result<Found, QueueError> {
    for _ in 0..2 {
        // The lock waits for a claim or finish in flight, so the state is what it will have come to.
        let row = sqlx::query(LOCK_JOB).bind(id).fetch_optional(&mut *connection).await?;
        if let Some(row) = row {
            return Ok(Found::Locked(row.try_get("state")?, admit::keys_of(&row)?));
        }
        if let Some(state) = ended_state(connection, id).await? {
            return Ok(Found::Ended(state));
        }
    }
    Ok(Found::Nowhere)
}

async fn ended_state(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<Option<JobState>, QueueError> {
    Ok(sqlx::query_scalar(FIND_ENDED).bind(id).fetch_optional(connection).await?)
}
