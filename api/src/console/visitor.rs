//! Who asks: the session behind a page, and the proof that a form is the console's own.
//!
//! A form must come from a page of this origin (`Origin`), from a browser that is logged in
//! (the cookie, which other sites' requests do not carry), and hold the session's form token, which
//! other sites cannot read. Any one of the three would do; a browser with a fault in one is still
//! safe by the others.

use std::collections::HashMap;

use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Redirect, Response};
use relevo_runs::api_keys::Scope;
use relevo_runs::audit::Actor;
use relevo_runs::console::{self, Session, SessionToken};
use subtle::ConstantTimeEq as _;

use super::cookies::session_token;
use super::words::Words;
use crate::app::App;
use crate::error::ApiError;
use crate::extract;

/// Fields of a form or an address, by name; of a name that comes twice, the first.
pub(super) struct Fields(HashMap<String, String>);

impl Fields {
    pub(super) fn parse(text: &[u8]) -> Self {
        let mut fields = HashMap::new();
        for (name, value) in url::form_urlencoded::parse(text) {
            fields.entry(name.into_owned()).or_insert(value.into_owned());
        }
        Self(fields)
    }

    /// A field, without the spaces around it; empty ones are as if not there.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(|value| value.trim()).filter(|value| !value.is_empty())
    }

    /// A field that goes into a query: refused where it cannot be a name.
    pub(super) fn name(&self, name: &str) -> Result<Option<String>, ApiError> {
        extract::text_param(name, self.get(name).map(str::to_owned))
    }

    /// A field that must be there.
    pub(super) fn needed(&self, name: &str) -> Result<&str, ApiError> {
        self.get(name).ok_or_else(|| {
            ApiError::bad_request("invalid_query", format!("the field {name} is missing"))
        })
    }

    /// A number.
    pub(super) fn number(&self, name: &str) -> Result<Option<i64>, ApiError> {
        let refused = || ApiError::bad_request("invalid_query", format!("{name} is a number"));
        self.get(name).map(|value| value.parse().map_err(|_| refused())).transpose()
    }
}

/// Somebody who is logged in and may look; others are sent to log in.
pub(super) struct Visitor {
    pub(super) session: Session,
    pub(super) token: SessionToken,
    pub(super) words: &'static Words,
    /// The page's path, for the link that changes the language.
    pub(super) path: String,
    /// What follows the question mark.
    pub(super) fields: Fields,
}

impl Visitor {
    /// Whether they may cancel, retry, pause and start.
    pub(super) fn may_operate(&self) -> bool {
        self.session.allows(Scope::Operate)
    }

    /// Whether they may change what others rely on.
    pub(super) fn may_administer(&self) -> bool {
        self.session.allows(Scope::Admin)
    }

    /// Whether they may start a source's run.
    pub(super) fn may_start(&self) -> bool {
        self.may_operate() || self.session.allows(Scope::Enqueue)
    }
}

impl FromRequestParts<App> for Visitor {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Response> {
        let log_in = || Redirect::to("/console/login").into_response();
        let token = session_token(&parts.headers).ok_or_else(log_in)?;
        let session = console::session(&app.pool, &token)
            .await
            .map_err(|error| ApiError::from(error).into_response())?
            .ok_or_else(log_in)?;
        if !session.allows(Scope::Read) {
            return Err(missing_scope(Scope::Read).into_response());
        }
        let query = parts.uri.query().unwrap_or_default();
        Ok(Self {
            session,
            token,
            words: Words::for_request(&parts.headers),
            path: parts.uri.path().to_owned(),
            fields: Fields::parse(query.as_bytes()),
        })
    }
}

fn missing_scope(scope: Scope) -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "missing_scope",
        format!("this needs a session with the scope {scope}"),
    )
}

/// A form of the console, sent by somebody who is logged in.
pub(super) struct Posted {
    visitor: Visitor,
    pub(super) fields: Fields,
}

impl Posted {
    /// Who acts, where they may operate.
    pub(super) fn operator(&self) -> Result<Actor, ApiError> {
        if self.visitor.may_operate() {
            return Ok(self.visitor.session.actor());
        }
        Err(missing_scope(Scope::Operate))
    }

    /// Who acts, where they may start runs.
    pub(super) fn starter(&self) -> Result<Actor, ApiError> {
        if self.visitor.may_start() {
            return Ok(self.visitor.session.actor());
        }
        Err(missing_scope(Scope::Enqueue))
    }

    /// Who acts, where they may change what others rely on.
    pub(super) fn administrator(&self) -> Result<Actor, ApiError> {
        if self.visitor.may_administer() {
            return Ok(self.visitor.session.actor());
        }
        Err(missing_scope(Scope::Admin))
    }

    /// The session that the form came with.
    pub(super) fn visitor(&self) -> &Visitor {
        &self.visitor
    }

    /// Its token.
    pub(super) fn token(&self) -> &SessionToken {
        &self.visitor.token
    }
}

impl FromRequest<App> for Posted {
    type Rejection = Response;

    async fn from_request(request: Request, app: &App) -> Result<Self, Response> {
        let (mut parts, body) = request.into_parts();
        own_origin(app, &parts.headers).map_err(ApiError::into_response)?;
        let visitor = Visitor::from_request_parts(&mut parts, app).await?;
        let request = Request::from_parts(parts, body);
        let bytes = extract::bytes(request, app).await.map_err(ApiError::into_response)?;
        let fields = Fields::parse(&bytes);
        let shown = fields.get("form_token").unwrap_or_default();
        if !bool::from(shown.as_bytes().ct_eq(visitor.token.form_token().as_bytes())) {
            return Err(foreign().into_response());
        }
        Ok(Self { visitor, fields })
    }
}

/// A form of the console, sent by anybody: the two that log in.
pub(super) struct Anonymous {
    pub(super) fields: Fields,
    pub(super) headers: HeaderMap,
    pub(super) peer: Option<crate::listen::Peer>,
}

impl FromRequest<App> for Anonymous {
    type Rejection = Response;

    async fn from_request(request: Request, app: &App) -> Result<Self, Response> {
        own_origin(app, request.headers()).map_err(ApiError::into_response)?;
        let headers = request.headers().clone();
        let peer = request.extensions().get().copied();
        let bytes: Bytes = extract::bytes(request, app).await.map_err(ApiError::into_response)?;
        Ok(Self { fields: Fields::parse(&bytes), headers, peer })
    }
}

fn foreign() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "foreign_form",
        "this form did not come from a page of this session; open the page again",
    )
}

/// Refuses what another site's page makes a browser send. Every browser says with a form where it
/// comes from: this host, or the public address where a proxy stands between.
fn own_origin(app: &App, headers: &HeaderMap) -> Result<(), ApiError> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(origin) = text(header::ORIGIN) else { return Err(foreign()) };
    let host = text(header::HOST).unwrap_or_default();
    let of_host = origin.split_once("://").is_some_and(|(scheme, rest)| {
        matches!(scheme, "http" | "https") && !host.is_empty() && rest == host
    });
    let settings = app.settings();
    let public = settings.api.public_url.as_deref().and_then(|url| url::Url::parse(url).ok());
    let of_public = public.is_some_and(|url| url.origin().ascii_serialization() == origin);
    if of_host || of_public { Ok(()) } else { Err(foreign()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_with_their_escapes_and_the_first_counts() {
        let fields = Fields::parse(b"a=1+%C3%B1&b=&a=2&c=%20x%20&n=12&bad=%ff");
        assert_eq!(fields.get("a"), Some("1 ñ"));
        assert_eq!(fields.get("b"), None);
        assert_eq!(fields.get("c"), Some("x"));
        assert_eq!(fields.number("n").unwrap(), Some(12));
        assert!(fields.number("c").is_err());
        assert!(fields.needed("b").is_err());
        assert!(Fields::parse(b"q=a%00b").name("q").is_err());
    }
}
