//! Pages of a list, newest first: the next page begins before the last id of this one.

use axum::Json;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;

/// The page size when none is asked for.
pub(crate) const LIMIT_DEFAULT: u16 = 50;
/// The largest page.
pub(crate) const LIMIT_MAX: u16 = 500;

/// A page under the name of what it lists, with `next_before`: the value of `before` that gives the
/// next page, or null when this one was not full.
pub(crate) fn page<T: Serialize>(
    name: &str,
    items: &[T],
    limit: u16,
    id: impl Fn(&T) -> i64,
) -> Response {
    let full = items.len() >= usize::from(limit);
    let next_before = items.last().filter(|_| full).map(id);
    Json(json!({ name: items, "next_before": next_before })).into_response()
}
