//! `GET /api/backup/download/{filename}`: the file, whole or from an offset, over a good or a bad
//! line.

use std::io::SeekFrom;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream::{self, Stream};
use relevo_tests::gateway::{Download, Fault};
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt, Take};

use crate::{Gateway, failure};

/// How much is read and sent at once, in bytes.
const PIECE_BYTES: usize = 64 * 1024;

/// `GET /api/backup/download/{filename}`
pub(crate) async fn file(
    State(gateway): State<Arc<Gateway>>,
    Path(filename): Path<String>,
    headers: HeaderMap,
) -> Response {
    let found = gateway.backups.find(&filename);
    let Some(backup) = found.filter(|_| !gateway.plan.happens(&Fault::NotFound)) else {
        return failure(StatusCode::NOT_FOUND, "Archivo no encontrado o expirado");
    };
    let size = backup.file_bytes;
    let wanted = headers.get(header::RANGE).and_then(|range| range.to_str().ok());
    let range = wanted
        .filter(|_| !gateway.plan.happens(&Fault::IgnoreRange))
        .and_then(|range| parse_range(range, size));
    let (status, start, end) = match range {
        None => (StatusCode::OK, 0, size),
        Some(Ok((start, end))) => (StatusCode::PARTIAL_CONTENT, start, end),
        Some(Err(NotSatisfiable)) => {
            let unit = [(header::CONTENT_RANGE, format!("bytes */{size}"))];
            return (StatusCode::RANGE_NOT_SATISFIABLE, unit).into_response();
        }
    };
    gateway.plan.note(|record| {
        record.downloads.push(Download {
            filename: filename.clone(),
            start,
            status: status.as_u16(),
        });
    });
    println!("download of {filename}: bytes {start}..{end} of {size}");

    let opened = async {
        let mut file = File::open(&backup.path).await?;
        file.seek(SeekFrom::Start(start)).await?;
        std::io::Result::Ok(file.take(end - start))
    };
    let file = match opened.await {
        Ok(file) => file,
        Err(error) => return failure(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    };
    let mut response = Response::new(Body::from_stream(pieces(file, Line::planned(&gateway))));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/gzip"));
    headers.insert(header::ACCEPT_RANGES, header::HeaderValue::from_static("bytes"));
    headers.insert(header::CONTENT_LENGTH, (end - start).into());
    if status == StatusCode::PARTIAL_CONTENT
        && let Ok(value) = format!("bytes {start}-{}/{size}", end - 1).parse()
    {
        headers.insert(header::CONTENT_RANGE, value);
    }
    response
}

struct NotSatisfiable;

/// `bytes=N-`, `bytes=N-M` or `bytes=-N` as a half-open range; anything else is no range at all.
fn parse_range(range: &str, size: u64) -> Option<Result<(u64, u64), NotSatisfiable>> {
    let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
    let (start, end) = match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(start), Ok(last)) if start <= last => (start, size.min(last.saturating_add(1))),
        (Ok(start), Err(_)) if last.is_empty() => (start, size),
        (Err(_), Ok(suffix)) if first.is_empty() => (size.saturating_sub(suffix), size),
        _ => return None,
    };
    Some(if start < end { Ok((start, end)) } else { Err(NotSatisfiable) })
}

/// What the line does to this response.
struct Line {
    sent: u64,
    drop_after: Option<u64>,
    stall_after: Option<u64>,
    bytes_per_second: Option<u64>,
}

impl Line {
    fn planned(gateway: &Gateway) -> Self {
        let take = |choose: fn(&Fault) -> Option<u64>| gateway.plan.take(choose);
        Self {
            sent: 0,
            drop_after: take(|fault| match fault {
                Fault::DropAfter { bytes } => Some(*bytes),
                _ => None,
            }),
            stall_after: take(|fault| match fault {
                Fault::StallAfter { bytes } => Some(*bytes),
                _ => None,
            }),
            bytes_per_second: take(|fault| match fault {
                Fault::SlowDownload { bytes_per_second } => Some(*bytes_per_second),
                _ => None,
            }),
        }
    }

    /// Before the next piece: how large it may be, or an error that breaks the connection.
    async fn next_piece(&self) -> std::io::Result<usize> {
        if self.drop_after.is_some_and(|bytes| self.sent >= bytes) {
            return Err(std::io::ErrorKind::ConnectionReset.into());
        }
        if self.stall_after.is_some_and(|bytes| self.sent >= bytes) {
            std::future::pending::<()>().await;
        }
        let mut piece = PIECE_BYTES;
        if let Some(speed) = self.bytes_per_second {
            // Twenty pieces a second, so that a slow line trickles instead of jerking.
            piece = piece.min(usize::try_from(speed / 20).unwrap_or(PIECE_BYTES).max(1));
            tokio::time::sleep(Duration::from_secs_f64(piece as f64 / speed.max(1) as f64)).await;
        }
        for bound in [self.drop_after, self.stall_after].into_iter().flatten() {
            piece = piece.min(usize::try_from(bound - self.sent).unwrap_or(PIECE_BYTES));
        }
        Ok(piece)
    }
}

fn pieces(file: Take<File>, line: Line) -> impl Stream<Item = std::io::Result<Bytes>> {
    stream::try_unfold((file, line), |(mut file, mut line)| async move {
        let mut buffer = vec![0; line.next_piece().await?];
        let read = file.read(&mut buffer).await?;
        if read == 0 {
            return Ok(None);
        }
        buffer.truncate(read);
        line.sent += read as u64;
        Ok(Some((Bytes::from(buffer), (file, line))))
    })
}
