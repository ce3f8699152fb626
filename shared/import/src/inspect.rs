//! `dump inspect`.
use crate::error::ImportError;
use crate::progress::ImportProgress;
use relevo_mysqldump::{DumpSummary, DumpWarning, SkippedObject, TableDef};
use serde::Serialize;
use std::io::Read;

/// What a dump holds.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// Whether the input was gzip.
    pub gzip: bool,
    /// Bytes of the input.
    pub input_bytes: u64,
    /// The dump as a whole.
    pub summary: DumpSummary,
    /// Tables in the order of the dump.
    pub tables: Vec<InspectedTable>,
    /// Objects that an import does not carry over.
    pub skipped: Vec<SkippedObject>,
    /// What the reader found worth saying.
    pub warnings: Vec<DumpWarning>,
}

/// One table of an inspected dump.
#[derive(Clone, Debug, Serialize)]
pub struct InspectedTable {
    /// Its name in the dump, with the database when that is named.
    pub source_name: String,
    /// Its name in Postgres.
    pub name: String,
    /// Rows.
    pub rows: u64,
    /// Bytes of its row tuples.
    pub rows_bytes: u64,
    /// Its definition.
    pub definition: TableDef,
}

/// Reads a dump to its end and says what it holds, without a database.
///
/// # Errors
/// Damaged or cut off dumps.
pub fn inspect(
    _input: impl Read + Send,
    _progress: &dyn ImportProgress,
) -> Result<Inspection, ImportError> {
    todo!()
}
