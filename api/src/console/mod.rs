//! The console: pages for people, made here, with one style sheet and one small script.
//!
//! A page is put together by the server and works without the script, which only keeps it up to
//! date. What a form does is done by the same functions as over the API, with the same line in the
//! audit log. Pages are no part of the API: they are not in its document and take no API key; a
//! browser is logged in by a cookie that `login` gives and `visitor` looks at.

mod alerts;
mod assets;
mod connections;
mod cookies;
mod dead_letters;
mod jobs;
mod login;
mod overview;
mod queues;
mod rollback;
mod run;
mod runs;
mod schedules;
mod sources;
mod uploads;
mod view;
mod visitor;
mod words;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Redirect, Response};
use axum::routing::{get, post};
use maud::html;
use serde_json::Value;

use crate::app::App;
use crate::error::ApiError;
use view::bare_page;
use words::Words;

/// The longest refusal that is made a page; ours are a few hundred bytes.
const PROBLEM_BYTES_MAX: usize = 64 * 1_024;

/// Every page and form.
pub(crate) fn router() -> Router<App> {
    Router::new()
        .route("/", get(|| async { Redirect::to("/console") }))
        .route("/console", get(overview::show))
        .route("/console/", get(|| async { Redirect::to("/console") }))
        .route("/console/login", get(login::show).post(login::log_in))
        .route("/console/link/{token}", get(login::show_link))
        .route("/console/link", post(login::follow_link))
        .route("/console/logout", post(login::log_out))
        .route("/console/language", get(login::change_language))
        .route("/console/assets/{name}", get(assets::serve))
        .route("/console/runs", get(runs::list))
        .route("/console/runs/{id}", get(run::show))
        .route("/console/runs/{id}/events", get(run::follow))
        .route("/console/runs/{id}/cancel", post(run::cancel))
        .route("/console/runs/{id}/rollback", get(rollback::ask).post(rollback::act))
        .route("/console/sources", get(sources::list))
        .route("/console/sources/start", post(sources::start))
        .route("/console/queues", get(queues::list))
        .route("/console/queues/pause", post(queues::pause))
        .route("/console/queues/resume", post(queues::resume))
        .route("/console/jobs", get(jobs::list))
        .route("/console/jobs/{id}", get(jobs::show))
        .route("/console/jobs/{id}/cancel", post(jobs::cancel))
        .route("/console/jobs/{id}/retry", post(jobs::retry))
        .route("/console/dead-letters", get(dead_letters::list))
        .route("/console/dead-letters/all", get(dead_letters::ask).post(dead_letters::act))
        .route("/console/dead-letters/{id}/retry", post(dead_letters::retry))
        .route("/console/dead-letters/{id}/discard", post(dead_letters::discard))
        .route("/console/dead-letters/{id}/payload", post(dead_letters::edit))
        .route("/console/schedules", get(schedules::list))
        .route("/console/schedules/run", post(schedules::run))
        .route("/console/schedules/enable", post(schedules::enable))
        .route("/console/schedules/disable", post(schedules::disable))
        .route("/console/alerts", get(alerts::list))
        .route("/console/connections", get(connections::list).post(connections::add))
        .route("/console/connections/{name}", get(connections::show))
        .route("/console/connections/{name}/set", post(connections::set))
        .route("/console/connections/{name}/forget", post(connections::forget))
        .route("/console/connection-trial", get(to_connections).post(connections::test))
        .route("/console/uploads", get(uploads::list))
        .route("/console/{*rest}", get(nothing_here))
        .layer(middleware::from_fn(dress))
}

/// What a trial came to is shown once; whoever comes back sees the list.
async fn to_connections() -> Redirect {
    Redirect::to("/console/connections")
}

async fn nothing_here() -> ApiError {
    ApiError::not_found("route_not_found", "there is no such page")
}

/// Makes a page of a refusal: handlers refuse as the API does, people read a sentence.
async fn dress(request: Request, next: Next) -> Response {
    let words = Words::for_request(request.headers());
    let response = next.run(request).await;
    let is_problem = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind == "application/problem+json");
    if !is_problem {
        return response;
    }
    let (parts, body) = response.into_parts();
    let bytes = to_bytes(body, PROBLEM_BYTES_MAX).await.unwrap_or_default();
    let problem: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let mut page = refusal(words, parts.status, &problem);
    keep(&parts.headers, page.headers_mut(), header::RETRY_AFTER);
    page
}

fn keep(from: &HeaderMap, to: &mut HeaderMap, name: header::HeaderName) {
    if let Some(value) = from.get(&name) {
        to.insert(name, value.clone());
    }
}

fn refusal(words: &Words, status: StatusCode, problem: &Value) -> Response {
    let title = match status {
        StatusCode::NOT_FOUND => words.not_found,
        status if status.is_server_error() => words.broken,
        _ => words.refused,
    };
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    let content = html! {
        h1 { (title) }
        p.warning role="alert" { (text("detail")) }
        p.quiet { code { (status.as_u16()) " " (text("code")) } }
        p { a href="/console" { "← " (words.overview) } }
    };
    bare_page(words, title, status, "/console", &content)
}

/// Back to a page after a form, with a word about what was done.
fn back_to(path: &str, done: &str) -> Response {
    let joint = if path.contains('?') { '&' } else { '?' };
    Redirect::to(&format!("{path}{joint}done={done}")).into_response()
}
