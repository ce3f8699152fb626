//! `/metrics`, `/livez`, `/readyz`, and the counting of HTTP requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Asked at every `/readyz`: whether this process can do its work now, or why not, in words that
/// may be shown to anyone.
pub type ReadyCheck = Arc<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// A check that takes longer counts as failed: whoever asks has a timeout too.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a stopping server waits for a reader that doesn't read.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Clone)]
struct Health {
    metrics: Arc<Metrics>,
    ready: ReadyCheck,
}

/// `/metrics`, `/livez` and `/readyz`, to be merged into a router or served alone.
pub fn router(metrics: Arc<Metrics>, ready: ReadyCheck) -> Router {
    Router::new()
        .route("/metrics", get(render))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .with_state(Health { metrics, ready })
}

async fn render(State(health): State<Health>) -> Response {
    let content_type = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (content_type, health.metrics.render()).into_response()
}

async fn readyz(State(health): State<Health>) -> Response {
    let outcome = tokio::time::timeout(READY_TIMEOUT, (health.ready)()).await;
    let reason = match outcome {
        Ok(Ok(())) => return "ready\n".into_response(),
        Ok(Err(reason)) => reason,
        Err(_) => format!("no answer within {} s", READY_TIMEOUT.as_secs()),
    };
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response()
}

/// Serves [`router`] alone, for processes without the API, until `shutdown`.
///
/// # Errors
/// What the listener says; a single connection's trouble is not reported.
pub async fn serve_metrics(
    listener: TcpListener,
    metrics: Arc<Metrics>,
    ready: ReadyCheck,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let server = axum::serve(listener, router(metrics, ready))
        .with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        outcome = server => outcome,
        () = async {
            shutdown.cancelled().await;
            tokio::time::sleep(GRACE).await;
        } => Ok(()),
    }
}

/// Counts requests and their duration by route: `Router::layer(from_fn_with_state(metrics,
/// track_http))`. A request without a route counts under `unmatched`, so that a scanner's paths
/// make no series.
pub async fn track_http(
    State(metrics): State<Arc<Metrics>>,
    request: Request,
    next: Next,
) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "unmatched".to_owned(), |path| path.as_str().to_owned());
    let method = known_method(request.method().as_str());
    let started = Instant::now();
    let response = next.run(request).await;
    let status = response.status();
    metrics.http_requests.with_label_values(&[method, route.as_str(), status.as_str()]).inc();
    metrics
        .http_request_seconds
        .with_label_values(&[method, route.as_str()])
        .observe(started.elapsed().as_secs_f64());
    response
}

/// Method names are free text in HTTP; labels must not be.
pub(crate) fn known_method(method: &str) -> &'static str {
    const METHODS: [&str; 7] = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];
    METHODS.into_iter().find(|known| *known == method).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(app: Router, path: &str) -> (StatusCode, String) {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        let response = app.oneshot(request).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    fn ready() -> ReadyCheck {
        Arc::new(|| Box::pin(async { Ok(()) }))
    }

    #[tokio::test]
    async fn health_and_figures() {
        let metrics = Metrics::new();
        let app = router(metrics.clone(), ready());
        assert_eq!(ask(app.clone(), "/livez").await, (StatusCode::OK, "alive\n".to_owned()));
        assert_eq!(ask(app.clone(), "/readyz").await, (StatusCode::OK, "ready\n".to_owned()));
        let (status, text) = ask(app, "/metrics").await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.contains("relevo_build_info{"), "{text}");

        let unready: ReadyCheck =
            Arc::new(|| Box::pin(async { Err("the database does not answer".to_owned()) }));
        let (status, text) = ask(router(metrics, unready), "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(text, "not ready: the database does not answer\n");
    }

    #[tokio::test]
    async fn a_silent_check_is_not_ready() {
        let silent: ReadyCheck = Arc::new(|| Box::pin(std::future::pending()));
        let (status, text) = ask(router(Metrics::new(), silent), "/readyz").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(text.contains("no answer within 2 s"), "{text}");
    }

    #[tokio::test]
    async fn requests_are_counted_by_route() {
        let metrics = Metrics::new();
        let app = Router::new()
            .route("/jobs/{id}", get(|| async { "" }))
            .layer(axum::middleware::from_fn_with_state(metrics.clone(), track_http));
        for path in ["/jobs/1", "/jobs/2", "/nowhere"] {
            ask(app.clone(), path).await;
        }
        let text = metrics.render();
        let line = r#"relevo_http_requests_total{method="GET",route="/jobs/{id}",status="200"} 2"#;
        assert!(text.contains(line), "{text}");
        assert!(text.contains(r#"route="unmatched",status="404"} 1"#), "{text}");
        assert!(!text.contains("nowhere"), "{text}");
    }

    #[tokio::test]
    async fn the_server_of_its_own_stops_when_told() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let shutdown = CancellationToken::new();
        let server =
            tokio::spawn(serve_metrics(listener, Metrics::new(), ready(), shutdown.clone()));
        shutdown.cancel();
        tokio::time::timeout(Duration::from_secs(10), server).await.unwrap().unwrap().unwrap();
    }
}
