//! FinishImport: from loaded rows to live tables.
//!
//! Killed here, then what?
//! - While chunks are enqueued again: one transaction, or nothing.
//! - While indexes are built or rows verified: every step is idempotent and runs again.
//! - After the cutover, before the run has ended: the target's ledger says `live`, so the repeated
//!   job gets the certificate from there and ends the run. Should the job be gone, the reconciler
//!   does the same.
//!
//! A step that fails after the cutover, or whose cutover nobody can tell the end of, never fails the
//! run: it is tried again, and in the end the reconciler asks the target's ledger. A cutover that
//! readers hold up is tried again too, until the source's patience ends.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use futures::FutureExt as _;
use relevo_import::{
    Certificate, ImportError, ImportId, ImportProgress, ProgressEvent, Readers, steps,
};
use relevo_jobs::{FinishImport, TranslateChunk};
use relevo_pg::cutover::CutoverError;
use relevo_queue::{FailedMemberPolicy, Job, JobError};
use relevo_runs::{LogLevel, RunState, backup::PIPELINE, backup_requests};
use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::{
    ending::{self, FINISH},
    progress::{self, seconds},
    request::clock_in,
    step::{Step, Stop, describe, import_stop, is_current},
};
use crate::{context::Context, stopping::must_stop};

/// How often missing chunks are enqueued again before the run fails.
const ROUNDS_MAX: i32 = 3;

/// Note of a run: since when readers hold up its cutover.
const HELD_UP_SINCE: &str = "held_up_since";

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
    let target = step.target().await.map_err(|stop| unjudged(step, stop))?;
    // The target's ledger alone says what is loaded.
    let missing = steps::missing_chunks(&target, &import).await;
    let missing = missing.map_err(|error| unjudged(step, import_stop(error)))?;
    if !missing.is_empty() {
        return enqueue_again(step, payload, &missing).await;
    }
    enter_phase(step).await?;
    let began = Instant::now();
    let certificate = match complete(step, &target, &import).await? {
        Ok(certificate) => certificate,
        Err(error) => return Err(judge(step, error).await?),
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

/// What it means that the target could not be asked: found in its last phase, a run may have cut
/// over already, so whatever keeps the target from saying so does not fail it.
fn unjudged(step: &Step<'_>, stop: Stop) -> Stop {
    match stop {
        Stop::Run(reason) | Stop::Backup(reason) if step.run.phase == FINISH => {
            Stop::Job(JobError::retry(format!(
                "whether the cutover has happened, only the target knows: {reason}"
            )))
        }
        stop => stop,
    }
}

/// What an error of the finish means.
async fn judge(step: &Step<'_>, error: ImportError) -> Result<Stop, Stop> {
    match (error.readers(), &error) {
        // Whatever it is, the run may have succeeded: the same step again finds out.
        (Readers::SeeNew | Readers::Unknown, _) => Ok(error.into()),
        (
            Readers::SeePrevious,
            ImportError::Cutover(
                CutoverError::Blocked { waited_seconds, .. }
                | CutoverError::OldSnapshots { waited_seconds, .. },
            ),
        ) => {
            let waited = TimeDelta::seconds(i64::try_from(*waited_seconds).unwrap_or(0));
            held_up(step, waited, error).await
        }
        (Readers::SeePrevious, _) => {
            step.count_refusal(&error);
            Ok(import_stop(error))
        }
    }
}

/// Readers did not let the cutover through for so long: it is tried again, until the source's
/// patience ends.
async fn held_up(step: &Step<'_>, waited: TimeDelta, error: ImportError) -> Result<Stop, Stop> {
    let context = step.context;
    let mut tx = context.fenced(step.job).await?;
    let Some(run) = context.runs.get_for_update_in(&mut tx, step.run.id).await? else {
        return Ok(Stop::Cancelled);
    };
    let now = clock_in(&mut tx).await?;
    let noted = run.notes.get(HELD_UP_SINCE).cloned();
    let noted: Option<DateTime<Utc>> = noted.and_then(|at| serde_json::from_value(at).ok());
    let since = noted.unwrap_or(now - waited);
    let held_up = (now - since).to_std().unwrap_or_default();
    if held_up >= Duration::from_secs(step.source.cutover_patience_seconds) {
        return Ok(Stop::Run(format!(
            "{}; it was tried for {}: end what is in the way, then start a new run (such a reader may \
             be given an end by idle_in_transaction_session_timeout; cutover = \"merge\" in the \
             settings needs no reader to end)",
            describe(&error),
            seconds(held_up.as_secs_f64()),
        )));
    }
    context.runs.merge_notes_in(&mut tx, run.id, &json!({ HELD_UP_SINCE: since })).await?;
    tx.commit().await?;
    Ok(error.into())
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

/// Everything in the target, up to the certificate; what the target says against it inside.
async fn complete(
    step: &Step<'_>,
    target: &PgPool,
    import: &ImportId,
) -> Result<Result<Certificate, ImportError>, Stop> {
    let news = News::default();
    let cancel = CancellationToken::new();
    let mut work = steps::finish(target, import, step.fence(), &news, &cancel).boxed();
    let stop = tokio::select! {
        done = &mut work => return Ok(done),
        error = must_stop(step.job) => Stop::Job(error),
        stop = tell(step, &news) => stop,
    };
    // It ends its statements in the target rather than leave them to themselves; if it was through
    // already, that counts.
    cancel.cancel();
    match work.await {
        Err(ImportError::Cancelled) => Err(stop),
        Err(error) if error.is_transient() => Err(stop),
        done => Ok(done),
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
