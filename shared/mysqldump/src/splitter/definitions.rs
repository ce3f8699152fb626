//! Statements that define tables and objects: CREATE, ALTER, DROP, RENAME.

use std::sync::Arc;

use crate::choices;
use crate::ddl::{self, AlterEffect};
use crate::error::DumpError;
use crate::event::{Event, SkippedKind};
use crate::lexer::{Cursor, LexMode, TokenKind, tokenize};
use crate::schema::{IndexDef, TableDef};

use super::{DumpSplitter, Sink};

/// The most columns a table of Postgres can have.
const COLUMNS_LIMIT: usize = 1_600;

/// What a CREATE may make beside tables and indexes.
const KINDS: [(&str, SkippedKind); 7] = [
    ("view", SkippedKind::View),
    ("trigger", SkippedKind::Trigger),
    ("procedure", SkippedKind::Routine),
    ("function", SkippedKind::Routine),
    ("package", SkippedKind::Routine),
    ("event", SkippedKind::Event),
    ("sequence", SkippedKind::Sequence),
];

impl DumpSplitter {
    pub(super) fn create(
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
        if cursor.sees("temporary table") {
            let reason = "a temporary table, whose rows only the server can put to use: restore \
                          the dump into MySQL, and dump that with mysqldump";
            return self.unsupported(source, reason, sink);
        }
        if cursor.eat("table") {
            return self.create_table(source, mode, sink);
        }
        if ddl::alter_target(source, mode).is_some() {
            return self.alter(source, mode, sink);
        }
        // ALGORITHM, DEFINER and SQL SECURITY come before the word that says what is created.
        while !cursor.at_end() {
            if let Some((_, kind)) = KINDS.iter().find(|(word, _)| cursor.eat(word)) {
                let _ = cursor.eat("body");
                let _ = cursor.eat("if not exists");
                let name = cursor.qualified().map(|(_, name)| name).unwrap_or_default();
                if *kind == SkippedKind::View && is_view_stub(source, mode) {
                    return Ok(());
                }
                if *kind == SkippedKind::Trigger {
                    self.trigger(cursor, &name);
                }
                return self.skip(*kind, name, source, sink);
            }
            cursor.next();
        }
        self.skip(SkippedKind::Statement, String::new(), source, sink)
    }

    /// Remembers a trigger that is there before the rows of its table.
    fn trigger(&mut self, cursor: &mut Cursor<'_>, name: &str) {
        let mut on_insert = false;
        while !cursor.at_end() && !cursor.eat("on") {
            on_insert |= cursor.sees("insert");
            cursor.next();
        }
        if on_insert
            && let Some((database, table)) = cursor.qualified()
            && let Some(table) = self.catalog.find(database.as_deref(), &table)
        {
            self.catalog.add_trigger(&table, name);
        }
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
        let mut table = match parsed {
            Some(table) => table,
            None => match self.like(source, mode) {
                Some(table) => table,
                None => {
                    let reason = "a table made by a query: restore the dump into MySQL, and dump \
                                  that with mysqldump";
                    return self.unsupported(source, reason, sink);
                }
            },
        };
        if stand_in {
            return Ok(());
        }
        if table.database.is_none() {
            table.database.clone_from(&self.catalog.database);
        }
        if source.to_ascii_lowercase().contains("if not exists")
            && self.catalog.holds(table.database.as_deref(), &table.name)
        {
            // The server keeps the table that is there.
            return Ok(());
        }
        self.define(table, sink)
    }

    /// `CREATE TABLE a LIKE b`: b's columns and indexes, but no foreign keys.
    fn like(&self, source: &str, mode: LexMode) -> Option<TableDef> {
        let tokens = tokenize(source, mode);
        let mut cursor = Cursor::new(source, &tokens);
        while !cursor.eat("table") {
            cursor.next()?;
        }
        let _ = cursor.eat("if not exists");
        let (database, name) = cursor.qualified()?;
        cursor.eat_punct('(');
        if !cursor.eat("like") {
            return None;
        }
        let (model_database, model) = cursor.qualified()?;
        let model = self.catalog.find(model_database.as_deref(), &model)?;
        let mut table = TableDef { database, name, ..TableDef::clone(&model) };
        table.foreign_keys.clear();
        table.auto_increment = None;
        Some(table)
    }

    /// Hands on a table that has no rows yet; an earlier one of the name is dropped.
    fn define(&mut self, mut table: TableDef, sink: Sink<'_>) -> Result<(), DumpError> {
        let refuse =
            |reason: String| DumpError::Syntax { offset: self.begun.0, line: self.begun.1, reason };
        if table.columns.len() > COLUMNS_LIMIT {
            return Err(refuse(format!(
                "table `{}` has {} columns, a table of Postgres at most {COLUMNS_LIMIT}; split it, \
                 or leave it out of the dump (--ignore-table)",
                table.name,
                table.columns.len()
            )));
        }
        choices::name(&self.options.translate, &mut table);
        choices::check(&self.options.translate, &table)
            .map_err(|error| refuse(error.to_string()))?;
        table.shares_long_name = self.catalog.has_long_name(&table);
        table.numeric_keys = self.catalog.numeric_keys(&table, &self.options.translate);
        if let Some(database) = &table.database
            && !self.summary.databases.contains(database)
        {
            self.summary.databases.push(database.clone());
        }
        if let Some(old) = self.catalog.remove(table.database.as_deref(), &table.name) {
            sink(Event::Dropped(old)).map_err(DumpError::Sink)?;
        }
        self.summary.tables += 1;
        let table = Arc::new(table);
        self.catalog.insert(Arc::clone(&table));
        sink(Event::Table(table)).map_err(DumpError::Sink)
    }

    pub(super) fn alter(
        &mut self,
        source: &str,
        mode: LexMode,
        sink: Sink<'_>,
    ) -> Result<(), DumpError> {
        let Some((database, name)) = ddl::alter_target(source, mode) else {
            // ALTER DATABASE, ALTER VIEW and the like.
            return Ok(());
        };
        let Some(table) = self.catalog.find(database.as_deref(), &name) else {
            let message = format!("left out, table `{name}` is not in the dump: {source}");
            return self.warn(message, sink);
        };
        let mut changed = TableDef::clone(&table);
        let filled = self.catalog.is_filled(database.as_deref(), &name);
        let outcome = ddl::apply_alter(source, mode, filled, &mut changed).map_err(|error| {
            DumpError::Syntax {
                offset: self.begun.0,
                line: self.begun.1,
                reason: format!("the change of table `{name}` cannot be read: {error}"),
            }
        })?;
        for ignored in outcome.ignored {
            self.warn(format!("change of table `{name}` left out: {ignored}"), sink)?;
        }
        if let Some(impossible) = outcome.impossible {
            let reason = format!(
                "rows of table `{name}` came before this change, which cannot be made to them \
                 ({impossible}): restore the dump into MySQL, and dump that with mysqldump"
            );
            return self.unsupported(source, &reason, sink);
        }
        let reshaped = outcome.renamed || outcome.effect == AlterEffect::Columns;
        if outcome.renamed && filled {
            let reason = format!(
                "table `{name}` gets another name after its first rows: restore the dump into \
                 MySQL, and dump that with mysqldump"
            );
            return self.unsupported(source, &reason, sink);
        }
        if reshaped && !filled {
            self.catalog.remove(table.database.as_deref(), &table.name);
            sink(Event::Dropped(table)).map_err(DumpError::Sink)?;
            self.summary.tables -= 1;
            return self.define(changed, sink);
        }
        if outcome.effect == AlterEffect::Nothing {
            return Ok(());
        }
        if reshaped {
            self.catalog.seal(&table, "an ALTER TABLE changed its columns after its first rows");
        }
        choices::name(&self.options.translate, &mut changed);
        self.altered(changed, sink)
    }

    fn altered(&mut self, table: TableDef, sink: Sink<'_>) -> Result<(), DumpError> {
        let table = Arc::new(table);
        self.catalog.replace(Arc::clone(&table));
        sink(Event::Altered(table)).map_err(DumpError::Sink)
    }

    /// DROP TABLE of something the dump itself has created: a view's stand-in, or a second try.
    pub(super) fn drop(
        &mut self,
        cursor: &mut Cursor<'_>,
        sink: Sink<'_>,
    ) -> Result<(), DumpError> {
        if cursor.eat("index") {
            let _ = cursor.eat("if exists");
            let index = cursor.identifier().unwrap_or_default();
            let _ = cursor.eat("on");
            let table =
                cursor.qualified().and_then(|(db, name)| self.catalog.find(db.as_deref(), &name));
            let Some(table) = table else { return Ok(()) };
            let mut changed = TableDef::clone(&table);
            let lower = index.to_lowercase();
            changed.indexes.retain(|known: &IndexDef| known.name.to_lowercase() != lower);
            return self.altered(changed, sink);
        }
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

    /// `RENAME TABLE a TO b, …`.
    pub(super) fn rename(
        &mut self,
        source: &str,
        cursor: &mut Cursor<'_>,
        sink: Sink<'_>,
    ) -> Result<(), DumpError> {
        if !cursor.eat("table") && !cursor.eat("tables") {
            return Ok(());
        }
        loop {
            let from = cursor.qualified();
            let (Some((database, name)), true, Some((to_database, to))) =
                (from, cursor.eat("to"), cursor.qualified())
            else {
                return self.unsupported(source, "a RENAME that cannot be read", sink);
            };
            if self.catalog.is_filled(database.as_deref(), &name) {
                let reason = format!(
                    "table `{name}` gets another name after its first rows: restore the dump into \
                     MySQL, and dump that with mysqldump"
                );
                return self.unsupported(source, &reason, sink);
            }
            if let Some(old) = self.catalog.remove(database.as_deref(), &name) {
                let mut table = TableDef { name: to, ..TableDef::clone(&old) };
                if to_database.is_some() {
                    table.database = to_database;
                }
                sink(Event::Dropped(old)).map_err(DumpError::Sink)?;
                self.summary.tables -= 1;
                self.define(table, sink)?;
            }
            if !cursor.eat_punct(',') {
                return Ok(());
            }
        }
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
