//! The leases a session holds, from claim to write-back: who can be told to stop.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::job::{CancelReason, Lease};
use crate::JobId;

/// The leases of one session that are not written back yet.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_job: Mutex<HashMap<JobId, Arc<Lease>>>,
}

impl Leases {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Arc<Lease>>> {
        self.by_job.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(&self, leases: impl IntoIterator<Item = Arc<Lease>>) {
        let mut by_job = self.lock();
        for lease in leases {
            by_job.insert(lease.id.job, lease);
        }
    }

    /// Forgets a lease; a later lease of the same job stays.
    pub(crate) fn remove(&self, lease: &Lease) {
        let mut by_job = self.lock();
        if by_job.get(&lease.id.job).is_some_and(|held| held.id == lease.id) {
            by_job.remove(&lease.id.job);
        }
    }

    pub(crate) fn cancel(&self, job: JobId, reason: CancelReason) {
        let lease = self.lock().get(&job).cloned();
        if let Some(lease) = lease {
            lease.cancel(reason);
        }
    }

    pub(crate) fn cancel_all(&self, reason: CancelReason) {
        for lease in self.all() {
            lease.cancel(reason);
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Lease>> {
        self.lock().values().cloned().collect()
    }
}
