//! RequestBackup: asking the gateway.
//!
//! Killed here, then what?
//! - Before the request's row is committed: nothing was asked, the job runs again.
//! - After a token was made for the webhook: the gateway may have been called. The repeated job
//!   does not call again, since the gateway keeps only two backups; the webhook comes, or the
//!   deadline job, stored with the row, asks again.
//! - In synchronous mode: nobody but the caller can learn of that backup, so it is asked for again.
//! - After the answer, before it is recorded: as for a lost answer, the same two cases.

use std::time::Duration;

use relevo_jobs::{BackupDeadline, RequestBackup, RequestMode};
use relevo_queue::{Job, JobError};
use relevo_runs::{
    LogLevel,
    backup_requests::{self, AskMode, BackupRequest, Delivery, RequestState},
};
use relevo_settings::{GatewayMode, Settings};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{
    gateway::{Answer, AskError, Gateway, ReadyBackup},
    step::{Step, Stop, describe},
};
use crate::{context::Context, stopping::stopped};

/// How long the gateway may take to accept a webhook request; it takes about a second.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(60);

/// How long to wait before asking again.
pub(crate) const PAUSE_BETWEEN_ROUNDS: Duration = Duration::from_secs(5);

/// Note of a run: the gateway certainly has not heard of this request, so it may be asked again.
const NOT_SENT: &str = "request_not_sent";

/// The longest that asking may take under these settings, the bookkeeping around it included.
pub(crate) fn ask_timeout_max(settings: &Settings) -> Duration {
    let longest = settings.backup.values().map(|source| source.sync_timeout_seconds).max();
    Duration::from_secs(longest.unwrap_or(0).saturating_add(120))
}

/// Runs a RequestBackup job.
pub(crate) async fn request_backup(
    context: &Context,
    job: &Job,
    payload: &RequestBackup,
) -> Result<(), JobError> {
    let Some(step) = Step::enter(context, job, payload.run_id).await? else { return Ok(()) };
    // At a drain it goes on: the synchronous answer may come within the grace.
    let mut opened = None;
    let outcome = tokio::select! {
        biased;
        () = job.cancelled().cancelled() => Err(Stop::Job(stopped(job))),
        outcome = ask(&step, payload, &mut opened) => outcome,
    };
    step.end(outcome, opened.as_ref()).await
}

async fn ask(
    step: &Step<'_>,
    payload: &RequestBackup,
    opened: &mut Option<BackupRequest>,
) -> Result<(), Stop> {
    let context = step.context;
    let mode = resolve(step, payload.mode)?;
    let gateway = Gateway::new(
        &step.source.gateway_url,
        &step.source.api_key,
        step.source.allow_http_fallback,
    )
    .map_err(|error| Stop::Run(describe(error.as_ref())))?;

    let mut tx = context.fenced(step.job).await?;
    let Some(run) = context.runs.get_for_update_in(&mut tx, step.run.id).await? else {
        return Ok(());
    };
    if run.state.is_ended() || run.cancel_requested {
        return Err(Stop::Cancelled);
    }
    context.runs.set_phase_in(&mut tx, run.id, "request").await?;
    let request = open_round_in(step, &mut tx, payload.round, mode, Duration::ZERO).await?;
    *opened = Some(request.clone());
    let not_sent = run.notes.get(NOT_SENT).and_then(Value::as_i64) == Some(request.id);
    let may_ask = request.state == RequestState::Asked
        && (request.mode == AskMode::Sync || request.token_issued_at.is_none() || not_sent);
    if !may_ask {
        tx.commit().await?;
        return Ok(());
    }
    let webhook_url = match request.mode {
        AskMode::Webhook => {
            context.runs.merge_notes_in(&mut tx, run.id, &json!({ NOT_SENT: null })).await?;
            let token = backup_requests::issue_token_in(&mut tx, request.id).await?;
            Some(format!("{}/webhook/backup-ready/{token}", public_url(context)?))
        }
        AskMode::Sync => None,
    };
    tx.commit().await?;

    let timeout = match request.mode {
        AskMode::Webhook => ACCEPT_TIMEOUT,
        AskMode::Sync => Duration::from_secs(step.source.sync_timeout_seconds),
    };
    let fields = json!({ "request_id": request.id, "mode": request.mode, "round": request.round });
    let message = format!("asking the gateway for a backup in {} mode", request.mode);
    step.log(LogLevel::Info, &message, fields).await;
    match gateway.ask(webhook_url.as_deref(), timeout).await {
        Ok(Answer::Accepted { job_id }) => accepted(step, &request, job_id).await,
        Ok(Answer::Ready(backup)) => ready(step, &request, backup).await,
        Err(error) => failed(step, &request, error).await,
    }
}

/// The request of a round, opened now or found as an earlier attempt left it; with a new webhook
/// request its deadline is stored, `pause` later than usual.
pub(crate) async fn open_round_in(
    step: &Step<'_>,
    tx: &mut PgConnection,
    round: i32,
    mode: AskMode,
    pause: Duration,
) -> anyhow::Result<BackupRequest> {
    let (request, created) = backup_requests::open_in(tx, step.run.id, round, mode).await?;
    if created && request.mode == AskMode::Webhook {
        let payload = BackupDeadline { run_id: step.run.id.0, request_id: request.id };
        let patience = Duration::from_secs(step.source.webhook_timeout_seconds);
        let deadline = Context::child(step.job, &payload).delay(patience + pause);
        step.context.queue.enqueue_in(tx, &[deadline]).await?;
    }
    Ok(request)
}

/// The gateway will call the webhook; it may have done so already.
async fn accepted(
    step: &Step<'_>,
    request: &BackupRequest,
    job_id: Option<String>,
) -> Result<(), Stop> {
    let context = step.context;
    let mut tx = context.fenced(step.job).await?;
    // Without an id of the gateway's own, the token in the webhook's path is all there is to match.
    if let Some(job_id) = &job_id {
        backup_requests::answered_in(&mut tx, request.id, job_id).await?;
    }
    let message = "the gateway accepted the request and will call back";
    let fields = json!({ "request_id": request.id, "gateway_job_id": job_id });
    context.runs.log_in(&mut tx, step.run.id, LogLevel::Info, message, &fields).await?;
    let waiting = "waiting for the gateway's backup";
    context.runs.progress_in(&mut tx, step.run.id, 0, None, "bytes", waiting).await?;
    step.job.complete_in(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

/// The answer is the delivery.
async fn ready(step: &Step<'_>, request: &BackupRequest, backup: ReadyBackup) -> Result<(), Stop> {
    let context = step.context;
    let gateway_url = &step.source.gateway_url;
    backup_requests::check_download_url(gateway_url, &backup.download_url).map_err(|error| {
        Stop::Run(format!("the gateway's answer is refused: {}", describe(&error)))
    })?;
    let delivery = Delivery {
        download_url: backup.download_url,
        filename: backup.filename,
        filesize_bytes: backup.filesize_bytes,
        filesize_mb: None,
        expires_at: backup
            .expires_at
            .and_then(|text| backup_requests::gateway_time(&text, step.source.timezone)),
    };
    let mut tx = context.fenced(step.job).await?;
    backup_requests::delivered_in(&mut tx, &context.queue, request.id, None, &delivery).await?;
    step.job.complete_in(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

async fn failed(step: &Step<'_>, request: &BackupRequest, error: AskError) -> Result<(), Stop> {
    let context = step.context;
    match &error {
        AskError::KeyRefused(_) | AskError::Redirected { .. } | AskError::NotUnderstood { .. } => {
            Err(Stop::Run(describe(&error)))
        }
        AskError::Failed { .. } => Err(Stop::Backup(describe(&error))),
        AskError::Unreachable(_) | AskError::Unavailable(_) => {
            let mut tx = context.fenced(step.job).await?;
            let note = json!({ NOT_SENT: request.id });
            context.runs.merge_notes_in(&mut tx, step.run.id, &note).await?;
            let message = format!("{}; trying again", describe(&error));
            let fields = json!({ "request_id": request.id, "attempt": step.job.attempt });
            context.runs.log_in(&mut tx, step.run.id, LogLevel::Warn, &message, &fields).await?;
            tx.commit().await?;
            Err(error.into())
        }
        AskError::AnswerLost(_) | AskError::NoAnswer(_) => match request.mode {
            AskMode::Webhook => {
                let message = format!(
                    "{}; the request may have arrived, so the webhook is waited for",
                    describe(&error)
                );
                step.log(LogLevel::Warn, &message, json!({ "request_id": request.id })).await;
                Ok(())
            }
            AskMode::Sync => Err(Stop::Backup(describe(&error))),
        },
    }
}

/// How a request really asks.
fn resolve(step: &Step<'_>, wanted: RequestMode) -> Result<AskMode, Stop> {
    let configured = match step.source.mode {
        GatewayMode::Auto => None,
        GatewayMode::Webhook => Some(AskMode::Webhook),
        GatewayMode::Sync => Some(AskMode::Sync),
    };
    let mode = match wanted {
        RequestMode::Auto => configured,
        RequestMode::Webhook => Some(AskMode::Webhook),
        RequestMode::Sync => Some(AskMode::Sync),
    };
    let public_url = &step.context.settings.api.public_url;
    match mode {
        None if public_url.is_some() => Ok(AskMode::Webhook),
        None | Some(AskMode::Sync) => Ok(AskMode::Sync),
        Some(AskMode::Webhook) => public_url_of(public_url.as_deref()).map(|_| AskMode::Webhook),
    }
}

/// How a later round asks: as before, and in synchronous mode at last.
pub(crate) fn mode_of_round(before: AskMode, round: i32) -> AskMode {
    match before {
        AskMode::Webhook if round < super::step::ROUNDS_MAX => AskMode::Webhook,
        AskMode::Webhook | AskMode::Sync => AskMode::Sync,
    }
}

fn public_url(context: &Context) -> Result<&str, Stop> {
    public_url_of(context.settings.api.public_url.as_deref())
}

fn public_url_of(configured: Option<&str>) -> Result<&str, Stop> {
    configured.map(|url| url.trim_end_matches('/')).ok_or_else(|| {
        Stop::Run(
            "webhook mode needs api.public_url (RELEVO_API_PUBLIC_URL), the address under which the \
             gateway reaches this API; set it, or use the synchronous mode"
                .to_owned(),
        )
    })
}
