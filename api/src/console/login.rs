//! Logging in and out.

use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use relevo_runs::api_keys::Scope;
use relevo_runs::console::{self, SessionToken};
use serde::Deserialize;

use super::cookies::{self, session_token};
use super::view::bare_page;
use super::visitor::{Anonymous, Posted};
use super::words::Words;
use crate::app::App;
use crate::error::ApiError;

/// How to get a link.
const LINK_COMMAND: &str = "relevo console link";

#[derive(Deserialize)]
pub(super) struct LoginParams {
    #[serde(default)]
    out: bool,
}

pub(super) async fn show(
    State(app): State<App>,
    headers: HeaderMap,
    Query(params): Query<LoginParams>,
) -> Result<Response, ApiError> {
    // Who is logged in already goes straight in.
    if let Some(token) = session_token(&headers)
        && console::session(&app.pool, &token).await?.is_some()
    {
        return Ok(Redirect::to("/console").into_response());
    }
    let words = Words::for_request(&headers);
    let told = params.out.then_some(words.logged_out);
    Ok(form(words, StatusCode::OK, told, None))
}

fn form(words: &Words, status: StatusCode, told: Option<&str>, refused: Option<&str>) -> Response {
    let content: Markup = html! {
        h1 { (words.log_in) }
        @if let Some(told) = told { p.notice role="status" { (told) } }
        @if let Some(refused) = refused { p.warning role="alert" { (refused) } }
        form.login method="post" action="/console/login" {
            label for="key" { (words.api_key) }
            input #key type="password" name="key" required autocomplete="current-password"
                spellcheck="false" placeholder="rk_…" autofocus;
            button.primary type="submit" { (words.log_in) }
        }
        p.quiet { (words.log_in_hint) }
        pre.command { (LINK_COMMAND) }
    };
    bare_page(words, words.log_in, status, "/console/login", &content)
}

pub(super) async fn log_in(
    State(app): State<App>,
    posted: Anonymous,
) -> Result<Response, ApiError> {
    let words = Words::for_request(&posted.headers);
    if !app.log_ins.may_try(posted.peer) {
        let mut response =
            form(words, StatusCode::TOO_MANY_REQUESTS, None, Some(words.too_many_attempts));
        response.headers_mut().insert(header::RETRY_AFTER, header::HeaderValue::from_static("60"));
        return Ok(response);
    }
    let shown = posted.fields.get("key").unwrap_or_default();
    let Some(key) = app.keys.verify(&app.pool, shown).await? else {
        app.log_ins.failed(posted.peer);
        return Ok(form(words, StatusCode::UNAUTHORIZED, None, Some(words.wrong_key)));
    };
    if !key.allows(Scope::Read) {
        return Ok(form(words, StatusCode::FORBIDDEN, None, Some(words.key_cannot_read)));
    }
    let token = console::open_by_key(&app.pool, &key).await?;
    tracing::info!(key = key.id, name = key.name, "logged in at the console");
    Ok(enter(&token, &posted.headers))
}

/// Into the console, with the session's cookie.
fn enter(token: &SessionToken, headers: &HeaderMap) -> Response {
    let cookie = cookies::keep_session(token, cookies::is_secure(headers));
    ([(header::SET_COOKIE, cookie)], Redirect::to("/console")).into_response()
}

/// The page behind a one-time link. It asks to go on, so that whatever looks at links before people
/// do (a chat, a mail scanner) does not use it up.
pub(super) async fn show_link(headers: HeaderMap, Path(token): Path<String>) -> Response {
    let words = Words::for_request(&headers);
    // Nothing of what came is shown unless it has the form of a token.
    let Some(token) = SessionToken::parse(&token) else { return spent(words) };
    let content = html! {
        h1 { (words.log_in) }
        p { (words.link_ready) }
        form.login method="post" action="/console/link" {
            input type="hidden" name="token" value=(token.expose());
            button.primary type="submit" autofocus { (words.log_in) }
        }
    };
    bare_page(words, words.log_in, StatusCode::OK, "/console/login", &content)
}

fn spent(words: &Words) -> Response {
    let content = html! {
        h1 { (words.log_in) }
        p.warning role="alert" { (words.link_spent) }
        pre.command { (LINK_COMMAND) }
        p { a href="/console/login" { (words.log_in) } }
    };
    bare_page(words, words.log_in, StatusCode::NOT_FOUND, "/console/login", &content)
}

pub(super) async fn follow_link(
    State(app): State<App>,
    posted: Anonymous,
) -> Result<Response, ApiError> {
    let words = Words::for_request(&posted.headers);
    let opened = match posted.fields.get("token").and_then(SessionToken::parse) {
        Some(link) => console::open_by_link(&app.pool, &link).await?,
        None => None,
    };
    let Some(token) = opened else { return Ok(spent(words)) };
    tracing::info!("logged in at the console by a one-time link");
    Ok(enter(&token, &posted.headers))
}

pub(super) async fn log_out(
    State(app): State<App>,
    headers: HeaderMap,
    posted: Posted,
) -> Result<Response, ApiError> {
    console::close(&app.pool, posted.token()).await?;
    let cookie = cookies::forget_session(cookies::is_secure(&headers));
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/console/login?out=true")).into_response())
}

#[derive(Deserialize)]
pub(super) struct LanguageParams {
    #[serde(default)]
    to: String,
    #[serde(default)]
    back: String,
}

/// Changes the language and goes back to the page.
pub(super) async fn change_language(Query(params): Query<LanguageParams>) -> Response {
    let back = own_path(&params.back);
    match Words::of(&params.to) {
        Some(words) => {
            let cookie = cookies::keep_language(words.code);
            ([(header::SET_COOKIE, cookie)], Redirect::to(back)).into_response()
        }
        None => Redirect::to(back).into_response(),
    }
}

/// A path of the console, or its first page: nobody is sent elsewhere from here.
fn own_path(path: &str) -> &str {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.?=&%+".contains(c);
    let own = path == "/console" || path.starts_with("/console/");
    if own && path.len() <= 500 && path.chars().all(plain) { path } else { "/console" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_back_stays_here() {
        assert_eq!(own_path("/console/runs?state=failed"), "/console/runs?state=failed");
        for bad in ["", "//evil.test", "https://evil.test", "/consoles", "/console/\r\nX: y", "/x"]
        {
            assert_eq!(own_path(bad), "/console", "{bad}");
        }
    }
}
