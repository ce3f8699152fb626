//! The same drain with what a queue gathers in its life: history, jobs for later, other queues, a
//! snapshot that holds the clean-up back. Its limit is the drain of an empty one in the same run.

use anyhow::Result;
use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection as _, PgConnection, PgPool};

use crate::{Line, median, own, rate, settle};

/// What lies there while jobs are drained.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// Ended jobs in the history; 0 leaves that drain out.
    pub history: i64,
    /// Jobs scheduled for tomorrow, and as many in another queue; 0 leaves that drain out.
    pub depth: i64,
    /// Whether to drain once under a snapshot that was taken before.
    pub held_snapshot: bool,
}

/// Jobs a second, a value a round.
#[derive(Default)]
pub(crate) struct Samples {
    history: Vec<f64>,
    depth: Vec<f64>,
    held_snapshot: Vec<f64>,
}

impl Samples {
    /// The figures beside the drain of an empty queue.
    pub(crate) fn lines(&self, free: f64) -> Vec<Line> {
        [
            ("drain with history ÷ without", "≥ 0.9", &self.history),
            ("drain with other jobs ÷ without", "≥ 0.9", &self.depth),
            ("drain under a snapshot ÷ free", "≥ 0.6", &self.held_snapshot),
        ]
        .into_iter()
        .filter(|(_, _, rates)| !rates.is_empty())
        .map(|(what, target, rates)| Line::new(what, "jobs/s", target, median(rates), free))
        .collect()
    }
}

/// Measures each condition that is asked for once.
pub(crate) async fn drains(
    pool: &PgPool,
    server: &PgConnectOptions,
    jobs: usize,
    conditions: Conditions,
    samples: &mut Samples,
) -> Result<()> {
    if conditions.history > 0 {
        own::fill(pool, jobs, crate::BULK).await?;
        add_history(pool, conditions.history).await?;
        settle(pool).await?;
        samples.history.push(rate(jobs, own::drain(pool, jobs).await?));
    }
    if conditions.depth > 0 {
        own::fill(pool, jobs, crate::BULK).await?;
        add_others(pool, conditions.depth).await?;
        settle(pool).await?;
        samples.depth.push(rate(jobs, own::drain(pool, jobs).await?));
    }
    if conditions.held_snapshot {
        own::fill(pool, jobs, crate::BULK).await?;
        settle(pool).await?;
        let mut holder = PgConnection::connect_with(server).await?;
        let mut snapshot = holder.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        // A snapshot is taken by the first statement.
        sqlx::query("SELECT count(*) FROM relevo.session").execute(&mut *snapshot).await?;
        samples.held_snapshot.push(rate(jobs, own::drain(pool, jobs).await?));
        snapshot.rollback().await?;
        holder.close().await.ok();
    }
    Ok(())
}

/// Jobs of today that ended; they are of another kind, so that the drained ones can be counted.
async fn add_history(pool: &PgPool, rows: i64) -> Result<()> {
    sqlx::query(
        "-- add_history
         INSERT INTO relevo.job_history
             (id, lease_epoch, run_at, created_at, claimed_at, finished_at, state, attempt,
              max_attempts, priority, deaths, max_deaths, payload_version, queue, kind, payload)
         SELECT -n, 1, now(), now(), now(), now(), 'completed', 1, 5, 0, 0, 3, 1,
                'default', 'Other', '{}'
         FROM generate_series(1, $1) AS n",
    )
    .bind(rows)
    .execute(pool)
    .await?;
    sqlx::query("ANALYZE relevo.job_history").execute(pool).await?;
    Ok(())
}

/// Jobs that must not be claimed: half of them due tomorrow, half in a queue of their own.
async fn add_others(pool: &PgPool, rows: i64) -> Result<()> {
    sqlx::query(
        "-- add_others
         INSERT INTO relevo.job (kind, payload, payload_version, queue, priority, max_attempts,
                                 max_deaths, run_at, state)
         SELECT 'Noop', '{}', 1, of.queue, 0, 5, 3, of.run_at, of.state
         FROM generate_series(1, $1),
              (VALUES ('default', now() + interval '1 day', 'scheduled'::relevo.job_state),
                      ('elsewhere', now(), 'available')) AS of(queue, run_at, state)",
    )
    .bind(rows)
    .execute(pool)
    .await?;
    sqlx::query("VACUUM ANALYZE relevo.job").execute(pool).await?;
    Ok(())
}
