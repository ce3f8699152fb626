//! Reads CREATE TABLE.

use thiserror::Error;

use crate::ddl::column::{self, charset_of_collation, is_json_check, text};
use crate::lexer::{Cursor, LexMode, Token, TokenKind, normalize, tokenize};
use crate::schema::{
    CheckDef, ColumnType, DefaultValue, ForeignKeyDef, IndexDef, IndexKey, IndexKind, IndexPart,
    TableDef,
};

/// A statement that cannot be understood.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
#[error("{reason}")]
pub(crate) struct ParseError {
    /// What was expected or found.
    pub(crate) reason: String,
    /// Byte within the statement.
    pub(crate) offset: usize,
}

impl ParseError {
    pub(super) fn new(cursor: &Cursor<'_>, reason: String) -> Self {
        Self { reason, offset: cursor.offset() }
    }
}

pub(super) fn expected(cursor: &Cursor<'_>, what: &str) -> ParseError {
    let found = match cursor.peek() {
        None => "the end of the statement".to_owned(),
        Some(TokenKind::Word(word) | TokenKind::Number(word)) => format!("`{word}`"),
        Some(TokenKind::Quoted(name)) => format!("the name `{name}`"),
        Some(TokenKind::Text(_)) => "a string".to_owned(),
        Some(TokenKind::Bytes(_)) => "a binary literal".to_owned(),
        Some(TokenKind::Punct(c)) => format!("`{c}`"),
    };
    ParseError::new(cursor, format!("expected {what}, found {found}"))
}

/// Reads a whole CREATE TABLE statement. `None`: it defines no columns of its own (LIKE, AS
/// SELECT). The table's database is set only when the name is qualified.
pub(crate) fn create_table(source: &str, mode: LexMode) -> Result<Option<TableDef>, ParseError> {
    let tokens = tokenize(source, mode);
    let mut cursor = Cursor::new(source, &tokens);
    let cursor = &mut cursor;
    if !cursor.eat("create") {
        return Err(expected(cursor, "CREATE"));
    }
    let _ = cursor.eat("or replace");
    let _ = cursor.eat("temporary");
    if !cursor.eat("table") {
        return Err(expected(cursor, "TABLE"));
    }
    let _ = cursor.eat("if not exists");
    let (database, name) = cursor.qualified().ok_or_else(|| expected(cursor, "a table name"))?;
    let mut table = TableDef { database, name, ..TableDef::default() };
    if !cursor.sees_punct('(')
        || matches!(cursor.peek_at(1), Some(TokenKind::Word(w)) if w.eq_ignore_ascii_case("like"))
    {
        return Ok(None);
    }
    cursor.eat_punct('(');
    loop {
        definition(cursor, &mut table)?;
        if cursor.eat_punct(')') {
            break;
        }
        if !cursor.eat_punct(',') {
            return Err(expected(cursor, "`,` or `)`"));
        }
    }
    let options = cursor.position();
    table_options(cursor, &mut table);
    if selects(&tokens[options..]) {
        return Ok(None);
    }
    normalize_expressions(&mut table, mode);
    settle(&mut table);
    Ok(Some(table))
}

/// Whether rows are made by a query behind the columns.
fn selects(tokens: &[Token]) -> bool {
    tokens.iter().any(
        |token| matches!(&token.kind, TokenKind::Word(word) if word.eq_ignore_ascii_case("select")),
    )
}

/// One entry between the parentheses: a key, a constraint or a column.
fn definition(cursor: &mut Cursor<'_>, table: &mut TableDef) -> Result<(), ParseError> {
    if key_definition(cursor, table)? {
        return Ok(());
    }
    if cursor.eat("period for") {
        let period = cursor.identifier().unwrap_or_default();
        cursor.group();
        table.remarks.push(format!("PERIOD FOR {period}"));
        return Ok(());
    }
    let parsed = column::column(cursor)?;
    add_column(table, parsed);
    Ok(())
}

/// A column of ALTER TABLE, as a table of its own with the keys its definition brings; and where
/// it goes.
pub(super) fn column_definition(
    cursor: &mut Cursor<'_>,
    mode: LexMode,
    table: &TableDef,
) -> Result<(TableDef, Option<column::Place>), ParseError> {
    let mut alone = TableDef {
        name: table.name.clone(),
        charset: table.charset.clone(),
        collation: table.collation.clone(),
        ..TableDef::default()
    };
    let mut parsed = column::column(cursor)?;
    let place = parsed.place.take();
    add_column(&mut alone, parsed);
    normalize_expressions(&mut alone, mode);
    settle(&mut alone);
    Ok((alone, place))
}

/// Takes a parsed column into the table, with the keys its definition brings.
fn add_column(table: &mut TableDef, parsed: column::ParsedColumn) {
    let part = || IndexPart {
        key: IndexKey::Column(parsed.column.name.clone()),
        prefix: None,
        descending: false,
    };
    if parsed.primary {
        table.primary_key = vec![part()];
    }
    if parsed.unique {
        table.indexes.push(IndexDef {
            name: parsed.column.name.clone(),
            kind: IndexKind::Unique,
            parts: vec![part()],
            using: None,
            comment: String::new(),
        });
    }
    table.checks.extend(parsed.checks);
    table.foreign_keys.extend(parsed.foreign_keys);
    table.remarks.extend(parsed.remarks);
    table.columns.push(parsed.column);
}

/// A key or constraint, when one comes next. Shared with ALTER TABLE … ADD.
pub(super) fn key_definition(
    cursor: &mut Cursor<'_>,
    table: &mut TableDef,
) -> Result<bool, ParseError> {
    let mut name = String::new();
    if cursor.eat("constraint") {
        let keyword = ["primary", "unique", "foreign", "check"].iter().any(|w| cursor.sees(w));
        if !keyword {
            name = cursor.identifier().unwrap_or_default();
        }
    }
    if cursor.eat("primary key") {
        using(cursor);
        if !cursor.sees_punct('(') {
            cursor.identifier();
        }
        using(cursor);
        table.primary_key = index_parts(cursor)?;
        index_options(cursor);
    } else if cursor.eat("foreign key") {
        let _ = cursor.eat("if not exists");
        if !cursor.sees_punct('(') {
            let index = cursor.identifier().unwrap_or_default();
            if name.is_empty() {
                name = index;
            }
        }
        let columns = names(cursor)?;
        let key = references(cursor, name, columns)?;
        table.foreign_keys.push(key);
    } else if cursor.eat("check") {
        let check = check(cursor, name)?;
        table.checks.push(check);
    } else {
        let kind = if cursor.eat("unique") {
            IndexKind::Unique
        } else if cursor.eat("fulltext") {
            IndexKind::FullText
        } else if cursor.eat("spatial") {
            IndexKind::Spatial
        } else if cursor.sees("vector key") || cursor.sees("vector index") {
            cursor.next();
            IndexKind::Vector
        } else if cursor.sees("key") || cursor.sees("index") {
            IndexKind::Plain
        } else {
            return Ok(false);
        };
        let _ = cursor.eat("key") || cursor.eat("index");
        let _ = cursor.eat("if not exists");
        let index = index_after_keyword(cursor, kind, name)?;
        table.indexes.push(index);
    }
    Ok(true)
}

/// `[name] [USING x] (parts) options`.
fn index_after_keyword(
    cursor: &mut Cursor<'_>,
    kind: IndexKind,
    constraint: String,
) -> Result<IndexDef, ParseError> {
    let mut method = using(cursor);
    let mut name = constraint;
    if method.is_none() && !cursor.sees_punct('(') {
        name = cursor.identifier().unwrap_or(name);
        method = using(cursor);
    }
    let parts = index_parts(cursor)?;
    let (late_method, comment) = index_options(cursor);
    Ok(IndexDef { name, kind, parts, using: method.or(late_method), comment })
}

/// `CREATE [UNIQUE …] INDEX name ON table (parts)`, after CREATE: the table's name and the index.
pub(super) fn create_index(
    cursor: &mut Cursor<'_>,
) -> Result<Option<(Option<String>, String, IndexDef)>, ParseError> {
    let _ = cursor.eat("or replace");
    let _ = cursor.eat("online") || cursor.eat("offline");
    let kind = if cursor.eat("unique") {
        IndexKind::Unique
    } else if cursor.eat("fulltext") {
        IndexKind::FullText
    } else if cursor.eat("spatial") {
        IndexKind::Spatial
    } else {
        IndexKind::Plain
    };
    if !cursor.eat("index") {
        return Ok(None);
    }
    let _ = cursor.eat("if not exists");
    let name = cursor.identifier().ok_or_else(|| expected(cursor, "an index name"))?;
    let method = using(cursor);
    if !cursor.eat("on") {
        return Err(expected(cursor, "ON"));
    }
    let (database, table) = cursor.qualified().ok_or_else(|| expected(cursor, "a table name"))?;
    let parts = index_parts(cursor)?;
    let (late_method, comment) = index_options(cursor);
    let using = method.or(late_method);
    Ok(Some((database, table, IndexDef { name, kind, parts, using, comment })))
}

fn using(cursor: &mut Cursor<'_>) -> Option<String> {
    if cursor.eat("using") || cursor.eat("type") {
        return cursor.identifier().map(|m| m.to_ascii_lowercase());
    }
    None
}

fn index_options(cursor: &mut Cursor<'_>) -> (Option<String>, String) {
    let (mut method, mut comment) = (None, String::new());
    while !cursor.at_end() && !cursor.sees_punct(',') && !cursor.sees_punct(')') {
        if let Some(found) = using(cursor) {
            method = Some(found);
        } else if cursor.eat("comment") {
            cursor.eat_punct('=');
            comment = text(cursor);
        } else if cursor.sees("algorithm") || cursor.sees("lock") {
            break;
        } else {
            // KEY_BLOCK_SIZE, VISIBLE, IGNORED, WITH PARSER and their like.
            cursor.next();
        }
    }
    (method, comment)
}

fn index_parts(cursor: &mut Cursor<'_>) -> Result<Vec<IndexPart>, ParseError> {
    if !cursor.eat_punct('(') {
        return Err(expected(cursor, "("));
    }
    let mut parts = Vec::new();
    loop {
        let key = if cursor.sees_punct('(') {
            let expression = cursor.group().ok_or_else(|| expected(cursor, ")"))?;
            IndexKey::Expression(expression.to_owned())
        } else {
            IndexKey::Column(cursor.identifier().ok_or_else(|| expected(cursor, "a column"))?)
        };
        let prefix = cursor.group().and_then(|n| n.trim().parse().ok());
        let descending = cursor.eat("desc");
        let _ = cursor.eat("asc") || cursor.eat("without overlaps");
        parts.push(IndexPart { key, prefix, descending });
        if cursor.eat_punct(')') {
            return Ok(parts);
        }
        if !cursor.eat_punct(',') {
            return Err(expected(cursor, "`,` or `)`"));
        }
    }
}

fn names(cursor: &mut Cursor<'_>) -> Result<Vec<String>, ParseError> {
    let parts = index_parts(cursor)?;
    Ok(parts
        .into_iter()
        .map(|part| match part.key {
            IndexKey::Column(name) | IndexKey::Expression(name) => name,
        })
        .collect())
}

/// `REFERENCES table (columns) …` with its actions.
pub(super) fn references(
    cursor: &mut Cursor<'_>,
    name: String,
    columns: Vec<String>,
) -> Result<ForeignKeyDef, ParseError> {
    if !cursor.eat("references") {
        return Err(expected(cursor, "REFERENCES"));
    }
    let (database, table) = cursor.qualified().ok_or_else(|| expected(cursor, "a table name"))?;
    let references_columns = if cursor.sees_punct('(') { names(cursor)? } else { columns.clone() };
    let mut key = ForeignKeyDef {
        name,
        columns,
        references_database: database,
        references_table: table,
        references_columns,
        on_delete: None,
        on_update: None,
    };
    loop {
        if cursor.eat("match") {
            cursor.next();
        } else if cursor.eat("on delete") {
            key.on_delete = action(cursor);
        } else if cursor.eat("on update") {
            key.on_update = action(cursor);
        } else {
            return Ok(key);
        }
    }
}

fn action(cursor: &mut Cursor<'_>) -> Option<String> {
    ["CASCADE", "RESTRICT", "SET NULL", "NO ACTION", "SET DEFAULT"]
        .into_iter()
        .find(|words| cursor.eat(words))
        .map(str::to_owned)
}

/// `(expression) [[NOT] ENFORCED]`, after CHECK.
pub(super) fn check(cursor: &mut Cursor<'_>, name: String) -> Result<CheckDef, ParseError> {
    let expression = cursor.group().ok_or_else(|| expected(cursor, "an expression"))?.to_owned();
    let enforced = !cursor.eat("not enforced");
    let _ = cursor.eat("enforced");
    Ok(CheckDef { name, expression, enforced })
}

/// Everything after the closing parenthesis. Shared with ALTER TABLE.
pub(super) fn table_options(cursor: &mut Cursor<'_>, table: &mut TableDef) {
    while !cursor.at_end() {
        if cursor.sees("partition by") {
            let start = cursor.position();
            while cursor.next().is_some() {}
            table.partitioning = Some(cursor.source_since(start).to_owned());
        } else {
            table_option(cursor, table);
        }
    }
}

/// One option; an unknown one is stepped over word by word.
pub(super) fn table_option(cursor: &mut Cursor<'_>, table: &mut TableDef) {
    let _ = cursor.eat("default");
    if cursor.eat("engine") || cursor.eat("type") {
        cursor.eat_punct('=');
        table.engine = cursor.identifier();
    } else if cursor.eat("auto_increment") {
        cursor.eat_punct('=');
        table.auto_increment = cursor.number().or(table.auto_increment);
    } else if cursor.eat("charset") || cursor.eat("character set") {
        cursor.eat_punct('=');
        table.charset = cursor.identifier().map(|c| c.to_ascii_lowercase());
    } else if cursor.eat("collate") {
        cursor.eat_punct('=');
        table.collation = cursor.identifier().map(|c| c.to_ascii_lowercase());
    } else if cursor.eat("comment") {
        cursor.eat_punct('=');
        table.comment = text(cursor);
    } else if cursor.eat("with system versioning") {
        table.remarks.push("WITH SYSTEM VERSIONING".to_owned());
    } else if cursor.sees_punct('(') {
        cursor.group();
    } else {
        cursor.next();
    }
}

/// Engines whose tables show rows that lie elsewhere and that no dump holds.
const ROWS_ELSEWHERE: [&str; 6] =
    ["mrg_myisam", "merge", "federated", "federatedx", "connect", "spider"];

/// What only the whole table tells: binary defaults, MariaDB's JSON, implied NOT NULL.
fn settle(table: &mut TableDef) {
    if let Some(engine) = &table.engine
        && ROWS_ELSEWHERE.contains(&engine.to_ascii_lowercase().as_str())
    {
        table.remarks.push(format!(
            "ENGINE={engine}: its rows lie in other tables or on another server and are not part of \
             the dump; it becomes a table of its own"
        ));
    }
    if table.charset.is_none()
        && let Some(collation) = &table.collation
    {
        table.charset = Some(charset_of_collation(collation));
    }
    let mut json = Vec::new();
    table.checks.retain(|check| {
        let column = table.columns.iter().position(|c| {
            matches!(c.ty, ColumnType::Text | ColumnType::Json)
                && is_json_check(&check.expression, &c.name)
        });
        json.extend(column);
        column.is_none()
    });
    for at in json {
        table.columns[at].ty = ColumnType::Json;
    }
    if table.charset.as_deref() == Some("binary") {
        for column in table.columns.iter_mut().filter(|c| c.charset.is_none()) {
            column.ty = match std::mem::replace(&mut column.ty, ColumnType::Text) {
                ColumnType::Char { length } => ColumnType::Binary { length },
                ColumnType::VarChar { length } => ColumnType::VarBinary { length },
                ColumnType::Text => ColumnType::Blob,
                other => other,
            };
        }
    }
    settle_keys(table);
}

/// Expressions are kept as the default mode writes them, whatever mode the dump is in.
pub(super) fn normalize_expressions(table: &mut TableDef, mode: LexMode) {
    let rewrite = |source: &mut String| *source = normalize(source, mode);
    for column in &mut table.columns {
        if let Some(generated) = &mut column.generated {
            rewrite(&mut generated.expression);
        }
        if let Some(DefaultValue::Expression(source)) = &mut column.default {
            rewrite(source);
        }
    }
    table.checks.iter_mut().for_each(|check| rewrite(&mut check.expression));
    for part in table.indexes.iter_mut().flat_map(|index| &mut index.parts) {
        if let IndexKey::Expression(source) = &mut part.key {
            rewrite(source);
        }
    }
}

/// Primary key columns are NOT NULL whatever they say.
pub(super) fn settle_keys(table: &mut TableDef) {
    for part in &table.primary_key {
        let IndexKey::Column(name) = &part.key else { continue };
        let lower = name.to_lowercase();
        for column in table.columns.iter_mut().filter(|c| c.name.to_lowercase() == lower) {
            column.nullable = false;
        }
    }
}
