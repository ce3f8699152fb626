//! Understands one whole statement: settings, the head of an INSERT, changes of rows.
//!
//! What changes rows or tables and has no exact translation is refused, never passed over: a dump
//! loads whole or not at all. What no server would run either (a damaged keyword) is refused too.

use crate::error::DumpError;
use crate::event::{Event, SkippedKind, SkippedObject};
use crate::lexer::{Cursor, LexMode, TokenKind, normalize, tokenize};
use crate::options::LossPolicy;
use crate::schema::TableDef;
use crate::session::SessionState;
use crate::values::text;

use super::formats::{self, Format};
use super::{DumpSplitter, Sink};

/// Lines without SQL that may stand before the first statement: a shell's banner.
const FOREIGN_LINES_LIMIT: u64 = 200;

/// Databases that belong to the server, not to the user.
const SYSTEM_DATABASES: [&str; 4] = ["mysql", "sys", "performance_schema", "information_schema"];

/// Why most changes of rows are refused.
const CHANGES_ROWS: &str = "it changes rows in a way that only the server can: restore the dump \
                            into MySQL, and dump that with mysqldump";

/// Whether a line has the client read a file: `source load_departments.dump`, `\\. file`.
fn reads_file(line: &str) -> bool {
    line.starts_with("source ") || line.starts_with("\\. ")
}

/// The head of an INSERT: all before its first row.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InsertHead {
    pub(super) database: Option<String>,
    pub(super) table: String,
    pub(super) columns: Option<Vec<String>>,
}

pub(super) fn lex_mode(session: &SessionState) -> LexMode {
    LexMode { ansi_quotes: session.ansi_quotes, no_backslash_escapes: session.no_backslash_escapes }
}

/// Steps over `INSERT` and its modifiers; reads the table's name.
fn insert_target(cursor: &mut Cursor<'_>) -> Option<(Option<String>, String)> {
    cursor.next();
    for modifier in ["low_priority", "delayed", "high_priority", "ignore"] {
        let _ = cursor.eat(modifier);
    }
    let _ = cursor.eat("into");
    let target = cursor.qualified()?;
    if cursor.eat("partition") {
        cursor.group();
    }
    Some(target)
}

/// Reads `INSERT INTO table (columns) VALUES`.
pub(super) fn insert_head(bytes: &[u8], session: &SessionState) -> Option<InsertHead> {
    let source = text::decode(bytes, session.charset.as_deref());
    let tokens = tokenize(&source, lex_mode(session));
    let mut cursor = Cursor::new(&source, &tokens);
    let (database, table) = insert_target(&mut cursor)?;
    let mut columns = None;
    if cursor.eat_punct('(') {
        let mut names = Vec::new();
        while !cursor.eat_punct(')') {
            let (_, name) = cursor.qualified()?;
            names.push(name);
            cursor.eat_punct(',');
        }
        // `INSERT INTO t () VALUES ()` lists nothing.
        columns = Some(names);
    }
    (cursor.eat("values") || cursor.eat("value")).then_some(InsertHead { database, table, columns })
}

/// Positions of listed columns in the table.
pub(super) fn column_positions(table: &TableDef, names: &[String]) -> Result<Vec<usize>, String> {
    let mut positions = Vec::with_capacity(names.len());
    let mut seen = vec![false; table.columns.len()];
    for name in names {
        let at = table.column_index(name).ok_or_else(|| {
            format!("the INSERT names column `{name}`, which table `{}` has not", table.name)
        })?;
        if std::mem::replace(&mut seen[at], true) {
            return Err(format!("the INSERT names column `{name}` twice"));
        }
        positions.push(at);
    }
    Ok(positions)
}

impl DumpSplitter {
    /// Interprets the statement in the builder.
    pub(super) fn statement(&mut self, sink: Sink<'_>) -> Result<(), DumpError> {
        let state = self.session.state();
        let source = text::decode(&self.builder.text, state.charset.as_deref());
        let source = source.trim();
        if source.is_empty() {
            return Ok(());
        }
        let mode = lex_mode(state);
        self.summary.statements += 1;
        let head: String = source.chars().take(400).collect();
        let tokens = tokenize(&head, mode);
        let mut cursor = Cursor::new(&head, &tokens);
        let first = match cursor.next() {
            Some(TokenKind::Word(first)) => first.to_ascii_lowercase(),
            // `(SELECT …)` is a statement, too.
            Some(TokenKind::Punct('(')) => "select".to_owned(),
            _ => String::new(),
        };
        if !super::keywords::is_keyword(&first) {
            return self.foreign(source, sink);
        }
        self.understood = true;
        match first.as_str() {
            "set" => {
                // What the tools put back last, after all rows.
                self.summary.restored |= source.to_ascii_uppercase().contains("=@OLD_SQL_NOTES");
                if self.session.apply(source) {
                    let state = self.session.state();
                    self.builder.ansi_quotes = state.ansi_quotes;
                    self.builder.no_backslash_escapes = state.no_backslash_escapes;
                }
                Ok(())
            }
            "use" => {
                self.catalog.database = cursor.identifier();
                Ok(())
            }
            "create" => self.create(source, mode, &mut cursor, sink),
            "alter" => self.alter(source, mode, sink),
            "drop" => self.drop(&mut cursor, sink),
            "rename" => self.rename(source, &mut cursor, sink),
            "insert" | "replace" => self.other_insert(source, mode, sink),
            "update" | "delete" | "truncate" => self.change(source, &mut cursor, sink),
            // LOAD INDEX INTO CACHE changes nothing.
            "load" if cursor.eat("index") => Ok(()),
            "load" => {
                let reason = "rows in files beside the dump (mysqldump --tab, LOAD DATA) are not \
                              read: dump without --tab";
                self.unsupported(source, reason, sink)
            }
            "call" | "import" => self.unsupported(source, CHANGES_ROWS, sink),
            "select" | "do" => self.set_sequence(source, &mut cursor, sink),
            "execute" => {
                let message =
                    "a prepared statement is run, what it does is not followed".to_owned();
                self.warn(message, sink)
            }
            "grant" | "revoke" => self.skip(SkippedKind::Statement, String::new(), source, sink),
            // LOCK, COMMIT, PREPARE, FLUSH, XA and their like change no data.
            _ => Ok(()),
        }
    }

    /// A line or statement that begins with no word of SQL. Before the first statement it is a
    /// shell's banner; later it is damage, unless the tool's own warnings got into the file.
    pub(super) fn foreign(&mut self, text: &str, sink: Sink<'_>) -> Result<(), DumpError> {
        let shown: String = text.trim_end().chars().take(200).collect();
        let lower = shown.to_ascii_lowercase();
        let tool = ["mysqldump:", "mariadb-dump:", "mysql:", "mariadb:"];
        let from_tool = tool.iter().any(|name| lower.starts_with(name));
        if from_tool && !lower.contains("warning") {
            let reason = format!(
                "the tool that wrote the dump failed: {shown:?}; the dump is not whole, make it \
                 again"
            );
            return Err(DumpError::Syntax { offset: self.begun.0, line: self.begun.1, reason });
        }
        let harmless = from_tool
            || lower.starts_with("warning:")
            || lower.starts_with("enter password:")
            || lower.starts_with("--");
        if !harmless && !self.understood && !reads_file(&lower) {
            self.foreign_lines += 1;
            self.text_rows |= shown.matches(',').count() > 2;
            if self.foreign_lines > FOREIGN_LINES_LIMIT {
                return Err(self.no_sql());
            }
        } else if !harmless && reads_file(&lower) {
            let reason = format!(
                "the script reads another file here: {shown:?}; put the files into one, in the \
                 order in which they are read, such as: cat first.sql second.sql | relevo dump \
                 import -"
            );
            return Err(DumpError::Syntax { offset: self.begun.0, line: self.begun.1, reason });
        } else if !harmless {
            let reason = format!(
                "expected a statement, found {shown:?}; the dump is damaged there, or is not one of \
                 MySQL"
            );
            return Err(DumpError::Syntax { offset: self.begun.0, line: self.begun.1, reason });
        }
        self.warn(format!("line left out, it is no SQL: {shown}"), sink)
    }

    pub(super) fn no_sql(&self) -> DumpError {
        let (name, remedy): Format = if self.text_rows || formats::first_line_has_tab(&self.head) {
            formats::TEXT_ROWS
        } else {
            formats::NO_SQL
        };
        DumpError::Format { name, remedy }
    }

    /// An INSERT without rows in parentheses: `INSERT … SET` is one row, the rest is refused.
    fn other_insert(
        &mut self,
        source: &str,
        mode: LexMode,
        sink: Sink<'_>,
    ) -> Result<(), DumpError> {
        let tokens = tokenize(source, mode);
        let mut cursor = Cursor::new(source, &tokens);
        let Some((database, name)) = insert_target(&mut cursor) else {
            return self.unsupported(source, "an INSERT whose table cannot be read", sink);
        };
        if self.is_system(database.as_deref()) {
            return self.left_out(source, sink);
        }
        // Bytes that were no text in the dump's character set cannot be carried over this way.
        let exact = !source.contains(char::REPLACEMENT_CHARACTER);
        if !(exact && cursor.eat("set")) {
            return self.unsupported(source, CHANGES_ROWS, sink);
        }
        let (mut names, mut values) = (Vec::new(), Vec::new());
        loop {
            let (Some((_, name)), true) = (cursor.qualified(), cursor.eat_punct('=')) else {
                return self.unsupported(source, CHANGES_ROWS, sink);
            };
            let start = cursor.position();
            while !cursor.at_end() && !cursor.sees_punct(',') && !cursor.sees("on duplicate key") {
                if cursor.group().is_none() {
                    cursor.next();
                }
            }
            names.push(name);
            values.push(cursor.source_since(start));
            if !cursor.eat_punct(',') {
                break;
            }
        }
        let row = format!("({})", values.join(","));
        let head = InsertHead { database, table: name, columns: Some(names) };
        // The source is UTF-8 here, whatever the dump is in.
        let session =
            SessionState { charset: Some("utf8mb4".to_owned()), ..self.session.state().clone() };
        self.single_row(head, session, row.as_bytes(), sink)
    }

    /// UPDATE, DELETE and TRUNCATE: without effect on a table that has no rows yet.
    fn change(
        &mut self,
        source: &str,
        cursor: &mut Cursor<'_>,
        sink: Sink<'_>,
    ) -> Result<(), DumpError> {
        for word in ["low_priority", "quick", "ignore", "from", "table"] {
            let _ = cursor.eat(word);
        }
        let target = cursor.qualified();
        // A second table is named with a comma or a JOIN; which one changes is not looked into.
        let single = cursor.at_end() || cursor.sees("set") || cursor.sees("where");
        match target {
            Some((database, _)) if self.is_system(database.as_deref()) => {
                self.left_out(source, sink)
            }
            Some((database, table))
                if single && !self.catalog.is_filled(database.as_deref(), &table) =>
            {
                Ok(())
            }
            _ => self.unsupported(source, CHANGES_ROWS, sink),
        }
    }

    /// `SELECT SETVAL(sequence, …)`: MariaDB's sequences have their value set this way. Any other
    /// query changes nothing.
    fn set_sequence(
        &mut self,
        source: &str,
        cursor: &mut Cursor<'_>,
        sink: Sink<'_>,
    ) -> Result<(), DumpError> {
        if !(cursor.eat("setval") && cursor.eat_punct('(')) {
            return Ok(());
        }
        let name = cursor.qualified().map(|(_, name)| name).unwrap_or_default();
        self.skip(SkippedKind::Sequence, name, source, sink)
    }

    fn is_system(&self, database: Option<&str>) -> bool {
        database
            .or(self.catalog.database.as_deref())
            .is_some_and(|name| SYSTEM_DATABASES.iter().any(|s| s.eq_ignore_ascii_case(name)))
    }

    /// A statement that changes data or schema in a way that cannot be carried over.
    pub(super) fn unsupported(
        &mut self,
        source: &str,
        reason: &str,
        sink: Sink<'_>,
    ) -> Result<(), DumpError> {
        if self.options.unsupported == LossPolicy::Adapt {
            return self.left_out(source, sink);
        }
        Err(DumpError::Unsupported {
            offset: self.begun.0,
            line: self.begun.1,
            statement: source.chars().take(200).collect(),
            reason: reason.to_owned(),
        })
    }

    fn left_out(&mut self, source: &str, sink: Sink<'_>) -> Result<(), DumpError> {
        let head: String = source.chars().take(200).collect();
        self.warn(format!("statement left out: {head}"), sink)?;
        self.skip(SkippedKind::Statement, String::new(), source, sink)
    }

    pub(super) fn skip(
        &mut self,
        kind: SkippedKind,
        name: String,
        source: &str,
        sink: Sink<'_>,
    ) -> Result<(), DumpError> {
        // Views and sequences are translated from their source, whatever mode the dump is in.
        let source = match kind {
            SkippedKind::View | SkippedKind::Sequence => {
                normalize(source, lex_mode(self.session.state()))
            }
            _ => source.to_owned(),
        };
        sink(Event::Skipped(SkippedObject {
            kind,
            database: self.catalog.database.clone(),
            name,
            source,
            offset: self.begun.0,
        }))
        .map_err(DumpError::Sink)
    }
}
