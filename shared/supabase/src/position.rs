//! How far a table has been seen, and where the next look at it begins.

use sqlx::AssertSqlSafe;

use crate::catalog::{Table, iso};
use crate::error::SyncError;
use crate::store::{Store, Tx};

/// How far a page reaches.
#[derive(Debug, Clone)]
pub struct Mark {
    /// Version and id of its last row; without one the page was empty.
    pub last: Option<(String, String)>,
    /// The server's clock when it answered.
    pub server_time: Option<String>,
    /// Seconds in which late commits may still appear.
    pub overlap_seconds: u64,
    /// Whether the look began behind the overlap: only then may the floor move.
    pub deep: bool,
}

/// Moves the position to the end of a page that this transaction stores.
///
/// The floor never passes the server's clock less the overlap: a transaction that began before that
/// and commits later is still seen. Nor does a row dated into the future push it ahead.
pub(crate) async fn move_position(
    tx: &mut Tx,
    table: &Table,
    mark: &Mark,
) -> Result<(), SyncError> {
    let (at, id) = match &mark.last {
        Some((at, id)) => (Some(at), Some(id)),
        None => (None, None),
    };
    sqlx::query(
        "-- move_position
         WITH reached AS (
             SELECT $2::timestamptz AS at, $3::uuid AS id WHERE $2::timestamptz IS NOT NULL
             UNION ALL
             SELECT seen_at, seen_id FROM _sync_position WHERE table_name = $1
         ), seen AS (
             SELECT at, id FROM reached ORDER BY at DESC, id DESC LIMIT 1
         ), page_end AS (
             SELECT coalesce($2::timestamptz, seen.at) AS at, coalesce($3::uuid, seen.id) AS id
             FROM seen
         ), safe AS (
             SELECT coalesce($4::timestamptz, page_end.at) - make_interval(secs => $5) AS at
             FROM page_end
         )
         INSERT INTO _sync_position (table_name, seen_at, seen_id, floor_at, floor_id)
         SELECT $1, seen.at, seen.id, least(page_end.at, safe.at),
                CASE WHEN page_end.at <= safe.at THEN page_end.id
                     ELSE '00000000-0000-0000-0000-000000000000' END
         FROM seen, page_end, safe
         ON CONFLICT (table_name) DO UPDATE SET
             seen_at = excluded.seen_at, seen_id = excluded.seen_id,
             floor_at = CASE WHEN $6 THEN excluded.floor_at ELSE _sync_position.floor_at END,
             floor_id = CASE WHEN $6 THEN excluded.floor_id ELSE _sync_position.floor_id END",
    )
    .bind(&table.name)
    .bind(at)
    .bind(id)
    .bind(&mark.server_time)
    .bind(mark.overlap_seconds as f64)
    .bind(mark.deep)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Where the next look begins: behind the overlap, or where the last one ended.
///
/// # Errors
/// Those of the database.
pub async fn next(
    store: &Store,
    table: &Table,
    deep: bool,
) -> Result<Option<(String, String)>, SyncError> {
    let column = if deep { "floor" } else { "seen" };
    Ok(sqlx::query_as(AssertSqlSafe(format!(
        "-- position
         SELECT {}, {column}_id::text FROM _sync_position WHERE table_name = $1",
        iso(&format!("{column}_at"))
    )))
    .bind(&table.name)
    .fetch_optional(&store.pool)
    .await?)
}
