//! Pages of a list, newest first: the next page begins before the last id of this one.

use axum::Json;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

/// The page size when none is asked for.
pub(crate) const LIMIT_DEFAULT: u16 = 50;
/// The largest page.
pub(crate) const LIMIT_MAX: u16 = 500;

/// A page under the name of what it lists. `next` is the address of the next page and `next_before`
/// the value of `before` in it; both are null when this one was not full. `uri` is the address of
/// this page.
pub(crate) fn page<T: Serialize>(
    uri: &Uri,
    name: &str,
    items: &[T],
    limit: u16,
    id: impl Fn(&T) -> i64,
) -> Response {
    let full = items.len() >= usize::from(limit);
    let next_before = items.last().filter(|_| full).map(id);
    let next = next_before.map(|before| with_parameter(uri, "before", before));
    Json(json!({ name: items, "next": next, "next_before": next_before })).into_response()
}

/// The same address with another value of one parameter, the others as they were sent.
pub(crate) fn with_parameter(uri: &Uri, name: &str, value: i64) -> String {
    let others = uri
        .query()
        .into_iter()
        .flat_map(|query| query.split('&'))
        .filter(|pair| !pair.is_empty() && pair.split('=').next() != Some(name));
    let mut next = format!("{}?", uri.path());
    for pair in others {
        next.push_str(pair);
        next.push('&');
    }
    next.push_str(&format!("{name}={value}"));
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_stay_and_the_cursor_moves() {
        let next = |text: &str| with_parameter(&text.parse().unwrap(), "before", 7);
        assert_eq!(next("/jobs"), "/jobs?before=7");
        assert_eq!(next("/jobs?kind=a%26b&before=9&limit=2"), "/jobs?kind=a%26b&limit=2&before=7");
    }
}
