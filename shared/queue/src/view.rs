//! Reading the queue: one job wherever it is, lists, counts, sessions, batches.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{FromRow, PgExecutor, PgPool, Postgres, QueryBuilder, Row as _};

use crate::text_enum::text_enum;
use crate::{BatchId, FailedMemberPolicy, JobId, QueueError, SessionId};

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobState {
    /// Waits for its time. Set by enqueue and snooze.
    Scheduled,
    /// Due, but held back by its ordering key or its limit. Set by enqueue, staging, rescue,
    /// give-back and retry by hand.
    Waiting,
    /// May be claimed. Set by enqueue, staging, admission, rescue, give-back and retry by hand.
    Available,
    /// Leased to a session. Set by claim.
    Running,
    /// Failed, waits for its next attempt. Set by finish.
    Retryable,
    /// Ended well. Set by finish.
    Completed,
    /// Ended by a person or its handler. Set by cancel, finish, rescue and discard.
    Cancelled,
    /// Given up. Set by finish and rescue.
    Dead,
}

text_enum!(JobState, "job state", {
    Scheduled => "scheduled",
    Waiting => "waiting",
    Available => "available",
    Running => "running",
    Retryable => "retryable",
    Completed => "completed",
    Cancelled => "cancelled",
    Dead => "dead",
});

/// A job as it stands.
#[derive(Debug, Clone, Serialize)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// Its type.
    pub kind: String,
    /// Where it waits or waited.
    pub queue: String,
    /// Where it is in its life.
    pub state: JobState,
    /// Higher is claimed first.
    pub priority: i16,
    /// Its arguments.
    pub payload: Box<RawValue>,
    /// Version of the payload's shape.
    pub payload_version: i16,
    /// Attempts begun.
    pub attempt: i32,
    /// The attempt whose failure makes it a dead letter.
    pub max_attempts: i32,
    /// Workers that died under it since its last progress.
    pub deaths: i16,
    /// The number of deaths that makes it poison.
    pub max_deaths: i16,
    /// Not before this time.
    pub run_at: DateTime<Utc>,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
    /// When its present or last lease began.
    pub claimed_at: Option<DateTime<Utc>>,
    /// When it completed, was cancelled or died.
    pub finished_at: Option<DateTime<Utc>>,
    /// The session that holds it, or ended it.
    pub session_id: Option<SessionId>,
    /// How often it was claimed.
    pub lease_epoch: i64,
    /// The batch it is a member of.
    pub batch_id: Option<BatchId>,
    /// Opaque correlation id.
    pub run_id: Option<i64>,
    /// The unique key it holds, or held when it died.
    pub unique_key: Option<String>,
    /// W3C trace context of its enqueuer.
    pub traceparent: Option<String>,
    /// Why its last attempt failed.
    pub last_error: Option<String>,
    /// It is running and was asked to stop.
    pub cancel_requested: bool,
    /// Why it was, or is to be, cancelled.
    pub cancel_reason: Option<String>,
    /// The line it stands in, or stood in when it died.
    pub ordering_key: Option<String>,
    /// The limit it is under, or was under when it died.
    pub limit_key: Option<String>,
    /// What its handler last reported.
    pub progress: Option<ProgressView>,
}

/// Progress as its handler last reported it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgressView {
    /// Units done.
    pub done: i64,
    /// Units in all, where known.
    pub total: Option<i64>,
    /// What is counted, such as bytes or rows.
    pub unit: String,
    /// A sentence for people.
    pub message: String,
    /// When it was reported.
    pub updated_at: DateTime<Utc>,
}

impl FromRow<'_, PgRow> for JobView {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let done: Option<i64> = row.try_get("done")?;
        let progress = match done {
            None => None,
            Some(done) => Some(ProgressView {
                done,
                total: row.try_get("total")?,
                unit: row.try_get("unit")?,
                message: row.try_get("message")?,
                updated_at: row.try_get("updated_at")?,
            }),
        };
        Ok(Self {
            id: row.try_get("id")?,
            kind: row.try_get("kind")?,
            queue: row.try_get("queue")?,
            state: row.try_get("state")?,
            priority: row.try_get("priority")?,
            payload: row.try_get::<Json<Box<RawValue>>, _>("payload")?.0,
            payload_version: row.try_get("payload_version")?,
            attempt: row.try_get("attempt")?,
            max_attempts: row.try_get("max_attempts")?,
            deaths: row.try_get("deaths")?,
            max_deaths: row.try_get("max_deaths")?,
            run_at: row.try_get("run_at")?,
            created_at: row.try_get("created_at")?,
            claimed_at: row.try_get("claimed_at")?,
            finished_at: row.try_get("finished_at")?,
            session_id: row.try_get("session_id")?,
            lease_epoch: row.try_get("lease_epoch")?,
            batch_id: row.try_get("batch_id")?,
            run_id: row.try_get("run_id")?,
            unique_key: row.try_get("unique_key")?,
            traceparent: row.try_get("traceparent")?,
            last_error: row.try_get("last_error")?,
            cancel_requested: row.try_get("cancel_requested")?,
            cancel_reason: row.try_get("cancel_reason")?,
            ordering_key: row.try_get("ordering_key")?,
            limit_key: row.try_get("limit_key")?,
            progress,
        })
    }
}

/// Which jobs a list holds: every condition given must hold; newest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobFilter {
    /// Any of these states; empty means all.
    pub states: Vec<JobState>,
    /// Any of these kinds; empty means all.
    pub kinds: Vec<String>,
    /// This queue.
    pub queue: Option<String>,
    /// This run.
    pub run_id: Option<i64>,
    /// This batch.
    pub batch_id: Option<BatchId>,
    /// Ids below this one: the last id of the page before.
    pub before: Option<JobId>,
    /// At most so many, 1 to 1,000; none means 50.
    pub limit: Option<u16>,
}

impl JobFilter {
    /// Jobs of one run.
    pub fn run(run_id: i64) -> Self {
        Self { run_id: Some(run_id), ..Self::default() }
    }

    fn wants(&self, states: &[JobState]) -> bool {
        self.states.is_empty() || self.states.iter().any(|state| states.contains(state))
    }
}

/// One of the three places a job can be, as columns of a [`JobView`].
struct Place {
    states: &'static [JobState],
    columns: &'static str,
    table: &'static str,
    /// Whether the table holds jobs of several states and has a column that says which.
    has_state: bool,
}

const HOT: Place = Place {
    states: &[
        JobState::Scheduled,
        JobState::Waiting,
        JobState::Available,
        JobState::Running,
        JobState::Retryable,
    ],
    columns: "id, kind, queue, state::text AS state, priority, payload, payload_version, attempt, \
              max_attempts, deaths, max_deaths, run_at, created_at, claimed_at, \
              NULL::timestamptz AS finished_at, session_id, lease_epoch, batch_id, run_id, \
              unique_key, traceparent, last_error, \
              cancel_requested_at IS NOT NULL AS cancel_requested, cancel_reason, ordering_key, \
              limit_key",
    table: "relevo.job",
    has_state: true,
};
const HISTORY: Place = Place {
    states: &[JobState::Completed, JobState::Cancelled],
    columns: "id, kind, queue, state::text AS state, priority, payload, payload_version, attempt, \
              max_attempts, deaths, max_deaths, run_at, created_at, claimed_at, finished_at, session_id, \
              lease_epoch, batch_id, run_id, NULL::text AS unique_key, traceparent, last_error, \
              false AS cancel_requested, cancel_reason, NULL::text AS ordering_key, \
              NULL::text AS limit_key",
    table: "relevo.job_history",
    has_state: true,
};
const DEAD: Place = Place {
    states: &[JobState::Dead],
    columns: "id, kind, queue, 'dead' AS state, priority, payload, \
              payload_version, attempt, max_attempts, deaths, max_deaths, run_at, created_at, \
              claimed_at, died_at AS finished_at, session_id, lease_epoch, batch_id, run_id, \
              unique_key, traceparent, last_error, false AS cancel_requested, \
              NULL::text AS cancel_reason, ordering_key, limit_key",
    table: "relevo.dead_letter",
    has_state: false,
};

/// Writes the common frame: the places' rows under the name `v`, with their progress.
fn push_places(
    query: &mut QueryBuilder<Postgres>,
    places: &[&Place],
    mut conditions: impl FnMut(&mut QueryBuilder<Postgres>, &Place),
) {
    query.push("SELECT v.*, p.done, p.total, p.unit, p.message, p.updated_at FROM (");
    for (at, place) in places.iter().enumerate() {
        if at > 0 {
            query.push(" UNION ALL ");
        }
        query.push("(SELECT ").push(place.columns).push(" FROM ").push(place.table);
        conditions(query, place);
        query.push(")");
    }
    query.push(") v LEFT JOIN relevo.job_progress p ON p.job_id = v.id ORDER BY v.id DESC");
}

pub(crate) async fn job(
    executor: impl PgExecutor<'_>,
    id: JobId,
) -> Result<Option<JobView>, QueueError> {
    // One statement, one snapshot: a job that moves meanwhile is seen before or after its move.
    let mut query = QueryBuilder::new("-- find_job\n");
    push_places(&mut query, &[&HOT, &HISTORY, &DEAD], |query, _| {
        query.push(" WHERE id = ").push_bind(id);
    });
    Ok(query.build_query_as().fetch_optional(executor).await?)
}

pub(crate) async fn jobs(pool: &PgPool, filter: &JobFilter) -> Result<Vec<JobView>, QueueError> {
    let places: Vec<&Place> =
        [&HOT, &HISTORY, &DEAD].into_iter().filter(|place| filter.wants(place.states)).collect();
    let limit = i64::from(filter.limit.unwrap_or(50).clamp(1, 1000));
    let mut query = QueryBuilder::new("-- list_jobs\n");
    push_places(&mut query, &places, |query, place| {
        query.push(" WHERE true");
        if place.has_state && !filter.states.is_empty() {
            let states: Vec<&str> = filter.states.iter().map(|state| state.as_str()).collect();
            query
                .push(" AND state = ANY (")
                .push_bind(states)
                .push("::text[]::relevo.job_state[])");
        }
        push_filter(query, filter);
        query.push(" ORDER BY id DESC LIMIT ").push_bind(limit);
    });
    query.push(" LIMIT ").push_bind(limit);
    Ok(query.build_query_as().fetch_all(pool).await?)
}

/// Writes the conditions that every place's table can answer, after a `WHERE`.
pub(crate) fn push_filter(query: &mut QueryBuilder<Postgres>, filter: &JobFilter) {
    if !filter.kinds.is_empty() {
        query.push(" AND kind = ANY (").push_bind(filter.kinds.clone()).push(")");
    }
    if let Some(queue) = &filter.queue {
        query.push(" AND queue = ").push_bind(queue.clone());
    }
    if let Some(run_id) = filter.run_id {
        query.push(" AND run_id = ").push_bind(run_id);
    }
    if let Some(batch_id) = filter.batch_id {
        query.push(" AND batch_id = ").push_bind(batch_id);
    }
    if let Some(before) = filter.before {
        query.push(" AND id < ").push_bind(before);
    }
}

/// What a queue holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct QueueStats {
    /// Its name.
    pub queue: String,
    /// Jobs waiting for their time.
    pub scheduled: i64,
    /// Jobs held back by an ordering key or a limit.
    pub waiting: i64,
    /// Jobs that may be claimed.
    pub available: i64,
    /// Jobs leased to sessions.
    pub running: i64,
    /// Failed jobs waiting for their next attempt.
    pub retryable: i64,
    /// Dead letters present.
    pub dead: i64,
    /// Since when the job that waits longest may be claimed.
    pub oldest_available: Option<DateTime<Utc>>,
    /// Nothing is claimed from it for now.
    pub paused: bool,
}

pub(crate) async fn stats(pool: &PgPool) -> Result<Vec<QueueStats>, QueueError> {
    let sql = "-- queue_stats
        WITH unfinished AS (
            SELECT queue,
                   count(*) FILTER (WHERE state = 'scheduled') AS scheduled,
                   count(*) FILTER (WHERE state = 'waiting') AS waiting,
                   count(*) FILTER (WHERE state = 'available') AS available,
                   count(*) FILTER (WHERE state = 'running') AS running,
                   count(*) FILTER (WHERE state = 'retryable') AS retryable,
                   min(run_at) FILTER (WHERE state = 'available') AS oldest_available
            FROM relevo.job GROUP BY queue
        ), dead AS (
            SELECT queue, count(*) AS dead FROM relevo.dead_letter GROUP BY queue
        )
        SELECT queue, coalesce(u.scheduled, 0) AS scheduled, coalesce(u.waiting, 0) AS waiting,
               coalesce(u.available, 0) AS available,
               coalesce(u.running, 0) AS running, coalesce(u.retryable, 0) AS retryable,
               coalesce(d.dead, 0) AS dead, u.oldest_available, c.queue IS NOT NULL AS paused
        FROM unfinished u FULL JOIN dead d USING (queue)
             FULL JOIN relevo.queue_control c USING (queue)
        ORDER BY queue";
    Ok(sqlx::query_as(sql).fetch_all(pool).await?)
}

/// A worker process that holds, or may hold, leases.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct SessionView {
    /// Its id.
    pub id: SessionId,
    /// The worker's name from its settings.
    pub name: String,
    /// The host it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: i32,
    /// The queues it takes from; empty means all.
    pub queues: Vec<String>,
    /// Handlers it runs at once.
    pub concurrency: i32,
    /// Handlers running at the last heartbeat.
    pub running: i32,
    /// It was told to stop and claims nothing more.
    pub draining: bool,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// Its last sign of life.
    pub heartbeat_at: DateTime<Utc>,
    /// When it is taken for dead unless another heartbeat comes.
    pub expires_at: DateTime<Utc>,
}

pub(crate) async fn sessions(pool: &PgPool) -> Result<Vec<SessionView>, QueueError> {
    let sql = "-- list_sessions
        SELECT id, name, host, pid, queues, concurrency, running, draining, started_at,
               heartbeat_at, heartbeat_at + ttl AS expires_at
        FROM relevo.session WHERE ended_at IS NULL ORDER BY id";
    Ok(sqlx::query_as(sql).fetch_all(pool).await?)
}

/// Where a batch is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BatchState {
    /// Takes members.
    Open,
    /// Takes no more; some member has not ended.
    Sealed,
    /// Every member has ended; the completion job is enqueued.
    Completed,
}

text_enum!(BatchState, "batch state", {
    Open => "open",
    Sealed => "sealed",
    Completed => "completed",
});

/// A batch as it stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct BatchView {
    /// Its id.
    pub id: BatchId,
    /// Where it is in its life.
    pub state: BatchState,
    /// What a dead member means.
    pub policy: FailedMemberPolicy,
    /// Members enqueued.
    pub total: i64,
    /// Members that have not ended; under policy wait dead ones too.
    pub pending: i64,
    /// Members that completed.
    pub completed: i64,
    /// Members that were cancelled or discarded.
    pub cancelled: i64,
    /// Members that are dead letters now.
    pub dead: i64,
    /// The job it enqueued at its end.
    pub completion_job_id: Option<JobId>,
    /// When it was opened.
    pub created_at: DateTime<Utc>,
    /// When it was sealed.
    pub sealed_at: Option<DateTime<Utc>>,
    /// When the last member ended.
    pub completed_at: Option<DateTime<Utc>>,
}

pub(crate) async fn batch(pool: &PgPool, id: BatchId) -> Result<Option<BatchView>, QueueError> {
    let sql = "-- find_batch
        SELECT id, state::text AS state, policy::text AS policy, total, pending, completed, cancelled, dead, completion_job_id,
               created_at, sealed_at, completed_at
        FROM relevo.batch WHERE id = $1";
    Ok(sqlx::query_as(sql).bind(id).fetch_optional(pool).await?)
}
