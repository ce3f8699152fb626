//! What a worker tells whoever counts.
//!
//! | event | when | measures |
//! |---|---|---|
//! | `claimed` | a claim returned jobs | queue, jobs, latency |
//! | `started` | a handler is about to run | queue, kind |
//! | `finished` | an outcome is in the database | queue, kind, outcome, attempt, wait, run |
//! | `finish_written` | a batch of outcomes is in the database | jobs, latency |
//! | `lease_lost` | an outcome was refused by its fence | queue, kind |
//! | `handler_stuck` | a handler does not yield, its lease was taken from it | queue, kind |
//! | `session_opened`, `session_lost` | leases begin, leases are no longer trusted | |
//! | `database_error` | a step failed and will be tried again | step |

use std::time::Duration;

/// How one run of a job ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Well.
    Completed,
    /// Failed, will be tried again.
    Retried,
    /// Put off without spending an attempt.
    Snoozed,
    /// Given back at a drain, without spending an attempt.
    GivenBack,
    /// Cancelled, by a person or the handler.
    Cancelled,
    /// Failed for good, a dead letter now.
    Dead,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Self; 6] = [
        Self::Completed,
        Self::Retried,
        Self::Snoozed,
        Self::GivenBack,
        Self::Cancelled,
        Self::Dead,
    ];

    /// The outcome as a metric's label says it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Retried => "retried",
            Self::Snoozed => "snoozed",
            Self::GivenBack => "given_back",
            Self::Cancelled => "cancelled",
            Self::Dead => "dead",
        }
    }
}

/// A claim that returned jobs.
#[derive(Debug, Clone, Copy)]
pub struct Claimed<'a> {
    /// The queue.
    pub queue: &'a str,
    /// How many.
    pub jobs: usize,
    /// From asking to having them.
    pub latency: Duration,
}

/// An outcome that is in the database.
#[derive(Debug, Clone, Copy)]
pub struct Finished<'a> {
    /// The queue.
    pub queue: &'a str,
    /// The kind.
    pub kind: &'a str,
    /// How it ended.
    pub outcome: Outcome,
    /// Which attempt it was, from 1.
    pub attempt: i32,
    /// From being due to being started.
    pub wait: Duration,
    /// From start to end of the handler.
    pub run: Duration,
}

/// Hears of a worker's events. Called on hot paths: count, don't block.
pub trait Observer: Send + Sync + 'static {
    /// A claim returned jobs.
    fn claimed(&self, claimed: &Claimed<'_>) {
        let _ = claimed;
    }
    /// A handler is about to run.
    fn started(&self, queue: &str, kind: &str) {
        let _ = (queue, kind);
    }
    /// An outcome is in the database.
    fn finished(&self, finished: &Finished<'_>) {
        let _ = finished;
    }
    /// One statement wrote the outcomes of `jobs` jobs.
    fn finish_written(&self, jobs: usize, latency: Duration) {
        let _ = (jobs, latency);
    }
    /// An outcome was refused: the job had been taken away.
    fn lease_lost(&self, queue: &str, kind: &str) {
        let _ = (queue, kind);
    }
    /// A handler was told to stop and blocks its thread: its lease was taken from it.
    fn handler_stuck(&self, queue: &str, kind: &str) {
        let _ = (queue, kind);
    }
    /// A session was opened.
    fn session_opened(&self) {}
    /// A session can no longer be trusted; its handlers are being cancelled.
    fn session_lost(&self) {}
    /// A step (`claim`, `finish`, `heartbeat`, `listen`, …) met a database error and will be tried
    /// again.
    fn database_error(&self, step: &'static str) {
        let _ = step;
    }
}

/// Hears nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoObserver;

impl Observer for NoObserver {}
