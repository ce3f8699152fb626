//! `dump translate`.
use crate::error::ImportError;
use crate::progress::ImportProgress;
use relevo_mysqldump::{BatchStats, DumpSummary, TranslateOptions};
use serde::Serialize;
use std::io::{Read, Write};

/// What [`translate`] wrote.
#[derive(Clone, Debug, Serialize)]
pub struct Translation {
    /// The dump as a whole.
    pub summary: DumpSummary,
    /// What encoding had to change, over all tables.
    pub stats: BatchStats,
    /// What is not carried over, and everything else worth saying.
    pub notices: Vec<String>,
}

/// Translates a dump into SQL for psql.
///
/// # Errors
/// Damaged or cut off dumps, rows that cannot be carried over, a failing writer.
pub fn translate(
    _input: impl Read + Send,
    _out: &mut dyn Write,
    _schema: &str,
    _options: &TranslateOptions,
    _progress: &dyn ImportProgress,
) -> Result<Translation, ImportError> {
    todo!()
}
