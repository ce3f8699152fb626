//! The leader's clock: waits for the next slot of any schedule and settles it.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use relevo_errors::chain;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::SchedulerDeps;
use crate::fire::{self, FireError, Fired};
use crate::lease::Tenure;
use crate::schedule::{self, Schedule};
use crate::settle::{self, Due};
use crate::upkeep::{Failed, Trouble, flatten};
use crate::watch::Wanted;

/// How often the stored schedules are read again.
const RELOAD_PAUSE: Duration = Duration::from_secs(10);

/// A schedule whose slot could not be settled is left alone for so long, twice as long after each
/// further failure: a broken connection is replaced at the next try, other causes may stay.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// The longest such pause.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(15);

/// How long settling one slot may take.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Settles slots until `over`; cancels it when the term turns out to be over.
pub async fn run(
    deps: SchedulerDeps,
    mut wanted: watch::Receiver<Wanted>,
    tenure: watch::Receiver<Tenure>,
    over: CancellationToken,
) {
    let work = async {
        let mut firing = Firing {
            deps: &deps,
            tenure: &tenure,
            over: &over,
            schedules: Vec::new(),
            left_alone: HashMap::new(),
            unreadable: HashSet::new(),
        };
        firing.work(&mut wanted).await;
    };
    tokio::select! {
        () = over.cancelled() => {}
        () = work => {}
    }
}

struct Firing<'a> {
    deps: &'a SchedulerDeps,
    tenure: &'a watch::Receiver<Tenure>,
    over: &'a CancellationToken,
    schedules: Vec<Schedule>,
    /// Schedules that are not looked at for now.
    left_alone: HashMap<String, LeftAlone>,
    /// Schedules that cannot be read, and were told so.
    unreadable: HashSet<String>,
}

/// A schedule after a failure.
#[derive(Clone, Copy)]
struct LeftAlone {
    until: Instant,
    pause: Duration,
}

impl LeftAlone {
    /// After one more failure.
    fn again(before: Option<Self>) -> Self {
        let pause = before.map_or(RETRY_PAUSE, |before| (before.pause * 2).min(RETRY_PAUSE_MAX));
        Self { until: Instant::now() + pause, pause }
    }
}

impl Firing<'_> {
    async fn work(&mut self, wanted: &mut watch::Receiver<Wanted>) {
        let mut trouble = Trouble::new("reading the schedules");
        let mut has_followed = false;
        // A new leader's file may differ from that of the last one.
        let mut must_follow = true;
        let mut reload_at = Instant::now();
        loop {
            if reload_at <= Instant::now() {
                let asked = wanted.borrow_and_update().clone();
                let load = self.load(must_follow.then_some(&asked));
                match flatten(tokio::time::timeout(SETTLE_TIMEOUT, load).await) {
                    Ok(()) => {
                        trouble.is_over();
                        has_followed = true;
                        must_follow = false;
                    }
                    Err(Failed::Error(FireError::TermOver)) => return self.over.cancel(),
                    Err(error) => trouble.report(&error),
                }
                reload_at = Instant::now() + RELOAD_PAUSE;
            }
            let mut is_stale = false;
            if has_followed {
                is_stale = self.settle_all().await;
            }
            if is_stale {
                reload_at = Instant::now();
                continue;
            }
            let wait =
                self.until_next_slot().min(reload_at.saturating_duration_since(Instant::now()));
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed(wanted) => {
                    must_follow = true;
                    reload_at = Instant::now();
                }
            }
        }
    }

    /// Makes the stored schedules follow the configuration, if that is asked, and reads them.
    async fn load(&mut self, follow: Option<&Wanted>) -> Result<(), FireError> {
        if let Some(wanted) = follow {
            let tenure = self.tenure.borrow().clone();
            fire::follow(&self.deps.pool, &tenure, wanted).await?;
        }
        let mut readable = Vec::new();
        for stored in schedule::active(&self.deps.pool).await? {
            match stored {
                Ok(schedule) => {
                    self.unreadable.remove(&schedule.wanted.name);
                    readable.push(schedule);
                }
                // Told once, not at every reading.
                Err(error) => {
                    if self.unreadable.insert(error.name.clone()) {
                        tracing::error!(
                            schedule = error.name,
                            error = chain(&error),
                            "a schedule does not fire"
                        );
                    }
                }
            }
        }
        // One that is gone must not seem to have missed its next slot.
        self.deps.metrics.leader.schedule_next_fire.reset();
        for schedule in &readable {
            self.deps.metrics.declare_schedule(&schedule.wanted.name);
            self.show_next(schedule);
        }
        self.schedules = readable;
        Ok(())
    }

    /// Settles what is due; true when a definition turned out to have changed since it was read.
    async fn settle_all(&mut self) -> bool {
        let mut is_stale = false;
        for index in 0..self.schedules.len() {
            let schedule = self.schedules[index].clone();
            let name = &schedule.wanted.name;
            if self.left_alone.get(name).is_some_and(|left| left.until > Instant::now()) {
                continue;
            }
            match self.settle_due(&schedule).await {
                Ok(settled_to) => {
                    self.left_alone.remove(name);
                    self.schedules[index].settled_to = settled_to;
                }
                Err(Failed::Error(FireError::TermOver)) => {
                    tracing::warn!(
                        schedule = name,
                        "the term is over; the slot is left to the new leader"
                    );
                    self.over.cancel();
                    return false;
                }
                Err(Failed::Error(FireError::Changed)) => {
                    is_stale = true;
                    continue;
                }
                Err(error) => {
                    tracing::error!(
                        schedule = name,
                        error = %error,
                        "a slot could not be settled; it stays due and is tried again"
                    );
                    self.count(name, "failed");
                    let left = LeftAlone::again(self.left_alone.get(name).copied());
                    self.left_alone.insert(name.clone(), left);
                    // What was settled before the failure stands in the database.
                }
            }
            self.show_next(&self.schedules[index]);
        }
        is_stale
    }

    /// Settles what is due of one schedule; returns up to where.
    async fn settle_due(&self, schedule: &Schedule) -> Result<DateTime<Utc>, Failed<FireError>> {
        let wanted = &schedule.wanted;
        let mut settled_to = schedule.settled_to;
        let now = self.tenure.borrow().database_now();
        match settle::settle(
            &wanted.rhythm,
            wanted.zone,
            wanted.policy,
            wanted.jitter,
            settled_to,
            now,
        ) {
            Due::PassOver(to) => {
                tracing::warn!(
                    schedule = wanted.name,
                    from = %settled_to,
                    to = %to,
                    "missed slots are passed over: they are too many and too old to start"
                );
                let tenure = self.tenure.borrow().clone();
                let passed = fire::pass_over(&self.deps.pool, &tenure, &wanted.name, to);
                flatten(tokio::time::timeout(SETTLE_TIMEOUT, passed).await)?;
                settled_to = to;
            }
            Due::Slots(slots) => {
                for (slot, verdict) in slots {
                    let tenure = self.tenure.borrow().clone();
                    let settling = fire::settle_slot(
                        &self.deps.pool,
                        &self.deps.queue,
                        &tenure,
                        schedule,
                        slot,
                        &verdict,
                    );
                    let fired = flatten(tokio::time::timeout(SETTLE_TIMEOUT, settling).await)?;
                    self.tell(&wanted.name, slot, &fired);
                    settled_to = slot;
                }
            }
        }
        Ok(settled_to)
    }

    fn tell(&self, schedule: &str, slot: DateTime<Utc>, fired: &Fired) {
        match fired {
            Fired::Run(run_id) => {
                tracing::info!(schedule, %slot, run_id, "a run was started on schedule");
                self.count(schedule, "started");
            }
            Fired::Job(job_id) => {
                tracing::debug!(schedule, %slot, job_id, "a job was enqueued on schedule");
                self.count(schedule, "started");
            }
            Fired::Skipped(reason) => {
                tracing::warn!(schedule, %slot, reason, "a slot was skipped");
                self.count(schedule, "skipped");
            }
            Fired::SettledBefore => {}
        }
        if matches!(fired, Fired::Run(_) | Fired::Job(_)) {
            let gauge = &self.deps.metrics.leader.schedule_last_fire;
            gauge.with_label_values(&[schedule]).set(unix_seconds(slot));
        }
    }

    fn count(&self, schedule: &str, outcome: &str) {
        self.deps.metrics.schedule_fires.with_label_values(&[schedule, outcome]).inc();
    }

    fn show_next(&self, schedule: &Schedule) {
        let wanted = &schedule.wanted;
        if let Some(next) = wanted.rhythm.next_after(wanted.zone, schedule.settled_to) {
            let gauge = &self.deps.metrics.leader.schedule_next_fire;
            gauge.with_label_values(&[wanted.name.as_str()]).set(unix_seconds(next));
        }
    }

    fn until_next_slot(&self) -> Duration {
        let now = self.tenure.borrow().database_now();
        let waits = self.schedules.iter().filter_map(|schedule| {
            let wanted = &schedule.wanted;
            if let Some(left) = self.left_alone.get(&wanted.name) {
                return Some(left.until.saturating_duration_since(Instant::now()));
            }
            let next = wanted.rhythm.next_after(wanted.zone, schedule.settled_to)?;
            // A slot that is due already is due now.
            Some((wanted.jitter.due(next) - now).to_std().unwrap_or(Duration::ZERO))
        });
        waits.min().unwrap_or(RELOAD_PAUSE)
    }
}

/// Waits until the configuration asks for something else.
async fn changed(wanted: &mut watch::Receiver<Wanted>) {
    // Nobody watches a file: it never will.
    if wanted.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 stay far below 2^53")]
fn unix_seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp() as f64
}
