//! What holds during a campaign and after it, whatever was killed.

use std::time::Duration;

use relevo_tests::{Process, TestDatabase, wait_for};

/// Makes victims and moments others.
pub const SEED_ENV: &str = "RELEVO_TEST_SEED";

/// How long a process that is told to stop may take.
const STOP_MAX: Duration = Duration::from_secs(60);

/// A number that a campaign is given by its environment.
pub fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Nobody ends by itself, whatever becomes of the others.
pub fn assert_alive<'a>(processes: impl IntoIterator<Item = &'a Process>) {
    for process in processes {
        let exited = process.exited();
        assert!(exited.is_none(), "a process ended by itself: {exited:?}\n{}", process.output());
    }
}

/// Ends everybody in order; then nobody holds a lock, and nothing is open in the control plane, the
/// first of the databases.
pub async fn assert_all_ended(databases: [&TestDatabase; 2], processes: &[&Process]) {
    for process in processes {
        process.terminate();
    }
    for process in processes {
        let status = process.wait_exit(STOP_MAX).await;
        assert!(status.success(), "{status}\n{}", process.output());
    }
    for database in databases {
        wait_for("sessions and locks to end with their processes", STOP_MAX, async || {
            let left: i64 = sqlx::query_scalar(
                "SELECT (SELECT count(*) FROM pg_stat_activity
                         WHERE datname = current_database() AND application_name LIKE 'relevo%')
                      + (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')
                      + (SELECT count(*) FROM pg_prepared_xacts)",
            )
            .fetch_one(database.pool())
            .await
            .unwrap();
            (left == 0).then_some(())
        })
        .await;
    }
    let leased: i64 = sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM relevo.job WHERE state = 'running')
              + (SELECT count(*) FROM relevo.session WHERE ended_at IS NULL)
              + (SELECT count(*) FROM relevo.run WHERE state IN ('pending', 'running'))",
    )
    .fetch_one(databases[0].pool())
    .await
    .unwrap();
    assert_eq!(leased, 0, "jobs, sessions or runs are left open");
}
