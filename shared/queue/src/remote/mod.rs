//! Workers that are no part of this program and reach the queue through it: over HTTP, say.
//!
//! They have sessions, leases and epochs as all workers do, so that rescue, cancel and limits treat
//! them alike; only the process in between does their writing. A session belongs to its owner, and
//! nobody else can act for it.
//!
//! A claim whose answer is lost is asked for again under the same number, and brings the same jobs.
//! An outcome whose answer is lost is written again: a job that it ended is known by its epoch.

mod settle;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::Row as _;
use sqlx::types::Json;

use crate::lease::LeaseId;
use crate::worker::{self, Claims, Row};
use crate::{BatchId, JobId, KnownKind, Outcome, Progress, Queue, QueueError, SessionId};

/// Most jobs of one claim, and most outcomes written at once.
pub const REMOTE_JOBS_MAX: usize = 100;

const OPEN: &str = "-- open_remote_session
    INSERT INTO relevo.session (name, host, pid, queues, concurrency, ttl, owner, declared)
    VALUES ($1, $2, $3, $4, $5, make_interval(secs => $6), $7, $8) RETURNING id";

const FIND: &str = "-- find_remote_session
    SELECT name, queues, concurrency, declared FROM relevo.session
    WHERE id = $1 AND owner = $2 AND ended_at IS NULL";

const BEAT: &str = "-- beat_remote_session
    UPDATE relevo.session
    SET heartbeat_at = clock_timestamp(), draining = $3,
        running = (SELECT count(*) FROM relevo.job WHERE state = 'running' AND session_id = $1)
    WHERE id = $1 AND owner = $2 AND ended_at IS NULL";

const LEASES: &str = "-- list_remote_leases
    SELECT id, lease_epoch, kind, cancel_requested_at IS NOT NULL AS is_cancelled,
           greatest(extract(epoch FROM clock_timestamp() - claimed_at), 0)::float8 AS held_seconds
    FROM relevo.job WHERE state = 'running' AND session_id = $1 ORDER BY id LIMIT 1000";

const CLOSE: &str = "-- close_remote_session
    UPDATE relevo.session SET ended_at = now(), running = 0
    WHERE id = $1 AND owner = $2 AND ended_at IS NULL";

/// Claims of one session wait for one another here, so that a number is used once.
const LOCK: &str = "-- lock_remote_session
    SELECT claim_floor FROM relevo.session
    WHERE id = $1 AND owner = $2 AND ended_at IS NULL FOR UPDATE";

const RAISE: &str = "-- raise_remote_claim_floor
    UPDATE relevo.session SET claim_floor = $2 WHERE id = $1";

/// Who claims here starts what it gets: a death from now on is the job's.
const START: &str = "-- start_remote_jobs
    UPDATE relevo.job SET started = true WHERE id = ANY ($1) AND session_id = $2";

/// A pool's connection is told once a transaction what a worker's own connection begins with.
const SETTINGS: &str = "-- remote_settings
    SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
           set_config('enable_mergejoin', 'off', true), set_config('enable_nestloop', 'off', true),
           set_config('plan_cache_mode', 'force_generic_plan', true),
           set_config('jit', 'off', true)";

/// A worker that wants a session.
#[derive(Debug, Clone)]
pub struct RemoteWorker<'a> {
    /// Who may act for the session.
    pub owner: &'a str,
    /// For people.
    pub name: &'a str,
    /// The host it runs on, for people.
    pub host: &'a str,
    /// Its process id there, for people.
    pub pid: i32,
    /// The queues it takes from; empty means all.
    pub queues: &'a [String],
    /// Jobs it runs at once.
    pub slots: i32,
    /// How long a heartbeat holds its leases.
    pub lease_ttl: Duration,
    /// What its owner wants to find again.
    pub declared: &'a Value,
}

/// A living session of a remote worker.
#[derive(Debug, Clone)]
pub struct RemoteSession {
    /// Its id.
    pub id: SessionId,
    /// Who may act for it.
    pub owner: String,
    /// The worker's name.
    pub name: String,
    /// The queues it takes from; empty means all.
    pub queues: Vec<String>,
    /// Jobs it may hold at once.
    pub slots: i32,
    /// What was declared when it was opened.
    pub declared: Value,
}

/// A job that a remote worker holds.
#[derive(Debug, Clone, Serialize)]
pub struct RemoteJob {
    /// Its id.
    pub id: JobId,
    /// The lease's epoch, to be named with every word about the job.
    pub epoch: i64,
    /// Its type.
    pub kind: String,
    /// Its arguments.
    pub payload: Box<RawValue>,
    /// Version of the payload's shape.
    pub payload_version: i16,
    /// The queue it came from.
    pub queue: String,
    /// Which attempt this is, from 1.
    pub attempt: i32,
    /// The attempt whose failure makes it a dead letter.
    pub max_attempts: i32,
    /// Workers that died under it since its last progress.
    pub deaths: i16,
    /// The batch it is a member of.
    pub batch_id: Option<BatchId>,
    /// Opaque correlation id.
    pub run_id: Option<i64>,
    /// W3C trace context of its enqueuer.
    pub traceparent: Option<String>,
    /// When it was enqueued.
    pub created_at: DateTime<Utc>,
}

impl From<Row> for RemoteJob {
    fn from(row: Row) -> Self {
        Self {
            id: row.id,
            epoch: row.epoch,
            kind: row.kind,
            payload: row.payload,
            payload_version: row.payload_version,
            queue: row.queue,
            attempt: row.attempt,
            max_attempts: row.max_attempts,
            deaths: row.deaths,
            batch_id: row.batch,
            run_id: row.run_id,
            traceparent: row.traceparent,
            created_at: row.created_at,
        }
    }
}

/// What a remote worker can claim, as statements.
#[derive(Debug)]
pub struct RemoteClaims(Claims);

impl RemoteClaims {
    /// Statements for `kinds`, at least one, from these queues or, with none, from all.
    #[must_use]
    pub fn new(kinds: &[KnownKind], queues: &[String]) -> Self {
        Self(Claims::new(kinds, queues.is_empty()))
    }
}

/// What became of a claim.
#[derive(Debug)]
pub enum RemoteClaimed {
    /// These jobs; none where nothing was to be had.
    Jobs(Vec<RemoteJob>),
    /// The session is over.
    SessionEnded,
    /// A claim with a higher number came before this one.
    Superseded,
}

/// A lease as its heartbeat sees it.
#[derive(Debug, Clone)]
pub struct RemoteLease {
    /// The job.
    pub id: JobId,
    /// The lease's epoch.
    pub epoch: i64,
    /// The job's type.
    pub kind: String,
    /// Somebody cancelled it.
    pub is_cancelled: bool,
    /// Since its claim, by the database's clock.
    pub held: Duration,
}

/// What is to become of a job.
#[derive(Debug, Clone)]
pub enum RemoteEnding {
    /// It is done.
    Completed,
    /// It failed: again after this time, or after the kind's backoff.
    Retry {
        /// Why, for people.
        error: String,
        /// Not before so long.
        after: Option<Duration>,
    },
    /// Again after this time, without spending an attempt.
    Snooze(Duration),
    /// Again at once, without spending an attempt: the worker stops.
    GiveBack,
    /// It ends as cancelled, with the worker's reason.
    Cancelled(String),
    /// It failed for good.
    Failed(String),
}

/// What is to be written for one job.
#[derive(Debug, Clone)]
pub struct RemoteOutcome {
    /// The job.
    pub id: JobId,
    /// The lease's epoch.
    pub epoch: i64,
    /// What becomes of it.
    pub ending: RemoteEnding,
}

/// What was written for one job.
#[derive(Debug, Clone)]
pub struct RemoteSettled {
    /// The job.
    pub id: JobId,
    /// Its type.
    pub kind: String,
    /// The queue it came from.
    pub queue: String,
    /// What became of it.
    pub outcome: Outcome,
    /// From being due to being claimed.
    pub wait: Duration,
}

/// Outcomes as they were written.
#[derive(Debug, Default)]
pub struct RemoteReport {
    /// Written now.
    pub settled: Vec<RemoteSettled>,
    /// Ended before, under the same leases: the answer had been lost.
    pub repeated: Vec<JobId>,
    /// Not held any more: nothing was written.
    pub stale: Vec<JobId>,
}

/// The ceiling of the backoff of a kind: its base and its cap.
pub type Backoff<'a> = &'a (dyn Fn(&str) -> (Duration, Duration) + Sync);

impl Queue {
    /// Opens a session for a worker elsewhere.
    ///
    /// # Errors
    /// Database errors.
    pub async fn open_remote(&self, worker: &RemoteWorker<'_>) -> Result<SessionId, QueueError> {
        Ok(sqlx::query_scalar(OPEN)
            .bind(worker.name)
            .bind(worker.host)
            .bind(worker.pid)
            .bind(worker.queues)
            .bind(worker.slots)
            .bind(worker.lease_ttl.as_secs_f64())
            .bind(worker.owner)
            .bind(Json(worker.declared))
            .fetch_one(self.pool())
            .await?)
    }

    /// A living session of this owner.
    ///
    /// # Errors
    /// Database errors.
    pub async fn remote_session(
        &self,
        owner: &str,
        id: SessionId,
    ) -> Result<Option<RemoteSession>, QueueError> {
        let row = sqlx::query(FIND).bind(id).bind(owner).fetch_optional(self.pool()).await?;
        let Some(row) = row else { return Ok(None) };
        let declared: Option<Json<Value>> = row.try_get("declared")?;
        Ok(Some(RemoteSession {
            id,
            owner: owner.to_owned(),
            name: row.try_get("name")?,
            queues: row.try_get("queues")?,
            slots: row.try_get("concurrency")?,
            declared: declared.map(|declared| declared.0).unwrap_or_default(),
        }))
    }

    /// Claims at most `max` jobs. Asked again with the same number it answers what the number
    /// brought before and is still held; lower numbers are over.
    ///
    /// # Errors
    /// Database errors.
    pub async fn claim_remote(
        &self,
        session: &RemoteSession,
        claims: &RemoteClaims,
        number: i64,
        max: usize,
    ) -> Result<RemoteClaimed, QueueError> {
        let mut transaction = self.pool().begin().await?;
        sqlx::query(SETTINGS).execute(&mut *transaction).await?;
        let floor: Option<i64> = sqlx::query_scalar(LOCK)
            .bind(session.id)
            .bind(&session.owner)
            .fetch_optional(&mut *transaction)
            .await?;
        let Some(floor) = floor else { return Ok(RemoteClaimed::SessionEnded) };
        if floor > number {
            return Ok(RemoteClaimed::Superseded);
        }
        if floor == number {
            let held = sqlx::query(worker::VOID_FIND)
                .bind(session.id)
                .bind(number)
                .fetch_all(&mut *transaction)
                .await?;
            if !held.is_empty() {
                return Ok(RemoteClaimed::Jobs(jobs(worker::in_order(&held)?)));
            }
        } else {
            sqlx::query(RAISE).bind(session.id).bind(number).execute(&mut *transaction).await?;
        }
        let mut claimed = Vec::new();
        for queue in claims.0.probe(&mut transaction, &session.queues).await? {
            let room = max.min(REMOTE_JOBS_MAX).saturating_sub(claimed.len());
            if room == 0 {
                break;
            }
            let (_, rows) =
                claims.0.claim(&mut transaction, session.id, number, &queue, room).await?;
            claimed.extend(rows);
        }
        let suspects: Vec<JobId> =
            claimed.iter().filter(|row| row.deaths > 0).map(|row| row.id).collect();
        if !suspects.is_empty() {
            sqlx::query(START).bind(suspects).bind(session.id).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(RemoteClaimed::Jobs(jobs(claimed)))
    }

    /// Whether there may be something to claim; nothing is taken.
    ///
    /// # Errors
    /// Database errors.
    pub async fn has_remote_work(
        &self,
        session: &RemoteSession,
        claims: &RemoteClaims,
    ) -> Result<bool, QueueError> {
        let mut connection = self.pool().acquire().await?;
        Ok(!claims.0.probe(&mut connection, &session.queues).await?.is_empty())
    }

    /// A sign of life; the leases of the session, or none when it is over.
    ///
    /// # Errors
    /// Database errors.
    pub async fn beat_remote(
        &self,
        owner: &str,
        id: SessionId,
        draining: bool,
    ) -> Result<Option<Vec<RemoteLease>>, QueueError> {
        let beaten =
            sqlx::query(BEAT).bind(id).bind(owner).bind(draining).execute(self.pool()).await?;
        if beaten.rows_affected() == 0 {
            return Ok(None);
        }
        let rows = sqlx::query(LEASES).bind(id).fetch_all(self.pool()).await?;
        let lease = |row: &sqlx::postgres::PgRow| {
            Ok::<_, sqlx::Error>(RemoteLease {
                id: row.try_get("id")?,
                epoch: row.try_get("lease_epoch")?,
                kind: row.try_get("kind")?,
                is_cancelled: row.try_get("is_cancelled")?,
                held: Duration::try_from_secs_f64(row.try_get("held_seconds")?).unwrap_or_default(),
            })
        };
        Ok(Some(rows.iter().map(lease).collect::<Result<_, _>>()?))
    }

    /// Writes outcomes of jobs that a session holds. `backoff` bounds the delays of retries.
    ///
    /// # Errors
    /// Database errors: some of the outcomes may be written then. Written again, they do no harm.
    pub async fn settle_remote(
        &self,
        owner: &str,
        id: SessionId,
        outcomes: &[RemoteOutcome],
        backoff: Backoff<'_>,
    ) -> Result<RemoteReport, QueueError> {
        let mut connection = self.pool().acquire().await?;
        settle::settle(self, &mut connection, owner, id, outcomes, backoff).await
    }

    /// Stores how far a job is; false when the lease is lost.
    ///
    /// # Errors
    /// Database errors.
    pub async fn progress_remote(
        &self,
        owner: &str,
        session: SessionId,
        (job, epoch): (JobId, i64),
        progress: &Progress,
    ) -> Result<bool, QueueError> {
        if self.remote_session(owner, session).await?.is_none() {
            return Ok(false);
        }
        match (LeaseId { job, session, epoch }).progress(self.pool(), progress).await {
            Ok(()) => Ok(true),
            Err(QueueError::LeaseLost { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends a session in order; what it still holds goes back to the queue with the next rescue and
    /// counts no death. False when it was over before.
    ///
    /// # Errors
    /// Database errors.
    pub async fn close_remote(&self, owner: &str, id: SessionId) -> Result<bool, QueueError> {
        let closed = sqlx::query(CLOSE).bind(id).bind(owner).execute(self.pool()).await?;
        Ok(closed.rows_affected() == 1)
    }
}

fn jobs(rows: Vec<Row>) -> Vec<RemoteJob> {
    rows.into_iter().map(RemoteJob::from).collect()
}
