//! Which queues are said to have work.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// Names kept at once; beyond it, asking the database is cheaper than remembering.
const QUEUES_MAX: usize = 1_024;

/// What notifications said since the fetcher last looked.
#[derive(Debug)]
pub(crate) struct Hints {
    /// The queues this worker takes from; empty means all.
    served: BTreeSet<String>,
    inner: Mutex<Inner>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    queues: BTreeSet<String>,
    probe: bool,
}

impl Hints {
    pub(crate) fn new(served: &[String]) -> Self {
        Self {
            served: served.iter().cloned().collect(),
            inner: Mutex::default(),
            news: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Somebody says that `queue` has work.
    pub(crate) fn queue(&self, queue: &str) {
        if !self.served.is_empty() && !self.served.contains(queue) {
            return;
        }
        {
            let mut inner = self.lock();
            if inner.queues.len() >= QUEUES_MAX {
                inner.queues.clear();
                inner.probe = true;
            } else if !inner.probe && !inner.queues.contains(queue) {
                inner.queues.insert(queue.to_owned());
            }
        }
        self.news.notify_one();
    }

    /// Notifications may have been missed: any queue may have work.
    pub(crate) fn any(&self) {
        self.lock().probe = true;
        self.news.notify_one();
    }

    /// What was said since the last call: queues, and whether to ask the database.
    pub(crate) fn take(&self) -> (BTreeSet<String>, bool) {
        let mut inner = self.lock();
        (std::mem::take(&mut inner.queues), std::mem::take(&mut inner.probe))
    }

    /// Waits until something was said; what was said before counts.
    pub(crate) async fn news(&self) {
        self.news.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_served_queues_are_kept_and_never_too_many() {
        let hints = Hints::new(&["a".to_owned()]);
        hints.queue("a");
        hints.queue("b");
        assert_eq!(hints.take(), (BTreeSet::from(["a".to_owned()]), false));

        let hints = Hints::new(&[]);
        for n in 0..=QUEUES_MAX {
            hints.queue(&format!("q{n}"));
        }
        let (queues, probe) = hints.take();
        assert!(queues.is_empty() && probe);
    }
}
