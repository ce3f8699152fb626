//! What lies outside: gateways, mail servers, webhooks, the public URL.

use std::time::Duration;

use futures::future::join_all;
use relevo_connections::{Connections, Endpoint, Outbound, StoreError, endpoint, try_out};
use relevo_notify::channels;
use relevo_pg::error::sqlstate;
use relevo_settings::{ConnectionKind, GatewayMode, Settings, SourceKind};

use crate::references;
use crate::{Finding, Patient};

/// How long the public URL may take to answer.
const PUBLIC_TIMEOUT: Duration = Duration::from_secs(10);

/// Databases of sources and the control plane are asked more thoroughly elsewhere.
fn is_asked_here(endpoint: &Endpoint) -> bool {
    let elsewhere = endpoint.name == "database" || endpoint.name.ends_with(".target");
    // A name that leads to another connection is asked under that connection's own.
    let is_name = references::is_unresolved(&endpoint.url);
    !(is_name || endpoint.kind == ConnectionKind::Postgres && elsewhere)
}

pub(crate) async fn ask(patient: &Patient) -> Vec<Finding> {
    let settings = &patient.settings;
    let mut findings = Vec::new();
    let mut endpoints = endpoint::of_settings(settings);
    if let Some(pool) = &patient.pool {
        let connections = Connections::new(pool.clone(), settings.clone());
        match stored(&connections).await {
            Ok((more, faults)) => {
                endpoints.extend(more);
                findings.extend(faults);
            }
            // A control plane that is not migrated is a finding already.
            Err(StoreError::Database(error)) if sqlstate(&error).as_deref() == Some("42P01") => {}
            Err(error) => findings.push(Finding::warning(
                "connections.kept",
                "connections",
                format!("the kept connections cannot be read: {}", relevo_errors::chain(&error)),
                "run `relevo migrate`, or see the database's log",
            )),
        }
    }
    let outbound = Outbound::new(settings);
    let tried = endpoints.iter().filter(|endpoint| is_asked_here(endpoint)).map(async |endpoint| {
        let trial = try_out(endpoint, &outbound).await;
        if trial.ok {
            return Finding::ok("connection.usable", &trial.name, trial.message);
        }
        let advice = match endpoint.kind {
            ConnectionKind::Gateway => {
                "see that the gateway's machine is on and reachable; backups wait for it"
            }
            ConnectionKind::Smtp => "correct [smtp] or the connection; e-mail does not leave",
            ConnectionKind::Webhook => {
                "correct the address, or add its host:port to outbound.allow where it is your own"
            }
            ConnectionKind::Postgres => "correct the connection",
        };
        Finding::problem("connection.usable", &trial.name, trial.message, advice)
    });
    let (tried, public) = tokio::join!(join_all(tried), public_url(settings));
    findings.extend(tried);
    findings.extend(public);
    findings.extend(people(settings));
    findings
}

/// The connections that are kept in the control plane, and those whose secrets do not open.
async fn stored(connections: &Connections) -> Result<(Vec<Endpoint>, Vec<Finding>), StoreError> {
    let (mut opened, mut faults) = (Vec::new(), Vec::new());
    for shown in connections.list().await? {
        if shown.origin != endpoint::Origin::Stored {
            continue;
        }
        match connections.find(&shown.name).await {
            Ok(Some(endpoint)) => opened.push(endpoint),
            Ok(None) => {}
            Err(error @ (StoreError::Key(_) | StoreError::Sealed { .. })) => {
                faults.push(Finding::problem(
                    "connection.sealed",
                    &shown.name,
                    relevo_errors::chain(&error),
                    "put the key file in place, or give the secrets anew with `relevo connection set`",
                ));
            }
            Err(error) => return Err(error),
        }
    }
    Ok((opened, faults))
}

/// Whether the address that gateways are told to call answers as this API.
async fn public_url(settings: &Settings) -> Vec<Finding> {
    const CHECK: &str = "api.public_url";
    let wanted = settings
        .backup
        .values()
        .any(|source| source.kind == SourceKind::Gateway && source.mode != GatewayMode::Sync);
    let Some(url) = &settings.api.public_url else {
        return if wanted {
            vec![Finding::note(
                CHECK,
                "api",
                "no public URL is set: backups are fetched synchronously, which holds one request open for minutes",
                "set api.public_url where the gateway can reach this API",
            )]
        } else {
            Vec::new()
        };
    };
    let mut findings = Vec::new();
    if url.starts_with("http://") {
        findings.push(Finding::warning(
            CHECK,
            "api",
            "the public URL is plain http: the webhook's token travels in the clear",
            "put TLS before the API and give its https address",
        ));
    }
    let client = reqwest_client();
    let answer = match &client {
        Some(client) => client
            .get(format!("{url}/livez"))
            .send()
            .await
            .map_err(|error| relevo_errors::chain(&error.without_url())),
        None => return findings,
    };
    let reached = match answer {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(format!("it answers HTTP {}", answer.status())),
        Err(reason) => Err(reason),
    };
    findings.push(match reached {
        Ok(()) => Finding::ok(CHECK, "api", format!("{url} answers as seen from here")),
        Err(reason) => Finding::warning(
            CHECK,
            "api",
            format!("{url} does not answer as seen from here: {reason}"),
            "see that `relevo api` runs and the address leads to it; without it webhooks do not arrive, and backups wait for their deadline",
        ),
    });
    findings
}

fn reqwest_client() -> Option<reqwest::Client> {
    reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(PUBLIC_TIMEOUT)
        .build()
        .ok()
}

/// Whether anybody would hear of a failure.
fn people(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    if settings.notify.email.is_some() && settings.smtp.host.is_none() {
        findings.push(Finding::warning(
            "notify.email",
            "notify",
            "notify.email (NOTIFICATION_EMAIL) is set, but no mail server: no e-mail is sent",
            "set smtp.host (RELEVO_SMTP_HOST) and what it needs; docs/notifications.md tells more",
        ));
    }
    if channels(settings).is_empty() && !settings.backup.is_empty() {
        findings.push(Finding::warning(
            "notify.channels",
            "notify",
            "nobody is told when a backup fails: there is no channel",
            "set notify.webhook_url, or notify.email and [smtp], or a [channel.NAME]",
        ));
    }
    for (name, source) in &settings.backup {
        if source.schedule_enabled && source.heartbeat_url.is_none() {
            findings.push(Finding::note(
                "notify.heartbeat",
                &format!("backup.{name}"),
                "nobody outside notices when this machine is dead",
                "set heartbeat_url to a service that expects a call after each success",
            ));
        }
    }
    findings
}
