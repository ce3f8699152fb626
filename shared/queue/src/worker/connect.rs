//! Connections of a worker's own: neither handlers that keep the pool busy nor each other can make
//! heartbeats, claims and finishes wait.

use std::sync::LazyLock;
use std::time::Duration;

use sqlx::{Connection as _, PgConnection, PgPool};

/// What a connection is for; `pg_stat_activity` shows it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Purpose {
    Heartbeat,
    Claim,
    Finish,
}

/// The queue's statements look rows up by index, a bounded number at a time. The planner must not
/// conclude otherwise from the statistics of a table that was empty a second ago, nor from a
/// parameter's unknown size: a sequential scan chosen once costs a factor of ten until the plan is
/// dropped, and a nested loop over the acknowledged ids and epochs grows with their square. What is
/// left is the index for `id = ANY` and a hash for the epochs. These switches only weigh: where
/// nothing else is possible the planner still does it.
///
/// The rest bounds waits, on the server's side too: a server process that cannot send a claim's rows
/// to a host that is gone would hold its locks, and keep the dead session from being rescued, for as
/// long as TCP tries.
///
/// A connection begins with them, so that a pooler in transaction mode can make them hold for each
/// transaction (`relevo_pg` does).
const SETTINGS: [(&str, &str); 14] = [
    ("enable_seqscan", "off"),
    ("enable_bitmapscan", "off"),
    ("enable_mergejoin", "off"),
    ("enable_nestloop", "off"),
    ("plan_cache_mode", "force_generic_plan"),
    ("jit", "off"),
    ("statement_timeout", "30s"),
    ("lock_timeout", "5s"),
    ("idle_in_transaction_session_timeout", "60s"),
    ("TimeZone", "UTC"),
    ("tcp_user_timeout", "20000"),
    ("tcp_keepalives_idle", "10"),
    ("tcp_keepalives_interval", "5"),
    ("tcp_keepalives_count", "3"),
];

/// The same as a statement, for who wants to see what plans the worker gets.
pub(crate) fn settings() -> &'static str {
    static STATEMENT: LazyLock<String> = LazyLock::new(|| {
        let calls = SETTINGS.map(|(name, value)| format!("set_config('{name}', '{value}', false)"));
        format!("-- settings\nSELECT {}", calls.join(", "))
    });
    &STATEMENT
}

/// How long an answer is waited for after `failures` failed tries in a row: what usually takes
/// milliseconds gets seconds, since a connection that went silent says nothing. Doubled with every
/// failure up to beyond the server's own limit for a statement, so that a server that is only slow
/// gets its time.
pub(crate) fn patience(failures: u32) -> Duration {
    (ANSWER_TIMEOUT_MIN * (1 << failures.min(3))).min(ANSWER_TIMEOUT_MAX)
}

const ANSWER_TIMEOUT_MIN: Duration = Duration::from_secs(6);

/// Beyond the server's own limit for a statement: when it passes, the connection is dead.
pub(crate) const ANSWER_TIMEOUT_MAX: Duration = Duration::from_secs(40);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Opens a connection as the pool would.
pub(crate) async fn connect(pool: &PgPool, purpose: Purpose) -> Result<PgConnection, sqlx::Error> {
    let name = match purpose {
        Purpose::Heartbeat => "relevo heartbeat",
        Purpose::Claim => "relevo claim",
        Purpose::Finish => "relevo finish",
    };
    let options = pool.connect_options().as_ref().clone().application_name(name).options(SETTINGS);
    within(CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await
}

/// Bounds a database step: past the limit it counts as an I/O error, and the connection as dead.
pub(crate) async fn within<T>(
    limit: Duration,
    step: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    match tokio::time::timeout(limit, step).await {
        Ok(done) => done,
        Err(_) => Err(sqlx::Error::Io(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            format!("no answer within {} ms", limit.as_millis()),
        ))),
    }
}

/// The wait before trying a failed step again: 50 ms doubled per failure, at most 2 s, the upper
/// half of it random.
pub(crate) fn pause(failures: u32) -> Duration {
    let full = Duration::from_millis(50 << failures.clamp(1, 6).saturating_sub(1))
        .min(Duration::from_secs(2));
    full / 2 + super::full_jitter(full / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patience_grows_beyond_the_limit_of_a_statement() {
        assert_eq!(patience(0), Duration::from_secs(6));
        assert_eq!(patience(1), Duration::from_secs(12));
        assert_eq!(patience(3), ANSWER_TIMEOUT_MAX);
        assert_eq!(patience(u32::MAX), ANSWER_TIMEOUT_MAX);
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        for failures in 0..100 {
            assert!(pause(failures) >= Duration::from_millis(25));
            assert!(pause(failures) <= Duration::from_secs(2));
        }
        assert!(pause(50) >= Duration::from_millis(800));
    }
}
