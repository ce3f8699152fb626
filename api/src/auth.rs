//! Who may do what: API keys by `X-API-Key` or `Authorization: Bearer`, and the scope a route needs.

use std::marker::PhantomData;
use std::sync::Arc;

use axum::extract::{FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use relevo_runs::api_keys::{ApiKey, Scope};
use relevo_runs::audit::Actor;

use crate::app::App;
use crate::error::ApiError;
use crate::listen::Peer;

/// How soon an address that showed too many wrong keys may try again.
const WRONG_KEYS_RETRY_AFTER_SECONDS: u64 = 1;

/// Lets a request pass whose key is good and does not ask too often, and notes whose it is. What the key may do is decided by
/// the handler's [`Caller`].
pub(crate) async fn authenticate(
    State(app): State<App>,
    mut request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    let presented = presented(request.headers())?;
    let peer = request.extensions().get::<Peer>().copied();
    // Guesses of others behind the same proxy don't shut out a key that was good a moment ago.
    if !app.wrong_keys.may_try(peer) && !app.keys.knows(presented) {
        return Err(ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limited",
            "too many wrong API keys came from this address",
        )
        .retry_after(WRONG_KEYS_RETRY_AFTER_SECONDS));
    }
    let Some(key) = app.keys.verify(&app.pool, presented).await? else {
        app.wrong_keys.failed(peer);
        return Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            "this API key is unknown, expired or revoked; `relevo key create` makes one",
        ));
    };
    app.rate_limit.check(key.id, app.settings().api.rate_limit_per_second)?;
    request.extensions_mut().insert(key);
    Ok(next.run(request).await)
}

/// The key a request shows: one, in one of two headers.
fn presented(headers: &HeaderMap) -> Result<&str, ApiError> {
    let own = headers.get_all("x-api-key").iter();
    let bearer = headers.get_all(header::AUTHORIZATION).iter();
    let mut all = own.chain(bearer);
    let refused = |detail| ApiError::new(StatusCode::UNAUTHORIZED, "missing_api_key", detail);
    let Some(value) = all.next() else {
        return Err(refused(
            "send an API key in the header X-API-Key, or as Authorization: Bearer",
        ));
    };
    if all.next().is_some() {
        return Err(refused("send one API key, in one header"));
    }
    let text = value.to_str().unwrap_or_default();
    if headers.contains_key("x-api-key") {
        return Ok(text);
    }
    match text.split_once(' ') {
        Some((scheme, key)) if scheme.eq_ignore_ascii_case("bearer") => Ok(key.trim()),
        _ => Err(refused("the header Authorization must read: Bearer, a space, the API key")),
    }
}

/// A scope as a type, so that a handler's signature says what it needs.
pub(crate) trait Needs: Send {
    /// The scope.
    const SCOPE: Scope;
}

macro_rules! needs {
    ($($name:ident),*) => {$(
        #[doc = concat!("The scope ", stringify!($name), ".")]
        pub(crate) struct $name;

        impl Needs for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )*};
}

needs!(Enqueue, Read, Work, Operate, Admin);

/// The caller, whose key has the scope `S`.
pub(crate) struct Caller<S> {
    /// The key.
    pub(crate) key: Arc<ApiKey>,
    scope: PhantomData<S>,
}

impl<S> Caller<S> {
    /// The caller as the audit log knows it.
    pub(crate) fn actor(&self) -> Actor {
        Actor::ApiKey { id: self.key.id, name: self.key.name.clone() }
    }

    /// How the caller appears in logs, in runs and as the reason of a cancel.
    pub(crate) fn label(&self) -> String {
        self.actor().label()
    }
}

impl<S: Needs> FromRequestParts<App> for Caller<S> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _app: &App) -> Result<Self, Self::Rejection> {
        let key = parts.extensions.get::<Arc<ApiKey>>().cloned().ok_or_else(|| {
            ApiError::internal("a route that asks for a caller stands outside of authentication")
        })?;
        if key.allows(S::SCOPE) {
            return Ok(Self { key, scope: PhantomData });
        }
        Err(missing_scope("this", S::SCOPE))
    }
}

/// 403: `what` needs a scope that the caller's key does not have.
pub(crate) fn missing_scope(what: &str, scope: Scope) -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "missing_scope",
        format!("{what} needs an API key with the scope {scope}"),
    )
    .with("scope", scope.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&'static str, &str)]) -> Result<String, ()> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        presented(&headers).map(str::to_owned).map_err(|_| ())
    }

    #[test]
    fn one_key_in_one_header() {
        assert_eq!(of(&[("x-api-key", "rk_a")]), Ok("rk_a".to_owned()));
        assert_eq!(of(&[("authorization", "Bearer rk_a")]), Ok("rk_a".to_owned()));
        assert_eq!(of(&[("authorization", "bearer  rk_a")]), Ok("rk_a".to_owned()));
        assert!(of(&[]).is_err());
        assert!(of(&[("authorization", "Basic cm86")]).is_err());
        assert!(of(&[("authorization", "rk_a")]).is_err());
        assert!(of(&[("x-api-key", "rk_a"), ("x-api-key", "rk_b")]).is_err());
        assert!(of(&[("x-api-key", "rk_a"), ("authorization", "Bearer rk_b")]).is_err());
    }
}
