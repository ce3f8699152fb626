//! `/connections`: named endpoints, their secrets never shown; and trying out those of a source.

use axum::Json;
use axum::extract::State;
use axum::http::{Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use relevo_connections::{Change, NewConnection, Outbound, Shown, StoreError, Trial, try_out};
use relevo_runs::api_keys::Scope;
use relevo_runs::audit::Actor;
use relevo_settings::ConnectionKind;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::audited::Audited;
use crate::auth::{Admin, Caller, Read};
use crate::error::ApiError;
use crate::extract::{Body, Named};
use crate::openapi::schema::{array, described, input, named, nullable, object, text, word};
use crate::openapi::{Operation, Routes};

/// The longest URL or key.
const SECRET_CHARS_MAX: usize = 8_192;

pub(super) fn routes() -> Routes {
    let secret = || described(nullable(text(1, SECRET_CHARS_MAX)), "Kept sealed, never shown.");
    let from = || {
        described(nullable(text(3, 320)), "The address that a mail server's messages come from.")
    };
    let listed = Operation::get("/api/v1/connections", "listConnections", "The named endpoints")
        .describe("Those of the configuration file and those kept here, without secrets.")
        .needs(Scope::Read)
        .answer(200, "All of them.", object([("connections", array(named("Connection")))]));
    let shown = Operation::get("/api/v1/connections/{name}", "getConnection", "One endpoint")
        .needs(Scope::Read)
        .answer(200, "It, without secrets.", named("Connection"))
        .problem(404, "connection_not_found");
    let kinds = word(ConnectionKind::ALL.map(ConnectionKind::as_str));
    let mut url = text(1, SECRET_CHARS_MAX);
    url["description"] = json!("Kept sealed, never shown whole.");
    let added = Operation::post("/api/v1/connections", "addConnection", "Keep an endpoint")
        .describe(
            "Its URL and key are sealed. What is kept here reaches private addresses only where \
             outbound.allow of the configuration names them.",
        )
        .needs(Scope::Admin)
        .body(input(
            [("name", text(1, 40)), ("kind", kinds), ("url", url)],
            [("api_key", secret()), ("from", from())],
        ))
        .answer(201, "It is kept.", named("Connection"))
        .problem(409, "connection_exists")
        .problem(409, "connection_read_only")
        .problem(422, "invalid_connection")
        .problem(503, "secret_key_unusable");
    let changed =
        Operation::new(Method::PATCH, "/api/v1/connections/{name}", "setConnection", "Change one")
            .describe("What is not given stays.")
            .needs(Scope::Admin)
            .body(input([], [("url", secret()), ("api_key", secret()), ("from", from())]))
            .answer(200, "As it is now.", named("Connection"))
            .problem(404, "connection_not_found")
            .problem(409, "connection_read_only")
            .problem(409, "connection_sealed")
            .problem(422, "invalid_connection")
            .problem(503, "secret_key_unusable");
    let removed = Operation::new(
        Method::DELETE,
        "/api/v1/connections/{name}",
        "removeConnection",
        "Forget one",
    )
    .needs(Scope::Admin)
    .empty(204, "Done.")
    .problem(404, "connection_not_found")
    .problem(409, "connection_read_only");
    let tested =
        Operation::post("/api/v1/connections/{name}/test", "testConnection", "Try an endpoint out")
            .describe("Nothing is changed at the other end.")
            .needs(Scope::Admin)
            .answer(200, "What became of it; `ok` says whether it can be used.", named("Trial"))
            .problem(404, "connection_not_found")
            .problem(409, "connection_sealed")
            .problem(503, "secret_key_unusable");
    let source_tested =
        Operation::post("/api/v1/sources/{name}/test", "testSource", "Try a source out")
            .describe("Its gateway and its target. No backup is made, nothing is changed.")
            .needs(Scope::Admin)
            .answer(200, "What became of each.", object([("trials", array(named("Trial")))]))
            .problem(404, "source_not_found");
    Routes::new("Connections")
        .add(listed, list)
        .add(shown, show)
        .add(added, add)
        .add(changed, change)
        .add(removed, remove)
        .add(tested, test)
        .add(source_tested, test_source)
}

async fn list(_: Caller<Read>, State(app): State<App>) -> Result<Response, ApiError> {
    let all = app.connections().list().await?;
    Ok(Json(json!({"connections": all})).into_response())
}

async fn show(
    _: Caller<Read>,
    State(app): State<App>,
    Named(name): Named<String>,
) -> Result<Response, ApiError> {
    let shown = app.connections().show(&name).await?;
    Ok(Json(shown.ok_or(StoreError::NotFound(name))?).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddBody {
    name: String,
    kind: String,
    url: String,
    #[serde(default)]
    api_key: Option<String>,
    #[serde(default)]
    from: Option<String>,
}

async fn add(
    caller: Caller<Admin>,
    State(app): State<App>,
    Body(body): Body<AddBody>,
) -> Result<Response, ApiError> {
    let kind = ConnectionKind::parse(&body.kind)
        .map_err(|reason| ApiError::unprocessable("invalid_body", format!("kind: {reason}")))?;
    let new = NewConnection {
        kind,
        url: SecretString::from(body.url),
        api_key: body.api_key.map(SecretString::from),
        from: body.from,
    };
    let shown = add_connection(&app, caller.actor(), &body.name, &new).await?;
    Ok((StatusCode::CREATED, Json(shown)).into_response())
}

/// Keeps a new connection.
pub(crate) async fn add_connection(
    app: &App,
    actor: Actor,
    name: &str,
    new: &NewConnection,
) -> Result<Shown, ApiError> {
    let by = actor.label();
    let mut audited = Audited::begin(app, actor).await?;
    let shown = app.connections().add_in(&mut audited.tx, name, new, &by).await?;
    audited.commit("connection.add", name, None, Some(json!(shown))).await?;
    Ok(shown)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ChangeBody {
    #[serde(default)]
    url: Option<String>,
    #[serde(default)]
    api_key: Option<String>,
    #[serde(default)]
    from: Option<String>,
}

async fn change(
    caller: Caller<Admin>,
    State(app): State<App>,
    Named(name): Named<String>,
    Body(body): Body<ChangeBody>,
) -> Result<Response, ApiError> {
    let change = Change {
        url: body.url.map(SecretString::from),
        api_key: body.api_key.map(SecretString::from),
        from: body.from,
    };
    Ok(Json(change_connection(&app, caller.actor(), &name, &change).await?).into_response())
}

/// Changes a connection that is kept.
pub(crate) async fn change_connection(
    app: &App,
    actor: Actor,
    name: &str,
    change: &Change,
) -> Result<Shown, ApiError> {
    let by = actor.label();
    let connections = app.connections();
    let before = connections.show(name).await?.map(|before| json!(before));
    let mut audited = Audited::begin(app, actor).await?;
    let shown = connections.set_in(&mut audited.tx, name, change, &by).await?;
    audited.commit("connection.set", name, before, Some(json!(shown))).await?;
    Ok(shown)
}

async fn remove(
    caller: Caller<Admin>,
    State(app): State<App>,
    Named(name): Named<String>,
) -> Result<Response, ApiError> {
    remove_connection(&app, caller.actor(), &name).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Forgets a connection.
pub(crate) async fn remove_connection(app: &App, actor: Actor, name: &str) -> Result<(), ApiError> {
    let mut audited = Audited::begin(app, actor).await?;
    app.connections().remove_in(&mut audited.tx, name).await?;
    audited.commit("connection.remove", name, None, None).await
}

async fn test(
    caller: Caller<Admin>,
    State(app): State<App>,
    Named(name): Named<String>,
) -> Result<Response, ApiError> {
    Ok(Json(try_connection(&app, &caller.actor(), &name).await?).into_response())
}

/// Tries a connection out.
pub(crate) async fn try_connection(
    app: &App,
    actor: &Actor,
    name: &str,
) -> Result<Trial, ApiError> {
    let found = app.connections().find(name).await?;
    let endpoint = found.ok_or_else(|| StoreError::NotFound(name.to_owned()))?;
    let trial = try_out(&endpoint, &Outbound::new(&app.settings())).await;
    tracing::info!(name, ok = trial.ok, by = actor.label(), "a connection was tried out");
    Ok(trial)
}

async fn test_source(
    _: Caller<Admin>,
    State(app): State<App>,
    Named(name): Named<String>,
) -> Result<Response, ApiError> {
    if !app.settings().backup.contains_key(&name) {
        return Err(ApiError::not_found("source_not_found", "there is no such source"));
    }
    let connections = app.connections();
    let outbound = Outbound::new(&app.settings());
    let mut trials: Vec<Trial> = Vec::new();
    for part in ["gateway", "target"] {
        if let Some(endpoint) = connections.find(&format!("backup.{name}.{part}")).await? {
            trials.push(try_out(&endpoint, &outbound).await);
        }
    }
    Ok(Json(json!({"trials": trials})).into_response())
}

/// A connection as it is answered.
pub(crate) fn connection_schema() -> Value {
    use crate::openapi::schema::{boolean, string, time};
    object([
        ("name", string()),
        ("kind", string()),
        ("origin", word(["file", "stored"])),
        ("address", described(string(), "Without user, password, path and parameters.")),
        ("has_api_key", boolean()),
        ("from", nullable(string())),
        ("updated_at", nullable(time())),
        ("updated_by", nullable(string())),
    ])
}

/// A trial as it is answered.
pub(crate) fn trial_schema() -> Value {
    use crate::openapi::schema::{boolean, count, string};
    object([
        ("name", string()),
        ("ok", boolean()),
        ("message", described(string(), "What was found, or what is wrong and what to do.")),
        ("duration_ms", count()),
    ])
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Database(error) => error.into(),
            StoreError::NotFound(_) => Self::not_found("connection_not_found", error.to_string()),
            StoreError::Exists(_) => Self::conflict("connection_exists", error.to_string()),
            StoreError::ReadOnly(_) => Self::conflict("connection_read_only", error.to_string()),
            StoreError::Sealed { .. } => Self::conflict("connection_sealed", error.to_string()),
            StoreError::Invalid { .. } | StoreError::TooMany => {
                Self::unprocessable("invalid_connection", error.to_string())
            }
            // The path of the key file is the operator's to know, not every caller's.
            StoreError::Key(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the key that seals secrets cannot be used"
                );
                Self::unavailable(
                    "secret_key_unusable",
                    "the key that seals secrets cannot be used; `relevo doctor` says why",
                )
            }
        }
    }
}
