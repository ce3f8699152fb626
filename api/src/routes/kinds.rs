//! `/kinds`: the kinds of jobs, what they take and how they are treated.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use relevo_jobs::{JobKind, KindSpec, UniqueUntil};
use relevo_runs::KindBook;
use relevo_runs::api_keys::Scope;
use serde_json::{Value, json};

use crate::app::App;
use crate::auth::{Caller, Read};
use crate::error::ApiError;
use crate::openapi::schema::{array, named, object};
use crate::openapi::{Operation, Routes, payload_schema};

pub(super) fn routes() -> Routes {
    let listed = Operation::get("/api/v1/kinds", "listKinds", "The kinds of jobs")
        .describe(
            "Each with the JSON Schema of its payload, and the policy it is run by: Relevo's own \
             first, then those that workers have published.",
        )
        .needs(Scope::Read)
        .answer(200, "The kinds.", object([("kinds", array(named("Kind")))]));
    Routes::new("Jobs").add(listed, list)
}

async fn list(_: Caller<Read>, State(app): State<App>) -> Result<Response, ApiError> {
    let book = app.kinds.book().await?;
    let built_in = JobKind::ALL
        .into_iter()
        .map(|kind| view(&KindSpec::of_built_in(kind), &payload_schema(kind), None));
    let own = book.own().map(|published| {
        let spec = &published.spec;
        let schema = serde_json::from_str(&spec.payload_schema).unwrap_or_else(|_| json!({}));
        view(spec, &schema, Some(published.seen_at))
    });
    let kinds: Vec<Value> = built_in.chain(own).collect();
    Ok(Json(json!({"kinds": kinds})).into_response())
}

fn view(spec: &KindSpec, schema: &Value, seen_at: Option<DateTime<Utc>>) -> Value {
    json!({
        "kind": spec.name,
        "summary": spec.summary,
        "built_in": seen_at.is_none(),
        "seen_at": seen_at,
        "payload_version": spec.payload_version,
        "payload_schema": schema,
        "queue": spec.queue,
        "priority": spec.priority,
        "max_attempts": spec.max_attempts,
        "max_deaths": spec.max_deaths,
        "timeout_seconds": spec.timeout.as_secs(),
        "unique_field": spec.unique.as_ref().map(|(field, _)| field),
        "unique_until": spec.unique.as_ref().map(|(_, until)| UniqueUntil::as_str(*until)),
        "ordering_field": spec.order.as_ref().map(|(field, _)| field),
        "limit_key": spec.limit_key,
        "scope": if spec.internal { Scope::Operate } else { Scope::Enqueue },
    })
}

/// What a key needs beside `enqueue` to enqueue this kind: all but the one for tests are Relevo's
/// own steps. Of a kind that nobody knows it needs nothing more.
pub(super) fn scope_of(book: &KindBook, kind: &str) -> Scope {
    let internal = match kind.parse::<JobKind>() {
        Ok(known) => known.is_internal(),
        Err(_) => book.find(kind).is_some_and(|published| published.spec.internal),
    };
    if internal { Scope::Operate } else { Scope::Enqueue }
}

/// The queue that jobs of a kind wait in by themselves.
pub(super) fn queue_of<'a>(book: &'a KindBook, kind: &str) -> &'a str {
    match kind.parse::<JobKind>() {
        Ok(known) => relevo_jobs::policy(known).queue,
        Err(_) => book.find(kind).map_or("", |published| published.spec.queue.as_str()),
    }
}
