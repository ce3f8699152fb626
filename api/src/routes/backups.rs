//! `/backups/{source}`: start a run of the backup import.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use relevo_jobs::JobKind;
use relevo_runs::RunId;
use relevo_runs::api_keys::Scope;
use relevo_runs::audit::Actor;
use relevo_runs::backup::{self, BackupMode, StartOptions};
use relevo_settings::{BackupSource, SourceKind};
use serde_json::json;

use super::location;
use crate::app::App;
use crate::audited::Audited;
use crate::auth::{Caller, Enqueue};
use crate::error::ApiError;
use crate::extract::{Named, OptionalBody};
use crate::openapi::schema::{boolean, id, input, nullable, object, string, word};
use crate::openapi::{Operation, Routes};

pub(super) fn routes() -> Routes {
    let modes =
        || word([BackupMode::Auto, BackupMode::Webhook, BackupMode::Sync].map(BackupMode::as_str));
    let started = Operation::post("/api/v1/backups/{source}", "startBackup", "Start a backup run")
        .describe(
            "`auto` does what the source\u{2019}s settings say; `force` lets a backup replace the \
             target that is suspiciously small against the last one; `upload` loads a dump that was \
             uploaded, in place of what the source would bring.",
        )
        .needs(Scope::Enqueue)
        .optional_body(input([], [("mode", modes()), ("force", boolean()), ("upload", nullable(id()))]))
        .made(
            202,
            "The run has begun.",
            object([("run_id", id()), ("source", string()), ("mode", modes())]),
        )
        .problem(404, "source_not_found")
        .problem(409, "run_active")
        .problem(409, "upload_unusable")
        .problem(422, "public_url_missing")
        .problem(422, "upload_missing");
    Routes::new("Backups").add(started, start)
}

async fn start(
    caller: Caller<Enqueue>,
    State(app): State<App>,
    Named(source): Named<String>,
    OptionalBody(options): OptionalBody<StartOptions>,
) -> Result<Response, ApiError> {
    let run = start_run(&app, caller.actor(), "backup.start", &source, &source, &options).await?;
    let answer = json!({"run_id": run, "source": source, "mode": options.mode});
    Ok((StatusCode::ACCEPTED, location("runs", run.0), Json(answer)).into_response())
}

/// Starts a run of `source`, noted as `action` on `object`.
pub(crate) async fn start_run(
    app: &App,
    actor: Actor,
    action: &'static str,
    object: &str,
    source: &str,
    options: &StartOptions,
) -> Result<RunId, ApiError> {
    let settings = known_source(app, source)?;
    if settings.kind == SourceKind::Upload && options.upload.is_none() {
        return Err(ApiError::unprocessable(
            "upload_missing",
            "this source takes uploads only: announce a dump by POST /api/v1/uploads and send it, or \
             name one that has arrived in upload",
        ));
    }
    let asks = settings.kind == SourceKind::Gateway && options.upload.is_none();
    if asks && options.mode == BackupMode::Webhook && app.settings().api.public_url.is_none() {
        return Err(ApiError::unprocessable(
            "public_url_missing",
            "the gateway cannot call back: api.public_url is not configured; ask with mode sync",
        ));
    }
    let trigger = actor.label();
    let mut audited = Audited::begin(app, actor).await?;
    let run = backup::start_in(&mut audited.tx, &app.queue, source, options, &trigger).await?;
    let after = json!({"run_id": run, "options": options});
    audited.commit(action, object, None, Some(after)).await?;
    app.count_built_in(JobKind::RequestBackup);
    Ok(run)
}

/// The settings of a source.
pub(super) fn known_source(app: &App, source: &str) -> Result<BackupSource, ApiError> {
    app.settings().backup.get(source).cloned().ok_or_else(|| unknown_source(app, source))
}

fn unknown_source(app: &App, source: &str) -> ApiError {
    let source: String = source.chars().take(100).collect();
    let settings = app.settings();
    let known: Vec<&str> = settings.backup.keys().map(String::as_str).collect();
    let nearest = known
        .iter()
        .map(|name| (strsim::jaro_winkler(name, &source), *name))
        .filter(|(likeness, _)| *likeness >= 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name);
    let hint = match nearest {
        Some(name) => format!("; did you mean {name}?"),
        None if known.is_empty() => "; none is configured".to_owned(),
        None => format!("; configured are {}", known.join(", ")),
    };
    ApiError::not_found("source_not_found", format!("no source is called {source:?}{hint}"))
}
