//! The API's description of itself: OpenAPI 3.1, and a page that shows it.
//!
//! Every route is added together with an [`Operation`] that says what it takes, answers and
//! refuses, so the document cannot miss one. Schemas are written out, not derived: they carry the
//! bounds that the handlers check beyond types. That they agree with what is really taken and
//! answered is checked from outside, over a socket, with generated requests.

mod answers;
mod document;
mod operation;
mod page;
pub(crate) mod schema;

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

pub(crate) use answers::{job_states, list_of, payload_schema, scopes};
pub(crate) use document::document;
pub(crate) use operation::{Operation, Routes};

/// The page's own style sheet, its only resource.
const STYLE: &str = include_str!("style.css");
/// Nothing runs on the page, and nothing is loaded but the style sheet beside it.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Describes the routes that [`router`] serves.
pub(crate) fn own_routes() -> Routes {
    Routes::new("About")
        .described(Operation::get("/openapi.json", "getDocument", "This document").answer(
            200,
            "OpenAPI 3.1.",
            schema::any_object(),
        ))
        .described(Operation::get("/docs", "showDocument", "This document as a page").text(
            200,
            "A page without scripts.",
            "text/html",
        ))
        .described(
            Operation::get("/docs/style.css", "showDocumentStyle", "The page's style sheet")
                .text(200, "CSS.", "text/css"),
        )
}

/// Serves the document that describes `operations`.
pub(crate) fn router(operations: &[Operation]) -> Router {
    let document = document(operations);
    let page = page::html(&document);
    let json = document.to_string();
    Router::new()
        .route("/openapi.json", get(move || async { typed("application/json", json, None) }))
        .route(
            "/docs",
            get(move || async { typed("text/html; charset=utf-8", page, Some(PAGE_POLICY)) }),
        )
        .route("/docs/style.css", get(|| async { typed("text/css", STYLE.to_owned(), None) }))
}

fn typed(kind: &'static str, text: String, policy: Option<&'static str>) -> Response {
    let mut response = text.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    if let Some(policy) = policy {
        headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    }
    response
}
