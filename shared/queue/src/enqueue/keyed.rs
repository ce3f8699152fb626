//! Jobs with keys, batches, times or traces: first the idempotency keys decide, then the unique keys,
//! in one transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;
use sqlx::PgConnection;
use sqlx::types::Json;

use super::refused;
use crate::batch;
use crate::sql::entry_state;
use crate::{BatchId, Enqueued, JobId, NewJob, QueueError};

/// How often an enqueue looks again for the holder of a key that was gone when it looked.
const KEY_ATTEMPTS_MAX: u32 = 5;

/// Jobs with everything. Their ids are drawn before, so that rows left out by a unique key are
/// known by the absence of their id; ordered by that key, so that two enqueues meeting in several
/// keys wait for each other in one direction only.
const ENQUEUE_FULL: &str = concat!(
    "-- enqueue_keyed_jobs
    INSERT INTO relevo.job (id, kind, payload, payload_version, queue, priority, max_attempts,
                            max_deaths, run_id, traceparent, batch_id, unique_key, unique_scope,
                            ordering_key, on_dead, limit_key, run_at, state)
    SELECT j.id, j.kind, j.payload, j.payload_version, j.queue, j.priority, j.max_attempts,
           j.max_deaths, j.run_id, j.traceparent, j.batch_id, j.unique_key,
           j.unique_scope::relevo.unique_scope, j.ordering_key, j.on_dead::relevo.order_on_dead,
           j.limit_key, d.due, ",
    entry_state!("j.", "d.due"),
    "
    FROM unnest($1::bigint[], $2::text[], $3::jsonb[], $4::smallint[], $5::text[], $6::smallint[],
                $7::integer[], $8::smallint[], $9::bigint[], $10::text[], $11::bigint[],
                $12::text[], $13::text[], $14::timestamptz[], $15::float8[], $16::text[],
                $17::text[], $18::text[])
             AS j(id, kind, payload, payload_version, queue, priority, max_attempts, max_deaths,
                  run_id, traceparent, batch_id, unique_key, unique_scope, run_at, delay_seconds,
                  ordering_key, on_dead, limit_key)
         CROSS JOIN LATERAL (
             SELECT coalesce(j.run_at, now()) + make_interval(secs => j.delay_seconds) AS due
         ) AS d
    ORDER BY j.unique_key
    ON CONFLICT (unique_key) WHERE unique_key IS NOT NULL DO NOTHING
    RETURNING id"
);

const DRAW_IDS: &str = "-- draw_job_ids
    SELECT nextval('relevo.job_id_seq') FROM generate_series(1, $1)";

/// Takes the keys that are free or expired; ordered for the same reason as above.
const TAKE_IDEMPOTENCY_KEYS: &str = "-- take_idempotency_keys
    INSERT INTO relevo.idempotency_key AS held (key, job_id, expires_at)
    SELECT k.key, k.job_id, now() + make_interval(secs => k.ttl_seconds)
    FROM unnest($1::text[], $2::bigint[], $3::float8[]) AS k(key, job_id, ttl_seconds)
    ORDER BY k.key
    ON CONFLICT (key) DO UPDATE
        SET job_id = excluded.job_id, created_at = now(), expires_at = excluded.expires_at
        WHERE held.expires_at <= now()
    RETURNING key";

const FIND_IDEMPOTENCY_KEYS: &str = "-- find_idempotency_keys
    SELECT key, job_id FROM relevo.idempotency_key WHERE key = ANY ($1)";

const POINT_IDEMPOTENCY_KEYS: &str = "-- point_idempotency_keys
    UPDATE relevo.idempotency_key AS held SET job_id = k.job_id
    FROM unnest($1::text[], $2::bigint[]) AS k(key, job_id) WHERE held.key = k.key";

const FIND_UNIQUE_KEYS: &str = "-- find_unique_keys
    SELECT unique_key, id FROM relevo.job WHERE unique_key = ANY ($1)";

/// Fills `answers` for `jobs`: first the idempotency keys decide, then the unique keys.
pub(super) async fn insert_full(
    connection: &mut PgConnection,
    jobs: &[NewJob],
    answers: &mut [Option<Enqueued>],
) -> Result<(), QueueError> {
    let ids: Vec<JobId> = sqlx::query_scalar(DRAW_IDS)
        .bind(i32::try_from(jobs.len()).unwrap_or(i32::MAX))
        .fetch_all(&mut *connection)
        .await?;

    let (mut open, same_idempotency_key) =
        firsts(0..jobs.len(), |at| jobs[at].idempotency_key.as_ref().map(|key| key.key.as_str()));
    take_idempotency_keys(connection, jobs, &ids, &open, answers).await?;
    open.retain(|&at| answers[at].is_none());

    let (open, same_unique_key) = firsts(open, |at| unique_key(&jobs[at]));
    insert_rows(connection, jobs, &ids, open, answers).await?;

    echo(&same_unique_key, answers);
    point_idempotency_keys(connection, jobs, answers, same_unique_key.iter().map(|echo| echo.0))
        .await?;
    echo(&same_idempotency_key, answers);
    batch::grow(connection, &members(jobs, answers)).await
}

/// Within one call the first with a key wins, like everywhere: the firsts, and for every other one
/// whose answer it shares.
fn firsts<'a>(
    positions: impl IntoIterator<Item = usize>,
    key: impl Fn(usize) -> Option<&'a str>,
) -> (Vec<usize>, Vec<(usize, usize)>) {
    let mut first_by_key: HashMap<&str, usize> = HashMap::new();
    let (mut firsts, mut others) = (Vec::new(), Vec::new());
    for at in positions {
        match key(at).map(|key| *first_by_key.entry(key).or_insert(at)) {
            Some(first) if first != at => others.push((at, first)),
            _ => firsts.push(at),
        }
    }
    (firsts, others)
}

fn echo(echoes: &[(usize, usize)], answers: &mut [Option<Enqueued>]) {
    for &(at, first) in echoes {
        answers[at] = answers[first].map(|enqueued| Enqueued { id: enqueued.id, duplicate: true });
    }
}

/// How many members each batch gained.
fn members(jobs: &[NewJob], answers: &[Option<Enqueued>]) -> BTreeMap<BatchId, i64> {
    let mut members = BTreeMap::new();
    for (job, answer) in jobs.iter().zip(answers) {
        let inserted = answer.is_some_and(|enqueued| !enqueued.duplicate);
        if let Some(batch) = job.batch_id {
            *members.entry(batch).or_insert(0) += i64::from(inserted);
        }
    }
    members
}

async fn take_idempotency_keys(
    connection: &mut PgConnection,
    jobs: &[NewJob],
    ids: &[JobId],
    candidates: &[usize],
    answers: &mut [Option<Enqueued>],
) -> Result<(), QueueError> {
    let mut open: BTreeMap<&str, (usize, f64)> = candidates
        .iter()
        .filter_map(|&at| {
            let key = jobs[at].idempotency_key.as_ref()?;
            Some((key.key.as_str(), (at, key.ttl.as_secs_f64())))
        })
        .collect();
    for _ in 0..KEY_ATTEMPTS_MAX {
        if open.is_empty() {
            return Ok(());
        }
        let taken: Vec<String> = sqlx::query_scalar(TAKE_IDEMPOTENCY_KEYS)
            .bind(open.keys().copied().collect::<Vec<_>>())
            .bind(open.values().map(|(at, _)| ids[*at]).collect::<Vec<_>>())
            .bind(open.values().map(|(_, ttl_seconds)| *ttl_seconds).collect::<Vec<_>>())
            .fetch_all(&mut *connection)
            .await?;
        for key in &taken {
            open.remove(key.as_str());
        }
        if open.is_empty() {
            return Ok(());
        }
        // A statement of its own, so that it sees what the insert waited for.
        let held: Vec<(String, JobId)> = sqlx::query_as(FIND_IDEMPOTENCY_KEYS)
            .bind(open.keys().copied().collect::<Vec<_>>())
            .fetch_all(&mut *connection)
            .await?;
        for (key, id) in held {
            if let Some((at, _)) = open.remove(key.as_str()) {
                answers[at] = Some(Enqueued { id, duplicate: true });
            }
        }
        // What is left was pruned between the two statements and is free again.
    }
    match open.keys().next() {
        None => Ok(()),
        Some(&key) => {
            Err(QueueError::KeyContended { key: key.to_owned(), attempts: KEY_ATTEMPTS_MAX })
        }
    }
}

async fn insert_rows(
    connection: &mut PgConnection,
    jobs: &[NewJob],
    ids: &[JobId],
    mut open: Vec<usize>,
    answers: &mut [Option<Enqueued>],
) -> Result<(), QueueError> {
    for _ in 0..KEY_ATTEMPTS_MAX {
        if open.is_empty() {
            return Ok(());
        }
        let inserted: BTreeSet<JobId> =
            insert_full_statement(connection, jobs, ids, &open).await?.into_iter().collect();
        open.retain(|&at| {
            let is_new = inserted.contains(&ids[at]);
            if is_new {
                answers[at] = Some(Enqueued { id: ids[at], duplicate: false });
            }
            !is_new
        });
        if open.is_empty() {
            return Ok(());
        }
        // Only a unique key keeps a row out. Its holder may have ended since.
        let keys: Vec<&str> = open.iter().filter_map(|&at| unique_key(&jobs[at])).collect();
        let holders: HashMap<String, JobId> = sqlx::query_as(FIND_UNIQUE_KEYS)
            .bind(&keys)
            .fetch_all(&mut *connection)
            .await?
            .into_iter()
            .collect();
        let mut duplicates = Vec::new();
        open.retain(|&at| {
            let Some(&id) = unique_key(&jobs[at]).and_then(|key| holders.get(key)) else {
                return true;
            };
            answers[at] = Some(Enqueued { id, duplicate: true });
            duplicates.push(at);
            false
        });
        point_idempotency_keys(connection, jobs, answers, duplicates).await?;
    }
    match open.iter().find_map(|&at| unique_key(&jobs[at])) {
        None => Ok(()),
        Some(key) => {
            Err(QueueError::KeyContended { key: key.to_owned(), attempts: KEY_ATTEMPTS_MAX })
        }
    }
}

/// Keys taken for jobs that were not inserted name the job that was there instead.
async fn point_idempotency_keys(
    connection: &mut PgConnection,
    jobs: &[NewJob],
    answers: &[Option<Enqueued>],
    duplicates: impl IntoIterator<Item = usize>,
) -> Result<(), QueueError> {
    let (keys, holders): (Vec<&str>, Vec<JobId>) = duplicates
        .into_iter()
        .filter_map(|at| {
            Some((jobs[at].idempotency_key.as_ref()?.key.as_str(), answers[at].as_ref()?.id))
        })
        .unzip();
    if !keys.is_empty() {
        sqlx::query(POINT_IDEMPOTENCY_KEYS).bind(keys).bind(holders).execute(connection).await?;
    }
    Ok(())
}

fn unique_key(job: &NewJob) -> Option<&str> {
    job.unique.as_ref().map(|unique| unique.key.as_str())
}

async fn insert_full_statement(
    connection: &mut PgConnection,
    jobs: &[NewJob],
    ids: &[JobId],
    open: &[usize],
) -> Result<Vec<JobId>, QueueError> {
    fn column<'a, T>(jobs: &'a [NewJob], open: &[usize], get: impl Fn(&'a NewJob) -> T) -> Vec<T> {
        open.iter().map(|&at| get(&jobs[at])).collect()
    }
    let payloads: Vec<Json<&Box<RawValue>>> = column(jobs, open, |job| Json(&job.payload));
    let run_ats: Vec<Option<DateTime<Utc>>> = column(jobs, open, |job| job.run_at);
    let delays_seconds: Vec<f64> =
        column(jobs, open, |job| job.delay.unwrap_or_default().as_secs_f64());
    sqlx::query_scalar(ENQUEUE_FULL)
        .bind(open.iter().map(|&at| ids[at]).collect::<Vec<_>>())
        .bind(column(jobs, open, |job| job.kind.as_str()))
        .bind(payloads)
        .bind(column(jobs, open, |job| job.payload_version))
        .bind(column(jobs, open, |job| job.queue.as_str()))
        .bind(column(jobs, open, |job| job.priority))
        .bind(column(jobs, open, |job| job.max_attempts))
        .bind(column(jobs, open, |job| job.max_deaths))
        .bind(column(jobs, open, |job| job.run_id))
        .bind(column(jobs, open, |job| job.traceparent.as_deref()))
        .bind(column(jobs, open, |job| job.batch_id))
        .bind(column(jobs, open, unique_key))
        .bind(column(jobs, open, |job| job.unique.as_ref().map(|unique| unique.scope.as_str())))
        .bind(run_ats)
        .bind(delays_seconds)
        .bind(column(jobs, open, |job| job.ordering.as_ref().map(|order| order.key.as_str())))
        .bind(column(jobs, open, |job| job.ordering.as_ref().map(|order| order.on_dead.as_str())))
        .bind(column(jobs, open, |job| job.limit_key.as_deref()))
        .fetch_all(connection)
        .await
        .map_err(refused)
}
