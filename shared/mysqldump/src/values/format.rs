//! Dates written in a format of somebody's own, as STR_TO_DATE reads them.

use crate::values::date::{Moment, fraction, full_year, plain_time, two};

/// Names of months, as STR_TO_DATE knows them.
const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];

/// What `STR_TO_DATE(text, format)` makes: a date, with its time of day where the format has one.
/// `None`: it is no such date, or the format holds what is not known here.
pub(crate) fn by_format(text: &[u8], format: &[u8]) -> Option<Vec<u8>> {
    let mut moment = Moment::default();
    let (mut at, mut clock, mut afternoon) = (0, false, None);
    let mut letters = format.iter().copied();
    while let Some(letter) = letters.next() {
        if letter != b'%' {
            let blank = letter.is_ascii_whitespace();
            if !blank && text.get(at) != Some(&letter) {
                return None;
            }
            while blank && text.get(at).is_some_and(u8::is_ascii_whitespace) {
                at += 1;
            }
            at += usize::from(!blank);
            continue;
        }
        let word = |at: usize| {
            let end = text[at..].iter().take_while(|b| b.is_ascii_alphabetic()).count();
            text[at..at + end].to_ascii_lowercase()
        };
        let letter = letters.next()?;
        if matches!(letter, b'M' | b'b' | b'p' | b'a' | b'W') {
            let word = word(at);
            at += word.len();
            let long = |name: &&str| name.as_bytes() == word;
            match letter {
                b'M' => moment.month = MONTHS.iter().position(long)? as u32 + 1,
                b'b' => {
                    let short = |name: &&str| name.as_bytes().get(..3) == Some(&word[..]);
                    moment.month = MONTHS.iter().position(short)? as u32 + 1;
                }
                b'p' => afternoon = Some(word == b"pm"),
                _ => {}
            }
            continue;
        }
        if letter == b'T' {
            let time = text.get(at..at + 8).filter(|time| plain_time(time))?;
            (moment.hour, moment.minute, moment.second) =
                (two(&time[..2]), two(&time[3..5]), two(&time[6..]));
            (at, clock) = (at + 8, true);
            continue;
        }
        let width = match letter {
            b'Y' => 4,
            b'f' => 6,
            _ => 2,
        };
        let digits = text[at..].iter().take(width).take_while(|b| b.is_ascii_digit()).count();
        let read = &text[at..at + digits];
        let number = || std::str::from_utf8(read).ok()?.parse::<u32>().ok();
        at += digits;
        clock |= b"HkhIlisSf".contains(&letter);
        match letter {
            b'Y' => moment.year = number()?,
            b'y' => moment.year = full_year(number()?),
            b'm' | b'c' => moment.month = number()?,
            b'd' | b'e' => moment.day = number()?,
            b'H' | b'k' | b'h' | b'I' | b'l' => moment.hour = number()?,
            b'i' => moment.minute = number()?,
            b's' | b'S' => moment.second = number()?,
            b'f' => moment.microsecond = fraction(read),
            _ => return None,
        }
    }
    if let Some(afternoon) = afternoon {
        moment.hour = moment.hour % 12 + if afternoon { 12 } else { 0 };
    }
    if at != text.len() || !moment.is_real() {
        return None;
    }
    let mut out = Vec::new();
    if clock {
        moment.push(6, &mut out);
    } else {
        moment.push_date(&mut out);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_by_format() {
        let text = |text: &str, format: &str| {
            by_format(text.as_bytes(), format.as_bytes()).map(|t| String::from_utf8(t).unwrap())
        };
        for (value, format, wanted) in [
            ("17-JUN-1987", "%d-%M-%Y", None),
            ("17-JUN-1987", "%d-%b-%Y", Some("1987-06-17")),
            ("June 7, 1987", "%M %e, %Y", Some("1987-06-07")),
            ("01/02/20 03:04:05 PM", "%m/%d/%y %h:%i:%s %p", Some("2020-01-02 15:04:05")),
            ("2020-01-02T03:04:05.25", "%Y-%m-%dT%H:%i:%s.%f", Some("2020-01-02 03:04:05.25")),
            ("20200102 03:04:05", "%Y%m%d %T", Some("2020-01-02 03:04:05")),
            ("2020-02-31", "%Y-%m-%d", None),
            ("2020-01-02x", "%Y-%m-%d", None),
            ("2020", "%Y", None),
            ("5", "%j", None),
        ] {
            assert_eq!(text(value, format).as_deref(), wanted, "{value}");
        }
    }
}
