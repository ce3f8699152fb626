//! Schedules as the scheduler keeps them, to look at and to start by hand. When they are due is the
//! scheduler's affair.

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::PgPool;
use sqlx::types::Json;

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

/// All schedules by name, or the one called `name`.
///
/// # Errors
/// When the database fails.
pub async fn list(pool: &PgPool, name: Option<&str>) -> Result<Vec<StoredSchedule>, sqlx::Error> {
    sqlx::query_as(
        "-- schedules::list
        SELECT s.name, s.origin, s.active, s.rhythm, s.timezone, s.backup_source, s.job_kind,
               s.job_payload, s.missed_runs, f.slot AS last_slot, f.fired_at AS last_fired_at,
               f.outcome AS last_outcome, f.reason AS last_reason, f.run_id AS last_run_id,
               f.job_id AS last_job_id, clock_timestamp() AS now
        FROM relevo.schedule AS s
             LEFT JOIN LATERAL (
                 SELECT slot, fired_at, outcome, reason, run_id, job_id
                 FROM relevo.schedule_fire WHERE schedule = s.name ORDER BY slot DESC LIMIT 1
             ) AS f ON true
        WHERE $1::text IS NULL OR s.name = $1
        ORDER BY s.name",
    )
    .bind(name)
    .fetch_all(pool)
    .await
}
