//! The careful way: any literal, converted as MySQL itself converts it.

use crate::encoder::column::{Column, Kind};
use crate::encoder::{Context, Counters, Refused};
use crate::options::{InvalidTextPolicy, LossPolicy};
use crate::values::literal::{self, Literal, StringMode};
use crate::values::number::{self, Fit};
use crate::values::text::{Decoder, decoder, latin1, push_copy};
use crate::values::{date, expression, hex, spatial};

/// Strings as the fast paths know them.
const PLAIN_STRING: StringMode = StringMode { backslash: true, double: None };

/// Encodes the value at `at`; returns where it ends.
pub(super) fn value(
    column: &mut Column,
    context: &Context,
    counters: &mut Counters,
    scratch: &mut Vec<u8>,
    bytes: &[u8],
    at: usize,
    out: &mut Vec<u8>,
) -> Result<usize, Refused> {
    // Blobs in raw strings are the one careful form that is common: no allocation for them.
    if let Kind::Bytes { pad } = column.kind
        && context.plain_strings
        && let Some(start) = raw_string_start(bytes, at)
    {
        scratch.clear();
        let end = literal::unescape(bytes, start, PLAIN_STRING, scratch).map_err(Refused)?;
        if bytes.get(end).is_some_and(|&b| b == b',' || b == b')') {
            hex::push(scratch, pad, out);
            return Ok(end);
        }
    }
    let (value, end) = expression::read(bytes, at, &context.session).map_err(Refused)?;
    let mut converter = Converter { column, context, counters };
    converter.convert(value, out)?;
    Ok(end)
}

fn raw_string_start(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at) == Some(&b'\'') {
        return Some(at);
    }
    let at = at + b"_binary ".len();
    (bytes.get(at) == Some(&b'\'') && bytes[..at].ends_with(b"_binary ")).then_some(at)
}

struct Converter<'a> {
    column: &'a mut Column,
    context: &'a Context,
    counters: &'a mut Counters,
}

impl Converter<'_> {
    fn convert(&mut self, value: Literal, out: &mut Vec<u8>) -> Result<(), Refused> {
        match value {
            Literal::Null => return self.null(out),
            Literal::Default if self.column.auto_increment => {
                return Err(left_to_number("DEFAULT"));
            }
            Literal::Default => {
                let Some(default) = &self.column.default else {
                    return Err(Refused(
                        "DEFAULT of an expression cannot be carried over; dump with the value"
                            .to_owned(),
                    ));
                };
                out.extend_from_slice(default);
                return Ok(());
            }
            _ => {}
        }
        match &self.column.kind {
            Kind::Bytes { pad } => {
                let pad = *pad;
                hex::push(&self.raw(value), pad, out);
                Ok(())
            }
            Kind::Bit { width } => self.bit(&value, *width, out),
            Kind::UuidBytes => {
                let bytes = self.raw(value);
                push_uuid(&bytes, out)
            }
            Kind::Geometry => {
                let bytes = self.raw(value);
                spatial::push_ewkb(&bytes, out).map_err(Refused)
            }
            Kind::Text { .. } | Kind::Json | Kind::Enum { .. } | Kind::Set { .. } | Kind::Plain => {
                let number = matches!(value, Literal::Number(_));
                let value = match value {
                    Literal::Number(digits) => Literal::Number(number::as_text(&digits)),
                    other => other,
                };
                let text = self.text(value)?;
                self.textual(text, number, out)
            }
            _ => {
                let text = self.numeric_text(value);
                self.scalar(&text, out)
            }
        }
    }

    fn null(&mut self, out: &mut Vec<u8>) -> Result<(), Refused> {
        if self.column.nullable || !self.column.emit {
            out.extend_from_slice(b"\\N");
            return Ok(());
        }
        if self.column.auto_increment {
            return Err(left_to_number("NULL"));
        }
        self.adapt("NULL in a column that is NOT NULL")?;
        out.extend_from_slice(&self.column.implicit);
        Ok(())
    }

    /// Counts a value that MySQL would change, or refuses it.
    fn adapt(&mut self, what: &str) -> Result<(), Refused> {
        if self.context.options.out_of_range == LossPolicy::Fail {
            return Err(Refused(format!(
                "{what}; MySQL would change the value: correct it, or let it be adapted"
            )));
        }
        self.counters.adapted_values += 1;
        Ok(())
    }

    fn fit(&mut self, fit: Fit, text: &[u8]) -> Result<(), Refused> {
        if fit == Fit::Exact {
            return Ok(());
        }
        self.adapt(&format!("{:?} does not fit the column's type", shown(text)))
    }

    /// The bytes of a value, whatever its form.
    fn raw(&self, value: Literal) -> Vec<u8> {
        match value {
            Literal::Text(bytes, _) | Literal::Bytes(bytes) | Literal::Number(bytes) => bytes,
            Literal::Null | Literal::Default => Vec::new(),
        }
    }

    /// A value where a number or date is wanted: bytes are a big-endian number.
    fn numeric_text(&self, value: Literal) -> Vec<u8> {
        match value {
            Literal::Bytes(bytes) if bytes.len() <= 8 => {
                let number = bytes.iter().fold(0_u64, |n, b| (n << 8) | u64::from(*b));
                number.to_string().into_bytes()
            }
            other => self.raw(other),
        }
    }

    fn bit(&mut self, value: &Literal, width: u32, out: &mut Vec<u8>) -> Result<(), Refused> {
        let limit = if width >= 64 { u64::MAX } else { (1 << width) - 1 };
        let number = match value {
            Literal::Number(digits) => {
                let (number, fit) = number::integer(digits, 0, i128::from(limit));
                self.fit(fit, digits)?;
                // Within 0 and 2^64 − 1 after the clamp.
                u64::try_from(number).unwrap_or(limit)
            }
            Literal::Text(bytes, _) | Literal::Bytes(bytes) => {
                let significant = bytes.iter().position(|&b| b != 0).unwrap_or(bytes.len());
                let bytes = &bytes[significant..];
                let number = bytes.iter().take(8).fold(0_u64, |n, b| (n << 8) | u64::from(*b));
                if bytes.len() > 8 || number > limit {
                    self.adapt("more bits than the column has")?;
                    limit
                } else {
                    number
                }
            }
            Literal::Null | Literal::Default => 0,
        };
        if width == 1 {
            out.push(if number == 0 { b'f' } else { b't' });
        } else {
            let width = width as usize;
            out.extend_from_slice(format!("{number:0width$b}").as_bytes());
        }
        Ok(())
    }

    /// Numbers, dates, times.
    fn scalar(&mut self, text: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
        match self.column.kind {
            Kind::Int { min, max, strict, .. } => {
                let (number, fit) = number::integer(text, min, max);
                if fit == Fit::Adapted && strict {
                    return Err(Refused(format!(
                        "{:?} is not between {min} and {max}, which the chosen type holds; choose \
                         a wider one, such as --column TABLE.COLUMN=numeric",
                        shown(text)
                    )));
                }
                self.fit(fit, text)?;
                if number == 0 && self.column.counts_zero {
                    return Err(left_to_number("0"));
                }
                out.extend_from_slice(number.to_string().as_bytes());
            }
            Kind::Boolean => match number::integer(text, -128, 255) {
                (0, Fit::Exact) => out.push(b'f'),
                (1, Fit::Exact) => out.push(b't'),
                _ => {
                    return Err(Refused(format!(
                        "{:?} is neither 0 nor 1; keep this tinyint(1) a smallint",
                        shown(text)
                    )));
                }
            },
            Kind::Decimal { precision, scale, unsigned } => {
                let (number, fit) = number::decimal(text, precision, scale, unsigned);
                self.fit(fit, text)?;
                out.extend_from_slice(&number);
            }
            Kind::Float { max, unsigned } => {
                let (number, fit) = number::float(text, max, unsigned);
                self.fit(fit, text)?;
                out.extend_from_slice(&number);
            }
            Kind::Year => {
                let (year, fit) = number::integer(text, 0, 9999);
                self.fit(fit, text)?;
                let short = text.trim_ascii().len() <= 2;
                let year = match year {
                    1..=69 if short => year + 2000,
                    70..=99 if short => year + 1900,
                    0 | 1901..=2155 => year,
                    _ => {
                        self.fit(Fit::Adapted, text)?;
                        0
                    }
                };
                out.extend_from_slice(year.to_string().as_bytes());
            }
            Kind::Date => match date::parse(text).filter(date::Moment::is_real) {
                Some(moment) => moment.push_date(out),
                None => self.no_date(text, out)?,
            },
            Kind::Moment { fsp, zoned } => match date::parse(text).filter(date::Moment::is_real) {
                Some(moment) => {
                    moment.push(fsp, out);
                    if zoned {
                        out.extend_from_slice(&self.context.zone);
                    }
                }
                None => self.no_date(text, out)?,
            },
            Kind::Time { fsp } => {
                if let Some(duration) = date::duration(text, fsp) {
                    out.extend_from_slice(&duration);
                } else {
                    self.adapt(&format!("{:?} is no time", shown(text)))?;
                    out.extend_from_slice(b"00:00:00");
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn no_date(&mut self, text: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
        if self.context.options.invalid_dates == LossPolicy::Fail {
            return Err(Refused(format!(
                "{:?} is no date that Postgres can hold; let invalid dates become NULL",
                shown(text)
            )));
        }
        self.column.nulled_dates += 1;
        out.extend_from_slice(b"\\N");
        Ok(())
    }

    /// The text of a value in UTF-8, without NUL characters.
    fn text(&mut self, value: Literal) -> Result<String, Refused> {
        let (bytes, decode) = match value {
            Literal::Text(bytes, Some(charset)) => {
                let decode = decoder(Some(&charset)).ok_or_else(|| {
                    Refused(format!("the character set {charset:?} is not supported"))
                })?;
                (bytes, decode)
            }
            other => (self.raw(other), self.column.decoder),
        };
        let text = match decode {
            Decoder::Latin1 => latin1(&bytes),
            Decoder::Other(_) | Decoder::Sjis => {
                let (text, bad) = decode.by_table(&bytes).unwrap_or_default();
                if bad { self.invalid_text(&bytes, text)? } else { text }
            }
            Decoder::Auto if std::str::from_utf8(&bytes).is_err() => {
                self.counters.replaced_text += 1;
                latin1(&bytes)
            }
            Decoder::Utf8 | Decoder::Auto | Decoder::PerColumn => match String::from_utf8(bytes) {
                Ok(text) => text,
                Err(error) => {
                    let bytes = error.into_bytes();
                    let replaced = String::from_utf8_lossy(&bytes).into_owned();
                    self.invalid_text(&bytes, replaced)?
                }
            },
        };
        if !text.contains('\0') {
            return Ok(text);
        }
        self.nul("a NUL character")?;
        Ok(text.replace('\0', ""))
    }

    fn nul(&mut self, what: &str) -> Result<(), Refused> {
        if self.context.options.nul_chars == LossPolicy::Fail {
            return Err(Refused(format!(
                "the text holds {what}, which Postgres cannot store; let it be left out"
            )));
        }
        self.counters.stripped_nuls += 1;
        Ok(())
    }

    fn invalid_text(&mut self, bytes: &[u8], replaced: String) -> Result<String, Refused> {
        match self.context.options.invalid_text {
            InvalidTextPolicy::Fail => {
                let charset = self.context.session.charset.as_deref().unwrap_or("utf8");
                Err(Refused(format!(
                    "{:?} holds bytes that are no {charset} text; have such bytes replaced, or \
                     read as Windows-1252",
                    shown(bytes)
                )))
            }
            InvalidTextPolicy::AsServer => {
                self.counters.replaced_text += 1;
                if matches!(self.column.decoder, Decoder::Other(_) | Decoder::Sjis) {
                    return Ok(replaced.replace(char::REPLACEMENT_CHARACTER, "?"));
                }
                let mut text = String::with_capacity(bytes.len());
                for chunk in bytes.utf8_chunks() {
                    text.push_str(chunk.valid());
                    chunk.invalid().iter().for_each(|_| text.push('?'));
                }
                Ok(text)
            }
            InvalidTextPolicy::Replace => {
                self.counters.replaced_text += 1;
                Ok(replaced)
            }
            InvalidTextPolicy::Windows1252 => {
                self.counters.replaced_text += 1;
                Ok(latin1(bytes))
            }
        }
    }

    fn textual(&mut self, text: String, number: bool, out: &mut Vec<u8>) -> Result<(), Refused> {
        match &self.column.kind {
            Kind::Text { limit } => {
                let mut text = text.as_str();
                if let Some(limit) = *limit
                    && text.len() > limit
                    && let Some((cut, _)) = text.char_indices().nth(limit)
                {
                    // The server drops blanks beyond the length without a word.
                    if text[cut..].chars().any(|c| c != ' ') {
                        self.adapt(&format!("a text of more than {limit} characters"))?;
                    }
                    text = &text[..cut];
                }
                push_copy(text.as_bytes(), out);
            }
            Kind::Json => {
                let text = self.json(text)?;
                push_copy(text.as_bytes(), out);
            }
            Kind::Enum { labels } => match enum_label(labels, &text, number) {
                Some(copy) => out.extend_from_slice(copy),
                // The server's mark for a value that was none of the labels.
                None if text.is_empty() => {}
                None => {
                    self.adapt(&format!("{:?} is none of the labels", shown(text.as_bytes())))?;
                }
            },
            Kind::Set { labels, array } => {
                let mut members = vec![false; labels.len()];
                let mut unknown = false;
                let bits = if number { text.parse::<u64>().ok() } else { None };
                if let Some(bits) = bits {
                    for (at, member) in members.iter_mut().enumerate().take(64) {
                        *member = bits >> at & 1 == 1;
                    }
                } else {
                    for part in text.split(',').filter(|part| !part.is_empty()) {
                        match label_position(labels, part) {
                            Some(at) => members[at] = true,
                            None => unknown = true,
                        }
                    }
                }
                if *array {
                    out.push(b'{');
                }
                let mut first = true;
                for ((_, copy), _) in labels.iter().zip(&members).filter(|(_, member)| **member) {
                    if !first {
                        out.push(b',');
                    }
                    first = false;
                    out.extend_from_slice(copy);
                }
                if *array {
                    out.push(b'}');
                }
                if unknown {
                    self.adapt(&format!("{:?} has unknown members", shown(text.as_bytes())))?;
                }
            }
            _ => push_copy(text.trim().as_bytes(), out),
        }
        Ok(())
    }

    /// A JSON document without the escape of U+0000, which jsonb cannot hold.
    fn json(&mut self, text: String) -> Result<String, Refused> {
        if !text.contains("\\u0000") {
            return Ok(text);
        }
        let mut cleaned = String::with_capacity(text.len());
        let mut rest = text.as_str();
        let mut stripped = false;
        while let Some(at) = rest.find('\\') {
            cleaned.push_str(&rest[..at]);
            if rest[at..].starts_with("\\u0000") {
                stripped = true;
                rest = &rest[at + 6..];
                continue;
            }
            // A backslash and what it escapes stay together; the next character may be wide.
            let next = rest[at + 1..].chars().next().map_or(0, char::len_utf8);
            cleaned.push_str(&rest[at..at + 1 + next]);
            rest = &rest[at + 1 + next..];
        }
        cleaned.push_str(rest);
        if stripped {
            self.nul("the character U+0000")?;
        }
        Ok(cleaned)
    }
}

/// The COPY text of an enum's label: by its text, whatever the case, or by its number.
fn enum_label<'a>(labels: &'a [(String, Vec<u8>)], text: &str, number: bool) -> Option<&'a [u8]> {
    let at = match label_position(labels, text) {
        Some(at) if !number => at,
        _ => text.trim().parse::<usize>().ok()?.checked_sub(1)?,
    };
    labels.get(at).map(|(_, copy)| copy.as_slice())
}

fn label_position(labels: &[(String, Vec<u8>)], text: &str) -> Option<usize> {
    labels.iter().position(|(label, _)| label == text).or_else(|| {
        let wanted = text.trim_end_matches(' ').to_lowercase();
        labels.iter().position(|(label, _)| label.to_lowercase() == wanted)
    })
}

/// A value in a counting column that the splitter has not put a number for.
fn left_to_number(value: &str) -> Refused {
    Refused(format!(
        "{value} asks MySQL to number the row, but how far it has counted is not known here; restore \
         the dump into MySQL and dump it again"
    ))
}

/// 16 bytes as a UUID.
fn push_uuid(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Refused> {
    if bytes.len() != 16 {
        return Err(Refused(format!("{} bytes are no UUID, which has 16", bytes.len())));
    }
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        hex::push_digits(&[*byte], out);
    }
    Ok(())
}

/// The beginning of a value, for messages.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut shown: String = text.chars().take(40).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
