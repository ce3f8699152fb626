//! `/keys`: API keys, for administrators.

use std::time::Duration;

use axum::Json;
use axum::extract::{OriginalUri, State};
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use relevo_runs::api_keys::{self, ApiKey, NAME_CHARS_MAX, Scope, Secret};
use serde::Deserialize;
use serde_json::json;

use crate::app::App;
use crate::audited::Audited;
use crate::auth::{Admin, Caller};
use crate::error::ApiError;
use crate::extract::{Body, Named, OptionalBody, Params, limit_param};
use crate::openapi::schema::{
    array, boolean, described, id, input, integer, named, nullable, object, query, string, text,
};
use crate::openapi::{Operation, Routes, list_of, scopes};
use crate::page::{LIMIT_DEFAULT, LIMIT_MAX, page};

/// How long a key that is replaced goes on working, unless asked otherwise.
const OVERLAP_SECONDS_DEFAULT: u64 = 3_600;
/// The longest overlap: 30 days.
const OVERLAP_SECONDS_MAX: u64 = 30 * 24 * 3_600;

pub(super) fn routes() -> Routes {
    let with_secret = || {
        object([
            ("key", named("ApiKey")),
            ("secret", described(string(), "The key itself. It is shown here and nowhere else.")),
        ])
    };
    let mut some_scopes = array(scopes());
    some_scopes["minItems"] = 1.into();
    some_scopes["maxItems"] = 10.into();
    let listed = Operation::get("/api/v1/keys", "listKeys", "List API keys")
        .needs(Scope::Admin)
        .query([
            query("good", boolean(), "Leave out those that open nothing any more."),
            query("before", id(), "Only below this id: `next_before` of the page before."),
            query("limit", integer(1, LIMIT_MAX.into()), "How many, 50 by default."),
        ])
        .answer(200, "A page.", list_of("keys", "ApiKey"));
    let created = Operation::post("/api/v1/keys", "createKey", "Make an API key")
        .needs(Scope::Admin)
        .body(input([("name", text(1, NAME_CHARS_MAX)), ("scopes", some_scopes)], []))
        .answer(201, "The key, and its secret for once.", with_secret());
    let overlap = integer(0, i64::try_from(OVERLAP_SECONDS_MAX).unwrap_or(i64::MAX));
    let rotated = Operation::post("/api/v1/keys/{id}/rotate", "rotateKey", "Replace an API key")
        .describe(
            "Makes a key with the same name and scopes. The old one goes on working for \
             `overlap_seconds` (an hour by default), so that its users can change over.",
        )
        .needs(Scope::Admin)
        .optional_body(input([], [("overlap_seconds", nullable(overlap))]))
        .answer(201, "The new key, and its secret for once.", with_secret())
        .problem(404, "key_not_found");
    let revoked = Operation::new(Method::DELETE, "/api/v1/keys/{id}", "revokeKey", "Revoke a key")
        .describe("It opens nothing any more; elsewhere than on this API within a second.")
        .needs(Scope::Admin)
        .empty(204, "Done.")
        .problem(404, "key_not_found");
    Routes::new("Keys and audit")
        .add(listed, list)
        .add(created, create)
        .add(rotated, rotate)
        .add(revoked, revoke)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyParams {
    #[serde(default)]
    good: bool,
    before: Option<i64>,
    limit: Option<u16>,
}

async fn list(
    _: Caller<Admin>,
    State(app): State<App>,
    OriginalUri(uri): OriginalUri,
    Params(params): Params<KeyParams>,
) -> Result<Response, ApiError> {
    let limit = limit_param(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let keys = api_keys::page(&app.pool, params.good, params.before, limit).await?;
    Ok(page(&uri, "keys", &keys, limit, |key| key.id))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreateBody {
    name: String,
    scopes: Vec<Scope>,
}

async fn create(
    caller: Caller<Admin>,
    State(app): State<App>,
    Body(body): Body<CreateBody>,
) -> Result<Response, ApiError> {
    if body.scopes.len() > 10 {
        return Err(ApiError::unprocessable("invalid_body", "scopes: at most 10"));
    }
    let mut audited = Audited::begin(&app, caller.actor()).await?;
    let (key, secret) = api_keys::create_in(&mut audited.tx, &body.name, &body.scopes).await?;
    let after = json!({"name": key.name, "prefix": key.prefix, "scopes": key.scopes});
    audited.commit("key.create", &key.id.to_string(), None, Some(after)).await?;
    Ok(shown_once(&key, &secret))
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateBody {
    #[serde(default)]
    overlap_seconds: Option<u64>,
}

async fn rotate(
    caller: Caller<Admin>,
    State(app): State<App>,
    Named(id): Named<i64>,
    OptionalBody(body): OptionalBody<RotateBody>,
) -> Result<Response, ApiError> {
    let overlap_seconds = body.overlap_seconds.unwrap_or(OVERLAP_SECONDS_DEFAULT);
    if overlap_seconds > OVERLAP_SECONDS_MAX {
        return Err(ApiError::unprocessable(
            "invalid_body",
            format!("overlap_seconds is at most {OVERLAP_SECONDS_MAX}"),
        ));
    }
    let overlap = Duration::from_secs(overlap_seconds);
    let mut audited = Audited::begin(&app, caller.actor()).await?;
    let rotated = api_keys::rotate_in(&mut audited.tx, id, overlap).await?;
    let (key, secret) = rotated.ok_or_else(|| key_not_found(id))?;
    let after = json!({"new_key": key.id, "overlap_seconds": overlap_seconds});
    audited.commit("key.rotate", &id.to_string(), None, Some(after)).await?;
    app.keys.forget(id);
    Ok(shown_once(&key, &secret))
}

fn shown_once(key: &ApiKey, secret: &Secret) -> Response {
    (StatusCode::CREATED, Json(json!({"key": key, "secret": secret.expose()}))).into_response()
}

async fn revoke(
    caller: Caller<Admin>,
    State(app): State<App>,
    Named(id): Named<i64>,
) -> Result<Response, ApiError> {
    let mut audited = Audited::begin(&app, caller.actor()).await?;
    if !api_keys::revoke_in(&mut audited.tx, id).await? {
        return Err(key_not_found(id));
    }
    audited.commit("key.revoke", &id.to_string(), None, None).await?;
    app.keys.forget(id);
    Ok(StatusCode::NO_CONTENT.into_response())
}

fn key_not_found(id: i64) -> ApiError {
    ApiError::not_found("key_not_found", format!("there is no good key {id}")).with("id", id)
}
