//! The beginning of a connection: what a pooler takes is sent on, settings are kept here.

use std::io;

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::frame::{malformed, put, text};
use super::{UNREACHABLE, Upstream};
use crate::ident;

/// Postgres's own limit for a connection's first message.
const LENGTH_MAX: usize = 10_000;

/// Of the sessions between pooler and server, not of ours.
const OF_SOCKETS: &str = "tcp_";

/// The first message, without its length.
pub(super) async fn read(client: &mut TcpStream) -> io::Result<Bytes> {
    let length = usize::try_from(client.read_u32().await?).unwrap_or(usize::MAX);
    if !(8..=LENGTH_MAX).contains(&length) {
        return Err(malformed("a first message of an impossible length"));
    }
    let mut message = vec![0; length - 4];
    client.read_exact(&mut message).await?;
    Ok(message.into())
}

/// The first message as a pooler takes it, and a statement that makes the settings hold for one
/// transaction; none where there are none.
pub(super) fn rewritten(asked: &Bytes) -> io::Result<(BytesMut, Option<String>)> {
    let mut left = asked.clone();
    let protocol = left.get_u32();
    let (mut kept, mut settings) = (BytesMut::new(), Vec::new());
    kept.put_u32(protocol);
    while left.first().is_some_and(|byte| *byte != 0) {
        let (name, value) = (text(&mut left)?, text(&mut left)?);
        match &name[..] {
            b"options" => settings.extend(options(&String::from_utf8_lossy(&value))),
            b"extra_float_digits" => settings.push((
                "extra_float_digits".to_owned(),
                String::from_utf8_lossy(&value).into_owned(),
            )),
            _ => {
                for part in [&name, &value] {
                    kept.put_slice(part);
                    kept.put_u8(0);
                }
            }
        }
    }
    kept.put_u8(0);
    settings.retain(|(name, _)| !name.starts_with(OF_SOCKETS));
    let calls: Vec<String> = settings
        .iter()
        .map(|(name, value)| {
            let (name, value) = (ident::literal(name), ident::literal(value));
            format!("pg_catalog.set_config({name}, {value}, true)")
        })
        .collect();
    let statement =
        (!calls.is_empty()).then(|| format!("-- settings\nSELECT {}", calls.join(", ")));
    let mut message = BytesMut::new();
    message.put_u32(u32::try_from(kept.len() + 4).unwrap_or(u32::MAX));
    message.put_slice(&kept);
    Ok((message, statement))
}

/// What `-c name=value …` says; a backslash takes the character after it as it is.
fn options(text: &str) -> Vec<(String, String)> {
    let (mut words, mut word) = (Vec::new(), String::new());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => word.extend(characters.next()),
            character if character.is_whitespace() => words.push(std::mem::take(&mut word)),
            character => word.push(character),
        }
    }
    words.push(word);
    let settings = words.iter().filter_map(|word| {
        let word = word.strip_prefix("--").or_else(|| word.strip_prefix("-c")).unwrap_or(word);
        let (name, value) = word.split_once('=')?;
        Some((name.to_owned(), value.to_owned()))
    });
    settings.collect()
}

/// Says in the protocol that the pooler cannot be reached.
pub(super) async fn refuse(
    client: &mut TcpStream,
    upstream: &Upstream,
    error: &io::Error,
) -> io::Result<()> {
    let message = format!("the pooler at {upstream} cannot be reached: {error}");
    let mut out = BytesMut::new();
    let fields = ["SFATAL\0VFATAL\0C", UNREACHABLE, "\0M", &message, "\0\0"];
    put(&mut out, b'E', &fields.map(str::as_bytes));
    client.write_all(&out).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(parameters: &[(&str, &str)]) -> Bytes {
        let mut message = BytesMut::new();
        message.put_u32(3 << 16);
        for (name, value) in parameters {
            message.put_slice(format!("{name}\0{value}\0").as_bytes());
        }
        message.put_u8(0);
        message.freeze()
    }

    #[test]
    fn settings_are_kept_for_each_transaction_and_the_rest_is_sent_on() {
        let given = message(&[
            ("user", "relevo"),
            ("options", r"-c lock_timeout=5s -c tcp_user_timeout=1 -c search_path=a\ b,\\c"),
            ("extra_float_digits", "2"),
            ("database", "d"),
        ]);
        let (sent, statement) = rewritten(&given).unwrap();
        assert_eq!(sent[4..], message(&[("user", "relevo"), ("database", "d")])[..]);
        assert_eq!(sent[..4], u32::try_from(sent.len()).unwrap().to_be_bytes());
        let statement = statement.unwrap();
        for wanted in [
            "set_config('lock_timeout', '5s', true)",
            "'a b,",
            "set_config('extra_float_digits', '2', true)",
        ] {
            assert!(statement.contains(wanted), "{wanted} in {statement}");
        }
        assert!(!statement.contains("tcp_"), "{statement}");
        let plain = message(&[("user", "relevo")]);
        assert_eq!(rewritten(&plain).unwrap().1, None);
    }
}
