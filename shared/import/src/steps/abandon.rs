//! Giving an import up, and clearing away what was left behind.

use std::time::{Duration, Instant};

use relevo_pg::{PgError, cutover, ident, session, staging};
use sqlx::{AssertSqlSafe, Executor as _, PgConnection, PgPool};

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
/// When the target cannot be reached or does not let go of the schema; [`leftovers`] lists it from
/// then on.
pub async fn abandon(pool: &PgPool, id: &ImportId, reason: &str) -> Result<(), ImportError> {
    let mut connection = ledger::acquire(pool).await?;
    match ledger::ensure(&mut connection).await {
        // Who may not make the ledger has begun no import there, and will begin none.
        Err(error) if error.is_missing_rights() => return Ok(()),
        made => made?,
    }
    let mut marked = mark_failed(&mut connection, id, reason).await;
    if matches!(&marked, Err(error) if error.is_disk_full()) {
        // What fills the disk may be its own rows: without them there is room for the word.
        drop_staging(&mut connection, id).await?;
        marked = mark_failed(&mut connection, id, reason).await;
    }
    if marked? == ledger::state::FAILED {
        drop_staging(&mut connection, id).await?;
    }
    Ok(())
}

/// Marks an import failed unless it is live; the state it is in then.
async fn mark_failed(
    connection: &mut PgConnection,
    id: &ImportId,
    reason: &str,
) -> Result<String, ImportError> {
    sqlx::query_scalar(
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
    .fetch_one(connection)
    .await
    .map_err(|source| ImportError::database("abandoning the import", source))
}

/// How long a running pg_dump may hold up dropping a schema, which a later [`leftovers`] then lists.
const BACKUP_WAIT: Duration = Duration::from_secs(30);

/// Waits until no pg_dump runs that may have listed the tables and not locked them yet.
async fn wait_for_backups(connection: &mut PgConnection, schema: &str) -> Result<(), ImportError> {
    let started = Instant::now();
    while cutover::backup_runs(connection).await? {
        if started.elapsed() >= BACKUP_WAIT {
            return Err(ImportError::Target(PgError::Timeout {
                what: format!("waiting for a running pg_dump before dropping schema {schema}"),
                seconds: BACKUP_WAIT.as_secs(),
            }));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
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
            wait_for_backups(connection, &schema).await?;
            session::end_holders(connection, &schema, &id.program()).await?;
            staging::drop_schema(connection, &schema).await?;
        }
    }
    drop_made_schema(connection, id).await
}

/// Drops the target schema that a failed import made, unless something is in it by now.
async fn drop_made_schema(connection: &mut PgConnection, id: &ImportId) -> Result<(), ImportError> {
    let block = format!(
        "DECLARE
           made text;
         BEGIN
           UPDATE relevo_ledger.import SET made_schema = false
           WHERE id = {id} AND state = 'failed' AND made_schema RETURNING schema INTO made;
           IF to_regnamespace(quote_ident(made)) IS NOT NULL THEN
             EXECUTE format('DROP SCHEMA %I', made);
           END IF;
         EXCEPTION WHEN dependent_objects_still_exist OR insufficient_privilege THEN NULL;
         END",
        id = ident::literal(id.as_str()),
    );
    let sql = format!("-- drop_made_schema\nDO {}", ident::literal(&block));
    connection
        .execute(AssertSqlSafe(sql))
        .await
        .map(|_| ())
        .map_err(|source| ImportError::database("dropping the schema that was made", source))
}

/// What an import left in the target, as it stood when it was listed.
#[derive(Clone, Debug, Eq, PartialEq, sqlx::FromRow)]
pub struct Leftover {
    #[sqlx(try_from = "String")]
    import: ImportId,
    owner: String,
    state: String,
    fence_incarnation: i64,
    fence_job_id: i64,
    fence_epoch: i64,
    source: Option<String>,
}

impl Leftover {
    /// The import.
    #[must_use]
    pub fn import(&self) -> &ImportId {
        &self.import
    }

    /// Whether it is not finished: its owner may be at work on it.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        matches!(&*self.state, ledger::state::LOADING | ledger::state::SEALED)
    }
}

/// Lists unfinished imports of `owner`, direct imports whose program has ended, and ended ones
/// whose schemas are still there.
///
/// The caller then looks which of them are at work, and calls [`clear`] for the others. In this
/// order: an import that begins after the list was read is not on it.
///
/// # Errors
/// When the target cannot be reached.
pub async fn leftovers(pool: &PgPool, owner: &str) -> Result<Vec<Leftover>, ImportError> {
    // A running direct import holds an advisory lock named after it.
    let found: Result<Vec<Leftover>, _> = sqlx::query_as(
        "-- list_leftovers
         SELECT i.id AS import, i.owner, i.state, i.fence_incarnation, i.fence_job_id,
                i.fence_epoch, to_jsonb(i) ->> 'source' AS source  -- an older ledger has none
         FROM relevo_ledger.import i
         WHERE ((i.owner = $1 AND i.owner <> $2)
                OR (i.owner = '' AND i.state = 'failed')
                OR (i.owner = $2 AND NOT EXISTS (
                        SELECT FROM pg_locks l
                        WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
                          AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                          AND ((l.classid::bigint << 32) | l.objid::bigint)
                              = hashtextextended('relevo import ' || i.id, 0))))
           AND (i.state IN ('loading', 'sealed')
                OR EXISTS (SELECT FROM pg_namespace
                           WHERE nspname IN (i.staging, 'relevo_trash_' || i.id)))
         ORDER BY i.begun_at",
    )
    .bind(owner)
    .bind(DIRECT_OWNER)
    .fetch_all(pool)
    .await;
    match found {
        Ok(found) => Ok(found),
        Err(error) if ledger::is_missing_ledger(&error) => Ok(Vec::new()),
        Err(source) => Err(ImportError::database("looking for left-over imports", source)),
    }
}

/// Gives up an unfinished import of the list and drops what it left, unless it was taken up again
/// since: then nothing is changed. Of an ended one the schemas are dropped. Returns whether an
/// import was given up.
///
/// # Errors
/// When the target cannot be reached or does not let go of a schema; the next list holds it again.
pub async fn clear(pool: &PgPool, leftover: &Leftover) -> Result<bool, ImportError> {
    let mut connection = ledger::acquire(pool).await?;
    if leftover.is_unfinished() {
        // The row's lock and its fence decide, not the list: whoever took it up meanwhile has
        // raised the fence.
        let given_up = sqlx::query(
            "-- clear_leftover
             UPDATE relevo_ledger.import
             SET state = 'failed', error = 'left behind by a process that ended',
                 ended_at = clock_timestamp()
             WHERE id = $1 AND owner = $2 AND state IN ('loading', 'sealed')
               AND (fence_incarnation, fence_job_id, fence_epoch) = ($3, $4, $5)",
        )
        .bind(leftover.import.as_str())
        .bind(&leftover.owner)
        .bind(leftover.fence_incarnation)
        .bind(leftover.fence_job_id)
        .bind(leftover.fence_epoch)
        .execute(&mut *connection)
        .await
        .map_err(|source| ImportError::database("giving up a left-over import", source))?;
        if given_up.rows_affected() == 0 {
            return Ok(false);
        }
    }
    drop_staging(&mut connection, &leftover.import).await?;
    Ok(leftover.is_unfinished())
}

/// Clears up after direct imports whose program has ended, but for unfinished ones of the source
/// `spared`. One that cannot be cleared up does not stop the others; the first such error is
/// returned at the end.
pub(crate) async fn sweep_direct(pool: &PgPool, spared: Option<&str>) -> Result<(), ImportError> {
    let mut first_error = None;
    for leftover in leftovers(pool, DIRECT_OWNER).await? {
        if spared.is_some() && leftover.is_unfinished() && leftover.source.as_deref() == spared {
            continue;
        }
        if let Err(error) = clear(pool, &leftover).await {
            first_error.get_or_insert(error);
        }
    }
    first_error.map_or(Ok(()), Err)
}
