//! `/runs`: the history, one run, its log, its end.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use relevo_runs::api_keys::Scope;
use relevo_runs::audit::Actor;
use relevo_runs::{RunError, RunFilter, RunId, RunState};
use serde::Deserialize;
use serde_json::json;

use super::jobs::{CancelBody, reason_body};
use crate::app::App;
use crate::audited::Audited;
use crate::auth::{Caller, Operate, Read};
use crate::error::ApiError;
use crate::extract::{Named, OptionalBody, Params, limit_param, text_param};
use crate::openapi::schema::{
    array, constant, count, described, id, integer, named, nullable, object, query, string, text,
    word,
};
use crate::openapi::{Operation, Routes, list_of};
use crate::page::{LIMIT_DEFAULT, LIMIT_MAX, page, with_parameter};

/// Lines of a log in one answer, unless asked otherwise.
const LOG_LIMIT_DEFAULT: u16 = 200;
/// The most lines of a log in one answer.
const LOG_LIMIT_MAX: u16 = 1_000;

pub(super) fn routes() -> Routes {
    let listed = Operation::get("/api/v1/runs", "listRuns", "The history of runs")
        .needs(Scope::Read)
        .query([
            query("pipeline", text(0, 500), "Only of this pipeline."),
            query("source", text(0, 500), "Only of this source."),
            query("state", word(RunState::ALL.map(RunState::as_str)), "Only in this state."),
            query("before", id(), "Only below this id: `next_before` of the page before."),
            query("limit", integer(1, LIMIT_MAX.into()), "How many, 50 by default."),
        ])
        .answer(200, "A page.", list_of("runs", "Run"));
    let shown = Operation::get("/api/v1/runs/{id}", "getRun", "One run")
        .needs(Scope::Read)
        .answer(200, "The run.", named("Run"))
        .problem(404, "run_not_found");
    let logged = Operation::get("/api/v1/runs/{id}/log", "getRunLog", "The log of a run")
        .describe(
            "Oldest first. Asking again with `next_after` follows the log without missing a line.",
        )
        .needs(Scope::Read)
        .query([
            query("after", id(), "Only above this id: the last `next_after`."),
            query("limit", integer(1, LOG_LIMIT_MAX.into()), "How many, 200 by default."),
        ])
        .answer(
            200,
            "Lines of the log.",
            object([
                ("events", array(named("RunEvent"))),
                ("next", described(string(), "The address of what follows.")),
                ("next_after", described(nullable(id()), "The value of `after` in it.")),
            ]),
        )
        .problem(404, "run_not_found");
    let cancelled = Operation::post("/api/v1/runs/{id}/cancel", "cancelRun", "Cancel a run")
        .needs(Scope::Operate)
        .optional_body(reason_body())
        .answer(
            202,
            "Its jobs are cancelled; it ends when they have stopped.",
            object([("id", id()), ("outcome", constant("requested")), ("jobs_cancelled", count())]),
        )
        .answer(
            200,
            "It was cancelled before.",
            object([("id", id()), ("outcome", constant("cancelled"))]),
        )
        .problem(404, "run_not_found")
        .problem(409, "run_ended");
    Routes::new("Runs").add(listed, list).add(shown, show).add(logged, log).add(cancelled, cancel)
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
    State(app): State<App>,
    OriginalUri(uri): OriginalUri,
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
    let runs = app.runs.list(&filter).await?;
    Ok(page(&uri, "runs", &runs, limit, |run| run.id.0))
}

async fn show(
    _: Caller<Read>,
    State(app): State<App>,
    Named(id): Named<RunId>,
) -> Result<Response, ApiError> {
    let run = app.runs.get(id).await?.ok_or(RunError::NotFound(id))?;
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
    State(app): State<App>,
    Named(id): Named<RunId>,
    OriginalUri(uri): OriginalUri,
    Params(params): Params<LogParams>,
) -> Result<Response, ApiError> {
    let limit = limit_param(params.limit, LOG_LIMIT_DEFAULT, LOG_LIMIT_MAX)?;
    let events = app.runs.logs(id, params.after, u32::from(limit)).await?;
    // A log can be empty, so only a run that is there tells an empty log from a wrong number.
    if events.is_empty() && app.runs.get(id).await?.is_none() {
        return Err(RunError::NotFound(id).into());
    }
    let next_after = events.last().map(|event| event.id).or(params.after);
    let next = with_parameter(&uri, "after", next_after.unwrap_or(0));
    Ok(Json(json!({"events": events, "next": next, "next_after": next_after})).into_response())
}

async fn cancel(
    caller: Caller<Operate>,
    State(app): State<App>,
    Named(id): Named<RunId>,
    OptionalBody(body): OptionalBody<CancelBody>,
) -> Result<Response, ApiError> {
    let reason = body.reason(&caller.label())?;
    let Some(jobs) = cancel_run(&app, caller.actor(), id, &reason).await? else {
        return Ok(Json(json!({"id": id, "outcome": "cancelled"})).into_response());
    };
    let answer = json!({"id": id, "outcome": "requested", "jobs_cancelled": jobs});
    Ok((StatusCode::ACCEPTED, Json(answer)).into_response())
}

/// Asks for a run's end and cancels its jobs: how many there were, or none when it was cancelled
/// before.
pub(crate) async fn cancel_run(
    app: &App,
    actor: Actor,
    id: RunId,
    reason: &str,
) -> Result<Option<u64>, ApiError> {
    let mut audited = Audited::begin(app, actor).await?;
    match app.runs.request_cancel_in(&mut audited.tx, id, reason).await? {
        None => {}
        Some(RunState::Cancelled) => return Ok(None),
        Some(state) => return Err(RunError::Ended { run: id, state }.into()),
    }
    let after = json!({"reason": reason});
    audited.commit("run.cancel", &id.to_string(), None, Some(after)).await?;
    Ok(Some(app.runs.cancel_jobs(id, reason).await?))
}
