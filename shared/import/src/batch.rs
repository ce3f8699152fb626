//! Rows of the dump, gathered by the reader for the connections.
//!
//! Which rows are in which batch depends on the dump's bytes alone, so that a batch that an earlier
//! program has loaded is known by its number and its checksum.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use relevo_mysqldump::{BatchStats, InsertHeader, RowBatch, RowEncoder, TableDef};
use tokio::sync::mpsc;

use crate::error::ImportError;

/// A batch is handed on once it holds this many bytes of rows.
const BATCH_BYTES: usize = 1024 * 1024;

/// Whole rows of one INSERT header.
pub(crate) struct Batch {
    pub(crate) table: Arc<TableDef>,
    pub(crate) insert: Arc<InsertHeader>,
    /// Its place among the batches of the dump, counted from 0.
    pub(crate) number: i32,
    /// Where its parts stand in the unpacked dump.
    places: Vec<Place>,
    bytes: Vec<u8>,
}

/// A part of a batch that is one piece in the dump, too.
struct Place {
    /// Where it begins in the batch.
    at: usize,
    /// Where it begins in the dump.
    offset: u64,
    /// On which line.
    line: u64,
}

impl Batch {
    pub(crate) fn continues(&self, table: &Arc<TableDef>, insert: &Arc<InsertHeader>) -> bool {
        let same_table = Arc::ptr_eq(&self.table, table) || self.table == *table;
        same_table && (Arc::ptr_eq(&self.insert, insert) || self.insert == *insert)
    }

    /// Its rows.
    pub(crate) fn rows(&self) -> &[u8] {
        &self.bytes
    }

    /// CRC-32 of its rows.
    pub(crate) fn crc32(&self) -> u32 {
        let mut crc = flate2::Crc::new();
        crc.update(&self.bytes);
        crc.sum()
    }

    /// Encodes it into `text`, which is emptied first, and gives its buffer back.
    pub(crate) fn encode(
        self,
        encoder: &mut RowEncoder,
        text: &mut Vec<u8>,
        spare: &Spare,
    ) -> Result<BatchStats, ImportError> {
        text.clear();
        let stats = encoder.encode(&self.bytes, text).map_err(|source| {
            let (offset, line) = self.place(source.offset);
            ImportError::RowAt { offset, line, source }
        })?;
        self.recycle(spare);
        Ok(stats)
    }

    /// Gives its buffer back.
    pub(crate) fn recycle(mut self, spare: &Spare) {
        self.bytes.clear();
        // A row far longer than a batch does not stay in memory.
        self.bytes.shrink_to(BATCH_BYTES * 2);
        lock(spare).push(self.bytes);
    }

    /// Where in the dump, and on which line, a byte of it stands.
    pub(crate) fn place(&self, byte: usize) -> (u64, u64) {
        let part = self.places.partition_point(|place| place.at <= byte).saturating_sub(1);
        let Some(&Place { at, offset, line }) = self.places.get(part) else { return (0, 0) };
        let before = &self.bytes[at..byte.clamp(at, self.bytes.len())];
        let lines = memchr::memchr_iter(b'\n', before).count() as u64;
        (offset + before.len() as u64, line + lines)
    }
}

/// Emptied buffers, on their way back to the reader.
pub(crate) type Spare = Arc<Mutex<Vec<Vec<u8>>>>;

/// The connections' end.
pub(crate) struct Lanes {
    pub(crate) jobs: usize,
    pub(crate) batches: mpsc::Receiver<Batch>,
    pub(crate) spare: Spare,
}

/// Checksums of the batches that an earlier program has loaded, by number.
pub(crate) type Known = BTreeMap<i32, u32>;

/// The reader's end.
pub(crate) struct Feeder {
    open: Option<Batch>,
    /// The number of the next batch.
    next: i32,
    known: Known,
    batches: mpsc::Sender<Batch>,
    spare: Spare,
}

impl Lanes {
    /// Both ends; about one batch per connection waits in between. Those that are `known` are passed
    /// over.
    pub(crate) fn new(jobs: usize, known: Known) -> (Self, Feeder) {
        let (sender, batches) = mpsc::channel(jobs);
        let spare = Spare::default();
        let feeder =
            Feeder { open: None, next: 0, known, batches: sender, spare: Arc::clone(&spare) };
        (Self { jobs, batches, spare }, feeder)
    }
}

impl Feeder {
    /// Takes rows, and hands a batch on when it is full. Blocks while all connections are busy.
    pub(crate) fn push(&mut self, rows: RowBatch<'_>) -> Result<(), ImportError> {
        let fits = self.open.as_ref().is_some_and(|open| {
            open.continues(&rows.table, &rows.insert)
                && open.bytes.len() + rows.bytes.len() < BATCH_BYTES
        });
        if !fits {
            self.hand_on()?;
        }
        let RowBatch { table, insert, offset, line, bytes, .. } = rows;
        let open = self.open.get_or_insert_with(|| {
            let bytes = lock(&self.spare).pop().unwrap_or_default();
            self.next += 1;
            Batch { table, insert, number: self.next - 1, places: Vec::new(), bytes }
        });
        if !open.bytes.is_empty() {
            open.bytes.push(b',');
        }
        open.places.push(Place { at: open.bytes.len(), offset, line });
        open.bytes.extend_from_slice(bytes);
        if self.open.as_ref().is_some_and(|open| open.bytes.len() >= BATCH_BYTES * 3 / 4) {
            self.hand_on()?;
        }
        Ok(())
    }

    /// Hands the last batch on.
    pub(crate) fn finish(mut self) -> Result<(), ImportError> {
        self.hand_on()
    }

    fn hand_on(&mut self) -> Result<(), ImportError> {
        let Some(batch) = self.open.take() else { return Ok(()) };
        if let Some(crc32) = self.known.get(&batch.number) {
            if batch.crc32() != *crc32 {
                let (offset, _) = batch.place(0);
                return Err(ImportError::OtherBytes { offset });
            }
            batch.recycle(&self.spare);
            return Ok(());
        }
        // Nobody takes them any more: the connections' own error says why.
        self.batches.blocking_send(batch).map_err(|_| ImportError::Cancelled)
    }
}

fn lock(spare: &Spare) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
    // A panic while it was held can only have left whole buffers behind.
    spare.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
