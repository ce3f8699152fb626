//! `relevo api`, `relevo worker`, `relevo scheduler`: one service in this process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::future::BoxFuture;
use relevo_api::ApiDeps;
use relevo_queue::Queue;
use relevo_runs::Runs;
use relevo_scheduler::SchedulerDeps;
use relevo_settings::{InForce, Loaded, Settings};
use relevo_telemetry::metrics::{Metrics, PoolUse};
use relevo_worker::{OwnKinds, WorkerDeps};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::{ServeArgs, WorkerArgs};
use crate::commands::console;
use crate::failure::{Advise as _, Exit, Failure, OrFail as _};
use crate::{control, embedded, reload, shutdown};

/// A service that comes up beside its control plane waits so long for it.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// How often it looks.
const WAIT_PAUSE: Duration = Duration::from_millis(500);

/// What the database sees of an API, whose sessions are bounded as requests are.
pub const API: &str = "relevo-api";

/// How often a worker that ends when it is idle looks whether it is.
const IDLE_PAUSE: Duration = Duration::from_millis(250);

/// How long closing the connections may take at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// What every service works with.
pub struct Base {
    /// The settings of the start, with real addresses.
    pub settings: Arc<Settings>,
    /// The settings in force, which follow the file.
    in_force: InForce,
    /// The control plane.
    pub pool: PgPool,
    /// The same for answering requests, by connections that nothing else waits for.
    requests: PgPool,
    /// This process's figures.
    pub metrics: Arc<Metrics>,
    /// Kinds of jobs beside those of this build.
    own: OwnKinds,
}

impl Base {
    /// Over an open pool.
    pub fn new(settings: Settings, file: Option<PathBuf>, pool: PgPool) -> Self {
        let metrics = Metrics::new();
        watch(&metrics, "control_plane", pool.clone());
        let in_force = InForce::new(settings, file);
        let own = OwnKinds::default();
        Self { settings: in_force.now(), in_force, requests: pool.clone(), pool, metrics, own }
    }

    /// With a pool for requests, apart from that of the other services.
    pub fn answering_by(self, requests: PgPool) -> Self {
        watch(&self.metrics, "requests", requests.clone());
        Self { requests, ..self }
    }

    /// With kinds for the worker beside those of this build.
    pub fn with_kinds(self, own: OwnKinds) -> Self {
        Self { own, ..self }
    }

    /// Takes up changes of the file that this process was `started` with, until `stop`.
    pub fn follow_file(&self, started: Loaded, stop: &CancellationToken) {
        tokio::spawn(reload::watch(started, self.in_force.clone(), stop.clone()));
    }

    /// The API on this listener.
    pub fn api(&self, listener: TcpListener, stop: CancellationToken) -> Service {
        let deps = ApiDeps {
            pool: self.requests.clone(),
            queue: Queue::new(self.requests.clone()),
            runs: Runs::new(self.requests.clone()),
            settings: self.in_force.clone(),
            metrics: Arc::clone(&self.metrics),
            next_slots: relevo_scheduler::rhythm::next_slots,
        };
        Service::new("api", relevo_api::serve(deps, listener, stop))
    }

    /// The worker; it serves its own figures where an address is given.
    pub fn worker(&self, metrics_listen: Option<SocketAddr>, stop: CancellationToken) -> Service {
        let deps = WorkerDeps {
            pool: self.pool.clone(),
            settings: self.in_force.clone(),
            metrics: Arc::clone(&self.metrics),
            name: format!("worker-{}", std::process::id()),
            own: self.own.clone(),
            metrics_listen,
        };
        Service::new("worker", relevo_worker::run(deps, stop))
    }

    /// The scheduler; it serves its own figures where an address is given.
    pub fn scheduler(
        &self,
        metrics_listen: Option<SocketAddr>,
        stop: CancellationToken,
    ) -> Service {
        let deps = SchedulerDeps {
            pool: self.pool.clone(),
            queue: Queue::new(self.pool.clone()),
            settings: self.in_force.clone(),
            metrics: Arc::clone(&self.metrics),
            metrics_listen,
        };
        Service::new("scheduler", relevo_scheduler::run(deps, stop))
    }

    /// Runs services until they were told to stop and have ended. When one ends without being
    /// told, all stop, and the exit code tells.
    pub async fn run(
        self,
        services: Vec<Service>,
        stop: &CancellationToken,
    ) -> Result<(), Failure> {
        let grace = self.settings.worker.grace_seconds + self.settings.api.drain_seconds;
        let grace = Duration::from_secs(grace);
        let outcome = shutdown::within_grace(join(services, stop), stop, grace).await;
        // A connection that doesn't close in time is closed by the end of the process.
        let closed = async { tokio::join!(self.requests.close(), self.pool.close()) };
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
        outcome
    }
}

fn watch(metrics: &Metrics, name: &'static str, pool: PgPool) {
    metrics.watch_pool(name, move || PoolUse {
        open: pool.size(),
        idle: u32::try_from(pool.num_idle()).unwrap_or(u32::MAX),
        max: pool.options().get_max_connections(),
    });
}

/// A service that is about to run.
pub struct Service {
    name: &'static str,
    work: BoxFuture<'static, anyhow::Result<()>>,
}

impl Service {
    fn new<E: Into<anyhow::Error> + 'static>(
        name: &'static str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) -> Self {
        Self { name, work: Box::pin(async move { work.await.map_err(Into::into) }) }
    }
}

async fn join(services: Vec<Service>, stop: &CancellationToken) -> Result<(), Failure> {
    let mut running = JoinSet::new();
    for Service { name, work } in services {
        running.spawn(async move { (name, work.await) });
    }
    let mut failure = None;
    while let Some(ended) = running.join_next().await {
        let problem = match ended {
            Ok((_, Ok(()))) if stop.is_cancelled() => None,
            Ok((name, Ok(()))) => {
                Some(Failure::new(Exit::Failed, format!("the {name} ended without being told to")))
            }
            Ok((name, Err(error))) => Some(error.context(format!("the {name} failed")).into()),
            Err(error) => Some(anyhow::Error::from(error).context("a service crashed").into()),
        };
        if let Some(problem) = problem {
            let problem: Failure = problem;
            if !stop.is_cancelled() {
                tracing::error!("{}; everything stops", problem.line());
            }
            failure.get_or_insert(problem);
        }
        stop.cancel();
    }
    failure.map_or(Ok(()), Err)
}

/// Listens for HTTP, with what to do when that is refused.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, Failure> {
    TcpListener::bind(address)
        .await
        .with_context(|| format!("can't listen on {address}"))
        .or_exit(Exit::Configuration)
        .advise("another program may use the port; choose another by --listen or api.listen")
}

/// Sets up logs and traces as configured; `role` says what the process does.
pub fn telemetry(settings: &Settings, role: &str) -> Result<(), Failure> {
    relevo_telemetry::init_logging(&settings.telemetry).or_exit(Exit::Configuration)?;
    relevo_telemetry::trace::init(&settings.telemetry, role).or_exit(Exit::Configuration)
}

/// Lets a flag override a key, where it was given.
pub fn flag(
    loaded: &mut Loaded,
    key: &str,
    value: Option<impl ToString>,
    flag: &str,
) -> Result<(), Failure> {
    match value {
        Some(value) => loaded.set_flag(key, &value.to_string(), flag).or_exit(Exit::Configuration),
        None => Ok(()),
    }
}

/// Finds, opens and checks the control plane for a service, waiting a while for one that is just
/// being started. None when the process was told to stop meanwhile.
async fn open(
    loaded: &Loaded,
    application: &str,
    stop: &CancellationToken,
) -> Result<Option<Base>, Failure> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        let mut settings = loaded.settings.clone();
        let failure = match try_open(&mut settings, application).await {
            Ok(pool) => return Ok(Some(Base::new(settings, loaded.file.clone(), pool))),
            Err(failure) => failure,
        };
        if !failure.may_pass() || begun.elapsed() > WAIT_MAX {
            return Err(failure);
        }
        if !told {
            tracing::warn!(
                wait_max_seconds = WAIT_MAX.as_secs(),
                "waiting for the control plane: {}",
                failure.line()
            );
            told = true;
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(WAIT_PAUSE) => {}
        }
    }
}

async fn try_open(settings: &mut Settings, application: &str) -> Result<PgPool, Failure> {
    embedded::find_into(settings).await?;
    let pool = if application == API {
        control::connect_for_requests(settings, application).await?
    } else {
        control::connect(settings, application, settings.database.max_connections).await?
    };
    control::require_for_service(&pool).await?;
    Ok(pool)
}

/// Runs `relevo api`.
pub async fn api(config: Option<&Path>, args: ServeArgs) -> Result<(), Failure> {
    let mut loaded = control::load(config)?;
    flag(&mut loaded, "api.listen", args.listen, "--listen")?;
    telemetry(&loaded.settings, "api")?;
    let stop = shutdown::on_signal()?;
    let listener = listen(loaded.settings.api.listen).await?;
    let Some(base) = open(&loaded, API, &stop).await? else { return Ok(()) };
    console::keep_address(&base.settings, &listener);
    base.follow_file(loaded, &stop);
    let service = base.api(listener, stop.clone());
    base.run(vec![service], &stop).await
}

/// Runs `relevo worker`.
pub async fn worker(config: Option<&Path>, args: WorkerArgs, own: OwnKinds) -> Result<(), Failure> {
    let mut loaded = control::load(config)?;
    flag(&mut loaded, "worker.metrics_listen", args.listen, "--listen")?;
    flag(&mut loaded, "worker.concurrency", args.concurrency, "--concurrency")?;
    let queues = (!args.queues.is_empty()).then(|| args.queues.join(","));
    flag(&mut loaded, "worker.queues", queues, "--queues")?;
    let kinds = (!args.kinds.is_empty()).then(|| args.kinds.join(","));
    flag(&mut loaded, "worker.kinds", kinds, "--kinds")?;
    telemetry(&loaded.settings, "worker")?;
    let stop = shutdown::on_signal()?;
    let Some(base) = open(&loaded, "relevo-worker", &stop).await? else { return Ok(()) };
    let base = base.with_kinds(own);
    base.follow_file(loaded, &stop);
    if let Some(seconds) = args.until_idle {
        let idle = Duration::from_secs(seconds.into());
        tokio::spawn(end_when_idle(Arc::clone(&base.metrics), idle, stop.clone()));
    }
    let service = base.worker(base.settings.worker.metrics_listen, stop.clone());
    base.run(vec![service], &stop).await
}

/// Tells a worker to stop when it has had nothing to do for so long: it runs nothing, and has claimed
/// nothing since.
async fn end_when_idle(metrics: Arc<Metrics>, idle: Duration, stop: CancellationToken) {
    let mut last = (0, 0);
    let mut since = Instant::now();
    while since.elapsed() < idle {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(IDLE_PAUSE) => {}
        }
        let (claimed, ended) = metrics.jobs_taken();
        if claimed > ended || (claimed, ended) != last {
            last = (claimed, ended);
            since = Instant::now();
        }
    }
    tracing::info!(idle_seconds = idle.as_secs(), "nothing to do: the worker ends");
    stop.cancel();
}

/// Runs `relevo scheduler`.
pub async fn scheduler(config: Option<&Path>, args: ServeArgs) -> Result<(), Failure> {
    let mut loaded = control::load(config)?;
    flag(&mut loaded, "scheduler.metrics_listen", args.listen, "--listen")?;
    control::check_schedules(&loaded.settings)?;
    telemetry(&loaded.settings, "scheduler")?;
    let stop = shutdown::on_signal()?;
    let Some(base) = open(&loaded, "relevo-scheduler", &stop).await? else { return Ok(()) };
    base.follow_file(loaded, &stop);
    let service = base.scheduler(base.settings.scheduler.metrics_listen, stop.clone());
    base.run(vec![service], &stop).await
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ends in order when told to.
    fn obedient(stop: &CancellationToken) -> Service {
        let stop = stop.clone();
        Service::new("obedient", async move {
            stop.cancelled().await;
            Ok::<_, anyhow::Error>(())
        })
    }

    #[tokio::test]
    async fn when_one_service_fails_all_stop_and_it_is_named() {
        let stop = CancellationToken::new();
        let failing = Service::new("failing", async { Err::<(), _>(anyhow::anyhow!("no luck")) });
        let failure = join(vec![obedient(&stop), failing], &stop).await.expect_err("fails");
        assert_eq!(failure.exit(), Exit::Failed);
        assert_eq!(failure.line(), "the failing failed: no luck");
        assert!(stop.is_cancelled());
    }

    async fn crash() -> anyhow::Result<()> {
        panic!("as asked")
    }

    #[tokio::test]
    async fn a_service_that_ends_or_crashes_untold_is_a_failure_too() {
        for (service, part) in [
            (Service::new("lazy", async { Ok::<_, anyhow::Error>(()) }), "without being told"),
            (Service::new("crashing", crash()), "crashed"),
        ] {
            let stop = CancellationToken::new();
            let failure = join(vec![obedient(&stop), service], &stop).await.expect_err("fails");
            assert!(failure.line().contains(part), "{}", failure.line());
        }
    }

    #[tokio::test]
    async fn services_that_are_told_to_end_are_no_failure() {
        let stop = CancellationToken::new();
        stop.cancel();
        let services = vec![obedient(&stop), obedient(&stop)];
        assert!(join(services, &stop).await.is_ok());
    }
}
