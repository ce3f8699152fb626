//! The peer: apalis-postgres 1.0, at the settings that were fastest when tried (batches of 1,000,
//! tasks not locked one by one, handlers in the worker's own task).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use apalis_core::backend::TaskSink as _;
use apalis_core::error::BoxDynError;
use apalis_core::task::data::Data;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_postgres::{Config, PostgresStorage};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use tokio::sync::Notify;

const BATCH_SIZE: usize = 1000;

#[derive(Clone)]
struct Countdown {
    left: Arc<AtomicUsize>,
    done: Arc<Notify>,
}

async fn noop(_: u64, countdown: Data<Countdown>) -> Result<(), BoxDynError> {
    if countdown.left.fetch_sub(1, Ordering::Relaxed) == 1 {
        countdown.done.notify_one();
    }
    Ok(())
}

fn config() -> Config {
    Config::default().queue("noop").batch_size(BATCH_SIZE).lock_tasks(false)
}

/// Makes the peer's tables.
pub async fn prepare(pool: &PgPool) -> Result<()> {
    PostgresStorage::setup(pool).await?;
    Ok(())
}

/// Fills the peer's table with `jobs` no-op jobs; the time it took.
pub async fn fill(pool: &PgPool, jobs: usize) -> Result<Duration> {
    sqlx::query("TRUNCATE apalis.jobs").execute(pool).await?;
    let mut storage = PostgresStorage::<u64>::new(pool).with_config(config());
    let started = Instant::now();
    let payloads: Vec<u64> = (0..).take(jobs).collect();
    for chunk in payloads.chunks(BATCH_SIZE) {
        storage.push_bulk(chunk.to_vec()).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    }
    let elapsed = started.elapsed();
    // It keeps whole seconds and claims nothing that is due within the present one.
    sqlx::query("UPDATE apalis.jobs SET run_at = run_at - interval '2 s'").execute(pool).await?;
    sqlx::query("VACUUM ANALYZE apalis.jobs").execute(pool).await?;
    Ok(elapsed)
}

/// What `pg_stat_activity` calls the peer's connections while it drains.
const NAME: &str = "relevo bench peer";

/// Drains the table; the time from the worker's start to the last acknowledgement in the database.
///
/// On a pool of its own: when its worker is stopped, the peer leaves a connection inside an open
/// transaction, and the locks of that must not outlive the drain.
pub async fn drain(pool: &PgPool, jobs: usize) -> Result<Duration> {
    let options = pool.connect_options().as_ref().clone().application_name(NAME);
    let own = PgPoolOptions::new()
        .max_connections(relevo_queue_bench::CONNECTIONS_MAX)
        .test_before_acquire(false)
        .connect_with(options)
        .await?;
    let drained = drain_on(&own, jobs).await;
    // Closing the pool would wait for whoever holds that connection.
    sqlx::query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = $1",
    )
    .bind(NAME)
    .execute(pool)
    .await?;
    drained
}

async fn drain_on(pool: &PgPool, jobs: usize) -> Result<Duration> {
    let countdown = Countdown { left: Arc::new(AtomicUsize::new(jobs)), done: Arc::default() };
    let done = countdown.done.clone();
    let worker = WorkerBuilder::new("peer")
        .backend(PostgresStorage::<u64>::new(pool).with_config(config()))
        .data(countdown)
        .build(noop);
    let acknowledged = pool.clone();
    let started = Instant::now();
    let end = async move {
        done.notified().await;
        loop {
            let left: i64 =
                sqlx::query_scalar("SELECT count(*) FROM apalis.jobs WHERE status <> 'Done'")
                    .fetch_one(&acknowledged)
                    .await
                    .map_err(std::io::Error::other)?;
            if left == 0 {
                return Ok::<(), std::io::Error>(());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    worker.run_until(end).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    Ok(started.elapsed())
}
