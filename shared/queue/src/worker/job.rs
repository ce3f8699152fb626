//! A job in its handler's hands.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::lease::LeaseId;
use crate::{BatchId, JobId, Queue, QueueError, SessionId};

/// A job in its handler's hands. Clones share the lease.
#[derive(Debug, Clone)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// Its type.
    pub kind: String,
    /// Its arguments.
    pub payload: Box<RawValue>,
    /// Version of the payload's shape.
    pub payload_version: i16,
    /// The queue it came from.
    pub queue: String,
    /// Which attempt this is, from 1.
    pub attempt: i32,
    /// The attempt whose failure makes it a dead letter.
    pub max_attempts: i32,
    /// Workers that died under it since its last progress.
    pub deaths: i16,
    /// The lease's epoch: higher than that of any earlier lease of this job.
    pub epoch: i64,
    /// The session that holds the lease.
    pub session: SessionId,
    /// Opaque correlation id.
    pub run_id: Option<i64>,
    /// The batch it is a member of.
    pub batch_id: Option<BatchId>,
    /// W3C trace context of its enqueuer.
    pub traceparent: Option<String>,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    pub(crate) lease: Arc<Lease>,
}

/// What a handler reports on its way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Units done.
    pub done: i64,
    /// Units in all, where known.
    pub total: Option<i64>,
    /// What is counted, such as bytes or rows.
    pub unit: String,
    /// A sentence for people.
    pub message: String,
}

/// Why a handler is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReason {
    /// Somebody cancelled the job.
    Requested,
    /// The session is lost: another worker may be running the job.
    LeaseLost,
    /// It ran longer than its kind may.
    Timeout,
    /// The worker stops and its grace is over.
    Grace,
}

/// What the parts of a worker share about one running job.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) queue: Queue,
    pub(crate) cancelled: CancellationToken,
    pub(crate) draining: CancellationToken,
    /// The handler ended the job in a transaction of its own, if that committed.
    pub(crate) completed_in_tx: AtomicBool,
    reason: AtomicU8,
}

impl Lease {
    pub(crate) fn new(queue: Queue, draining: CancellationToken) -> Self {
        Self {
            queue,
            cancelled: CancellationToken::new(),
            draining,
            completed_in_tx: AtomicBool::new(false),
            reason: AtomicU8::new(0),
        }
    }

    /// Tells the handler to stop; the first reason given stays.
    pub(crate) fn cancel(&self, reason: CancelReason) {
        let code = match reason {
            CancelReason::Requested => 1,
            CancelReason::LeaseLost => 2,
            CancelReason::Timeout => 3,
            CancelReason::Grace => 4,
        };
        self.reason.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire).ok();
        self.cancelled.cancel();
    }

    pub(crate) fn cancel_reason(&self) -> Option<CancelReason> {
        match self.reason.load(Ordering::Acquire) {
            1 => Some(CancelReason::Requested),
            2 => Some(CancelReason::LeaseLost),
            3 => Some(CancelReason::Timeout),
            4 => Some(CancelReason::Grace),
            _ => None,
        }
    }
}

impl Job {
    pub(crate) fn lease_id(&self) -> LeaseId {
        LeaseId { job: self.id, session: self.session, epoch: self.epoch }
    }

    /// Fires when the handler is to stop now: see [`Job::cancel_reason`].
    pub fn cancelled(&self) -> &CancellationToken {
        &self.lease.cancelled
    }

    /// Why [`Job::cancelled`] fired.
    pub fn cancel_reason(&self) -> Option<CancelReason> {
        self.lease.cancel_reason()
    }

    /// Fires when the worker is told to stop: long handlers stop at their next safe point with
    /// [`JobError::give_back`](crate::JobError::give_back), short ones just finish.
    pub fn draining(&self) -> &CancellationToken {
        &self.lease.draining
    }

    /// Stores how far the handler is. Beyond what any attempt reached before, it also proves that
    /// the job is no poison: its deaths go back to zero.
    ///
    /// # Errors
    /// [`QueueError::LeaseLost`]: stop. Database errors: progress is lost, the job is not.
    pub async fn progress(&self, progress: &Progress) -> Result<(), QueueError> {
        self.lease_id().progress(self.lease.queue.pool(), progress).await
    }

    /// Proves, in the caller's control-plane transaction, that the lease holds, and keeps it from
    /// being taken away until the transaction ends. Every control-plane effect of a handler belongs
    /// into a transaction that called this first.
    ///
    /// # Errors
    /// [`QueueError::LeaseLost`]: roll back and stop. Database errors.
    pub async fn fence(&self, tx: &mut PgConnection) -> Result<(), QueueError> {
        self.lease_id().fence(tx).await
    }

    /// Completes the job in the caller's control-plane transaction: its effects and its end commit
    /// together. The handler then commits and returns Ok. When it returns an error instead (because
    /// COMMIT failed, say), the error counts if the transaction did not commit, and nothing is
    /// changed if it did.
    ///
    /// # Errors
    /// [`QueueError::LeaseLost`]: roll back and stop. Database errors.
    pub async fn complete_in(&self, tx: &mut PgConnection) -> Result<(), QueueError> {
        self.lease_id().complete(tx).await?;
        self.lease.completed_in_tx.store(true, Ordering::Release);
        Ok(())
    }
}
