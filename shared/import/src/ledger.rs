//! The target's ledger: its tables, and how a step reads an import from it.

use chrono::{DateTime, Utc};
use relevo_pg::PgError;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::types::JsonValue;
use sqlx::{Connection, Executor, PgConnection, PgPool};

use crate::error::ImportError;
use crate::identity::{Fence, ImportId};
use crate::options::ImportOptions;

/// States of an import in the ledger.
pub(crate) mod state {
    /// The dump is being read and loaded. Set by `begin`.
    pub(crate) const LOADING: &str = "loading";
    /// The dump was read to its end. Set by `seal`.
    pub(crate) const SEALED: &str = "sealed";
    /// Readers see it, or saw it until a later one. Set by the cutover.
    pub(crate) const LIVE: &str = "live";
    /// Given up; its staging schema is dropped. Set by `abandon`.
    pub(crate) const FAILED: &str = "failed";
}

/// Creates the ledger unless it is there, and adds what an older one lacks.
pub(crate) async fn ensure(connection: &mut PgConnection) -> Result<(), ImportError> {
    let what = "creating the import ledger (schema relevo_ledger)";
    let failed = |source| ImportError::database(what, source);
    let ready: bool = sqlx::query_scalar(
        "-- find_ledger
         SELECT to_regclass('relevo_ledger.quarantine') IS NOT NULL",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed)?;
    if ready {
        return Ok(());
    }
    // Two first imports at once: CREATE … IF NOT EXISTS alone is no protection.
    let mut tx = connection.begin().await.map_err(failed)?;
    sqlx::query(
        "-- lock_ledger\nSELECT pg_advisory_xact_lock(hashtextextended('relevo_ledger', 0))",
    )
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    tx.execute(include_str!("ledger.sql")).await.map_err(failed)?;
    tx.commit().await.map_err(failed)
}

/// One row of `relevo_ledger.import`.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct ImportRow {
    pub(crate) owner: String,
    pub(crate) state: String,
    pub(crate) options: JsonValue,
    pub(crate) manifest: Option<JsonValue>,
    pub(crate) certificate: Option<JsonValue>,
    pub(crate) begun_at: DateTime<Utc>,
    pub(crate) fence_incarnation: i64,
}

impl ImportRow {
    pub(crate) fn options(&self, id: &ImportId) -> Result<ImportOptions, ImportError> {
        read(id, "options", self.options.clone())
    }
}

/// Reads an import, `None` when the ledger or the import is not there.
pub(crate) async fn find(pool: &PgPool, id: &ImportId) -> Result<Option<ImportRow>, ImportError> {
    let found = sqlx::query_as(
        "-- find_import
         SELECT owner, state, options, manifest, certificate, begun_at, fence_incarnation
         FROM relevo_ledger.import WHERE id = $1",
    )
    .bind(id.as_str())
    .fetch_optional(pool)
    .await;
    match found {
        Ok(row) => Ok(row),
        Err(error) if is_missing_ledger(&error) => Ok(None),
        Err(source) => Err(ImportError::database("reading the import ledger", source)),
    }
}

/// Reads an import that has to be there.
pub(crate) async fn get(pool: &PgPool, id: &ImportId) -> Result<ImportRow, ImportError> {
    find(pool, id).await?.ok_or_else(|| ImportError::Unknown { id: id.to_string() })
}

/// Reads an import once whoever is changing it is through: a COMMIT whose answer was lost may still
/// be on its way.
pub(crate) async fn get_settled(pool: &PgPool, id: &ImportId) -> Result<ImportRow, ImportError> {
    let failed = |source| ImportError::database("waiting for the import ledger", source);
    let mut tx = pool.begin().await.map_err(failed)?;
    tx.execute("-- wait_for_import\nSET LOCAL lock_timeout = '60s'").await.map_err(failed)?;
    sqlx::query("-- wait_for_import\nSELECT FROM relevo_ledger.import WHERE id = $1 FOR SHARE")
        .bind(id.as_str())
        .execute(&mut *tx)
        .await
        .map_err(failed)?;
    tx.commit().await.map_err(failed)?;
    get(pool, id).await
}

/// Takes an import over: sets its fence to `fence` unless a later writer holds it. One that is live
/// is returned as it is, unless an earlier incarnation of the control plane made it: a control
/// plane restored from a backup counts its runs once more, and must not take the old ones for its
/// own.
pub(crate) async fn take_over(
    pool: &PgPool,
    id: &ImportId,
    fence: Fence,
) -> Result<ImportRow, ImportError> {
    let taken: Option<ImportRow> = sqlx::query_as(
        "-- take_over_import
         UPDATE relevo_ledger.import
         SET fence_incarnation = $2, fence_job_id = $3, fence_epoch = $4
         WHERE id = $1 AND state IN ('loading', 'sealed')
           AND (fence_incarnation, fence_job_id, fence_epoch) <= ($2, $3, $4)
         RETURNING owner, state, options, manifest, certificate, begun_at, fence_incarnation",
    )
    .bind(id.as_str())
    .bind(fence.incarnation)
    .bind(fence.job_id)
    .bind(fence.epoch)
    .fetch_optional(pool)
    .await
    .map_err(|source| ImportError::database("taking over the import", source))?;
    if let Some(row) = taken {
        return Ok(row);
    }
    let row = get(pool, id).await?;
    match row.state.as_str() {
        state::LIVE if row.fence_incarnation < fence.incarnation => {
            Err(ImportError::EarlierIncarnation {
                id: id.to_string(),
                incarnation: row.fence_incarnation,
            })
        }
        state::LIVE => Ok(row),
        state::FAILED => Err(ended(id, &row.state)),
        _ => Err(ImportError::Fenced { id: id.to_string() }),
    }
}

/// The error for an import that is over.
pub(crate) fn ended(id: &ImportId, state: &str) -> ImportError {
    ImportError::Ended { id: id.to_string(), state: state.to_owned() }
}

/// Why a statement that named fence and state changed no row.
pub(crate) async fn why_refused(pool: &PgPool, id: &ImportId) -> ImportError {
    match get(pool, id).await {
        Ok(row) if matches!(row.state.as_str(), state::LIVE | state::FAILED) => {
            ended(id, &row.state)
        }
        Ok(_) => ImportError::Fenced { id: id.to_string() },
        Err(error) => error,
    }
}

/// Whether a statement failed because there is no ledger yet, or none that knows such things.
pub(crate) fn is_missing_ledger(error: &sqlx::Error) -> bool {
    // undefined_table, invalid_schema_name, and undefined_column in the ledger of an older version
    matches!(relevo_pg::error::sqlstate(error).as_deref(), Some("42P01" | "3F000" | "42703"))
}

/// Reads a JSON column.
pub(crate) fn read<T: DeserializeOwned>(
    id: &ImportId,
    what: &'static str,
    value: JsonValue,
) -> Result<T, ImportError> {
    serde_json::from_value(value).map_err(|source| ImportError::Ledger {
        id: id.to_string(),
        what,
        source,
    })
}

/// Writes a JSON column. NUL characters, which `jsonb` cannot hold, are replaced: they occur in
/// reports of odd dumps only.
pub(crate) fn write<T: Serialize>(
    id: &ImportId,
    what: &'static str,
    value: &T,
) -> Result<JsonValue, ImportError> {
    let failed = |source| ImportError::Ledger { id: id.to_string(), what, source };
    let mut value = serde_json::to_value(value).map_err(failed)?;
    replace_nul(&mut value);
    Ok(value)
}

fn replace_nul(value: &mut JsonValue) {
    match value {
        JsonValue::String(text) if text.contains('\0') => *text = text.replace('\0', "\u{fffd}"),
        JsonValue::Array(items) => items.iter_mut().for_each(replace_nul),
        JsonValue::Object(fields) => fields.values_mut().for_each(replace_nul),
        _ => {}
    }
}

/// Acquires a connection of the pool.
pub(crate) async fn acquire(
    pool: &PgPool,
) -> Result<sqlx::pool::PoolConnection<sqlx::Postgres>, ImportError> {
    pool.acquire().await.map_err(|source| {
        ImportError::Target(PgError::database("getting a connection to the target", source))
    })
}
