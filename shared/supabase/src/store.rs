//! The local side's bookkeeping: transactions of the sync, positions, the log, the state.
//!
//! Every transaction that writes synchronised rows is begun by [`Store::begin`]: it sets
//! `app.is_sync`, so that the triggers record nothing, and holds on to the epoch, so that a process
//! that stood still while another took over writes nothing.

use std::time::{Duration, Instant};

use relevo_pg::PoolOptions;
use sqlx::{PgConnection, PgPool, Postgres, Transaction};

use crate::config::Config;
use crate::error::SyncError;

/// A transaction of the sync.
pub type Tx = Transaction<'static, Postgres>;

/// Sent changes and log rows are kept so long.
const KEEP_DAYS: i32 = 30;

/// A process that ends has let go within this time.
const LET_GO: Duration = Duration::from_secs(2);

/// Which way a line of the log tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From Supabase.
    Down,
    /// To Supabase.
    Up,
}

impl Direction {
    fn word(self) -> &'static str {
        match self {
            Self::Down => "DOWN",
            Self::Up => "UP",
        }
    }
}

/// Connects to the local database with the settings that all statements here count on.
///
/// # Errors
/// [`SyncError::Connect`] with what is wrong.
pub async fn connect(config: &Config) -> Result<PgPool, SyncError> {
    let options = PoolOptions {
        max_connections: 4,
        application_name: "relevo-supabase".to_owned(),
        settings: [
            ("TimeZone", "UTC"),
            ("DateStyle", "ISO"),
            ("search_path", &config.local_postgres.schema),
            ("lock_timeout", "10s"),
            ("statement_timeout", "300s"),
            ("idle_in_transaction_session_timeout", "120s"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec(),
        ..PoolOptions::default()
    };
    Ok(relevo_pg::connect(&config.local_url()?, options).await?)
}

/// The right to synchronise, while this value lives.
pub struct Store {
    /// Connections to the local database.
    pub pool: PgPool,
    epoch: i64,
    /// Its session holds the advisory lock.
    _holder: PgConnection,
}

impl Store {
    /// Takes the right to synchronise.
    ///
    /// # Errors
    /// [`SyncError::Busy`] where another process has it; [`SyncError::Unfit`] before `init`.
    pub async fn take(pool: PgPool) -> Result<Self, SyncError> {
        let ready: bool = sqlx::query_scalar(
            "-- take: whether init was run
             SELECT to_regclass('_sync_state') IS NOT NULL",
        )
        .fetch_one(&pool)
        .await?;
        if !ready {
            let reason = "the control tables are missing: `init` was not carried out";
            return Err(SyncError::Unfit(vec![reason.to_owned()]));
        }
        // Out of the pool, so that the session ends with this value, and the lock with it.
        let mut holder = pool.acquire().await?.detach();
        let started = Instant::now();
        loop {
            let free: bool = sqlx::query_scalar(
                "-- take: one process at a time
                 SELECT pg_try_advisory_lock(hashtextextended('relevo-supabase ' || current_schema(), 0))",
            )
            .fetch_one(&mut holder)
            .await?;
            if free {
                break;
            }
            // A process that ended a moment ago may not have let go yet.
            if started.elapsed() > LET_GO {
                return Err(SyncError::Busy);
            }
            tokio::time::sleep(LET_GO / 20).await;
        }
        let epoch = sqlx::query_scalar(
            "-- take: whoever had it before writes nothing more
             UPDATE _sync_state SET epoch = epoch + 1 RETURNING epoch",
        )
        .fetch_one(&mut holder)
        .await?;
        Ok(Self { pool, epoch, _holder: holder })
    }

    /// Begins a transaction that records no changes.
    ///
    /// # Errors
    /// [`SyncError::TakenOver`].
    pub async fn begin(&self) -> Result<Tx, SyncError> {
        let mut tx = self.pool.begin().await?;
        let mine: Option<String> = sqlx::query_scalar(
            "-- begin
             SELECT set_config('app.is_sync', 'true', true)
             FROM _sync_state WHERE epoch = $1 FOR SHARE",
        )
        .bind(self.epoch)
        .fetch_optional(&mut *tx)
        .await?;
        if mine.is_none() {
            return Err(SyncError::TakenOver);
        }
        Ok(tx)
    }

    /// Whether a person paused it.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn is_paused(&self) -> Result<bool, SyncError> {
        Ok(sqlx::query_scalar("-- is_paused\n SELECT paused FROM _sync_state")
            .fetch_one(&self.pool)
            .await?)
    }

    /// Notes how a cycle ended. Being offline is no error.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn note_cycle(
        &self,
        error: Option<&SyncError>,
        (requests, received, sent): (u64, u64, u64),
    ) -> Result<(), SyncError> {
        let offline = error.is_some_and(SyncError::is_offline);
        let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        sqlx::query(
            "-- note_cycle
             UPDATE _sync_state SET
                 last_attempt_at = now(),
                 last_success_at = CASE WHEN $1::text IS NULL THEN now() ELSE last_success_at END,
                 last_error = $1,
                 online = NOT $2,
                 consecutive_errors = CASE WHEN $1 IS NULL THEN 0
                     WHEN $2 THEN consecutive_errors ELSE consecutive_errors + 1 END,
                 requests = requests + $3,
                 received_bytes = received_bytes + $4,
                 sent_bytes = sent_bytes + $5",
        )
        .bind(error.map(SyncError::line))
        .bind(offline)
        .bind(count(requests))
        .bind(count(received))
        .bind(count(sent))
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Notes in what the two schemas differ; `None` where they don't.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn note_drift(&self, drift: Option<&str>) -> Result<(), SyncError> {
        sqlx::query("-- note_drift\n UPDATE _sync_state SET drift = $1")
            .bind(drift)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// Writes how one operation ended into the log and the table's metadata. One that moved nothing
    /// and failed in nothing leaves no line.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn log(
        &self,
        direction: Direction,
        table: &str,
        moved: u64,
        error: Option<&str>,
        started: Instant,
    ) -> Result<(), SyncError> {
        let down = direction == Direction::Down;
        let moved = i64::try_from(moved).unwrap_or(i64::MAX);
        let status = match (error, moved) {
            (None, _) => "SUCCESS",
            (Some(_), 0) => "ERROR",
            (Some(_), _) => "PARTIAL",
        };
        sqlx::query(
            "-- log: what operators ask for
             INSERT INTO _sync_metadata AS m (table_name, last_sync_from_supabase,
                 last_sync_to_supabase, records_synced_down, records_synced_up, last_error)
             VALUES ($1, CASE WHEN $2 AND $4 IS NULL THEN now() END,
                 CASE WHEN NOT $2 AND $4 IS NULL THEN now() END,
                 CASE WHEN $2 THEN $3 ELSE 0 END, CASE WHEN $2 THEN 0 ELSE $3 END, $4)
             ON CONFLICT (table_name) DO UPDATE SET
                 last_sync_from_supabase =
                     coalesce(excluded.last_sync_from_supabase, m.last_sync_from_supabase),
                 last_sync_to_supabase =
                     coalesce(excluded.last_sync_to_supabase, m.last_sync_to_supabase),
                 records_synced_down = m.records_synced_down + excluded.records_synced_down,
                 records_synced_up = m.records_synced_up + excluded.records_synced_up,
                 last_error = excluded.last_error, updated_at = now()",
        )
        .bind(table)
        .bind(down)
        .bind(moved)
        .bind(error)
        .execute(&self.pool)
        .await?;
        if moved == 0 && error.is_none() {
            return Ok(());
        }
        let duration_ms = i64::try_from(started.elapsed().as_millis()).unwrap_or(i64::MAX);
        let direction = direction.word();
        match error {
            None => tracing::info!(direction, table, records = moved, duration_ms, "synchronised"),
            Some(error) => {
                tracing::warn!(direction, table, records = moved, duration_ms, error, "{status}");
            }
        }
        sqlx::query(
            "-- log: the line
             INSERT INTO _sync_log
                 (direction, table_name, records_affected, status, error_message, duration_ms)
             VALUES ($1, $2, $3, $4, $5, $6)",
        )
        .bind(direction)
        .bind(table)
        .bind(moved)
        .bind(status)
        .bind(error)
        .bind(duration_ms)
        .execute(&self.pool)
        .await?;
        Ok(())
    }

    /// Deletes what is done and older than a month, a piece at a time.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn prune(&self) -> Result<(), SyncError> {
        for statement in [
            "-- prune: sent changes
             DELETE FROM _sync_pending WHERE id IN (SELECT id FROM _sync_pending
                 WHERE synced AND synced_at < now() - make_interval(days => $1) LIMIT 10000)",
            "-- prune: the log
             DELETE FROM _sync_log WHERE id IN (SELECT id FROM _sync_log
                 WHERE created_at < now() - make_interval(days => $1) ORDER BY id LIMIT 10000)",
        ] {
            sqlx::query(statement).bind(KEEP_DAYS).execute(&self.pool).await?;
        }
        Ok(())
    }
}

/// How long a row that can't be sent waits, by how often it was tried.
#[must_use]
pub fn backoff(delay: Duration, tries: i32) -> Duration {
    let doubled = delay * 2_u32.saturating_pow(u32::try_from(tries.max(0)).unwrap_or(0).min(10));
    doubled.min(Duration::from_secs(300))
}
