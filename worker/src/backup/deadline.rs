//! BackupDeadline: what happens when no webhook came, or one that reports a failure.
//!
//! Killed here, then what? It decides and acts in one transaction, from the state it finds there:
//! repeated, it finds its decision made.

use chrono::{DateTime, TimeDelta, Utc};
use relevo_jobs::BackupDeadline;
use relevo_queue::{Job, JobError};
use relevo_runs::{
    RunState,
    backup_requests::{self, BackupRequest, RequestState},
};

use super::{
    ending,
    request::looked_after_until,
    step::{Step, Stop, next_round_in},
};
use crate::context::Context;

/// How long past its time a job that looks after a request may be silent.
const SILENCE_MAX: TimeDelta = TimeDelta::minutes(15);

/// How often such a request is looked at again.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(60);

/// Runs a BackupDeadline job.
pub(crate) async fn backup_deadline(
    context: &Context,
    job: &Job,
    payload: &BackupDeadline,
) -> Result<(), JobError> {
    let Some(step) = Step::enter(context, job, payload.run_id).await? else { return Ok(()) };
    let outcome = look_after(&step, payload.request_id).await;
    step.end(outcome, None).await
}

async fn look_after(step: &Step<'_>, request_id: i64) -> Result<(), Stop> {
    let context = step.context;
    let mut tx = context.fenced(step.job).await?;
    // The run first, then the request: everybody's order.
    let Some(run) = context.runs.get_for_update_in(&mut tx, step.run.id).await? else {
        return Ok(());
    };
    let Some(request) = backup_requests::get_for_update_in(&mut tx, request_id).await? else {
        return Err(Stop::Job(JobError::cancel(format!("there is no request {request_id}"))));
    };
    let reason = match request.state {
        RequestState::Delivered | RequestState::Expired => return Ok(()),
        RequestState::Failed => format!(
            "the gateway reports a failed backup: {}",
            request.error.as_deref().unwrap_or("no reason given")
        ),
        RequestState::Asked | RequestState::Answered => {
            let now: DateTime<Utc> = sqlx::query_scalar("-- backup_deadline: clock\nSELECT now()")
                .fetch_one(&mut *tx)
                .await?;
            // A gateway that has not answered yet is asked again by the job that asked it; should
            // that job be gone, its silence does not last.
            if request.state == RequestState::Asked
                && let Some(until) = looked_after_until(&run, request.id)
                && now < until + SILENCE_MAX
            {
                return Err(Stop::Job(JobError::snooze(LOOK_AGAIN)));
            }
            let patience_seconds = step.source.webhook_timeout_seconds;
            if let Some(left) = time_left(&request, patience_seconds, now) {
                return Err(Stop::Job(JobError::snooze(left)));
            }
            format!(
                "no webhook came within {patience_seconds} s; check that {} can be reached from \
                 the gateway",
                context.settings.api.public_url.as_deref().unwrap_or("api.public_url")
            )
        }
    };
    let ended = next_round_in(step, &mut tx, &request, &reason).await?;
    step.job.complete_in(&mut tx).await?;
    tx.commit().await?;
    if ended {
        ending::ended(context, &step.run, RunState::Failed);
    }
    Ok(())
}

/// How long the gateway still has, counted from when it may have heard of the request last.
fn time_left(
    request: &BackupRequest,
    patience_seconds: u64,
    now: DateTime<Utc>,
) -> Option<std::time::Duration> {
    let since = request.answered_at.or(request.token_issued_at).unwrap_or(request.asked_at);
    let patience = TimeDelta::try_seconds(i64::try_from(patience_seconds).ok()?)?;
    (since + patience - now).to_std().ok().filter(|left| !left.is_zero())
}
