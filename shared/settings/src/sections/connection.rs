//! `[connection.NAME]`: a named endpoint.

use secrecy::SecretString;

use crate::check;
use crate::reader::Reader;
use crate::schema::{CONNECTION, Key, Preset, Section};

/// A named endpoint.
#[derive(Debug, Clone)]
pub struct Connection {
    /// What answers there.
    pub kind: ConnectionKind,
    /// Where, with user and password.
    pub url: SecretString,
    /// The key a gateway expects.
    pub api_key: Option<SecretString>,
    /// The address that a mail server's messages are sent from.
    pub from: Option<String>,
}

/// What answers at a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionKind {
    /// A Postgres database.
    Postgres,
    /// The backup gateway.
    Gateway,
    /// A mail server.
    Smtp,
    /// An address that takes JSON by POST.
    Webhook,
}

impl ConnectionKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Postgres, Self::Gateway, Self::Smtp, Self::Webhook];

    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Gateway => "gateway",
            Self::Smtp => "smtp",
            Self::Webhook => "webhook",
        }
    }

    /// The kind of this name.
    ///
    /// # Errors
    /// The names there are.
    pub fn parse(text: &str) -> Result<Self, String> {
        check::one_of(text, &Self::ALL, |kind| kind.as_str())
    }

    /// Checks a connection's URL; the message never repeats it.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn check_url(self, url: &str) -> Result<(), String> {
        match self {
            Self::Postgres => check::postgres_url(url),
            // Its message may quote the text, which is no secret in the file, but may be one here.
            Self::Gateway => check::http_url(url).map(drop).map_err(|_| {
                "must be https://host or https://host:port, without user or query".to_owned()
            }),
            Self::Smtp => check::smtp_url(url),
            Self::Webhook => check::secret_http_url(url),
        }
    }
}

pub(crate) const SECTION: Section = Section {
    name: CONNECTION,
    help: "One table for each named endpoint, such as [connection.mail]; `relevo connection add` keeps others in the control plane. docs/connections.md tells more.",
    keys: &[
        Key::text("kind", Preset::Required, "postgres, gateway, smtp or webhook."),
        Key::secret(
            "url",
            Preset::Required,
            "Its URL: postgres://…, https://…, or for mail servers smtps://user:password@host, smtp+starttls://… or smtp://….",
        ),
        Key::secret(
            "api_key",
            Preset::Absent("only a gateway needs it"),
            "Key that a gateway expects.",
        ),
        Key::text(
            "from",
            Preset::Absent("the URL's user, where that is an address"),
            "Address that a mail server's messages are sent from.",
        ),
    ],
};

impl Connection {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let kind = reader.parsed("kind", ConnectionKind::parse);
        let url = reader.secret("url", |text| kind.map_or(Ok(()), |kind| kind.check_url(text)));
        let api_key = reader.optional_secret("api_key", check::header_value);
        let from = reader.optional("from", check::email);
        Some(Self { kind: kind?, url: url?, api_key: api_key?, from: from? })
    }
}
