//! Reads one value of a row in any form that MySQL's grammar allows: the careful way, taken where
//! a column's fast path does not recognise what it sees.

use crate::lexer::radix_bytes;
use crate::session::SessionState;
use crate::values::text::DoubleByte;

/// One value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Literal {
    /// `NULL`.
    Null,
    /// `DEFAULT`.
    Default,
    /// A number as written, sign included; `TRUE` and `FALSE` as 1 and 0.
    Number(Vec<u8>),
    /// A string, unescaped, with the character set its introducer names.
    Text(Vec<u8>, Option<String>),
    /// `0x…`, `x'…'`, `0b…`, `b'…'`, `_binary '…'`.
    Bytes(Vec<u8>),
}

/// Skips blanks and comments. What stands in a conditional comment (`/*!50705 0x00,*/`) is part of
/// the row, so only its marks are skipped.
pub(crate) fn skip_blanks(bytes: &[u8], mut at: usize) -> usize {
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => at += 1,
            b'#' => at = line_end(bytes, at),
            b'-' if bytes.get(at + 1) == Some(&b'-')
                && bytes.get(at + 2).is_none_or(|&b| b <= b' ') =>
            {
                at = line_end(bytes, at);
            }
            b'*' if bytes.get(at + 1) == Some(&b'/') => at += 2,
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                if let Some(inside) = conditional(&bytes[at + 2..]) {
                    at += 2 + inside;
                    continue;
                }
                at = memchr::memmem::find(&bytes[at + 2..], b"*/")
                    .map_or(bytes.len(), |end| at + 2 + end + 2);
            }
            _ => break,
        }
    }
    at
}

/// Where the text of a conditional comment begins, behind `!50705` or `M!100301`.
fn conditional(comment: &[u8]) -> Option<usize> {
    let start = match comment {
        [b'!', ..] => 1,
        [b'M', b'!', ..] => 2,
        _ => return None,
    };
    let digits = comment[start..].iter().take(6).take_while(|b| b.is_ascii_digit()).count();
    Some(start + digits)
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |end| at + end + 1)
}

/// Reads the literal at a position; returns it and where it ends. An error says what was found.
pub(crate) fn read(
    bytes: &[u8],
    at: usize,
    session: &SessionState,
) -> Result<(Literal, usize), String> {
    let at = skip_blanks(bytes, at);
    let Some(&byte) = bytes.get(at) else { return Err("the row ends too early".to_owned()) };
    match byte {
        b'\'' => text(bytes, at, session, None),
        b'"' if !session.ansi_quotes => text(bytes, at, session, None),
        b'x' | b'X' | b'b' | b'B' if bytes.get(at + 1) == Some(&b'\'') => {
            let end = memchr::memchr(b'\'', &bytes[at + 2..])
                .ok_or_else(|| "a hex or bit literal is not closed".to_owned())?;
            let digits = String::from_utf8_lossy(&bytes[at + 2..at + 2 + end]);
            let radix = if byte.eq_ignore_ascii_case(&b'x') { 16 } else { 2 };
            Ok((Literal::Bytes(radix_bytes(&digits, radix)), at + 2 + end + 1))
        }
        b'0' if matches!(bytes.get(at + 1), Some(b'x' | b'X' | b'b' | b'B')) => {
            let end = word_end(bytes, at + 2);
            let digits = String::from_utf8_lossy(&bytes[at + 2..end]);
            let radix = if bytes[at + 1].eq_ignore_ascii_case(&b'x') { 16 } else { 2 };
            Ok((Literal::Bytes(radix_bytes(&digits, radix)), end))
        }
        b'0'..=b'9' | b'.' => {
            let end = number_end(bytes, at);
            Ok((Literal::Number(bytes[at..end].to_vec()), end))
        }
        b'-' | b'+' => signed(bytes, at),
        b if b.is_ascii_alphabetic() || b == b'_' => word(bytes, at, session),
        other => Err(format!("unexpected {:?}", other as char)),
    }
}

/// A number behind one sign or several: no recursion, whatever the dump holds.
fn signed(bytes: &[u8], mut at: usize) -> Result<(Literal, usize), String> {
    let mut negative = false;
    while let Some(&byte @ (b'-' | b'+')) = bytes.get(at) {
        negative ^= byte == b'-';
        at = skip_blanks(bytes, at + 1);
    }
    if !matches!(bytes.get(at), Some(b'0'..=b'9' | b'.')) {
        return Err("a sign before something that is no number".to_owned());
    }
    let end = number_end(bytes, at);
    let mut digits = if negative { b"-".to_vec() } else { Vec::new() };
    digits.extend_from_slice(&bytes[at..end]);
    Ok((Literal::Number(digits), end))
}

fn word(bytes: &[u8], at: usize, session: &SessionState) -> Result<(Literal, usize), String> {
    let end = word_end(bytes, at);
    let word = String::from_utf8_lossy(&bytes[at..end]).to_ascii_lowercase();
    match word.as_str() {
        "null" => return Ok((Literal::Null, end)),
        "default" if bytes.get(end) != Some(&b'(') => return Ok((Literal::Default, end)),
        "true" => return Ok((Literal::Number(b"1".to_vec()), end)),
        "false" => return Ok((Literal::Number(b"0".to_vec()), end)),
        "n" if bytes.get(end) == Some(&b'\'') => {
            return text(bytes, end, session, Some("utf8mb4".to_owned()));
        }
        _ => {}
    }
    if let Some(charset) = word.strip_prefix('_') {
        let next = skip_blanks(bytes, end);
        if bytes.get(next) == Some(&b'_') {
            return Err(format!("`_{charset}` before something that is no string"));
        }
        return match read(bytes, next, session)? {
            (Literal::Text(value, None), end) if charset == "binary" => {
                Ok((Literal::Bytes(value), end))
            }
            (Literal::Text(value, None), end) => {
                Ok((Literal::Text(value, Some(charset.to_owned())), end))
            }
            (Literal::Bytes(value), end) if charset == "binary" => Ok((Literal::Bytes(value), end)),
            (Literal::Bytes(value), end) => {
                Ok((Literal::Text(value, Some(charset.to_owned())), end))
            }
            _ => Err(format!("`_{charset}` before something that is no string")),
        };
    }
    Err(format!(
        "`{word}` is an expression that only the server can compute; restore the dump into MySQL \
         and dump that"
    ))
}

/// A string with its escapes resolved; adjacent strings are one.
fn text(
    bytes: &[u8],
    at: usize,
    session: &SessionState,
    charset: Option<String>,
) -> Result<(Literal, usize), String> {
    let mut value = Vec::new();
    let mode = StringMode::of(session);
    let mut at = unescape(bytes, at, mode, &mut value)?;
    loop {
        let next = skip_blanks(bytes, at);
        match bytes.get(next) {
            Some(b'\'') => at = unescape(bytes, next, mode, &mut value)?,
            Some(b'"') if !session.ansi_quotes => {
                at = unescape(bytes, next, mode, &mut value)?;
            }
            _ => return Ok((Literal::Text(value, charset), at)),
        }
    }
}

/// How the bytes of a string are to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StringMode {
    /// A backslash escapes.
    pub(crate) backslash: bool,
    /// Characters of two bytes, the second of which may look like a backslash.
    pub(crate) double: Option<DoubleByte>,
}

impl StringMode {
    /// The mode of a session.
    pub(crate) fn of(session: &SessionState) -> Self {
        Self {
            backslash: !session.no_backslash_escapes,
            double: DoubleByte::of(session.charset.as_deref()),
        }
    }
}

/// Appends the string whose quote is at a position; returns where it ends.
pub(crate) fn unescape(
    bytes: &[u8],
    at: usize,
    mode: StringMode,
    out: &mut Vec<u8>,
) -> Result<usize, String> {
    let StringMode { backslash, double } = mode;
    let quote = bytes[at];
    let mut at = at + 1;
    loop {
        if let Some(double) = double {
            // Whole characters, up to the next byte that stands for itself.
            while let Some(&byte) = bytes.get(at) {
                let pair = double.leads(byte)
                    && bytes.get(at + 1).is_some_and(|&next| double.trails(next));
                if !pair && (byte == quote || byte == b'\\' && backslash) {
                    break;
                }
                let width = if pair { 2 } else { 1 };
                out.extend_from_slice(&bytes[at..at + width]);
                at += width;
            }
        }
        let rest = &bytes[at..];
        let stop = if backslash {
            memchr::memchr2(quote, b'\\', rest)
        } else {
            memchr::memchr(quote, rest)
        };
        let Some(stop) = stop else { return Err("a string is not closed".to_owned()) };
        out.extend_from_slice(&rest[..stop]);
        at += stop;
        let next = bytes.get(at + 1).copied();
        if bytes[at] == quote {
            if next != Some(quote) {
                return Ok(at + 1);
            }
            out.push(quote);
            at += 2;
            continue;
        }
        match next {
            None => return Err("a string is not closed".to_owned()),
            Some(b'0') => out.push(0),
            Some(b'n') => out.push(b'\n'),
            Some(b'r') => out.push(b'\r'),
            Some(b't') => out.push(b'\t'),
            Some(b'b') => out.push(0x08),
            Some(b'Z') => out.push(0x1a),
            // Kept as two characters: they matter to LIKE only.
            Some(c @ (b'%' | b'_')) => out.extend_from_slice(&[b'\\', c]),
            Some(c) => out.push(c),
        }
        at += 2;
    }
}

/// Where the word at a position ends.
pub(super) fn word_end(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_') {
        at += 1;
    }
    at
}

fn number_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(&byte) = bytes.get(at) {
        let sign = matches!(byte, b'+' | b'-') && matches!(bytes[at - 1], b'e' | b'E');
        if !(byte.is_ascii_digit() || matches!(byte, b'.' | b'e' | b'E') || sign) {
            break;
        }
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(source: &str) -> Result<Literal, String> {
        read(source.as_bytes(), 0, &SessionState::default()).map(|(literal, _)| literal)
    }

    #[test]
    fn all_forms() {
        let text = |t: &str| Literal::Text(t.as_bytes().to_vec(), None);
        let number = |t: &str| Literal::Number(t.as_bytes().to_vec());
        for (source, wanted) in [
            ("NULL", Literal::Null),
            ("default", Literal::Default),
            ("-1.5e-3,", number("-1.5e-3")),
            ("+ 2", number("2")),
            ("true", number("1")),
            (r"'a''b\'c\n\%\q\\'", text("a'b'c\n\\%q\\")),
            ("'a' \"b\"", text("ab")),
            ("/* x */ 0x0Aff", Literal::Bytes(vec![0x0a, 0xff])),
            ("X'01'", Literal::Bytes(vec![1])),
            ("b'101'", Literal::Bytes(vec![5])),
            (r"_binary '\0'", Literal::Bytes(vec![0])),
            ("_latin1'a'", Literal::Text(b"a".to_vec(), Some("latin1".to_owned()))),
            ("N'a'", Literal::Text(b"a".to_vec(), Some("utf8mb4".to_owned()))),
        ] {
            assert_eq!(one(source), Ok(wanted), "{source}");
        }
        for source in ["now()", "'a", "", "- 'x'", "\u{e9}"] {
            assert!(one(source).is_err(), "{source}");
        }
    }

    #[test]
    fn without_backslash_escapes() {
        let session = SessionState { no_backslash_escapes: true, ..SessionState::default() };
        let (literal, end) = read(br"'a\',2", 0, &session).unwrap();
        assert_eq!((literal, end), (Literal::Text(br"a\".to_vec(), None), 4));
    }
}
