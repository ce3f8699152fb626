//! The fetcher: claims jobs into the buffer whenever there is room and work.
//!
//! Where work is, it knows from notifications and from a probe at every poll tick, jittered so that
//! a fleet does not ask in step. A queue that filled a claim is asked again at once; one that did
//! not is left until somebody says that it has work.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::PgConnection;

use super::buffer::Pace;
use super::claim::{self, Claims, Row};
use super::connect::{self, Purpose, patience, pause, within};
use super::full_jitter;
use super::job::{Job, Lease};
use super::observer::Claimed;
use super::tenure::Tenure;

/// A claimed job that found no slot for so long is given back: another worker may have one.
const STALE_AFTER: Duration = Duration::from_secs(1);

/// Names of queues kept for reuse by jobs.
const NAMES_MAX: usize = 1_024;

struct Fetcher {
    tenure: Arc<Tenure>,
    claims: Claims,
    connection: Option<PgConnection>,
    /// Number of the latest claim.
    number: i64,
    /// The latest claim got no answer.
    is_unanswered: bool,
    failures: u32,
    /// Queues known to have work, the next to ask first.
    hot: VecDeque<String>,
    /// Claims that the queue whose turn it is has filled in a row.
    filled: u32,
    probe_at: Instant,
    pace: Pace,
    names: HashMap<String, Arc<str>>,
}

/// Claims until the tenure drains, then gives back what has not started.
pub(crate) async fn run(tenure: Arc<Tenure>) {
    let now = Instant::now();
    let mut fetcher = Fetcher {
        claims: Claims::new(&tenure.config.kinds, tenure.config.queues.is_empty()),
        connection: None,
        number: 0,
        is_unanswered: false,
        failures: 0,
        hot: VecDeque::new(),
        filled: 0,
        probe_at: now,
        pace: Pace::new(now),
        names: HashMap::new(),
        tenure: Arc::clone(&tenure),
    };
    while !tenure.draining.is_cancelled() {
        if let Err(error) = fetcher.step().await {
            fetcher.failures = fetcher.failures.saturating_add(1);
            fetcher.connection = None;
            tenure.observer.database_error("claim");
            tracing::warn!(
                failures = fetcher.failures,
                error = &error as &dyn std::error::Error,
                "jobs could not be claimed, trying again"
            );
            tokio::select! {
                () = tokio::time::sleep(pause(fetcher.failures)) => {}
                () = tenure.draining.cancelled() => {}
            }
        } else {
            fetcher.failures = 0;
        }
    }
    if fetcher.is_unanswered && !tenure.lost.is_cancelled() {
        // Jobs we don't know of would wait for the session's end; one more try, then they do.
        if let Err(error) = fetcher.settle_unanswered().await {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the outcome of the last claim is unknown; its jobs are taken back with the session"
            );
        }
    }
    tenure.give_back(tenure.buffer.close()).await;
}

impl Fetcher {
    /// One claim, one probe, or one wait.
    async fn step(&mut self) -> Result<(), sqlx::Error> {
        let tenure = Arc::clone(&self.tenure);
        if self.is_unanswered {
            self.settle_unanswered().await?;
        }
        let Some(room) = self.room() else {
            self.wait_for_room().await;
            return Ok(());
        };
        self.take_hints();
        if Instant::now() >= self.probe_at {
            self.probe().await?;
        }
        let Some(queue) = self.hot.pop_front() else {
            tokio::select! {
                () = tokio::time::sleep_until(self.probe_at.into()) => {}
                () = tenure.hints.news() => {}
                () = tenure.draining.cancelled() => {}
            }
            return Ok(());
        };
        let (asked, claimed) = self.claim(&queue, room).await?;
        if claimed < asked {
            self.filled = 0;
            return Ok(());
        }
        self.filled += 1;
        if self.filled < tenure.config.queue_weights.get(&queue).copied().unwrap_or(1) {
            self.hot.push_front(queue);
        } else {
            // At the end of the line: queues take turns.
            self.filled = 0;
            self.hot.push_back(queue);
        }
        Ok(())
    }

    /// How many jobs may be claimed now; none while it is not worth a round trip.
    fn room(&mut self) -> Option<usize> {
        let tenure = &self.tenure;
        let ahead = self.pace.ahead(
            tenure.ended.load(Ordering::Relaxed),
            Instant::now(),
            tenure.config.prefetch_max,
        );
        let held = tenure.in_flight.load(Ordering::Acquire) + tenure.buffer.len();
        let room = (tenure.slots.load(Ordering::Acquire) + ahead).saturating_sub(held);
        // Short jobs are claimed in bulk: half of what may be held ahead, not one by one.
        (room > 0 && room >= ahead / 2).then_some(room)
    }

    async fn wait_for_room(&mut self) {
        let tenure = Arc::clone(&self.tenure);
        tokio::select! {
            () = tenure.room.notified() => return,
            () = tenure.draining.cancelled() => return,
            () = tokio::time::sleep(STALE_AFTER) => {}
        }
        let stale = tenure.buffer.take_stale(STALE_AFTER);
        if !stale.is_empty() {
            tracing::debug!(jobs = stale.len(), "claimed jobs found no slot and are given back");
            tenure.give_back(stale).await;
        }
    }

    fn take_hints(&mut self) {
        let (queues, probe) = self.tenure.hints.take();
        for queue in queues {
            self.heat(queue);
        }
        if probe {
            self.probe_at = Instant::now();
        }
    }

    fn heat(&mut self, queue: String) {
        if !self.hot.contains(&queue) {
            self.hot.push_back(queue);
        }
    }

    async fn connection(&mut self) -> Result<PgConnection, sqlx::Error> {
        match self.connection.take() {
            Some(connection) => Ok(connection),
            None => connect::connect(self.tenure.queue.pool(), Purpose::Claim).await,
        }
    }

    async fn probe(&mut self) -> Result<(), sqlx::Error> {
        let mut connection = self.connection().await?;
        let tenure = Arc::clone(&self.tenure);
        let found = within(
            patience(self.failures),
            self.claims.probe(&mut connection, &tenure.config.queues),
        )
        .await?;
        self.connection = Some(connection);
        // Three quarters to five quarters of the interval.
        let interval = tenure.config.poll_interval;
        self.probe_at = Instant::now() + interval * 3 / 4 + full_jitter(interval / 2);
        for queue in found {
            self.heat(queue);
        }
        Ok(())
    }

    /// How many were asked for and how many came.
    async fn claim(&mut self, queue: &str, room: usize) -> Result<(usize, usize), sqlx::Error> {
        let mut connection = self.connection().await?;
        let started = Instant::now();
        self.number += 1;
        self.is_unanswered = true;
        let session = self.tenure.session;
        let (asked, rows) = within(
            patience(self.failures),
            self.claims.claim(&mut connection, session, self.number, queue, room),
        )
        .await?;
        self.is_unanswered = false;
        self.connection = Some(connection);
        let claimed = rows.len();
        if claimed > 0 {
            self.tenure.observer.claimed(&Claimed {
                queue,
                jobs: claimed,
                latency: started.elapsed(),
            });
            self.hold(rows).await;
        }
        Ok((asked, claimed))
    }

    async fn settle_unanswered(&mut self) -> Result<(), sqlx::Error> {
        let mut connection = self.connection().await?;
        let rows = within(
            patience(self.failures),
            claim::void(&mut connection, self.tenure.session, self.number),
        )
        .await?;
        self.is_unanswered = false;
        self.connection = Some(connection);
        if !rows.is_empty() {
            tracing::info!(jobs = rows.len(), "found the jobs of a claim that got no answer");
            self.hold(rows).await;
        }
        Ok(())
    }

    /// Claimed rows become held leases that wait for a slot.
    async fn hold(&mut self, rows: Vec<Row>) {
        let tenure = Arc::clone(&self.tenure);
        let mut jobs = Vec::with_capacity(rows.len());
        for row in rows {
            let names = (self.name(&row.queue), self.name(&row.kind));
            let lease = Arc::new(Lease::new(
                tenure.queue.clone(),
                tenure.draining.clone(),
                &row,
                tenure.session,
                names,
            ));
            jobs.push(Job::from_row(row, lease));
        }
        tenure.leases.insert(jobs.iter().map(|job| Arc::clone(&job.lease)));
        if tenure.lost.is_cancelled() {
            // Lost between the claim and here: told to stop like those that were held before.
            tenure.leases.cancel_all(super::CancelReason::LeaseLost);
        }
        let refused = tenure.buffer.push(jobs);
        tenure.give_back(refused).await;
    }

    fn name(&mut self, name: &str) -> Arc<str> {
        if let Some(known) = self.names.get(name) {
            return Arc::clone(known);
        }
        if self.names.len() >= NAMES_MAX {
            self.names.clear();
        }
        let shared: Arc<str> = name.into();
        self.names.insert(name.to_owned(), Arc::clone(&shared));
        shared
    }
}
