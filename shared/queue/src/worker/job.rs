//! A job in its handler's hands.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use super::claim;
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
    /// It showed no movement for longer than its kind may.
    Stalled,
    /// The worker stops and its grace is over.
    Grace,
}

/// What the parts of a worker share about one leased job, from its claim to its write-back.
#[derive(Debug)]
pub(crate) struct Lease {
    pub(crate) queue: Queue,
    pub(crate) id: LeaseId,
    pub(crate) kind: Arc<str>,
    pub(crate) queue_name: Arc<str>,
    pub(crate) batch: Option<BatchId>,
    pub(crate) ordering_key: Option<Box<str>>,
    pub(crate) limit_key: Option<Box<str>>,
    pub(crate) attempt: i32,
    pub(crate) max_attempts: i32,
    /// From being due to being claimed.
    pub(crate) wait: Duration,
    pub(crate) claimed_at: Instant,
    pub(crate) cancelled: CancellationToken,
    pub(crate) draining: CancellationToken,
    /// The handler ended the job in a transaction of its own, if that committed.
    pub(crate) completed_in_tx: AtomicBool,
    /// Somebody has decided what becomes of the job: the handler's side, or the warden when that
    /// side does not move. Only the first counts.
    settled: AtomicBool,
    /// When the handler last showed movement, in milliseconds since the claim.
    moved_ms: AtomicU64,
    stop: Mutex<Stop>,
}

#[derive(Debug, Default)]
struct Stop {
    reason: Option<CancelReason>,
    cancelled_at: Option<Instant>,
    deadline: Option<Instant>,
    progress_deadline: Option<Duration>,
    last_report: Option<Progress>,
}

impl Lease {
    pub(crate) fn new(
        queue: Queue,
        draining: CancellationToken,
        row: &claim::Row,
        session: SessionId,
        names: (Arc<str>, Arc<str>),
    ) -> Self {
        Self {
            queue,
            id: LeaseId { job: row.id, session, epoch: row.epoch },
            queue_name: names.0,
            kind: names.1,
            batch: row.batch,
            ordering_key: row.ordering_key.clone(),
            limit_key: row.limit_key.clone(),
            attempt: row.attempt,
            max_attempts: row.max_attempts,
            wait: row.wait,
            claimed_at: Instant::now(),
            cancelled: CancellationToken::new(),
            draining,
            completed_in_tx: AtomicBool::new(false),
            settled: AtomicBool::new(false),
            moved_ms: AtomicU64::new(0),
            stop: Mutex::default(),
        }
    }

    fn stop(&self) -> MutexGuard<'_, Stop> {
        self.stop.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the handler to stop; the first reason given stays.
    pub(crate) fn cancel(&self, reason: CancelReason) {
        {
            let mut stop = self.stop();
            if stop.reason.is_some() {
                return;
            }
            stop.reason = Some(reason);
            stop.cancelled_at = Some(Instant::now());
        }
        self.cancelled.cancel();
    }

    pub(crate) fn cancel_reason(&self) -> Option<CancelReason> {
        // The token is an atomic; the lock is for the rare case.
        if self.cancelled.is_cancelled() { self.stop().reason } else { None }
    }

    /// The handler starts: how long it may run, and how long without movement.
    pub(crate) fn begin(&self, timeout: Option<Duration>, progress_deadline: Option<Duration>) {
        self.moved();
        let mut stop = self.stop();
        stop.deadline = timeout.map(|timeout| Instant::now() + timeout);
        stop.progress_deadline = progress_deadline;
    }

    /// The limits that the handler meets next, each with what it means to pass it.
    pub(crate) fn limits(&self) -> [Option<(Instant, CancelReason)>; 2] {
        let (deadline, progress_deadline) = {
            let stop = self.stop();
            (stop.deadline, stop.progress_deadline)
        };
        let stalled = progress_deadline.map(|limit| self.moved_at() + limit);
        [
            deadline.map(|at| (at, CancelReason::Timeout)),
            stalled.map(|at| (at, CancelReason::Stalled)),
        ]
    }

    /// The handler shows movement.
    fn moved(&self) {
        let since_ms = u64::try_from(self.claimed_at.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.moved_ms.fetch_max(since_ms, Ordering::Relaxed);
    }

    fn moved_at(&self) -> Instant {
        self.claimed_at + Duration::from_millis(self.moved_ms.load(Ordering::Relaxed))
    }

    /// Takes note of a report; movement where it says something new.
    fn reported(&self, progress: &Progress) {
        let is_new = {
            let mut stop = self.stop();
            let is_new = stop.last_report.as_ref() != Some(progress);
            if is_new {
                stop.last_report = Some(progress.clone());
            }
            is_new
        };
        if is_new {
            self.moved();
        }
    }

    pub(crate) fn cancelled_at(&self) -> Option<Instant> {
        self.stop().cancelled_at
    }

    /// True for the first who decides what becomes of the job.
    pub(crate) fn settle(&self) -> bool {
        !self.settled.swap(true, Ordering::AcqRel)
    }
}

impl Job {
    pub(crate) fn from_row(row: claim::Row, lease: Arc<Lease>) -> Self {
        Self {
            id: row.id,
            kind: row.kind,
            payload: row.payload,
            payload_version: row.payload_version,
            queue: row.queue,
            attempt: row.attempt,
            max_attempts: row.max_attempts,
            deaths: row.deaths,
            epoch: row.epoch,
            session: lease.id.session,
            run_id: row.run_id,
            batch_id: row.batch,
            traceparent: row.traceparent,
            created_at: row.created_at,
            lease,
        }
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
    /// the job is no poison: its deaths go back to zero. A report that differs from the one before
    /// is movement, see [`Handler::progress_deadline`](crate::Handler::progress_deadline).
    ///
    /// # Errors
    /// [`QueueError::LeaseLost`]: stop. Database errors: progress is lost, the job is not.
    pub async fn progress(&self, progress: &Progress) -> Result<(), QueueError> {
        // The handler moved, whether or not the database takes the report.
        self.lease.reported(progress);
        self.lease.id.progress(self.lease.queue.pool(), progress).await
    }

    /// Shows movement without storing anything: the kind's progress deadline counts from here
    /// again. Cheap enough for every received block.
    pub fn moved(&self) {
        self.lease.moved();
    }

    /// Proves, in the caller's control-plane transaction, that the lease holds, and keeps it from
    /// being taken away until the transaction ends. Every control-plane effect of a handler belongs
    /// into a transaction that called this first.
    ///
    /// # Errors
    /// [`QueueError::LeaseLost`]: roll back and stop. Database errors.
    pub async fn fence(&self, tx: &mut PgConnection) -> Result<(), QueueError> {
        self.lease.id.fence(tx).await
    }

    /// Completes the job in the caller's control-plane transaction: its effects and its end commit
    /// together. The handler then commits and returns Ok. When it returns an error instead (because
    /// COMMIT failed, say), the error counts if the transaction did not commit, and nothing is
    /// changed if it did.
    ///
    /// # Errors
    /// [`QueueError::LeaseLost`]: roll back and stop. Database errors.
    pub async fn complete_in(&self, tx: &mut PgConnection) -> Result<(), QueueError> {
        self.lease.id.complete(tx).await?;
        self.lease.completed_in_tx.store(true, Ordering::Release);
        Ok(())
    }
}
