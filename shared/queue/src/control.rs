//! Pausing and resuming queues.

use sqlx::{Acquire as _, PgConnection};

use crate::{NewJob, QueueError, enqueue};

/// By the index of what takes up room under a limit, which is as small as the limits.
const STAND_BACK: &str = "-- stand_back
    UPDATE relevo.job SET state = 'waiting'
    WHERE id = ANY (ARRAY (
        SELECT id FROM relevo.job
        WHERE limit_key IS NOT NULL AND state IN ('available', 'running') AND state = 'available'
          AND queue = $1
        FOR UPDATE SKIP LOCKED))";

pub(crate) async fn pause(connection: &mut PgConnection, name: &str) -> Result<bool, QueueError> {
    NewJob::check_queue(name)?;
    let mut transaction = connection.begin().await?;
    // Claims look at this table themselves, so nobody needs to be told.
    let paused = sqlx::query(
        "-- pause_queue
        INSERT INTO relevo.queue_control (queue) VALUES ($1) ON CONFLICT (queue) DO NOTHING",
    )
    .bind(name)
    .execute(&mut *transaction)
    .await?;
    // What it had admitted makes room for the limit's jobs in other queues.
    sqlx::query(STAND_BACK).bind(name).execute(&mut *transaction).await?;
    transaction.commit().await?;
    Ok(paused.rows_affected() > 0)
}

/// In a transaction of its own, or as a part of the caller's.
pub(crate) async fn resume(connection: &mut PgConnection, name: &str) -> Result<bool, QueueError> {
    let mut transaction = connection.begin().await?;
    let resumed = sqlx::query("-- resume_queue\nDELETE FROM relevo.queue_control WHERE queue = $1")
        .bind(name)
        .execute(&mut *transaction)
        .await?;
    if resumed.rows_affected() > 0 {
        enqueue::notify(&mut transaction, &[name]).await?;
    }
    transaction.commit().await?;
    Ok(resumed.rows_affected() > 0)
}
