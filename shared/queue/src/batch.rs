//! Batches: members are counted, and the end of the last one enqueues the completion job.
//!
//! The counters change in the transaction that changes the member. Whoever changes several batches
//! locks them in the order of their ids, and always after the jobs' own rows, so that concurrent
//! finishes, enqueues and cancels wait for each other in one direction only.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};

use crate::enqueue;
use crate::sql::entry_state;
use crate::{BatchId, FailedMemberPolicy, JobId, NewJob, OnDead, QueueError};

const OPEN: &str = "-- open_batch
    INSERT INTO relevo.batch (policy, completion, run_id)
    VALUES ($1::text::relevo.failed_member_policy, $2, $3) RETURNING id";

const SEAL: &str = "-- seal_batch
    UPDATE relevo.batch SET state = 'sealed', sealed_at = now() WHERE id = $1 AND state = 'open'
    RETURNING pending";

const LOCK: &str = "-- lock_batches
    SELECT id FROM relevo.batch WHERE id = ANY ($1) ORDER BY id FOR UPDATE";

const GROW: &str = "-- grow_batches
    UPDATE relevo.batch AS b SET total = b.total + m.members, pending = b.pending + m.members
    FROM unnest($1::bigint[], $2::bigint[]) AS m(id, members)
    WHERE b.id = ANY ($1) AND b.id = m.id AND b.state = 'open'
    RETURNING b.id";

/// A dead member has ended under policy complete, and is still pending under policy wait.
const SETTLE: &str = "-- settle_batches
    UPDATE relevo.batch AS b
    SET pending = b.pending - e.completed - e.cancelled
                  - CASE b.policy WHEN 'complete' THEN e.dead ELSE 0 END,
        completed = b.completed + e.completed,
        cancelled = b.cancelled + e.cancelled,
        dead = b.dead + e.dead
    FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[])
             AS e(id, completed, cancelled, dead)
    WHERE b.id = ANY ($1) AND b.id = e.id
    RETURNING b.id, b.state = 'sealed' AND b.pending = 0 AS is_done";

/// The row lock on the batch makes this happen once: whoever comes second finds it completed.
const COMPLETE: &str = concat!(
    "-- complete_batches
    WITH done AS (
        UPDATE relevo.batch
        SET state = 'completed', completed_at = now(),
            completion_job_id = nextval('relevo.job_id_seq')
        WHERE id = ANY ($1) AND state = 'sealed' AND pending = 0
        RETURNING completion_job_id, completion
    )
    INSERT INTO relevo.job (id, kind, payload, payload_version, queue, priority, max_attempts,
                            max_deaths, run_id, traceparent, ordering_key, on_dead, limit_key, run_at,
                            state)
    SELECT done.completion_job_id, c.kind, done.completion -> 'payload', c.payload_version,
           c.queue, c.priority, c.max_attempts, c.max_deaths, c.run_id, c.traceparent,
           c.ordering_key, c.on_dead::relevo.order_on_dead, c.limit_key, d.due, ",
    entry_state!("c.", "d.due"),
    "
    FROM done
         CROSS JOIN LATERAL jsonb_to_record(done.completion)
             AS c(kind text, payload_version smallint, queue text, priority smallint,
                  max_attempts integer, max_deaths smallint, run_id bigint, traceparent text,
                  run_at timestamptz, delay_seconds float8, ordering_key text, on_dead text,
                  limit_key text)
         CROSS JOIN LATERAL (
             SELECT greatest(c.run_at, now()) + make_interval(secs => c.delay_seconds) AS due
         ) AS d
    RETURNING queue"
);

const REVIVE: &str = "-- revive_batch_member
    UPDATE relevo.batch
    SET dead = dead - 1, pending = pending + CASE policy WHEN 'complete' THEN 1 ELSE 0 END
    WHERE id = $1 AND state <> 'completed' RETURNING id";

const DETACH: &str = "-- detach_batch_member
    UPDATE relevo.job SET batch_id = NULL WHERE id = $1";

const FORGET_DEAD: &str = "-- forget_dead_batch_member
    UPDATE relevo.batch SET dead = dead - 1 WHERE id = $1";

const DISCARD: &str = "-- discard_batch_member
    UPDATE relevo.batch
    SET dead = dead - 1, cancelled = cancelled + 1,
        pending = pending - CASE policy WHEN 'wait' THEN 1 ELSE 0 END
    WHERE id = $1
    RETURNING state = 'sealed' AND pending = 0 AS is_done";

/// The completion job as the batch keeps it: what `COMPLETE` reads.
#[derive(Serialize)]
struct Completion<'a> {
    kind: &'a str,
    payload: &'a RawValue,
    payload_version: i16,
    queue: &'a str,
    priority: i16,
    max_attempts: i32,
    max_deaths: i16,
    run_id: Option<i64>,
    traceparent: Option<&'a str>,
    run_at: Option<chrono::DateTime<chrono::Utc>>,
    delay_seconds: f64,
    ordering_key: Option<&'a str>,
    on_dead: Option<OnDead>,
    limit_key: Option<&'a str>,
}

/// Members of one batch that ended in one transaction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) completed: i64,
    pub(crate) cancelled: i64,
    pub(crate) dead: i64,
}

pub(crate) async fn open(
    connection: &mut PgConnection,
    completion: &NewJob,
    policy: FailedMemberPolicy,
) -> Result<BatchId, QueueError> {
    completion.validate()?;
    if completion.batch_id.is_some()
        || completion.unique.is_some()
        || completion.idempotency_key.is_some()
    {
        return Err(QueueError::InvalidJob(
            "a batch's completion job is enqueued once as it is: it takes no keys and no batch"
                .to_owned(),
        ));
    }
    let kept = Completion {
        kind: &completion.kind,
        payload: &completion.payload,
        payload_version: completion.payload_version,
        queue: &completion.queue,
        priority: completion.priority,
        max_attempts: completion.max_attempts,
        max_deaths: completion.max_deaths,
        run_id: completion.run_id,
        traceparent: completion.traceparent.as_deref(),
        run_at: completion.run_at,
        delay_seconds: completion.delay.unwrap_or_default().as_secs_f64(),
        ordering_key: completion.ordering.as_ref().map(|order| order.key.as_str()),
        on_dead: completion.ordering.as_ref().map(|order| order.on_dead),
        limit_key: completion.limit_key.as_deref(),
    };
    Ok(sqlx::query_scalar(OPEN)
        .bind(policy.as_str())
        .bind(Json(kept))
        .bind(completion.run_id)
        .fetch_one(connection)
        .await?)
}

pub(crate) async fn seal(connection: &mut PgConnection, batch: BatchId) -> Result<(), QueueError> {
    let pending: Option<i64> =
        sqlx::query_scalar(SEAL).bind(batch).fetch_optional(&mut *connection).await?;
    match pending {
        Some(0) => complete(connection, &[batch]).await,
        Some(_) => Ok(()),
        None => {
            let known: Option<BatchId> =
                sqlx::query_scalar("-- find_batch_id\nSELECT id FROM relevo.batch WHERE id = $1")
                    .bind(batch)
                    .fetch_optional(connection)
                    .await?;
            known.map(|_| ()).ok_or(QueueError::BatchNotFound(batch))
        }
    }
}

async fn lock<T>(
    connection: &mut PgConnection,
    batches: &BTreeMap<BatchId, T>,
) -> Result<(), QueueError> {
    // One row needs no order.
    if batches.len() > 1 {
        sqlx::query(LOCK)
            .bind(batches.keys().copied().collect::<Vec<_>>())
            .execute(connection)
            .await?;
    }
    Ok(())
}

/// Counts new members. With none, it still says whether the batch takes members.
pub(crate) async fn grow(
    connection: &mut PgConnection,
    members: &BTreeMap<BatchId, i64>,
) -> Result<(), QueueError> {
    if members.is_empty() {
        return Ok(());
    }
    lock(connection, members).await?;
    let grown: Vec<BatchId> = sqlx::query_scalar(GROW)
        .bind(members.keys().copied().collect::<Vec<_>>())
        .bind(members.values().copied().collect::<Vec<_>>())
        .fetch_all(&mut *connection)
        .await?;
    // A batch that gained nothing may be sealed: an enqueue repeated after a crash is no error.
    let refused = members.iter().find(|(batch, gained)| **gained > 0 && !grown.contains(batch));
    let Some((&batch, _)) = refused else { return Ok(()) };
    let known: Option<BatchId> =
        sqlx::query_scalar("-- find_batch_id\nSELECT id FROM relevo.batch WHERE id = $1")
            .bind(batch)
            .fetch_optional(connection)
            .await?;
    Err(known.map_or(QueueError::BatchNotFound(batch), QueueError::BatchSealed))
}

/// Counts ended members and completes what has nothing pending any more.
pub(crate) async fn settle(
    connection: &mut PgConnection,
    ended: &BTreeMap<BatchId, Ended>,
) -> Result<(), QueueError> {
    if ended.is_empty() {
        return Ok(());
    }
    lock(connection, ended).await?;
    let rows = sqlx::query(SETTLE)
        .bind(ended.keys().copied().collect::<Vec<_>>())
        .bind(ended.values().map(|ended| ended.completed).collect::<Vec<_>>())
        .bind(ended.values().map(|ended| ended.cancelled).collect::<Vec<_>>())
        .bind(ended.values().map(|ended| ended.dead).collect::<Vec<_>>())
        .fetch_all(&mut *connection)
        .await?;
    let mut done = Vec::new();
    for row in rows {
        if row.try_get("is_done")? {
            done.push(row.try_get("id")?);
        }
    }
    complete(connection, &done).await
}

async fn complete(connection: &mut PgConnection, batches: &[BatchId]) -> Result<(), QueueError> {
    if batches.is_empty() {
        return Ok(());
    }
    let mut queues: Vec<String> =
        sqlx::query_scalar(COMPLETE).bind(batches).fetch_all(&mut *connection).await?;
    queues.sort_unstable();
    queues.dedup();
    enqueue::notify(connection, &queues).await
}

/// A dead member goes back to work: it counts as pending again, or leaves a batch that completed
/// without it.
pub(crate) async fn revive(
    connection: &mut PgConnection,
    batch: BatchId,
    job: JobId,
) -> Result<(), QueueError> {
    let revived: Option<BatchId> =
        sqlx::query_scalar(REVIVE).bind(batch).fetch_optional(&mut *connection).await?;
    if revived.is_none() {
        sqlx::query(DETACH).bind(job).execute(&mut *connection).await?;
        sqlx::query(FORGET_DEAD).bind(batch).execute(connection).await?;
    }
    Ok(())
}

/// A dead member is given up for good.
pub(crate) async fn discard(
    connection: &mut PgConnection,
    batch: BatchId,
) -> Result<(), QueueError> {
    let is_done: Option<bool> =
        sqlx::query_scalar(DISCARD).bind(batch).fetch_optional(&mut *connection).await?;
    if is_done == Some(true) {
        complete(connection, &[batch]).await?;
    }
    Ok(())
}
