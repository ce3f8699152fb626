//! A place in a database where a process stands as long as a test wants: there it can be killed.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use relevo_tests::{TestDatabase, wait_for};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, PgPool};

/// How long it may take until somebody comes, or until who stood there is gone.
const PATIENCE: Duration = Duration::from_secs(90);

static NEXT: AtomicI64 = AtomicI64::new(1);

/// Where the gate is.
#[derive(Clone, Copy, Debug)]
pub enum Place<'a> {
    /// Before a row of this table is updated for which the condition on OLD and NEW holds.
    Update(&'a str, &'a str),
    /// In the COMMIT of such an update: it will have happened, though its author is dead.
    Commit(&'a str, &'a str),
    /// After this object was created.
    Created(&'a str),
}

/// A gate that is closed until it is opened.
pub struct Gate {
    pool: PgPool,
    /// Holds the lock that whoever comes waits for.
    keeper: PgConnection,
    key: i64,
}

impl Gate {
    pub async fn close(database: &TestDatabase, place: Place<'_>) -> Self {
        let key = NEXT.fetch_add(1, Ordering::Relaxed);
        let mut keeper = PgConnection::connect(database.url()).await.unwrap();
        keeper.execute(AssertSqlSafe(format!("SELECT pg_advisory_lock({key})"))).await.unwrap();
        let wait = format!("PERFORM pg_advisory_xact_lock_shared({key});");
        let function = |returns: &str, body: &str| {
            format!(
                "CREATE SCHEMA IF NOT EXISTS gate;
                 CREATE FUNCTION gate.stand_{key}() RETURNS {returns} LANGUAGE plpgsql
                 AS $$ BEGIN {body} END $$;"
            )
        };
        let sql = match place {
            Place::Update(table, condition) => format!(
                "{} CREATE TRIGGER gate_{key} BEFORE UPDATE ON {table}
                 FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION gate.stand_{key}()",
                function("trigger", &format!("{wait} RETURN NEW;"))
            ),
            Place::Commit(table, condition) => format!(
                "{} CREATE CONSTRAINT TRIGGER gate_{key} AFTER UPDATE ON {table}
                 DEFERRABLE INITIALLY DEFERRED
                 FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION gate.stand_{key}()",
                function("trigger", &format!("{wait} RETURN NEW;"))
            ),
            Place::Created(object) => format!(
                "{} CREATE EVENT TRIGGER gate_{key} ON ddl_command_end
                 EXECUTE FUNCTION gate.stand_{key}()",
                function(
                    "event_trigger",
                    &format!(
                        "IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands()
                                    WHERE object_identity = '{object}') THEN {wait} END IF;"
                    )
                )
            ),
        };
        keeper.execute(AssertSqlSafe(sql)).await.unwrap();
        Self { pool: database.pool().clone(), keeper, key }
    }

    /// Waits until somebody stands there.
    pub async fn reached(&self) {
        wait_for("somebody at the gate", PATIENCE, async || {
            (self.count("NOT granted").await > 0).then_some(())
        })
        .await;
    }

    /// Opens it for good, and waits until whoever stood there has gone on to the end of its
    /// transaction.
    pub async fn open(mut self) {
        let unlock = format!("SELECT pg_advisory_unlock({})", self.key);
        self.keeper.execute(AssertSqlSafe(unlock)).await.unwrap();
        wait_for("those at the gate to be gone", PATIENCE, async || {
            (self.count("true").await == 0).then_some(())
        })
        .await;
    }

    async fn count(&self, which: &str) -> i64 {
        let sql = format!(
            "SELECT count(*) FROM pg_locks JOIN pg_database AS d ON d.oid = pg_locks.database
             WHERE datname = current_database() AND locktype = 'advisory' AND objsubid = 1
               AND objid::bigint = {} AND {which}",
            self.key
        );
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&self.pool).await.unwrap()
    }
}
