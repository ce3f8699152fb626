//! What a schedule is: when, what, and what becomes of missed slots; checked before it is stored.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Duration, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::rhythm::Rhythm;
use crate::kinds::KindBook;

/// The most characters of a name.
pub const NAME_LENGTH_MAX: usize = 100;
/// The most characters of a rhythm.
pub const RHYTHM_LENGTH_MAX: usize = 300;
/// The prefix of the names of backup schedules that sources of the configuration bring along.
pub const BACKUP_PREFIX: &str = "backup/";
/// The longest jitter, in seconds: an hour.
pub const JITTER_SECONDS_MAX: u32 = 3_600;
/// The longest time after which a missed slot may still start, in minutes: a year.
pub const MISSED_MAX_AGE_MINUTES_MAX: u32 = 525_600;
/// For how long a missed slot may still start when nobody says: six hours.
const MISSED_MAX_AGE_MINUTES: u32 = 360;

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

/// What to do with slots nobody was there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissedRuns {
    /// The newest starts, if it is young enough; older ones are skipped.
    Once,
    /// None starts.
    Skip,
    /// All that are young enough start, oldest first.
    CatchUp,
}

impl fmt::Display for MissedRuns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Once => "once",
            Self::Skip => "skip",
            Self::CatchUp => "catch_up",
        })
    }
}

/// A text that names no missed-run policy.
#[derive(Debug, thiserror::Error)]
#[error("`{0}` is no policy for missed runs; possible are once, skip and catch_up")]
pub struct UnknownPolicy(String);

impl FromStr for MissedRuns {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "once" => Ok(Self::Once),
            "skip" => Ok(Self::Skip),
            "catch_up" => Ok(Self::CatchUp),
            other => Err(UnknownPolicy(other.to_owned())),
        }
    }
}

/// Missed-run policy of one schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// What to do with missed slots.
    pub missed: MissedRuns,
    /// A missed slot older than this never starts.
    pub max_age: Duration,
}

/// A delay of each slot, spread over a range so that many schedules of one minute don't all start
/// in one second. It follows from the schedule's name and the slot: every process computes the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Jitter {
    key: u64,
    /// The range, in whole seconds.
    pub seconds: u32,
}

impl Jitter {
    /// None.
    pub const NONE: Self = Self { key: 0, seconds: 0 };

    /// Of the schedule `name`, at most `seconds`.
    #[must_use]
    pub fn of(name: &str, seconds: u32) -> Self {
        Self { key: mix(name.bytes(), 0xcbf2_9ce4_8422_2325), seconds }
    }

    /// When a slot starts: at its nominal moment, or up to the range later, to the millisecond.
    #[must_use]
    pub fn due(&self, slot: DateTime<Utc>) -> DateTime<Utc> {
        if self.seconds == 0 {
            return slot;
        }
        let random = mix(slot.timestamp_millis().to_le_bytes(), self.key);
        let delay_ms = (random >> 16) % (u64::from(self.seconds) * 1_000);
        slot + Duration::milliseconds(i64::try_from(delay_ms).unwrap_or(0))
    }
}

/// FNV-1a, which stays the same for ever, unlike the standard library's hashes, with its bits
/// spread once more at the end.
fn mix(bytes: impl IntoIterator<Item = u8>, seed: u64) -> u64 {
    let hash = bytes
        .into_iter()
        .fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd)
}

/// A schedule as its maker wants it, checked.
#[derive(Debug, Clone)]
pub struct NewSchedule {
    /// Its name; `backup/<source>` for those that sources of the configuration bring along.
    pub name: String,
    /// When it is due.
    pub rhythm: Rhythm,
    /// The zone whose wall clock the rhythm is meant in.
    pub zone: Tz,
    /// What a slot starts.
    pub action: Action,
    /// What becomes of missed slots.
    pub policy: Policy,
    /// How much later than its slot it may start.
    pub jitter: Jitter,
    /// Whether it fires by itself.
    pub enabled: bool,
}

/// A schedule as people write it: in a request, on the command line, in the configuration file.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    /// `cron 0 6,18 * * *`, `every 12h from 06:00` or `every 15m`.
    pub rhythm: String,
    /// IANA name of a zone; UTC when absent.
    #[serde(default)]
    pub timezone: Option<String>,
    /// The kind of the job it enqueues.
    #[serde(default)]
    pub kind: Option<String>,
    /// The payload of that job; `{}` when absent.
    #[serde(default)]
    pub payload: Option<Box<RawValue>>,
    /// The source whose backup it starts, in place of a job.
    #[serde(default)]
    pub backup_source: Option<String>,
    /// `once` (when absent), `skip` or `catch_up`.
    #[serde(default)]
    pub missed_runs: Option<String>,
    /// Minutes after which a missed slot never starts; 360 when absent.
    #[serde(default)]
    pub missed_max_age_minutes: Option<u32>,
    /// Seconds over which starts are spread; 0 when absent.
    #[serde(default)]
    pub jitter_seconds: Option<u32>,
    /// Whether it fires by itself; true when absent.
    #[serde(default)]
    pub enabled: Option<bool>,
}

/// Why a draft is no schedule.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {message}")]
pub struct DraftError {
    /// The field to correct.
    pub field: &'static str,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl DraftError {
    fn new(field: &'static str, message: impl fmt::Display) -> Self {
        Self { field, message: message.to_string() }
    }
}

impl Draft {
    /// Checks it as the schedule `name`; `is_source` knows the configured sources. Without `kinds`,
    /// which are in a database, a kind that this build does not have may be one to come.
    ///
    /// # Errors
    /// The first thing wrong with it.
    pub fn check(
        self,
        name: &str,
        is_source: impl Fn(&str) -> bool,
        kinds: Option<&KindBook>,
    ) -> Result<NewSchedule, DraftError> {
        let is_plain = !self.rhythm.chars().any(char::is_control);
        if !is_plain || self.rhythm.chars().count() > RHYTHM_LENGTH_MAX {
            let message = format!("at most {RHYTHM_LENGTH_MAX} characters, no control characters");
            return Err(DraftError::new("rhythm", message));
        }
        let rhythm: Rhythm = self
            .rhythm
            .trim()
            .parse()
            .map_err(|error| DraftError::new("rhythm", relevo_errors::chain(&error)))?;
        let zone = self.timezone.as_deref().unwrap_or("UTC");
        let zone: Tz = zone.parse().map_err(|_| {
            DraftError::new(
                "timezone",
                format!("`{zone}` is no time zone; write an IANA name such as America/Mexico_City"),
            )
        })?;
        if rhythm.next_after(zone, Utc::now()).is_none() {
            return Err(DraftError::new("rhythm", "it never comes due"));
        }
        let action = action(self.backup_source, self.kind, self.payload, is_source, kinds)?;
        let missed = match self.missed_runs {
            Some(text) => text.parse().map_err(|error| DraftError::new("missed_runs", error))?,
            None => MissedRuns::Once,
        };
        let minutes = self.missed_max_age_minutes.unwrap_or(MISSED_MAX_AGE_MINUTES);
        if minutes > MISSED_MAX_AGE_MINUTES_MAX {
            let message = format!("at most {MISSED_MAX_AGE_MINUTES_MAX} minutes, a year");
            return Err(DraftError::new("missed_max_age_minutes", message));
        }
        let jitter_seconds = self.jitter_seconds.unwrap_or(0);
        if jitter_seconds > JITTER_SECONDS_MAX {
            let message = format!("at most {JITTER_SECONDS_MAX} seconds, an hour");
            return Err(DraftError::new("jitter_seconds", message));
        }
        Ok(NewSchedule {
            name: name.to_owned(),
            rhythm,
            zone,
            action,
            policy: Policy { missed, max_age: Duration::minutes(i64::from(minutes)) },
            jitter: Jitter::of(name, jitter_seconds),
            enabled: self.enabled.unwrap_or(true),
        })
    }
}

fn action(
    backup_source: Option<String>,
    kind: Option<String>,
    payload: Option<Box<RawValue>>,
    is_source: impl Fn(&str) -> bool,
    kinds: Option<&KindBook>,
) -> Result<Action, DraftError> {
    match (backup_source, kind) {
        (Some(_), Some(_)) => {
            Err(DraftError::new("kind", "give a kind or a backup_source, not both"))
        }
        (None, None) => Err(DraftError::new(
            "kind",
            "it starts nothing: give the kind of a job, or a backup_source",
        )),
        (Some(_), None) if payload.is_some() => {
            Err(DraftError::new("payload", "a backup takes none"))
        }
        (Some(source), None) if !is_source(&source) => {
            Err(DraftError::new("backup_source", format!("no source `{source}` is configured")))
        }
        (Some(source), None) => Ok(Action::Backup { source }),
        (None, Some(kind)) => {
            let payload = payload.unwrap_or_else(empty_object);
            // Refused now rather than at every slot.
            kinds
                .map_or_else(
                    || KindBook::check_later(&kind, &payload),
                    |book| book.job(&kind, &payload).map(drop),
                )
                .map_err(|error| DraftError::new("kind", relevo_errors::chain(&error)))?;
            Ok(Action::Job { kind, payload })
        }
    }
}

fn empty_object() -> Box<RawValue> {
    RawValue::from_string("{}".to_owned()).unwrap_or_default()
}

/// Checks the name of a schedule that an operator makes.
///
/// # Errors
/// What a name has to be like.
pub fn check_name(name: &str) -> Result<(), DraftError> {
    let refuse = |message: &str| Err(DraftError::new("name", message));
    if name.is_empty() || name.chars().count() > NAME_LENGTH_MAX {
        return refuse("it has 1 to 100 characters");
    }
    if name.chars().any(char::is_control) || name.trim() != name {
        return refuse("no control characters, and no space at its ends");
    }
    if name.starts_with(BACKUP_PREFIX) {
        return refuse("names that begin with backup/ belong to the sources of the configuration");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draft() -> Draft {
        Draft {
            rhythm: "cron 0 3 * * *".to_owned(),
            kind: Some("Noop".to_owned()),
            ..Draft::default()
        }
    }

    fn refusal(draft: Draft) -> (&'static str, String) {
        let error = draft.check("x", |source| source == "shop", None).expect_err("it is wrong");
        (error.field, error.message)
    }

    #[test]
    fn what_is_missing_has_a_default() {
        let schedule = draft().check("nightly", |_| false, None).unwrap();
        assert_eq!((schedule.zone, schedule.enabled), (Tz::UTC, true));
        assert_eq!(schedule.policy.missed, MissedRuns::Once);
        assert_eq!(schedule.policy.max_age, Duration::hours(6));
        assert_eq!(schedule.jitter.seconds, 0);
        let Action::Job { payload, .. } = schedule.action else { panic!("a job") };
        assert_eq!(payload.get(), "{}");
    }

    #[test]
    fn whatever_is_wrong_is_named_by_its_field() {
        let cases: [(Draft, &str, &str); 9] = [
            (Draft { rhythm: "often".to_owned(), ..draft() }, "rhythm", "every 15m"),
            (Draft { rhythm: "cron 0 0 30 2 *".to_owned(), ..draft() }, "rhythm", "never"),
            (Draft { timezone: Some("Mars".to_owned()), ..draft() }, "timezone", "IANA"),
            (Draft { kind: None, ..draft() }, "kind", "starts nothing"),
            (Draft { kind: Some("Nop".to_owned()), ..draft() }, "kind", "Noop"),
            (Draft { backup_source: Some("shop".to_owned()), ..draft() }, "kind", "not both"),
            (
                Draft { backup_source: Some("mall".to_owned()), kind: None, ..draft() },
                "backup_source",
                "mall",
            ),
            (Draft { missed_runs: Some("never".to_owned()), ..draft() }, "missed_runs", "skip"),
            (Draft { jitter_seconds: Some(3_601), ..draft() }, "jitter_seconds", "3600"),
        ];
        for (draft, field, part) in cases {
            let (named, message) = refusal(draft);
            assert!(named == field && message.contains(part), "{named}: {message}");
        }
    }

    #[test]
    fn names_are_bounded_and_those_of_sources_are_kept() {
        assert!(check_name("nightly clean-up / Ñ").is_ok());
        for name in ["", " a", "a\n", "backup/shop", &"x".repeat(101)] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn jitter_is_the_same_everywhere_and_spreads() {
        let slot: DateTime<Utc> = "2026-11-22T06:00:00Z".parse().unwrap();
        let jitter = Jitter::of("nightly", 600);
        assert_eq!(jitter.due(slot), Jitter::of("nightly", 600).due(slot));
        assert_eq!(Jitter::NONE.due(slot), slot);
        let delays: Vec<i64> = (0..1_000)
            .map(|n| (Jitter::of(&format!("s{n}"), 600).due(slot) - slot).num_seconds())
            .collect();
        assert!(delays.iter().all(|delay| (0..600).contains(delay)));
        let mean = delays.iter().sum::<i64>() / 1_000;
        assert!((250..350).contains(&mean), "{mean}");
        let days: Vec<i64> = (0..1_000)
            .map(|day| {
                let slot = slot + Duration::days(day);
                (jitter.due(slot) - slot).num_seconds()
            })
            .collect();
        let mean = days.iter().sum::<i64>() / 1_000;
        assert!((250..350).contains(&mean), "{mean}");
    }
}
