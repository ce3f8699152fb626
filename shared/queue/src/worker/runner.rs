//! Running one job: its handler, its limits, and what becomes of it.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use relevo_errors::chain;

use super::connect::pause;
use super::finish::{Ending, NOT_COMMITTED};
use super::handler::{JobError, Verdict};
use super::job::{CancelReason, Lease};
use super::tenure::Tenure;
use super::{Job, full_jitter};
use crate::QueueError;
use crate::sql::storable;

/// What a worker that does not drain makes of a job given back.
const GIVE_BACK_SNOOZE: Duration = Duration::from_secs(1);

/// How one run ended, before it is decided what that means.
enum Run {
    Returned(Result<(), JobError>),
    Panicked(String),
    /// It was told to stop and did not, so its future was dropped.
    Dropped,
    /// It was told to stop before it began.
    NotStarted,
}

/// Frees the slot whatever happens, also when the observer panics.
struct Slot<'a> {
    tenure: &'a Tenure,
    lease: &'a Arc<Lease>,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        // Only when this future was dropped or panicked itself is anything left to settle.
        if std::thread::panicking() {
            let ending = decide(
                self.tenure,
                self.lease,
                Run::Panicked("the worker's own code panicked".to_owned()),
            );
            self.tenure.try_settle(self.lease, ending);
        }
        self.tenure.in_flight.fetch_sub(1, Ordering::AcqRel);
        self.tenure.ended.fetch_add(1, Ordering::Relaxed);
        self.tenure.room.notify_one();
    }
}

/// Runs one job to its end and hands over what becomes of it. The caller has taken the slot.
pub(crate) async fn run(tenure: Arc<Tenure>, job: Job) {
    let lease = Arc::clone(&job.lease);
    let _slot = Slot { tenure: &tenure, lease: &lease };
    let started = Instant::now();
    let run = if lease.cancel_reason().is_some() {
        Run::NotStarted
    } else {
        // A job that may be poison is marked first, so that this process's end is held against it
        // and not against those that only waited beside it.
        if job.deaths > 0 && !mark_started(&tenure, &lease).await {
            tenure.settle(&lease, Ending::GiveBack, Duration::ZERO).await;
            return;
        }
        tenure.observer.started(&lease.queue_name, &lease.kind);
        call(&tenure, job, &lease).await
    };
    let ending = decide(&tenure, &lease, run);
    tenure.settle(&lease, ending, started.elapsed()).await;
}

/// False when the lease is lost, or the worker stops before the database answers.
async fn mark_started(tenure: &Tenure, lease: &Lease) -> bool {
    let mut failures = 0;
    while !lease.cancelled.is_cancelled() {
        match lease.id.mark_started(lease.queue.pool()).await {
            Ok(()) => return true,
            Err(QueueError::LeaseLost { .. }) => return false,
            Err(error) => {
                failures += 1;
                tenure.observer.database_error("mark_started");
                tracing::warn!(
                    job = %lease.id.job,
                    error = &error as &dyn std::error::Error,
                    "a job could not be marked as started, trying again"
                );
                tokio::select! {
                    () = tokio::time::sleep(pause(failures)) => {}
                    () = lease.cancelled.cancelled() => {}
                    () = tenure.draining.cancelled() => return false,
                }
            }
        }
    }
    false
}

async fn call(tenure: &Tenure, job: Job, lease: &Lease) -> Run {
    lease.begin(tenure.handler.timeout(&lease.kind), tenure.handler.progress_deadline(&lease.kind));
    let handler = &tenure.handler;
    // Inside the future, so that a panic before the first await is caught too.
    let handled = AssertUnwindSafe(async move { handler.run(job).await }).catch_unwind();
    let mut handled = pin!(handled);
    let ended = tokio::select! {
        biased;
        ended = &mut handled => Some(ended),
        () = lease.cancelled.cancelled() => None,
        reason = expire(lease) => {
            lease.cancel(reason);
            None
        }
    };
    let ended = match ended {
        Some(ended) => ended,
        None => match tokio::time::timeout(tenure.config.cancel_grace, &mut handled).await {
            Ok(ended) => ended,
            Err(_) => return Run::Dropped,
        },
    };
    match ended {
        Ok(returned) => Run::Returned(returned),
        Err(panic) => Run::Panicked(panic_text(panic.as_ref())),
    }
}

/// Waits until the handler passes one of its limits, and says which.
async fn expire(lease: &Lease) -> CancelReason {
    loop {
        // Movement puts the second one off meanwhile, so it is looked at again when it comes.
        let Some((at, reason)) = lease.limits().into_iter().flatten().min_by_key(|limit| limit.0)
        else {
            return std::future::pending().await;
        };
        if at <= Instant::now() {
            return reason;
        }
        tokio::time::sleep_until(at.into()).await;
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "without a message".to_owned());
    format!("the handler panicked: {text}")
}

/// What becomes of a job whose handler does not yield at all.
pub(crate) fn decide_stuck(tenure: &Tenure, lease: &Lease) -> Ending {
    decide(tenure, lease, Run::Dropped)
}

/// What a run means: the handler's word, unless it was told to stop for a reason that weighs more.
fn decide(tenure: &Tenure, lease: &Lease, run: Run) -> Ending {
    let verdict = match run {
        // It ended well, whatever was asked of it meanwhile.
        Run::Returned(Ok(())) if lease.completed_in_tx.load(Ordering::Acquire) => {
            return completed_in_tx(tenure, lease);
        }
        Run::Returned(Ok(())) => return Ending::Completed,
        Run::Returned(Err(JobError(Verdict::Cancel(reason)))) => {
            return Ending::Cancelled(Some(storable(&reason)));
        }
        Run::Returned(Err(JobError(verdict))) => Some(verdict),
        Run::Panicked(text) => Some(Verdict::Retry { source: text.into(), after: None }),
        Run::Dropped | Run::NotStarted => None,
    };
    match lease.cancel_reason() {
        Some(CancelReason::Requested) => Ending::Cancelled(None),
        // What it said may be no more than that it was told to stop.
        Some(CancelReason::LeaseLost | CancelReason::Grace) => Ending::GiveBack,
        Some(reason @ (CancelReason::Timeout | CancelReason::Stalled)) => {
            let said = match verdict {
                Some(Verdict::Retry { source, .. } | Verdict::Fail(source)) => {
                    format!(": {}", chain(source.as_ref()))
                }
                _ => String::new(),
            };
            let limit = |limit: Option<Duration>| limit.unwrap_or_default().as_secs_f32();
            let text = if reason == CancelReason::Timeout {
                let after = limit(tenure.handler.timeout(&lease.kind));
                format!("timed out after {after} s{said}")
            } else {
                let within = limit(tenure.handler.progress_deadline(&lease.kind));
                format!("no progress within {within} s{said}")
            };
            retry(tenure, lease, &text, None)
        }
        None => match verdict {
            Some(Verdict::Retry { source, after }) => {
                retry(tenure, lease, &chain(source.as_ref()), after)
            }
            Some(Verdict::Snooze(delay)) => Ending::Snooze(delay),
            Some(Verdict::Fail(source)) => {
                Ending::Dead { error: storable(&chain(source.as_ref())), is_exhausted: false }
            }
            Some(Verdict::GiveBack) if !tenure.draining.is_cancelled() => {
                Ending::Snooze(GIVE_BACK_SNOOZE)
            }
            _ => Ending::GiveBack,
        },
    }
}

/// Whether the handler's transaction committed is seen when its row is looked for: where it did,
/// nothing of this is written. Nobody is told before the last attempt is over, so there is one more.
fn completed_in_tx(tenure: &Tenure, lease: &Lease) -> Ending {
    if lease.attempt > lease.max_attempts {
        return Ending::Dead { error: NOT_COMMITTED.to_owned(), is_exhausted: true };
    }
    Ending::CompletedInTx(full_jitter(tenure.handler.backoff(&lease.kind, lease.attempt)))
}

fn retry(tenure: &Tenure, lease: &Lease, error: &str, after: Option<Duration>) -> Ending {
    let error = storable(error);
    if lease.attempt >= lease.max_attempts {
        return Ending::Dead { error, is_exhausted: true };
    }
    let delay =
        after.unwrap_or_else(|| full_jitter(tenure.handler.backoff(&lease.kind, lease.attempt)));
    Ending::Retry { error, delay }
}
