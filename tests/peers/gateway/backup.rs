//! `POST /api/backup/full`: backups, made after a while, in both modes.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;
use relevo_tests::gateway::{Asked, Fault, WEBHOOK_URL};
use serde::Deserialize;
use serde_json::json;
use tempfile::TempDir;

use crate::{Gateway, failure, webhook};

/// The last line of a complete dump begins so.
const COMPLETED: &[u8] = b"-- Dump completed";

/// A backup that can be downloaded.
#[derive(Clone)]
pub(crate) struct Backup {
    /// Its id, as in the webhook's `backup_id`.
    pub(crate) id: String,
    /// Its name in the download URL.
    pub(crate) filename: String,
    /// The file behind it.
    pub(crate) path: PathBuf,
    /// What the gateway says its size is.
    pub(crate) announced_bytes: u64,
    /// The size of the file behind it.
    pub(crate) file_bytes: u64,
    /// The size once unpacked.
    pub(crate) raw_bytes: u64,
    /// Where to download it.
    pub(crate) url: String,
    /// Until when.
    pub(crate) expires: (Instant, DateTime<Utc>),
}

/// The backups that are kept, and what they are made of.
pub(crate) struct Backups {
    source: Mutex<PathBuf>,
    kept: Mutex<Vec<Backup>>,
    altered: TempDir,
}

impl Backups {
    pub(crate) fn new(source: PathBuf) -> anyhow::Result<Self> {
        let altered =
            TempDir::with_prefix("relevo-gateway-").context("a folder for altered files")?;
        let backups = Self { source: Mutex::default(), kept: Mutex::default(), altered };
        backups.set_source(source)?;
        Ok(backups)
    }

    pub(crate) fn source(&self) -> PathBuf {
        lock(&self.source).clone()
    }

    pub(crate) fn set_source(&self, source: PathBuf) -> anyhow::Result<()> {
        File::open(&source).with_context(|| format!("open the dump {}", source.display()))?;
        *lock(&self.source) = source;
        Ok(())
    }

    /// The backup of that name, unless it has expired or newer ones have replaced it.
    pub(crate) fn find(&self, filename: &str) -> Option<Backup> {
        lock(&self.kept)
            .iter()
            .find(|backup| backup.filename == filename && Instant::now() < backup.expires.0)
            .cloned()
    }

    fn keep(&self, backup: Backup, at_most: usize) {
        let mut kept = lock(&self.kept);
        kept.push(backup);
        let surplus = kept.len().saturating_sub(at_most);
        for old in kept.drain(..surplus) {
            // Files of our own making only; a reader that has one open keeps it.
            if old.path.starts_with(self.altered.path()) {
                std::fs::remove_file(&old.path).ok();
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `backup_` and thirteen hexadecimal digits that begin with the time, as PHP's `uniqid` gives them.
pub(crate) fn new_id() -> String {
    let micros = Utc::now().timestamp_micros();
    format!("backup_{:08x}{:05x}", micros / 1_000_000, rand::random_range(0..0x10_0000))
}

#[derive(Default, Deserialize)]
struct Order {
    webhook_url: Option<String>,
}

/// `POST /api/backup/full`
pub(crate) async fn full(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    // As in PHP, a body that is no JSON counts as an empty one.
    let order: Order = serde_json::from_slice(&body).unwrap_or_default();
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let base = gateway
        .plan
        .take(|fault| match fault {
            Fault::ForeignUrl { base } => Some(base.clone()),
            _ => None,
        })
        .unwrap_or_else(|| format!("http://{host}"));
    let id = new_id();
    let asked = Asked {
        backup_id: id.clone(),
        webhook_url: order.webhook_url.clone(),
        at_ms: gateway.age_ms(),
    };
    // Not the webhook's address, which is a permission.
    let mode = if asked.webhook_url.is_some() { "webhook" } else { "synchronous" };
    println!("asked for {id} in {mode} mode");
    gateway.plan.note(|record| record.asked.push(asked));
    let refusal = gateway.plan.take(|fault| match fault {
        Fault::RefuseBackup { error, status } => Some((error.clone(), *status)),
        _ => None,
    });
    if let Some((error, status)) = refusal {
        let error = error.replace(WEBHOOK_URL, order.webhook_url.as_deref().unwrap_or_default());
        return failure(StatusCode::from_u16(status).unwrap_or(StatusCode::OK), &error);
    }
    let delay = gateway.plan.take(|fault| match fault {
        Fault::SlowBackup { seconds } => Some(Duration::from_secs_f64(*seconds)),
        _ => None,
    });
    let answer_is_lost = gateway.plan.happens(&Fault::LoseAnswer);

    let answer = if let Some(webhook_url) = order.webhook_url {
        let delay = delay.unwrap_or_else(|| gateway.flags.scaled(gateway.flags.backup_seconds));
        let (job, job_id, url) = (Arc::clone(&gateway), id.clone(), webhook_url.clone());
        tokio::spawn(async move {
            let made = make(&job, &job_id, &base, delay).await;
            webhook::deliver(&job, &job_id, made, &url).await;
        });
        tokio::time::sleep(gateway.flags.scaled(gateway.flags.answer_seconds)).await;
        axum::Json(json!({
            "ok": true, "type": "webhook", "job_id": id, "status": "processing",
            "message": "Backup iniciado; el resultado llegará por webhook",
            "webhook_url": webhook_url, "timestamp": gateway.local_time(Utc::now()),
        }))
        .into_response()
    } else {
        let delay = delay.unwrap_or_else(|| gateway.flags.scaled(gateway.flags.sync_seconds));
        let job = Arc::clone(&gateway);
        // Spawned: the backup is made even when the caller has hung up.
        let made = tokio::spawn(async move { make(&job, &id, &base, delay).await }).await;
        match made {
            Ok(Ok(backup)) => axum::Json(json!({
                "ok": true, "type": "download_url",
                "download_url": backup.url, "filename": backup.filename,
                "filesize": backup.announced_bytes, "filesize_mb": megabytes(backup.announced_bytes),
                "expires_at": gateway.local_time(backup.expires.1),
                "timestamp": gateway.file_time(Utc::now()),
                "compression": "gzip", "platform": "windows", "log_id": backup.id,
            }))
            .into_response(),
            Ok(Err(error)) => failure(StatusCode::OK, &format!("{error:#}")),
            Err(error) => failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    };
    if answer_is_lost {
        // Unwinding out of the connection's task closes it without a word.
        resume_unwind(Box::new("the answer is lost"));
    }
    answer
}

impl Gateway {
    /// A timestamp as the gateway writes it: local time, no zone.
    pub(crate) fn local_time(&self, time: DateTime<Utc>) -> String {
        time.with_timezone(&self.flags.timezone).format("%Y-%m-%d %H:%M:%S").to_string()
    }

    fn file_time(&self, time: DateTime<Utc>) -> String {
        time.with_timezone(&self.flags.timezone).format("%Y-%m-%d_%H-%M-%S").to_string()
    }
}

/// Bytes as the gateway's megabytes, with two decimals.
pub(crate) fn megabytes(bytes: u64) -> f64 {
    (bytes as f64 / (1024.0 * 1024.0) * 100.0).round() / 100.0
}

/// Waits as long as a backup takes, and keeps it.
async fn make(
    gateway: &Arc<Gateway>,
    id: &str,
    base: &str,
    delay: Duration,
) -> anyhow::Result<Backup> {
    tokio::time::sleep(delay).await;
    let failed = gateway.plan.take(|fault| match fault {
        Fault::FailBackup { error } => Some(error.clone()),
        _ => None,
    });
    if let Some(error) = failed {
        anyhow::bail!(error);
    }
    let altering = gateway.plan.take(|fault| {
        let altering = matches!(
            fault,
            Fault::TruncateGzip { .. }
                | Fault::CorruptGzip
                | Fault::FlipBit { .. }
                | Fault::MissingCompleted
        );
        altering.then(|| fault.clone())
    });
    let source = gateway.backups.source();
    let path = if let Some(altering) = altering {
        let path = gateway.backups.altered.path().join(format!("{id}.sql.gz"));
        let altered = path.clone();
        tokio::task::spawn_blocking(move || alter(&source, &altered, &altering))
            .await
            .context("alter the dump")??;
        path
    } else {
        source
    };
    let file_bytes = std::fs::metadata(&path).context("the dump's size")?.len();
    let announced_bytes = gateway
        .plan
        .take(|fault| match fault {
            Fault::WrongFilesize { delta } => Some(file_bytes.saturating_add_signed(*delta)),
            _ => None,
        })
        .unwrap_or(file_bytes);
    let now = Utc::now();
    let filename = format!("{id}_sicar_backup_{}.sql.gz", gateway.file_time(now));
    let lifetime = Duration::from_secs_f64(gateway.flags.expires_seconds);
    let backup = Backup {
        id: id.to_owned(),
        url: format!("{base}/api/backup/download/{filename}"),
        filename,
        raw_bytes: unpacked_bytes(&path).unwrap_or(0),
        path,
        announced_bytes,
        file_bytes,
        expires: (Instant::now() + lifetime, now + lifetime),
    };
    gateway.backups.keep(backup.clone(), gateway.flags.keep);
    Ok(backup)
}

/// The size gzip notes in its last four bytes; it is modulo 4 GiB.
fn unpacked_bytes(path: &Path) -> std::io::Result<u64> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::End(-4))?;
    let mut size = [0; 4];
    file.read_exact(&mut size)?;
    Ok(u64::from(u32::from_le_bytes(size)))
}

/// Copies all, with some bits of one byte changed.
fn change_byte(mut input: File, output: &mut File, at: u64, bits: u8) -> std::io::Result<()> {
    std::io::copy(&mut (&mut input).take(at), output)?;
    let mut byte = [0];
    input.read_exact(&mut byte)?;
    output.write_all(&[byte[0] ^ bits])?;
    std::io::copy(&mut input, output).map(|_| ())
}

/// Writes a damaged copy of the dump.
fn alter(source: &Path, target: &Path, altering: &Fault) -> anyhow::Result<()> {
    let input = File::open(source).with_context(|| format!("open {}", source.display()))?;
    let mut output = File::create(target).context("create the altered dump")?;
    match altering {
        Fault::TruncateGzip { keep_bytes } => {
            std::io::copy(&mut input.take(*keep_bytes), &mut output)?;
        }
        Fault::CorruptGzip => {
            let middle = input.metadata()?.len() / 2;
            change_byte(input, &mut output, middle, 0xff)?;
        }
        Fault::FlipBit { at, bit } => change_byte(input, &mut output, *at, 1 << (bit % 8))?,
        _ => {
            let mut dump = Vec::new();
            MultiGzDecoder::new(input).read_to_end(&mut dump)?;
            let end = dump
                .windows(COMPLETED.len())
                .rposition(|window| window == COMPLETED)
                .context("the dump has no last line to leave out")?;
            let mut packer = GzEncoder::new(output, Compression::fast());
            packer.write_all(&dump[..end])?;
            packer.finish()?;
        }
    }
    Ok(())
}
