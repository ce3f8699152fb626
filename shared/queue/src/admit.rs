//! Admission: jobs with an ordering key or under a limit become claimable when their turn comes.
//!
//! Such a job is `waiting` when it is due, and waiting jobs are not in the claim index: however many
//! wait behind one key, claims never see them. Admission makes of them as many `available` as there
//! is room for. It keeps no counter that could leak: it counts the jobs that are there.
//!
//! **Order** comes first. The first in line takes the key (`in_turn`) when nobody holds it and no
//! dead letter blocks it, and keeps it until its end. A unique index is what makes two admissions of
//! one key impossible.
//!
//! **Limits** come second, for jobs without an order or in their turn. Per limit one admission at a
//! time: an advisory lock, taken in a statement of its own, so that the count sees what the admission
//! before has committed. For a rate, what was claimed within the period (each claim writes it down)
//! and what may be claimed at any moment count together, so no period ever sees more.
//!
//! It runs after whatever frees or fills a key, and over all keys with every staging: killed between
//! a finish and its admission, nothing is lost but the time until the next staging.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::postgres::PgRow;
use sqlx::{Acquire as _, PgConnection, PgPool, Row as _};

use crate::{Queue, QueueError};

/// Keys looked at in one statement.
const KEYS_MAX: usize = 1_000;

/// Keys that wait for the admission under way, beyond which they are left to staging.
const PENDING_MAX: usize = 10_000;

/// Rounds per limit and call: the rest waits for the next one.
const ROUNDS_MAX: usize = 20;

/// Rounds of a thousand keys per sweep: the rest has its turn with the next one.
const SWEEPS_MAX: usize = 20;

/// As many as one statement admits.
const JOBS_MAX: i64 = 1_000;

/// How often the turns are tried again when two admissions met in a key.
const TRIES_MAX: u32 = 3;

/// The head of each line is looked up without a lock and then locked as that row: with a lock in the
/// lookup, the second in line would go in place of a first that somebody else is just admitting. The
/// literal limits keep each look a single descent of its index; the state of a row found by id is
/// asked for in words that no index of waiting jobs offers itself for.
pub(crate) const GIVE_TURNS: &str = "-- give_turns
    WITH heads AS MATERIALIZED (
        SELECT head.id FROM unnest($1::text[]) AS k(key) CROSS JOIN LATERAL (
            SELECT j.id FROM relevo.job AS j
            WHERE j.ordering_key = k.key AND j.state = 'waiting' AND NOT j.in_turn
            ORDER BY j.ordering_key, j.id LIMIT 1
        ) AS head
        WHERE (SELECT t.id FROM relevo.job AS t WHERE t.ordering_key = k.key AND t.in_turn
               ORDER BY t.ordering_key LIMIT 1) IS NULL
          AND (SELECT d.id FROM relevo.dead_letter AS d
               WHERE d.ordering_key = k.key AND d.on_dead = 'block'
               ORDER BY d.ordering_key LIMIT 1) IS NULL
    ), locked AS MATERIALIZED (
        SELECT j.id FROM relevo.job AS j
        WHERE j.id = ANY (ARRAY (SELECT id FROM heads)) AND NOT j.in_turn
          AND j.state IS NOT DISTINCT FROM 'waiting'
        ORDER BY j.id FOR UPDATE SKIP LOCKED
    ), given AS (
        UPDATE relevo.job
        SET in_turn = true,
            state = CASE WHEN limit_key IS NULL THEN 'available' ELSE 'waiting' END::relevo.job_state
        WHERE id = ANY (ARRAY (SELECT id FROM locked))
        RETURNING queue, limit_key
    ), places AS (
        SELECT queue, limit_key, count(*) AS jobs FROM given GROUP BY queue, limit_key
    )
    SELECT limit_key, jobs,
           CASE WHEN limit_key IS NULL THEN pg_notify('relevo_job', queue) END
    FROM places";

/// Keeps the planner on the indexes until the transaction ends, whatever it knows of a table that
/// fills and empties within seconds.
macro_rules! settings {
    () => {
        "set_config('lock_timeout', '5s', true), set_config('enable_seqscan', 'off', true), \
         set_config('enable_bitmapscan', 'off', true), set_config('enable_sort', 'off', true), \
         set_config('jit', 'off', true)"
    };
}

/// What an admission's transaction is told before.
pub(crate) const SETTINGS: &str = concat!("-- settings\nSELECT ", settings!());

/// The lock is held until the transaction ends; what is said before it bounds the wait.
const LOCK_LIMIT: &str = concat!(
    "-- lock_limit\nSELECT ",
    settings!(),
    ", pg_advisory_xact_lock(hashtextextended('relevo.limit/' || $1, 0))"
);

/// In claim order over the queues that are not paused. The limit's own row says how much room there
/// is; without a row there is room for all. A job that somebody else has locked is left for the next
/// time.
pub(crate) const ADMIT: &str = "-- admit_jobs
    WITH RECURSIVE room AS MATERIALIZED (
        SELECT greatest(0, least(coalesce(l.concurrency - held.live, 1000),
                                 coalesce(l.rate - held.unclaimed - lately.jobs, 1000),
                                 1000))::bigint AS jobs
        FROM (VALUES ($1)) AS k(name)
             LEFT JOIN relevo.job_limit AS l ON l.name = k.name
             LEFT JOIN LATERAL (
                 SELECT count(*) AS live, count(*) FILTER (WHERE j.state = 'available') AS unclaimed
                 FROM relevo.job AS j
                 WHERE j.limit_key = l.name AND j.state IN ('available', 'running')
             ) AS held ON true
             LEFT JOIN LATERAL (
                 SELECT coalesce(sum(u.jobs), 0) AS jobs FROM relevo.limit_use AS u
                 WHERE u.limit_key = l.name AND u.started_at > now() - l.period
             ) AS lately ON true
    ), queues AS (
        (SELECT j.queue FROM relevo.job AS j
         WHERE j.limit_key = $1 AND j.state = 'waiting' AND (j.ordering_key IS NULL OR j.in_turn)
           AND (SELECT jobs FROM room) > 0
         ORDER BY j.queue LIMIT 1)
        UNION ALL
        SELECT (SELECT j.queue FROM relevo.job AS j
                WHERE j.limit_key = $1 AND j.state = 'waiting'
                  AND (j.ordering_key IS NULL OR j.in_turn) AND j.queue > queues.queue
                ORDER BY j.queue LIMIT 1)
        FROM queues WHERE queues.queue IS NOT NULL
    ), next AS MATERIALIZED (
        SELECT j.id FROM queues CROSS JOIN LATERAL (
            SELECT * FROM (
                SELECT j.id, j.priority, j.run_at FROM relevo.job AS j
                WHERE j.limit_key = $1 AND j.queue = queues.queue AND j.state = 'waiting'
                  AND (j.ordering_key IS NULL OR j.in_turn)
                ORDER BY j.priority DESC, j.run_at, j.id LIMIT 1000
            ) AS j
            LIMIT (SELECT jobs FROM room)
        ) AS j
        WHERE NOT EXISTS (SELECT 1 FROM relevo.queue_control AS c WHERE c.queue = queues.queue)
        ORDER BY j.priority DESC, j.run_at, j.id LIMIT (SELECT jobs FROM room)
    ), locked AS MATERIALIZED (
        SELECT j.id FROM relevo.job AS j
        WHERE j.id = ANY (ARRAY (SELECT id FROM next))
          AND j.state IS NOT DISTINCT FROM 'waiting'
        ORDER BY j.id FOR UPDATE SKIP LOCKED
    ), admitted AS (
        UPDATE relevo.job SET state = 'available'
        WHERE id = ANY (ARRAY (SELECT id FROM locked)) RETURNING queue
    ), places AS (
        SELECT queue, count(*) AS jobs FROM admitted GROUP BY queue
    )
    SELECT jobs, pg_notify('relevo_job', queue) FROM places";

/// Ordering keys behind which somebody waits, after `$1`.
pub(crate) const WAITING_ORDERS: &str = "-- waiting_ordering_keys
    WITH RECURSIVE keys AS (
        (SELECT j.ordering_key AS key FROM relevo.job AS j
         WHERE j.state = 'waiting' AND j.ordering_key > $1 AND NOT j.in_turn
         ORDER BY j.ordering_key LIMIT 1)
        UNION ALL
        SELECT (SELECT j.ordering_key FROM relevo.job AS j
                WHERE j.state = 'waiting' AND j.ordering_key > keys.key AND NOT j.in_turn
                ORDER BY j.ordering_key LIMIT 1)
        FROM keys WHERE keys.key IS NOT NULL
    )
    SELECT key FROM keys WHERE key IS NOT NULL LIMIT 1000";

/// Limits under which somebody waits, after `$1`.
pub(crate) const WAITING_LIMITS: &str = "-- waiting_limit_keys
    WITH RECURSIVE keys AS (
        (SELECT j.limit_key AS key FROM relevo.job AS j
         WHERE j.state = 'waiting' AND j.limit_key > $1 AND (j.ordering_key IS NULL OR j.in_turn)
         ORDER BY j.limit_key LIMIT 1)
        UNION ALL
        SELECT (SELECT j.limit_key FROM relevo.job AS j
                WHERE j.state = 'waiting' AND j.limit_key > keys.key
                  AND (j.ordering_key IS NULL OR j.in_turn)
                ORDER BY j.limit_key LIMIT 1)
        FROM keys WHERE keys.key IS NOT NULL
    )
    SELECT key FROM keys WHERE key IS NOT NULL LIMIT 1000";

/// Keys at which something changed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Keys {
    orders: BTreeSet<String>,
    limits: BTreeSet<String>,
}

impl Keys {
    /// Those of one job; most have none.
    pub(crate) fn add(&mut self, ordering_key: Option<&str>, limit_key: Option<&str>) {
        if let Some(key) = ordering_key {
            self.orders.insert(key.to_owned());
        }
        if let Some(key) = limit_key {
            self.limits.insert(key.to_owned());
        }
    }

    /// One limit.
    pub(crate) fn limit(name: &str) -> Self {
        Self { limits: BTreeSet::from([name.to_owned()]), ..Self::default() }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.orders.is_empty() && self.limits.is_empty()
    }
}

/// The keys of the one job in a row that has both columns.
pub(crate) fn keys_of(row: &PgRow) -> Result<Keys, sqlx::Error> {
    let mut keys = Keys::default();
    keys.add(row.try_get("ordering_key")?, row.try_get("limit_key")?);
    Ok(keys)
}

/// What one process has to admit, and how far its sweep over all keys has come.
#[derive(Debug, Default)]
pub(crate) struct Admitter {
    pending: Mutex<Pending>,
    swept: Mutex<Swept>,
}

#[derive(Debug, Default)]
struct Pending {
    keys: Keys,
    is_under_way: bool,
}

/// The last keys looked at; a sweep goes on after them, so that each key has its turn.
#[derive(Debug, Clone, Default)]
struct Swept {
    order: String,
    limit: String,
}

impl Admitter {
    /// Admits at these keys without the caller waiting for it: one at a time per process, with what
    /// comes meanwhile taken together. What fails, or is too much, is left to staging.
    pub(crate) fn soon(self: &Arc<Self>, pool: &PgPool, keys: Keys) {
        if keys.is_empty() {
            return;
        }
        {
            let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
            if pending.keys.orders.len() + pending.keys.limits.len() >= PENDING_MAX {
                return;
            }
            pending.keys.orders.extend(keys.orders);
            pending.keys.limits.extend(keys.limits);
            if std::mem::replace(&mut pending.is_under_way, true) {
                return;
            }
        }
        let (admitter, pool) = (Arc::clone(self), pool.clone());
        tokio::spawn(async move {
            while let Some(keys) = admitter.next() {
                now(&pool, keys).await;
            }
        });
    }

    fn next(&self) -> Option<Keys> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        let keys = std::mem::take(&mut pending.keys);
        pending.is_under_way = !keys.is_empty();
        pending.is_under_way.then_some(keys)
    }
}

/// Admits at these keys and waits for it. A failure costs the time until the next staging, never a
/// job, so nobody has to hear of it.
pub(crate) async fn now(pool: &PgPool, keys: Keys) {
    if keys.is_empty() {
        return;
    }
    let work = async {
        let mut connection = pool.acquire().await?;
        admit(&mut connection, keys).await
    };
    if let Err(error) = work.await {
        tracing::debug!(
            error = &error as &dyn std::error::Error,
            "jobs could not be admitted; staging does it"
        );
    }
}

/// Looks at all keys behind which somebody waits, or at as many as one pass may; says how many jobs
/// it admitted.
pub(crate) async fn sweep(queue: &Queue) -> Result<u64, QueueError> {
    let mut connection = queue.pool().acquire().await?;
    let swept = || queue.admitter.swept.lock().unwrap_or_else(PoisonError::into_inner);
    let mut admitted = 0;
    let mut at = swept().clone();
    for _ in 0..SWEEPS_MAX {
        let orders = after(&mut connection, WAITING_ORDERS, &at.order).await?;
        let limits = after(&mut connection, WAITING_LIMITS, &at.limit).await?;
        at = Swept { order: last_of(&orders), limit: last_of(&limits) };
        swept().clone_from(&at);
        let keys =
            Keys { orders: orders.into_iter().collect(), limits: limits.into_iter().collect() };
        admitted += admit(&mut connection, keys).await?;
        if at.order.is_empty() && at.limit.is_empty() {
            break;
        }
    }
    Ok(admitted)
}

/// The keys after this one, or from the start when there are none.
async fn after(
    connection: &mut PgConnection,
    statement: &'static str,
    key: &str,
) -> Result<Vec<String>, QueueError> {
    let found: Vec<String> =
        sqlx::query_scalar(statement).bind(key).fetch_all(&mut *connection).await?;
    if !found.is_empty() || key.is_empty() {
        return Ok(found);
    }
    Ok(sqlx::query_scalar(statement).bind("").fetch_all(connection).await?)
}

/// Where the next sweep begins: at the start, when this one saw the last key.
fn last_of(keys: &[String]) -> String {
    if keys.len() < KEYS_MAX { String::new() } else { keys.last().cloned().unwrap_or_default() }
}

/// Says how many jobs it admitted.
async fn admit(connection: &mut PgConnection, keys: Keys) -> Result<u64, QueueError> {
    let Keys { orders, mut limits } = keys;
    let mut admitted = 0;
    let orders: Vec<String> = orders.into_iter().collect();
    for orders in orders.chunks(KEYS_MAX) {
        for row in give_turns(connection, orders).await? {
            match row.try_get::<Option<String>, _>("limit_key")? {
                Some(limit) => {
                    limits.insert(limit);
                }
                None => admitted += row.try_get::<i64, _>("jobs")?.unsigned_abs(),
            }
        }
    }
    for limit in limits {
        for _ in 0..ROUNDS_MAX {
            let jobs = admit_under(connection, &limit).await?;
            admitted += jobs.unsigned_abs();
            if jobs < JOBS_MAX {
                break;
            }
        }
    }
    Ok(admitted)
}

async fn give_turns(
    connection: &mut PgConnection,
    orders: &[String],
) -> Result<Vec<PgRow>, QueueError> {
    for _ in 1..TRIES_MAX {
        match sqlx::query(GIVE_TURNS).bind(orders).fetch_all(&mut *connection).await {
            // Two that were enqueued at the same time were each the first to somebody.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {}
            other => return Ok(other?),
        }
    }
    Ok(sqlx::query(GIVE_TURNS).bind(orders).fetch_all(connection).await?)
}

async fn admit_under(connection: &mut PgConnection, limit: &str) -> Result<i64, QueueError> {
    let mut transaction = connection.begin().await?;
    sqlx::query(LOCK_LIMIT).bind(limit).execute(&mut *transaction).await?;
    let mut admitted = 0;
    for row in sqlx::query(ADMIT).bind(limit).fetch_all(&mut *transaction).await? {
        admitted += row.try_get::<i64, _>("jobs")?;
    }
    transaction.commit().await?;
    Ok(admitted)
}
