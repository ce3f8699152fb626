//! Understands one whole statement.

use std::sync::Arc;

use crate::ddl;
use crate::error::DumpError;
use crate::event::{Event, SkippedKind, SkippedObject};
use crate::lexer::{Cursor, LexMode, TokenKind, tokenize};
use crate::schema::TableDef;
use crate::session::SessionState;
use crate::values::text;

use super::{DumpSplitter, Sink};

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

/// Reads `INSERT INTO table (columns) VALUES`.
pub(super) fn insert_head(bytes: &[u8], session: &SessionState) -> Option<InsertHead> {
    let source = text::decode(bytes, session.charset.as_deref());
    let tokens = tokenize(&source, lex_mode(session));
    let mut cursor = Cursor::new(&source, &tokens);
    cursor.next();
    for modifier in ["low_priority", "delayed", "high_priority", "ignore"] {
        let _ = cursor.eat(modifier);
    }
    let _ = cursor.eat("into");
    let (database, table) = cursor.qualified()?;
    if cursor.eat("partition") {
        cursor.group();
    }
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
    for name in names {
        let at = table.column_index(name).ok_or_else(|| {
            format!("the INSERT names column `{name}`, which table `{}` has not", table.name)
        })?;
        if positions.contains(&at) {
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
        let Some(TokenKind::Word(first)) = cursor.next() else {
            return self.skip(SkippedKind::Statement, String::new(), source, sink);
        };
        match first.to_ascii_lowercase().as_str() {
            "set" => {
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
            "insert" | "replace" | "update" | "load" | "call" | "rename" | "import" => {
                self.unsupported(source, sink)
            }
            "delete" | "truncate" => {
                let _ = cursor.eat("from") || cursor.eat("table");
                match cursor.qualified() {
                    // Clearing a table before it is filled changes nothing here.
                    Some((database, table))
                        if !self.catalog.is_filled(database.as_deref(), &table) =>
                    {
                        Ok(())
                    }
                    _ => self.unsupported(source, sink),
                }
            }
            "grant" | "revoke" => self.skip(SkippedKind::Statement, String::new(), source, sink),
            // LOCK, COMMIT, PREPARE, FLUSH, XA and their like change no data.
            _ => Ok(()),
        }
    }

    fn create(
        &mut self,
        source: &str,
        mode: LexMode,
        cursor: &mut Cursor<'_>,
        sink: Sink<'_>,
    ) -> Result<(), DumpError> {
        let _ = cursor.eat("or replace");
        if cursor.eat("database") || cursor.eat("schema") {
            return Ok(());
        }
        let table_position = cursor.position();
        let _ = cursor.eat("temporary");
        if cursor.eat("table") {
            cursor.rewind(table_position);
            return self.create_table(source, mode, sink);
        }
        if ddl::alter_target(source, mode).is_some() {
            return self.alter(source, mode, sink);
        }
        // ALGORITHM, DEFINER and SQL SECURITY come before the word that says what is created.
        let kinds = [
            ("view", SkippedKind::View),
            ("trigger", SkippedKind::Trigger),
            ("procedure", SkippedKind::Routine),
            ("function", SkippedKind::Routine),
            ("package", SkippedKind::Routine),
            ("event", SkippedKind::Event),
            ("sequence", SkippedKind::Sequence),
        ];
        while !cursor.at_end() {
            if let Some((_, kind)) = kinds.iter().find(|(word, _)| cursor.eat(word)) {
                let _ = cursor.eat("body");
                let _ = cursor.eat("if not exists");
                let name = cursor.qualified().map(|(_, name)| name).unwrap_or_default();
                if *kind == SkippedKind::View && is_view_stub(source, mode) {
                    return Ok(());
                }
                return self.skip(*kind, name, source, sink);
            }
            cursor.next();
        }
        self.skip(SkippedKind::Statement, String::new(), source, sink)
    }

    fn create_table(
        &mut self,
        source: &str,
        mode: LexMode,
        sink: Sink<'_>,
    ) -> Result<(), DumpError> {
        // mysqldump of MySQL 5 lets tables inside a conditional comment stand in for views.
        let stand_in =
            self.catalog.takes_stand_in() || self.builder.begun_in_version == Some(50_001);
        let parsed = ddl::parse_create_table(source, mode).map_err(|error| DumpError::Syntax {
            offset: self.begun.0,
            line: self.begun.1
                + source.get(..error.offset).map_or(0, |s| s.matches('\n').count() as u64),
            reason: format!("CREATE TABLE cannot be read: {error}"),
        })?;
        let Some(mut table) = parsed else {
            return self.unsupported(source, sink);
        };
        if stand_in {
            return Ok(());
        }
        if table.database.is_none() {
            table.database.clone_from(&self.catalog.database);
        }
        table.shares_long_name = self.catalog.has_long_name(&table);
        let table = Arc::new(table);
        if let Some(old) = self.catalog.remove(table.database.as_deref(), &table.name) {
            if source.to_ascii_lowercase().contains("if not exists") {
                // The server keeps the table that is there.
                self.catalog.insert(old);
                return Ok(());
            }
            sink(Event::Dropped(old)).map_err(DumpError::Sink)?;
        }
        self.summary.tables += 1;
        self.catalog.insert(Arc::clone(&table));
        sink(Event::Table(table)).map_err(DumpError::Sink)
    }

    fn alter(&mut self, source: &str, mode: LexMode, sink: Sink<'_>) -> Result<(), DumpError> {
        let Some((database, name)) = ddl::alter_target(source, mode) else {
            // ALTER DATABASE, ALTER VIEW and the like.
            return Ok(());
        };
        let Some(table) = self.catalog.find(database.as_deref(), &name) else {
            let message = format!("left out, table `{name}` is not in the dump: {source}");
            return self.warn(message, sink);
        };
        let mut changed = TableDef::clone(&table);
        let outcome =
            ddl::apply_alter(source, mode, &mut changed).map_err(|error| DumpError::Syntax {
                offset: self.begun.0,
                line: self.begun.1,
                reason: format!("the change of table `{name}` cannot be read: {error}"),
            })?;
        for ignored in outcome.ignored {
            self.warn(format!("change of table `{name}` left out: {ignored}"), sink)?;
        }
        if !outcome.changed {
            return Ok(());
        }
        let changed = Arc::new(changed);
        self.catalog.replace(Arc::clone(&changed));
        sink(Event::Altered(changed)).map_err(DumpError::Sink)
    }

    /// DROP TABLE of something the dump itself has created: a view's stand-in, or a second try.
    fn drop(&mut self, cursor: &mut Cursor<'_>, sink: Sink<'_>) -> Result<(), DumpError> {
        let _ = cursor.eat("temporary");
        if !cursor.eat("table") && !cursor.eat("tables") {
            return Ok(());
        }
        let _ = cursor.eat("if exists");
        while let Some((database, name)) = cursor.qualified() {
            if let Some(table) = self.catalog.remove(database.as_deref(), &name) {
                sink(Event::Dropped(table)).map_err(DumpError::Sink)?;
            }
            if !cursor.eat_punct(',') {
                break;
            }
        }
        Ok(())
    }

    /// A statement that changes data or schema in a way that is not carried over.
    fn unsupported(&mut self, source: &str, sink: Sink<'_>) -> Result<(), DumpError> {
        let head: String = source.chars().take(200).collect();
        self.warn(format!("statement left out: {head}"), sink)?;
        self.skip(SkippedKind::Statement, String::new(), source, sink)
    }

    fn skip(
        &mut self,
        kind: SkippedKind,
        name: String,
        source: &str,
        sink: Sink<'_>,
    ) -> Result<(), DumpError> {
        sink(Event::Skipped(SkippedObject {
            kind,
            database: self.catalog.database.clone(),
            name,
            source: source.to_owned(),
            offset: self.begun.0,
        }))
        .map_err(DumpError::Sink)
    }
}

/// Whether a CREATE VIEW only holds the place: it selects nothing but `1 AS …` or `NULL AS …`.
fn is_view_stub(source: &str, mode: LexMode) -> bool {
    let tokens = tokenize(source, mode);
    let mut cursor = Cursor::new(source, &tokens);
    while !cursor.at_end() && !cursor.eat("as select") {
        cursor.next();
    }
    loop {
        let constant = match cursor.next() {
            Some(TokenKind::Number(number)) => number == "1",
            Some(TokenKind::Word(word)) => word.eq_ignore_ascii_case("null"),
            _ => false,
        };
        if !constant || !cursor.eat("as") || cursor.identifier().is_none() {
            return false;
        }
        if cursor.at_end() {
            return true;
        }
        if !cursor.eat_punct(',') {
            return false;
        }
    }
}
