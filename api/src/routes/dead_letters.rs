//! `/dead-letters`: jobs that were given up, for a person to look at, run again or throw away.

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{delete, get, post};
use relevo_queue::{JobId, JobState};

use super::jobs::{JobParams, retry_job};
use crate::app::ApiDeps;
use crate::auth::{Caller, Operate, Read};
use crate::error::ApiError;
use crate::extract::{Named, Params};
use crate::page::page;

pub(super) fn router() -> Router<ApiDeps> {
    Router::new()
        .route("/dead-letters", get(list))
        .route("/dead-letters/{id}", delete(discard))
        .route("/dead-letters/{id}/retry", post(retry))
}

async fn list(
    _: Caller<Read>,
    State(deps): State<ApiDeps>,
    Params(params): Params<JobParams>,
) -> Result<Response, ApiError> {
    let (filter, limit) = params.filter()?;
    if !filter.states.is_empty() {
        return Err(ApiError::bad_request(
            "invalid_query",
            "every dead letter has the state dead; leave state out",
        ));
    }
    let jobs = deps.queue.dead_letters(&filter).await?;
    Ok(page("dead_letters", &jobs, limit, |job| job.id.0))
}

async fn retry(
    caller: Caller<Operate>,
    State(deps): State<ApiDeps>,
    Named(id): Named<JobId>,
) -> Result<Response, ApiError> {
    let job = deps.queue.job(id).await?;
    if job.is_none_or(|job| job.state != JobState::Dead) {
        return Err(dead_letter_not_found(id));
    }
    retry_job(&deps, id, &caller.label()).await
}

async fn discard(
    caller: Caller<Operate>,
    State(deps): State<ApiDeps>,
    Named(id): Named<JobId>,
) -> Result<Response, ApiError> {
    if !deps.queue.discard_dead(id).await? {
        return Err(dead_letter_not_found(id));
    }
    tracing::info!(job = id.0, by = caller.label(), "dead letter discarded over HTTP");
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn dead_letter_not_found(id: JobId) -> ApiError {
    ApiError::not_found("dead_letter_not_found", format!("there is no dead letter {id}"))
        .with("id", id.0)
}
