//! `[notify]`: who hears how a run ended.

use secrecy::SecretString;

use crate::check;
use crate::reader::Reader;
use crate::schema::{Key, Preset, Section};

/// Who hears how a run ended.
#[derive(Debug, Clone)]
pub struct Notify {
    /// Receives a JSON message, readable by Slack too. Secret, since whoever knows it can post.
    pub webhook_url: Option<SecretString>,
    /// The address named in `NOTIFICATION_EMAIL`.
    pub email: Option<String>,
}

pub(crate) const SECTION: Section = Section {
    name: "notify",
    help: "Who hears how a run ended. The log always does.",
    keys: &[
        Key::secret(
            "webhook_url",
            Preset::Absent("no message is posted"),
            "URL that receives a JSON message at the end of each run (readable by Slack and its like).",
        ),
        Key::text(
            "email",
            Preset::Absent("no address is named"),
            "E-mail address named in the message at the end of each run.",
        )
        .fixed_env("NOTIFICATION_EMAIL"),
    ],
};

impl Notify {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let webhook_url = reader.optional_secret("webhook_url", check::secret_http_url);
        let email = reader.optional("email", check::email);
        Some(Self { webhook_url: webhook_url?, email: email? })
    }
}
