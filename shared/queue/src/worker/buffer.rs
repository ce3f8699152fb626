//! Claimed jobs that wait for a free slot.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use super::Job;

/// Claimed jobs that wait for a free slot, in claim order. Bounded by who fills it: the fetcher
/// claims no more than there is room.
#[derive(Debug, Default)]
pub(crate) struct Buffer {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    jobs: VecDeque<Job>,
    waker: Option<Waker>,
    closed: bool,
}

impl Buffer {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds jobs; when closed, gives them back.
    pub(crate) fn push(&self, jobs: Vec<Job>) -> Vec<Job> {
        let mut inner = self.lock();
        if inner.closed {
            return jobs;
        }
        inner.jobs.extend(jobs);
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
        Vec::new()
    }

    /// The next job; pending also when closed, since closing means that no more will run.
    pub(crate) fn poll_pop(&self, context: &Context<'_>) -> Poll<Job> {
        let mut inner = self.lock();
        if let Some(job) = inner.jobs.pop_front() {
            return Poll::Ready(job);
        }
        inner.waker = Some(context.waker().clone());
        Poll::Pending
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().jobs.len()
    }

    /// Takes out what has waited longer than `limit`.
    pub(crate) fn take_stale(&self, limit: Duration) -> Vec<Job> {
        let mut inner = self.lock();
        let now = Instant::now();
        let fresh = |job: &Job| now.duration_since(job.lease.claimed_at) <= limit;
        if inner.jobs.iter().all(fresh) {
            return Vec::new();
        }
        let (kept, stale): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut inner.jobs).into_iter().partition(fresh);
        inner.jobs = kept;
        stale.into()
    }

    /// Nothing runs from here on; what waited is handed out to be given back.
    pub(crate) fn close(&self) -> Vec<Job> {
        let mut inner = self.lock();
        inner.closed = true;
        if let Some(waker) = inner.waker.take() {
            waker.wake();
        }
        inner.jobs.drain(..).collect()
    }
}

/// How many jobs finished lately: what may be claimed ahead of free slots. With long jobs that is
/// none, so no job waits here while another worker is idle; with very short ones it grows by itself
/// to what the time between two claims needs.
#[derive(Debug)]
pub(crate) struct Pace {
    finished: f64,
    seen: u64,
    at: Instant,
}

impl Pace {
    /// "Lately": the weight of a finish falls to a third in this time.
    const MEMORY: Duration = Duration::from_millis(100);

    pub(crate) fn new(now: Instant) -> Self {
        Self { finished: 0.0, seen: 0, at: now }
    }

    /// Takes note of the total number of finished jobs; how many to hold beyond the free slots.
    pub(crate) fn ahead(&mut self, finished_total: u64, now: Instant, max: usize) -> usize {
        let passed = now.duration_since(self.at).as_secs_f64() / Self::MEMORY.as_secs_f64();
        // At most a few thousand between two looks: exact in an f64.
        #[expect(clippy::cast_precision_loss, reason = "a small difference")]
        let new = finished_total.saturating_sub(self.seen) as f64;
        self.finished = self.finished * (-passed).exp() + new;
        self.seen = finished_total;
        self.at = now;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "not negative, and cut to max"
        )]
        let ahead = self.finished as usize;
        ahead.min(max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_jobs_leave_no_room_ahead_and_short_ones_make_it() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        assert_eq!(pace.ahead(0, start, 1000), 0);
        // 64 jobs in a millisecond, then 500 more, then thousands.
        assert_eq!(pace.ahead(64, start + Duration::from_millis(1), 1000), 64);
        assert!(pace.ahead(564, start + Duration::from_millis(5), 1000) > 500);
        assert_eq!(pace.ahead(9_000, start + Duration::from_millis(90), 1000), 1000);
        // A second without a finish: somebody runs long.
        assert_eq!(pace.ahead(9_000, start + Duration::from_millis(1_200), 1000), 0);
    }
}
