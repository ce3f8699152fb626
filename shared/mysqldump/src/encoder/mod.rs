//! Turns row tuples into COPY text: one precompiled encoder per column.
//!
//! Each value first meets its column's fast path ([`fast`]), which knows the one form that dump
//! tools write and mostly copies bytes; whatever else it sees goes the careful way ([`slow`]),
//! which knows the whole grammar and MySQL's conversions. Both write the same text, namely what
//! `COPY … TO` would print, so that checksums of both sides can be compared.

mod column;
mod fast;
mod lenient;
mod slow;

use std::collections::BTreeMap;
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use crate::checksum::Checksum;
use crate::ddl;
use crate::error::{EncoderError, RowError};
use crate::event::InsertHeader;
use crate::options::TranslateOptions;
use crate::schema::TableDef;
use crate::session::SessionState;
use crate::values::literal::skip_blanks;
use column::Column;
pub use lenient::{RowValues, SortedRows};

/// What one call of [`RowEncoder::encode`] did; figures of several batches can be added.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct BatchStats {
    /// Rows encoded.
    pub rows: u64,
    /// Bytes of COPY text.
    pub bytes_out: u64,
    /// Order-independent checksum of the rows.
    pub checksum: Checksum,
    /// Zero, partial and impossible dates that became NULL, by column.
    pub nulled_dates: BTreeMap<String, u64>,
    /// Text values that lost NUL characters.
    pub stripped_nuls: u64,
    /// Text values that were not valid in the dump's character set and were adapted.
    pub replaced_text: u64,
    /// Values that did not fit their MySQL type and were adapted as MySQL does.
    pub adapted_values: u64,
}

impl AddAssign<&BatchStats> for BatchStats {
    fn add_assign(&mut self, other: &BatchStats) {
        self.rows += other.rows;
        self.bytes_out += other.bytes_out;
        self.checksum += other.checksum;
        for (column, count) in &other.nulled_dates {
            *self.nulled_dates.entry(column.clone()).or_default() += count;
        }
        self.stripped_nuls += other.stripped_nuls;
        self.replaced_text += other.replaced_text;
        self.adapted_values += other.adapted_values;
    }
}

/// Counters of one batch, before they get their columns' names.
#[derive(Debug, Clone, Default)]
struct Counters {
    stripped_nuls: u64,
    replaced_text: u64,
    adapted_values: u64,
}

/// Why a value is refused; the encoder adds table, row and column.
#[derive(Debug)]
struct Refused(String);

/// Encodes the rows of one table and one kind of INSERT.
#[derive(Debug, Clone)]
pub struct RowEncoder {
    table: String,
    pg_table: String,
    /// Columns in the order of the INSERT.
    columns: Vec<Column>,
    /// Columns the INSERT does not list and that have no default: what MySQL stores for them.
    constants: Vec<(String, Vec<u8>)>,
    context: Context,
    scratch: Vec<u8>,
    counters: Counters,
}

/// What all columns share.
#[derive(Debug, Clone)]
struct Context {
    options: TranslateOptions,
    session: SessionState,
    /// What is appended to timestamps.
    zone: Vec<u8>,
    /// Strings can be read bytewise, with backslash escapes: the fast path applies.
    plain_strings: bool,
}

impl RowEncoder {
    /// Compiles an encoder. It depends on nothing but its arguments, so any process that has them
    /// encodes alike.
    pub fn new(
        table: &TableDef,
        insert: &InsertHeader,
        options: &TranslateOptions,
    ) -> Result<Self, EncoderError> {
        column::compile(table, insert, options)
    }

    /// The statement whose input the encoded rows are.
    pub fn copy_statement(&self, schema: &str) -> String {
        let columns: Vec<String> = self
            .columns
            .iter()
            .filter(|column| column.emit)
            .map(|column| &column.pg_name)
            .chain(self.constants.iter().map(|(name, _)| name))
            .map(|name| ddl::quote(name))
            .collect();
        format!(
            "-- copy_rows\nCOPY {}.{} ({}) FROM STDIN (FORMAT text)",
            ddl::quote(schema),
            ddl::quote(&self.pg_table),
            columns.join(", ")
        )
    }

    /// Encodes whole tuples and appends them to `out`, one line a row. On an error `out` holds a
    /// part of the batch and must be thrown away.
    pub fn encode(&mut self, rows: &[u8], out: &mut Vec<u8>) -> Result<BatchStats, RowError> {
        self.counters = Counters::default();
        for column in &mut self.columns {
            column.nulled_dates = 0;
        }
        let begin = out.len();
        out.reserve(rows.len() + rows.len() / 16 + 64);
        let mut stats = BatchStats::default();
        let mut at = gap(rows, 0);
        while at < rows.len() {
            let line = out.len();
            stats.rows += 1;
            at = self.encode_row(rows, at, stats.rows, out)?;
            stats.checksum.add_row(&out[line..out.len() - 1]);
            at = gap(rows, at);
        }
        stats.bytes_out = (out.len() - begin) as u64;
        self.count_into(&mut stats);
        Ok(stats)
    }

    /// Adds what was counted since the counters were cleared.
    fn count_into(&self, stats: &mut BatchStats) {
        stats.stripped_nuls = self.counters.stripped_nuls;
        stats.replaced_text = self.counters.replaced_text;
        stats.adapted_values = self.counters.adapted_values;
        for column in self.columns.iter().filter(|column| column.nulled_dates > 0) {
            stats.nulled_dates.insert(column.name.clone(), column.nulled_dates);
        }
    }

    /// Encodes the tuple that begins at `start`; returns where it ends.
    fn encode_row(
        &mut self,
        rows: &[u8],
        start: usize,
        row: u64,
        out: &mut Vec<u8>,
    ) -> Result<usize, RowError> {
        let fail = |column: &str, offset: usize, reason: String| RowError {
            table: self.table.clone(),
            row,
            column: column.to_owned(),
            offset,
            line: memchr::memchr_iter(b'\n', &rows[..offset.min(rows.len())]).count() as u64,
            reason,
        };
        if rows[start] != b'(' {
            return Err(fail("", start, "expected a row, `(`".to_owned()));
        }
        let line = out.len();
        let mut at = start + 1;
        let last = self.columns.len().wrapping_sub(1);
        for (index, column) in self.columns.iter_mut().enumerate() {
            // Blanks and comments are rare; phpMyAdmin writes one blank after each comma.
            if rows.get(at).is_some_and(|&byte| byte <= b' ' || byte == b'/' || byte == b'*') {
                at = skip_blanks(rows, at);
            }
            let value = out.len();
            let end = match fast::value(column, &self.context, rows, at, out) {
                Some(end) => end,
                None => {
                    out.truncate(value);
                    slow::value(
                        column,
                        &self.context,
                        &mut self.counters,
                        &mut self.scratch,
                        rows,
                        at,
                        out,
                    )
                    .map_err(|Refused(reason)| {
                        let empty = rows.get(at).is_some_and(|&b| b == b')');
                        let reason = if empty {
                            format!("the row has {index} values, the table {}", last + 1)
                        } else {
                            reason
                        };
                        fail(&column.name, at, reason)
                    })?
                }
            };
            if column.emit {
                out.push(b'\t');
            } else {
                out.truncate(value);
            }
            at = end;
            let close = if index == last { b')' } else { b',' };
            if rows.get(at) == Some(&close) {
                at += 1;
                continue;
            }
            at = skip_blanks(rows, at);
            match rows.get(at) {
                Some(&byte) if byte == close => at += 1,
                Some(b',') => {
                    let reason = format!("the row has more values than the {} expected", last + 1);
                    return Err(fail("", at, reason));
                }
                Some(b')') => {
                    let reason = format!("the row has {} values, not {}", index + 1, last + 1);
                    return Err(fail("", at, reason));
                }
                _ => {
                    let shown = String::from_utf8_lossy(&rows[at.min(rows.len())..])
                        .chars()
                        .take(40)
                        .collect::<String>();
                    let reason = format!("expected `,` or `)` after the value, found {shown:?}");
                    return Err(fail(&column.name, at, reason));
                }
            }
        }
        if self.columns.is_empty() {
            at = skip_blanks(rows, at) + 1;
        }
        for (_, constant) in &self.constants {
            out.extend_from_slice(constant);
            out.push(b'\t');
        }
        if out.len() > line {
            out.pop();
        }
        out.push(b'\n');
        Ok(at)
    }
}

/// Skips what stands between tuples.
fn gap(rows: &[u8], mut at: usize) -> usize {
    loop {
        at = skip_blanks(rows, at);
        if rows.get(at) != Some(&b',') {
            return at;
        }
        at += 1;
    }
}
