//! RequestBackup: asking the gateway.
//!
//! What a call came to is one of three. The gateway answered: then its answer counts. It certainly
//! has not heard, since no connection was made: then it is asked again, soon at first, for as long
//! as the source's patience lasts. Or nobody knows, since the answer was lost or somebody on the way
//! reports trouble: then it may be making the backup, of which it keeps only two, and is given the
//! time that one takes before it is asked again, a few times in a run at most. All of this waiting
//! is snoozing: it spends none of the job's attempts.
//!
//! Killed here, then what?
//! - Before the request's row is committed: nothing was asked, the job runs again.
//! - While the gateway is called: that it may have been called was stored before, so the repeated
//!   job takes it for a lost answer and waits.
//! - After the answer, before it is recorded: the same. In webhook mode the webhook comes meanwhile.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use relevo_jobs::{BackupDeadline, RequestBackup, RequestMode};
use relevo_queue::{Job, JobError, full_jitter};
use relevo_runs::{
    LogLevel, Run,
    backup_requests::{self, AskMode, BackupRequest, Delivery, RequestState},
};
use relevo_settings::{BackupSource, GatewayMode, Settings, SourceKind};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::{
    gateway::{Answer, AskError, Gateway, ReadyBackup},
    offered::{offer, upload_of},
    progress::seconds,
    step::{Step, Stop, describe},
};
use crate::{backoff::ceiling, context::Context, stopping::stopped};

/// How long the gateway may take to accept a webhook request; it takes about a second.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(60);

/// Bounds of the pause before a gateway is tried again that was not reached.
const UNHEARD_PAUSE_BASE: Duration = Duration::from_secs(5);
const UNHEARD_PAUSE_CAP: Duration = Duration::from_secs(600);

/// How often one run calls a gateway without learning what came of it: each time may cost the shop
/// a backup.
const UNCLEAR_MAX: u32 = 5;

/// The longest wait after such a call.
const UNCLEAR_PAUSE_CAP: Duration = Duration::from_secs(3_600);

/// Note of a run: how asking for its current request stands.
const ASKING: &str = "asking";

/// How asking stands, as the run's notes keep it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(default)]
struct Asking {
    /// The request, for as long as the gateway has not answered it.
    request_id: Option<i64>,
    /// Calls in a row that certainly were not heard.
    unheard: u32,
    /// Calls of this run that may have been heard and were not answered.
    unclear: u32,
    /// The gateway is not called before this.
    not_before: Option<DateTime<Utc>>,
    /// What the last call came to, for people.
    last_error: Option<String>,
}

impl Asking {
    fn of(run: &Run) -> Self {
        let note = run.notes.get(ASKING);
        note.and_then(|note| serde_json::from_value(note.clone()).ok()).unwrap_or_default()
    }

    /// The gateway has answered: only how often it did not is remembered.
    fn answered(self) -> Self {
        Self { unclear: self.unclear, ..Self::default() }
    }

    async fn store_in(
        &self,
        step: &Step<'_>,
        tx: &mut PgConnection,
    ) -> Result<(), relevo_runs::RunError> {
        step.context.runs.merge_notes_in(tx, step.run.id, &json!({ ASKING: self })).await
    }
}

/// Until when a RequestBackup job itself looks after a request that the gateway has not answered,
/// if one does.
pub(crate) fn looked_after_until(run: &Run, request_id: i64) -> Option<DateTime<Utc>> {
    let asking = Asking::of(run);
    (asking.request_id == Some(request_id)).then_some(asking.not_before)?
}

/// How long to wait before round `round` of a run, after a backup that failed or was no good.
pub(crate) fn pause_before_round(source: &BackupSource, round: i32) -> Duration {
    let failures = u32::try_from(round.saturating_sub(1)).unwrap_or(1);
    ceiling(Duration::from_secs(source.retry_pause_seconds), UNCLEAR_PAUSE_CAP, failures)
}

/// How long the gateway is left alone after call number `unclear` of which nobody knows what came:
/// as long as a backup may take, then ever longer.
fn unclear_pause(source: &BackupSource, mode: AskMode, unclear: u32) -> Duration {
    let one_backup = Duration::from_secs(match mode {
        AskMode::Webhook => source.webhook_timeout_seconds,
        AskMode::Sync => source.sync_timeout_seconds,
    });
    ceiling(one_backup, UNCLEAR_PAUSE_CAP.max(one_backup), unclear)
}

/// How long a gateway that was not reached is left alone: half of it certain, half of it chance.
fn unheard_pause(unheard: u32) -> Duration {
    let half = ceiling(UNHEARD_PAUSE_BASE, UNHEARD_PAUSE_CAP, unheard) / 2;
    half + full_jitter(half)
}

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
    let asks = step.source.kind == SourceKind::Gateway && upload_of(&step.run).is_none();
    let obtain = async {
        if asks {
            ask(&step, payload, &mut opened).await
        } else {
            offer(&step, payload, &mut opened).await
        }
    };
    let outcome = tokio::select! {
        biased;
        () = job.cancelled().cancelled() => Err(Stop::Job(stopped(job))),
        outcome = obtain => outcome,
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
    let gateway = Gateway::of(step.source).map_err(|error| Stop::Run(describe(error.as_ref())))?;

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
    let mut asking = Asking::of(&run);
    let looked_after = asking.request_id == Some(request.id);
    // Accepted without an id of the gateway's own, a request still counts as asked.
    let accepted = request.token_issued_at.is_some() && !looked_after;
    if request.state != RequestState::Asked || accepted {
        tx.commit().await?;
        return Ok(());
    }
    let now = clock_in(&mut tx).await?;
    if looked_after
        && let Some(left) =
            asking.not_before.and_then(|not_before| (not_before - now).to_std().ok())
        && !left.is_zero()
    {
        tx.commit().await?;
        return Err(Stop::Job(JobError::snooze(left)));
    }
    if asking.unclear >= UNCLEAR_MAX {
        return Err(Stop::Run(unclear_for_good(&asking)));
    }
    // Stored before the call: who finds it after a crash takes the answer for lost.
    asking.unclear += 1;
    asking.request_id = Some(request.id);
    asking.not_before = later(now, unclear_pause(step.source, request.mode, asking.unclear));
    asking.last_error = None;
    asking.store_in(step, &mut tx).await?;
    let webhook_url = match request.mode {
        AskMode::Webhook => {
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
        Ok(Answer::Accepted { job_id }) => accepted_by_gateway(step, &request, job_id).await,
        Ok(Answer::Ready(backup)) => ready(step, &request, backup).await,
        Err(error) => failed(step, &request, error).await,
    }
}

/// This moment by the database's clock.
pub(crate) async fn clock_in(tx: &mut PgConnection) -> sqlx::Result<DateTime<Utc>> {
    sqlx::query_scalar("-- backup: clock\nSELECT clock_timestamp()").fetch_one(tx).await
}

fn later(now: DateTime<Utc>, pause: Duration) -> Option<DateTime<Utc>> {
    TimeDelta::from_std(pause).ok().and_then(|pause| now.checked_add_signed(pause))
}

fn unclear_for_good(asking: &Asking) -> String {
    format!(
        "the gateway was asked {} times without an answer, and each time may have made a backup that \
         nobody fetches: {}; see what stands between Relevo and the gateway, and what the gateway\
         \u{2019}s own log says",
        asking.unclear,
        asking.last_error.as_deref().unwrap_or("the worker was stopped while it waited"),
    )
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
async fn accepted_by_gateway(
    step: &Step<'_>,
    request: &BackupRequest,
    job_id: Option<String>,
) -> Result<(), Stop> {
    let context = step.context;
    let mut tx = context.fenced(step.job).await?;
    // The run first, then the request: everybody's order.
    let Some(run) = context.runs.get_for_update_in(&mut tx, step.run.id).await? else {
        return Ok(());
    };
    if run.state.is_ended() {
        return Ok(());
    }
    Asking::of(&run).answered().store_in(step, &mut tx).await?;
    // Without an id of the gateway's own, the token in the webhook's path is all there is to match.
    if let Some(job_id) = &job_id {
        backup_requests::answered_in(&mut tx, request.id, job_id).await?;
    }
    let message = "the gateway accepted the request and will call back";
    let fields = json!({ "request_id": request.id, "gateway_job_id": job_id });
    context.runs.log_in(&mut tx, run.id, LogLevel::Info, message, &fields).await?;
    if run.phase == "request" {
        let waiting = "waiting for the gateway's backup";
        context.runs.progress_in(&mut tx, run.id, 0, None, "bytes", waiting).await?;
    }
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
    let told = backup_requests::BY_GATEWAY;
    backup_requests::delivered_in(&mut tx, &context.queue, request.id, &delivery, told).await?;
    step.job.complete_in(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

async fn failed(step: &Step<'_>, request: &BackupRequest, error: AskError) -> Result<(), Stop> {
    match &error {
        AskError::Certificate(_)
        | AskError::KeyRefused(_)
        | AskError::Redirected { .. }
        | AskError::NotUnderstood { .. } => Err(Stop::Run(describe(&error))),
        AskError::Failed { .. } => {
            answered(step).await?;
            Err(Stop::Backup(describe(&error)))
        }
        AskError::Unreachable(_) | AskError::Busy => Err(unheard(step, &describe(&error)).await?),
        AskError::AnswerLost(_) | AskError::NoAnswer(_) | AskError::Unavailable(_) => {
            Err(unclear(step, request, &error).await?)
        }
    }
}

/// Notes that the gateway has answered, whatever it said.
async fn answered(step: &Step<'_>) -> Result<(), Stop> {
    let mut tx = step.context.fenced(step.job).await?;
    if let Some(run) = step.context.runs.get_for_update_in(&mut tx, step.run.id).await? {
        Asking::of(&run).answered().store_in(step, &mut tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Nothing is there, for this reason: it is tried again until the source's patience with this run
/// ends.
pub(crate) async fn unheard(step: &Step<'_>, why: &str) -> Result<Stop, Stop> {
    let context = step.context;
    let mut tx = context.fenced(step.job).await?;
    let Some(run) = context.runs.get_for_update_in(&mut tx, step.run.id).await? else {
        return Ok(Stop::Cancelled);
    };
    let now = clock_in(&mut tx).await?;
    let mut asking = Asking::of(&run);
    asking.unclear = asking.unclear.saturating_sub(1);
    asking.unheard += 1;
    let patience = Duration::from_secs(step.source.gateway_patience_seconds);
    let left = later(run.created_at, patience).and_then(|end| (end - now).to_std().ok());
    let Some(left) = left.filter(|left| !left.is_zero()) else {
        let tried = seconds((now - run.created_at).to_std().unwrap_or_default().as_secs_f64());
        return Ok(Stop::Run(format!(
            "{why}; it was tried {} times in {tried}; check that it is there and can be reached from \
             here, then start a new run",
            asking.unheard,
        )));
    };
    // The last try comes at the very end.
    let pause = unheard_pause(asking.unheard).min(left);
    asking.not_before = later(now, pause);
    asking.last_error = Some(why.to_owned());
    asking.store_in(step, &mut tx).await?;
    let message = format!("{why}; trying again in {}", seconds(pause.as_secs_f64()));
    let fields = json!({ "tries": asking.unheard, "pause_ms": millis(pause) });
    context.runs.log_in(&mut tx, run.id, LogLevel::Warn, &message, &fields).await?;
    tx.commit().await?;
    Ok(Stop::Job(JobError::snooze(pause)))
}

/// The gateway may be making the backup: it is given the time for it.
async fn unclear(step: &Step<'_>, request: &BackupRequest, error: &AskError) -> Result<Stop, Stop> {
    let context = step.context;
    let mut tx = context.fenced(step.job).await?;
    let Some(run) = context.runs.get_for_update_in(&mut tx, step.run.id).await? else {
        return Ok(Stop::Cancelled);
    };
    let mut asking = Asking::of(&run);
    asking.unheard = 0;
    asking.last_error = Some(describe(error));
    let in_vain = request.mode == AskMode::Sync && asking.unclear >= UNCLEAR_MAX;
    if in_vain {
        return Ok(Stop::Run(unclear_for_good(&asking)));
    }
    let pause = unclear_pause(step.source, request.mode, asking.unclear);
    asking.not_before = later(clock_in(&mut tx).await?, pause);
    asking.store_in(step, &mut tx).await?;
    let wait = seconds(pause.as_secs_f64());
    let what = match request.mode {
        AskMode::Webhook => format!("the webhook is waited for, {wait} at most"),
        AskMode::Sync => format!("it is asked again in {wait}"),
    };
    let message =
        format!("{}; the gateway may be making the backup all the same: {what}", describe(error));
    let fields =
        json!({ "request_id": request.id, "calls": asking.unclear, "pause_ms": millis(pause) });
    context.runs.log_in(&mut tx, run.id, LogLevel::Warn, &message, &fields).await?;
    tx.commit().await?;
    Ok(Stop::Job(JobError::snooze(pause)))
}

fn millis(pause: Duration) -> u64 {
    u64::try_from(pause.as_millis()).unwrap_or(u64::MAX)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_that_is_down_is_tried_for_hours() {
        let mut shortest = Duration::ZERO;
        for unheard in 1..=60 {
            let cap = ceiling(UNHEARD_PAUSE_BASE, UNHEARD_PAUSE_CAP, unheard);
            let pause = unheard_pause(unheard);
            assert!(pause >= cap / 2 && pause <= cap, "{pause:?} of {cap:?}");
            shortest += cap / 2;
        }
        assert!(shortest > Duration::from_secs(4 * 3_600), "{shortest:?}");
    }
}
