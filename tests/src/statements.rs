//! How much a process asks of its database.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::PgPool;

/// Every statement leaves its start behind until the next one on its connection: often enough that
/// none is missed.
const LOOK: Duration = Duration::from_millis(4);

/// What the sessions of some applications did while they were watched.
#[derive(Debug)]
pub struct Watched {
    /// Statements begun.
    pub statements: usize,
    /// The most sessions there were at once.
    pub sessions: usize,
}

/// Watches the sessions of the pool's database whose application name is LIKE `applications`.
pub async fn watch_statements(pool: &PgPool, applications: &str, watch: Duration) -> Watched {
    let mut begun: BTreeSet<(i32, DateTime<Utc>)> = BTreeSet::new();
    let mut sessions = 0;
    let mut look = tokio::time::interval(LOOK);
    let started = Instant::now();
    while started.elapsed() < watch {
        look.tick().await;
        let seen: Vec<(i32, DateTime<Utc>)> = sqlx::query_as(
            "SELECT pid, query_start FROM pg_stat_activity
             WHERE application_name LIKE $1 AND datname = current_database()
               AND query_start IS NOT NULL",
        )
        .bind(applications)
        .fetch_all(pool)
        .await
        .expect("look at the sessions");
        sessions = sessions.max(seen.len());
        begun.extend(seen);
    }
    // The first of each session may be from before.
    let from_before = begun.iter().map(|(pid, _)| *pid).collect::<BTreeSet<i32>>().len();
    Watched { statements: begun.len() - from_before, sessions }
}
