//! The way to a mail server.

use std::path::PathBuf;
use std::time::Duration;

use lettre::message::Mailbox;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{Address, AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor};
use relevo_settings::SmtpSecurity;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::endpoint::{Endpoint, Origin};
use crate::outbound::{Outbound, OutboundError};

/// How long one command of the conversation may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(15);

/// How long the whole conversation may take.
const CONVERSATION_TIMEOUT: Duration = Duration::from_secs(45);

/// Why a message did not leave.
#[derive(Debug, thiserror::Error)]
pub enum MailError {
    /// The server's address cannot be used.
    #[error("the mail server's address cannot be used: {0}")]
    Address(String),
    /// The file with further roots.
    #[error("the certificates in {} cannot be used: {reason}", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It leads where it may not.
    #[error(transparent)]
    Outbound(#[from] OutboundError),
    /// The conversation took too long.
    #[error("the mail server at {host} did not answer in time")]
    Timeout {
        /// Its name.
        host: String,
    },
    /// The server, or the way to it.
    #[error("the mail server at {host} did not take it{}: {reason}", if *permanent { " for good" } else { "" })]
    Smtp {
        /// Its name.
        host: String,
        /// What it or the network said.
        reason: String,
        /// Whether it will say the same next time.
        permanent: bool,
    },
    /// The message itself.
    #[error("the message cannot be written: {0}")]
    Message(String),
}

impl MailError {
    /// Whether another try later may do better.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Smtp { permanent, .. } => !permanent,
            Self::Outbound(error) => error.is_transient(),
            // A file can be put right while the job waits.
            Self::Certificates { .. } => true,
            Self::Address(_) | Self::Message(_) => false,
        }
    }
}

/// A mail server.
#[derive(Debug)]
pub struct MailServer {
    host: String,
    port: u16,
    security: SmtpSecurity,
    credentials: Option<(String, SecretString)>,
    from: Option<String>,
    ca_file: Option<PathBuf>,
    guarded: bool,
}

impl MailServer {
    /// The mail server at a connection of kind `smtp`.
    ///
    /// # Errors
    /// [`MailError::Address`].
    pub fn new(endpoint: &Endpoint) -> Result<Self, MailError> {
        let wrong = |reason: &str| MailError::Address(reason.to_owned());
        // The parser's words never repeat the text.
        let url = Url::parse(endpoint.url.expose_secret())
            .map_err(|error| MailError::Address(error.to_string()))?;
        let security = match url.scheme() {
            "smtps" => SmtpSecurity::Tls,
            "smtp+starttls" => SmtpSecurity::StartTls,
            "smtp" => SmtpSecurity::None,
            _ => return Err(wrong("it does not begin with smtps://, smtp+starttls:// or smtp://")),
        };
        let host = url.host_str().ok_or_else(|| wrong("it names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let credentials = match (decoded(url.username()), url.password().map(decoded)) {
            (user, Some(password)) if !user.is_empty() => {
                Some((user, SecretString::from(password)))
            }
            _ => None,
        };
        let user_address = credentials.as_ref().map(|(user, _)| user.clone());
        let from =
            endpoint.from.clone().or(user_address.filter(|user| user.parse::<Address>().is_ok()));
        Ok(Self {
            port: url.port().unwrap_or(security.port()),
            host,
            security,
            credentials,
            from,
            ca_file: endpoint.ca_file.clone(),
            guarded: endpoint.origin == Origin::Stored,
        })
    }

    /// The sender of its messages.
    ///
    /// # Errors
    /// When none was given.
    pub fn sender(&self) -> Result<Mailbox, MailError> {
        let from = self.from.as_deref().ok_or_else(|| {
            MailError::Message(
                "no sender is known; set smtp.from, or from of the connection".into(),
            )
        })?;
        let address: Address =
            from.parse().map_err(|_| MailError::Message(format!("`{from}` is no sender")))?;
        Ok(Mailbox::new(Some("Relevo".to_owned()), address))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// [`MailError`].
    pub async fn send(&self, outbound: &Outbound, message: Message) -> Result<(), MailError> {
        let transport = self.transport(outbound).await?;
        self.bounded(transport.send(message)).await.map(drop)
    }

    /// Connects, encrypts, logs in and says goodbye.
    ///
    /// # Errors
    /// [`MailError`].
    pub async fn try_out(&self, outbound: &Outbound) -> Result<(), MailError> {
        let transport = self.transport(outbound).await?;
        if self.bounded(transport.test_connection()).await? {
            Ok(())
        } else {
            let reason = "it answers, but not to NOOP".to_owned();
            Err(MailError::Smtp { host: self.host.clone(), reason, permanent: false })
        }
    }

    async fn bounded<T>(
        &self,
        work: impl Future<Output = Result<T, lettre::transport::smtp::Error>>,
    ) -> Result<T, MailError> {
        match tokio::time::timeout(CONVERSATION_TIMEOUT, work).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => Err(MailError::Smtp {
                host: self.host.clone(),
                permanent: error.is_permanent(),
                reason: relevo_errors::chain(&error),
            }),
            Err(_) => Err(MailError::Timeout { host: self.host.clone() }),
        }
    }

    async fn transport(
        &self,
        outbound: &Outbound,
    ) -> Result<AsyncSmtpTransport<Tokio1Executor>, MailError> {
        // Of a guarded server the address that was judged, so that no second look at the name can
        // lead elsewhere; the certificate is still that of the name.
        let way = if self.guarded {
            let addresses = outbound.addresses(&self.host, self.port).await?;
            addresses.first().map_or(self.host.clone(), |found| found.ip().to_string())
        } else {
            self.host.clone()
        };
        let tls = match self.security {
            SmtpSecurity::StartTls => Tls::Required(self.tls().await?),
            SmtpSecurity::Tls => Tls::Wrapper(self.tls().await?),
            SmtpSecurity::None => Tls::None,
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(way)
            .port(self.port)
            .tls(tls)
            .timeout(Some(COMMAND_TIMEOUT));
        if let Some((user, password)) = &self.credentials {
            let password = password.expose_secret().to_owned();
            builder = builder.credentials(Credentials::new(user.clone(), password));
        }
        Ok(builder.build())
    }

    async fn tls(&self) -> Result<TlsParameters, MailError> {
        let mut builder = TlsParameters::builder(self.host.clone());
        if let Some(path) = &self.ca_file {
            let failed = |reason: String| MailError::Certificates { path: path.clone(), reason };
            let pem = tokio::fs::read(path).await.map_err(|error| failed(error.to_string()))?;
            let roots = Certificate::from_pem(&pem)
                .map_err(|error| failed(relevo_errors::chain(&error)))?;
            builder = builder.add_root_certificate(roots);
        }
        builder.build().map_err(|error| MailError::Smtp {
            host: self.host.clone(),
            reason: relevo_errors::chain(&error),
            permanent: false,
        })
    }
}

/// A part of a URL without its percent signs.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        if let (b'%', [high, low, after @ ..]) = (first, tail)
            && let (Some(high), Some(low)) = (digit(*high), digit(*low))
        {
            // Two hexadecimal digits make a byte.
            bytes.push(u8::try_from(high * 16 + low).unwrap_or_default());
            rest = after;
            continue;
        }
        bytes.push(*first);
        rest = tail;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use relevo_settings::ConnectionKind;

    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        Endpoint {
            name: "mail".to_owned(),
            kind: ConnectionKind::Smtp,
            origin: Origin::File,
            url: url.into(),
            api_key: None,
            from: None,
            ca_file: None,
        }
    }

    #[test]
    fn a_servers_address_is_read() {
        let url = "smtp+starttls://shop%40example.com:p%25%C3%B1@mail.example.com";
        let server = MailServer::new(&endpoint(url)).expect("reads");
        assert_eq!((server.host.as_str(), server.port), ("mail.example.com", 587));
        let (user, password) = server.credentials.as_ref().expect("credentials");
        assert_eq!((user.as_str(), password.expose_secret()), ("shop@example.com", "p%ñ"));
        assert!(server.sender().is_ok(), "the user is an address");
        let server = MailServer::new(&endpoint("smtps://[::1]:4465")).expect("reads");
        assert_eq!((server.host.as_str(), server.port), ("::1", 4465));
        assert!(server.sender().is_err() && server.credentials.is_none());
        assert!(MailServer::new(&endpoint("https://mail")).is_err());
    }
}
