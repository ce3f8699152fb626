//! Dates and times: what MySQL writes and accepts, as Postgres reads it.

/// A parsed date with its time of day; not yet known to exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Moment {
    pub(crate) year: u32,
    pub(crate) month: u32,
    pub(crate) day: u32,
    pub(crate) hour: u32,
    pub(crate) minute: u32,
    pub(crate) second: u32,
    pub(crate) microsecond: u32,
}

/// The number that two digits are.
#[inline]
pub(super) fn two(bytes: &[u8]) -> u32 {
    u32::from(bytes[0].wrapping_sub(b'0')) * 10 + u32::from(bytes[1].wrapping_sub(b'0'))
}

/// Whether these ten bytes are `YYYY-MM-DD` and a day of the calendar that Postgres has too.
/// `None`: another form.
#[inline]
pub(crate) fn plain_date(bytes: &[u8; 10]) -> Option<bool> {
    let digits = [0, 1, 2, 3, 5, 6, 8, 9].iter().all(|&at| bytes[at].is_ascii_digit());
    if !digits || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let (month, day) = (two(&bytes[5..7]), two(&bytes[8..10]));
    if (1..=12).contains(&month) && (1..=28).contains(&day) {
        // Only the year 0 is left to refuse: Postgres has none.
        return Some(bytes[..4] != *b"0000");
    }
    let year = two(&bytes[..2]) * 100 + two(&bytes[2..4]);
    Some(exists(year, month, day))
}

/// Whether these bytes, eight long, are `HH:MM:SS` of a day.
#[inline]
pub(crate) fn plain_time(bytes: &[u8]) -> bool {
    [0, 1, 3, 4, 6, 7].iter().all(|&at| bytes[at].is_ascii_digit())
        && bytes[2] == b':'
        && bytes[5] == b':'
        && two(&bytes[..2]) < 24
        && two(&bytes[3..5]) < 60
        && two(&bytes[6..8]) < 60
}

/// Whether a day exists in the calendar, year 0 excluded.
pub(crate) fn exists(year: u32, month: u32, day: u32) -> bool {
    let leap = year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => 0,
    };
    (1..=9999).contains(&year) && (1..=days).contains(&day)
}

/// Whether a text is a date, with or without a time of day, that exists.
pub(crate) fn is_valid(text: &[u8]) -> bool {
    parse(text).is_some_and(|m| m.is_real())
}

impl Moment {
    /// The day exists and the time of day, too.
    pub(crate) fn is_real(&self) -> bool {
        exists(self.year, self.month, self.day)
            && self.hour < 24
            && self.minute < 60
            && self.second < 60
    }

    /// The moment so many seconds after 1970 began; `None` past year 9999 or before year 1.
    pub(crate) fn at(seconds: i64) -> Option<Self> {
        let (days, clock) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as u32);
        // Years that begin in March, in cycles of 400: a leap day is the last of its year.
        let days = days + 719_468;
        let (cycle, of_cycle) = (days.div_euclid(146_097), days.rem_euclid(146_097));
        let of_year = (of_cycle - of_cycle / 1_460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
        let day = of_cycle - (365 * of_year + of_year / 4 - of_year / 100);
        let month = (5 * day + 2) / 153;
        let (day, march) = (day - (153 * month + 2) / 5 + 1, month < 10);
        let year = cycle * 400 + of_year + i64::from(!march);
        let moment = Self {
            year: u32::try_from(year).ok()?,
            month: if march { month + 3 } else { month - 9 } as u32,
            day: day as u32,
            hour: clock / 3600,
            minute: clock / 60 % 60,
            second: clock % 60,
            microsecond: 0,
        };
        moment.is_real().then_some(moment)
    }

    /// Seconds since 1970 began.
    pub(crate) fn seconds(&self) -> i64 {
        let year = i64::from(self.year) - i64::from(self.month <= 2);
        let (cycle, of_cycle) = (year.div_euclid(400), year.rem_euclid(400));
        let month = i64::from((self.month + 9) % 12);
        let of_year = (153 * month + 2) / 5 + i64::from(self.day) - 1;
        let days = cycle * 146_097 + of_cycle * 365 + of_cycle / 4 - of_cycle / 100 + of_year;
        let clock = self.hour * 3600 + self.minute * 60 + self.second;
        (days - 719_468) * 86_400 + i64::from(clock)
    }

    /// Appends `YYYY-MM-DD`.
    pub(crate) fn push_date(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(
            format!("{:04}-{:02}-{:02}", self.year, self.month, self.day).as_bytes(),
        );
    }

    /// Appends `YYYY-MM-DD HH:MM:SS[.ffffff]`, cut to so many fractional digits as MySQL stores.
    pub(crate) fn push(&self, fsp: u32, out: &mut Vec<u8>) {
        self.push_date(out);
        let time = format!(" {:02}:{:02}:{:02}", self.hour, self.minute, self.second);
        out.extend_from_slice(time.as_bytes());
        push_fraction(self.microsecond, fsp, out);
    }
}

/// Appends `.ffffff` without trailing zeros, at most `fsp` digits.
pub(crate) fn push_fraction(microsecond: u32, fsp: u32, out: &mut Vec<u8>) {
    let digits = format!("{microsecond:06}");
    let digits = digits[..fsp.min(6) as usize].trim_end_matches('0');
    if !digits.is_empty() {
        out.push(b'.');
        out.extend_from_slice(digits.as_bytes());
    }
}

/// Reads any of MySQL's forms: with separators (`2020-1-2 3:04:05.6`, any punctuation), or
/// digits only (`20200102`, `200102030405`). `None`: no date at all.
pub(crate) fn parse(text: &[u8]) -> Option<Moment> {
    let text = text.trim_ascii();
    if text.is_empty() || !text[0].is_ascii_digit() {
        return None;
    }
    let whole = text.split(|&b| b == b'.').next().unwrap_or(text);
    if whole.iter().all(u8::is_ascii_digit) && whole.len() >= 5 {
        return parse_digits(whole, &text[whole.len()..]);
    }
    let mut numbers = [0_u32; 6];
    let mut widths = [0_usize; 6];
    let mut field = 0;
    let mut at = 0;
    let mut microsecond = 0;
    while at < text.len() {
        if !text[at].is_ascii_digit() {
            // One or more separators: punctuation, blanks or the T of ISO 8601.
            if text[at].is_ascii_alphabetic() && text[at] != b'T' {
                return None;
            }
            at += 1;
            continue;
        }
        let start = at;
        while at < text.len() && text[at].is_ascii_digit() {
            at += 1;
        }
        if field == 6 {
            microsecond = fraction(&text[start..at]);
            break;
        }
        let digits = std::str::from_utf8(&text[start..at]).ok()?;
        numbers[field] = digits.parse().ok()?;
        widths[field] = at - start;
        field += 1;
    }
    if field < 3 {
        return None;
    }
    let [year, month, day, hour, minute, second] = numbers;
    let year = if widths[0] <= 2 { full_year(year) } else { year };
    Some(Moment { year, month, day, hour, minute, second, microsecond })
}

fn parse_digits(digits: &[u8], rest: &[u8]) -> Option<Moment> {
    // Numbers lose leading zeros: 70101 is 2007-01-01.
    let width = match digits.len() {
        5 | 6 => 6,
        7 | 8 => 8,
        9..=12 => 12,
        13 | 14 => 14,
        _ => return None,
    };
    let mut padded = vec![b'0'; width - digits.len()];
    padded.extend_from_slice(digits);
    let number = |from: usize, to: usize| -> u32 {
        padded[from..to].iter().fold(0, |n, b| n * 10 + u32::from(b - b'0'))
    };
    let (year, at) = match width {
        6 | 12 => (full_year(number(0, 2)), 2),
        _ => (number(0, 4), 4),
    };
    let mut moment = Moment {
        year,
        month: number(at, at + 2),
        day: number(at + 2, at + 4),
        ..Moment::default()
    };
    if width >= 12 {
        moment.hour = number(at + 4, at + 6);
        moment.minute = number(at + 6, at + 8);
        moment.second = number(at + 8, at + 10);
        moment.microsecond = rest.strip_prefix(b".").map_or(0, fraction);
    }
    Some(moment)
}

/// MySQL's rule for years of two digits.
pub(crate) fn full_year(year: u32) -> u32 {
    if year < 70 { 2000 + year } else { 1900 + year }
}

/// Microseconds of the digits after the point.
pub(super) fn fraction(digits: &[u8]) -> u32 {
    (0..6).fold(0, |n, at| {
        let digit = digits.get(at).filter(|b| b.is_ascii_digit()).map_or(0, |b| b - b'0');
        n * 10 + u32::from(digit)
    })
}

/// A duration as Postgres' interval reads it, `[-]H…:MM:SS[.f]`. `None`: no duration.
pub(crate) fn duration(text: &[u8], fsp: u32) -> Option<Vec<u8>> {
    let text = text.trim_ascii();
    let (negative, text) = match text.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let point = text.iter().position(|&b| b == b'.').unwrap_or(text.len());
    let (whole, rest) = text.split_at(point);
    let microsecond = rest.strip_prefix(b".").map_or(0, fraction);
    let whole = std::str::from_utf8(whole).ok()?;
    let (days, clock) = match whole.split_once(' ') {
        Some((days, clock)) => (days.parse::<u32>().ok()?, clock),
        None => (0, whole),
    };
    let number = |part: &str| -> Option<u32> {
        (!part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
            .then(|| part.parse().ok())
            .flatten()
    };
    let parts: Vec<&str> = clock.split(':').collect();
    let (hours, minutes, seconds) = match parts.as_slice() {
        [hours, minutes, seconds] => (number(hours)?, number(minutes)?, number(seconds)?),
        [hours, minutes] => (number(hours)?, number(minutes)?, 0),
        [hours] if days > 0 => (number(hours)?, 0, 0),
        [digits] => {
            let number = number(digits)?;
            (number / 10_000, number / 100 % 100, number % 100)
        }
        _ => return None,
    };
    if minutes > 59 || seconds > 59 {
        return None;
    }
    let mut out = Vec::new();
    let hours = days.checked_mul(24)?.checked_add(hours)?;
    if hours > 838 {
        // The server keeps what is beyond its range at the limit.
        out.extend_from_slice(if negative { b"-838:59:59" } else { b"838:59:59" });
        return Some(out);
    }
    if negative && (hours, minutes, seconds, microsecond) != (0, 0, 0, 0) {
        out.push(b'-');
    }
    out.extend_from_slice(format!("{hours:02}:{minutes:02}:{seconds:02}").as_bytes());
    push_fraction(microsecond, fsp, &mut out);
    Some(out)
}

/// Seconds east of Greenwich of a zone that is an offset, or UTC.
pub(crate) fn zone_offset(zone: &str) -> Option<i64> {
    let suffix = String::from_utf8(zone_suffix(zone)?).ok()?;
    let sign = match suffix.as_bytes().first()? {
        b'-' => -1,
        b'+' => 1,
        _ => return None,
    };
    let (hours, minutes) = suffix[1..].split_once(':').unwrap_or((&suffix[1..], "0"));
    Some(sign * (hours.parse::<i64>().ok()? * 3600 + minutes.parse::<i64>().ok()? * 60))
}

/// What is appended to a timestamp so that Postgres reads it in the dump's zone: an offset as
/// Postgres prints it, or a blank and the zone's name. `None`: neither.
pub(crate) fn zone_suffix(zone: &str) -> Option<Vec<u8>> {
    let zone = zone.trim();
    if zone.eq_ignore_ascii_case("utc") || zone.eq_ignore_ascii_case("gmt") {
        return Some(b"+00".to_vec());
    }
    if let Some(sign @ (b'+' | b'-')) = zone.as_bytes().first() {
        let (hours, minutes) = zone[1..].split_once(':').unwrap_or((&zone[1..], "0"));
        let (hours, minutes) = (hours.parse::<u32>().ok()?, minutes.parse::<u32>().ok()?);
        if hours > 14 || minutes > 59 {
            return None;
        }
        // A zone of −00:00 is UTC, which prints as +00.
        let sign = if (hours, minutes) == (0, 0) { '+' } else { *sign as char };
        return Some(match minutes {
            0 => format!("{sign}{hours:02}").into_bytes(),
            _ => format!("{sign}{hours:02}:{minutes:02}").into_bytes(),
        });
    }
    let named = zone.len() <= 64
        && zone
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-' | b'+'));
    (named && !zone.is_empty()).then(|| format!(" {zone}").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> Option<String> {
        let mut out = Vec::new();
        parse(text.as_bytes()).filter(Moment::is_real)?.push(6, &mut out);
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn forms_of_dates() {
        for (text, wanted) in [
            ("2020-01-02", "2020-01-02 00:00:00"),
            ("2020-1-2 3:4:5", "2020-01-02 03:04:05"),
            ("2020-01-02T03:04:05.120000", "2020-01-02 03:04:05.12"),
            ("20200102", "2020-01-02 00:00:00"),
            ("20200102030405", "2020-01-02 03:04:05"),
            ("70-01-02", "1970-01-02 00:00:00"),
            ("69-01-02", "2069-01-02 00:00:00"),
            ("70101", "2007-01-01 00:00:00"),
        ] {
            assert_eq!(normal(text).as_deref(), Some(wanted), "{text}");
        }
        for text in ["0000-00-00", "2020-00-01", "2020-01-00", "2023-02-31", "x", "", "0000-05-05"]
        {
            assert_eq!(normal(text), None, "{text}");
        }
    }

    #[test]
    fn plain_forms() {
        assert_eq!(plain_date(b"2020-02-29"), Some(true));
        assert_eq!(plain_date(b"2021-02-29"), Some(false));
        assert_eq!(plain_date(b"0000-00-00"), Some(false));
        assert_eq!(plain_date(b"0000-01-01"), Some(false));
        assert_eq!(plain_date(b"2020/02/29"), None);
        assert!(plain_time(b"23:59:59") && !plain_time(b"24:00:00") && !plain_time(b"1:00:000"));
    }

    #[test]
    fn durations() {
        let text = |t: &str| duration(t.as_bytes(), 6).map(|d| String::from_utf8(d).unwrap());
        assert_eq!(text("-838:59:59.500000").as_deref(), Some("-838:59:59.5"));
        assert_eq!(text("1 02:03:04").as_deref(), Some("26:03:04"));
        assert_eq!(text("101112").as_deref(), Some("10:11:12"));
        assert_eq!(text("9:5").as_deref(), Some("09:05:00"));
        assert_eq!(text("-00:00:00").as_deref(), Some("00:00:00"));
        assert_eq!(text("900:00:00").as_deref(), Some("838:59:59"));
        assert_eq!(text("10:70:00"), None);
    }

    #[test]
    fn days_and_seconds() {
        for (seconds, wanted) in [
            (0, "1970-01-01 00:00:00"),
            (951_782_400, "2000-02-29 00:00:00"),
            (4_102_444_799, "2099-12-31 23:59:59"),
            (-1, "1969-12-31 23:59:59"),
            (-62_135_596_800, "0001-01-01 00:00:00"),
            (253_402_300_799, "9999-12-31 23:59:59"),
        ] {
            let moment = Moment::at(seconds).unwrap();
            let mut out = Vec::new();
            moment.push(0, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), wanted);
            assert_eq!(moment.seconds(), seconds);
        }
        assert_eq!(Moment::at(253_402_300_800), None);
        assert_eq!(Moment::at(i64::MAX / 2), None);
    }

    #[test]
    fn zones() {
        assert_eq!(zone_offset("-06:30"), Some(-23_400));
        assert_eq!(zone_offset("UTC"), Some(0));
        assert_eq!(zone_offset("America/Mexico_City"), None);
        let text = |z: &str| zone_suffix(z).map(|s| String::from_utf8(s).unwrap());
        assert_eq!(text("+00:00").as_deref(), Some("+00"));
        assert_eq!(text("-06:00").as_deref(), Some("-06"));
        assert_eq!(text("+05:30").as_deref(), Some("+05:30"));
        assert_eq!(text("America/Mexico_City").as_deref(), Some(" America/Mexico_City"));
        assert_eq!(text("x'; DROP"), None);
    }
}
