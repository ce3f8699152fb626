//! The durable queue: typed by name only, leased, fenced, in Postgres.
//!
//! Producers use [`Queue`]; a worker process calls [`run_worker`] with a [`Handler`]. The queue
//! knows no kinds: a kind is a name, a payload is JSON, and what they mean is the handler's affair.
//!
//! **Delivery is at least once.** A job's effects happen once when they commit together with the
//! job's end ([`Job::complete_in`]), or are proven by the lease ([`Job::fence`]).
//!
//! **The lease** of a running job is (session, epoch). The epoch rises by one at every claim and is
//! never reset. Every write-back names both and changes nothing when either is stale. Heartbeats
//! touch the session's row only; rescue looks for dead sessions, by the database's clock.

mod admit;
mod batch;
mod cancel;
mod control;
mod dead;
mod due;
mod enqueue;
mod error;
mod id;
mod lease;
mod limit;
mod new_job;
mod notify;
mod prune;
mod queue;
mod remote;
mod rescue;
mod spare;
mod sql;
mod stage;
mod statements;
mod text_enum;
mod throughput;
mod view;
mod worker;

pub use dead::EditedKey;
pub use due::UpkeepDue;
pub use error::QueueError;
pub use id::{BatchId, JobId, SessionId};
pub use limit::{Limit, LimitView, Rate};
pub use new_job::{
    Enqueued, FailedMemberPolicy, IdempotencyKey, NewJob, OnDead, Ordering, Unique, UniqueScope,
};
pub use queue::{CancelOutcome, Poisoned, Queue, Rescued, Retention, RetryOutcome};
pub use remote::{
    Backoff, REMOTE_JOBS_MAX, RemoteClaimed, RemoteClaims, RemoteEnding, RemoteJob, RemoteLease,
    RemoteOutcome, RemoteReport, RemoteSession, RemoteSettled, RemoteWorker,
};
pub use statements::{Statement, statements};
pub use throughput::{Lately, Throughput};
pub use view::{
    BatchState, BatchView, JobFilter, JobState, JobView, ProgressView, QueueStats, SessionView,
};
pub use worker::{
    BoxError, BoxFuture, CancelReason, Claimed, Finished, Handler, Job, JobError, KnownKind,
    Listen, NoObserver, Observer, Outcome, Progress, WorkerConfig, full_jitter, run_worker,
};
