//! What upkeep there is to do, in one small statement: an idle cluster should be quiet.

use sqlx::Row as _;

use crate::{Queue, QueueError};

/// The first due job is looked up in the order of its index, so that the answer costs the same
/// however many jobs wait. A session counts as dead by the same rule as in `rescue`.
const UPKEEP_DUE: &str = "-- upkeep_due
    SELECT coalesce((SELECT run_at FROM relevo.job WHERE state IN ('scheduled', 'retryable')
                     ORDER BY run_at LIMIT 1) <= now(), false) AS stage,
           EXISTS (SELECT FROM relevo.session
                   WHERE ended_at IS NOT NULL
                      OR greatest(heartbeat_at, pg_postmaster_start_time())
                         < clock_timestamp() - ttl) AS rescue";

/// What upkeep there is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpkeepDue {
    /// Scheduled or retryable jobs are due: [`Queue::stage`] has work.
    pub stage: bool,
    /// Sessions have died or ended: [`Queue::rescue`] has work.
    pub rescue: bool,
}

pub(crate) async fn upkeep_due(queue: &Queue) -> Result<UpkeepDue, QueueError> {
    let row = sqlx::query(UPKEEP_DUE).fetch_one(queue.pool()).await?;
    Ok(UpkeepDue { stage: row.try_get("stage")?, rescue: row.try_get("rescue")? })
}
