//! Numbers that do not fit their column as written: rounded and bounded as MySQL does it.

use std::cmp::Ordering;

/// A decimal number taken apart: sign, digits before the point, digits after it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parts {
    negative: bool,
    whole: Vec<u8>,
    fraction: Vec<u8>,
}

/// Longest exponent that is expanded; beyond it every column type overflows or is zero.
const EXPONENT_LIMIT: i64 = 400;

/// Takes apart `[-]digits[.digits][e[±]digits]`; `None` when it is no number. Trailing text after
/// a number is ignored and told by the flag, as MySQL converts `'12abc'`.
fn parse(text: &[u8]) -> Option<(Parts, bool)> {
    let text = text.trim_ascii();
    let (negative, rest) = match text.first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let digits = |from: &[u8]| from.iter().take_while(|b| b.is_ascii_digit()).count();
    let whole_width = digits(rest);
    let (mut whole, mut rest) = (rest[..whole_width].to_vec(), &rest[whole_width..]);
    let mut fraction = Vec::new();
    if rest.first() == Some(&b'.') {
        let width = digits(&rest[1..]);
        fraction = rest[1..=width].to_vec();
        rest = &rest[1 + width..];
    }
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    if matches!(rest.first(), Some(b'e' | b'E')) {
        let (sign, tail) = match rest.get(1) {
            Some(b'-') => (-1, &rest[2..]),
            Some(b'+') => (1, &rest[2..]),
            _ => (1, &rest[1..]),
        };
        let width = digits(tail);
        if width > 0 {
            let exponent = std::str::from_utf8(&tail[..width]).ok()?.parse::<i64>().ok();
            let exponent = sign * exponent.unwrap_or(EXPONENT_LIMIT).min(EXPONENT_LIMIT);
            shift(&mut whole, &mut fraction, exponent);
            rest = &tail[width..];
        }
    }
    let zeros = whole.iter().take_while(|&&b| b == b'0').count();
    whole.drain(..zeros);
    Some((Parts { negative, whole, fraction }, !rest.is_empty()))
}

/// Moves the decimal point.
fn shift(whole: &mut Vec<u8>, fraction: &mut Vec<u8>, exponent: i64) {
    for _ in 0..exponent.max(0) {
        whole.push(if fraction.is_empty() { b'0' } else { fraction.remove(0) });
    }
    for _ in exponent..0 {
        fraction.insert(0, whole.pop().unwrap_or(b'0'));
    }
}

impl Parts {
    /// Rounds half away from zero to so many digits after the point.
    fn round(&mut self, scale: usize) {
        let up = self.fraction.get(scale).is_some_and(|&digit| digit >= b'5');
        self.fraction.resize(scale, b'0');
        if !up {
            return;
        }
        for digit in self.fraction.iter_mut().rev().chain(self.whole.iter_mut().rev()) {
            if *digit < b'9' {
                *digit += 1;
                return;
            }
            *digit = b'0';
        }
        self.whole.insert(0, b'1');
    }

    fn is_zero(&self) -> bool {
        self.whole.iter().chain(&self.fraction).all(|&b| b == b'0')
    }
}

/// What became of a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fit {
    /// The same number, perhaps written differently or rounded to the column's scale.
    Exact,
    /// Cut to the column's range, or read from text that is no number.
    Adapted,
}

/// A whole number within bounds, as MySQL converts any numeric text.
pub(crate) fn integer(text: &[u8], min: i128, max: i128) -> (i128, Fit) {
    let Some((mut parts, trailing)) = parse(text) else { return (0.clamp(min, max), Fit::Adapted) };
    parts.round(0);
    let digits = std::str::from_utf8(&parts.whole).unwrap_or("");
    let magnitude = if digits.is_empty() { Some(0) } else { digits.parse::<i128>().ok() };
    let number = match magnitude {
        Some(number) if parts.negative => -number,
        Some(number) => number,
        None if parts.negative => i128::MIN,
        None => i128::MAX,
    };
    let clamped = number.clamp(min, max);
    let fit = if clamped == number && !trailing { Fit::Exact } else { Fit::Adapted };
    (clamped, fit)
}

/// A decimal with exactly `scale` digits after the point, at most `precision` in all.
pub(crate) fn decimal(text: &[u8], precision: u32, scale: u32, unsigned: bool) -> (Vec<u8>, Fit) {
    let (precision, scale) = (precision as usize, scale as usize);
    let (mut parts, trailing, read) = match parse(text) {
        Some((parts, trailing)) => (parts, trailing, true),
        None => {
            let zero = Parts { negative: false, whole: Vec::new(), fraction: Vec::new() };
            (zero, false, false)
        }
    };
    let mut fit = if trailing || !read { Fit::Adapted } else { Fit::Exact };
    parts.round(scale);
    let room = precision.saturating_sub(scale);
    if parts.whole.len().cmp(&room) == Ordering::Greater {
        parts.whole = vec![b'9'; room];
        parts.fraction = vec![b'9'; scale];
        fit = Fit::Adapted;
    }
    if parts.negative && unsigned && !parts.is_zero() {
        parts = Parts { negative: false, whole: Vec::new(), fraction: vec![b'0'; scale] };
        fit = Fit::Adapted;
    }
    let mut out = Vec::with_capacity(precision + 3);
    if parts.negative && !parts.is_zero() {
        out.push(b'-');
    }
    if parts.whole.is_empty() {
        out.push(b'0');
    }
    out.extend_from_slice(&parts.whole);
    if scale > 0 {
        out.push(b'.');
        out.extend_from_slice(&parts.fraction);
    }
    (out, fit)
}

/// Most digits of a calculation.
const CALCULATED_DIGITS: usize = 38;

/// The sum, difference or product of two numbers, exactly; `None` when that takes too many digits.
pub(crate) fn calculate(left: &[u8], operator: u8, right: &[u8]) -> Option<Vec<u8>> {
    let scaled = |text: &[u8]| {
        let (parts, trailing) = parse(text)?;
        let digits = [parts.whole.as_slice(), &parts.fraction].concat();
        let fits = !trailing && digits.len() <= CALCULATED_DIGITS;
        let number = if digits.is_empty() { "0" } else { std::str::from_utf8(&digits).ok()? };
        let number: i128 = fits.then(|| number.parse().ok())??;
        Some((if parts.negative { -number } else { number }, parts.fraction.len()))
    };
    let ((mut left, left_scale), (mut right, right_scale)) = (scaled(left)?, scaled(right)?);
    let (result, scale) = if operator == b'*' {
        (left.checked_mul(right)?, left_scale + right_scale)
    } else {
        let scale = left_scale.max(right_scale);
        let widen = |number: i128, by: usize| {
            number.checked_mul(10_i128.checked_pow(u32::try_from(by).ok()?)?)
        };
        left = widen(left, scale - left_scale)?;
        right = widen(right, scale - right_scale)?;
        let result =
            if operator == b'+' { left.checked_add(right)? } else { left.checked_sub(right)? };
        (result, scale)
    };
    let mut digits = format!("{:0width$}", result.unsigned_abs(), width = scale + 1);
    if scale > 0 {
        digits.insert(digits.len() - scale, '.');
    }
    Some(format!("{}{digits}", if result < 0 { "-" } else { "" }).into_bytes())
}

/// A number as the server shows it when it becomes text: `.5` is 0.5, `1e3` is 1000, 007 is 7.
pub(crate) fn as_text(number: &[u8]) -> Vec<u8> {
    if number.iter().any(|b| matches!(b, b'e' | b'E')) {
        let value = std::str::from_utf8(number).ok().and_then(|text| text.parse::<f64>().ok());
        let Some(value) = value else { return number.to_vec() };
        let plain = value == 0.0 || (1e-15..1e15).contains(&value.abs());
        return if plain { format!("{value}") } else { format!("{value:e}") }.into_bytes();
    }
    let Some((parts, false)) = parse(number) else { return number.to_vec() };
    let negative = parts.negative && !parts.is_zero();
    let mut text = if negative { b"-".to_vec() } else { Vec::new() };
    text.extend_from_slice(if parts.whole.is_empty() { b"0" } else { &parts.whole });
    if !parts.fraction.is_empty() {
        text.push(b'.');
        text.extend_from_slice(&parts.fraction);
    }
    text
}

/// A float as text that Postgres reads, bounded to the type's range.
pub(crate) fn float(text: &[u8], max: f64, unsigned: bool) -> (Vec<u8>, Fit) {
    let trimmed = text.trim_ascii();
    let value = std::str::from_utf8(trimmed).ok().and_then(|t| t.parse::<f64>().ok());
    match value {
        Some(value) if value.is_finite() && value.abs() <= max && !(unsigned && value < 0.0) => {
            (trimmed.to_vec(), Fit::Exact)
        }
        Some(value) if !value.is_nan() => {
            let low = if unsigned { 0.0 } else { -max };
            (format!("{:e}", value.clamp(low, max)).into_bytes(), Fit::Adapted)
        }
        _ => {
            // The longest beginning that is a number, as MySQL reads it; else 0.
            let end = (1..=trimmed.len().min(64)).rev().find(|&end| {
                std::str::from_utf8(&trimmed[..end]).is_ok_and(|t| {
                    t.bytes().all(|b| b.is_ascii_digit() || b".eE+-".contains(&b))
                        && t.parse::<f64>().is_ok()
                })
            });
            (end.map_or_else(|| b"0".to_vec(), |end| trimmed[..end].to_vec()), Fit::Adapted)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers() {
        assert_eq!(integer(b"007", 0, 255), (7, Fit::Exact));
        assert_eq!(integer(b"1.5", 0, 255), (2, Fit::Exact));
        assert_eq!(integer(b"-0.4", 0, 255), (0, Fit::Exact));
        assert_eq!(integer(b"1e2", 0, 255), (100, Fit::Exact));
        assert_eq!(integer(b"256", 0, 255), (255, Fit::Adapted));
        assert_eq!(integer(b"-1", 0, 255), (0, Fit::Adapted));
        assert_eq!(integer(b"12abc", 0, 255), (12, Fit::Adapted));
        assert_eq!(integer(b"", 0, 255), (0, Fit::Adapted));
        assert_eq!(integer(b"1e999999999999", -9, 9), (9, Fit::Adapted));
    }

    #[test]
    fn decimals() {
        let text = |t: &str, p, s| {
            let (out, fit) = decimal(t.as_bytes(), p, s, false);
            (String::from_utf8(out).unwrap(), fit)
        };
        assert_eq!(text("1", 10, 2), ("1.00".to_owned(), Fit::Exact));
        assert_eq!(text("-1.005", 10, 2), ("-1.01".to_owned(), Fit::Exact));
        assert_eq!(text("9.999", 3, 2), ("9.99".to_owned(), Fit::Adapted));
        assert_eq!(text("99.995", 10, 2), ("100.00".to_owned(), Fit::Exact));
        assert_eq!(text("-0.001", 10, 2), ("0.00".to_owned(), Fit::Exact));
        assert_eq!(text("1.5e3", 10, 0), ("1500".to_owned(), Fit::Exact));
        assert_eq!(text("abc", 10, 1), ("0.0".to_owned(), Fit::Adapted));
        assert_eq!(decimal(b"-5", 4, 0, true), (b"0".to_vec(), Fit::Adapted));
    }

    #[test]
    fn calculations() {
        let text = |left: &str, operator, right: &str| {
            let result = calculate(left.as_bytes(), operator, right.as_bytes());
            result.map(|text| String::from_utf8(text).unwrap())
        };
        assert_eq!(text("1", b'+', "2").as_deref(), Some("3"));
        assert_eq!(text("0.1", b'-', "0.25").as_deref(), Some("-0.15"));
        assert_eq!(text("-1.5", b'*', "1.5").as_deref(), Some("-2.25"));
        assert_eq!(text("1e3", b'+', "0").as_deref(), Some("1000"));
        let wide = "9".repeat(38);
        assert_eq!(text(&wide, b'*', &wide), None);
        assert_eq!(text(&"9".repeat(60), b'+', "1"), None);
    }

    #[test]
    fn numbers_become_text() {
        for (number, text) in [
            ("007", "7"),
            (".5", "0.5"),
            ("5.", "5"),
            ("1.50", "1.50"),
            ("-0", "0"),
            ("-.25", "-0.25"),
            ("1e3", "1000"),
            ("1.5e-3", "0.0015"),
            ("1e20", "1e20"),
            ("0", "0"),
        ] {
            assert_eq!(String::from_utf8(as_text(number.as_bytes())).unwrap(), text, "{number}");
        }
    }

    #[test]
    fn floats() {
        assert_eq!(float(b"1e20", f64::from(f32::MAX), false).1, Fit::Exact);
        assert_eq!(float(b"1e40", f64::from(f32::MAX), false).1, Fit::Adapted);
        assert_eq!(float(b"1.5x", f64::MAX, false), (b"1.5".to_vec(), Fit::Adapted));
        assert_eq!(float(b"", f64::MAX, false), (b"0".to_vec(), Fit::Adapted));
    }
}
