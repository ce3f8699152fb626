//! `/queues`: what waits where, and whether it may move.

use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::json;

use crate::app::ApiDeps;
use crate::auth::{Caller, Operate, Read};
use crate::error::ApiError;
use crate::extract::Named;

pub(super) fn router() -> Router<ApiDeps> {
    Router::new()
        .route("/queues", get(list))
        .route("/queues/{queue}/pause", post(pause))
        .route("/queues/{queue}/resume", post(resume))
}

async fn list(_: Caller<Read>, State(deps): State<ApiDeps>) -> Result<Response, ApiError> {
    let queues = deps.queue.stats().await?;
    Ok(Json(json!({"queues": queues})).into_response())
}

async fn pause(
    caller: Caller<Operate>,
    State(deps): State<ApiDeps>,
    Named(queue): Named<String>,
) -> Result<Response, ApiError> {
    let changed = deps.queue.pause(&queue).await?;
    tracing::info!(queue, changed, by = caller.label(), "queue paused over HTTP");
    Ok(Json(json!({"queue": queue, "paused": true, "changed": changed})).into_response())
}

async fn resume(
    caller: Caller<Operate>,
    State(deps): State<ApiDeps>,
    Named(queue): Named<String>,
) -> Result<Response, ApiError> {
    let changed = deps.queue.resume(&queue).await?;
    tracing::info!(queue, changed, by = caller.label(), "queue resumed over HTTP");
    Ok(Json(json!({"queue": queue, "paused": false, "changed": changed})).into_response())
}
