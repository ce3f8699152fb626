//! Posting and mailing messages.
//!
//! What goes to an address goes through the guard of outgoing requests, follows no redirect, and is
//! bounded in time; an address whose knowledge lets one post appears in no error.

use std::sync::Arc;
use std::time::Duration;

use lettre::message::header::ContentType;
use lettre::message::{Mailbox, header};
use lettre::{Address, Message as Mail};
use relevo_connections::{Connections, MailError, MailServer, Outbound, OutboundError, StoreError};
use relevo_runs::control_plane;
use relevo_settings::{ConnectionKind, Settings, connection_name};
use reqwest::header::RETRY_AFTER;
use reqwest::{Method, StatusCode, Url};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::channels::{Channel, HEARTBEAT, Target, Way, channels};
use crate::message::{Message, Occasion, compose};
use crate::template;

/// How long one message to an outside address may take.
const TIMEOUT: Duration = Duration::from_secs(15);

/// The longest text a chat takes, in characters: Telegram's limit is 4096.
const CHAT_CHARS_MAX: usize = 4_000;

/// The longest pause that a receiver may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// Why a message did not leave.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The connection the channel names does not exist, or is of another kind.
    #[error("channel {channel} needs a connection {connection} of kind {kind}, and there is none")]
    NoConnection {
        /// The channel.
        channel: String,
        /// The name it gives.
        connection: String,
        /// The kind it needs.
        kind: &'static str,
    },
    /// The connection cannot be had.
    #[error("the connection of channel {channel} cannot be had")]
    Connection {
        /// The channel.
        channel: String,
        /// Why.
        #[source]
        source: StoreError,
    },
    /// The address cannot be used.
    #[error("the address of channel {channel} cannot be used: {reason}")]
    Address {
        /// The channel.
        channel: String,
        /// What is wrong, without the address.
        reason: String,
    },
    /// It leads where it may not, or nowhere.
    #[error("channel {channel}: {source}")]
    Outbound {
        /// The channel.
        channel: String,
        /// Why.
        source: OutboundError,
    },
    /// No answer.
    #[error("the receiver of channel {channel} could not be reached: {reason}")]
    Unreachable {
        /// The channel.
        channel: String,
        /// What the network said, without the address.
        reason: String,
    },
    /// It answered that it does not take the message.
    #[error("the receiver of channel {channel} answered HTTP {status}{}", advice(*status))]
    Refused {
        /// The channel.
        channel: String,
        /// Its answer.
        status: StatusCode,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// E-mail.
    #[error("channel {channel}: {source}")]
    Mail {
        /// The channel.
        channel: String,
        /// Why.
        source: MailError,
    },
}

fn advice(status: StatusCode) -> &'static str {
    if is_transient(status) { "" } else { "; check its address, key or chat" }
}

fn is_transient(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT)
}

impl SendError {
    /// Whether another try later may do better.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoConnection { .. } | Self::Address { .. } => false,
            // A database that is away comes back, a key file can be put in place.
            Self::Connection { .. } | Self::Unreachable { .. } => true,
            Self::Outbound { source, .. } => source.is_transient(),
            Self::Refused { status, .. } => is_transient(*status),
            Self::Mail { source, .. } => source.is_transient(),
        }
    }

    /// When the receiver wants to be asked again.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// Sends messages through the configured channels.
#[derive(Clone, Debug)]
pub struct Sender {
    settings: Arc<Settings>,
    connections: Connections,
    outbound: Outbound,
    /// Tells the messages of this control plane from those of others.
    cluster_id: String,
}

impl Sender {
    /// Over this control plane.
    ///
    /// # Errors
    /// When the control plane does not say who it is.
    pub async fn new(pool: &PgPool, settings: Arc<Settings>) -> Result<Self, sqlx::Error> {
        let cluster_id = control_plane::identity(pool).await?.cluster_id;
        Ok(Self {
            connections: Connections::new(pool.clone(), Arc::clone(&settings)),
            outbound: Outbound::new(&settings),
            settings,
            cluster_id,
        })
    }

    /// The same under other settings.
    #[must_use]
    pub fn under(&self, settings: Arc<Settings>) -> Self {
        Self {
            connections: self.connections.under(Arc::clone(&settings)),
            outbound: Outbound::new(&settings),
            settings,
            cluster_id: self.cluster_id.clone(),
        }
    }

    /// Every channel.
    #[must_use]
    pub fn channels(&self) -> Vec<Channel> {
        channels(&self.settings)
    }

    /// Tells `channel` of `occasion`.
    ///
    /// # Errors
    /// [`SendError`]; whether it may pass is in it.
    pub async fn tell(&self, channel: &Channel, occasion: &Occasion) -> Result<(), SendError> {
        let message = compose(occasion, &channel.name, channel.language, &self.settings);
        match &channel.way {
            Way::Webhook { to, template } => {
                let body = match template {
                    Some(template) => template::fill(template, &message.body).map_err(|error| {
                        SendError::Address {
                            channel: channel.name.clone(),
                            reason: format!("its template is no JSON: {error}"),
                        }
                    })?,
                    None => message.body,
                };
                self.post(channel, &self.url(channel, to).await?, &body).await
            }
            Way::Slack { to } => {
                let body = json!({"text": for_slack(&message.text)});
                self.post(channel, &self.url(channel, to).await?, &body).await
            }
            Way::Telegram { to, token, chat_id } => {
                let base = self.url(channel, to).await?;
                let base = base.expose_secret().trim_end_matches('/');
                let url = format!("{base}/bot{}/sendMessage", token.expose_secret());
                let text: String = message.text.chars().take(CHAT_CHARS_MAX).collect();
                let body = json!({
                    "chat_id": chat_id,
                    "text": text,
                    "link_preview_options": {"is_disabled": true},
                });
                self.post(channel, &SecretString::from(url), &body).await
            }
            Way::Email { connection, to } => self.mail(channel, connection, to, &message).await,
        }
    }

    /// Asks a source's heartbeat URL. `Ok(false)`: it has none.
    ///
    /// # Errors
    /// [`SendError`].
    pub async fn heartbeat(&self, source: &str) -> Result<bool, SendError> {
        let url = self.settings.backup.get(source).and_then(|source| source.heartbeat_url.as_ref());
        let Some(url) = url else { return Ok(false) };
        let url = match connection_name(url.expose_secret()) {
            Some(name) => self.endpoint(HEARTBEAT, name, ConnectionKind::Webhook).await?.url,
            None => url.clone(),
        };
        self.request(HEARTBEAT, Method::GET, &url, None).await?;
        Ok(true)
    }

    async fn url(&self, channel: &Channel, to: &Target) -> Result<SecretString, SendError> {
        match to {
            Target::Url(url) => Ok(url.clone()),
            Target::Connection(name) => {
                Ok(self.endpoint(&channel.name, name, ConnectionKind::Webhook).await?.url)
            }
        }
    }

    async fn endpoint(
        &self,
        channel: &str,
        name: &str,
        kind: ConnectionKind,
    ) -> Result<relevo_connections::Endpoint, SendError> {
        let found = self
            .connections
            .find(name)
            .await
            .map_err(|source| SendError::Connection { channel: channel.to_owned(), source })?;
        found.filter(|endpoint| endpoint.kind == kind).ok_or_else(|| SendError::NoConnection {
            channel: channel.to_owned(),
            connection: name.to_owned(),
            kind: kind.as_str(),
        })
    }

    async fn post(
        &self,
        channel: &Channel,
        url: &SecretString,
        body: &Value,
    ) -> Result<(), SendError> {
        self.request(&channel.name, Method::POST, url, Some(body)).await
    }

    async fn request(
        &self,
        channel: &str,
        method: Method,
        url: &SecretString,
        body: Option<&Value>,
    ) -> Result<(), SendError> {
        let url = Url::parse(url.expose_secret()).map_err(|error| SendError::Address {
            channel: channel.to_owned(),
            reason: error.to_string(),
        })?;
        let client = self
            .outbound
            .client(&url, TIMEOUT)
            .await
            .map_err(|source| SendError::Outbound { channel: channel.to_owned(), source })?;
        let mut request = client.request(method, url);
        if let Some(body) = body {
            request = request.json(body);
        }
        let response = request.send().await.map_err(|error| SendError::Unreachable {
            channel: channel.to_owned(),
            reason: relevo_errors::chain(&error.without_url()),
        })?;
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| {
            let seconds = value.to_str().ok()?.trim().parse().ok()?;
            Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
        });
        Err(SendError::Refused { channel: channel.to_owned(), status, retry_after })
    }

    async fn mail(
        &self,
        channel: &Channel,
        connection: &str,
        to: &[String],
        message: &Message,
    ) -> Result<(), SendError> {
        let endpoint = self.endpoint(&channel.name, connection, ConnectionKind::Smtp).await?;
        let failed = |source| SendError::Mail { channel: channel.name.clone(), source };
        let server = MailServer::new(&endpoint).map_err(failed)?;
        let sender = server.sender().map_err(failed)?;
        let mail = self.written(channel, sender, to, message).map_err(failed)?;
        server.send(&self.outbound, mail).await.map_err(failed)
    }

    fn written(
        &self,
        channel: &Channel,
        from: Mailbox,
        to: &[String],
        message: &Message,
    ) -> Result<Mail, MailError> {
        let domain = from.email.domain().to_owned();
        let id = format!("<{}.{}.{}@{domain}>", message.id, channel.name, self.cluster_id);
        let mut mail = Mail::builder()
            .from(from)
            .subject(message.subject.replace(['\r', '\n'], " "))
            .message_id(Some(id))
            .header(AutoSubmitted)
            .header(ContentType::TEXT_PLAIN)
            .header(header::MIME_VERSION_1_0);
        for address in to {
            let address: Address = address
                .parse()
                .map_err(|_| MailError::Message(format!("`{address}` is no e-mail address")))?;
            mail = mail.to(Mailbox::new(None, address));
        }
        mail.body(message.mail_text()).map_err(|error| MailError::Message(error.to_string()))
    }
}

/// A text as Slack and its like read it: what stands between angle brackets is a link or a call of
/// everybody there, and an error of a server is neither.
fn for_slack(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// `Auto-Submitted: auto-generated`: no robot answers such a message.
#[derive(Clone)]
struct AutoSubmitted;

impl header::Header for AutoSubmitted {
    fn name() -> header::HeaderName {
        header::HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> header::HeaderValue {
        header::HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_calls_nobody_in_slack() {
        assert_eq!(
            for_slack("expected <EOF> & got <!channel>"),
            "expected &lt;EOF&gt; &amp; got &lt;!channel&gt;"
        );
    }
}
