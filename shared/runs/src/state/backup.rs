//! Saving the state: one snapshot, table by table.
//!
//! Killed here, then what? A file `….part` is left, which the next backup overwrites; nothing in the
//! database has changed.

use std::path::Path;

use futures::TryStreamExt as _;
use serde::Serialize;
use sqlx::{Connection as _, PgConnection, PgPool, Row as _};

use super::StateError;
use super::archive::{End, Header, Table, Writer};
use crate::control_plane::{self, SchemaStatus};

/// Tables that belong to the present only: bookkeeping that a restore makes anew, and sessions.
const LEFT_OUT: [&str; 4] = ["migration", "session", "console_session", "console_link"];

/// The history of ended jobs, by far the largest table.
const HISTORY: &str = "job_history";

/// Settings under which COPY writes every value as any server reads it.
pub(super) const PLAIN_VALUES: &str = "-- state: plain values
    SELECT set_config('datestyle', 'ISO', true), set_config('intervalstyle', 'postgres', true),
           set_config('timezone', 'UTC', true), set_config('extra_float_digits', '3', true),
           set_config('statement_timeout', '0', true),
           set_config('idle_in_transaction_session_timeout', '10min', true)";

/// The tables of the schema with what can be written into them; referenced ones come before those
/// that refer to them.
const TABLES: &str = "-- state: list tables
    WITH RECURSIVE plain AS (
        SELECT c.oid, c.relname::text AS name FROM pg_class AS c
        WHERE c.relnamespace = 'relevo'::regnamespace AND c.relkind IN ('r', 'p')
          AND NOT c.relispartition
    ), ordered (oid, name, depth) AS (
        SELECT oid, name, 0 FROM plain
        UNION
        SELECT p.oid, p.name, o.depth + 1
        FROM ordered AS o
        JOIN pg_constraint AS f ON f.confrelid = o.oid AND f.contype = 'f' AND f.conrelid <> o.oid
        JOIN plain AS p ON p.oid = f.conrelid
        WHERE o.depth < 20
    )
    SELECT o.name,
           (SELECT array_agg(a.attname::text ORDER BY a.attnum) FROM pg_attribute AS a
            WHERE a.attrelid = o.oid AND a.attnum > 0 AND NOT a.attisdropped
              AND a.attgenerated = '') AS columns
    FROM ordered AS o
    GROUP BY o.oid, o.name
    ORDER BY max(o.depth), o.name";

/// What a backup holds.
#[derive(Clone, Debug, Serialize)]
pub struct BackedUp {
    /// What it says of itself.
    #[serde(flatten)]
    pub header: Header,
    /// Its rows.
    pub rows: u64,
    /// The file's size in bytes.
    pub size_bytes: u64,
}

/// Saves the state into a file, which takes its place when it is whole; one that was there before is
/// replaced. Nobody has to stop for it. The history of ended jobs, which nothing depends on, is left
/// out unless `history`.
///
/// # Errors
/// [`StateError`]; the file is then as it was.
pub async fn backup(pool: &PgPool, path: &Path, history: bool) -> Result<BackedUp, StateError> {
    // A connection of its own, closed at the end whatever happens: its settings go with it.
    let mut connection = pool.acquire().await.map_err(StateError::database("connecting"))?.detach();
    let outcome = backup_on(&mut connection, path, history).await;
    // Nothing depends on how the server takes the farewell.
    let _ = connection.close().await;
    outcome
}

async fn backup_on(
    connection: &mut PgConnection,
    path: &Path,
    history: bool,
) -> Result<BackedUp, StateError> {
    let mut tx = connection
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await
        .map_err(StateError::database("beginning the snapshot"))?;
    // In the snapshot: a migration may commit at any moment.
    if control_plane::status_on(&mut tx).await.map_err(StateError::database("looking at it"))?
        != SchemaStatus::Current
    {
        return Err(StateError::NotCurrent);
    }
    sqlx::query(PLAIN_VALUES)
        .execute(&mut *tx)
        .await
        .map_err(StateError::database("beginning the snapshot"))?;
    let (cluster_id, incarnation, taken_at) = sqlx::query_as(
        "-- state::backup: identity
        SELECT cluster_id, incarnation, now() FROM relevo.control",
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(StateError::database("reading who it is"))?;
    let header =
        Header::new(control_plane::newest_known(), cluster_id, incarnation, taken_at, history);
    let mut writer = Writer::create(path, &header)?;
    let end = match save(&mut tx, &mut writer, history).await {
        Ok(end) => end,
        Err(error) => {
            writer.discard();
            return Err(error);
        }
    };
    let rows = end.rows.values().sum();
    let size_bytes = writer.finish(&end)?;
    Ok(BackedUp { header, rows, size_bytes })
}

async fn save(
    tx: &mut PgConnection,
    writer: &mut Writer,
    history: bool,
) -> Result<End, StateError> {
    let mut end = End::default();
    let tables = sqlx::query(TABLES)
        .fetch_all(&mut *tx)
        .await
        .map_err(StateError::database("listing its tables"))?;
    for row in tables {
        let table: String = row.try_get("name").map_err(StateError::database("listing"))?;
        let columns: Vec<String> =
            row.try_get("columns").map_err(StateError::database("listing"))?;
        if LEFT_OUT.contains(&&*table) || (table == HISTORY && !history) {
            continue;
        }
        let table = Table { table, columns };
        let rows = save_table(tx, writer, &table).await?;
        end.rows.insert(table.table, rows);
    }
    let sequences: Vec<(String, i64, bool)> = sqlx::query_as(
        "-- state::backup: sequences
        SELECT sequencename::text, coalesce(last_value, start_value), last_value IS NOT NULL
        FROM pg_sequences WHERE schemaname = 'relevo'",
    )
    .fetch_all(&mut *tx)
    .await
    .map_err(StateError::database("reading its sequences"))?;
    end.sequences.extend(sequences.into_iter().map(|(name, value, used)| (name, (value, used))));
    Ok(end)
}

async fn save_table(
    tx: &mut PgConnection,
    writer: &mut Writer,
    table: &Table,
) -> Result<u64, StateError> {
    let what = || StateError::database(format!("reading its table {}", table.table));
    writer.begin_table(table)?;
    let list = column_list(&table.columns);
    let sql = format!(
        "-- state::backup: table\nCOPY (SELECT {list} FROM relevo.{}) TO STDOUT",
        quote(&table.table)
    );
    let mut rows = 0_u64;
    let mut stream = tx.copy_out_raw(&sql).await.map_err(what())?;
    while let Some(bytes) = stream.try_next().await.map_err(what())? {
        rows += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        writer.rows(&bytes)?;
    }
    drop(stream);
    writer.end_table()?;
    Ok(rows)
}

pub(super) fn column_list(columns: &[String]) -> String {
    columns.iter().map(|column| quote(column)).collect::<Vec<_>>().join(", ")
}

pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
