//! `/schedules`: what is started by the clock, when next, and now.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use relevo_queue::JobId;
use relevo_runs::api_keys::Scope;
use relevo_runs::audit::Actor;
use relevo_runs::backup::StartOptions;
use relevo_runs::schedules::{self, StoredSchedule};
use relevo_runs::{RunId, job_from_json};
use serde_json::{Value, json};

use super::backups::start_run;
use super::enqueue::refuse_payload;
use super::location;
use crate::app::App;
use crate::audited::Audited;
use crate::auth::{Caller, Operate, Read};
use crate::error::ApiError;
use crate::extract::Named;
use crate::openapi::schema::{array, id, named, nullable, object};
use crate::openapi::{Operation, Routes};

/// Slots to come that are shown.
const NEXT_SLOTS: usize = 5;

pub(super) fn routes() -> Routes {
    let listed = Operation::get("/api/v1/schedules", "listSchedules", "What the clock starts")
        .describe("Every schedule by name, with its next slots and the last one dealt with.")
        .needs(Scope::Read)
        .answer(200, "The schedules.", object([("schedules", array(named("Schedule")))]));
    let run = Operation::post("/api/v1/schedules/{name}/run", "runSchedule", "Start it now")
        .describe(
            "Starts what the schedule would start, beside its slots, whether it is active or not. \
             A slash in the name is written %2F.",
        )
        .needs(Scope::Operate)
        .made(
            202,
            "It has begun.",
            object([("run_id", nullable(id())), ("job_id", nullable(id()))]),
        )
        .problem(404, "schedule_not_found")
        .problem(404, "source_not_found")
        .problem(409, "run_active")
        .problem(422, "unknown_kind")
        .problem(422, "invalid_payload")
        .problem(422, "invalid_job");
    Routes::new("Schedules").add(listed, list).add(run, start)
}

async fn list(_: Caller<Read>, State(app): State<App>) -> Result<Response, ApiError> {
    let stored = schedules::list(&app.pool, None).await?;
    let schedules: Vec<Value> = stored.iter().map(|schedule| view(&app, schedule)).collect();
    Ok(Json(json!({"schedules": schedules})).into_response())
}

/// The slots to come of a schedule that is active.
pub(crate) fn next_slots(app: &App, schedule: &StoredSchedule) -> Vec<DateTime<Utc>> {
    if !schedule.active {
        return Vec::new();
    }
    (app.next_slots)(&schedule.rhythm, &schedule.timezone, schedule.now, NEXT_SLOTS)
}

fn view(app: &App, schedule: &StoredSchedule) -> Value {
    let next_slots = next_slots(app, schedule);
    let last_fire = schedule.last_slot.map(|slot| {
        json!({
            "slot": slot,
            "fired_at": schedule.last_fired_at,
            "outcome": schedule.last_outcome,
            "reason": schedule.last_reason,
            "run_id": schedule.last_run_id,
            "job_id": schedule.last_job_id,
        })
    });
    json!({
        "name": schedule.name,
        "origin": schedule.origin,
        "active": schedule.active,
        "rhythm": schedule.rhythm,
        "timezone": schedule.timezone,
        "backup_source": schedule.backup_source,
        "job_kind": schedule.job_kind,
        "job_payload": schedule.job_payload,
        "missed_runs": schedule.missed_runs,
        "next_slots": next_slots,
        "last_fire": last_fire,
    })
}

async fn start(
    caller: Caller<Operate>,
    State(app): State<App>,
    Named(name): Named<String>,
) -> Result<Response, ApiError> {
    let started = run_schedule(&app, caller.actor(), &name).await?;
    let answer = Json(json!({"run_id": started.run, "job_id": started.job}));
    let at = match (started.run, started.job) {
        (Some(run), _) => location("runs", run.0),
        (None, job) => location("jobs", job.map_or(0, |job| job.0)),
    };
    Ok((StatusCode::ACCEPTED, at, answer).into_response())
}

/// What was started by hand: a run or a job.
pub(crate) struct Started {
    /// The run.
    pub(crate) run: Option<RunId>,
    /// The job.
    pub(crate) job: Option<JobId>,
}

/// Starts what a schedule would start.
pub(crate) async fn run_schedule(app: &App, actor: Actor, name: &str) -> Result<Started, ApiError> {
    let found = schedules::list(&app.pool, Some(name)).await?.into_iter().next();
    let schedule = found.ok_or_else(|| {
        ApiError::not_found("schedule_not_found", "no schedule has this name; GET lists them")
    })?;
    let action = "schedule.run";
    if let Some(source) = &schedule.backup_source {
        let options = StartOptions::default();
        let run = start_run(app, actor, action, name, source, &options).await?;
        return Ok(Started { run: Some(run), job: None });
    }
    let (Some(kind), Some(payload)) = (&schedule.job_kind, &schedule.job_payload) else {
        return Err(ApiError::internal("a schedule starts neither a backup nor a job"));
    };
    let job = job_from_json(kind, &payload.0).map_err(refuse_payload)?;
    let mut audited = Audited::begin(app, actor).await?;
    let enqueued = app.queue.enqueue_in(&mut audited.tx, &[job]).await?;
    let Some(id) = enqueued.first().map(|enqueued| enqueued.id) else {
        return Err(ApiError::internal("an enqueue answered nothing"));
    };
    audited.commit(action, name, None, Some(json!({"job_id": id}))).await?;
    Ok(Started { run: None, job: Some(id) })
}
