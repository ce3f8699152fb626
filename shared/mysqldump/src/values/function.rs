//! The functions that dumps by hand or by other tools than mysqldump write around their values,
//! where the result depends on nothing but the arguments, the session's zone and the clock.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::values::date::{self, Moment};
use crate::values::expression::Reader;
use crate::values::literal::Literal;
use crate::values::{cast, format, number, wkt};

/// The longest text that REPEAT and SPACE make, in bytes.
pub(super) const REPEATED_BYTES: usize = 1 << 20;

/// Spatial reference systems whose axes every server stores in the order of the text: none, and
/// the projection of web maps. MySQL 8 swaps those of geographic ones, earlier servers do not.
const PLAIN_SYSTEMS: [u32; 2] = [0, 3857];

/// What a call makes, and where it ends; `None`: the word is no function that is known here.
pub(super) type Called = Result<Option<(Literal, usize)>, String>;

/// Reads what follows a word: its arguments, or the string of a `DATE '…'`.
pub(super) fn call(reader: Reader<'_>, word: &str, end: usize, depth: usize) -> Called {
    let (next, at) = reader.peek(end);
    if next == Some(b'\'') && matches!(word, "date" | "time" | "timestamp" | "binary") {
        let (value, end) = reader.sum(at, depth)?;
        let value = if word == "binary" { bytes_of(value)? } else { value };
        return Ok(Some((value, end)));
    }
    if next != Some(b'(') {
        let bare = [
            "current_timestamp",
            "current_date",
            "current_time",
            "localtime",
            "localtimestamp",
            "utc_date",
            "utc_time",
            "utc_timestamp",
        ];
        return match bare.contains(&word) {
            true => Ok(Some((now(reader, word, 0)?, end))),
            false => Ok(None),
        };
    }
    if matches!(word, "cast" | "convert") {
        return cast::convert(reader, at, depth).map(Some);
    }
    if !is_known(word) {
        return Ok(None);
    }
    let (arguments, end) = reader.arguments(at, depth)?;
    apply(reader, word, &arguments)
        .map(|value| Some((value, end)))
        .map_err(|reason| format!("{word}(…): {reason}"))
}

/// The names that [`apply`] computes.
const KNOWN: &str = " now current_timestamp localtime localtimestamp sysdate curdate current_date \
    curtime current_time utc_date utc_time utc_timestamp unix_timestamp from_unixtime concat \
    concat_ws char unhex hex from_base64 repeat space lower lcase upper ucase ifnull coalesce conv \
    str_to_date uuid_to_bin inet_aton inet6_aton point st_geomfromtext geomfromtext \
    st_geometryfromtext geometryfromtext st_pointfromtext pointfromtext st_linefromtext linefromtext \
    st_linestringfromtext linestringfromtext st_polyfromtext polyfromtext st_polygonfromtext \
    polygonfromtext st_multipointfromtext st_mpointfromtext mpointfromtext st_mlinefromtext \
    mlinefromtext st_multilinestringfromtext st_mpolyfromtext mpolyfromtext st_multipolygonfromtext \
    st_geomcollfromtext geomcollfromtext st_geomfromwkb geomfromwkb st_geometryfromwkb ";

fn is_known(word: &str) -> bool {
    KNOWN.split(' ').any(|known| !known.is_empty() && known == word)
}

fn apply(reader: Reader<'_>, word: &str, arguments: &[Literal]) -> Result<Literal, String> {
    let text = |bytes: Vec<u8>| Literal::Text(bytes, None);
    let number = |number: i128| Literal::Number(number.to_string().into_bytes());
    match (word, arguments) {
        ("ifnull" | "coalesce", values) => {
            let found = values.iter().find(|value| **value != Literal::Null);
            return Ok(found.cloned().unwrap_or(Literal::Null));
        }
        ("concat_ws", [Literal::Null, ..]) => return Ok(Literal::Null),
        ("concat_ws", [separator, values @ ..]) => {
            let kept: Vec<_> = values.iter().filter(|value| **value != Literal::Null).collect();
            return joined(&kept, &text_of(separator)?);
        }
        ("char", codes) => {
            let mut bytes = Vec::new();
            for code in codes.iter().filter(|code| **code != Literal::Null) {
                let code = u32::try_from(integer_of(code)?).map_err(|_| "no character")?;
                let significant = code.leading_zeros().min(24) as usize / 8;
                bytes.extend_from_slice(&code.to_be_bytes()[significant..]);
            }
            return Ok(Literal::Bytes(bytes));
        }
        (_, values) if values.contains(&Literal::Null) => return Ok(Literal::Null),
        _ => {}
    }
    Ok(match (word, arguments) {
        ("now" | "current_timestamp" | "localtime" | "localtimestamp" | "sysdate", [digits])
        | ("curtime" | "current_time" | "utc_time" | "utc_timestamp", [digits]) => {
            now(reader, word, u32::try_from(integer_of(digits)?).unwrap_or(6))?
        }
        ("unix_timestamp", []) => number(i128::from(clock().as_secs())),
        ("unix_timestamp", [moment]) => {
            let moment = moment_of(moment)?;
            number(i128::from(moment.seconds() - offset(reader)?))
        }
        ("from_unixtime", [seconds]) => {
            let seconds = i64::try_from(integer_of(seconds)?).map_err(|_| "too late")?;
            let mut out = Vec::new();
            Moment::at(seconds + offset(reader)?).ok_or("too late")?.push(0, &mut out);
            text(out)
        }
        (_, []) => now(reader, word, 0)?,
        ("concat", values) => joined(&values.iter().collect::<Vec<_>>(), b"")?,
        ("unhex", [digits]) => Literal::Bytes(unhex(&text_of(digits)?)?),
        ("hex", [Literal::Number(digits)]) => {
            let (value, fit) = number::integer(digits, 0, i128::from(u64::MAX));
            if fit != number::Fit::Exact {
                return Err("no such number".to_owned());
            }
            text(format!("{value:X}").into_bytes())
        }
        ("hex", [value]) => {
            let digits =
                text_of(value)?.iter().map(|byte| format!("{byte:02X}")).collect::<String>();
            text(digits.into_bytes())
        }
        ("from_base64", [value]) => Literal::Bytes(from_base64(&text_of(value)?)?),
        ("repeat", [value, times]) => {
            let (value, times) = (text_of(value)?, integer_of(times)?.clamp(0, 1 << 30) as usize);
            if value.len() * times > REPEATED_BYTES {
                return Err("too long a text".to_owned());
            }
            text(value.repeat(times))
        }
        ("space", [times]) => {
            let times = integer_of(times)?.clamp(0, 1 << 30) as usize;
            if times > REPEATED_BYTES {
                return Err("too long a text".to_owned());
            }
            text(b" ".repeat(times))
        }
        ("lower" | "lcase" | "upper" | "ucase", [Literal::Text(value, _)]) if value.is_ascii() => {
            text(match word {
                "lower" | "lcase" => value.to_ascii_lowercase(),
                _ => value.to_ascii_uppercase(),
            })
        }
        ("conv", [value, from, to]) => {
            let digits = text_of(value)?;
            let (from, to) = (integer_of(from)?, integer_of(to)?);
            if !(2..=36).contains(&from) || to != 10 {
                return Err("only conversions to base 10 are read".to_owned());
            }
            let digits = String::from_utf8_lossy(&digits);
            let value = u64::from_str_radix(&digits, from as u32).map_err(|e| e.to_string())?;
            number(i128::from(value))
        }
        ("str_to_date", [value, format]) => text(
            format::by_format(&text_of(value)?, &text_of(format)?).ok_or("it is no such date")?,
        ),
        ("uuid_to_bin", [value, rest @ ..]) => {
            let digits: Vec<u8> = text_of(value)?.into_iter().filter(|b| *b != b'-').collect();
            let mut bytes = unhex(&digits)?;
            if bytes.len() != 16 {
                return Err("it is no UUID".to_owned());
            }
            if rest.first().is_some_and(|swap| integer_of(swap).is_ok_and(|swap| swap != 0)) {
                let [low, mid, high] =
                    [bytes[..4].to_vec(), bytes[4..6].to_vec(), bytes[6..8].to_vec()];
                bytes.splice(..8, [high, mid, low].concat());
            }
            Literal::Bytes(bytes)
        }
        ("inet_aton", [value]) => {
            let address: Ipv4Addr = ascii(&text_of(value)?)?.parse().map_err(|_| "no address")?;
            number(i128::from(u32::from(address)))
        }
        ("inet6_aton", [value]) => {
            let address: IpAddr = ascii(&text_of(value)?)?.parse().map_err(|_| "no address")?;
            Literal::Bytes(match address {
                IpAddr::V4(address) => address.octets().to_vec(),
                IpAddr::V6(address) => address.octets().to_vec(),
            })
        }
        ("point", [x, y]) => {
            let coordinate = |value| -> Result<f64, String> {
                ascii(&text_of(value)?)?.parse().map_err(|_| "no coordinate".to_owned())
            };
            Literal::Bytes(wkt::point(coordinate(x)?, coordinate(y)?))
        }
        (_, [value, rest @ ..]) if word.ends_with("fromtext") && rest.len() < 2 => {
            let system = spatial_system(rest)?;
            Literal::Bytes(wkt::parse(ascii(&text_of(value)?)?, system)?)
        }
        (_, [Literal::Bytes(value), rest @ ..]) if word.ends_with("fromwkb") && rest.len() < 2 => {
            if value.first() != Some(&1) {
                return Err("only WKB whose first byte is 1 is read".to_owned());
            }
            Literal::Bytes([&spatial_system(rest)?.to_le_bytes()[..], value].concat())
        }
        _ => return Err("these arguments are not read".to_owned()),
    })
}

fn spatial_system(arguments: &[Literal]) -> Result<u32, String> {
    let Some(system) = arguments.first() else { return Ok(0) };
    let system = u32::try_from(integer_of(system)?).map_err(|_| "no reference system")?;
    if PLAIN_SYSTEMS.contains(&system) {
        return Ok(system);
    }
    Err(format!(
        "servers differ in which coordinate of SRID {system} comes first: restore the dump into \
         MySQL and dump that"
    ))
}

/// The present moment as the session sees it.
fn now(reader: Reader<'_>, word: &str, digits: u32) -> Result<Literal, String> {
    let clock = clock();
    let offset = if word.starts_with("utc") { 0 } else { offset(reader)? };
    let seconds = i64::try_from(clock.as_secs()).unwrap_or(i64::MAX).saturating_add(offset);
    let mut moment = Moment::at(seconds).ok_or("the clock is past year 9999")?;
    moment.microsecond = clock.subsec_micros();
    let mut out = Vec::new();
    match word {
        "curdate" | "current_date" | "utc_date" => moment.push_date(&mut out),
        "curtime" | "current_time" | "utc_time" => {
            moment.push(digits, &mut out);
            out.drain(.."2020-01-01 ".len());
        }
        _ => moment.push(digits, &mut out),
    }
    Ok(Literal::Text(out, None))
}

fn clock() -> std::time::Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Seconds east of Greenwich of the session's zone; without one it is UTC.
fn offset(reader: Reader<'_>) -> Result<i64, String> {
    let zone = reader.session.time_zone.as_deref().unwrap_or("+00:00");
    date::zone_offset(zone).ok_or_else(|| {
        format!("the offset of the zone {zone:?} is not known here: restore the dump into MySQL and dump that")
    })
}

/// Bytes of a value as text would have them.
pub(super) fn text_of(value: &Literal) -> Result<Vec<u8>, String> {
    match value {
        Literal::Text(bytes, _) | Literal::Bytes(bytes) => Ok(bytes.clone()),
        Literal::Number(digits) => Ok(number::as_text(digits)),
        Literal::Null | Literal::Default => Err("a value is missing".to_owned()),
    }
}

pub(super) fn bytes_of(value: Literal) -> Result<Literal, String> {
    match value {
        Literal::Null => Ok(Literal::Null),
        other => text_of(&other).map(Literal::Bytes),
    }
}

fn ascii(bytes: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(bytes).ok().filter(|text| text.is_ascii());
    text.ok_or_else(|| "the text is not ASCII".to_owned())
}

pub(super) fn integer_of(value: &Literal) -> Result<i128, String> {
    let digits = match value {
        Literal::Bytes(bytes) if bytes.len() <= 8 => {
            return Ok(bytes.iter().fold(0, |n, b| (n << 8) | i128::from(*b)));
        }
        Literal::Number(digits) | Literal::Text(digits, _) => digits,
        _ => return Err("a number is missing".to_owned()),
    };
    match number::integer(digits, i128::MIN, i128::MAX) {
        (number, number::Fit::Exact) => Ok(number),
        _ => Err(format!("{:?} is no number", String::from_utf8_lossy(digits))),
    }
}

pub(super) fn moment_of(value: &Literal) -> Result<Moment, String> {
    let text = match value {
        Literal::Bytes(_) => return Err("bytes are no date".to_owned()),
        other => text_of(other)?,
    };
    date::parse(&text)
        .filter(Moment::is_real)
        .ok_or_else(|| format!("{:?} is no date", String::from_utf8_lossy(&text)))
}

/// Texts one after the other; they must be in one character set.
fn joined(values: &[&Literal], separator: &[u8]) -> Result<Literal, String> {
    let mut bytes = Vec::new();
    let mut charset = None;
    for (nth, value) in values.iter().enumerate() {
        let part = text_of(value)?;
        if let Literal::Text(_, Some(named)) = value {
            let before = bytes.is_ascii() || charset.as_ref() == Some(named);
            charset = Some(named.clone()).filter(|_| before);
            if !before {
                return Err("texts in several character sets".to_owned());
            }
        } else if charset.is_some() && !part.is_ascii() {
            return Err("texts in several character sets".to_owned());
        }
        if nth > 0 {
            bytes.extend_from_slice(separator);
        }
        bytes.extend_from_slice(&part);
    }
    Ok(Literal::Text(bytes, charset))
}

fn unhex(digits: &[u8]) -> Result<Vec<u8>, String> {
    let digit = |byte: u8| {
        (byte as char).to_digit(16).map(|d| d as u8).ok_or_else(|| "no hex digits".to_owned())
    };
    let (first, pairs) = digits.split_at(digits.len() % 2);
    let mut bytes = first.iter().map(|&byte| digit(byte)).collect::<Result<Vec<_>, _>>()?;
    for pair in pairs.as_chunks::<2>().0 {
        bytes.push(digit(pair[0])? << 4 | digit(pair[1])?);
    }
    Ok(bytes)
}

fn from_base64(text: &[u8]) -> Result<Vec<u8>, String> {
    let (mut bytes, mut bits, mut width) = (Vec::new(), 0_u32, 0);
    for &byte in text.iter().filter(|byte| !byte.is_ascii_whitespace()) {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => continue,
            _ => return Err("no base64".to_owned()),
        };
        bits = (bits << 6) | u32::from(value);
        width += 6;
        if width >= 8 {
            width -= 8;
            bytes.push((bits >> width) as u8);
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::SessionState;
    use crate::values::expression;

    fn one(source: &str) -> Result<Literal, String> {
        let session =
            SessionState { time_zone: Some("-06:00".to_owned()), ..SessionState::default() };
        expression::read(format!("{source},").as_bytes(), 0, &session).map(|(value, _)| value)
    }

    #[test]
    fn of_constants() {
        let text = |t: &str| Literal::Text(t.as_bytes().to_vec(), None);
        let number = |t: &str| Literal::Number(t.as_bytes().to_vec());
        let bytes = |b: &[u8]| Literal::Bytes(b.to_vec());
        for (source, wanted) in [
            ("CAST('2020-1-2' AS DATE)", text("2020-01-02")),
            ("CAST('2020-01-02 03:04:05.678' AS DATETIME(2))", text("2020-01-02 03:04:05.67")),
            ("CAST(0x4142 AS CHAR)", text("AB")),
            ("CAST(0x4142 AS CHAR(10) CHARACTER SET utf8mb4)", text("AB")),
            ("CAST('12' AS UNSIGNED INTEGER)", number("12")),
            ("CAST(1.005 AS DECIMAL(10,2))", number("1.01")),
            ("CAST('{\"a\":1}' AS JSON)", text("{\"a\":1}")),
            ("CAST(NULL AS JSON)", Literal::Null),
            ("CAST('ab' AS BINARY(3))", bytes(b"ab\0")),
            ("CONVERT('5', SIGNED)", number("5")),
            ("CONVERT(0xe9 USING latin1)", Literal::Text(vec![0xe9], Some("latin1".to_owned()))),
            ("CONVERT('a' USING binary)", bytes(b"a")),
            ("BINARY 'a'", bytes(b"a")),
            ("CONCAT('a', 1.50, CHAR(10), 'b')", text("a1.50\nb")),
            ("concat('a', NULL)", Literal::Null),
            ("CONCAT_WS('-', 'a', NULL, 'b')", text("a-b")),
            ("UNHEX('0aFF')", bytes(&[10, 255])),
            ("UNHEX('1')", bytes(&[1])),
            ("HEX('ab')", text("6162")),
            ("HEX(255)", text("FF")),
            ("FROM_BASE64('YWJj\nZA==')", bytes(b"abcd")),
            ("REPEAT('ab', 2)", text("abab")),
            ("UPPER('ab')", text("AB")),
            ("IFNULL(NULL, 'x')", text("x")),
            ("CONV('101', 2, 10) + 0", number("5")),
            ("STR_TO_DATE('31-Jan-2020', '%d-%b-%Y')", text("2020-01-31")),
            (
                "UUID_TO_BIN('00112233-4455-6677-8899-aabbccddeeff')",
                bytes(&[
                    0, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc,
                    0xdd, 0xee, 0xff,
                ]),
            ),
            (
                "UUID_TO_BIN('00112233-4455-6677-8899-aabbccddeeff', 1)",
                bytes(&[
                    0x66, 0x77, 0x44, 0x55, 0, 0x11, 0x22, 0x33, 0x88, 0x99, 0xaa, 0xbb, 0xcc,
                    0xdd, 0xee, 0xff,
                ]),
            ),
            ("INET_ATON('10.0.0.1')", number("167772161")),
            ("INET6_ATON('10.0.0.1')", bytes(&[10, 0, 0, 1])),
            ("POINT(1, 2)", Literal::Bytes(wkt::point(1.0, 2.0))),
            ("ST_GeomFromText('POINT(1 2)')", Literal::Bytes(wkt::point(1.0, 2.0))),
            ("GeomFromText('POINT(1 2)', 0)", Literal::Bytes(wkt::point(1.0, 2.0))),
            ("FROM_UNIXTIME(0)", text("1969-12-31 18:00:00")),
            ("UNIX_TIMESTAMP('1970-01-01 00:00:00')", number("21600")),
        ] {
            assert_eq!(one(source), Ok(wanted), "{source}");
        }
        let Ok(Literal::Text(now, None)) = one("NOW()") else { panic!("NOW() is a text") };
        assert_eq!((now.len(), &now[..2]), (19, &b"20"[..]));
        let Ok(Literal::Text(day, None)) = one("CURRENT_DATE") else { panic!("it is a text") };
        assert_eq!(day.len(), 10);
        assert!(matches!(one("CURTIME()"), Ok(Literal::Text(time, None)) if time.len() == 8));
    }

    #[test]
    fn what_only_the_server_knows() {
        for source in [
            "LAST_INSERT_ID()",
            "UUID()",
            "CAST('x' AS DATE)",
            "CAST('abc' AS CHAR(2))",
            "CAST(300 AS KLINGON)",
            "ST_GeomFromText('POINT(1 2)', 4326)",
            "CONVERT(1)",
            "UNHEX('zz')",
            "REPEAT('a', 100000000)",
            "concat('a'",
            "inet_aton('x')",
        ] {
            assert!(one(source).is_err(), "{source}");
        }
    }
}
