//! Cuts a dump into chunks.
use std::io::Read;
use std::sync::Arc;

use relevo_mysqldump::{SinkError, TableDef};

use crate::chunk::Chunk;
use crate::error::ImportError;
use crate::manifest::Manifest;
use crate::options::SplitOptions;
use crate::progress::ImportProgress;

/// What [`split_to_chunks`] hands on, in the order of the dump.
#[derive(Debug)]
pub enum SplitItem {
    /// A table's definition, before its rows.
    Table(Arc<TableDef>),
    /// A chunk.
    Chunk(Chunk),
}

/// Cuts a dump (gzip or plain) into chunks.
///
/// # Errors
/// Damaged, cut off or empty dumps; the sink's own error as [`ImportError::Sink`].
pub fn split_to_chunks(
    _input: impl Read + Send,
    _options: &SplitOptions,
    _progress: &dyn ImportProgress,
    _sink: &mut dyn FnMut(SplitItem) -> Result<(), SinkError>,
) -> Result<Manifest, ImportError> {
    todo!()
}
