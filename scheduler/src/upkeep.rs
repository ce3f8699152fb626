//! The queue's upkeep: stage, rescue, prune. Each step is idempotent, so a second
//! leader for a moment does no harm.

use std::error::Error;
use std::fmt;
use std::time::{Duration, Instant};

use relevo_errors::chain;
use relevo_queue::{Poisoned, Rescued, Retention};
use relevo_runs::retention::{self, Keep};
use relevo_telemetry::metrics::Metrics;
use tokio::time::error::Elapsed;
use tokio_util::sync::CancellationToken;

use crate::{SchedulerDeps, schedule};

/// How long one staging or rescue may take before it is tried again.
const STEP_TIMEOUT: Duration = Duration::from_secs(60);

/// Connections of a pool that can spare one for the looks.
const KEEPS_ONE_OF: u32 = 5;

/// How often old things are deleted and partitions made ahead.
const PRUNE_PAUSE: Duration = Duration::from_secs(120);

/// Longer than any pause of upkeep.
const IDLE_MAX: Duration = Duration::from_secs(3600);

/// How long one pruning may take.
const PRUNE_TIMEOUT: Duration = Duration::from_secs(600);

/// Fires of schedules are kept for so many days, longer than jobs: one wants to look back a month.
const FIRES_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

const STEPS: [&str; 6] = ["look", "stage", "rescue", "prune", "figures", "alerts"];

/// Creates the series of every step at zero.
pub fn declare(metrics: &Metrics) {
    STEPS.iter().for_each(|step| metrics.declare_upkeep(step));
}

/// Stages and rescues until `over`: one statement per round says whether there is anything to do.
pub async fn run(deps: SchedulerDeps, over: CancellationToken) {
    let mut look = Step::new("look", STEP_TIMEOUT);
    let mut stage = Step::new("stage", STEP_TIMEOUT);
    let mut rescue = Step::new("rescue", STEP_TIMEOUT);
    // Kept from look to look while it works: a pool asks each connection that comes back, which
    // would double what an idle leader asks.
    let mut kept = None;
    while !over.is_cancelled() {
        let pause = Duration::from_millis(deps.settings.now().scheduler.upkeep_interval_ms);
        let looking = async {
            let connection = match &mut kept {
                Some(connection) => connection,
                none => none.insert(deps.pool.acquire().await?),
            };
            deps.queue.upkeep_due_on(connection).await
        };
        let due = look.run(&deps.metrics, &over, looking).await;
        if due.is_none() || deps.pool.options().get_max_connections() < KEEPS_ONE_OF {
            kept = None;
        }
        if due.is_some_and(|due| due.rescue) {
            let rescued = rescue.run(&deps.metrics, &over, deps.queue.rescue()).await;
            report(&deps.metrics, &rescued.unwrap_or_default());
        }
        let stage_in = due.and_then(|due| due.stage_in);
        if stage_in.is_some_and(|wait| wait.is_zero()) || due.is_some_and(|due| due.admit) {
            stage.run(&deps.metrics, &over, deps.queue.stage()).await;
        }
        // With nothing to do the next look may wait twice as long, unless a job is due before.
        let wait = match due {
            Some(due) if !due.rescue && !due.admit => {
                stage_in.unwrap_or(IDLE_MAX).clamp(pause, pause * 2)
            }
            _ => pause,
        };
        tokio::select! {
            () = over.cancelled() => {}
            () = tokio::time::sleep(wait) => {}
        }
    }
}

fn report(metrics: &Metrics, rescued: &Rescued) {
    let Rescued { sessions, jobs, poisoned, cancelled } = rescued;
    metrics.jobs_rescued.inc_by(*jobs);
    for Poisoned { id, queue, kind } in poisoned {
        metrics.dead_letters_moved.with_label_values(&[queue, kind]).inc();
        tracing::error!(
            job = id.0,
            queue,
            kind,
            "too many workers died under a job: a dead letter"
        );
    }
    if sessions + jobs + cancelled > 0 {
        tracing::warn!(sessions, jobs, cancelled, "the jobs of dead workers were taken back");
    }
}

/// Prunes until `over`, first of all at once: partitions for the days ahead must be there.
pub async fn prune(deps: SchedulerDeps, over: CancellationToken) {
    let days = |days: u32| Duration::from_secs(u64::from(days) * 24 * 3600);
    let mut step = Step::new("prune", PRUNE_TIMEOUT);
    while !over.is_cancelled() {
        let settings = deps.settings.now();
        let settings = &settings.scheduler;
        let keep = Retention { history: days(settings.history_retention_days), dead_letters: None };
        let keep_runs = Keep {
            runs: days(settings.run_retention_days),
            audit: days(settings.audit_retention_days),
        };
        let work = async {
            if settings.priority_ageing_minutes > 0 {
                let after = Duration::from_secs(settings.priority_ageing_minutes * 60);
                deps.queue.age(after).await?;
            }
            let gone = deps.queue.prune(keep).await?;
            let fires = schedule::prune_fires(&deps.pool, FIRES_KEPT).await?;
            let runs = retention::prune(&deps.pool, keep_runs).await?;
            Ok::<_, relevo_queue::QueueError>(gone + fires + runs)
        };
        if let Some(gone) = step.run(&deps.metrics, &over, work).await.filter(|gone| *gone > 0) {
            tracing::debug!(gone, "old jobs, fires, runs and audit lines were deleted");
        }
        tokio::select! {
            () = over.cancelled() => {}
            () = tokio::time::sleep(PRUNE_PAUSE) => {}
        }
    }
}

/// One step that is done again and again: timed, bounded, its failures counted and told once.
pub struct Step {
    name: &'static str,
    timeout: Duration,
    trouble: Trouble,
}

impl Step {
    /// A step of this name.
    pub fn new(name: &'static str, timeout: Duration) -> Self {
        Self { name, timeout, trouble: Trouble::new(name) }
    }

    /// Does it once; nothing comes back when it failed or the tenure is over.
    pub async fn run<T, E: Error + 'static>(
        &mut self,
        metrics: &Metrics,
        over: &CancellationToken,
        work: impl Future<Output = Result<T, E>>,
    ) -> Option<T> {
        let begun = Instant::now();
        let outcome = tokio::select! {
            () = over.cancelled() => return None,
            outcome = tokio::time::timeout(self.timeout, work) => flatten(outcome),
        };
        metrics
            .upkeep_seconds
            .with_label_values(&[self.name])
            .observe(begun.elapsed().as_secs_f64());
        match outcome {
            Ok(value) => {
                self.trouble.is_over();
                Some(value)
            }
            Err(error) => {
                metrics.upkeep_errors.with_label_values(&[self.name]).inc();
                self.trouble.report(&error);
                None
            }
        }
    }
}

/// An error, or a time that ran out.
#[derive(Debug)]
pub enum Failed<E> {
    /// It failed.
    Error(E),
    /// It took too long.
    Timeout,
}

impl<E: Error + 'static> fmt::Display for Failed<E> {
    /// The whole chain in one line, for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("no answer in time"),
            Self::Error(error) => f.write_str(&chain(error)),
        }
    }
}

/// One error out of two.
pub fn flatten<T, E>(outcome: Result<Result<T, E>, Elapsed>) -> Result<T, Failed<E>> {
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Failed::Error(error)),
        Err(_) => Err(Failed::Timeout),
    }
}

/// Tells a failure when it begins and when it is over, not at each repetition.
pub struct Trouble {
    what: &'static str,
    since: Option<Instant>,
}

impl Trouble {
    /// None yet.
    pub fn new(what: &'static str) -> Self {
        Self { what, since: None }
    }

    /// It failed.
    pub fn report(&mut self, error: &dyn fmt::Display) {
        if self.since.is_none() {
            self.since = Some(Instant::now());
            tracing::warn!(step = self.what, error = %error, "{} failed; it is tried again", self.what);
        }
    }

    /// It succeeded.
    pub fn is_over(&mut self) {
        if let Some(since) = self.since.take() {
            let lasted_seconds = since.elapsed().as_secs();
            tracing::info!(step = self.what, lasted_seconds, "{} works again", self.what);
        }
    }
}
