//! The cutover that changes rows in place: which tables it concerns, and what goes with it.

use std::collections::BTreeSet;

use relevo_mysqldump::ddl;
use relevo_pg::cutover::{CutoverError, Exchange, Merge, Statement, plan_merge};
use relevo_pg::ident;
use sqlx::{Connection, Executor, PgConnection};

use crate::error::ImportError;
use crate::identity::ImportId;
use crate::manifest::Manifest;
use crate::options::{CutoverMode, ImportOptions};

/// Which tables of the dump stand in the target.
pub(super) async fn present_tables(
    connection: &mut PgConnection,
    options: &ImportOptions,
    manifest: &Manifest,
) -> Result<BTreeSet<String>, ImportError> {
    let names: Vec<String> = manifest.tables.iter().map(|table| table.name()).collect();
    let present: Vec<String> = sqlx::query_scalar(
        "-- list_present_tables
         SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind IN ('r', 'p')",
    )
    .bind(&options.schema)
    .bind(&names)
    .fetch_all(connection)
    .await
    .map_err(|source| ImportError::database("listing the present tables", source))?;
    Ok(present.into_iter().collect())
}

/// The merge of the tables that are `kept`; `fresh` moves in those that the target does not have,
/// and makes the dump's views and sequences.
pub(super) fn merge_of(
    id: &ImportId,
    options: &ImportOptions,
    manifest: &Manifest,
    kept: &BTreeSet<String>,
    fresh: Exchange,
) -> Merge {
    let definitions = manifest.definitions();
    let mut after = Vec::new();
    let mut follow_up = Vec::new();
    // Made in the staging schema, the keys of new tables would lead to the staged rows.
    let post_load = ddl::post_load(&definitions, &options.schema, &options.translate);
    for key in post_load.statements {
        if key.phase != ddl::Phase::ForeignKey || kept.contains(&key.table) {
            continue;
        }
        let label = format!("foreign key {} of {}.{}", key.name, options.schema, key.table);
        after.push(Statement::new(&*label, format!("{} NOT VALID", key.sql)));
        follow_up.push(Statement::new(
            label,
            format!(
                "ALTER TABLE {} VALIDATE CONSTRAINT {}",
                ident::quote_qualified(&options.schema, &key.table),
                ident::quote(&key.name)
            ),
        ));
    }
    for table in definitions.iter().filter(|table| kept.contains(&ddl::table_name(table))) {
        follow_up.extend(ddl::identity_setval(table, &options.schema, &options.translate).map(
            |sql| Statement::new(format!("next identity value of {}", ddl::table_name(table)), sql),
        ));
    }
    Merge {
        target: options.schema.clone(),
        staging: id.staging_schema(),
        tables: kept.iter().cloned().collect(),
        keep_others: options.cutover.mode == CutoverMode::Upsert,
        fresh: (!fresh.tables.is_empty() || !fresh.after_move.is_empty()).then_some(fresh),
        after,
        follow_up,
    }
}

/// Says before the long work what would refuse the rows.
pub(super) async fn check(connection: &mut PgConnection, merge: &Merge) -> Result<(), ImportError> {
    let failed = |source| ImportError::database("looking at the present tables", source);
    let mut tx = connection.begin().await.map_err(failed)?;
    tx.execute("-- check_merge\nSET LOCAL search_path = pg_catalog").await.map_err(failed)?;
    let plan = plan_merge(&mut tx, merge).await?;
    tx.rollback().await.map_err(failed)?;
    if plan.obstacles.is_empty() {
        return Ok(());
    }
    Err(CutoverError::Unmergeable { objects: plan.obstacles }.into())
}
