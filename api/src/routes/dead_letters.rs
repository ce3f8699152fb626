//! `/dead-letters`: jobs that were given up, for a person to look at, mend, run again or throw away.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use relevo_queue::{JobId, JobState, JobView};
use relevo_runs::api_keys::Scope;
use relevo_runs::audit::Actor;
use relevo_runs::dead_letters::{self, EditError, Edited};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::enqueue::refuse_payload;
use super::jobs::{JobParams, filters, retry_answers, retry_in};
use crate::app::App;
use crate::audited::Audited;
use crate::auth::{Caller, Operate, Read};
use crate::error::ApiError;
use crate::extract::{Body, Named, Params};
use crate::openapi::schema::{any_object, boolean, input, named};
use crate::openapi::{Operation, Routes, list_of};
use crate::page::page;

pub(super) fn routes() -> Routes {
    let listed = Operation::get("/api/v1/dead-letters", "listDeadLetters", "List dead letters")
        .needs(Scope::Read)
        .query(filters())
        .answer(200, "A page.", list_of("dead_letters", "Job"));
    let retried = Operation::post(
        "/api/v1/dead-letters/{id}/retry",
        "retryDeadLetter",
        "Run a dead letter again",
    )
    .needs(Scope::Operate)
    .problem(404, "dead_letter_not_found");
    let edited = Operation::new(
        axum::http::Method::PUT,
        "/api/v1/dead-letters/{id}/payload",
        "editDeadLetter",
        "Give a dead letter another payload",
    )
    .describe(
        "The payload is checked as the kind\u{2019}s own and must belong to the same run. With `retry` \
         the job goes back to work in the same transaction.",
    )
    .needs(Scope::Operate)
    .body(input([("payload", any_object())], [("retry", boolean())]))
    .answer(200, "The job as it is now.", named("Job"))
    .problem(404, "dead_letter_not_found")
    .problem(409, "unique_key_held")
    .problem(422, "unknown_kind")
    .problem(422, "invalid_payload")
    .problem(422, "invalid_job")
    .problem(422, "run_differs")
    .problem(503, "key_contended");
    let discarded = Operation::new(
        axum::http::Method::DELETE,
        "/api/v1/dead-letters/{id}",
        "discardDeadLetter",
        "Give a dead letter up for good",
    )
    .describe("The job ends as cancelled and stays in the history.")
    .needs(Scope::Operate)
    .empty(204, "Done.")
    .problem(404, "dead_letter_not_found");
    Routes::new("Dead letters")
        .add(listed, list)
        .add(retry_answers(retried), retry)
        .add(edited, edit)
        .add(discarded, discard)
}

async fn list(
    _: Caller<Read>,
    State(app): State<App>,
    OriginalUri(uri): OriginalUri,
    Params(params): Params<JobParams>,
) -> Result<Response, ApiError> {
    let (filter, limit) = params.filter()?;
    if !filter.states.is_empty() {
        return Err(ApiError::bad_request(
            "invalid_query",
            "every dead letter has the state dead; leave state out",
        ));
    }
    let jobs = app.queue.dead_letters(&filter).await?;
    Ok(page(&uri, "dead_letters", &jobs, limit, |job| job.id.0))
}

async fn find(app: &App, id: JobId) -> Result<JobView, ApiError> {
    let job = app.queue.job(id).await?;
    job.filter(|job| job.state == JobState::Dead).ok_or_else(|| dead_letter_not_found(id))
}

async fn retry(
    caller: Caller<Operate>,
    State(app): State<App>,
    Named(id): Named<JobId>,
) -> Result<Response, ApiError> {
    retry_dead(&app, caller.actor(), id).await?;
    Ok(Json(json!({"id": id, "outcome": "retried"})).into_response())
}

/// Puts a dead letter back to work.
pub(crate) async fn retry_dead(app: &App, actor: Actor, id: JobId) -> Result<(), ApiError> {
    find(app, id).await?;
    let mut audited = Audited::begin(app, actor).await?;
    retry_in(app, &mut audited, id).await?;
    audited.commit("dead_letter.retry", &id.to_string(), None, None).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EditBody {
    payload: Box<RawValue>,
    #[serde(default)]
    retry: bool,
}

async fn edit(
    caller: Caller<Operate>,
    State(app): State<App>,
    Named(id): Named<JobId>,
    Body(body): Body<EditBody>,
) -> Result<Response, ApiError> {
    let job = edit_dead(&app, caller.actor(), id, &body.payload, body.retry).await?;
    Ok(Json(job).into_response())
}

/// Gives a dead letter another payload, and puts it back to work where `retry` says so.
pub(crate) async fn edit_dead(
    app: &App,
    actor: Actor,
    id: JobId,
    payload: &RawValue,
    retry: bool,
) -> Result<JobView, ApiError> {
    let mut audited = Audited::begin(app, actor).await?;
    let Edited { before, payload } =
        dead_letters::edit_in(&mut audited.tx, &app.queue, id, payload).await.map_err(refuse)?;
    if retry {
        retry_in(app, &mut audited, id).await?;
    }
    let after = json!({"payload": payload, "retry": retry});
    // SQL may enqueue numbers that are too large for this parser: those are shown as text.
    let before =
        serde_json::to_value(&before.payload).unwrap_or_else(|_| Value::from(before.payload.get()));
    let before = json!({"payload": before});
    audited.commit("dead_letter.edit", &id.to_string(), Some(before), Some(after)).await?;
    app.queue.job(id).await?.ok_or_else(|| dead_letter_not_found(id))
}

async fn discard(
    caller: Caller<Operate>,
    State(app): State<App>,
    Named(id): Named<JobId>,
) -> Result<Response, ApiError> {
    discard_dead(&app, caller.actor(), id).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Gives a dead letter up for good.
pub(crate) async fn discard_dead(app: &App, actor: Actor, id: JobId) -> Result<(), ApiError> {
    let reason = format!("discarded by {}", actor.label());
    let mut audited = Audited::begin(app, actor).await?;
    if !app.queue.discard_dead_in(&mut audited.tx, id, &reason).await? {
        return Err(dead_letter_not_found(id));
    }
    audited.commit("dead_letter.discard", &id.to_string(), None, None).await
}

fn refuse(error: EditError) -> ApiError {
    match error {
        EditError::NotFound(id) => dead_letter_not_found(id),
        EditError::Payload(error) => refuse_payload(error),
        EditError::RunDiffers => ApiError::unprocessable("run_differs", error.to_string()),
        EditError::Queue(error) => error.into(),
        EditError::Database(error) => error.into(),
    }
}

fn dead_letter_not_found(id: JobId) -> ApiError {
    ApiError::not_found("dead_letter_not_found", format!("there is no dead letter {id}"))
        .with("id", id.0)
}
