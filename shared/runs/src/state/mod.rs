//! The control plane's own state, saved into one file and restored from it.
//!
//! A **backup** is one snapshot of the schema `relevo`, written by `COPY`: it needs no program of
//! the server's installation, works on any server that the control plane works on, and a later
//! version of Relevo reads it (it makes the schema of that time, fills it, and migrates on).
//!
//! A **restore** is one transaction, so it happens whole or not at all. What was there before is
//! kept under another name. With it a new **incarnation** begins: whatever happened between the
//! backup and its restore is not in the restored state, but may have happened in the targets, and
//! processes of that time may still be at work there.
//!
//! | after a restore | because |
//! |---|---|
//! | every fence and every name outside carries the new incarnation | numbers are given out again |
//! | runs that were under way end, as their target's ledger says | their cutover may have happened since |
//! | running jobs wait to be run once more | their outcome is not known; delivery is at least once |
//! | slots of schedules up to the restore do not fire | they have fired already, or are long past |
//! | sessions of workers and of people are gone | they belong to the time before |
//!
//! | module | holds |
//! |---|---|
//! | `archive` | the file: how it is written and read |
//! | `backup` | the snapshot |
//! | `restore`, `whole` | the transaction, with all migrations in it, and what makes the new incarnation of it |

mod archive;
mod backup;
mod restore;
mod whole;

pub use archive::{ArchiveError, Header};
pub use backup::{BackedUp, backup};
pub use restore::{Restore, Restored, restore};

/// Why the state was not saved or restored.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The file.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The database to be saved holds no control plane, or not of this version.
    #[error("the control plane is not of this version; run `relevo migrate` first")]
    NotCurrent,
    /// The backup was made by a newer Relevo.
    #[error(
        "the backup is of a newer relevo (migration {version}); restore it with that version or a \
         later one"
    )]
    Newer {
        /// The newest migration of the backup.
        version: i64,
    },
    /// Processes are at work on the control plane.
    #[error("{0} at work on this control plane; stop every relevo process first")]
    InUse(String),
    /// There is a control plane that has been used.
    #[error(
        "the database holds a control plane already ({cluster_id}, {runs} runs); ask for its \
         replacement to put it aside"
    )]
    Occupied {
        /// Its id.
        cluster_id: String,
        /// How many runs it knows.
        runs: i64,
    },
    /// The schema of the backup's version could not be made.
    #[error(transparent)]
    Migrate(#[from] crate::control_plane::MigrateError),
    /// A job could not be cancelled, or a queue paused.
    #[error("the queue could not be brought into order")]
    Queue(#[source] relevo_queue::QueueError),
    /// The database failed.
    #[error("the control plane's database failed while {what}")]
    Database {
        /// What was being done.
        what: String,
        /// What it said.
        #[source]
        source: sqlx::Error,
    },
}

impl StateError {
    fn database(what: impl Into<String>) -> impl FnOnce(sqlx::Error) -> Self {
        let what = what.into();
        |source| Self::Database { what, source }
    }
}
