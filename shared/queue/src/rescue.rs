//! Rescue: jobs of dead sessions go back to the queue.
//!
//! A session is dead when its last heartbeat is older than its time to live, by the database's
//! clock; the time since the server's own start counts too, since no heartbeat could come while it
//! was down. Declaring a session dead takes the lock that every claim of that session shares, so
//! no claim can slip in between the declaration and the look at the session's jobs.
//!
//! Killed anywhere, the pass leaves a consistent state and the next one goes on: a session's row
//! stays, ended, until no job names it.

use std::collections::BTreeMap;

use sqlx::{Acquire as _, PgConnection, Row as _};

use crate::admit::Keys;
use crate::batch::{self, Ended};
use crate::queue::{Poisoned, Rescued};
use crate::sql::{dead_columns, history_columns, ready_state};
use crate::{BatchId, JobId, Queue, QueueError, SessionId, enqueue};

const JOBS_MAX: usize = 1_000;

/// Rounds per pass: the rest waits for the next pass.
const ROUNDS_MAX: usize = 50;

/// Skips sessions that are claiming right now: they are alive.
const DECLARE_DEAD: &str = "-- declare_sessions_dead
    WITH dead AS MATERIALIZED (
        SELECT id FROM relevo.session
        WHERE ended_at IS NULL
          AND greatest(heartbeat_at, pg_postmaster_start_time()) < clock_timestamp() - ttl
        ORDER BY id FOR UPDATE SKIP LOCKED
    )
    UPDATE relevo.session AS s SET ended_at = now(), died = true FROM dead WHERE s.id = dead.id";

const ENDED_SESSIONS: &str = "-- ended_sessions
    SELECT id, died FROM relevo.session WHERE ended_at IS NOT NULL ORDER BY id";

/// Jobs whose handler holds the row in a transaction of its own (see `Job::fence`) are skipped:
/// when that transaction ends, the next pass sees what became of it.
pub(crate) const LOCK_ORPHANS: &str = "-- lock_orphaned_jobs
    SELECT id, session_id, batch_id, queue, kind, ordering_key, limit_key, cancel_requested_at IS NOT NULL AS is_cancelled,
           deaths + 1 >= max_deaths AS is_last_death, deaths = 0 OR started AS would_count
    FROM relevo.job
    WHERE state = 'running' AND session_id = ANY ($1)
    ORDER BY session_id, id LIMIT 1000 FOR UPDATE SKIP LOCKED";

const GIVE_BACK: &str = concat!(
    "-- rescue_jobs
    UPDATE relevo.job AS j
    SET state = ",
    ready_state!("j."),
    ", attempt = greatest(j.attempt - 1, 0),
        deaths = j.deaths + r.death::integer, session_id = NULL, claimed_at = NULL, claim_no = NULL,
        started = false
    FROM unnest($1::bigint[], $2::boolean[]) AS r(id, death)
    WHERE j.id = r.id"
);

/// The last death is counted first, so that what is buried is what the CHECKs want to see.
const COUNT_DEATH: &str = "-- count_last_death
    UPDATE relevo.job SET deaths = deaths + 1 WHERE id = ANY ($1)";

const BURY: &str = concat!(
    "-- bury_poison
    WITH gone AS (DELETE FROM relevo.job WHERE id = ANY ($1) RETURNING *)
    INSERT INTO relevo.dead_letter (",
    dead_columns!(),
    ", cause, last_error) SELECT ",
    dead_columns!(),
    ", 'poison', concat('poison: ', deaths, ' workers died while it ran', \
     '; the last error before: ' || last_error) FROM gone"
);

const CANCEL: &str = concat!(
    "-- cancel_orphans
    WITH gone AS (DELETE FROM relevo.job WHERE id = ANY ($1) RETURNING *)
    INSERT INTO relevo.job_history (",
    history_columns!(),
    ", state, finished_at, cancel_reason) SELECT ",
    history_columns!(),
    ", 'cancelled', now(), coalesce(cancel_reason, 'cancelled') FROM gone"
);

/// The subquery with its LIMIT stays one: as an anti-join it might read every job.
const FORGET_SESSIONS: &str = "-- forget_sessions
    DELETE FROM relevo.session AS s
    WHERE s.ended_at IS NOT NULL AND s.id = ANY ($1)
      AND (SELECT j.id FROM relevo.job AS j
           WHERE j.state = 'running' AND j.session_id = s.id
           ORDER BY j.session_id LIMIT 1) IS NULL";

struct Orphan {
    id: JobId,
    session: SessionId,
    batch: Option<BatchId>,
    queue: String,
    kind: String,
    ordering_key: Option<String>,
    limit_key: Option<String>,
    is_cancelled: bool,
    is_last_death: bool,
    would_count: bool,
}

pub(crate) async fn rescue(queue: &Queue) -> Result<Rescued, QueueError> {
    let mut connection = queue.pool().acquire().await?;
    // Committed on its own: from here on the dead sessions claim nothing, whatever happens below.
    let declared = sqlx::query(DECLARE_DEAD).execute(&mut *connection).await?;
    let mut rescued = Rescued { sessions: declared.rows_affected(), ..Rescued::default() };

    let mut died = BTreeMap::new();
    for row in sqlx::query(ENDED_SESSIONS).fetch_all(&mut *connection).await? {
        died.insert(row.try_get::<SessionId, _>("id")?, row.try_get::<bool, _>("died")?);
    }
    if died.is_empty() {
        return Ok(rescued);
    }
    for _ in 0..ROUNDS_MAX {
        if take_back(queue, &mut connection, &died, &mut rescued).await? < JOBS_MAX {
            break;
        }
    }
    let sessions: Vec<SessionId> = died.into_keys().collect();
    sqlx::query(FORGET_SESSIONS).bind(sessions).execute(&mut *connection).await?;
    Ok(rescued)
}

/// One round, one transaction; says how many jobs it took.
async fn take_back(
    queue: &Queue,
    connection: &mut PgConnection,
    died: &BTreeMap<SessionId, bool>,
    rescued: &mut Rescued,
) -> Result<usize, QueueError> {
    let mut transaction = connection.begin().await?;
    let sessions: Vec<SessionId> = died.keys().copied().collect();
    let orphans = sqlx::query(LOCK_ORPHANS)
        .bind(sessions)
        .fetch_all(&mut *transaction)
        .await?
        .into_iter()
        .map(|row| {
            Ok(Orphan {
                id: row.try_get("id")?,
                session: row.try_get("session_id")?,
                batch: row.try_get("batch_id")?,
                queue: row.try_get("queue")?,
                kind: row.try_get("kind")?,
                ordering_key: row.try_get("ordering_key")?,
                limit_key: row.try_get("limit_key")?,
                is_cancelled: row.try_get("is_cancelled")?,
                is_last_death: row.try_get("is_last_death")?,
                would_count: row.try_get("would_count")?,
            })
        })
        .collect::<Result<Vec<_>, sqlx::Error>>()?;
    if orphans.is_empty() {
        return Ok(0);
    }

    let (mut cancelled, mut poisoned, mut back, mut deaths) = (vec![], vec![], vec![], vec![]);
    let mut ended: BTreeMap<BatchId, Ended> = BTreeMap::new();
    let mut queues: Vec<&str> = Vec::new();
    for orphan in &orphans {
        // A session that closed in order left the job by mistake, not by dying under it.
        let counts = orphan.would_count && died.get(&orphan.session).copied().unwrap_or(false);
        if orphan.is_cancelled {
            cancelled.push(orphan.id);
            if let Some(batch) = orphan.batch {
                ended.entry(batch).or_default().cancelled += 1;
            }
        } else if counts && orphan.is_last_death {
            poisoned.push(orphan.id);
            if let Some(batch) = orphan.batch {
                ended.entry(batch).or_default().dead += 1;
            }
        } else {
            back.push(orphan.id);
            deaths.push(counts);
            queues.push(&orphan.queue);
        }
    }
    if !back.is_empty() {
        sqlx::query(GIVE_BACK).bind(&back).bind(deaths).execute(&mut *transaction).await?;
    }
    if !poisoned.is_empty() {
        sqlx::query(COUNT_DEATH).bind(&poisoned).execute(&mut *transaction).await?;
        sqlx::query(BURY).bind(&poisoned).execute(&mut *transaction).await?;
    }
    if !cancelled.is_empty() {
        sqlx::query(CANCEL).bind(&cancelled).execute(&mut *transaction).await?;
    }
    batch::settle(&mut transaction, &ended).await?;
    queues.sort_unstable();
    queues.dedup();
    enqueue::notify(&mut transaction, &queues).await?;
    transaction.commit().await?;

    let mut keys = Keys::default();
    for orphan in &orphans {
        keys.add(orphan.ordering_key.as_deref(), orphan.limit_key.as_deref());
    }
    queue.admitter.soon(queue.pool(), keys);
    rescued.jobs += back.len() as u64;
    let is_poisoned = |orphan: &Orphan| poisoned.contains(&orphan.id);
    rescued.poisoned.extend(orphans.iter().filter(|orphan| is_poisoned(orphan)).map(|orphan| {
        Poisoned { id: orphan.id, queue: orphan.queue.clone(), kind: orphan.kind.clone() }
    }));
    rescued.cancelled += cancelled.len() as u64;
    Ok(orphans.len())
}
