//! Rows on their way into MariaDB: tab-separated files for `LOAD DATA`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// A file of rows that knows about how many bytes they take up in a dump.
pub(crate) struct Rows {
    path: PathBuf,
    file: BufWriter<File>,
    line: Vec<u8>,
    dump_bytes: u64,
}

impl Rows {
    pub(crate) fn create(folder: &Path, table: &str) -> anyhow::Result<Self> {
        let path = folder.join(format!("{table}.tsv"));
        let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let file = BufWriter::with_capacity(1024 * 1024, file);
        Ok(Self { path, file, line: Vec::new(), dump_bytes: 0 })
    }

    /// About what the rows so far take up in a dump, in bytes.
    pub(crate) fn dump_bytes(&self) -> u64 {
        self.dump_bytes
    }

    /// A number, a date or another text that needs no escaping.
    pub(crate) fn plain(&mut self, value: impl std::fmt::Display) -> &mut Self {
        let before = self.line.len();
        // Writing to a vector cannot fail.
        write!(self.line, "{value}").ok();
        self.dump_bytes += (self.line.len() - before) as u64 + 2;
        self.line.push(b'\t');
        self
    }

    /// A decimal number, given in units of its last digit.
    pub(crate) fn decimal(&mut self, units: i64, scale: u32) -> &mut Self {
        let one = 10i64.pow(scale);
        let sign = if units < 0 { "-" } else { "" };
        let (whole, rest) = (units.abs() / one, units.abs() % one);
        self.plain(format_args!("{sign}{whole}.{rest:0width$}", width = scale as usize))
    }

    /// A text, escaped.
    pub(crate) fn text(&mut self, text: &str) -> &mut Self {
        let before = self.line.len();
        for &byte in text.as_bytes() {
            match byte {
                b'\\' | b'\t' | b'\n' => self.line.extend([b'\\', byte]),
                0 => self.line.extend(b"\\0"),
                _ => self.line.push(byte),
            }
        }
        self.dump_bytes += (self.line.len() - before) as u64 + 3;
        self.line.push(b'\t');
        self
    }

    /// A text or NULL.
    pub(crate) fn maybe(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.text(text),
            None => self.null(),
        }
    }

    /// NULL.
    pub(crate) fn null(&mut self) -> &mut Self {
        self.line.extend(b"\\N\t");
        self.dump_bytes += 5;
        self
    }

    /// Bytes in hexadecimal, for `UNHEX`.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        for byte in bytes {
            self.line.push(DIGITS[usize::from(byte >> 4)]);
            self.line.push(DIGITS[usize::from(byte & 15)]);
        }
        // Of 256 byte values, a dump writes seven with a backslash.
        self.dump_bytes += bytes.len() as u64 * 263 / 256 + 3;
        self.line.push(b'\t');
        self
    }

    /// Ends the row.
    pub(crate) fn end(&mut self) -> anyhow::Result<()> {
        if let Some(last) = self.line.last_mut() {
            *last = b'\n';
        }
        self.file.write_all(&self.line).context("write rows")?;
        self.line.clear();
        self.dump_bytes += 3;
        Ok(())
    }

    /// Ends the file, and says where it is.
    pub(crate) fn finish(mut self) -> anyhow::Result<PathBuf> {
        self.file.flush().context("write rows")?;
        Ok(self.path)
    }
}
