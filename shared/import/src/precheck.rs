//! What would stop the import at its end, found before the long work; and broken keys in words.

use relevo_pg::cutover::{self, CutoverError, Exchange, InboundKey, survey};
use relevo_pg::{PgError, ident};
use sqlx::types::JsonValue;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use crate::error::ImportError;
use crate::identity::ImportId;
use crate::ledger;
use crate::manifest::Manifest;
use crate::options::ImportOptions;
use crate::plan::{self, OwnIndex};

/// Surveys what hangs on the present tables, and whether rows of tables outside the dump refer to
/// rows that the dump no longer holds.
pub(crate) async fn check(
    connection: &mut PgConnection,
    exchange: &Exchange,
    cancel: &CancellationToken,
) -> Result<(), ImportError> {
    let failed = |source| ImportError::database("surveying the present tables", source);
    let mut tx = connection.begin().await.map_err(failed)?;
    tx.execute("-- precheck\nSET LOCAL search_path = pg_catalog").await.map_err(failed)?;
    let survey = survey(&mut tx, exchange).await?;
    tx.rollback().await.map_err(failed)?;
    let mut objects = survey.obstacles;
    for key in survey.inbound.iter().filter(|key| key.validated) {
        if cancel.is_cancelled() {
            return Err(ImportError::Cancelled);
        }
        objects.extend(orphans(connection, exchange, key).await?);
    }
    if objects.is_empty() { Ok(()) } else { Err(CutoverError::Entangled { objects }.into()) }
}

async fn orphans(
    connection: &mut PgConnection,
    exchange: &Exchange,
    key: &InboundKey,
) -> Result<Option<String>, ImportError> {
    let filled: Vec<String> = key
        .columns
        .iter()
        .map(|column| format!("f.{} IS NOT NULL", ident::quote(column)))
        .collect();
    let equal: Vec<String> = key
        .columns
        .iter()
        .zip(&key.references_columns)
        .map(|(from, to)| format!("n.{} = f.{}", ident::quote(to), ident::quote(from)))
        .collect();
    let sql = format!(
        "-- count_orphans
         SELECT count(*) FROM {outside} AS f
         WHERE {filled} AND NOT EXISTS (SELECT FROM {staged} AS n WHERE {equal})",
        outside = key.table,
        filled = filled.join(" AND "),
        staged = ident::quote_qualified(&exchange.staging, &key.references),
        equal = equal.join(" AND "),
    );
    let label = format!("foreign key {} of {}", key.name, key.table);
    match sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).fetch_one(connection).await {
        Ok(0) => Ok(None),
        Ok(rows) => Ok(Some(format!(
            "{label} ({rows} of its rows refer to rows of {} that the dump does not hold)",
            key.references
        ))),
        Err(error) if !relevo_pg::error::is_transient(&error) => {
            let message = error
                .as_database_error()
                .map_or_else(|| error.to_string(), |answer| answer.message().to_owned());
            Ok(Some(format!("{label} ({message})")))
        }
        Err(source) => Err(PgError::database(format!("checking {label}"), source).into()),
    }
}

/// Indexes that the application put on the present tables, to be made on the new ones too.
///
/// They are those that the last import did not make. Where the ledger knows of no last import the
/// tables were made by others, and which of their indexes to keep cannot be told.
pub(crate) async fn own_indexes(
    connection: &mut PgConnection,
    id: &ImportId,
    options: &ImportOptions,
    manifest: &Manifest,
) -> Result<Vec<OwnIndex>, ImportError> {
    let failed = |source| ImportError::database("looking for the application's indexes", source);
    let last: Option<(JsonValue, JsonValue)> = sqlx::query_as(
        "-- find_last_import
         SELECT manifest, options FROM relevo_ledger.import
         WHERE schema = $1 AND state = 'live' AND rollback IS NULL AND id <> $2
         ORDER BY ended_at DESC LIMIT 1",
    )
    .bind(&options.schema)
    .bind(id.as_str())
    .fetch_optional(&mut *connection)
    .await
    .map_err(failed)?;
    let Some((last_manifest, last_options)) = last else { return Ok(Vec::new()) };
    let last_manifest: Manifest = ledger::read(id, "last manifest", last_manifest)?;
    // One made by a later version may have wanted what this one does not know.
    let Ok(last_options) = serde_json::from_value::<ImportOptions>(last_options) else {
        return Ok(Vec::new());
    };
    let mut made = plan::index_names(&last_manifest, &last_options);
    made.extend(plan::index_names(manifest, options));
    // A name that was taken got a suffix.
    made.extend(made.clone().iter().map(|name| ident::fit(name, cutover::RENAMED_SUFFIX)));
    let tables: Vec<String> = manifest.tables.iter().map(|table| table.name()).collect();
    sqlx::query_as(
        "-- list_own_indexes
         SELECT t.relname::text AS table, x.relname::text AS name,
                replace(pg_get_indexdef(x.oid),
                        format(' ON %I.%I USING ', $1, t.relname),
                        format(' ON %I.%I USING ', $2, t.relname)) AS sql
         FROM pg_index i
         JOIN pg_class x ON x.oid = i.indexrelid
         JOIN pg_class t ON t.oid = i.indrelid
         JOIN pg_namespace n ON n.oid = t.relnamespace
         WHERE n.nspname = $1 AND t.relname = ANY($3) AND NOT (x.relname = ANY($4))
           AND i.indisvalid AND t.relkind = 'r'
           AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.oid)
         ORDER BY t.relname, x.relname",
    )
    .bind(&options.schema)
    .bind(id.staging_schema())
    .bind(&tables)
    .bind(&made)
    .fetch_all(connection)
    .await
    .map_err(failed)
}

/// Which rows break a foreign key of the dump.
pub(crate) async fn broken_key(
    pool: &PgPool,
    id: &ImportId,
    table: String,
    name: String,
    source: sqlx::Error,
) -> ImportError {
    match find_orphans(pool, id, &table, &name).await {
        Ok(Some((orphans, sample))) => {
            ImportError::ForeignKey { table, constraint: name, orphans, sample }
        }
        // The server's own message names one of them.
        _ => ImportError::Build { table, name, source },
    }
}

async fn find_orphans(
    pool: &PgPool,
    id: &ImportId,
    table: &str,
    name: &str,
) -> Result<Option<(i64, String)>, sqlx::Error> {
    let staging = id.staging_schema();
    let key: Option<(Vec<String>, String, Vec<String>)> = sqlx::query_as(
        "-- describe_key
         SELECT (SELECT array_agg(a.attname::text ORDER BY key.place)
                 FROM unnest(k.conkey) WITH ORDINALITY AS key(attnum, place)
                 JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = key.attnum),
                t.relname::text,
                (SELECT array_agg(a.attname::text ORDER BY key.place)
                 FROM unnest(k.confkey) WITH ORDINALITY AS key(attnum, place)
                 JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = key.attnum)
         FROM pg_constraint k
         JOIN pg_class c ON c.oid = k.conrelid
         JOIN pg_class t ON t.oid = k.confrelid
         WHERE c.relnamespace = to_regnamespace($1) AND c.relname = $2 AND k.conname = $3",
    )
    .bind(ident::quote(&staging))
    .bind(table)
    .bind(name)
    .fetch_optional(pool)
    .await?;
    let Some((columns, references, references_columns)) = key else { return Ok(None) };
    let filled: Vec<String> =
        columns.iter().map(|column| format!("f.{} IS NOT NULL", ident::quote(column))).collect();
    let equal: Vec<String> = columns
        .iter()
        .zip(&references_columns)
        .map(|(from, to)| format!("n.{} = f.{}", ident::quote(to), ident::quote(from)))
        .collect();
    let sample: Vec<String> = columns
        .iter()
        .map(|column| {
            format!("format('%s = %s', {}, f.{})", ident::literal(column), ident::quote(column))
        })
        .collect();
    let sql = format!(
        "-- find_orphans
         SELECT count(*), min(concat_ws(', ', {sample}))
         FROM {from} AS f
         WHERE {filled} AND NOT EXISTS (SELECT FROM {to} AS n WHERE {equal})",
        sample = sample.join(", "),
        from = ident::quote_qualified(&staging, table),
        to = ident::quote_qualified(&staging, &references),
        filled = filled.join(" AND "),
        equal = equal.join(" AND "),
    );
    let (orphans, sample): (i64, Option<String>) =
        sqlx::query_as(AssertSqlSafe(sql)).fetch_one(pool).await?;
    Ok(sample.map(|sample| (orphans, sample)))
}
