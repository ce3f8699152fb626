//! FinishImport: from loaded rows to live tables.
//!
//! Killed here, then what?
//! - While chunks are enqueued again: one transaction, or nothing.
//! - While indexes are built or rows verified: every step is idempotent and runs again.
//! - After the cutover, before the run has ended: the target's ledger says `live`, so the repeated
//!   job gets the certificate from there and ends the run. Should the job be gone, the reconciler
//!   does the same.
//!
//! An error says nothing of whether the new data are live: before a run is called failed, the
//! target's ledger is asked.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use futures::FutureExt as _;
use relevo_import::{Certificate, ImportError, ImportId, ImportProgress, ProgressEvent, steps};
use relevo_jobs::{FinishImport, TranslateChunk};
use relevo_queue::{FailedMemberPolicy, Job, JobError};
use relevo_runs::{LogLevel, RunState, backup::PIPELINE, backup_requests};
use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::{
    ending::{self, FINISH},
    progress,
    step::{Step, Stop, import_stop, is_current},
};
use crate::{context::Context, stopping::must_stop};

/// How often missing chunks are enqueued again before the run fails.
const ROUNDS_MAX: i32 = 3;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Runs a FinishImport job.
pub(crate) async fn finish_import(
    context: &Context,
    job: &Job,
    payload: &FinishImport,
) -> Result<(), JobError> {
    let Some(step) = Step::enter(context, job, payload.run_id).await? else { return Ok(()) };
    let requests = backup_requests::of_run(&context.pool, step.run.id).await?;
    if !is_current(&requests, payload.request_id) {
        return Err(JobError::cancel("the run does not go by this backup any more"));
    }
    let outcome = finish(&step, payload).await;
    step.end(outcome, None).await
}

async fn finish(step: &Step<'_>, payload: &FinishImport) -> Result<(), Stop> {
    let import = step.import(payload.request_id)?;
    let target = step.target().await?;
    // The target's ledger alone says what is loaded.
    let missing = steps::missing_chunks(&target, &import).await.map_err(import_stop)?;
    if !missing.is_empty() {
        return enqueue_again(step, payload, &missing).await;
    }
    enter_phase(step).await?;
    let began = Instant::now();
    let certificate = match complete(step, &target, &import).await {
        Ok(certificate) => certificate,
        Err(stop) => after_error(&target, &import, stop).await?,
    };
    let context = step.context;
    context
        .metrics
        .pipeline_phase_seconds
        .with_label_values(&[PIPELINE, &step.run.source, "finish"])
        .observe(began.elapsed().as_secs_f64());
    let mut tx = context.fenced(step.job).await?;
    let ended = ending::succeed_in(context, &mut tx, &step.run, &certificate).await?;
    step.job.complete_in(&mut tx).await?;
    tx.commit().await?;
    if ended {
        ending::ended(context, &step.run, RunState::Succeeded);
    }
    Ok(())
}

/// What an error comes to. One that would fail the run may have come after the cutover: then the
/// target has a certificate, and that counts.
async fn after_error(target: &PgPool, import: &ImportId, stop: Stop) -> Result<Certificate, Stop> {
    let Stop::Run(reason) = &stop else { return Err(stop) };
    // Not knowing is no reason to fail a run: the job is tried again.
    match steps::certificate(target, import).await.map_err(anyhow::Error::from)? {
        Some(certificate) => {
            tracing::warn!("the import is live in spite of an error after its cutover: {reason}");
            Ok(certificate)
        }
        None => Err(stop),
    }
}

/// Enters the phase in which the cutover happens; refused when the run has ended or is to end. Who
/// ends a run locks its row too, so one of the two sees the other.
async fn enter_phase(step: &Step<'_>) -> Result<(), Stop> {
    let context = step.context;
    let mut tx = context.fenced(step.job).await?;
    let run = context.runs.get_for_update_in(&mut tx, step.run.id).await?;
    let run = run.filter(|run| !run.state.is_ended() && !run.cancel_requested);
    let run = run.ok_or(Stop::Cancelled)?;
    context.runs.set_phase_in(&mut tx, run.id, FINISH).await?;
    if run.phase != FINISH {
        let message = "every chunk is loaded: verifying, building keys and indexes, cutting over";
        context.runs.log_in(&mut tx, step.run.id, LogLevel::Info, message, &json!({})).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Enqueues the chunks that the ledger misses, in a batch that completes with the next round.
async fn enqueue_again(
    step: &Step<'_>,
    payload: &FinishImport,
    missing: &[i32],
) -> Result<(), Stop> {
    let context = step.context;
    let FinishImport { run_id, request_id, round } = *payload;
    if round >= ROUNDS_MAX {
        return Err(Stop::Run(format!(
            "{} chunk(s) of the dump are still not loaded after {round} rounds, the first is number \
             {}; the jobs' errors say why",
            missing.len(),
            missing.first().copied().unwrap_or_default()
        )));
    }
    let mut tx = context.fenced(step.job).await?;
    let completion = FinishImport { run_id, request_id, round: round + 1 };
    let completion = Context::child(step.job, &completion);
    let batch = context.queue.open_batch(&mut tx, completion, FailedMemberPolicy::Complete).await?;
    let jobs: Vec<_> = missing
        .iter()
        .map(|&ordinal| {
            let payload = TranslateChunk { run_id, request_id, ordinal };
            Context::child(step.job, &payload).batch_id(batch)
        })
        .collect();
    context.queue.enqueue_in(&mut tx, &jobs).await?;
    context.queue.seal_batch(&mut tx, batch).await?;
    let message = format!("{} chunk(s) are not loaded and are enqueued again", missing.len());
    let fields = json!({ "round": round + 1, "first": missing.first() });
    context.runs.log_in(&mut tx, step.run.id, LogLevel::Warn, &message, &fields).await?;
    step.job.complete_in(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

/// Everything in the target, up to the certificate.
async fn complete(
    step: &Step<'_>,
    target: &PgPool,
    import: &ImportId,
) -> Result<Certificate, Stop> {
    let news = News::default();
    let cancel = CancellationToken::new();
    let mut work = steps::finish(target, import, step.fence(), &news, &cancel).boxed();
    let stop = tokio::select! {
        done = &mut work => return done.map_err(import_stop),
        error = must_stop(step.job) => Stop::Job(error),
        stop = tell(step, &news) => stop,
    };
    // It ends its statements in the target rather than leave them to themselves; if it was through
    // already, that counts.
    cancel.cancel();
    match work.await {
        Ok(certificate) => Ok(certificate),
        Err(ImportError::Cancelled) => Err(stop),
        Err(error) if error.is_transient() => Err(stop),
        Err(error) => Err(import_stop(error)),
    }
}

/// Tells how far it is until that is refused.
async fn tell(step: &Step<'_>, news: &News) -> Stop {
    let mut steps_done = 0;
    loop {
        tokio::time::sleep(TELL_EVERY).await;
        let (message, changes) = news.latest();
        if changes == steps_done || message.is_empty() {
            continue;
        }
        steps_done = changes;
        if let Err(stop) = progress::tell(step, changes, None, "steps", message).await {
            return stop;
        }
    }
}

/// The latest news of the finish, for who looks now and then.
#[derive(Default)]
struct News(Mutex<(String, u64)>);

impl News {
    fn set(&self, message: String) {
        let mut latest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *latest = (message, latest.1 + 1);
    }

    fn latest(&self) -> (String, u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ImportProgress for News {
    fn report(&self, event: ProgressEvent<'_>) {
        match event {
            ProgressEvent::Phase(phase) => self.set(format!("finishing: {phase}")),
            ProgressEvent::Step { phase, done, total, name } => {
                self.set(format!("finishing: {phase} {done} of {total} ({name})"));
            }
            ProgressEvent::Notice(notice) => {
                tracing::info!("{notice}");
            }
            ProgressEvent::Read { .. } | ProgressEvent::Loaded { .. } => {}
        }
    }
}
