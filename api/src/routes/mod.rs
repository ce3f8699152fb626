//! The routes, by resource.

pub(crate) mod attention;
mod audit;
pub(crate) mod backups;
pub(crate) mod connections;
pub(crate) mod dead_letters;
pub(crate) mod dead_letters_bulk;
mod enqueue;
mod health;
pub(crate) mod jobs;
mod keys;
mod kinds;
pub(crate) mod limits;
pub(crate) mod queues;
pub(crate) mod rollback;
pub(crate) mod run_events;
pub(crate) mod runs;
pub(crate) mod schedules;
pub(crate) mod sources;
pub(crate) mod uploads;
pub(crate) mod uploads_complete;
mod webhook;
pub(crate) mod work;

use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware;

use crate::app::App;
use crate::auth::authenticate;
use crate::openapi::{self, Routes};

/// Every route. Without an `app` they can be described, not asked. `bare_webhook` adds the webhook
/// without a token.
pub(crate) fn all(app: Option<&App>, bare_webhook: bool) -> Routes {
    Routes::new("")
        .merge(api_v1(app))
        .merge(webhook::routes(bare_webhook))
        .merge(health::routes())
        .merge(openapi::own_routes())
}

/// Everything under `/api/v1`, each route behind a good API key.
fn api_v1(app: Option<&App>) -> Routes {
    let routes = Routes::new("")
        .merge(enqueue::routes())
        .merge(jobs::routes())
        .merge(kinds::routes())
        .merge(backups::routes())
        .merge(uploads::routes())
        .merge(runs::routes())
        .merge(run_events::routes())
        .merge(rollback::routes())
        .merge(sources::routes())
        .merge(connections::routes())
        .merge(attention::routes())
        .merge(schedules::routes())
        .merge(queues::routes())
        .merge(limits::routes())
        .merge(work::routes())
        .merge(dead_letters::routes())
        .merge(dead_letters_bulk::routes())
        .merge(keys::routes())
        .merge(audit::routes());
    match app {
        Some(app) => routes.map(|router| {
            router.route_layer(middleware::from_fn_with_state(app.clone(), authenticate))
        }),
        None => routes,
    }
}

/// Where to look at what was just made.
pub(super) fn location(resource: &str, id: i64) -> [(HeaderName, HeaderValue); 1] {
    let path = format!("/api/v1/{resource}/{id}");
    // A path of letters, slashes and digits is always fit for a header.
    [(header::LOCATION, HeaderValue::from_str(&path).unwrap_or(HeaderValue::from_static("/")))]
}
