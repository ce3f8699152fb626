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

use std::{
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use relevo_import::{
    Chunk, ImportError, ImportId, Manifest, SplitOptions,
    steps::{self, Begun},
};
use relevo_jobs::{DownloadDump, FinishImport, TranslateChunk};
use relevo_queue::{BatchId, FailedMemberPolicy, Job, JobError, Progress};
use relevo_runs::{
    LogLevel, Run,
    backup::PIPELINE,
    backup_requests::{self, BackupRequest, RequestState},
};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::sync::mpsc;

use super::{
    files::Files,
    origin::Origin,
    progress::{Meter, bytes_line, mib, seconds, thousands},
    room::{self, Need},
    splitting::{self, Figures, Piece},
    step::{Step, Stop, describe, import_stop, is_current},
    tail::Watermark,
    transfer::{Transfer, TransferError},
};
use crate::{context::Context, stopping::must_stop};

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Bounds of the pause after a line that brought nothing.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// For how long a chunk's key is recognised: beyond any run.
const KEY_TTL: Duration = Duration::from_secs(7 * 24 * 3_600);

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
    check_room(step, request, &part)?;
    let target = step.target().await?;
    let (batch, chunk_size_bytes) = open_batch(step, request).await?;
    let begun = steps::begin(&target, &import, &step.import_options(), step.fence())
        .await
        .map_err(import_stop)?;
    let figures = match begun {
        // Only the last steps are left; how much there was is told by what was sealed.
        Begun::Sealed | Begun::Live => None,
        Begun::Fresh | Begun::Resumed { .. } => {
            let work = Work { step, request, import: &import, target: &target, batch };
            let moved = Box::pin(work.move_bytes(&part, chunk_size_bytes)).await?;
            steps::seal(&target, &import, &moved.manifest, step.fence())
                .await
                .map_err(import_stop)?;
            Some(moved)
        }
    };
    keep(step, request, &part).await?;
    seal(step, request, batch, figures).await
}

/// Checks the disks, as far as the size is known.
fn check_room(step: &Step<'_>, request: &BackupRequest, part: &Path) -> Result<(), Stop> {
    let context = step.context;
    let present_bytes = std::fs::metadata(part).map_or(0, |metadata| metadata.len());
    // The gateway's megabytes are rounded: good enough to judge a disk by.
    let rounded = request.filesize_mb.map(|mb| (mb * f64::from(1 << 20)) as u64);
    let told = request.filesize_bytes.and_then(|bytes| u64::try_from(bytes).ok());
    let need = Need {
        dump_bytes: told.or(rounded).unwrap_or(present_bytes),
        present_bytes,
        stored_bytes: context.chunks.stored_bytes(step.key(), request.id)?,
    };
    room::check(context.files.data_dir(), context.chunks.root(), need).map_err(|error| {
        if error.kind() == std::io::ErrorKind::StorageFull {
            Stop::Run(error.to_string())
        } else {
            error.into()
        }
    })
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
    let message = format!(
        "downloading {} ({})",
        request.filename.as_deref().unwrap_or("the backup"),
        request.filesize_bytes.map_or_else(
            || "size unknown".to_owned(),
            |bytes| format!("{:.1} MiB", mib(u64::try_from(bytes).unwrap_or(0)))
        )
    );
    let fields = json!({ "request_id": request.id, "filename": request.filename });
    context.runs.log_in(&mut tx, run.id, LogLevel::Info, &message, &fields).await?;
    tx.commit().await?;
    Ok((batch, chunk_size_bytes))
}

/// One dump on its way into chunks.
struct Work<'a> {
    step: &'a Step<'a>,
    request: &'a BackupRequest,
    import: &'a ImportId,
    target: &'a PgPool,
    batch: BatchId,
}

/// What was moved.
struct Moved {
    manifest: Manifest,
    downloaded_bytes: u64,
    duration: Duration,
}

impl Work<'_> {
    /// Fetches, unpacks, cuts and enqueues, all at the same time.
    async fn move_bytes(&self, part: &Path, chunk_size_bytes: u64) -> Result<Moved, Stop> {
        let context = self.step.context;
        let began = Instant::now();
        let address = self.request.download_url.as_deref().unwrap_or_default();
        let origin = Origin::of(context, self.step.source, address)
            .map_err(|error| Stop::Run(describe(error.as_ref())))?;
        let done = steps::load_progress(self.target, self.import).await.map_err(import_stop)?;

        let present = present_bytes(part).await?;
        let watermark = Watermark::new(present);
        let dump = watermark.reader(std::fs::File::open(part)?);
        let mut options = SplitOptions::new(self.import.clone());
        options.chunk_size_bytes = usize::try_from(chunk_size_bytes)?;
        options.completion = relevo_import::Completion::Required;
        let figures = Arc::new(Figures::default());
        let (pieces, thread) = splitting::start(dump, options, Arc::clone(&figures));

        let counters = &context.metrics.pipeline_bytes;
        let downloaded = counters.with_label_values(&[PIPELINE, &self.step.run.source, "download"]);
        let raw = counters.with_label_values(&[PIPELINE, &self.step.run.source, "raw"]);
        let arrived = std::sync::Mutex::new((present, None));
        let on_bytes = |bytes: u64, total: Option<u64>| {
            let mut arrived = arrived.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            downloaded.inc_by(bytes.saturating_sub(arrived.0));
            *arrived = (bytes, total);
        };
        let transfer = Transfer {
            origin: &origin,
            part,
            expected_bytes: self.request.filesize_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
            watermark: &watermark,
            idle_timeout: Duration::from_secs(self.step.source.download_idle_seconds),
            on_bytes: &on_bytes,
        };
        let fetch = async {
            let bytes = self.fetch(&transfer).await?;
            watermark.complete();
            Ok(bytes)
        };
        let cut = async {
            self.take(pieces, &done.chunks_done).await?;
            thread.await.context("the thread that unpacks the dump crashed")?.map_err(Cut::Dump)
        };
        let tell = async {
            let mut meter = Meter::new();
            let mut told_raw = 0;
            loop {
                tokio::time::sleep(TELL_EVERY).await;
                let (bytes, total) =
                    *arrived.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                let raw_bytes = figures.raw_bytes.load(Ordering::Relaxed);
                raw.inc_by(raw_bytes.saturating_sub(told_raw));
                told_raw = raw_bytes.max(told_raw);
                let speed = meter.sample(Instant::now(), bytes);
                if let Err(error) = self.tell(&figures, bytes, total, speed).await {
                    return error;
                }
            }
        };
        let moved = async { tokio::try_join!(async { fetch.await.map_err(Cut::Stop) }, cut) };
        let outcome = tokio::select! {
            outcome = moved => outcome,
            stop = tell => Err(Cut::Stop(stop)),
        };
        match outcome {
            Ok((downloaded_bytes, manifest)) => {
                Ok(Moved { manifest, downloaded_bytes, duration: began.elapsed() })
            }
            Err(Cut::Stop(stop)) => Err(stop),
            Err(Cut::Dump(error @ (ImportError::Dump(_) | ImportError::Empty { .. }))) => {
                // SQL that cannot be understood may be what damage looks like after unpacking: the
                // checksum at the end of the file tells the two apart.
                self.fetch(&transfer).await?;
                match splitting::is_sound_gzip(part, self.is_named_gzip()).await? {
                    Ok(()) => Err(import_stop(error)),
                    Err(damage) => Err(Stop::Backup(format!("the gzip file is damaged: {damage}"))),
                }
            }
            Err(Cut::Dump(error)) => Err(import_stop(error)),
        }
    }

    /// Whether the file says by its name that it is packed.
    fn is_named_gzip(&self) -> bool {
        let name = self.request.filename.as_deref().unwrap_or_default();
        Path::new(name).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"))
    }

    /// Fetches the file. A line that brings nothing is put off, without spending an attempt, until
    /// the source's patience ends.
    async fn fetch(&self, transfer: &Transfer<'_>) -> Result<u64, Stop> {
        let error = match transfer.fetch().await {
            Ok(bytes) => return Ok(bytes),
            Err(error @ TransferError::Fruitless { .. }) => error,
            Err(error) => return Err(transfer_stop(error)),
        };
        // The file remembers when it grew last, whoever wrote it.
        let grown = tokio::fs::metadata(transfer.part).await?.modified()?;
        let silence = grown.elapsed().unwrap_or_default();
        let patience = Duration::from_secs(self.step.source.gateway_patience_seconds);
        let silent = seconds(silence.as_secs_f64());
        if silence >= patience {
            return Err(Stop::Run(format!(
                "the download has brought nothing for {silent}: {}; check the line, then start a new \
                 run",
                describe(&error)
            )));
        }
        let pause = (silence / 4).clamp(PAUSE_MIN, PAUSE_MAX).min(patience - silence);
        let message = format!(
            "{}; nothing has come for {silent}, going on in {}",
            describe(&error),
            seconds(pause.as_secs_f64())
        );
        let fields = json!({ "request_id": self.request.id });
        self.step.log(LogLevel::Warn, &message, fields).await;
        Err(Stop::Job(JobError::snooze(pause)))
    }

    /// Takes the pieces as they come: tables are made, chunks stored and enqueued.
    async fn take(
        &self,
        mut pieces: mpsc::Receiver<Piece>,
        loaded: &std::collections::BTreeSet<i32>,
    ) -> Result<(), Cut> {
        while let Some(piece) = pieces.recv().await {
            match piece {
                Piece::Table(table) => {
                    steps::create_table(self.target, self.import, &table, self.step.fence())
                        .await
                        .map_err(|error| Cut::Stop(import_stop(error)))?;
                }
                Piece::Dropped(table) => {
                    steps::drop_table(self.target, self.import, &table, self.step.fence())
                        .await
                        .map_err(|error| Cut::Stop(import_stop(error)))?;
                }
                Piece::Chunk(chunk, _stored) if loaded.contains(&chunk.header.ordinal) => {}
                Piece::Chunk(chunk, stored) => {
                    let ordinal = chunk.header.ordinal;
                    self.store(*chunk).await.map_err(Cut::Stop)?;
                    // The thread has ended when nobody hears this.
                    let _ = stored.send(());
                    self.enqueue(ordinal).await.map_err(Cut::Stop)?;
                }
            }
        }
        Ok(())
    }

    async fn store(&self, chunk: Chunk) -> Result<(), Stop> {
        let parts = [chunk.header_line()?, chunk.body];
        let (run, request_id) = (self.step.key(), self.request.id);
        let chunks = &self.step.context.chunks;
        chunks.put(run, request_id, chunk.header.ordinal, parts).await.map_err(store_stop)
    }

    /// Makes the job of a stored chunk known.
    async fn enqueue(&self, ordinal: i32) -> Result<(), Stop> {
        let context = self.step.context;
        let (run_id, request_id) = (self.step.run.id.0, self.request.id);
        let payload = TranslateChunk { run_id, request_id, ordinal };
        let job = Context::child(self.step.job, &payload)
            .batch_id(self.batch)
            .idempotency_key(format!("import/{run_id}/{request_id}/{ordinal}"), KEY_TTL);
        let mut tx = context.fenced(self.step.job).await?;
        context.queue.enqueue_in(&mut tx, &[job]).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Tells people and the queue how far the download is; a lost lease or the run's end stops it.
    async fn tell(
        &self,
        figures: &Figures,
        bytes: u64,
        total: Option<u64>,
        speed: Option<f64>,
    ) -> Result<(), Stop> {
        let message = format!(
            "downloading: {}; unpacked {:.1} MiB, {} rows cut into chunks",
            bytes_line(bytes, total, speed),
            mib(figures.raw_bytes.load(Ordering::Relaxed)),
            thousands(figures.rows.load(Ordering::Relaxed))
        );
        tell(self.step, bytes, total, "bytes", message).await
    }
}

/// Why cutting stopped.
enum Cut {
    Stop(Stop),
    Dump(ImportError),
}

impl<E: Into<anyhow::Error>> From<E> for Cut {
    fn from(error: E) -> Self {
        Self::Stop(Stop::from(error))
    }
}

/// Stores a step's progress with its job and its run. Trouble with the database is no reason to
/// stop; a lost lease is.
pub(crate) async fn tell(
    step: &Step<'_>,
    done: u64,
    total: Option<u64>,
    unit: &str,
    message: String,
) -> Result<(), Stop> {
    let done = i64::try_from(done).unwrap_or(i64::MAX);
    let total = total.map(|total| i64::try_from(total).unwrap_or(i64::MAX));
    let progress = Progress { done, total, unit: unit.to_owned(), message };
    match step.job.progress(&progress).await {
        Err(error) if error.is_lease_lost() => return Err(error.into()),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(error, "progress could not be stored");
            return Ok(());
        }
        Ok(()) => {}
    }
    let stored = step.context.runs.progress(step.run.id, done, total, unit, &progress.message);
    if let Err(error) = stored.await {
        let error = &error as &dyn std::error::Error;
        tracing::debug!(error, "progress could not be stored");
    }
    Ok(())
}

/// Makes the file if it is not there, and says how long it is.
async fn present_bytes(part: &Path) -> std::io::Result<u64> {
    let mut options = tokio::fs::OpenOptions::new();
    let file = options.create(true).append(true).open(part).await?;
    Ok(file.metadata().await?.len())
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

fn transfer_stop(error: TransferError) -> Stop {
    match &error {
        TransferError::Gone(_)
        | TransferError::Vanished(_)
        | TransferError::Changed
        | TransferError::WrongLength { .. } => Stop::Backup(describe(&error)),
        TransferError::KeyRefused(_)
        | TransferError::Redirected { .. }
        | TransferError::Refused(_) => Stop::Run(describe(&error)),
        TransferError::Disk { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
            Stop::Run(format!("{}; free some space", describe(&error)))
        }
        TransferError::Disk { .. }
        | TransferError::Unreadable { .. }
        | TransferError::Fruitless { .. } => error.into(),
    }
}

/// A full disk does not get emptier by trying again soon.
fn store_stop(error: object_store::Error) -> Stop {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(current) = cause {
        let full = current
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::StorageFull);
        if full {
            let reason = describe(&error);
            return Stop::Run(format!("the chunk store is full: {reason}; free some space"));
        }
        cause = current.source();
    }
    error.into()
}
