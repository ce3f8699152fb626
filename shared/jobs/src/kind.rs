//! The kinds by name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A kind of job that this build knows. The name in the database and in JSON is the variant's own
/// (`"RequestBackup"`).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
pub enum JobKind {
    /// Asks the gateway for a full backup.
    RequestBackup,
    /// Fetches the finished dump, cuts it into chunks and prepares the staging schema.
    DownloadDump,
    /// Loads one chunk of the dump into the staging schema.
    TranslateChunk,
    /// Completes the import: indexes, keys, verification, cutover, certificate.
    FinishImport,
    /// Looks after a request whose webhook did not come.
    BackupDeadline,
    /// Tells people how a run ended, or of a state they should look at.
    Notify,
    /// Does nothing, on request slowly or with a failure: for tests and benchmarks.
    Noop,
}

impl JobKind {
    /// Every kind, in the order of the declaration.
    pub const ALL: [Self; 7] = [
        Self::RequestBackup,
        Self::DownloadDump,
        Self::TranslateChunk,
        Self::FinishImport,
        Self::BackupDeadline,
        Self::Notify,
        Self::Noop,
    ];

    /// The name as stored with a job.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::RequestBackup => "RequestBackup",
            Self::DownloadDump => "DownloadDump",
            Self::TranslateChunk => "TranslateChunk",
            Self::FinishImport => "FinishImport",
            Self::BackupDeadline => "BackupDeadline",
            Self::Notify => "Notify",
            Self::Noop => "Noop",
        }
    }

    /// A step of Relevo's own: enqueueing one by hand steers a run.
    #[must_use]
    pub const fn is_internal(self) -> bool {
        match self {
            Self::Noop => false,
            Self::RequestBackup
            | Self::DownloadDump
            | Self::TranslateChunk
            | Self::FinishImport
            | Self::BackupDeadline
            | Self::Notify => true,
        }
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that is no kind of this build.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UnknownKind(
    /// The name as it was given.
    pub String,
);

impl fmt::Display for UnknownKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no job kind is called {:?}", self.0)
    }
}

impl std::error::Error for UnknownKind {}

impl FromStr for JobKind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.as_str() == name)
            .ok_or_else(|| UnknownKind(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_and_agree_with_serde() {
        for kind in JobKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert_eq!(
                serde_json::to_value(kind).expect("serialises"),
                serde_json::Value::from(kind.as_str())
            );
        }
        assert_eq!("noop".parse::<JobKind>(), Err(UnknownKind("noop".to_owned())));
    }
}
