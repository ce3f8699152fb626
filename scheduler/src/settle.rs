//! What becomes of the slots that are due: start, or skip with a reason.
//!
//! Pure. A slot is on time while it is younger than [`ON_TIME`]: a change of
//! leader or a slow database must not turn a slot into a missed one. Older ones
//! are missed, because nobody led when they came, and the policy decides.

use chrono::{DateTime, Duration, Utc};
use chrono_tz::Tz;
use relevo_runs::schedules::{Jitter, Rhythm};
pub use relevo_runs::schedules::{MissedRuns, Policy};

/// Up to this age a slot starts under every policy.
pub const ON_TIME: Duration = Duration::seconds(60);

/// Slots settled in one pass; what remains is due in the next.
const BATCH: usize = 500;

/// What becomes of one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Its run or job is started.
    Start,
    /// Nothing is started; the text tells people why.
    Skip(&'static str),
}

/// What one look at a schedule found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Due {
    /// Slots to settle now, oldest first; empty when none is due.
    Slots(Vec<(DateTime<Utc>, Verdict)>),
    /// So many slots are too old to start that recording each serves nobody:
    /// everything up to this moment is passed over at once.
    PassOver(DateTime<Utc>),
}

/// Decides over the slots with `settled_to < slot <= now` whose jitter has passed.
#[must_use]
pub fn settle(
    rhythm: &Rhythm,
    zone: Tz,
    policy: Policy,
    jitter: Jitter,
    settled_to: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Due {
    let mut slots = rhythm.between(zone, settled_to, now, BATCH);
    let newest_alive = now - policy.max_age.max(ON_TIME) - Duration::seconds(jitter.seconds.into());
    let more_follow = match slots.last() {
        Some(last) if slots.len() == BATCH => {
            if *last < newest_alive {
                return Due::PassOver(newest_alive);
            }
            rhythm.next_after(zone, *last).is_some_and(|next| next <= now)
        }
        _ => false,
    };
    // In the order of the slots: one that is still put off holds back those behind it.
    let all = slots.len();
    let count = slots.iter().take_while(|slot| jitter.due(**slot) <= now).count();
    slots.truncate(count);
    let more_follow = more_follow && count == all;
    let verdicts = slots.into_iter().enumerate().map(|(index, slot)| {
        let newer_is_due = index + 1 < count || more_follow;
        (slot, verdict(policy, now - jitter.due(slot), newer_is_due))
    });
    Due::Slots(verdicts.collect())
}

fn verdict(policy: Policy, age: Duration, newer_is_due: bool) -> Verdict {
    if age <= ON_TIME {
        return Verdict::Start;
    }
    match policy.missed {
        MissedRuns::Skip => Verdict::Skip("missed: no scheduler led at that time"),
        _ if age > policy.max_age => {
            Verdict::Skip("missed: longer ago than missed slots may be started")
        }
        MissedRuns::CatchUp => Verdict::Start,
        MissedRuns::Once if newer_is_due => Verdict::Skip("missed: a newer slot is due as well"),
        MissedRuns::Once => Verdict::Start,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().expect("a test instant")
    }

    fn shop(missed: MissedRuns, settled_to: &str, now: &str) -> Vec<(DateTime<Utc>, bool)> {
        let rhythm = "every 12h from 06:00".parse::<Rhythm>().unwrap();
        let policy = Policy { missed, max_age: Duration::hours(6) };
        match settle(&rhythm, Tz::UTC, policy, Jitter::NONE, at(settled_to), at(now)) {
            Due::Slots(slots) => {
                slots.into_iter().map(|(slot, verdict)| (slot, verdict == Verdict::Start)).collect()
            }
            Due::PassOver(to) => panic!("passed over to {to}"),
        }
    }

    #[test]
    fn a_slot_on_time_starts_under_every_policy() {
        for missed in [MissedRuns::Once, MissedRuns::Skip, MissedRuns::CatchUp] {
            assert_eq!(
                shop(missed, "2026-11-22T00:00:00Z", "2026-11-22T06:00:42Z"),
                [(at("2026-11-22T06:00:00Z"), true)]
            );
        }
    }

    #[test]
    fn nothing_is_due_before_the_slot_or_twice() {
        for (settled_to, now) in [
            ("2026-11-22T00:00:00Z", "2026-11-22T05:59:59Z"),
            ("2026-11-22T06:00:00Z", "2026-11-22T06:00:42Z"),
        ] {
            assert_eq!(shop(MissedRuns::CatchUp, settled_to, now), []);
        }
    }

    #[test]
    fn once_starts_the_newest_missed_slot_if_it_is_young_enough() {
        assert_eq!(
            shop(MissedRuns::Once, "2026-11-20T12:00:00Z", "2026-11-21T20:00:00Z"),
            [
                (at("2026-11-20T18:00:00Z"), false),
                (at("2026-11-21T06:00:00Z"), false),
                (at("2026-11-21T18:00:00Z"), true)
            ]
        );
        assert_eq!(
            shop(MissedRuns::Once, "2026-11-21T00:00:00Z", "2026-11-21T12:00:01Z"),
            [(at("2026-11-21T06:00:00Z"), false)]
        );
        // Back at the very moment of the next slot: that one starts, not both.
        assert_eq!(
            shop(MissedRuns::Once, "2026-11-21T12:00:00Z", "2026-11-22T06:00:01Z"),
            [(at("2026-11-21T18:00:00Z"), false), (at("2026-11-22T06:00:00Z"), true)]
        );
    }

    #[test]
    fn skip_starts_none_and_catch_up_all_that_are_young() {
        let missed = |policy| {
            let rhythm = Rhythm::cron("0 * * * *").unwrap();
            let policy = Policy { missed: policy, max_age: Duration::hours(2) };
            let now = at("2026-11-22T06:30:00Z");
            match settle(&rhythm, Tz::UTC, policy, Jitter::NONE, at("2026-11-22T02:30:00Z"), now) {
                Due::Slots(slots) => slots
                    .into_iter()
                    .map(|(_, verdict)| verdict == Verdict::Start)
                    .collect::<Vec<_>>(),
                Due::PassOver(to) => panic!("passed over to {to}"),
            }
        };
        assert_eq!(missed(MissedRuns::Skip), [false; 4]);
        assert_eq!(missed(MissedRuns::CatchUp), [false, false, true, true]);
    }

    #[test]
    fn a_slot_waits_for_its_jitter_and_those_behind_it_wait_too() {
        let rhythm = Rhythm::cron("* * * * *").unwrap();
        let policy = Policy { missed: MissedRuns::CatchUp, max_age: Duration::hours(2) };
        let jitter = Jitter::of("spread", 600);
        let begin = at("2026-11-22T06:00:30Z");
        let mut settled_to = begin;
        let mut started = Vec::new();
        for second in 0..3_600 {
            let now = begin + Duration::seconds(second);
            let Due::Slots(slots) = settle(&rhythm, Tz::UTC, policy, jitter, settled_to, now)
            else {
                panic!("passed over")
            };
            for (slot, verdict) in slots {
                assert_eq!(verdict, Verdict::Start);
                assert!(jitter.due(slot) <= now);
                settled_to = slot;
                started.push(slot);
            }
        }
        // Every minute of the hour but the last ten is behind us, in order, once.
        assert!(started.len() >= 50, "{}", started.len());
        assert_eq!(rhythm.between(Tz::UTC, begin, settled_to, 100), started);
    }

    #[test]
    fn a_long_absence_of_a_fast_schedule_is_passed_over_at_once() {
        let rhythm = Rhythm::cron("* * * * * *").unwrap();
        let policy = Policy { missed: MissedRuns::Once, max_age: Duration::minutes(5) };
        let now = at("2026-11-22T06:00:00Z");
        let due = settle(&rhythm, Tz::UTC, policy, Jitter::NONE, at("2026-01-01T00:00:00Z"), now);
        assert_eq!(due, Due::PassOver(now - Duration::minutes(5)));
    }

    proptest! {
        /// Settled pass by pass until nothing is due: every slot gets exactly one
        /// verdict or lies in a stretch passed over, and `once` starts at most one
        /// missed slot.
        #[test]
        fn every_due_slot_gets_one_verdict(
            every_seconds in prop::sample::select(vec![1_i64, 5, 60]),
            away_seconds in 0_i64..4_000,
            max_age_seconds in 0_i64..3_000,
            policy in prop::sample::select(vec![
                MissedRuns::Once, MissedRuns::Skip, MissedRuns::CatchUp,
            ]),
        ) {
            let expression = match every_seconds {
                1 => "* * * * * *",
                5 => "*/5 * * * * *",
                _ => "* * * * *",
            };
            let rhythm = Rhythm::cron(expression).unwrap();
            let policy = Policy { missed: policy, max_age: Duration::seconds(max_age_seconds) };
            let now = at("2026-11-22T06:00:07Z");
            let begin = now - Duration::seconds(away_seconds);
            let mut settled_to = begin;
            let mut seen = Vec::new();
            for _ in 0..20 {
                match settle(&rhythm, Tz::UTC, policy, Jitter::NONE, settled_to, now) {
                    Due::PassOver(to) => {
                        prop_assert!(to > settled_to);
                        settled_to = to;
                    }
                    Due::Slots(slots) if slots.is_empty() => break,
                    Due::Slots(slots) => {
                        settled_to = slots[slots.len() - 1].0;
                        seen.extend(slots);
                    }
                }
            }
            let all = rhythm.between(Tz::UTC, begin, now, 10_000);
            prop_assert!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0));
            let oldest_seen = seen.first().map_or(now, |(slot, _)| *slot);
            let expected: Vec<_> = all.into_iter().filter(|slot| *slot >= oldest_seen).collect();
            prop_assert_eq!(seen.iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), expected);
            let late_starts = seen
                .iter()
                .filter(|(slot, verdict)| *verdict == Verdict::Start && now - *slot > ON_TIME)
                .count();
            match policy.missed {
                MissedRuns::Once => prop_assert!(late_starts <= 1),
                MissedRuns::Skip => prop_assert_eq!(late_starts, 0),
                MissedRuns::CatchUp => {}
            }
            let on_time = |slot: DateTime<Utc>| now - slot <= ON_TIME;
            let refused = seen.iter().any(|(slot, v)| on_time(*slot) && *v != Verdict::Start);
            prop_assert!(!refused);
        }
    }
}
