//! `[smtp]`: the mail server.

use std::path::PathBuf;

use secrecy::SecretString;

use crate::check;
use crate::reader::Reader;
use crate::schema::{Key, Preset, Section};

/// The mail server that messages leave through.
#[derive(Debug, Clone)]
pub struct Smtp {
    /// Name or address; `None`: no e-mail is sent.
    pub host: Option<String>,
    /// `None`: the usual port of `security`.
    pub port: Option<u16>,
    /// How the way there is protected.
    pub security: SmtpSecurity,
    /// Whom to log in as.
    pub user: Option<String>,
    /// With which password.
    pub password: Option<SecretString>,
    /// The sender's address; `None`: `user`, where that is an address.
    pub from: Option<String>,
    /// A file with further root certificates (PEM) that are trusted; absolute.
    pub ca_file: Option<PathBuf>,
}

/// How the way to a mail server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpSecurity {
    /// In the clear first, encrypted before anything is said; a server that cannot is refused.
    StartTls,
    /// Encrypted from the first byte.
    Tls,
    /// Not at all.
    None,
}

impl SmtpSecurity {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StartTls => "starttls",
            Self::Tls => "tls",
            Self::None => "none",
        }
    }

    /// The port that is usual for it.
    pub fn port(self) -> u16 {
        match self {
            Self::StartTls => 587,
            Self::Tls => 465,
            Self::None => 25,
        }
    }
}

pub(crate) const SECTION: Section = Section {
    name: "smtp",
    help: "The mail server that e-mail leaves through; docs/notifications.md tells more.",
    keys: &[
        Key::text("host", Preset::Absent("no e-mail is sent"), "Name of the mail server."),
        Key::text(
            "port",
            Preset::Absent("587 with starttls, 465 with tls, 25 with none"),
            "Port of the mail server.",
        ),
        Key::text(
            "security",
            Preset::Value("starttls"),
            "starttls (a server that cannot is refused), tls (from the first byte), or none.",
        ),
        Key::text("user", Preset::Absent("nobody logs in"), "Whom to log in as."),
        Key::secret("password", Preset::Absent("nobody logs in"), "Password of that user."),
        Key::text(
            "from",
            Preset::Absent("user, where that is an address"),
            "Address that e-mail is sent from.",
        ),
        Key::text(
            "ca_file",
            Preset::Absent("the system's root certificates alone are trusted"),
            "File with further root certificates (PEM) to trust.",
        ),
    ],
};

impl Smtp {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let host = reader.optional("host", check::host_name);
        let port = reader.optional("port", check::port);
        let security = reader.parsed("security", |text| {
            check::one_of(
                text,
                &[SmtpSecurity::StartTls, SmtpSecurity::Tls, SmtpSecurity::None],
                |security| security.as_str(),
            )
        });
        let user = reader.optional("user", |text| Ok(text.to_owned()));
        let password = reader.optional_secret("password", |_| Ok(()));
        let from = reader.optional("from", check::email);
        let ca_file = reader.optional("ca_file", check::file_path);
        Some(Self {
            host: host?,
            port: port?,
            security: security?,
            user: user?,
            password: password?,
            from: from?,
            ca_file: ca_file?,
        })
    }

    /// The sender's address.
    pub fn sender(&self) -> Option<&str> {
        self.from.as_deref().or(self.user.as_deref().filter(|user| check::email(user).is_ok()))
    }
}
