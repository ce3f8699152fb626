//! One connection outside any pool for long or dangerous work, which can be stopped from outside.
//!
//! Dropping a connection does not stop the statement that runs on the server: an index build goes
//! on, a COPY keeps its locks. [`Session::guard`] ends the backend itself when the caller's patience
//! or consent ends.

use std::future::Future;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use crate::connect::connect_beside;
use crate::error::PgError;
use crate::ident;

/// How long ending a backend may take before we leave it to the server's own timeouts.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// A connection of our own and the means to end its backend.
#[derive(Debug)]
pub struct Session {
    connection: PgConnection,
    killer: Killer,
}

/// Ends one backend, by process id and start time, so that a reused id is never hit.
#[derive(Clone, Debug)]
pub struct Killer {
    pool: PgPool,
    pid: i32,
    /// Not shown to a role that is not the one that logged in.
    started_at: Option<DateTime<Utc>>,
}

impl Session {
    /// Opens a connection beside `pool`, with the pool's address and login, and applies
    /// `settings` (name, value) to it.
    ///
    /// Always set: the formats in which values are written (UTC, ISO dates, hex); bounds for
    /// statements (6 hours), lock waits and idle transactions, which `settings` may change; and
    /// that the server gives a client up that does not answer (25 s), where it knows how also in
    /// the middle of a statement.
    ///
    /// # Errors
    /// As [`crate::connect()`].
    pub async fn open(
        pool: &PgPool,
        application_name: &str,
        settings: &[(&str, &str)],
    ) -> Result<Self, PgError> {
        let mut connection = connect_beside(pool).await?;
        let mut sql = String::from("-- open_session\n");
        let fixed = [
            ("application_name", application_name),
            ("datestyle", "ISO, YMD"),
            ("timezone", "UTC"),
            ("intervalstyle", "postgres"),
            ("bytea_output", "hex"),
            ("extra_float_digits", "1"),
            ("client_encoding", "UTF8"),
            ("standard_conforming_strings", "on"),
            // Ends by itself what nobody is there any more to end.
            ("statement_timeout", "6h"),
            ("lock_timeout", "10min"),
            // A client that was frozen or cut off must not keep its locks for ever.
            ("idle_in_transaction_session_timeout", "60s"),
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
            ("tcp_user_timeout", "30000"),
        ];
        for (name, value) in fixed.iter().chain(settings) {
            sql.push_str(&format!("SET {} = {};\n", ident::quote(name), ident::literal(value)));
        }
        let what = "preparing a connection";
        connection
            .execute(AssertSqlSafe(sql))
            .await
            .map_err(|source| PgError::database(what, source))?;
        // Version 14 and later, and not on every platform: a server without it notices a lost
        // client at its next answer.
        let _ = connection
            .execute("-- open_session\nSET client_connection_check_interval = '2s'")
            .await;
        let (pid, started_at): (i32, Option<DateTime<Utc>>) = sqlx::query_as(
            "-- open_session
             SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()",
        )
        .fetch_one(&mut connection)
        .await
        .map_err(|source| PgError::database(what, source))?;
        Ok(Self { connection, killer: Killer { pool: pool.clone(), pid, started_at } })
    }

    /// The connection.
    pub fn connection(&mut self) -> &mut PgConnection {
        &mut self.connection
    }

    /// The backend's process id.
    #[must_use]
    pub fn pid(&self) -> i32 {
        self.killer.pid
    }

    /// The means to end the backend, for use while the connection is borrowed.
    #[must_use]
    pub fn killer(&self) -> Killer {
        self.killer.clone()
    }

    /// Says goodbye; a failure to do so costs nothing.
    pub async fn close(self) {
        let _ = tokio::time::timeout(KILL_TIMEOUT, self.connection.close()).await;
    }
}

impl Killer {
    /// Waits for `work` on the session's connection; ends the backend when `limit` passes or
    /// `cancel` is called. The session is not usable after either.
    ///
    /// # Errors
    /// [`PgError::Timeout`], [`PgError::Cancelled`], or the work's own error named by `what`.
    pub async fn guard<T>(
        &self,
        what: &str,
        limit: Duration,
        cancel: &CancellationToken,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, PgError> {
        let work = async { work.await.map_err(|source| PgError::database(what, source)) };
        self.guard_all(what, limit, cancel, work).await
    }

    /// As [`Killer::guard`], for work of several statements with errors of its own.
    ///
    /// # Errors
    /// [`PgError::Timeout`], [`PgError::Cancelled`], or the work's own error.
    pub async fn guard_all<T, E: From<PgError>>(
        &self,
        what: &str,
        limit: Duration,
        cancel: &CancellationToken,
        work: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        let ended = tokio::select! {
            biased;
            () = cancel.cancelled() => PgError::Cancelled { what: what.to_owned() },
            outcome = tokio::time::timeout(limit, work) => match outcome {
                Ok(outcome) => return outcome,
                Err(_) => PgError::Timeout {
                    what: what.to_owned(),
                    seconds: limit.as_secs().max(1),
                },
            },
        };
        self.kill().await;
        Err(ended.into())
    }

    /// Ends the backend and waits, bounded, until it is gone.
    pub async fn kill(&self) {
        let ended = tokio::time::timeout(KILL_TIMEOUT, async {
            sqlx::query(
                "-- end_backend
                 SELECT pg_terminate_backend(pid)
                 FROM pg_stat_activity WHERE pid = $1 AND backend_start IS NOT DISTINCT FROM $2",
            )
            .bind(self.pid)
            .bind(self.started_at)
            .execute(&self.pool)
            .await
        })
        .await;
        if !matches!(ended, Ok(Ok(_))) {
            tracing::warn!(backend_pid = self.pid, "could not end a database session of our own");
        }
    }
}

/// Ends every other session that holds a lock on a relation of `schema` and whose program is named
/// like `program%`: stale writers of ours, once a step owns that schema. Others, such as a backup
/// that reads along, are left alone. Returns how many were ended.
///
/// # Errors
/// When the server fails, or when a holder belongs to a role that we may not end.
pub async fn end_holders(
    connection: &mut PgConnection,
    schema: &str,
    program: &str,
) -> Result<u64, PgError> {
    let ended: Vec<bool> = sqlx::query_scalar(
        "-- end_holders
         SELECT pg_terminate_backend(holder.pid)
         FROM (
             SELECT DISTINCT l.pid
             FROM pg_locks l
             JOIN pg_class c ON c.oid = l.relation
             WHERE l.locktype = 'relation'
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND c.relnamespace = to_regnamespace($1)
               AND l.pid <> pg_backend_pid()
         ) AS holder
         JOIN pg_stat_activity a ON a.pid = holder.pid AND starts_with(a.application_name, $2)",
    )
    .bind(ident::quote(schema))
    .bind(program)
    .fetch_all(connection)
    .await
    .map_err(|source| PgError::database(format!("ending stale writers of {schema}"), source))?;
    Ok(ended.iter().filter(|ended| **ended).count() as u64)
}
