//! Tokens of one statement: for definitions, ALTERs and expressions, not for rows.

/// A token with its place in the source, so that expressions can be cut out verbatim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// What it is.
    pub(crate) kind: TokenKind,
    /// First byte in the source.
    pub(crate) start: usize,
    /// One past the last byte.
    pub(crate) end: usize,
}

/// Kinds of tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TokenKind {
    /// Keyword or bare identifier, as written.
    Word(String),
    /// Quoted identifier, unquoted.
    Quoted(String),
    /// String literal, unescaped.
    Text(String),
    /// Number as written, without a sign.
    Number(String),
    /// `x'…'`, `0x…`, `b'…'`, `0b…` as bytes.
    Bytes(Vec<u8>),
    /// Any other single character.
    Punct(char),
}

/// How quotes and backslashes are to be read.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LexMode {
    /// `ANSI_QUOTES`.
    pub(crate) ansi_quotes: bool,
    /// `NO_BACKSLASH_ESCAPES`.
    pub(crate) no_backslash_escapes: bool,
}

/// The most tokens of a statement: a table of 4,096 columns has far fewer. Bounds the memory that
/// a hostile statement takes.
const TOKENS_LIMIT: usize = 1 << 20;

/// Splits a statement into tokens; comments and blanks are left out. An unclosed quote ends at
/// the end of the text, and too long a statement after a million tokens: the caller's grammar then
/// fails on what is missing.
pub(crate) fn tokenize(source: &str, mode: LexMode) -> Vec<Token> {
    let bytes = source.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at)
        && tokens.len() < TOKENS_LIMIT
    {
        let start = at;
        let kind = match byte {
            b if b.is_ascii_whitespace() => {
                at += 1;
                continue;
            }
            b'-' if bytes.get(at + 1) == Some(&b'-')
                && bytes.get(at + 2).is_none_or(|b| b.is_ascii_whitespace()) =>
            {
                at = line_end(bytes, at);
                continue;
            }
            b'#' => {
                at = line_end(bytes, at);
                continue;
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                at = source[at + 2..].find("*/").map_or(bytes.len(), |end| at + 2 + end + 2);
                continue;
            }
            b'`' => {
                let (text, end) = quoted(source, at, '`', false);
                at = end;
                TokenKind::Quoted(text)
            }
            b'"' if mode.ansi_quotes => {
                let (text, end) = quoted(source, at, '"', false);
                at = end;
                TokenKind::Quoted(text)
            }
            b'\'' | b'"' => {
                let (text, end) = quoted(source, at, byte as char, !mode.no_backslash_escapes);
                at = end;
                TokenKind::Text(text)
            }
            b'x' | b'X' | b'b' | b'B' if bytes.get(at + 1) == Some(&b'\'') => {
                let (digits, end) = quoted(source, at + 1, '\'', false);
                at = end;
                let radix = if matches!(byte, b'x' | b'X') { 16 } else { 2 };
                TokenKind::Bytes(radix_bytes(&digits, radix))
            }
            b'0' if matches!(bytes.get(at + 1), Some(b'x' | b'b'))
                && bytes.get(at + 2).is_some_and(u8::is_ascii_hexdigit) =>
            {
                let radix = if bytes[at + 1] == b'x' { 16 } else { 2 };
                let digits = word_end(bytes, at + 2);
                let text = &source[at + 2..digits];
                at = digits;
                TokenKind::Bytes(radix_bytes(text, radix))
            }
            b'0'..=b'9' => {
                at = number_end(bytes, at);
                TokenKind::Number(source[start..at].to_owned())
            }
            b'.' if bytes.get(at + 1).is_some_and(u8::is_ascii_digit)
                && !matches!(tokens.last(), Some(Token { kind: TokenKind::Quoted(_), .. })) =>
            {
                at = number_end(bytes, at);
                TokenKind::Number(source[start..at].to_owned())
            }
            b if is_word(b) => {
                at = word_end(bytes, at);
                TokenKind::Word(source[start..at].to_owned())
            }
            _ => {
                at += 1;
                TokenKind::Punct(byte as char)
            }
        };
        tokens.push(Token { kind, start, end: at });
    }
    tokens
}

/// An expression rewritten for the default mode, so that it means the same wherever it is read.
pub(crate) fn normalize(source: &str, mode: LexMode) -> String {
    if !mode.ansi_quotes && !mode.no_backslash_escapes {
        return source.to_owned();
    }
    let mut normal = String::with_capacity(source.len());
    let mut copied = 0;
    for token in tokenize(source, mode) {
        let rewritten = match &token.kind {
            TokenKind::Quoted(name) => format!("`{}`", name.replace('`', "``")),
            TokenKind::Text(text) => {
                format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
            }
            _ => continue,
        };
        normal.push_str(&source[copied..token.start]);
        normal.push_str(&rewritten);
        copied = token.end;
    }
    normal.push_str(&source[copied..]);
    normal
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'@') || byte >= 0x80
}

fn word_end(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).copied().is_some_and(is_word) {
        at += 1;
    }
    at
}

/// A number, or a bare identifier that begins with digits (both end at the first other character).
fn number_end(bytes: &[u8], mut at: usize) -> usize {
    while let Some(&byte) = bytes.get(at) {
        let exponent_sign = matches!(byte, b'+' | b'-')
            && matches!(bytes.get(at.wrapping_sub(1)), Some(b'e' | b'E'))
            && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
        if !(is_word(byte) || byte == b'.' || exponent_sign) {
            break;
        }
        at += 1;
    }
    at
}

fn line_end(bytes: &[u8], at: usize) -> usize {
    memchr::memchr(b'\n', &bytes[at..]).map_or(bytes.len(), |end| at + end + 1)
}

/// Reads a quoted run whose opening quote is at `at`; returns the text and the end.
fn quoted(source: &str, at: usize, quote: char, backslash: bool) -> (String, usize) {
    let mut text = String::new();
    let mut chars = source[at + 1..].char_indices().peekable();
    while let Some((offset, c)) = chars.next() {
        if c == quote {
            if chars.peek().is_some_and(|&(_, next)| next == quote) {
                chars.next();
                text.push(quote);
                continue;
            }
            return (text, at + 1 + offset + c.len_utf8());
        }
        if c == '\\' && backslash {
            match chars.next() {
                Some((_, '0')) => text.push('\0'),
                Some((_, 'n')) => text.push('\n'),
                Some((_, 'r')) => text.push('\r'),
                Some((_, 't')) => text.push('\t'),
                Some((_, 'b')) => text.push('\u{8}'),
                Some((_, 'Z')) => text.push('\u{1a}'),
                Some((_, c @ ('%' | '_'))) => {
                    text.push('\\');
                    text.push(c);
                }
                Some((_, c)) => text.push(c),
                None => break,
            }
            continue;
        }
        text.push(c);
    }
    (text, source.len())
}

/// Bytes of a hex or binary literal, left-padded with zero bits to whole bytes.
pub(crate) fn radix_bytes(digits: &str, radix: u32) -> Vec<u8> {
    let per_byte = if radix == 16 { 2 } else { 8 };
    let digits: Vec<u8> =
        digits.chars().filter_map(|c| c.to_digit(radix)).map(|d| d as u8).collect();
    let pad = (per_byte - digits.len() % per_byte) % per_byte;
    let padded: Vec<u8> = std::iter::repeat_n(0, pad).chain(digits).collect();
    padded
        .chunks(per_byte)
        .map(|chunk| chunk.iter().fold(0_u8, |byte, digit| byte.wrapping_mul(radix as u8) | digit))
        .collect()
}

/// A cursor over tokens with the small steps every grammar here is made of.
#[derive(Debug)]
pub(crate) struct Cursor<'a> {
    source: &'a str,
    tokens: &'a [Token],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(source: &'a str, tokens: &'a [Token]) -> Self {
        Self { source, tokens, at: 0 }
    }

    pub(crate) fn peek(&self) -> Option<&'a TokenKind> {
        self.peek_at(0)
    }

    pub(crate) fn peek_at(&self, ahead: usize) -> Option<&'a TokenKind> {
        self.tokens.get(self.at + ahead).map(|t| &t.kind)
    }

    pub(crate) fn next(&mut self) -> Option<&'a TokenKind> {
        let token = self.tokens.get(self.at)?;
        self.at += 1;
        Some(&token.kind)
    }

    pub(crate) fn at_end(&self) -> bool {
        self.at >= self.tokens.len()
    }

    /// Index of the next token, to come back to.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    pub(crate) fn rewind(&mut self, position: usize) {
        self.at = position;
    }

    /// Byte offset of the next token in the source.
    pub(crate) fn offset(&self) -> usize {
        self.tokens.get(self.at).map_or(self.source.len(), |t| t.start)
    }

    /// Whether the next tokens are these keywords.
    pub(crate) fn sees(&self, words: &str) -> bool {
        words.split(' ').enumerate().all(|(ahead, word)| {
            matches!(self.peek_at(ahead), Some(TokenKind::Word(w)) if w.eq_ignore_ascii_case(word))
        })
    }

    /// Steps over these keywords when they come next.
    pub(crate) fn eat(&mut self, words: &str) -> bool {
        let seen = self.sees(words);
        if seen {
            self.at += words.split(' ').count();
        }
        seen
    }

    pub(crate) fn sees_punct(&self, c: char) -> bool {
        self.peek() == Some(&TokenKind::Punct(c))
    }

    pub(crate) fn eat_punct(&mut self, c: char) -> bool {
        let seen = self.sees_punct(c);
        if seen {
            self.at += 1;
        }
        seen
    }

    /// An identifier, quoted or bare.
    pub(crate) fn identifier(&mut self) -> Option<String> {
        match self.peek()? {
            TokenKind::Word(name) | TokenKind::Quoted(name) | TokenKind::Number(name) => {
                self.at += 1;
                Some(name.clone())
            }
            // Shells and hand edits quote names with double quotes without ANSI_QUOTES.
            TokenKind::Text(name) => {
                self.at += 1;
                Some(name.clone())
            }
            _ => None,
        }
    }

    /// `name` or `qualifier.name`.
    pub(crate) fn qualified(&mut self) -> Option<(Option<String>, String)> {
        let first = self.identifier()?;
        if self.eat_punct('.') {
            let second = self.identifier()?;
            return Some((Some(first), second));
        }
        Some((None, first))
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        match self.peek()? {
            TokenKind::Number(digits) | TokenKind::Text(digits) => {
                let number = digits.parse().ok()?;
                self.at += 1;
                Some(number)
            }
            _ => None,
        }
    }

    /// Steps over a parenthesised group and returns the source between the parentheses.
    pub(crate) fn group(&mut self) -> Option<&'a str> {
        if !self.sees_punct('(') {
            return None;
        }
        let start = self.tokens[self.at].end;
        let mut depth = 0_usize;
        while let Some(token) = self.tokens.get(self.at) {
            self.at += 1;
            match token.kind {
                TokenKind::Punct('(') => depth += 1,
                TokenKind::Punct(')') => {
                    depth -= 1;
                    if depth == 0 {
                        return Some(self.source[start..token.start].trim());
                    }
                }
                _ => {}
            }
        }
        None
    }

    /// Source from a token position up to the next token.
    pub(crate) fn source_since(&self, position: usize) -> &'a str {
        let start = self.tokens.get(position).map_or(self.source.len(), |t| t.start);
        let end = if self.at == 0 { 0 } else { self.tokens[self.at - 1].end };
        self.source.get(start..end).unwrap_or("")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(source: &str) -> Vec<TokenKind> {
        tokenize(source, LexMode::default()).into_iter().map(|t| t.kind).collect()
    }

    #[test]
    fn strings_identifiers_comments() {
        assert_eq!(
            kinds("`a``b` 'it''s\\n' /* x */ -- y\n 1.5e-3 # z\nfoo"),
            vec![
                TokenKind::Quoted("a`b".into()),
                TokenKind::Text("it's\n".into()),
                TokenKind::Number("1.5e-3".into()),
                TokenKind::Word("foo".into()),
            ]
        );
    }

    #[test]
    fn hex_and_bits() {
        assert_eq!(
            kinds("0x0aF x'01' b'101' 0b1"),
            vec![
                TokenKind::Bytes(vec![0x00, 0xaf]),
                TokenKind::Bytes(vec![1]),
                TokenKind::Bytes(vec![5]),
                TokenKind::Bytes(vec![1]),
            ]
        );
    }

    #[test]
    fn ansi_quotes_make_identifiers() {
        let mode = LexMode { ansi_quotes: true, no_backslash_escapes: true };
        let tokens = tokenize(r#""a" 'b\'"#, mode);
        assert_eq!(tokens[0].kind, TokenKind::Quoted("a".into()));
        assert_eq!(tokens[1].kind, TokenKind::Text("b\\".into()));
    }

    #[test]
    fn expressions_are_normalized() {
        let mode = LexMode { ansi_quotes: true, no_backslash_escapes: true };
        assert_eq!(normalize(r#"concat("a`b", 'x\y''z')"#, mode), r"concat(`a``b`, 'x\\y''z')");
    }

    #[test]
    fn groups_are_cut_verbatim() {
        let source = "CHECK (`a` > (1 + 2)) x";
        let tokens = tokenize(source, LexMode::default());
        let mut cursor = Cursor::new(source, &tokens);
        assert!(cursor.eat("check"));
        assert_eq!(cursor.group(), Some("`a` > (1 + 2)"));
        assert!(cursor.eat("X") && cursor.at_end());
    }
}
