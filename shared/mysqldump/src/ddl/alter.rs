//! Reads ALTER TABLE and CREATE INDEX and applies them to a definition: keys and options at any
//! time, columns freely before the first rows, and afterwards as far as the rows stay what they are.

use crate::ddl::column::{self, Place};
use crate::ddl::parse::{
    ParseError, column_definition, create_index, expected, key_definition, settle_keys,
    table_option,
};
use crate::ddl::widen::{compatible, widens};
use crate::lexer::{Cursor, LexMode, TokenKind, tokenize};
use crate::schema::{ColumnDef, DefaultValue, IndexDef, IndexKey, IndexPart, TableDef};

/// Which table a statement alters: database and name. `None`: no such statement.
pub(crate) fn target(source: &str, mode: LexMode) -> Option<(Option<String>, String)> {
    let tokens = tokenize(source, mode);
    let mut cursor = Cursor::new(source, &tokens);
    if cursor.eat("alter") {
        let _ = cursor.eat("online");
        let _ = cursor.eat("ignore");
        if !cursor.eat("table") {
            return None;
        }
        let _ = cursor.eat("if exists");
        return cursor.qualified();
    }
    if cursor.eat("create") {
        let (database, table, _) = create_index(&mut cursor).ok()??;
        return Some((database, table));
    }
    None
}

/// What an ALTER changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effect {
    /// Nothing.
    #[default]
    Nothing,
    /// Keys and options: rows are read and loaded as before.
    Keys,
    /// Columns.
    Columns,
}

/// What an ALTER did to a definition.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Altered {
    /// How far it reached.
    pub(crate) effect: Effect,
    /// The table has another name.
    pub(crate) renamed: bool,
    /// An action that rows already read rule out.
    pub(crate) impossible: Option<String>,
    /// Actions that are not carried over.
    pub(crate) ignored: Vec<String>,
}

impl Altered {
    fn reaches(&mut self, effect: Effect) {
        self.effect = self.effect.max(effect);
    }
}

/// Applies the statement to a definition; `filled` when rows of the table have been read. On an
/// error the definition may be changed in part.
pub(crate) fn apply(
    source: &str,
    mode: LexMode,
    filled: bool,
    table: &mut TableDef,
) -> Result<Altered, ParseError> {
    let tokens = tokenize(source, mode);
    let mut cursor = Cursor::new(source, &tokens);
    let cursor = &mut cursor;
    let mut outcome = Altered::default();
    if cursor.eat("create") {
        if let Some((_, _, index)) = create_index(cursor)? {
            table.indexes.retain(|known| known.name != index.name || index.name.is_empty());
            table.indexes.push(index);
            outcome.reaches(Effect::Keys);
        }
        return Ok(outcome);
    }
    cursor.eat("alter");
    let _ = cursor.eat("online");
    let _ = cursor.eat("ignore");
    cursor.eat("table");
    let _ = cursor.eat("if exists");
    cursor.qualified().ok_or_else(|| expected(cursor, "a table name"))?;
    let mut change = Change { table, mode, filled, outcome };
    loop {
        change.action(cursor)?;
        if cursor.at_end() {
            break;
        }
        if !cursor.eat_punct(',') {
            return Err(expected(cursor, "`,`"));
        }
    }
    settle_keys(change.table);
    Ok(change.outcome)
}

struct Change<'a> {
    table: &'a mut TableDef,
    mode: LexMode,
    filled: bool,
    outcome: Altered,
}

impl Change<'_> {
    fn action(&mut self, cursor: &mut Cursor<'_>) -> Result<(), ParseError> {
        let start = cursor.position();
        let known =
            if cursor.eat("disable keys") || cursor.eat("enable keys") || cursor.eat("force") {
                true
            } else if cursor.eat("add") {
                self.add(cursor)?
            } else if cursor.sees("modify") || cursor.sees("change") {
                self.modify(cursor)?
            } else if cursor.eat("alter") {
                self.set_default(cursor)
            } else if cursor.eat("drop") {
                self.drop(cursor)
            } else if cursor.eat("rename") {
                self.rename(cursor)
            } else if cursor.eat("convert to") {
                // Text is UTF-8 here whatever its character set; how it compares changes.
                self.options(cursor);
                self.table.columns.iter_mut().for_each(|column| {
                    if column.ty.is_text() {
                        (column.charset, column.collation) = (None, None);
                    }
                });
                true
            } else if [
                "auto_increment",
                "engine",
                "comment",
                "default",
                "charset",
                "character set",
                "collate",
                "row_format",
                "key_block_size",
                "stats_persistent",
                "pack_keys",
                "checksum",
            ]
            .iter()
            .any(|option| cursor.sees(option))
            {
                self.options(cursor);
                true
            } else if cursor.sees("partition by") {
                let from = cursor.position();
                skip_all(cursor);
                self.table.partitioning = Some(cursor.source_since(from).to_owned());
                self.outcome.reaches(Effect::Keys);
                true
            } else {
                cursor.eat("order by")
            };
        // What is left of an action says how the server is to do it.
        skip_action(cursor);
        if !known {
            self.outcome.ignored.push(cursor.source_since(start).to_owned());
        }
        Ok(())
    }

    fn options(&mut self, cursor: &mut Cursor<'_>) {
        while !cursor.at_end() && !cursor.sees_punct(',') {
            table_option(cursor, self.table);
        }
        self.outcome.reaches(Effect::Keys);
    }

    fn rule_out(&mut self, what: String) {
        self.outcome.impossible.get_or_insert(what);
    }

    fn add(&mut self, cursor: &mut Cursor<'_>) -> Result<bool, ParseError> {
        if key_definition(cursor, self.table)? {
            self.outcome.reaches(Effect::Keys);
            return Ok(true);
        }
        if cursor.sees("partition") || cursor.sees("period") || cursor.sees("system") {
            return Ok(false);
        }
        let _ = cursor.eat("column");
        let _ = cursor.eat("if not exists");
        if !cursor.eat_punct('(') {
            self.add_column(cursor)?;
            return Ok(true);
        }
        loop {
            self.add_column(cursor)?;
            if cursor.eat_punct(')') {
                return Ok(true);
            }
            if !cursor.eat_punct(',') {
                return Err(expected(cursor, "`,` or `)`"));
            }
        }
    }

    fn add_column(&mut self, cursor: &mut Cursor<'_>) -> Result<(), ParseError> {
        let (defined, place) = column_definition(cursor, self.mode, self.table)?;
        let TableDef { columns, primary_key, indexes, foreign_keys, checks, remarks, .. } = defined;
        let Some(column) = columns.into_iter().next() else { return Ok(()) };
        if self.table.column_index(&column.name).is_some() {
            // IF NOT EXISTS, or an error in the server, too.
            return Ok(());
        }
        if !primary_key.is_empty() {
            self.table.primary_key = primary_key;
        }
        self.table.indexes.extend(indexes);
        self.table.foreign_keys.extend(foreign_keys);
        self.table.checks.extend(checks);
        self.table.remarks.extend(remarks);
        self.outcome.reaches(Effect::Columns);
        if self.filled {
            if column.auto_increment {
                self.rule_out(format!("`{}` would be numbered by the server", column.name));
            }
            self.table.added_later.push(column.name.clone());
            self.table.columns.push(column);
            return Ok(());
        }
        let at = match place {
            Some(Place::First) => 0,
            Some(Place::After(name)) => {
                self.table.column_index(&name).map_or(self.table.columns.len(), |at| at + 1)
            }
            None => self.table.columns.len(),
        };
        self.table.columns.insert(at, column);
        Ok(())
    }

    fn modify(&mut self, cursor: &mut Cursor<'_>) -> Result<bool, ParseError> {
        let renames = cursor.eat("change");
        let _ = renames || cursor.eat("modify");
        let _ = cursor.eat("column");
        let _ = cursor.eat("if exists");
        let old_name = if renames { cursor.identifier() } else { None };
        let (defined, place) = column_definition(cursor, self.mode, self.table)?;
        let Some(column) = defined.columns.first().cloned() else { return Ok(false) };
        let name = old_name.unwrap_or_else(|| column.name.clone());
        let Some(at) = self.table.column_index(&name) else { return Ok(false) };
        let old = self.table.columns[at].clone();
        self.table.checks.extend(defined.checks);
        self.table.indexes.extend(defined.indexes);
        if !defined.primary_key.is_empty() {
            self.table.primary_key = defined.primary_key;
        }
        if !self.filled {
            self.rename_column(&name, &column.name);
            self.table.columns.remove(at);
            let to = match place {
                Some(Place::First) => 0,
                Some(Place::After(after)) => {
                    self.table.column_index(&after).map_or(at, |at| at + 1)
                }
                None => at,
            };
            self.table.columns.insert(to, column);
            self.outcome.reaches(Effect::Columns);
            return Ok(true);
        }
        if old.name != column.name {
            self.rule_out(format!("`{name}` becomes `{}`", column.name));
            return Ok(true);
        }
        let same = compatible(&old.ty, &column.ty);
        if !same && !widens(&old.ty, &column.ty) || old.generated != column.generated {
            self.rule_out(format!(
                "`{name}` changes from {} to {}",
                old.ty.mysql_name(),
                column.ty.mysql_name()
            ));
            return Ok(true);
        }
        // The type stays that of CREATE TABLE where rows are read alike.
        let ty = if same { old.ty.clone() } else { column.ty.clone() };
        let identity = column.auto_increment && !old.auto_increment;
        if !same || !identity && (old.default != column.default || old.nullable != column.nullable)
        {
            self.retouch(&old.name);
        } else {
            self.outcome.reaches(Effect::Keys);
        }
        self.table.columns[at] = ColumnDef { ty, ..column };
        Ok(true)
    }

    /// A column is brought to its last definition after the load.
    fn retouch(&mut self, name: &str) {
        if !self.table.widened_later.iter().any(|known| known == name) {
            self.table.widened_later.push(name.to_owned());
        }
        self.outcome.reaches(Effect::Columns);
    }

    fn set_default(&mut self, cursor: &mut Cursor<'_>) -> bool {
        if cursor.eat("index") || cursor.eat("constraint") || cursor.eat("check") {
            // Visibility and enforcement.
            return false;
        }
        let _ = cursor.eat("column");
        let Some(at) = cursor.identifier().and_then(|name| self.table.column_index(&name)) else {
            return false;
        };
        let value = if cursor.eat("drop default") {
            None
        } else if cursor.eat("set default") {
            match cursor.peek() {
                Some(TokenKind::Punct('(')) => {
                    let source = cursor.group().unwrap_or_default();
                    Some(DefaultValue::Expression(crate::lexer::normalize(source, self.mode)))
                }
                Some(TokenKind::Text(_)) => Some(DefaultValue::Literal(column::text(cursor))),
                _ if cursor.eat("null") => Some(DefaultValue::Null),
                _ => {
                    let sign = if cursor.eat_punct('-') { "-" } else { "" };
                    match cursor.next() {
                        Some(TokenKind::Number(number)) => {
                            Some(DefaultValue::Literal(format!("{sign}{number}")))
                        }
                        _ => return false,
                    }
                }
            }
        } else {
            return false;
        };
        let name = self.table.columns[at].name.clone();
        self.table.columns[at].default = value;
        if self.filled {
            self.retouch(&name);
        } else {
            self.outcome.reaches(Effect::Columns);
        }
        true
    }

    fn drop(&mut self, cursor: &mut Cursor<'_>) -> bool {
        let table = &mut *self.table;
        let named = |name: &str, wanted: &str| name.to_lowercase() == wanted.to_lowercase();
        if cursor.eat("primary key") {
            table.primary_key.clear();
        } else if cursor.eat("foreign key") {
            let _ = cursor.eat("if exists");
            let Some(name) = cursor.identifier() else { return false };
            table.foreign_keys.retain(|key| !named(&key.name, &name));
        } else if cursor.eat("index") || cursor.eat("key") {
            let _ = cursor.eat("if exists");
            let Some(name) = cursor.identifier() else { return false };
            table.indexes.retain(|index| !named(&index.name, &name));
        } else if cursor.eat("constraint") || cursor.eat("check") {
            let _ = cursor.eat("if exists");
            let Some(name) = cursor.identifier() else { return false };
            table.checks.retain(|check| !named(&check.name, &name));
            table.foreign_keys.retain(|key| !named(&key.name, &name));
            table.indexes.retain(|index| !named(&index.name, &name));
        } else if cursor.sees("partition") || cursor.sees("period") || cursor.sees("system") {
            return false;
        } else {
            let _ = cursor.eat("column");
            let _ = cursor.eat("if exists");
            let Some(name) = cursor.identifier() else { return false };
            let Some(at) = table.column_index(&name) else { return false };
            if self.filled {
                self.rule_out(format!("`{name}` is dropped"));
                return true;
            }
            table.columns.remove(at);
            let other = |part: &IndexPart| match &part.key {
                IndexKey::Column(column) => !named(column, &name),
                IndexKey::Expression(_) => true,
            };
            table.primary_key.retain(other);
            table.indexes.iter_mut().for_each(|index| index.parts.retain(other));
            table.indexes.retain(|index| !index.parts.is_empty());
            self.outcome.reaches(Effect::Columns);
            return true;
        }
        self.outcome.reaches(Effect::Keys);
        true
    }

    fn rename(&mut self, cursor: &mut Cursor<'_>) -> bool {
        if cursor.eat("index") || cursor.eat("key") {
            let (Some(old), true, Some(new)) =
                (cursor.identifier(), cursor.eat("to"), cursor.identifier())
            else {
                return false;
            };
            let lower = old.to_lowercase();
            let renamed = |index: &&mut IndexDef| index.name.to_lowercase() == lower;
            self.table.indexes.iter_mut().filter(renamed).for_each(|i| i.name.clone_from(&new));
            self.outcome.reaches(Effect::Keys);
            return true;
        }
        if cursor.eat("column") {
            let (Some(old), true, Some(new)) =
                (cursor.identifier(), cursor.eat("to"), cursor.identifier())
            else {
                return false;
            };
            let Some(at) = self.table.column_index(&old) else { return false };
            if self.filled {
                self.rule_out(format!("`{old}` becomes `{new}`"));
                return true;
            }
            self.rename_column(&old, &new);
            self.table.columns[at].name = new;
            self.outcome.reaches(Effect::Columns);
            return true;
        }
        let _ = cursor.eat("to") || cursor.eat("as") || cursor.eat_punct('=');
        let Some((database, name)) = cursor.qualified() else { return false };
        if database.is_some() {
            self.table.database = database;
        }
        self.table.name = name;
        self.outcome.renamed = true;
        true
    }

    /// Keys follow a column's new name.
    fn rename_column(&mut self, old: &str, new: &str) {
        let lower = old.to_lowercase();
        let rename = |name: &mut String| {
            if name.to_lowercase() == lower {
                new.clone_into(name);
            }
        };
        let table = &mut *self.table;
        let parts = table.indexes.iter_mut().flat_map(|index| &mut index.parts);
        for part in parts.chain(&mut table.primary_key) {
            if let IndexKey::Column(name) = &mut part.key {
                rename(name);
            }
        }
        table.foreign_keys.iter_mut().flat_map(|key| &mut key.columns).for_each(rename);
    }
}

fn skip_all(cursor: &mut Cursor<'_>) {
    while cursor.next().is_some() {}
}

/// Steps to the comma that ends an action.
fn skip_action(cursor: &mut Cursor<'_>) {
    while !cursor.at_end() && !cursor.sees_punct(',') {
        if cursor.group().is_none() {
            cursor.next();
        }
    }
}
