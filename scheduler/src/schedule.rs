//! Schedules as they are stored: from the configuration, or from an operator.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::Serialize;
use serde_json::value::RawValue;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use crate::rhythm::{Rhythm, RhythmError};
use crate::settle::{Policy, UnknownPolicy};

/// What a slot starts.
#[derive(Debug, Clone)]
pub enum Action {
    /// A backup run of a configured source.
    Backup {
        /// Name of the source.
        source: String,
    },
    /// One job.
    Job {
        /// Its kind.
        kind: String,
        /// Its payload.
        payload: Box<RawValue>,
    },
}

/// A schedule as its maker wants it.
#[derive(Debug, Clone)]
pub struct NewSchedule {
    /// Its name; `backup/<source>` for those of the configuration.
    pub name: String,
    /// When it is due.
    pub rhythm: Rhythm,
    /// The zone whose wall clock the rhythm is meant in.
    pub zone: Tz,
    /// What a slot starts.
    pub action: Action,
    /// What becomes of missed slots.
    pub policy: Policy,
}

/// A stored, active schedule.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// What its maker wants.
    pub wanted: NewSchedule,
    /// Every slot at or before this moment was dealt with.
    pub settled_to: DateTime<Utc>,
}

/// A stored schedule that this build cannot make sense of.
#[derive(Debug, thiserror::Error)]
#[error("the schedule `{name}` cannot be read")]
pub struct Unreadable {
    /// Its name.
    pub name: String,
    /// What is wrong with it.
    pub source: Flaw,
}

/// What is wrong with a stored schedule.
#[derive(Debug, thiserror::Error)]
pub enum Flaw {
    /// Its rhythm.
    #[error(transparent)]
    Rhythm(#[from] RhythmError),
    /// Its policy.
    #[error(transparent)]
    Policy(#[from] UnknownPolicy),
    /// Its zone.
    #[error("`{0}` is not a time zone this build knows")]
    Zone(String),
}

#[derive(sqlx::FromRow)]
struct Row {
    name: String,
    rhythm: String,
    timezone: String,
    backup_source: Option<String>,
    job_kind: Option<String>,
    job_payload: Option<Json<Box<RawValue>>>,
    missed_runs: String,
    missed_max_age_seconds: i64,
    settled_to: DateTime<Utc>,
}

impl Row {
    fn read(self) -> Result<Schedule, Unreadable> {
        let name = self.name.clone();
        self.read_fields().map_err(|source| Unreadable { name, source })
    }

    fn read_fields(self) -> Result<Schedule, Flaw> {
        let action = match (self.backup_source, self.job_kind, self.job_payload) {
            (Some(source), _, _) => Action::Backup { source },
            (None, kind, payload) => Action::Job {
                // A CHECK of the table says that without a source both are there.
                kind: kind.unwrap_or_default(),
                payload: payload.map(|Json(raw)| raw).unwrap_or_default(),
            },
        };
        let zone = self.timezone.parse().map_err(|_| Flaw::Zone(self.timezone))?;
        let missed = self.missed_runs.parse()?;
        let max_age = chrono::Duration::seconds(self.missed_max_age_seconds);
        let rhythm = self.rhythm.parse()?;
        let policy = Policy { missed, max_age };
        let wanted = NewSchedule { name: self.name, rhythm, zone, action, policy };
        Ok(Schedule { wanted, settled_to: self.settled_to })
    }
}

/// The active schedules by name, each readable or with what is wrong.
///
/// # Errors
/// Errors of the database.
pub async fn active(pool: &PgPool) -> Result<Vec<Result<Schedule, Unreadable>>, sqlx::Error> {
    let rows: Vec<Row> = sqlx::query_as(
        "-- active_schedules
         SELECT name, rhythm, timezone, backup_source, job_kind, job_payload, missed_runs,
                missed_max_age_seconds, settled_to
           FROM relevo.schedule
          WHERE active
          ORDER BY name",
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Row::read).collect())
}

/// Who makes a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The configuration file of the leading scheduler.
    Configuration,
    /// A person.
    Operator,
}

impl Origin {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Operator => "operator",
        }
    }
}

/// Stores a schedule, or changes the one of that name and origin. A change of
/// when it is due counts from now on: slots of the past do not fire. False when
/// the name belongs to a schedule of the other origin.
///
/// # Errors
/// Errors of the database.
pub async fn put_in(
    tx: &mut PgConnection,
    wanted: &NewSchedule,
    origin: Origin,
    by: &str,
) -> Result<bool, sqlx::Error> {
    let (source, kind, payload) = match &wanted.action {
        Action::Backup { source } => (Some(source), None, None),
        Action::Job { kind, payload } => (None, Some(kind), Some(Json(payload))),
    };
    let done = sqlx::query(
        "-- put_schedule
         INSERT INTO relevo.schedule AS had
                (name, origin, rhythm, timezone, backup_source, job_kind, job_payload,
                 missed_runs, missed_max_age_seconds, updated_by)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         ON CONFLICT (name) DO UPDATE
            SET active = true,
                rhythm = excluded.rhythm,
                timezone = excluded.timezone,
                backup_source = excluded.backup_source,
                job_kind = excluded.job_kind,
                job_payload = excluded.job_payload,
                missed_runs = excluded.missed_runs,
                missed_max_age_seconds = excluded.missed_max_age_seconds,
                settled_to = CASE
                    WHEN had.active AND had.rhythm = excluded.rhythm
                         AND had.timezone = excluded.timezone
                    THEN had.settled_to ELSE clock_timestamp() END,
                updated_at = clock_timestamp(),
                updated_by = excluded.updated_by
          WHERE had.origin = excluded.origin",
    )
    .bind(&wanted.name)
    .bind(origin.as_str())
    .bind(wanted.rhythm.to_string())
    .bind(wanted.zone.name())
    .bind(source)
    .bind(kind)
    .bind(payload)
    .bind(wanted.policy.missed.to_string())
    .bind(wanted.policy.max_age.num_seconds())
    .bind(by)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Makes the schedules of origin configuration those in `wanted`: new and changed
/// ones are stored, those that are gone become inactive and keep their history.
///
/// # Errors
/// Errors of the database.
pub async fn follow_configuration_in(
    tx: &mut PgConnection,
    wanted: &[NewSchedule],
    by: &str,
) -> Result<(), sqlx::Error> {
    for schedule in wanted {
        put_in(tx, schedule, Origin::Configuration, by).await?;
    }
    let names: Vec<&str> = wanted.iter().map(|schedule| schedule.name.as_str()).collect();
    sqlx::query(
        "-- retire_schedules
         UPDATE relevo.schedule
            SET active = false, updated_at = clock_timestamp(), updated_by = $2
          WHERE origin = 'configuration' AND active AND name <> ALL ($1)",
    )
    .bind(names)
    .bind(by)
    .execute(tx)
    .await?;
    Ok(())
}

/// Removes an operator's schedule with its history; false when there is none of
/// that name, or when it belongs to the configuration.
///
/// # Errors
/// Errors of the database.
pub async fn remove_in(tx: &mut PgConnection, name: &str) -> Result<bool, sqlx::Error> {
    let done = sqlx::query(
        "-- remove_schedule
         DELETE FROM relevo.schedule WHERE name = $1 AND origin = 'operator'",
    )
    .bind(name)
    .execute(tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A schedule as people see it.
#[derive(Debug, Clone, Serialize, sqlx::FromRow)]
pub struct ScheduleView {
    /// Its name.
    pub name: String,
    /// `configuration` or `operator`.
    pub origin: String,
    /// Whether it fires.
    pub active: bool,
    /// When it is due, as text.
    pub rhythm: String,
    /// The zone of its wall clock.
    pub timezone: String,
    /// `backup <source>` or `job <kind>`.
    pub starts: String,
    /// What becomes of missed slots.
    pub missed_runs: String,
    /// Its next slot; none while inactive or when there is no further one.
    #[sqlx(skip)]
    pub next_slot: Option<DateTime<Utc>>,
    /// The last slot that was dealt with.
    pub last_slot: Option<DateTime<Utc>>,
    /// `started` or `skipped`.
    pub last_outcome: Option<String>,
    /// Why it was skipped.
    pub last_reason: Option<String>,
    /// The run it started.
    pub last_run_id: Option<i64>,
    /// The job it enqueued.
    pub last_job_id: Option<i64>,
    #[serde(skip)]
    database_now: DateTime<Utc>,
}

/// All schedules by name, with their next slot and the last one dealt with.
///
/// # Errors
/// Errors of the database.
pub async fn list(pool: &PgPool) -> Result<Vec<ScheduleView>, sqlx::Error> {
    let mut views: Vec<ScheduleView> = sqlx::query_as(
        "-- list_schedules
         SELECT s.name, s.origin, s.active, s.rhythm, s.timezone, s.missed_runs,
                coalesce('backup ' || s.backup_source, 'job ' || s.job_kind) AS starts,
                f.slot AS last_slot, f.outcome AS last_outcome, f.reason AS last_reason,
                f.run_id AS last_run_id, f.job_id AS last_job_id,
                clock_timestamp() AS database_now
           FROM relevo.schedule AS s
           LEFT JOIN LATERAL (
                SELECT slot, outcome, reason, run_id, job_id
                  FROM relevo.schedule_fire
                 WHERE schedule = s.name
                 ORDER BY slot DESC
                 LIMIT 1) AS f ON true
          ORDER BY s.name",
    )
    .fetch_all(pool)
    .await?;
    for view in &mut views {
        if let (true, Ok(rhythm), Ok(zone)) =
            (view.active, view.rhythm.parse::<Rhythm>(), view.timezone.parse::<Tz>())
        {
            view.next_slot = rhythm.next_after(zone, view.database_now);
        }
    }
    Ok(views)
}

/// Deletes fires that were dealt with longer ago than `keep`; returns how many.
/// The newest of each schedule stays, so that one can always see it.
///
/// # Errors
/// Errors of the database.
pub async fn prune_fires(pool: &PgPool, keep: Duration) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "-- prune_fires
         DELETE FROM relevo.schedule_fire AS old
          WHERE old.fired_at < clock_timestamp() - make_interval(secs => $1)
            AND EXISTS (SELECT FROM relevo.schedule_fire AS newer
                         WHERE newer.schedule = old.schedule AND newer.slot > old.slot)",
    )
    .bind(keep.as_secs_f64())
    .execute(pool)
    .await?;
    Ok(done.rows_affected())
}
