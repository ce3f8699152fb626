//! What no single key can know: how values of several sections fit together.

use secrecy::ExposeSecret as _;

use crate::Settings;
use crate::error::Problem;
use crate::reader::Entries;
use crate::schema::{BACKUP, CHANNEL};
use crate::sections::backup::{GatewayMode, SourceKind};
use crate::sections::channel::ChannelKind;
use crate::sections::connection::ConnectionKind;
use crate::sections::smtp::SmtpSecurity;

/// Notes every problem.
pub(crate) fn cross_check(settings: &Settings, entries: &Entries, problems: &mut Vec<Problem>) {
    let origin = |key: &str| entries.get(key).map(|entry| entry.origin.clone());
    let mut problem = |key: String, message: &str| {
        problems.push(Problem { origin: origin(&key), key, message: message.to_owned() });
    };
    for (name, source) in &settings.backup {
        let asks = source.kind == SourceKind::Gateway;
        if asks && source.mode == GatewayMode::Webhook && settings.api.public_url.is_none() {
            problem(
                format!("{BACKUP}.{name}.mode"),
                "webhook needs api.public_url, where the gateway can reach this API; set it, or use auto or sync",
            );
        }
        if settings.database.url.is_some() && source.embedded_database().is_some() {
            problem(
                format!("{BACKUP}.{name}.target_url"),
                "asks for the embedded server, but database.url names another one; give a postgres:// URL",
            );
        }
    }
    cross_check_connections(settings, &mut problem);
    cross_check_channels(settings, &mut problem);
}

/// Connections of the file must be of the kind that is needed; others may be kept in the control
/// plane, which is not asked here.
fn cross_check_connections(settings: &Settings, problem: &mut impl FnMut(String, &str)) {
    for (name, source) in &settings.backup {
        for (key, kind, named) in source.connections() {
            let key = format!("{BACKUP}.{name}.{key}");
            let Some(connection) = settings.connection.get(named) else { continue };
            if connection.kind != kind {
                let found = connection.kind.as_str();
                let wanted = kind.as_str();
                problem(key, &format!("connection {named} is of kind {found}; {wanted} is needed"));
            } else if kind == ConnectionKind::Gateway
                && connection.api_key.is_none()
                && source.api_key.expose_secret().is_empty()
            {
                let message = format!("connection {named} has no api_key; give it there");
                problem(key, &message);
            }
        }
    }
}

/// What the ways to tell people need of each other.
fn cross_check_channels(settings: &Settings, problem: &mut impl FnMut(String, &str)) {
    if settings.smtp.password.is_some() {
        let host = settings.smtp.host.as_deref();
        let local = host.is_some_and(|host| matches!(host, "localhost" | "127.0.0.1" | "::1"));
        if settings.smtp.security == SmtpSecurity::None && host.is_some() && !local {
            problem(
                "smtp.security".to_owned(),
                "none would send the password in the clear; use starttls or tls, or no password",
            );
        }
        if settings.smtp.user.is_none() {
            problem("smtp.user".to_owned(), "is missing; smtp.password is given");
        }
    }
    if settings.smtp.host.is_some() && settings.smtp.sender().is_none() {
        problem(
            "smtp.from".to_owned(),
            "is missing; give the address that e-mail is to be sent from",
        );
    }
    for (name, channel) in &settings.channel {
        let key = |key: &str| format!("{CHANNEL}.{name}.{key}");
        if matches!(name.as_str(), "webhook" | "email" | "heartbeat") {
            let message = "is a name Relevo uses itself; choose another";
            problem(format!("{CHANNEL}.{name}"), message);
        }
        match channel.kind {
            ChannelKind::Webhook | ChannelKind::Slack => {
                if channel.url.is_none() && channel.connection.is_none() {
                    problem(key("url"), "is missing; give it, or the name of a connection");
                }
            }
            ChannelKind::Telegram => {
                if channel.token.is_none() {
                    problem(key("token"), "is missing; Telegram's @BotFather gives one");
                }
                if channel.chat_id.is_none() {
                    problem(key("chat_id"), "is missing; it says whom the bot writes to");
                }
            }
            ChannelKind::Email => {
                if channel.to.is_empty() {
                    problem(key("to"), "is empty; give the addresses that get the e-mail");
                }
                if settings.smtp.host.is_none() && channel.connection.is_none() {
                    let message = "e-mail needs smtp.host, or the name of a connection";
                    problem(key("kind"), message);
                }
            }
        }
        if let Some(connection) =
            channel.connection.as_ref().and_then(|name| settings.connection.get(name))
        {
            let wanted = match channel.kind {
                ChannelKind::Email => ConnectionKind::Smtp,
                ChannelKind::Webhook | ChannelKind::Slack | ChannelKind::Telegram => {
                    ConnectionKind::Webhook
                }
            };
            if connection.kind != wanted {
                problem(key("connection"), "names a connection of a kind that does not fit");
            }
        }
        if let Some(source) =
            channel.sources.iter().find(|source| !settings.backup.contains_key(*source))
        {
            problem(key("sources"), &format!("there is no source `{source}`"));
        }
    }
}
