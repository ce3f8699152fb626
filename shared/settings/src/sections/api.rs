//! `[api]`: the HTTP side.

use std::net::SocketAddr;

use crate::check;
use crate::reader::Reader;
use crate::schema::{Key, Preset, Section};

/// What the API listens on and how the world reaches it.
#[derive(Debug, Clone)]
pub struct Api {
    /// Loopback until told otherwise.
    pub listen: SocketAddr,
    /// How others reach this API, without a trailing slash; webhook addresses are built from it.
    /// `None` means that no webhook can arrive, so backups are fetched synchronously.
    pub public_url: Option<String>,
    /// The largest request body that is read.
    pub body_limit_bytes: usize,
    /// Requests per second that one API key may make; 0 sets no limit.
    pub rate_limit_per_second: u32,
    /// Waiting jobs in one queue, those for later included, beyond which HTTP enqueues are refused; 0 sets no limit.
    pub queue_depth_max: u64,
    /// Connections at once.
    pub connections_max: usize,
    /// How many of them one address may have.
    pub connections_per_address_max: usize,
    /// Whether the webhook is also taken without a token, known by the id that the gateway promised.
    pub bare_webhook: bool,
    /// Seconds for which it goes on answering when it is told to stop, saying that it is not ready.
    pub drain_seconds: u64,
}

pub(crate) const SECTION: Section = Section {
    name: "api",
    help: "The HTTP side: enqueue, webhooks, runs, metrics.",
    keys: &[
        Key::text(
            "listen",
            Preset::Value("127.0.0.1:8080"),
            "Address and port to listen on; loopback until told otherwise.",
        ),
        Key::text(
            "public_url",
            Preset::Absent("no webhook can arrive, so backups are fetched synchronously"),
            "How others reach this API, https://relevo.example.com; webhook addresses are built from it.",
        ),
        Key::integer(
            "body_limit_bytes",
            (1_024, 1 << 30),
            "2097152",
            "The largest request body that is read, in bytes.",
        ),
        Key::integer(
            "rate_limit_per_second",
            (0, 1_000_000),
            "0",
            "Requests per second that one API key may make, with bursts of one second's worth; more are answered 429. 0 sets no limit.",
        ),
        Key::integer(
            "queue_depth_max",
            (0, 1_000_000_000),
            "1000000",
            "Waiting jobs in one queue, those for later included, beyond which enqueues over HTTP are answered 429. 0 sets no limit.",
        ),
        Key::integer(
            "connections_max",
            (16, 100_000),
            "1024",
            "Connections at once; more are answered 503, but for /livez, /readyz and /metrics.",
        ),
        Key::integer(
            "connections_per_address_max",
            (16, 100_000),
            "768",
            "How many of them one address may have. A reverse proxy is one address, and so is an IPv6 network of 64 bits.",
        ),
        Key::boolean(
            "bare_webhook",
            "true",
            "Whether /webhook/backup-ready is also taken without a token, known by the id that the gateway promised; false takes the unguessable address only.",
        ),
        Key::integer(
            "drain_seconds",
            (0, 300),
            "0",
            "Seconds for which the API goes on answering when it is told to stop, while /readyz says that it is not ready: longer than a balancer before several APIs takes to notice.",
        ),
    ],
};

impl Api {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let listen = reader.parsed("listen", check::socket_address);
        let public_url = reader.optional("public_url", check::http_url);
        let body_limit_bytes = reader.integer("body_limit_bytes");
        let rate_limit_per_second = reader.integer("rate_limit_per_second");
        let queue_depth_max = reader.integer("queue_depth_max");
        let connections_max = reader.integer("connections_max");
        let connections_per_address_max = reader.integer("connections_per_address_max");
        let bare_webhook = reader.boolean("bare_webhook");
        let drain_seconds = reader.integer("drain_seconds");
        Some(Self {
            listen: listen?,
            public_url: public_url?,
            body_limit_bytes: body_limit_bytes?,
            rate_limit_per_second: rate_limit_per_second?,
            queue_depth_max: queue_depth_max?,
            connections_max: connections_max?,
            connections_per_address_max: connections_per_address_max?,
            bare_webhook: bare_webhook?,
            drain_seconds: drain_seconds?,
        })
    }
}
