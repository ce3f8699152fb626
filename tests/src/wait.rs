//! Waiting for a state, bounded.

use std::time::{Duration, Instant};

use sqlx::PgPool;

/// The pause between two looks grows from the first to the second of these.
const PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// Calls `probe` until it yields a value, and returns it.
///
/// Wait for a state that stays true once reached, not for a change that can be missed.
///
/// # Panics
///
/// When `timeout` has passed; the message names `what`.
pub async fn wait_for<T>(
    what: &str,
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    let mut pause = PAUSE.0;
    loop {
        // A probe that hangs (a database that no longer answers) is bounded as well.
        let left = timeout.saturating_sub(started.elapsed());
        match tokio::time::timeout(left.max(Duration::from_secs(1)), probe()).await {
            Ok(Some(value)) => return value,
            Ok(None) => {}
            Err(_) => panic!("waiting for {what}: the probe itself hung"),
        }
        assert!(started.elapsed() < timeout, "waited {timeout:?} in vain for {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE.1);
    }
}

/// Waits until so many statements, or more, wait for a lock in the pool's database.
///
/// # Panics
///
/// After a minute.
pub async fn wait_blocked(pool: &PgPool, count: i64) {
    wait_for("statements to wait for a lock", Duration::from_secs(60), async || {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'",
        )
        .fetch_one(pool)
        .await
        .expect("look at the sessions");
        (waiting >= count).then_some(())
    })
    .await;
}
