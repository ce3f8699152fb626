//! Schedules in the control plane: written by operators and by the leading scheduler.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use super::definition::{Action, Jitter, NewSchedule, Policy, UnknownPolicy};
use super::rhythm::RhythmError;

/// A stored, active schedule.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// What its maker wants.
    pub wanted: NewSchedule,
    /// Every slot at or before this moment was dealt with.
    pub settled_to: DateTime<Utc>,
    /// Rises with every change of its definition.
    pub revision: i64,
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
    jitter_seconds: i32,
    settled_to: DateTime<Utc>,
    revision: i64,
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
        let jitter = Jitter::of(&self.name, u32::try_from(self.jitter_seconds).unwrap_or(0));
        let wanted = NewSchedule {
            name: self.name,
            rhythm,
            zone,
            action,
            policy: Policy { missed, max_age },
            jitter,
            enabled: true,
        };
        Ok(Schedule { wanted, settled_to: self.settled_to, revision: self.revision })
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
                missed_max_age_seconds, jitter_seconds, settled_to, revision
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

/// What became of storing a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is new.
    Created,
    /// It has changed.
    Changed,
    /// It was like that before.
    Unchanged,
    /// The name belongs to a schedule of the other origin: nothing was stored.
    NameTaken,
}

/// Stores a schedule, or changes the one of that name and origin. A change of when it is due, and
/// coming back from being inactive, count from now on: slots of the past do not fire.
///
/// # Errors
/// Errors of the database.
pub async fn put_in(
    tx: &mut PgConnection,
    wanted: &NewSchedule,
    origin: Origin,
    by: &str,
) -> Result<Stored, sqlx::Error> {
    let (source, kind, payload) = match &wanted.action {
        Action::Backup { source } => (Some(source), None, None),
        Action::Job { kind, payload } => (None, Some(kind), Some(Json(payload))),
    };
    let (created, owner): (Option<bool>, Option<String>) = sqlx::query_as(
        "-- put_schedule
         WITH put AS (
             INSERT INTO relevo.schedule AS had
                    (name, origin, active, rhythm, timezone, backup_source, job_kind, job_payload,
                     missed_runs, missed_max_age_seconds, jitter_seconds, updated_by)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
             ON CONFLICT (name) DO UPDATE
                SET active = excluded.active,
                    rhythm = excluded.rhythm,
                    timezone = excluded.timezone,
                    backup_source = excluded.backup_source,
                    job_kind = excluded.job_kind,
                    job_payload = excluded.job_payload,
                    missed_runs = excluded.missed_runs,
                    missed_max_age_seconds = excluded.missed_max_age_seconds,
                    jitter_seconds = excluded.jitter_seconds,
                    settled_to = CASE
                        WHEN had.active AND had.rhythm = excluded.rhythm
                             AND had.timezone = excluded.timezone
                        THEN had.settled_to ELSE clock_timestamp() END,
                    revision = had.revision + 1,
                    updated_at = clock_timestamp(),
                    updated_by = excluded.updated_by
              WHERE had.origin = excluded.origin
                AND (had.active, had.rhythm, had.timezone, had.backup_source, had.job_kind,
                     had.job_payload, had.missed_runs, had.missed_max_age_seconds,
                     had.jitter_seconds)
                    IS DISTINCT FROM
                    (excluded.active, excluded.rhythm, excluded.timezone, excluded.backup_source,
                     excluded.job_kind, excluded.job_payload, excluded.missed_runs,
                     excluded.missed_max_age_seconds, excluded.jitter_seconds)
             RETURNING xmax = 0 AS created
         )
         SELECT (SELECT created FROM put), (SELECT origin FROM relevo.schedule WHERE name = $1)",
    )
    .bind(&wanted.name)
    .bind(origin.as_str())
    .bind(wanted.enabled)
    .bind(wanted.rhythm.to_string())
    .bind(wanted.zone.name())
    .bind(source)
    .bind(kind)
    .bind(payload)
    .bind(wanted.policy.missed.to_string())
    .bind(wanted.policy.max_age.num_seconds())
    .bind(i32::try_from(wanted.jitter.seconds).unwrap_or(i32::MAX))
    .bind(by)
    .fetch_one(tx)
    .await?;
    Ok(match created {
        Some(true) => Stored::Created,
        Some(false) => Stored::Changed,
        None if owner.as_deref() == Some(origin.as_str()) => Stored::Unchanged,
        None => Stored::NameTaken,
    })
}

/// Makes the schedules of origin configuration those in `wanted`: new and changed
/// ones are stored, those that are gone become inactive and keep their history.
/// Returns the names that an operator's schedule has already: these are left out.
///
/// # Errors
/// Errors of the database.
pub async fn follow_configuration_in(
    tx: &mut PgConnection,
    wanted: &[NewSchedule],
    by: &str,
) -> Result<Vec<String>, sqlx::Error> {
    let mut taken = Vec::new();
    for schedule in wanted {
        if put_in(tx, schedule, Origin::Configuration, by).await? == Stored::NameTaken {
            taken.push(schedule.name.clone());
        }
    }
    let names: Vec<&str> = wanted.iter().map(|schedule| schedule.name.as_str()).collect();
    sqlx::query(
        "-- retire_schedules
         UPDATE relevo.schedule
            SET active = false, revision = revision + 1, updated_at = clock_timestamp(),
                updated_by = $2
          WHERE origin = 'configuration' AND active AND name <> ALL ($1)",
    )
    .bind(names)
    .bind(by)
    .execute(tx)
    .await?;
    Ok(taken)
}

/// What became of changing or removing an operator's schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Edited {
    /// It is done.
    Done,
    /// It was like that before.
    Unchanged,
    /// There is none of that name.
    NotFound,
    /// It belongs to the configuration, which alone changes it.
    OfConfiguration,
}

/// Lets an operator's schedule fire or rest. Slots that passed while it rested do not fire.
///
/// # Errors
/// Errors of the database.
pub async fn set_active_in(
    tx: &mut PgConnection,
    name: &str,
    active: bool,
    by: &str,
) -> Result<Edited, sqlx::Error> {
    let Some((origin, was_active)) = lock(tx, name).await? else { return Ok(Edited::NotFound) };
    if origin != Origin::Operator.as_str() {
        return Ok(Edited::OfConfiguration);
    }
    if was_active == active {
        return Ok(Edited::Unchanged);
    }
    sqlx::query(
        "-- set_schedule_active
         UPDATE relevo.schedule
            SET active = $2, revision = revision + 1, updated_at = clock_timestamp(),
                updated_by = $3,
                settled_to = CASE WHEN $2 THEN clock_timestamp() ELSE settled_to END
          WHERE name = $1",
    )
    .bind(name)
    .bind(active)
    .bind(by)
    .execute(tx)
    .await?;
    Ok(Edited::Done)
}

/// Removes an operator's schedule with its history.
///
/// # Errors
/// Errors of the database.
pub async fn remove_in(tx: &mut PgConnection, name: &str) -> Result<Edited, sqlx::Error> {
    let Some((origin, _)) = lock(tx, name).await? else { return Ok(Edited::NotFound) };
    if origin != Origin::Operator.as_str() {
        return Ok(Edited::OfConfiguration);
    }
    sqlx::query("-- remove_schedule\nDELETE FROM relevo.schedule WHERE name = $1")
        .bind(name)
        .execute(tx)
        .await?;
    Ok(Edited::Done)
}

async fn lock(tx: &mut PgConnection, name: &str) -> Result<Option<(String, bool)>, sqlx::Error> {
    sqlx::query_as(
        "-- lock_schedule
         SELECT origin, active FROM relevo.schedule WHERE name = $1 FOR UPDATE",
    )
    .bind(name)
    .fetch_optional(tx)
    .await
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
