//! `/queues`: what waits where, and whether it may move.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use relevo_runs::api_keys::Scope;
use relevo_runs::audit::Actor;
use serde_json::json;

use crate::app::App;
use crate::audited::Audited;
use crate::auth::{Caller, Operate, Read};
use crate::error::ApiError;
use crate::extract::{Named, Params, text_param};
use crate::openapi::schema::{array, boolean, constant, count, named, object, query, string, text};
use crate::openapi::{Operation, Routes};

pub(super) fn routes() -> Routes {
    let changed = |paused: bool| {
        object([("queue", string()), ("paused", constant(paused)), ("changed", boolean())])
    };
    let listed = Operation::get("/api/v1/queues", "listQueues", "What every queue holds")
        .describe("Every queue that holds something or is paused, by name.")
        .needs(Scope::Read)
        .answer(200, "The queues.", object([("queues", array(named("Queue")))]));
    let paused =
        Operation::post("/api/v1/queues/{queue}/pause", "pauseQueue", "Stop claims from a queue")
            .describe("What runs goes on. `changed` is false when it was paused before.")
            .needs(Scope::Operate)
            .answer(200, "It is paused.", changed(true))
            .problem(422, "invalid_job");
    let resumed =
        Operation::post("/api/v1/queues/{queue}/resume", "resumeQueue", "Let claims go on")
            .needs(Scope::Operate)
            .answer(200, "It is not paused.", changed(false));
    let work = Operation::get("/api/v1/work", "getWork", "How much work there is")
        .describe(
            "Jobs that are ready to run, and jobs that run, in these queues or in all. Always a \
             number, for autoscalers: `work` is the sum of both. A few seconds old at most, or a \
             minute where counting takes long.",
        )
        .needs(Scope::Read)
        .query([query("queue", text(0, 500), "One or several, with commas between.")])
        .answer(
            200,
            "The figures.",
            object([("work", count()), ("available", count()), ("running", count())]),
        );
    Routes::new("Queues")
        .add(listed, list)
        .add(paused, pause)
        .add(resumed, resume)
        .add(work, count_work)
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct WorkParams {
    queue: Option<String>,
}

async fn count_work(
    _: Caller<Read>,
    State(app): State<App>,
    Params(params): Params<WorkParams>,
) -> Result<Response, ApiError> {
    let wanted = text_param("queue", params.queue)?;
    let is_wanted = |queue: &str| {
        wanted.as_deref().is_none_or(|wanted| wanted.split(',').any(|name| name.trim() == queue))
    };
    let queues = app.figures.queues(&app.queue).await?;
    let (mut available, mut running) = (0, 0);
    for queue in queues.iter().filter(|queue| is_wanted(&queue.queue)) {
        available += queue.available;
        running += queue.running;
    }
    let answer = json!({"work": available + running, "available": available, "running": running});
    Ok(Json(answer).into_response())
}

async fn list(_: Caller<Read>, State(app): State<App>) -> Result<Response, ApiError> {
    let queues = app.queue.stats().await?;
    Ok(Json(json!({"queues": queues})).into_response())
}

async fn pause(
    caller: Caller<Operate>,
    State(app): State<App>,
    Named(queue): Named<String>,
) -> Result<Response, ApiError> {
    let changed = set_paused(&app, caller.actor(), &queue, true).await?;
    Ok(Json(json!({"queue": queue, "paused": true, "changed": changed})).into_response())
}

async fn resume(
    caller: Caller<Operate>,
    State(app): State<App>,
    Named(queue): Named<String>,
) -> Result<Response, ApiError> {
    let changed = set_paused(&app, caller.actor(), &queue, false).await?;
    Ok(Json(json!({"queue": queue, "paused": false, "changed": changed})).into_response())
}

/// Pauses or resumes a queue. False when it was so before.
pub(crate) async fn set_paused(
    app: &App,
    actor: Actor,
    queue: &str,
    paused: bool,
) -> Result<bool, ApiError> {
    let mut audited = Audited::begin(app, actor).await?;
    let (changed, action) = if paused {
        (app.queue.pause_in(&mut audited.tx, queue).await?, "queue.pause")
    } else {
        (app.queue.resume_in(&mut audited.tx, queue).await?, "queue.resume")
    };
    if changed {
        audited.commit(action, queue, None, None).await?;
    }
    Ok(changed)
}
