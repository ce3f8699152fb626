//! `/schedules`: what is started by the clock, when next, and now.

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderName, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use relevo_queue::JobId;
use relevo_runs::RunId;
use relevo_runs::api_keys::Scope;
use relevo_runs::audit::Actor;
use relevo_runs::backup::StartOptions;
use relevo_runs::schedules::{
    self, Draft, DraftError, Edited, Origin, Stored, StoredSchedule, definition, store,
};
use serde_json::{Value, json};

use super::backups::start_run;
use super::enqueue::refuse_payload;
use super::location;
use crate::app::App;
use crate::audited::Audited;
use crate::auth::{Caller, Operate, Read};
use crate::error::ApiError;
use crate::extract::{Body, Named};
use crate::openapi::schema::{
    any_object, array, boolean, described, id, input, integer, named, nullable, object, string,
    text, time, word,
};
use crate::openapi::{Operation, Routes};

/// Slots to come that are shown.
const NEXT_SLOTS: usize = 5;

pub(super) fn routes() -> Routes {
    let file = object([
        ("path", nullable(string())),
        ("loaded_at", described(time(), "When what is in force was read.")),
        ("problem", described(nullable(string()), "Why what is on disk is not in force.")),
        ("problem_at", nullable(time())),
        ("reported_by", string()),
    ]);
    let listed = Operation::get("/api/v1/schedules", "listSchedules", "What the clock starts")
        .describe(
            "Every schedule by name, with its next slots and the last one dealt with; and what the \
             leading scheduler says about its configuration file, once one has led.",
        )
        .needs(Scope::Read)
        .answer(
            200,
            "The schedules.",
            object([("schedules", array(named("Schedule"))), ("file", nullable(file))]),
        );
    let shown = Operation::get("/api/v1/schedules/{name}", "getSchedule", "One schedule")
        .describe("A slash in the name is written %2F.")
        .needs(Scope::Read)
        .answer(200, "The schedule.", named("Schedule"))
        .problem(404, "schedule_not_found");
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
    Routes::new("Schedules")
        .add(listed, list)
        .add(shown, show)
        .add(put_operation(), put)
        .add(edited("enable", "enableSchedule", "Let it fire again"), enable)
        .add(edited("disable", "disableSchedule", "Let it rest"), disable)
        .add(remove_operation(), remove)
        .add(run, start)
}

fn put_operation() -> Operation {
    let body = input(
        [(
            "rhythm",
            described(
                text(1, definition::RHYTHM_LENGTH_MAX),
                "`cron 0 6,18 * * *` (five fields, or six with seconds first), `every 12h from \
                 06:00` (wall clock), or `every 15m` (real time: s, m, h, d).",
            ),
        )],
        [
            ("timezone", described(nullable(text(1, 100)), "IANA name; UTC when absent.")),
            ("kind", described(nullable(text(1, 100)), "The job to enqueue.")),
            ("payload", described(nullable(any_object()), "Its payload, valid for the kind.")),
            (
                "backup_source",
                described(nullable(text(1, 100)), "Start a backup of it, in place of a job."),
            ),
            ("missed_runs", nullable(word(["once", "skip", "catch_up"]))),
            (
                "missed_max_age_minutes",
                nullable(integer(0, definition::MISSED_MAX_AGE_MINUTES_MAX.into())),
            ),
            ("jitter_seconds", nullable(integer(0, definition::JITTER_SECONDS_MAX.into()))),
            ("enabled", nullable(boolean())),
        ],
    );
    Operation::new(Method::PUT, "/api/v1/schedules/{name}", "putSchedule", "Make or replace one")
        .describe(
            "Stores the schedule whole: what is absent has its default. A change of when it is due \
             counts from now on. Schedules of the configuration are read-only here. A scheduler \
             takes it up within ten seconds; slots of that time are not lost.",
        )
        .needs(Scope::Operate)
        .body(body)
        .answer(200, "It is replaced, or was like that before.", named("Schedule"))
        .made(201, "It is new.", named("Schedule"))
        .problem(409, "schedule_of_configuration")
        .problem(422, "invalid_schedule")
}

fn edited(verb: &str, id: &'static str, summary: &'static str) -> Operation {
    let path = match verb {
        "enable" => "/api/v1/schedules/{name}/enable",
        _ => "/api/v1/schedules/{name}/disable",
    };
    Operation::post(path, id, summary)
        .describe(
            "Slots that pass while it rests do not fire afterwards. Once this is answered, a \
             disabled schedule starts nothing more.",
        )
        .needs(Scope::Operate)
        .answer(200, "The schedule as it is now.", named("Schedule"))
        .problem(404, "schedule_not_found")
        .problem(409, "schedule_of_configuration")
}

fn remove_operation() -> Operation {
    Operation::new(Method::DELETE, "/api/v1/schedules/{name}", "removeSchedule", "Remove one")
        .describe("With the history of its slots. What it has started goes on.")
        .needs(Scope::Operate)
        .empty(204, "It is gone.")
        .problem(404, "schedule_not_found")
        .problem(409, "schedule_of_configuration")
}

async fn list(_: Caller<Read>, State(app): State<App>) -> Result<Response, ApiError> {
    let stored = schedules::list(&app.pool, None).await?;
    let file = schedules::file_state(&app.pool).await?;
    let schedules: Vec<Value> = stored.iter().map(|schedule| view(&app, schedule)).collect();
    Ok(Json(json!({"schedules": schedules, "file": file})).into_response())
}

async fn show(
    _: Caller<Read>,
    State(app): State<App>,
    Named(name): Named<String>,
) -> Result<Response, ApiError> {
    let schedule = find(&app, &name).await?;
    Ok(Json(view(&app, &schedule)).into_response())
}

async fn put(
    caller: Caller<Operate>,
    State(app): State<App>,
    Named(name): Named<String>,
    Body(draft): Body<Draft>,
) -> Result<Response, ApiError> {
    let refuse = |error: DraftError| {
        ApiError::unprocessable("invalid_schedule", error.to_string()).with("field", error.field)
    };
    definition::check_name(&name).map_err(refuse)?;
    let kinds = app.kinds.book_for(draft.kind.as_deref().unwrap_or_default()).await?;
    let wanted = draft
        .check(&name, |source| app.settings().backup.contains_key(source), Some(&kinds))
        .map_err(refuse)?;
    let actor = caller.actor();
    let by = actor.label();
    let mut audited = Audited::begin(&app, actor).await?;
    let before = schedules::find_in(&mut audited.tx, &name).await?;
    let stored = store::put_in(&mut audited.tx, &wanted, Origin::Operator, &by).await?;
    if stored == Stored::NameTaken {
        return Err(of_configuration());
    }
    let after = schedules::find_in(&mut audited.tx, &name).await?;
    let Some(schedule) = after else {
        return Err(ApiError::internal("a stored schedule is not there"));
    };
    let before = before.map(|schedule| schedule.definition());
    audited.commit("schedule.put", &name, before, Some(schedule.definition())).await?;
    let answer = Json(view(&app, &schedule));
    Ok(match stored {
        Stored::Created => (StatusCode::CREATED, address(&name), answer).into_response(),
        _ => answer.into_response(),
    })
}

/// Where to look at it, in the header `Location`.
fn address(name: &str) -> [(HeaderName, String); 1] {
    let mut path = String::from("/api/v1/schedules/");
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(char::from(byte));
        } else {
            path.push_str(&format!("%{byte:02X}"));
        }
    }
    [(LOCATION, path)]
}

async fn enable(
    caller: Caller<Operate>,
    State(app): State<App>,
    Named(name): Named<String>,
) -> Result<Response, ApiError> {
    set_active(&app, caller.actor(), &name, true).await?;
    Ok(Json(view(&app, &find(&app, &name).await?)).into_response())
}

async fn disable(
    caller: Caller<Operate>,
    State(app): State<App>,
    Named(name): Named<String>,
) -> Result<Response, ApiError> {
    set_active(&app, caller.actor(), &name, false).await?;
    Ok(Json(view(&app, &find(&app, &name).await?)).into_response())
}

/// Lets a schedule fire, or not.
pub(crate) async fn set_active(
    app: &App,
    actor: Actor,
    name: &str,
    active: bool,
) -> Result<(), ApiError> {
    let by = actor.label();
    let mut audited = Audited::begin(app, actor).await?;
    let edited = store::set_active_in(&mut audited.tx, name, active, &by).await?;
    settled(edited)?;
    let action = if active { "schedule.enable" } else { "schedule.disable" };
    audited.commit(action, name, None, None).await
}

async fn remove(
    caller: Caller<Operate>,
    State(app): State<App>,
    Named(name): Named<String>,
) -> Result<Response, ApiError> {
    let mut audited = Audited::begin(&app, caller.actor()).await?;
    let before = schedules::find_in(&mut audited.tx, &name).await?;
    settled(store::remove_in(&mut audited.tx, &name).await?)?;
    let before = before.map(|schedule| schedule.definition());
    audited.commit("schedule.remove", &name, before, None).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn settled(edited: Edited) -> Result<(), ApiError> {
    match edited {
        Edited::Done | Edited::Unchanged => Ok(()),
        Edited::NotFound => Err(not_found()),
        Edited::OfConfiguration => Err(of_configuration()),
    }
}

fn not_found() -> ApiError {
    ApiError::not_found("schedule_not_found", "no schedule has this name; GET lists them")
}

fn of_configuration() -> ApiError {
    ApiError::conflict(
        "schedule_of_configuration",
        "this schedule belongs to the configuration file, which alone changes it; a running \
         scheduler takes a change up by itself",
    )
}

async fn find(app: &App, name: &str) -> Result<StoredSchedule, ApiError> {
    schedules::list(&app.pool, Some(name)).await?.into_iter().next().ok_or_else(not_found)
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
        "missed_max_age_minutes": schedule.missed_max_age_seconds / 60,
        "jitter_seconds": schedule.jitter_seconds,
        "updated_at": schedule.updated_at,
        "updated_by": schedule.updated_by,
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
    let schedule = find(app, name).await?;
    let action = "schedule.run";
    if let Some(source) = &schedule.backup_source {
        let options = StartOptions::default();
        let run = start_run(app, actor, action, name, source, &options).await?;
        return Ok(Started { run: Some(run), job: None });
    }
    let (Some(kind), Some(payload)) = (&schedule.job_kind, &schedule.job_payload) else {
        return Err(ApiError::internal("a schedule starts neither a backup nor a job"));
    };
    let kinds = app.kinds.book_for(kind).await?;
    let job = kinds.job(kind, &payload.0).map_err(refuse_payload)?;
    let mut audited = Audited::begin(app, actor).await?;
    let enqueued = app.queue.enqueue_in(&mut audited.tx, &[job]).await?;
    let Some(id) = enqueued.first().map(|enqueued| enqueued.id) else {
        return Err(ApiError::internal("an enqueue answered nothing"));
    };
    audited.commit(action, name, None, Some(json!({"job_id": id}))).await?;
    Ok(Started { run: None, job: Some(id) })
}
