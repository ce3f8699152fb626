//! What upkeep there is to do, in one small statement: an idle cluster should be quiet.

use std::time::Duration;

use sqlx::{PgConnection, Row as _};

use crate::QueueError;

/// The first due job of each queue is looked up in the order of the index, from queue to queue, so
/// that the answer costs the same however many jobs wait. A session counts as dead by the same rule
/// as in `rescue`.
pub(crate) const UPKEEP_DUE: &str = "-- upkeep_due
    WITH RECURSIVE first AS (
        (SELECT queue, run_at FROM relevo.job WHERE state IN ('scheduled', 'retryable')
         ORDER BY queue, run_at LIMIT 1)
        UNION ALL
        SELECT later.queue, later.run_at FROM first CROSS JOIN LATERAL (
            SELECT j.queue, j.run_at FROM relevo.job AS j
            WHERE j.state IN ('scheduled', 'retryable') AND j.queue > first.queue
            ORDER BY j.queue, j.run_at LIMIT 1
        ) AS later
    )
    SELECT extract(epoch FROM (SELECT min(run_at) FROM first) - now())::float8 AS stage_in_seconds,
           (SELECT j.id FROM relevo.job AS j WHERE j.state = 'waiting'
            ORDER BY j.queue LIMIT 1) IS NOT NULL AS admit,
           EXISTS (SELECT FROM relevo.session
                   WHERE ended_at IS NOT NULL
                      OR greatest(heartbeat_at, pg_postmaster_start_time())
                         < clock_timestamp() - ttl) AS rescue";

/// What upkeep there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpkeepDue {
    /// When the next scheduled or retryable job is due, and [`Queue::stage`] has work; zero when
    /// it has already.
    pub stage_in: Option<Duration>,
    /// Jobs wait to be admitted, and [`Queue::stage`] may have work.
    pub admit: bool,
    /// Sessions have died or ended: [`Queue::rescue`] has work.
    pub rescue: bool,
}

pub(crate) async fn upkeep_due(connection: &mut PgConnection) -> Result<UpkeepDue, QueueError> {
    let row = sqlx::query(UPKEEP_DUE).fetch_one(connection).await?;
    let seconds: Option<f64> = row.try_get("stage_in_seconds")?;
    // Centuries ahead is never, as far as upkeep goes.
    let stage_in = seconds
        .map(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX));
    Ok(UpkeepDue { stage_in, admit: row.try_get("admit")?, rescue: row.try_get("rescue")? })
}
