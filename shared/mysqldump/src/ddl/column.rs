//! Reads one column definition: name, type, attributes.

use crate::ddl::parse::{ParseError, expected};
use crate::lexer::{Cursor, TokenKind};
use crate::schema::{
    CheckDef, ColumnDef, ColumnType, DefaultValue, ForeignKeyDef, GeneratedDef, IntSize,
};

/// A column and the table-level things its definition may bring along.
#[derive(Debug)]
pub(super) struct ParsedColumn {
    pub(super) column: ColumnDef,
    pub(super) primary: bool,
    pub(super) unique: bool,
    pub(super) checks: Vec<CheckDef>,
    pub(super) foreign_keys: Vec<ForeignKeyDef>,
    pub(super) remarks: Vec<String>,
    /// Where ALTER TABLE puts it: after a column, or first; `None` at the end.
    pub(super) place: Option<Place>,
}

/// A place within a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// `FIRST`.
    First,
    /// `AFTER column`.
    After(String),
}

/// `name type attributes…`, up to the comma or parenthesis that ends it.
pub(super) fn column(cursor: &mut Cursor<'_>) -> Result<ParsedColumn, ParseError> {
    let name = cursor.identifier().ok_or_else(|| expected(cursor, "a column name"))?;
    let mut parsed = ParsedColumn {
        column: ColumnDef {
            name,
            pg_name: None,
            pg_type: None,
            ty: ColumnType::Text,
            nullable: true,
            default: None,
            auto_increment: false,
            on_update_now: false,
            generated: None,
            invisible: false,
            charset: None,
            collation: None,
            comment: String::new(),
        },
        primary: false,
        unique: false,
        checks: Vec::new(),
        foreign_keys: Vec::new(),
        remarks: Vec::new(),
        place: None,
    };
    parsed.column.ty = column_type(cursor, &mut parsed)?;
    while !cursor.at_end() && !cursor.sees_punct(',') && !cursor.sees_punct(')') {
        attribute(cursor, &mut parsed)?;
    }
    settle(&mut parsed);
    Ok(parsed)
}

/// What only the whole definition tells: binary character sets, MariaDB's JSON.
fn settle(parsed: &mut ParsedColumn) {
    let column = &mut parsed.column;
    if column.charset.is_none()
        && let Some(collation) = &column.collation
    {
        column.charset = Some(charset_of_collation(collation));
    }
    if column.charset.as_deref() == Some("binary") {
        column.ty = match std::mem::replace(&mut column.ty, ColumnType::Text) {
            ColumnType::Char { length } => ColumnType::Binary { length },
            ColumnType::VarChar { length } => ColumnType::VarBinary { length },
            ColumnType::Text => ColumnType::Blob,
            other => other,
        };
    }
    parsed.checks.retain(|check| {
        let json = is_json_check(&check.expression, &column.name)
            && matches!(column.ty, ColumnType::Text | ColumnType::Json);
        if json {
            column.ty = ColumnType::Json;
        }
        !json
    });
}

/// Whether an expression is just `json_valid(column)`.
pub(super) fn is_json_check(expression: &str, column: &str) -> bool {
    let compact: String =
        expression.chars().filter(|c| !c.is_whitespace() && *c != '`' && *c != '"').collect();
    compact.get(..11).is_some_and(|head| head.eq_ignore_ascii_case("json_valid("))
        && compact[11..].strip_suffix(')').is_some_and(|inner| inner.eq_ignore_ascii_case(column))
}

/// Character set that a collation belongs to.
pub(super) fn charset_of_collation(collation: &str) -> String {
    let lower = collation.to_ascii_lowercase();
    lower.split('_').next().unwrap_or(&lower).to_owned()
}

fn column_type(
    cursor: &mut Cursor<'_>,
    parsed: &mut ParsedColumn,
) -> Result<ColumnType, ParseError> {
    let offset = cursor.offset();
    // In its dialect of Oracle the server says whose `date` it means.
    if cursor.eat("mariadb_schema") {
        let _ = cursor.eat_punct('.');
    }
    let Some(TokenKind::Word(word)) = cursor.peek() else {
        return Err(expected(cursor, "a column type"));
    };
    cursor.next();
    let mut word = word.to_ascii_lowercase();
    if word == "national" || word == "nchar" || word == "nvarchar" {
        parsed.column.charset = Some("utf8mb3".to_owned());
        if word == "national"
            && let Some(TokenKind::Word(next)) = cursor.next()
        {
            word = next.to_ascii_lowercase();
        } else if let Some(rest) = word.strip_prefix('n') {
            word = rest.to_owned();
        }
    }
    if word == "long" {
        word = if cursor.eat("varbinary") {
            "mediumblob".to_owned()
        } else {
            let _ = cursor.eat("varchar") || cursor.eat("char varying");
            "mediumtext".to_owned()
        };
    }
    if matches!(word.as_str(), "char" | "character") && cursor.eat("varying") {
        word = "varchar".to_owned();
    }
    if word == "double" {
        let _ = cursor.eat("precision");
    }
    if matches!(word.as_str(), "enum" | "set") {
        let labels = labels(cursor)?;
        return Ok(if word == "enum" {
            ColumnType::Enum { labels }
        } else {
            ColumnType::Set { labels }
        });
    }
    let arguments = arguments(cursor);
    let (mut unsigned, mut zerofill) = (false, false);
    loop {
        if cursor.eat("unsigned") {
            unsigned = true;
        } else if cursor.eat("zerofill") {
            (unsigned, zerofill) = (true, true);
        } else if !cursor.eat("signed") {
            break;
        }
    }
    let first = arguments.first().copied();
    let second = arguments.get(1).copied();
    let int = |size| ColumnType::Int { size, unsigned, zerofill, width: first };
    let fsp = || first.filter(|n| *n <= 6).unwrap_or(0);
    Ok(match word.as_str() {
        "tinyint" | "int1" => int(IntSize::Tiny),
        "bool" | "boolean" => ColumnType::Int {
            size: IntSize::Tiny,
            unsigned: false,
            zerofill: false,
            width: Some(1),
        },
        "smallint" | "int2" => int(IntSize::Small),
        "mediumint" | "int3" | "middleint" => int(IntSize::Medium),
        "int" | "integer" | "int4" => int(IntSize::Int),
        "bigint" | "int8" => int(IntSize::Big),
        "serial" => {
            parsed.column.nullable = false;
            parsed.column.auto_increment = true;
            parsed.unique = true;
            ColumnType::Int { size: IntSize::Big, unsigned: true, zerofill: false, width: None }
        }
        "decimal" | "dec" | "numeric" | "fixed" | "number" => ColumnType::Decimal {
            precision: first.filter(|p| *p > 0).unwrap_or(10),
            scale: second.unwrap_or(0),
            unsigned,
        },
        // FLOAT(p) with p over 24 bits is a double.
        "float" if second.is_none() && first.is_some_and(|p| p > 24) => {
            ColumnType::Double { scale: None, unsigned }
        }
        "float" | "float4" => ColumnType::Float { scale: second, unsigned },
        "double" | "float8" | "real" => ColumnType::Double { scale: second, unsigned },
        "bit" => ColumnType::Bit { width: first.unwrap_or(1) },
        "date" => ColumnType::Date,
        "datetime" => ColumnType::DateTime { fsp: fsp() },
        // timestamp(14) of MySQL 4.0 was a display width.
        "timestamp" => ColumnType::Timestamp { fsp: fsp() },
        "time" => ColumnType::Time { fsp: fsp() },
        "year" => ColumnType::Year,
        "char" | "character" if cursor.eat("byte") => {
            ColumnType::Binary { length: first.unwrap_or(1) }
        }
        "char" | "character" => ColumnType::Char { length: first.unwrap_or(1) },
        "varchar" | "varchar2" | "varcharacter" => {
            ColumnType::VarChar { length: first.unwrap_or(65_535) }
        }
        "tinytext" | "text" | "mediumtext" | "longtext" | "clob" => ColumnType::Text,
        "binary" => ColumnType::Binary { length: first.unwrap_or(1) },
        "varbinary" | "raw" => ColumnType::VarBinary { length: first.unwrap_or(65_535) },
        "tinyblob" | "blob" | "mediumblob" | "longblob" => ColumnType::Blob,
        "json" => ColumnType::Json,
        "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring"
        | "multipolygon" | "geometrycollection" | "geomcollection" => {
            ColumnType::Geometry { kind: word }
        }
        "uuid" => ColumnType::Uuid,
        "inet4" => ColumnType::Inet4,
        "inet6" => ColumnType::Inet6,
        "vector" => ColumnType::Vector,
        _ => return Err(ParseError { reason: format!("unknown column type `{word}`"), offset }),
    })
}

fn labels(cursor: &mut Cursor<'_>) -> Result<Vec<String>, ParseError> {
    if !cursor.eat_punct('(') {
        return Err(expected(cursor, "("));
    }
    let mut labels = Vec::new();
    loop {
        // A character set introducer before the label changes nothing: the text is decoded.
        if matches!(cursor.peek(), Some(TokenKind::Word(w)) if w.starts_with('_')) {
            cursor.next();
        }
        match cursor.next() {
            // Without NUL characters, as its values arrive.
            Some(TokenKind::Text(label)) => {
                labels.push(label.trim_end_matches(' ').replace('\0', ""));
            }
            Some(TokenKind::Bytes(label)) => {
                labels.push(String::from_utf8_lossy(label).into_owned());
            }
            _ => return Err(expected(cursor, "a label")),
        }
        if cursor.eat_punct(')') {
            return Ok(labels);
        }
        if !cursor.eat_punct(',') {
            return Err(expected(cursor, ", or )"));
        }
    }
}

/// `(n[, m])`; what is no number (MariaDB's `float(10.0)`) is skipped.
fn arguments(cursor: &mut Cursor<'_>) -> Vec<u32> {
    cursor.group().map_or_else(Vec::new, |group| {
        group.split(',').filter_map(|part| part.trim().parse().ok()).collect()
    })
}

fn attribute(cursor: &mut Cursor<'_>, parsed: &mut ParsedColumn) -> Result<(), ParseError> {
    let column = &mut parsed.column;
    if cursor.eat("not null") {
        column.nullable = false;
    } else if cursor.eat("null") {
        column.nullable = true;
    } else if cursor.eat("default") {
        column.default = Some(default_value(cursor)?);
    } else if cursor.eat("auto_increment") {
        column.auto_increment = true;
    } else if cursor.eat("on update") {
        now(cursor);
        column.on_update_now = true;
    } else if cursor.eat("comment") {
        cursor.eat_punct('=');
        column.comment = text(cursor);
    } else if cursor.eat("collate") {
        cursor.eat_punct('=');
        column.collation = cursor.identifier().map(|c| c.to_ascii_lowercase());
    } else if cursor.eat("character set") || cursor.eat("charset") {
        cursor.eat_punct('=');
        column.charset = cursor.identifier().map(|c| c.to_ascii_lowercase());
    } else if cursor.eat("ascii") {
        column.charset = Some("latin1".to_owned());
    } else if cursor.eat("primary") {
        let _ = cursor.eat("key");
        parsed.primary = true;
    } else if cursor.eat("unique") {
        let _ = cursor.eat("key");
        parsed.unique = true;
    } else if cursor.eat("key") {
        parsed.primary = true;
    } else if cursor.eat("invisible") {
        column.invisible = true;
    } else if cursor.eat("generated always as row") {
        let _ = cursor.eat("start") || cursor.eat("end");
        parsed.remarks.push(format!("column `{}` keeps row versions", column.name));
    } else if cursor.sees("generated always as") || cursor.sees("as") {
        let _ = cursor.eat("generated always as") || cursor.eat("as");
        let expression = cursor.group().ok_or_else(|| expected(cursor, "an expression"))?;
        let stored = cursor.eat("stored") || cursor.eat("persistent");
        let _ = cursor.eat("virtual");
        column.generated = Some(GeneratedDef { expression: expression.to_owned(), stored });
    } else if cursor.sees("constraint") || cursor.sees("check") {
        let mut name = String::new();
        if cursor.eat("constraint") && !cursor.sees("check") {
            name = cursor.identifier().unwrap_or_default();
        }
        if !cursor.eat("check") {
            return Err(expected(cursor, "CHECK"));
        }
        parsed.checks.push(super::parse::check(cursor, name)?);
    } else if cursor.sees("references") {
        let key = super::parse::references(cursor, String::new(), vec![column.name.clone()])?;
        // InnoDB ignores REFERENCES written at a column (MariaDB since 10.5 does not).
        parsed.foreign_keys.push(key);
    } else if cursor.eat("srid")
        || cursor.eat("ref_system_id")
        || cursor.eat("column_format")
        || cursor.eat("storage")
        || cursor.eat("engine_attribute")
        || cursor.eat("secondary_engine_attribute")
    {
        cursor.eat_punct('=');
        cursor.next();
    } else if cursor.eat("with system versioning") || cursor.eat("without system versioning") {
        parsed.remarks.push(format!("column `{}`: system versioning", column.name));
    } else if cursor.eat("compressed") {
        if cursor.eat_punct('=') {
            cursor.next();
        }
    } else if cursor.eat("first") {
        parsed.place = Some(Place::First);
    } else if cursor.eat("after") {
        parsed.place = cursor.identifier().map(Place::After);
    } else if cursor.eat("not") {
        let _ = cursor.eat("secondary");
    } else {
        // BINARY, VISIBLE, ENFORCED and whatever later versions add says nothing about values.
        cursor.next();
        if cursor.sees_punct('(') {
            cursor.group();
        }
    }
    Ok(())
}

/// A string, adjacent literals joined.
pub(super) fn text(cursor: &mut Cursor<'_>) -> String {
    let mut joined = String::new();
    while let Some(TokenKind::Text(part)) = cursor.peek() {
        joined.push_str(part);
        cursor.next();
    }
    joined
}

/// Steps over `CURRENT_TIMESTAMP`, `NOW()` and so on.
fn now(cursor: &mut Cursor<'_>) -> bool {
    let words = ["current_timestamp", "now", "localtime", "localtimestamp"];
    let seen = words.iter().any(|word| cursor.eat(word));
    if seen && cursor.sees_punct('(') {
        cursor.group();
    }
    seen
}

fn default_value(cursor: &mut Cursor<'_>) -> Result<DefaultValue, ParseError> {
    if cursor.eat("null") {
        return Ok(DefaultValue::Null);
    }
    if now(cursor) {
        return Ok(DefaultValue::Now);
    }
    let whole = cursor.position();
    let negative = cursor.eat_punct('-');
    if !negative {
        cursor.eat_punct('+');
    }
    let start = cursor.position();
    match cursor.next() {
        Some(TokenKind::Number(number)) => {
            Ok(DefaultValue::Literal(format!("{}{number}", if negative { "-" } else { "" })))
        }
        Some(TokenKind::Bytes(bytes)) => Ok(DefaultValue::Bytes(bytes.clone())),
        Some(TokenKind::Text(_)) => {
            cursor.rewind(start);
            Ok(DefaultValue::Literal(text(cursor)))
        }
        Some(TokenKind::Punct('(')) => {
            cursor.rewind(start);
            let group = cursor.group().ok_or_else(|| expected(cursor, ")"))?;
            Ok(DefaultValue::Expression(group.to_owned()))
        }
        Some(TokenKind::Word(word)) => {
            if word.eq_ignore_ascii_case("_binary") {
                let value = text(cursor);
                return Ok(DefaultValue::Bytes(value.into_bytes()));
            }
            if word.starts_with('_') && matches!(cursor.peek(), Some(TokenKind::Text(_))) {
                return Ok(DefaultValue::Literal(text(cursor)));
            }
            if word.eq_ignore_ascii_case("true") || word.eq_ignore_ascii_case("false") {
                let digit = if word.eq_ignore_ascii_case("true") { "1" } else { "0" };
                return Ok(DefaultValue::Literal(digit.to_owned()));
            }
            Ok(bare_expression(cursor, whole))
        }
        // Another column.
        Some(TokenKind::Quoted(_)) => Ok(bare_expression(cursor, whole)),
        _ => Err(expected(cursor, "a default value")),
    }
}

/// MariaDB writes expressions without parentheses, e.g. `uuid()`, `a + 1`: the one that begins at
/// `start`.
fn bare_expression(cursor: &mut Cursor<'_>, start: usize) -> DefaultValue {
    while !cursor.at_end()
        && !cursor.sees_punct(',')
        && !cursor.sees_punct(')')
        && !ends_default(cursor)
    {
        if cursor.sees_punct('(') {
            cursor.group();
        } else {
            cursor.next();
        }
    }
    DefaultValue::Expression(cursor.source_since(start).to_owned())
}

/// Words that begin the next attribute of a column.
fn ends_default(cursor: &Cursor<'_>) -> bool {
    const NEXT: [&str; 12] = [
        "comment",
        "on update",
        "not null",
        "null",
        "auto_increment",
        "check",
        "constraint",
        "collate",
        "invisible",
        "unique",
        "primary",
        "references",
    ];
    NEXT.iter().any(|words| cursor.sees(words))
}
