//! Rows that imports set aside: looked at, mended, loaded after all, or discarded by a person.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use relevo_pg::ident;
use serde::Serialize;
use sqlx::types::JsonValue;
use sqlx::{AssertSqlSafe, PgPool, Postgres, Transaction};

use crate::aside::REASON_MAX_CHARS;
use crate::error::ImportError;
use crate::ledger;

/// A row that an import set aside.
#[derive(Clone, Debug, Serialize, sqlx::FromRow)]
pub struct QuarantinedRow {
    /// Its number in this target.
    pub id: i64,
    /// The import.
    pub import_id: String,
    /// The schema of its table.
    pub schema: String,
    /// Its table.
    pub table_name: String,
    /// Values of the primary key, by column.
    pub row_key: JsonValue,
    /// Values by column, as text; NULL is null.
    pub data: JsonValue,
    /// Why it was refused, the last time.
    pub reason: String,
    /// Byte of the unpacked dump at which it begins; of a backup's chunk, at which the chunk does.
    pub dump_offset: i64,
    /// Its line in the dump, where that is known.
    pub dump_line: Option<i64>,
    /// `waiting`, `loaded` or `discarded`.
    pub state: String,
    /// When it was set aside.
    pub created_at: DateTime<Utc>,
    /// When a person last changed its values.
    pub edited_at: Option<DateTime<Utc>>,
    /// When it was loaded or discarded.
    pub ended_at: Option<DateTime<Utc>>,
}

/// Which rows are wanted.
#[derive(Clone, Debug, Default)]
pub struct QuarantineFilter {
    /// Of this import only.
    pub import: Option<String>,
    /// Of this table only.
    pub table: Option<String>,
    /// Those that are loaded or discarded too.
    pub ended: bool,
    /// Those behind this number.
    pub after: i64,
    /// At most so many.
    pub limit: i64,
}

/// Lists rows in the order in which they were set aside; none where there is no ledger.
///
/// # Errors
/// When the target cannot be reached.
pub async fn list(
    pool: &PgPool,
    filter: &QuarantineFilter,
) -> Result<Vec<QuarantinedRow>, ImportError> {
    let found = sqlx::query_as(
        "-- list_refused_rows
         SELECT q.id, q.import_id, i.schema, q.table_name, q.row_key, q.data, q.reason,
                q.dump_offset, q.dump_line, q.state, q.created_at, q.edited_at, q.ended_at
         FROM relevo_ledger.quarantine q JOIN relevo_ledger.import i ON i.id = q.import_id
         WHERE ($1::text IS NULL OR q.import_id = $1) AND ($2::text IS NULL OR q.table_name = $2)
           AND (q.state = 'waiting' OR $3) AND q.id > $4
           -- What an import that came to nothing set aside is of no use.
           AND i.state <> 'failed'
         ORDER BY q.id LIMIT $5",
    )
    .bind(&filter.import)
    .bind(&filter.table)
    .bind(filter.ended)
    .bind(filter.after)
    .bind(filter.limit)
    .fetch_all(pool)
    .await;
    match found {
        Ok(rows) => Ok(rows),
        Err(error) if ledger::is_missing_ledger(&error) => Ok(Vec::new()),
        Err(source) => Err(ImportError::database("reading the rows set aside", source)),
    }
}

/// One row.
///
/// # Errors
/// [`ImportError::NotQuarantined`] when there is none of this number.
pub async fn get(pool: &PgPool, id: i64) -> Result<QuarantinedRow, ImportError> {
    let filter = QuarantineFilter { ended: true, after: id - 1, limit: 1, ..Default::default() };
    let row = list(pool, &filter).await?.pop().filter(|row| row.id == id);
    row.ok_or(ImportError::NotQuarantined { row: id })
}

/// Changes values of a row that waits, by column; `None` is NULL.
///
/// # Errors
/// [`ImportError::NotQuarantined`] when it does not wait, [`ImportError::NoColumn`] for a column
/// that it does not have.
pub async fn edit(
    pool: &PgPool,
    id: i64,
    values: &BTreeMap<String, Option<String>>,
) -> Result<QuarantinedRow, ImportError> {
    let failed = |source| ImportError::database("changing a row set aside", source);
    let row = get(pool, id).await?;
    if let Some(column) = values.keys().find(|name| row.data.get(name.as_str()).is_none()) {
        return Err(ImportError::NoColumn { column: column.clone(), table: row.table_name });
    }
    let values = serde_json::to_value(values).unwrap_or_default();
    let changed = sqlx::query(
        "-- edit_refused_row
         UPDATE relevo_ledger.quarantine
         SET data = data || $2, edited_at = clock_timestamp(),
             row_key = row_key || (SELECT coalesce(jsonb_object_agg(key, value), '{}')
                                   FROM jsonb_each($2) WHERE row_key ? key)
         WHERE id = $1 AND state = 'waiting'",
    )
    .bind(id)
    .bind(values)
    .execute(pool)
    .await
    .map_err(failed)?;
    match changed.rows_affected() {
        1 => get(pool, id).await,
        _ => Err(ImportError::NotQuarantined { row: id }),
    }
}

/// Gives a row up.
///
/// # Errors
/// [`ImportError::NotQuarantined`] when it does not wait.
pub async fn discard(pool: &PgPool, id: i64) -> Result<(), ImportError> {
    let mut tx = begin(pool).await?;
    end(&mut tx, id, "discarded").await?;
    tx.commit().await.map_err(|source| ImportError::database("discarding a row", source))
}

/// Inserts a row into its table after all; the row and the note that it is loaded are one
/// transaction. A refusal is noted as the row's reason.
///
/// # Errors
/// [`ImportError::NotQuarantined`] when it does not wait, [`ImportError::TableReplaced`] when the
/// table is not that of the row's import any more, else the server's refusal.
pub async fn retry(pool: &PgPool, id: i64) -> Result<(), ImportError> {
    let mut row = get(pool, id).await?;
    let mut tx = begin(pool).await?;
    // Locked now: what is loaded is what the last edit left.
    row.data = end(&mut tx, id, "loaded").await?;
    match insert(&mut tx, &row).await {
        Ok(()) => tx
            .commit()
            .await
            .map_err(|source| ImportError::database("loading a row set aside", source)),
        Err(error) => {
            drop(tx);
            if matches!(error, ImportError::Target(_)) && !error.is_transient() {
                note_reason(pool, id, &error).await?;
            }
            Err(error)
        }
    }
}

async fn begin(pool: &PgPool) -> Result<Transaction<'static, Postgres>, ImportError> {
    pool.begin().await.map_err(|source| ImportError::database("beginning a transaction", source))
}

/// Ends a row that waits; whoever else is at it waits for us, and then finds it ended.
async fn end(
    tx: &mut Transaction<'static, Postgres>,
    id: i64,
    state: &str,
) -> Result<JsonValue, ImportError> {
    sqlx::query_scalar(
        "-- end_refused_row
         UPDATE relevo_ledger.quarantine SET state = $2, ended_at = clock_timestamp()
         WHERE id = $1 AND state = 'waiting'
         RETURNING data",
    )
    .bind(id)
    .bind(state)
    .fetch_optional(&mut **tx)
    .await
    .map_err(|source| ImportError::database("ending a row set aside", source))?
    .ok_or(ImportError::NotQuarantined { row: id })
}

async fn insert(
    tx: &mut Transaction<'static, Postgres>,
    row: &QuarantinedRow,
) -> Result<(), ImportError> {
    let what = || format!("loading row {} into {}", row.id, row.table_name);
    let failed = |source| ImportError::database(what(), source);
    // The lock keeps a cutover from exchanging the table under us.
    let table = ident::quote_qualified(&row.schema, &row.table_name);
    sqlx::query(AssertSqlSafe(format!(
        "-- lock_table_of_refused_row\nLOCK TABLE {table} IN ROW EXCLUSIVE MODE"
    )))
    .execute(&mut **tx)
    .await
    .map_err(failed)?;
    let present: bool = sqlx::query_scalar(
        "-- find_import_of_table
         SELECT coalesce((SELECT i.id = $1
                          FROM relevo_ledger.import i
                          JOIN relevo_ledger.import_table t ON t.import_id = i.id
                          WHERE i.schema = $2 AND t.table_name = $3 AND i.state = 'live'
                            AND i.rollback IS NULL
                          ORDER BY i.ended_at DESC LIMIT 1), false)",
    )
    .bind(&row.import_id)
    .bind(&row.schema)
    .bind(&row.table_name)
    .fetch_one(&mut **tx)
    .await
    .map_err(failed)?;
    if !present {
        return Err(ImportError::TableReplaced {
            row: row.id,
            table: row.table_name.clone(),
            import: row.import_id.clone(),
        });
    }
    let types: Vec<(String, String)> = sqlx::query_as(
        "-- list_column_types
         -- Without lengths: a cast would cut what is too long, whereas the column refuses it.
         SELECT attname::text, format_type(atttypid, -1) FROM pg_attribute
         WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped
           AND attgenerated = ''
         ORDER BY attnum",
    )
    .bind(&table)
    .fetch_all(&mut **tx)
    .await
    .map_err(failed)?;
    let given: Vec<&(String, String)> =
        types.iter().filter(|(name, _)| row.data.get(name).is_some()).collect();
    let columns: Vec<String> = given.iter().map(|(name, _)| ident::quote(name)).collect();
    let values: Vec<String> = given
        .iter()
        .map(|(name, pg_type)| format!("($1::jsonb ->> {})::{pg_type}", ident::literal(name)))
        .collect();
    let sql = format!(
        "-- load_refused_row\nINSERT INTO {table} ({}) SELECT {}",
        columns.join(", "),
        values.join(", ")
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(&row.data)
        .execute(&mut **tx)
        .await
        .map(|_| ())
        .map_err(failed)
}

async fn note_reason(pool: &PgPool, id: i64, error: &ImportError) -> Result<(), ImportError> {
    sqlx::query(
        "-- note_refusal
         UPDATE relevo_ledger.quarantine SET reason = $2 WHERE id = $1 AND state = 'waiting'",
    )
    .bind(id)
    .bind(error.chain().chars().take(REASON_MAX_CHARS).collect::<String>())
    .execute(pool)
    .await
    .map(|_| ())
    .map_err(|source| ImportError::database("noting a refusal", source))
}
