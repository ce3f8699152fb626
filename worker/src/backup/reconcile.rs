//! The reconciler: ends runs that nobody works for, and cleans up after ended ones.
//!
//! Every worker runs it every ten seconds and whenever one of its own handlers has ended a run; an
//! advisory lock lets one at a time work on runs and targets, each sweeps its own disk. A pass
//! looks at what is there, never at a hint, and each of its steps can be repeated.
//!
//! | found | done |
//! |---|---|
//! | an active run somebody wants cancelled | its import is abandoned, the run cancelled |
//! | an active run with a dead letter, or without any job left | abandoned, the run failed |
//! | the same, but the target says the import is live | the run succeeds with the target's certificate |
//! | an active run from before a restore | the same: as its target says, else failed |
//! | an ended run, not cleaned | its jobs are cancelled, staging schemas and chunks removed |
//! | files and chunks of ended runs, on this disk | removed |
//! | uploads that were loaded or have expired | removed |
//!
//! Killed here, then what? The connection closes and the lock with it; the next pass, here or in
//! another worker, finds the same things.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use relevo_import::{Certificate, steps};
use relevo_jobs::JobKind;
use relevo_queue::{JobFilter, JobState};
use relevo_runs::{Run, RunState, backup::PIPELINE, backup_requests, control_plane, uploads};
use sqlx::{Connection as _, PgConnection};
use tokio_util::sync::CancellationToken;

use super::{
    ending::{self, FINISH, Previous},
    request::clock_in,
    run_names::RunKey,
    step::{describe, import_id, is_wanted},
    sweep::{sweep_disk, sweep_targets},
};
use crate::context::Context;

/// How long the control plane may take to say who reconciles.
const LOCK_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause between two passes.
const EVERY: Duration = Duration::from_secs(15);

/// How often all unfinished imports of a target are compared with the runs, beside the clean-up
/// after each run.
const SWEEP_TARGETS_EVERY: Duration = Duration::from_secs(3_600);

/// Key of the advisory lock: "relevorc" in ASCII.
const LOCK_KEY: i64 = 0x7265_6c65_766f_7263;

/// How long a run whose cutover may have happened waits for its target to be reachable again.
const UNDECIDED_MAX: Duration = Duration::from_secs(3_600);

/// How many ended runs one pass cleans up after.
const CLEAN_PER_PASS: u32 = 20;

/// The states of a job that somebody still will, or does, work on.
const UNFINISHED: [JobState; 5] = [
    JobState::Scheduled,
    JobState::Waiting,
    JobState::Available,
    JobState::Running,
    JobState::Retryable,
];

/// What one process's reconciler remembers between passes; nothing that matters.
#[derive(Default)]
pub(crate) struct Memory {
    /// Targets that could not be reached, and when to try them again.
    unreachable: BTreeMap<String, (Instant, u32)>,
    /// When the targets were swept.
    swept: Option<Instant>,
}

/// Reconciles until `shutdown`.
pub(crate) async fn reconcile_forever(context: Arc<Context>, shutdown: CancellationToken) {
    let mut memory = Memory::default();
    loop {
        let pass = Box::pin(async {
            let context = context.now_with_connections().await;
            reconcile(&context, &mut memory).await
        });
        let outcome = tokio::select! {
            () = shutdown.cancelled() => return,
            outcome = pass => outcome,
        };
        if let Err(error) = outcome {
            tracing::warn!(
                error = error.as_ref() as &dyn std::error::Error,
                "a pass of the reconciler failed and will be repeated"
            );
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = context.run_ended.notified() => {}
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

/// One pass.
async fn reconcile(context: &Context, memory: &mut Memory) -> anyhow::Result<()> {
    if control_plane::identity(&context.pool).await? != context.identity {
        tracing::error!(
            "the control plane was restored from a backup since this worker was started: it stops, \
             and is to be started again"
        );
        context.replaced.cancel();
        return Ok(());
    }
    // A connection of its own, outside the pool: the lock ends with it, however this ends. It is a
    // transaction's, since behind a pooler a session is nobody's; it waits for as long as a pass is.
    let mut lock = relevo_pg::connect_beside(&context.pool).await?;
    sqlx::raw_sql("BEGIN").execute(&mut lock).await?;
    let locked = sqlx::query_scalar(
        "-- reconcile: lock
         SELECT pg_try_advisory_xact_lock($1)
         FROM set_config('idle_in_transaction_session_timeout', '0', true)",
    )
    .bind(LOCK_KEY)
    .fetch_one(&mut lock);
    let locked: bool = tokio::time::timeout(LOCK_TIMEOUT, locked)
        .await
        .context("the control plane does not answer")??;
    let outcome = if locked { with_lock(context, memory).await } else { Ok(()) };
    lock.close().await?;
    outcome?;
    sweep_disk(context).await
}

async fn with_lock(context: &Context, memory: &mut Memory) -> anyhow::Result<()> {
    for run in context.runs.active().await? {
        if run.pipeline == PIPELINE
            && let Some(ending) = wanted_ending(context, &run).await?
            && let Err(error) = end(context, memory, &run, ending).await
        {
            // The other runs need not wait for this one's target.
            tracing::warn!(
                run_id = run.id.0,
                error = error.as_ref() as &dyn std::error::Error,
                "the run cannot be ended yet"
            );
        }
    }
    let waiting = memory.waiting();
    for run in context.runs.uncleaned(PIPELINE, &waiting, CLEAN_PER_PASS).await? {
        clean(context, memory, &run).await?;
    }
    if memory.swept.is_none_or(|at| at.elapsed() > SWEEP_TARGETS_EVERY) {
        memory.swept = Some(Instant::now());
        sweep_targets(context, memory).await?;
    }
    let removed = uploads::sweep(&context.pool, &context.uploads).await?;
    if removed > 0 {
        tracing::info!("removed {removed} uploaded file(s) that no run needs any more");
    }
    Ok(())
}

/// How an active run has to end.
enum Ending {
    Cancelled,
    Failed(String),
}

/// Whether an active run has to end, and how: wanted cancelled, a job of it dead, or no job left.
async fn wanted_ending(context: &Context, run: &Run) -> anyhow::Result<Option<Ending>> {
    if run.cancel_requested {
        return Ok(Some(Ending::Cancelled));
    }
    if is_of_the_past(context, run) {
        let reason = "it was under way when the control plane's state was backed up, which was \
                      restored since; start a new run";
        return Ok(Some(Ending::Failed(reason.to_owned())));
    }
    let steps = JobKind::ALL.into_iter().filter(|kind| is_step(*kind));
    let filter = JobFilter {
        kinds: steps.map(|kind| kind.as_str().to_owned()).collect(),
        limit: Some(100),
        ..JobFilter::run(run.id.0)
    };
    if let Some(reason) = given_up(context, run, &filter).await? {
        return Ok(Some(Ending::Failed(reason)));
    }
    let unfinished = JobFilter { states: UNFINISHED.to_vec(), limit: Some(1), ..filter.clone() };
    if !context.queue.jobs(&unfinished).await?.is_empty() {
        return Ok(None);
    }
    // A job that became a dead letter between the two looks was seen by neither.
    if let Some(reason) = given_up(context, run, &filter).await? {
        return Ok(Some(Ending::Failed(reason)));
    }
    // A job that ends enqueues its successor, or ends the run, in the same transaction: whoever
    // finds neither has found a run that was left alone, unless it ended between the two looks.
    let run_now = context.runs.get(run.id).await?;
    if run_now.is_none_or(|run| run.state.is_ended()) {
        return Ok(None);
    }
    let reason =
        "no job works for this run any more: it was cancelled or discarded; start a new run";
    Ok(Some(Ending::Failed(reason.to_owned())))
}

/// Why a step of the run was given up, if one was.
async fn given_up(
    context: &Context,
    run: &Run,
    steps: &JobFilter,
) -> anyhow::Result<Option<String>> {
    let dead = context.queue.dead_letters(steps).await?;
    if dead.is_empty() {
        return Ok(None);
    }
    let requests = backup_requests::of_run(&context.pool, run.id).await?;
    let dead = dead.iter().find(|dead| is_wanted(&requests, &dead.kind, &dead.payload));
    Ok(dead.map(|dead| {
        let error = dead.last_error.as_deref().unwrap_or("no reason was recorded");
        ending::given_up(&dead.kind, dead.attempt, error)
    }))
}

/// Whether a run began before the control plane was restored: what is known of it is old, and its
/// cutover may have happened since.
fn is_of_the_past(context: &Context, run: &Run) -> bool {
    run.incarnation < context.identity.incarnation
}

/// Whether jobs of this kind carry a run of the import forward.
fn is_step(kind: JobKind) -> bool {
    match kind {
        JobKind::RequestBackup
        | JobKind::DownloadDump
        | JobKind::TranslateChunk
        | JobKind::FinishImport
        | JobKind::BackupDeadline => true,
        JobKind::Notify | JobKind::Noop => false,
    }
}

/// Ends a run. Where a cutover may be under way or done, the target decides: abandoned there first,
/// an import is either stopped for good or live.
async fn end(
    context: &Context,
    memory: &mut Memory,
    run: &Run,
    ending: Ending,
) -> anyhow::Result<()> {
    // What was read of the run may be old by now. Its row is locked by who enters the last phase
    // too: a run that is found outside of it never cuts over any more once this has committed.
    let mut tx = context.pool.begin().await?;
    let Some(run) = context.runs.get_for_update_in(&mut tx, run.id).await? else { return Ok(()) };
    if run.state.is_ended() {
        return Ok(());
    }
    if run.phase != FINISH && !is_of_the_past(context, &run) {
        let state = end_in(context, &mut tx, &run, None, Previous::Untouched, ending).await?;
        tx.commit().await?;
        state.inspect(|state| ending::ended(context, &run, *state));
        return Ok(());
    }
    // No lock is held while a target is asked, which may take long; nobody leaves this phase.
    tx.rollback().await?;
    let (certificate, previous, ending) = match abandon_all(context, memory, &run).await {
        Ok(certificate) => (certificate, Previous::Untouched, ending),
        Err(error) => {
            let now = clock_in(&mut *context.pool.acquire().await?).await?;
            let undecided = (now - run.updated_at).to_std().unwrap_or_default();
            if undecided < UNDECIDED_MAX {
                return Err(error.context(format!(
                    "run {} has to end, but whether its cutover happened only its target knows",
                    run.id
                )));
            }
            let reason = format!(
                "the run was to end, and its target has not been reachable for {} min to say \
                 whether the cutover had happened; look into its table relevo_ledger.import: {}",
                UNDECIDED_MAX.as_secs() / 60,
                describe(error.as_ref())
            );
            (None, Previous::Unknown, Ending::Failed(reason))
        }
    };
    let mut tx = context.pool.begin().await?;
    let state = end_in(context, &mut tx, &run, certificate, previous, ending).await?;
    tx.commit().await?;
    state.inspect(|state| ending::ended(context, &run, *state));
    Ok(())
}

/// Ends a run in a transaction; how, if it had not ended before.
async fn end_in(
    context: &Context,
    tx: &mut PgConnection,
    run: &Run,
    certificate: Option<Certificate>,
    previous: Previous,
    ending: Ending,
) -> anyhow::Result<Option<RunState>> {
    let (ended, state) = match (certificate, ending) {
        (Some(certificate), _) => {
            (ending::succeed_in(context, tx, run, &certificate).await?, RunState::Succeeded)
        }
        (None, Ending::Cancelled) => {
            (ending::cancel_in(context, tx, run).await?, RunState::Cancelled)
        }
        (None, Ending::Failed(reason)) => {
            (ending::fail_in(context, tx, run, previous, &reason).await?, RunState::Failed)
        }
    };
    Ok(ended.then_some(state))
}

/// Abandons every import of a run in its target; the certificate of one that is live already. Once
/// the run has ended, what the cutover left to do for that one is done too.
async fn abandon_all(
    context: &Context,
    memory: &mut Memory,
    run: &Run,
) -> anyhow::Result<Option<Certificate>> {
    let Some(source) = context.source(&run.source) else {
        anyhow::bail!("source {:?} is not configured here", run.source);
    };
    memory.may_try(&run.source)?;
    let abandoned = async {
        let target = context
            .targets
            .pool(&run.source, source.map_err(|error| anyhow!(describe(error)))?)
            .await
            .with_context(|| format!("the target of {:?} cannot be reached", run.source))?;
        let mut live = None;
        for request in backup_requests::of_run(&context.pool, run.id).await? {
            let import = import_id(context, RunKey::from(run), request.id)?;
            steps::abandon(&target, &import, "its run has ended").await?;
            if let Some(certificate) = steps::certificate(&target, &import).await? {
                if run.state.is_ended() {
                    steps::settle(&target, &import).await?;
                }
                live = Some(certificate);
            }
        }
        anyhow::Ok(live)
    };
    let outcome = abandoned.await;
    match &outcome {
        Ok(_) => memory.reached(&run.source),
        Err(_) => memory.could_not_reach(&run.source),
    }
    outcome
}

/// Cleans up after an ended run.
async fn clean(context: &Context, memory: &mut Memory, run: &Run) -> anyhow::Result<()> {
    if memory.may_try(&run.source).is_err() {
        // Another run of the source has just failed at it.
        return Ok(());
    }
    cancel_jobs(context, run).await?;
    if context.source(&run.source).is_none() {
        // A worker that knows the source finds what is left when it searches the target.
        tracing::warn!(
            run_id = run.id.0,
            "source {:?} is not configured here: its target is not cleaned up",
            run.source
        );
    } else if let Err(error) = abandon_all(context, memory, run).await {
        // The other runs' leftovers need not wait for this target.
        tracing::warn!(
            run_id = run.id.0,
            error = error.as_ref() as &dyn std::error::Error,
            "the run's leftovers in its target cannot be removed yet"
        );
        return Ok(());
    }
    context.chunks.delete_all(RunKey::from(run)).await?;
    context.runs.mark_cleaned(run.id).await?;
    tracing::debug!(run_id = run.id.0, "nothing is left of the run but what it achieved");
    Ok(())
}

/// Cancels what still waits or runs for an ended run, the message to people excepted.
async fn cancel_jobs(context: &Context, run: &Run) -> anyhow::Result<()> {
    let steps = JobKind::ALL.into_iter().filter(|kind| is_step(*kind));
    let mut filter = JobFilter {
        kinds: steps.map(|kind| kind.as_str().to_owned()).collect(),
        states: UNFINISHED.to_vec(),
        limit: Some(500),
        ..JobFilter::run(run.id.0)
    };
    loop {
        let jobs = context.queue.jobs(&filter).await?;
        let Some(last) = jobs.last() else { return Ok(()) };
        filter.before = Some(last.id);
        for job in &jobs {
            context.queue.cancel(job.id, "its run has ended").await?;
        }
    }
}

impl Memory {
    /// Whether it is time to try a target again.
    pub(crate) fn may_try(&self, source: &str) -> anyhow::Result<()> {
        match self.unreachable.get(source) {
            Some((again, _)) if Instant::now() < *again => {
                anyhow::bail!("the target of {source:?} could not be reached a moment ago")
            }
            _ => Ok(()),
        }
    }

    /// The sources whose targets are left alone for now.
    fn waiting(&self) -> Vec<String> {
        self.unreachable.keys().filter(|name| self.may_try(name).is_err()).cloned().collect()
    }

    pub(crate) fn reached(&mut self, source: &str) {
        self.unreachable.remove(source);
    }

    pub(crate) fn could_not_reach(&mut self, source: &str) {
        let failures = self.unreachable.get(source).map_or(1, |(_, failures)| failures + 1);
        let pause = crate::backoff::ceiling(EVERY, Duration::from_secs(600), failures);
        self.unreachable.insert(source.to_owned(), (Instant::now() + pause, failures));
    }
}
