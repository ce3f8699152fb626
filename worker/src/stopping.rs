//! What becomes of a job whose handler is told to stop.

use relevo_queue::{CancelReason, Job, JobError};

/// What a handler returns after [`Job::cancelled`] fired.
pub(crate) fn stopped(job: &Job) -> JobError {
    match job.cancel_reason() {
        Some(CancelReason::Timeout) => JobError::retry("it ran longer than its kind may"),
        // Whatever is returned without a lease changes nothing.
        Some(CancelReason::Stalled) => JobError::retry("it made no progress for too long"),
        Some(CancelReason::Grace | CancelReason::LeaseLost) => JobError::give_back(),
        Some(CancelReason::Requested) | None => JobError::cancel("it was cancelled while it ran"),
    }
}

/// Resolves when a handler that cannot finish quickly has to stop: at a drain at once, so that the
/// worker's grace is left to those who can.
pub(crate) async fn must_stop(job: &Job) -> JobError {
    tokio::select! {
        biased;
        () = job.cancelled().cancelled() => stopped(job),
        () = job.draining().cancelled() => JobError::give_back(),
    }
}
