//! Transactions in the way: those whose snapshot is older than the load, and those that hold locks.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::error::PgError;

/// The first pause between two looks; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between two looks.
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A transaction of another session that holds a snapshot.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct OldTransaction {
    /// The session's process id.
    pub pid: i32,
    /// Names the transaction within the server's life.
    pub virtual_xid: String,
    /// The oldest transaction its snapshot still takes for running.
    pub xmin: String,
    /// For people: process, program, role, age.
    pub description: String,
}

/// All transactions of this database that hold a snapshot now.
///
/// Rows committed before the call are seen by every snapshot taken after it. One taken before may
/// not see them, and would find a table empty that came into its name after the snapshot.
///
/// # Errors
/// When the server fails.
pub async fn open_transactions(
    connection: &mut PgConnection,
) -> Result<Vec<OldTransaction>, PgError> {
    // Process, role, locks and xmin of others are shown to every role; kind, age and program to few.
    // The server's own processes, such as autovacuum, have no role.
    sqlx::query_as(
        "-- open_transactions
         SELECT a.pid, l.virtualxid AS virtual_xid, a.backend_xmin::text AS xmin,
                format('process %s (%s, role %s%s)', a.pid,
                       coalesce(nullif(a.application_name, ''), 'unnamed program'), a.usename,
                       coalesce(', open for ' || date_trunc('second', clock_timestamp() - a.xact_start)::text, ''))
                    AS description
         FROM pg_stat_activity a
         JOIN pg_locks l ON l.pid = a.pid AND l.locktype = 'virtualxid' AND l.granted
                        AND l.virtualxid = l.virtualtransaction
         WHERE a.datname = current_database()
           AND a.backend_xmin IS NOT NULL
           AND a.usesysid IS NOT NULL
           AND coalesce(a.backend_type, 'client backend') = 'client backend'
           AND a.pid <> pg_backend_pid()",
    )
    .fetch_all(connection)
    .await
    .map_err(|source| PgError::database("looking for open transactions", source))
}

/// Waits until each of `waited_for` has ended or has taken a newer snapshot; returns those that
/// have not within `limit` or when `cancel` was called.
///
/// # Errors
/// When the server fails.
pub async fn wait_for_transactions(
    connection: &mut PgConnection,
    mut waited_for: Vec<OldTransaction>,
    limit: Duration,
    cancel: &CancellationToken,
) -> Result<Vec<OldTransaction>, PgError> {
    let started = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        if waited_for.is_empty() {
            return Ok(waited_for);
        }
        let open: HashSet<(i32, String, String)> = open_transactions(connection)
            .await?
            .into_iter()
            .map(|open| (open.pid, open.virtual_xid, open.xmin))
            .collect();
        waited_for
            .retain(|old| open.contains(&(old.pid, old.virtual_xid.clone(), old.xmin.clone())));
        if waited_for.is_empty() || started.elapsed() >= limit || cancel.is_cancelled() {
            return Ok(waited_for);
        }
        tokio::select! {
            () = cancel.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Whether a `pg_dump` of this database runs. It lists tables first and locks them by name a moment
/// later, and its parallel workers fail rather than wait behind somebody's request for a lock.
///
/// # Errors
/// When the server fails.
pub async fn backup_runs(connection: &mut PgConnection) -> Result<bool, PgError> {
    sqlx::query_scalar(
        "-- backup_runs
         SELECT EXISTS (SELECT FROM pg_stat_activity
                        WHERE datname = current_database() AND pid <> pg_backend_pid()
                          AND application_name IN ('pg_dump', 'pg_dumpall'))",
    )
    .fetch_one(connection)
    .await
    .map_err(|source| PgError::database("looking for a running pg_dump", source))
}

/// A session that holds one of the tables.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct LockHolder {
    /// For people.
    pub(super) description: String,
    /// Whether the server's own cleaner holds it.
    pub(super) autovacuum: bool,
}

/// Who holds locks on these tables of these schemas now.
pub(super) async fn lock_holders(
    connection: &mut PgConnection,
    schemas: &[&str],
    tables: &[String],
) -> Result<Vec<LockHolder>, PgError> {
    sqlx::query_as(
        "-- lock_holders
         SELECT format('process %s (%s, role %s%s) on %s', a.pid,
                       coalesce(nullif(a.application_name, ''), a.backend_type, 'unnamed program'),
                       coalesce(a.usename, 'none'),
                       coalesce(', open for ' || date_trunc('second', clock_timestamp() - a.xact_start)::text, ''),
                       string_agg(DISTINCT c.relname, ', ')) AS description,
                coalesce(a.backend_type = 'autovacuum worker', a.usesysid IS NULL) AS autovacuum
         FROM pg_locks l
         JOIN pg_class c ON c.oid = l.relation
         JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'relation'
           AND l.granted
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND n.nspname = ANY($1)
           AND c.relname = ANY($2)
           AND l.pid <> pg_backend_pid()
         GROUP BY a.pid, a.application_name, a.backend_type, a.usename, a.usesysid, a.xact_start",
    )
    .bind(schemas)
    .bind(tables)
    .fetch_all(connection)
    .await
    .map_err(|source| PgError::database("looking for lock holders", source))
}
