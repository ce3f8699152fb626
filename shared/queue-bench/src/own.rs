//! Relevo itself, through the door its own workers use: sessions, leases, fences, history and
//! counting all on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::Result;
use relevo_queue::{
    BoxFuture, Finished, Handler, Job, JobError, KnownKind, NewJob, Observer, Queue, WorkerConfig,
    run_worker,
};
use sqlx::PgPool;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;

/// Counts what the metrics of a real worker would count.
struct Countdown {
    left: AtomicUsize,
    wait_us: AtomicU64,
    done: Notify,
}

impl Observer for Countdown {
    fn finished(&self, finished: &Finished<'_>) {
        let wait_us = u64::try_from(finished.wait.as_micros()).unwrap_or(u64::MAX);
        self.wait_us.fetch_add(wait_us, Ordering::Relaxed);
        if self.left.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.done.notify_one();
        }
    }
}

struct Noop {
    started: Option<mpsc::Sender<Instant>>,
}

impl Handler for Noop {
    fn run(&self, _: Job) -> BoxFuture<'static, Result<(), JobError>> {
        let started = self.started.clone();
        Box::pin(async move {
            if let Some(started) = started {
                started.send(Instant::now()).await?;
            }
            Ok(())
        })
    }
}

fn config() -> WorkerConfig {
    WorkerConfig {
        name: "bench".to_owned(),
        queues: vec!["default".to_owned()],
        kinds: vec![KnownKind { kind: "Noop".to_owned(), max_payload_version: 1 }],
        concurrency: 100,
        prefetch_max: 2000,
        ..WorkerConfig::default()
    }
}

/// A no-op job.
pub fn noop() -> Result<NewJob> {
    Ok(NewJob::new("Noop", &serde_json::json!({}))?)
}

/// Fills the queue with `jobs` no-op jobs in batches; the time it took.
pub async fn fill(pool: &PgPool, jobs: usize, batch: usize) -> Result<Duration> {
    sqlx::query("TRUNCATE relevo.job, relevo.job_history").execute(pool).await?;
    let queue = Queue::new(pool.clone());
    let chunk = vec![noop()?; batch];
    let started = Instant::now();
    for _ in 0..jobs / batch {
        queue.enqueue_many(&chunk).await?;
    }
    let elapsed = started.elapsed();
    sqlx::query("VACUUM ANALYZE relevo.job").execute(pool).await?;
    Ok(elapsed)
}

/// Drains the queue; the time from the worker's start to the last outcome in the database.
pub async fn drain(pool: &PgPool, jobs: usize) -> Result<Duration> {
    let countdown = Arc::new(Countdown {
        left: AtomicUsize::new(jobs),
        wait_us: AtomicU64::new(0),
        done: Notify::new(),
    });
    let shutdown = CancellationToken::new();
    let started = Instant::now();
    let worker = tokio::spawn(run_worker(
        Queue::new(pool.clone()),
        config(),
        Arc::new(Noop { started: None }),
        countdown.clone(),
        shutdown.clone(),
    ));
    countdown.done.notified().await;
    let elapsed = started.elapsed();
    shutdown.cancel();
    worker.await??;
    let completed: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM relevo.job_history WHERE state = 'completed' AND kind = 'Noop'",
    )
    .fetch_one(pool)
    .await?;
    anyhow::ensure!(usize::try_from(completed)? == jobs, "{completed} of {jobs} jobs in history");
    Ok(elapsed)
}

/// Time for `jobs` single enqueues, one after the other.
pub async fn enqueue_single(pool: &PgPool, jobs: i64) -> Result<Duration> {
    sqlx::query("TRUNCATE relevo.job, relevo.job_history").execute(pool).await?;
    let queue = Queue::new(pool.clone());
    let job = noop()?;
    let started = Instant::now();
    for _ in 0..jobs {
        queue.enqueue(job.clone()).await?;
    }
    Ok(started.elapsed())
}

/// Latency from enqueue to the handler's start, on an idle queue.
pub async fn latency(pool: &PgPool, samples: usize) -> Result<Vec<Duration>> {
    sqlx::query("TRUNCATE relevo.job").execute(pool).await?;
    let (started_out, mut started_in) = mpsc::channel(1);
    let shutdown = CancellationToken::new();
    let worker = tokio::spawn(run_worker(
        Queue::new(pool.clone()),
        config(),
        Arc::new(Noop { started: Some(started_out) }),
        Arc::new(relevo_queue::NoObserver),
        shutdown.clone(),
    ));
    let queue = Queue::new(pool.clone());
    let mut latencies = Vec::with_capacity(samples);
    // The first one waits for the session to open.
    for sample in 0..=samples {
        let enqueued = Instant::now();
        queue.enqueue(noop()?).await?;
        let started = started_in.recv().await.ok_or_else(|| anyhow::anyhow!("worker ended"))?;
        if sample > 0 {
            latencies.push(started.duration_since(enqueued));
        }
        tokio::time::sleep(crate::IDLE).await;
    }
    shutdown.cancel();
    worker.await??;
    Ok(latencies)
}
