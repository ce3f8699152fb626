//! The ways to tell people, as configured.

use relevo_settings::{ChannelEvent, ChannelKind, Language, Settings};
use secrecy::SecretString;

/// The name of the job that asks a source's heartbeat URL; no channel can have it.
pub const HEARTBEAT: &str = "heartbeat";

/// The channel that `notify.webhook_url` makes.
const WEBHOOK: &str = "webhook";

/// The channel that `notify.email` makes.
const EMAIL: &str = "email";

/// Where Telegram's bot API is.
const TELEGRAM: &str = "https://api.telegram.org";

/// One way to tell people.
#[derive(Clone, Debug)]
pub struct Channel {
    /// Its name.
    pub name: String,
    /// How messages go.
    pub way: Way,
    /// The language of its messages.
    pub language: Language,
    /// What it hears of.
    pub events: Vec<ChannelEvent>,
    /// The sources it hears of; empty means all.
    pub sources: Vec<String>,
}

/// How messages go.
#[derive(Clone, Debug)]
pub enum Way {
    /// JSON by POST.
    Webhook {
        /// Where to.
        to: Target,
        /// What is posted in place of the whole message.
        template: Option<String>,
    },
    /// JSON as Slack takes it.
    Slack {
        /// Where to.
        to: Target,
    },
    /// Telegram's bot API.
    Telegram {
        /// The base address of the API.
        to: Target,
        /// The bot's token.
        token: SecretString,
        /// The chat.
        chat_id: String,
    },
    /// E-mail.
    Email {
        /// The name of the mail server's connection.
        connection: String,
        /// Who gets it.
        to: Vec<String>,
    },
}

/// Where a message is posted.
#[derive(Clone, Debug)]
pub enum Target {
    /// To this URL.
    Url(SecretString),
    /// To the URL of this connection.
    Connection(String),
}

impl Channel {
    /// Whether it hears of this, from this source; states of no source concern everybody.
    #[must_use]
    pub fn hears(&self, event: ChannelEvent, source: Option<&str>) -> bool {
        let of_source = self.sources.is_empty()
            || source.is_none_or(|source| self.sources.iter().any(|own| own == source));
        of_source && self.events.contains(&event)
    }

    /// What it speaks, for people.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self.way {
            Way::Webhook { .. } => "webhook",
            Way::Slack { .. } => "slack",
            Way::Telegram { .. } => "telegram",
            Way::Email { .. } => "email",
        }
    }
}

/// Every channel: those of `[notify]` first. An address without a mail server makes none; `relevo
/// doctor` says so.
#[must_use]
pub fn channels(settings: &Settings) -> Vec<Channel> {
    let plain = |name: &str, way| Channel {
        name: name.to_owned(),
        way,
        language: settings.notify.language,
        events: ChannelEvent::ALL.to_vec(),
        sources: Vec::new(),
    };
    let mut all = Vec::new();
    if let Some(url) = &settings.notify.webhook_url {
        let way = Way::Webhook { to: Target::Url(url.clone()), template: None };
        all.push(plain(WEBHOOK, way));
    }
    if let (Some(addresses), Some(_)) = (&settings.notify.email, &settings.smtp.host) {
        let to = addresses.split(',').map(str::to_owned).collect();
        all.push(plain(EMAIL, Way::Email { connection: "smtp".to_owned(), to }));
    }
    for (name, channel) in &settings.channel {
        let target = match (&channel.connection, &channel.url) {
            (Some(connection), _) => Some(Target::Connection(connection.clone())),
            (None, Some(url)) => Some(Target::Url(url.clone())),
            (None, None) => None,
        };
        let way = match channel.kind {
            ChannelKind::Webhook => {
                target.map(|to| Way::Webhook { to, template: channel.template.clone() })
            }
            ChannelKind::Slack => target.map(|to| Way::Slack { to }),
            ChannelKind::Telegram => match (&channel.token, &channel.chat_id) {
                (Some(token), Some(chat_id)) => Some(Way::Telegram {
                    to: target.unwrap_or_else(|| Target::Url(TELEGRAM.into())),
                    token: token.clone(),
                    chat_id: chat_id.clone(),
                }),
                _ => None,
            },
            ChannelKind::Email => Some(Way::Email {
                connection: channel.connection.clone().unwrap_or_else(|| "smtp".to_owned()),
                to: channel.to.clone(),
            }),
        };
        // The configuration has refused a channel that lacks something.
        let Some(way) = way else { continue };
        all.push(Channel {
            name: name.clone(),
            way,
            language: channel.language,
            events: channel.events.clone(),
            sources: channel.sources.clone(),
        });
    }
    all
}
