//! What a value must look like. Each function takes the text and gives the value, or says what is
//! wrong and what would be right. Those meant for secrets never repeat the text.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use chrono::NaiveTime;
use chrono_tz::Tz;
use secrecy::SecretString;
use url::Url;

use crate::nearest::nearest;

pub(crate) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| {
        format!("`{text}` is not an address with a port; write 127.0.0.1:8080 or [::1]:8080")
    })
}

/// Names and their weights, as in `mail=3,reports=2`.
pub(crate) fn weights(text: &str) -> Result<HashMap<String, u32>, String> {
    let each = text.split(',').map(str::trim).filter(|each| !each.is_empty());
    each.map(|each| {
        let (name, weight) =
            each.split_once('=').ok_or_else(|| format!("`{each}` has no weight; write name=3"))?;
        match weight.trim().parse() {
            Ok(weight @ 1..=100) => Ok((name.trim().to_owned(), weight)),
            _ => Err(format!("`{weight}` is no weight; it is a number from 1 to 100")),
        }
    })
    .collect()
}

/// The text without its trailing slash, so that paths can be appended.
pub(crate) fn http_url(text: &str) -> Result<String, String> {
    let url = Url::parse(text)
        .map_err(|error| format!("not a URL ({error}); write https://host or https://host:port"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a URL here must not carry a user or password".to_owned());
    }
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("`{text}` starts with {}:, but http or https is needed", url.scheme()));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(format!("`{text}` names no host"));
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!("`{text}` has a query or fragment; only the base is wanted"));
    }
    Ok(text.trim_end_matches('/').to_owned())
}

pub(crate) fn secret_http_url(text: &str) -> Result<(), String> {
    match Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.host_str().is_some() => Ok(()),
        Ok(_) => Err("must be an http or https URL with a host".to_owned()),
        Err(error) => Err(format!("not a URL ({error})")),
    }
}

pub(crate) fn postgres_url(text: &str) -> Result<(), String> {
    let url = Url::parse(text).map_err(|error| {
        format!("not a URL ({error}); write postgres://user:password@host:5432/name")
    })?;
    if !matches!(url.scheme(), "postgres" | "postgresql") {
        return Err(format!(
            "starts with {}:, but a postgres:// URL is needed",
            url.scheme().escape_default()
        ));
    }
    Ok(())
}

/// The prefix that asks for a database of the embedded server.
pub(crate) const EMBEDDED_PREFIX: &str = "embedded:";

/// The prefix that asks for a connection by its name, in place of an address.
pub(crate) const CONNECTION_PREFIX: &str = "connection:";

pub(crate) fn target_url(text: &str) -> Result<(), String> {
    match text.strip_prefix(EMBEDDED_PREFIX) {
        None => or_connection(text, postgres_url),
        Some(name) => embedded_name(name),
    }
}

/// Whether a text that may be a secret is the name of something that is kept elsewhere.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(EMBEDDED_PREFIX) || text.starts_with(CONNECTION_PREFIX)
}

/// The name of a connection, or what `check` takes.
fn or_connection(text: &str, check: impl FnOnce(&str) -> Result<(), String>) -> Result<(), String> {
    match text.strip_prefix(CONNECTION_PREFIX) {
        None => check(text),
        Some(name) => plain_name(name).map(drop).map_err(|error| {
            format!("does not name a connection, as in connection:warehouse: {error}")
        }),
    }
}

/// A gateway's base address, or a connection.
pub(crate) fn gateway_url(text: &str) -> Result<String, String> {
    if text.starts_with(CONNECTION_PREFIX) {
        return or_connection(text, |_| Ok(())).map(|()| text.to_owned());
    }
    http_url(text)
}

/// An address to ask, or a connection.
pub(crate) fn heartbeat_url(text: &str) -> Result<(), String> {
    or_connection(text, secret_http_url)
}

fn embedded_name(name: &str) -> Result<(), String> {
    let plain = name.len() <= 63
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    if !plain {
        return Err(format!(
            "`{name}` cannot name a database of the embedded server; use small letters, digits and _"
        ));
    }
    if matches!(name, "relevo" | "postgres" | "template0" | "template1") {
        return Err(format!("`{name}` is taken on the embedded server; choose another name"));
    }
    Ok(())
}

/// A `file://` URL for a folder.
pub(crate) fn file_url(path: &Path) -> String {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Url::from_directory_path(&absolute)
        .map_or_else(|()| format!("file://{}", absolute.display()), |url| url.to_string())
        .trim_end_matches('/')
        .to_owned()
}

pub(crate) fn store_url(text: &str) -> Result<String, String> {
    match Url::parse(text) {
        Ok(url) if url.scheme() == "file" && url.to_file_path().is_ok() => Ok(text.to_owned()),
        Ok(url) if url.scheme() == "file" => {
            Err(format!("`{text}` is not a local folder; write file:///var/lib/relevo/chunks"))
        }
        Ok(url) => Err(format!("{}: stores are not supported; write a file:// URL", url.scheme())),
        Err(error) => {
            Err(format!("`{text}` is not a URL ({error}); write file:///var/lib/relevo/chunks"))
        }
    }
}

/// A file's path, made absolute: whoever writes to it may change folders.
pub(crate) fn file_path(text: &str) -> Result<PathBuf, String> {
    let path = std::path::absolute(text).map_err(|error| format!("`{text}`: {error}"))?;
    if text.ends_with('/') || path.file_name().is_none() {
        return Err(format!("`{text}` names a folder; write the file's name too"));
    }
    Ok(path)
}

/// A folder's path, made absolute.
pub(crate) fn folder_path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() {
        return Err("names no folder".to_owned());
    }
    std::path::absolute(text).map_err(|error| format!("`{text}`: {error}"))
}

/// A pattern for the names of files.
pub(crate) fn pattern(text: &str) -> Result<String, String> {
    let fits = !text.is_empty() && text.len() <= 200 && !text.chars().any(char::is_control);
    if !fits || text.contains('/') {
        return Err(format!("`{text}` is no pattern for a file's name, such as *.sql.gz"));
    }
    Ok(text.to_owned())
}

/// An address to fetch from: https, or http where that is allowed.
pub(crate) fn download_url(text: &str, http_too: bool) -> Result<(), String> {
    secret_http_url(text)?;
    if !http_too && !text.to_ascii_lowercase().starts_with("https:") {
        return Err("must be an https URL; plain http needs allow_http_fallback = true".to_owned());
    }
    Ok(())
}

/// Headers, one `NAME: VALUE` per line.
pub(crate) fn header_lines(text: &str) -> Result<Vec<(String, SecretString)>, String> {
    let name_fits = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| match line.split_once(':') {
            Some((name, value)) if name_fits(name.trim()) => {
                let value = value.trim();
                if value.is_empty() || value.chars().any(|c| c.is_control() || !c.is_ascii()) {
                    return Err(
                        "a header's value is empty or holds a letter outside ASCII".to_owned()
                    );
                }
                Ok((name.trim().to_owned(), SecretString::from(value)))
            }
            _ => Err("must be lines of NAME: VALUE".to_owned()),
        })
        .collect()
}

/// A share of a whole.
pub(crate) fn ratio(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err(format!("`{text}` is not a number from 0 to 1")),
    }
}

/// Headers as OpenTelemetry's variables hold them: `name=value,name=value`.
pub(crate) fn header_list(text: &str) -> Result<(), String> {
    let name_fits = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    for part in text.split(',') {
        match part.split_once('=') {
            Some((name, value)) if name_fits(name.trim()) => {
                if value.chars().any(|c| c.is_control() || !c.is_ascii()) {
                    return Err("a value holds a line break or a letter outside ASCII".to_owned());
                }
            }
            _ => return Err("must be NAME=VALUE, with commas between several".to_owned()),
        }
    }
    Ok(())
}

pub(crate) fn service_name(text: &str) -> Result<String, String> {
    if text.chars().count() > 200 || text.chars().any(char::is_control) {
        return Err("names a service in up to 200 characters, without line breaks".to_owned());
    }
    Ok(text.to_owned())
}

/// The text can be sent as an HTTP header.
pub(crate) fn header_value(text: &str) -> Result<(), String> {
    if text.chars().all(|c| c.is_ascii_graphic()) {
        Ok(())
    } else {
        Err("holds a blank, a line break or a letter outside ASCII; it could not be sent"
            .to_owned())
    }
}

pub(crate) fn email(text: &str) -> Result<String, String> {
    let good = text
        .split_once('@')
        .is_some_and(|(name, host)| !name.is_empty() && !host.is_empty() && !host.contains('@'))
        && !text.chars().any(|c| c.is_whitespace() || c.is_control());
    if good { Ok(text.to_owned()) } else { Err(format!("`{text}` is not an e-mail address")) }
}

pub(crate) fn schema_name(text: &str) -> Result<String, String> {
    if text.is_empty() || text.len() > 63 || text.chars().any(char::is_control) {
        return Err(format!("`{text}` cannot name a schema: 1 to 63 bytes are needed"));
    }
    let reserved = text == "relevo"
        || text == "information_schema"
        || text.starts_with("relevo_")
        || text.starts_with("pg_");
    if reserved {
        return Err(format!("`{text}` is reserved; import into a schema of your own"));
    }
    Ok(text.to_owned())
}

pub(crate) fn timezone(text: &str) -> Result<Tz, String> {
    text.parse().map_err(|_| {
        let names = chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name());
        match nearest(text, names) {
            Some(name) => format!("`{text}` is not a time zone; did you mean {name}?"),
            None => {
                format!("`{text}` is not a time zone; write a name such as America/Mexico_City")
            }
        }
    })
}

pub(crate) fn time_of_day(text: &str) -> Result<NaiveTime, String> {
    // chrono alone would take `6:0` too; one form is enough.
    if text.len() == 5
        && let Ok(time) = NaiveTime::parse_from_str(text, "%H:%M")
    {
        return Ok(time);
    }
    Err(format!("`{text}` is not a time of day; write HH:MM, from 00:00 to 23:59"))
}

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// Levels by the names that other systems use are taken too; a bare word that is no level would
/// silently be read as the name of a module.
pub(crate) fn log_level(text: &str) -> Result<String, String> {
    let level = |word: &str| -> Result<&'static str, String> {
        let lower = word.to_ascii_lowercase();
        let known = match lower.as_str() {
            "warning" => "warn",
            "critical" | "fatal" => "error",
            "none" => "off",
            other => other,
        };
        LEVELS.into_iter().find(|level| *level == known).ok_or_else(|| {
            let hint = nearest(&lower, LEVELS).unwrap_or("info");
            format!("`{word}` is not a log level (did you mean {hint}?); {}", LEVELS.join(", "))
        })
    };
    text.split(',')
        .map(str::trim)
        .map(|directive| match directive.rsplit_once('=') {
            Some((target, word)) => Ok(format!("{target}={}", level(word)?)),
            None => level(directive).map(str::to_owned),
        })
        .collect::<Result<Vec<_>, _>>()
        .map(|directives| directives.join(","))
}

/// One of a few words.
pub(crate) fn one_of<T: Copy>(
    text: &str,
    choices: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<T, String> {
    choices.iter().copied().find(|choice| name(*choice) == text).ok_or_else(|| {
        let names: Vec<_> = choices.iter().map(|choice| name(*choice)).collect();
        format!("`{text}` is not one of {}", names.join(", "))
    })
}

/// Addresses with commas between.
pub(crate) fn emails(text: &str) -> Result<Vec<String>, String> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(email).collect()
}

/// The name of a source, a channel or a connection.
pub(crate) fn plain_name(text: &str) -> Result<String, String> {
    let plain = (1..=40).contains(&text.len())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'));
    if plain {
        Ok(text.to_owned())
    } else {
        Err("a name has 1 to 40 small letters, digits, - and _".to_owned())
    }
}

/// A host alone, without scheme, port or path.
pub(crate) fn host_name(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    if bare.parse::<std::net::IpAddr>().is_ok() {
        return Ok(bare.to_owned());
    }
    match url::Host::parse(text) {
        Ok(url::Host::Domain(name)) => Ok(name),
        _ => Err(format!("`{text}` is not the name of a host; write it without scheme and port")),
    }
}

pub(crate) fn port(text: &str) -> Result<u16, String> {
    match text.trim().parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("`{text}` is not a port from 1 to 65535")),
    }
}

/// `host:port` in small letters, as the guard of outgoing requests compares it.
pub(crate) fn host_and_port(text: &str) -> Result<String, String> {
    let wrong = || format!("`{text}` is not host:port, such as 10.0.0.5:8080 or [::1]:8080");
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    if host.contains(':') && !host.starts_with('[') {
        return Err(wrong());
    }
    let host = host_name(host).map_err(|_| wrong())?;
    Ok(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// Keys of 32 bytes in hexadecimal digits.
pub(crate) fn sealing_keys(text: &str) -> Result<(), String> {
    let good = |key: &str| key.len() == 64 && key.chars().all(|c| c.is_ascii_hexdigit());
    if text.split(',').all(|key| good(key.trim())) {
        Ok(())
    } else {
        Err("must be 64 hexadecimal digits, as `relevo secret generate` prints them".to_owned())
    }
}

/// A mail server's address; the message never repeats it.
pub(crate) fn smtp_url(text: &str) -> Result<(), String> {
    let url = Url::parse(text).map_err(|error| {
        format!("not a URL ({error}); write smtps://user:password@host or smtp+starttls://…")
    })?;
    if !matches!(url.scheme(), "smtps" | "smtp+starttls" | "smtp") {
        return Err("must begin with smtps://, smtp+starttls:// or smtp://".to_owned());
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("names no host".to_owned());
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        return Err(
            "has a path or a query; only user, password, host and port are wanted".to_owned()
        );
    }
    if url.scheme() == "smtp" && url.password().is_some() {
        return Err(
            "smtp:// would send the password in the clear; write smtp+starttls:// or smtps://"
                .to_owned(),
        );
    }
    Ok(())
}

/// Part of an address, so that nothing else than a token fits.
pub(crate) fn bot_token(text: &str) -> Result<(), String> {
    let fits = !text.is_empty()
        && text.len() <= 200
        && text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-'));
    if fits { Ok(()) } else { Err("is not a bot's token, such as 123456:ABC-DEF".to_owned()) }
}

pub(crate) fn chat_id(text: &str) -> Result<String, String> {
    let number = text.parse::<i64>().is_ok();
    let name = text.strip_prefix('@').is_some_and(|name| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    });
    if number || name {
        Ok(text.to_owned())
    } else {
        Err(format!("`{text}` is neither a chat's number nor @name"))
    }
}

/// JSON, in whose texts `{{name}}` stands for values.
pub(crate) fn json_template(text: &str) -> Result<String, String> {
    match serde_json::from_str::<serde_json::Value>(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("is not JSON: {error}")),
    }
}
