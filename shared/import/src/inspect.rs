//! What is in a dump, without a database.

use std::io::Read;

use relevo_mysqldump::{DumpSummary, DumpWarning, SkippedObject, TableDef, TranslateOptions};
use serde::Serialize;

use crate::error::ImportError;
use crate::options::Completion;
use crate::packing::Packing;
use crate::progress::ImportProgress;
use crate::scan::{ScanOptions, scan};
use crate::selection::Selection;

/// What a dump holds.
#[derive(Clone, Debug, Serialize)]
pub struct Inspection {
    /// How the input is packed.
    pub packing: Packing,
    /// Bytes of the input.
    pub input_bytes: u64,
    /// The dump as a whole. An inspected dump may lack its last line: see `complete`.
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
    input: impl Read + Send,
    progress: &dyn ImportProgress,
) -> Result<Inspection, ImportError> {
    let options = ScanOptions {
        completion: Completion::NotRequired,
        database: None,
        selection: &Selection::default(),
        schema_only: false,
        translate: &TranslateOptions::default(),
    };
    let tally = scan(input, &options, progress, &mut |_| Ok(()))?;
    Ok(Inspection {
        packing: tally.packing,
        input_bytes: tally.input_bytes,
        summary: tally.summary,
        tables: tally
            .tables
            .into_iter()
            .map(|table| InspectedTable {
                source_name: table.definition.qualified_name(),
                name: table.name,
                rows: table.rows,
                rows_bytes: table.rows_bytes,
                definition: (*table.definition).clone(),
            })
            .collect(),
        skipped: tally.skipped,
        warnings: tally.warnings,
    })
}
