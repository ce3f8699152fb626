//! Claiming: available jobs become running ones of this session.
//!
//! A claim whose answer is lost may have happened, may not have, and may still happen. Every claim
//! therefore carries a number: [`void`] raises the session's floor above it, waits out the statement
//! if it is under way, and returns what it had claimed. Only then does the session claim again.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Row as _};

use super::KnownKind;
use crate::{BatchId, JobId, SessionId};

/// Sizes a claim can have: a literal LIMIT per statement, so that the planner knows it, and few of
/// them, so that each is prepared once.
const SIZES: [usize; 12] = [1, 2, 4, 8, 16, 32, 64, 125, 250, 500, 750, 1000];

/// A claimed job as the row says it.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) id: JobId,
    pub(crate) kind: String,
    pub(crate) payload: Box<RawValue>,
    pub(crate) payload_version: i16,
    pub(crate) queue: String,
    pub(crate) priority: i16,
    pub(crate) attempt: i32,
    pub(crate) max_attempts: i32,
    pub(crate) deaths: i16,
    pub(crate) epoch: i64,
    pub(crate) batch: Option<BatchId>,
    pub(crate) run_id: Option<i64>,
    pub(crate) traceparent: Option<String>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) ordering_key: Option<Box<str>>,
    pub(crate) limit_key: Option<Box<str>>,
    /// From being due to being claimed, by the database's clock.
    pub(crate) wait: Duration,
}

macro_rules! columns {
    () => {
        "j.id, j.kind, j.payload, j.payload_version, j.queue, j.priority, j.attempt, \
         j.max_attempts, j.deaths, j.lease_epoch, j.batch_id, j.run_id, j.traceparent, \
         j.created_at, \
         greatest(extract(epoch FROM j.claimed_at - j.run_at), 0)::float8 AS wait_seconds, \
         j.ordering_key, j.limit_key"
    };
}

const VOID_LOCK: &str = "-- lock_session
    SELECT id FROM relevo.session WHERE id = $1 AND ended_at IS NULL FOR UPDATE";

const VOID_RAISE: &str = "-- raise_claim_floor
    UPDATE relevo.session SET claim_floor = $2 + 1 WHERE id = $1";

pub(crate) const VOID_FIND: &str = concat!(
    "-- find_claimed_jobs\nSELECT ",
    columns!(),
    " FROM relevo.job AS j
    WHERE j.state = 'running' AND j.session_id = $1 AND j.claim_no = $2"
);

/// What a session still holds of the leases that are named.
pub(crate) const HELD: &str = concat!(
    "-- find_held_jobs\nSELECT ",
    columns!(),
    " FROM relevo.job AS j
    JOIN unnest($1::bigint[], $2::bigint[]) AS a(id, epoch) ON j.id = a.id
    WHERE j.id = ANY ($1) AND j.lease_epoch = a.epoch AND j.session_id = $3"
);

/// The statements of one worker: what it knows is part of their text.
#[derive(Debug)]
pub(crate) struct Claims {
    by_size: Vec<(usize, Arc<str>)>,
    probe: Arc<str>,
}

impl Claims {
    /// Statements that claim `kinds`. With `any_queue` the probe looks at all queues.
    pub(crate) fn new(kinds: &[KnownKind], any_queue: bool) -> Self {
        let known = known(kinds);
        let by_size = SIZES.map(|size| (size, claim_sql(&known, size).into())).into();
        Self { by_size, probe: probe_sql(&known, any_queue).into() }
    }

    /// The texts of the probe and of the claim of at most `size`.
    pub(crate) fn texts(&self, size: usize) -> Option<(Arc<str>, Arc<str>)> {
        let (_, claim) = self.by_size.iter().find(|(of, _)| *of == size)?;
        Some((Arc::clone(&self.probe), Arc::clone(claim)))
    }

    /// Claims at most `room` jobs from `queue`, in claim order; with their number, the size asked.
    pub(crate) async fn claim(
        &self,
        connection: &mut PgConnection,
        session: SessionId,
        number: i64,
        queue: &str,
        room: usize,
    ) -> Result<(usize, Vec<Row>), sqlx::Error> {
        let fitting = self.by_size.iter().rev().find(|(size, _)| *size <= room.max(1));
        // Unwrap safety: the smallest size is one.
        #[expect(clippy::unwrap_used, reason = "the smallest size is one")]
        let (size, sql) = fitting.unwrap();
        let rows = sqlx::query(AssertSqlSafe(Arc::clone(sql)))
            .bind(session)
            .bind(queue)
            .bind(number)
            .fetch_all(connection)
            .await?;
        Ok((*size, in_order(&rows)?))
    }

    /// Which of `queues` hold a job this worker could claim; of all, for a worker of any queue.
    pub(crate) async fn probe(
        &self,
        connection: &mut PgConnection,
        queues: &[String],
    ) -> Result<Vec<String>, sqlx::Error> {
        sqlx::query_scalar(AssertSqlSafe(Arc::clone(&self.probe)))
            .bind(queues)
            .fetch_all(connection)
            .await
    }
}

/// Makes sure that claim `number` has happened or never will; the jobs it claimed.
pub(crate) async fn void(
    connection: &mut PgConnection,
    session: SessionId,
    number: i64,
) -> Result<Vec<Row>, sqlx::Error> {
    let mut transaction = connection.begin().await?;
    // Waits for the claim's transaction: it holds this row FOR KEY SHARE until it ends.
    let alive: Option<SessionId> =
        sqlx::query_scalar(VOID_LOCK).bind(session).fetch_optional(&mut *transaction).await?;
    if alive.is_none() {
        return Ok(Vec::new());
    }
    sqlx::query(VOID_RAISE).bind(session).bind(number).execute(&mut *transaction).await?;
    let rows =
        sqlx::query(VOID_FIND).bind(session).bind(number).fetch_all(&mut *transaction).await?;
    let rows = in_order(&rows)?;
    transaction.commit().await?;
    Ok(rows)
}

/// What this build knows, as rows of a VALUES list: a claim looks for each kind and payload version by
/// index, and never passes what it cannot take.
fn known(kinds: &[KnownKind]) -> String {
    let rows: Vec<String> = kinds
        .iter()
        .flat_map(|known| {
            let kind = literal(&known.kind);
            (1..=known.max_payload_version)
                .map(move |version| format!("({kind}, {version}::smallint)"))
        })
        .collect();
    rows.join(", ")
}

fn literal(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// The session's row is locked against rescue first, and the jobs are only looked at when it could
/// be: no claim happens for a session that was declared dead, nor from a paused queue.
///
/// Kinds take turns by their best job, highest priority and then earliest first: each is taken from
/// down to the best priority of the one after it, the last one of its best priority, and only when
/// that did not fill the claim, what is left of each. The subquery that locks is evaluated row by row,
/// so that nothing is locked that is not taken; a kind whose best jobs are being claimed by somebody
/// else yields those after them.
///
/// What is taken under a limit with a rate is written down: admission counts it for a period.
fn claim_sql(known: &str, size: usize) -> String {
    format!(
        "-- claim_jobs
        WITH mine AS MATERIALIZED (
            SELECT s.id FROM relevo.session AS s
            WHERE s.id = $1 AND s.ended_at IS NULL AND s.claim_floor <= $3
              AND NOT EXISTS (SELECT 1 FROM relevo.queue_control AS c WHERE c.queue = $2)
            FOR KEY SHARE OF s
        ), best AS MATERIALIZED (
            SELECT k.kind, k.version, b.priority, b.run_at,
                   lead(b.priority, 1, b.priority) OVER turns AS next_priority
            FROM mine CROSS JOIN (VALUES {known}) AS k(kind, version)
                 CROSS JOIN LATERAL (
                     SELECT j.priority, j.run_at FROM relevo.job AS j
                     WHERE j.queue = $2 AND j.state = 'available' AND j.kind = k.kind
                       AND j.payload_version = k.version
                     ORDER BY j.priority DESC, j.run_at, j.id LIMIT 1
                 ) AS b
            WINDOW turns AS (ORDER BY b.priority DESC, b.run_at)
        ), turns AS MATERIALIZED (
            SELECT kind, version, low, high FROM (
                SELECT 1 AS round, kind, version, priority, run_at,
                       next_priority::integer AS low, 32767 AS high
                FROM best
                UNION ALL
                SELECT 2, kind, version, priority, run_at, -32768, next_priority - 1
                FROM best WHERE next_priority > -32768
            ) AS t
            ORDER BY round, priority DESC, run_at
        ), next AS MATERIALIZED (
            SELECT j.id, j.limit_key FROM turns AS t CROSS JOIN LATERAL (
                SELECT j.id, j.limit_key FROM relevo.job AS j
                WHERE j.queue = $2 AND j.state = 'available' AND j.kind = t.kind
                  AND j.payload_version = t.version AND j.priority BETWEEN t.low AND t.high
                ORDER BY j.priority DESC, j.run_at, j.id
                LIMIT {size} FOR UPDATE OF j SKIP LOCKED
            ) AS j
            LIMIT {size}
        ), used AS (
            INSERT INTO relevo.limit_use (limit_key, jobs)
            SELECT limit_key, count(*) FROM next
            WHERE limit_key IN (SELECT l.name FROM relevo.job_limit AS l WHERE l.rate IS NOT NULL)
            GROUP BY limit_key
        )
        UPDATE relevo.job AS j
        SET state = 'running', attempt = j.attempt + 1, lease_epoch = j.lease_epoch + 1,
            session_id = $1, claimed_at = now(), claim_no = $3,
            unique_key = CASE WHEN j.unique_scope = 'claimed' THEN NULL ELSE j.unique_key END,
            unique_scope = nullif(j.unique_scope, 'claimed')
        WHERE j.id = ANY (ARRAY (SELECT id FROM next))
        RETURNING {}",
        columns!()
    )
}

fn probe_sql(known: &str, any_queue: bool) -> String {
    // With any queue, the claim index is skipped through from one queue's name to the next.
    let queues = if any_queue {
        "found AS (
            (SELECT j.queue FROM relevo.job AS j WHERE j.state = 'available'
             ORDER BY j.queue LIMIT 1)
            UNION ALL
            SELECT (SELECT j.queue FROM relevo.job AS j
                    WHERE j.state = 'available' AND j.queue > found.queue
                    ORDER BY j.queue LIMIT 1)
            FROM found WHERE found.queue IS NOT NULL
        )"
    } else {
        "found AS (SELECT q AS queue FROM unnest($1::text[]) AS q)"
    };
    // The LIMIT and its order keep each look a single descent of the claim index.
    format!(
        "-- probe_queues
        WITH RECURSIVE {queues}
        SELECT found.queue FROM found
        WHERE cardinality($1::text[]) >= 0
          AND EXISTS (
              SELECT 1 FROM (VALUES {known}) AS k(kind, version) CROSS JOIN LATERAL (
                  SELECT j.id FROM relevo.job AS j
                  WHERE j.queue = found.queue AND j.state = 'available' AND j.kind = k.kind
                    AND j.payload_version = k.version
                  ORDER BY j.priority DESC, j.run_at, j.id LIMIT 1
              ) AS j
          )
          AND NOT EXISTS (SELECT 1 FROM relevo.queue_control AS c WHERE c.queue = found.queue)"
    )
}

/// RETURNING keeps no order: what should run first comes first again.
pub(crate) fn in_order(rows: &[PgRow]) -> Result<Vec<Row>, sqlx::Error> {
    let mut jobs = rows.iter().map(decode).collect::<Result<Vec<_>, _>>()?;
    let before = |a: &Row, b: &Row| {
        b.priority.cmp(&a.priority).then(b.wait.cmp(&a.wait)).then(a.id.cmp(&b.id))
    };
    if !jobs.is_sorted_by(|a, b| before(a, b).is_le()) {
        jobs.sort_unstable_by(before);
    }
    Ok(jobs)
}

fn decode(row: &PgRow) -> Result<Row, sqlx::Error> {
    let wait_seconds: f64 = row.try_get(14)?;
    Ok(Row {
        id: row.try_get(0)?,
        kind: row.try_get(1)?,
        payload: row.try_get::<Json<Box<RawValue>>, _>(2)?.0,
        payload_version: row.try_get(3)?,
        queue: row.try_get(4)?,
        priority: row.try_get(5)?,
        attempt: row.try_get(6)?,
        max_attempts: row.try_get(7)?,
        deaths: row.try_get(8)?,
        epoch: row.try_get(9)?,
        batch: row.try_get(10)?,
        run_id: row.try_get(11)?,
        traceparent: row.try_get(12)?,
        created_at: row.try_get(13)?,
        wait: Duration::try_from_secs_f64(wait_seconds).unwrap_or_default(),
        ordering_key: row.try_get(15)?,
        limit_key: row.try_get(16)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_quoted_as_literals() {
        let kinds = [KnownKind { kind: r"o'b\".to_owned(), max_payload_version: 2 }];
        assert_eq!(known(&kinds), r"(E'o\'b\\', 1::smallint), (E'o\'b\\', 2::smallint)");
    }
}
