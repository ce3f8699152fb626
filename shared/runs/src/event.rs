//! The log of a run.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::PgConnection;

use crate::{RunError, RunId, Runs, bounded};

/// Longest message stored, in characters.
const MESSAGE_CHARS_MAX: usize = 4_000;
/// Largest fields stored, in bytes of JSON text.
const FIELDS_BYTES_MAX: usize = 32_768;
/// Events of level debug and info per run.
const EVENTS_MAX: i64 = 10_000;
/// Events per run altogether: when the chatter has filled the log, warnings and errors still fit.
const EVENTS_WITH_WARNINGS_MAX: i64 = 11_000;
/// Largest page of a log.
const PAGE_MAX: u32 = 1_000;

/// How much a line of the log matters.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize, sqlx::Type,
)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum LogLevel {
    /// For who looks into one run closely.
    Debug,
    /// A step that went as it should.
    Info,
    /// Something the run got over.
    Warn,
    /// What ended the run, or one of its jobs.
    Error,
}

impl LogLevel {
    /// The name as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One line of a run's log.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct RunEvent {
    /// Position in the log, rising; pass the last one seen to get what follows.
    pub id: i64,
    /// The run it tells about.
    pub run_id: RunId,
    /// When it was written, by the database's clock.
    pub at: DateTime<Utc>,
    /// How much it matters.
    pub level: LogLevel,
    /// One sentence.
    pub message: String,
    /// The same facts for machines: a JSON object.
    pub fields: Value,
}

impl Runs {
    /// Writes one line into the log of a run. Text and fields are cut to their bounds; a log that is
    /// full takes no more, and a run that is gone has none: neither is an error.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn log(
        &self,
        id: RunId,
        level: LogLevel,
        message: &str,
        fields: &Value,
    ) -> Result<(), RunError> {
        let mut conn = self.pool().acquire().await?;
        self.log_in(&mut conn, id, level, message, fields).await
    }

    /// As [`Runs::log`], in the caller's transaction.
    ///
    /// The run's row is locked until that transaction ends, so that lines of one run become visible
    /// in the order of their ids, and nobody who follows the log misses one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn log_in(
        &self,
        tx: &mut PgConnection,
        id: RunId,
        level: LogLevel,
        message: &str,
        fields: &Value,
    ) -> Result<(), RunError> {
        let events_max =
            if level >= LogLevel::Warn { EVENTS_WITH_WARNINGS_MAX } else { EVENTS_MAX };
        sqlx::query(
            "-- Runs::log_in
            WITH locked AS (
                SELECT id FROM relevo.run WHERE id = $1 FOR NO KEY UPDATE
            )
            INSERT INTO relevo.run_event (run_id, level, message, fields)
            SELECT locked.id, $2, $3, $4
            FROM locked
            WHERE (
                SELECT count(*)
                FROM (SELECT 1 FROM relevo.run_event WHERE run_id = $1 LIMIT $5) AS present
            ) < $5",
        )
        .bind(id)
        .bind(level.as_str())
        .bind(bounded::text(message, MESSAGE_CHARS_MAX))
        .bind(bounded::object(fields, FIELDS_BYTES_MAX))
        .bind(events_max)
        .execute(tx)
        .await?;
        Ok(())
    }

    /// The lines of a run's log after the one with id `after`, oldest first, at most `limit`
    /// (bounded to 1,000; 0 means that too).
    ///
    /// # Errors
    /// When the database fails. A run that does not exist has an empty log.
    pub async fn logs(
        &self,
        id: RunId,
        after: Option<i64>,
        limit: u32,
    ) -> Result<Vec<RunEvent>, RunError> {
        let limit = if limit == 0 { PAGE_MAX } else { limit.min(PAGE_MAX) };
        let events = sqlx::query_as(
            "-- Runs::logs
            SELECT id, run_id, at, level, message, fields
            FROM relevo.run_event
            WHERE run_id = $1 AND id > $2
            ORDER BY id
            LIMIT $3",
        )
        .bind(id)
        .bind(after.unwrap_or(0))
        .bind(i64::from(limit))
        .fetch_all(self.pool())
        .await?;
        Ok(events)
    }
}
