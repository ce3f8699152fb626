//! One file per section: its struct, its keys, how it is read.

pub(crate) mod alerts;
pub(crate) mod api;
pub(crate) mod backup;
pub(crate) mod channel;
pub(crate) mod chunk_store;
pub(crate) mod connection;
pub(crate) mod database;
pub(crate) mod dump;
pub(crate) mod notify;
pub(crate) mod outbound;
pub(crate) mod schedule;
pub(crate) mod scheduler;
pub(crate) mod secrets;
pub(crate) mod smtp;
pub(crate) mod telemetry;
pub(crate) mod worker;

use crate::schema::{Key, Preset, Section};

/// The keys above the first section.
pub(crate) const ROOT: Section = Section {
    name: "",
    help: "Relevo's configuration. Every key has a default; environment variables stand over this file, \
           flags over both. ${NAME} in a text stands for an environment variable.",
    keys: &[Key::text(
        "data_dir",
        Preset::Computed(
            "/var/lib/relevo for root, else $XDG_DATA_HOME/relevo or ~/.local/share/relevo",
        ),
        "Folder for the embedded server, downloaded dumps and chunks.",
    )],
};
