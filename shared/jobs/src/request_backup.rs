//! RequestBackup: ask the gateway for a full backup.

use std::{fmt, str::FromStr};

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

impl RequestMode {
    /// The word as written in payloads, options and on the command line.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Webhook => "webhook",
            Self::Sync => "sync",
        }
    }
}

impl fmt::Display for RequestMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no way to ask for a backup.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnknownRequestMode(
    /// The word as it was given.
    pub String,
);

impl fmt::Display for UnknownRequestMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no request mode is called {:?}; modes are auto, webhook, sync", self.0)
    }
}

impl std::error::Error for UnknownRequestMode {}

impl FromStr for RequestMode {
    type Err = UnknownRequestMode;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        [Self::Auto, Self::Webhook, Self::Sync]
            .into_iter()
            .find(|mode| mode.as_str() == word)
            .ok_or_else(|| UnknownRequestMode(word.to_owned()))
    }
}

impl Payload for RequestBackup {
    const KIND: JobKind = JobKind::RequestBackup;
    const VERSION: i16 = 1;
    const SCHEMA: &'static str = r#"{
        "type": "object",
        "required": ["run_id"],
        "additionalProperties": false,
        "properties": {
            "run_id": {"type": "integer", "format": "int64"},
            "mode": {"type": "string", "enum": ["auto", "webhook", "sync"], "default": "auto"},
            "round": {"type": "integer", "format": "int32", "minimum": -2147483648, "maximum": 2147483647, "default": 1}
        }
    }"#;

    fn run_id(&self) -> Option<i64> {
        Some(self.run_id)
    }
}
