//! TranslateChunk: loading one chunk.
//!
//! Killed here, then what? Rows and ledger row commit together in the target: either the chunk is
//! loaded or nothing of it is there. After that commit the repeated job finds it loaded and ends.
//!
//! The file stays until the run has ended: a target that crashes may forget its last commits, whose
//! chunks are then loaded again.

use std::{
    io,
    pin::Pin,
    task::{self, Poll},
    time::Duration,
};

use chrono::{DateTime, Utc};
use relevo_import::{
    ChunkLimits, ImportError, ImportId,
    steps::{self, ChunkOutcome},
};
use relevo_jobs::TranslateChunk;
use relevo_queue::{Job, JobError};
use relevo_runs::{backup::PIPELINE, backup_requests};
use serde_json::Value;
use sqlx::PgPool;
use tokio::io::{AsyncRead, ReadBuf};

use super::{
    chunk_store::ChunkFile,
    download::{LOADING_SINCE, ROWS},
    progress::about_left,
    step::{Step, Stop, import_stop, is_current},
};
use crate::{context::Context, stopping::stopped};

/// How long a chunk waits that cannot be read, until the dump has been checked to its end.
const WAIT_FOR_VERDICT: Duration = Duration::from_secs(5);

/// Runs a TranslateChunk job.
pub(crate) async fn translate_chunk(
    context: &Context,
    job: &Job,
    payload: &TranslateChunk,
) -> Result<(), JobError> {
    let Some(step) = Step::enter(context, job, payload.run_id).await? else { return Ok(()) };
    let requests = backup_requests::of_run(&context.pool, step.run.id).await?;
    let request = requests.iter().find(|request| request.id == payload.request_id);
    if !is_current(&requests, payload.request_id) {
        return Err(JobError::cancel("the run does not go by this backup any more"));
    }
    let outcome = load(&step, payload).await;
    step.end(outcome, request).await
}

async fn load(step: &Step<'_>, payload: &TranslateChunk) -> Result<(), Stop> {
    let context = step.context;
    let TranslateChunk { run_id, request_id, ordinal } = *payload;
    let import = step.import(request_id)?;
    let target = step.target().await?;
    let Some(chunk) = context.chunks.get(step.key(), request_id, ordinal).await? else {
        let done = steps::load_progress(&target, &import).await.map_err(import_stop)?;
        if done.chunks_done.contains(&ordinal) {
            return Ok(());
        }
        return Err(anyhow::anyhow!(
            "chunk {ordinal} of run {run_id} is not in the chunk store {}; every worker needs the \
             same chunk_store.url",
            context.settings.chunk_store.url
        )
        .into());
    };
    let chunk = Watched { chunk, job: step.job };
    let limits = ChunkLimits { timeout: Duration::from_secs(step.source.copy_timeout_seconds) };
    let cancel = step.job.cancelled();
    let loaded =
        steps::load_chunk(&target, &import, ordinal, chunk, step.fence(), limits, cancel).await;
    match loaded {
        Ok(ChunkOutcome::Loaded { rows, .. }) => {
            let source = step.run.source.as_str();
            context.metrics.pipeline_rows.with_label_values(&[PIPELINE, source]).inc_by(rows);
        }
        Ok(ChunkOutcome::AlreadyDone { .. }) => {}
        Ok(ChunkOutcome::Fenced) => {
            return Err(Stop::Job(JobError::cancel("a later job has taken the chunk over")));
        }
        Err(ImportError::Cancelled) => return Err(Stop::Job(stopped(step.job))),
        Err(error) => return Err(verdict(step, request_id, error).await?),
    }
    // Loading goes on whether or not somebody can look.
    if let Err(error) = tell(step, &target, &import).await {
        tracing::debug!(error = error.as_ref() as &dyn std::error::Error, "progress is not told");
    }
    Ok(())
}

/// What an error means. A chunk of a dump that is still arriving may be unreadable because the dump
/// is damaged, which its end will tell: until then nothing is decided. After it, a chunk that is not
/// what was stored has suffered on the disk, from a loss of power for one: another backup is asked
/// for. Where the end has told already, and the run goes by another backup, nothing of this one
/// matters any more.
async fn verdict(step: &Step<'_>, request_id: i64, error: ImportError) -> Result<Stop, Stop> {
    step.count_refusal(&error);
    let stop = import_stop(error);
    if let Stop::Run(reason) | Stop::Backup(reason) = &stop {
        // In this order: a backup that is given up while we look was not sealed before.
        let run = step.context.runs.get(step.run.id).await?;
        if run.is_some_and(|run| run.phase == "download") {
            tracing::warn!("the chunk waits for the end of the download: {reason}");
            return Ok(Stop::Job(JobError::snooze(WAIT_FOR_VERDICT)));
        }
        let requests = backup_requests::of_run(&step.context.pool, step.run.id).await?;
        if !is_current(&requests, request_id) {
            let reason = "the run does not go by this backup any more";
            return Ok(Stop::Job(JobError::cancel(reason)));
        }
    }
    Ok(stop)
}

/// Tells how far the load is, once the download has ended and tells nothing any more.
async fn tell(step: &Step<'_>, target: &PgPool, import: &ImportId) -> anyhow::Result<()> {
    let context = step.context;
    let Some(run) = context.runs.get(step.run.id).await? else { return Ok(()) };
    let Some(total) = run.notes.get(ROWS).and_then(Value::as_u64) else { return Ok(()) };
    if run.phase != "load" {
        return Ok(());
    }
    let done = steps::load_progress(target, import).await?.rows_done;
    let since = run.notes.get(LOADING_SINCE).and_then(Value::as_str).unwrap_or_default();
    let since = DateTime::parse_from_rfc3339(since).map_or_else(|_| Utc::now(), |at| at.to_utc());
    let elapsed = (Utc::now() - since).to_std().unwrap_or_default();
    let message = format!("loading{}", about_left(done, total, elapsed));
    let number = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let (done, total) = (number(done), number(total));
    context.runs.progress(run.id, done, Some(total), "rows", &message).await?;
    Ok(())
}

/// A chunk whose bytes show, as they are taken, that its job moves.
struct Watched<'a> {
    chunk: ChunkFile,
    job: &'a Job,
}

impl AsyncRead for Watched<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = self.chunk.as_mut().poll_read(cx, buffer);
        if read.is_ready() {
            self.job.moved();
        }
        read
    }
}
