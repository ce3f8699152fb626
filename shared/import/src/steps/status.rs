//! What the ledger knows of an import.

use std::collections::BTreeSet;

use sqlx::PgPool;

use super::rollback::find_rollback;
use crate::certificate::Certificate;
use crate::error::ImportError;
use crate::identity::ImportId;
use crate::ledger;
use crate::manifest::Manifest;
use crate::options::ImportOptions;

/// How far an import is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ImportState {
    /// The dump is being read and loaded.
    Loading,
    /// The dump was read to its end.
    Sealed,
    /// Readers see it, or saw it until a later one.
    Live,
    /// What it had replaced was put back.
    RolledBack,
    /// Given up.
    Failed,
}

/// What is loaded so far.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct LoadProgress {
    /// Ordinals of the chunks that are committed.
    pub chunks_done: BTreeSet<i32>,
    /// Their rows.
    pub rows_done: u64,
}

/// The state of an import; `None` when the ledger does not know it.
///
/// # Errors
/// When the target cannot be reached.
pub async fn state(pool: &PgPool, id: &ImportId) -> Result<Option<ImportState>, ImportError> {
    let Some(row) = ledger::find(pool, id).await? else { return Ok(None) };
    Ok(Some(match row.state.as_str() {
        ledger::state::LIVE if find_rollback(pool, id).await?.is_some() => ImportState::RolledBack,
        ledger::state::LIVE => ImportState::Live,
        ledger::state::SEALED => ImportState::Sealed,
        ledger::state::LOADING => ImportState::Loading,
        _ => ImportState::Failed,
    }))
}

/// The options an import began with, which all its later steps follow; `None` when the ledger does
/// not know it or it was abandoned before it began.
///
/// # Errors
/// When the target cannot be reached.
pub async fn stored_options(
    pool: &PgPool,
    id: &ImportId,
) -> Result<Option<ImportOptions>, ImportError> {
    match ledger::find(pool, id).await? {
        Some(row) => row.options(id).map(Some),
        None => Ok(None),
    }
}

/// What is loaded so far; nothing for an import that the ledger does not know.
///
/// # Errors
/// When the target cannot be reached.
pub async fn load_progress(pool: &PgPool, id: &ImportId) -> Result<LoadProgress, ImportError> {
    let done: Result<Vec<(i32, i64)>, _> = sqlx::query_as(
        "-- load_progress
         SELECT ordinal, rows FROM relevo_ledger.import_chunk
         WHERE import_id = $1 AND state = 'done'",
    )
    .bind(id.as_str())
    .fetch_all(pool)
    .await;
    match done {
        Ok(done) => Ok(LoadProgress {
            rows_done: done.iter().map(|(_, rows)| rows.unsigned_abs()).sum(),
            chunks_done: done.into_iter().map(|(ordinal, _)| ordinal).collect(),
        }),
        Err(error) if ledger::is_missing_ledger(&error) => Ok(LoadProgress::default()),
        Err(source) => Err(ImportError::database("reading the chunks' ledger", source)),
    }
}

/// Ordinals of the manifest that are not loaded; none for a live import.
///
/// # Errors
/// [`ImportError::NotSealed`] before [`crate::steps::seal`].
pub async fn missing_chunks(pool: &PgPool, id: &ImportId) -> Result<Vec<i32>, ImportError> {
    let row = ledger::get(pool, id).await?;
    if row.state == ledger::state::LIVE {
        return Ok(Vec::new());
    }
    let manifest = row.manifest.ok_or_else(|| ImportError::NotSealed { id: id.to_string() })?;
    let manifest: Manifest = ledger::read(id, "manifest", manifest)?;
    let done = load_progress(pool, id).await?.chunks_done;
    Ok(manifest
        .chunks
        .iter()
        .map(|chunk| chunk.ordinal)
        .filter(|ordinal| !done.contains(ordinal))
        .collect())
}

/// The certificate of a live import.
///
/// # Errors
/// When the target cannot be reached.
pub async fn certificate(pool: &PgPool, id: &ImportId) -> Result<Option<Certificate>, ImportError> {
    match ledger::find(pool, id).await?.and_then(|row| row.certificate) {
        Some(certificate) => ledger::read(id, "certificate", certificate).map(Some),
        None => Ok(None),
    }
}
