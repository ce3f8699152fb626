//! Notify: telling people how a run ended and what they should look at, one job for each channel.
//!
//! Killed here, then what? Who hears of it is decided in one transaction with the job's end, so each
//! channel gets its job once. A message may be sent twice: its id is the same both times.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use relevo_jobs::Notify;
use relevo_notify::alerts::{self, Condition, Rule};
use relevo_notify::{HEARTBEAT, Occasion, SendError, channels, message, plan, rules};
use relevo_queue::{BoxError, Job, JobError};
use relevo_runs::{LogLevel, Run, RunFilter, RunId, RunState};
use relevo_settings::Language;
use serde_json::json;
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::{context::Context, stopping::stopped};

/// How long one look at the disk and what follows from it may take.
const WATCH_TIMEOUT: Duration = Duration::from_secs(60);

/// How often a channel that is dead is told of again.
const CHANNEL_REPEAT: Duration = Duration::from_secs(24 * 3_600);

/// Runs a Notify job.
pub(crate) async fn notify(context: &Context, job: &Job, payload: &Notify) -> Result<(), JobError> {
    match (&payload.channel, payload.run_id, payload.alert_id) {
        (Some(channel), _, _) => tell(context, job, payload, channel).await,
        (None, Some(run), _) => announce_run(context, job, RunId(run)).await,
        (None, None, Some(alert)) => announce_alert(context, job, alert, payload.resolved).await,
        (None, None, None) => Err(JobError::fail("it names neither a run nor an alert")),
    }
}

/// Finds out who hears of a run's end.
async fn announce_run(context: &Context, job: &Job, id: RunId) -> Result<(), JobError> {
    let run = ended_run(context, id).await?;
    let plain = Occasion::Run(Box::new(run.clone()), None);
    let words = message::compose(&plain, "log", Language::En, &context.settings);
    tracing::info!(run_id = run.id.0, source = run.source, state = %run.state, "{}", words.text);
    let outlived = succeeded_since(context, &run).await?;
    let mut tx = context.fenced(job).await?;
    let (failing, tell) = match run.state {
        RunState::Failed if !context.settings.alerts.failed => (None, false),
        // A message that comes late must not open a state that a later success has ended.
        RunState::Failed if outlived => (None, true),
        RunState::Failed => {
            let raised = rules::run_failed_in(&mut tx, &context.settings, &run).await?;
            (Some(raised.id), raised.tell)
        }
        RunState::Succeeded => (rules::run_succeeded_in(&mut tx, &run).await?, true),
        RunState::Pending | RunState::Running | RunState::Cancelled => (None, true),
    };
    if tell {
        let jobs = plan::run_jobs(&context.settings, &run, failing);
        context.queue.enqueue_in(&mut tx, &jobs).await?;
    } else {
        tracing::info!(run_id = run.id.0, "people know already that this source keeps failing");
    }
    job.complete_in(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

async fn ended_run(context: &Context, id: RunId) -> Result<Run, JobError> {
    let Some(run) = context.runs.get(id).await? else {
        return Err(JobError::cancel(format!("there is no run {id}")));
    };
    if !run.state.is_ended() {
        return Err(JobError::cancel(format!("run {id} has not ended")));
    }
    Ok(run)
}

/// Whether a later run of the same source has succeeded.
async fn succeeded_since(context: &Context, run: &Run) -> Result<bool, JobError> {
    let filter = RunFilter {
        pipeline: Some(run.pipeline.clone()),
        source: Some(run.source.clone()),
        state: Some(RunState::Succeeded),
        limit: 1,
        ..RunFilter::default()
    };
    let newest = context.runs.list(&filter).await?;
    Ok(newest.first().is_some_and(|newest| newest.id > run.id))
}

/// Finds out who hears of an alert.
async fn announce_alert(
    context: &Context,
    job: &Job,
    id: i64,
    resolved: bool,
) -> Result<(), JobError> {
    let Some(alert) = alerts::get(&context.pool, id).await? else {
        return Err(JobError::cancel(format!("there is no alert {id}")));
    };
    let mut tx = context.fenced(job).await?;
    let jobs = plan::alert_jobs(&context.settings, &alert, resolved);
    context.queue.enqueue_in(&mut tx, &jobs).await?;
    job.complete_in(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

/// Sends the message to one channel.
async fn tell(context: &Context, job: &Job, payload: &Notify, name: &str) -> Result<(), JobError> {
    let alert = match payload.alert_id {
        Some(id) => alerts::get(&context.pool, id).await?,
        None => None,
    };
    let occasion = match (payload.run_id, alert) {
        (Some(run), alert) => Occasion::Run(Box::new(ended_run(context, RunId(run)).await?), alert),
        (None, Some(alert)) if payload.resolved => Occasion::Resolved(alert),
        (None, Some(alert)) => Occasion::Alert(alert),
        (None, None) => return Err(JobError::cancel("what it was to tell of is forgotten")),
    };
    let sent = async {
        if name == HEARTBEAT {
            let source = occasion.source().unwrap_or_default();
            return context.sender.heartbeat(source).await;
        }
        let channels = channels(&context.settings);
        match channels.iter().find(|channel| channel.name == name) {
            Some(channel) => context.sender.tell(channel, &occasion).await.map(|()| true),
            None => Ok(false),
        }
    };
    let sent = tokio::select! {
        biased;
        () = job.cancelled().cancelled() => return Err(stopped(job)),
        sent = sent => sent,
    };
    match sent {
        Ok(true) => {}
        Ok(false) => {
            return Err(JobError::cancel(format!("channel {name} is not configured any more")));
        }
        Err(error) => return Err(judged(error)),
    }
    let mut tx = context.fenced(job).await?;
    if let Some(id) = payload.run_id {
        let text = format!("the end of the run was told to channel {name}");
        context.runs.log_in(&mut tx, RunId(id), LogLevel::Debug, &text, &json!({})).await?;
    }
    // It takes messages again.
    let dead = alerts::resolve_in(&mut tx, &alerts::key(Rule::Channel, name)).await?;
    if let Some(alert) = dead {
        context.queue.enqueue_in(&mut tx, &[plan::alert_job(alert, true)]).await?;
    }
    job.complete_in(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

/// What becomes of a job whose message did not leave.
fn judged(error: SendError) -> JobError {
    if !error.is_transient() {
        return JobError::fail(anyhow!(error));
    }
    match error.retry_after() {
        Some(pause) => JobError::retry_after(anyhow!(error), pause),
        None => JobError::retry(anyhow!(error)),
    }
}

/// A message was given up: the other channels hear of that, once.
pub(crate) async fn on_dead(
    context: &Context,
    tx: &mut PgConnection,
    job: &Job,
    error: &str,
) -> Result<(), BoxError> {
    let payload: Notify = serde_json::from_str(job.payload.get())?;
    let Some(channel) = payload.channel else { return Ok(()) };
    let error: String = error.chars().take(500).collect();
    tracing::error!(channel, "a message was given up: {error}");
    let condition = Condition::new(Rule::Channel, channel, json!({"error": error}));
    let raised = alerts::raise_in(tx, &condition, Some(CHANNEL_REPEAT)).await?;
    if raised.tell {
        context.queue.enqueue_in(tx, &[plan::alert_job(raised.id, false)]).await?;
    }
    Ok(())
}

/// Looks at this host's disk until `stop`.
pub(crate) async fn watch_disk(context: Arc<Context>, stop: CancellationToken) {
    let host = rules::host();
    loop {
        let settings = context.now().settings;
        let pause = Duration::from_secs(settings.alerts.interval_seconds);
        let space = rules::space(&settings.data_dir).await;
        if let Some(space) = space {
            context.metrics.set_disk(space.free_bytes, space.total_bytes);
        }
        let look = rules::disk(&context.queue, &settings, &host, space);
        match tokio::time::timeout(WATCH_TIMEOUT, look).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                let error = relevo_errors::chain(&error);
                tracing::debug!(error, "the disk's state could not be written down");
            }
            Err(_) => tracing::debug!("the disk's state could not be written down in time"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
