//! The door for producers, operators and upkeep.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::{PgConnection, PgPool};

use crate::admit::{Admitter, Keys};
use crate::notify::Notifier;
use crate::spare::Spare;
use crate::view::{self, BatchView, JobFilter, JobState, JobView, QueueStats, SessionView};
use crate::{
    BatchId, EditedKey, Enqueued, FailedMemberPolicy, JobId, Lately, Limit, LimitView, NewJob,
    QueueError, UpkeepDue, admit, batch, cancel, control, dead, due, enqueue, limit, prune, rescue,
    stage, throughput,
};

/// The durable queue in one database. Cheap to clone; clones share the throttle of notifications.
#[derive(Debug, Clone)]
pub struct Queue {
    pool: PgPool,
    pub(crate) notifier: Arc<Notifier>,
    pub(crate) spare: Arc<Spare>,
    pub(crate) admitter: Arc<Admitter>,
}

/// What became of a cancel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CancelOutcome {
    /// It was waiting, and is cancelled now.
    Cancelled,
    /// It is running; its worker was told, and learns it from its next heartbeat at the latest.
    Requested,
    /// It had ended before, like this.
    AlreadyEnded(JobState),
    /// There is no such job.
    NotFound,
}

/// What became of a retry by hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryOutcome {
    /// It may be claimed now.
    Retried,
    /// It needs no retry: it is waiting, available, running, completed or cancelled.
    NotRetryable(JobState),
    /// Another job holds its unique key by now.
    UniqueKeyHeld(JobId),
    /// There is no such job.
    NotFound,
}

/// What one rescue pass did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Rescued {
    /// Sessions found dead.
    pub sessions: u64,
    /// Jobs made available again.
    pub jobs: u64,
    /// Jobs that became dead letters because too many workers died under them.
    pub poisoned: Vec<Poisoned>,
    /// Jobs that were to be cancelled and are.
    pub cancelled: u64,
}

/// A job that became a dead letter because too many workers died under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Poisoned {
    /// Which.
    pub id: JobId,
    /// Where it waited.
    pub queue: String,
    /// What it was.
    pub kind: String,
}

/// How long ended things are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Completed and cancelled jobs, completed batches, progress; rounded up to whole UTC days.
    pub history: Duration,
    /// Dead letters; none means until a person acts.
    pub dead_letters: Option<Duration>,
}

impl Queue {
    /// The queue in the database of `pool`, whose control plane must be migrated.
    pub fn new(pool: PgPool) -> Self {
        Self { pool, notifier: Arc::default(), spare: Arc::default(), admitter: Arc::default() }
    }

    /// The pool it works through.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Enqueues one job, durably once this returns.
    ///
    /// # Errors
    /// [`QueueError::InvalidJob`], [`QueueError::BatchSealed`], [`QueueError::Database`]. After a
    /// database error the job may be there: only an idempotency key makes a repeat safe.
    pub async fn enqueue(&self, job: NewJob) -> Result<Enqueued, QueueError> {
        enqueue::one(self, &job).await
    }

    /// Enqueues jobs in one transaction, all or none; answers in the order of `jobs`.
    ///
    /// # Errors
    /// As [`Queue::enqueue`].
    pub async fn enqueue_many(&self, jobs: &[NewJob]) -> Result<Vec<Enqueued>, QueueError> {
        enqueue::many(self, jobs).await
    }

    /// Enqueues jobs in the caller's transaction: they exist when it commits.
    ///
    /// # Errors
    /// As [`Queue::enqueue`]; after any but [`QueueError::InvalidJob`] from a job's own shape the
    /// transaction is to be rolled back.
    pub async fn enqueue_in(
        &self,
        tx: &mut PgConnection,
        jobs: &[NewJob],
    ) -> Result<Vec<Enqueued>, QueueError> {
        enqueue::within(tx, jobs).await
    }

    /// Opens a batch in the caller's transaction. `completion` is enqueued when the batch is sealed
    /// and its last pending member has ended.
    ///
    /// # Errors
    /// [`QueueError::InvalidJob`] when `completion` has a key or a batch; database errors.
    pub async fn open_batch(
        &self,
        tx: &mut PgConnection,
        completion: NewJob,
        policy: FailedMemberPolicy,
    ) -> Result<BatchId, QueueError> {
        batch::open(tx, &completion, policy).await
    }

    /// Seals a batch in the caller's transaction; with nothing pending it completes at once.
    /// Sealing a sealed batch changes nothing.
    ///
    /// # Errors
    /// [`QueueError::BatchNotFound`]; database errors.
    pub async fn seal_batch(
        &self,
        tx: &mut PgConnection,
        batch: BatchId,
    ) -> Result<(), QueueError> {
        batch::seal(tx, batch).await
    }

    /// A batch as it stands.
    ///
    /// # Errors
    /// Database errors.
    pub async fn batch(&self, id: BatchId) -> Result<Option<BatchView>, QueueError> {
        view::batch(&self.pool, id).await
    }

    /// A job, wherever it is.
    ///
    /// # Errors
    /// Database errors.
    pub async fn job(&self, id: JobId) -> Result<Option<JobView>, QueueError> {
        view::job(&self.pool, id).await
    }

    /// A page of jobs, newest first, over queue, history and dead letters.
    ///
    /// # Errors
    /// Database errors.
    pub async fn jobs(&self, filter: &JobFilter) -> Result<Vec<JobView>, QueueError> {
        view::jobs(&self.pool, filter).await
    }

    /// A page of dead letters, newest first; the filter's states are not looked at.
    ///
    /// # Errors
    /// Database errors.
    pub async fn dead_letters(&self, filter: &JobFilter) -> Result<Vec<JobView>, QueueError> {
        let filter = JobFilter { states: vec![JobState::Dead], ..filter.clone() };
        view::jobs(&self.pool, &filter).await
    }

    /// Cancels a job: a waiting one at once, a running one by asking its worker.
    ///
    /// # Errors
    /// Database errors.
    pub async fn cancel(&self, id: JobId, reason: &str) -> Result<CancelOutcome, QueueError> {
        let mut connection = self.pool.acquire().await?;
        let (outcome, keys) = cancel::cancel(&mut connection, id, reason).await?;
        drop(connection);
        admit::now(&self.pool, keys).await;
        Ok(outcome)
    }

    /// As [`Queue::cancel`], in the caller's transaction.
    ///
    /// # Errors
    /// Database errors.
    pub async fn cancel_in(
        &self,
        tx: &mut PgConnection,
        id: JobId,
        reason: &str,
    ) -> Result<CancelOutcome, QueueError> {
        Ok(cancel::cancel(tx, id, reason).await?.0)
    }

    /// Makes a dead, retryable or scheduled job available now. A dead one starts over with its
    /// attempts and deaths at zero.
    ///
    /// # Errors
    /// Database errors.
    pub async fn retry(&self, id: JobId) -> Result<RetryOutcome, QueueError> {
        let mut connection = self.pool.acquire().await?;
        let (outcome, keys) = dead::retry(&mut connection, id).await?;
        drop(connection);
        admit::now(&self.pool, keys).await;
        Ok(outcome)
    }

    /// As [`Queue::retry`], in the caller's transaction.
    ///
    /// # Errors
    /// Database errors.
    pub async fn retry_in(
        &self,
        tx: &mut PgConnection,
        id: JobId,
    ) -> Result<RetryOutcome, QueueError> {
        Ok(dead::retry(tx, id).await?.0)
    }

    /// Ends a dead letter as cancelled; false when there is none with this id.
    ///
    /// # Errors
    /// Database errors.
    pub async fn discard_dead(&self, id: JobId) -> Result<bool, QueueError> {
        let mut connection = self.pool.acquire().await?;
        let discarded = dead::discard(&mut connection, id, "discarded by hand").await?;
        drop(connection);
        let is_discarded = discarded.is_some();
        admit::now(&self.pool, discarded.unwrap_or_default()).await;
        Ok(is_discarded)
    }

    /// As [`Queue::discard_dead`], in the caller's transaction and for a reason.
    ///
    /// # Errors
    /// Database errors.
    pub async fn discard_dead_in(
        &self,
        tx: &mut PgConnection,
        id: JobId,
        reason: &str,
    ) -> Result<bool, QueueError> {
        Ok(dead::discard(tx, id, reason).await?.is_some())
    }

    /// How many dead letters match; the filter's states and limit are not looked at.
    ///
    /// # Errors
    /// Database errors.
    pub async fn count_dead(&self, filter: &JobFilter) -> Result<u64, QueueError> {
        dead::count(&self.pool, filter).await
    }

    /// The dead letters that match, oldest first, at most `limit`, locked until the caller's
    /// transaction ends; the filter's states and limit are not looked at.
    ///
    /// # Errors
    /// Database errors.
    pub async fn lock_dead_in(
        &self,
        tx: &mut PgConnection,
        filter: &JobFilter,
        limit: u32,
    ) -> Result<Vec<JobId>, QueueError> {
        dead::lock_matching(tx, filter, limit).await
    }

    /// Retries dead letters in the caller's transaction; says how many. Those whose unique key is
    /// held by another job stay dead.
    ///
    /// # Errors
    /// Database errors.
    pub async fn retry_dead_in(
        &self,
        tx: &mut PgConnection,
        ids: &[JobId],
    ) -> Result<u64, QueueError> {
        dead::retry_many(tx, ids).await
    }

    /// Ends dead letters as cancelled in the caller's transaction; says how many.
    ///
    /// # Errors
    /// Database errors.
    pub async fn discard_many_dead_in(
        &self,
        tx: &mut PgConnection,
        ids: &[JobId],
        reason: &str,
    ) -> Result<u64, QueueError> {
        dead::discard_many(tx, ids, reason).await
    }

    /// A dead letter, locked until the caller's transaction ends.
    ///
    /// # Errors
    /// Database errors.
    pub async fn lock_dead_letter_in(
        &self,
        tx: &mut PgConnection,
        id: JobId,
    ) -> Result<Option<JobView>, QueueError> {
        dead::lock_one(tx, id).await
    }

    /// Gives a dead letter another payload, and with it another unique key where that follows from
    /// the payload, in the caller's transaction; false when there is none with this id. Whether the payload fits the kind is the caller's affair.
    ///
    /// # Errors
    /// [`QueueError::InvalidJob`] for what no queue can store; database errors.
    pub async fn edit_dead_in(
        &self,
        tx: &mut PgConnection,
        id: JobId,
        payload: &RawValue,
        payload_version: i16,
        key: EditedKey<'_>,
    ) -> Result<bool, QueueError> {
        dead::edit(tx, id, payload, payload_version, key).await
    }

    /// What every queue holds, by name. Reads every unfinished job: ask every few seconds, not more.
    ///
    /// # Errors
    /// Database errors.
    pub async fn stats(&self) -> Result<Vec<QueueStats>, QueueError> {
        view::stats(&self.pool).await
    }

    /// What ended within the last `window`, by queue and kind; of a busy queue only the newest
    /// 100,000 jobs.
    ///
    /// # Errors
    /// Database errors; a window longer than an interval of Postgres can be.
    pub async fn lately(&self, window: Duration) -> Result<Lately, QueueError> {
        throughput::lately(&self.pool, window).await
    }

    /// Stops claims from a queue; what runs goes on. False when it was paused before.
    ///
    /// # Errors
    /// [`QueueError::InvalidJob`] for a name no queue can have; database errors.
    pub async fn pause(&self, queue: &str) -> Result<bool, QueueError> {
        let mut connection = self.pool.acquire().await?;
        control::pause(&mut connection, queue).await
    }

    /// As [`Queue::pause`], in the caller's transaction.
    ///
    /// # Errors
    /// As [`Queue::pause`].
    pub async fn pause_in(&self, tx: &mut PgConnection, queue: &str) -> Result<bool, QueueError> {
        control::pause(tx, queue).await
    }

    /// Lets claims go on. False when the queue was not paused.
    ///
    /// # Errors
    /// Database errors.
    pub async fn resume(&self, queue: &str) -> Result<bool, QueueError> {
        let mut connection = self.pool.acquire().await?;
        control::resume(&mut connection, queue).await
    }

    /// As [`Queue::resume`], in the caller's transaction.
    ///
    /// # Errors
    /// Database errors.
    pub async fn resume_in(&self, tx: &mut PgConnection, queue: &str) -> Result<bool, QueueError> {
        control::resume(tx, queue).await
    }

    /// Sets a limit, in place of one with the same name, and admits what it has room for. A lower
    /// one takes nothing back: what is claimable or running goes on.
    ///
    /// # Errors
    /// [`QueueError::InvalidJob`] for its name, [`QueueError::InvalidLimit`]; database errors.
    pub async fn set_limit(&self, limit: &Limit) -> Result<(), QueueError> {
        let mut connection = self.pool.acquire().await?;
        limit::set(&mut connection, limit).await?;
        drop(connection);
        admit::now(&self.pool, Keys::limit(&limit.name)).await;
        Ok(())
    }

    /// As [`Queue::set_limit`], in the caller's transaction; the next staging admits.
    ///
    /// # Errors
    /// As [`Queue::set_limit`].
    pub async fn set_limit_in(
        &self,
        tx: &mut PgConnection,
        limit: &Limit,
    ) -> Result<(), QueueError> {
        limit::set(tx, limit).await
    }

    /// Removes a limit in the caller's transaction: from the next staging on nothing holds its jobs
    /// back. False when there was none.
    ///
    /// # Errors
    /// Database errors.
    pub async fn remove_limit_in(
        &self,
        tx: &mut PgConnection,
        name: &str,
    ) -> Result<bool, QueueError> {
        limit::remove(tx, name).await
    }

    /// The limits that are set, by name.
    ///
    /// # Errors
    /// Database errors.
    pub async fn limits(&self) -> Result<Vec<LimitView>, QueueError> {
        limit::list(&self.pool).await
    }

    /// The living sessions, oldest first.
    ///
    /// # Errors
    /// Database errors.
    pub async fn sessions(&self) -> Result<Vec<SessionView>, QueueError> {
        view::sessions(&self.pool).await
    }

    /// Upkeep: whether there is anything to stage or to rescue, in one statement.
    ///
    /// # Errors
    /// Database errors.
    pub async fn upkeep_due_on(
        &self,
        connection: &mut PgConnection,
    ) -> Result<UpkeepDue, QueueError> {
        due::upkeep_due(connection).await
    }

    /// Upkeep: moves due scheduled and retryable jobs on, and admits those waiting for which there
    /// is room; says how many were due.
    ///
    /// # Errors
    /// Database errors.
    pub async fn stage(&self) -> Result<u64, QueueError> {
        stage::stage(self).await
    }

    /// Upkeep: jobs that have waited for a worker longer than `after` get the highest priority that
    /// waits in their queue, so that a stream of better ones starves nobody; says how many.
    ///
    /// # Errors
    /// Database errors.
    pub async fn age(&self, after: Duration) -> Result<u64, QueueError> {
        stage::age(self, after).await
    }

    /// Upkeep: takes back the jobs of dead sessions.
    ///
    /// # Errors
    /// Database errors.
    pub async fn rescue(&self) -> Result<Rescued, QueueError> {
        rescue::rescue(self).await
    }

    /// Upkeep: drops what is older than `keep`, and makes the history's partitions for the days
    /// ahead; says how many rows and partitions went. Once a minute is often enough.
    ///
    /// # Errors
    /// Database errors.
    pub async fn prune(&self, keep: Retention) -> Result<u64, QueueError> {
        prune::prune(self, keep).await
    }
}
