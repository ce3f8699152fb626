//! The connections that sources name in place of addresses.

use std::sync::Arc;
use std::time::Duration;

use relevo_connections::Connections;
use relevo_settings::{ConnectionKind, connection_name};
use secrecy::ExposeSecret as _;

use crate::{Finding, Patient};

/// How long looking them up may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// Puts the addresses that the connections lead to in their place, for all further questions, and
/// tells of those that cannot be had.
pub(crate) async fn resolve(patient: &mut Patient) -> Vec<Finding> {
    const CHECK: &str = "connection.reference";
    let settings = Arc::clone(&patient.settings);
    let mut named = Vec::new();
    for (source, settings) in &settings.backup {
        for (key, kind, name) in settings.connections() {
            named.push((format!("backup.{source}.{key}"), kind, name.to_owned()));
        }
    }
    let Some(pool) = &patient.pool else {
        // Those of the file could be asked; that the control plane is away is worse.
        let notes = named.iter().map(|(key, _, name)| {
            let message = format!("the connection {name} cannot be looked up now");
            Finding::note(CHECK, key, message, "see to the control plane first")
        });
        return notes.collect();
    };
    let connections = Connections::new(pool.clone(), Arc::clone(&settings));
    let Ok(resolved) = tokio::time::timeout(TIMEOUT, connections.resolve()).await else {
        let message = format!("no answer within {} s", TIMEOUT.as_secs());
        return vec![Finding::problem(CHECK, "outside", message, "see whether the database hangs")];
    };
    let mut findings = Vec::new();
    for (source, error) in resolved.failed() {
        findings.push(Finding::problem(
            CHECK,
            &format!("backup.{source}"),
            relevo_errors::chain(error),
            "`relevo connection list` shows what there is; `relevo connection test` tries one out",
        ));
    }
    // Whoever asks a heartbeat looks it up itself.
    for (key, kind, name) in &named {
        if *kind != ConnectionKind::Webhook {
            continue;
        }
        let found = connections.find(name).await;
        let reason = match found {
            Ok(Some(found)) if found.kind == *kind => continue,
            Ok(Some(found)) => format!("is of kind {}; webhook is needed", found.kind.as_str()),
            Ok(None) => "is not there".to_owned(),
            Err(error) => format!("cannot be used: {}", relevo_errors::chain(&error)),
        };
        findings.push(Finding::problem(
            CHECK,
            key,
            format!("the connection {name} {reason}"),
            format!("`relevo connection add {name}` keeps one"),
        ));
    }
    patient.settings = resolved.settings;
    findings
}

/// Whether an address is that of a connection which could not be looked up.
pub(crate) fn is_unresolved(url: &secrecy::SecretString) -> bool {
    connection_name(url.expose_secret()).is_some()
}
