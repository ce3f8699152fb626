//! The dump was read to its end.

use sqlx::PgPool;

use crate::error::ImportError;
use crate::identity::{Fence, ImportId};
use crate::ledger;
use crate::manifest::Manifest;

/// Records what the dump holds. A second call with the same manifest changes nothing.
///
/// # Errors
/// [`ImportError::Empty`] for a manifest without tables, [`ImportError::Fenced`] and
/// [`ImportError::Ended`] as everywhere.
pub async fn seal(
    pool: &PgPool,
    id: &ImportId,
    manifest: &Manifest,
    fence: Fence,
) -> Result<(), ImportError> {
    if manifest.tables.is_empty() {
        return Err(ImportError::Empty { hint: None });
    }
    let sealed = sqlx::query(
        "-- seal_import
         UPDATE relevo_ledger.import
         SET state = 'sealed', manifest = $5, sealed_at = coalesce(sealed_at, clock_timestamp())
         WHERE id = $1 AND state IN ('loading', 'sealed')
           AND (fence_incarnation, fence_job_id, fence_epoch) = ($2, $3, $4)",
    )
    .bind(id.as_str())
    .bind(fence.incarnation)
    .bind(fence.job_id)
    .bind(fence.epoch)
    .bind(ledger::write(id, "manifest", manifest)?)
    .execute(pool)
    .await
    .map_err(|source| ImportError::database("sealing the import", source))?;
    match sealed.rows_affected() {
        1 => Ok(()),
        _ => Err(ledger::why_refused(pool, id).await),
    }
}
