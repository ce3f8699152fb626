//! The worker: claims jobs from the queue and runs their handlers.
//!
//! | module | holds |
//! |---|---|
//! | `registry` | which handler runs which kind: one exhaustive match |
//! | `context` | what every handler may use |
//! | `observer` | the queue's events as metrics |
//! | `backup` | the steps of the backup import, and the reconciler that cleans up after them |
//! | `notify` | telling people how a run ended |
//! | `own` | kinds of somebody's own, and how others come to know what this worker runs |
//! | `noop` | a job that does nothing |
//! | `stopping` | what becomes of a job whose handler is told to stop |
//! | `targets`, `backoff` | pools of the targets; delays between attempts |
//!
//! A handler is written for being killed at any point: its effects on the control plane happen in
//! transactions that prove its lease, its effects on a target carry its fence, and what it leaves
//! on disk names the run it belongs to. Each module says what a kill at its steps leads to.

mod backoff;
mod backup;
mod context;
mod noop;
mod notify;
mod observer;
mod own;
mod registry;
mod stopping;
mod targets;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use relevo_jobs::KindSpec;
use relevo_pg::{PgError, PoolOptions};
use relevo_queue::{KnownKind, Listen, Queue, WorkerConfig};
use relevo_settings::{Database, InForce, Pooler, Settings};
use relevo_telemetry::{ReadyCheck, metrics::Metrics};
use sqlx::PgPool;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;

use crate::{context::Context, observer::QueueMetrics, registry::Registry};

pub use own::{Here, OwnKinds};

/// What a worker needs.
pub struct WorkerDeps {
    /// The control plane's database, migrated.
    pub pool: PgPool,
    /// What is configured, now and later; no target is `embedded:` any more.
    pub settings: InForce,
    /// Where this process counts.
    pub metrics: Arc<Metrics>,
    /// Shown with the worker's session.
    pub name: String,
    /// Kinds beside those of this build.
    pub own: OwnKinds,
    /// Where to serve `/metrics`, `/livez` and `/readyz`; `None` where the process serves them
    /// already.
    pub metrics_listen: Option<SocketAddr>,
}

/// Runs jobs until `shutdown`, then drains: handlers finish or stop at their next safe point, what
/// was claimed and not finished is given back.
///
/// # Errors
/// Settings that cannot work, a control plane that is not migrated, a metrics address that cannot
/// be listened on. Later trouble with a database ends no worker.
pub async fn run(deps: WorkerDeps, shutdown: CancellationToken) -> anyhow::Result<()> {
    let WorkerDeps { pool, settings: in_force, metrics, name, own, metrics_listen } = deps;
    let settings = in_force.now();
    let kinds = own.served(&settings.worker.kinds)?;
    for kind in &kinds {
        metrics.declare_job(&kind.queue, &kind.name);
    }
    declare_sources(&metrics, &settings);
    metrics.worker_slots.set(slots(settings.worker.concurrency));
    let (concurrency, concurrency_now) = watch::channel(settings.worker.concurrency);
    let config = WorkerConfig {
        concurrency_now: Some(concurrency_now),
        listen: listen(&settings.database)?,
        ..worker_config(&settings, name.clone(), &kinds)
    };
    let queue = Queue::new(pool.clone());
    let context =
        Arc::new(Context::new(pool.clone(), queue.clone(), in_force.clone(), metrics).await?);

    // Ends with this function however it ends.
    let beside = CancellationToken::new();
    let _stop_beside = beside.clone().drop_guard();
    if let Some(address) = metrics_listen {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("cannot listen on {address} for metrics"))?;
        let metrics = Arc::clone(&context.metrics);
        let served =
            relevo_telemetry::serve_metrics(listener, metrics, ready(pool), beside.clone());
        tokio::spawn(async move {
            if let Err(error) = served.await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the metrics server ended, this worker is not observed any more"
                );
            }
        });
    }
    tokio::spawn(own::publish_forever(context.pool.clone(), kinds, name, beside.clone()));
    let reconciler = tokio::spawn(backup::reconcile_forever(Arc::clone(&context), beside.clone()));
    let metrics = Arc::clone(&context.metrics);
    tokio::spawn(take_up_changes(in_force, concurrency, metrics, beside.clone()));
    let disk = tokio::spawn(notify::watch_disk(Arc::clone(&context), beside.clone()));

    let observer = Arc::new(QueueMetrics::new(Arc::clone(&context.metrics)));
    let registry = Arc::new(Registry::new(Arc::clone(&context), own));
    let stop = shutdown.child_token();
    let replaced = context.replaced.clone();
    let work = relevo_queue::run_worker(queue, config, registry, observer, stop.clone());
    let watch = async {
        replaced.cancelled().await;
        stop.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = work => ended?,
        () = watch => {}
    }

    beside.cancel();
    // Its steps are idempotent and bounded; a panic in it must not look like a failed drain.
    if let Err(error) = reconciler.await {
        tracing::error!(error = &error as &dyn std::error::Error, "the reconciler crashed");
    }
    if let Err(error) = disk.await {
        tracing::error!(error = &error as &dyn std::error::Error, "the watch of the disk crashed");
    }
    context.targets.close().await;
    if replaced.is_cancelled() {
        anyhow::bail!(
            "the control plane was restored from a backup while this worker ran; start it again"
        );
    }
    Ok(())
}

/// Creates the series of every source at zero.
fn declare_sources(metrics: &Metrics, settings: &Settings) {
    for source in settings.backup.keys() {
        metrics.declare_pipeline(relevo_runs::backup::PIPELINE, source);
    }
}

/// What changes with the settings while the worker runs, but for what handlers take from them: the
/// number of handlers at once, and the series of sources that are new.
async fn take_up_changes(
    in_force: InForce,
    concurrency: watch::Sender<usize>,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) {
    let mut versions = in_force.follow();
    loop {
        let settings = in_force.now();
        declare_sources(&metrics, &settings);
        let wanted = settings.worker.concurrency;
        metrics.worker_slots.set(slots(wanted));
        concurrency.send_if_modified(|now| std::mem::replace(now, wanted) != wanted);
        tokio::select! {
            () = stop.cancelled() => return,
            // It cannot end: this function holds a sender.
            _ = versions.changed() => {}
        }
    }
}

fn worker_config(settings: &Settings, name: String, kinds: &[KindSpec]) -> WorkerConfig {
    let worker = &settings.worker;
    let kinds = kinds
        .iter()
        .map(|kind| KnownKind {
            kind: kind.name.clone(),
            max_payload_version: kind.payload_version,
        })
        .collect();
    WorkerConfig {
        name,
        queues: worker.queues.clone(),
        queue_weights: worker.queue_weights.clone(),
        kinds,
        concurrency: worker.concurrency,
        lease_ttl: Duration::from_secs(worker.lease_ttl_seconds),
        poll_interval: Duration::from_millis(worker.poll_interval_ms),
        grace: Duration::from_secs(worker.grace_seconds),
        ..WorkerConfig::default()
    }
}

/// Where a worker listens: past a pooler, where there is one and a way.
fn listen(database: &Database) -> Result<Listen, PgError> {
    match (database.pooler, &database.direct_url) {
        (Pooler::None, _) => Ok(Listen::Pool),
        (Pooler::Transaction, None) => Ok(Listen::Nowhere),
        (Pooler::Transaction, Some(url)) => {
            let options = relevo_pg::connect::connect_options(url, &PoolOptions::default())?;
            Ok(Listen::At(Box::new(options)))
        }
    }
}

/// Ready means that the control plane answers.
fn ready(pool: PgPool) -> ReadyCheck {
    Arc::new(move || {
        let pool = pool.clone();
        Box::pin(async move {
            sqlx::query("-- worker::ready\nSELECT 1")
                .execute(&pool)
                .await
                .map(drop)
                .map_err(|_| "the control plane's database does not answer".to_owned())
        })
    })
}

#[expect(clippy::cast_precision_loss, reason = "nobody runs 2^53 handlers")]
fn slots(concurrency: usize) -> f64 {
    concurrency as f64
}
