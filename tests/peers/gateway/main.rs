//! A simulator of the gateway ("the tunnel") in front of a SICAR point-of-sale server.
//!
//! It speaks the gateway's contract over HTTP: `POST /api/backup/full` in webhook and synchronous
//! mode, webhooks with their retries, downloads with `Range`, expiry, and only the newest backups
//! kept. `POST /_control` tells it what is to go wrong (`relevo_tests::gateway` has the types),
//! `GET /_control` says what it has seen.
//!
//! What it leaves out: it makes no backup, but hands out the dump file it was given, under a new
//! name each time; over TLS it has only a certificate that nobody trusts; it knows one API key; backups are forgotten when it ends, and their URLs with them; its Spanish messages
//! are examples, not the real ones; several backups at once don't slow each other down.

mod backup;
mod control;
mod download;
mod tls;
mod webhook;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use chrono_tz::Tz;
use clap::Parser;
use relevo_tests::gateway::{API_KEY, Fault};
use serde_json::json;

use crate::control::Plan;

/// Plays the gateway of a SICAR shop: backups on request, by webhook or synchronously.
#[derive(Parser)]
#[command(name = "relevo-gateway-simulator")]
struct Flags {
    /// Where to listen; port 0 takes a free one, which is printed.
    #[arg(long, default_value = "127.0.0.1:8099")]
    listen: SocketAddr,
    /// The .sql.gz file that every backup is.
    #[arg(long)]
    dump: PathBuf,
    /// What the header API-KEY must say.
    #[arg(long, default_value = API_KEY)]
    api_key: String,
    /// Multiplies every delay below, and those between webhook attempts.
    #[arg(long, default_value_t = 1.0)]
    time_scale: f64,
    /// Until a request in webhook mode is answered.
    #[arg(long, default_value_t = 1.0)]
    answer_seconds: f64,
    /// Until a backup asked for in webhook mode is done.
    #[arg(long, default_value_t = 180.0)]
    backup_seconds: f64,
    /// Until a backup asked for in synchronous mode is done.
    #[arg(long, default_value_t = 205.0)]
    sync_seconds: f64,
    /// How long a webhook attempt may take, unscaled.
    #[arg(long, default_value_t = 30.0)]
    webhook_timeout_seconds: f64,
    /// How long a backup can be downloaded, unscaled.
    #[arg(long, default_value_t = 6.0 * 3600.0)]
    expires_seconds: f64,
    /// How many backups are kept.
    #[arg(long, default_value_t = 2)]
    keep: usize,
    /// The zone of the timestamps, which don't name it.
    #[arg(long, default_value = "America/Mexico_City")]
    timezone: Tz,
    /// Speaks TLS too, on the same port, with a certificate that nobody trusts.
    #[arg(long)]
    bad_tls: bool,
}

impl Flags {
    fn scaled(&self, seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds * self.time_scale)
    }
}

/// What all requests share.
struct Gateway {
    flags: Flags,
    plan: Plan,
    backups: backup::Backups,
    client: reqwest::Client,
    started: Instant,
}

impl Gateway {
    /// How long it has been running, in milliseconds.
    fn age_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let listener = tokio::net::TcpListener::bind(flags.listen)
        .await
        .with_context(|| format!("listen on {}", flags.listen))?;
    let address = listener.local_addr().context("the listening address")?;
    let gateway = Gateway {
        plan: Plan::default(),
        backups: backup::Backups::new(flags.dump.clone())?,
        client: reqwest::Client::builder()
            .user_agent("TunnelCUSPI-Webhook/1.0")
            .redirect(reqwest::redirect::Policy::none())
            .timeout(Duration::from_secs_f64(flags.webhook_timeout_seconds))
            .build()
            .context("the webhook client")?,
        started: Instant::now(),
        flags,
    };
    println!("serving {} as every backup", gateway.backups.source().display());
    let listener =
        if gateway.flags.bad_tls { tls::in_front_of_plain(listener).await? } else { listener };
    println!("listening on http://{address}");
    axum::serve(listener, router(Arc::new(gateway))).await.context("serve")
}

fn router(gateway: Arc<Gateway>) -> Router {
    let contract = Router::new()
        .route("/api/backup/full", post(backup::full))
        .route("/api/backup/download/{filename}", get(download::file))
        .layer(middleware::from_fn_with_state(Arc::clone(&gateway), guard));
    Router::new()
        .route("/_control", get(control::record).post(control::plan))
        .merge(contract)
        .layer(DefaultBodyLimit::max(1024 * 1024))
        .with_state(gateway)
}

/// Every call of the contract carries the key, the download included.
async fn guard(
    State(gateway): State<Arc<Gateway>>,
    headers: HeaderMap,
    request: Request,
    next: Next,
) -> Response {
    let unavailable = gateway.plan.take(|fault| match fault {
        Fault::Unavailable { status } => Some(*status),
        _ => None,
    });
    if let Some(status) = unavailable {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        return (status, Html(format!("<html><body><h1>{status}</h1></body></html>")))
            .into_response();
    }
    let key = headers.get("API-KEY").and_then(|value| value.to_str().ok());
    if key != Some(gateway.flags.api_key.as_str()) {
        gateway.plan.note(|record| record.unauthorised += 1);
        return failure(StatusCode::UNAUTHORIZED, "API-KEY inválida o ausente");
    }
    next.run(request).await
}

/// The gateway's failure body.
fn failure(status: StatusCode, error: &str) -> Response {
    let body = json!({
        "ok": false, "error": error, "platform": "windows", "log_id": backup::new_id(),
    });
    (status, axum::Json(body)).into_response()
}
