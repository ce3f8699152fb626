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
