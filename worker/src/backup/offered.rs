//! RequestBackup where nobody has to be asked: the dump lies in a folder, is an upload, or is
//! fetched from an address that the settings name. What is found counts as delivered.
//!
//! A file that is still being written is not taken: one that changed within the last
//! `settle_seconds`, or that changes while it is looked at. When it is the newest one, it is waited
//! for, for a while; then the newest complete one has to do.
//!
//! Killed here, then what? The same as before a gateway is asked: the repeated job looks again.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use relevo_jobs::RequestBackup;
use relevo_queue::JobError;
use relevo_runs::{
    LogLevel,
    backup_requests::{self, AskMode, BackupRequest, Delivery, RequestState},
    uploads,
};
use relevo_settings::{BackupSource, SourceKind};
use serde_json::{Value, json};

use super::{
    origin::{Origin, file_address, upload_address},
    progress::{mib, seconds},
    request::{clock_in, open_round_in, unheard},
    step::{Step, Stop, describe},
};

/// How long after its start a run waits for a file that is still being written.
const UNFINISHED_MAX: Duration = Duration::from_secs(15 * 60);

/// Names that programs give to what they have not finished.
const UNFINISHED_SUFFIXES: [&str; 5] = [".part", ".tmp", ".partial", ".crdownload", ".filepart"];

/// The upload that a run was started on, if it was.
pub(crate) fn upload_of(run: &relevo_runs::Run) -> Option<i64> {
    run.options.get("upload").and_then(Value::as_i64)
}

/// Finds the dump of the run and delivers it.
pub(crate) async fn offer(
    step: &Step<'_>,
    payload: &RequestBackup,
    opened: &mut Option<BackupRequest>,
) -> Result<(), Stop> {
    let context = step.context;
    let mut tx = context.fenced(step.job).await?;
    let Some(run) = context.runs.get_for_update_in(&mut tx, step.run.id).await? else {
        return Ok(());
    };
    if run.state.is_ended() || run.cancel_requested {
        return Err(Stop::Cancelled);
    }
    context.runs.set_phase_in(&mut tx, run.id, "request").await?;
    let round = payload.round;
    let request = open_round_in(step, &mut tx, round, AskMode::Sync, Duration::ZERO).await?;
    *opened = Some(request.clone());
    tx.commit().await?;
    if request.state != RequestState::Asked {
        return Ok(());
    }
    let delivery = match upload_of(&run) {
        Some(id) => upload(step, id).await?,
        None => match step.source.kind {
            SourceKind::Folder | SourceKind::File => found(step).await?,
            SourceKind::Url => address(step)?,
            // Says what to do.
            SourceKind::Upload | SourceKind::Gateway => {
                let error = Origin::of(context, step.source, "").err();
                let reason = error.map(|error| describe(error.as_ref())).unwrap_or_default();
                return Err(Stop::Run(reason));
            }
        },
    };
    let mut tx = context.fenced(step.job).await?;
    let told = "the dump is there, and is fetched";
    backup_requests::delivered_in(&mut tx, &context.queue, request.id, &delivery, told).await?;
    step.job.complete_in(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

/// What lies in an upload.
async fn upload(step: &Step<'_>, id: i64) -> Result<Delivery, Stop> {
    let context = step.context;
    let Some(upload) = uploads::get(&context.pool, id).await? else {
        return Err(Stop::Run(format!("upload {id} is gone; upload the dump again")));
    };
    let there = context.uploads.received_bytes(id)?;
    if i64::try_from(there).ok() != Some(upload.total_bytes) {
        return Err(Stop::Run(format!(
            "the file of upload {id} is not in the chunk store {} as this worker sees it; every \
             process needs the same chunk_store.url",
            context.settings.chunk_store.url
        )));
    }
    Ok(delivery(upload_address(id), Some(upload.filename), Some(there)))
}

/// The configured address.
fn address(step: &Step<'_>) -> Result<Delivery, Stop> {
    let Some(url) = step.source.public_url() else {
        return Err(Stop::Run("the source's url cannot be read".to_owned()));
    };
    Ok(delivery(url, None, None))
}

fn delivery(download_url: String, filename: Option<String>, bytes: Option<u64>) -> Delivery {
    Delivery {
        download_url,
        filename,
        filesize_bytes: bytes.and_then(|bytes| i64::try_from(bytes).ok()),
        filesize_mb: None,
        expires_at: None,
    }
}

/// The newest complete file.
async fn found(step: &Step<'_>) -> Result<Delivery, Stop> {
    let source = step.source.clone();
    let looked = tokio::task::spawn_blocking(move || look(&source, SystemTime::now())).await?;
    let (complete, unfinished) = match looked {
        Ok(Look { complete, unfinished }) => (complete, unfinished),
        // A share that is not mounted now may be there later.
        Err(error) => {
            let why = format!("{} cannot be read: {error}", step.source.origin());
            return Err(unheard(step, &why).await?);
        }
    };
    let now = clock_in(&mut *step.context.pool.acquire().await?).await?;
    let age = (now - step.run.created_at).to_std().unwrap_or_default();
    if let Some(newer) = unfinished {
        if complete.is_none() || age < UNFINISHED_MAX {
            let why = format!("{} is still being written", newer.display());
            return Err(wait_for_writer(step, &why, age).await?);
        }
        let message = format!("{} is still being written and is not waited for", newer.display());
        step.log(LogLevel::Warn, &message, json!({})).await;
    }
    let Some(file) = complete else {
        let why = format!("there is no dump in {}", step.source.origin());
        return Err(unheard(step, &why).await?);
    };
    let modified = chrono::DateTime::<chrono::Utc>::from(file.modified);
    let message = format!(
        "taking {} ({:.1} MiB, written {})",
        file.path.display(),
        mib(file.bytes),
        modified.format("%Y-%m-%d %H:%M:%S UTC")
    );
    let fields = json!({ "path": file.path, "bytes": file.bytes, "modified": modified });
    step.log(LogLevel::Info, &message, fields).await;
    let name = file.path.file_name().map(|name| name.to_string_lossy().into_owned());
    let address = file_address(&file.path).map_err(|error| Stop::Run(describe(error.as_ref())))?;
    Ok(delivery(address, name, Some(file.bytes)))
}

/// Looks again when the file may have settled; for as long as the source's patience lasts.
async fn wait_for_writer(step: &Step<'_>, why: &str, age: Duration) -> Result<Stop, Stop> {
    let patience = Duration::from_secs(step.source.gateway_patience_seconds);
    if age >= patience {
        return Ok(Stop::Run(format!(
            "{why}, and has been for {}; see who writes there",
            seconds(age.as_secs_f64())
        )));
    }
    let pause = Duration::from_secs(step.source.settle_seconds).max(Duration::from_secs(1));
    let message = format!("{why}; looking again in {}", seconds(pause.as_secs_f64()));
    step.log(LogLevel::Info, &message, json!({})).await;
    Ok(Stop::Job(JobError::snooze(pause)))
}

/// A file that may be taken.
#[derive(Clone, Debug, PartialEq)]
struct Dump {
    path: PathBuf,
    bytes: u64,
    modified: SystemTime,
}

/// What there is.
#[derive(Debug, Default, PartialEq)]
struct Look {
    /// The newest complete file.
    complete: Option<Dump>,
    /// A newer one, which somebody is still writing.
    unfinished: Option<PathBuf>,
}

/// Looks at the source's folder or file. Blocks.
fn look(source: &BackupSource, now: SystemTime) -> io::Result<Look> {
    let path = source.path.as_deref().unwrap_or(Path::new(""));
    let files = match source.kind {
        SourceKind::Folder => in_folder(path, &source.pattern)?,
        _ => vec![path.to_owned()],
    };
    let mut dumps = Vec::new();
    for path in files {
        match fs::metadata(&path) {
            Ok(data) if data.is_file() && data.len() > 0 => {
                let modified = data.modified()?;
                dumps.push(Dump { path, bytes: data.len(), modified });
            }
            Ok(_) => {}
            // Moved away since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    // Newest first; of two of the same moment, the later name.
    dumps.sort_by(|a, b| (b.modified, &b.path).cmp(&(a.modified, &a.path)));
    let settle = Duration::from_secs(source.settle_seconds);
    let mut look = Look::default();
    for dump in dumps {
        // A clock that is behind the file server's makes it look younger than it is.
        let unchanged = now.duration_since(dump.modified).unwrap_or_default();
        if unchanged >= settle {
            look.complete = Some(dump);
            break;
        }
        look.unfinished.get_or_insert(dump.path);
    }
    Ok(look)
}

/// The files of a folder whose names fit.
fn in_folder(folder: &Path, pattern: &str) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let unfinished = name.starts_with('.')
            || UNFINISHED_SUFFIXES.iter().any(|suffix| name.to_ascii_lowercase().ends_with(suffix));
        if !unfinished && fits(pattern.as_bytes(), name.as_bytes()) {
            files.push(entry.path());
        }
    }
    Ok(files)
}

/// Whether a name fits a pattern: `*` stands for any text, `?` for one byte.
fn fits(pattern: &[u8], name: &[u8]) -> bool {
    let (mut p, mut n) = (0, 0);
    // Where the last star was, and how much of the name it has taken so far.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&byte) if byte == b'?' || byte == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match &mut star {
                Some((at, taken)) => {
                    *taken += 1;
                    p = *at + 1;
                    n = *taken;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&byte| byte == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_names() {
        let fits = |pattern: &str, name: &str| super::fits(pattern.as_bytes(), name.as_bytes());
        for (pattern, name) in [
            ("*.sql.gz", "shop.sql.gz"),
            ("*.sql.gz", ".sql.gz"),
            ("*", ""),
            ("shop-????.sql", "shop-2026.sql"),
            ("*a*b*c", "xxaxxbxxbc"),
            ("**", "x"),
        ] {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("*.sql.gz", "shop.sql.gz.md5"),
            ("shop-????.sql", "shop-26.sql"),
            ("", "x"),
            ("?", ""),
            ("*a*b*c", "xxaxxbxxb"),
            ("*.sql", "SHOP.SQL"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }

    #[test]
    fn a_long_pattern_of_stars_takes_no_time() {
        assert!(!fits(&b"*a".repeat(50), &b"a".repeat(45)));
        assert!(!fits(&[b"*a".repeat(30), b"b".to_vec()].concat(), &b"a".repeat(5_000)));
    }
}
