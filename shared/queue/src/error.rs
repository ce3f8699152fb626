//! What can go wrong between a caller and the queue.

use crate::{BatchId, JobId};

/// Why a call to the queue failed.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The database could not be reached, or refused the statement.
    #[error("the queue's database could not be reached or refused the statement")]
    Database(#[from] sqlx::Error),
    /// A job that cannot be stored as it is.
    #[error("the job cannot be enqueued: {0}")]
    InvalidJob(String),
    /// A limit that makes no sense.
    #[error("the limit cannot be set: {0}")]
    InvalidLimit(String),
    /// The lease under which a handler acts is no longer its own; whatever it was about to write
    /// must not be written.
    #[error("the lease of job {job} is lost: another worker may be running it")]
    LeaseLost {
        /// The job.
        job: JobId,
    },
    /// No such batch.
    #[error("there is no batch {0}")]
    BatchNotFound(BatchId),
    /// The batch takes no more members.
    #[error("batch {0} is sealed and takes no more members")]
    BatchSealed(BatchId),
    /// Keys kept changing hands while an enqueue looked for their holders.
    #[error("the key {key:?} changed hands {attempts} times during one enqueue; try again")]
    KeyContended {
        /// The idempotency or unique key.
        key: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// A row that this build cannot read.
    #[error("relevo.{table} holds a row this build cannot read: {what}")]
    Corrupt {
        /// The table.
        table: &'static str,
        /// Which row and column, and what is wrong.
        what: String,
    },
    /// A worker was configured in a way that cannot work.
    #[error("the worker's configuration cannot work: {0}")]
    InvalidConfig(String),
    /// The operating system refused a thread.
    #[error("the worker could not start its heartbeat thread")]
    Thread(#[source] std::io::Error),
}

impl QueueError {
    /// Whether the lease was lost: the caller should stop, and write nothing.
    pub fn is_lease_lost(&self) -> bool {
        matches!(self, Self::LeaseLost { .. })
    }
}
