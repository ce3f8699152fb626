//! The control plane's schema: bringing a database to the version this build knows, and saying how
//! far a database is.
//!
//! Everything lives in the Postgres schema `relevo`, the migrations' bookkeeping table too, so that
//! the control plane can sit beside an application's own tables (and the application's own sqlx
//! migrations) in one database. Nothing needs more rights than owning that schema.

use std::sync::LazyLock;
use std::time::Duration;

use sqlx::migrate::{MigrateError as SqlxMigrateError, Migrator};
use sqlx::{Connection as _, Executor as _, PgConnection, PgPool};

/// The oldest server this schema is written for, as `server_version_num`.
const SERVER_VERSION_NUM_MIN: i32 = 140_000;

/// How long [`migrate`] waits for another process that migrates, and for each lock a migration takes.
pub(crate) const LOCK_WAIT: Duration = Duration::from_secs(60);

/// Key of the advisory lock, "relevo" in ASCII: the same for every version, since two versions must
/// exclude each other too.
const LOCK_KEY: i64 = 0x7265_6c65_766f;

/// Name of the bookkeeping table.
pub(crate) const BOOKKEEPING_TABLE: &str = "relevo.migration";

/// Every migration of this build, oldest first, set to keep its books in the schema `relevo`.
///
/// Use [`migrate`] to run them: it makes the schema first and bounds every wait.
pub static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("../../migrations");
    migrator.dangerous_set_table_name(BOOKKEEPING_TABLE);
    // The lock is taken here by `lock`, with a bound; sqlx's own waits for ever.
    migrator.set_locking(false);
    migrator
});

/// Why the control plane could not be brought to this build's version.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// Another process held the migration lock, or an object a migration changes, all the time.
    #[error(
        "another process kept the control plane locked for {waited_ms} ms; look for `relevo migrate` \
         or a long transaction in pg_stat_activity, then try again"
    )]
    Locked {
        /// How long was waited.
        waited_ms: u128,
        /// What the server said.
        #[source]
        source: sqlx::Error,
    },
    /// The database was migrated by a newer build.
    #[error(
        "the control plane is at version {database}, this build knows versions up to {known}: \
         install the newer relevo"
    )]
    NewerDatabase {
        /// The first applied version that this build does not know.
        database: i64,
        /// The newest version this build knows.
        known: i64,
    },
    /// A version was applied with another text than this build has.
    #[error(
        "migration {0} was applied with another text than this build has: the database belongs to \
         another build of relevo"
    )]
    Changed(i64),
    /// The server is too old.
    #[error("the server is PostgreSQL {version}; relevo needs 14 or newer")]
    ServerTooOld {
        /// What the server says of itself.
        version: String,
    },
    /// The role may not make the schema.
    #[error(
        "the role {role} may not create the schema relevo in the database {database}; let its owner \
         run: CREATE SCHEMA relevo AUTHORIZATION {role}"
    )]
    MayNotCreateSchema {
        /// The role that connected, quoted for SQL.
        role: String,
        /// The database.
        database: String,
        /// What the server said.
        #[source]
        source: sqlx::Error,
    },
    /// A migration failed and was rolled back.
    #[error("migration {version} failed and was rolled back")]
    Failed {
        /// The version that failed.
        version: i64,
        /// What the server said.
        #[source]
        source: sqlx::Error,
    },
    /// The database could not be asked.
    #[error("the control plane's database could not be reached or asked")]
    Database(#[from] sqlx::Error),
    /// Anything else that sqlx's migrator reports.
    #[error("the migrations could not be applied")]
    Migrator(#[source] SqlxMigrateError),
}

/// How a database's control plane compares to this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaStatus {
    /// Every migration of this build is applied, and no other.
    Current,
    /// There is no control plane yet.
    Absent,
    /// So many migrations of this build are not applied yet.
    Behind {
        /// How many are missing.
        pending: usize,
    },
    /// A newer build has migrated it.
    Newer {
        /// The newest version applied.
        version: i64,
    },
}

/// Brings the control plane to this build's version; does nothing when it is there already.
///
/// Safe to call from any number of processes at once: they wait for each other, at most a minute.
/// Every migration is its own transaction, so a process killed in between leaves a whole version.
///
/// # Errors
/// See [`MigrateError`]; each says what to do.
pub async fn migrate(pool: &PgPool) -> Result<(), MigrateError> {
    migrate_within(pool, LOCK_WAIT).await
}

/// As [`migrate`], waiting at most `lock_wait` for the others and for each lock.
///
/// # Errors
/// See [`MigrateError`].
pub async fn migrate_within(pool: &PgPool, lock_wait: Duration) -> Result<(), MigrateError> {
    // A connection of its own, closed at the end whatever happens: locks and settings go with it.
    let mut conn = pool.acquire().await?.detach();
    let result = migrate_on(&mut conn, lock_wait).await;
    let closed = conn.close().await;
    result?;
    Ok(closed?)
}

async fn migrate_on(conn: &mut PgConnection, lock_wait: Duration) -> Result<(), MigrateError> {
    let (version_num, version): (i32, String) = sqlx::query_as(
        "-- migrate: server version\n\
         SELECT current_setting('server_version_num')::int, current_setting('server_version')",
    )
    .fetch_one(&mut *conn)
    .await?;
    if version_num < SERVER_VERSION_NUM_MIN {
        return Err(MigrateError::ServerTooOld { version });
    }
    lock(conn, lock_wait).await?;
    create_schema(conn).await?;
    // Not `run`, whose bound on `Acquire` makes the future one that cannot be spawned.
    let outcome = MIGRATIONS.run_direct(None, conn, false).await;
    outcome.map_err(|error| explain(error, lock_wait))
}

/// Takes the migration lock of this session, waiting at most `lock_wait`; the same bound then holds
/// for the locks that the migrations take. That something exists already is no news here.
pub(crate) async fn lock(conn: &mut PgConnection, lock_wait: Duration) -> Result<(), MigrateError> {
    sqlx::query(
        "-- migrate: bounds\n\
         SELECT set_config('lock_timeout', $1, false), set_config('statement_timeout', '0', false),
                set_config('client_min_messages', 'warning', false)",
    )
    .bind(lock_wait.as_millis().to_string())
    .execute(&mut *conn)
    .await?;
    sqlx::query("-- migrate: lock\nSELECT pg_advisory_lock($1)")
        .bind(LOCK_KEY)
        .execute(&mut *conn)
        .await
        .map_err(
            |error| {
                if is_lock_timeout(&error) { locked(error, lock_wait) } else { error.into() }
            },
        )?;
    Ok(())
}

/// Makes the schema unless it is there: `IF NOT EXISTS` alone would ask for the right to create one
/// even when an administrator has made it already.
pub(crate) async fn create_schema(conn: &mut PgConnection) -> Result<(), MigrateError> {
    let (exists, role, database): (bool, String, String) = sqlx::query_as(
        "-- migrate: schema\n\
         SELECT to_regnamespace('relevo') IS NOT NULL, quote_ident(current_user), current_database()",
    )
    .fetch_one(&mut *conn)
    .await?;
    if exists {
        return Ok(());
    }
    match conn.execute("-- migrate: create schema\nCREATE SCHEMA relevo").await {
        Ok(_) => Ok(()),
        Err(source) if sqlstate(&source).as_deref() == Some("42501") => {
            Err(MigrateError::MayNotCreateSchema { role, database, source })
        }
        Err(source) => Err(source.into()),
    }
}

fn locked(source: sqlx::Error, lock_wait: Duration) -> MigrateError {
    MigrateError::Locked { waited_ms: lock_wait.as_millis(), source }
}

pub(crate) fn explain(error: SqlxMigrateError, lock_wait: Duration) -> MigrateError {
    match error {
        SqlxMigrateError::VersionMissing(database) => {
            MigrateError::NewerDatabase { database, known: newest_known() }
        }
        SqlxMigrateError::VersionMismatch(version) => MigrateError::Changed(version),
        SqlxMigrateError::Execute(source) => MigrateError::Database(source),
        SqlxMigrateError::ExecuteMigration(source, _) if is_lock_timeout(&source) => {
            locked(source, lock_wait)
        }
        SqlxMigrateError::ExecuteMigration(source, version) => {
            MigrateError::Failed { version, source }
        }
        other => MigrateError::Migrator(other),
    }
}

/// Compares the database with this build without changing anything.
///
/// # Errors
/// When the database cannot be asked.
pub async fn status(pool: &PgPool) -> Result<SchemaStatus, sqlx::Error> {
    let mut conn = pool.acquire().await?;
    status_on(&mut conn).await
}

/// As [`status`], on this connection.
pub(crate) async fn status_on(conn: &mut PgConnection) -> Result<SchemaStatus, sqlx::Error> {
    let exists: bool = sqlx::query_scalar(
        "-- control_plane::status: table\nSELECT to_regclass('relevo.migration') IS NOT NULL",
    )
    .fetch_one(&mut *conn)
    .await?;
    if !exists {
        return Ok(SchemaStatus::Absent);
    }
    let applied: Vec<i64> = sqlx::query_scalar(
        "-- control_plane::status: versions\n\
         SELECT version FROM relevo.migration WHERE success ORDER BY version",
    )
    .fetch_all(conn)
    .await?;
    let unknown = applied.iter().rev().find(|version| !MIGRATIONS.version_exists(**version));
    if let Some(version) = unknown {
        return Ok(SchemaStatus::Newer { version: *version });
    }
    match MIGRATIONS.iter().count() - applied.len() {
        0 => Ok(SchemaStatus::Current),
        pending => Ok(SchemaStatus::Behind { pending }),
    }
}

/// Which control plane this is. Both parts go into what it leaves in targets.
#[derive(Clone, Debug, Eq, PartialEq, sqlx::FromRow)]
pub struct Identity {
    /// Eight hexadecimal digits, made once when the control plane was first migrated.
    pub cluster_id: String,
    /// Rises when the control plane is restored from a backup; part of every fence.
    pub incarnation: i64,
}

/// Reads which control plane this is.
///
/// # Errors
/// When the database cannot be asked or is not migrated.
pub async fn identity(pool: &PgPool) -> Result<Identity, sqlx::Error> {
    sqlx::query_as("-- control_plane::identity\nSELECT cluster_id, incarnation FROM relevo.control")
        .fetch_one(pool)
        .await
}

pub(crate) fn newest_known() -> i64 {
    MIGRATIONS.iter().map(|migration| migration.version).max().unwrap_or(0)
}

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|error| error.code()).map(|code| code.into_owned())
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    sqlstate(error).as_deref() == Some("55P03")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrating_can_be_spawned() {
        fn spawnable<T: Send>(_: impl Fn(&'static PgPool) -> T) {}
        spawnable(migrate);
        spawnable(status);
        spawnable(identity);
    }
}
