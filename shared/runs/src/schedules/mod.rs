//! Schedules: what they are, how they are stored, what people see of them. When to settle their
//! slots is the scheduler's affair.

pub mod definition;
mod file_state;
pub mod rhythm;
mod slots;
pub mod store;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use sqlx::PgPool;
use sqlx::types::Json;

pub use definition::{Action, Draft, DraftError, Jitter, MissedRuns, NewSchedule, Policy};
pub use file_state::{FileState, file_state, put_file_state_in};
pub use rhythm::{Rhythm, RhythmError};
pub use store::{Edited, Origin, Schedule, Stored};

/// A schedule and the last slot that was dealt with.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct StoredSchedule {
    /// Its name.
    pub name: String,
    /// `configuration` or `operator`.
    pub origin: String,
    /// Whether it fires by itself.
    pub active: bool,
    /// When it is due, as text.
    pub rhythm: String,
    /// The zone of its wall clock.
    pub timezone: String,
    /// The source whose backup it starts; else it enqueues a job.
    pub backup_source: Option<String>,
    /// The kind of the job it enqueues.
    pub job_kind: Option<String>,
    /// The payload of that job.
    pub job_payload: Option<Json<Box<RawValue>>>,
    /// What becomes of missed slots.
    pub missed_runs: String,
    /// Seconds after which a missed slot never starts.
    pub missed_max_age_seconds: i64,
    /// Seconds over which starts are spread.
    pub jitter_seconds: i32,
    /// When its definition last changed.
    pub updated_at: DateTime<Utc>,
    /// Who changed it.
    pub updated_by: String,
    /// The last slot that was dealt with.
    pub last_slot: Option<DateTime<Utc>>,
    /// When it was dealt with.
    pub last_fired_at: Option<DateTime<Utc>>,
    /// `started` or `skipped`.
    pub last_outcome: Option<String>,
    /// Why it was skipped.
    pub last_reason: Option<String>,
    /// The run it started.
    pub last_run_id: Option<i64>,
    /// The job it enqueued.
    pub last_job_id: Option<i64>,
    /// The database's time.
    pub now: DateTime<Utc>,
}

impl StoredSchedule {
    /// The slots to come, oldest first; none while it is inactive.
    #[must_use]
    pub fn next_slots(&self, limit: usize) -> Vec<DateTime<Utc>> {
        if !self.active {
            return Vec::new();
        }
        rhythm::next_slots(&self.rhythm, &self.timezone, self.now, limit)
    }

    /// The definition as people write it, to change a part of it.
    #[must_use]
    pub fn draft(&self) -> Draft {
        Draft {
            rhythm: self.rhythm.clone(),
            timezone: Some(self.timezone.clone()),
            kind: self.job_kind.clone(),
            payload: self.job_payload.as_ref().map(|payload| payload.0.clone()),
            backup_source: self.backup_source.clone(),
            missed_runs: Some(self.missed_runs.clone()),
            missed_max_age_minutes: u32::try_from(self.missed_max_age_seconds / 60).ok(),
            jitter_seconds: u32::try_from(self.jitter_seconds).ok(),
            enabled: Some(self.active),
        }
    }

    /// The definition for the audit log.
    #[must_use]
    pub fn definition(&self) -> Value {
        json!({
            "rhythm": self.rhythm,
            "timezone": self.timezone,
            "kind": self.job_kind,
            "payload": self.job_payload,
            "backup_source": self.backup_source,
            "missed_runs": self.missed_runs,
            "missed_max_age_minutes": self.missed_max_age_seconds / 60,
            "jitter_seconds": self.jitter_seconds,
            "enabled": self.active,
        })
    }
}

const LIST: &str = "-- schedules::list
    SELECT s.name, s.origin, s.active, s.rhythm, s.timezone, s.backup_source, s.job_kind,
           s.job_payload, s.missed_runs, s.missed_max_age_seconds, s.jitter_seconds, s.updated_at,
           s.updated_by, f.slot AS last_slot, f.fired_at AS last_fired_at,
           f.outcome AS last_outcome, f.reason AS last_reason, f.run_id AS last_run_id,
           f.job_id AS last_job_id, clock_timestamp() AS now
    FROM relevo.schedule AS s
         LEFT JOIN LATERAL (
             SELECT slot, fired_at, outcome, reason, run_id, job_id
             FROM relevo.schedule_fire WHERE schedule = s.name ORDER BY slot DESC LIMIT 1
         ) AS f ON true
    WHERE $1::text IS NULL OR s.name = $1
    ORDER BY s.name";

/// All schedules by name, or the one called `name`.
///
/// # Errors
/// When the database fails.
pub async fn list(pool: &PgPool, name: Option<&str>) -> Result<Vec<StoredSchedule>, sqlx::Error> {
    sqlx::query_as(LIST).bind(name).fetch_all(pool).await
}

/// The schedule called `name`, as it is within the caller's transaction.
///
/// # Errors
/// When the database fails.
pub async fn find_in(
    tx: &mut sqlx::PgConnection,
    name: &str,
) -> Result<Option<StoredSchedule>, sqlx::Error> {
    sqlx::query_as(LIST).bind(name).fetch_optional(tx).await
}
