//! What a connection is, and which of them the configuration file makes.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use relevo_settings::{ChannelKind, ConnectionKind, Settings, SmtpSecurity, SourceKind};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use url::Url;

/// A named endpoint with its secrets, ready to be used.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Its name; those that the file makes for other sections hold dots, such as
    /// `backup.sicar.target`.
    pub name: String,
    /// What answers there.
    pub kind: ConnectionKind,
    /// Where it is kept.
    pub origin: Origin,
    /// Where, with user and password.
    pub url: SecretString,
    /// The key a gateway expects.
    pub api_key: Option<SecretString>,
    /// The sender of a mail server's messages.
    pub from: Option<String>,
    /// Further root certificates (PEM) for a mail server.
    pub ca_file: Option<PathBuf>,
}

/// Where a connection is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// In the configuration file or the environment: it cannot be changed from here.
    File,
    /// In the control plane.
    Stored,
}

impl Origin {
    /// The name as shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Stored => "stored",
        }
    }
}

/// A connection as people see it, without secrets.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// Its name.
    pub name: String,
    /// `postgres`, `gateway`, `smtp` or `webhook`.
    pub kind: &'static str,
    /// Where it is kept.
    pub origin: Origin,
    /// Where it leads, without user, password, path and parameters.
    pub address: String,
    /// Whether it has a key of its own beside the URL.
    pub has_api_key: bool,
    /// The sender of a mail server's messages.
    pub from: Option<String>,
    /// When it was last changed; only of stored ones.
    pub updated_at: Option<DateTime<Utc>>,
    /// By whom.
    pub updated_by: Option<String>,
}

impl Endpoint {
    /// What may be shown of it.
    #[must_use]
    pub fn shown(&self) -> Shown {
        Shown {
            name: self.name.clone(),
            kind: self.kind.as_str(),
            origin: self.origin,
            address: address(self.kind, self.url.expose_secret()),
            has_api_key: self.api_key.is_some(),
            from: self.from.clone(),
            updated_at: None,
            updated_by: None,
        }
    }
}

/// The part of a URL that may be shown: of a database its name too, of everything else scheme, host
/// and port, since paths of webhooks are secrets.
#[must_use]
pub fn address(kind: ConnectionKind, url: &str) -> String {
    let Ok(mut parsed) = Url::parse(url) else { return "(not an address)".to_owned() };
    if parsed.cannot_be_a_base() {
        // As in embedded:NAME.
        return format!("{}:{}", parsed.scheme(), parsed.path());
    }
    // An address that can hold neither has neither.
    parsed.set_username("").unwrap_or_default();
    parsed.set_password(None).unwrap_or_default();
    parsed.set_query(None);
    parsed.set_fragment(None);
    if kind != ConnectionKind::Postgres {
        parsed.set_path("");
    }
    parsed.to_string().trim_end_matches('/').to_owned()
}

/// The connections that the configuration makes: control plane, gateways, targets, the mail server,
/// the channels' webhooks, and those under `[connection.NAME]`.
#[must_use]
pub fn of_settings(settings: &Settings) -> Vec<Endpoint> {
    let endpoint = |name: String, kind, url: SecretString| Endpoint {
        name,
        kind,
        origin: Origin::File,
        url,
        api_key: None,
        from: None,
        ca_file: None,
    };
    let mut all = Vec::new();
    if let Some(url) = &settings.database.url {
        all.push(endpoint("database".to_owned(), ConnectionKind::Postgres, url.clone()));
    }
    for (name, source) in &settings.backup {
        if source.kind == SourceKind::Gateway {
            let gateway = SecretString::from(source.gateway_url.clone());
            all.push(Endpoint {
                api_key: Some(source.api_key.clone()),
                ..endpoint(format!("backup.{name}.gateway"), ConnectionKind::Gateway, gateway)
            });
        }
        let target = source.target_url.clone();
        all.push(endpoint(format!("backup.{name}.target"), ConnectionKind::Postgres, target));
        if let Some(url) = &source.heartbeat_url {
            let name = format!("backup.{name}.heartbeat");
            all.push(endpoint(name, ConnectionKind::Webhook, url.clone()));
        }
    }
    if let Some(url) = &settings.notify.webhook_url {
        all.push(endpoint("notify.webhook".to_owned(), ConnectionKind::Webhook, url.clone()));
    }
    for (name, channel) in &settings.channel {
        if let (ChannelKind::Webhook | ChannelKind::Slack, None, Some(url)) =
            (channel.kind, &channel.connection, &channel.url)
        {
            all.push(endpoint(format!("channel.{name}"), ConnectionKind::Webhook, url.clone()));
        }
    }
    all.extend(of_smtp(settings));
    for (name, connection) in &settings.connection {
        all.push(Endpoint {
            api_key: connection.api_key.clone(),
            from: connection.from.clone(),
            ..endpoint(name.clone(), connection.kind, connection.url.clone())
        });
    }
    all
}

/// The mail server of `[smtp]`.
fn of_smtp(settings: &Settings) -> Option<Endpoint> {
    let smtp = &settings.smtp;
    let host = smtp.host.as_ref()?;
    let scheme = match smtp.security {
        SmtpSecurity::StartTls => "smtp+starttls",
        SmtpSecurity::Tls => "smtps",
        SmtpSecurity::None => "smtp",
    };
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let port = smtp.port.unwrap_or(smtp.security.port());
    let mut url = Url::parse(&format!("{scheme}://{host}:{port}")).ok()?;
    if let Some(user) = &smtp.user {
        url.set_username(user).ok()?;
    }
    if let Some(password) = &smtp.password {
        url.set_password(Some(password.expose_secret())).ok()?;
    }
    Some(Endpoint {
        name: "smtp".to_owned(),
        kind: ConnectionKind::Smtp,
        origin: Origin::File,
        url: SecretString::from(String::from(url)),
        api_key: None,
        from: smtp.sender().map(str::to_owned),
        ca_file: smtp.ca_file.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_lose_what_may_be_secret() {
        for (kind, url, shown) in [
            (
                ConnectionKind::Postgres,
                "postgres://u:p@db:5433/shop?x=p",
                "postgres://db:5433/shop",
            ),
            (ConnectionKind::Postgres, "embedded:shop", "embedded:shop"),
            (
                ConnectionKind::Webhook,
                "https://hooks.test/services/T0/secret",
                "https://hooks.test",
            ),
            (ConnectionKind::Smtp, "smtps://u:p%40@mail.test:465", "smtps://mail.test:465"),
            (ConnectionKind::Gateway, "https://gw.test:8443", "https://gw.test:8443"),
        ] {
            assert_eq!(address(kind, url), shown);
        }
    }
}
