//! The schedules that the configuration asks for.

use chrono_tz::Tz;
use relevo_runs::schedules::definition::BACKUP_PREFIX;
pub use relevo_runs::schedules::store::{
    Edited, Flaw, Origin, Schedule, Stored, Unreadable, active, follow_configuration_in,
    prune_fires, put_in, remove_in, set_active_in,
};
pub use relevo_runs::schedules::{Action, NewSchedule};
use relevo_runs::schedules::{Draft, DraftError, Jitter, MissedRuns, Policy, Rhythm, RhythmError};
use relevo_settings::{BackupSource, ScheduleEntry, Settings};
use serde_json::value::RawValue;

/// Why a configured schedule makes no sense.
#[derive(Debug, thiserror::Error)]
pub enum ConfiguredError {
    /// The times of a source.
    #[error("[backup.{name}]: its times make no sense")]
    Source {
        /// The source.
        name: String,
        /// What is wrong.
        source: RhythmError,
    },
    /// A table `[schedule.NAME]`.
    #[error("[schedule.{name}]")]
    Schedule {
        /// The schedule.
        name: String,
        /// What is wrong, and where.
        source: DraftError,
    },
    /// The payload in a table `[schedule.NAME]`.
    #[error("[schedule.{name}] payload is no JSON")]
    Payload {
        /// The schedule.
        name: String,
        /// Where it is wrong.
        source: serde_json::Error,
    },
}

/// The schedules that the configuration asks for: `backup/<source>` for each source that has its
/// own, and one for each table `[schedule.NAME]`.
///
/// # Errors
/// The first that makes no sense.
pub fn configured(settings: &Settings) -> Result<Vec<NewSchedule>, ConfiguredError> {
    each_configured(settings).into_iter().collect()
}

/// The same one by one, to name all that make no sense.
pub fn each_configured(settings: &Settings) -> Vec<Result<NewSchedule, ConfiguredError>> {
    let sources = settings.backup.iter().filter(|(_, source)| source.schedule_enabled);
    let of_sources = sources.map(|(name, source)| of_source(settings, name, source));
    let tables = settings.schedule.iter();
    of_sources.chain(tables.map(|(name, entry)| of_table(settings, name, entry))).collect()
}

fn of_source(
    settings: &Settings,
    name: &str,
    source: &BackupSource,
) -> Result<NewSchedule, ConfiguredError> {
    let scheduler = &settings.scheduler;
    // Both enums are three words; the one of the file is what an operator may write, too.
    let missed = scheduler.missed_runs.as_str().parse().unwrap_or(MissedRuns::Once);
    // The configuration bounds it to a year.
    let minutes = i64::try_from(scheduler.missed_max_age_minutes).unwrap_or(i64::from(u32::MAX));
    let rhythm = Rhythm::every(source.sync_interval_hours, source.first_slot)
        .map_err(|error| ConfiguredError::Source { name: name.to_owned(), source: error })?;
    let zone: Tz = source.timezone;
    Ok(NewSchedule {
        name: format!("{BACKUP_PREFIX}{name}"),
        rhythm,
        zone,
        action: Action::Backup { source: name.to_owned() },
        policy: Policy { missed, max_age: chrono::Duration::minutes(minutes) },
        jitter: Jitter::NONE,
        enabled: true,
    })
}

fn of_table(
    settings: &Settings,
    name: &str,
    entry: &ScheduleEntry,
) -> Result<NewSchedule, ConfiguredError> {
    let payload = entry
        .payload
        .as_deref()
        .map(serde_json::from_str::<Box<RawValue>>)
        .transpose()
        .map_err(|source| ConfiguredError::Payload { name: name.to_owned(), source })?;
    let draft = Draft {
        rhythm: entry.rhythm.clone(),
        timezone: Some(entry.timezone.name().to_owned()),
        kind: entry.kind.clone(),
        payload,
        backup_source: entry.backup_source.clone(),
        missed_runs: Some(entry.missed_runs.as_str().to_owned()),
        missed_max_age_minutes: Some(entry.missed_max_age_minutes),
        jitter_seconds: Some(entry.jitter_seconds),
        enabled: Some(entry.enabled),
    };
    draft
        .check(name, |source| settings.backup.contains_key(source), None)
        .map_err(|source| ConfiguredError::Schedule { name: name.to_owned(), source })
}
