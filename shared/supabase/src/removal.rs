//! Rows that were deleted on one side.

use sqlx::AssertSqlSafe;

use crate::absorb::{is_of_a_row, settle_pending};
use crate::catalog::Table;
use crate::error::SyncError;
use crate::store::{Store, Tx};

/// What became of a local row that is gone remotely.
#[derive(Debug, PartialEq, Eq)]
pub enum Removed {
    /// It is gone here, too.
    Done,
    /// It has unsent changes: they decide first.
    Again,
    /// It stays, because others lead to it; the reason.
    Kept(String),
}

/// Both sides know that the rows are gone.
///
/// # Errors
/// Those of the database.
pub async fn forget(store: &Store, table: &Table, done: &[(String, i64)]) -> Result<(), SyncError> {
    let ids: Vec<&str> = done.iter().map(|(id, _)| id.as_str()).collect();
    let lasts: Vec<i64> = done.iter().map(|(_, last)| *last).collect();
    let mut tx = store.begin().await?;
    settle_pending(&mut tx, table, &ids, &lasts).await?;
    drop_base(&mut tx, table, &ids).await?;
    tx.commit().await?;
    Ok(())
}

async fn drop_base(tx: &mut Tx, table: &Table, ids: &[&str]) -> Result<(), SyncError> {
    sqlx::query(
        "-- drop_base
         WITH held AS (
             DELETE FROM _sync_held_down
             WHERE table_name = $1 AND record_id = ANY ($2::text[]::uuid[])
         )
         DELETE FROM _sync_base WHERE table_name = $1 AND record_id = ANY ($2::text[]::uuid[])",
    )
    .bind(&table.name)
    .bind(ids)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A row was changed here and deleted remotely: the deletion stands, and what it was here is kept
/// as a conflict. It is never sent anew by itself.
///
/// # Errors
/// Those of the database.
pub async fn deleted_remotely(
    store: &Store,
    tables: &[Table],
    table: &Table,
    id: &str,
) -> Result<Removed, SyncError> {
    let mut tx = store.begin().await?;
    let local: Option<(String, i64)> = sqlx::query_as(AssertSqlSafe(format!(
        "-- deleted_remotely
         SELECT to_jsonb(t)::text,
                coalesce((SELECT max(p.id) FROM _sync_pending p WHERE NOT p.synced
                          AND p.table_name = $2 AND p.record_id = t.id), 0)
         FROM {} t WHERE id = $1::uuid FOR UPDATE",
        table.path()
    )))
    .bind(id)
    .bind(&table.name)
    .fetch_optional(&mut *tx)
    .await?;
    let Some((local, last)) = local else { return Ok(Removed::Again) };
    if let Some(reason) = led_to(&mut tx, tables, table, id).await? {
        return Ok(Removed::Kept(reason));
    }
    sqlx::query(
        "-- deleted_remotely: what it was
         INSERT INTO _sync_conflict (table_name, record_id, kind, winner, loser, detail)
         VALUES ($1, $2::uuid, 'deleted_remotely', 'remote', $3::jsonb,
                 'changed here, deleted in Supabase meanwhile; deleted here too')",
    )
    .bind(&table.name)
    .bind(id)
    .bind(&local)
    .execute(&mut *tx)
    .await?;
    settle_pending(&mut tx, table, &[id], &[last]).await?;
    delete(tx, table, id).await
}

/// A row that nobody changed here was deleted remotely.
///
/// # Errors
/// Those of the database.
pub async fn remove(
    store: &Store,
    tables: &[Table],
    table: &Table,
    id: &str,
) -> Result<Removed, SyncError> {
    let mut tx = store.begin().await?;
    sqlx::query(AssertSqlSafe(format!(
        "-- remove\n SELECT id FROM {} WHERE id = $1::uuid FOR UPDATE",
        table.path()
    )))
    .bind(id)
    .execute(&mut *tx)
    .await?;
    let pending: bool = sqlx::query_scalar(
        "-- remove: rows with unsent changes are not deleted
         SELECT EXISTS (SELECT FROM _sync_pending
             WHERE NOT synced AND table_name = $1 AND record_id = $2::uuid)",
    )
    .bind(&table.name)
    .bind(id)
    .fetch_one(&mut *tx)
    .await?;
    if pending {
        return Ok(Removed::Again);
    }
    if let Some(reason) = led_to(&mut tx, tables, table, id).await? {
        return Ok(Removed::Kept(reason));
    }
    delete(tx, table, id).await
}

async fn delete(mut tx: Tx, table: &Table, id: &str) -> Result<Removed, SyncError> {
    let deleted = sqlx::query(AssertSqlSafe(format!(
        "-- delete\n DELETE FROM {} WHERE id = $1::uuid",
        table.path()
    )))
    .bind(id)
    .execute(&mut *tx)
    .await
    .map_err(SyncError::from);
    match deleted {
        Ok(_) => {
            drop_base(&mut tx, table, &[id]).await?;
            tx.commit().await?;
            Ok(Removed::Done)
        }
        Err(error) if is_of_a_row(&error) => Ok(Removed::Kept(error.line())),
        Err(error) => Err(error),
    }
}

/// Why a row can't be deleted without taking unsent changes of others with it.
async fn led_to(
    tx: &mut Tx,
    tables: &[Table],
    table: &Table,
    id: &str,
) -> Result<Option<String>, SyncError> {
    for child in tables {
        for reference in &child.references {
            if reference.table != table.name || reference.schema != table.schema {
                continue;
            }
            let unsent: bool = sqlx::query_scalar(AssertSqlSafe(format!(
                "-- led_to
                 SELECT EXISTS (SELECT FROM {} c JOIN _sync_pending p
                     ON p.table_name = $2 AND p.record_id = c.id AND NOT p.synced
                     WHERE c.{} = $1::uuid)",
                child.path(),
                relevo_pg::ident::quote(&reference.column)
            )))
            .bind(id)
            .bind(&child.name)
            .fetch_one(&mut **tx)
            .await?;
            if unsent {
                return Ok(Some(format!(
                    "it was deleted in Supabase, but rows of {} that lead to it have unsent changes",
                    child.name
                )));
            }
        }
    }
    Ok(None)
}
