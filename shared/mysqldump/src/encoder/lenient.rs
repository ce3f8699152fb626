//! Rows one by one, where a refused row is to be set aside and not to stop the rest.

use super::{BatchStats, Counters, RowEncoder, fast, gap, slow};
use crate::error::RowError;
use crate::splitter::rows::{Found, RowScanner};
use crate::values::expression;
use crate::values::literal::skip_blanks;

/// Where rows of a batch went.
#[derive(Debug, Default)]
pub struct SortedRows {
    /// Figures of the rows that were encoded.
    pub stats: BatchStats,
    /// Where each row begins that was encoded, in the order of the lines of COPY text.
    pub starts: Vec<usize>,
    /// Rows that were refused, and where each begins.
    pub refused: Vec<(usize, RowError)>,
}

/// A row by column: its values as COPY would take them, `None` for NULL.
pub type RowValues = Vec<(String, Option<String>)>;

impl RowEncoder {
    /// As [`RowEncoder::encode`], but goes on behind a row that is refused.
    ///
    /// # Errors
    /// The first refused row once there are more than `limit`, or one whose end cannot be found.
    pub fn encode_each(
        &mut self,
        rows: &[u8],
        out: &mut Vec<u8>,
        limit: u64,
    ) -> Result<SortedRows, RowError> {
        self.counters = Counters::default();
        for column in &mut self.columns {
            column.nulled_dates = 0;
        }
        let begin = out.len();
        let mut sorted = SortedRows::default();
        let mut at = gap(rows, 0);
        let mut row = 0;
        while at < rows.len() {
            let line = out.len();
            row += 1;
            let counters = self.counters.clone();
            let nulled: Vec<u64> = self.columns.iter().map(|column| column.nulled_dates).collect();
            match self.encode_row(rows, at, row, out) {
                Ok(end) => {
                    sorted.stats.rows += 1;
                    sorted.stats.checksum.add_row(&out[line..out.len() - 1]);
                    sorted.starts.push(at);
                    at = end;
                }
                Err(error) => {
                    out.truncate(line);
                    self.counters = counters;
                    for (column, nulled) in self.columns.iter_mut().zip(nulled) {
                        column.nulled_dates = nulled;
                    }
                    let end = self.tuple_end(rows, at);
                    let (Some(end), true) = (end, (sorted.refused.len() as u64) < limit) else {
                        return Err(error);
                    };
                    sorted.refused.push((at, error));
                    at = end;
                }
            }
            at = gap(rows, at);
        }
        sorted.stats.bytes_out = (out.len() - begin) as u64;
        self.count_into(&mut sorted.stats);
        Ok(sorted)
    }

    /// Where the tuple that begins at `start` ends.
    fn tuple_end(&self, rows: &[u8], start: usize) -> Option<usize> {
        let mut scanner = RowScanner::new(&self.context.session);
        match scanner.scan(rows, start) {
            Found::Start(begin) => match scanner.scan(rows, begin + 1) {
                Found::End(end) => Some(end),
                _ => None,
            },
            _ => None,
        }
    }

    /// The values of the row that begins at `start`, for a person to read and mend: as COPY takes
    /// them, and those that are refused as the dump has them.
    pub fn row_values(&mut self, rows: &[u8], start: usize) -> RowValues {
        let end = self.tuple_end(rows, start).unwrap_or(rows.len());
        let row = &rows[start..end];
        let mut values = Vec::with_capacity(self.columns.len() + self.constants.len());
        let mut at = 1;
        for column in &mut self.columns {
            at = skip_blanks(row, at);
            if at >= row.len() || row[at] == b')' {
                break;
            }
            let mut text = Vec::new();
            let encoded = fast::value(column, &self.context, row, at, &mut text);
            let encoded = encoded.or_else(|| {
                text.clear();
                let (counters, scratch) = (&mut Counters::default(), &mut self.scratch);
                slow::value(column, &self.context, counters, scratch, row, at, &mut text).ok()
            });
            let (value, next) = match encoded {
                Some(next) => (copy_value(&text), next),
                None => {
                    let next = expression::read(row, at, &self.context.session)
                        .map_or(row.len().saturating_sub(1), |(_, next)| next)
                        .max(at);
                    (Some(shown(&row[at..next])), next)
                }
            };
            if column.emit {
                values.push((column.pg_name.clone(), value));
            }
            at = skip_blanks(row, next);
            if row.get(at) == Some(&b',') {
                at += 1;
            }
        }
        values.extend(
            self.constants.iter().map(|(name, constant)| (name.clone(), copy_value(constant))),
        );
        values
    }

    /// The values of one line of COPY text that this encoder wrote.
    pub fn line_values(&self, line: &[u8]) -> RowValues {
        let columns = self.columns.iter().filter(|column| column.emit);
        let names = columns
            .map(|column| &column.pg_name)
            .chain(self.constants.iter().map(|(name, _)| name));
        let values = line.split(|byte| *byte == b'\t').map(copy_value);
        names.cloned().zip(values).collect()
    }
}

/// A literal as the dump has it, without the quotes of a string.
fn shown(literal: &[u8]) -> String {
    let bare =
        literal.strip_prefix(b"'").and_then(|rest| rest.strip_suffix(b"'")).unwrap_or(literal);
    String::from_utf8_lossy(bare).into_owned()
}

/// A value out of COPY text.
fn copy_value(text: &[u8]) -> Option<String> {
    if text == b"\\N" {
        return None;
    }
    let mut value = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        let plain = if byte == b'\\' {
            match bytes.next() {
                Some(b'n') => b'\n',
                Some(b't') => b'\t',
                Some(b'r') => b'\r',
                Some(b'b') => 8,
                Some(b'f') => 12,
                Some(b'v') => 11,
                Some(&other) => other,
                None => b'\\',
            }
        } else {
            byte
        };
        value.push(plain);
    }
    Some(String::from_utf8_lossy(&value).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DumpSplitter, Event, InsertHeader, SplitOptions, TranslateOptions};

    fn encoder() -> RowEncoder {
        let text =
            b"CREATE TABLE `t` (`a` year(4) DEFAULT NULL, `b` text, `c` text) ENGINE=InnoDB;\n";
        let mut table = None;
        let mut splitter = DumpSplitter::new(SplitOptions::default());
        splitter
            .feed(text, &mut |event| {
                if let Event::Table(found) = event {
                    table = Some(found);
                }
                Ok(())
            })
            .unwrap();
        let options = TranslateOptions::default();
        RowEncoder::new(&table.unwrap(), &InsertHeader::default(), &options).unwrap()
    }

    #[test]
    fn a_refused_row_is_set_aside_and_the_others_are_encoded() {
        let rows = b"(2001,'a\\tb',NULL),(2002,'x)',1,'more'),(2003,NULL,'[]')";
        let mut out = Vec::new();
        let mut encoder = encoder();
        let sorted = encoder.encode_each(rows, &mut out, 1).unwrap();
        assert_eq!(out, b"2001\ta\\tb\t\\N\n2003\t\\N\t[]\n");
        assert_eq!((sorted.stats.rows, sorted.starts.len()), (2, 2));
        let [(start, error)] = &sorted.refused[..] else { panic!("{:?}", sorted.refused) };
        assert!(rows[*start..].starts_with(b"(2002"), "{start}");
        assert_eq!(error.row, 2);
        let values = encoder.row_values(rows, *start);
        assert_eq!(values[1], ("b".to_owned(), Some("x)".to_owned())));
        let line = encoder.line_values(b"2001\ta\\tb\t\\N");
        assert_eq!(line[1], ("b".to_owned(), Some("a\tb".to_owned())));
        assert_eq!(line[2], ("c".to_owned(), None));
        let error = encoder.encode_each(rows, &mut Vec::new(), 0).unwrap_err();
        assert_eq!(error.row, 2, "more than are allowed");
    }
}
