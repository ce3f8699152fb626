//! What was asked of a gateway and what it delivered.
//!
//! RequestBackup opens one request per round of its run, hands out a token in the webhook's path and
//! calls the gateway. The backup comes back once, by webhook or in the answer; the first delivery
//! records it and enqueues the download in one transaction, every repeat finds that done.
//!
//! Locks are always taken in the order run, then request.

mod delivery;
mod gateway;

use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool, Postgres, QueryBuilder};

pub use delivery::{BY_GATEWAY, DeliverError, Delivered, Delivery, Report, deliver, delivered_in};
pub use gateway::{UrlRefused, check_download_url, gateway_time};

use crate::{RunError, RunId, bounded, secret};

/// Longest error stored, in characters.
const ERROR_CHARS_MAX: usize = 4_000;
/// Longest reason of a refused delivery that is logged, in characters.
const REFUSAL_CHARS_MAX: usize = 500;
/// Longest gateway id, in characters.
pub const GATEWAY_JOB_ID_CHARS_MAX: usize = 200;

/// How one request asks.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum AskMode {
    /// The gateway calls back when the backup is there.
    Webhook,
    /// The gateway answers when the backup is there.
    Sync,
}

impl AskMode {
    /// The word as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Sync => "sync",
        }
    }
}

impl fmt::Display for AskMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum RequestState {
    /// Stored; the gateway may have been called. Set by `open_in`.
    Asked,
    /// The gateway promised a webhook. Set by `answered_in`.
    Answered,
    /// A download is known and its job enqueued. Set by `deliver` and `delivered_in`.
    Delivered,
    /// The gateway said that it failed. Set by `deliver` and `close_in`.
    Failed,
    /// Given up by us. Set by `close_in`, and by a delivery that makes it needless.
    Expired,
}

impl RequestState {
    /// The word as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Answered => "answered",
            Self::Delivered => "delivered",
            Self::Failed => "failed",
            Self::Expired => "expired",
        }
    }
}

/// How a request ends without a delivery.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CloseAs {
    /// The gateway said that it failed.
    Failed,
    /// We gave up waiting.
    Expired,
}

/// One time that a gateway was asked.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct BackupRequest {
    /// Its number; DownloadDump names it.
    pub id: i64,
    /// The run that asked.
    pub run_id: RunId,
    /// Which request of the run, from 1.
    pub round: i32,
    /// How it asks.
    pub mode: AskMode,
    /// Where it stands.
    pub state: RequestState,
    /// The gateway's own name for the backup.
    pub gateway_job_id: Option<String>,
    /// Where the dump can be fetched; present when delivered.
    pub download_url: Option<String>,
    /// The dump's file name.
    pub filename: Option<String>,
    /// Exact length, where the gateway gave it.
    pub filesize_bytes: Option<i64>,
    /// Length in MB as the gateway rounded it.
    pub filesize_mb: Option<f64>,
    /// Until when the gateway keeps the file.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was stored.
    pub asked_at: DateTime<Utc>,
    /// When the gateway promised a webhook.
    pub answered_at: Option<DateTime<Utc>>,
    /// When the download became known.
    pub delivered_at: Option<DateTime<Utc>>,
    /// When it failed or was given up.
    pub ended_at: Option<DateTime<Utc>>,
    /// The job that its outcome enqueued.
    pub next_job_id: Option<i64>,
    /// Why it failed or was given up.
    pub error: Option<String>,
    /// When the newest token was made: from then on the gateway may have been called.
    pub token_issued_at: Option<DateTime<Utc>>,
}

fn select(name: &str) -> QueryBuilder<Postgres> {
    QueryBuilder::new(format!(
        "-- {name}
        SELECT id, run_id, round, mode, state, gateway_job_id, download_url, filename,
            filesize_bytes, filesize_mb, expires_at, asked_at, answered_at, delivered_at, ended_at,
            next_job_id, error,
            (SELECT max(issued_at) FROM relevo.backup_token WHERE request_id = backup_request.id)
                AS token_issued_at
        FROM relevo.backup_request"
    ))
}

/// The request of this round of the run: opened now (`true`), or found as an earlier attempt of the
/// same job left it (`false`).
///
/// # Errors
/// When the database fails, or the run does not exist.
pub async fn open_in(
    tx: &mut PgConnection,
    run_id: RunId,
    round: i32,
    mode: AskMode,
) -> Result<(BackupRequest, bool), RunError> {
    let created = sqlx::query(
        "-- backup_requests::open_in
        INSERT INTO relevo.backup_request (run_id, round, mode)
        SELECT id, $2, $3 FROM relevo.run WHERE id = $1
        ON CONFLICT (run_id, round) DO NOTHING",
    )
    .bind(run_id)
    .bind(round)
    .bind(mode.as_str())
    .execute(&mut *tx)
    .await?
    .rows_affected()
        == 1;
    let mut query = select("backup_requests::open_in");
    query.push(" WHERE run_id = ").push_bind(run_id).push(" AND round = ").push_bind(round);
    let request: Option<BackupRequest> = query.build_query_as().fetch_optional(tx).await?;
    Ok((request.ok_or(RunError::NotFound(run_id))?, created))
}

/// Makes a token for the webhook's path: 64 hexadecimal digits. Commit it before the gateway is
/// called with it. Every token ever made for a request stays good, since any of the calls may have
/// arrived.
///
/// # Errors
/// When the database fails or the operating system has no randomness.
pub async fn issue_token_in(tx: &mut PgConnection, request_id: i64) -> Result<String, RunError> {
    let token = secret::random_hex::<32>()?;
    sqlx::query(
        "-- backup_requests::issue_token_in
        INSERT INTO relevo.backup_token (token_sha256, request_id) VALUES ($1, $2)",
    )
    .bind(secret::sha256(&token).as_slice())
    .bind(request_id)
    .execute(tx)
    .await?;
    Ok(token)
}

/// One request.
///
/// # Errors
/// When the database fails.
pub async fn get(pool: &PgPool, id: i64) -> Result<Option<BackupRequest>, RunError> {
    let mut query = select("backup_requests::get");
    query.push(" WHERE id = ").push_bind(id);
    Ok(query.build_query_as().fetch_optional(pool).await?)
}

/// One request, its row locked until the caller's transaction ends. Lock its run first.
///
/// # Errors
/// When the database fails.
pub async fn get_for_update_in(
    tx: &mut PgConnection,
    id: i64,
) -> Result<Option<BackupRequest>, RunError> {
    let mut query = select("backup_requests::get_for_update_in");
    query.push(" WHERE id = ").push_bind(id).push(" FOR NO KEY UPDATE");
    Ok(query.build_query_as().fetch_optional(tx).await?)
}

/// The newest request of a run.
///
/// # Errors
/// When the database fails.
pub async fn latest_in(
    tx: &mut PgConnection,
    run_id: RunId,
) -> Result<Option<BackupRequest>, RunError> {
    let mut query = select("backup_requests::latest_in");
    query.push(" WHERE run_id = ").push_bind(run_id).push(" ORDER BY round DESC LIMIT 1");
    Ok(query.build_query_as().fetch_optional(tx).await?)
}

/// Every request of a run, oldest first.
///
/// # Errors
/// When the database fails.
pub async fn of_run(pool: &PgPool, run_id: RunId) -> Result<Vec<BackupRequest>, RunError> {
    let mut conn = pool.acquire().await?;
    of_run_in(&mut conn, run_id).await
}

/// As [`of_run`], as the caller's transaction sees it.
///
/// # Errors
/// When the database fails.
pub async fn of_run_in(
    conn: &mut PgConnection,
    run_id: RunId,
) -> Result<Vec<BackupRequest>, RunError> {
    let mut query = select("backup_requests::of_run");
    query.push(" WHERE run_id = ").push_bind(run_id).push(" ORDER BY round");
    Ok(query.build_query_as().fetch_all(conn).await?)
}

/// Notes that the gateway promised a webhook. False, and no change, when the request has moved on
/// already: the webhook can be faster than the answer.
///
/// # Errors
/// When the database fails.
pub async fn answered_in(
    tx: &mut PgConnection,
    id: i64,
    gateway_job_id: &str,
) -> Result<bool, RunError> {
    let changed = sqlx::query(
        "-- backup_requests::answered_in
        UPDATE relevo.backup_request
        SET state = 'answered', gateway_job_id = $2, answered_at = now()
        WHERE id = $1 AND state = 'asked'",
    )
    .bind(id)
    .bind(bounded::text(gateway_job_id, GATEWAY_JOB_ID_CHARS_MAX))
    .execute(tx)
    .await?
    .rows_affected();
    Ok(changed == 1)
}

/// Ends a request without a delivery. False, and no change, unless it was still waiting.
///
/// # Errors
/// When the database fails.
pub async fn close_in(
    tx: &mut PgConnection,
    id: i64,
    close_as: CloseAs,
    error: &str,
) -> Result<bool, RunError> {
    let state = match close_as {
        CloseAs::Failed => RequestState::Failed,
        CloseAs::Expired => RequestState::Expired,
    };
    let changed = sqlx::query(
        "-- backup_requests::close_in
        UPDATE relevo.backup_request
        SET state = $2, error = $3, ended_at = now()
        WHERE id = $1 AND state IN ('asked', 'answered')",
    )
    .bind(id)
    .bind(state.as_str())
    .bind(bounded::text(error, ERROR_CHARS_MAX))
    .execute(tx)
    .await?
    .rows_affected();
    Ok(changed == 1)
}

/// What a webhook's path or body leads to.
#[derive(Clone, Debug, Eq, PartialEq, sqlx::FromRow)]
pub struct Addressed {
    /// The request.
    pub request_id: i64,
    /// Its run.
    pub run_id: RunId,
    /// The run's source, whose gateway must be the download's host.
    pub source: String,
}

/// The request that a token in the webhook's path belongs to. Looked up by the token's hash: how long
/// the look-up takes says nothing about how much of a guess was right.
///
/// # Errors
/// When the database fails.
pub async fn by_token(pool: &PgPool, token: &str) -> Result<Option<Addressed>, RunError> {
    let addressed = sqlx::query_as(
        "-- backup_requests::by_token
        SELECT request.id AS request_id, run.id AS run_id, run.source
        FROM relevo.backup_token AS token
        JOIN relevo.backup_request AS request ON request.id = token.request_id
        JOIN relevo.run AS run ON run.id = request.run_id
        WHERE token.token_sha256 = $1",
    )
    .bind(secret::sha256(token).as_slice())
    .fetch_optional(pool)
    .await?;
    Ok(addressed)
}

/// For how long a delivery that was taken may repeat on the bare path: beyond a gateway's own tries.
const REPEATS_FOR: &str = "1 hour";

/// The request that a delivery to the bare path belongs to: one in webhook mode that the gateway
/// has promised under this id, and that is outstanding. One that was delivered a short while ago
/// counts too, since deliveries repeat; it changes nothing. Where an id came twice, a waiting one
/// goes first, then the newest.
///
/// # Errors
/// When the database fails.
pub async fn by_gateway_job_id(
    pool: &PgPool,
    gateway_job_id: &str,
) -> Result<Option<Addressed>, RunError> {
    let addressed = sqlx::query_as(
        "-- backup_requests::by_gateway_job_id
        SELECT request.id AS request_id, run.id AS run_id, run.source
        FROM relevo.backup_request AS request
        JOIN relevo.run AS run ON run.id = request.run_id
        WHERE request.gateway_job_id = $1 AND request.mode = 'webhook'
          AND (request.state IN ('asked', 'answered') AND run.state IN ('pending', 'running')
               OR request.state = 'delivered' AND request.delivered_at > now() - $2::interval)
        ORDER BY request.state IN ('asked', 'answered') DESC, request.id DESC
        LIMIT 1",
    )
    .bind(gateway_job_id)
    .bind(REPEATS_FOR)
    .fetch_optional(pool)
    .await?;
    Ok(addressed)
}

/// Lines about refused deliveries in the log of one run, and the least time between two.
const REFUSALS_MAX: i64 = 20;
const REFUSAL_EVERY: &str = "5 seconds";

/// Writes into the log of a run, while it is active, that a delivery for it was refused, and why.
/// Whoever repeats what is refused fills no log: there are at most 20 such lines in a run, one
/// in five seconds.
///
/// # Errors
/// When the database fails.
pub async fn log_refusal(pool: &PgPool, run_id: RunId, reason: &str) -> Result<(), RunError> {
    let message = format!("a webhook was refused: {}", bounded::text(reason, REFUSAL_CHARS_MAX));
    sqlx::query(
        "-- backup_requests::log_refusal
        WITH locked AS (
            SELECT id FROM relevo.run
            WHERE id = $1 AND state IN ('pending', 'running')
            FOR NO KEY UPDATE
        ), former AS (
            SELECT count(*) AS lines, max(at) AS last_at
            FROM relevo.run_event WHERE run_id = $1 AND fields ? 'refused_webhook'
        )
        INSERT INTO relevo.run_event (run_id, level, message, fields)
        SELECT locked.id, 'warn', $2, '{\"refused_webhook\": true}'
        FROM locked, former
        WHERE former.lines < $3
          AND (former.last_at IS NULL OR former.last_at < clock_timestamp() - $4::interval)",
    )
    .bind(run_id)
    .bind(message)
    .bind(REFUSALS_MAX)
    .bind(REFUSAL_EVERY)
    .execute(pool)
    .await?;
    Ok(())
}
