//! What an error means: for readers of the target, and for who may try again.

use relevo_pg::PgError;
use relevo_pg::cutover::CutoverError;

use crate::error::ImportError;

/// What readers of the target see after an import failed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Readers {
    /// The previous data, untouched.
    SeePrevious,
    /// The new data: only clearing up is left.
    SeeNew,
    /// One or the other: the answer to the cutover's COMMIT was lost, and the target could not be
    /// asked. The same step run again finds out.
    Unknown,
}

impl ImportError {
    /// Whether the role lacks a right in the target.
    pub(crate) fn is_missing_rights(&self) -> bool {
        match self {
            Self::Target(PgError::MissingRights { .. }) => true,
            Self::Target(PgError::Database { source, .. }) => {
                relevo_pg::error::sqlstate(source).as_deref() == Some("42501")
            }
            _ => false,
        }
    }

    /// Whether the target's disk has no room.
    pub(crate) fn is_disk_full(&self) -> bool {
        matches!(
            self,
            Self::Target(PgError::Database { source, .. })
                if relevo_pg::error::sqlstate(source).as_deref() == Some("53100")
        )
    }

    /// Whether the same step may succeed later without anyone changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Target(error) => error.is_transient(),
            Self::Cutover(error) => error.is_transient(),
            Self::Build { source, .. } => relevo_pg::error::is_transient(source),
            Self::AfterCutover(source) => source.is_transient(),
            Self::Read(_)
            | Self::ChunkRead { .. }
            | Self::Sink(_)
            | Self::MissingChunks { .. }
            | Self::NotSealed { .. }
            | Self::CutoverUndecided(_)
            | Self::Crashed { .. } => true,
            Self::Id { .. }
            | Self::Truncated { .. }
            | Self::Damaged { .. }
            | Self::Write(_)
            | Self::Dump(_)
            | Self::Encoder(_)
            | Self::Row { .. }
            | Self::RowAt { .. }
            | Self::TooManyRefused { .. }
            | Self::OtherBytes { .. }
            | Self::TablePresent { .. }
            | Self::NotQuarantined { .. }
            | Self::NoColumn { .. }
            | Self::TableReplaced { .. }
            | Self::Swollen { .. }
            | Self::Recount { .. }
            | Self::Filter { .. }
            | Self::Incomplete
            | Self::Empty { .. }
            | Self::SeveralDatabases { .. }
            | Self::Format { .. }
            | Self::TableTwice { .. }
            | Self::Guard { .. }
            | Self::Unknown { .. }
            | Self::Ended { .. }
            | Self::OtherDump { .. }
            | Self::Fenced { .. }
            | Self::EarlierIncarnation { .. }
            | Self::NotLive { .. }
            | Self::NothingKept { .. }
            | Self::PreviousGone { .. }
            | Self::Superseded { .. }
            | Self::ChunkDamaged { .. }
            | Self::RowsDiffer { .. }
            | Self::ValuesDiffer { .. }
            | Self::ForeignKey { .. }
            | Self::Ledger { .. }
            | Self::Cancelled => false,
        }
    }

    /// Whether the target went away, or fell silent: what is loaded is still there, for the same import run again.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        match self {
            Self::Target(error) => is_gone(error),
            Self::Cutover(CutoverError::Server(error)) => is_gone(error),
            Self::Build { source, .. } => relevo_pg::error::is_connection_lost(source),
            // Should it be live all the same, then running it again finds nothing to go on with.
            Self::CutoverUndecided(_) => true,
            _ => false,
        }
    }

    /// What readers of the target see now.
    #[must_use]
    pub fn readers(&self) -> Readers {
        match self {
            Self::AfterCutover(_) => Readers::SeeNew,
            Self::CutoverUndecided(_) => Readers::Unknown,
            _ => Readers::SeePrevious,
        }
    }

    /// The error with everything behind it in one line, for a ledger or a log.
    #[must_use]
    pub fn chain(&self) -> String {
        relevo_errors::chain(self)
    }

    /// Wraps a driver's error with what was being done.
    pub(crate) fn database(what: impl Into<String>, source: sqlx::Error) -> Self {
        Self::Target(PgError::database(what, source))
    }
}

fn is_gone(error: &PgError) -> bool {
    match error {
        PgError::Timeout { .. } | PgError::UnknownHost { .. } => true,
        error => error.is_connection_lost(),
    }
}
