//! `/sources`: the configured connections, without their secrets.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use relevo_runs::api_keys::Scope;
use relevo_runs::backup::PIPELINE;
use relevo_runs::{Run, RunFilter};
use relevo_settings::BackupSource;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};
use url::Url;

use crate::app::App;
use crate::auth::{Caller, Read};
use crate::error::ApiError;
use crate::openapi::schema::{array, named, object};
use crate::openapi::{Operation, Routes};

pub(super) fn routes() -> Routes {
    let listed = Operation::get("/api/v1/sources", "listSources", "The configured sources")
        .describe(
            "Where each comes from and goes to, without passwords and keys, and its last run.",
        )
        .needs(Scope::Read)
        .answer(200, "The sources.", object([("sources", array(named("Source")))]));
    Routes::new("Sources").add(listed, list)
}

async fn list(_: Caller<Read>, State(app): State<App>) -> Result<Response, ApiError> {
    let settings = app.settings();
    let mut sources = Vec::with_capacity(settings.backup.len());
    for (name, source) in &settings.backup {
        let filter = RunFilter {
            pipeline: Some(PIPELINE.to_owned()),
            source: Some(name.clone()),
            limit: 1,
            ..RunFilter::default()
        };
        let last = app.runs.list(&filter).await?;
        sources.push(view(name, source, last.first()));
    }
    Ok(Json(json!({"sources": sources})).into_response())
}

fn view(name: &str, source: &BackupSource, last_run: Option<&Run>) -> Value {
    json!({
        "name": name,
        "kind": source.kind.as_str(),
        "origin": source.origin(),
        "mode": source.mode.as_str(),
        "target": without_secrets(source.target_url.expose_secret()),
        "target_schema": source.target_schema,
        "timezone": source.timezone.name(),
        "schedule_enabled": source.schedule_enabled,
        "last_run": last_run.map(|run| {
            json!({"id": run.id, "state": run.state, "finished_at": run.finished_at})
        }),
    })
}

/// An address with neither user nor password nor parameters, any of which may be secret.
pub(crate) fn without_secrets(text: &str) -> String {
    let Ok(mut url) = Url::parse(text) else { return "(not an address)".to_owned() };
    if url.cannot_be_a_base() {
        // As in embedded:NAME.
        return format!("{}:{}", url.scheme(), url.path());
    }
    // An address that can hold neither has neither.
    url.set_username("").unwrap_or_default();
    url.set_password(None).unwrap_or_default();
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_what_may_be_secret() {
        let shown = without_secrets("postgres://shop:p%40ss@db:5433/shop?password=again#x");
        assert_eq!(shown, "postgres://db:5433/shop");
        assert_eq!(without_secrets("embedded:sicar"), "embedded:sicar");
        assert_eq!(without_secrets("https://u:p@gw.test:8443"), "https://gw.test:8443/");
        assert!(!without_secrets("host=db password=secret").contains("secret"));
    }
}
