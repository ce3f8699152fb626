//! PostgREST over a real Postgres database, as far as a synchronisation uses it: filters, order,
//! limit, rows cut at `--max-rows` without a word, inserts that ignore duplicates, conditional
//! PATCH and DELETE with the representation returned, error bodies and codes, and the description
//! of the tables at the root. `POST /_control` tells it what is to go wrong.
//!
//! What it leaves out: authentication beyond one key in `apikey` (no roles, no row-level security,
//! no JWT); embedding, functions (`/rpc`), views, other schemas, `Range` headers and
//! `Prefer: count`, `merge-duplicates`, representations other than the whole one, CSV; of the
//! operators it knows eq, neq, gt, gte, lt, lte, in, is and not, with `and` and `or`; answers are
//! never compressed; messages are Postgres' own, hints are missing; it runs in the process of its test, over a real
//! socket. It is written from documented
//! and observed behaviour, not from PostgREST's source.

mod answer;
mod filter;

use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

/// The key it asks for: one of Supabase's new secret keys.
pub(crate) const SECRET_KEY: &str = "sb_secret_de_prueba_0123456789";

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Wrong {
    /// The request is answered with this status and changes nothing.
    Status {
        /// The HTTP status.
        status: u16,
        /// Seconds in `Retry-After`.
        retry_after: Option<u64>,
    },
    /// The request is carried out, and the connection closes instead of an answer.
    LoseAnswer,
    /// The connection closes before anything is done.
    Cut,
    /// The answer takes so long.
    Slow {
        /// Milliseconds.
        ms: u64,
    },
    /// The clock in the header `Date` is wrong by so much.
    Clock {
        /// Seconds, ahead if positive.
        offset_seconds: i64,
    },
}

/// A fault, and where and how often it happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Planned {
    /// What.
    pub(crate) wrong: Wrong,
    /// Only requests with this method.
    pub(crate) method: Option<String>,
    /// Only requests to this table.
    pub(crate) table: Option<String>,
    /// How often; without it always.
    pub(crate) times: Option<u32>,
}

impl Planned {
    /// Always, for every request.
    pub(crate) fn always(wrong: Wrong) -> Self {
        Self { wrong, method: None, table: None, times: None }
    }

    /// Once, for the next request with the method.
    pub(crate) fn once(wrong: Wrong, method: &str) -> Self {
        Self { wrong, method: Some(method.to_owned()), table: None, times: Some(1) }
    }
}

/// A request it saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Seen {
    /// Its method.
    pub(crate) method: String,
    /// Its table; empty for the description at the root.
    pub(crate) table: String,
    /// Its query as it came.
    pub(crate) query: String,
    /// The status of the answer, though it may have been lost.
    pub(crate) status: u16,
    /// Bytes of the answer's body.
    pub(crate) bytes: usize,
}

/// What is special about one peer.
struct Flags {
    key: String,
    max_rows: usize,
}

/// What all requests share.
struct Peer {
    flags: Flags,
    pool: PgPool,
    plan: Mutex<Vec<Planned>>,
    seen: Mutex<Vec<Seen>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The peer, as long as this value lives.
pub(crate) struct Postgrest {
    url: String,
    client: reqwest::Client,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for Postgrest {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Postgrest {
    /// Starts one over the schema `public` of a database; more rows than `max_rows` are cut.
    pub(crate) async fn start(database: &str, max_rows: usize) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(12)
            .after_connect(|connection, _| {
                Box::pin(async move {
                    sqlx::query("SET TimeZone = 'UTC'").execute(connection).await.map(drop)
                })
            })
            .connect(database)
            .await
            .expect("connect to the database");
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let flags = Flags { key: SECRET_KEY.to_owned(), max_rows };
        let peer = Arc::new(Peer { flags, pool, plan: Mutex::default(), seen: Mutex::default() });
        let router = Router::new()
            .route("/_control", get(record).post(plan))
            .route("/rest/v1/", any(root))
            .route("/rest/v1/{table}", any(table))
            .layer(DefaultBodyLimit::max(64 << 20))
            .with_state(peer);
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.expect("serve");
        });
        Self { url, client: reqwest::Client::new(), server }
    }

    /// Its base URL: `supabase.url`.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Replaces the plan of what goes wrong, and forgets what it has seen.
    pub(crate) async fn plan(&self, plan: &[Planned]) {
        let answer = self.client.post(format!("{}/_control", self.url)).json(plan).send().await;
        let answer = answer.expect("reach the peer");
        assert!(answer.status().is_success(), "the peer refused the plan: {}", answer.status());
    }

    /// What it has seen since the last plan.
    pub(crate) async fn seen(&self) -> Vec<Seen> {
        let answer = self.client.get(format!("{}/_control", self.url)).send().await;
        answer.expect("reach the peer").json().await.expect("its record")
    }
}

async fn record(State(peer): State<Arc<Peer>>) -> axum::Json<Vec<Seen>> {
    axum::Json(lock(&peer.seen).clone())
}

async fn plan(State(peer): State<Arc<Peer>>, axum::Json(plan): axum::Json<Vec<Planned>>) {
    *lock(&peer.plan) = plan;
    lock(&peer.seen).clear();
}

async fn root(State(peer): State<Arc<Peer>>, method: Method, headers: HeaderMap) -> Response {
    guarded(&peer, method, "", "", &headers, answer::description(&peer)).await
}

async fn table(
    State(peer): State<Arc<Peer>>,
    Path(name): Path<String>,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let query = query.unwrap_or_default();
    let prefer = headers.get("Prefer").and_then(|value| value.to_str().ok()).unwrap_or("");
    let work = answer::table(&peer, &method, &name, &query, prefer, &body);
    guarded(&peer, method.clone(), &name, &query, &headers, work).await
}

/// Carries a request out, with what was planned to go wrong.
async fn guarded(
    peer: &Peer,
    method: Method,
    table: &str,
    query: &str,
    headers: &HeaderMap,
    work: impl Future<Output = Response>,
) -> Response {
    let wrong = take(peer, &method, table);
    let has = |fault: &Wrong| wrong.contains(fault);
    if has(&Wrong::Cut) {
        // Unwinding out of the connection's task closes it without a word.
        resume_unwind(Box::new("cut"));
    }
    let status = wrong.iter().find_map(|fault| match fault {
        Wrong::Status { status, retry_after } => Some((*status, *retry_after)),
        _ => None,
    });
    let key = headers.get("apikey").and_then(|value| value.to_str().ok());
    // The new secret keys are no tokens: with one as such, the request is refused.
    let as_token = headers.contains_key(header::AUTHORIZATION) && peer.flags.key.starts_with("sb_");
    let mut response = match status {
        Some((status, retry_after)) => {
            let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
            let mut response = (status, "<html>no</html>").into_response();
            if let Some(seconds) = retry_after {
                response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            response
        }
        None if key != Some(peer.flags.key.as_str()) || as_token => {
            answer::error(StatusCode::UNAUTHORIZED, "PGRST301", "Invalid API key", None)
        }
        None => work.await,
    };
    for fault in &wrong {
        match fault {
            Wrong::Slow { ms } => tokio::time::sleep(Duration::from_millis(*ms)).await,
            Wrong::Clock { offset_seconds } => {
                let text: String = sqlx::query_scalar(
                    "SELECT to_char((now() + make_interval(secs => $1)) AT TIME ZONE 'UTC',
                                    'Dy, DD Mon YYYY HH24:MI:SS \"GMT\"')",
                )
                .bind(*offset_seconds as f64)
                .fetch_one(&peer.pool)
                .await
                .expect("the time");
                if let Ok(value) = HeaderValue::from_str(&text) {
                    response.headers_mut().insert(header::DATE, value);
                }
            }
            _ => {}
        }
    }
    let bytes = response
        .headers()
        .get("x-body-bytes")
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or_default();
    lock(&peer.seen).push(Seen {
        method: method.to_string(),
        table: table.to_owned(),
        query: query.to_owned(),
        status: response.status().as_u16(),
        bytes,
    });
    if has(&Wrong::LoseAnswer) {
        resume_unwind(Box::new("the answer is lost"));
    }
    response
}

/// What goes wrong with a request; occasions are used up.
fn take(peer: &Peer, method: &Method, table: &str) -> Vec<Wrong> {
    let mut plan = lock(&peer.plan);
    let mut wrong = Vec::new();
    for planned in plan.iter_mut() {
        let of_method = planned.method.as_ref().is_none_or(|name| name == method.as_str());
        let of_table = planned.table.as_ref().is_none_or(|name| name == table);
        if of_method && of_table && planned.times != Some(0) {
            planned.times = planned.times.map(|times| times - 1);
            wrong.push(planned.wrong.clone());
        }
    }
    wrong
}
