//! The queue's events as metrics.

use std::{sync::Arc, time::Duration};

use relevo_queue::{Claimed, Finished, Observer, Outcome};
use relevo_telemetry::metrics::Metrics;

/// Counts what a worker does.
pub(crate) struct QueueMetrics {
    metrics: Arc<Metrics>,
}

impl QueueMetrics {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Self {
        Self { metrics }
    }
}

impl Observer for QueueMetrics {
    fn claimed(&self, claimed: &Claimed<'_>) {
        let metrics = &self.metrics;
        let jobs = u32::try_from(claimed.jobs).unwrap_or(u32::MAX);
        metrics.jobs_claimed.with_label_values(&[claimed.queue]).inc_by(jobs.into());
        metrics.claim_batch_size.observe(jobs.into());
        metrics.claim_seconds.observe(claimed.latency.as_secs_f64());
    }

    fn finished(&self, finished: &Finished<'_>) {
        let Finished { queue, kind, outcome, wait, run, .. } = *finished;
        let metrics = &self.metrics;
        metrics.jobs_finished.with_label_values(&[queue, kind, outcome.as_str()]).inc();
        metrics.job_wait_seconds.with_label_values(&[queue, kind]).observe(wait.as_secs_f64());
        metrics.job_run_seconds.with_label_values(&[kind]).observe(run.as_secs_f64());
        match outcome {
            Outcome::Retried => metrics.job_retries.with_label_values(&[queue, kind]).inc(),
            Outcome::Dead => metrics.dead_letters_moved.with_label_values(&[queue, kind]).inc(),
            Outcome::Completed | Outcome::Snoozed | Outcome::GivenBack | Outcome::Cancelled => {}
        }
    }

    fn finish_written(&self, jobs: usize, _latency: Duration) {
        let jobs = u32::try_from(jobs).unwrap_or(u32::MAX);
        self.metrics.finish_batch_size.observe(jobs.into());
    }

    fn lease_lost(&self, queue: &str, kind: &str) {
        self.metrics.leases_lost.with_label_values(&[queue]).inc();
        self.metrics.jobs_finished.with_label_values(&[queue, kind, "lost"]).inc();
    }

    fn handler_stuck(&self, queue: &str, kind: &str) {
        self.metrics.handlers_stuck.with_label_values(&[queue, kind]).inc();
    }

    fn session_lost(&self) {
        tracing::warn!("this worker's session is lost: its handlers stop, a new session follows");
    }

    fn database_error(&self, step: &'static str) {
        tracing::debug!(step, "a step met a database error and will be tried again");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_that_does_not_yield_is_counted_by_queue_and_kind() {
        let metrics = Metrics::new();
        metrics.declare_job("backup", "TranslateChunk");
        let stuck = metrics.handlers_stuck.with_label_values(&["backup", "TranslateChunk"]);
        assert_eq!(stuck.get(), 0);
        QueueMetrics::new(Arc::clone(&metrics)).handler_stuck("backup", "TranslateChunk");
        assert_eq!(stuck.get(), 1);
    }
}
