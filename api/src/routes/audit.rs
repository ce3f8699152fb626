//! `/audit`: what operators did.

use axum::extract::{OriginalUri, State};
use axum::response::Response;
use relevo_runs::api_keys::Scope;
use relevo_runs::audit::{self, AuditFilter};
use serde::Deserialize;

use crate::app::App;
use crate::auth::{Admin, Caller};
use crate::error::ApiError;
use crate::extract::{Params, limit_param, text_param};
use crate::openapi::schema::{id, integer, query, text};
use crate::openapi::{Operation, Routes, list_of};
use crate::page::{LIMIT_DEFAULT, LIMIT_MAX, page};

pub(super) fn routes() -> Routes {
    let listed = Operation::get("/api/v1/audit", "listAudit", "What operators did")
        .describe(
            "One entry per action, written in the action\u{2019}s own transaction; newest first.",
        )
        .needs(Scope::Admin)
        .query([
            query("actor", text(0, 500), "Only by this actor, such as api:NAME."),
            query("action", text(0, 500), "Only this action, such as job.cancel."),
            query("object", text(0, 500), "Only to this number or name."),
            query("before", id(), "Only below this id: `next_before` of the page before."),
            query("limit", integer(1, LIMIT_MAX.into()), "How many, 50 by default."),
        ])
        .answer(200, "A page.", list_of("entries", "AuditEntry"));
    Routes::new("Keys and audit").add(listed, list)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AuditParams {
    actor: Option<String>,
    action: Option<String>,
    object: Option<String>,
    before: Option<i64>,
    limit: Option<u16>,
}

async fn list(
    _: Caller<Admin>,
    State(app): State<App>,
    OriginalUri(uri): OriginalUri,
    Params(params): Params<AuditParams>,
) -> Result<Response, ApiError> {
    let limit = limit_param(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let filter = AuditFilter {
        actor: text_param("actor", params.actor)?,
        action: text_param("action", params.action)?,
        object: text_param("object", params.object)?,
        before: params.before,
        limit,
    };
    let entries = audit::list(&app.pool, &filter).await?;
    Ok(page(&uri, "entries", &entries, limit, |entry| entry.id))
}
