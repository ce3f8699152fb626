//! A session's row: opened, kept alive, closed.

use std::time::Duration;

use sqlx::{PgConnection, PgPool, Row as _};

use super::WorkerConfig;
use crate::{JobId, SessionId};

const OPEN: &str = "-- open_session
    INSERT INTO relevo.session (name, host, pid, queues, concurrency, ttl)
    VALUES ($1, $2, $3, $4, $5, make_interval(secs => $6)) RETURNING id";

/// No row: the session was ended by rescue. Whether its time had run out does not matter as long as
/// nobody acted on it.
const BEAT: &str = "-- heartbeat
    UPDATE relevo.session SET heartbeat_at = clock_timestamp(), running = $2, draining = $3,
                              concurrency = $4
    WHERE id = $1 AND ended_at IS NULL
    RETURNING ARRAY (SELECT id FROM relevo.job
                     WHERE session_id = $1 AND cancel_requested_at IS NOT NULL) AS cancelled";

/// The row itself goes with the next rescue pass, which first looks for jobs left behind.
const CLOSE: &str = "-- close_session
    UPDATE relevo.session SET ended_at = now(), running = 0 WHERE id = $1 AND ended_at IS NULL";

pub(crate) async fn open(pool: &PgPool, config: &WorkerConfig) -> Result<SessionId, sqlx::Error> {
    sqlx::query_scalar(OPEN)
        .bind(&config.name)
        .bind(host())
        .bind(i32::try_from(std::process::id()).unwrap_or(0))
        .bind(&config.queues)
        .bind(i32::try_from(config.slots()).unwrap_or(i32::MAX))
        .bind(config.lease_ttl.as_secs_f64())
        .fetch_one(pool)
        .await
}

/// The jobs that are to be cancelled, or none when the session has been ended.
pub(crate) async fn beat(
    connection: &mut PgConnection,
    session: SessionId,
    running: usize,
    draining: bool,
    slots: usize,
) -> Result<Option<Vec<JobId>>, sqlx::Error> {
    sqlx::query(BEAT)
        .bind(session)
        .bind(i32::try_from(running).unwrap_or(i32::MAX))
        .bind(draining)
        .bind(i32::try_from(slots).unwrap_or(i32::MAX))
        .fetch_optional(connection)
        .await?
        .map(|row| row.try_get("cancelled"))
        .transpose()
}

pub(crate) async fn close(pool: &PgPool, session: SessionId) -> Result<(), sqlx::Error> {
    super::connect::within(Duration::from_secs(5), async {
        sqlx::query(CLOSE).bind(session).execute(pool).await
    })
    .await
    .map(|_| ())
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown".to_owned())
}
