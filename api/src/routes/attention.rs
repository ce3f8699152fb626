//! What needs attention: alerts, the doctor's findings, and whether people would hear of them.

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::response::{IntoResponse as _, Response};
use futures::future::join_all;
use relevo_doctor::{Patient, examine};
use relevo_notify::{Occasion, Sender, alerts};
use relevo_runs::api_keys::Scope;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::auth::{Admin, Caller, Operate, Read};
use crate::error::ApiError;
use crate::extract::{OptionalBody, Params, limit_param};
use crate::openapi::schema::{
    any_object, array, boolean, count, described, id, input, integer, named, nullable, object,
    query, string, text, time, word,
};
use crate::openapi::{Operation, Routes, list_of};
use crate::page::{LIMIT_DEFAULT, LIMIT_MAX, page};

pub(super) fn routes() -> Routes {
    let alerts = Operation::get("/api/v1/alerts", "listAlerts", "List alerts")
        .describe(
            "States that somebody should look at: overdue or failing sources, a full disk, no \
             worker, dead letters, a channel that takes no messages. Newest first.",
        )
        .needs(Scope::Read)
        .query([
            query("open", boolean(), "Leave out those that are over."),
            query("before", id(), "Only below this id: `next_before` of the page before."),
            query("limit", integer(1, LIMIT_MAX.into()), "How many, 50 by default."),
        ])
        .answer(200, "A page.", list_of("alerts", "Alert"));
    let tested = object([
        ("channel", string()),
        ("kind", string()),
        ("ok", boolean()),
        ("error", nullable(string())),
    ]);
    let test = Operation::post("/api/v1/notify/test", "testNotifications", "Send a test message")
        .describe("To every channel, or to one; now, not through the queue.")
        .needs(Scope::Operate)
        .optional_body(input(
            [],
            [("channel", described(nullable(text(1, 40)), "This channel only."))],
        ))
        .answer(200, "Which channels took it.", object([("tested", array(tested))]))
        .problem(404, "channel_not_found");
    let doctor = Operation::get("/api/v1/doctor", "doctor", "Examine everything")
        .describe(
            "Asks the databases, gateways, mail servers, webhooks and the API's own machine, and \
             changes nothing. Takes some seconds.",
        )
        .needs(Scope::Admin)
        .answer(200, "What was found, the most serious first.", named("DoctorReport"));
    Routes::new("Attention").add(alerts, list).add(test, send_test).add(doctor, examined)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AlertParams {
    #[serde(default)]
    open: bool,
    before: Option<i64>,
    limit: Option<u16>,
}

async fn list(
    _: Caller<Read>,
    State(app): State<App>,
    OriginalUri(uri): OriginalUri,
    Params(params): Params<AlertParams>,
) -> Result<Response, ApiError> {
    let limit = limit_param(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let found = alerts::list(&app.pool, params.open, params.before, limit).await?;
    Ok(page(&uri, "alerts", &found, limit, |alert| alert.id))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct TestBody {
    #[serde(default)]
    channel: Option<String>,
}

async fn send_test(
    caller: Caller<Operate>,
    State(app): State<App>,
    OptionalBody(body): OptionalBody<TestBody>,
) -> Result<Response, ApiError> {
    let sender = Sender::new(&app.pool, app.settings()).await?;
    let mut wanted = sender.channels();
    if let Some(name) = &body.channel {
        wanted.retain(|channel| channel.name == *name);
        if wanted.is_empty() {
            return Err(ApiError::not_found("channel_not_found", "there is no such channel"));
        }
    }
    tracing::info!(channels = wanted.len(), by = caller.actor().label(), "a test is sent");
    let tested = join_all(wanted.iter().map(async |channel| {
        let sent = sender.tell(channel, &Occasion::Test).await;
        json!({
            "channel": channel.name,
            "kind": channel.kind(),
            "ok": sent.is_ok(),
            "error": sent.err().map(|error| relevo_errors::chain(&error)),
        })
    }))
    .await;
    Ok(Json(json!({"tested": tested})).into_response())
}

async fn examined(_: Caller<Admin>, State(app): State<App>) -> Result<Response, ApiError> {
    let patient = Patient {
        settings: app.settings(),
        pool: Some(app.pool.clone()),
        embedded: false,
        found_before: Vec::new(),
    };
    Ok(Json(examine(patient).await).into_response())
}

/// An alert as it is answered.
pub(crate) fn alert_schema() -> Value {
    object([
        ("id", id()),
        ("key", string()),
        ("rule", string()),
        ("subject", string()),
        ("details", any_object()),
        ("level", count()),
        ("occurrences", count()),
        ("opened_at", time()),
        ("last_seen_at", time()),
        ("told_at", described(nullable(time()), "When people were last told of it.")),
        ("resolved_at", nullable(time())),
    ])
}

/// The doctor's report as it is answered.
pub(crate) fn report_schema() -> Value {
    let levels = || word(["ok", "note", "warning", "problem"]);
    let finding = object([
        ("check", described(string(), "A name that stays the same, such as postgres.fsync.")),
        ("level", levels()),
        ("subject", string()),
        ("message", string()),
        ("advice", described(nullable(string()), "What to do about it.")),
    ]);
    object([("worst", levels()), ("findings", array(finding))])
}
