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
    ],
};

impl Api {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let listen = reader.parsed("listen", check::socket_address);
        let public_url = reader.optional("public_url", check::http_url);
        let body_limit_bytes = reader.integer("body_limit_bytes");
        Some(Self { listen: listen?, public_url: public_url?, body_limit_bytes: body_limit_bytes? })
    }
}
