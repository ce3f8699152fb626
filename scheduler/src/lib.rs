//! The scheduler: what is started by the clock, and the queue's upkeep.
//!
//! Any number of processes run it; one leads. The leader settles the slots of all schedules, stages
//! due jobs, takes back the jobs of dead workers, prunes what is old, and exports the figures that
//! are read from the database. The others ask every few seconds whether the office is free.
//!
//! A database that doesn't answer ends nothing here: each step is tried again, and a leader whose
//! lease has run out meanwhile stops by itself.

mod alerts;
mod figures;
pub mod fire;
mod firing;
pub mod lease;
pub mod schedule;
pub mod settle;
mod upkeep;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use relevo_queue::Queue;
use relevo_settings::InForce;
use relevo_telemetry::ReadyCheck;
use relevo_telemetry::metrics::Metrics;
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use relevo_runs::schedules::rhythm;

use crate::lease::Tenure;
use crate::watch::Wanted;

/// How long giving up the lease may take at the end.
const GIVE_UP_TIMEOUT: Duration = Duration::from_secs(3);

/// What a scheduler works with.
#[derive(Clone)]
pub struct SchedulerDeps {
    /// The control plane.
    pub pool: PgPool,
    /// Its queue.
    pub queue: Queue,
    /// The settings in force, now and later.
    pub settings: InForce,
    /// This process's figures.
    pub metrics: Arc<Metrics>,
    /// Where to serve `/metrics`, `/livez` and `/readyz`; `None` where the process serves them
    /// already.
    pub metrics_listen: Option<SocketAddr>,
}

/// Runs until `shutdown`: leads when the office is free, stands by otherwise.
///
/// # Errors
/// When a configured schedule makes no sense or the metrics address cannot be listened on; never
/// for a database that fails.
pub async fn run(deps: SchedulerDeps, shutdown: CancellationToken) -> anyhow::Result<()> {
    let versions = deps.settings.follow();
    let version = deps.settings.version();
    let lease_ttl = Duration::from_secs(version.settings.scheduler.lease_seconds);
    let (changed, wanted) =
        tokio::sync::watch::channel(Wanted::of(version).context("the schedules")?);
    let holder = holder();
    upkeep::declare(&deps.metrics);
    for schedule in wanted.borrow().schedules.iter() {
        deps.metrics.declare_schedule(&schedule.name);
    }
    // Ends with this function however it ends.
    let beside = CancellationToken::new();
    let _stop_beside = beside.clone().drop_guard();
    if let Some(address) = deps.metrics_listen {
        serve_metrics(&deps, address, beside.clone()).await?;
    }
    tokio::spawn(watch::run(versions, Arc::clone(&deps.metrics), changed, beside));
    let mut trouble = upkeep::Trouble::new("asking for leadership");
    while !shutdown.is_cancelled() {
        let asked = tokio::select! {
            () = shutdown.cancelled() => break,
            asked = tokio::time::timeout(lease_ttl, Tenure::begin(&deps.pool, &holder, lease_ttl)) => asked,
        };
        match upkeep::flatten(asked) {
            Ok(Some(tenure)) => {
                trouble.is_over();
                lead(&deps, wanted.clone(), tenure, &shutdown).await;
            }
            Ok(None) => trouble.is_over(),
            Err(error) => trouble.report(&error),
        }
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = tokio::time::sleep(lease_ttl / 3) => {}
        }
    }
    Ok(())
}

async fn serve_metrics(
    deps: &SchedulerDeps,
    address: SocketAddr,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("cannot listen on {address} for metrics"))?;
    let pool = deps.pool.clone();
    let ready: ReadyCheck = Arc::new(move || {
        let pool = pool.clone();
        Box::pin(async move {
            let answer = sqlx::query("-- scheduler_ready\nSELECT 1").execute(&pool).await;
            answer.map(drop).map_err(|_| "the control plane's database does not answer".to_owned())
        })
    });
    let served = relevo_telemetry::serve_metrics(listener, Arc::clone(&deps.metrics), ready, stop);
    tokio::spawn(async move {
        if let Err(error) = served.await {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the metrics server ended, this scheduler is not observed any more"
            );
        }
    });
    Ok(())
}

/// One tenure, from its beginning until the lease is lost or the process stops.
async fn lead(
    deps: &SchedulerDeps,
    wanted: tokio::sync::watch::Receiver<Wanted>,
    tenure: Tenure,
    shutdown: &CancellationToken,
) {
    let term = tenure.term;
    tracing::info!(term, "this process leads the schedulers");
    deps.metrics.scheduler_is_leader.set(1.0);
    deps.metrics.leader.set_leader_term(term);
    let over = shutdown.child_token();
    let (keeper, seen) = tokio::sync::watch::channel(tenure);
    let mut steps = JoinSet::new();
    steps.spawn(keep(deps.pool.clone(), keeper, over.clone()));
    steps.spawn(firing::run(deps.clone(), wanted, seen.clone(), over.clone()));
    steps.spawn(upkeep::run(deps.clone(), over.clone()));
    steps.spawn(upkeep::prune(deps.clone(), over.clone()));
    steps.spawn(figures::run(deps.clone(), over.clone()));
    steps.spawn(alerts::run(deps.clone(), over.clone()));
    while let Some(ended) = steps.join_next().await {
        // None of the steps ends before the tenure; one that panicked ends it, so that the
        // others don't go on without it.
        if let Err(error) = ended {
            tracing::error!(term, error = %error, "a step of the leader ended; the tenure ends");
        }
        over.cancel();
    }
    deps.metrics.scheduler_is_leader.set(0.0);
    deps.metrics.leader.clear();
    let tenure = seen.borrow().clone();
    match upkeep::flatten(tokio::time::timeout(GIVE_UP_TIMEOUT, tenure.give_up(&deps.pool)).await) {
        Ok(()) => tracing::info!(term, "this process no longer leads the schedulers"),
        Err(error) => tracing::warn!(
            term,
            error = %error,
            "the lease could not be given up; another scheduler leads when it has run out"
        ),
    }
}

/// Keeps the lease, and ends the tenure when it cannot be trusted any more.
async fn keep(pool: PgPool, keeper: tokio::sync::watch::Sender<Tenure>, over: CancellationToken) {
    let mut tenure = keeper.borrow().clone();
    let mut trouble = upkeep::Trouble::new("keeping the leader's lease");
    let pause = tenure.lease_ttl() / 3;
    loop {
        tokio::select! {
            () = over.cancelled() => return,
            () = tokio::time::sleep(pause.min(tenure.trusted_for())) => {}
        }
        // Bounded by the trust that is left: a hanging statement must not outlive it.
        let kept = tokio::time::timeout(tenure.trusted_for(), tenure.keep(&pool)).await;
        match upkeep::flatten(kept) {
            Ok(true) => {
                trouble.is_over();
                keeper.send_replace(tenure.clone());
            }
            Ok(false) => {
                tracing::warn!(term = tenure.term, "the leader's lease is lost");
                over.cancel();
                return;
            }
            Err(error) => trouble.report(&error),
        }
        if tenure.trusted_for().is_zero() {
            tracing::warn!(term = tenure.term, "the leader's lease ran out without an answer");
            over.cancel();
            return;
        }
    }
}

/// What people see of who leads.
fn holder() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    let host = if host.is_empty() { "unknown host" } else { host };
    format!("{host}, process {}", std::process::id())
}
