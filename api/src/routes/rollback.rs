//! `/runs/{id}/rollback`: taking a run's import back.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use relevo_rollback::{RollbackError, RolledBack};
use relevo_runs::api_keys::Scope;
use relevo_runs::audit::Actor;
use relevo_runs::{RunError, RunId};
use tokio_util::sync::CancellationToken;

use crate::app::App;
use crate::auth::{Caller, Operate};
use crate::error::ApiError;
use crate::extract::Named;
use crate::openapi::schema::{array, boolean, described, object, string, time};
use crate::openapi::{Operation, Routes};

pub(super) fn routes() -> Routes {
    let rolled_back = Operation::post(
        "/api/v1/runs/{id}/rollback",
        "rollBackRun",
        "Put the data back that a run's import replaced",
    )
    .describe(
        "The previous tables are kept until the next import succeeds; until then this exchanges them \
         for the present ones in one short transaction. Asked again, it says what it did the first \
         time, so a lost or late answer does no harm.",
    )
    .needs(Scope::Operate)
    .answer(
        200,
        "The previous tables are in their place again.",
        object([
            ("already", described(boolean(), "It had been done before; nothing was changed now.")),
            ("schema", described(string(), "Where readers find the tables.")),
            (
                "previous_schema",
                described(string(), "Where the run's own tables are until the next success."),
            ),
            ("tables", described(array(string()), "The tables that were put back.")),
            (
                "retired",
                described(array(string()), "Tables that only the run had; nothing took their place."),
            ),
            ("rolled_back_at", time()),
            ("notices", array(string())),
        ]),
    )
    .problem(404, "run_not_found")
    .problem(409, "run_not_succeeded")
    .problem(409, "run_without_import")
    .problem(409, "run_active")
    .problem(409, "source_not_configured")
    .problem(409, "connection_unusable")
    .problem(409, "import_forgotten")
    .problem(409, "import_superseded")
    .problem(409, "nothing_kept")
    .problem(409, "previous_gone")
    .problem(409, "target_refused")
    .problem(503, "target_unreachable");
    Routes::new("Runs").add(rolled_back, rollback)
}

async fn rollback(
    caller: Caller<Operate>,
    State(app): State<App>,
    Named(id): Named<RunId>,
) -> Result<Response, ApiError> {
    Ok(Json(roll_back(&app, caller.actor(), id).await?).into_response())
}

/// Puts back what a run's import replaced.
pub(crate) async fn roll_back(app: &App, actor: Actor, id: RunId) -> Result<RolledBack, ApiError> {
    let app = app.clone();
    // A task of its own: a caller who hangs up, or a target that takes its time, must not leave it
    // half noted.
    let work = tokio::spawn(async move {
        let never = CancellationToken::new();
        relevo_rollback::roll_back(&app.pool, &app.settings(), id, &actor, &never).await
    });
    work.await.map_err(ApiError::internal)?.map_err(refusal)
}

fn refusal(error: RollbackError) -> ApiError {
    let code = error.code();
    match error {
        RollbackError::NotFound(id) => RunError::NotFound(id).into(),
        RollbackError::ControlPlane(error) | RollbackError::NotNoted { source: error, .. } => {
            error.into()
        }
        error if error.is_transient() => {
            ApiError::unavailable("target_unreachable", relevo_errors::chain(&error))
        }
        error => ApiError::conflict(code, relevo_errors::chain(&error)),
    }
}
