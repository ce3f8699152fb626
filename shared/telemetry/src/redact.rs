//! Keeps secrets out of what leaves the process: log lines, spans, error texts.
//!
//! Whoever writes a message leaves secrets out; this is the net below. Three things are covered
//! wherever they stand: the secrets of the settings, which are told by [`hide`]; passwords inside
//! URLs and connection strings; and 64 hexadecimal digits in a row, the form of every secret that
//! Relevo makes itself (API keys, webhook tokens).

use std::borrow::Cow;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

use memchr::memmem;
use url::Url;

/// What stands in a secret's place.
const MARK: &str = "[redacted]";

/// Shorter texts are words of every log; a password that short is covered inside URLs only.
const LENGTH_MIN: usize = 6;

/// A path this long, of a URL that is a secret, is what makes it one.
const SECRET_PATH_MIN: usize = 12;

/// Digits of the secrets that Relevo makes.
const OWN_SECRET_DIGITS: usize = 64;

static SECRETS: RwLock<Vec<Vec<u8>>> = RwLock::new(Vec::new());

/// Takes note of a secret: from now on neither it nor the password inside it is written. A
/// database URL without a password hides nothing.
pub fn hide(secret: &str) {
    let found = needles(secret);
    let mut secrets = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    for needle in found {
        if !secrets.contains(&needle) {
            secrets.push(needle);
        }
    }
}

/// The text without secrets.
pub fn text(text: &str) -> Cow<'_, str> {
    match bytes(text.as_bytes()) {
        Cow::Borrowed(_) => Cow::Borrowed(text),
        Cow::Owned(clean) => Cow::Owned(String::from_utf8_lossy(&clean).into_owned()),
    }
}

/// The same for a line that is about to be written.
pub(crate) fn bytes(line: &[u8]) -> Cow<'_, [u8]> {
    let secrets = SECRETS.read().unwrap_or_else(PoisonError::into_inner);
    without(line, &secrets)
}

fn without<'a>(line: &'a [u8], secrets: &[Vec<u8>]) -> Cow<'a, [u8]> {
    let mut ranges = Vec::new();
    for secret in secrets {
        ranges.extend(memmem::find_iter(line, secret).map(|at| at..at + secret.len()));
    }
    url_passwords(line, &mut ranges);
    password_words(line, &mut ranges);
    own_secrets(line, &mut ranges);
    if ranges.is_empty() {
        return Cow::Borrowed(line);
    }
    ranges.sort_unstable_by_key(|range| (range.start, range.end));
    let mut clean = Vec::with_capacity(line.len());
    let mut written = 0;
    for Range { start, end } in ranges {
        if start >= written {
            clean.extend_from_slice(&line[written..start]);
            clean.extend_from_slice(MARK.as_bytes());
        }
        written = written.max(end);
    }
    clean.extend_from_slice(&line[written..]);
    Cow::Owned(clean)
}

/// `scheme://user:PASSWORD@host`.
fn url_passwords(line: &[u8], ranges: &mut Vec<Range<usize>>) {
    for found in memmem::find_iter(line, b"://") {
        let start = found + 3;
        let length = line[start..]
            .iter()
            .position(|byte| byte.is_ascii_whitespace() || b"/?#\"'<>`\\".contains(byte))
            .unwrap_or(line.len() - start);
        let authority = &line[start..start + length];
        if let Some(at) = memchr::memrchr(b'@', authority)
            && let Some(colon) = memchr::memchr(b':', &authority[..at])
            && colon + 1 < at
        {
            ranges.push(start + colon + 1..start + at);
        }
    }
}

/// `password=PASSWORD`, as connection strings have it.
fn password_words(line: &[u8], ranges: &mut Vec<Range<usize>>) {
    const WORD: &[u8] = b"password=";
    for found in memmem::find_iter(line, WORD) {
        let start = found + WORD.len();
        let length = line[start..]
            .iter()
            .position(|byte| byte.is_ascii_whitespace() || b"&\"'\\".contains(byte))
            .unwrap_or(line.len() - start);
        if length > 0 {
            ranges.push(start..start + length);
        }
    }
}

fn own_secrets(line: &[u8], ranges: &mut Vec<Range<usize>>) {
    let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let mut at = 0;
    // A run of 64 covers every 64th byte: most of the line need not be looked at.
    while let Some(byte) = line.get(at + OWN_SECRET_DIGITS - 1) {
        if !is_digit(byte) {
            at += OWN_SECRET_DIGITS;
            continue;
        }
        let last = at + OWN_SECRET_DIGITS - 1;
        let before = line[at..last].iter().rev().take_while(|byte| is_digit(byte)).count();
        let start = last - before;
        let end = last + line[last..].iter().take_while(|byte| is_digit(byte)).count();
        if end - start >= OWN_SECRET_DIGITS {
            ranges.push(start..end);
        }
        at = end;
    }
}

/// The texts that must not appear because of one secret.
fn needles(secret: &str) -> Vec<Vec<u8>> {
    let secret = secret.trim();
    let mut texts: Vec<String> = Vec::new();
    match Url::parse(secret) {
        Ok(url) if url.has_host() || matches!(url.scheme(), "postgres" | "postgresql") => {
            // A password that is also the user's name protects nothing, and hiding it would black
            // out every mention of that user.
            if let Some(password) = url.password()
                && password != url.username()
            {
                texts.extend([password.to_owned(), percent_decoded(password)]);
            }
            let secret_parameters = ["password", "sslpassword"];
            texts.extend(
                url.query_pairs()
                    .filter(|(name, _)| secret_parameters.contains(&name.as_ref()))
                    .map(|(_, value)| value.into_owned()),
            );
            if matches!(url.scheme(), "http" | "https") {
                let path = secret.split_once("://").map_or("", |(_, rest)| rest);
                let path = path.split_once('/').map_or("", |(_, path)| path);
                if path.len() >= SECRET_PATH_MIN {
                    texts.push(path.to_owned());
                }
            }
        }
        // The name of an embedded database is none.
        Ok(url) if url.scheme() == "embedded" => {}
        _ => {
            texts.push(secret.to_owned());
            // Header lists, `Authorization=Bearer TOKEN,…`: the last word of each value.
            for (_, value) in secret.split(',').filter_map(|part| part.split_once('=')) {
                let value = percent_decoded(value);
                texts.extend(value.split_whitespace().last().map(str::to_owned));
            }
        }
    }
    let mut needles: Vec<Vec<u8>> = Vec::new();
    for text in texts.into_iter().filter(|text| text.len() >= LENGTH_MIN) {
        // As it stands in JSON and in Rust's debug form.
        let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
        for form in [text, escaped] {
            let form = form.into_bytes();
            if !needles.contains(&form) {
                needles.push(form);
            }
        }
    }
    needles
}

pub(crate) fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = (first == b'%')
            .then(|| after.get(..2))
            .flatten()
            .and_then(|code| std::str::from_utf8(code).ok())
            .and_then(|code| u8::from_str_radix(code, 16).ok());
        rest = match code {
            Some(byte) => {
                bytes.push(byte);
                &after[2..]
            }
            None => {
                bytes.push(first);
                after
            }
        };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clean(line: &str, secrets: &[&str]) -> String {
        let secrets: Vec<_> = secrets.iter().flat_map(|secret| needles(secret)).collect();
        String::from_utf8(without(line.as_bytes(), &secrets).into_owned()).unwrap()
    }

    #[test]
    fn a_line_without_secrets_stays_as_it_is() {
        let line = "job{job_id=7}: loaded 12 rows from https://gateway.example.com:443/a?b=c@d";
        assert_eq!(clean(line, &["postgres://app:hunter22@db/shop"]), line);
    }

    #[test]
    fn passwords_of_urls_are_hidden_known_or_not() {
        assert_eq!(
            clean("cannot reach postgres://app:p@db:5432/shop now", &[]),
            "cannot reach postgres://app:[redacted]@db:5432/shop now"
        );
        assert_eq!(
            clean("host=db password=x user=app", &[]),
            "host=db password=[redacted] user=app"
        );
        // Known ones also alone, decoded, and as JSON or `Debug` write them.
        let known = ["postgres://app:s%22cret%21@db/shop"];
        let told = r#"raw s%22cret%21, plain s"cret!, quoted s\"cret!"#;
        assert_eq!(clean(told, &known), "raw [redacted], plain [redacted], quoted [redacted]");
    }

    #[test]
    fn keys_headers_and_secret_addresses_are_hidden() {
        assert_eq!(clean("key gateway-key-1.", &["gateway-key-1"]), "key [redacted].");
        let headers = ["Authorization=Bearer%20abcdefgh,x-team=blue-team"];
        assert_eq!(
            clean("Bearer abcdefgh of blue-team", &headers),
            "Bearer [redacted] of [redacted]"
        );
        let hook = ["https://hooks.example.com/services/T0/B1/xyzzy"];
        assert_eq!(
            clean("POST https://hooks.example.com/services/T0/B1/xyzzy: 404", &hook),
            "POST https://hooks.example.com/[redacted]: 404"
        );
    }

    #[test]
    fn what_relevo_makes_itself_is_known_by_its_form() {
        let digits = "0123456789abcdef".repeat(4);
        for before in 0..130 {
            let line = format!("{}rk_01234567_{digits} end", " ".repeat(before));
            let wanted = format!("{}rk_01234567_[redacted] end", " ".repeat(before));
            assert_eq!(clean(&line, &[]), wanted);
        }
        // A trace id has 32 digits, a checksum too.
        let short = &digits[..32];
        assert_eq!(clean(short, &[]), short);
    }

    #[test]
    fn weak_passwords_do_not_black_out_the_log() {
        let weak = ["postgres://postgres:postgres@db/x", "postgres://a:123@db/x", "embedded:sicar"];
        let line = "postgres says 123 about sicar";
        assert_eq!(clean(line, &weak), line);
    }

    #[test]
    fn secrets_that_overlap_leave_nothing() {
        assert_eq!(clean("abcdefghij", &["abcdef", "defghij"]), "[redacted]");
    }
}
