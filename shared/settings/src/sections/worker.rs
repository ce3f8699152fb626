//! `[worker]`: how one worker process works.

use std::collections::HashMap;
use std::net::SocketAddr;

use crate::check;
use crate::reader::Reader;
use crate::schema::{Key, Kind, Preset, Section};

/// How one worker process works.
#[derive(Debug, Clone)]
pub struct Worker {
    /// Handlers that run at the same time.
    pub concurrency: usize,
    /// The queues it serves; empty means every queue that its kinds use.
    pub queues: Vec<String>,
    /// Claims that a queue gets in its turn, where it is more than one.
    pub queue_weights: HashMap<String, u32>,
    /// The kinds it runs; empty means every kind it has.
    pub kinds: Vec<String>,
    /// After so long without a heartbeat its jobs go to others.
    pub lease_ttl_seconds: u64,
    /// How often it looks for work when no notification comes.
    pub poll_interval_ms: u64,
    /// How long a draining worker waits for its handlers.
    pub grace_seconds: u64,
    /// Where it serves `/metrics`, `/livez`, `/readyz`; `None` means nowhere.
    pub metrics_listen: Option<SocketAddr>,
}

pub(crate) const SECTION: Section = Section {
    name: "worker",
    help: "How one worker process works.",
    keys: &[
        Key::integer("concurrency", (1, 1_024), "4", "Handlers that run at the same time."),
        Key {
            name: "queues",
            kind: Kind::List,
            preset: Preset::Value(""),
            fixed_env: None,
            help: "The queues this worker serves; empty means all.",
        },
        Key::text(
            "queue_weights",
            Preset::Value(""),
            "Claims that a queue gets in its turn while it has jobs, as in mail=3,reports=2: 1 to 100, 1 unless given.",
        ),
        Key {
            name: "kinds",
            kind: Kind::List,
            preset: Preset::Value(""),
            fixed_env: None,
            help: "The kinds of jobs this worker runs; empty means all that it has.",
        },
        Key::integer(
            "lease_ttl_seconds",
            (3, 3_600),
            "15",
            "Seconds without a heartbeat after which its jobs go to other workers.",
        ),
        Key::integer(
            "poll_interval_ms",
            (50, 60_000),
            "1000",
            "Milliseconds between looks for work when no notification comes.",
        ),
        Key::integer(
            "grace_seconds",
            (0, 3_600),
            "30",
            "Seconds that a stopping worker waits for its handlers before it gives their jobs back.",
        ),
        Key::text(
            "metrics_listen",
            Preset::Absent("a worker process of its own serves no metrics"),
            "Address and port of /metrics, /livez and /readyz of a worker process of its own.",
        ),
    ],
};

impl Worker {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let concurrency = reader.integer("concurrency");
        let queues = reader.list("queues");
        let queue_weights = reader.parsed("queue_weights", check::weights);
        let kinds = reader.list("kinds");
        let lease_ttl_seconds = reader.integer("lease_ttl_seconds");
        let poll_interval_ms = reader.integer("poll_interval_ms");
        let grace_seconds = reader.integer("grace_seconds");
        let metrics_listen = reader.optional("metrics_listen", check::socket_address);
        Some(Self {
            concurrency: concurrency?,
            queues: queues?,
            queue_weights: queue_weights?,
            kinds: kinds?,
            lease_ttl_seconds: lease_ttl_seconds?,
            poll_interval_ms: poll_interval_ms?,
            grace_seconds: grace_seconds?,
            metrics_listen: metrics_listen?,
        })
    }
}
