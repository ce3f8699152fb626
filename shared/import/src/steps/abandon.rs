//! Giving an import up, and clearing away what was left behind.

use relevo_pg::{ident, session, staging};
use sqlx::{PgConnection, PgPool};

use crate::error::ImportError;
use crate::identity::ImportId;
use crate::ledger;

/// Owner of imports that a program runs by itself, without a control plane.
pub(crate) const DIRECT_OWNER: &str = "relevo dump import";

/// Gives an import up: marks it failed, ends the sessions that still write into its staging
/// schema, and drops that schema. A live import is left alone ([`crate::steps::certificate`] tells).
/// An unknown one is marked failed too, so that a late `begin` finds it ended.
///
/// # Errors
/// When the target cannot be reached or does not let go of the schema; a later [`sweep`] goes on.
pub async fn abandon(pool: &PgPool, id: &ImportId, reason: &str) -> Result<(), ImportError> {
    let mut connection = ledger::acquire(pool).await?;
    ledger::ensure(&mut connection).await?;
    let state: String = sqlx::query_scalar(
        "-- abandon_import
         INSERT INTO relevo_ledger.import AS i
             (id, owner, schema, staging, state, fence_incarnation, fence_job_id, fence_epoch,
              options, error, ended_at)
         VALUES ($1, '', '', $2, 'failed', 0, 0, 0, '{}', $3, clock_timestamp())
         ON CONFLICT (id) DO UPDATE
         SET state = CASE WHEN i.state = 'live' THEN i.state ELSE 'failed' END,
             error = CASE WHEN i.state IN ('live', 'failed') THEN i.error ELSE excluded.error END,
             ended_at = coalesce(i.ended_at, excluded.ended_at)
         RETURNING state",
    )
    .bind(id.as_str())
    .bind(id.staging_schema())
    .bind(reason)
    .fetch_one(&mut *connection)
    .await
    .map_err(|source| ImportError::database("abandoning the import", source))?;
    if state == ledger::state::FAILED {
        drop_staging(&mut connection, id).await?;
    }
    Ok(())
}

/// Drops an import's staging schema, and the trash of its cutover, from under whoever still writes.
pub(crate) async fn drop_staging(
    connection: &mut PgConnection,
    id: &ImportId,
) -> Result<(), ImportError> {
    for schema in [id.staging_schema(), id.trash_schema()] {
        let exists: bool = sqlx::query_scalar(
            "-- drop_staging
             SELECT to_regnamespace($1) IS NOT NULL",
        )
        .bind(ident::quote(&schema))
        .fetch_one(&mut *connection)
        .await
        .map_err(|source| ImportError::database("looking for the staging schema", source))?;
        if exists {
            session::end_holders(connection, &schema, &id.program()).await?;
            staging::drop_schema(connection, &schema).await?;
        }
    }
    Ok(())
}

/// Clears up after `owner`, and after direct imports whose program has ended: abandons each
/// unfinished import that is not in `live`, and drops staging and trash schemas that ended imports
/// left behind. Returns the imports that were abandoned.
///
/// # Errors
/// When the target cannot be reached; one schema that cannot be dropped does not stop the others,
/// the first such error is returned at the end.
pub async fn sweep(
    pool: &PgPool,
    owner: &str,
    live: &[ImportId],
) -> Result<Vec<ImportId>, ImportError> {
    let live: Vec<String> = live.iter().map(ToString::to_string).collect();
    // A running direct import holds an advisory lock named after it.
    let found: Result<Vec<(String, String)>, _> = sqlx::query_as(
        "-- sweep_imports
         SELECT i.id, i.state
         FROM relevo_ledger.import i
         WHERE ((i.owner = $1 AND i.owner <> $3)
                OR (i.owner = '' AND i.state = 'failed')
                OR (i.owner = $3 AND NOT EXISTS (
                        SELECT FROM pg_locks l
                        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                          AND ((l.classid::bigint << 32) | l.objid::bigint)
                              = hashtextextended('relevo import ' || i.id, 0))))
           AND NOT (i.id = ANY($2))
           AND (i.state IN ('loading', 'sealed')
                OR EXISTS (SELECT FROM pg_namespace
                           WHERE nspname IN (i.staging, 'relevo_trash_' || i.id)))
         ORDER BY i.begun_at",
    )
    .bind(owner)
    .bind(&live)
    .bind(DIRECT_OWNER)
    .fetch_all(pool)
    .await;
    let found = match found {
        Ok(found) => found,
        Err(error) if ledger::is_missing_ledger(&error) => return Ok(Vec::new()),
        Err(source) => return Err(ImportError::database("looking for left-over imports", source)),
    };
    let mut abandoned = Vec::new();
    let mut first_error = None;
    for (id, state) in found {
        let id = ImportId::new(id)?;
        let outcome = match state.as_str() {
            ledger::state::LOADING | ledger::state::SEALED => {
                abandon(pool, &id, "left behind by a process that ended").await
            }
            _ => {
                let mut connection = ledger::acquire(pool).await?;
                drop_staging(&mut connection, &id).await
            }
        };
        match outcome {
            Ok(()) if state == ledger::state::LIVE || state == ledger::state::FAILED => {}
            Ok(()) => abandoned.push(id),
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    first_error.map_or(Ok(abandoned), Err)
}
