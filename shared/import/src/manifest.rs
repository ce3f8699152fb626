//! The record of what a dump contains, made while it is cut, kept in the target's ledger.

use relevo_mysqldump::{DumpSummary, DumpWarning, SkippedObject, TableDef, ddl};
use serde::{Deserialize, Serialize};

/// What a dump contains: every table with its rows, every chunk with its rows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// Tables in the order of the dump, as they stand at its end.
    pub tables: Vec<TableManifest>,
    /// Chunks by ordinal: from 0 without gaps; of a direct import, the pieces that were committed.
    pub chunks: Vec<ChunkEntry>,
    /// The dump as a whole.
    pub summary: DumpSummary,
    /// Views, triggers, routines and the like, which are not carried over.
    pub skipped: Vec<SkippedObject>,
    /// What the reader found worth saying.
    pub warnings: Vec<DumpWarning>,
}

impl Manifest {
    /// Rows of all tables.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.tables.iter().map(|table| table.rows).sum()
    }

    /// The tables' definitions.
    #[must_use]
    pub fn definitions(&self) -> Vec<TableDef> {
        self.tables.iter().map(|table| table.definition.clone()).collect()
    }
}

/// One table of a dump.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableManifest {
    /// Its definition.
    pub definition: TableDef,
    /// Its rows in the dump.
    pub rows: u64,
    /// Its rows as counted a second time in another way; `None` where that was not sure of them.
    #[serde(default)]
    pub rows_recounted: Option<u64>,
}

impl TableManifest {
    /// The table's name in Postgres.
    #[must_use]
    pub fn name(&self) -> String {
        ddl::table_name(&self.definition)
    }
}

/// One chunk of a dump.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct ChunkEntry {
    /// Its place, counted from 0.
    pub ordinal: i32,
    /// The table's name in Postgres.
    pub table: String,
    /// Its rows.
    pub rows: u64,
    /// Length of its body.
    pub body_bytes: u64,
    /// CRC-32 of its body.
    pub body_crc32: u32,
}
