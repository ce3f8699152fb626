//! Dead letters: back to work, or given up for good; and hurrying jobs that wait.

use sqlx::{Acquire as _, PgConnection, Row as _};

use crate::queue::RetryOutcome;
use crate::sql::history_columns;
use crate::view::JobState;
use crate::{BatchId, JobId, Queue, QueueError, batch, cancel, enqueue};

/// The epoch is kept: what a former lease wrote into a target must stay older than what comes.
const REVIVE: &str = "-- revive_dead_letter
    WITH back AS (DELETE FROM relevo.dead_letter WHERE id = $1 RETURNING *)
    INSERT INTO relevo.job (id, lease_epoch, created_at, batch_id, run_id, max_attempts,
                            unique_scope, priority, max_deaths, payload_version, queue, kind,
                            payload, unique_key, traceparent, last_error, state)
    SELECT id, lease_epoch, created_at, batch_id, run_id, max_attempts, unique_scope, priority,
           max_deaths, payload_version, queue, kind, payload, unique_key, traceparent, last_error,
           'available'
    FROM back
    ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING
    RETURNING queue, batch_id";

const LOCK_DEAD: &str = "-- lock_dead_letter
    SELECT unique_key FROM relevo.dead_letter WHERE id = $1 FOR UPDATE";

const FIND_HOLDER: &str = "-- find_unique_key
    SELECT id FROM relevo.job WHERE unique_key = $1";

const HURRY: &str = "-- hurry_job
    UPDATE relevo.job SET state = 'available', run_at = now()
    WHERE id = $1 AND state IN ('scheduled', 'retryable') RETURNING queue";

const FIND_STATE: &str = "-- find_job_state
    SELECT state::text AS state FROM relevo.job WHERE id = $1";

const DISCARD: &str = concat!(
    "-- discard_dead_letter
    WITH gone AS (DELETE FROM relevo.dead_letter WHERE id = $1 RETURNING *)
    INSERT INTO relevo.job_history (",
    history_columns!(),
    ", state, finished_at, cancel_reason) SELECT ",
    history_columns!(),
    ", 'cancelled', now(), $2 FROM gone RETURNING batch_id"
);

/// How often a revival looks again for the holder of a unique key that was gone when it looked.
const ATTEMPTS_MAX: u32 = 5;

pub(crate) async fn retry(queue: &Queue, id: JobId) -> Result<RetryOutcome, QueueError> {
    let mut connection = queue.pool().acquire().await?;
    for _ in 0..ATTEMPTS_MAX {
        if let Some(outcome) = try_retry(&mut connection, id).await? {
            return Ok(outcome);
        }
    }
    Err(QueueError::KeyContended { key: format!("of job {id}"), attempts: ATTEMPTS_MAX })
}

/// None when the holder of the unique key ended between two looks.
async fn try_retry(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<Option<RetryOutcome>, QueueError> {
    let mut transaction = connection.begin().await?;
    let Some(dead) = sqlx::query(LOCK_DEAD).bind(id).fetch_optional(&mut *transaction).await?
    else {
        let outcome = hurry(&mut transaction, id).await?;
        transaction.commit().await?;
        return Ok(Some(outcome));
    };
    let Some(row) = sqlx::query(REVIVE).bind(id).fetch_optional(&mut *transaction).await? else {
        let key: Option<String> = dead.try_get("unique_key")?;
        let holder: Option<JobId> =
            sqlx::query_scalar(FIND_HOLDER).bind(key).fetch_optional(&mut *transaction).await?;
        // The statement that found the key held has deleted the dead letter: not so.
        transaction.rollback().await?;
        return Ok(holder.map(RetryOutcome::UniqueKeyHeld));
    };
    if let Some(batch) = row.try_get::<Option<BatchId>, _>("batch_id")? {
        batch::revive(&mut transaction, batch, id).await?;
    }
    enqueue::notify(&mut transaction, &[row.try_get::<String, _>("queue")?]).await?;
    transaction.commit().await?;
    Ok(Some(RetryOutcome::Retried))
}

async fn hurry(connection: &mut PgConnection, id: JobId) -> Result<RetryOutcome, QueueError> {
    let queue: Option<String> =
        sqlx::query_scalar(HURRY).bind(id).fetch_optional(&mut *connection).await?;
    if let Some(queue) = queue {
        enqueue::notify(connection, &[queue]).await?;
        return Ok(RetryOutcome::Retried);
    }
    let state: Option<JobState> =
        sqlx::query_scalar(FIND_STATE).bind(id).fetch_optional(&mut *connection).await?;
    let state = match state {
        Some(state) => Some(state),
        None => cancel::ended_state(connection, id).await?,
    };
    Ok(state.map_or(RetryOutcome::NotFound, RetryOutcome::NotRetryable))
}

/// False when there is no such dead letter.
pub(crate) async fn discard(queue: &Queue, id: JobId, reason: &str) -> Result<bool, QueueError> {
    let mut connection = queue.pool().acquire().await?;
    let mut transaction = connection.begin().await?;
    let batch: Option<Option<BatchId>> =
        sqlx::query_scalar(DISCARD).bind(id).bind(reason).fetch_optional(&mut *transaction).await?;
    if let Some(Some(batch)) = batch {
        batch::discard(&mut transaction, batch).await?;
    }
    transaction.commit().await?;
    Ok(batch.is_some())
}
