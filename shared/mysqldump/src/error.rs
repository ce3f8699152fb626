//! What can go wrong: in the dump as a text, and in one row.

use thiserror::Error;

/// An error of the receiver of events; the splitter passes it on untouched.
pub type SinkError = Box<dyn std::error::Error + Send + Sync>;

/// The dump cannot be read on. Offsets count bytes of the unpacked dump from 0, lines from 1.
#[derive(Debug, Error)]
pub enum DumpError {
    /// The receiver of events failed.
    #[error("the receiver of the dump's contents failed")]
    Sink(#[source] SinkError),
    /// A row or statement is longer than the limit.
    #[error(
        "{what} starting at byte {offset} (line {line}) is longer than {limit_bytes} bytes; raise the limit, or look there for an unclosed quote"
    )]
    TooLong {
        /// `row`, `statement`, …
        what: &'static str,
        /// Where it starts.
        offset: u64,
        /// Line where it starts.
        line: u64,
        /// The limit in force.
        limit_bytes: usize,
    },
    /// The dump ends inside something.
    #[error(
        "the dump ends at byte {offset} (line {line}) inside {inside}: it is truncated; fetch it again"
    )]
    Truncated {
        /// Length of what was read.
        offset: u64,
        /// Last line.
        line: u64,
        /// What was open, e.g. ``a row of table `x` ``.
        inside: String,
    },
    /// Something that a dump cannot hold at this place.
    #[error("byte {offset} (line {line}): {reason}")]
    Syntax {
        /// Where.
        offset: u64,
        /// Line.
        line: u64,
        /// What was found, what was expected, what to do.
        reason: String,
    },
    /// Not what mysqldump, mariadb-dump or phpMyAdmin write.
    #[error("the input is {name}, which is not read; {remedy}")]
    Format {
        /// What it is.
        name: &'static str,
        /// What to do.
        remedy: &'static str,
    },
    /// A statement that changes rows or tables in a way that has no exact translation.
    #[error("byte {offset} (line {line}): {reason}; the statement is: {statement}")]
    Unsupported {
        /// Where the statement starts.
        offset: u64,
        /// Line.
        line: u64,
        /// Its beginning.
        statement: String,
        /// Why it cannot be carried over, and what to do.
        reason: String,
    },
    /// Rows for a table whose CREATE TABLE has not been seen.
    #[error(
        "byte {offset} (line {line}): rows for table `{table}`, whose CREATE TABLE is not in the dump; supply its definition, or dump without --no-create-info"
    )]
    UnknownTable {
        /// Where the statement starts.
        offset: u64,
        /// Line.
        line: u64,
        /// The table.
        table: String,
    },
}

/// A table definition, column list or option that no encoder can be built for.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum EncoderError {
    /// The time zone of the dump is of no known form.
    #[error(
        "table {table}: the dump's time zone {zone:?} is neither an offset nor a zone name; give the source time zone"
    )]
    TimeZone {
        /// The table.
        table: String,
        /// As the dump has it.
        zone: String,
    },
    /// The dump is written in a character set that cannot be decoded.
    #[error(
        "table {table}: the dump is written in the character set {charset:?}, which is not supported; dump with --default-character-set=utf8mb4"
    )]
    Charset {
        /// The table.
        table: String,
        /// As the dump has it.
        charset: String,
    },
    /// A type chosen for a column that its values cannot become.
    #[error(
        "table {table}: the type chosen for column {column:?} does not fit: {reason}; choose another in columns or types"
    )]
    Choice {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// Why.
        reason: String,
    },
    /// The INSERT's column list names a column twice or one that is not there.
    #[error("table {table}: the INSERT's column list does not fit the table: {reason}")]
    Columns {
        /// The table.
        table: String,
        /// What does not fit.
        reason: String,
    },
}

/// A row that cannot be carried over. Nothing of its batch may be used.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error(
    "table {table}, row {row} of the batch, column {column:?}, byte {offset} (line {}) of the batch: {reason}",
    line + 1
)]
pub struct RowError {
    /// Table name.
    pub table: String,
    /// Row within the batch, counted from 1.
    pub row: u64,
    /// Column, empty when the row as a whole is wrong.
    pub column: String,
    /// Byte within the batch where the value (or the row) starts; add the batch's own offset.
    pub offset: usize,
    /// Lines of the batch before that byte; add the batch's own line.
    pub line: u64,
    /// What is wrong, and what to do about it.
    pub reason: String,
}
