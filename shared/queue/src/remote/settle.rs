//! Writing what became of the jobs of a remote worker.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::DateTime;
use serde_json::value::RawValue;
use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;

use super::{Backoff, FIND, RemoteEnding, RemoteOutcome, RemoteReport, RemoteSettled, SETTINGS};
use crate::admit::Keys;
use crate::sql::storable;
use crate::worker::{self, Ack, BoxFuture, Ending, Handler, Lease, Row, full_jitter};
use crate::{Job, JobError, JobId, Queue, QueueError, SessionId};

/// Writes what is still held, and says what became of each.
pub(super) async fn settle(
    queue: &Queue,
    connection: &mut PgConnection,
    owner: &str,
    session: SessionId,
    outcomes: &[RemoteOutcome],
    backoff: Backoff<'_>,
) -> Result<RemoteReport, QueueError> {
    let mut report = RemoteReport::default();
    let is_alive = sqlx::query(FIND).bind(session).bind(owner).fetch_optional(&mut *connection);
    if is_alive.await?.is_none() {
        report.stale = outcomes.iter().map(|outcome| outcome.id).collect();
        return Ok(report);
    }
    let held = held(connection, session, outcomes).await?;
    let (mut ending, mut waiting, mut dead, mut missing) = (vec![], vec![], vec![], vec![]);
    for outcome in outcomes {
        let Some(row) = held.get(&outcome.id) else {
            missing.push(lost(queue, session, outcome));
            continue;
        };
        let ack = ack(queue, session, row, outcome, backoff);
        match &ack.ending {
            Ending::Completed | Ending::Cancelled(_) => ending.push(ack),
            Ending::Dead { .. } => dead.push(ack),
            _ => waiting.push(ack),
        }
    }
    let mut written = BTreeSet::new();
    if !ending.is_empty() {
        written.extend(worker::end(connection, session, &ending).await?);
    }
    if !waiting.is_empty() {
        written.extend(worker::put_back(connection, session, &waiting).await?);
    }
    for ack in &dead {
        if worker::bury(connection, &Nobody, ack).await? {
            written.insert(ack.lease.id.job);
        }
    }
    let mut keys = Keys::default();
    for ack in ending.into_iter().chain(waiting).chain(dead) {
        let lease = &ack.lease;
        if !written.contains(&lease.id.job) {
            missing.push(ack);
            continue;
        }
        keys.add(lease.ordering_key.as_deref(), lease.limit_key.as_deref());
        report.settled.push(RemoteSettled {
            id: lease.id.job,
            kind: lease.kind.to_string(),
            queue: lease.queue_name.to_string(),
            outcome: ack.ending.outcome(),
            wait: lease.wait,
        });
    }
    queue.admitter.soon(queue.pool(), keys);
    if !missing.is_empty() {
        let ended = worker::already_ended(connection, session, &missing).await?;
        for ack in missing {
            let job = ack.lease.id.job;
            if ended.contains(&job) { &mut report.repeated } else { &mut report.stale }.push(job);
        }
    }
    Ok(report)
}

/// Those of the leases that the session still holds.
async fn held(
    connection: &mut PgConnection,
    session: SessionId,
    outcomes: &[RemoteOutcome],
) -> Result<BTreeMap<JobId, Row>, QueueError> {
    let ids: Vec<JobId> = outcomes.iter().map(|outcome| outcome.id).collect();
    let epochs: Vec<i64> = outcomes.iter().map(|outcome| outcome.epoch).collect();
    let mut transaction = connection.begin().await?;
    sqlx::query(SETTINGS).execute(&mut *transaction).await?;
    let rows = sqlx::query(worker::HELD)
        .bind(ids)
        .bind(epochs)
        .bind(session)
        .fetch_all(&mut *transaction)
        .await?;
    transaction.commit().await?;
    Ok(worker::in_order(&rows)?.into_iter().map(|row| (row.id, row)).collect())
}

fn ack(
    queue: &Queue,
    session: SessionId,
    row: &Row,
    outcome: &RemoteOutcome,
    backoff: Backoff<'_>,
) -> Ack {
    let ending = match &outcome.ending {
        RemoteEnding::Completed => Ending::Completed,
        RemoteEnding::Snooze(delay) => Ending::Snooze(*delay),
        RemoteEnding::GiveBack => Ending::GiveBack,
        RemoteEnding::Cancelled(reason) => Ending::Cancelled(Some(storable(reason))),
        RemoteEnding::Failed(error) => Ending::Dead { error: storable(error), is_exhausted: false },
        RemoteEnding::Retry { error, .. } if row.attempt >= row.max_attempts => {
            Ending::Dead { error: storable(error), is_exhausted: true }
        }
        RemoteEnding::Retry { error, after } => {
            let (base, cap) = backoff(&row.kind);
            let ceiling = worker::exponential(base, cap, row.attempt);
            let delay = after.unwrap_or_else(|| full_jitter(ceiling));
            Ending::Retry { error: storable(error), delay }
        }
    };
    acknowledged(queue, session, row, ending)
}

fn acknowledged(queue: &Queue, session: SessionId, row: &Row, ending: Ending) -> Ack {
    let names = (Arc::from(row.queue.as_str()), Arc::from(row.kind.as_str()));
    let lease = Lease::new(queue.clone(), CancellationToken::new(), row, session, names);
    Ack {
        wait: lease.wait,
        lease: Arc::new(lease),
        ending,
        run: Duration::ZERO,
        refusals: 0,
        is_retried: false,
    }
}

/// For a job of which no row is there: what is known is its lease.
fn lost(queue: &Queue, session: SessionId, outcome: &RemoteOutcome) -> Ack {
    let row = Row {
        id: outcome.id,
        kind: String::new(),
        payload: RawValue::NULL.to_owned(),
        payload_version: 0,
        queue: String::new(),
        priority: 0,
        attempt: 0,
        max_attempts: 0,
        deaths: 0,
        epoch: outcome.epoch,
        batch: None,
        run_id: None,
        traceparent: None,
        created_at: DateTime::UNIX_EPOCH,
        ordering_key: None,
        limit_key: None,
        wait: Duration::ZERO,
    };
    acknowledged(queue, session, &row, Ending::Completed)
}

/// Nothing in this program depends on the jobs of others.
struct Nobody;

impl Handler for Nobody {
    fn run(&self, _: Job) -> BoxFuture<'static, Result<(), JobError>> {
        Box::pin(std::future::ready(Err(JobError::give_back())))
    }
}
