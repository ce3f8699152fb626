//! What commands print: tables for people, one JSON document for programs.
//!
//! Data go to standard output; progress, questions of trust and errors to standard error. A
//! reader that has seen enough (`relevo job list | head -1`) ends the command quietly.

use std::io::{self, Write as _};

use anyhow::Context as _;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;
use serde_json::Value;

use crate::failure::{Failure, StdoutClosed};

/// The widest cell of a table in characters; a whole error text belongs to `show`.
const CELL_CHARS_MAX: usize = 72;

/// Standard output, in the form that was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    json: bool,
}

impl Output {
    /// For people, or as JSON.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether a program reads.
    pub fn is_json(self) -> bool {
        self.json
    }

    /// One JSON document for programs, or what `text` says for people.
    pub fn document(
        self,
        document: &(impl Serialize + ?Sized),
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let mut out = if self.json {
            serde_json::to_string_pretty(document).context("writing JSON failed")?
        } else {
            text()
        };
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        write_out(&out)
    }
}

/// Writes to standard output as it is.
pub fn write_out(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Err(anyhow::Error::from(StdoutClosed).into())
        }
        Err(error) => Err(anyhow::Error::from(error).context("writing the output failed").into()),
    }
}

/// A table with a header line; `empty` in place of a table without rows.
pub fn table(headers: &[&str], rows: &[Vec<String>], empty: &str) -> String {
    if rows.is_empty() {
        return empty.to_owned();
    }
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|text| cell(text)).collect()).collect();
    let widths: Vec<usize> = headers
        .iter()
        .enumerate()
        .map(|(column, header)| {
            let cells = rows.iter().filter_map(|row| row.get(column));
            cells
                .map(|text| text.chars().count())
                .chain([header.chars().count()])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for (text, width) in cells.zip(&widths) {
            line.push_str(text);
            let padding = width - text.chars().count() + 2;
            line.extend(std::iter::repeat_n(' ', padding));
        }
        line.truncate(line.trim_end().len());
        line.push('\n');
        line
    };
    let mut out = line(&mut headers.iter().copied());
    for row in &rows {
        out.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    out
}

/// Pairs of a name and a value, one a line.
pub fn record(fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    fields
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| format!("{name:width$}  {}\n", clean(value)))
        .collect()
}

/// First line, bounded, and nothing that would move a terminal's cursor.
fn cell(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let mut cell: String = clean(first).chars().take(CELL_CHARS_MAX).collect();
    if first.chars().count() > CELL_CHARS_MAX {
        cell.pop();
        cell.push('…');
    }
    if cell.is_empty() { "-".to_owned() } else { cell }
}

/// Text from elsewhere must not steer the terminal.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// A moment to the second.
pub fn moment(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A moment, or nothing.
pub fn moment_or_none(at: Option<DateTime<Utc>>) -> String {
    at.map(moment).unwrap_or_default()
}

/// A number with thin groups of three digits, as people read them.
pub fn count(number: impl Into<i128>) -> String {
    let number = number.into();
    let digits = number.unsigned_abs().to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3 + 1);
    if number < 0 {
        out.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A size in bytes, as people read them.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub fn size(size_bytes: u64) -> String {
    let mut value = size_bytes as f64;
    let mut unit = "B";
    for larger in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        value /= 1000.0;
        unit = larger;
    }
    if unit == "B" { format!("{size_bytes} B") } else { format!("{value:.1} {unit}") }
}

/// A duration as people read it.
pub fn duration(duration_ms: u64) -> String {
    let seconds = duration_ms / 1000;
    match seconds {
        0..=9 => format!("{}.{} s", seconds, duration_ms % 1000 / 100),
        10..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A JSON value on one line, or nothing when there is none.
pub fn compact(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Object(map) if map.is_empty() => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_aligned_and_bounded() {
        let rows = vec![
            vec!["1".to_owned(), "año".to_owned(), String::new()],
            vec!["22".to_owned(), "x".repeat(100), "two\nlines".to_owned()],
        ];
        let text = table(&["ID", "NAME", "ERROR"], &rows, "none");
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[1].trim_end(), format!("1   año{}-", " ".repeat(71)));
        assert!(lines[2].contains('…') && lines[2].ends_with("two"), "{text}");
        assert_eq!(table(&["ID"], &[], "no jobs"), "no jobs");
    }

    #[test]
    fn text_from_elsewhere_cannot_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb"), "a [2Jb");
    }

    #[test]
    fn figures_are_readable() {
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(999), "999");
        assert_eq!(size(396_998_348), "397.0 MB");
        assert_eq!(size(12), "12 B");
        assert_eq!(duration(205_000), "3 min 25 s");
        assert_eq!(duration(1_250), "1.2 s");
    }
}
