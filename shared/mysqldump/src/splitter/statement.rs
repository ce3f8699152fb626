//! Collects one statement other than rows, byte by byte: a small automaton that can stop anywhere.
//!
//! Conditional comments (`/*!50003 … */`, `/*M!100301 … */`) are part of the statement, so only
//! their markers are dropped; plain comments inside a statement are kept for its source.

use super::keywords::is_keyword;

/// What a byte has brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing yet.
    More,
    /// A statement is complete; the delimiter is not part of it.
    Statement,
    /// An INSERT's head is complete, and this byte is the parenthesis that opens the first row.
    Rows,
    /// A line comment outside any statement has ended.
    Comment,
    /// A `DELIMITER` line has been taken over.
    Delimiter,
    /// A line that is no SQL (a shell's banner, a warning of the client) is complete.
    Foreign,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lex {
    Plain,
    Dash,
    DashDash,
    Line,
    Slash,
    SlashStar,
    SlashStarM,
    Version { number: u32, digits: u8 },
    Star,
    Block,
    BlockStar,
    Quote(u8),
    Escape(u8),
    Delimiter(usize),
}

/// Versions from here on mark text that no server runs (the sandbox line has 999999).
const NEVER_VERSION: u32 = 99_999;

/// The part of a line comment that is looked at.
const COMMENT_KEEP_BYTES: usize = 160;

/// Longest keyword that matters, with room to tell longer words apart.
const WORD_KEEP_BYTES: usize = 16;

/// The statement in the making.
#[derive(Debug)]
pub(super) struct StatementBuilder {
    lex: Lex,
    /// The statement's text so far, leading blanks left out.
    pub(super) text: Vec<u8>,
    /// The line comment just read.
    pub(super) comment: Vec<u8>,
    first: Vec<u8>,
    word: Vec<u8>,
    last: Vec<u8>,
    depth: usize,
    conditional: usize,
    /// Version of the conditional comment in which the statement began.
    pub(super) begun_in_version: Option<u32>,
    pending_version: Option<u32>,
    delimiter: Vec<u8>,
    keep_comment: bool,
    pub(super) ansi_quotes: bool,
    pub(super) no_backslash_escapes: bool,
}

impl StatementBuilder {
    pub(super) fn new() -> Self {
        Self {
            lex: Lex::Plain,
            text: Vec::new(),
            comment: Vec::new(),
            first: Vec::new(),
            word: Vec::new(),
            last: Vec::new(),
            depth: 0,
            conditional: 0,
            begun_in_version: None,
            pending_version: None,
            delimiter: b";".to_vec(),
            keep_comment: false,
            ansi_quotes: false,
            no_backslash_escapes: false,
        }
    }

    /// Forgets the statement; the next byte begins another.
    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.first.clear();
        self.word.clear();
        self.last.clear();
        self.depth = 0;
        self.begun_in_version = None;
    }

    /// Nothing but blanks and comments since the last statement.
    pub(super) fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Inside a quote or a block comment.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.lex, Lex::Quote(_) | Lex::Escape(_) | Lex::Block | Lex::BlockStar)
    }

    /// The dump has ended: a line comment needs no newline.
    pub(super) fn end_of_input(&mut self) -> Step {
        match self.lex {
            Lex::Line | Lex::DashDash if self.text.is_empty() => {
                self.lex = Lex::Plain;
                Step::Comment
            }
            _ => Step::More,
        }
    }

    /// Takes in one byte.
    pub(super) fn step(&mut self, byte: u8) -> Step {
        match self.lex {
            Lex::Plain => return self.plain(byte),
            Lex::Dash => {
                if byte == b'-' {
                    self.lex = Lex::DashDash;
                } else {
                    self.lex = Lex::Plain;
                    self.push(b'-');
                    return self.plain(byte);
                }
            }
            Lex::DashDash => {
                if byte <= b' ' {
                    self.begin_comment(b"--");
                    self.lex = Lex::Line;
                    return self.step(byte);
                }
                self.lex = Lex::Plain;
                self.push(b'-');
                self.push(b'-');
                return self.plain(byte);
            }
            Lex::Line => {
                if byte == b'\n' {
                    self.lex = Lex::Plain;
                    if self.text.is_empty() {
                        return Step::Comment;
                    }
                    self.text.push(b'\n');
                    return Step::More;
                }
                if self.keep_comment {
                    self.text.push(byte);
                } else if self.comment.len() < COMMENT_KEEP_BYTES {
                    self.comment.push(byte);
                }
            }
            Lex::Slash => {
                if byte == b'*' {
                    self.lex = Lex::SlashStar;
                } else {
                    self.lex = Lex::Plain;
                    self.push(b'/');
                    return self.plain(byte);
                }
            }
            Lex::SlashStar => match byte {
                b'!' => self.lex = Lex::Version { number: 0, digits: 0 },
                b'M' => self.lex = Lex::SlashStarM,
                _ => return self.begin_block(byte, b"/*"),
            },
            Lex::SlashStarM => {
                if byte == b'!' {
                    self.lex = Lex::Version { number: 0, digits: 0 };
                } else {
                    return self.begin_block(byte, b"/*M");
                }
            }
            Lex::Version { number, digits } => {
                if byte.is_ascii_digit() && digits < 6 {
                    let number = number * 10 + u32::from(byte - b'0');
                    self.lex = Lex::Version { number, digits: digits + 1 };
                } else if number >= NEVER_VERSION {
                    return self.begin_block(byte, b"/*!");
                } else {
                    self.conditional += 1;
                    self.pending_version = Some(number);
                    self.lex = Lex::Plain;
                    self.blank();
                    return self.plain(byte);
                }
            }
            Lex::Star => {
                self.lex = Lex::Plain;
                if byte == b'/' {
                    self.conditional -= 1;
                    self.pending_version = None;
                    self.blank();
                } else {
                    self.push(b'*');
                    return self.plain(byte);
                }
            }
            Lex::Block | Lex::BlockStar => {
                if self.keep_comment {
                    self.text.push(byte);
                }
                self.lex = match byte {
                    b'/' if self.lex == Lex::BlockStar => Lex::Plain,
                    b'*' => Lex::BlockStar,
                    _ => Lex::Block,
                };
            }
            Lex::Quote(quote) => {
                self.text.push(byte);
                if byte == quote {
                    self.lex = Lex::Plain;
                } else if byte == b'\\' && self.backslash_escapes(quote) {
                    self.lex = Lex::Escape(quote);
                }
            }
            Lex::Escape(quote) => {
                self.text.push(byte);
                self.lex = Lex::Quote(quote);
            }
            Lex::Delimiter(matched) => {
                if self.delimiter.get(matched) == Some(&byte) {
                    if matched + 1 == self.delimiter.len() {
                        self.lex = Lex::Plain;
                        self.end_word();
                        return Step::Statement;
                    }
                    self.lex = Lex::Delimiter(matched + 1);
                } else {
                    // Delimiters are short and do not repeat their own beginning in practice.
                    self.lex = Lex::Plain;
                    let seen = self.delimiter[..matched].to_vec();
                    seen.into_iter().for_each(|b| self.push(b));
                    return self.plain(byte);
                }
            }
        }
        Step::More
    }

    fn plain(&mut self, byte: u8) -> Step {
        if self.first == b"delimiter" && byte != b'\n' {
            self.text.push(byte);
            return Step::More;
        }
        if byte == self.delimiter[0] {
            if self.delimiter.len() == 1 {
                self.end_word();
                return Step::Statement;
            }
            self.lex = Lex::Delimiter(1);
            return Step::More;
        }
        match byte {
            b'\'' | b'"' | b'`' => {
                self.push(byte);
                self.lex = Lex::Quote(byte);
            }
            b'-' => self.lex = Lex::Dash,
            b'/' => self.lex = Lex::Slash,
            b'*' if self.conditional > 0 => self.lex = Lex::Star,
            b'#' => {
                self.begin_comment(b"#");
                self.lex = Lex::Line;
            }
            b'(' => {
                self.end_word();
                if self.depth == 0 && self.is_insert() && self.after_values() {
                    return Step::Rows;
                }
                self.depth += 1;
                self.push(byte);
            }
            b')' => {
                self.push(byte);
                self.depth = self.depth.saturating_sub(1);
            }
            b'\n' => {
                self.end_word();
                return self.end_of_line();
            }
            b' ' | b'\t' | b'\r' | 0x0b | 0x0c => self.blank(),
            _ if is_word(byte) => {
                self.begin_text();
                self.text.push(byte);
                if self.word.len() < WORD_KEEP_BYTES {
                    self.word.push(byte.to_ascii_lowercase());
                }
            }
            // A byte order mark before the first statement.
            0xef | 0xbb | 0xbf if self.text.is_empty() => {}
            _ => self.push(byte),
        }
        Step::More
    }

    fn end_of_line(&mut self) -> Step {
        if self.text.is_empty() {
            return Step::More;
        }
        if self.first == b"delimiter" {
            let line = self.text["delimiter".len()..].trim_ascii();
            if !line.is_empty() {
                self.delimiter = line.to_vec();
            }
            self.clear();
            return Step::Delimiter;
        }
        let single_line = !self.text.contains(&b'\n');
        let known = std::str::from_utf8(&self.first).is_ok_and(is_keyword);
        if single_line && !known && self.conditional == 0 && !self.text.starts_with(b"(") {
            return Step::Foreign;
        }
        self.text.push(b'\n');
        Step::More
    }

    fn is_insert(&self) -> bool {
        self.first == b"insert" || self.first == b"replace"
    }

    fn after_values(&self) -> bool {
        self.last == b"values" || self.last == b"value"
    }

    fn backslash_escapes(&self, quote: u8) -> bool {
        match quote {
            b'`' => false,
            b'"' => !self.ansi_quotes && !self.no_backslash_escapes,
            _ => !self.no_backslash_escapes,
        }
    }

    fn begin_text(&mut self) {
        if self.text.is_empty() {
            self.begun_in_version = self.pending_version;
        }
    }

    /// Punctuation or the start of a quote: ends a word, and what follows VALUES is not a row.
    fn push(&mut self, byte: u8) {
        self.end_word();
        self.last.clear();
        self.begin_text();
        self.text.push(byte);
    }

    fn blank(&mut self) {
        self.end_word();
        if !self.text.is_empty() {
            self.text.push(b' ');
        }
    }

    fn end_word(&mut self) {
        if self.word.is_empty() {
            return;
        }
        if self.first.is_empty() {
            self.first = self.word.clone();
        }
        std::mem::swap(&mut self.last, &mut self.word);
        self.word.clear();
    }

    fn begin_comment(&mut self, opening: &[u8]) {
        self.end_word();
        self.comment.clear();
        self.keep_comment = !self.text.is_empty();
        if self.keep_comment {
            self.text.extend_from_slice(opening);
        }
    }

    fn begin_block(&mut self, byte: u8, opening: &[u8]) -> Step {
        self.begin_comment(opening);
        self.lex = Lex::Block;
        self.step(byte)
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(source: &str) -> Vec<String> {
        let mut builder = StatementBuilder::new();
        let mut found = Vec::new();
        for byte in source.bytes() {
            match builder.step(byte) {
                Step::Statement => {
                    found.push(String::from_utf8_lossy(&builder.text).trim().to_owned());
                    builder.clear();
                }
                Step::Rows => {
                    found.push(format!("ROWS {}", String::from_utf8_lossy(&builder.text)));
                    builder.clear();
                }
                Step::Foreign => {
                    found.push(format!("FOREIGN {}", String::from_utf8_lossy(&builder.text)));
                    builder.clear();
                }
                Step::Comment => {
                    found.push(format!("--{}", String::from_utf8_lossy(&builder.comment)));
                }
                Step::Delimiter | Step::More => {}
            }
        }
        found
    }

    #[test]
    fn conditional_comments_are_run() {
        assert_eq!(
            statements(
                "/*!40101 SET NAMES utf8 */;\n/*M!999999\\- enable the sandbox mode */\n/* no; */USE a;"
            ),
            ["SET NAMES utf8", "USE a"]
        );
        assert_eq!(
            statements("CREATE DATABASE /*!32312 IF NOT EXISTS*/ `a;b` /*!40100 DEFAULT */;"),
            ["CREATE DATABASE   IF NOT EXISTS  `a;b`   DEFAULT"]
        );
    }

    #[test]
    fn delimiter_lines() {
        assert_eq!(
            statements(
                "DELIMITER ;;\n/*!50003 CREATE*/ /*!50003 TRIGGER t BEGIN SET @a=1; -- x;;\n END */;;\nDELIMITER ;\nUSE b;"
            ),
            ["CREATE    TRIGGER t BEGIN SET @a=1; -- x;;\n END", "USE b"]
        );
    }

    #[test]
    fn rows_begin_after_values() {
        assert_eq!(
            statements("INSERT INTO `a(` (`b`) VALUES\n("),
            ["ROWS INSERT INTO `a(` (`b`) VALUES\n"]
        );
        assert_eq!(
            statements("insert into t values/* x */("),
            ["ROWS insert into t values/* x */"]
        );
        assert_eq!(statements("INSERT INTO t SELECT max(1) FROM u;").len(), 1);
    }

    #[test]
    fn banners_and_comments() {
        assert_eq!(
            statements("mysqldump: [Warning] x\n-- Dump completed\r\nUSE a;"),
            ["FOREIGN mysqldump: [Warning] x", "-- Dump completed\r", "USE a"]
        );
    }
}
