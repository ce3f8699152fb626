//! Waking workers: NOTIFY, throttled per process and queue.
//!
//! A NOTIFY makes its COMMIT take a lock that all notifying commits of the server share, so one per
//! insert would halve the inserts. The first enqueue after a pause notifies in its own statement
//! (leading edge: an idle worker starts at once); those within the next [`INTERVAL`] share one
//! notification at its end (trailing edge). A lost one costs a poll interval, never a job.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgPool;

use crate::sql::CHANNEL_JOB;

/// At most one notification per queue and process within this time, and one at its end.
const INTERVAL: Duration = Duration::from_millis(10);

/// Queues remembered at once; beyond it, those that need no trailing edge are forgotten.
const QUEUES_MAX: usize = 1024;

/// Remembers when each queue was last announced.
#[derive(Debug, Default)]
pub(crate) struct Notifier {
    queues: Mutex<HashMap<String, Announced>>,
}

#[derive(Debug)]
struct Announced {
    at: Instant,
    /// A task is waiting to announce what came after `at`.
    trailing: bool,
}

impl Notifier {
    /// Whether the statement about to enqueue into `queue` should notify. When not, the caller calls
    /// [`Notifier::trail`] after its commit.
    pub(crate) fn leads(&self, queue: &str) -> bool {
        let now = Instant::now();
        let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(announced) = queues.get_mut(queue) {
            if now.duration_since(announced.at) < INTERVAL {
                return false;
            }
            announced.at = now;
            return true;
        }
        if queues.len() >= QUEUES_MAX {
            queues.retain(|_, known| known.trailing || now.duration_since(known.at) < INTERVAL);
        }
        queues.insert(queue.to_owned(), Announced { at: now, trailing: false });
        true
    }

    /// Announces `queue` at the end of the running interval, once for all who ask meanwhile.
    pub(crate) fn trail(self: &Arc<Self>, pool: &PgPool, queue: &str) {
        let due = {
            let mut queues = self.queues.lock().unwrap_or_else(PoisonError::into_inner);
            let announced = queues
                .entry(queue.to_owned())
                .or_insert_with(|| Announced { at: Instant::now(), trailing: false });
            if announced.trailing {
                return;
            }
            announced.trailing = true;
            announced.at + INTERVAL
        };
        let (notifier, pool, queue) = (Arc::clone(self), pool.clone(), queue.to_owned());
        tokio::spawn(async move {
            tokio::time::sleep_until(due.into()).await;
            // Cleared before the notification: what commits from here on asks for its own.
            {
                let mut queues = notifier.queues.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(announced) = queues.get_mut(&queue) {
                    announced.trailing = false;
                    announced.at = Instant::now();
                }
            }
            let notified = sqlx::query("-- notify_trailing\nSELECT pg_notify($1, $2)")
                .bind(CHANNEL_JOB)
                .bind(&queue)
                .execute(&pool)
                .await;
            if let Err(error) = notified {
                tracing::debug!(
                    queue,
                    error = &error as &dyn std::error::Error,
                    "could not announce new jobs; workers find them by polling"
                );
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_enqueue_leads_and_those_right_after_do_not() {
        let notifier = Notifier::default();
        assert!(notifier.leads("a"));
        assert!(!notifier.leads("a"));
        assert!(notifier.leads("b"), "queues are throttled apart");
    }

    #[test]
    fn remembered_queues_are_bounded() {
        let notifier = Notifier::default();
        for n in 0..10 * QUEUES_MAX {
            notifier.leads(&format!("q{n}"));
            let mut queues = notifier.queues.lock().expect("not poisoned");
            for known in queues.values_mut() {
                known.at -= INTERVAL;
            }
        }
        assert!(notifier.queues.lock().expect("not poisoned").len() <= QUEUES_MAX + 1);
    }
}
