//! `/jobs`: enqueue, look, cancel, retry.

use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chrono::{DateTime, Datelike as _, Utc};
use relevo_queue::{CancelOutcome, JobFilter, JobId, JobState, NewJob, RetryOutcome, UniqueScope};
use relevo_runs::{PayloadError, job_from_json};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use crate::app::ApiDeps;
use crate::auth::{Caller, Enqueue, Operate, Read};
use crate::error::ApiError;
use crate::extract::{Body, Named, OptionalBody, Params, limit_param, text_param};
use crate::page::{LIMIT_DEFAULT, LIMIT_MAX, page};

/// How long a repeated idempotency key is recognised.
const IDEMPOTENCY_TTL: Duration = Duration::from_secs(24 * 3_600);
/// Set in front of callers' keys, so that none can meet a key of Relevo's own jobs.
const KEY_PREFIX: &str = "api/";
/// Longest reason for a cancel, in characters.
const REASON_CHARS_MAX: usize = 500;

pub(super) fn router() -> Router<ApiDeps> {
    Router::new()
        .route("/jobs", get(list).post(enqueue))
        .route("/jobs/{id}", get(show))
        .route("/jobs/{id}/cancel", post(cancel))
        .route("/jobs/{id}/retry", post(retry))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnqueueBody {
    kind: String,
    #[serde(default)]
    payload: Option<Box<RawValue>>,
    #[serde(default)]
    queue: Option<String>,
    #[serde(default)]
    priority: Option<i16>,
    #[serde(default)]
    run_at: Option<DateTime<Utc>>,
    #[serde(default)]
    delay_seconds: Option<u64>,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    unique_key: Option<String>,
    #[serde(default)]
    unique_until: Option<UniqueScope>,
}

async fn enqueue(
    _: Caller<Enqueue>,
    State(deps): State<ApiDeps>,
    headers: HeaderMap,
    Body(mut body): Body<EnqueueBody>,
) -> Result<Response, ApiError> {
    body.idempotency_key = idempotency_key(body.idempotency_key.take(), &headers)?;
    let job = new_job(body)?;
    let (queue, kind) = (job.queue.clone(), job.kind.parse());
    let enqueued = deps.queue.enqueue(job).await?;
    if let Ok(kind) = kind {
        deps.log_enqueued(kind, enqueued.id, enqueued.duplicate);
        if !enqueued.duplicate {
            deps.count_enqueued(&queue, kind);
        }
    }
    Ok((StatusCode::ACCEPTED, location("jobs", enqueued.id.0), Json(enqueued)).into_response())
}

/// Where to look at what was just made.
pub(super) fn location(resource: &str, id: i64) -> [(HeaderName, HeaderValue); 1] {
    let path = format!("/api/v1/{resource}/{id}");
    // A path of letters, slashes and digits is always fit for a header.
    [(header::LOCATION, HeaderValue::from_str(&path).unwrap_or(HeaderValue::from_static("/")))]
}

fn new_job(body: EnqueueBody) -> Result<NewJob, ApiError> {
    let empty = RawValue::from_string("{}".to_owned()).map_err(ApiError::internal)?;
    let payload = body.payload.unwrap_or(empty);
    let mut job = job_from_json(&body.kind, &payload).map_err(refuse_payload)?;
    if let Some(queue) = body.queue {
        job = job.queue(queue);
    }
    if let Some(priority) = body.priority {
        job = job.priority(priority);
    }
    match (body.run_at, body.delay_seconds) {
        (Some(_), Some(_)) => {
            return Err(ApiError::unprocessable(
                "invalid_body",
                "give run_at or delay_seconds, not both",
            ));
        }
        (Some(run_at), None) => {
            if !(2_000..=2_999).contains(&run_at.year()) {
                return Err(ApiError::unprocessable(
                    "invalid_body",
                    "run_at lies between the years 2000 and 2999",
                ));
            }
            job = job.run_at(run_at);
        }
        (None, Some(seconds)) => job = job.delay(Duration::from_secs(seconds)),
        (None, None) => {}
    }
    if let Some(key) = body.idempotency_key {
        job = job.idempotency_key(own_key("idempotency_key", &key)?, IDEMPOTENCY_TTL);
    }
    match (body.unique_key, body.unique_until) {
        (Some(key), until) => {
            job = job.unique(own_key("unique_key", &key)?, until.unwrap_or(UniqueScope::Finished));
        }
        (None, Some(_)) => {
            return Err(ApiError::unprocessable(
                "invalid_body",
                "unique_until says how long unique_key holds: give both",
            ));
        }
        (None, None) => {}
    }
    Ok(job)
}

fn refuse_payload(error: PayloadError) -> ApiError {
    match error {
        PayloadError::UnknownKind(unknown) => {
            ApiError::unprocessable("unknown_kind", unknown.to_string())
                .with("nearest", unknown.nearest)
        }
        PayloadError::Invalid { kind, source } => ApiError::unprocessable(
            "invalid_payload",
            format!("the payload is not one of {kind}: {source}"),
        )
        .with("kind", kind.as_str()),
    }
}

/// The key from the body or from the header `Idempotency-Key`; where both are given they must agree.
fn idempotency_key(body: Option<String>, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(header) = headers.get("idempotency-key") else { return Ok(body) };
    let header = header.to_str().map_err(|_| {
        ApiError::bad_request("invalid_header", "Idempotency-Key is not plain ASCII text")
    })?;
    match body {
        Some(body) if body != header => Err(ApiError::unprocessable(
            "invalid_body",
            "idempotency_key and the header Idempotency-Key differ",
        )),
        _ => Ok(Some(header.to_owned())),
    }
}

fn own_key(name: &str, key: &str) -> Result<String, ApiError> {
    let length_fits = (1..=400).contains(&key.chars().count());
    if length_fits && !key.chars().any(char::is_control) {
        return Ok(format!("{KEY_PREFIX}{key}"));
    }
    Err(ApiError::unprocessable(
        "invalid_body",
        format!("{name} has 1 to 400 characters, none of them a control character"),
    ))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct JobParams {
    state: Option<String>,
    kind: Option<String>,
    queue: Option<String>,
    run_id: Option<i64>,
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
            batch_id: None,
            before: self.before.map(JobId),
            limit: Some(limit),
        };
        Ok((filter, limit))
    }
}

async fn list(
    _: Caller<Read>,
    State(deps): State<ApiDeps>,
    Params(params): Params<JobParams>,
) -> Result<Response, ApiError> {
    let (filter, limit) = params.filter()?;
    let jobs = deps.queue.jobs(&filter).await?;
    Ok(page("jobs", &jobs, limit, |job| job.id.0))
}

async fn show(
    _: Caller<Read>,
    State(deps): State<ApiDeps>,
    Named(id): Named<JobId>,
) -> Result<Response, ApiError> {
    let job = deps.queue.job(id).await?.ok_or_else(|| job_not_found(id))?;
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
    State(deps): State<ApiDeps>,
    Named(id): Named<JobId>,
    OptionalBody(body): OptionalBody<CancelBody>,
) -> Result<Response, ApiError> {
    let reason = body.reason(&caller.label())?;
    let outcome = match deps.queue.cancel(id, &reason).await? {
        // Asking twice is no mistake.
        CancelOutcome::Cancelled | CancelOutcome::AlreadyEnded(JobState::Cancelled) => "cancelled",
        CancelOutcome::Requested => "requested",
        CancelOutcome::AlreadyEnded(state) => {
            return Err(ApiError::conflict(
                "job_ended",
                format!("job {id} has ended already ({state})"),
            )
            .with("state", state.as_str()));
        }
        CancelOutcome::NotFound => return Err(job_not_found(id)),
    };
    tracing::info!(job = id.0, outcome, by = caller.label(), "job cancelled over HTTP");
    Ok(Json(json!({"id": id, "outcome": outcome})).into_response())
}

async fn retry(
    caller: Caller<Operate>,
    State(deps): State<ApiDeps>,
    Named(id): Named<JobId>,
) -> Result<Response, ApiError> {
    retry_job(&deps, id, &caller.label()).await
}

/// Makes a job available now, also for dead letters.
pub(super) async fn retry_job(deps: &ApiDeps, id: JobId, by: &str) -> Result<Response, ApiError> {
    match deps.queue.retry(id).await? {
        RetryOutcome::Retried => {
            tracing::info!(job = id.0, by, "job retried over HTTP");
            Ok(Json(json!({"id": id, "outcome": "retried"})).into_response())
        }
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

pub(super) fn job_not_found(id: JobId) -> ApiError {
    ApiError::not_found("job_not_found", format!("there is no job {id}")).with("id", id.0)
}

#[cfg(test)]
mod tests {
    use super::*;
}
