//! Restoring the state: one transaction, and a new incarnation.
//!
//! Killed here, then what? Nothing has happened until the commit; after it everything has.

use std::path::Path;

use relevo_jobs::JobKind;
use relevo_queue::{JobId, Queue};
use serde::Serialize;
use serde_json::json;
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};

use super::StateError;
use super::archive::{End, Header, Item, Reader, Table};
use super::backup::{PLAIN_VALUES, column_list, quote};
use super::whole::in_one_transaction;
use crate::audit::{self, Action, Actor};
use crate::control_plane;

/// Bytes of rows sent at a time.
const SEND_BYTES: usize = 1 << 20;

/// Rounds in which the jobs of runs that were under way are cancelled: the last one of a batch may
/// bring forth its completion job.
const CANCEL_ROUNDS_MAX: usize = 10;

/// What is to be restored, and how.
#[derive(Clone, Copy, Debug)]
pub struct Restore<'a> {
    /// The file.
    pub path: &'a Path,
    /// Puts a control plane that has been used aside, instead of refusing.
    pub replace: bool,
    /// Pauses every queue, so that somebody can look before jobs run again.
    pub pause: bool,
    /// Who does it, for the audit log.
    pub by: &'a Actor,
}

/// What a restore came to.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    /// What the backup said of itself.
    pub backup: Header,
    /// Rows restored.
    pub rows: u64,
    /// The incarnation that has begun.
    pub incarnation: i64,
    /// The schema that holds what was there before.
    pub replaced_schema: Option<String>,
    /// Runs that were under way: workers end them as their targets say.
    pub runs_to_be_ended: i64,
    /// Jobs that were running or waiting and will run (again).
    pub jobs_waiting: i64,
    /// Jobs of the runs that were under way; cancelled.
    pub jobs_cancelled: u64,
    /// Queues that are paused.
    pub queues_paused: Vec<String>,
}

/// Restores a backup into the database of this pool, whose connections should not be used for
/// anything else afterwards: what they have learnt of the tables is not true any more. No process
/// may be at work on the control plane.
///
/// # Errors
/// [`StateError`]; nothing has changed then.
pub async fn restore(pool: &PgPool, order: Restore<'_>) -> Result<Restored, StateError> {
    // A connection of its own, closed at the end whatever happens: locks and settings go with it.
    let mut connection = pool.acquire().await.map_err(StateError::database("connecting"))?.detach();
    let outcome = restore_on(pool, &mut connection, order).await;
    // Nothing depends on how the server takes the farewell.
    let _ = connection.close().await;
    outcome
}

async fn restore_on(
    pool: &PgPool,
    connection: &mut PgConnection,
    order: Restore<'_>,
) -> Result<Restored, StateError> {
    // The whole file first: a damaged one is found before anything is touched.
    let (header, end) = Reader::check(order.path)?;
    if !control_plane::MIGRATIONS.version_exists(header.schema_version) {
        return Err(StateError::Newer { version: header.schema_version });
    }
    control_plane::lock(connection, control_plane::LOCK_WAIT).await?;
    let mut tx = connection.begin().await.map_err(StateError::database("beginning"))?;
    execute(&mut tx, "preparing the session", PLAIN_VALUES).await?;
    let replaced = put_aside(&mut tx, order.replace).await?;
    control_plane::create_schema(&mut tx).await?;
    migrate_to(&mut tx, Some(header.schema_version)).await?;
    let rows = fill(&mut tx, order.path, &end).await?;
    migrate_to(&mut tx, None).await?;
    if let Some(replaced) = &replaced {
        carry_grants(&mut tx, &replaced.schema).await?;
    }

    let queue = Queue::new(pool.clone());
    let last = replaced.as_ref().map_or(0, |replaced| replaced.incarnation);
    let incarnation = begin_incarnation(&mut tx, last).await?;
    let jobs_cancelled = cancel_jobs_of_runs(&mut tx, &queue).await?;
    let (runs_to_be_ended, jobs_waiting) = sqlx::query_as(
        "-- state::restore: count
        SELECT (SELECT count(*) FROM relevo.run WHERE state IN ('pending', 'running')),
               (SELECT count(*) FROM relevo.job)",
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(StateError::database("counting"))?;
    let queues_paused = if order.pause { pause_all(&mut tx, &queue).await? } else { Vec::new() };
    let action = Action {
        action: "state.restore",
        object: &header.cluster_id,
        before: Some(json!({ "incarnation": header.incarnation, "taken_at": header.taken_at })),
        after: Some(json!({ "incarnation": incarnation })),
    };
    audit::record_in(&mut tx, order.by, action)
        .await
        .map_err(StateError::database("writing the audit log"))?;
    tx.commit().await.map_err(StateError::database("committing"))?;
    Ok(Restored {
        backup: header,
        rows,
        incarnation,
        replaced_schema: replaced.map(|replaced| replaced.schema),
        runs_to_be_ended,
        jobs_waiting,
        jobs_cancelled,
        queues_paused,
    })
}

async fn execute(
    tx: &mut PgConnection,
    what: &'static str,
    sql: &'static str,
) -> Result<u64, StateError> {
    let done = sqlx::query(sql).execute(tx).await.map_err(StateError::database(what))?;
    Ok(done.rows_affected())
}

/// A control plane that was put aside.
struct Replaced {
    schema: String,
    incarnation: i64,
}

/// Renames a schema `relevo` that is there, unless it is in use, or was used and is not to be
/// replaced. Nothing is dropped: somebody may have chosen the wrong database.
async fn put_aside(tx: &mut PgConnection, replace: bool) -> Result<Option<Replaced>, StateError> {
    let looking = || StateError::database("looking at what is there");
    let (exists, whole): (bool, bool) = sqlx::query_as(
        "-- state::restore: present
        SELECT to_regnamespace('relevo') IS NOT NULL,
               to_regclass('relevo.control') IS NOT NULL
               AND to_regclass('relevo.session') IS NOT NULL
               AND to_regclass('relevo.leader_lease') IS NOT NULL",
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(looking())?;
    if !exists {
        return Ok(None);
    }
    let mut incarnation = 0;
    if whole {
        let (sessions, leaders): (i64, i64) = sqlx::query_as(
            "-- state::restore: at work
            SELECT (SELECT count(*) FROM relevo.session
                    WHERE ended_at IS NULL AND heartbeat_at > clock_timestamp() - ttl),
                   (SELECT count(*) FROM relevo.leader_lease
                    WHERE expires_at > clock_timestamp())",
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(looking())?;
        if sessions + leaders > 0 {
            return Err(StateError::InUse(format!(
                "{sessions} worker(s) and {leaders} scheduler(s) are"
            )));
        }
        let (cluster_id, known, runs, used): (String, i64, i64, bool) = sqlx::query_as(
            "-- state::restore: used
            SELECT cluster_id, incarnation, (SELECT count(*) FROM relevo.run),
                   EXISTS (SELECT FROM relevo.run) OR EXISTS (SELECT FROM relevo.job)
                   OR EXISTS (SELECT FROM relevo.job_history) OR EXISTS (SELECT FROM relevo.api_key)
                   OR EXISTS (SELECT FROM relevo.dead_letter)
            FROM relevo.control",
        )
        .fetch_one(&mut *tx)
        .await
        .map_err(looking())?;
        if used && !replace {
            return Err(StateError::Occupied { cluster_id, runs });
        }
        incarnation = known;
    }
    let schema: String = sqlx::query_scalar(
        "-- state::restore: name
        SELECT 'relevo_replaced_' || to_char(clock_timestamp(), 'YYYYMMDD\"t\"HH24MISS')",
    )
    .fetch_one(&mut *tx)
    .await
    .map_err(looking())?;
    let sql = format!("-- state::restore: put aside\nALTER SCHEMA relevo RENAME TO {schema}");
    sqlx::query(AssertSqlSafe(sql))
        .execute(&mut *tx)
        .await
        .map_err(StateError::database("putting aside what is there"))?;
    Ok(Some(Replaced { schema, incarnation }))
}

/// What was granted on a schema that was put aside, its tables and `enqueue`, as statements for the
/// one in its place.
const GRANTS: &str = "-- state::restore: grants
    WITH granted AS (
        SELECT 'SCHEMA relevo' AS place, nspowner AS owner, nspacl AS acl
        FROM pg_namespace WHERE nspname = $1
        UNION ALL
        SELECT format('relevo.%I', relname), relowner, relacl
        FROM pg_class
        WHERE relnamespace = to_regnamespace($1) AND relkind IN ('r', 'p', 'v')
          AND to_regclass(format('relevo.%I', relname)) IS NOT NULL
        UNION ALL
        SELECT 'FUNCTION relevo.enqueue', proowner, proacl
        FROM pg_proc WHERE pronamespace = to_regnamespace($1) AND proname = 'enqueue'
    )
    SELECT DISTINCT format('GRANT %s ON %s TO %s%s', a.privilege_type, g.place,
                           CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END,
                           CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM granted AS g, aclexplode(g.acl) AS a
    WHERE a.grantee <> g.owner";

/// Gives others the rights that they had on what was put aside: an application whose triggers
/// enqueue could not change its own tables without them.
async fn carry_grants(tx: &mut PgConnection, replaced: &str) -> Result<(), StateError> {
    let failed = || StateError::database("granting what was granted before");
    let grants: Vec<String> =
        sqlx::query_scalar(GRANTS).bind(replaced).fetch_all(&mut *tx).await.map_err(failed())?;
    for grant in grants {
        let sql = format!("-- state::restore: grant\n{grant}");
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *tx).await.map_err(failed())?;
    }
    Ok(())
}

/// Brings the schema to a version of this build, or to its newest.
async fn migrate_to(tx: &mut PgConnection, version: Option<i64>) -> Result<(), StateError> {
    let mut migrator = Migrator::with_migrations(in_one_transaction(version));
    migrator.dangerous_set_table_name(control_plane::BOOKKEEPING_TABLE);
    migrator.set_locking(false);
    let outcome = migrator.run_direct(None, tx, false).await;
    outcome.map_err(|error| control_plane::explain(error, control_plane::LOCK_WAIT))?;
    Ok(())
}

/// Fills the tables from the file, which was found whole before.
async fn fill(tx: &mut PgConnection, path: &Path, end: &End) -> Result<u64, StateError> {
    // What the migrations put there comes from the file as well.
    for table in end.rows.keys() {
        let sql = format!("-- state::restore: clear\nDELETE FROM relevo.{}", quote(table));
        sqlx::query(AssertSqlSafe(sql))
            .execute(&mut *tx)
            .await
            .map_err(StateError::database(format!("clearing its table {table}")))?;
    }
    let (mut reader, _) = Reader::open(path)?;
    let mut rows = 0;
    while let Item::Table(table) = reader.item()? {
        rows += fill_table(tx, &mut reader, &table).await?;
    }
    for (sequence, (value, used)) in &end.sequences {
        sqlx::query(
            "-- state::restore: sequence
            SELECT setval(format('relevo.%I', $1)::regclass, $2, $3)",
        )
        .bind(sequence)
        .bind(value)
        .bind(used)
        .execute(&mut *tx)
        .await
        .map_err(StateError::database(format!("setting its sequence {sequence}")))?;
    }
    Ok(rows)
}

async fn fill_table(
    tx: &mut PgConnection,
    reader: &mut Reader,
    table: &Table,
) -> Result<u64, StateError> {
    let what = || StateError::database(format!("filling its table {}", table.table));
    let list = column_list(&table.columns);
    let sql = format!(
        "-- state::restore: table\nCOPY relevo.{} ({list}) FROM STDIN",
        quote(&table.table)
    );
    let mut copy = tx.copy_in_raw(&sql).await.map_err(what())?;
    let mut pending: Vec<u8> = Vec::with_capacity(SEND_BYTES);
    // A file that cannot be read any more ends the connection, and the transaction with it.
    while let Some(row) = reader.row()? {
        pending.extend_from_slice(row);
        if pending.len() >= SEND_BYTES {
            copy.send(&*pending).await.map_err(what())?;
            pending.clear();
        }
    }
    copy.send(&*pending).await.map_err(what())?;
    copy.finish().await.map_err(what())
}

/// Makes a new incarnation of what was restored; its number.
///
/// The clock is part of it: the same backup may be restored twice, and what came of the first time
/// is not known to the second.
async fn begin_incarnation(tx: &mut PgConnection, replaced: i64) -> Result<i64, StateError> {
    let incarnation: i64 = sqlx::query_scalar(
        "-- state::restore: incarnation
        UPDATE relevo.control
        SET incarnation = greatest(incarnation + 1, $1 + 1,
                                   extract(epoch FROM clock_timestamp())::bigint)
        RETURNING incarnation",
    )
    .bind(replaced)
    .fetch_one(&mut *tx)
    .await
    .map_err(StateError::database("beginning the new incarnation"))?;
    sqlx::query(
        "-- state::restore: leader
        UPDATE relevo.leader_lease
        SET expires_at = '-infinity', term = CASE term WHEN 0 THEN 0 ELSE greatest(term + 1, $1) END",
    )
    .bind(incarnation)
    .execute(&mut *tx)
    .await
    .map_err(StateError::database("vacating the scheduler's office"))?;
    // From now on counts how long their targets have been out of reach.
    execute(
        tx,
        "marking the runs that were under way",
        "-- state::restore: runs
        UPDATE relevo.run SET updated_at = now() WHERE state IN ('pending', 'running')",
    )
    .await?;
    execute(
        tx,
        "settling the schedules",
        "-- state::restore: schedules
        UPDATE relevo.schedule SET settled_to = greatest(settled_to, clock_timestamp())",
    )
    .await?;
    Ok(incarnation)
}

/// Puts running jobs back to wait, and cancels those whose cancellation was asked for or whose run
/// was under way; how many were cancelled.
async fn cancel_jobs_of_runs(tx: &mut PgConnection, queue: &Queue) -> Result<u64, StateError> {
    let mut unwanted: Vec<JobId> = sqlx::query_scalar(
        "-- state::restore: cancelled jobs
        SELECT id FROM relevo.job WHERE cancel_requested_at IS NOT NULL",
    )
    .fetch_all(&mut *tx)
    .await
    .map_err(StateError::database("looking for cancelled jobs"))?;
    execute(
        tx,
        "putting back running jobs",
        "-- state::restore: running jobs
        UPDATE relevo.job
        SET state = 'available', attempt = greatest(attempt - 1, 0), session_id = NULL,
            claimed_at = NULL, claim_no = NULL, started = false, cancel_requested_at = NULL
        WHERE state = 'running'",
    )
    .await?;
    let mut cancelled = 0;
    for _ in 0..CANCEL_ROUNDS_MAX {
        let of_runs: Vec<JobId> = sqlx::query_scalar(
            "-- state::restore: jobs of runs
            SELECT j.id FROM relevo.job AS j JOIN relevo.run AS r ON r.id = j.run_id
            WHERE r.state IN ('pending', 'running')",
        )
        .fetch_all(&mut *tx)
        .await
        .map_err(StateError::database("looking for the jobs of runs"))?;
        unwanted.extend(of_runs);
        if unwanted.is_empty() {
            break;
        }
        for job in unwanted.drain(..) {
            let reason =
                "it was not wanted, or its run was under way, when the state was backed up";
            queue.cancel_in(tx, job, reason).await.map_err(StateError::Queue)?;
            cancelled += 1;
        }
    }
    Ok(cancelled)
}

/// Pauses every queue that has, or may get, jobs; their names.
async fn pause_all(tx: &mut PgConnection, queue: &Queue) -> Result<Vec<String>, StateError> {
    let mut names: Vec<String> = sqlx::query_scalar(
        "-- state::restore: queues
        SELECT queue FROM relevo.job UNION SELECT queue FROM relevo.job_kind",
    )
    .fetch_all(&mut *tx)
    .await
    .map_err(StateError::database("looking for queues"))?;
    names.extend(JobKind::ALL.map(|kind| relevo_jobs::policy(kind).queue.to_owned()));
    names.sort_unstable();
    names.dedup();
    for name in &names {
        queue.pause_in(tx, name).await.map_err(StateError::Queue)?;
    }
    Ok(names)
}
