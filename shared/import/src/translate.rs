//! A dump as SQL for psql.

use std::io::{self, Read, Write};
use std::sync::atomic::Ordering;

use relevo_mysqldump::sql::{SqlError, SqlTranslator};
use relevo_mysqldump::{BatchStats, DumpSplitter, DumpSummary, Event, TranslateOptions};
use serde::Serialize;

use crate::error::ImportError;
use crate::input::{self, Counters};
use crate::options::Completion;
use crate::progress::{ImportProgress, ProgressEvent, each_once};
use crate::scan::unwrap_sink;

/// Output is written in pieces of about this many bytes.
const PIECE_BYTES: usize = 256 * 1024;

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

/// Translates a dump (gzip or plain) into SQL for psql. Constant memory; a reader that goes away
/// early (`| head`) shows as an [`ImportError::Write`] of kind `BrokenPipe`.
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
    let counters = Counters::default();
    let mut script = Script {
        translator: SqlTranslator::new(Some(schema.to_owned()), options.clone()),
        out,
        piece: Vec::with_capacity(PIECE_BYTES * 2),
        notices: Vec::new(),
    };
    let (_, summary) = input::read(input, input::UNPACK_LIMIT, &counters, |mut buffers| {
        let mut splitter = DumpSplitter::new(relevo_mysqldump::SplitOptions::of(options));
        while let Some(buffer) = buffers.next()? {
            splitter
                .feed(&buffer, &mut |event| script.take(&event).map_err(Into::into))
                .map_err(unwrap_sink)?;
            progress.report(ProgressEvent::Read {
                input_bytes: buffers.counters.input_bytes.load(Ordering::Relaxed),
                raw_bytes: buffers.counters.raw_bytes.load(Ordering::Relaxed),
            });
            buffers.recycle(buffer);
        }
        splitter.finish(&mut |event| script.take(&event).map_err(Into::into)).map_err(unwrap_sink)
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

struct Script<'a> {
    translator: SqlTranslator,
    out: &'a mut dyn Write,
    piece: Vec<u8>,
    notices: Vec<String>,
}

impl Script<'_> {
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
