//! Staging: scheduled and retryable jobs whose time has come become available, or wait to be
//! admitted; and who waits is looked at anew.

use std::time::Duration;

use sqlx::Row as _;

use crate::sql::ready_state;
use crate::{Queue, QueueError, admit};

const ROWS_MAX: i64 = 5_000;

/// As many as one statement raises.
const AGED_MAX: u64 = 1_000;

/// Statements per pass: the rest waits for the next pass, so that a pass is never long.
const STATEMENTS_MAX: usize = 20;

/// From queue to queue, the one whose job is due longest first, each in the order of its index; the
/// subquery that locks is evaluated row by row, so that the outer limit bounds what is locked. The
/// literal limits keep the plan on the index of due jobs.
pub(crate) const STAGE: &str = concat!(
    "-- stage_jobs
    WITH RECURSIVE heads AS (
        (SELECT queue, run_at FROM relevo.job WHERE state IN ('scheduled', 'retryable')
         ORDER BY queue, run_at LIMIT 1)
        UNION ALL
        SELECT head.queue, head.run_at
        FROM heads CROSS JOIN LATERAL (
            SELECT j.queue, j.run_at FROM relevo.job AS j
            WHERE j.state IN ('scheduled', 'retryable') AND j.queue > heads.queue
            ORDER BY j.queue, j.run_at LIMIT 1
        ) AS head
    ), queues AS MATERIALIZED (
        SELECT queue FROM heads WHERE run_at <= now() ORDER BY run_at
    ), due AS MATERIALIZED (
        SELECT j.id FROM queues CROSS JOIN LATERAL (
            SELECT j.id FROM relevo.job AS j
            WHERE j.queue = queues.queue AND j.state IN ('scheduled', 'retryable')
              AND j.run_at <= now()
            ORDER BY j.run_at LIMIT 5000 FOR UPDATE OF j SKIP LOCKED
        ) AS j
        LIMIT 5000
    ), staged AS (
        UPDATE relevo.job SET state = ",
    ready_state!(""),
    "
        WHERE id = ANY (ARRAY (SELECT id FROM due)) RETURNING queue
    ), counted AS (
        SELECT queue, count(*) AS jobs FROM staged GROUP BY queue
    )
    SELECT jobs, pg_notify('relevo_job', queue) FROM counted"
);

/// From one queue, kind, version and priority to the next: of each that is not the highest waiting in
/// its queue, the earliest jobs are looked at, and those that have waited too long get the highest.
/// Then the order of `run_at` puts them before those that came later.
const AGE: &str = "-- age_priorities
    WITH RECURSIVE levels AS (
        (SELECT j.queue, j.kind, j.payload_version, j.priority FROM relevo.job AS j
         WHERE j.state = 'available'
         ORDER BY j.queue, j.kind, j.payload_version, j.priority DESC LIMIT 1)
        UNION ALL
        SELECT next.* FROM levels AS l CROSS JOIN LATERAL (
            (SELECT j.queue, j.kind, j.payload_version, j.priority FROM relevo.job AS j
             WHERE j.state = 'available' AND j.queue = l.queue AND j.kind = l.kind
               AND j.payload_version = l.payload_version AND j.priority < l.priority
             ORDER BY j.priority DESC LIMIT 1)
            UNION ALL
            (SELECT j.queue, j.kind, j.payload_version, j.priority FROM relevo.job AS j
             WHERE j.state = 'available'
               AND (j.queue, j.kind, j.payload_version) > (l.queue, l.kind, l.payload_version)
             ORDER BY j.queue, j.kind, j.payload_version, j.priority DESC LIMIT 1)
            LIMIT 1
        ) AS next
    ), ranked AS MATERIALIZED (
        SELECT *, max(priority) OVER (PARTITION BY queue) AS highest
        FROM (SELECT * FROM levels LIMIT 10000) AS l
    ), aged AS MATERIALIZED (
        SELECT old.id, r.highest FROM ranked AS r CROSS JOIN LATERAL (
            SELECT j.id FROM relevo.job AS j
            WHERE j.state = 'available' AND j.queue = r.queue AND j.kind = r.kind
              AND j.payload_version = r.payload_version AND j.priority = r.priority
              AND j.run_at < now() - make_interval(secs => $1)
            ORDER BY j.run_at, j.id LIMIT 1000 FOR UPDATE OF j SKIP LOCKED
        ) AS old
        WHERE r.priority < r.highest
        LIMIT 1000
    )
    UPDATE relevo.job AS j SET priority = aged.highest FROM aged
    WHERE j.id = ANY (ARRAY (SELECT id FROM aged)) AND j.id = aged.id";

/// Gives jobs that have waited longer than this the highest priority that waits in their queue; says
/// how many.
pub(crate) async fn age(queue: &Queue, after: Duration) -> Result<u64, QueueError> {
    let mut aged = 0;
    for _ in 0..STATEMENTS_MAX {
        let raised = sqlx::query(AGE).bind(after.as_secs_f64()).execute(queue.pool()).await?;
        aged += raised.rows_affected();
        if raised.rows_affected() < AGED_MAX {
            break;
        }
    }
    Ok(aged)
}

pub(crate) async fn stage(queue: &Queue) -> Result<u64, QueueError> {
    let mut staged = 0;
    for _ in 0..STATEMENTS_MAX {
        let mut moved: i64 = 0;
        for row in sqlx::query(STAGE).fetch_all(queue.pool()).await? {
            moved += row.try_get::<i64, _>("jobs")?;
        }
        staged += u64::try_from(moved).unwrap_or(0);
        if moved < ROWS_MAX {
            break;
        }
    }
    admit::sweep(queue).await?;
    Ok(staged)
}
