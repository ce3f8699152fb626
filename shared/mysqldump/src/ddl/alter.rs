//! Reads ALTER TABLE and CREATE INDEX as far as dumps use them: keys, AUTO_INCREMENT, options.

use crate::ddl::column;
use crate::ddl::parse::{
    ParseError, create_index, expected, key_definition, settle_keys, table_option,
};
use crate::lexer::{Cursor, LexMode, tokenize};
use crate::schema::{ColumnType, DefaultValue, IndexDef, TableDef};

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

/// What an ALTER did to a definition.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Altered {
    /// The definition has changed.
    pub(crate) changed: bool,
    /// Actions that are not carried over.
    pub(crate) ignored: Vec<String>,
}

/// Applies the statement to a definition. On an error the definition may be changed in part.
pub(crate) fn apply(
    source: &str,
    mode: LexMode,
    table: &mut TableDef,
) -> Result<Altered, ParseError> {
    let tokens = tokenize(source, mode);
    let mut cursor = Cursor::new(source, &tokens);
    let cursor = &mut cursor;
    let mut outcome = Altered::default();
    if cursor.eat("create") {
        if let Some((_, _, index)) = create_index(cursor)? {
            push_index(table, index);
            outcome.changed = true;
        }
        return Ok(outcome);
    }
    cursor.eat("alter");
    let _ = cursor.eat("online");
    let _ = cursor.eat("ignore");
    cursor.eat("table");
    let _ = cursor.eat("if exists");
    cursor.qualified().ok_or_else(|| expected(cursor, "a table name"))?;
    loop {
        action(cursor, table, &mut outcome)?;
        if cursor.at_end() {
            break;
        }
        if !cursor.eat_punct(',') {
            return Err(expected(cursor, "`,`"));
        }
    }
    settle_keys(table);
    Ok(outcome)
}

fn push_index(table: &mut TableDef, index: IndexDef) {
    table.indexes.retain(|known| known.name != index.name || index.name.is_empty());
    table.indexes.push(index);
}

fn action(
    cursor: &mut Cursor<'_>,
    table: &mut TableDef,
    outcome: &mut Altered,
) -> Result<(), ParseError> {
    let start = cursor.position();
    if cursor.eat("disable keys") || cursor.eat("enable keys") || cursor.eat("force") {
        return Ok(());
    }
    if cursor.eat("add") {
        if key_definition(cursor, table)? {
            outcome.changed = true;
            return Ok(());
        }
        skip_action(cursor);
    } else if cursor.eat("modify") || cursor.sees("change") {
        let old_name = if cursor.eat("change") {
            let _ = cursor.eat("column");
            cursor.identifier()
        } else {
            let _ = cursor.eat("column");
            None
        };
        let parsed = column::column(cursor)?;
        let name = old_name.unwrap_or_else(|| parsed.column.name.clone());
        if let Some(at) = table.column_index(&name)
            && compatible(&table.columns[at].ty, &parsed.column.ty)
            && table.columns[at].name == parsed.column.name
        {
            // The type stays that of CREATE TABLE, which rows are already being read with.
            let ty = table.columns[at].ty.clone();
            table.columns[at] = crate::schema::ColumnDef { ty, ..parsed.column };
            outcome.changed = true;
            return Ok(());
        }
    } else if cursor.eat("alter") {
        let _ = cursor.eat("column");
        if let Some(at) = cursor.identifier().and_then(|name| table.column_index(&name)) {
            if cursor.eat("drop default") {
                table.columns[at].default = None;
                outcome.changed = true;
                return Ok(());
            }
            if cursor.eat("set default") {
                let value = column::text(cursor);
                let value = match cursor.number() {
                    Some(number) if value.is_empty() => number.to_string(),
                    _ => value,
                };
                table.columns[at].default = Some(DefaultValue::Literal(value));
                outcome.changed = true;
                return Ok(());
            }
        }
        skip_action(cursor);
    } else if ["auto_increment", "engine", "comment", "default", "charset", "character set"]
        .iter()
        .any(|option| cursor.sees(option))
        || cursor.sees("collate")
    {
        while !cursor.at_end() && !cursor.sees_punct(',') {
            table_option(cursor, table);
        }
        outcome.changed = true;
        return Ok(());
    } else if cursor.eat("order by") {
        skip_action(cursor);
        return Ok(());
    } else {
        skip_action(cursor);
    }
    outcome.ignored.push(cursor.source_since(start).to_owned());
    Ok(())
}

/// Whether a column changed by MODIFY still holds the values it was created for.
fn compatible(old: &ColumnType, new: &ColumnType) -> bool {
    match (old, new) {
        (
            ColumnType::Int { size: a, unsigned: x, .. },
            ColumnType::Int { size: b, unsigned: y, .. },
        ) => a == b && x == y,
        (ColumnType::Json, ColumnType::Text) => true,
        _ => old == new,
    }
}

/// Steps to the comma that ends an action.
fn skip_action(cursor: &mut Cursor<'_>) {
    while !cursor.at_end() && !cursor.sees_punct(',') {
        if cursor.sees_punct('(') {
            cursor.group();
        } else {
            cursor.next();
        }
    }
}
