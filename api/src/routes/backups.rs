//! `/backups/{source}`: start a run of the backup import.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use axum::{Json, Router};
use relevo_jobs::JobKind;
use relevo_runs::backup::{self, BackupMode, StartOptions};
use serde_json::json;

use super::jobs::location;
use crate::app::ApiDeps;
use crate::auth::{Caller, Enqueue};
use crate::error::ApiError;
use crate::extract::{Named, OptionalBody};

pub(super) fn router() -> Router<ApiDeps> {
    Router::new().route("/backups/{source}", post(start))
}

async fn start(
    caller: Caller<Enqueue>,
    State(deps): State<ApiDeps>,
    Named(source): Named<String>,
    OptionalBody(options): OptionalBody<StartOptions>,
) -> Result<Response, ApiError> {
    if !deps.settings.backup.contains_key(&source) {
        return Err(unknown_source(&deps, &source));
    }
    if options.mode == BackupMode::Webhook && deps.settings.api.public_url.is_none() {
        return Err(ApiError::unprocessable(
            "public_url_missing",
            "the gateway cannot call back: api.public_url is not configured; ask with mode sync",
        ));
    }
    let mut tx = deps.pool.begin().await?;
    let run = backup::start_in(&mut tx, &deps.queue, &source, &options, &caller.label()).await?;
    tx.commit().await?;
    deps.count_enqueued(relevo_jobs::policy(JobKind::RequestBackup).queue, JobKind::RequestBackup);
    tracing::info!(run = run.0, source, by = caller.label(), "backup run started over HTTP");
    let answer = json!({"run_id": run, "source": source, "mode": options.mode});
    Ok((StatusCode::ACCEPTED, location("runs", run.0), Json(answer)).into_response())
}

fn unknown_source(deps: &ApiDeps, source: &str) -> ApiError {
    let source: String = source.chars().take(100).collect();
    let known: Vec<&str> = deps.settings.backup.keys().map(String::as_str).collect();
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
