//! Trying a connection out: does it answer, and as whom.
//!
//! Nothing is changed at the other end: a gateway is asked for a file that cannot exist, not for a
//! backup; a webhook is asked with HEAD, not posted to.

use std::time::{Duration, Instant};

use relevo_pg::PoolOptions;
use relevo_settings::ConnectionKind;
use reqwest::StatusCode;
use secrecy::ExposeSecret as _;
use serde::Serialize;
use sqlx::Connection as _;
use url::Url;

use crate::endpoint::{Endpoint, Origin};
use crate::mail::MailServer;
use crate::outbound::{Outbound, client_builder};
use crate::references;

/// How long one trial may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// How long an HTTP answer may take.
const HTTP_TIMEOUT: Duration = Duration::from_secs(10);

/// What became of a trial.
#[derive(Clone, Debug, Serialize)]
pub struct Trial {
    /// The connection.
    pub name: String,
    /// Whether it can be used.
    pub ok: bool,
    /// What was found, or what is wrong and what to do.
    pub message: String,
    /// How long it took.
    pub duration_ms: u64,
}

/// Tries a connection out.
pub async fn try_out(endpoint: &Endpoint, outbound: &Outbound) -> Trial {
    let begun = Instant::now();
    let answer = tokio::time::timeout(TIMEOUT, ask(endpoint, outbound)).await;
    let (ok, message) = match answer {
        Ok(Ok(message)) => (true, message),
        Ok(Err(message)) => (false, message),
        Err(_) => (false, format!("no answer within {} s", TIMEOUT.as_secs())),
    };
    let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
    Trial { name: endpoint.name.clone(), ok, message, duration_ms }
}

async fn ask(endpoint: &Endpoint, outbound: &Outbound) -> Result<String, String> {
    match endpoint.kind {
        ConnectionKind::Postgres => postgres(endpoint, outbound).await,
        ConnectionKind::Gateway => gateway(endpoint, outbound).await,
        ConnectionKind::Smtp => {
            let server = MailServer::new(endpoint).map_err(|error| error.to_string())?;
            server.try_out(outbound).await.map_err(|error| error.to_string())?;
            let sender = server.sender().map_err(|error| error.to_string())?;
            Ok(format!("the mail server answers; messages come from {}", sender.email))
        }
        ConnectionKind::Webhook => webhook(endpoint, outbound).await,
    }
}

/// What a database says about itself.
#[derive(sqlx::FromRow)]
struct About {
    version: String,
    role: String,
    database: String,
    encrypted: bool,
    read_only: bool,
}

async fn postgres(endpoint: &Endpoint, outbound: &Outbound) -> Result<String, String> {
    references::guard(endpoint, outbound).await.map_err(|error| error.to_string())?;
    let options = PoolOptions::named("relevo-trial").setting("statement_timeout", "10s");
    let mut connection = relevo_pg::connect_one(&endpoint.url, &options)
        .await
        .map_err(|error| relevo_errors::chain(&error))?;
    let about: About = sqlx::query_as(
        "-- connection_trial
        SELECT current_setting('server_version') AS version, current_user::text AS role,
               current_database()::text AS database,
               coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false)
                   AS encrypted,
               (pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean)
                   AS read_only",
    )
    .fetch_one(&mut connection)
    .await
    .map_err(|error| relevo_errors::chain(&error))?;
    // A failure to say goodbye costs nothing: the connection was only a question.
    let _ = connection.close().await;
    let About { version, role, database, encrypted, read_only } = about;
    let encrypted = if encrypted { "encrypted" } else { "not encrypted" };
    if read_only {
        return Err(format!(
            "Postgres {version} answers as {role} on {database}, but it only reads; give the primary's address"
        ));
    }
    Ok(format!("Postgres {version} answers as {role} on {database}, {encrypted}"))
}

async fn client(
    endpoint: &Endpoint,
    url: &Url,
    outbound: &Outbound,
) -> Result<reqwest::Client, String> {
    // A gateway of the configuration file is the word of whoever owns this machine.
    if endpoint.origin == Origin::File && endpoint.kind == ConnectionKind::Gateway {
        return client_builder(HTTP_TIMEOUT).build().map_err(|error| error.to_string());
    }
    outbound.client(url, HTTP_TIMEOUT).await.map_err(|error| error.to_string())
}

/// A failed request in words, without the URL, which may be secret.
fn unreachable(error: reqwest::Error) -> String {
    format!("it cannot be reached: {}", relevo_errors::chain(&error.without_url()))
}

async fn gateway(endpoint: &Endpoint, outbound: &Outbound) -> Result<String, String> {
    let base = endpoint.url.expose_secret().trim_end_matches('/');
    let url = Url::parse(&format!("{base}/api/backup/download/relevo-connection-test"))
        .map_err(|error| error.to_string())?;
    let mut request = client(endpoint, &url, outbound).await?.get(url);
    if let Some(key) = &endpoint.api_key {
        request = request.header("API-KEY", key.expose_secret());
    }
    let status = request.send().await.map_err(unreachable)?.status();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            Err(format!("the gateway refuses the API key (HTTP {status}); check api_key"))
        }
        status if status.is_redirection() => {
            Err(format!("it answers with a redirect (HTTP {status}), which is not followed"))
        }
        status if status.is_server_error() => Err(format!("it is not available (HTTP {status})")),
        status => Ok(format!("the gateway answers (HTTP {status} for a file that does not exist)")),
    }
}

async fn webhook(endpoint: &Endpoint, outbound: &Outbound) -> Result<String, String> {
    let url = Url::parse(endpoint.url.expose_secret()).map_err(|error| error.to_string())?;
    let request = client(endpoint, &url, outbound).await?.head(url);
    let status = request.send().await.map_err(unreachable)?.status();
    if status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED {
        return Err(format!("it is not available (HTTP {status})"));
    }
    Ok(format!(
        "it can be reached (HTTP {status}); whether it takes messages tells `relevo notify test`"
    ))
}
