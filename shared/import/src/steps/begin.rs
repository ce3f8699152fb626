//! Beginning an import and making its tables.

use relevo_mysqldump::{TableDef, ddl};
use relevo_pg::cutover::CutoverError;
use relevo_pg::{PgError, ident, staging};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};

use crate::error::ImportError;
use crate::identity::{Fence, ImportId};
use crate::ledger;
use crate::options::ImportOptions;

/// What [`begin`] found.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Begun {
    /// Nothing was there; the staging schema is new.
    Fresh,
    /// An earlier attempt was cut short: tables and chunks that are there stay.
    Resumed {
        /// Chunks that are loaded already.
        chunks_done: u64,
    },
    /// The dump was already read to its end: only missing chunks and `finish` remain.
    Sealed,
    /// The import is live already: nothing remains.
    Live,
}

/// Begins an import, or takes it up again with a greater fence. The options count the first time;
/// afterwards those in the ledger hold ([`crate::steps::stored_options`]).
///
/// # Errors
/// [`ImportError::Fenced`] under a greater fence, [`ImportError::Ended`] when it was abandoned,
/// [`ImportError::OtherDump`] when the id belongs to another owner or schema, missing rights by
/// name.
pub async fn begin(
    pool: &PgPool,
    id: &ImportId,
    options: &ImportOptions,
    fence: Fence,
) -> Result<Begun, ImportError> {
    let mut connection = ledger::acquire(pool).await?;
    check_rights(&mut connection, options).await?;
    check_publications(&mut connection, options).await?;
    ledger::ensure(&mut connection).await?;
    let fresh = sqlx::query(
        "-- begin_import
         INSERT INTO relevo_ledger.import
             (id, owner, schema, staging, state, fence_incarnation, fence_job_id, fence_epoch, options)
         VALUES ($1, $2, $3, $4, 'loading', $5, $6, $7, $8)
         ON CONFLICT (id) DO NOTHING",
    )
    .bind(id.as_str())
    .bind(&options.owner)
    .bind(&options.schema)
    .bind(id.staging_schema())
    .bind(fence.incarnation)
    .bind(fence.job_id)
    .bind(fence.epoch)
    .bind(ledger::write(id, "options", options)?)
    .execute(&mut *connection)
    .await
    .map_err(|source| ImportError::database("beginning the import", source))?
    .rows_affected()
        == 1;
    drop(connection);
    let row = ledger::take_over(pool, id, fence).await?;
    let stored = row.options(id)?;
    if row.owner != options.owner || stored.schema != options.schema {
        return Err(ImportError::OtherDump {
            id: id.to_string(),
            difference: format!(
                "it belongs to {} and goes into schema {}",
                row.owner, stored.schema
            ),
        });
    }
    match row.state.as_str() {
        ledger::state::LIVE => return Ok(Begun::Live),
        ledger::state::SEALED => return Ok(Begun::Sealed),
        _ => {}
    }
    let mut connection = ledger::acquire(pool).await?;
    make_target_schema(&mut connection, id, &options.schema).await?;
    staging::create_schema(&mut connection, &id.staging_schema()).await?;
    if fresh {
        return Ok(Begun::Fresh);
    }
    let chunks_done = super::load_progress(pool, id).await?.chunks_done.len() as u64;
    Ok(Begun::Resumed { chunks_done })
}

/// Makes the schema that the tables go to, and notes that it is ours to take away again should
/// nothing come of the import.
pub(super) async fn make_target_schema(
    connection: &mut PgConnection,
    id: &ImportId,
    schema: &str,
) -> Result<(), ImportError> {
    if !staging::create_schema(connection, schema).await? {
        return Ok(());
    }
    sqlx::query(
        "-- note_made_schema
         UPDATE relevo_ledger.import SET made_schema = true WHERE id = $1",
    )
    .bind(id.as_str())
    .execute(connection)
    .await
    .map(|_| ())
    .map_err(|source| ImportError::database("noting the new schema", source))
}

/// Says before any work what would stop the import at its end.
async fn check_rights(
    connection: &mut PgConnection,
    options: &ImportOptions,
) -> Result<(), ImportError> {
    let (user, database, creates, standby, enters, writes): (
        String,
        String,
        bool,
        bool,
        Option<bool>,
        bool,
    ) = sqlx::query_as(
        "-- check_rights
         SELECT current_user::text, current_database()::text,
                has_database_privilege(current_database(), 'CREATE'),
                pg_is_in_recovery(),
                (SELECT has_schema_privilege(oid, 'CREATE') AND has_schema_privilege(oid, 'USAGE')
                 FROM pg_namespace WHERE nspname = $1),
                coalesce((SELECT has_schema_privilege(oid, 'USAGE')
                          FROM pg_namespace WHERE nspname = 'relevo_ledger'), true)",
    )
    .bind(&options.schema)
    .fetch_one(connection)
    .await
    .map_err(|source| ImportError::database("checking the target's rights", source))?;
    let quoted = ident::quote(&user);
    if standby {
        return Err(PgError::ReadOnly { address: format!("database {database}") }.into());
    }
    if !creates {
        return Err(PgError::MissingRights {
            what: format!(
                "role {user} may not create schemas in database {database}, where an import puts \
                 its rows first"
            ),
            remedy: format!("GRANT CREATE ON DATABASE {} TO {quoted}", ident::quote(&database)),
        }
        .into());
    }
    if enters == Some(false) {
        return Err(PgError::MissingRights {
            what: format!("role {user} may not create tables in schema {}", options.schema),
            remedy: format!(
                "GRANT USAGE, CREATE ON SCHEMA {} TO {quoted}",
                ident::quote(&options.schema)
            ),
        }
        .into());
    }
    if !writes {
        return Err(PgError::MissingRights {
            what: format!("role {user} may not use the ledger of earlier imports"),
            remedy: format!(
                "GRANT ALL ON SCHEMA relevo_ledger TO {quoted}; GRANT ALL ON ALL TABLES IN SCHEMA \
                 relevo_ledger TO {quoted}"
            ),
        }
        .into());
    }
    Ok(())
}

/// A publication of all tables would send the staged rows to its subscribers, which have no such
/// tables and stop.
async fn check_publications(
    connection: &mut PgConnection,
    options: &ImportOptions,
) -> Result<(), ImportError> {
    if options.cutover.mode.is_in_place() {
        return Ok(());
    }
    let publication: Option<String> = sqlx::query_scalar(
        "-- check_publications
         SELECT p.pubname::text FROM pg_publication p
         WHERE p.puballtables AND p.pubinsert
           AND EXISTS (SELECT FROM pg_replication_slots s
                       WHERE s.plugin = 'pgoutput' AND s.database = current_database())
         LIMIT 1",
    )
    .fetch_optional(connection)
    .await
    .map_err(|source| ImportError::database("looking at publications", source))?;
    match publication {
        None => Ok(()),
        Some(name) => Err(CutoverError::Entangled {
            objects: vec![format!(
                "publication {name} (it sends all tables to its subscribers, the staged ones too)"
            )],
        }
        .into()),
    }
}

/// Locks the import's row for the rest of the transaction, if `fence` is its fence and it is still
/// being loaded.
async fn lock_import(
    tx: &mut PgConnection,
    id: &ImportId,
    fence: Fence,
) -> Result<bool, ImportError> {
    sqlx::query_scalar::<_, String>(
        "-- lock_import
         SELECT id FROM relevo_ledger.import
         WHERE id = $1 AND state = 'loading'
           AND (fence_incarnation, fence_job_id, fence_epoch) = ($2, $3, $4)
         FOR NO KEY UPDATE",
    )
    .bind(id.as_str())
    .bind(fence.incarnation)
    .bind(fence.job_id)
    .bind(fence.epoch)
    .fetch_optional(tx)
    .await
    .map(|row| row.is_some())
    .map_err(|source| ImportError::database("locking the import", source))
}

/// Creates one table in the staging schema; a second call with the same definition changes
/// nothing.
///
/// # Errors
/// [`ImportError::OtherDump`] when it is there with another definition, [`ImportError::Fenced`] and
/// [`ImportError::Ended`] as everywhere; missing rights on the table it is to replace.
pub async fn create_table(
    pool: &PgPool,
    id: &ImportId,
    table: &TableDef,
    fence: Fence,
) -> Result<(), ImportError> {
    let options = ledger::get(pool, id).await?.options(id)?;
    let schema = id.staging_schema();
    let made = ddl::create_table(table, &schema, &options.translate);
    let what = || format!("creating table {}", made.table);
    let failed = |source| ImportError::database(what(), source);
    let definition = ledger::write(id, "table definition", table)?;

    let mut connection = ledger::acquire(pool).await?;
    let present = check_present(&mut connection, &options, &made.table).await?;
    let mut tx = connection.begin().await.map_err(failed)?;
    if !lock_import(&mut tx, id, fence).await? {
        drop(tx);
        return Err(ledger::why_refused(pool, id).await);
    }
    let same: Option<bool> = sqlx::query_scalar(
        "-- create_table
         SELECT definition = $3 FROM relevo_ledger.import_table
         WHERE import_id = $1 AND table_name = $2",
    )
    .bind(id.as_str())
    .bind(&made.table)
    .bind(&definition)
    .fetch_optional(&mut *tx)
    .await
    .map_err(failed)?;
    match same {
        Some(true) => return Ok(()),
        Some(false) => {
            return Err(ImportError::OtherDump {
                id: id.to_string(),
                difference: format!("table {} had another definition", made.table),
            });
        }
        None => {}
    }
    // No autovacuum in a staging table: it would hold the lock that the exchange needs.
    let quiet = format!(
        "ALTER TABLE {} SET (autovacuum_enabled = off)",
        ident::quote_qualified(&schema, &made.table)
    );
    tx.execute(AssertSqlSafe(made.sql.clone())).await.map_err(failed)?;
    tx.execute(AssertSqlSafe(format!("-- create_table\n{quiet}"))).await.map_err(failed)?;
    if present && options.cutover.mode.is_in_place() {
        leave_out_of_replication(&mut tx, &schema, &made.table).await?;
    }
    sqlx::query(
        "-- create_table
         INSERT INTO relevo_ledger.import_table (import_id, table_name, definition)
         VALUES ($1, $2, $3)",
    )
    .bind(id.as_str())
    .bind(&made.table)
    .bind(&definition)
    .execute(&mut *tx)
    .await
    .map_err(failed)?;
    tx.commit().await.map_err(failed)
}

/// Where a publication sends the rows of all tables to subscribers, staged rows that are merged into
/// a present table would be sent twice, the first time into a table that is not there. Rows that
/// are not logged are not sent.
async fn leave_out_of_replication(
    connection: &mut PgConnection,
    schema: &str,
    table: &str,
) -> Result<(), ImportError> {
    let failed = |source| ImportError::database("looking at publications", source);
    let publishes_all: bool = sqlx::query_scalar(
        "-- find_publication_of_all
         SELECT EXISTS (SELECT FROM pg_publication WHERE puballtables AND pubinsert)",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed)?;
    if publishes_all {
        let sql = format!(
            "-- leave_out_of_replication\nALTER TABLE {} SET UNLOGGED",
            ident::quote_qualified(schema, table)
        );
        connection.execute(AssertSqlSafe(sql)).await.map_err(failed)?;
    }
    Ok(())
}

/// Says early that the table to be replaced or changed is somebody else's, or no table. Returns
/// whether it is there.
async fn check_present(
    connection: &mut PgConnection,
    options: &ImportOptions,
    table: &str,
) -> Result<bool, ImportError> {
    let schema = &options.schema;
    let merge = options.cutover.mode.is_in_place();
    let present: Option<(bool, bool, String, String)> = sqlx::query_as(
        "-- check_present
         SELECT c.relkind = 'r' OR (c.relkind = 'p' AND $3),
                CASE WHEN $3 THEN has_table_privilege(c.oid, 'SELECT')
                                  AND has_table_privilege(c.oid, 'INSERT')
                                  AND has_table_privilege(c.oid, 'UPDATE')
                                  AND has_table_privilege(c.oid, 'DELETE')
                     ELSE pg_has_role(c.relowner, 'USAGE') END,
                pg_get_userbyid(c.relowner)::text, current_user::text
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = $2",
    )
    .bind(schema)
    .bind(table)
    .bind(merge)
    .fetch_optional(connection)
    .await
    .map_err(|source| ImportError::database("looking at the present tables", source))?;
    match present {
        Some((false, ..)) => Err(ImportError::Cutover(CutoverError::Entangled {
            objects: vec![format!("{schema}.{table} is not a table")],
        })),
        Some((true, false, _, user)) if merge => Err(PgError::MissingRights {
            what: format!("role {user} may not change the rows of {schema}.{table}"),
            remedy: format!(
                "GRANT SELECT, INSERT, UPDATE, DELETE ON {} TO {}",
                ident::quote_qualified(schema, table),
                ident::quote(&user)
            ),
        }
        .into()),
        Some((true, false, owner, user)) => Err(PgError::MissingRights {
            what: format!("role {user} may not replace table {schema}.{table} of role {owner}"),
            remedy: format!("GRANT {} TO {}", ident::quote(&owner), ident::quote(&user)),
        }
        .into()),
        Some(_) => Ok(true),
        None if options.existing_only => Err(CutoverError::Unmergeable {
            objects: vec![format!("table {schema}.{table} is not there")],
        }
        .into()),
        None => Ok(false),
    }
}
