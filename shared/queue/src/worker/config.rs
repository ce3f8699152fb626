//! How a worker is set.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::sync::watch;

use crate::QueueError;

/// A kind this build can run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownKind {
    /// Its name.
    pub kind: String,
    /// The newest payload version its handler understands, 1 to 100; older ones it must understand
    /// too.
    pub max_payload_version: i16,
}

/// Where a worker listens for notifications, which make it faster and are never needed.
#[derive(Clone)]
pub enum Listen {
    /// Where its pool leads.
    Pool,
    /// Elsewhere: past a pooler in transaction mode, where nobody can listen.
    At(Box<PgConnectOptions>),
    /// Nowhere: jobs and cancels are found by polling.
    Nowhere,
}

impl fmt::Debug for Listen {
    /// Without the address, which may hold a password.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Pool => "Pool",
            Self::At(_) => "At(…)",
            Self::Nowhere => "Nowhere",
        })
    }
}

/// How a worker is set.
#[derive(Debug, Clone)]
pub struct WorkerConfig {
    /// For people: shown with its session.
    pub name: String,
    /// The queues it takes from; empty means all.
    pub queues: Vec<String>,
    /// Claims that a queue gets in its turn while it fills them, 1 to 100; 1 where none is given.
    pub queue_weights: HashMap<String, u32>,
    /// The kinds it claims; others stay where they are, for a build that knows them.
    pub kinds: Vec<KnownKind>,
    /// Handlers it runs at once.
    pub concurrency: usize,
    /// Where it is given, the number of handlers at once in place of `concurrency`, which may change
    /// while the worker runs. With fewer, what runs goes on to its end.
    pub concurrency_now: Option<watch::Receiver<usize>>,
    /// Jobs it may hold beyond the running ones. It only does so while jobs are very short.
    pub prefetch_max: usize,
    /// How long a heartbeat holds its leases; a heartbeat is sent every third of it.
    pub lease_ttl: Duration,
    /// Where it listens for notifications.
    pub listen: Listen,
    /// How often it looks for work that no notification announced; jittered.
    pub poll_interval: Duration,
    /// From shutdown to return: handlers may finish, then are cancelled, then given back.
    pub grace: Duration,
    /// How long a cancelled handler may take to return before its future is dropped.
    pub cancel_grace: Duration,
}

impl Default for WorkerConfig {
    fn default() -> Self {
        Self {
            name: "worker".to_owned(),
            queues: Vec::new(),
            queue_weights: HashMap::new(),
            kinds: Vec::new(),
            concurrency: 4,
            concurrency_now: None,
            prefetch_max: 1000,
            lease_ttl: Duration::from_secs(15),
            listen: Listen::Pool,
            poll_interval: Duration::from_secs(1),
            grace: Duration::from_secs(30),
            cancel_grace: Duration::from_secs(5),
        }
    }
}

impl WorkerConfig {
    /// The most jobs it may run at once: beyond that, run more processes.
    const CONCURRENCY_MAX: usize = 10_000;
    /// The most jobs it may hold unstarted.
    const PREFETCH_MAX: usize = 10_000;
    /// The newest payload version: each known version of a kind is looked for by itself.
    const PAYLOAD_VERSION_MAX: i16 = 100;
    /// The heaviest queue: the others wait for so many claims.
    const WEIGHT_MAX: u32 = 100;

    /// Handlers at once as of now.
    pub(crate) fn slots(&self) -> usize {
        let now = self.concurrency_now.as_ref().map(|number| *number.borrow());
        now.unwrap_or(self.concurrency).clamp(1, Self::CONCURRENCY_MAX)
    }

    pub(crate) fn validate(&self) -> Result<(), QueueError> {
        let refuse = |what: &str| Err(QueueError::InvalidConfig(what.to_owned()));
        if self.kinds.is_empty() {
            return refuse("it knows no kinds, so it could never claim a job");
        }
        let is_known = |known: &KnownKind| {
            (1..=Self::PAYLOAD_VERSION_MAX).contains(&known.max_payload_version)
        };
        if !self.kinds.iter().all(is_known) {
            return refuse("the newest payload version of a kind is 1 to 100");
        }
        if !(1..=Self::CONCURRENCY_MAX).contains(&self.concurrency) {
            return refuse("concurrency is 1 to 10,000");
        }
        if !self.queue_weights.values().all(|weight| (1..=Self::WEIGHT_MAX).contains(weight)) {
            return refuse("the weight of a queue is 1 to 100");
        }
        if self.prefetch_max > Self::PREFETCH_MAX {
            return refuse("prefetch_max is at most 10,000");
        }
        if self.lease_ttl < Duration::from_millis(300) || self.lease_ttl > Duration::from_secs(3600)
        {
            return refuse("lease_ttl is 0.3 s to 1 h");
        }
        if self.poll_interval < Duration::from_millis(10) {
            return refuse("poll_interval is at least 10 ms");
        }
        Ok(())
    }
}
