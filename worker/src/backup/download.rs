//! DownloadDump: fetching the dump, and cutting it into chunks while it arrives.
//!
//! Killed here, then what?
//! - While bytes arrive: the next worker reads the `.part` file from its start and fetches the
//!   rest. It cuts the same chunks; their jobs' idempotency keys keep them single, and chunks that
//!   are loaded already are passed over.
//! - After the manifest is sealed in the target: the next worker finds it sealed and only keeps the
//!   file and ends the job.
//! - After the last commit: the batch is sealed, the job has ended, FinishImport follows.
//!
//! A worker that was stopped and wakes up after another has taken over writes the same bytes to the
//! same files, and is refused by the fences of queue and target.

use std::path::{Path, PathBuf};

use relevo_import::steps::{self, Begun};
use relevo_jobs::{DownloadDump, FinishImport};
use relevo_queue::{BatchId, FailedMemberPolicy, Job, JobError};
use relevo_runs::{
    LogLevel, Run,
    backup::PIPELINE,
    backup_requests::{self, BackupRequest, RequestState},
};
use serde_json::{Value, json};

use super::{
    files::Files,
    moving::{Moved, Work},
    progress::{mib, thousands},
    step::{Step, Stop, import_stop, is_current},
};
use crate::{context::Context, stopping::must_stop};

/// Note of a run: the batch of its chunks, and the dump it belongs to.
const BATCH: &str = "batch_id";
const BATCH_REQUEST: &str = "batch_request_id";
const CHUNK_SIZE: &str = "chunk_size_bytes";
/// Notes of a run for who tells its progress later.
pub(crate) const ROWS: &str = "rows";
pub(crate) const LOADING_SINCE: &str = "loading_since";

/// The batch that the chunks of `request_id` are in, if it was opened.
pub(crate) fn batch_of(run: &Run, request_id: i64) -> Option<BatchId> {
    let number = |name: &str| run.notes.get(name).and_then(Value::as_i64);
    (number(BATCH_REQUEST) == Some(request_id)).then(|| number(BATCH).map(BatchId))?
}

/// Runs a DownloadDump job.
pub(crate) async fn download_dump(
    context: &Context,
    job: &Job,
    payload: &DownloadDump,
) -> Result<(), JobError> {
    let Some(step) = Step::enter(context, job, payload.run_id).await? else { return Ok(()) };
    let requests = backup_requests::of_run(&context.pool, step.run.id).await?;
    let request = requests.iter().find(|request| {
        request.id == payload.request_id && request.state == RequestState::Delivered
    });
    let Some(request) = request.filter(|request| is_current(&requests, request.id)) else {
        return Err(JobError::cancel("the run does not go by this backup any more"));
    };
    let outcome = tokio::select! {
        biased;
        error = must_stop(job) => Err(Stop::Job(error)),
        outcome = download(&step, request) => outcome,
    };
    step.end(outcome, Some(request)).await
}

async fn download(step: &Step<'_>, request: &BackupRequest) -> Result<(), Stop> {
    let context = step.context;
    let import = step.import(request.id)?;
    let part = context.files.part(step.key(), request.id)?;
    let target = step.target().await?;
    let (batch, chunk_size_bytes) = open_batch(step, request).await?;
    let begun = steps::begin(&target, &import, &step.import_options(), step.fence())
        .await
        .map_err(import_stop)?;
    let figures = match begun {
        // Only the last steps are left; how much there was is told by what was sealed.
        Begun::Sealed | Begun::Live => None,
        Begun::Fresh | Begun::Resumed { .. } => {
            let (import, target, part) = (&import, &target, part.as_path());
            let work = Work { step, request, import, target, batch, part, chunk_size_bytes };
            let moved = Box::pin(work.move_bytes()).await?;
            steps::seal(target, import, &moved.manifest, step.fence())
                .await
                .map_err(import_stop)?;
            Some(moved)
        }
    };
    keep(step, request, &part).await?;
    seal(step, request, batch, figures).await
}

/// The run's open batch for this dump, and the size at which its chunks are closed: fixed by
/// whoever begins, since a resume under other settings must cut the same.
async fn open_batch(step: &Step<'_>, request: &BackupRequest) -> Result<(BatchId, u64), Stop> {
    let context = step.context;
    let mut tx = context.fenced(step.job).await?;
    let run = context.runs.get_for_update_in(&mut tx, step.run.id).await?;
    let run = run.filter(|run| !run.state.is_ended()).ok_or(Stop::Cancelled)?;
    if let Some(batch) = batch_of(&run, request.id) {
        let size = run.notes.get(CHUNK_SIZE).and_then(Value::as_u64);
        return Ok((batch, size.unwrap_or(context.settings.chunk_store.chunk_size_bytes)));
    }
    let completion = FinishImport { run_id: run.id.0, request_id: request.id, round: 1 };
    let completion = Context::child(step.job, &completion);
    let batch = context.queue.open_batch(&mut tx, completion, FailedMemberPolicy::Complete).await?;
    let chunk_size_bytes = context.settings.chunk_store.chunk_size_bytes;
    let notes = json!({
        BATCH: batch,
        BATCH_REQUEST: request.id,
        CHUNK_SIZE: chunk_size_bytes,
        LOADING_SINCE: chrono::Utc::now(),
    });
    context.runs.merge_notes_in(&mut tx, run.id, &notes).await?;
    context.runs.set_phase_in(&mut tx, run.id, "download").await?;
    let exact = request.filesize_bytes.and_then(|bytes| u64::try_from(bytes).ok());
    let size = match (exact, request.filesize_mb) {
        (Some(bytes), _) => format!("{:.1} MiB", mib(bytes)),
        (None, Some(megabytes)) => format!("about {megabytes:.1} MB"),
        (None, None) => "size unknown".to_owned(),
    };
    let message =
        format!("downloading {} ({size})", request.filename.as_deref().unwrap_or("the backup"),);
    let fields = json!({ "request_id": request.id, "filename": request.filename });
    context.runs.log_in(&mut tx, run.id, LogLevel::Info, &message, &fields).await?;
    tx.commit().await?;
    Ok((batch, chunk_size_bytes))
}

/// Moves the complete file to the source's dumps.
async fn keep(step: &Step<'_>, request: &BackupRequest, part: &Path) -> Result<(), Stop> {
    let filename = request.filename.as_deref().unwrap_or("backup.sql.gz");
    let kept: PathBuf = step.context.files.dump(&step.run.source, step.key(), filename)?;
    match tokio::fs::rename(part, &kept).await {
        Ok(()) => {}
        // An attempt before this one has done it, on this host or on another one.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if !tokio::fs::try_exists(&kept).await? {
                let message = "this host does not keep the dump: another worker fetched it and \
                               stopped before it was moved to its place; workers on several hosts \
                               each have their own data_dir";
                let fields = json!({ "request_id": request.id, "path": kept });
                step.log(LogLevel::Warn, message, fields).await;
            }
        }
        Err(error) => return Err(error.into()),
    }
    match tokio::fs::remove_file(Files::part_notes(part)).await {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// The end: the batch is sealed and the job completed in one transaction.
async fn seal(
    step: &Step<'_>,
    request: &BackupRequest,
    batch: BatchId,
    moved: Option<Moved>,
) -> Result<(), Stop> {
    let context = step.context;
    let run_id = step.run.id;
    let mut tx = context.fenced(step.job).await?;
    // The run before the batch: the order in which a dying job of the batch locks them.
    context.runs.set_phase_in(&mut tx, run_id, "load").await?;
    context.queue.seal_batch(&mut tx, batch).await?;
    if let Some(moved) = moved {
        let rows = moved.manifest.rows();
        let chunks = moved.manifest.chunks.len();
        let stats = json!({
            "downloaded_bytes": moved.downloaded_bytes,
            "raw_bytes": moved.manifest.summary.bytes,
            "download_ms": u64::try_from(moved.duration.as_millis()).unwrap_or(u64::MAX),
            "chunks": chunks,
        });
        context.runs.add_stats_in(&mut tx, run_id, &stats).await?;
        context.runs.merge_notes_in(&mut tx, run_id, &json!({ ROWS: rows })).await?;
        let message = format!(
            "the dump is complete and undamaged: {:.1} MiB, {:.1} MiB unpacked, {} tables, {} rows \
             in {chunks} chunks",
            mib(moved.downloaded_bytes),
            mib(moved.manifest.summary.bytes),
            moved.manifest.tables.len(),
            thousands(rows)
        );
        context.runs.log_in(&mut tx, run_id, LogLevel::Info, &message, &stats).await?;
        context
            .metrics
            .pipeline_phase_seconds
            .with_label_values(&[PIPELINE, &step.run.source, "download"])
            .observe(moved.duration.as_secs_f64());
    }
    step.job.complete_in(&mut tx).await?;
    tx.commit().await?;
    tracing::info!(request_id = request.id, "the dump is cut into chunks, its batch is sealed");
    Ok(())
}
