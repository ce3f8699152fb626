//! `[outbound]`: where messages may go.

use crate::check;
use crate::reader::Reader;
use crate::schema::{Key, Kind, Preset, Section};

/// Where messages and connections kept through the API may go.
#[derive(Debug, Clone)]
pub struct Outbound {
    /// `host:port` of private addresses that may be asked all the same, in small letters.
    pub allow: Vec<String>,
}

pub(crate) const SECTION: Section = Section {
    name: "outbound",
    help: "Messages, heartbeats and connections kept through the API reach public addresses only, and follow no redirect.",
    keys: &[Key {
        name: "allow",
        kind: Kind::List,
        preset: Preset::Value(""),
        fixed_env: None,
        help: "host:port of private or local addresses that may be reached all the same.",
    }],
};

impl Outbound {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let allow = reader.parsed("allow", |text| {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts.map(check::host_and_port).collect::<Result<Vec<_>, _>>()
        });
        Some(Self { allow: allow? })
    }
}
