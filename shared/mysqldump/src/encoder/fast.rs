//! The one form of each type that dump tools write, mostly copied as it is.
//!
//! A fast path answers with where the value ends, or with `None` when it sees anything else; what
//! it has written by then is thrown away and the careful way begins anew.

use crate::encoder::Context;
use crate::encoder::column::{Column, Kind};
use crate::values::date;
use crate::values::find::{self, Number};
use crate::values::text::{Decoder, copy_escape};

/// Whether a byte ends a bare value.
#[inline]
fn ends(byte: u8) -> bool {
    byte == b',' || byte == b')'
}

/// Appends a short run; up to 16 bytes cost two stores.
#[inline]
pub(super) fn push_short(bytes: &[u8], start: usize, end: usize, out: &mut Vec<u8>) {
    let length = end - start;
    if length <= 16
        && let Some(chunk) = bytes.get(start..start + 16)
    {
        let mut fixed = [0_u8; 16];
        fixed.copy_from_slice(chunk);
        out.extend_from_slice(&fixed);
        out.truncate(out.len() - 16 + length);
    } else {
        out.extend_from_slice(&bytes[start..end]);
    }
}

/// Encodes the value at `at`; returns where it ends.
#[inline]
pub(super) fn value(
    column: &mut Column,
    context: &Context,
    bytes: &[u8],
    at: usize,
    out: &mut Vec<u8>,
) -> Option<usize> {
    let first = *bytes.get(at)?;
    if first == b'N' {
        let end = at + 4;
        return (column.nullable
            && bytes.get(at..end) == Some(b"NULL")
            && bytes.get(end).is_some_and(|&b| ends(b)))
        .then(|| {
            out.extend_from_slice(b"\\N");
            end
        });
    }
    match &column.kind {
        Kind::Int { safe_digits, signed, .. } => {
            let start = if first == b'-' && *signed { at + 1 } else { at };
            if let Some(number) = Number::at(bytes, start) {
                let plain = number.length <= *safe_digits
                    && number.is_decimal(0)
                    && (number.first() != b'0'
                        || (number.length == 1 && start == at && !column.counts_zero));
                if !plain {
                    return None;
                }
                out.extend_from_slice(&bytes[at..start]);
                number.push(out);
                return Some(start + number.length);
            }
            let mut end = start;
            while bytes.get(end).is_some_and(u8::is_ascii_digit) {
                end += 1;
            }
            let digits = end - start;
            let plain = (1..=*safe_digits).contains(&digits)
                && (bytes[start] != b'0' || (digits == 1 && start == at && !column.counts_zero))
                && bytes.get(end).is_some_and(|&b| ends(b));
            plain.then(|| {
                push_short(bytes, at, end, out);
                end
            })
        }
        Kind::Decimal { precision, scale, unsigned } => {
            let start = if first == b'-' && !*unsigned { at + 1 } else { at };
            if let Some(number) = Number::at(bytes, start) {
                let (precision, scale) = (*precision as usize, *scale as usize);
                let whole = number.length.wrapping_sub(scale + usize::from(scale > 0));
                let plain = number.is_decimal(scale)
                    && precision > scale
                    && whole <= precision - scale
                    && (whole == 1 || number.first() != b'0');
                if !plain {
                    return None;
                }
                out.extend_from_slice(&bytes[at..start]);
                number.push(out);
                return Some(start + number.length);
            }
            let mut end = start;
            let mut point = usize::MAX;
            while let Some(&byte) = bytes.get(end) {
                if !byte.is_ascii_digit() {
                    if byte != b'.' || point != usize::MAX {
                        break;
                    }
                    point = end;
                }
                end += 1;
            }
            let (precision, scale) = (*precision as usize, *scale as usize);
            let (whole, fraction) = if point == usize::MAX {
                (end - start, 0)
            } else {
                (point - start, end - point - 1)
            };
            let plain = whole > 0
                && whole <= precision - scale.min(precision) + usize::from(precision == scale)
                && fraction == scale
                && (scale == 0) == (point == usize::MAX)
                && (whole == 1 || bytes[start] != b'0')
                && bytes.get(end).is_some_and(|&b| ends(b));
            // 0.5 in decimal(2,2) has a digit before the point, which must be 0.
            if !plain || (precision == scale && bytes[start] != b'0') {
                return None;
            }
            push_short(bytes, at, end, out);
            Some(end)
        }
        Kind::Text { limit } => {
            if first != b'\'' || !context.plain_strings {
                return None;
            }
            text(bytes, at + 1, *limit, column.decoder, out)
        }
        Kind::Json => {
            if first != b'\'' || !context.plain_strings {
                return None;
            }
            let start = out.len();
            let end = text(bytes, at + 1, None, column.decoder, out)?;
            // Postgres' jsonb has no place for the character U+0000.
            memchr::memmem::find(&out[start..], b"u0000").is_none().then_some(end)
        }
        Kind::Moment { fsp, zoned } => {
            let fsp = *fsp as usize;
            let width = if fsp == 0 { 19 } else { 20 + fsp };
            let text = bytes.get(at + 1..at + 1 + width)?;
            if first != b'\'' || bytes.get(at + 1 + width) != Some(&b'\'') {
                return None;
            }
            let mut day = [0_u8; 10];
            day.copy_from_slice(&text[..10]);
            if date::plain_date(&day) != Some(true)
                || text[10] != b' '
                || !date::plain_time(&text[11..19])
            {
                return None;
            }
            let mut keep = 19;
            if fsp > 0 {
                if text[19] != b'.' || !text[20..].iter().all(u8::is_ascii_digit) {
                    return None;
                }
                let zeros = text[20..].iter().rev().take_while(|&&b| b == b'0').count();
                keep = if zeros == fsp { 19 } else { width - zeros };
            }
            out.extend_from_slice(&text[..keep]);
            if *zoned {
                out.extend_from_slice(&context.zone);
            }
            Some(at + width + 2)
        }
        Kind::Date => {
            let text = bytes.get(at + 1..at + 11)?;
            let mut day = [0_u8; 10];
            day.copy_from_slice(text);
            let plain = first == b'\''
                && bytes.get(at + 11) == Some(&b'\'')
                && date::plain_date(&day) == Some(true);
            plain.then(|| {
                out.extend_from_slice(&day);
                at + 12
            })
        }
        Kind::Time { fsp: 0 } => {
            let plain = first == b'\''
                && date::plain_time(bytes.get(at + 1..at + 9)?)
                && bytes.get(at + 9) == Some(&b'\'');
            plain.then(|| {
                out.extend_from_slice(&bytes[at + 1..at + 9]);
                at + 10
            })
        }
        Kind::Enum { labels } => {
            if first != b'\'' || !context.plain_strings {
                return None;
            }
            let (end, content) = simple_string(bytes, at)?;
            let (_, copy) = labels.iter().find(|(label, _)| label.as_bytes() == content)?;
            out.extend_from_slice(copy);
            Some(end)
        }
        Kind::Boolean => {
            let end = at + 1;
            let letter = match first {
                b'0' => b'f',
                b'1' => b't',
                _ => return None,
            };
            bytes.get(end).is_some_and(|&b| ends(b)).then(|| {
                out.push(letter);
                end
            })
        }
        Kind::Year => {
            let year = bytes.get(at..at + 4)?;
            let plain = year.iter().all(u8::is_ascii_digit)
                && (b"1901".as_slice()..=b"2155".as_slice()).contains(&year)
                && bytes.get(at + 4).is_some_and(|&b| ends(b));
            plain.then(|| {
                out.extend_from_slice(year);
                at + 4
            })
        }
        Kind::Bytes { pad } => {
            if first != b'0' || !matches!(bytes.get(at + 1), Some(b'x')) {
                return None;
            }
            let start = at + 2;
            let mut end = start;
            while bytes.get(end).is_some_and(u8::is_ascii_hexdigit) {
                end += 1;
            }
            let digits = end - start;
            let plain = digits > 0
                && digits.is_multiple_of(2)
                && digits / 2 >= *pad
                && bytes.get(end).is_some_and(|&b| ends(b));
            plain.then(|| {
                out.extend_from_slice(b"\\\\x");
                let from = out.len();
                out.extend_from_slice(&bytes[start..end]);
                out[from..].make_ascii_lowercase();
                end
            })
        }
        Kind::Float { .. } => {
            let mut end = at;
            while bytes.get(end).is_some_and(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-')) {
                end += 1;
            }
            // Up to 15 digits without an exponent are within any range.
            let plain = (1..=16).contains(&(end - at))
                && bytes.get(end).is_some_and(|&b| ends(b))
                && bytes[end - 1].is_ascii_digit()
                && !bytes[at + 1..end].contains(&b'-')
                && first != b'.'
                && bytes[at..end].iter().filter(|&&b| b == b'.').count() <= 1
                && (first != b'-' || bytes[at + 1].is_ascii_digit());
            plain.then(|| {
                push_short(bytes, at, end, out);
                end
            })
        }
        Kind::Time { .. }
        | Kind::Bit { .. }
        | Kind::Set { .. }
        | Kind::Plain
        | Kind::UuidBytes
        | Kind::Geometry => None,
    }
}

/// A string without escapes: where it ends, and its content.
#[inline]
fn simple_string(bytes: &[u8], at: usize) -> Option<(usize, &[u8])> {
    let rest = &bytes[at + 1..];
    let stop = find::either(rest, b'\'', b'\\')?;
    let end = at + 1 + stop;
    (rest[stop] == b'\'' && bytes.get(end + 1).is_some_and(|&b| ends(b)))
        .then(|| (end + 1, &rest[..stop]))
}

/// Copies a string whose content begins at `start` up to its closing quote. Escapes that COPY
/// shares stay as they are; the few others are rewritten on the way.
fn text(
    bytes: &[u8],
    start: usize,
    limit: Option<usize>,
    decoder: Decoder,
    out: &mut Vec<u8>,
) -> Option<usize> {
    let begin = out.len();
    let mut copied = start;
    let mut at = start;
    let mut high = false;
    loop {
        let (stop, seen_high) = find::text_stop(bytes, at)?;
        high |= seen_high;
        at = stop;
        let byte = bytes[at];
        if byte == b'\'' {
            match bytes.get(at + 1) {
                Some(b',' | b')') => break,
                Some(b'\'') => {
                    // A doubled quote: the first is copied, the second skipped.
                    out.extend_from_slice(&bytes[copied..=at]);
                    at += 2;
                    copied = at;
                    continue;
                }
                _ => return None,
            }
        }
        if byte == b'\\' {
            match *bytes.get(at + 1)? {
                b'n' | b'r' | b't' | b'b' | b'\\' => at += 2,
                quote @ (b'\'' | b'"') => {
                    push_short(bytes, copied, at, out);
                    out.push(quote);
                    at += 2;
                    copied = at;
                }
                b'Z' => {
                    out.extend_from_slice(&bytes[copied..at]);
                    out.push(0x1a);
                    at += 2;
                    copied = at;
                }
                _ => return None,
            }
            continue;
        }
        // A raw control character.
        match copy_escape(byte) {
            0 if byte == 0 => return None,
            0 => at += 1,
            letter => {
                out.extend_from_slice(&bytes[copied..at]);
                out.extend_from_slice(&[b'\\', letter]);
                at += 1;
                copied = at;
            }
        }
    }
    push_short(bytes, copied, at, out);
    if high {
        let valid = match decoder {
            Decoder::Utf8 | Decoder::Auto => std::str::from_utf8(&out[begin..]).is_ok(),
            _ => false,
        };
        if !valid {
            return None;
        }
    }
    if let Some(limit) = limit
        && at - start > limit
        && characters(&out[begin..]) > limit
    {
        return None;
    }
    Some(at + 1)
}

/// Characters of valid UTF-8 in COPY text: an escape is one character.
fn characters(copy: &[u8]) -> usize {
    let mut count = 0;
    let mut at = 0;
    while at < copy.len() {
        at += if copy[at] == b'\\' { 2 } else { 1 };
        count += 1;
        while copy.get(at).is_some_and(|b| b & 0xc0 == 0x80) {
            at += 1;
        }
    }
    count
}
