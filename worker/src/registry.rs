//! Which handler runs which kind.

use std::{sync::Arc, time::Duration};

use futures::FutureExt as _;
use relevo_jobs::{JobKind, Payload, policy};
use relevo_queue::{BoxError, BoxFuture, Handler, Job, JobError};
use relevo_telemetry::metrics::Metrics;
use relevo_telemetry::trace::{self, JobFacts, Work};
use sqlx::PgConnection;
use tracing::Instrument as _;

use crate::own::{Here, OwnKinds};
use crate::{backoff::ceiling, backup, context::Context, noop, notify};

/// Runs the jobs of every kind of this build, and of those that somebody brought along.
pub(crate) struct Registry {
    context: Arc<Context>,
    own: OwnKinds,
}

impl Registry {
    pub(crate) fn new(context: Arc<Context>, own: OwnKinds) -> Self {
        Self { context, own }
    }
}

impl Handler for Registry {
    fn run(&self, job: Job) -> BoxFuture<'static, Result<(), JobError>> {
        let here = Arc::clone(&self.context);
        let work = work(&job);
        let outcome_of = work.clone();
        // Of the highest level: the ids belong on every line that is written at all.
        let span = tracing::error_span!(
            "job",
            job_id = job.id.0,
            kind = %job.kind,
            run_id = job.run_id,
            attempt = job.attempt,
            trace_id = work.trace_id().map(tracing::field::display)
        );
        let (id, kind) = (job.id, job.kind.clone());
        let own = self.own.run(Here { pool: here.pool.clone(), queue: here.queue.clone() }, &job);
        let handled = async move {
            let _busy = BusySlot::take(&here.metrics);
            let outcome = match own {
                Some(own) => own.await,
                None => run_built_in(&here, &job).await,
            };
            match &outcome {
                Ok(()) => outcome_of.set("relevo.job.outcome", "completed"),
                Err(error) => {
                    tracing::info!("{kind} job {id} did not complete: {error}");
                    outcome_of.set("relevo.job.outcome", error.as_str());
                    if error.is_failure() {
                        outcome_of.fail(&error.to_string());
                    }
                }
            }
            outcome
        };
        Box::pin(work.run(handled.instrument(span)))
    }

    fn backoff(&self, kind: &str, attempt: i32) -> Duration {
        let failures = u32::try_from(attempt).unwrap_or(1);
        if let Some(own) = self.own.spec(kind) {
            return ceiling(own.backoff_base, own.backoff_cap, failures);
        }
        kind.parse::<JobKind>().map_or(Duration::from_secs(60), |kind| {
            let policy = policy(kind);
            ceiling(policy.backoff_base, policy.backoff_cap, failures)
        })
    }

    fn timeout(&self, kind: &str) -> Option<Duration> {
        if let Some(own) = self.own.spec(kind) {
            return Some(own.timeout);
        }
        let kind = kind.parse::<JobKind>().ok()?;
        let timeout = policy(kind).timeout;
        Some(match kind {
            JobKind::RequestBackup => {
                timeout.max(backup::ask_timeout_max(&self.context.now().settings))
            }
            JobKind::DownloadDump
            | JobKind::TranslateChunk
            | JobKind::FinishImport
            | JobKind::BackupDeadline
            | JobKind::Notify
            | JobKind::Noop => timeout,
        })
    }

    fn progress_deadline(&self, kind: &str) -> Option<Duration> {
        if let Some(own) = self.own.spec(kind) {
            return own.progress_deadline;
        }
        policy(kind.parse::<JobKind>().ok()?).progress_deadline
    }

    fn on_dead<'a>(
        &'a self,
        tx: &'a mut PgConnection,
        job: &'a Job,
        error: &'a str,
    ) -> BoxFuture<'a, Result<(), BoxError>> {
        Box::pin(trace::within(job.traceparent.as_deref(), async move {
            let context = self.context.now();
            match job.kind.parse::<JobKind>() {
                Ok(
                    JobKind::RequestBackup
                    | JobKind::DownloadDump
                    | JobKind::TranslateChunk
                    | JobKind::FinishImport
                    | JobKind::BackupDeadline,
                ) => Ok(backup::on_dead(&context, tx, job, error).await?),
                Ok(JobKind::Notify) => notify::on_dead(&context, tx, job, error).await,
                Ok(JobKind::Noop) | Err(_) => Ok(()),
            }
        }))
    }
}

/// Runs a job of a kind of this build.
async fn run_built_in(here: &Context, job: &Job) -> Result<(), JobError> {
    // The worker claims the kinds that it knows only.
    let kind = job.kind.parse::<JobKind>().map_err(JobError::fail)?;
    // What is changed while it runs holds from the next attempt.
    let context = match kind {
        JobKind::RequestBackup
        | JobKind::DownloadDump
        | JobKind::TranslateChunk
        | JobKind::FinishImport
        | JobKind::BackupDeadline => here.now_with_connections().await,
        JobKind::Notify | JobKind::Noop => here.now(),
    };
    match kind {
        JobKind::RequestBackup => {
            backup::request_backup(&context, job, &decode(job)?).boxed().await
        }
        JobKind::DownloadDump => backup::download_dump(&context, job, &decode(job)?).boxed().await,
        JobKind::TranslateChunk => {
            backup::translate_chunk(&context, job, &decode(job)?).boxed().await
        }
        JobKind::FinishImport => backup::finish_import(&context, job, &decode(job)?).boxed().await,
        JobKind::BackupDeadline => {
            backup::backup_deadline(&context, job, &decode(job)?).boxed().await
        }
        JobKind::Notify => notify::notify(&context, job, &decode(job)?).boxed().await,
        JobKind::Noop => noop::noop(job, &decode(job)?).await,
    }
}

/// The attempt in its trace.
fn work(job: &Job) -> Work {
    trace::job(&JobFacts {
        id: job.id.0,
        kind: &job.kind,
        queue: &job.queue,
        run_id: job.run_id,
        attempt: job.attempt,
        epoch: job.epoch,
        created_at_us: job.created_at.timestamp_micros(),
        traceparent: job.traceparent.as_deref(),
    })
}

/// Counts as a busy slot for as long as it lives: also when a handler's future is dropped.
struct BusySlot(Arc<Metrics>);

impl BusySlot {
    fn take(metrics: &Arc<Metrics>) -> Self {
        metrics.worker_slots_busy.inc();
        Self(Arc::clone(metrics))
    }
}

impl Drop for BusySlot {
    fn drop(&mut self) {
        self.0.worker_slots_busy.dec();
    }
}

/// Reads a job's payload. Every version up to this build's decodes into the same type; a payload
/// that does not is no matter of luck.
fn decode<P: Payload>(job: &Job) -> Result<P, JobError> {
    serde_json::from_str(job.payload.get()).map_err(JobError::fail)
}
