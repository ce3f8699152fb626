//! Character sets: bytes of a dump to UTF-8.

use encoding_rs::Encoding;

/// How the bytes of text become UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Decoder {
    /// UTF-8, strictly.
    Utf8,
    /// The dump names no character set: UTF-8, or Windows-1252 for a value that is not.
    Auto,
    /// MySQL's latin1, which is Windows-1252 with the five holes as control characters.
    Latin1,
    /// Any other known character set.
    Other(&'static Encoding),
    /// MySQL's sjis, in which the full-width backslash of cp932 is the plain one.
    Sjis,
    /// Each column's bytes are in the column's own character set (`SET NAMES binary`).
    PerColumn,
}

impl Decoder {
    /// Text by a table of characters, and whether some bytes have none; `None` when no such table
    /// is needed.
    pub(crate) fn by_table(self, bytes: &[u8]) -> Option<(String, bool)> {
        let encoding = match self {
            Self::Other(encoding) => encoding,
            Self::Sjis => encoding_rs::SHIFT_JIS,
            Self::Utf8 | Self::Auto | Self::Latin1 | Self::PerColumn => return None,
        };
        let (text, bad) = encoding.decode_without_bom_handling(bytes);
        let text = match self {
            Self::Sjis => text.replace('\u{ff3c}', "\\"),
            _ => text.into_owned(),
        };
        Some((text, bad))
    }
}

/// The decoder of a MySQL character set; `None` when it is not known.
pub(crate) fn decoder(charset: Option<&str>) -> Option<Decoder> {
    let Some(charset) = charset else { return Some(Decoder::Auto) };
    let encoding = match charset {
        "utf8" | "utf8mb3" | "utf8mb4" | "ascii" => return Some(Decoder::Utf8),
        "latin1" | "cp1252" => return Some(Decoder::Latin1),
        "binary" => return Some(Decoder::PerColumn),
        "latin2" => encoding_rs::ISO_8859_2,
        "latin5" => encoding_rs::WINDOWS_1254,
        "latin7" => encoding_rs::ISO_8859_13,
        "greek" => encoding_rs::ISO_8859_7,
        "hebrew" => encoding_rs::ISO_8859_8,
        "cp1250" => encoding_rs::WINDOWS_1250,
        "cp1251" => encoding_rs::WINDOWS_1251,
        "cp1256" => encoding_rs::WINDOWS_1256,
        "cp1257" => encoding_rs::WINDOWS_1257,
        "cp866" => encoding_rs::IBM866,
        "koi8r" => encoding_rs::KOI8_R,
        "koi8u" => encoding_rs::KOI8_U,
        "macroman" => encoding_rs::MACINTOSH,
        "tis620" => encoding_rs::WINDOWS_874,
        "gbk" | "gb2312" => encoding_rs::GBK,
        "gb18030" => encoding_rs::GB18030,
        "big5" => encoding_rs::BIG5,
        "sjis" => return Some(Decoder::Sjis),
        "cp932" => encoding_rs::SHIFT_JIS,
        "ujis" | "eucjpms" => encoding_rs::EUC_JP,
        "euckr" => encoding_rs::EUC_KR,
        // Only columns are in these, and only under SET NAMES binary.
        "utf16" | "ucs2" => encoding_rs::UTF_16BE,
        "utf16le" => encoding_rs::UTF_16LE,
        _ => return None,
    };
    Some(Decoder::Other(encoding))
}

/// Character sets in which the second byte of a character may look like a backslash or a quote,
/// so that strings cannot be read byte by byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DoubleByte {
    /// sjis and cp932.
    Sjis,
    /// gbk, gb2312 and gb18030.
    Gbk,
    /// big5.
    Big5,
}

impl DoubleByte {
    /// The rule of a character set, where it needs one.
    pub(crate) fn of(charset: Option<&str>) -> Option<Self> {
        match charset? {
            "sjis" | "cp932" => Some(Self::Sjis),
            "gbk" | "gb2312" | "gb18030" => Some(Self::Gbk),
            "big5" => Some(Self::Big5),
            _ => None,
        }
    }

    /// Whether a byte can begin a character of two.
    pub(crate) fn leads(self, byte: u8) -> bool {
        match self {
            Self::Sjis => matches!(byte, 0x81..=0x9f | 0xe0..=0xfc),
            Self::Gbk => matches!(byte, 0x81..=0xfe),
            Self::Big5 => matches!(byte, 0xa1..=0xf9),
        }
    }

    /// Whether a byte can end one.
    pub(crate) fn trails(self, byte: u8) -> bool {
        match self {
            Self::Sjis => matches!(byte, 0x40..=0x7e | 0x80..=0xfc),
            Self::Gbk => matches!(byte, 0x40..=0x7e | 0x80..=0xfe),
            Self::Big5 => matches!(byte, 0x40..=0x7e | 0xa1..=0xfe),
        }
    }
}

/// Text of a statement: never fails, since names and comments must not stop a dump.
pub(crate) fn decode(bytes: &[u8], charset: Option<&str>) -> String {
    match decoder(charset) {
        Some(Decoder::Latin1) => latin1(bytes),
        Some(decoder @ (Decoder::Other(_) | Decoder::Sjis)) => {
            decoder.by_table(bytes).map(|(text, _)| text).unwrap_or_default()
        }
        _ => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) if charset.is_none() => latin1(bytes),
            Err(_) => String::from_utf8_lossy(bytes).into_owned(),
        },
    }
}

/// Windows-1252 to UTF-8; every byte has a meaning.
pub(crate) fn latin1(bytes: &[u8]) -> String {
    encoding_rs::WINDOWS_1252.decode_without_bom_handling(bytes).0.into_owned()
}

/// Appends text as COPY text: backslash and the control characters that COPY itself escapes.
pub(crate) fn push_copy(text: &[u8], out: &mut Vec<u8>) {
    for &byte in text {
        match copy_escape(byte) {
            0 => out.push(byte),
            letter => out.extend_from_slice(&[b'\\', letter]),
        }
    }
}

/// The letter after the backslash with which `COPY … TO` writes a byte; 0 for bytes as they are.
#[inline]
pub(crate) fn copy_escape(byte: u8) -> u8 {
    match byte {
        b'\\' => b'\\',
        b'\t' => b't',
        b'\n' => b'n',
        b'\r' => b'r',
        0x08 => b'b',
        0x0b => b'v',
        0x0c => b'f',
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latin1_is_windows_1252() {
        assert_eq!(decode(b"\x93caf\xe9\x94 \x80", Some("latin1")), "“café” €");
        assert_eq!(latin1(&[0x81, 0x8d, 0x8f, 0x90, 0x9d]), "\u{81}\u{8d}\u{8f}\u{90}\u{9d}");
    }

    #[test]
    fn no_named_charset_is_utf8_or_latin1() {
        assert_eq!(decode("ñ".as_bytes(), None), "ñ");
        assert_eq!(decode(b"\xf1", None), "ñ");
        assert_eq!(decoder(Some("klingon")), None);
    }

    #[test]
    fn sjis_has_one_backslash() {
        assert_eq!(decode(b"\x81\x5fN\x5c\x83\x5c", Some("sjis")), "\\N\\ソ");
        assert_eq!(decode(b"\x81\x5f", Some("cp932")), "＼");
    }

    #[test]
    fn copy_text() {
        let mut out = Vec::new();
        push_copy(b"a\\\t\n\r\x08\x0b\x0c\x01", &mut out);
        assert_eq!(out, b"a\\\\\\t\\n\\r\\b\\v\\f\x01");
    }
}
