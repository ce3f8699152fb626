//! Cuts a dump into definitions, row batches and the rest, from slices of any size.
//!
//! Two modes take turns. Outside rows a [`statement::StatementBuilder`] collects one statement,
//! which [`interpret`] then understands. When an INSERT reaches its first row, a
//! [`rows::RowScanner`] takes over and whole tuples are handed on borrowed from the fed slice;
//! only a tuple cut by the slice's end is copied and completed from the next slices.

mod catalog;
mod definitions;
mod formats;
mod interpret;
mod keywords;
mod rows;
mod statement;

use std::sync::Arc;

use crate::choices;
use crate::error::{DumpError, SinkError};
use crate::event::{DumpSummary, DumpWarning, Event, InsertHeader, RowBatch};
use crate::options::SplitOptions;
use crate::schema::TableDef;
use crate::session::{SessionState, SessionTracker};
use catalog::Catalog;
use interpret::InsertHead;
use rows::{Found, RowScanner};
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

/// An INSERT whose rows are being read.
#[derive(Debug)]
struct Rows {
    table: Arc<TableDef>,
    insert: Arc<InsertHeader>,
    scanner: RowScanner,
    /// The tuple cut by the end of the last slice.
    carry: Vec<u8>,
    carry_offset: u64,
    carry_line: u64,
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
                    self.begin_rows()?;
                    return Ok(at);
                }
            }
        }
        Ok(bytes.len())
    }

    /// The head of an INSERT is complete: finds its table and settings.
    fn begin_rows(&mut self) -> Result<(), DumpError> {
        let state = self.session.state();
        let head =
            interpret::insert_head(&self.builder.text, state).ok_or_else(|| DumpError::Syntax {
                offset: self.begun.0,
                line: self.begun.1,
                reason: "an INSERT whose table cannot be read".to_owned(),
            })?;
        self.understood = true;
        let state = state.clone();
        let scanner = RowScanner::new(&state);
        let (table, insert) = self.insert_into(&head, state)?;
        self.builder.clear();
        let (carry_offset, carry_line) = self.begun;
        let carry = Vec::new();
        let rows = Rows { table, insert, scanner, carry, carry_offset, carry_line };
        self.mode = Mode::Rows(Box::new(rows));
        Ok(())
    }

    /// Table and settings of an INSERT.
    fn insert_into(
        &mut self,
        head: &InsertHead,
        session: SessionState,
    ) -> Result<(Arc<TableDef>, Arc<InsertHeader>), DumpError> {
        let (offset, line) = self.begun;
        let Some(table) = self.catalog.find(head.database.as_deref(), &head.table) else {
            let table = head.table.clone();
            return Err(DumpError::UnknownTable { offset, line, table });
        };
        if let Some(reason) = self.catalog.sealed(&table) {
            let reason = format!(
                "more rows for table `{}`, although {reason}: restore the dump into MySQL, and dump \
                 that with mysqldump",
                table.name
            );
            return Err(DumpError::Syntax { offset, line, reason });
        }
        let columns = head.columns.as_deref().map(|names| {
            interpret::column_positions(&table, names).map_err(|reason| DumpError::Syntax {
                offset,
                line,
                reason,
            })
        });
        let insert = InsertHeader { columns: columns.transpose()?, session };
        let insert = match &self.last_insert {
            Some((known, header)) if Arc::ptr_eq(known, &table) && **header == insert => {
                Arc::clone(header)
            }
            _ => Arc::new(insert),
        };
        self.last_insert = Some((Arc::clone(&table), Arc::clone(&insert)));
        self.catalog.mark_filled(&table);
        Ok((table, insert))
    }

    /// Hands on one row that is not written in parentheses in the dump.
    fn single_row(
        &mut self,
        head: &InsertHead,
        session: SessionState,
        row: &[u8],
        sink: Sink<'_>,
    ) -> Result<(), DumpError> {
        let (table, insert) = self.insert_into(head, session)?;
        self.summary.rows += 1;
        let (offset, line) = self.begun;
        sink(Event::Rows(RowBatch { table, insert, bytes: row, rows: 1, offset, line }))
            .map_err(DumpError::Sink)
    }

    /// Hands on whole tuples; returns how far the slice has been read.
    fn feed_rows(
        &mut self,
        mut rows: Box<Rows>,
        bytes: &[u8],
        start: usize,
        sink: Sink<'_>,
    ) -> Result<usize, DumpError> {
        let mut at = start;
        // Tuples of this slice not yet handed on.
        let mut batch = Pending { start, end: start, rows: 0 };
        let mut tuple_start = start;
        loop {
            match rows.scanner.scan(bytes, at) {
                Found::Start(found) => {
                    tuple_start = found;
                    if batch.rows == 0 {
                        batch.start = found;
                    }
                    at = found + 1;
                }
                Found::End(end) => {
                    at = end;
                    if rows.carry.is_empty() {
                        batch.end = end;
                        batch.rows += 1;
                        continue;
                    }
                    rows.carry.extend_from_slice(&bytes[start..end]);
                    let carry = std::mem::take(&mut rows.carry);
                    let place = (rows.carry_offset, rows.carry_line);
                    self.hand_on(&rows, &carry, 1, place, sink)?;
                    rows.carry = carry;
                    rows.carry.clear();
                }
                Found::Statement(end) => {
                    self.flush(&rows, bytes, &batch, sink)?;
                    self.summary.statements += 1;
                    return Ok(end + 1);
                }
                Found::Other(found) => {
                    self.flush(&rows, bytes, &batch, sink)?;
                    self.begun = (self.position.offset(found), self.position.line(bytes, found));
                    self.mode = Mode::AfterRows;
                    return Ok(found);
                }
                Found::More => break,
            }
        }
        self.flush(&rows, bytes, &batch, sink)?;
        if rows.scanner.in_tuple() {
            if rows.carry.is_empty() {
                rows.carry_offset = self.position.offset(tuple_start);
                rows.carry_line = self.position.line(bytes, tuple_start);
            }
            rows.carry.extend_from_slice(&bytes[tuple_start..]);
            if rows.carry.len() > self.options.row_limit_bytes {
                return Err(DumpError::TooLong {
                    what: "a row",
                    offset: rows.carry_offset,
                    line: rows.carry_line,
                    limit_bytes: self.options.row_limit_bytes,
                });
            }
        }
        self.mode = Mode::Rows(rows);
        Ok(bytes.len())
    }

    fn flush(
        &mut self,
        rows: &Rows,
        bytes: &[u8],
        batch: &Pending,
        sink: Sink<'_>,
    ) -> Result<(), DumpError> {
        if batch.rows == 0 {
            return Ok(());
        }
        let place = (self.position.offset(batch.start), self.position.line(bytes, batch.start));
        self.hand_on(rows, &bytes[batch.start..batch.end], batch.rows, place, sink)
    }

    fn hand_on(
        &mut self,
        rows: &Rows,
        bytes: &[u8],
        count: u64,
        (offset, line): (u64, u64),
        sink: Sink<'_>,
    ) -> Result<(), DumpError> {
        self.summary.rows += count;
        sink(Event::Rows(RowBatch {
            table: Arc::clone(&rows.table),
            insert: Arc::clone(&rows.insert),
            bytes,
            rows: count,
            offset,
            line,
        }))
        .map_err(DumpError::Sink)
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

/// Tuples of the slice at hand that wait to be handed on together.
#[derive(Debug)]
struct Pending {
    start: usize,
    end: usize,
    rows: u64,
}
