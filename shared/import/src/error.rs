//! Why an import did not happen, and whether trying again may help.

use std::io;

use relevo_mysqldump::{DumpError, EncoderError, RowError};
use relevo_pg::PgError;
use relevo_pg::cutover::CutoverError;

use crate::guard::GuardFinding;
use crate::packing::Packing;

/// Why an import, or one of its steps, failed. [`ImportError::readers`] tells whether the target's
/// previous data are what readers see.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// Not an import's id.
    #[error(
        "{id:?} is no import id: 1 to 40 lower-case letters, digits and underscores are allowed"
    )]
    Id {
        /// What was given.
        id: String,
    },
    /// The target cannot be reached or refuses.
    #[error(transparent)]
    Target(#[from] PgError),
    /// The input cannot be read.
    #[error("reading the dump failed")]
    Read(#[source] io::Error),
    /// The translation cannot be written.
    #[error("writing the translation failed")]
    Write(#[source] io::Error),
    /// The packed stream ends too early.
    #[error(
        "the {packing} file is cut off after {input_bytes} bytes: it was not fetched whole; fetch it again"
    )]
    Truncated {
        /// How it is packed.
        packing: Packing,
        /// Bytes of it that were there.
        input_bytes: u64,
    },
    /// The packed stream is damaged.
    #[error("the {packing} file is damaged near byte {input_bytes}: {reason}; fetch it again")]
    Damaged {
        /// How it is packed.
        packing: Packing,
        /// How far it could be read.
        input_bytes: u64,
        /// What the decoder found.
        reason: String,
    },
    /// The SQL text cannot be understood.
    #[error(transparent)]
    Dump(#[from] DumpError),
    /// A table's rows cannot be encoded at all.
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    /// One row cannot be carried over.
    #[error("the batch at byte {batch_offset} of the dump cannot be carried over")]
    Row {
        /// Where its batch (or chunk) starts in the unpacked dump.
        batch_offset: u64,
        /// The row.
        #[source]
        source: RowError,
    },
    /// One row cannot be carried over, and it is known which.
    #[error("byte {offset} (line {line}) of the dump: a row cannot be carried over")]
    RowAt {
        /// Where the value starts in the unpacked dump.
        offset: u64,
        /// On which line.
        line: u64,
        /// The row.
        #[source]
        source: RowError,
    },
    /// More rows are refused than may be set aside.
    #[error("more than {limit} row(s) are refused, which is as many as --quarantine allows")]
    TooManyRefused {
        /// How many may be.
        limit: u64,
        /// The first one too many.
        #[source]
        source: Box<ImportError>,
    },
    /// No row of this number is set aside and waits.
    #[error("row {row} is not in quarantine, or it is loaded or discarded already")]
    NotQuarantined {
        /// Its number.
        row: i64,
    },
    /// A row set aside has no such column.
    #[error("table {table} has no column {column}, or the dump gives it no value")]
    NoColumn {
        /// The column.
        column: String,
        /// The table.
        table: String,
    },
    /// The table that a row belongs to was replaced.
    #[error(
        "row {row} belongs to import {import}, but table {table} was replaced since, or rolled back: \
         discard it"
    )]
    TableReplaced {
        /// The row's number.
        row: i64,
        /// The table.
        table: String,
        /// The import that set it aside.
        import: String,
    },
    /// An import in one transaction makes new tables only.
    #[error("table {table} is there already, and --single-transaction loads into new tables only")]
    TablePresent {
        /// The table.
        table: String,
    },
    /// The file is not the one that an import cut off earlier had begun to load.
    #[error(
        "byte {offset} of the dump: the rows are not those that were loaded when this import was \
         cut off; what it had loaded is removed, run it again"
    )]
    OtherBytes {
        /// Where the first rows begin that differ.
        offset: u64,
    },
    /// The packed file grows beyond all measure.
    #[error(
        "the {packing} file has grown from {input_bytes} to more than {raw_bytes} bytes, over {limit} times its size: no dump does that; if this one does, raise the limit (--unpack-limit)"
    )]
    Swollen {
        /// How it is packed.
        packing: Packing,
        /// Bytes of it that were read.
        input_bytes: u64,
        /// Bytes that came of them.
        raw_bytes: u64,
        /// The ratio allowed.
        limit: u32,
    },
    /// Two ways of counting a table's rows in the dump differ.
    #[error(
        "table {table}: the reader found {rows} rows in the dump, a second count {recounted}; one of them misreads it: nothing was imported; please report the dump"
    )]
    Recount {
        /// The table.
        table: String,
        /// The reader's count.
        rows: u64,
        /// The other one.
        recounted: u64,
    },
    /// A condition for rows of a table that is not in the dump.
    #[error("there is a condition for rows of table {table}, which the dump does not hold")]
    Filter {
        /// The table.
        table: String,
    },
    /// The last line is missing.
    #[error(
        "the dump does not end with its \"-- Dump completed\" line: it was cut off while it was written; make or fetch it again"
    )]
    Incomplete,
    /// Nothing to import.
    #[error("the dump holds no table{}", hint.as_deref().unwrap_or_default())]
    Empty {
        /// What to look at.
        hint: Option<String>,
    },
    /// Two databases of the dump hold a table of the same name.
    #[error(
        "the dump holds several databases ({}) and {table} is in more than one; choose one with --database",
        databases.join(", ")
    )]
    SeveralDatabases {
        /// Their names.
        databases: Vec<String>,
        /// The first name that collides.
        table: String,
    },
    /// The input is neither SQL nor packed in a way that is read.
    #[error("the dump is {name}, which is not read directly; try: {remedy}")]
    Format {
        /// What it is.
        name: &'static str,
        /// A command that helps.
        remedy: &'static str,
    },
    /// A table is defined a second time after it held rows.
    #[error(
        "the dump defines table {table} twice, both times with rows; it seems to be several dumps in one file: import them one by one"
    )]
    TableTwice {
        /// The table.
        table: String,
    },
    /// The receiver of chunks failed.
    #[error("storing the dump's chunks failed")]
    Sink(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The dump is suspiciously small.
    #[error(
        "the dump is suspiciously small and does not replace the present data: {}; if that is right, import it with --force",
        findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    )]
    Guard {
        /// One per table.
        findings: Vec<GuardFinding>,
    },
    /// The ledger knows no such import.
    #[error("import {id} is not in the target's ledger; it has to begin first")]
    Unknown {
        /// The import.
        id: String,
    },
    /// The import is over.
    #[error("import {id} has ended ({state}); start a new one")]
    Ended {
        /// The import.
        id: String,
        /// How.
        state: String,
    },
    /// The import is not that far yet.
    #[error("import {id} is not sealed yet: the dump has not been read to its end")]
    NotSealed {
        /// The import.
        id: String,
    },
    /// The dump read now is not the one read before.
    #[error(
        "import {id} has begun with another dump: {difference}; abandon it and start a new one"
    )]
    OtherDump {
        /// The import.
        id: String,
        /// What differs.
        difference: String,
    },
    /// A later writer has taken over; nothing was changed.
    #[error("import {id} is in the hands of a later writer")]
    Fenced {
        /// The import.
        id: String,
    },
    /// The import went live under an earlier incarnation of the control plane: it is not the one
    /// meant now.
    #[error(
        "import {id} went live before the control plane was restored (incarnation {incarnation}); \
         start a new one"
    )]
    EarlierIncarnation {
        /// The import.
        id: String,
        /// The incarnation that made it.
        incarnation: i64,
    },
    /// The import is live, but what comes after the cutover failed. Run again, the step goes on
    /// there.
    #[error("the new data are live; clearing up after the cutover failed")]
    AfterCutover(#[source] Box<ImportError>),
    /// The connection was lost in the cutover, and the target could not be asked how it ended.
    #[error(
        "the connection to the target was lost in the cutover, and the target cannot be asked yet \
         whether the new data are live"
    )]
    CutoverUndecided(#[source] Box<ImportError>),
    /// Only what readers see can be rolled back.
    #[error("import {id} is not live ({state}): there is nothing to roll back")]
    NotLive {
        /// The import.
        id: String,
        /// What it is.
        state: String,
    },
    /// The import replaced no tables, or it changed rows in place.
    #[error("import {id} kept no previous tables: it was the first one, or it merged its rows")]
    NothingKept {
        /// The import.
        id: String,
    },
    /// The kept tables are not there any more.
    #[error("the tables that import {id} had replaced are not in schema {schema} any more")]
    PreviousGone {
        /// The import.
        id: String,
        /// Where they were.
        schema: String,
    },
    /// A newer import of the same schema went live in between.
    #[error(
        "schema {schema} was meanwhile replaced by the later import {newer}; this older one is not put over it"
    )]
    Superseded {
        /// The schema.
        schema: String,
        /// The import that is live.
        newer: String,
    },
    /// Chunks that the manifest names are not in the target.
    #[error(
        "{} of the dump's chunks are not in the target yet, the first is number {}",
        ordinals.len(),
        ordinals.first().copied().unwrap_or_default()
    )]
    MissingChunks {
        /// Which.
        ordinals: Vec<i32>,
    },
    /// A chunk's bytes are not what its header says.
    #[error("chunk {ordinal} is damaged: {reason}; read the dump again")]
    ChunkDamaged {
        /// Its place.
        ordinal: i32,
        /// What does not fit.
        reason: String,
    },
    /// A chunk cannot be read from where it is kept.
    #[error("reading chunk {ordinal} failed")]
    ChunkRead {
        /// Its place.
        ordinal: i32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Postgres took another number of rows than the dump holds.
    #[error("table {table}: the dump holds {rows_dump} rows, the target {rows_target}")]
    RowsDiffer {
        /// The table.
        table: String,
        /// Rows in the dump.
        rows_dump: u64,
        /// Rows in the target.
        rows_target: u64,
    },
    /// The values in the target are not those of the dump.
    #[error(
        "table {table}: the values in the target differ from the dump (checksums {checksum_target} and {checksum_dump})"
    )]
    ValuesDiffer {
        /// The table.
        table: String,
        /// As encoded.
        checksum_dump: String,
        /// As read back.
        checksum_target: String,
    },
    /// Rows break a foreign key.
    #[error(
        "table {table}: foreign key {constraint} is broken by {orphans} row(s), such as {sample}; the dump is inconsistent"
    )]
    ForeignKey {
        /// The referencing table.
        table: String,
        /// The constraint.
        constraint: String,
        /// How many rows refer to nothing.
        orphans: i64,
        /// The first of them: column = value pairs.
        sample: String,
    },
    /// The target refuses a key, an index or another part of a table.
    #[error("table {table}: {name} cannot be made{}", detail_of(source))]
    Build {
        /// The table.
        table: String,
        /// The part.
        name: String,
        /// The server's answer.
        #[source]
        source: sqlx::Error,
    },
    /// The tables could not be exchanged.
    #[error(transparent)]
    Cutover(#[from] CutoverError),
    /// The target's ledger holds something unreadable.
    #[error("the target's ledger holds an unreadable {what} for import {id}")]
    Ledger {
        /// The import.
        id: String,
        /// Which column.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The caller asked to stop.
    #[error("the import was cancelled; the previous data are untouched")]
    Cancelled,
    /// A thread of the import ended by a panic.
    #[error("a worker thread of the import ended unexpectedly while {what}")]
    Crashed {
        /// What it did.
        what: &'static str,
    },
}

/// The server's detail, such as the key that is there twice.
fn detail_of(error: &sqlx::Error) -> String {
    error
        .as_database_error()
        .and_then(|answer| answer.try_downcast_ref::<sqlx::postgres::PgDatabaseError>())
        .and_then(sqlx::postgres::PgDatabaseError::detail)
        .map(|detail| format!(" ({detail})"))
        .unwrap_or_default()
}
