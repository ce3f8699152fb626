//! What the splitter hands on while it reads.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::schema::TableDef;
use crate::session::SessionState;

/// One finding, in the order of the dump.
#[derive(Debug)]
pub enum Event<'a> {
    /// A CREATE TABLE was read.
    Table(Arc<TableDef>),
    /// A later ALTER TABLE (phpMyAdmin writes keys this way) changed a table: the new definition.
    Altered(Arc<TableDef>),
    /// A table created earlier in this dump is dropped again (it stood in for a view, or the dump
    /// defines it a second time): forget it and its rows.
    Dropped(Arc<TableDef>),
    /// Whole rows of one INSERT.
    Rows(RowBatch<'a>),
    /// An object that holds no rows and is not carried over by itself.
    Skipped(SkippedObject),
    /// Something to report; reading goes on.
    Warning(DumpWarning),
}

/// Whole rows of one INSERT statement.
#[derive(Debug)]
pub struct RowBatch<'a> {
    /// The table as defined so far.
    pub table: Arc<TableDef>,
    /// Column list and session settings; the same `Arc` while nothing changes, so that batches
    /// can be joined by pointer: append the bytes of the next with a comma between.
    pub insert: Arc<InsertHeader>,
    /// Row tuples as in the dump, `(…),(…)`; comments and blanks may stand between them.
    pub bytes: &'a [u8],
    /// Number of tuples.
    pub rows: u64,
    /// Byte offset of `bytes[0]` in the unpacked dump.
    pub offset: u64,
    /// Line of `bytes[0]`, from 1.
    pub line: u64,
}

/// What all rows of an INSERT share.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct InsertHeader {
    /// Positions of the listed columns in the table; `None` when the INSERT has no column list.
    pub columns: Option<Vec<usize>>,
    /// Settings in force.
    pub session: SessionState,
}

/// An object that is reported with its source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkippedObject {
    /// What it is.
    pub kind: SkippedKind,
    /// Database in force.
    pub database: Option<String>,
    /// Its name, as far as it could be read.
    pub name: String,
    /// The statement, conditional comments resolved.
    pub source: String,
    /// Byte offset of the statement.
    pub offset: u64,
}

/// Kinds of skipped objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SkippedKind {
    /// View.
    View,
    /// Trigger.
    Trigger,
    /// Procedure, function or package.
    Routine,
    /// Event.
    Event,
    /// Sequence.
    Sequence,
    /// Any other statement that changes data or schema and is not understood.
    Statement,
}

/// Something worth saying about the dump.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DumpWarning {
    /// Byte offset of the statement.
    pub offset: u64,
    /// What, and what follows from it.
    pub message: String,
}

/// What `finish` knows about the dump as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct DumpSummary {
    /// The line `-- Dump completed` was seen (phpMyAdmin and `--skip-comments` write none).
    pub complete: bool,
    /// The header comment that names the tool, when there is one.
    pub tool: Option<String>,
    /// The tool writes `-- Dump completed` at the end of a good dump: when `complete` is false
    /// then, the dump is cut off.
    pub completion_expected: bool,
    /// The settings saved at the beginning were put back: the tool had written all rows by then.
    #[serde(default)]
    pub restored: bool,
    /// The text ends with the `;` of a statement and no line break: no tool writes that, and a cut
    /// hardly ever falls there. Somebody has taken the end away.
    #[serde(default)]
    pub trimmed: bool,
    /// Bytes read.
    pub bytes: u64,
    /// Lines read.
    pub lines: u64,
    /// Statements read.
    pub statements: u64,
    /// Rows read.
    pub rows: u64,
    /// Tables defined.
    pub tables: u64,
    /// Databases that hold tables, in the order of the dump; empty when it names none.
    #[serde(default)]
    pub databases: Vec<String>,
}
