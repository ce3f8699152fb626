//! What a dump holds and what would become of it, without a target: tables, rows, chosen types, what
//! would be changed or refused, and roughly how much time and room it takes.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use relevo_mysqldump::{
    BatchStats, DumpSummary, DumpWarning, InsertHeader, RowBatch, RowEncoder, SkippedObject,
    TableDef, TranslateOptions, ddl,
};
use serde::Serialize;

use crate::error::ImportError;
use crate::options::{Completion, ImportOptions};
use crate::packing::Packing;
use crate::progress::{ImportProgress, each_once};
use crate::scan::{Found, ScanOptions, Tally, scan};

/// Bytes of SQL that an import takes in a second, indexes and all, on two cores: measured, and the
/// half of it where the machine is slow.
const IMPORT_BYTES_PER_SECOND: u64 = 45_000_000;
/// What a table costs in milliseconds, however small.
const TABLE_MS: u64 = 30;
/// What Postgres needs for a row beside its values.
const ROW_OVERHEAD_BYTES: u64 = 28;
/// What an index needs for a row, on average.
const INDEX_ENTRY_BYTES: u64 = 20;

/// What a dump holds. Made by reading it to the end and encoding every row.
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
    /// Views and sequences that an import makes, unless the server refuses them.
    pub objects: Vec<String>,
    /// Objects that an import does not carry over.
    pub skipped: Vec<SkippedObject>,
    /// What the reader found worth saying.
    pub warnings: Vec<DumpWarning>,
    /// What an import would roughly take.
    pub estimate: Estimate,
}

impl Inspection {
    /// Whether some row would stop an import.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.tables.iter().any(|table| table.refused.is_some())
    }
}

/// A guess, good to a factor of two.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Estimate {
    /// Room for tables and indexes; the present tables stay beside them until the next import.
    pub target_bytes: u64,
    /// Time until readers see the new tables.
    pub duration_ms: u64,
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
    /// Rows as counted a second time in another way; `None` where that was not sure.
    pub rows_recounted: Option<u64>,
    /// Bytes of its row tuples.
    pub rows_bytes: u64,
    /// Its columns: names and types in both.
    pub columns: Vec<InspectedColumn>,
    /// What encoding its rows has to change.
    pub stats: BatchStats,
    /// Why a row cannot be carried over, with its place; the first one.
    pub refused: Option<String>,
    /// What the translation leaves out or changes.
    pub notes: Vec<String>,
    /// Its definition.
    pub definition: TableDef,
}

/// One column of an inspected dump.
#[derive(Clone, Debug, Serialize)]
pub struct InspectedColumn {
    /// Its name in the dump.
    pub name: String,
    /// Its name in Postgres.
    pub pg_name: String,
    /// Its type in Postgres.
    pub pg_type: String,
}

/// Reads a dump to its end and says what it holds, without a database. Of `options` count the
/// translation, the choice of tables and the limit of unpacking.
///
/// # Errors
/// Damaged or cut off dumps. Rows that cannot be carried over are no error but findings.
pub fn inspect(
    input: impl Read + Send,
    options: &ImportOptions,
    progress: &dyn ImportProgress,
) -> Result<Inspection, ImportError> {
    let scan_options = ScanOptions {
        completion: Completion::NotRequired,
        database: options.database.as_deref(),
        selection: &options.selection,
        schema_only: false,
        unpack_limit: options.unpack_limit,
        translate: &options.translate,
    };
    let mut encoding =
        Encoding { translate: &options.translate, open: None, found: BTreeMap::new() };
    let tally = scan(input, &scan_options, progress, &mut |found| {
        if let Found::Rows(batch) = found {
            encoding.take(&batch);
        }
        Ok(())
    })?;
    Ok(describe(tally, encoding.found, options))
}

fn describe(
    tally: Tally,
    mut found: BTreeMap<String, Finding>,
    options: &ImportOptions,
) -> Inspection {
    let definitions: Vec<TableDef> =
        tally.tables.iter().map(|table| (*table.definition).clone()).collect();
    let plan = ddl::post_load(&definitions, &options.schema, &options.translate);
    let mut target_bytes = 0;
    let tables = tally.tables.into_iter().map(|table| {
        let made = ddl::create_table(&table.definition, &options.schema, &options.translate);
        let Finding { stats, refused } = found.remove(&table.name).unwrap_or_default();
        let indexes = plan.statements.iter().filter(|statement| {
            statement.table == table.name
                && matches!(statement.phase, ddl::Phase::PrimaryKey | ddl::Phase::Index)
        });
        let row_bytes = ROW_OVERHEAD_BYTES + INDEX_ENTRY_BYTES * indexes.count() as u64;
        target_bytes += stats.bytes_out + table.rows * row_bytes;
        let notes = made.notes.iter().chain(&plan.notes).filter(|note| note.table == table.name);
        let notes = notes.map(|note| match note.object.as_str() {
            "" => note.message.clone(),
            object => format!("{object}: {}", note.message),
        });
        InspectedTable {
            source_name: table.definition.qualified_name(),
            rows: table.rows,
            rows_recounted: table.rows_recounted,
            rows_bytes: table.rows_bytes,
            columns: made
                .columns
                .into_iter()
                .map(|column| InspectedColumn {
                    name: column.name,
                    pg_name: column.pg_name,
                    pg_type: column.pg_type,
                })
                .collect(),
            stats,
            refused,
            notes: each_once(notes),
            definition: (*table.definition).clone(),
            name: table.name,
        }
    });
    let tables: Vec<InspectedTable> = tables.collect();
    let objects = ddl::objects(&tally.skipped, &definitions, &options.schema, &options.translate);
    let duration_ms =
        tally.summary.bytes * 1000 / IMPORT_BYTES_PER_SECOND + TABLE_MS * tables.len() as u64;
    Inspection {
        packing: tally.packing,
        input_bytes: tally.input_bytes,
        summary: tally.summary,
        objects: each_once(objects.statements.into_iter().map(|object| object.name)),
        skipped: objects.left,
        warnings: tally.warnings,
        estimate: Estimate { target_bytes, duration_ms },
        tables,
    }
}

/// What came of a table's rows.
#[derive(Default)]
struct Finding {
    stats: BatchStats,
    refused: Option<String>,
}

/// The encoder of one kind of rows.
struct Open {
    table: Arc<TableDef>,
    insert: Arc<InsertHeader>,
    name: String,
    encoder: RowEncoder,
}

/// Encodes rows to nowhere.
struct Encoding<'a> {
    translate: &'a TranslateOptions,
    open: Option<Open>,
    found: BTreeMap<String, Finding>,
}

impl Encoding<'_> {
    fn take(&mut self, batch: &RowBatch<'_>) {
        let fits = self.open.as_ref().is_some_and(|open| {
            Arc::ptr_eq(&open.table, &batch.table) && Arc::ptr_eq(&open.insert, &batch.insert)
        });
        if !fits {
            let name = ddl::table_name(&batch.table);
            match RowEncoder::new(&batch.table, &batch.insert, self.translate) {
                Ok(encoder) => {
                    let (table, insert) = (Arc::clone(&batch.table), Arc::clone(&batch.insert));
                    self.open = Some(Open { table, insert, name, encoder });
                }
                Err(error) => {
                    let found = self.found.entry(name).or_default();
                    found.refused.get_or_insert_with(|| error.to_string());
                    self.open = None;
                }
            }
        }
        let Some(open) = &mut self.open else { return };
        let mut text = Vec::new();
        let outcome = open.encoder.encode(batch.bytes, &mut text);
        if !self.found.contains_key(&open.name) {
            self.found.insert(open.name.clone(), Finding::default());
        }
        let Some(found) = self.found.get_mut(&open.name) else { return };
        match outcome {
            Ok(stats) => found.stats += &stats,
            Err(error) => {
                let (offset, line) = (batch.offset + error.offset as u64, batch.line + error.line);
                found.refused.get_or_insert_with(|| {
                    let at = if error.column.is_empty() {
                        String::new()
                    } else {
                        format!("column {}: ", error.column)
                    };
                    format!("byte {offset} (line {line}): {at}{}", error.reason)
                });
            }
        }
    }
}
