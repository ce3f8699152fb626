//! The next slot of each kind of rhythm: arithmetic on the wall clock of a zone, or on real time.

use chrono::{
    DateTime, Datelike, Days, Duration, LocalResult, NaiveDateTime, NaiveTime, TimeZone, Timelike,
    Utc,
};
use chrono_tz::{GapInfo, Tz};
use croner::Cron;

pub(super) fn next_of_hours(
    zone: Tz,
    hours: u32,
    from: NaiveTime,
    after: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    // Zones have skipped a whole day: begin two days back, on the wall clock, and
    // walk; the mapping to instants never goes backwards, so the first hit is it.
    let mut day = after.with_timezone(&zone).date_naive().checked_sub_days(Days::new(2))?;
    loop {
        for hour in (0..24).step_by(usize::try_from(hours).ok()?) {
            let wall = day.and_time(from).checked_add_signed(Duration::hours(hour))?;
            let slot = instant_of(zone, wall)?;
            if slot > after {
                return Some(slot);
            }
        }
        day = day.succ_opt()?;
    }
}

/// The instant of a wall-clock time: the first of two, or the end of the gap.
fn instant_of(zone: Tz, wall: NaiveDateTime) -> Option<DateTime<Utc>> {
    match zone.from_local_datetime(&wall) {
        LocalResult::Single(instant) | LocalResult::Ambiguous(instant, _) => {
            Some(instant.with_timezone(&Utc))
        }
        LocalResult::None => {
            GapInfo::new(&wall, &zone)?.end.map(|instant| instant.with_timezone(&Utc))
        }
    }
}

pub(super) fn next_of_interval(seconds: u32, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let seconds = i64::from(seconds);
    let next = after.timestamp().div_euclid(seconds).checked_add(1)?.checked_mul(seconds)?;
    DateTime::from_timestamp(next, 0).filter(|slot| slot.year() < 10_000)
}

pub(super) fn next_of_cron(cron: &Cron, zone: Tz, after: DateTime<Utc>) -> Option<DateTime<Utc>> {
    // croner works in whole seconds; a slot is never between two.
    let start = after.with_nanosecond(0)?.with_timezone(&zone);
    let next = cron.find_next_occurrence(&start, false).ok()?.with_timezone(&Utc);
    // A search from within the repeated hour must not answer with what lies behind.
    (next > after && next.year() < 10_000).then_some(next)
}
