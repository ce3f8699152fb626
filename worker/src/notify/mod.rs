//! Notify: telling people how a run ended, by the log and by a webhook.
//!
//! Killed here, then what? The message may be sent twice: a receiver that minds looks at `run_id`.

mod message;

use std::error::Error;

use anyhow::anyhow;
use relevo_jobs::Notify;
use relevo_queue::{Job, JobError};
use relevo_runs::{LogLevel, RunId};
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::{context::Context, stopping::stopped};

/// Runs a Notify job.
pub(crate) async fn notify(context: &Context, job: &Job, payload: &Notify) -> Result<(), JobError> {
    let Some(run) = context.runs.get(RunId(payload.run_id)).await? else {
        return Err(JobError::cancel(format!("there is no run {}", payload.run_id)));
    };
    if !run.state.is_ended() {
        return Err(JobError::cancel(format!("run {} has not ended", run.id)));
    }
    let email = context.settings.notify.email.as_deref();
    let message = message::compose(&run, email);
    tracing::info!(run_id = run.id.0, source = run.source, state = %run.state, "{}", message.text);
    if context.settings.notify.webhook_url.is_none() {
        return Ok(());
    }
    tokio::select! {
        biased;
        () = job.cancelled().cancelled() => Err(stopped(job)),
        sent = send(context, &message) => match sent {
            Ok(()) => {
                let text = "the end of the run was told to the configured webhook";
                context.runs.log(run.id, LogLevel::Debug, text, &json!({})).await?;
                Ok(())
            }
            Err(error) => Err(error),
        },
    }
}

async fn send(context: &Context, message: &message::Message) -> Result<(), JobError> {
    let Some(url) = &context.settings.notify.webhook_url else { return Ok(()) };
    let sent = context.messenger.post(url.expose_secret()).json(&message.body).send().await;
    // Whoever knows the address can post to it: it appears in no error.
    let response = sent.map_err(|error| {
        let error = error.without_url();
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        JobError::retry(anyhow!("the notification webhook could not be reached{cause}"))
    })?;
    match response.status() {
        status if status.is_success() => Ok(()),
        status
            if status.is_server_error()
                || matches!(
                    status,
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT
                ) =>
        {
            Err(JobError::retry(anyhow!("the notification webhook answered HTTP {status}")))
        }
        status => Err(JobError::fail(anyhow!(
            "the notification webhook refused the message (HTTP {status}); check notify.webhook_url"
        ))),
    }
}
