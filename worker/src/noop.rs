//! Noop: does nothing, on request slowly or with a failure.
//!
//! Killed here, then what? It runs again.

use std::time::Duration;

use relevo_jobs::{Noop, NoopFailure};
use relevo_queue::{Job, JobError};

use crate::stopping::stopped;

/// Runs one no-op job.
pub(crate) async fn noop(job: &Job, payload: &Noop) -> Result<(), JobError> {
    if payload.sleep_ms > 0 {
        let wait = tokio::time::sleep(Duration::from_millis(payload.sleep_ms.into()));
        tokio::select! {
            () = wait => {}
            () = job.cancelled().cancelled() => return Err(stopped(job)),
            () = job.draining().cancelled() => return Err(JobError::give_back()),
        }
    }
    match payload.fail {
        None => Ok(()),
        Some(NoopFailure::Once) if job.attempt > 1 => Ok(()),
        Some(NoopFailure::Once | NoopFailure::Retry) => Err(JobError::retry("asked to fail")),
        Some(NoopFailure::Fatal) => Err(JobError::fail("asked to fail for good")),
        #[expect(clippy::panic, reason = "tests of the runner ask for it")]
        Some(NoopFailure::Panic) => panic!("asked to panic"),
    }
}
