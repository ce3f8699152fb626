//! A piece of a dump that any worker can load alone: one JSON line, then the rows.
//!
//! ```text
//! {"version":1,"import":"run42_…","ordinal":7,"table":{…},"insert":{…},"rows":…}\n
//! frame frame frame …          each: u32 length (little endian), then whole row tuples
//! ```
//!
//! Frames keep the loader's memory small: a chunk of any size is encoded frame by frame.

use std::io;

use bytes::Bytes;
use relevo_mysqldump::{InsertHeader, TableDef};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use crate::ImportError;
use crate::identity::ImportId;

/// A frame is closed once it holds this many bytes.
pub(crate) const FRAME_TARGET_BYTES: usize = 1024 * 1024;
/// A header line longer than this is not one of ours.
const HEADER_MAX_BYTES: u64 = 16 * 1024 * 1024;
/// A frame longer than this is not one of ours: a frame holds its target and one row at most.
const FRAME_MAX_BYTES: u32 = 1 << 30;
/// The format described above.
const VERSION: u16 = 1;

/// All that is needed to encode a chunk's rows, beside the import's options in the ledger.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChunkHeader {
    /// The format's version, 1.
    pub version: u16,
    /// The import the chunk belongs to.
    pub import: ImportId,
    /// Its place, counted from 0.
    pub ordinal: i32,
    /// The table.
    pub table: TableDef,
    /// Column list and session settings of the INSERT.
    pub insert: InsertHeader,
    /// Rows inside.
    pub rows: u64,
    /// Length of the body, frame lengths included.
    pub body_bytes: u64,
    /// CRC-32 of the body, frame lengths included.
    pub body_crc32: u32,
    /// Where its first row starts in the unpacked dump.
    pub offset: u64,
}

/// A chunk in memory, as the splitter hands it on.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// What it is.
    pub header: ChunkHeader,
    /// Its frames.
    pub body: Bytes,
}

impl Chunk {
    /// The header as the first line of a chunk file, newline included. The file is this line and
    /// the body behind it.
    ///
    /// # Errors
    /// Never in practice: all parts of a header serialise.
    pub fn header_line(&self) -> Result<Bytes, serde_json::Error> {
        let mut line = serde_json::to_vec(&self.header)?;
        line.push(b'\n');
        Ok(line.into())
    }

    /// The whole file as one buffer (copies the body).
    ///
    /// # Errors
    /// As [`Chunk::header_line`].
    pub fn to_file(&self) -> Result<Bytes, serde_json::Error> {
        let line = self.header_line()?;
        let mut file = Vec::with_capacity(line.len() + self.body.len());
        file.extend_from_slice(&line);
        file.extend_from_slice(&self.body);
        Ok(file.into())
    }
}

/// Collects row batches of one INSERT header into a chunk's body.
#[derive(Debug)]
pub(crate) struct ChunkBuilder {
    pub(crate) table: std::sync::Arc<TableDef>,
    pub(crate) insert: std::sync::Arc<InsertHeader>,
    offset: u64,
    rows: u64,
    body: Vec<u8>,
    /// Where the open frame's length stands; its bytes follow.
    frame_start: usize,
}

impl ChunkBuilder {
    pub(crate) fn new(
        table: std::sync::Arc<TableDef>,
        insert: std::sync::Arc<InsertHeader>,
        offset: u64,
        capacity: usize,
    ) -> Self {
        let mut body = Vec::with_capacity(capacity);
        body.extend_from_slice(&[0; 4]);
        Self { table, insert, offset, rows: 0, body, frame_start: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.body.len()
    }

    pub(crate) fn push(&mut self, rows: &[u8], count: u64) {
        let frame_bytes = self.body.len() - self.frame_start - 4;
        if frame_bytes > 0 && frame_bytes + rows.len() > FRAME_TARGET_BYTES {
            self.close_frame();
            self.frame_start = self.body.len();
            self.body.extend_from_slice(&[0; 4]);
        } else if frame_bytes > 0 {
            self.body.push(b',');
        }
        self.body.extend_from_slice(rows);
        self.rows += count;
    }

    fn close_frame(&mut self) {
        let length = self.body.len() - self.frame_start - 4;
        // A frame is at most its target plus one batch, far below 4 GiB.
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        self.body[self.frame_start..self.frame_start + 4].copy_from_slice(&length.to_le_bytes());
    }

    pub(crate) fn finish(mut self, import: ImportId, ordinal: i32) -> Chunk {
        self.close_frame();
        let mut crc = flate2::Crc::new();
        crc.update(&self.body);
        Chunk {
            header: ChunkHeader {
                version: VERSION,
                import,
                ordinal,
                table: (*self.table).clone(),
                insert: (*self.insert).clone(),
                rows: self.rows,
                body_bytes: self.body.len() as u64,
                body_crc32: crc.sum(),
                offset: self.offset,
            },
            body: self.body.into(),
        }
    }
}

/// Reads a chunk file: first the header, then frame by frame, with the checksum at the end.
pub(crate) struct ChunkReader<R> {
    input: BufReader<R>,
    pub(crate) header: ChunkHeader,
    crc: flate2::Crc,
    left_bytes: u64,
}

impl<R: AsyncRead + Unpin> ChunkReader<R> {
    /// Reads the header line.
    pub(crate) async fn open(input: R, ordinal: i32) -> Result<Self, ImportError> {
        let mut input = BufReader::with_capacity(256 * 1024, input);
        let mut line = Vec::new();
        let mut limited = (&mut input).take(HEADER_MAX_BYTES);
        limited
            .read_until(b'\n', &mut line)
            .await
            .map_err(|source| ImportError::ChunkRead { ordinal, source })?;
        let damaged = |reason: String| ImportError::ChunkDamaged { ordinal, reason };
        if line.pop() != Some(b'\n') {
            return Err(damaged("it has no header line".to_owned()));
        }
        let header: ChunkHeader = serde_json::from_slice(&line)
            .map_err(|error| damaged(format!("its header cannot be read ({error})")))?;
        if header.version != VERSION {
            return Err(damaged(format!("its format version {} is unknown", header.version)));
        }
        if header.ordinal != ordinal {
            return Err(damaged(format!("it says that it is number {}", header.ordinal)));
        }
        let left_bytes = header.body_bytes;
        Ok(Self { input, header, crc: flate2::Crc::new(), left_bytes })
    }

    /// Reads the next frame into `rows`; false after the last one, whose checksum then held.
    pub(crate) async fn next_frame(&mut self, rows: &mut Vec<u8>) -> Result<bool, ImportError> {
        let ordinal = self.header.ordinal;
        let damaged =
            |reason: &str| ImportError::ChunkDamaged { ordinal, reason: reason.to_owned() };
        let read = |source: io::Error| match source.kind() {
            io::ErrorKind::UnexpectedEof => damaged("it ends too early"),
            _ => ImportError::ChunkRead { ordinal, source },
        };
        if self.left_bytes == 0 {
            if self.crc.sum() != self.header.body_crc32 {
                return Err(damaged("its checksum does not fit"));
            }
            return Ok(false);
        }
        let mut length = [0; 4];
        self.input.read_exact(&mut length).await.map_err(read)?;
        let frame_bytes = u32::from_le_bytes(length);
        let consumed = 4 + u64::from(frame_bytes);
        if frame_bytes > FRAME_MAX_BYTES || consumed > self.left_bytes {
            return Err(damaged("a frame reaches past its end"));
        }
        rows.clear();
        rows.resize(frame_bytes as usize, 0);
        self.input.read_exact(rows).await.map_err(read)?;
        self.crc.update(&length);
        self.crc.update(rows);
        self.left_bytes -= consumed;
        Ok(true)
    }
}
