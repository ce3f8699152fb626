//! The statements that write outcomes back, each fenced by session and epoch, each in batches.
//!
//! Every one may be repeated after a lost answer: what it did already it cannot do again, since the
//! row has left the state, and the epoch, that the fence names.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::types::Json;
use sqlx::{Connection as _, PgConnection, Row as _};

use super::job::Lease;
use super::{Handler, Job, Outcome};
use crate::batch::{self, Ended};
use crate::enqueue;
use crate::sql::{dead_columns, history_columns, ready_state};
use crate::{BatchId, JobId, QueueError, SessionId};

/// What is to be written for one job.
#[derive(Debug, Clone)]
pub(crate) struct Ack {
    pub(crate) lease: Arc<Lease>,
    pub(crate) ending: Ending,
    /// How long the handler ran.
    pub(crate) run: Duration,
    /// From being due to being started.
    pub(crate) wait: Duration,
    /// How often writing it was refused for a reason that is not the connection.
    pub(crate) refusals: u32,
    /// A try failed: it may have been written nevertheless.
    pub(crate) is_retried: bool,
}

/// What becomes of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    Completed,
    /// The handler says its own transaction completed it. Then there is nothing to write; where
    /// that transaction did not commit, the job is to run again after this delay.
    CompletedInTx(Duration),
    Retry {
        error: String,
        delay: Duration,
    },
    Snooze(Duration),
    GiveBack,
    /// With the handler's reason; a cancel by hand has stored its own.
    Cancelled(Option<String>),
    Dead {
        error: String,
        is_exhausted: bool,
    },
}

impl Ending {
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Completed | Self::CompletedInTx(_) => Outcome::Completed,
            Self::Retry { .. } => Outcome::Retried,
            Self::Snooze(_) => Outcome::Snoozed,
            Self::GiveBack => Outcome::GivenBack,
            Self::Cancelled(_) => Outcome::Cancelled,
            Self::Dead { .. } => Outcome::Dead,
        }
    }
}

/// The hot one: `id = ANY` finds the rows by index whatever their number, the join brings the
/// epochs. A condition on `state` would tempt the planner into a partial index.
const COMPLETE: &str = concat!(
    "-- finish_jobs
    WITH gone AS (
        DELETE FROM relevo.job AS j USING unnest($1::bigint[], $2::bigint[]) AS a(id, epoch)
        WHERE j.id = ANY ($1) AND j.id = a.id AND j.lease_epoch = a.epoch AND j.session_id = $3
        RETURNING j.*
    )
    INSERT INTO relevo.job_history (",
    history_columns!(),
    ", state, finished_at) SELECT ",
    history_columns!(),
    ", 'completed', now() FROM gone"
);

const COMPLETE_RETURNING: &str = concat!(
    "-- finish_batch_members
    WITH gone AS (
        DELETE FROM relevo.job AS j USING unnest($1::bigint[], $2::bigint[]) AS a(id, epoch)
        WHERE j.id = ANY ($1) AND j.id = a.id AND j.lease_epoch = a.epoch AND j.session_id = $3
        RETURNING j.*
    )
    INSERT INTO relevo.job_history (",
    history_columns!(),
    ", state, finished_at) SELECT ",
    history_columns!(),
    ", 'completed', now() FROM gone RETURNING id"
);

/// With `$5` only those that somebody cancelled while they ran.
const CANCEL: &str = concat!(
    "-- finish_cancelled
    WITH gone AS (
        DELETE FROM relevo.job AS j
        USING unnest($1::bigint[], $2::bigint[], $4::text[]) AS a(id, epoch, reason)
        WHERE j.id = ANY ($1) AND j.id = a.id AND j.lease_epoch = a.epoch AND j.session_id = $3
          AND (NOT $5 OR j.cancel_requested_at IS NOT NULL)
        RETURNING j.*, a.reason
    )
    INSERT INTO relevo.job_history (",
    history_columns!(),
    ", state, finished_at, cancel_reason) SELECT ",
    history_columns!(),
    ", 'cancelled', now(), coalesce(cancel_reason, reason, 'cancelled') FROM gone RETURNING id"
);

/// Jobs that somebody cancelled while they ran are left out: they are not to run again.
const PUT_BACK: &str = concat!(
    "-- put_back_jobs
    UPDATE relevo.job AS j
    SET state = CASE WHEN a.state = 'available' THEN ",
    ready_state!("j."),
    " ELSE a.state::relevo.job_state END,
        run_at = CASE WHEN a.state = 'available' THEN j.run_at
                      ELSE now() + make_interval(secs => a.delay_seconds) END,
        attempt = j.attempt - a.refund, last_error = coalesce(a.error, j.last_error),
        session_id = NULL, claimed_at = NULL, claim_no = NULL, started = false
    FROM unnest($1::bigint[], $2::bigint[], $4::text[], $5::float8[], $6::integer[], $7::text[])
             AS a(id, epoch, state, delay_seconds, refund, error)
    WHERE j.id = ANY ($1) AND j.id = a.id AND j.lease_epoch = a.epoch AND j.session_id = $3
      AND j.cancel_requested_at IS NULL
    RETURNING j.id"
);

const BURY: &str = concat!(
    "-- bury_job
    WITH gone AS (
        DELETE FROM relevo.job WHERE id = $1 AND lease_epoch = $2 AND session_id = $3 RETURNING *
    )
    INSERT INTO relevo.dead_letter (",
    dead_columns!(),
    ", cause, last_error) SELECT ",
    dead_columns!(),
    ", $4::text::relevo.death_cause, $5 FROM gone
    RETURNING kind, payload, payload_version, queue, deaths, run_id, traceparent, created_at"
);

/// What an earlier try of the same write-back has already ended.
const FIND_ENDED: &str = "-- find_finished_jobs
    SELECT h.id FROM relevo.job_history AS h
    JOIN unnest($1::bigint[], $2::bigint[]) AS a(id, epoch) ON h.id = a.id
    WHERE h.id = ANY ($1) AND h.lease_epoch = a.epoch AND h.session_id = $3
    UNION ALL
    SELECT d.id FROM relevo.dead_letter AS d
    JOIN unnest($1::bigint[], $2::bigint[]) AS a(id, epoch) ON d.id = a.id
    WHERE d.id = ANY ($1) AND d.lease_epoch = a.epoch AND d.session_id = $3";

/// What is wrong with a job whose handler said that its own transaction completed it.
pub(crate) const NOT_COMMITTED: &str = "the transaction given to complete_in was not committed";

/// How long `Handler::on_dead` may take.
const ON_DEAD_TIMEOUT: Duration = Duration::from_secs(10);

fn ids(acks: &[Ack]) -> Vec<JobId> {
    acks.iter().map(|ack| ack.lease.id.job).collect()
}

fn epochs(acks: &[Ack]) -> Vec<i64> {
    acks.iter().map(|ack| ack.lease.id.epoch).collect()
}

/// Ends completed jobs that are in no batch; true when all of them were still ours.
pub(crate) async fn complete(
    connection: &mut PgConnection,
    session: SessionId,
    acks: &[Ack],
) -> Result<bool, QueueError> {
    let moved = sqlx::query(COMPLETE)
        .bind(ids(acks))
        .bind(epochs(acks))
        .bind(session)
        .execute(connection)
        .await?;
    Ok(moved.rows_affected() == acks.len() as u64)
}

/// Which of these jobs this session has ended before under the same epochs.
pub(crate) async fn already_ended(
    connection: &mut PgConnection,
    session: SessionId,
    acks: &[Ack],
) -> Result<BTreeSet<JobId>, QueueError> {
    let ended: Vec<JobId> = sqlx::query_scalar(FIND_ENDED)
        .bind(ids(acks))
        .bind(epochs(acks))
        .bind(session)
        .fetch_all(connection)
        .await?;
    Ok(ended.into_iter().collect())
}

/// Ends completed and cancelled jobs with their batches; the jobs that were still ours.
pub(crate) async fn end(
    connection: &mut PgConnection,
    session: SessionId,
    acks: &[Ack],
) -> Result<BTreeSet<JobId>, QueueError> {
    let (completed, cancelled): (Vec<Ack>, Vec<Ack>) =
        acks.iter().cloned().partition(|ack| ack.ending == Ending::Completed);
    let mut transaction = connection.begin().await?;
    let mut ended = BTreeSet::new();
    let mut batches = BTreeMap::new();
    if !completed.is_empty() {
        let moved: Vec<JobId> = sqlx::query_scalar(COMPLETE_RETURNING)
            .bind(ids(&completed))
            .bind(epochs(&completed))
            .bind(session)
            .fetch_all(&mut *transaction)
            .await?;
        ended.extend(moved);
        count(&completed, &ended, &mut batches, |batch| &mut batch.completed);
    }
    if !cancelled.is_empty() {
        let moved = cancel(&mut transaction, session, &cancelled, false).await?;
        count(&cancelled, &moved, &mut batches, |batch| &mut batch.cancelled);
        ended.extend(moved);
    }
    batch::settle(&mut transaction, &batches).await?;
    transaction.commit().await?;
    Ok(ended)
}

fn count(
    acks: &[Ack],
    moved: &BTreeSet<JobId>,
    batches: &mut BTreeMap<BatchId, Ended>,
    counter: impl Fn(&mut Ended) -> &mut i64,
) {
    for ack in acks.iter().filter(|ack| moved.contains(&ack.lease.id.job)) {
        if let Some(batch) = ack.lease.batch {
            *counter(batches.entry(batch).or_default()) += 1;
        }
    }
}

async fn cancel(
    connection: &mut PgConnection,
    session: SessionId,
    acks: &[Ack],
    only_requested: bool,
) -> Result<BTreeSet<JobId>, QueueError> {
    let reasons: Vec<Option<&str>> = acks
        .iter()
        .map(|ack| match &ack.ending {
            Ending::Cancelled(reason) => reason.as_deref(),
            _ => None,
        })
        .collect();
    let moved: Vec<JobId> = sqlx::query_scalar(CANCEL)
        .bind(ids(acks))
        .bind(epochs(acks))
        .bind(session)
        .bind(reasons)
        .bind(only_requested)
        .fetch_all(connection)
        .await?;
    Ok(moved.into_iter().collect())
}

/// Puts jobs back to wait for another run, or ends those that were cancelled meanwhile; the jobs
/// that were still ours.
pub(crate) async fn put_back(
    connection: &mut PgConnection,
    session: SessionId,
    acks: &[Ack],
) -> Result<BTreeSet<JobId>, QueueError> {
    let (mut states, mut delays_seconds, mut refunds, mut errors) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for ack in acks {
        let (state, delay, refund, error) = match &ack.ending {
            Ending::Retry { error, delay } => ("retryable", *delay, 0, Some(error.as_str())),
            Ending::CompletedInTx(delay) => ("retryable", *delay, 0, Some(NOT_COMMITTED)),
            Ending::Snooze(delay) => ("scheduled", *delay, 1, None),
            _ => ("available", Duration::ZERO, 1, None),
        };
        states.push(state);
        delays_seconds.push(delay.as_secs_f64());
        refunds.push(refund);
        errors.push(error);
    }
    let mut transaction = connection.begin().await?;
    let mut written: BTreeSet<JobId> = sqlx::query_scalar(PUT_BACK)
        .bind(ids(acks))
        .bind(epochs(acks))
        .bind(session)
        .bind(states)
        .bind(delays_seconds)
        .bind(refunds)
        .bind(errors)
        .fetch_all(&mut *transaction)
        .await?
        .into_iter()
        .collect();
    let mut batches = BTreeMap::new();
    let left: Vec<Ack> =
        acks.iter().filter(|ack| !written.contains(&ack.lease.id.job)).cloned().collect();
    if !left.is_empty() {
        let moved = cancel(&mut transaction, session, &left, true).await?;
        count(&left, &moved, &mut batches, |batch| &mut batch.cancelled);
        written.extend(moved);
    }
    batch::settle(&mut transaction, &batches).await?;
    let queues: BTreeSet<&str> = acks
        .iter()
        .filter(|ack| ack.ending == Ending::GiveBack)
        .map(|ack| &*ack.lease.queue_name)
        .collect();
    enqueue::notify(&mut transaction, &queues.into_iter().collect::<Vec<_>>()).await?;
    transaction.commit().await?;
    Ok(written)
}

/// Makes one job a dead letter and tells the handler in the same transaction; whether it was ours.
pub(crate) async fn bury(
    connection: &mut PgConnection,
    handler: &dyn Handler,
    ack: &Ack,
) -> Result<bool, QueueError> {
    let Ending::Dead { error, is_exhausted } = &ack.ending else { return Ok(false) };
    let id = ack.lease.id;
    let mut transaction = connection.begin().await?;
    let row = sqlx::query(BURY)
        .bind(id.job)
        .bind(id.epoch)
        .bind(id.session)
        .bind(if *is_exhausted { "exhausted" } else { "failed" })
        .bind(error)
        .fetch_optional(&mut *transaction)
        .await?;
    let Some(row) = row else { return Ok(false) };
    let job = Job {
        id: id.job,
        kind: row.try_get("kind")?,
        payload: row.try_get::<Json<Box<RawValue>>, _>("payload")?.0,
        payload_version: row.try_get("payload_version")?,
        queue: row.try_get("queue")?,
        attempt: ack.lease.attempt,
        max_attempts: ack.lease.max_attempts,
        deaths: row.try_get("deaths")?,
        epoch: id.epoch,
        session: id.session,
        run_id: row.try_get("run_id")?,
        batch_id: ack.lease.batch,
        traceparent: row.try_get("traceparent")?,
        created_at: row.try_get::<DateTime<Utc>, _>("created_at")?,
        lease: Arc::clone(&ack.lease),
    };
    let mut savepoint = transaction.begin().await?;
    let told = tokio::time::timeout(ON_DEAD_TIMEOUT, handler.on_dead(&mut savepoint, &job, error));
    match futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(told)).await {
        Ok(Ok(Ok(()))) => savepoint.commit().await?,
        told => {
            let why = match told {
                Ok(Ok(Err(error))) => relevo_errors::chain(error.as_ref()),
                Ok(Err(_)) => format!("no end within {} s", ON_DEAD_TIMEOUT.as_secs()),
                _ => "it panicked".to_owned(),
            };
            tracing::warn!(
                job = %job.id,
                kind = job.kind,
                error = why,
                "what depends on a dead job could not be told"
            );
            savepoint.rollback().await?;
        }
    }
    if let Some(batch) = ack.lease.batch {
        let ended = Ended { dead: 1, ..Ended::default() };
        batch::settle(&mut transaction, &BTreeMap::from([(batch, ended)])).await?;
    }
    transaction.commit().await?;
    Ok(true)
}
