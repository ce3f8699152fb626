//! Dead letters: back to work, or given up for good; and hurrying jobs that wait.

use std::collections::BTreeSet;

use serde_json::value::RawValue;
use sqlx::types::Json;
use sqlx::{Acquire as _, PgConnection, PgPool, QueryBuilder, Row as _};

use crate::admit::{self, Keys};
use crate::cancel::Found;
use crate::queue::RetryOutcome;
use crate::sql::{entry_state, history_columns, ready_state};
use crate::view::{self, JobFilter, JobView, push_filter};
use crate::{BatchId, JobId, QueueError, Unique, batch, cancel, enqueue};

/// The epoch is kept: what a former lease wrote into a target must stay older than what comes.
const REVIVE: &str = concat!(
    "-- revive_dead_letter
    WITH back AS (DELETE FROM relevo.dead_letter WHERE id = $1 RETURNING *)
    INSERT INTO relevo.job (id, lease_epoch, created_at, batch_id, run_id, max_attempts,
                            unique_scope, priority, max_deaths, payload_version, queue, kind,
                            payload, unique_key, traceparent, last_error, ordering_key, limit_key,
                            on_dead, state)
    SELECT id, lease_epoch, created_at, batch_id, run_id, max_attempts, unique_scope, priority,
           max_deaths, payload_version, queue, kind, payload, unique_key, traceparent, last_error,
           ordering_key, limit_key, on_dead, ",
    entry_state!("", "now()"),
    "
    FROM back
    ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING
    RETURNING queue, batch_id, ordering_key, limit_key"
);

const LOCK_DEAD: &str = "-- lock_dead_letter
    SELECT unique_key FROM relevo.dead_letter WHERE id = $1 FOR UPDATE";

const FIND_HOLDER: &str = "-- find_unique_key
    SELECT id FROM relevo.job WHERE unique_key = $1";

const HURRY: &str = concat!(
    "-- hurry_job
    UPDATE relevo.job SET state = ",
    ready_state!(""),
    ", run_at = now()
    WHERE id = $1 AND state IN ('scheduled', 'retryable')
    RETURNING queue, ordering_key, limit_key"
);

const DISCARD: &str = concat!(
    "-- discard_dead_letter
    WITH gone AS (DELETE FROM relevo.dead_letter WHERE id = $1 RETURNING *), kept AS (
        INSERT INTO relevo.job_history (",
    history_columns!(),
    ", state, finished_at, cancel_reason) SELECT ",
    history_columns!(),
    ", 'cancelled', now(), $2 FROM gone
    )
    SELECT batch_id, ordering_key, limit_key FROM gone"
);

/// Those whose unique key is held by now are left out; ordered by that key, so that revivals and
/// enqueues meeting in several keys wait for each other in one direction only.
const REVIVE_MANY: &str = concat!(
    "-- revive_dead_letters
    INSERT INTO relevo.job (id, lease_epoch, created_at, batch_id, run_id, max_attempts,
                            unique_scope, priority, max_deaths, payload_version, queue, kind,
                            payload, unique_key, traceparent, last_error, ordering_key, limit_key,
                            on_dead, state)
    SELECT id, lease_epoch, created_at, batch_id, run_id, max_attempts, unique_scope, priority,
           max_deaths, payload_version, queue, kind, payload, unique_key, traceparent, last_error,
           ordering_key, limit_key, on_dead, ",
    entry_state!("", "now()"),
    "
    FROM relevo.dead_letter WHERE id = ANY ($1)
    ORDER BY unique_key, id
    ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING
    RETURNING id, queue, batch_id"
);

const DELETE_MANY: &str = "-- delete_dead_letters
    DELETE FROM relevo.dead_letter WHERE id = ANY ($1)";

const DISCARD_MANY: &str = concat!(
    "-- discard_dead_letters
    WITH gone AS (DELETE FROM relevo.dead_letter WHERE id = ANY ($1) RETURNING *)
    INSERT INTO relevo.job_history (",
    history_columns!(),
    ", state, finished_at, cancel_reason) SELECT ",
    history_columns!(),
    ", 'cancelled', now(), $2 FROM gone RETURNING batch_id"
);

const EDIT: &str = "-- edit_dead_letter
    UPDATE relevo.dead_letter
    SET payload = $2, payload_version = $3,
        unique_key = CASE WHEN $4 THEN $5 ELSE unique_key END,
        unique_scope = CASE WHEN $4 THEN $6::text::relevo.unique_scope ELSE unique_scope END
    WHERE id = $1";

/// What becomes of a dead letter's unique key when its payload changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EditedKey<'a> {
    /// Its producer gave it: it stays.
    Kept,
    /// It followed from the payload: this one follows from the new payload.
    Replaced(Option<&'a Unique>),
}

/// How often a revival looks again for the holder of a unique key that was gone when it looked.
const ATTEMPTS_MAX: u32 = 5;

/// In a transaction of its own, or as a part of the caller's; with the keys to admit at after it.
pub(crate) async fn retry(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<(RetryOutcome, Keys), QueueError> {
    for _ in 0..ATTEMPTS_MAX {
        if let Some(outcome) = try_retry(connection, id).await? {
            return Ok(outcome);
        }
    }
    Err(QueueError::KeyContended { key: format!("of job {id}"), attempts: ATTEMPTS_MAX })
}

/// None when the holder of the unique key ended between two looks.
async fn try_retry(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<Option<(RetryOutcome, Keys)>, QueueError> {
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
        return Ok(holder.map(|holder| (RetryOutcome::UniqueKeyHeld(holder), Keys::default())));
    };
    if let Some(batch) = row.try_get::<Option<BatchId>, _>("batch_id")? {
        batch::revive(&mut transaction, batch, id).await?;
    }
    enqueue::notify(&mut transaction, &[row.try_get::<String, _>("queue")?]).await?;
    transaction.commit().await?;
    Ok(Some((RetryOutcome::Retried, admit::keys_of(&row)?)))
}

async fn hurry(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<(RetryOutcome, Keys), QueueError> {
    let row = sqlx::query(HURRY).bind(id).fetch_optional(&mut *connection).await?;
    if let Some(row) = row {
        enqueue::notify(connection, &[row.try_get::<String, _>("queue")?]).await?;
        return Ok((RetryOutcome::Retried, admit::keys_of(&row)?));
    }
    let outcome = match cancel::lock(connection, id).await? {
        Found::Locked(state, _) | Found::Ended(state) => RetryOutcome::NotRetryable(state),
        Found::Nowhere => RetryOutcome::NotFound,
    };
    Ok((outcome, Keys::default()))
}

/// The keys to admit at after it; none when there is no such dead letter.
pub(crate) async fn discard(
    connection: &mut PgConnection,
    id: JobId,
    reason: &str,
) -> Result<Option<Keys>, QueueError> {
    let mut transaction = connection.begin().await?;
    let discarded =
        sqlx::query(DISCARD).bind(id).bind(reason).fetch_optional(&mut *transaction).await?;
    let Some(row) = discarded else { return Ok(None) };
    if let Some(batch) = row.try_get("batch_id")? {
        batch::discard(&mut transaction, batch).await?;
    }
    transaction.commit().await?;
    Ok(Some(admit::keys_of(&row)?))
}

/// A dead letter, locked until the transaction ends.
pub(crate) async fn lock_one(
    connection: &mut PgConnection,
    id: JobId,
) -> Result<Option<JobView>, QueueError> {
    if sqlx::query(LOCK_DEAD).bind(id).fetch_optional(&mut *connection).await?.is_none() {
        return Ok(None);
    }
    view::job(connection, id).await
}

/// How many dead letters match.
pub(crate) async fn count(pool: &PgPool, filter: &JobFilter) -> Result<u64, QueueError> {
    let mut query = QueryBuilder::new(
        "-- count_dead_letters\nSELECT count(*) FROM relevo.dead_letter WHERE true",
    );
    push_filter(&mut query, filter);
    let count: i64 = query.build_query_scalar().fetch_one(pool).await?;
    Ok(count.unsigned_abs())
}

/// The dead letters that match, oldest first, locked until the transaction ends.
pub(crate) async fn lock_matching(
    connection: &mut PgConnection,
    filter: &JobFilter,
    limit: u32,
) -> Result<Vec<JobId>, QueueError> {
    let mut query =
        QueryBuilder::new("-- lock_dead_letters\nSELECT id FROM relevo.dead_letter WHERE true");
    push_filter(&mut query, filter);
    query.push(" ORDER BY id LIMIT ").push_bind(i64::from(limit)).push(" FOR UPDATE");
    Ok(query.build_query_scalar().fetch_all(connection).await?)
}

/// Revives those whose unique key is free; says how many.
pub(crate) async fn retry_many(
    connection: &mut PgConnection,
    ids: &[JobId],
) -> Result<u64, QueueError> {
    let rows = sqlx::query(REVIVE_MANY).bind(ids).fetch_all(&mut *connection).await?;
    let mut revived: Vec<JobId> = Vec::with_capacity(rows.len());
    let mut queues: BTreeSet<String> = BTreeSet::new();
    let mut members: Vec<(BatchId, JobId)> = Vec::new();
    for row in rows {
        let id = row.try_get("id")?;
        revived.push(id);
        queues.insert(row.try_get("queue")?);
        if let Some(batch) = row.try_get("batch_id")? {
            members.push((batch, id));
        }
    }
    sqlx::query(DELETE_MANY).bind(&revived).execute(&mut *connection).await?;
    members.sort_unstable();
    for (batch, job) in members {
        batch::revive(connection, batch, job).await?;
    }
    enqueue::notify(connection, &queues.into_iter().collect::<Vec<_>>()).await?;
    Ok(revived.len() as u64)
}

/// Ends them as cancelled; says how many.
pub(crate) async fn discard_many(
    connection: &mut PgConnection,
    ids: &[JobId],
    reason: &str,
) -> Result<u64, QueueError> {
    let mut batches: Vec<Option<BatchId>> =
        sqlx::query_scalar(DISCARD_MANY).bind(ids).bind(reason).fetch_all(&mut *connection).await?;
    let discarded = batches.len() as u64;
    batches.sort_unstable();
    for batch in batches.into_iter().flatten() {
        batch::discard(connection, batch).await?;
    }
    Ok(discarded)
}

/// Gives a dead letter another payload; false when there is no such dead letter.
pub(crate) async fn edit(
    connection: &mut PgConnection,
    id: JobId,
    payload: &RawValue,
    payload_version: i16,
    key: EditedKey<'_>,
) -> Result<bool, QueueError> {
    let unique = match key {
        EditedKey::Kept => None,
        EditedKey::Replaced(unique) => unique,
    };
    let edited = sqlx::query(EDIT)
        .bind(id)
        .bind(Json(payload))
        .bind(payload_version)
        .bind(matches!(key, EditedKey::Replaced(_)))
        .bind(unique.map(|unique| &unique.key))
        .bind(unique.map(|unique| unique.scope.as_str()))
        .execute(connection)
        .await
        .map_err(enqueue::refused)?;
    Ok(edited.rows_affected() == 1)
}
