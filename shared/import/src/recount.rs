//! Counts the rows of a dump a second time, in another way than the splitter: a small machine that
//! knows quotes, comments and parentheses and nothing of tables or values, so that both do not
//! share a mistake.
//!
//! It counts only what it is sure of: rows of `INSERT … VALUES` outside comments and routines, of
//! tables whose names are ASCII. Of a dump that says `NO_BACKSLASH_ESCAPES`, ends statements in
//! another way, or is in a charset whose characters may hold a quote or a backslash, it counts nothing.

use std::collections::BTreeMap;

/// Bytes of a statement that are kept to find out what it is.
const HEAD_BYTES: usize = 4096;
/// Tables that are counted: a dump of more is sampled.
const TABLES_MAX: usize = 1000;

/// Bytes of a comment that are kept: enough for the settings that a dump hides in them.
const COMMENT_BYTES: usize = 200;
/// Charsets whose characters may end in the byte of a quote or a backslash.
const TREACHEROUS: [&str; 5] = ["big5", "cp932", "gb18030", "gbk", "sjis"];

/// Where the machine is in the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Code,
    /// Inside these quotes; `true` after a backslash.
    Quoted(u8, bool),
    LineComment,
    /// `true` after a star.
    Comment(bool),
}

/// Where it is in a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// Before `VALUES`, at this depth of parentheses.
    Head(u32),
    /// Among the rows, at this depth.
    Rows(u32),
    /// In what follows the rows, or in a statement of no interest.
    Rest,
}

/// The second counter.
#[derive(Debug)]
pub(crate) struct Recount {
    place: Place,
    part: Part,
    head: Vec<u8>,
    /// The last two bytes of code.
    previous: [u8; 2],
    database: Option<String>,
    rows: BTreeMap<String, u64>,
    /// Rows of the INSERT at hand.
    current: u64,
    /// The beginning of the comment at hand.
    comment: Vec<u8>,
    /// Inside a `DELIMITER` block; what the line at hand holds so far.
    block: Option<Vec<u8>>,
    unsure: bool,
}

impl Recount {
    pub(crate) fn new() -> Self {
        Self {
            place: Place::Code,
            part: Part::Head(0),
            head: Vec::new(),
            previous: *b"\n\n",
            database: None,
            rows: BTreeMap::new(),
            current: 0,
            comment: Vec::new(),
            block: None,
            unsure: false,
        }
    }

    /// Rows by table, as far as it is sure of them; keys are made by [`key`].
    pub(crate) fn finish(self) -> BTreeMap<String, u64> {
        if self.unsure { BTreeMap::new() } else { self.rows }
    }

    /// Takes the next piece of the dump.
    pub(crate) fn feed(&mut self, bytes: &[u8]) {
        let mut at = 0;
        while at < bytes.len() && !self.unsure {
            if self.block.is_some() {
                self.block_byte(bytes[at]);
                at += 1;
                continue;
            }
            at = match self.place {
                Place::Code => self.code(bytes, at),
                Place::Quoted(quote, escaped) => self.quoted(bytes, at, quote, escaped),
                Place::LineComment => match memchr::memchr(b'\n', &bytes[at..]) {
                    Some(end) => {
                        self.place = Place::Code;
                        at + end
                    }
                    None => bytes.len(),
                },
                Place::Comment(starred) => {
                    if starred && bytes[at] == b'/' {
                        self.place = Place::Code;
                        self.unsure |= is_treacherous(&String::from_utf8_lossy(&self.comment));
                    } else {
                        self.place = Place::Comment(bytes[at] == b'*');
                        if self.comment.len() < COMMENT_BYTES {
                            self.comment.push(bytes[at]);
                        }
                    }
                    at + 1
                }
            };
        }
    }

    /// Up to the end of the quoted text or of the piece.
    fn quoted(&mut self, bytes: &[u8], from: usize, quote: u8, escaped: bool) -> usize {
        let mut at = if escaped { from + 1 } else { from };
        self.place = Place::Quoted(quote, false);
        let end = loop {
            match memchr::memchr2(quote, b'\\', &bytes[at.min(bytes.len())..]) {
                None => break bytes.len(),
                Some(found) if bytes[at + found] == quote => {
                    self.place = Place::Code;
                    break at + found + 1;
                }
                // Names know no escapes.
                Some(found) if quote == b'`' => at += found + 1,
                Some(found) if at + found + 1 == bytes.len() => {
                    self.place = Place::Quoted(quote, true);
                    break bytes.len();
                }
                Some(found) => at += found + 2,
            }
        };
        if matches!(self.part, Part::Head(_)) {
            self.keep(&bytes[from..end.min(bytes.len())]);
        }
        end
    }

    fn code(&mut self, bytes: &[u8], from: usize) -> usize {
        let mut at = from;
        if let Part::Rows(1..) = self.part {
            // Numbers and names of no interest, the most of what stands outside quotes.
            while at < bytes.len() && !matters(bytes[at]) {
                at += 1;
            }
            for &byte in &bytes[at.saturating_sub(2).max(from)..at] {
                self.previous = [self.previous[1], byte];
            }
            if at == bytes.len() {
                return at;
            }
        }
        let byte = bytes[at];
        let before = self.previous;
        self.previous = [before[1], byte];
        match byte {
            b'\'' | b'"' | b'`' => {
                self.keep(&[byte]);
                self.place = Place::Quoted(byte, false);
            }
            b'#' => self.place = Place::LineComment,
            b' ' | b'\t' | b'\r' | b'\n' if before == *b"--" => {
                self.place = if byte == b'\n' { Place::Code } else { Place::LineComment };
                if self.head.ends_with(b"--") {
                    self.head.truncate(self.head.len() - 2);
                }
            }
            b'*' if before[1] == b'/' => {
                self.place = Place::Comment(false);
                self.comment.clear();
                self.previous = *b"  ";
                if self.head.last() == Some(&b'/') {
                    self.head.pop();
                }
            }
            b';' => self.end_statement(),
            _ => self.step(byte),
        }
        at + 1
    }

    /// One byte of code that is neither quote nor comment nor end.
    fn step(&mut self, byte: u8) {
        match (self.part, byte) {
            (Part::Head(depth), b'(') => {
                if depth == 0 && ends_with_values(&self.head) {
                    self.begin_rows();
                } else {
                    self.part = Part::Head(depth + 1);
                    self.keep(b"(");
                }
            }
            (Part::Head(depth), b')') => {
                self.part = Part::Head(depth.saturating_sub(1));
                self.keep(b")");
            }
            (Part::Head(_), b'\n') => {
                let line = self.head.trim_ascii();
                if line.len() > 10 && line[..10].eq_ignore_ascii_case(b"delimiter ") {
                    self.block = Some(Vec::new());
                    self.head.clear();
                } else if !self.head.is_empty() {
                    self.keep(b"\n");
                }
            }
            (Part::Head(_), b' ' | b'\t' | b'\r') if self.head.is_empty() => {}
            (Part::Head(_), _) => self.keep(&[byte]),
            (Part::Rows(0), b'(') => {
                self.current += 1;
                self.part = Part::Rows(1);
            }
            (Part::Rows(depth), b'(') => self.part = Part::Rows(depth + 1),
            (Part::Rows(depth @ 1..), b')') => self.part = Part::Rows(depth - 1),
            (Part::Rows(0), b',' | b' ' | b'\t' | b'\r' | b'\n' | b'/' | b'-') => {}
            (Part::Rows(0), _) => self.part = Part::Rest,
            (Part::Rows(_) | Part::Rest, _) => {}
        }
    }

    fn begin_rows(&mut self) {
        let head = self.head.trim_ascii();
        let inserts = [&b"insert"[..], b"replace"]
            .iter()
            .any(|word| head.len() > word.len() && head[..word.len()].eq_ignore_ascii_case(word));
        self.part =
            if inserts && self.head.len() < HEAD_BYTES { Part::Rows(1) } else { Part::Rest };
        self.current = u64::from(inserts);
    }

    fn end_statement(&mut self) {
        let head = String::from_utf8_lossy(&self.head).into_owned();
        let upper = head.trim_start().to_ascii_uppercase();
        if matches!(self.part, Part::Head(_)) && sets_one_row(&upper) {
            self.current = 1;
        }
        if self.current > 0 {
            match table_of(&head) {
                // Another charset than the reader's would make it another name.
                Some((_, table)) if !table.is_ascii() => {}
                Some((database, table)) => {
                    let key = key(database.as_deref().or(self.database.as_deref()), &table);
                    if self.rows.len() < TABLES_MAX || self.rows.contains_key(&key) {
                        *self.rows.entry(key).or_default() += self.current;
                    }
                }
                None => self.unsure = true,
            }
        } else if upper.starts_with("USE ") {
            self.database = names(head.trim_start()[4..].trim()).into_iter().next();
        } else if upper.starts_with("SET ") {
            self.unsure |= upper.contains("NO_BACKSLASH_ESCAPES") || is_treacherous(&head);
        }
        self.head.clear();
        self.current = 0;
        self.part = Part::Head(0);
    }

    /// Inside a block with another delimiter only a line that brings `;` back matters.
    fn block_byte(&mut self, byte: u8) {
        let Some(line) = &mut self.block else { return };
        if byte != b'\n' {
            if line.len() < HEAD_BYTES {
                line.push(byte);
            }
            return;
        }
        let text = line.trim_ascii();
        let word = text.len() > 10 && text[..9].eq_ignore_ascii_case(b"delimiter");
        if word && text[9..].trim_ascii() == b";" {
            self.block = None;
            self.previous = *b"\n\n";
        } else {
            line.clear();
        }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if matches!(self.part, Part::Head(_)) {
            let room = HEAD_BYTES.saturating_sub(self.head.len());
            self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
    }
}

/// Whether a statement is an `INSERT … SET`, which makes one row.
fn sets_one_row(upper: &str) -> bool {
    let mut words = upper.split_whitespace();
    matches!(words.next(), Some("INSERT" | "REPLACE"))
        && words.find(|word| matches!(*word, "SET" | "SELECT")) == Some("SET")
}

/// Whether a setting changes to a charset in which a byte alone says nothing.
fn is_treacherous(setting: &str) -> bool {
    let setting = setting.to_ascii_lowercase();
    (setting.contains("names") || setting.contains("character_set_"))
        && TREACHEROUS.iter().any(|charset| setting.contains(charset))
}

/// How a table is named in the counts: MySQL on some systems does not tell upper from lower case.
pub(crate) fn key(database: Option<&str>, table: &str) -> String {
    format!("{}.{}", database.unwrap_or_default(), table).to_lowercase()
}

/// Whether a byte inside a row, outside quotes, may change something.
fn matters(byte: u8) -> bool {
    matches!(byte, b'\'' | b'"' | b'`' | b'(' | b')' | b';' | b'#' | b'*' | b' ' | b'\n')
}

fn ends_with_values(head: &[u8]) -> bool {
    let head = head.trim_ascii_end();
    let word = [&b"values"[..], b"value"].into_iter().find(|word| {
        head.len() > word.len() && head[head.len() - word.len()..].eq_ignore_ascii_case(word)
    });
    word.is_some_and(|word| {
        let before = head[head.len() - word.len() - 1];
        !(before.is_ascii_alphanumeric() || before == b'_' || before == b'$')
    })
}

/// Database and table of `INSERT [words] [INTO] db.table …`.
fn table_of(head: &str) -> Option<(Option<String>, String)> {
    let words = ["insert", "replace", "low_priority", "delayed", "high_priority", "ignore", "into"];
    let mut rest = head.trim_start();
    while let Some(word) = words.iter().find(|word| {
        rest.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
            && rest[word.len()..].starts_with(|next: char| next.is_whitespace() || next == '`')
    }) {
        rest = rest[word.len()..].trim_start();
    }
    let mut names = names(rest).into_iter();
    match (names.next()?, names.next()) {
        (database, Some(table)) => Some((Some(database), table)),
        (table, None) => Some((None, table)),
    }
}

/// The one or two names, joined by a dot, that a text begins with.
fn names(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut rest = text;
    loop {
        let (name, after) = match rest.chars().next() {
            Some(quote @ ('`' | '"')) => {
                let (mut name, mut at) = (String::new(), 1);
                loop {
                    let Some(end) = rest[at..].find(quote) else { return names };
                    name.push_str(&rest[at..at + end]);
                    at += end + 1;
                    if !rest[at..].starts_with(quote) {
                        break (name, &rest[at..]);
                    }
                    name.push(quote);
                    at += 1;
                }
            }
            _ => {
                let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'));
                let (name, after) = rest.split_at(end.unwrap_or(rest.len()));
                (name.to_owned(), after)
            }
        };
        if name.is_empty() {
            return names;
        }
        names.push(name);
        match after.trim_start().strip_prefix('.') {
            Some(next) if names.len() < 2 => rest = next.trim_start(),
            _ => return names,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(dump: &str) -> Vec<(String, u64)> {
        let whole = counted(dump, usize::MAX);
        for piece in [1, 2, 3, 7] {
            assert_eq!(counted(dump, piece), whole, "in pieces of {piece}");
        }
        whole.into_iter().collect()
    }

    fn counted(dump: &str, piece: usize) -> BTreeMap<String, u64> {
        let mut recount = Recount::new();
        for bytes in dump.as_bytes().chunks(piece.min(dump.len().max(1))) {
            recount.feed(bytes);
        }
        recount.finish()
    }

    #[test]
    fn rows_are_counted_whatever_stands_in_them() {
        let dump = "-- it's a dump\n/*!40101 SET NAMES utf8 */;\nUSE `a``b`;\n\
            CREATE TABLE `t` (a int, KEY (a)) COMMENT='x; VALUES (1)';\n\
            INSERT INTO `t` VALUES (1,'a),(b'),(2,'\\'),('),(3,'it''s'),\n(4,(5)) /* (6) */;\n\
            insert ignore into x.`T 2` (`values`, b) values (1,2), (3,4) \
            ON DUPLICATE KEY UPDATE b=VALUES(b);\n\
            REPLACE t VALUES(-1, - 2),(3,\"a;(\");\n# INSERT INTO t VALUES (1);\n\
            INSERT INTO t SELECT (1);\n\
            INSERT INTO u VALUES (1), -- one (of\n(2) -- two;\n;\n";
        let wanted = [("a`b.t".to_owned(), 6), ("a`b.u".to_owned(), 2), ("x.t 2".to_owned(), 2)];
        assert_eq!(count(dump), wanted);
    }

    #[test]
    fn routines_are_passed_over_and_doubt_counts_nothing() {
        let dump = "INSERT INTO t VALUES (1);\nDELIMITER ;;\nCREATE TRIGGER x BEGIN\nINSERT INTO t \
            VALUES (1); END ;;\nDELIMITER ;\nINSERT INTO t VALUES (2),(3);\nREPLACE\n\
            INTO t SET a = 4;\n";
        assert_eq!(count(dump), [(".t".to_owned(), 4)]);
        let other = "SET sql_mode='ANSI,NO_BACKSLASH_ESCAPES';\nINSERT INTO t VALUES ('\\');\n";
        assert_eq!(count(other), []);
        let gbk = "/*!40101 SET NAMES gbk */;\nINSERT INTO t VALUES (1);\n";
        assert_eq!(count(gbk), []);
        let named = "INSERT INTO `tñandú` VALUES (1);\nINSERT INTO t VALUES (1);\n";
        assert_eq!(count(named), [(".t".to_owned(), 1)]);
    }
}
