//! When a schedule is due: slot arithmetic on the wall clock of a zone.
//!
//! Pure: no clock, no database. A slot is the nominal instant at which
//! something is meant to start; the same rhythm, zone and interval of time
//! give the same slots in every process, which is what makes a slot a key.
//!
//! Daylight saving, for `every … from …`: a wall-clock time that does not exist
//! that day (the clock jumps over it) is due at the first instant after the
//! gap; one that exists twice is due at its first occurrence only. Cron
//! expressions follow croner: fixed times as above, while patterns with
//! wildcards in the time fields go on through a repeated hour. An interval
//! counts real time and knows no wall clock.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveTime, Timelike, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds};

use super::slots::{next_of_cron, next_of_hours, next_of_interval};

/// The longest distance: counted from a time of each day, no other makes sense.
const MAX_HOURS: u32 = 24;

/// The longest interval: 31 days.
const MAX_INTERVAL_SECONDS: u32 = 31 * 24 * 3600;

/// Units of an interval and their seconds, the longest first.
const UNITS: [(char, u32); 4] = [('d', 86_400), ('h', 3_600), ('m', 60), ('s', 1)];

/// How often and at what wall-clock time something is due.
#[derive(Debug, Clone, PartialEq)]
pub enum Rhythm {
    /// Every so many wall-clock hours from a time of each day on, so that every
    /// day has its slots at the same times.
    Every {
        /// Distance between two slots in hours of the wall clock, 1 to 24. Where
        /// it does not divide 24, the distance to the next day's first is shorter.
        hours: u32,
        /// Wall-clock time of each day's first slot; whole minutes.
        from: NaiveTime,
    },
    /// Every so many seconds of real time, counted from 1970-01-01T00:00:00Z, so that all processes
    /// agree on the slots, whenever they were started.
    Interval {
        /// 1 second to 31 days.
        seconds: u32,
    },
    /// A cron expression: five fields, or six with seconds first.
    Cron(Box<Cron>),
}

/// A text that is no rhythm.
#[derive(Debug, thiserror::Error)]
pub enum RhythmError {
    /// Zero or absurdly many hours.
    #[error("a distance of {0} hours is out of range; 1 to {MAX_HOURS} are possible")]
    Hours(u32),
    /// Zero or absurdly long.
    #[error("an interval is 1 s to 31 d")]
    Interval,
    /// The first slot is not a time of day.
    #[error("`{0}` is not a time of day; write HH:MM, for instance 06:00")]
    FirstSlot(String),
    /// croner refused the expression.
    #[error("`{expression}` is not a cron expression (minute hour day month weekday)")]
    Cron {
        /// What was given.
        expression: String,
        /// What croner says about it.
        source: croner::errors::CronError,
    },
    /// Neither of the two forms.
    #[error(
        "`{0}` is no rhythm; write `cron 0 6,18 * * *`, `every 12h from 06:00`, or `every 15m`"
    )]
    Form(String),
}

/// The slots of a stored schedule after a moment, oldest first, at most `limit`: for whoever shows
/// schedules and knows them as text only. None where the rhythm or the zone is unknown.
#[must_use]
pub fn next_slots(
    rhythm: &str,
    timezone: &str,
    after: DateTime<Utc>,
    limit: usize,
) -> Vec<DateTime<Utc>> {
    let (Ok(rhythm), Ok(zone)) = (rhythm.parse::<Rhythm>(), timezone.parse::<Tz>()) else {
        return Vec::new();
    };
    std::iter::successors(rhythm.next_after(zone, after), |slot| rhythm.next_after(zone, *slot))
        .take(limit)
        .collect()
}

impl Rhythm {
    /// Every `hours` wall-clock hours from `from` on, each day.
    ///
    /// # Errors
    /// When the distance is out of range.
    pub fn every(hours: u32, from: NaiveTime) -> Result<Self, RhythmError> {
        if hours == 0 || hours > MAX_HOURS {
            return Err(RhythmError::Hours(hours));
        }
        Ok(Self::Every { hours, from })
    }

    /// A cron expression of five fields, or of six with seconds first.
    ///
    /// # Errors
    /// When croner does not understand it.
    pub fn cron(expression: &str) -> Result<Self, RhythmError> {
        CronParser::builder()
            .seconds(Seconds::Optional)
            .build()
            .parse(expression.trim())
            .map(|cron| Self::Cron(Box::new(cron)))
            .map_err(|source| RhythmError::Cron { expression: expression.to_owned(), source })
    }

    /// Every `seconds` of real time.
    ///
    /// # Errors
    /// When the interval is out of range.
    pub fn interval(seconds: u32) -> Result<Self, RhythmError> {
        if seconds == 0 || seconds > MAX_INTERVAL_SECONDS {
            return Err(RhythmError::Interval);
        }
        Ok(Self::Interval { seconds })
    }

    /// The first slot later than `after`; none when there is no further one
    /// (a cron expression for a date that never comes).
    #[must_use]
    pub fn next_after(&self, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self {
            Self::Every { hours, from } => next_of_hours(zone, *hours, *from, after),
            Self::Interval { seconds } => next_of_interval(*seconds, after),
            Self::Cron(cron) => next_of_cron(cron, zone, after),
        }
    }

    /// The slots with `after < slot <= until`, oldest first, at most `limit`.
    #[must_use]
    pub fn between(
        &self,
        zone: Tz,
        after: DateTime<Utc>,
        until: DateTime<Utc>,
        limit: usize,
    ) -> Vec<DateTime<Utc>> {
        let mut slots = Vec::new();
        let mut last = after;
        while slots.len() < limit {
            match self.next_after(zone, last) {
                Some(slot) if slot <= until => {
                    slots.push(slot);
                    last = slot;
                }
                _ => break,
            }
        }
        slots
    }
}

impl fmt::Display for Rhythm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every { hours, from } => {
                write!(f, "every {hours}h from {:02}:{:02}", from.hour(), from.minute())
            }
            Self::Interval { seconds } => {
                let fits = UNITS.into_iter().find(|(_, unit)| seconds.is_multiple_of(*unit));
                let (unit, unit_seconds) = fits.unwrap_or(('s', 1));
                write!(f, "every {}{unit}", seconds / unit_seconds)
            }
            Self::Cron(cron) => write!(f, "cron {}", cron.as_str()),
        }
    }
}

impl FromStr for Rhythm {
    type Err = RhythmError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(expression) = text.strip_prefix("cron ") {
            return Self::cron(expression);
        }
        let form = || RhythmError::Form(text.to_owned());
        let every = text.strip_prefix("every ").ok_or_else(form)?;
        let Some((hours, first_slot)) = every.split_once("h from ") else {
            let every = every.trim();
            let unit = every.chars().last().ok_or_else(form)?;
            let (unit, unit_seconds) =
                UNITS.into_iter().find(|(known, _)| *known == unit).ok_or_else(form)?;
            let number: u32 =
                every.strip_suffix(unit).unwrap_or_default().parse().map_err(|_| form())?;
            let seconds = number.checked_mul(unit_seconds).ok_or(RhythmError::Interval)?;
            return Self::interval(seconds);
        };
        let from = NaiveTime::parse_from_str(first_slot.trim(), "%H:%M")
            .map_err(|_| RhythmError::FirstSlot(first_slot.to_owned()))?;
        Self::every(hours.trim().parse().map_err(|_| form())?, from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::Duration;
    use proptest::prelude::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a test instant")
    }

    fn zone(name: &str) -> Tz {
        name.parse().expect("a test zone")
    }

    fn every(hours: u32, from: &str) -> Rhythm {
        format!("every {hours}h from {from}").parse().expect("a test rhythm")
    }

    fn local(zone: Tz, slot: DateTime<Utc>) -> String {
        slot.with_timezone(&zone).format("%Y-%m-%d %H:%M:%S").to_string()
    }

    fn locals(rhythm: &Rhythm, zone: Tz, after: &str, until: &str) -> Vec<String> {
        rhythm
            .between(zone, at(after), at(until), 100)
            .into_iter()
            .map(|slot| local(zone, slot))
            .collect()
    }

    #[test]
    fn the_shop_is_due_at_six_and_eighteen() {
        let mexico = zone("America/Mexico_City");
        let rhythm = every(12, "06:00");
        assert_eq!(
            locals(&rhythm, mexico, "2026-11-22T00:00:00Z", "2026-11-24T00:00:00Z"),
            [
                "2026-11-22 06:00:00",
                "2026-11-22 18:00:00",
                "2026-11-23 06:00:00",
                // 18:00 in Mexico is midnight in Greenwich, and the upper bound is due.
                "2026-11-23 18:00:00"
            ]
        );
    }

    #[test]
    fn a_slot_exactly_at_the_lower_bound_is_not_due_again() {
        let utc = zone("UTC");
        let rhythm = every(12, "06:00");
        assert_eq!(
            rhythm.next_after(utc, at("2026-11-22T06:00:00Z")),
            Some(at("2026-11-22T18:00:00Z"))
        );
        assert_eq!(
            rhythm.next_after(utc, at("2026-11-22T05:59:59.999Z")),
            Some(at("2026-11-22T06:00:00Z"))
        );
    }

    #[test]
    fn wall_clock_times_stay_through_a_change_of_the_clock() {
        let madrid = zone("Europe/Madrid");
        let rhythm = every(12, "06:00");
        // The clock goes back on 2026-10-25 and forward on 2027-03-28.
        for (after, until) in [
            ("2026-10-24T00:00:00Z", "2026-10-26T23:00:00Z"),
            ("2027-03-27T00:00:00Z", "2027-03-29T22:00:00Z"),
        ] {
            let times: Vec<_> = locals(&rhythm, madrid, after, until)
                .into_iter()
                .map(|slot| slot[11..].to_owned())
                .collect();
            assert_eq!(times.len(), 6, "{times:?}");
            assert!(times.iter().all(|time| time == "06:00:00" || time == "18:00:00"), "{times:?}");
        }
    }

    #[test]
    fn a_time_in_the_gap_is_due_at_its_end_and_once() {
        let madrid = zone("Europe/Madrid");
        // 02:00 to 03:00 does not exist on 2027-03-28.
        let rhythm = every(24, "02:30");
        assert_eq!(
            locals(&rhythm, madrid, "2027-03-27T12:00:00Z", "2027-03-29T12:00:00Z"),
            ["2027-03-28 03:00:00", "2027-03-29 02:30:00"]
        );
        let hourly = every(1, "00:00");
        assert_eq!(
            locals(&hourly, madrid, "2027-03-28T00:00:00Z", "2027-03-28T02:00:00Z"),
            ["2027-03-28 03:00:00", "2027-03-28 04:00:00"]
        );
    }

    #[test]
    fn a_time_that_comes_twice_is_due_at_the_first() {
        let madrid = zone("Europe/Madrid");
        let rhythm = every(24, "02:30");
        assert_eq!(
            rhythm.between(madrid, at("2026-10-24T12:00:00Z"), at("2026-10-26T12:00:00Z"), 9),
            [at("2026-10-25T00:30:00Z"), at("2026-10-26T01:30:00Z")]
        );
        let cron = Rhythm::cron("30 2 * * *").unwrap();
        assert_eq!(
            cron.between(madrid, at("2026-10-24T12:00:00Z"), at("2026-10-26T12:00:00Z"), 9),
            [at("2026-10-25T00:30:00Z"), at("2026-10-26T01:30:00Z")]
        );
    }

    #[test]
    fn wildcard_cron_goes_on_through_the_repeated_hour() {
        let madrid = zone("Europe/Madrid");
        let rhythm = Rhythm::cron("*/30 * * * *").unwrap();
        let slots =
            rhythm.between(madrid, at("2026-10-24T23:59:00Z"), at("2026-10-25T02:00:00Z"), 99);
        let expected: Vec<_> =
            (0..=4).map(|half| at("2026-10-25T00:00:00Z") + Duration::minutes(30 * half)).collect();
        assert_eq!(slots, expected);
    }

    #[test]
    fn a_day_that_a_zone_skipped_is_survived() {
        // Samoa had no 2011-12-30.
        let apia = zone("Pacific/Apia");
        let rhythm = every(12, "06:00");
        // Both slots of the missing day fall to its end, which is one slot.
        assert_eq!(
            locals(&rhythm, apia, "2011-12-29T12:00:00Z", "2011-12-31T12:00:00Z"),
            [
                "2011-12-29 06:00:00",
                "2011-12-29 18:00:00",
                "2011-12-31 00:00:00",
                "2011-12-31 06:00:00",
                "2011-12-31 18:00:00"
            ]
        );
    }

    #[test]
    fn distances_that_do_not_divide_a_day_begin_anew_each_day() {
        let slots =
            locals(&every(5, "06:00"), Tz::UTC, "2026-11-22T03:00:00Z", "2026-11-23T11:00:00Z");
        let times: Vec<_> = slots.iter().map(|slot| &slot[11..16]).collect();
        assert_eq!(times, ["06:00", "11:00", "16:00", "21:00", "02:00", "06:00", "11:00"]);
    }

    #[test]
    fn intervals_are_counted_in_real_time_from_one_moment() {
        let quarter: Rhythm = "every 15m".parse().unwrap();
        // The zone's clock goes back in the middle of it; the interval does not care.
        assert_eq!(
            quarter.between(
                zone("Europe/Madrid"),
                at("2026-10-25T00:40:00Z"),
                at("2026-10-25T01:15:00Z"),
                9
            ),
            [at("2026-10-25T00:45:00Z"), at("2026-10-25T01:00:00Z"), at("2026-10-25T01:15:00Z")]
        );
        for (text, seconds) in
            [("every 1s", 1), ("every 90s", 90), ("every 15m", 900), ("every 31d", 2_678_400)]
        {
            let rhythm: Rhythm = text.parse().unwrap();
            assert_eq!(rhythm, Rhythm::Interval { seconds });
            assert_eq!(rhythm.to_string(), text);
        }
        assert_eq!("every 3600s".parse::<Rhythm>().unwrap().to_string(), "every 1h");
        for text in ["every 0s", "every 32d", "every 99999999d"] {
            assert!(text.parse::<Rhythm>().unwrap_err().to_string().contains("31 d"), "{text}");
        }
        for text in ["every ", "every m", "every -1m", "every 1.5h", "every 10 m", "every 10w"] {
            let error = text.parse::<Rhythm>().unwrap_err().to_string();
            assert!(error.contains("no rhythm"), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_no_rhythm_is_refused_with_what_to_write() {
        for (text, part) in [
            ("every 0h from 06:00", "1 to 24"),
            ("every 12h from 25:00", "HH:MM"),
            ("every x h from 06:00", "every 12h from 06:00"),
            ("cron 61 * * * *", "not a cron expression"),
            ("sometimes", "every 12h from 06:00"),
        ] {
            let error = text.parse::<Rhythm>().expect_err(text).to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn a_date_that_never_comes_has_no_slot() {
        let rhythm = Rhythm::cron("0 0 30 2 *").unwrap();
        assert_eq!(rhythm.next_after(zone("UTC"), at("2026-11-22T00:00:00Z")), None);
    }

    proptest! {
        /// Whatever the zone, the rhythm and the moment: slots rise strictly, none
        /// is missed by looking in two steps, and each is what its own look finds.
        #[test]
        fn slots_rise_and_do_not_depend_on_where_one_looks_from(
            zone_index in 0..chrono_tz::TZ_VARIANTS.len(),
            hours in 1_u32..=24,
            minute_of_day in 0_u32..1440,
            start in 946_684_800_i64..4_102_444_800,
            split in 0_usize..8,
        ) {
            let zone = chrono_tz::TZ_VARIANTS[zone_index];
            let first = format!("{:02}:{:02}", minute_of_day / 60, minute_of_day % 60);
            let rhythm = every(hours, &first);
            let start = DateTime::from_timestamp(start, 0).unwrap();
            let far = DateTime::from_timestamp(i64::from(u32::MAX), 0).unwrap();
            let slots = rhythm.between(zone, start, far, 8);
            prop_assert!(slots.iter().all(|slot| *slot > start));
            prop_assert!(slots.windows(2).all(|pair| pair[0] < pair[1]));
            if let Some(middle) = slots.get(split) {
                let rest = rhythm.between(zone, *middle, far, 8 - split - 1);
                prop_assert_eq!(&slots[split + 1..], &rest[..]);
                prop_assert_eq!(
                    rhythm.next_after(zone, *middle - Duration::milliseconds(1)),
                    Some(*middle)
                );
            }
            prop_assert_eq!(rhythm.to_string().parse::<Rhythm>().unwrap(), rhythm);
        }

        /// The same for cron expressions, where croner does the arithmetic.
        #[test]
        fn cron_slots_rise_and_do_not_depend_on_where_one_looks_from(
            zone_index in 0..chrono_tz::TZ_VARIANTS.len(),
            expression in prop::sample::select(vec![
                "0 6,18 * * *", "*/10 * * * *", "30 2 * * *", "15 * * * * *", "0 1 * * 7",
            ]),
            start in 946_684_800_i64..4_102_444_800,
            split in 0_usize..6,
        ) {
            let zone = chrono_tz::TZ_VARIANTS[zone_index];
            let rhythm = Rhythm::cron(expression).unwrap();
            let start = DateTime::from_timestamp(start, 500_000_000).unwrap();
            let slots = rhythm.between(zone, start, start + Duration::days(60), 6);
            prop_assert!(slots.iter().all(|slot| *slot > start));
            prop_assert!(slots.windows(2).all(|pair| pair[0] < pair[1]));
            if let Some(middle) = slots.get(split) {
                let rest = rhythm.between(zone, *middle, start + Duration::days(60), 6 - split - 1);
                prop_assert_eq!(&slots[split + 1..], &rest[..]);
            }
            prop_assert_eq!(rhythm.to_string().parse::<Rhythm>().unwrap(), rhythm);
        }
    }
}
