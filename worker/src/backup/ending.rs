//! How a run of the import ends, in one control-plane transaction: its state, its log, and the job
//! that tells people.
//!
//! Killed here, then what? Before the commit nothing has happened and the job runs again; after it
//! the run has ended, and the reconciler cleans up.

use relevo_import::Certificate;
use relevo_jobs::Notify;
use relevo_queue::Job;
use relevo_runs::{
    LogLevel, Run, RunError, RunId, RunState, backup::PIPELINE, backup_requests, typed_job,
};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{progress::thousands, step::is_wanted};
use crate::context::Context;

/// The phase in which a cutover may be under way: from here on only the target knows whether the
/// new data are live.
pub(crate) const FINISH: &str = "finish";

/// What is known of the data that the target showed before the run.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Previous {
    /// They are what they were: no cutover was begun, or the target says that it did not happen.
    Untouched,
    /// A cutover was begun, and the target could not be asked what became of it.
    Unknown,
}

/// Ends a run as failed; false, and nothing changed, when it had ended before.
pub(crate) async fn fail_in(
    context: &Context,
    tx: &mut PgConnection,
    run: &Run,
    previous: Previous,
    reason: &str,
) -> anyhow::Result<bool> {
    if previous == Previous::Unknown {
        match context.runs.add_stats_in(tx, run.id, &Run::undecided()).await {
            Ok(()) | Err(RunError::Ended { .. } | RunError::NotFound(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !context.runs.fail_in(tx, run.id, reason).await? {
        return Ok(false);
    }
    tracing::error!(run_id = run.id.0, source = run.source, "the run failed: {reason}");
    let message = match previous {
        Previous::Untouched => {
            format!("the run failed, the previous data are untouched: {reason}")
        }
        Previous::Unknown => format!(
            "the run failed, and whether the target shows the previous data or the new ones is not \
             known: {reason}"
        ),
    };
    context.runs.log_in(tx, run.id, LogLevel::Error, &message, &json!({})).await?;
    notify_in(context, tx, run).await?;
    Ok(true)
}

/// Ends a run as failed because one of its jobs cannot go on, unless the run does not depend on that
/// job any more: who asks in vain for a backup that has come meanwhile stops nobody. False, and
/// nothing changed, then and when the run had ended before.
pub(crate) async fn fail_by_in(
    context: &Context,
    tx: &mut PgConnection,
    job: &Job,
    run_id: RunId,
    reason: &str,
) -> anyhow::Result<bool> {
    // The run first, then its requests: everybody's order.
    let Some(run) = context.runs.get_for_update_in(tx, run_id).await? else { return Ok(false) };
    let requests = backup_requests::of_run_in(tx, run.id).await?;
    if is_wanted(&requests, &job.kind, &job.payload) {
        return fail_in(context, tx, &run, Previous::Untouched, reason).await;
    }
    tracing::warn!(run_id = run.id.0, "the run goes on without {}: {reason}", job.kind);
    Ok(false)
}

/// What is due once the end of a run has committed: it is counted, and the reconciler cleans up.
pub(crate) fn ended(context: &Context, run: &Run, state: RunState) {
    let labels = [PIPELINE, &run.source, state.as_str()];
    context.metrics.pipeline_runs.with_label_values(&labels).inc();
    context.run_ended.notify_one();
}

/// Ends a run as cancelled; false, and nothing changed, when it had ended before.
pub(crate) async fn cancel_in(
    context: &Context,
    tx: &mut PgConnection,
    run: &Run,
) -> anyhow::Result<bool> {
    if !context.runs.cancel_in(tx, run.id).await? {
        return Ok(false);
    }
    tracing::info!(run_id = run.id.0, source = run.source, "the run was cancelled");
    let message = "the run was cancelled, the previous data are untouched";
    context.runs.log_in(tx, run.id, LogLevel::Warn, message, &json!({})).await?;
    notify_in(context, tx, run).await?;
    Ok(true)
}

/// Ends a run with success; false, and nothing changed, when it had ended before.
pub(crate) async fn succeed_in(
    context: &Context,
    tx: &mut PgConnection,
    run: &Run,
    certificate: &Certificate,
) -> anyhow::Result<bool> {
    let stats = json!({
        "rows": certificate.rows,
        "tables": certificate.tables.len(),
        "raw_bytes": certificate.dump.bytes,
        "import_duration_ms": certificate.duration_ms,
    });
    let stored: Value = serde_json::to_value(certificate)?;
    if !context.runs.succeed_in(tx, run.id, &stats, Some(&stored)).await? {
        return Ok(false);
    }
    let message = format!(
        "the import is live: {} rows in {} tables of schema {}",
        thousands(certificate.rows),
        certificate.tables.len(),
        certificate.schema
    );
    tracing::info!(run_id = run.id.0, source = run.source, rows = certificate.rows, "{message}");
    context.runs.log_in(tx, run.id, LogLevel::Info, &message, &stats).await?;
    notify_in(context, tx, run).await?;
    Ok(true)
}

async fn notify_in(context: &Context, tx: &mut PgConnection, run: &Run) -> anyhow::Result<()> {
    let job = run.in_trace(typed_job(&Notify::of_run(run.id.0)));
    context.queue.enqueue_in(tx, &[job]).await?;
    Ok(())
}

/// Why a run fails whose job was given up.
pub(crate) fn given_up(kind: &str, attempts: i32, error: &str) -> String {
    format!(
        "{kind} failed for good after {attempts} attempt(s): {error}; when that is mended, start a new \
         run"
    )
}

/// A job of the import has become a dead letter: its run fails in the same transaction.
///
/// Except in the run's last phase, in which a cutover may have happened: whether the import is live
/// only the target knows, and the reconciler asks it.
pub(crate) async fn on_dead(
    context: &Context,
    tx: &mut PgConnection,
    job: &Job,
    error: &str,
) -> anyhow::Result<()> {
    // The run first, then its requests: everybody's order. What it shows stands until the end of
    // this transaction.
    if let Some(run_id) = job.run_id
        && let Some(run) = context.runs.get_for_update_in(tx, RunId(run_id)).await?
        && run.pipeline == PIPELINE
        && run.phase != FINISH
        && is_wanted(&backup_requests::of_run_in(tx, run.id).await?, &job.kind, &job.payload)
    {
        let reason = given_up(&job.kind, job.attempt, error);
        if fail_in(context, tx, &run, Previous::Untouched, &reason).await? {
            // The queue commits as soon as this returns, and says nothing more.
            ended(context, &run, RunState::Failed);
        }
    }
    context.run_ended.notify_one();
    Ok(())
}
