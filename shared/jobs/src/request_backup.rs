//! RequestBackup: ask the gateway for a full backup.

use serde::{Deserialize, Serialize};

use crate::{JobKind, Payload};

/// Asks the gateway of the run's source for a full backup.
///
/// 1. Stores a request with an unguessable token, and with it a [`crate::BackupDeadline`] job.
/// 2. Asks. In webhook mode the gateway answers at once and delivers later; in synchronous mode
///    the answer is the delivery.
/// 3. Records the answer; a delivery enqueues [`crate::DownloadDump`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct RequestBackup {
    /// The run that wants a backup.
    pub run_id: i64,
    /// How to ask; `auto` takes what the source's settings say.
    #[serde(default)]
    pub mode: RequestMode,
    /// Which request of the run this is, counted from 1. One stored request belongs to each round,
    /// so a repeated job finds its own request instead of asking twice.
    #[serde(default = "first")]
    pub round: i32,
}

const fn first() -> i32 {
    1
}

/// How a backup is asked for.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum RequestMode {
    /// As the source's settings say; when they say `auto` too: webhook where a public URL is
    /// configured, synchronous otherwise.
    #[default]
    Auto,
    /// The gateway answers at once and calls back when the backup is ready.
    Webhook,
    /// The gateway answers when the backup is ready, minutes later.
    Sync,
}

impl Payload for RequestBackup {
    const KIND: JobKind = JobKind::RequestBackup;
    const VERSION: i16 = 1;

    fn run_id(&self) -> Option<i64> {
        Some(self.run_id)
    }
}
