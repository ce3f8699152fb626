//! One session's life: opened, working, then drained or lost.
//!
//! A worker is a sequence of tenures. Each has its own session, its own connections and tasks, and
//! nothing of it outlives it but handlers that do not yield, whose leases are taken from them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::buffer::Buffer;
use super::finish::{Ack, Ending};
use super::hints::Hints;
use super::job::{CancelReason, Lease};
use super::leases::Leases;
use super::{Handler, Job, Observer, WorkerConfig};
use super::{backend, fetcher, finisher, heartbeat, listener, runner, session};
use crate::{Queue, QueueError, SessionId};

/// What the tasks of one tenure share.
pub(crate) struct Tenure {
    pub(crate) queue: Queue,
    pub(crate) config: Arc<WorkerConfig>,
    pub(crate) handler: Arc<dyn Handler>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) session: SessionId,
    /// Claims stop, handlers may stop at their next safe point.
    pub(crate) draining: CancellationToken,
    /// The lease can no longer be trusted.
    pub(crate) lost: CancellationToken,
    /// Nothing more will be handed to the finisher: write what is left and end.
    pub(crate) flush: CancellationToken,
    /// The finisher's time is over.
    pub(crate) give_up: CancellationToken,
    pub(crate) leases: Leases,
    pub(crate) buffer: Buffer,
    pub(crate) hints: Hints,
    /// Handlers that may run at once.
    pub(crate) slots: AtomicUsize,
    /// Who waits for a slot.
    pub(crate) more_slots: AtomicWaker,
    /// Handlers running now.
    pub(crate) in_flight: AtomicUsize,
    /// Handlers ended since the tenure began.
    pub(crate) ended: AtomicU64,
    /// A slot or a place in the buffer became free.
    pub(crate) room: Notify,
    pub(crate) beat_now: Notify,
    acks: mpsc::Sender<Ack>,
}

impl Tenure {
    /// Whether one more handler may run.
    pub(crate) fn has_slot(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) < self.slots.load(Ordering::Acquire)
    }

    /// Decides what becomes of a job, unless that was decided before, and hands it to be written.
    /// Waits while the finisher is behind.
    pub(crate) async fn settle(&self, lease: &Arc<Lease>, ending: Ending, run: Duration) {
        if let Some(ack) = self.ack(lease, ending, run) {
            // Refused only after the finisher has ended: the session's end frees the job.
            self.acks.send(ack).await.ok();
        }
    }

    /// The same without waiting; false when there was no room.
    pub(crate) fn try_settle(&self, lease: &Arc<Lease>, ending: Ending) -> bool {
        let Ok(permit) = self.acks.try_reserve() else { return false };
        if let Some(ack) = self.ack(lease, ending, Duration::ZERO) {
            permit.send(ack);
        }
        true
    }

    fn ack(&self, lease: &Arc<Lease>, ending: Ending, run: Duration) -> Option<Ack> {
        if !lease.settle() {
            return None;
        }
        self.leases.remove(lease);
        let wait = lease.wait + lease.claimed_at.elapsed().saturating_sub(run);
        let lease = Arc::clone(lease);
        Some(Ack { lease, ending, run, wait, refusals: 0, is_retried: false })
    }

    /// Hands jobs that never started back to the queue.
    pub(crate) async fn give_back(&self, jobs: Vec<Job>) {
        for job in jobs {
            self.settle(&job.lease, Ending::GiveBack, Duration::ZERO).await;
        }
    }

    /// From here on nothing this session holds is certain to be its own.
    pub(crate) fn lose(&self, why: &str) {
        if self.lost.is_cancelled() {
            return;
        }
        tracing::error!(
            session = %self.session,
            worker = self.config.name,
            running = self.in_flight.load(Ordering::Relaxed),
            why,
            "the worker session is lost; its handlers are cancelled and a new one is opened"
        );
        self.observer.session_lost();
        self.lost.cancel();
        self.draining.cancel();
        self.leases.cancel_all(CancelReason::LeaseLost);
    }
}

/// Opens a session and works until `shutdown` (then true) or until the session is lost (false).
///
/// # Errors
/// When no session could be opened, or no thread for its heartbeat.
pub(crate) async fn run(
    queue: &Queue,
    config: &Arc<WorkerConfig>,
    handler: &Arc<dyn Handler>,
    observer: &Arc<dyn Observer>,
    shutdown: &CancellationToken,
) -> Result<bool, QueueError> {
    // What the database grants counts from when we asked, not from when we heard.
    let trusted_since = Instant::now();
    let session = session::open(queue.pool(), config).await?;
    let (acks, acks_in) = mpsc::channel(finisher::CHANNEL_SIZE);
    let tenure = Arc::new(Tenure {
        queue: queue.clone(),
        config: Arc::clone(config),
        handler: Arc::clone(handler),
        observer: Arc::clone(observer),
        session,
        draining: CancellationToken::new(),
        lost: CancellationToken::new(),
        flush: CancellationToken::new(),
        give_up: CancellationToken::new(),
        leases: Leases::default(),
        buffer: Buffer::default(),
        hints: Hints::new(&config.queues),
        slots: AtomicUsize::new(config.slots()),
        more_slots: AtomicWaker::new(),
        in_flight: AtomicUsize::new(0),
        ended: AtomicU64::new(0),
        room: Notify::new(),
        beat_now: Notify::new(),
        acks,
    });
    let heart = heartbeat::start(&tenure, trusted_since).map_err(QueueError::Thread)?;
    observer.session_opened();
    tracing::info!(session = %session, worker = config.name, "worker session opened");

    let listener = tokio::spawn(listener::run(Arc::clone(&tenure)));
    let slots = tokio::spawn(follow_slots(Arc::clone(&tenure)));
    let mut tasks = Tasks {
        fetcher: Some(tokio::spawn(fetcher::run(Arc::clone(&tenure)))),
        runner: Some(tokio::spawn(backend::run(Arc::clone(&tenure)))),
        finisher: Some(tokio::spawn(finisher::run(Arc::clone(&tenure), acks_in))),
    };
    tokio::select! {
        // A lost session ends tasks too: the cause is looked at before the effect.
        biased;
        () = shutdown.cancelled() => {}
        () = tenure.lost.cancelled() => {}
        which = tasks.first_to_end() => {
            tracing::error!(task = which, "a task of the worker ended by itself; starting anew");
        }
    }
    listener.abort();
    slots.abort();
    end(&tenure, tasks).await;
    drop(heart);
    if let Err(error) = session::close(queue.pool(), session).await {
        tracing::warn!(
            session = %session,
            error = &error as &dyn std::error::Error,
            "the session could not be closed; it ends when its time runs out"
        );
    }
    tracing::info!(session = %session, worker = config.name, "worker session closed");
    Ok(shutdown.is_cancelled())
}

/// Takes up every other number of slots.
async fn follow_slots(tenure: Arc<Tenure>) {
    let Some(mut changes) = tenure.config.concurrency_now.clone() else { return };
    loop {
        changes.mark_unchanged();
        let slots = tenure.config.slots();
        if tenure.slots.swap(slots, Ordering::AcqRel) != slots {
            tracing::info!(session = %tenure.session, slots, "handlers that may run at once");
            tenure.more_slots.wake();
            tenure.room.notify_one();
            // People see the new number at once.
            tenure.beat_now.notify_one();
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// The tasks that must not end before they are told to; none where one has.
struct Tasks {
    fetcher: Option<JoinHandle<()>>,
    runner: Option<JoinHandle<()>>,
    finisher: Option<JoinHandle<()>>,
}

impl Tasks {
    /// Waits for a task that ends, by a panic that is, and says which it was.
    async fn first_to_end(&mut self) -> &'static str {
        tokio::select! {
            () = joined(&mut self.fetcher) => "fetcher",
            () = joined(&mut self.runner) => "runner",
            () = joined(&mut self.finisher) => "finisher",
        }
    }
}

/// Waits for the end of a task, if it has not ended.
async fn joined(task: &mut Option<JoinHandle<()>>) {
    if let Some(running) = task {
        running.await.ok();
        *task = None;
    }
}

fn abort(task: Option<JoinHandle<()>>) {
    if let Some(running) = task {
        running.abort();
    }
}

/// How the time from the order to stop to the end is divided. All of it lies within the grace.
struct Stages {
    /// Handlers may finish by themselves.
    soft: Duration,
    /// Then they are cancelled, and dropped when they do not return.
    hard: Duration,
    /// Then what is decided is written.
    flush: Duration,
}

impl Stages {
    fn of(config: &WorkerConfig, is_lost: bool) -> Self {
        if is_lost {
            // Nothing is gained by waiting: another worker may be running the jobs already.
            return Self {
                soft: Duration::ZERO,
                hard: config.cancel_grace + Duration::from_millis(500),
                flush: config.lease_ttl,
            };
        }
        let hard = (config.cancel_grace + Duration::from_millis(500)).min(config.grace / 3);
        let flush = Duration::from_secs(5).min(config.grace / 6);
        Self { soft: config.grace.saturating_sub(hard + flush), hard, flush }
    }
}

/// Stops claims, gives back what has not started, lets handlers finish within bounds, writes what is
/// left.
async fn end(tenure: &Tenure, mut tasks: Tasks) {
    let times = Stages::of(&tenure.config, tenure.lost.is_cancelled());
    tenure.draining.cancel();
    end_handlers(tenure, &mut tasks.runner, &times).await;
    abort(tasks.runner);

    let flushed_by = tokio::time::Instant::now() + times.flush;
    // Ends by itself: a claim under way is waited for, else its jobs would be unknown.
    if tokio::time::timeout_at(flushed_by, joined(&mut tasks.fetcher)).await.is_err() {
        tracing::warn!("a claim under way got no answer; its jobs are taken back with the session");
    }
    abort(tasks.fetcher);
    tenure.flush.cancel();
    if tokio::time::timeout_at(flushed_by, joined(&mut tasks.finisher)).await.is_err() {
        tenure.give_up.cancel();
        // It may hang in a statement: its connection is dropped with it.
        let last = Duration::from_millis(200);
        tokio::time::timeout(last, joined(&mut tasks.finisher)).await.ok();
    }
    abort(tasks.finisher);
}

/// Lets handlers end, then makes them.
async fn end_handlers(tenure: &Tenure, runner: &mut Option<JoinHandle<()>>, times: &Stages) {
    if tokio::time::timeout(times.soft, joined(runner)).await.is_ok() {
        return;
    }
    let reason =
        if tenure.lost.is_cancelled() { CancelReason::LeaseLost } else { CancelReason::Grace };
    tenure.leases.cancel_all(reason);
    if tokio::time::timeout(times.hard, joined(runner)).await.is_ok() {
        return;
    }
    for lease in tenure.leases.all() {
        tracing::error!(
            job = %lease.id.job,
            kind = &*lease.kind,
            "a handler does not yield; its lease is taken from it"
        );
        if tenure.try_settle(&lease, runner::decide_stuck(tenure, &lease)) {
            tenure.observer.handler_stuck(&lease.queue_name, &lease.kind);
        }
    }
}
