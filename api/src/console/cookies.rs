//! Cookies: which a browser shows, and which it is told to keep.

use axum::http::{HeaderMap, HeaderValue, header};
use relevo_runs::console::SessionToken;

/// The session's cookie over plain HTTP, which is for loopback.
const PLAIN: &str = "relevo_session";
/// Over HTTPS: browsers take a name like this only when it is secure and from this very host.
const SECURE: &str = "__Host-relevo_session";

/// The value of a cookie that the browser shows.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|cookies| cookies.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='))
        .find(|(found, _)| *found == name)
        .map(|(_, value)| value)
}

/// The token of the session that the browser shows.
pub(super) fn session_token(headers: &HeaderMap) -> Option<SessionToken> {
    [SECURE, PLAIN].into_iter().find_map(|name| SessionToken::parse(cookie(headers, name)?))
}

/// Whether the browser came here by HTTPS, as it says itself with every form it sends.
pub(super) fn is_secure(headers: &HeaderMap) -> bool {
    headers.get(header::ORIGIN).is_some_and(|origin| origin.as_bytes().starts_with(b"https://"))
}

/// Tells the browser to show this token from now on, until it is closed.
pub(super) fn keep_session(token: &SessionToken, is_secure: bool) -> HeaderValue {
    let (name, secure) = if is_secure { (SECURE, "; Secure") } else { (PLAIN, "") };
    let token = token.expose();
    plain(&format!("{name}={token}; Path=/; HttpOnly; SameSite=Strict{secure}"))
}

/// Tells the browser to forget its session.
pub(super) fn forget_session(is_secure: bool) -> HeaderValue {
    let (name, secure) = if is_secure { (SECURE, "; Secure") } else { (PLAIN, "") };
    plain(&format!("{name}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0{secure}"))
}

/// Tells the browser which language was chosen.
pub(super) fn keep_language(code: &str) -> HeaderValue {
    let name = super::words::LANGUAGE_COOKIE;
    plain(&format!("{name}={code}; Path=/console; SameSite=Lax; Max-Age=31536000"))
}

/// A header's value made of letters, digits and punctuation: always fit.
fn plain(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_found_among_other_cookies() {
        let token = "0a".repeat(32);
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, format!("x=1;relevo_session={token} ; y").parse().unwrap());
        assert_eq!(session_token(&headers).unwrap().expose(), token);
        headers.insert(header::COOKIE, format!("relevo_session=x{token}").parse().unwrap());
        assert!(session_token(&headers).is_none());
    }

    #[test]
    fn over_https_the_cookie_is_secure_and_bound_to_the_host() {
        let token = SessionToken::parse(&"0a".repeat(32)).unwrap();
        let kept = keep_session(&token, true);
        let kept = kept.to_str().unwrap();
        assert!(kept.starts_with("__Host-relevo_session=0a0a"), "{kept}");
        for part in ["Path=/", "HttpOnly", "SameSite=Strict", "Secure"] {
            assert!(kept.contains(part), "{part} in {kept}");
        }
        let plain = keep_session(&token, false);
        assert!(!plain.to_str().unwrap().contains("Secure"));
    }
}
