//! Asking for a run's end.

use relevo_queue::{JobFilter, JobState, Queue};
use serde_json::json;
use sqlx::PgConnection;

use crate::{LogLevel, RunError, RunId, RunState, Runs};

/// Jobs looked up at a time.
const PAGE: u16 = 500;

/// What asking for a run's end came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CancelRequest {
    /// Noted; its jobs are being cancelled, and the run becomes cancelled when they have stopped.
    Requested {
        /// How many of its jobs were cancelled or told to stop just now.
        jobs: u64,
    },
    /// Too late: it has ended.
    AlreadyEnded(RunState),
}

impl Runs {
    /// Notes that a person wants the run to end, and cancels its unfinished jobs. The run's pipeline
    /// ends it when they have stopped and nothing is left behind. Asking again does no harm: jobs
    /// enqueued since are cancelled too.
    ///
    /// # Errors
    /// [`RunError::NotFound`]; database errors.
    pub async fn request_cancel(&self, id: RunId, reason: &str) -> Result<CancelRequest, RunError> {
        let mut tx = self.pool().begin().await?;
        if let Some(state) = self.request_cancel_in(&mut tx, id, reason).await? {
            return Ok(CancelRequest::AlreadyEnded(state));
        }
        tx.commit().await?;
        let jobs = self.cancel_jobs(id, reason).await?;
        Ok(CancelRequest::Requested { jobs })
    }

    /// The first half of [`Runs::request_cancel`], in the caller's transaction: notes the wish. When
    /// that has committed, [`Runs::cancel_jobs`] is due. Answers how the run has ended, when it has.
    ///
    /// # Errors
    /// [`RunError::NotFound`]; database errors.
    pub async fn request_cancel_in(
        &self,
        tx: &mut PgConnection,
        id: RunId,
        reason: &str,
    ) -> Result<Option<RunState>, RunError> {
        let Some(run) = self.get_for_update_in(tx, id).await? else {
            return Err(RunError::NotFound(id));
        };
        if run.state.is_ended() {
            return Ok(Some(run.state));
        }
        if !run.cancel_requested {
            sqlx::query(
                "-- Runs::request_cancel
                UPDATE relevo.run SET cancel_requested = true, updated_at = now() WHERE id = $1",
            )
            .bind(id)
            .execute(&mut *tx)
            .await?;
            let message = format!("cancel requested: {reason}");
            self.log_in(tx, id, LogLevel::Warn, &message, &json!({})).await?;
        }
        Ok(None)
    }

    /// Cancels the unfinished jobs of a run and says how many there were.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn cancel_jobs(&self, id: RunId, reason: &str) -> Result<u64, RunError> {
        let queue = Queue::new(self.pool().clone());
        let mut filter = JobFilter {
            states: vec![
                JobState::Scheduled,
                JobState::Waiting,
                JobState::Available,
                JobState::Running,
                JobState::Retryable,
            ],
            limit: Some(PAGE),
            ..JobFilter::run(id.0)
        };
        let mut cancelled = 0;
        loop {
            let jobs = queue.jobs(&filter).await?;
            for job in &jobs {
                queue.cancel(job.id, reason).await?;
                cancelled += 1;
            }
            // Newest first and ever older: what is enqueued meanwhile does not keep this going.
            match jobs.last() {
                Some(last) => filter.before = Some(last.id),
                None => return Ok(cancelled),
            }
        }
    }
}
