//! What a handler writes about its own job: each statement proves the lease.

use std::collections::BTreeMap;

use sqlx::{PgConnection, PgPool};

use crate::batch::{self, Ended};
use crate::sql::{history_columns, storable};
use crate::worker::Progress;
use crate::{BatchId, JobId, QueueError, SessionId};

/// The proof: these three together name one lease and no other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LeaseId {
    pub(crate) job: JobId,
    pub(crate) session: SessionId,
    pub(crate) epoch: i64,
}

/// FOR SHARE keeps rescue, cancel and finish out until the transaction ends, and lets the handler's
/// own progress through on another connection: a stronger lock would make the two wait for each
/// other for ever.
const FENCE: &str = "-- fence_job
    SELECT id FROM relevo.job WHERE id = $1 AND session_id = $2 AND lease_epoch = $3 FOR SHARE";

/// Deaths go back to zero by the way: where the row is locked just then, the next report does it.
const PROGRESS: &str = "-- report_progress
    WITH held AS MATERIALIZED (
        SELECT id, deaths FROM relevo.job
        WHERE id = $1 AND session_id = $2 AND lease_epoch = $3 FOR SHARE
    ), before AS MATERIALIZED (
        SELECT coalesce((SELECT done_max FROM relevo.job_progress WHERE job_id = $1), 0) AS done_max
    ), stored AS (
        INSERT INTO relevo.job_progress AS p
            (job_id, lease_epoch, done, done_max, total, unit, message)
        SELECT id, $3, $4, $4, $5, $6, $7 FROM held
        ON CONFLICT (job_id) DO UPDATE
            SET lease_epoch = excluded.lease_epoch, done = excluded.done,
                done_max = greatest(p.done_max, excluded.done), total = excluded.total,
                unit = excluded.unit, message = excluded.message, updated_at = now()
    ), advanced AS MATERIALIZED (
        SELECT j.id FROM relevo.job AS j JOIN held USING (id) CROSS JOIN before
        WHERE held.deaths > 0 AND $4 > before.done_max
        FOR NO KEY UPDATE OF j SKIP LOCKED
    ), cleared AS (
        UPDATE relevo.job AS j SET deaths = 0 FROM advanced WHERE j.id = advanced.id
    )
    SELECT id FROM held";

const COMPLETE: &str = concat!(
    "-- complete_job
    WITH gone AS (
        DELETE FROM relevo.job WHERE id = $1 AND session_id = $2 AND lease_epoch = $3 RETURNING *
    )
    INSERT INTO relevo.job_history (",
    history_columns!(),
    ", state, finished_at) SELECT ",
    history_columns!(),
    ", 'completed', clock_timestamp() FROM gone RETURNING batch_id"
);

const MARK_STARTED: &str = "-- mark_job_started
    UPDATE relevo.job SET started = true WHERE id = $1 AND session_id = $2 AND lease_epoch = $3";

impl LeaseId {
    fn lost(self) -> QueueError {
        QueueError::LeaseLost { job: self.job }
    }

    pub(crate) async fn fence(self, connection: &mut PgConnection) -> Result<(), QueueError> {
        let held: Option<JobId> = sqlx::query_scalar(FENCE)
            .bind(self.job)
            .bind(self.session)
            .bind(self.epoch)
            .fetch_optional(connection)
            .await?;
        held.map(|_| ()).ok_or_else(|| self.lost())
    }

    pub(crate) async fn progress(
        self,
        pool: &PgPool,
        progress: &Progress,
    ) -> Result<(), QueueError> {
        let held: Option<JobId> = sqlx::query_scalar(PROGRESS)
            .bind(self.job)
            .bind(self.session)
            .bind(self.epoch)
            .bind(progress.done.max(0))
            .bind(progress.total.map(|total| total.max(0)))
            .bind(storable(&progress.unit))
            .bind(storable(&progress.message))
            .fetch_optional(pool)
            .await?;
        held.map(|_| ()).ok_or_else(|| self.lost())
    }

    pub(crate) async fn complete(self, connection: &mut PgConnection) -> Result<(), QueueError> {
        let batch: Option<Option<BatchId>> = sqlx::query_scalar(COMPLETE)
            .bind(self.job)
            .bind(self.session)
            .bind(self.epoch)
            .fetch_optional(&mut *connection)
            .await?;
        match batch {
            None => Err(self.lost()),
            Some(None) => Ok(()),
            Some(Some(batch)) => {
                let ended = Ended { completed: 1, ..Ended::default() };
                batch::settle(connection, &BTreeMap::from([(batch, ended)])).await
            }
        }
    }

    /// Says, before the handler runs, that a death from now on is this job's.
    pub(crate) async fn mark_started(self, pool: &PgPool) -> Result<(), QueueError> {
        let marked = sqlx::query(MARK_STARTED)
            .bind(self.job)
            .bind(self.session)
            .bind(self.epoch)
            .execute(pool)
            .await?;
        if marked.rows_affected() == 1 { Ok(()) } else { Err(self.lost()) }
    }
}
