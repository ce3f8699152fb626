//! The routes, by resource.

mod backups;
mod dead_letters;
mod jobs;
mod queues;
mod runs;
pub(crate) mod webhook;

use axum::{Router, middleware};

use crate::app::ApiDeps;
use crate::auth::authenticate;

/// Everything under `/api/v1`, each route behind a good API key.
pub(crate) fn api_v1(deps: &ApiDeps) -> Router<ApiDeps> {
    Router::new()
        .merge(jobs::router())
        .merge(runs::router())
        .merge(backups::router())
        .merge(queues::router())
        .merge(dead_letters::router())
        .route_layer(middleware::from_fn_with_state(deps.clone(), authenticate))
}
