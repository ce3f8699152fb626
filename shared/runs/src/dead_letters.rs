//! What people do to dead letters, the same over HTTP and by command: mend one, or act on all that
//! match a filter after they were counted.

use relevo_queue::{EditedKey, JobFilter, JobId, JobView, Queue, QueueError};
use serde_json::value::RawValue;
use sqlx::PgConnection;

use crate::kinds::KindBook;
use crate::typed::PayloadError;

/// Dead letters that one transaction may act on.
pub const BULK_MAX: u32 = 10_000;

/// What is done to dead letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeadLetterAction<'a> {
    /// They go back to work with fresh attempts.
    Retry,
    /// They end as cancelled, for this reason.
    Discard {
        /// Why, for their record.
        reason: &'a str,
    },
}

/// How many an action met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acted {
    /// Dead letters that matched.
    pub matching: u32,
    /// Those it was done to: the others stay dead, because another job holds their unique key.
    pub changed: u64,
}

/// Why nothing was done to dead letters.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// More than [`BULK_MAX`].
    #[error("more than {BULK_MAX} dead letters match; narrow the filter, for instance by before")]
    TooMany,
    /// Others than those that were counted.
    #[error("{matching} match by now, not {expected}; nothing was changed")]
    CountDiffers {
        /// How many match.
        matching: u32,
        /// How many were meant.
        expected: u32,
    },
    /// The queue refused, or the database failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// Does it to all that match, in the caller's transaction, provided that they are as many as were
/// counted; the filter's states and limit are not looked at.
///
/// # Errors
/// [`BulkError`]; then nothing was changed.
pub async fn act_on_matching_in(
    tx: &mut PgConnection,
    queue: &Queue,
    filter: &JobFilter,
    expected: u32,
    action: DeadLetterAction<'_>,
) -> Result<Acted, BulkError> {
    // One more than may be, to see that there are too many.
    let ids = queue.lock_dead_in(tx, filter, BULK_MAX + 1).await?;
    let matching = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    if matching > BULK_MAX {
        return Err(BulkError::TooMany);
    }
    if matching != expected {
        return Err(BulkError::CountDiffers { matching, expected });
    }
    let changed = match action {
        DeadLetterAction::Retry => queue.retry_dead_in(tx, &ids).await?,
        DeadLetterAction::Discard { reason } => {
            queue.discard_many_dead_in(tx, &ids, reason).await?
        }
    };
    Ok(Acted { matching, changed })
}

/// A dead letter with another payload.
#[derive(Debug)]
pub struct Edited {
    /// The job as it was.
    pub before: JobView,
    /// What its payload is now.
    pub payload: Box<RawValue>,
}

/// Why a dead letter keeps its payload.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    /// No dead letter has this id.
    #[error("there is no dead letter {0}")]
    NotFound(JobId),
    /// It is not a payload of the job's kind.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// A job stays with its run.
    #[error("the payload belongs to another run than the job does")]
    RunDiffers,
    /// The queue refused, or the database failed.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The kinds could not be read.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
}

/// Gives a dead letter another payload, checked as its kind's own, in the caller's transaction.
///
/// # Errors
/// [`EditError`]; then nothing was changed.
pub async fn edit_in(
    tx: &mut PgConnection,
    queue: &Queue,
    id: JobId,
    payload: &RawValue,
) -> Result<Edited, EditError> {
    let before = queue.lock_dead_letter_in(tx, id).await?.ok_or(EditError::NotFound(id))?;
    let job = KindBook::load_for(tx, &before.kind).await?.job(&before.kind, payload)?;
    if job.run_id != before.run_id {
        return Err(EditError::RunDiffers);
    }
    // The key of a kind that is unique by a field of its payload follows that field; a key that a
    // producer gave is the producer's.
    let follows = |key: &String| key.starts_with(&format!("kind/{}/", before.kind));
    let key = if before.unique_key.as_ref().is_none_or(follows) {
        EditedKey::Replaced(job.unique.as_ref())
    } else {
        EditedKey::Kept
    };
    if !queue.edit_dead_in(tx, id, &job.payload, job.payload_version, key).await? {
        return Err(EditError::NotFound(id));
    }
    Ok(Edited { before, payload: job.payload })
}
