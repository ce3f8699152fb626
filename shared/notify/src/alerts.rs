//! States that last. A state begins when it is raised for the first time and is over when it is
//! resolved; while it lasts there is one open row of its key, however many processes see it.
//!
//! Killed here, then what? Raising and the jobs that tell of it belong into one transaction of the
//! caller: either people are told of the row, or it is not there and the next look makes it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

/// How long it takes until people are told again that a number has grown, unless it doubled.
const GROWN_PAUSE_SECONDS: i64 = 3_600;

/// Resolved alerts are kept for so many days.
const KEPT_DAYS: i32 = 90;

/// What sees a state.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// A source's last run failed. Raised by the end of a run.
    Failed,
    /// A source had no success in time. Raised by the leading scheduler.
    Overdue,
    /// A disk fills up. Raised by each worker and by the leading scheduler, for their own disk.
    DiskLow,
    /// No worker is alive. Raised by the leading scheduler.
    NoWorker,
    /// Dead letters are present. Raised by the leading scheduler.
    DeadLetters,
    /// A channel takes no messages. Raised when a message to it is given up.
    Channel,
}

impl Rule {
    /// The name as stored and shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Overdue => "overdue",
            Self::DiskLow => "disk_low",
            Self::NoWorker => "no_worker",
            Self::DeadLetters => "dead_letters",
            Self::Channel => "channel",
        }
    }
}

/// A state as it is seen now.
#[derive(Clone, Debug)]
pub struct Condition {
    /// What sees it.
    pub rule: Rule,
    /// Of what: a source, a host's folder, a channel.
    pub subject: String,
    /// Figures for the message.
    pub details: Value,
    /// How bad it is, where that is a number.
    pub level: i64,
}

impl Condition {
    /// A state without a number.
    #[must_use]
    pub fn new(rule: Rule, subject: impl Into<String>, details: Value) -> Self {
        Self { rule, subject: subject.into(), details, level: 0 }
    }

    /// What it is of.
    #[must_use]
    pub fn key(&self) -> String {
        key(self.rule, &self.subject)
    }
}

/// The key of a rule's state of a subject.
#[must_use]
pub fn key(rule: Rule, subject: &str) -> String {
    let key = format!("{}/{subject}", rule.as_str());
    key.chars().take(500).collect()
}

/// An alert as it is kept.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct Alert {
    /// Its number.
    pub id: i64,
    /// What it is of.
    pub key: String,
    /// What saw it.
    pub rule: String,
    /// A source, a host's folder, a channel.
    pub subject: String,
    /// Figures, as last seen.
    pub details: Value,
    /// How bad it is, where that is a number.
    pub level: i64,
    /// How often it was seen.
    pub occurrences: i64,
    /// When it was first seen.
    pub opened_at: DateTime<Utc>,
    /// When it was last seen.
    pub last_seen_at: DateTime<Utc>,
    /// When people were last told of it.
    pub told_at: Option<DateTime<Utc>>,
    /// When it was over.
    pub resolved_at: Option<DateTime<Utc>>,
}

/// What raising an alert came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Raised {
    /// The open alert.
    pub id: i64,
    /// Whether people are to be told: it has begun, has grown, or lasts longer than `repeat`.
    pub tell: bool,
}

/// Notes that a state is seen.
///
/// # Errors
/// When the database fails.
pub async fn raise_in(
    tx: &mut PgConnection,
    condition: &Condition,
    repeat: Option<Duration>,
) -> Result<Raised, sqlx::Error> {
    let repeat_seconds = repeat.and_then(|repeat| i64::try_from(repeat.as_secs()).ok());
    // One clock reading for the whole statement: told now is told at the moment of last sight.
    let (id, tell): (i64, bool) = sqlx::query_as(
        "-- alerts::raise_in
        INSERT INTO relevo.alert AS a
               (key, rule, subject, details, level, told_level, opened_at, last_seen_at, told_at)
        VALUES ($1, $2, left($3, 500), $4, $5, $5,
                statement_timestamp(), statement_timestamp(), statement_timestamp())
        ON CONFLICT (key) WHERE resolved_at IS NULL DO UPDATE
           SET details = excluded.details, level = excluded.level,
               occurrences = a.occurrences + 1, last_seen_at = statement_timestamp(),
               (told_at, told_level) = (
                   SELECT CASE WHEN due THEN statement_timestamp() ELSE a.told_at END,
                          CASE WHEN due THEN excluded.level ELSE a.told_level END
                     FROM (SELECT coalesce(a.told_at + make_interval(secs => $6)
                                               <= statement_timestamp(), false)
                                  OR excluded.level >= 2 * greatest(a.told_level, 1)
                                  OR (excluded.level > a.told_level
                                      AND a.told_at + make_interval(secs => $7)
                                              <= statement_timestamp()) AS due) AS d
               )
        RETURNING id, told_at = last_seen_at",
    )
    .bind(condition.key())
    .bind(condition.rule.as_str())
    .bind(&condition.subject)
    .bind(&condition.details)
    .bind(condition.level)
    .bind(repeat_seconds.map(seconds))
    .bind(seconds(GROWN_PAUSE_SECONDS))
    .fetch_one(tx)
    .await?;
    Ok(Raised { id, tell })
}

#[expect(clippy::cast_precision_loss, reason = "settings bound it to some years")]
fn seconds(seconds: i64) -> f64 {
    seconds as f64
}

/// Notes that a state is over; nothing comes back when it was not open.
///
/// # Errors
/// When the database fails.
pub async fn resolve_in(tx: &mut PgConnection, key: &str) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar(
        "-- alerts::resolve_in
        UPDATE relevo.alert SET resolved_at = greatest(statement_timestamp(), opened_at)
         WHERE key = $1 AND resolved_at IS NULL
        RETURNING id",
    )
    .bind(key)
    .fetch_optional(tx)
    .await
}

/// One alert.
///
/// # Errors
/// When the database fails.
pub async fn get(pool: &PgPool, id: i64) -> Result<Option<Alert>, sqlx::Error> {
    sqlx::query_as(
        "-- alerts::get
        SELECT id, key, rule, subject, details, level, occurrences, opened_at, last_seen_at,
               told_at, resolved_at
          FROM relevo.alert WHERE id = $1",
    )
    .bind(id)
    .fetch_optional(pool)
    .await
}

/// Alerts, newest first: all, or those that are open.
///
/// # Errors
/// When the database fails.
pub async fn list(
    pool: &PgPool,
    open_only: bool,
    before: Option<i64>,
    limit: u16,
) -> Result<Vec<Alert>, sqlx::Error> {
    sqlx::query_as(
        "-- alerts::list
        SELECT id, key, rule, subject, details, level, occurrences, opened_at, last_seen_at,
               told_at, resolved_at
          FROM relevo.alert
         WHERE (NOT $1 OR resolved_at IS NULL) AND id < coalesce($2, 9223372036854775807)
         ORDER BY id DESC
         LIMIT $3",
    )
    .bind(open_only)
    .bind(before)
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await
}

/// The open alerts of a rule.
///
/// # Errors
/// When the database fails.
pub async fn open_of(pool: &PgPool, rule: Rule) -> Result<Vec<Alert>, sqlx::Error> {
    sqlx::query_as(
        "-- alerts::open_of
        SELECT id, key, rule, subject, details, level, occurrences, opened_at, last_seen_at,
               told_at, resolved_at
          FROM relevo.alert
         WHERE rule = $1 AND resolved_at IS NULL
         ORDER BY id
         LIMIT 1000",
    )
    .bind(rule.as_str())
    .fetch_all(pool)
    .await
}

/// Deletes what was over long ago.
///
/// # Errors
/// When the database fails.
pub async fn prune(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let gone = sqlx::query(
        "-- alerts::prune
        DELETE FROM relevo.alert
         WHERE id IN (SELECT id FROM relevo.alert
                       WHERE resolved_at < clock_timestamp() - make_interval(days => $1)
                       LIMIT 1000)",
    )
    .bind(KEPT_DAYS)
    .execute(pool)
    .await?;
    Ok(gone.rows_affected())
}
