//! After the cutover: what may take its time, and what is left over.

use relevo_pg::ident;
use sqlx::{AssertSqlSafe, Executor, PgPool};
use tokio_util::sync::CancellationToken;

use super::abandon::drop_staging;
use crate::build::{Builder, Task, Work};
use crate::error::ImportError;
use crate::identity::{Fence, ImportId};
use crate::ledger;
use crate::options::ImportOptions;
use crate::progress::{ImportProgress, NoProgress, Phase, ProgressEvent};

/// Ended imports of a schema whose rows in the ledger are kept, certificates included.
const IMPORTS_KEPT: i64 = 50;

/// Runs what the cutover left for later, drops the staging and the trash schema, vacuums, and
/// prunes the ledger. Nothing here can undo the import: what fails is reported in the certificate,
/// and [`crate::steps::leftovers`] lists
/// the schemas for the next try.
pub(crate) async fn clean(
    pool: &PgPool,
    id: &ImportId,
    options: &ImportOptions,
    progress: &dyn ImportProgress,
    cancel: &CancellationToken,
) -> Result<(), ImportError> {
    let mut notices = follow_up(pool, id).await?;
    let mut connection = ledger::acquire(pool).await?;
    if let Err(error) = drop_staging(&mut connection, id).await {
        notices.push(format!(
            "left-over schemas of the import could not be dropped yet: {}",
            error.chain()
        ));
    }
    drop(connection);
    if options.vacuum
        && let Err(error) = vacuum(pool, id, options, progress, cancel).await
    {
        notices.push(format!("VACUUM was not finished: {}", error.chain()));
    }
    prune(pool, id, options).await?;
    for notice in &notices {
        progress.report(ProgressEvent::Notice(notice));
    }
    add_notices(pool, id, &notices).await
}

/// Does what is left of an import that is live, where its own finish ended before it was through;
/// does nothing where nothing is left, or where the import is not live.
///
/// # Errors
/// When the target cannot be reached or fails.
pub async fn settle(pool: &PgPool, id: &ImportId) -> Result<(), ImportError> {
    let Some(row) = ledger::find(pool, id).await? else { return Ok(()) };
    if row.state != ledger::state::LIVE {
        return Ok(());
    }
    let left: bool = sqlx::query_scalar(
        "-- find_unsettled
         SELECT follow_up <> '[]'
             OR to_regnamespace($2) IS NOT NULL OR to_regnamespace($3) IS NOT NULL
         FROM relevo_ledger.import WHERE id = $1",
    )
    .bind(id.as_str())
    .bind(ident::quote(&id.staging_schema()))
    .bind(ident::quote(&id.trash_schema()))
    .fetch_one(pool)
    .await
    .map_err(|source| ImportError::database("looking for what a cutover left", source))?;
    if left {
        let options = row.options(id)?;
        clean(pool, id, &options, &NoProgress, &CancellationToken::new()).await?;
    }
    Ok(())
}

/// Runs the statements that the cutover left, each once.
async fn follow_up(pool: &PgPool, id: &ImportId) -> Result<Vec<String>, ImportError> {
    let failed = |source| ImportError::database("following up the cutover", source);
    let left: sqlx::types::JsonValue = sqlx::query_scalar(
        "-- list_follow_up
         SELECT follow_up FROM relevo_ledger.import WHERE id = $1",
    )
    .bind(id.as_str())
    .fetch_one(pool)
    .await
    .map_err(failed)?;
    let left: Vec<(String, String)> = ledger::read(id, "follow-up", left)?;
    let mut notices = Vec::new();
    for (label, sql) in &left {
        if let Err(error) = run_follow_up(pool, sql).await {
            if relevo_pg::error::is_transient(&error) {
                return Err(failed(error));
            }
            let message = error
                .as_database_error()
                .map_or_else(|| error.to_string(), |answer| answer.message().to_owned());
            notices.push(format!("{label}: after the cutover, this failed: {sql} ({message})"));
        }
    }
    if !left.is_empty() {
        sqlx::query(
            "-- end_follow_up
             UPDATE relevo_ledger.import SET follow_up = '[]' WHERE id = $1",
        )
        .bind(id.as_str())
        .execute(pool)
        .await
        .map_err(failed)?;
    }
    Ok(notices)
}

/// Runs one statement of those that may take their time.
pub(super) async fn run_follow_up(pool: &PgPool, sql: &str) -> Result<(), sqlx::Error> {
    pool.execute(AssertSqlSafe(format!("-- follow_up\n{sql}"))).await.map(|_| ())
}

/// Sets hint bits and visibility maps, so that the first readers need not, and index-only scans
/// work from the start.
async fn vacuum(
    pool: &PgPool,
    id: &ImportId,
    options: &ImportOptions,
    progress: &dyn ImportProgress,
    cancel: &CancellationToken,
) -> Result<(), ImportError> {
    let Some(certificate) = super::certificate(pool, id).await? else { return Ok(()) };
    let mut tables = certificate.tables;
    tables.sort_by_key(|table| std::cmp::Reverse(table.stats.bytes_out));
    let tasks = tables
        .into_iter()
        .filter(|table| table.rows_target > 0)
        .map(|table| Task {
            phase: Phase::Clean,
            work: Work::Run {
                sql: format!(
                    "VACUUM (SKIP_LOCKED) {}",
                    ident::quote_qualified(&options.schema, &table.table)
                ),
            },
            name: "vacuum".to_owned(),
            table: table.table,
            exclusive: true,
            optional: false,
        })
        .collect();
    let builder =
        Builder { pool, id, fence: Fence::default(), jobs: options.finish_jobs, progress, cancel };
    builder.run(tasks).await.map(|_| ())
}

/// Forgets the chunks and steps of ended imports, and the oldest imports of the schema. One stays
/// as long as rows that it set aside wait for a table that is still its own: another import of the
/// schema may have been of other tables.
async fn prune(pool: &PgPool, id: &ImportId, options: &ImportOptions) -> Result<(), ImportError> {
    let failed = |source| ImportError::database("pruning the import ledger", source);
    for statement in [
        "-- prune_ledger
         DELETE FROM relevo_ledger.import_chunk c USING relevo_ledger.import i
         WHERE i.id = c.import_id AND i.schema = $1 AND i.id <> $2 AND i.state IN ('live', 'failed')
           AND $3::bigint > 0",
        "-- prune_ledger
         DELETE FROM relevo_ledger.import_step s USING relevo_ledger.import i
         WHERE i.id = s.import_id AND i.schema = $1 AND i.id <> $2 AND i.state IN ('live', 'failed')
           AND $3::bigint > 0",
        "-- prune_ledger
         DELETE FROM relevo_ledger.import i
         WHERE i.id IN (SELECT id FROM relevo_ledger.import
                        WHERE schema IN ($1, '') AND id <> $2 AND state IN ('live', 'failed')
                        ORDER BY ended_at DESC OFFSET $3)
           AND NOT EXISTS (
               SELECT FROM relevo_ledger.quarantine q
               WHERE q.import_id = i.id AND q.state = 'waiting'
                 AND i.state = 'live' AND i.rollback IS NULL
                 AND NOT EXISTS (
                     SELECT FROM relevo_ledger.import later
                     JOIN relevo_ledger.import_table t ON t.import_id = later.id
                     WHERE later.schema = i.schema AND t.table_name = q.table_name
                       AND later.state = 'live' AND later.rollback IS NULL
                       AND later.ended_at > i.ended_at))",
    ] {
        sqlx::query(statement)
            .bind(&options.schema)
            .bind(id.as_str())
            .bind(IMPORTS_KEPT)
            .execute(pool)
            .await
            .map_err(failed)?;
    }
    Ok(())
}

async fn add_notices(pool: &PgPool, id: &ImportId, notices: &[String]) -> Result<(), ImportError> {
    if notices.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "-- add_notices
         UPDATE relevo_ledger.import
         SET certificate = jsonb_set(certificate, '{notices}', (certificate -> 'notices') || $2)
         WHERE id = $1 AND certificate IS NOT NULL",
    )
    .bind(id.as_str())
    .bind(ledger::write(id, "notices", &notices)?)
    .execute(pool)
    .await
    .map(|_| ())
    .map_err(|source| ImportError::database("adding to the certificate", source))
}
