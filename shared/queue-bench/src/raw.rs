//! The limit: what a loop of bare SQL on one table does, with nothing kept but the work itself.
//!
//! Claims by UPDATE … SKIP LOCKED in batches on one connection, finishes by DELETE + INSERT into a
//! history on another, so that both are under way at once. No sessions, no fencing, no retries.

use std::time::{Duration, Instant};

use anyhow::Result;
use sqlx::postgres::{PgConnectOptions, PgListener};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use tokio::sync::mpsc;

const BATCH_MAX: usize = 500;
/// Claimed batches waiting to be finished.
const BATCHES_IN_FLIGHT: usize = 4;

/// Makes the tables.
pub async fn prepare(pool: &PgPool) -> Result<()> {
    for statement in [
        "CREATE SCHEMA raw",
        "CREATE TABLE raw.job (
             id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
             run_at timestamptz NOT NULL DEFAULT now(),
             state smallint NOT NULL DEFAULT 0,
             priority smallint NOT NULL DEFAULT 0,
             attempt integer NOT NULL DEFAULT 0,
             queue text NOT NULL, kind text NOT NULL, payload jsonb NOT NULL
         ) WITH (fillfactor = 85)",
        "CREATE INDEX job_claim ON raw.job (queue, priority DESC, run_at, id) WHERE state = 0",
        "CREATE TABLE raw.history (LIKE raw.job)",
        // What a single enqueue and a COPY are held against: Relevo's own columns, with an index to
        // find a row by and one to claim by, and not one rule or reader more.
        "CREATE TABLE raw.same (LIKE relevo.job INCLUDING DEFAULTS, PRIMARY KEY (id))
             WITH (fillfactor = 85)",
        "CREATE INDEX same_claim ON raw.same (queue, priority DESC, run_at, id)
             WHERE state = 'available'",
    ] {
        sqlx::query(statement).execute(pool).await?;
    }
    Ok(())
}

/// Fills the table with `jobs` no-op jobs.
pub async fn fill(pool: &PgPool, jobs: i64) -> Result<()> {
    sqlx::query("TRUNCATE raw.job, raw.history").execute(pool).await?;
    sqlx::query(
        "INSERT INTO raw.job (queue, kind, payload)
         SELECT 'default', 'Noop', '{}' FROM generate_series(1, $1)",
    )
    .bind(jobs)
    .execute(pool)
    .await?;
    sqlx::query("VACUUM ANALYZE raw.job").execute(pool).await?;
    Ok(())
}

/// Drains the table; the time from connecting, as a worker does, to the last finish.
pub async fn drain(pool: &PgPool, server: &PgConnectOptions) -> Result<Duration> {
    let started = Instant::now();
    let mut claims = PgConnection::connect_with(server).await?;
    let (batches_out, mut batches_in) = mpsc::channel::<Vec<i64>>(BATCHES_IN_FLIGHT);
    let finisher_pool = pool.clone();
    let finisher = tokio::spawn(async move {
        while let Some(ids) = batches_in.recv().await {
            sqlx::query(
                "WITH gone AS (DELETE FROM raw.job WHERE id = ANY($1) RETURNING *)
                 INSERT INTO raw.history SELECT * FROM gone",
            )
            .bind(ids)
            .execute(&finisher_pool)
            .await?;
        }
        anyhow::Ok(())
    });
    let claim = format!(
        "WITH next AS MATERIALIZED (
             SELECT id FROM raw.job WHERE queue = 'default' AND state = 0 AND run_at <= now()
             ORDER BY priority DESC, run_at, id LIMIT {BATCH_MAX} FOR UPDATE SKIP LOCKED)
         UPDATE raw.job SET state = 1, attempt = attempt + 1
         WHERE id = ANY (ARRAY(SELECT id FROM next)) RETURNING id, payload::text"
    );
    loop {
        let rows: Vec<(i64, String)> =
            sqlx::query_as(AssertSqlSafe(claim.clone())).fetch_all(&mut claims).await?;
        if rows.is_empty() {
            break;
        }
        batches_out.send(rows.into_iter().map(|row| row.0).collect()).await?;
    }
    drop(batches_out);
    finisher.await??;
    Ok(started.elapsed())
}

/// Time for `jobs` single INSERTs of Relevo's columns on one connection.
pub async fn insert_single(
    pool: &PgPool,
    server: &PgConnectOptions,
    jobs: i64,
) -> Result<Duration> {
    sqlx::query("TRUNCATE raw.same").execute(pool).await?;
    let mut connection = PgConnection::connect_with(server).await?;
    let started = Instant::now();
    for _ in 0..jobs {
        let _: i64 = sqlx::query_scalar(
            "INSERT INTO raw.same (kind, payload, payload_version, queue, priority, max_attempts,
                                   max_deaths, run_id, traceparent, run_at, state)
             VALUES ($1, $2::jsonb, $3, $4, $5, $6, $7, $8, $9, now(), 'available') RETURNING id",
        )
        .bind("Noop")
        .bind(sqlx::types::Json(serde_json::json!({})))
        .bind(1_i16)
        .bind("other")
        .bind(0_i16)
        .bind(5_i32)
        .bind(3_i16)
        .bind(None::<i64>)
        .bind(None::<&str>)
        .fetch_one(&mut connection)
        .await?;
    }
    Ok(started.elapsed())
}

/// Time to COPY `jobs` rows of Relevo's columns, `batch` in a statement, each committed, as bulk
/// enqueues are. Over the server's socket where it is on this machine: over TCP, a COPY waits 40 ms
/// between its two small last packets, and would be no limit at all.
pub async fn copy_bulk(
    pool: &PgPool,
    server: &PgConnectOptions,
    jobs: usize,
    batch: usize,
) -> Result<Duration> {
    sqlx::query("TRUNCATE raw.same").execute(pool).await?;
    let sockets: String =
        sqlx::query_scalar("SHOW unix_socket_directories").fetch_one(pool).await?;
    let mut options = server.clone();
    if let Some(folder) = sockets.split(',').map(str::trim).find(|folder| {
        folder.starts_with('/')
            && std::path::Path::new(folder)
                .join(format!(".s.PGSQL.{}", options.get_port()))
                .exists()
    }) {
        options = options.socket(folder);
    }
    let mut connection = PgConnection::connect_with(&options).await?;
    let rows = "other\tNoop\t{}\t1\t0\t5\t3\tavailable\n".repeat(batch);
    let started = Instant::now();
    for _ in 0..jobs / batch {
        let mut copy = connection
            .copy_in_raw(
                "COPY raw.same (queue, kind, payload, payload_version, priority, max_attempts,
                                max_deaths, state) FROM STDIN",
            )
            .await?;
        copy.send(rows.as_bytes()).await?;
        copy.finish().await?;
    }
    Ok(started.elapsed())
}

/// Latency from enqueue to having claimed, on an idle table, woken by NOTIFY, with a pause between
/// two as on the other side: a server that rested answers later than one that is hot.
pub async fn latency(
    pool: &PgPool,
    server: &PgConnectOptions,
    samples: usize,
) -> Result<Vec<Duration>> {
    sqlx::query("TRUNCATE raw.job").execute(pool).await?;
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen("raw_job").await?;
    let (claimed_out, mut claimed_in) = mpsc::channel(1);
    let mut claims = PgConnection::connect_with(server).await?;
    let worker = tokio::spawn(async move {
        for _ in 0..samples {
            listener.recv().await?;
            let _: (i64,) = sqlx::query_as(
                "UPDATE raw.job SET state = 1 WHERE id =
                     (SELECT id FROM raw.job WHERE queue = 'default' AND state = 0
                      ORDER BY priority DESC, run_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
                 RETURNING id",
            )
            .fetch_one(&mut claims)
            .await?;
            claimed_out.send(Instant::now()).await?;
        }
        anyhow::Ok(())
    });
    let mut producer = PgConnection::connect_with(server).await?;
    let mut latencies = Vec::with_capacity(samples);
    for _ in 0..samples {
        let started = Instant::now();
        sqlx::query(
            "WITH job AS (INSERT INTO raw.job (queue, kind, payload) VALUES ('default', 'Noop', '{}')
                          RETURNING id)
             SELECT pg_notify('raw_job', 'default') FROM job",
        )
        .execute(&mut producer)
        .await?;
        let claimed = claimed_in.recv().await.ok_or_else(|| anyhow::anyhow!("worker ended"))?;
        latencies.push(claimed.duration_since(started));
        // Idle again, as on the other side.
        tokio::time::sleep(crate::IDLE).await;
    }
    worker.await??;
    Ok(latencies)
}
