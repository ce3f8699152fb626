//! Fetching one file from its origin into its `.part` file, through any number of broken connections.
//!
//! A broken connection is resumed with `Range` and `If-Range`. A server that ignores `Range` sends
//! the file anew: what is there already is then compared instead of written, so that a file that
//! changed meanwhile is noticed at its first different byte. The `.part` file is only ever appended
//! to or replaced, never cut: a stopped process that wakes up long after another has taken over
//! writes the same bytes to the same places.
//!
//! Killed here, then what? The next worker goes on from the length of the `.part` file; the
//! validators of the first answer are beside it.

use std::{
    io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use relevo_queue::full_jitter;
use reqwest::{
    Response, StatusCode,
    header::{
        ACCEPT_ENCODING, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED,
        RANGE,
    },
};
use serde::{Deserialize, Serialize};
use tokio::{
    fs::{File, OpenOptions},
    io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _, BufReader},
    time::timeout,
};

use super::{files::Files, gateway::location, origin::Origin, tail::Watermark};
use crate::backoff::ceiling;

/// Connections in a row that may bring no new byte before the job itself is put off.
const FRUITLESS_MAX: u32 = 6;

/// Bounds of the pause between two connections.
const PAUSE_BASE: Duration = Duration::from_millis(200);
const PAUSE_CAP: Duration = Duration::from_secs(10);

/// Bytes are written in pieces of this size, so that a fast line does not cost a system call per
/// packet; and so often at least, so that a slow one is seen to move and loses little in a crash.
const WRITE_BYTES_MIN: usize = 256 << 10;
const WRITE_AFTER: Duration = Duration::from_millis(500);

/// Why a file could not be fetched.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransferError {
    /// 404 or 410: a gateway keeps only its two newest backups.
    #[error("the server no longer has the backup (HTTP {0})")]
    Gone(StatusCode),
    /// The file is not there any more.
    #[error("{path} is not there any more", path = .0.display())]
    Vanished(PathBuf),
    /// The file cannot be read.
    #[error("{path} cannot be read", path = .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// What is fetched is not what was begun.
    #[error("the file changed while it was fetched")]
    Changed,
    /// The announced and the served length differ.
    #[error("{expected_bytes} bytes were announced and {served_bytes} are served")]
    WrongLength {
        /// As announced with the backup.
        expected_bytes: u64,
        /// As served.
        served_bytes: u64,
    },
    /// Wrong or missing key.
    #[error(
        "the server refused the key for the download (HTTP {0}); check api_key (TUNNEL_API_KEY), or \
         headers where the source has a url"
    )]
    KeyRefused(StatusCode),
    /// A redirect, which is not followed.
    #[error(
        "the server redirects the download to {location}, which is not followed because the key would \
         travel along; name the right address in the settings"
    )]
    Redirected {
        /// Where it points.
        location: String,
    },
    /// A status that no repetition will change.
    #[error("the server refused the download (HTTP {0})")]
    Refused(StatusCode),
    /// The own disk.
    #[error("the download could not be written to {path}", path = .path.display())]
    Disk {
        /// The `.part` file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The length is known now, and the disks have no room for it.
    #[error(transparent)]
    NoRoom(io::Error),
    /// The line broke again and again without bringing anything.
    #[error("the download broke {FRUITLESS_MAX} times in a row at byte {offset_bytes}")]
    Fruitless {
        /// Where it stands.
        offset_bytes: u64,
        /// The last break.
        #[source]
        source: Broken,
    },
}

/// Why one connection ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    /// On the way.
    #[error("the connection failed")]
    Connection(#[source] reqwest::Error),
    /// Nothing arrived for too long.
    #[error("no byte arrived for {} s", .0.as_secs())]
    Idle(Duration),
    /// Closed in the middle.
    #[error("the connection ended early")]
    Early,
    /// The server, or a proxy before it, is not well.
    #[error("the server is not available (HTTP {0})")]
    Unavailable(StatusCode),
}

/// How one connection ended.
enum Interruption {
    Broken(Broken),
    Final(TransferError),
}

impl From<TransferError> for Interruption {
    fn from(error: TransferError) -> Self {
        Self::Final(error)
    }
}

impl From<Broken> for Interruption {
    fn from(broken: Broken) -> Self {
        Self::Broken(broken)
    }
}

/// What the first answer said of the file, kept beside it for the resume.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
struct PartNotes {
    /// A strong validator for `If-Range`: an entity tag or a date.
    validator: Option<String>,
    /// The length of the whole.
    total_bytes: Option<u64>,
}

/// One file to fetch.
pub(crate) struct Transfer<'a> {
    /// Where it comes from.
    pub(crate) origin: &'a Origin,
    /// Where it goes.
    pub(crate) part: &'a Path,
    /// The length announced with the backup, where it was exact.
    pub(crate) expected_bytes: Option<u64>,
    /// Moved along as bytes are written.
    pub(crate) watermark: &'a Watermark,
    /// How long the line may be silent.
    pub(crate) idle_timeout: Duration,
    /// Called with the bytes there are and the total, where known, as they arrive.
    pub(crate) on_bytes: &'a (dyn Fn(u64, Option<u64>) + Sync),
    /// Called with the length once a server has told it, where it was not announced: says whether
    /// there is room.
    pub(crate) on_length: &'a (dyn Fn(u64) -> io::Result<()> + Sync),
}

impl Transfer<'_> {
    /// Fetches what is missing of the file and returns its length. Safe to drop at any point and
    /// to begin again.
    pub(crate) async fn fetch(&self) -> Result<u64, TransferError> {
        if let Origin::File(path) = self.origin {
            return self.copy(path).await;
        }
        let mut state = Progress::open(self).await.map_err(|error| self.disk(error))?;
        self.watermark.advance(state.offset_bytes);
        let mut fruitless = 0;
        loop {
            if state.is_complete()? {
                return Ok(state.offset_bytes);
            }
            let before = state.offset_bytes;
            let broken = match self.connection(&mut state).await {
                Ok(()) => return Ok(state.offset_bytes),
                Err(Interruption::Final(error)) => return Err(error),
                Err(Interruption::Broken(broken)) => broken,
            };
            fruitless = if state.offset_bytes > before { 0 } else { fruitless + 1 };
            if fruitless >= FRUITLESS_MAX {
                let offset_bytes = state.offset_bytes;
                return Err(TransferError::Fruitless { offset_bytes, source: broken });
            }
            tracing::info!(
                error = &broken as &dyn std::error::Error,
                offset_bytes = state.offset_bytes,
                "the download was interrupted and goes on"
            );
            let pause = full_jitter(ceiling(PAUSE_BASE, PAUSE_CAP, fruitless + 1));
            tokio::time::sleep(pause).await;
        }
    }

    /// Copies a file, from where an earlier attempt stopped.
    async fn copy(&self, path: &Path) -> Result<u64, TransferError> {
        let unreadable = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => TransferError::Vanished(path.to_owned()),
            _ => TransferError::Unreadable { path: path.to_owned(), source },
        };
        let mut file = File::open(path).await.map_err(unreadable)?;
        let metadata = file.metadata().await.map_err(unreadable)?;
        let mut state = Progress::open(self).await.map_err(|error| self.disk(error))?;
        self.watermark.advance(state.offset_bytes);
        let total_bytes = metadata.len();
        // When it was written tells an earlier file of the same length from this one.
        let written = metadata.modified().map_err(unreadable)?;
        let notes =
            PartNotes { validator: Some(format!("{written:?}")), total_bytes: Some(total_bytes) };
        let begun = state.notes != PartNotes::default();
        let other = self.expected_bytes.is_some_and(|expected| expected != total_bytes);
        if other || state.offset_bytes > total_bytes || (begun && state.notes != notes) {
            return Err(TransferError::Changed);
        }
        self.note(&mut state, notes).await?;
        state.total_bytes = Some(total_bytes);
        file.seek(io::SeekFrom::Start(state.offset_bytes)).await.map_err(unreadable)?;
        let mut pending = Vec::with_capacity(WRITE_BYTES_MIN);
        loop {
            let room = total_bytes - state.offset_bytes;
            let read = (&mut file)
                .take(room.min(WRITE_BYTES_MIN as u64))
                .read_to_end(&mut pending)
                .await
                .map_err(unreadable)?;
            if read == 0 {
                break;
            }
            self.write(&mut state, &mut pending).await?;
        }
        let after = file.metadata().await.map_err(unreadable)?;
        let unchanged = after.len() == total_bytes && after.modified().ok() == Some(written);
        if state.offset_bytes == total_bytes && unchanged {
            Ok(total_bytes)
        } else {
            Err(TransferError::Changed)
        }
    }

    /// One connection, from the offset to the end of the file.
    async fn connection(&self, state: &mut Progress) -> Result<(), Interruption> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if state.offset_bytes > 0 {
            let range = format!("bytes={}-", state.offset_bytes);
            // A number in a fixed text is always a header value.
            headers.extend(HeaderValue::from_str(&range).ok().map(|value| (RANGE, value)));
            let validator = state.notes.validator.as_deref();
            headers.extend(
                validator
                    .and_then(|text| HeaderValue::from_str(text).ok())
                    .map(|value| (IF_RANGE, value)),
            );
        }
        let response = timeout(self.idle_timeout, self.origin.open(&headers))
            .await
            .map_err(|_| Broken::Idle(self.idle_timeout))?
            .ok_or(Broken::Early)?
            .map_err(Broken::Connection)?;
        match response.status() {
            StatusCode::OK => {
                let total_bytes = response.content_length();
                self.learn(state, &response, total_bytes).await?;
                self.receive(state, response, 0).await
            }
            StatusCode::PARTIAL_CONTENT => {
                let (start, total_bytes) =
                    content_range(response.headers()).ok_or(TransferError::Changed)?;
                if start != state.offset_bytes {
                    return Err(TransferError::Changed.into());
                }
                self.learn(state, &response, total_bytes).await?;
                self.receive(state, response, start).await
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                match content_range_total(response.headers()) {
                    // Everything was there already.
                    Some(total) if total == state.offset_bytes => Ok(()),
                    _ => Err(TransferError::Changed.into()),
                }
            }
            status @ (StatusCode::NOT_FOUND | StatusCode::GONE) => {
                Err(TransferError::Gone(status).into())
            }
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => {
                Err(TransferError::KeyRefused(status).into())
            }
            status if status.is_redirection() => {
                let location = location(response.headers());
                Err(TransferError::Redirected { location }.into())
            }
            status
                if status.is_server_error()
                    || matches!(
                        status,
                        StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS
                    ) =>
            {
                Err(Broken::Unavailable(status).into())
            }
            status => Err(TransferError::Refused(status).into()),
        }
    }

    /// Takes what an answer says of the whole file, and checks it against what was said before.
    async fn learn(
        &self,
        state: &mut Progress,
        response: &Response,
        served_bytes: Option<u64>,
    ) -> Result<(), TransferError> {
        if let Some(served_bytes) = served_bytes {
            if let Some(expected_bytes) = self.expected_bytes.or(state.notes.total_bytes)
                && expected_bytes != served_bytes
            {
                return Err(TransferError::WrongLength { expected_bytes, served_bytes });
            }
            if state.total_bytes.is_none() {
                (self.on_length)(served_bytes).map_err(TransferError::NoRoom)?;
            }
            state.total_bytes = Some(served_bytes);
        }
        let notes =
            PartNotes { validator: validator(response.headers()), total_bytes: state.total_bytes };
        self.note(state, notes).await
    }

    /// Keeps what is known of the whole file beside it.
    async fn note(&self, state: &mut Progress, notes: PartNotes) -> Result<(), TransferError> {
        if notes != state.notes {
            state.notes = notes;
            let path = Files::part_notes(self.part);
            let text = serde_json::to_vec(&state.notes).unwrap_or_default();
            tokio::fs::write(&path, text).await.map_err(|error| self.disk(error))?;
        }
        Ok(())
    }

    /// Takes a body that begins at `position` of the file: compares what is there already, writes
    /// what is new.
    async fn receive(
        &self,
        state: &mut Progress,
        mut response: Response,
        mut position: u64,
    ) -> Result<(), Interruption> {
        let mut known = if position < state.offset_bytes {
            let file = File::open(self.part).await.map_err(|error| self.disk(error))?;
            Some(BufReader::with_capacity(WRITE_BYTES_MIN, file))
        } else {
            None
        };
        let mut pending: Vec<u8> = Vec::with_capacity(WRITE_BYTES_MIN * 2);
        let mut written = Instant::now();
        let ended = loop {
            let piece = match timeout(self.idle_timeout, response.chunk()).await {
                Ok(Ok(Some(piece))) => piece,
                Ok(Ok(None)) => break Ok(()),
                Ok(Err(error)) => break Err(Broken::Connection(error)),
                Err(_) => break Err(Broken::Idle(self.idle_timeout)),
            };
            let mut new = &piece[..];
            if let Some(file) = &mut known {
                let overlap = state.offset_bytes.saturating_sub(position).min(new.len() as u64);
                // Unwrap safety: not above the length of a slice.
                let (old, rest) = new.split_at(usize::try_from(overlap).unwrap_or(new.len()));
                let mut there = vec![0; old.len()];
                file.read_exact(&mut there).await.map_err(|error| self.disk(error))?;
                if there != old {
                    return Err(TransferError::Changed.into());
                }
                position += overlap;
                new = rest;
            }
            position += new.len() as u64;
            if state.total_bytes.is_some_and(|total| position > total) {
                return Err(TransferError::Changed.into());
            }
            pending.extend_from_slice(new);
            if pending.len() >= WRITE_BYTES_MIN || written.elapsed() >= WRITE_AFTER {
                self.write(state, &mut pending).await?;
                written = Instant::now();
            }
        };
        self.write(state, &mut pending).await?;
        ended?;
        match state.total_bytes {
            Some(total) if state.offset_bytes < total => Err(Broken::Early.into()),
            // Without a length, the gzip trailer says whether this was all.
            _ => Ok(()),
        }
    }

    async fn write(
        &self,
        state: &mut Progress,
        pending: &mut Vec<u8>,
    ) -> Result<(), TransferError> {
        if pending.is_empty() {
            return Ok(());
        }
        let written = async {
            state.file.write_all(pending).await?;
            state.file.flush().await
        };
        written.await.map_err(|error| self.disk(error))?;
        state.offset_bytes += pending.len() as u64;
        pending.clear();
        self.watermark.advance(state.offset_bytes);
        (self.on_bytes)(state.offset_bytes, state.total_bytes);
        Ok(())
    }

    fn disk(&self, source: io::Error) -> TransferError {
        TransferError::Disk { path: self.part.to_owned(), source }
    }
}

/// How far the file is.
struct Progress {
    file: File,
    offset_bytes: u64,
    total_bytes: Option<u64>,
    notes: PartNotes,
}

impl Progress {
    async fn open(transfer: &Transfer<'_>) -> io::Result<Self> {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(false).open(transfer.part).await?;
        let offset_bytes = file.seek(io::SeekFrom::End(0)).await?;
        let notes: PartNotes = match tokio::fs::read(Files::part_notes(transfer.part)).await {
            // Half written by a killed process: then nothing is known.
            Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => PartNotes::default(),
            Err(error) => return Err(error),
        };
        let total_bytes = transfer.expected_bytes.or(notes.total_bytes);
        Ok(Self { file, offset_bytes, total_bytes, notes })
    }

    fn is_complete(&self) -> Result<bool, TransferError> {
        match self.total_bytes {
            Some(total) if self.offset_bytes > total => Err(TransferError::WrongLength {
                expected_bytes: total,
                served_bytes: self.offset_bytes,
            }),
            Some(total) => Ok(self.offset_bytes == total && total > 0),
            None => Ok(false),
        }
    }
}

/// A validator that `If-Range` may carry: a strong entity tag, or a date.
fn validator(headers: &HeaderMap) -> Option<String> {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    text(ETAG)
        .filter(|tag| !tag.starts_with("W/"))
        .or_else(|| text(LAST_MODIFIED))
        .map(str::to_owned)
}

/// First byte and total of `Content-Range: bytes 5-9/10`; the total may be unknown (`*`).
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    Some((start, total.trim().parse().ok()))
}

/// Total of `Content-Range: bytes */10`.
fn content_range_total(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_RANGE)?.to_str().ok()?.strip_prefix("bytes */")?.trim().parse().ok()
}
