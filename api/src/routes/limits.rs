//! `/limits`: how many jobs that name one may run at once, and how many may begin within a time.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use relevo_queue::{Limit, Rate};
use relevo_runs::api_keys::Scope;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::audited::Audited;
use crate::auth::{Caller, Operate, Read};
use crate::error::ApiError;
use crate::extract::{Body, Named};
use crate::openapi::schema::{
    array, boolean, count, described, input, integer, named, nullable, object, string, time,
};
use crate::openapi::{Operation, Routes};

pub(super) fn routes() -> Routes {
    let listed = Operation::get("/api/v1/limits", "listLimits", "The limits")
        .describe("Every limit that is set, by name, with what is under way and what waits.")
        .needs(Scope::Read)
        .answer(200, "The limits.", object([("limits", array(named("Limit")))]));
    let set = Operation::post("/api/v1/limits/{limit}", "setLimit", "Set a limit")
        .describe(
            "Jobs name a limit by `limit_key`; it holds over all queues and kinds. Give \
             `concurrency`, or `rate` with `period_seconds`, or all. Set again, it is replaced. A \
             lower limit takes nothing back: what runs goes on.",
        )
        .needs(Scope::Operate)
        .body(input(
            [],
            [
                (
                    "concurrency",
                    described(
                        nullable(integer(0, i32::MAX.into())),
                        "At most so many at once; none at all with 0.",
                    ),
                ),
                ("rate", described(nullable(integer(1, 100_000)), "At most so many begin …")),
                (
                    "period_seconds",
                    described(
                        nullable(json!({"type": "number", "minimum": 0.001, "maximum": 2_678_400})),
                        "… within any such time, by the database's clock.",
                    ),
                ),
            ],
        ))
        .answer(200, "It is set.", object([("limit", string())]))
        .problem(422, "invalid_job")
        .problem(422, "invalid_limit");
    let removed = Operation::post("/api/v1/limits/{limit}/remove", "removeLimit", "Remove a limit")
        .describe("Nothing holds its jobs back any more.")
        .needs(Scope::Operate)
        .answer(
            200,
            "There is no such limit now.",
            object([("limit", string()), ("removed", boolean())]),
        );
    Routes::new("Limits").add(listed, list).add(set, set_one).add(removed, remove)
}

pub(crate) fn limit_schema() -> Value {
    object([
        ("name", string()),
        ("concurrency", nullable(count())),
        ("rate", nullable(count())),
        ("period_seconds", nullable(json!({"type": "number"}))),
        ("live", described(count(), "Jobs that take up room: claimable or running.")),
        ("waiting", described(count(), "Jobs that wait for room, counted up to 100,000.")),
        ("begun", described(count(), "Jobs that began within the last period.")),
        ("updated_at", time()),
    ])
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitBody {
    #[serde(default)]
    concurrency: Option<u32>,
    #[serde(default)]
    rate: Option<u32>,
    #[serde(default)]
    period_seconds: Option<f64>,
}

async fn list(_: Caller<Read>, State(app): State<App>) -> Result<Response, ApiError> {
    let limits = app.queue.limits().await?;
    Ok(Json(json!({"limits": limits})).into_response())
}

async fn set_one(
    caller: Caller<Operate>,
    State(app): State<App>,
    Named(name): Named<String>,
    Body(body): Body<LimitBody>,
) -> Result<Response, ApiError> {
    let rate = match (body.rate, body.period_seconds) {
        (Some(jobs), Some(seconds)) => {
            let period = Duration::try_from_secs_f64(seconds).map_err(|_| {
                ApiError::unprocessable("invalid_limit", "period_seconds is no length of time")
            })?;
            Some(Rate { jobs, period })
        }
        (None, None) => None,
        _ => {
            return Err(ApiError::unprocessable(
                "invalid_limit",
                "rate and period_seconds go together: so many within such a time",
            ));
        }
    };
    let limit = Limit { name, concurrency: body.concurrency, rate };
    let mut audited = Audited::begin(&app, caller.actor()).await?;
    app.queue.set_limit_in(&mut audited.tx, &limit).await?;
    let after = json!({
        "concurrency": body.concurrency, "rate": body.rate, "period_seconds": body.period_seconds,
    });
    audited.commit("limit.set", &limit.name, None, Some(after)).await?;
    Ok(Json(json!({"limit": limit.name})).into_response())
}

async fn remove(
    caller: Caller<Operate>,
    State(app): State<App>,
    Named(name): Named<String>,
) -> Result<Response, ApiError> {
    let mut audited = Audited::begin(&app, caller.actor()).await?;
    let removed = app.queue.remove_limit_in(&mut audited.tx, &name).await?;
    if removed {
        audited.commit("limit.remove", &name, None, None).await?;
    }
    Ok(Json(json!({"limit": name, "removed": removed})).into_response())
}
