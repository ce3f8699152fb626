//! The bytes of one dump on their way: fetched, unpacked, cut into chunks and enqueued, all at the
//! same time.
//!
//! Killed here, then what? What `download` says of it: the same bytes are cut into the same chunks
//! again.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use relevo_import::{Chunk, ImportError, ImportId, Manifest, SplitOptions, steps};
use relevo_jobs::TranslateChunk;
use relevo_queue::{BatchId, JobError};
use relevo_runs::{LogLevel, backup::PIPELINE, backup_requests::BackupRequest};
use serde_json::json;
use sqlx::PgPool;
use tokio::sync::mpsc;

use super::{
    origin::Origin,
    progress::{Meter, mib, pace, seconds, tell, thousands},
    room::{self, Need},
    splitting::{self, Figures, Piece},
    step::{Step, Stop, describe, import_stop},
    tail::Watermark,
    transfer::{Transfer, TransferError},
};
use crate::context::Context;

/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Bounds of the pause after a line that brought nothing.
const PAUSE_MIN: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// For how long a chunk's key is recognised: beyond any run.
const KEY_TTL: Duration = Duration::from_secs(7 * 24 * 3_600);

/// One dump on its way into chunks.
pub(crate) struct Work<'a> {
    pub(crate) step: &'a Step<'a>,
    pub(crate) request: &'a BackupRequest,
    pub(crate) import: &'a ImportId,
    pub(crate) target: &'a PgPool,
    pub(crate) batch: BatchId,
    /// Where the dump arrives.
    pub(crate) part: &'a Path,
    /// At how many bytes a chunk is closed.
    pub(crate) chunk_size_bytes: u64,
}

/// What was moved.
pub(crate) struct Moved {
    pub(crate) manifest: Manifest,
    pub(crate) downloaded_bytes: u64,
    pub(crate) duration: Duration,
}

impl Work<'_> {
    /// Fetches, unpacks, cuts and enqueues, all at the same time.
    pub(crate) async fn move_bytes(&self) -> Result<Moved, Stop> {
        let context = self.step.context;
        let began = Instant::now();
        let address = self.request.download_url.as_deref().unwrap_or_default();
        let origin = Origin::of(context, self.step.source, address)
            .map_err(|error| Stop::Run(describe(error.as_ref())))?;
        self.check_room(None).map_err(room_stop)?;
        let done = steps::load_progress(self.target, self.import).await.map_err(import_stop)?;

        let present = present_bytes(self.part).await?;
        let watermark = Watermark::new(present);
        let dump = watermark.reader(std::fs::File::open(self.part)?);
        // Those it began with, whatever the settings say by now: the same chunks come of it.
        let begun = steps::stored_options(self.target, self.import).await.map_err(import_stop)?;
        let begun = begun.unwrap_or_else(|| self.step.import_options());
        let mut options = SplitOptions::of(self.import.clone(), begun);
        options.chunk_size_bytes = usize::try_from(self.chunk_size_bytes)?;
        let figures = Arc::new(Figures::default());
        let (pieces, thread) = splitting::start(dump, options, Arc::clone(&figures));

        let counters = &context.metrics.pipeline_bytes;
        let downloaded = counters.with_label_values(&[PIPELINE, &self.step.run.source, "download"]);
        let arrived = Mutex::new((present, None));
        let on_bytes = |bytes: u64, total: Option<u64>| {
            let mut arrived = arrived.lock().unwrap_or_else(PoisonError::into_inner);
            downloaded.inc_by(bytes.saturating_sub(arrived.0));
            *arrived = (bytes, total);
        };
        let on_length = |bytes: u64| self.check_room(Some(bytes));
        let transfer = Transfer {
            origin: &origin,
            part: self.part,
            expected_bytes: self.request.filesize_bytes.and_then(|bytes| u64::try_from(bytes).ok()),
            watermark: &watermark,
            idle_timeout: Duration::from_secs(self.step.source.download_idle_seconds),
            on_bytes: &on_bytes,
            on_length: &on_length,
        };
        let fetch = async {
            let bytes = self.fetch(&transfer).await.map_err(Cut::Stop)?;
            watermark.complete();
            Ok(bytes)
        };
        let cut = async {
            self.take(pieces, &done.chunks_done).await?;
            thread.await.context("the thread that unpacks the dump crashed")?.map_err(Cut::Dump)
        };
        let moved = async {
            match tokio::try_join!(fetch, cut) {
                Ok((downloaded_bytes, manifest)) => {
                    Ok(Moved { manifest, downloaded_bytes, duration: began.elapsed() })
                }
                Err(Cut::Stop(stop)) => Err(stop),
                Err(Cut::Dump(error)) => Err(self.judge(&transfer, error).await?),
            }
        };
        // Beside all of it: a job that tells nothing for long is taken for stuck.
        tokio::select! {
            moved = moved => moved,
            stop = self.tell_on(&figures, &arrived) => Err(stop),
        }
    }

    /// Checks the disks, as far as the length is known: `total_bytes`, or what the gateway said.
    fn check_room(&self, total_bytes: Option<u64>) -> std::io::Result<()> {
        let context = self.step.context;
        let present_bytes = std::fs::metadata(self.part).map_or(0, |metadata| metadata.len());
        // The gateway's megabytes are rounded: good enough to judge a disk by.
        let rounded = self.request.filesize_mb.map(|mb| (mb * f64::from(1 << 20)) as u64);
        let told = self.request.filesize_bytes.and_then(|bytes| u64::try_from(bytes).ok());
        let need = Need {
            dump_bytes: total_bytes.or(told).or(rounded).unwrap_or(present_bytes),
            present_bytes,
            stored_bytes: context.chunks.stored_bytes(self.step.key(), self.request.id)?,
        };
        room::check(context.files.data_dir(), context.chunks.root(), need)
    }

    /// What it means that a dump cannot be understood, or that the target refuses a table of it.
    /// That may be what damage looks like after unpacking: the checksum at the end of the file tells
    /// the two apart.
    async fn judge(&self, transfer: &Transfer<'_>, error: ImportError) -> Result<Stop, Stop> {
        if !matches!(error, ImportError::Dump(_) | ImportError::Empty { .. }) {
            self.step.count_refusal(&error);
        }
        let stop = import_stop(error);
        if !matches!(stop, Stop::Run(_)) {
            return Ok(stop);
        }
        self.fetch(transfer).await?;
        Ok(match splitting::is_sound_gzip(self.part, self.is_named_gzip()).await? {
            Ok(()) => stop,
            Err(damage) => Stop::Backup(format!("the gzip file is damaged: {damage}")),
        })
    }

    /// Tells how far it is, until that is refused.
    async fn tell_on(&self, figures: &Figures, arrived: &Mutex<(u64, Option<u64>)>) -> Stop {
        let counters = &self.step.context.metrics.pipeline_bytes;
        let raw = counters.with_label_values(&[PIPELINE, &self.step.run.source, "raw"]);
        let mut meter = Meter::new();
        let mut told_raw = 0;
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            let (bytes, total) = *arrived.lock().unwrap_or_else(PoisonError::into_inner);
            let raw_bytes = figures.raw_bytes.load(Ordering::Relaxed);
            raw.inc_by(raw_bytes.saturating_sub(told_raw));
            told_raw = raw_bytes.max(told_raw);
            let message = format!(
                "downloading{}; {:.1} MiB unpacked, {} rows cut into chunks",
                pace(bytes, total, meter.sample(Instant::now(), bytes)),
                mib(raw_bytes),
                thousands(figures.rows.load(Ordering::Relaxed))
            );
            if let Err(error) = tell(self.step, bytes, total, "bytes", message).await {
                return error;
            }
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
                        .map_err(Cut::Dump)?;
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

/// Makes the file if it is not there, and says how long it is.
async fn present_bytes(part: &Path) -> std::io::Result<u64> {
    let mut options = tokio::fs::OpenOptions::new();
    let file = options.create(true).append(true).open(part).await?;
    Ok(file.metadata().await?.len())
}

/// Too little room is said before anything is fetched.
fn room_stop(error: std::io::Error) -> Stop {
    if error.kind() == std::io::ErrorKind::StorageFull {
        return Stop::Run(error.to_string());
    }
    error.into()
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
        TransferError::NoRoom(_) => Stop::Run(describe(&error)),
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
