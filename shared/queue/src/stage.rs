//! Staging: scheduled and retryable jobs whose time has come become available, or wait to be
//! admitted; and who waits is looked at anew.

use sqlx::Row as _;

use crate::sql::ready_state;
use crate::{Queue, QueueError, admit};

const ROWS_MAX: i64 = 5_000;

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
