//! `/work`: workers in other languages. They open a session with the kinds they run, claim jobs,
//! show that they live, and say what became of each job.
//!
//! Killed here, then what? A worker that dies stops its heartbeats, and its jobs are taken back as
//! those of any worker. This process keeps nothing between two requests: a session goes on with
//! whichever process is asked next.

mod opening;
mod schemas;

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use relevo_jobs::KindSpec;
use relevo_queue::{
    JobId, KnownKind, Outcome, Progress, REMOTE_JOBS_MAX, RemoteClaimed, RemoteClaims,
    RemoteEnding, RemoteJob, RemoteLease, RemoteOutcome, RemoteSession, RemoteSettled, SessionId,
    full_jitter,
};
use relevo_runs::api_keys::Scope;
use relevo_runs::kinds as published;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::Instant;

use crate::app::App;
use crate::auth::{Caller, Work};
use crate::error::ApiError;
use crate::extract::{Body, Named};
use crate::openapi::schema::{
    array, boolean, count, described, id, input, integer, named, nullable, object, word,
};
use crate::openapi::{Operation, Routes};

pub(crate) use schemas::leased_job_schema;

/// Most kinds of one worker.
const KINDS_MAX: usize = 100;
/// Most queues that a worker names.
const QUEUES_MAX: usize = 100;
/// Most jobs that a worker holds at once.
const SLOTS_MAX: i32 = 1_000;
/// How long a heartbeat holds leases, unless the worker says otherwise.
const LEASE_SECONDS: u16 = 30;
/// The longest that a claim is kept waiting.
const WAIT_SECONDS_MAX: u8 = 20;
/// How often a claim that waits looks again; half of it is random.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// A worker is told that a job's time is up; so much later its lease is taken from it.
const OVERDUE_GRACE: Duration = Duration::from_secs(15);
/// The longest delay that a worker may ask for.
const DELAY_SECONDS_MAX: u32 = 30 * 24 * 3_600;

pub(super) fn routes() -> Routes {
    let opened = Operation::post("/api/v1/work/sessions", "openWorkSession", "Begin as a worker")
        .describe(
            "Publishes the kinds that the worker runs, each with the JSON Schema of its payload, \
             and opens a session. Only the API key that opened it may use it.",
        )
        .needs(Scope::Work)
        .body(schemas::open())
        .answer(
            200,
            "The session.",
            object([
                ("session", id()),
                ("lease_seconds", count()),
                ("heartbeat_seconds", described(count(), "Send one at least this often.")),
            ]),
        )
        .problem(422, "invalid_kind");
    let claimed = Operation::post("/api/v1/work/claim", "claimWork", "Take jobs")
        .describe(
            "Waits up to `wait_seconds` for a job. `claim` is a number that rises with every claim \
             of a session: a claim whose answer was lost is repeated with the same number and \
             brings the same jobs.",
        )
        .needs(Scope::Work)
        .body(input(
            [("session", id()), ("claim", integer(1, i64::MAX))],
            [
                ("max", nullable(integer(1, 100))),
                ("wait_seconds", integer(0, i64::from(WAIT_SECONDS_MAX))),
            ],
        ))
        .answer(200, "Jobs, or none.", object([("jobs", array(named("LeasedJob")))]))
        .problem(409, "session_ended")
        .problem(409, "claim_superseded");
    let beaten = Operation::post("/api/v1/work/heartbeat", "beatWork", "Show that a worker lives")
        .describe("Holds every lease of the session, and answers which jobs are to stop and why.")
        .needs(Scope::Work)
        .body(input([("session", id())], [("draining", boolean())]))
        .answer(
            200,
            "What is to stop.",
            object([(
                "stop",
                array(object([
                    ("id", id()),
                    ("epoch", id()),
                    ("reason", word(["cancelled", "timeout"])),
                ])),
            )]),
        )
        .problem(409, "session_ended");
    let finished = Operation::post("/api/v1/work/finish", "finishWork", "Say what became of jobs")
        .describe(
            "What is still held is written, and may be sent again when the answer was lost. \
             Where a lease is lost the answer is 409 with the ids in `stale` and those written in \
             `written`: another worker may be running these jobs.",
        )
        .needs(Scope::Work)
        .body(schemas::finish())
        .answer(
            200,
            "All of it is written.",
            object([("written", array(id())), ("repeated", array(id()))]),
        )
        .problem(409, "lease_lost");
    let moved = Operation::post("/api/v1/work/progress", "progressWork", "Say how far a job is")
        .needs(Scope::Work)
        .body(input(
            [("session", id()), ("id", id()), ("epoch", id()), ("done", integer(0, i64::MAX))],
            [
                ("total", nullable(integer(0, i64::MAX))),
                ("unit", schemas::short(100)),
                ("message", schemas::short(1_000)),
            ],
        ))
        .empty(204, "It is stored.")
        .problem(409, "lease_lost");
    let ended =
        Operation::post("/api/v1/work/sessions/{id}/end", "endWorkSession", "End as a worker")
            .describe("What the session still holds goes back to the queue and spends no attempt.")
            .needs(Scope::Work)
            .answer(200, "It is over.", object([("session", id()), ("ended", boolean())]));
    Routes::new("Workers")
        .add(opened, opening::open)
        .add(claimed, claim)
        .add(beaten, beat)
        .add(finished, finish)
        .add(moved, progress)
        .add(ended, end)
}

fn unfit(what: &str) -> ApiError {
    ApiError::unprocessable("invalid_body", what)
}

fn owner(caller: &Caller<Work>) -> String {
    format!("api key {}", caller.key.id)
}

fn session_ended(session: SessionId) -> ApiError {
    ApiError::conflict(
        "session_ended",
        "the session is over, or another key's; stop its jobs and open a new one",
    )
    .with("session", session.0)
}

/// The kinds of a session, as it was opened with.
fn kinds_of(session: &RemoteSession) -> Result<Vec<KindSpec>, ApiError> {
    let kinds: Vec<opening::KindBody> =
        serde_json::from_value(session.declared["kinds"].clone()).map_err(ApiError::internal)?;
    Ok(kinds.iter().map(opening::KindBody::spec).collect())
}

async fn session_of(
    app: &App,
    caller: &Caller<Work>,
    id: SessionId,
) -> Result<(RemoteSession, Vec<KindSpec>), ApiError> {
    let session = app.queue.remote_session(&owner(caller), id).await?;
    let session = session.ok_or_else(|| session_ended(id))?;
    let kinds = kinds_of(&session)?;
    Ok((session, kinds))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimBody {
    session: SessionId,
    claim: i64,
    #[serde(default)]
    max: Option<usize>,
    #[serde(default)]
    wait_seconds: u8,
}

#[derive(Serialize)]
struct ClaimAnswer {
    jobs: Vec<RemoteJob>,
}

async fn claim(
    caller: Caller<Work>,
    State(app): State<App>,
    Body(body): Body<ClaimBody>,
) -> Result<Response, ApiError> {
    let max = body.max.unwrap_or(1);
    if body.claim < 1 || !(1..=REMOTE_JOBS_MAX).contains(&max) {
        return Err(unfit("claim is a number from 1, max is 1 to 100"));
    }
    if body.wait_seconds > WAIT_SECONDS_MAX {
        return Err(unfit("wait_seconds is at most 20"));
    }
    let (session, kinds) = session_of(&app, &caller, body.session).await?;
    let known: Vec<KnownKind> = kinds
        .iter()
        .map(|kind| KnownKind {
            kind: kind.name.clone(),
            max_payload_version: kind.payload_version,
        })
        .collect();
    let claims = RemoteClaims::new(&known, &session.queues);
    let until = Instant::now() + Duration::from_secs(body.wait_seconds.into());
    loop {
        let jobs = match app.queue.claim_remote(&session, &claims, body.claim, max).await? {
            RemoteClaimed::Jobs(jobs) => jobs,
            RemoteClaimed::SessionEnded => return Err(session_ended(session.id)),
            RemoteClaimed::Superseded => {
                return Err(ApiError::conflict(
                    "claim_superseded",
                    "a claim of this session with a higher number came before",
                ));
            }
        };
        if !jobs.is_empty() || !wait_for_work(&app, &session, &claims, until).await? {
            for job in &jobs {
                let queue = if kinds.iter().any(|kind| kind.queue == job.queue) {
                    job.queue.as_str()
                } else {
                    "other"
                };
                app.metrics.jobs_claimed.with_label_values(&[queue]).inc();
            }
            return Ok(Json(ClaimAnswer { jobs }).into_response());
        }
    }
}

/// False when there was nothing until then.
async fn wait_for_work(
    app: &App,
    session: &RemoteSession,
    claims: &RemoteClaims,
    until: Instant,
) -> Result<bool, ApiError> {
    loop {
        let look = Instant::now() + LOOK_INTERVAL / 2 + full_jitter(LOOK_INTERVAL / 2);
        if look > until {
            return Ok(false);
        }
        tokio::select! {
            () = tokio::time::sleep_until(look) => {}
            () = app.stopping.cancelled() => return Ok(false),
        }
        if app.queue.has_remote_work(session, claims).await? {
            return Ok(true);
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BeatBody {
    session: SessionId,
    #[serde(default)]
    draining: bool,
}

async fn beat(
    caller: Caller<Work>,
    State(app): State<App>,
    Body(body): Body<BeatBody>,
) -> Result<Response, ApiError> {
    let (session, kinds) = session_of(&app, &caller, body.session).await?;
    let leases = app.queue.beat_remote(&session.owner, session.id, body.draining).await?;
    let leases = leases.ok_or_else(|| session_ended(session.id))?;
    published::publish(&app.pool, &kinds, &session.name).await?;
    let timeout = |lease: &RemoteLease| {
        kinds.iter().find(|kind| kind.name == lease.kind).map(|kind| kind.timeout)
    };
    let (mut stop, mut overdue) = (Vec::new(), Vec::new());
    for lease in &leases {
        let time = timeout(lease);
        if time.is_some_and(|time| lease.held > time + OVERDUE_GRACE) {
            overdue.push(RemoteOutcome {
                id: lease.id,
                epoch: lease.epoch,
                ending: RemoteEnding::Retry {
                    error: format!("timed out after {} s", time.unwrap_or_default().as_secs()),
                    after: None,
                },
            });
        }
        let reason = if lease.is_cancelled {
            "cancelled"
        } else if time.is_some_and(|time| lease.held > time) {
            "timeout"
        } else {
            continue;
        };
        stop.push(json!({"id": lease.id, "epoch": lease.epoch, "reason": reason}));
    }
    if !overdue.is_empty() {
        let report =
            app.queue.settle_remote(&session.owner, session.id, &overdue, &backoff(&kinds)).await?;
        count_settled(&app, &kinds, &report.settled);
    }
    Ok(Json(json!({"stop": stop})).into_response())
}

fn backoff(kinds: &[KindSpec]) -> impl Fn(&str) -> (Duration, Duration) + Sync {
    move |name| {
        let policy = relevo_jobs::Policy::OF_OWN_KINDS;
        let found = kinds.iter().find(|kind| kind.name == name);
        found.map_or((policy.backoff_base, policy.backoff_cap), |kind| {
            (kind.backoff_base, kind.backoff_cap)
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FinishBody {
    session: SessionId,
    jobs: Vec<FinishedBody>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FinishedBody {
    id: JobId,
    epoch: i64,
    outcome: Word,
    #[serde(default)]
    error: String,
    #[serde(default)]
    delay_seconds: Option<u32>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Completed,
    Retry,
    Snooze,
    GiveBack,
    Cancelled,
    Failed,
}

impl FinishedBody {
    fn outcome(self) -> Result<RemoteOutcome, ApiError> {
        if self.delay_seconds.is_some_and(|seconds| seconds > DELAY_SECONDS_MAX) {
            return Err(unfit("delay_seconds are at most 30 days"));
        }
        let delay = self.delay_seconds.map(|seconds| Duration::from_secs(seconds.into()));
        let ending = match self.outcome {
            Word::Completed => RemoteEnding::Completed,
            Word::Retry => RemoteEnding::Retry { error: self.error, after: delay },
            // Without a delay it would come back in the same moment, again and again.
            Word::Snooze => RemoteEnding::Snooze(delay.unwrap_or(Duration::from_secs(1))),
            Word::GiveBack => RemoteEnding::GiveBack,
            Word::Cancelled => RemoteEnding::Cancelled(self.error),
            Word::Failed => RemoteEnding::Failed(self.error),
        };
        Ok(RemoteOutcome { id: self.id, epoch: self.epoch, ending })
    }
}

async fn finish(
    caller: Caller<Work>,
    State(app): State<App>,
    Body(body): Body<FinishBody>,
) -> Result<Response, ApiError> {
    if !(1..=REMOTE_JOBS_MAX).contains(&body.jobs.len()) {
        return Err(unfit("jobs are 1 to 100"));
    }
    let outcomes: Vec<RemoteOutcome> =
        body.jobs.into_iter().map(FinishedBody::outcome).collect::<Result<_, _>>()?;
    let owner = owner(&caller);
    let session = app.queue.remote_session(&owner, body.session).await?;
    let kinds = session.as_ref().map(kinds_of).transpose()?.unwrap_or_default();
    let report = app.queue.settle_remote(&owner, body.session, &outcomes, &backoff(&kinds)).await?;
    count_settled(&app, &kinds, &report.settled);
    let written: Vec<JobId> = report.settled.iter().map(|settled| settled.id).collect();
    if report.stale.is_empty() {
        let answer = json!({"written": written, "repeated": report.repeated});
        return Ok(Json(answer).into_response());
    }
    let refused = lease_lost().with("stale", json!(report.stale)).with("written", json!(written));
    Err(refused)
}

fn lease_lost() -> ApiError {
    ApiError::conflict(
        "lease_lost",
        "the lease is not this session's any more: another worker may be running the job",
    )
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProgressBody {
    session: SessionId,
    id: JobId,
    epoch: i64,
    done: i64,
    #[serde(default)]
    total: Option<i64>,
    #[serde(default)]
    unit: String,
    #[serde(default)]
    message: String,
}

async fn progress(
    caller: Caller<Work>,
    State(app): State<App>,
    Body(body): Body<ProgressBody>,
) -> Result<StatusCode, ApiError> {
    if body.done < 0 || body.total.is_some_and(|total| total < 0) {
        return Err(unfit("done and total count from 0"));
    }
    if body.unit.chars().count() > 100 || body.message.chars().count() > 1_000 {
        return Err(unfit("unit has at most 100 characters, message 1,000"));
    }
    let told =
        Progress { done: body.done, total: body.total, unit: body.unit, message: body.message };
    let lease = (body.id, body.epoch);
    if app.queue.progress_remote(&owner(&caller), body.session, lease, &told).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(lease_lost().with("stale", json!([body.id])))
    }
}

async fn end(
    caller: Caller<Work>,
    State(app): State<App>,
    Named(session): Named<SessionId>,
) -> Result<Response, ApiError> {
    let ended = app.queue.close_remote(&owner(&caller), session).await?;
    Ok(Json(json!({"session": session, "ended": ended})).into_response())
}

/// Counts what other workers did as their own processes would.
fn count_settled(app: &App, kinds: &[KindSpec], settled: &[RemoteSettled]) {
    let metrics = &app.metrics;
    for job in settled {
        let own = kinds.iter().any(|kind| kind.name == job.kind && kind.queue == job.queue);
        let labels = [if own { job.queue.as_str() } else { "other" }, job.kind.as_str()];
        let outcome = [labels[0], labels[1], job.outcome.as_str()];
        metrics.jobs_finished.with_label_values(&outcome).inc();
        metrics.job_wait_seconds.with_label_values(&labels).observe(job.wait.as_secs_f64());
        match job.outcome {
            Outcome::Retried => metrics.job_retries.with_label_values(&labels).inc(),
            Outcome::Dead => metrics.dead_letters_moved.with_label_values(&labels).inc(),
            Outcome::Completed | Outcome::Snoozed | Outcome::GivenBack | Outcome::Cancelled => {}
        }
    }
}
