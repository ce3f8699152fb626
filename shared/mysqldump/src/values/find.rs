//! Byte searches for short runs: most strings of a dump are shorter than what it costs to call a
//! vector search, so the first bytes are looked at eight at a time here.

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// A word whose bytes that are zero in `word` have their top bit set (bytes above the lowest such
/// one may be wrong, so only the lowest is used).
#[inline]
fn zero_bytes(word: u64) -> u64 {
    word.wrapping_sub(LOW) & !word & HIGH
}

#[inline]
fn load(bytes: &[u8], at: usize) -> Option<u64> {
    let chunk = bytes.get(at..at + 8)?;
    let mut buffer = [0_u8; 8];
    buffer.copy_from_slice(chunk);
    Some(u64::from_le_bytes(buffer))
}

/// Position of the first `a` or `b`.
#[inline]
pub(crate) fn either(bytes: &[u8], a: u8, b: u8) -> Option<usize> {
    let (wide_a, wide_b) = (LOW * u64::from(a), LOW * u64::from(b));
    let mut at = 0;
    while at < 64 {
        let Some(word) = load(bytes, at) else {
            return bytes[at..].iter().position(|&c| c == a || c == b).map(|p| at + p);
        };
        let hits = zero_bytes(word ^ wide_a) | zero_bytes(word ^ wide_b);
        if hits != 0 {
            return Some(at + (hits.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    memchr::memchr2(a, b, &bytes[at..]).map(|p| at + p)
}

/// Position of the first byte at or after `at` that means something inside a row tuple, outside
/// strings: all of `! " # $ % & ' ( ) * + - /` and the bytes below 0x20, except the blank. Commas
/// and points, which numbers are full of, are passed over.
#[inline]
pub(crate) fn tuple_stop(bytes: &[u8], mut at: usize) -> Option<usize> {
    while let Some(word) = load(bytes, at) {
        // Both tests are exact for every byte, without carries from one to the next.
        let below = !((word | HIGH).wrapping_sub(LOW * 0x30)) & !word & HIGH;
        let comma_or_point = (word | (LOW * 0x02)) ^ (LOW * 0x2e);
        let blank = word ^ (LOW * 0x20);
        let plain = is_zero(comma_or_point) | is_zero(blank);
        let hits = below & !plain;
        if hits != 0 {
            return Some(at + (hits.trailing_zeros() / 8) as usize);
        }
        at += 8;
    }
    let rest = bytes.get(at..)?;
    rest.iter().position(|&b| b < 0x30 && !matches!(b, b',' | b'.' | b' ')).map(|p| at + p)
}

/// The top bit of each byte that is zero, exactly.
#[inline]
fn is_zero(word: u64) -> u64 {
    !((word & !HIGH).wrapping_add(!HIGH) | word) & HIGH
}

/// A bare number of at most 16 characters, found without a branch for each of them. Most have
/// fewer than eight, which one machine word holds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number {
    low: u64,
    high: u64,
    /// Characters up to the comma or parenthesis.
    pub(crate) length: usize,
}

/// The top bit of the lowest byte that is a comma or a parenthesis.
#[inline]
fn number_end(word: u64) -> u64 {
    zero_bytes(word ^ (LOW * u64::from(b','))) | zero_bytes(word ^ (LOW * u64::from(b')')))
}

/// Whether the first `length` characters, at most eight, are digits.
#[inline]
fn are_digits(word: u64, length: usize) -> bool {
    if length == 0 {
        return true;
    }
    // Shifted out to the left are the characters that follow; zero digits come in.
    let spare = 8 * (8 - length);
    let word = (word << spare) | ((LOW * u64::from(b'0')) & !(u64::MAX << spare));
    let (high_nibbles, threes) = (LOW * 0xf0, LOW * 0x30);
    word & high_nibbles == threes && word.wrapping_add(LOW * 0x06) & high_nibbles == threes
}

impl Number {
    /// The number at a position; `None` when no comma or parenthesis follows within 16 bytes.
    #[inline]
    pub(crate) fn at(bytes: &[u8], at: usize) -> Option<Self> {
        let low = load(bytes, at)?;
        let hits = number_end(low);
        if hits != 0 {
            return Some(Self { low, high: 0, length: (hits.trailing_zeros() / 8) as usize });
        }
        let high = load(bytes, at + 8)?;
        let hits = number_end(high);
        let length = 8 + (hits.trailing_zeros() / 8) as usize;
        (hits != 0).then_some(Self { low, high, length })
    }

    /// Whether all characters are digits, but for a point before the last `scale` of them.
    #[inline]
    pub(crate) fn is_decimal(self, scale: usize) -> bool {
        let (mut low, mut high) = (self.low, self.high);
        if self.length == 0 {
            return false;
        }
        if scale > 0 {
            if self.length < scale + 2 {
                return false;
            }
            let place = self.length - 1 - scale;
            let word = if place < 8 { &mut low } else { &mut high };
            let point = 8 * (place % 8);
            if (*word >> point) as u8 != b'.' {
                return false;
            }
            *word ^= u64::from(b'.' ^ b'0') << point;
        }
        are_digits(low, self.length.min(8))
            && (self.length <= 8 || are_digits(high, self.length - 8))
    }

    /// The first character.
    #[inline]
    pub(crate) fn first(self) -> u8 {
        self.low as u8
    }

    /// Appends the characters.
    #[inline]
    pub(crate) fn push(self, out: &mut Vec<u8>) {
        let length = out.len() + self.length;
        if self.length <= 8 {
            out.extend_from_slice(&self.low.to_le_bytes());
        } else {
            let mut both = [0; 16];
            both[..8].copy_from_slice(&self.low.to_le_bytes());
            both[8..].copy_from_slice(&self.high.to_le_bytes());
            out.extend_from_slice(&both);
        }
        out.truncate(length);
    }
}

/// Position of the first byte at or after `at` that needs attention inside a string (a quote, a
/// backslash, a control character), and whether any byte before it is above 0x7f. `None`: the
/// string does not end in these bytes.
#[inline]
pub(crate) fn text_stop(bytes: &[u8], mut at: usize) -> Option<(usize, bool)> {
    let (quote, backslash) = (LOW * u64::from(b'\''), LOW * u64::from(b'\\'));
    let mut high = 0;
    while let Some(word) = load(bytes, at) {
        // Bytes below 0x20: those whose top three bits are clear.
        let control = word.wrapping_sub(LOW * 0x20) & !word & HIGH;
        let hits = zero_bytes(word ^ quote) | zero_bytes(word ^ backslash) | control;
        if hits != 0 {
            let before = (hits & hits.wrapping_neg()) - 1;
            return Some((
                at + (hits.trailing_zeros() / 8) as usize,
                (high | (word & before)) & HIGH != 0,
            ));
        }
        high |= word;
        at += 8;
    }
    let rest = bytes.get(at..)?;
    let stop = rest.iter().position(|&b| b == b'\'' || b == b'\\' || b < 0x20)?;
    let late = rest[..stop].iter().any(|b| !b.is_ascii());
    Some((at + stop, high & HIGH != 0 || late))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuple_stops_are_exact() {
        let stops: Vec<u8> =
            (0..=255).filter(|&b| b < 0x30 && !matches!(b, b',' | b'.' | b' ')).collect();
        for before in 0..=255_u8 {
            for byte in 0..=255_u8 {
                let text = [b'1', before, byte, b'0', b',', b'-', b'1', b'2', b'3', b'4'];
                let wanted = text.iter().position(|b| stops.contains(b));
                assert_eq!(tuple_stop(&text, 0), wanted, "{text:?}");
            }
        }
    }

    #[test]
    fn numbers_of_any_length() {
        for length in 0..16_usize {
            for scale in 0..8_usize {
                for wrong in 0..=length {
                    let mut text = vec![b'7'; length];
                    if scale > 0 && length >= scale + 2 {
                        text[length - 1 - scale] = b'.';
                    }
                    let right = length > 0 && (scale == 0 || length >= scale + 2);
                    let spoiled = wrong < length && text[wrong] != b'.';
                    if spoiled {
                        text[wrong] = if length % 2 == 0 { b':' } else { b'/' };
                    }
                    text.push(if scale % 2 == 0 { b',' } else { b')' });
                    text.extend_from_slice(b"0123456789abcdef");
                    let number = Number::at(&text, 0).unwrap();
                    assert_eq!(number.length, length);
                    assert_eq!(number.is_decimal(scale), right && !spoiled);
                    let mut out = Vec::new();
                    number.push(&mut out);
                    assert_eq!(out, text[..length]);
                }
            }
        }
        assert!(Number::at(b"1234567890123456,", 0).is_none());
        assert!(Number::at(b"1,", 0).is_none());
        assert_eq!(Number::at(b"1,345678", 0).map(|number| number.length), Some(1));
    }

    #[test]
    fn text_stops_are_exact() {
        for length in 0..40 {
            for hit in 0..length {
                for needle in [b'\'', b'\\', 0x1f, 0] {
                    for high_at in 0..length {
                        let mut text = vec![b' '; length];
                        text[high_at] = 0xc3;
                        text[hit] = needle;
                        let high = high_at < hit;
                        assert_eq!(text_stop(&text, 0), Some((hit, high)));
                    }
                }
            }
            assert_eq!(text_stop(&vec![0x80; length], 0), None);
        }
    }

    #[test]
    fn finds_the_first_everywhere() {
        for length in 0..100 {
            for hit in 0..length {
                for needle in [b'\'', b'\\'] {
                    let mut text = vec![b'x'; length];
                    text[hit] = needle;
                    for (later, byte) in text.iter_mut().enumerate().skip(hit + 1) {
                        *byte = if later % 2 == 0 { b'\'' } else { 0x80 };
                    }
                    assert_eq!(either(&text, b'\'', b'\\'), Some(hit));
                }
            }
            assert_eq!(either(&vec![0x26; length], b'\'', b'\\'), None);
        }
    }
}
