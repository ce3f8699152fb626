//! Why tables could not be exchanged.

use crate::PgError;

/// Why a cutover did not happen. The tables that readers see are untouched.
#[derive(Debug, thiserror::Error)]
pub enum CutoverError {
    /// The server failed or refused.
    #[error(transparent)]
    Server(#[from] PgError),
    /// Objects of others hang on the tables in a way that cannot be carried over.
    #[error(
        "the tables cannot be exchanged, since these objects depend on them and cannot be carried over: {}; drop them before the import and create them again afterwards, or import with --cutover merge, which changes rows and leaves the tables where they are",
        objects.join("; ")
    )]
    Entangled {
        /// Each object with what it depends on.
        objects: Vec<String>,
    },
    /// The staged rows do not fit into the present tables.
    #[error(
        "the rows cannot be merged into the present tables: {}; import once with --cutover swap, which replaces the tables",
        objects.join("; ")
    )]
    Unmergeable {
        /// Each with what does not fit.
        objects: Vec<String>,
    },
    /// The present tables do not take the rows.
    #[error("merging the rows of {table} was refused: {reason}")]
    Refused {
        /// The table.
        table: String,
        /// The server's answer.
        reason: String,
    },
    /// Somebody holds the tables.
    #[error(
        "the tables stayed in use for {waited_seconds} s, so that they could not be exchanged; in the way: {}; end these sessions, or import when they are through",
        if blockers.is_empty() { "unknown".to_owned() } else { blockers.join("; ") }
    )]
    Blocked {
        /// How long it was tried.
        waited_seconds: u64,
        /// Sessions in the way: process, program, how long.
        blockers: Vec<String>,
    },
    /// A transaction older than the load goes on and on.
    #[error(
        "transactions that began before the load are still open after {waited_seconds} s and would see the new tables empty: {}; end them, or import with --cutover merge or --old-snapshots proceed",
        blockers.join("; ")
    )]
    OldSnapshots {
        /// How long was waited.
        waited_seconds: u64,
        /// Sessions in the way.
        blockers: Vec<String>,
    },
    /// The caller asked to stop.
    #[error("the cutover was cancelled")]
    Cancelled,
}

impl CutoverError {
    /// Whether the same cutover may succeed later without anyone changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Server(error) => error.is_transient(),
            Self::Blocked { .. } | Self::OldSnapshots { .. } => true,
            Self::Entangled { .. }
            | Self::Unmergeable { .. }
            | Self::Refused { .. }
            | Self::Cancelled => false,
        }
    }
}
