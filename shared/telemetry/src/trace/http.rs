//! A request as a span.

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use opentelemetry::KeyValue;
use opentelemetry::trace::SpanKind;

use super::export::FixedIds;
use super::{RECORDER, Start, Work, parse, start};
use crate::http::known_method;

/// Asked every few seconds, and of no interest.
const UNTRACED: [&str; 3] = ["/metrics", "/livez", "/readyz"];

/// Records each request by its route: `Router::layer(from_fn(trace_http))`. It goes on with the
/// caller's `traceparent`, or begins a trace. The path itself is not told: the gateway's webhook
/// has a secret in it.
pub async fn trace_http(request: Request, next: Next) -> Response {
    let parent = request.headers().get("traceparent").and_then(|text| text.to_str().ok());
    let parent = parent.and_then(parse);
    let route = request.extensions().get::<MatchedPath>().map(MatchedPath::as_str);
    let work = match (RECORDER.get(), route) {
        (Some(recorder), Some(route)) if !UNTRACED.contains(&route) => {
            let method = known_method(request.method().as_str());
            let facts = vec![
                KeyValue::new("http.request.method", method),
                KeyValue::new("http.route", route.to_owned()),
            ];
            start(
                recorder,
                Start {
                    name: format!("{method} {route}"),
                    kind: SpanKind::Server,
                    parent,
                    link: None,
                    ids: FixedIds::default(),
                    facts,
                },
            )
        }
        _ => Work::passed_on(parent),
    };
    let outcome = work.clone();
    work.run(async move {
        let response = next.run(request).await;
        let status = response.status();
        outcome.set("http.response.status_code", i64::from(status.as_u16()));
        if status.is_server_error() {
            outcome.fail(status.canonical_reason().unwrap_or("a server error"));
        }
        response
    })
    .await
}
