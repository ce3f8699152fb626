//! `/jobs`: look, cancel, retry.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse as _, Response};
use relevo_queue::{BatchId, CancelOutcome, JobFilter, JobId, JobState, RetryOutcome};
use relevo_runs::api_keys::Scope;
use relevo_runs::audit::Actor;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::audited::Audited;
use crate::auth::{Caller, Operate, Read};
use crate::error::ApiError;
use crate::extract::{Named, OptionalBody, Params, limit_param, text_param};
use crate::openapi::schema::{
    constant, id, input, integer, named, nullable, object, prose, query, text, word, words,
};
use crate::openapi::{Operation, Routes, job_states, list_of};
use crate::page::{LIMIT_DEFAULT, LIMIT_MAX, page};

/// Longest reason for a cancel, in characters.
const REASON_CHARS_MAX: usize = 500;

pub(super) fn routes() -> Routes {
    let listed = Operation::get("/api/v1/jobs", "listJobs", "List jobs")
        .describe("Waiting, running, finished and dead ones, newest first.")
        .needs(Scope::Read)
        .query([query("state", words(job_states()), "One or several, with commas between.")])
        .query(filters())
        .answer(200, "A page.", list_of("jobs", "Job"));
    let shown = Operation::get("/api/v1/jobs/{id}", "getJob", "One job, wherever it is")
        .needs(Scope::Read)
        .answer(200, "The job.", named("Job"))
        .problem(404, "job_not_found");
    let cancelled = Operation::post("/api/v1/jobs/{id}/cancel", "cancelJob", "Cancel a job")
        .describe("A waiting job is cancelled, a running one is told to stop.")
        .needs(Scope::Operate)
        .optional_body(reason_body())
        .answer(200, "Done.", object([("id", id()), ("outcome", word(["cancelled", "requested"]))]))
        .problem(404, "job_not_found")
        .problem(409, "job_ended");
    let retried = Operation::post("/api/v1/jobs/{id}/retry", "retryJob", "Run a job now")
        .describe(
            "Makes a dead, retryable or scheduled job available; a dead one starts over with its \
             attempts.",
        )
        .needs(Scope::Operate);
    Routes::new("Jobs")
        .add(listed, list)
        .add(shown, show)
        .add(cancelled, cancel)
        .add(retry_answers(retried).problem(404, "job_not_found"), retry)
}

/// The filters of lists of jobs, and the page.
pub(super) fn filters() -> [Value; 6] {
    [
        query("kind", text(0, 500), "One or several, with commas between."),
        query("queue", text(0, 500), "Only in this queue."),
        query("run_id", id(), "Only of this run."),
        query("batch_id", id(), "Only members of this batch."),
        query("before", id(), "Only below this id: `next_before` of the page before."),
        query("limit", integer(1, LIMIT_MAX.into()), "How many, 50 by default."),
    ]
}

/// The body with a reason.
pub(super) fn reason_body() -> Value {
    input([], [("reason", nullable(prose(0, REASON_CHARS_MAX)))])
}

/// What retrying one job may come to.
pub(super) fn retry_answers(operation: Operation) -> Operation {
    operation
        .answer(200, "Done.", object([("id", id()), ("outcome", constant("retried"))]))
        .problem(409, "job_not_retryable")
        .problem(409, "unique_key_held")
        .problem(503, "key_contended")
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JobParams {
    state: Option<String>,
    kind: Option<String>,
    queue: Option<String>,
    run_id: Option<i64>,
    batch_id: Option<i64>,
    before: Option<i64>,
    limit: Option<u16>,
}

impl JobParams {
    /// The filter, and its page size.
    pub(super) fn filter(self) -> Result<(JobFilter, u16), ApiError> {
        let limit = limit_param(self.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
        let states = match self.state.as_deref() {
            None => Vec::new(),
            Some(text) => text
                .split(',')
                .map(|state| state.parse::<JobState>())
                .collect::<Result<_, _>>()
                .map_err(|error| ApiError::bad_request("invalid_query", error))?,
        };
        let kinds = text_param("kind", self.kind)?
            .map(|kinds| kinds.split(',').map(str::to_owned).collect())
            .unwrap_or_default();
        let filter = JobFilter {
            states,
            kinds,
            queue: text_param("queue", self.queue)?,
            run_id: self.run_id,
            batch_id: self.batch_id.map(BatchId),
            before: self.before.map(JobId),
            limit: Some(limit),
        };
        Ok((filter, limit))
    }
}

async fn list(
    _: Caller<Read>,
    State(app): State<App>,
    OriginalUri(uri): OriginalUri,
    Params(params): Params<JobParams>,
) -> Result<Response, ApiError> {
    let (filter, limit) = params.filter()?;
    let jobs = app.queue.jobs(&filter).await?;
    Ok(page(&uri, "jobs", &jobs, limit, |job| job.id.0))
}

async fn show(
    _: Caller<Read>,
    State(app): State<App>,
    Named(id): Named<JobId>,
) -> Result<Response, ApiError> {
    let job = app.queue.job(id).await?.ok_or_else(|| job_not_found(id))?;
    Ok(Json(job).into_response())
}

/// A reason for the record.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CancelBody {
    #[serde(default)]
    reason: Option<String>,
}

impl CancelBody {
    /// The reason as it is kept: by whom, and why if it was said.
    pub(super) fn reason(self, by: &str) -> Result<String, ApiError> {
        let Some(reason) = self.reason else { return Ok(format!("by {by}")) };
        if reason.chars().count() > REASON_CHARS_MAX || reason.contains('\0') {
            return Err(ApiError::unprocessable(
                "invalid_body",
                format!("reason has at most {REASON_CHARS_MAX} characters, none of them NUL"),
            ));
        }
        Ok(format!("by {by}: {reason}"))
    }
}

async fn cancel(
    caller: Caller<Operate>,
    State(app): State<App>,
    Named(id): Named<JobId>,
    OptionalBody(body): OptionalBody<CancelBody>,
) -> Result<Response, ApiError> {
    let reason = body.reason(&caller.label())?;
    let outcome = cancel_job(&app, caller.actor(), id, &reason).await?;
    Ok(Json(json!({"id": id, "outcome": outcome})).into_response())
}

/// Cancels a job: `cancelled`, or `requested` while it runs.
pub(crate) async fn cancel_job(
    app: &App,
    actor: Actor,
    id: JobId,
    reason: &str,
) -> Result<&'static str, ApiError> {
    let mut audited = Audited::begin(app, actor).await?;
    let outcome = match app.queue.cancel_in(&mut audited.tx, id, reason).await? {
        CancelOutcome::Cancelled => "cancelled",
        CancelOutcome::Requested => "requested",
        // Asking twice is no mistake.
        CancelOutcome::AlreadyEnded(JobState::Cancelled) => return Ok("cancelled"),
        CancelOutcome::AlreadyEnded(state) => {
            return Err(ApiError::conflict(
                "job_ended",
                format!("job {id} has ended already ({state})"),
            )
            .with("state", state.as_str()));
        }
        CancelOutcome::NotFound => return Err(job_not_found(id)),
    };
    let after = json!({"outcome": outcome, "reason": reason});
    audited.commit("job.cancel", &id.to_string(), None, Some(after)).await?;
    Ok(outcome)
}

async fn retry(
    caller: Caller<Operate>,
    State(app): State<App>,
    Named(id): Named<JobId>,
) -> Result<Response, ApiError> {
    retry_job(&app, caller.actor(), id).await?;
    Ok(Json(json!({"id": id, "outcome": "retried"})).into_response())
}

/// Makes a job available now.
pub(crate) async fn retry_job(app: &App, actor: Actor, id: JobId) -> Result<(), ApiError> {
    let mut audited = Audited::begin(app, actor).await?;
    retry_in(app, &mut audited, id).await?;
    audited.commit("job.retry", &id.to_string(), None, None).await
}

/// Makes a job available now, also a dead letter.
pub(super) async fn retry_in(app: &App, audited: &mut Audited, id: JobId) -> Result<(), ApiError> {
    match app.queue.retry_in(&mut audited.tx, id).await? {
        RetryOutcome::Retried => Ok(()),
        RetryOutcome::NotRetryable(state) => Err(ApiError::conflict(
            "job_not_retryable",
            format!("job {id} is {state}; only dead, retryable and scheduled jobs can be retried"),
        )
        .with("state", state.as_str())),
        RetryOutcome::UniqueKeyHeld(holder) => Err(ApiError::conflict(
            "unique_key_held",
            format!("job {holder} holds the unique key of job {id} by now"),
        )
        .with("holder", holder.0)),
        RetryOutcome::NotFound => Err(job_not_found(id)),
    }
}

pub(crate) fn job_not_found(id: JobId) -> ApiError {
    ApiError::not_found("job_not_found", format!("there is no job {id}")).with("id", id.0)
}
