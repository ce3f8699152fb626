//! `/runs`: the history, one run, its log, its end.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use relevo_runs::{CancelRequest, RunError, RunFilter, RunId, RunState};
use serde::Deserialize;
use serde_json::json;

use super::jobs::CancelBody;
use crate::app::ApiDeps;
use crate::auth::{Caller, Operate, Read};
use crate::error::ApiError;
use crate::extract::{Named, OptionalBody, Params, limit_param, text_param};
use crate::page::{LIMIT_DEFAULT, LIMIT_MAX, page};

/// Lines of a log in one answer, unless asked otherwise.
const LOG_LIMIT_DEFAULT: u16 = 200;
/// The most lines of a log in one answer.
const LOG_LIMIT_MAX: u16 = 1_000;

pub(super) fn router() -> Router<ApiDeps> {
    Router::new()
        .route("/runs", get(list))
        .route("/runs/{id}", get(show))
        .route("/runs/{id}/log", get(log))
        .route("/runs/{id}/cancel", post(cancel))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RunParams {
    pipeline: Option<String>,
    source: Option<String>,
    state: Option<String>,
    before: Option<i64>,
    limit: Option<u16>,
}

async fn list(
    _: Caller<Read>,
    State(deps): State<ApiDeps>,
    Params(params): Params<RunParams>,
) -> Result<Response, ApiError> {
    let limit = limit_param(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let state = params
        .state
        .map(|state| state.parse::<RunState>())
        .transpose()
        .map_err(|error| ApiError::bad_request("invalid_query", error.to_string()))?;
    let filter = RunFilter {
        pipeline: text_param("pipeline", params.pipeline)?,
        source: text_param("source", params.source)?,
        state,
        before: params.before.map(RunId),
        limit: u32::from(limit),
    };
    let runs = deps.runs.list(&filter).await?;
    Ok(page("runs", &runs, limit, |run| run.id.0))
}

async fn show(
    _: Caller<Read>,
    State(deps): State<ApiDeps>,
    Named(id): Named<RunId>,
) -> Result<Response, ApiError> {
    let run = deps.runs.get(id).await?.ok_or(RunError::NotFound(id))?;
    Ok(Json(run).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LogParams {
    after: Option<i64>,
    limit: Option<u16>,
}

async fn log(
    _: Caller<Read>,
    State(deps): State<ApiDeps>,
    Named(id): Named<RunId>,
    Params(params): Params<LogParams>,
) -> Result<Response, ApiError> {
    let limit = limit_param(params.limit, LOG_LIMIT_DEFAULT, LOG_LIMIT_MAX)?;
    let events = deps.runs.logs(id, params.after, u32::from(limit)).await?;
    // A log can be empty, so only a run that is there tells an empty log from a wrong number.
    if events.is_empty() && deps.runs.get(id).await?.is_none() {
        return Err(RunError::NotFound(id).into());
    }
    let next_after = events.last().map(|event| event.id).or(params.after);
    Ok(Json(json!({"events": events, "next_after": next_after})).into_response())
}

async fn cancel(
    caller: Caller<Operate>,
    State(deps): State<ApiDeps>,
    Named(id): Named<RunId>,
    OptionalBody(body): OptionalBody<CancelBody>,
) -> Result<Response, ApiError> {
    let reason = body.reason(&caller.label())?;
    match deps.runs.request_cancel(id, &reason).await? {
        CancelRequest::Requested { jobs } => {
            tracing::info!(run = id.0, jobs, by = caller.label(), "run cancelled over HTTP");
            let answer = json!({"id": id, "outcome": "requested", "jobs_cancelled": jobs});
            Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
        }
        CancelRequest::AlreadyEnded(RunState::Cancelled) => {
            Ok(Json(json!({"id": id, "outcome": "cancelled"})).into_response())
        }
        CancelRequest::AlreadyEnded(state) => Err(RunError::Ended { run: id, state }.into()),
    }
}
