//! Cuts a dump into definitions, row batches and the rest, from slices of any size.
//!
//! Two modes take turns. Outside rows a [`statement::StatementBuilder`] collects one statement,
//! which [`interpret`] then understands. When an INSERT reaches its first row, a
//! [`rows::RowScanner`] takes over and whole tuples are handed on borrowed from the fed slice;
//! only a tuple cut by the slice's end is copied and completed from the next slices.

mod catalog;
mod definitions;
mod formats;
mod inserts;
mod interpret;
mod keywords;
mod numbering;
pub(crate) mod rows;
mod statement;

use std::sync::Arc;

use crate::choices;
use crate::error::{DumpError, SinkError};
use crate::event::{DumpSummary, DumpWarning, Event, InsertHeader};
use crate::options::SplitOptions;
use crate::schema::TableDef;
use crate::session::SessionTracker;
use catalog::Catalog;
use inserts::Rows;
use statement::{StatementBuilder, Step};

/// Where events go.
type Sink<'a> = &'a mut dyn FnMut(Event<'_>) -> Result<(), SinkError>;

/// Reads a dump that is fed to it piece by piece. Retains at most one row and one statement,
/// both limited by [`SplitOptions`].
#[derive(Debug)]
pub struct DumpSplitter {
    options: SplitOptions,
    mode: Mode,
    builder: StatementBuilder,
    session: SessionTracker,
    catalog: Catalog,
    position: Position,
    /// Offset and line at which the statement at hand begins.
    begun: (u64, u64),
    last_insert: Option<(Arc<TableDef>, Arc<InsertHeader>)>,
    summary: DumpSummary,
    /// The first bytes, for telling what is no dump.
    head: Vec<u8>,
    /// A statement of SQL has been seen.
    understood: bool,
    foreign_lines: u64,
    /// Lines that are no SQL look like rows.
    text_rows: bool,
    last_byte: u8,
}

#[derive(Debug)]
enum Mode {
    Statement,
    Rows(Box<Rows>),
    /// The rest of an INSERT after its rows; collected by the builder up to the delimiter.
    AfterRows,
}

/// Byte offset of the slice at hand, and lines counted up to a place in it.
#[derive(Debug, Default)]
struct Position {
    base: u64,
    counted: usize,
    newlines: u64,
}

impl Position {
    /// Line (from 1) of a place in the slice, at or after the last one asked for.
    fn line(&mut self, slice: &[u8], at: usize) -> u64 {
        if at > self.counted {
            let newlines = memchr::memchr_iter(b'\n', &slice[self.counted..at]).count();
            self.newlines += newlines as u64;
            self.counted = at;
        }
        self.newlines + 1
    }

    fn next_slice(&mut self, slice: &[u8]) {
        self.line(slice, slice.len());
        self.base += slice.len() as u64;
        self.counted = 0;
    }

    fn offset(&self, at: usize) -> u64 {
        self.base + at as u64
    }
}

impl DumpSplitter {
    /// A splitter at the beginning of a dump.
    pub fn new(options: SplitOptions) -> Self {
        let mut tables = options.tables.clone();
        tables.iter_mut().for_each(|table| choices::name(&options.translate, table));
        let catalog = Catalog::new(&tables);
        Self {
            options,
            mode: Mode::Statement,
            builder: StatementBuilder::new(),
            session: SessionTracker::default(),
            catalog,
            position: Position::default(),
            begun: (0, 1),
            last_insert: None,
            summary: DumpSummary::default(),
            head: Vec::new(),
            understood: false,
            foreign_lines: 0,
            text_rows: false,
            last_byte: 0,
        }
    }

    /// Reads the next piece of the dump. After an error the splitter is of no more use.
    pub fn feed(
        &mut self,
        bytes: &[u8],
        sink: &mut dyn FnMut(Event<'_>) -> Result<(), SinkError>,
    ) -> Result<(), DumpError> {
        if self.head.len() < formats::HEAD_BYTES {
            let missing = formats::HEAD_BYTES - self.head.len();
            self.head.extend_from_slice(&bytes[..bytes.len().min(missing)]);
            if let Some((name, remedy)) = formats::recognise(&self.head) {
                return Err(DumpError::Format { name, remedy });
            }
        }
        let mut at = 0;
        while at < bytes.len() {
            at = match std::mem::replace(&mut self.mode, Mode::Statement) {
                Mode::Statement => self.feed_statement(bytes, at, sink)?,
                Mode::AfterRows => {
                    self.mode = Mode::AfterRows;
                    self.feed_after_rows(bytes, at, sink)?
                }
                Mode::Rows(rows) => self.feed_rows(rows, bytes, at, sink)?,
            };
        }
        if let Some(&last) = bytes.last() {
            self.last_byte = last;
        }
        self.position.next_slice(bytes);
        Ok(())
    }

    /// The dump has ended.
    pub fn finish(
        mut self,
        sink: &mut dyn FnMut(Event<'_>) -> Result<(), SinkError>,
    ) -> Result<DumpSummary, DumpError> {
        if let Mode::Rows(rows) = &self.mode {
            let inside = format!("an INSERT into table `{}`", rows.table.name);
            return Err(self.truncated(inside));
        }
        if self.builder.is_open() {
            return Err(self.truncated("a quoted text or comment".to_owned()));
        }
        if self.builder.end_of_input() == Step::Comment {
            self.comment();
        }
        if !self.builder.text.trim_ascii().is_empty() {
            // The mysql client runs a last statement without its delimiter, too.
            self.statement(sink).map_err(|error| match error {
                DumpError::Syntax { .. } | DumpError::Unsupported { .. } => {
                    self.truncated("a statement".to_owned())
                }
                other => other,
            })?;
        }
        if !self.understood && self.foreign_lines > 0 {
            return Err(self.no_sql());
        }
        for message in choices::unknown(&self.options.translate, &self.catalog.tables()) {
            self.warn(message, sink)?;
        }
        // The tools end every statement with a line break; an editor may take the last one away.
        self.summary.trimmed = self.last_byte == b';';
        self.summary.bytes = self.position.base;
        self.summary.lines = self.position.newlines;
        Ok(self.summary)
    }

    fn truncated(&self, inside: String) -> DumpError {
        DumpError::Truncated {
            offset: self.position.base,
            line: self.position.newlines + 1,
            inside,
        }
    }

    /// Collects a statement; returns how far the slice has been read.
    fn feed_statement(
        &mut self,
        bytes: &[u8],
        start: usize,
        sink: Sink<'_>,
    ) -> Result<usize, DumpError> {
        for at in start..bytes.len() {
            let was_empty = self.builder.is_empty();
            match self.builder.step(bytes[at]) {
                Step::More => {
                    if was_empty && !self.builder.is_empty() {
                        self.begun = (self.position.offset(at), self.position.line(bytes, at));
                    } else if self.builder.text.len() > self.options.statement_limit_bytes {
                        return Err(DumpError::TooLong {
                            what: "a statement",
                            offset: self.begun.0,
                            line: self.begun.1,
                            limit_bytes: self.options.statement_limit_bytes,
                        });
                    }
                }
                Step::Statement => {
                    self.statement(sink)?;
                    self.builder.clear();
                }
                Step::Comment => self.comment(),
                Step::Delimiter => {}
                Step::Foreign => {
                    let line = String::from_utf8_lossy(&self.builder.text).into_owned();
                    self.foreign(&line, sink)?;
                    self.builder.clear();
                }
                Step::Rows => {
                    self.begin_rows(sink)?;
                    return Ok(at);
                }
            }
        }
        Ok(bytes.len())
    }

    /// Reads what follows the rows of an INSERT up to the delimiter.
    fn feed_after_rows(
        &mut self,
        bytes: &[u8],
        start: usize,
        sink: Sink<'_>,
    ) -> Result<usize, DumpError> {
        for (at, &byte) in bytes.iter().enumerate().skip(start) {
            match self.builder.step(byte) {
                Step::Statement => {
                    let text = String::from_utf8_lossy(&self.builder.text).trim().to_owned();
                    self.builder.clear();
                    self.mode = Mode::Statement;
                    self.summary.statements += 1;
                    let message = format!(
                        "the rows were read without regard to: {text}; where it would have changed \
                         a row, building the table's keys fails"
                    );
                    self.warn(message, sink)?;
                    return Ok(at + 1);
                }
                // An unfinished word at the place of a row.
                Step::Foreign | Step::Rows => {
                    return Err(DumpError::Syntax {
                        offset: self.begun.0,
                        line: self.begun.1,
                        reason: format!(
                            "expected a row or the end of the INSERT, found {:?}",
                            String::from_utf8_lossy(&self.builder.text)
                        ),
                    });
                }
                Step::More | Step::Comment | Step::Delimiter => {}
            }
        }
        Ok(bytes.len())
    }

    fn warn(&self, message: String, sink: Sink<'_>) -> Result<(), DumpError> {
        sink(Event::Warning(DumpWarning { offset: self.begun.0, message })).map_err(DumpError::Sink)
    }

    /// Looks at a line comment for the marks that dump tools leave.
    fn comment(&mut self) {
        let comment = String::from_utf8_lossy(&self.builder.comment);
        let comment = comment.trim();
        if comment.starts_with("Dump completed") {
            self.summary.complete = true;
        } else if self.summary.tool.is_none() {
            let server_tool =
                comment.starts_with("MySQL dump") || comment.starts_with("MariaDB dump");
            if server_tool || comment.starts_with("phpMyAdmin SQL Dump") {
                self.summary.tool = Some(comment.to_owned());
                // mysqldump of MySQL 4.0 and before (its versions 8 and 9) wrote no last line.
                self.summary.completion_expected = server_tool
                    && !comment.starts_with("MySQL dump 9.")
                    && !comment.starts_with("MySQL dump 8.");
            }
        }
        self.catalog.comment(comment);
    }
}
