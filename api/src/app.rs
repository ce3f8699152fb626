//! The router: routes, and what surrounds each of them.

use std::any::Any;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use relevo_connections::Connections;
use relevo_queue::{JobId, Queue};
use relevo_runs::api_keys::KeyCache;
use relevo_runs::control_plane::{self, SchemaStatus};
use relevo_runs::{Kinds, Runs};
use relevo_settings::{InForce, Settings};
use relevo_telemetry::ReadyCheck;
use relevo_telemetry::metrics::Metrics;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;
use tower_http::catch_panic::CatchPanicLayer;

use crate::console;
use crate::error::ApiError;
use crate::figures::Figures;
use crate::gathered::Gathered;
use crate::limits::{DepthLimit, FailureLimit, RateLimit};
use crate::live::Live;
use crate::openapi::{self, Operation};
use crate::routes;
use crate::routes::uploads_complete::Completing;

/// How long one request may take, reading its body included.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// What the API works with.
#[derive(Clone)]
pub struct ApiDeps {
    /// The control plane's database.
    pub pool: PgPool,
    /// The queue in it.
    pub queue: Queue,
    /// The runs in it.
    pub runs: Runs,
    /// The sources with their gateways, the public URL, the limits: now and later.
    pub settings: InForce,
    /// This process's figures.
    pub metrics: Arc<Metrics>,
    /// When a schedule is due next. The rhythm of schedules is the scheduler's affair, which the
    /// API does not know; whoever starts both brings them together.
    pub next_slots: NextSlots,
}

/// The next slots of a rhythm in a time zone, both as stored in `relevo.schedule`: those after the
/// given moment, at most so many, none where the rhythm or the zone is unknown.
pub type NextSlots =
    fn(rhythm: &str, timezone: &str, after: DateTime<Utc>, limit: usize) -> Vec<DateTime<Utc>>;

/// What handlers share. Cheap to clone.
#[derive(Clone)]
pub(crate) struct App(Arc<Shared>);

pub(crate) struct Shared {
    deps: ApiDeps,
    /// Keys found good within the last second.
    pub(crate) keys: KeyCache,
    /// How often one key may ask.
    pub(crate) rate_limit: RateLimit,
    /// How deep a queue may get.
    pub(crate) depth_limit: DepthLimit,
    /// What the queues hold, for pages.
    pub(crate) figures: Figures,
    /// How often one address may fail to log in.
    pub(crate) log_ins: FailureLimit,
    /// How often one address may ask with a wrong key.
    pub(crate) wrong_keys: FailureLimit,
    /// Single enqueues on their way.
    pub(crate) gathered: Gathered,
    /// The kinds of jobs that workers have published.
    pub(crate) kinds: Kinds,
    /// Uploads whose last byte is here.
    pub(crate) completing: Completing,
    /// The runs that are being followed.
    pub(crate) live: Arc<Live>,
    /// Fires when the process is about to stop: what waits for news answers.
    pub(crate) stopping: CancellationToken,
}

impl App {
    /// The settings of now: a request keeps what it got.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.settings.now()
    }

    /// The connections under the settings of now.
    pub(crate) fn connections(&self) -> Connections {
        Connections::new(self.pool.clone(), self.settings())
    }

    fn new(deps: ApiDeps, stopping: CancellationToken) -> Self {
        let gathered = Gathered::new(deps.queue.clone());
        let kinds = Kinds::new(deps.pool.clone());
        let live = Live::new(deps.runs.clone(), stopping.clone());
        Self(Arc::new(Shared {
            deps,
            keys: KeyCache::default(),
            rate_limit: RateLimit::default(),
            depth_limit: DepthLimit::default(),
            figures: Figures::default(),
            log_ins: FailureLimit::of_log_ins(),
            wrong_keys: FailureLimit::of_keys(),
            gathered,
            kinds,
            completing: Completing::default(),
            live,
            stopping,
        }))
    }
}

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl Deref for Shared {
    type Target = ApiDeps;

    fn deref(&self) -> &ApiDeps {
        &self.deps
    }
}

impl ApiDeps {
    /// Counts a job that this process enqueued. Queue names are free text to whoever enqueues, and
    /// labels must not be: a queue that is not the kind's `own` counts as `other`.
    pub(crate) fn count_enqueued(&self, queue: &str, kind: &str, own: &str) {
        let queue = if queue == own { own } else { "other" };
        self.metrics.jobs_enqueued.with_label_values(&[queue, kind]).inc();
    }

    /// The same for a job of a kind of this build in its own queue.
    pub(crate) fn count_built_in(&self, kind: relevo_jobs::JobKind) {
        let queue = relevo_jobs::policy(kind).queue;
        self.count_enqueued(queue, kind.as_str(), queue);
    }

    /// Names the job in the log line of a request that brought it about.
    pub(crate) fn log_enqueued(&self, kind: &str, id: JobId, duplicate: bool) {
        // One line a job would be most of a busy log; traces and the queue tell the same.
        tracing::debug!(job = id.0, kind, duplicate, "job enqueued over HTTP");
    }
}

/// The whole application, for a server or a test to call. What would go on for ever (following a
/// run) ends with `stopping`.
pub fn router(deps: ApiDeps, stopping: CancellationToken) -> Router {
    for kind in relevo_jobs::JobKind::ALL {
        let queue = relevo_jobs::policy(kind).queue;
        deps.metrics.jobs_enqueued.with_label_values(&[queue, kind.as_str()]);
    }
    let ready = ready_check(deps.pool.clone(), stopping.clone());
    let health = relevo_telemetry::router(deps.metrics.clone(), ready);
    let started_with = deps.settings.now();
    let body_limit_bytes = started_with.api.body_limit_bytes;
    let metrics = deps.metrics.clone();
    let bare_webhook = started_with.api.bare_webhook;
    let app = App::new(deps, stopping.clone());
    let (routes, operations) = routes::all(Some(&app), bare_webhook).split();
    Router::new()
        .merge(routes)
        .merge(console::router())
        .with_state(app)
        .merge(openapi::router(&operations))
        .merge(health)
        .fallback(|| async { ApiError::not_found("route_not_found", "there is no such address") })
        .method_not_allowed_fallback(|| async { ApiError::method_not_allowed() })
        // From the inside out.
        .layer(DefaultBodyLimit::max(body_limit_bytes))
        .layer(middleware::from_fn(time_out))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::map_response(with_headers))
        .layer(middleware::map_response_with_state(stopping, part_company))
        .layer(middleware::from_fn_with_state(metrics, relevo_telemetry::track_http))
        .layer(middleware::from_fn(relevo_telemetry::trace::trace_http))
}

/// What every route does, the health routes and the bare webhook included: OpenAPI 3.1.
#[must_use]
pub fn document() -> serde_json::Value {
    let (_, operations): (_, Vec<Operation>) = routes::all(None, true).split();
    openapi::document(&operations)
}

/// What every answer says to browsers, unless its handler says something else.
async fn with_headers(mut response: Response) -> Response {
    const HEADERS: [(HeaderName, &str); 5] = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    ];
    for (name, value) in HEADERS {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

/// Ends a connection with its answer when the process is about to stop: the client's next request
/// goes where somebody is, and meets no connection that is just being closed.
async fn part_company(
    State(stopping): State<CancellationToken>,
    mut response: Response,
) -> Response {
    if stopping.is_cancelled() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Ends a request that takes too long, so that neither a slow sender nor a stuck database holds it
/// for ever.
async fn time_out(request: Request, next: Next) -> Response {
    match tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await {
        Ok(response) => response,
        Err(_) => ApiError::unavailable(
            "timed_out",
            format!(
                "no answer within {} s; what was asked for may have happened or not",
                REQUEST_TIMEOUT.as_secs()
            ),
        )
        .into_response(),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the layer hands the panic over by value")]
fn panicked(panic: Box<dyn Any + Send + 'static>) -> Response {
    let message = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic without a message");
    ApiError::internal(std::io::Error::other(message.to_owned())).into_response()
}

/// Ready means that the database answers and is migrated at least as far as this build knows, and
/// that nobody has told this process to stop.
fn ready_check(pool: PgPool, stopping: CancellationToken) -> ReadyCheck {
    Arc::new(move || {
        let pool = pool.clone();
        let stopping = stopping.is_cancelled();
        Box::pin(async move {
            if stopping {
                return Err("this process is about to stop".to_owned());
            }
            match control_plane::status(&pool).await {
                // A newer schema is for older builds too: it expands before it contracts.
                Ok(SchemaStatus::Current | SchemaStatus::Newer { .. }) => Ok(()),
                Ok(SchemaStatus::Absent) => {
                    Err("the control plane is not migrated; run `relevo migrate`".to_owned())
                }
                Ok(SchemaStatus::Behind { pending }) => {
                    Err(format!("{pending} migrations are missing; run `relevo migrate`"))
                }
                Err(error) => {
                    tracing::warn!(%error, "the control plane's database does not answer");
                    Err("the control plane's database does not answer".to_owned())
                }
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use axum::body::{Body, to_bytes};
    use axum::http::StatusCode;
    use axum::routing::get;
    use serde_json::Value;
    use tower::ServiceExt as _;

    use super::*;

    async fn ask(app: Router) -> (StatusCode, Value) {
        let response = app.oneshot(Request::new(Body::empty())).await.unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_ends_in_time() {
        let app = Router::new()
            .route("/", get(std::future::pending::<()>))
            .layer(middleware::from_fn(time_out));
        let (status, problem) = ask(app).await;
        assert_eq!((status.as_u16(), &problem["code"]), (503, &Value::from("timed_out")));
    }

    #[tokio::test]
    async fn a_panic_is_an_answer_that_tells_nothing() {
        async fn handler() {
            panic!("the secret is 42");
        }
        let app = Router::new().route("/", get(handler)).layer(CatchPanicLayer::custom(panicked));
        let (status, problem) = ask(app).await;
        assert_eq!((status.as_u16(), &problem["code"]), (500, &Value::from("internal")));
        assert!(!problem.to_string().contains("secret"), "{problem}");
    }
}
