//! `/kinds`: the kinds of jobs, what they take and how they are treated.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use relevo_jobs::{JobKind, Policy};
use relevo_runs::api_keys::Scope;
use serde_json::{Value, json};

use crate::auth::{Caller, Read};
use crate::openapi::schema::{array, named, object};
use crate::openapi::{Operation, Routes, payload_schema};

pub(super) fn routes() -> Routes {
    let listed = Operation::get("/api/v1/kinds", "listKinds", "The kinds of jobs")
        .describe("Each with the JSON Schema of its payload, and the policy it is run by.")
        .needs(Scope::Read)
        .answer(200, "The kinds.", object([("kinds", array(named("Kind")))]));
    Routes::new("Jobs").add(listed, list)
}

async fn list(_: Caller<Read>) -> Response {
    let kinds: Vec<Value> = JobKind::ALL.into_iter().map(kind).collect();
    Json(json!({"kinds": kinds})).into_response()
}

fn kind(kind: JobKind) -> Value {
    let Policy { queue, max_attempts, max_deaths, priority, timeout, .. } =
        relevo_jobs::policy(kind);
    json!({
        "kind": kind,
        "summary": relevo_jobs::summary(kind),
        "payload_version": relevo_jobs::version(kind),
        "payload_schema": payload_schema(kind),
        "queue": queue,
        "priority": priority,
        "max_attempts": max_attempts,
        "max_deaths": max_deaths,
        "timeout_seconds": timeout.as_secs(),
        "scope": scope(kind),
    })
}

/// What a key needs beside `enqueue` to enqueue this kind: all but the one for tests are Relevo's
/// own steps.
pub(super) const fn scope(kind: JobKind) -> Scope {
    match kind {
        JobKind::Noop => Scope::Enqueue,
        JobKind::RequestBackup
        | JobKind::DownloadDump
        | JobKind::TranslateChunk
        | JobKind::FinishImport
        | JobKind::BackupDeadline
        | JobKind::Notify => Scope::Operate,
    }
}
