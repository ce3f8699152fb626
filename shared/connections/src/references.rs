//! Sources that name connections in place of addresses: `target_url = "connection:warehouse"`.
//!
//! They are looked up where they are used, at each job and each question, so that a changed secret
//! is taken up at once. What is kept in the control plane is held to public addresses here too.

use std::collections::BTreeMap;
use std::sync::Arc;

use relevo_settings::{BackupSource, ConnectionKind, Settings};
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::endpoint::{Endpoint, Origin};
use crate::outbound::{Outbound, OutboundError};
use crate::store::{Connections, StoreError};

/// Why a source cannot use the connection it names.
#[derive(Debug, thiserror::Error)]
pub enum ReferenceError {
    /// There is none of this name.
    #[error(
        "{key} names the connection {connection}, and there is none; `relevo connection add {connection}` keeps one"
    )]
    Missing {
        /// The key that names it.
        key: String,
        /// The connection.
        connection: String,
    },
    /// It is something else.
    #[error("{key} needs a connection of kind {wanted}, and {connection} is of kind {found}")]
    Kind {
        /// The key that names it.
        key: String,
        /// The connection.
        connection: String,
        /// What is needed.
        wanted: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// It cannot be read.
    #[error("{key} names the connection {connection}, which cannot be used")]
    Unusable {
        /// The key that names it.
        key: String,
        /// The connection.
        connection: String,
        /// Why.
        source: StoreError,
    },
    /// It may not be reached.
    #[error("{key} names the connection {connection}, which may not be reached: {reason}")]
    Refused {
        /// The key that names it.
        key: String,
        /// The connection.
        connection: String,
        /// Why.
        reason: GuardError,
    },
}

/// Why a connection that is kept in the control plane may not be reached.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// The URL says more about where it leads than its host and port.
    #[error("{0}")]
    Url(&'static str),
    /// The guard of outgoing requests.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
}

/// Settings whose sources name connections, with those looked up.
#[derive(Debug)]
pub struct Resolved {
    /// The settings; a source whose connections cannot be had is as it was.
    pub settings: Arc<Settings>,
    failed: BTreeMap<String, ReferenceError>,
}

impl Resolved {
    /// Settings with nothing looked up, for work that uses no source's addresses.
    #[must_use]
    pub fn as_they_are(settings: Arc<Settings>) -> Self {
        Self { settings, failed: BTreeMap::new() }
    }

    /// The settings of a source; `None` where there is none of this name.
    #[must_use]
    pub fn source(&self, name: &str) -> Option<Result<&BackupSource, &ReferenceError>> {
        let source = self.settings.backup.get(name)?;
        Some(self.failed.get(name).map_or(Ok(source), Err))
    }

    /// What could not be had, by source.
    #[must_use]
    pub fn failed(&self) -> &BTreeMap<String, ReferenceError> {
        &self.failed
    }
}

impl Connections {
    /// Looks up what the sources of the settings name. Without any such name nothing is asked.
    pub async fn resolve(&self) -> Resolved {
        let mut failed = BTreeMap::new();
        let mut settings = Arc::clone(self.settings());
        for (name, source) in &self.settings().backup {
            if addresses(source).next().is_none() {
                continue;
            }
            match self.resolve_source(name, source).await {
                Ok(source) => {
                    Arc::make_mut(&mut settings).backup.insert(name.clone(), source);
                }
                Err(error) => {
                    failed.insert(name.clone(), error);
                }
            }
        }
        Resolved { settings, failed }
    }

    /// One source, with what it names looked up.
    ///
    /// # Errors
    /// [`ReferenceError`], which says what and why.
    pub async fn resolve_source(
        &self,
        name: &str,
        source: &BackupSource,
    ) -> Result<BackupSource, ReferenceError> {
        let mut resolved = source.clone();
        for (key, kind, connection) in addresses(source) {
            let key = format!("backup.{name}.{key}");
            let endpoint = self.referred(&key, kind, connection).await?;
            match kind {
                ConnectionKind::Postgres => resolved.target_url = endpoint.url,
                ConnectionKind::Gateway => {
                    let url = endpoint.url.expose_secret().trim_end_matches('/');
                    url.clone_into(&mut resolved.gateway_url);
                    resolved.api_key = endpoint.api_key.unwrap_or(resolved.api_key);
                }
                // No address of a source leads there.
                ConnectionKind::Webhook | ConnectionKind::Smtp => {}
            }
        }
        Ok(resolved)
    }

    /// The connection that a key names.
    async fn referred(
        &self,
        key: &str,
        wanted: ConnectionKind,
        connection: &str,
    ) -> Result<Endpoint, ReferenceError> {
        let names = || (key.to_owned(), connection.to_owned());
        let found = self.find(connection).await.map_err(|source| {
            let (key, connection) = names();
            ReferenceError::Unusable { key, connection, source }
        })?;
        let endpoint = found.ok_or_else(|| {
            let (key, connection) = names();
            ReferenceError::Missing { key, connection }
        })?;
        if endpoint.kind != wanted {
            let (key, connection) = names();
            let (wanted, found) = (wanted.as_str(), endpoint.kind.as_str());
            return Err(ReferenceError::Kind { key, connection, wanted, found });
        }
        guard(&endpoint, &Outbound::new(self.settings())).await.map_err(|reason| {
            let (key, connection) = names();
            ReferenceError::Refused { key, connection, reason }
        })?;
        Ok(endpoint)
    }
}

/// The addresses that a source cannot work without; whoever asks its heartbeat looks that up.
fn addresses(source: &BackupSource) -> impl Iterator<Item = (&'static str, ConnectionKind, &str)> {
    source.connections().into_iter().filter(|(_, kind, _)| *kind != ConnectionKind::Webhook)
}

/// Refuses a stored connection to a private address that is not allowed. A database's URL can name
/// hosts in its parameters too, and sockets: those are refused.
///
/// # Errors
/// [`GuardError`].
pub(crate) async fn guard(endpoint: &Endpoint, outbound: &Outbound) -> Result<(), GuardError> {
    if endpoint.origin == Origin::File {
        return Ok(());
    }
    let url = parsed(&endpoint.url).ok_or(GuardError::Url("it is no URL"))?;
    let is_database = endpoint.kind == ConnectionKind::Postgres;
    let names_host = |name: &str| matches!(name, "host" | "hostaddr" | "port");
    if is_database && url.query_pairs().any(|(name, _)| names_host(&name)) {
        return Err(GuardError::Url("host and port must stand before the question mark"));
    }
    let host = url.host_str().filter(|host| !host.is_empty());
    let host = host.ok_or(GuardError::Url("the URL names no host"))?;
    // A socket's folder, written with percent signs.
    if host.contains('%') || host.contains('/') {
        return Err(GuardError::Url(
            "a socket of this machine cannot be used by a stored connection",
        ));
    }
    let standard = if is_database { Some(5432) } else { url.port_or_known_default() };
    let port = url.port().or(standard).ok_or(GuardError::Url("the URL names no port"))?;
    outbound.addresses(host, port).await?;
    Ok(())
}

fn parsed(url: &SecretString) -> Option<Url> {
    Url::parse(url.expose_secret()).ok()
}
