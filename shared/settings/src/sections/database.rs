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
    ],
};

impl Database {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let url = reader.optional_secret("url", check::postgres_url);
        let max_connections = reader.integer("max_connections");
        Some(Self { url: url?, max_connections: max_connections? })
    }
}
