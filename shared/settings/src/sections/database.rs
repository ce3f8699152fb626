//! `[database]`: the control plane.

use secrecy::SecretString;

use crate::check;
use crate::reader::Reader;
use crate::schema::{Key, Preset, Section};

/// Where queue, runs and settings live.
#[derive(Debug, Clone)]
pub struct Database {
    /// A `postgres://` URL; `None` means the embedded server under the data directory.
    pub url: Option<SecretString>,
    /// Connections that one process opens at most.
    pub max_connections: u32,
    /// What stands before it.
    pub pooler: Pooler,
    /// Where pooler is `transaction`, the server's own address, for what needs a session.
    pub direct_url: Option<SecretString>,
}

/// What stands between Relevo and the control plane's server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooler {
    /// Nothing, or something that gives each connection a session of its own.
    None,
    /// A pooler in transaction mode, such as `PgBouncer`.
    Transaction,
}

impl Pooler {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Transaction => "transaction",
        }
    }
}

pub(crate) const SECTION: Section = Section {
    name: "database",
    help: "The control plane: queue, runs, schedules. Best in a database of its own.",
    keys: &[
        Key::secret(
            "url",
            Preset::Absent("DATABASE_URL if that is set, else an embedded server under data_dir"),
            "Postgres URL of the control plane, postgres://user:password@host:5432/name?sslmode=require.",
        ),
        Key::integer(
            "max_connections",
            (2, 1_000),
            "10",
            "Connections that one process opens at most; `relevo up` opens as many again for answering requests.",
        ),
        Key::text(
            "pooler",
            Preset::Value("none"),
            "What url leads to: none (the server, or a pooler in session mode) or transaction (a pooler in transaction mode, such as PgBouncer).",
        ),
        Key::secret(
            "direct_url",
            Preset::Absent("workers poll and don't listen; migrations have to be run elsewhere"),
            "With pooler = \"transaction\", the URL of the server itself: for listening, for migrations and for restoring a saved state.",
        ),
    ],
};

impl Database {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let url = reader.optional_secret("url", check::postgres_url);
        let max_connections = reader.integer("max_connections");
        let pooler = reader.parsed("pooler", |text| {
            check::one_of(text, &[Pooler::None, Pooler::Transaction], |pooler| pooler.as_str())
        });
        let direct_url = reader.optional_secret("direct_url", check::postgres_url);
        Some(Self {
            url: url?,
            max_connections: max_connections?,
            pooler: pooler?,
            direct_url: direct_url?,
        })
    }
}
