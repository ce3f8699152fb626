//! A dump as SQL for psql.

use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use relevo_mysqldump::sql::{SqlError, SqlTranslator};
use relevo_mysqldump::{
    BatchStats, DumpSplitter, DumpSummary, Event, InsertHeader, RowBatch, TableDef,
    TranslateOptions,
};
use serde::Serialize;

use crate::error::ImportError;
use crate::input::{self, Counters};
use crate::options::Completion;
use crate::progress::{ImportProgress, ProgressEvent, each_once};
use crate::scan::unwrap_sink;

/// Output is written in pieces of about this many bytes.
const PIECE_BYTES: usize = 256 * 1024;
/// Findings that may wait between the thread that splits and the one that encodes. Each holds the
/// rows of one buffer, or one row that is longer.
const FINDINGS_WAITING: usize = 1;
/// A buffer grown beyond this by a long row does not stay in memory.
const FINDING_BYTES: usize = 2 * 1024 * 1024;

/// What [`translate`] wrote.
#[derive(Clone, Debug, Serialize)]
pub struct Translation {
    /// The dump as a whole.
    pub summary: DumpSummary,
    /// What encoding had to change, over all tables.
    pub stats: BatchStats,
    /// What is not carried over, and everything else worth saying.
    pub notices: Vec<String>,
}

/// Translates a dump (gzip or plain) into SQL for psql. One thread unpacks, one splits, this one
/// encodes and writes. Constant memory; a reader that goes away early (`| head`) shows as an
/// [`ImportError::Write`] of kind `BrokenPipe`.
///
/// # Errors
/// Damaged or cut off dumps, rows that cannot be carried over, a failing writer.
pub fn translate(
    input: impl Read + Send,
    out: &mut dyn Write,
    schema: &str,
    options: &TranslateOptions,
    progress: &dyn ImportProgress,
) -> Result<Translation, ImportError> {
    let mut script = Script {
        translator: SqlTranslator::new(Some(schema.to_owned()), options.clone()),
        out,
        piece: Vec::with_capacity(PIECE_BYTES * 2),
        notices: Vec::new(),
    };
    let (sender, found) = sync_channel(FINDINGS_WAITING);
    let (emptied, spare) = sync_channel(FINDINGS_WAITING + 1);
    let handover = Handover { found: sender, spare };
    let summary = thread::scope(|scope| {
        let reader = thread::Builder::new()
            .name("relevo-split".to_owned())
            .spawn_scoped(scope, move || split(input, options, progress, &handover))
            .map_err(ImportError::Read)?;
        let written = script.take_all(found, &emptied);
        let read = reader.join().map_err(|_| ImportError::Crashed { what: "reading the dump" })?;
        // A reader whose findings nobody takes any more reports a cancel: the reason is there.
        written.and(read)
    })?;
    if Completion::Expected.is_missed_by(&summary) {
        return Err(ImportError::Incomplete);
    }
    let Script { translator, out, mut piece, mut notices } = script;
    let (stats, notes) = translator.finish(&mut piece);
    out.write_all(&piece).and_then(|()| out.flush()).map_err(ImportError::Write)?;
    notices.extend(
        notes.iter().map(|note| format!("{} {}: {}", note.table, note.object, note.message)),
    );
    Ok(Translation { summary, stats, notices: each_once(notices) })
}

/// Reads and splits a dump, and hands on what is found.
fn split(
    input: impl Read + Send,
    options: &TranslateOptions,
    progress: &dyn ImportProgress,
    handover: &Handover,
) -> Result<DumpSummary, ImportError> {
    let counters = Counters::default();
    let (_, summary) = input::read(input, input::UNPACK_LIMIT, &counters, |mut buffers| {
        let mut splitter = DumpSplitter::new(relevo_mysqldump::SplitOptions::of(options));
        while let Some(buffer) = buffers.next()? {
            splitter
                .feed(&buffer, &mut |event| handover.send(event).map_err(Into::into))
                .map_err(unwrap_sink)?;
            progress.report(ProgressEvent::Read {
                input_bytes: buffers.counters.input_bytes.load(Ordering::Relaxed),
                raw_bytes: buffers.counters.raw_bytes.load(Ordering::Relaxed),
            });
            buffers.recycle(buffer);
        }
        splitter.finish(&mut |event| handover.send(event).map_err(Into::into)).map_err(unwrap_sink)
    })?;
    Ok(summary)
}

/// A finding on its way between the threads.
enum Finding {
    Rows {
        table: Arc<TableDef>,
        insert: Arc<InsertHeader>,
        bytes: Vec<u8>,
        rows: u64,
        at: (u64, u64),
    },
    Other(Event<'static>),
}

/// The splitter's end.
struct Handover {
    found: SyncSender<Finding>,
    /// Emptied buffers, on their way back.
    spare: Receiver<Vec<u8>>,
}

impl Handover {
    fn send(&self, event: Event<'_>) -> Result<(), ImportError> {
        let finding = match event {
            Event::Rows(RowBatch { table, insert, bytes, rows, offset, line }) => {
                let mut buffer = self.spare.try_recv().unwrap_or_default();
                buffer.extend_from_slice(bytes);
                Finding::Rows { table, insert, bytes: buffer, rows, at: (offset, line) }
            }
            Event::Table(table) => Finding::Other(Event::Table(table)),
            Event::Altered(table) => Finding::Other(Event::Altered(table)),
            Event::Dropped(table) => Finding::Other(Event::Dropped(table)),
            Event::Skipped(object) => Finding::Other(Event::Skipped(object)),
            Event::Warning(warning) => Finding::Other(Event::Warning(warning)),
        };
        // The writer's own error says why it takes no more.
        self.found.send(finding).map_err(|_| ImportError::Cancelled)
    }
}

struct Script<'a> {
    translator: SqlTranslator,
    out: &'a mut dyn Write,
    piece: Vec<u8>,
    notices: Vec<String>,
}

impl Script<'_> {
    /// Takes findings to their end, or to the first that cannot be written.
    fn take_all(
        &mut self,
        found: Receiver<Finding>,
        emptied: &SyncSender<Vec<u8>>,
    ) -> Result<(), ImportError> {
        for finding in found {
            match finding {
                Finding::Other(event) => self.take(&event)?,
                Finding::Rows { table, insert, mut bytes, rows, at: (offset, line) } => {
                    let batch = RowBatch { table, insert, bytes: &bytes, rows, offset, line };
                    self.take(&Event::Rows(batch))?;
                    bytes.clear();
                    bytes.shrink_to(FINDING_BYTES);
                    // A full channel just lets the buffer go.
                    let _ = emptied.try_send(bytes);
                }
            }
        }
        Ok(())
    }

    fn take(&mut self, event: &Event<'_>) -> Result<(), ImportError> {
        match event {
            Event::Skipped(object) => {
                self.notices.push(format!("{:?} {} is not carried over", object.kind, object.name));
            }
            Event::Warning(warning) => self.notices.push(warning.message.clone()),
            _ => {}
        }
        self.translator.event(event, &mut self.piece).map_err(|error| match error {
            SqlError::Encoder(error) => ImportError::Encoder(error),
            SqlError::Row { offset, source } => ImportError::Row { batch_offset: offset, source },
        })?;
        if self.piece.len() >= PIECE_BYTES {
            self.write()?;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<(), ImportError> {
        let written: io::Result<()> = self.out.write_all(&self.piece);
        self.piece.clear();
        written.map_err(ImportError::Write)
    }
}
