//! `[notify]`: who hears how a run ended, in the simplest words.

use secrecy::SecretString;

use crate::check;
use crate::reader::Reader;
use crate::schema::{Key, Preset, Section};
use crate::sections::channel::Language;

/// Who hears how a run ended, beside the channels.
#[derive(Debug, Clone)]
pub struct Notify {
    /// Receives a JSON message, readable by Slack too. Secret, since whoever knows it can post.
    pub webhook_url: Option<SecretString>,
    /// The address named in `NOTIFICATION_EMAIL`, or several with commas between.
    pub email: Option<String>,
    /// The language of both, and of channels that name none.
    pub language: Language,
}

pub(crate) const SECTION: Section = Section {
    name: "notify",
    help: "Who hears how a run ended and what is wrong. The log always does; [channel.NAME] adds more.",
    keys: &[
        Key::secret(
            "webhook_url",
            Preset::Absent("no message is posted"),
            "URL that receives a JSON message (readable by Slack and its like).",
        ),
        Key::text(
            "email",
            Preset::Absent("no e-mail is sent"),
            "E-mail address, or several with commas between, that is written to by way of [smtp].",
        )
        .fixed_env("NOTIFICATION_EMAIL"),
        Key::text("language", Preset::Value("en"), "Language of the messages: en or es."),
    ],
};

impl Notify {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let webhook_url = reader.optional_secret("webhook_url", check::secret_http_url);
        let email = reader
            .optional("email", |text| check::emails(text).map(|addresses| addresses.join(",")));
        let language = reader.parsed("language", Language::parse);
        Some(Self { webhook_url: webhook_url?, email: email?, language: language? })
    }
}
