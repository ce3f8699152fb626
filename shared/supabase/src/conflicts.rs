//! What lost against another version or could not be sent: to be read and restored.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use sqlx::types::Json;
use sqlx::{AssertSqlSafe, PgPool};

use crate::catalog::{self, iso};
use crate::config::Config;
use crate::error::SyncError;
use crate::status::ready;

/// Conflicts of one list.
const LIST_MAX: i64 = 200;

/// One record.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub struct Conflict {
    /// Its number.
    pub id: i64,
    /// The table.
    pub table_name: String,
    /// The row.
    pub record_id: String,
    /// `both_changed`, `deleted_remotely`, `deleted_locally`, `unique` or `rejected`.
    pub kind: String,
    /// `local`, `remote`, or `nobody` while it waits for a person.
    pub winner: String,
    /// What happened.
    pub detail: String,
    /// When.
    pub created_at: String,
    /// When it was settled by a person, or by itself.
    pub resolved_at: Option<String>,
    /// The version that lost.
    pub loser: Option<Json<Box<RawValue>>>,
    /// The version that won.
    pub winner_data: Option<Json<Box<RawValue>>>,
}

fn columns() -> String {
    format!(
        "id, table_name, record_id::text AS record_id, kind, winner, detail, \
         {} AS created_at, {} AS resolved_at, loser, winner_data",
        iso("created_at"),
        iso("resolved_at")
    )
}

/// The newest conflicts, those that wait for a person first.
///
/// # Errors
/// Those of the database.
pub async fn list(pool: &PgPool, open_only: bool) -> Result<Vec<Conflict>, SyncError> {
    ready(pool).await?;
    Ok(sqlx::query_as(AssertSqlSafe(format!(
        "-- list
         SELECT {} FROM _sync_conflict
         WHERE NOT $1 OR (winner = 'nobody' AND resolved_at IS NULL)
         ORDER BY (winner = 'nobody' AND resolved_at IS NULL) DESC, id DESC LIMIT $2",
        columns()
    )))
    .bind(open_only)
    .bind(LIST_MAX)
    .fetch_all(pool)
    .await?)
}

/// One of them.
///
/// # Errors
/// [`SyncError::NotFound`].
pub async fn show(pool: &PgPool, id: i64) -> Result<Conflict, SyncError> {
    ready(pool).await?;
    sqlx::query_as(AssertSqlSafe(format!(
        "-- show\n SELECT {} FROM _sync_conflict WHERE id = $1",
        columns()
    )))
    .bind(id)
    .fetch_optional(pool)
    .await?
    .ok_or_else(|| SyncError::NotFound(format!("there is no conflict {id}")))
}

/// Makes the version that lost the row's content again: a local change like any other, which is
/// sent. What could not be sent is tried again.
///
/// # Errors
/// [`SyncError::NotFound`], and what the database has against it.
pub async fn restore(pool: &PgPool, config: &Config, id: i64) -> Result<Conflict, SyncError> {
    let conflict = show(pool, id).await?;
    let mut tx = pool.begin().await?;
    if conflict.winner == "nobody" {
        sqlx::query(
            "-- restore: tried again, whatever it waits for
             DELETE FROM _sync_held_up WHERE table_name = $1 AND record_id = $2::uuid",
        )
        .bind(&conflict.table_name)
        .bind(&conflict.record_id)
        .execute(&mut *tx)
        .await?;
    } else {
        let schema = &config.local_postgres.schema;
        let names = [conflict.table_name.clone()];
        let mut tables = catalog::read(pool, schema, &names).await?;
        let lost = conflict.loser.as_ref().filter(|loser| loser.get().starts_with('{'));
        let (Some(table), Some(lost)) = (tables.first_mut(), lost) else {
            return Err(SyncError::NotFound(format!(
                "conflict {id} keeps no version that could be restored"
            )));
        };
        // Columns that the version doesn't know stay as they are.
        let known: BTreeMap<String, IgnoredAny> = serde_json::from_str(lost.get())
            .map_err(|error| SyncError::Answer(format!("conflict {id}: {error}")))?;
        table.shared.retain(|column| known.contains_key(column));
        let path = table.path();
        // The record is read where it lies: its numbers are larger than this program's.
        let row = format!(
            "(SELECT (jsonb_populate_record(NULL::{path}, c.loser)).*
              FROM _sync_conflict c WHERE c.id = $1)"
        );
        let updated = sqlx::query(AssertSqlSafe(format!(
            "-- restore: the row as it was
             UPDATE {path} t SET {} FROM {row} r WHERE t.id = r.id",
            table.assignments("r")
        )))
        .bind(id)
        .execute(&mut *tx)
        .await?;
        if updated.rows_affected() == 0 {
            sqlx::query(AssertSqlSafe(format!(
                "-- restore: the row is gone
                 INSERT INTO {path} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {row} r",
                table.insert_list(""),
                table.insert_list("r.")
            )))
            .bind(id)
            .execute(&mut *tx)
            .await?;
        }
    }
    sqlx::query(
        "-- restore: settled\n UPDATE _sync_conflict SET resolved_at = now() WHERE id = $1",
    )
    .bind(id)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(conflict)
}
