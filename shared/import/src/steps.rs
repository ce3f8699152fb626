//! The import's steps one by one.

use relevo_mysqldump::TableDef;
use sqlx::PgPool;
use tokio::io::AsyncRead;
use tokio_util::sync::CancellationToken;

use crate::certificate::Certificate;
use crate::error::ImportError;
use crate::identity::{Fence, ImportId};
use crate::manifest::Manifest;
use crate::options::{ChunkLimits, ImportOptions};
use crate::progress::ImportProgress;

/// What [`begin`] found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Begun {
    /// Nothing was there; the staging schema is new.
    Fresh,
    /// An earlier attempt was cut short: tables and chunks that are there stay.
    Resumed {
        /// Chunks that are loaded already.
        chunks_done: u64,
    },
    /// The dump was already read to its end: only missing chunks and `finish` remain.
    Sealed,
    /// The import is live already: nothing remains.
    Live,
}

/// What [`load_chunk`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChunkOutcome {
    /// Its rows and its ledger row are committed.
    Loaded {
        /// Rows.
        rows: u64,
        /// Bytes of COPY text.
        size_bytes: u64,
    },
    /// It was loaded before; nothing was changed.
    AlreadyDone {
        /// Rows it has.
        rows: u64,
    },
    /// A later writer holds the chunk; nothing was changed.
    Fenced,
}

/// Begins an import, or takes it up again with a greater fence.
///
/// # Errors
/// [`ImportError::Fenced`] under a greater fence, [`ImportError::Ended`] when it was abandoned,
/// missing rights by name.
pub async fn begin(
    _pool: &PgPool,
    _id: &ImportId,
    _options: &ImportOptions,
    _fence: Fence,
) -> Result<Begun, ImportError> {
    todo!()
}
/// Creates one table in the staging schema; a second call changes nothing.
///
/// # Errors
/// [`ImportError::OtherDump`] when it is there with another definition.
pub async fn create_table(
    _pool: &PgPool,
    _id: &ImportId,
    _table: &TableDef,
    _fence: Fence,
) -> Result<(), ImportError> {
    todo!()
}
/// Records that the dump was read to its end.
///
/// # Errors
/// As [`begin`].
pub async fn seal(
    _pool: &PgPool,
    _id: &ImportId,
    _manifest: &Manifest,
    _fence: Fence,
) -> Result<(), ImportError> {
    todo!()
}
/// Loads one chunk file ([`crate::Chunk::to_file`]) in one transaction with its ledger row.
///
/// # Errors
/// As in [`ImportError`]; nothing is committed then.
pub async fn load_chunk(
    _pool: &PgPool,
    _id: &ImportId,
    _ordinal: i32,
    _chunk: impl AsyncRead + Send + Unpin,
    _fence: Fence,
    _limits: ChunkLimits,
    _cancel: &CancellationToken,
) -> Result<ChunkOutcome, ImportError> {
    todo!()
}
/// Ordinals of the manifest that are not loaded.
///
/// # Errors
/// [`ImportError::NotSealed`] before [`seal`].
pub async fn missing_chunks(_pool: &PgPool, _id: &ImportId) -> Result<Vec<i32>, ImportError> {
    todo!()
}
/// Everything after the load, up to the certificate.
///
/// # Errors
/// [`ImportError::MissingChunks`] first of all.
pub async fn finish(
    _pool: &PgPool,
    _id: &ImportId,
    _fence: Fence,
    _progress: &dyn ImportProgress,
    _cancel: &CancellationToken,
) -> Result<Certificate, ImportError> {
    todo!()
}
/// Drops the staging schema and marks the import failed. Fine for unknown, ended and live imports.
///
/// # Errors
/// When the server cannot be reached.
pub async fn abandon(_pool: &PgPool, _id: &ImportId, _reason: &str) -> Result<(), ImportError> {
    todo!()
}
/// Abandons every unfinished import of `owner` that is not in `live`; returns the ids.
///
/// # Errors
/// When the server cannot be reached.
pub async fn sweep(
    _pool: &PgPool,
    _owner: &str,
    _live: &[ImportId],
) -> Result<Vec<ImportId>, ImportError> {
    todo!()
}
/// The certificate of a live import.
///
/// # Errors
/// When the server cannot be reached.
pub async fn certificate(
    _pool: &PgPool,
    _id: &ImportId,
) -> Result<Option<Certificate>, ImportError> {
    todo!()
}
