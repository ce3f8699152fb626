//! What runs jobs, and how it says what becomes of them.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use rand::RngExt as _;
use relevo_errors::chain;
use sqlx::PgConnection;

use super::Job;

/// A boxed future.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Any error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Runs the jobs of every kind a worker knows.
pub trait Handler: Send + Sync + 'static {
    /// Runs one job. Ok completes it; an error says what becomes of it, see [`JobError`].
    ///
    /// A panic counts as [`JobError::retry`]. After [`Job::cancelled`] fires, the future is dropped
    /// when it has not returned within the worker's `cancel_grace`. A handler that cannot even be
    /// dropped, because it blocks its thread, loses its lease: the job runs again elsewhere, what it
    /// still writes is refused, and its slot stays taken until it returns.
    fn run(&self, job: Job) -> BoxFuture<'static, Result<(), JobError>>;

    /// The ceiling of the delay after the failure of attempt `attempt` (from 1). The queue draws the
    /// delay uniformly between zero and the ceiling (full jitter), so that jobs that failed together
    /// do not come back together.
    fn backoff(&self, kind: &str, attempt: i32) -> Duration {
        let _ = kind;
        exponential(Duration::from_secs(1), Duration::from_secs(3600), attempt)
    }

    /// How long a job of this kind may run before it is cancelled and retried.
    fn timeout(&self, kind: &str) -> Option<Duration> {
        let _ = kind;
        None
    }

    /// How long a handler of this kind may show no movement before it is cancelled and retried.
    ///
    /// Movement is its start, a [`Job::progress`] that differs from the one before, and
    /// [`Job::moved`]. For long work: a timeout that fits the longest run notices a handler that
    /// hangs too late.
    fn progress_deadline(&self, kind: &str) -> Option<Duration> {
        let _ = kind;
        None
    }

    /// Called in the transaction that makes a job a dead letter after its handler failed, so that
    /// what depends on the job can be told. Best effort: its failure is logged and its writes are
    /// undone, the dead letter stays; a job whose workers died becomes one without this call.
    fn on_dead<'a>(
        &'a self,
        tx: &'a mut PgConnection,
        job: &'a Job,
        error: &'a str,
    ) -> BoxFuture<'a, Result<(), BoxError>> {
        let _ = (tx, job, error);
        Box::pin(std::future::ready(Ok(())))
    }
}

/// `base` doubled for every attempt after the first, at most `cap`.
pub(crate) fn exponential(base: Duration, cap: Duration, attempt: i32) -> Duration {
    let doublings = u32::try_from(attempt.saturating_sub(1)).unwrap_or(0).min(31);
    base.saturating_mul(1 << doublings).min(cap)
}

/// A random delay, uniform between zero and `ceiling`.
pub fn full_jitter(ceiling: Duration) -> Duration {
    ceiling.mul_f64(rand::rng().random::<f64>())
}

/// What becomes of a job whose handler did not succeed.
///
/// Any other error converts into [`JobError::retry`], so `?` means: try again later. The chain of
/// causes is stored with the job.
pub struct JobError(pub(crate) Verdict);

/// The decision inside a [`JobError`].
#[derive(Debug)]
pub(crate) enum Verdict {
    Retry { source: BoxError, after: Option<Duration> },
    Snooze(Duration),
    Fail(BoxError),
    Cancel(String),
    GiveBack,
}

impl JobError {
    /// The attempt failed; try again after the kind's backoff, or give up after the last attempt.
    pub fn retry(source: impl Into<BoxError>) -> Self {
        Self(Verdict::Retry { source: source.into(), after: None })
    }

    /// The same, with the delay given (by a `Retry-After`, say), without jitter.
    pub fn retry_after(source: impl Into<BoxError>, delay: Duration) -> Self {
        Self(Verdict::Retry { source: source.into(), after: Some(delay) })
    }

    /// Nothing failed, but it cannot go on yet: run again after `delay`, no attempt spent.
    pub fn snooze(delay: Duration) -> Self {
        Self(Verdict::Snooze(delay))
    }

    /// It can never succeed: a dead letter at once.
    pub fn fail(source: impl Into<BoxError>) -> Self {
        Self(Verdict::Fail(source.into()))
    }

    /// It is not wanted any more: ends as cancelled.
    pub fn cancel(reason: impl Into<String>) -> Self {
        Self(Verdict::Cancel(reason.into()))
    }

    /// Stopped at a safe point because the worker drains: available again at once, no attempt
    /// spent. From a worker that does not drain it is a snooze of one second.
    pub fn give_back() -> Self {
        Self(Verdict::GiveBack)
    }

    /// What was decided, in a word: `retry`, `snooze`, `fail`, `cancel` or `give_back`.
    pub fn as_str(&self) -> &'static str {
        match self.0 {
            Verdict::Retry { .. } => "retry",
            Verdict::Snooze(_) => "snooze",
            Verdict::Fail(_) => "fail",
            Verdict::Cancel(_) => "cancel",
            Verdict::GiveBack => "give_back",
        }
    }

    /// Whether the attempt failed, rather than being put off or not wanted any more.
    pub fn is_failure(&self) -> bool {
        matches!(self.0, Verdict::Retry { .. } | Verdict::Fail(_))
    }
}

impl std::fmt::Debug for JobError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(formatter)
    }
}

impl std::fmt::Display for JobError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Verdict::Retry { source, .. } => write!(formatter, "retry: {}", chain(source.as_ref())),
            Verdict::Snooze(delay) => write!(formatter, "snooze for {} ms", delay.as_millis()),
            Verdict::Fail(source) => write!(formatter, "fail: {}", chain(source.as_ref())),
            Verdict::Cancel(reason) => write!(formatter, "cancel: {reason}"),
            Verdict::GiveBack => formatter.write_str("give back"),
        }
    }
}

impl<E: Into<BoxError>> From<E> for JobError {
    fn from(error: E) -> Self {
        Self::retry(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_question_mark_means_retry_and_keeps_the_chain() {
        fn fails() -> Result<(), JobError> {
            Err(Outer(std::io::Error::other("inner")))?;
            Ok(())
        }
        assert_eq!(fails().expect_err("it fails").to_string(), "retry: outer: inner");
    }

    #[test]
    fn backoff_doubles_up_to_its_cap() {
        let at = |attempt| exponential(Duration::from_secs(1), Duration::from_secs(60), attempt);
        assert_eq!(at(1), Duration::from_secs(1));
        assert_eq!(at(4), Duration::from_secs(8));
        assert_eq!(at(7), Duration::from_secs(60));
        assert_eq!(at(i32::MAX), Duration::from_secs(60));
        assert_eq!(at(i32::MIN), Duration::from_secs(1));
    }

    #[test]
    fn jitter_stays_between_zero_and_its_ceiling() {
        for _ in 0..1000 {
            assert!(full_jitter(Duration::from_millis(10)) <= Duration::from_millis(10));
        }
        assert_eq!(full_jitter(Duration::ZERO), Duration::ZERO);
    }
}
