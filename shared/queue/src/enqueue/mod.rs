//! Enqueuing: plain jobs in one statement, keyed ones in one transaction.

mod keyed;

use std::collections::BTreeSet;

use sqlx::types::Json;
use sqlx::{Acquire as _, PgConnection, Row as _};

use self::keyed::insert_full;
use crate::admit::Keys;
use crate::sql::CHANNEL_JOB;
use crate::{Enqueued, JobId, NewJob, Queue, QueueError, admit};

/// Rows per statement: beyond it a statement's memory grows and its speed does not.
const ROWS_MAX: usize = 5_000;

/// One job, no keys, no batch. A plain INSERT, since this is the statement most often run: what is
/// due is said twice rather than in a subquery.
const ENQUEUE_ONE: &str = "-- enqueue_job
    INSERT INTO relevo.job (kind, payload, payload_version, queue, priority, max_attempts,
                            max_deaths, run_id, traceparent, run_at, state)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, coalesce($10, now()) + make_interval(secs => $11),
            CASE WHEN coalesce($10, now()) + make_interval(secs => $11) > now()
                 THEN 'scheduled' ELSE 'available' END::relevo.job_state)
    RETURNING id, CASE WHEN $12 THEN pg_notify('relevo_job', $4) END";

/// Jobs to run at once that differ in their payload only: what bulk producers send. Ids come back as
/// one array: rows are inserted, and their ids collected, in the order of the payloads.
const ENQUEUE_ALIKE: &str = "-- enqueue_jobs_alike
    WITH enqueued AS (
        INSERT INTO relevo.job (kind, payload, payload_version, queue, priority, max_attempts,
                                max_deaths, run_id, state)
        SELECT $1, payload, $3, $4, $5, $6, $7, $8, 'available' FROM unnest($2::jsonb[]) AS payload
        RETURNING id
    )
    SELECT array_agg(id), (SELECT count(pg_notify('relevo_job', q)) FROM unnest($9::text[]) AS q)
    FROM enqueued";

/// Jobs to run at once, without keys, batch or trace.
const ENQUEUE_SIMPLE: &str = "-- enqueue_jobs
    WITH enqueued AS (
        INSERT INTO relevo.job (kind, payload, payload_version, queue, priority, max_attempts,
                                max_deaths, run_id, state)
        SELECT *, 'available'
        FROM unnest($1::text[], $2::jsonb[], $3::smallint[], $4::text[], $5::smallint[],
                    $6::integer[], $7::smallint[], $8::bigint[])
        RETURNING id
    )
    SELECT array_agg(id), (SELECT count(pg_notify('relevo_job', q)) FROM unnest($9::text[]) AS q)
    FROM enqueued";

/// Enqueues through the pool: one job.
pub(crate) async fn one(queue: &Queue, job: &NewJob) -> Result<Enqueued, QueueError> {
    if is_keyed(job) {
        let enqueued = many(queue, std::slice::from_ref(job)).await?;
        // Unwrap safety: one answer per job.
        #[expect(clippy::unwrap_used, reason = "one answer per job")]
        return Ok(*enqueued.first().unwrap());
    }
    job.validate()?;
    let announces = job.delay.is_none_or(|delay| delay.is_zero());
    let leads = announces && queue.notifier.leads(&job.queue);
    // Dropped, and so given back to the pool, when this future is or the statement fails.
    let mut connection = queue.spare.take(queue.pool()).await?;
    let row = sqlx::query(ENQUEUE_ONE)
        .bind(&job.kind)
        .bind(Json(&job.payload))
        .bind(job.payload_version)
        .bind(&job.queue)
        .bind(job.priority)
        .bind(job.max_attempts)
        .bind(job.max_deaths)
        .bind(job.run_id)
        .bind(&job.traceparent)
        .bind(job.run_at)
        .bind(job.delay.unwrap_or_default().as_secs_f64())
        .bind(leads)
        .fetch_one(&mut *connection)
        .await
        .map_err(refused)?;
    queue.spare.keep(queue.pool(), connection);
    if announces && !leads {
        queue.notifier.trail(queue.pool(), &job.queue);
    }
    Ok(Enqueued { id: row.try_get(0)?, duplicate: false })
}

/// Enqueues through the pool, in one transaction.
pub(crate) async fn many(queue: &Queue, jobs: &[NewJob]) -> Result<Vec<Enqueued>, QueueError> {
    validate(jobs)?;
    let announced = announced(jobs);
    let leading: Vec<&str> =
        announced.iter().copied().filter(|name| queue.notifier.leads(name)).collect();
    // As for one job.
    let mut connection = queue.spare.take(queue.pool()).await?;
    let enqueued = if jobs.len() <= ROWS_MAX && jobs.iter().all(is_simple) {
        // One statement is its own transaction.
        insert_simple(&mut connection, jobs, &leading).await?
    } else {
        let mut transaction = connection.begin().await?;
        let enqueued = insert(&mut transaction, jobs, &leading).await?;
        transaction.commit().await?;
        enqueued
    };
    queue.spare.keep(queue.pool(), connection);
    for name in announced {
        if !leading.contains(&name) {
            queue.notifier.trail(queue.pool(), name);
        }
    }
    let mut keys = Keys::default();
    for job in jobs {
        let ordering_key = job.ordering.as_ref().map(|order| order.key.as_str());
        keys.add(ordering_key, job.limit_key.as_deref());
    }
    admit::now(queue.pool(), keys).await;
    Ok(enqueued)
}

/// Enqueues in the caller's transaction. Its notifications are delivered when that commits, so
/// there is nothing to throttle by: one per queue.
pub(crate) async fn within(
    connection: &mut PgConnection,
    jobs: &[NewJob],
) -> Result<Vec<Enqueued>, QueueError> {
    validate(jobs)?;
    insert(connection, jobs, &announced(jobs).into_iter().collect::<Vec<_>>()).await
}

/// Announces queues when the transaction commits.
pub(crate) async fn notify<T: AsRef<str> + Sync>(
    connection: &mut PgConnection,
    queues: &[T],
) -> Result<(), QueueError> {
    if queues.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = queues.iter().map(AsRef::as_ref).collect();
    sqlx::query("-- notify_queues\nSELECT pg_notify($1, q) FROM unnest($2::text[]) AS q")
        .bind(CHANNEL_JOB)
        .bind(names)
        .execute(connection)
        .await?;
    Ok(())
}

fn validate(jobs: &[NewJob]) -> Result<(), QueueError> {
    jobs.iter().try_for_each(NewJob::validate)
}

/// The queues in which some job can be claimed at once.
fn announced(jobs: &[NewJob]) -> BTreeSet<&str> {
    jobs.iter()
        .filter(|job| !is_admitted(job) && job.delay.is_none_or(|delay| delay.is_zero()))
        .map(|job| job.queue.as_str())
        .collect()
}

fn is_keyed(job: &NewJob) -> bool {
    job.idempotency_key.is_some()
        || job.unique.is_some()
        || job.batch_id.is_some()
        || is_admitted(job)
}

/// Whether it waits for its admission before it can be claimed.
fn is_admitted(job: &NewJob) -> bool {
    job.ordering.is_some() || job.limit_key.is_some()
}

fn is_simple(job: &NewJob) -> bool {
    !is_keyed(job) && job.run_at.is_none() && job.delay.is_none() && job.traceparent.is_none()
}

/// A data exception (class 22) is the job's fault, such as an unpaired surrogate in its payload.
pub(crate) fn refused(error: sqlx::Error) -> QueueError {
    match &error {
        sqlx::Error::Database(database)
            if database.code().is_some_and(|code| code.starts_with("22")) =>
        {
            QueueError::InvalidJob(format!("the database refused it: {}", database.message()))
        }
        _ => QueueError::Database(error),
    }
}

/// Inserts jobs, and announces queues in the same transaction.
async fn insert(
    connection: &mut PgConnection,
    jobs: &[NewJob],
    announced: &[&str],
) -> Result<Vec<Enqueued>, QueueError> {
    if jobs.iter().all(is_simple) {
        let mut enqueued = Vec::with_capacity(jobs.len());
        for (at, jobs) in jobs.chunks(ROWS_MAX).enumerate() {
            let announced = if at == 0 { announced } else { &[] };
            enqueued.extend(insert_simple(connection, jobs, announced).await?);
        }
        return Ok(enqueued);
    }
    let mut answers = vec![None; jobs.len()];
    for at in (0..jobs.len()).step_by(ROWS_MAX) {
        let end = jobs.len().min(at + ROWS_MAX);
        insert_full(connection, &jobs[at..end], &mut answers[at..end]).await?;
    }
    notify(connection, announced).await?;
    Ok(answers.into_iter().flatten().collect())
}

async fn insert_simple(
    connection: &mut PgConnection,
    jobs: &[NewJob],
    announced: &[&str],
) -> Result<Vec<Enqueued>, QueueError> {
    let Some(first) = jobs.first() else { return Ok(Vec::new()) };
    let payloads = column(jobs, |job| Json(&job.payload));
    let insert = if jobs.iter().all(|job| is_alike(job, first)) {
        sqlx::query_scalar(ENQUEUE_ALIKE)
            .bind(&first.kind)
            .bind(payloads)
            .bind(first.payload_version)
            .bind(&first.queue)
            .bind(first.priority)
            .bind(first.max_attempts)
            .bind(first.max_deaths)
            .bind(first.run_id)
    } else {
        sqlx::query_scalar(ENQUEUE_SIMPLE)
            .bind(column(jobs, |job| job.kind.as_str()))
            .bind(payloads)
            .bind(column(jobs, |job| job.payload_version))
            .bind(column(jobs, |job| job.queue.as_str()))
            .bind(column(jobs, |job| job.priority))
            .bind(column(jobs, |job| job.max_attempts))
            .bind(column(jobs, |job| job.max_deaths))
            .bind(column(jobs, |job| job.run_id))
    };
    let ids: Vec<JobId> = insert.bind(announced).fetch_one(connection).await.map_err(refused)?;
    Ok(ids.into_iter().map(|id| Enqueued { id, duplicate: false }).collect())
}

/// Whether two simple jobs differ in nothing but their payload.
fn is_alike(one: &NewJob, other: &NewJob) -> bool {
    one.kind == other.kind
        && one.queue == other.queue
        && one.payload_version == other.payload_version
        && one.priority == other.priority
        && one.max_attempts == other.max_attempts
        && one.max_deaths == other.max_deaths
        && one.run_id == other.run_id
}

fn column<'a, T>(jobs: &'a [NewJob], get: impl Fn(&'a NewJob) -> T) -> Vec<T> {
    jobs.iter().map(get).collect()
}
