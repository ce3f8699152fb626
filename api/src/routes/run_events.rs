//! `/runs/{id}/events`: a run as it goes, without asking again and again.

use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use relevo_runs::api_keys::Scope;
use relevo_runs::{RunError, RunId};
use serde::Deserialize;

use crate::app::App;
use crate::auth::{Caller, Read};
use crate::error::ApiError;
use crate::extract::{Named, Params};
use crate::openapi::schema::{count, header, id, query};
use crate::openapi::{Operation, Routes};

pub(super) fn routes() -> Routes {
    let followed = Operation::get("/api/v1/runs/{id}/events", "followRun", "Follow a run")
        .describe(
            "Server-sent events. `run`: how it stands, with `percent` and `eta_seconds` where they \
             can be told, whenever that changes. `log`: a line of its log, whose number is the \
             event\u{2019}s id. `end`: it has ended; close the connection. A comment every 15 \
             seconds keeps the connection alive. After a cut, come again with Last-Event-ID: no \
             line is missed and none comes twice.",
        )
        .needs(Scope::Read)
        .query([query("after", id(), "Only lines of the log above this id.")])
        .header(header(
            "Last-Event-ID",
            count(),
            "The last event\u{2019}s id, as browsers send it.",
        ))
        .text(200, "Events until the run ends.", "text/event-stream")
        .problem(400, "invalid_header")
        .problem(404, "run_not_found")
        .problem(503, "too_many_followers");
    Routes::new("Runs").add(followed, follow)
}

/// Where a follower begins.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FollowParams {
    after: Option<i64>,
}

async fn follow(
    _: Caller<Read>,
    State(app): State<App>,
    Named(id): Named<RunId>,
    Params(params): Params<FollowParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    follow_run(&app, id, &params, &headers).await
}

/// The events of a run, from where the request says.
pub(crate) async fn follow_run(
    app: &App,
    id: RunId,
    params: &FollowParams,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let after = last_event_id(headers)?.or(params.after).unwrap_or(0).max(0);
    let run = app.runs.get(id).await?.ok_or(RunError::NotFound(id))?;
    app.live.follow(&run, after)
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<i64>, ApiError> {
    let Some(value) = headers.get("last-event-id") else { return Ok(None) };
    let id = value.to_str().ok().and_then(|text| text.parse().ok()).filter(|id: &i64| *id >= 0);
    match id {
        Some(id) => Ok(Some(id)),
        None => Err(ApiError::bad_request(
            "invalid_header",
            "Last-Event-ID is the id of an event of this run, a number",
        )),
    }
}
