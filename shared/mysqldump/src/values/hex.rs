//! Bytes as COPY text of a `bytea`.

/// The two hex digits of each byte.
const DIGITS: [[u8; 2]; 256] = {
    let letters = b"0123456789abcdef";
    let mut digits = [[0_u8; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        digits[byte] = [letters[byte >> 4], letters[byte & 15]];
        byte += 1;
    }
    digits
};

/// Appends `\\x…`, padded with zero bytes to a length. The backslash is doubled for COPY.
pub(crate) fn push(bytes: &[u8], pad: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(b"\\\\x");
    let from = out.len();
    out.resize(from + bytes.len().max(pad) * 2, b'0');
    for (pair, &byte) in out[from..].as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = DIGITS[byte as usize];
    }
}

/// Appends the digits of bytes.
pub(crate) fn push_digits(bytes: &[u8], out: &mut Vec<u8>) {
    for &byte in bytes {
        out.extend_from_slice(&DIGITS[byte as usize]);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn padded_hex() {
        let mut out = Vec::new();
        super::push(&[0x00, 0xaf], 3, &mut out);
        assert_eq!(out, b"\\\\x00af00");
    }
}
