//! The rows of an INSERT: from its head to the batches that are handed on.

use std::sync::Arc;

use super::interpret::{self, InsertHead};
use super::numbering::Numbering;
use super::rows::{Found, RowScanner};
use super::{DumpSplitter, Mode, Sink};
use crate::error::DumpError;
use crate::event::{Event, InsertHeader, RowBatch};
use crate::schema::TableDef;
use crate::session::SessionState;

/// Table and settings of an INSERT, and how its rows are numbered.
type Target = (Arc<TableDef>, Arc<InsertHeader>, Option<Numbering>);

/// An INSERT whose rows are being read.
#[derive(Debug)]
pub(super) struct Rows {
    pub(super) table: Arc<TableDef>,
    insert: Arc<InsertHeader>,
    scanner: RowScanner,
    /// For a table that counts by itself.
    numbering: Option<Numbering>,
    /// The tuple cut by the end of the last slice.
    carry: Vec<u8>,
    carry_offset: u64,
    carry_line: u64,
}

impl Rows {
    /// A row with the number that the server would give it; `None`: it stays as it is.
    fn number(&mut self, row: &[u8]) -> Option<Vec<u8>> {
        self.numbering.as_mut()?.number(row, &self.insert.session)
    }
}

/// Tuples of the slice at hand that wait to be handed on together.
#[derive(Debug)]
struct Pending {
    start: usize,
    end: usize,
    rows: u64,
}

impl DumpSplitter {
    /// The head of an INSERT is complete: finds its table and settings.
    pub(super) fn begin_rows(&mut self, sink: Sink<'_>) -> Result<(), DumpError> {
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
        let (table, insert, numbering) = self.insert_into(head, state)?;
        self.tell_triggers(&table, sink)?;
        self.builder.clear();
        let (carry_offset, carry_line) = self.begun;
        let carry = Vec::new();
        let rows = Rows { table, insert, scanner, numbering, carry, carry_offset, carry_line };
        self.mode = Mode::Rows(Box::new(rows));
        Ok(())
    }

    /// Table and settings of an INSERT, and how its rows are numbered.
    fn insert_into(
        &mut self,
        mut head: InsertHead,
        session: SessionState,
    ) -> Result<Target, DumpError> {
        let (offset, line) = self.begun;
        let Some(table) = self.catalog.find(head.database.as_deref(), &head.table) else {
            return Err(DumpError::UnknownTable { offset, line, table: head.table });
        };
        if let Some(reason) = self.catalog.sealed(&table) {
            let reason = format!(
                "more rows for table `{}`, although {reason}: restore the dump into MySQL, and dump \
                 that with mysqldump",
                table.name
            );
            return Err(DumpError::Syntax { offset, line, reason });
        }
        let numbering =
            Numbering::of(&table, &mut head.columns, &session, self.catalog.counter(&table));
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
        Ok((table, insert, numbering))
    }

    /// Hands on one row that is not written in parentheses in the dump.
    pub(super) fn single_row(
        &mut self,
        head: InsertHead,
        session: SessionState,
        row: &[u8],
        sink: Sink<'_>,
    ) -> Result<(), DumpError> {
        let (table, insert, mut numbering) = self.insert_into(head, session)?;
        self.tell_triggers(&table, sink)?;
        let numbered = numbering.as_mut().and_then(|n| n.number(row, &insert.session));
        let row = numbered.as_deref().unwrap_or(row);
        self.catalog.keep_counter(&table, numbering.map(Numbering::into_counter));
        self.summary.rows += 1;
        let (offset, line) = self.begun;
        sink(Event::Rows(RowBatch { table, insert, bytes: row, rows: 1, offset, line }))
            .map_err(DumpError::Sink)
    }

    /// Hands on whole tuples; returns how far the slice has been read.
    pub(super) fn feed_rows(
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
                        if let Some(row) = rows.number(&bytes[tuple_start..end]) {
                            self.flush(&rows, bytes, &batch, sink)?;
                            batch.rows = 0;
                            let line = self.position.line(bytes, tuple_start);
                            let place = (self.position.offset(tuple_start), line);
                            self.hand_on(&rows, &row, 1, place, sink)?;
                            continue;
                        }
                        batch.end = end;
                        batch.rows += 1;
                        continue;
                    }
                    rows.carry.extend_from_slice(&bytes[start..end]);
                    let carry = std::mem::take(&mut rows.carry);
                    let place = (rows.carry_offset, rows.carry_line);
                    let numbered = rows.number(&carry);
                    let row = numbered.as_deref().unwrap_or(&carry);
                    self.hand_on(&rows, row, 1, place, sink)?;
                    rows.carry = carry;
                    rows.carry.clear();
                }
                Found::Statement(end) => {
                    self.flush(&rows, bytes, &batch, sink)?;
                    self.summary.statements += 1;
                    self.end_rows(*rows);
                    return Ok(end + 1);
                }
                Found::Other(found) => {
                    self.flush(&rows, bytes, &batch, sink)?;
                    self.begun = (self.position.offset(found), self.position.line(bytes, found));
                    self.mode = Mode::AfterRows;
                    self.end_rows(*rows);
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

    /// Warns of triggers that the server would run for each row.
    fn tell_triggers(&mut self, table: &TableDef, sink: Sink<'_>) -> Result<(), DumpError> {
        for name in self.catalog.take_triggers(table) {
            let message = format!(
                "trigger `{name}` comes before rows of table `{}`: MySQL would run it for each of \
                 them, here the rows stay as the dump has them and what it does elsewhere is \
                 missing; restore the dump into MySQL and dump that if it matters",
                table.name
            );
            self.warn(message, sink)?;
        }
        Ok(())
    }

    fn end_rows(&mut self, rows: Rows) {
        self.catalog.keep_counter(&rows.table, rows.numbering.map(Numbering::into_counter));
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
}
