//! How a run of the import ends, in one control-plane transaction: its state, its log, and the job
//! that tells people.
//!
//! Killed here, then what? Before the commit nothing has happened and the job runs again; after it
//! the run has ended, and the reconciler cleans up.

use relevo_import::Certificate;
use relevo_jobs::{JobKind, Notify};
use relevo_queue::Job;
use relevo_runs::{LogLevel, Run, RunId, backup_requests, typed_job};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{progress::thousands, step::is_wanted};
use crate::context::Context;

/// Ends a run as failed; changes nothing when it has ended before.
pub(crate) async fn fail_in(
    context: &Context,
    tx: &mut PgConnection,
    run: &Run,
    reason: &str,
) -> anyhow::Result<()> {
    if !context.runs.fail_in(tx, run.id, reason).await? {
        return Ok(());
    }
    tracing::error!(run_id = run.id.0, source = run.source, "the run failed: {reason}");
    let message = format!("the run failed, the previous data are untouched: {reason}");
    context.runs.log_in(tx, run.id, LogLevel::Error, &message, &json!({})).await?;
    notify_in(context, tx, run).await
}

/// Ends a run as cancelled; changes nothing when it has ended before.
pub(crate) async fn cancel_in(
    context: &Context,
    tx: &mut PgConnection,
    run: &Run,
) -> anyhow::Result<()> {
    if !context.runs.cancel_in(tx, run.id).await? {
        return Ok(());
    }
    tracing::info!(run_id = run.id.0, source = run.source, "the run was cancelled");
    let message = "the run was cancelled, the previous data are untouched";
    context.runs.log_in(tx, run.id, LogLevel::Warn, message, &json!({})).await?;
    notify_in(context, tx, run).await
}

/// Ends a run with success; changes nothing when it has ended before.
pub(crate) async fn succeed_in(
    context: &Context,
    tx: &mut PgConnection,
    run: &Run,
    certificate: &Certificate,
) -> anyhow::Result<()> {
    let stats = json!({
        "rows": certificate.rows,
        "tables": certificate.tables.len(),
        "raw_bytes": certificate.dump.bytes,
        "import_duration_ms": certificate.duration_ms,
    });
    let stored: Value = serde_json::to_value(certificate)?;
    if !context.runs.succeed_in(tx, run.id, &stats, Some(&stored)).await? {
        return Ok(());
    }
    let message = format!(
        "the import is live: {} rows in {} tables of schema {}",
        thousands(certificate.rows),
        certificate.tables.len(),
        certificate.schema
    );
    tracing::info!(run_id = run.id.0, source = run.source, rows = certificate.rows, "{message}");
    context.runs.log_in(tx, run.id, LogLevel::Info, &message, &stats).await?;
    notify_in(context, tx, run).await
}

async fn notify_in(context: &Context, tx: &mut PgConnection, run: &Run) -> anyhow::Result<()> {
    let job = run.in_trace(typed_job(&Notify { run_id: run.id.0 }));
    context.queue.enqueue_in(tx, &[job]).await?;
    Ok(())
}

/// A job of the import has become a dead letter: its run fails in the same transaction.
///
/// Except under FinishImport, which may die after its cutover: whether the import is live only the
/// target knows, and the reconciler asks it.
pub(crate) async fn on_dead(
    context: &Context,
    tx: &mut PgConnection,
    job: &Job,
    error: &str,
) -> anyhow::Result<()> {
    if job.kind != JobKind::FinishImport.as_str()
        && let Some(run_id) = job.run_id
        && let Some(run) = context.runs.get_in(tx, RunId(run_id)).await?
        && is_wanted(&backup_requests::of_run_in(tx, run.id).await?, &job.payload)
    {
        let reason =
            format!("{} failed for good after {} attempt(s): {error}", job.kind, job.attempt);
        fail_in(context, tx, &run, &reason).await?;
    }
    context.run_ended.notify_one();
    Ok(())
}
