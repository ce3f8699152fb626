//! `[channel.NAME]`: one way to tell people.

use secrecy::SecretString;

use crate::check;
use crate::reader::Reader;
use crate::schema::{CHANNEL, Key, Kind, Preset, Section};

/// One way to tell people.
#[derive(Debug, Clone)]
pub struct Channel {
    /// What it speaks.
    pub kind: ChannelKind,
    /// Where a webhook or Slack message is posted; another base for Telegram.
    pub url: Option<SecretString>,
    /// Who gets the e-mail.
    pub to: Vec<String>,
    /// The Telegram bot's token.
    pub token: Option<SecretString>,
    /// The Telegram chat.
    pub chat_id: Option<String>,
    /// A connection to send through, instead of `url` or `[smtp]`.
    pub connection: Option<String>,
    /// The sources it hears of; empty means all.
    pub sources: Vec<String>,
    /// What it hears of.
    pub events: Vec<ChannelEvent>,
    /// The language of its messages.
    pub language: Language,
    /// JSON text that is posted in place of the usual message, `{{name}}` standing for values.
    pub template: Option<String>,
}

/// What a channel speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelKind {
    /// JSON by POST.
    Webhook,
    /// JSON as Slack and its like take it.
    Slack,
    /// The Telegram bot API.
    Telegram,
    /// SMTP.
    Email,
}

impl ChannelKind {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Webhook => "webhook",
            Self::Slack => "slack",
            Self::Telegram => "telegram",
            Self::Email => "email",
        }
    }
}

/// What a channel may hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelEvent {
    /// A run succeeded.
    Success,
    /// A run failed or was cancelled.
    Failure,
    /// A state that somebody should look at began, or is over.
    Alert,
}

impl ChannelEvent {
    /// Every event.
    pub const ALL: [Self; 3] = [Self::Success, Self::Failure, Self::Alert];

    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Alert => "alert",
        }
    }
}

/// The language of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    /// English.
    En,
    /// Spanish.
    Es,
}

impl Language {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Es => "es",
        }
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        check::one_of(text, &[Self::En, Self::Es], |language| language.as_str())
    }
}

pub(crate) const SECTION: Section = Section {
    name: CHANNEL,
    help: "One table for each way to tell people, such as [channel.ops]; docs/notifications.md tells more.",
    keys: &[
        Key::text("kind", Preset::Value("webhook"), "webhook, slack, telegram or email."),
        Key::secret(
            "url",
            Preset::Absent("a webhook needs it or a connection; Telegram uses its own address"),
            "URL that messages are posted to.",
        ),
        Key {
            name: "to",
            kind: Kind::List,
            preset: Preset::Value(""),
            fixed_env: None,
            help: "Addresses that get the e-mail.",
        },
        Key::secret(
            "token",
            Preset::Absent("only Telegram needs it"),
            "Token of the Telegram bot.",
        ),
        Key::text(
            "chat_id",
            Preset::Absent("only Telegram needs it"),
            "Chat that the Telegram bot writes to: a number, or @name of a public channel.",
        ),
        Key::text(
            "connection",
            Preset::Absent("url is used, or [smtp] for e-mail"),
            "Connection to send through, by its name.",
        ),
        Key {
            name: "sources",
            kind: Kind::List,
            preset: Preset::Value(""),
            fixed_env: None,
            help: "Sources whose runs it hears of; empty means all.",
        },
        Key {
            name: "events",
            kind: Kind::List,
            preset: Preset::Value("success,failure,alert"),
            fixed_env: None,
            help: "What it hears of: success, failure, alert.",
        },
        Key::text(
            "language",
            Preset::Computed("that of notify.language"),
            "Language of its messages: en or es.",
        ),
        Key::text(
            "template",
            Preset::Absent("the usual message is posted"),
            "JSON that a webhook posts in place of the usual message; {{name}} stands for a value of that message.",
        ),
    ],
};

impl Channel {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let kind = reader.parsed("kind", |text| {
            let kinds = [
                ChannelKind::Webhook,
                ChannelKind::Slack,
                ChannelKind::Telegram,
                ChannelKind::Email,
            ];
            check::one_of(text, &kinds, |kind| kind.as_str())
        });
        let url = reader.optional_secret("url", check::secret_http_url);
        let to = reader.parsed("to", check::emails);
        let token = reader.optional_secret("token", check::bot_token);
        let chat_id = reader.optional("chat_id", check::chat_id);
        let connection = reader.optional("connection", check::plain_name);
        let sources = reader.list("sources");
        let events = reader.parsed("events", |text| {
            let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
            parts
                .map(|part| check::one_of(part, &ChannelEvent::ALL, |event| event.as_str()))
                .collect::<Result<Vec<_>, _>>()
        });
        let language = reader.parsed("language", Language::parse);
        let template = reader.optional("template", check::json_template);
        Some(Self {
            kind: kind?,
            url: url?,
            to: to?,
            token: token?,
            chat_id: chat_id?,
            connection: connection?,
            sources: sources?,
            events: events?,
            language: language?,
            template: template?,
        })
    }
}
