//! Cuts a dump into chunks, for workers to load.

use std::io::Read;
use std::sync::Arc;

use relevo_mysqldump::{SinkError, TableDef};

use crate::chunk::{Chunk, ChunkBuilder, FRAME_TARGET_BYTES};
use crate::error::ImportError;
use crate::manifest::{ChunkEntry, Manifest, TableManifest};
use crate::options::SplitOptions;
use crate::progress::ImportProgress;
use crate::scan::{Found, ScanOptions, scan};

/// What [`split_to_chunks`] hands on, in the order of the dump.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, each moved once")]
pub enum SplitItem {
    /// A table's definition, before its rows.
    Table(Arc<TableDef>),
    /// A chunk.
    Chunk(Chunk),
}

/// Cuts a dump (gzip or plain) into chunks and hands them on, one at a time: one chunk is in
/// memory beside what `sink` keeps.
///
/// Which rows are in which chunk depends on the dump's bytes and the chunk size alone, so that a
/// second pass makes the same chunks. Call it where blocking is allowed.
///
/// # Errors
/// Damaged, cut off or empty dumps; the sink's own error as [`ImportError::Sink`].
pub fn split_to_chunks(
    input: impl Read + Send,
    options: &SplitOptions,
    progress: &dyn ImportProgress,
    sink: &mut dyn FnMut(SplitItem) -> Result<(), SinkError>,
) -> Result<Manifest, ImportError> {
    let mut split = Split { options, sink, open: None, chunks: Vec::new() };
    let scan_options = ScanOptions {
        completion: options.completion,
        database: options.database.as_deref(),
        selection: &options.selection,
        schema_only: false,
        unpack_limit: options.unpack_limit,
        translate: &options.translate,
    };
    let tally = scan(input, &scan_options, progress, &mut |found| split.take(found))?;
    split.close()?;
    Ok(Manifest {
        tables: tally
            .tables
            .into_iter()
            .map(|table| TableManifest {
                definition: (*table.definition).clone(),
                rows: table.rows,
                rows_recounted: table.rows_recounted,
            })
            .collect(),
        chunks: split.chunks,
        summary: tally.summary,
        skipped: tally.skipped,
        warnings: tally.warnings,
    })
}

struct Split<'a> {
    options: &'a SplitOptions,
    sink: &'a mut dyn FnMut(SplitItem) -> Result<(), SinkError>,
    open: Option<ChunkBuilder>,
    chunks: Vec<ChunkEntry>,
}

impl Split<'_> {
    fn take(&mut self, found: Found<'_>) -> Result<(), ImportError> {
        match found {
            Found::Table(table) => self.send(SplitItem::Table(Arc::clone(table))),
            Found::Rows(batch) => {
                // A chunk is one table under one INSERT header. Compared by value: how often the
                // header is parsed anew is the dump's business.
                let fits = self.open.as_ref().is_some_and(|open| {
                    same(&open.table, &batch.table) && same(&open.insert, &batch.insert)
                });
                if !fits {
                    self.close()?;
                }
                let open = self.open.get_or_insert_with(|| {
                    ChunkBuilder::new(
                        batch.table,
                        batch.insert,
                        batch.offset,
                        self.options.chunk_size_bytes + FRAME_TARGET_BYTES,
                    )
                });
                open.push(batch.bytes, batch.rows);
                if open.len() >= self.options.chunk_size_bytes { self.close() } else { Ok(()) }
            }
        }
    }

    fn close(&mut self) -> Result<(), ImportError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let ordinal = i32::try_from(self.chunks.len()).unwrap_or(i32::MAX);
        let chunk = open.finish(self.options.import.clone(), ordinal);
        self.chunks.push(ChunkEntry {
            ordinal,
            table: relevo_mysqldump::ddl::table_name(&chunk.header.table),
            rows: chunk.header.rows,
            body_bytes: chunk.header.body_bytes,
            body_crc32: chunk.header.body_crc32,
        });
        self.send(SplitItem::Chunk(chunk))
    }

    fn send(&mut self, item: SplitItem) -> Result<(), ImportError> {
        (self.sink)(item).map_err(ImportError::Sink)
    }
}

fn same<T: PartialEq>(one: &Arc<T>, other: &Arc<T>) -> bool {
    Arc::ptr_eq(one, other) || one == other
}
