//! Writes CREATE TABLE for Postgres: columns, types, defaults. Keys follow after the load.

use serde::{Deserialize, Serialize};

use crate::ddl::expression;
use crate::ddl::names::{column_name, is_system_column, literal, quote, table_name};
use crate::ddl::types::{Encoding, PgColumn, pg_column};
use crate::options::TranslateOptions;
use crate::schema::{ColumnDef, DefaultValue, TableDef};
use crate::values;

/// A table for Postgres.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Translated {
    /// One statement: CREATE TABLE without keys, so that rows load fast.
    pub sql: String,
    /// The table's name in Postgres.
    pub table: String,
    /// Columns in table order.
    pub columns: Vec<ColumnPlan>,
    /// What differs from the original, for the report.
    pub notes: Vec<Note>,
}

/// How one column is carried over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnPlan {
    /// Name in the dump.
    pub name: String,
    /// Name in Postgres.
    pub pg_name: String,
    /// Type in Postgres.
    pub pg_type: String,
    /// Computed by Postgres itself: no part of COPY.
    pub generated: bool,
    /// Created without NOT NULL (dates are, since a zero date becomes NULL; see the NotNull phase).
    pub nullable: bool,
    /// `COPY … TO` (ISO dates, zone UTC, a dump whose zone is UTC) prints the value as the encoder
    /// wrote it, so that checksums can be compared.
    pub round_trips: bool,
}

/// Something for the report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// Table in the dump.
    pub table: String,
    /// Column, index or constraint; empty for the table itself.
    pub object: String,
    /// What was done or left out.
    pub message: String,
}

impl Note {
    pub(crate) fn new(table: &TableDef, object: &str, message: impl Into<String>) -> Self {
        Self { table: table.qualified_name(), object: object.to_owned(), message: message.into() }
    }
}

/// Names, types and generated columns, without the SQL: what the encoder needs, too.
pub(crate) fn column_plans(
    table: &TableDef,
    options: &TranslateOptions,
) -> Vec<(ColumnPlan, PgColumn, Option<String>)> {
    table
        .columns
        .iter()
        .map(|column| {
            let pg = pg_column(table, column, options);
            let generated = column.generated.as_ref().and_then(|generated| {
                expression::generated(&generated.expression, column, table, options)
            });
            let plan = ColumnPlan {
                name: column.name.clone(),
                pg_name: column_name(table, column),
                pg_type: pg.name.clone(),
                generated: generated.is_some(),
                nullable: column.nullable
                    || column.ty.is_date()
                    || (column.generated.is_some() && generated.is_none()),
                round_trips: pg.round_trips,
            };
            (plan, pg, generated)
        })
        .collect()
}

/// The CREATE TABLE of a table in a schema.
pub fn create_table(table: &TableDef, schema: &str, options: &TranslateOptions) -> Translated {
    let name = table_name(table);
    let mut notes = Vec::new();
    if name != table.name && table.pg_name.is_none() {
        notes.push(Note::new(table, "", format!("the name is too long: the table is {name:?}")));
    }
    if let Some(partitioning) = &table.partitioning {
        notes.push(Note::new(
            table,
            "",
            format!("partitioned table made plain; it was: {partitioning}"),
        ));
    }
    notes.extend(table.remarks.iter().map(|remark| Note::new(table, "", remark.clone())));

    let mut lines = Vec::new();
    let mut columns = Vec::new();
    for (column, (plan, pg, generated)) in table.columns.iter().zip(column_plans(table, options)) {
        let mut line = format!("  {} {}", quote(&plan.pg_name), pg.name);
        if let Some(expression) = &generated {
            line.push_str(&format!(" GENERATED ALWAYS AS ({expression}) STORED"));
        } else if let Some(source) = &column.generated {
            notes.push(Note::new(
                table,
                &column.name,
                format!(
                    "generated column made plain (its values are those of the dump, NULL where \
                     the dump has none); it was: {}",
                    source.expression
                ),
            ));
        }
        if !plan.nullable {
            line.push_str(" NOT NULL");
        }
        if generated.is_none() {
            match default(column, &pg.encoding, table, options) {
                Ok(Some(value)) => line.push_str(&format!(" DEFAULT {value}")),
                Ok(None) => {}
                Err(reason) => notes.push(Note::new(table, &column.name, reason)),
            }
        }
        if plan.pg_name != plan.name && column.pg_name.is_none() {
            let why = if is_system_column(&plan.name) {
                "Postgres keeps the name for itself"
            } else {
                "the name is too long"
            };
            notes.push(Note::new(
                table,
                &plan.name,
                format!("{why}: the column is {:?}", plan.pg_name),
            ));
        }
        lines.push(line);
        columns.push(plan);
    }
    let sql = format!(
        "-- create_table\nCREATE TABLE {}.{} (\n{}\n)",
        quote(schema),
        quote(&name),
        lines.join(",\n")
    );
    Translated { sql, table: name, columns, notes }
}

/// The DEFAULT of a column; an error says why it is left out.
pub(super) fn default(
    column: &ColumnDef,
    encoding: &Encoding,
    table: &TableDef,
    options: &TranslateOptions,
) -> Result<Option<String>, String> {
    // AUTO_INCREMENT becomes an identity, which excludes a default.
    if column.auto_increment {
        return Ok(None);
    }
    match &column.default {
        None | Some(DefaultValue::Null) => Ok(None),
        Some(DefaultValue::Now) => match encoding {
            Encoding::Date | Encoding::DateTime { .. } | Encoding::Timestamp { .. } => {
                Ok(Some("CURRENT_TIMESTAMP".to_owned()))
            }
            _ => Err("default left out: the time now is no value of the column's type".to_owned()),
        },
        Some(DefaultValue::Expression(source)) => {
            match expression::default(source, encoding, table, options) {
                Some(sql) => Ok(Some(format!("({sql})"))),
                None => Err(format!("default left out: the expression {source}")),
            }
        }
        Some(DefaultValue::Literal(text)) => literal_default(text, text.as_bytes(), encoding),
        Some(DefaultValue::Bytes(bytes)) => {
            literal_default(&String::from_utf8_lossy(bytes), bytes, encoding)
        }
    }
}

fn literal_default(
    text: &str,
    bytes: &[u8],
    encoding: &Encoding,
) -> Result<Option<String>, String> {
    let trimmed = text.trim();
    let left_out = || format!("default left out: {text:?} is no value of the column's new type");
    let sql = match encoding {
        Encoding::Int { .. } | Encoding::Year => {
            let number = trimmed.parse::<i128>().map_err(|_| left_out())?;
            number.to_string()
        }
        Encoding::Boolean => match trimmed {
            "0" => "false".to_owned(),
            "1" => "true".to_owned(),
            _ => return Err(left_out()),
        },
        Encoding::Decimal { .. } | Encoding::Float | Encoding::Double => {
            trimmed.parse::<f64>().map_err(|_| left_out())?;
            trimmed.to_owned()
        }
        Encoding::Bit { width } => {
            // `b'101'` comes as bytes, `'1'` and `1` as digits.
            let number = match trimmed.parse::<u64>() {
                Ok(number) if !text.is_empty() => number,
                _ => bytes.iter().fold(0_u64, |n, b| (n << 8) | u64::from(*b)),
            };
            let width = *width as usize;
            match width {
                1 => (number != 0).to_string(),
                _ => format!("B'{number:0width$b}'"),
            }
        }
        Encoding::Date | Encoding::DateTime { .. } | Encoding::Timestamp { .. } => {
            if !values::date::is_valid(trimmed.as_bytes()) {
                return Err(format!("default left out: {text:?} is no date"));
            }
            // The server writes TIMESTAMP defaults in the dump's zone, which is UTC by default.
            let zone = if matches!(encoding, Encoding::Timestamp { .. }) { "+00" } else { "" };
            literal(&format!("{trimmed}{zone}"))
        }
        Encoding::Time { .. } => literal(trimmed),
        // No value of theirs is empty, and Postgres looks at defaults at once.
        Encoding::Json | Encoding::Plain if trimmed.is_empty() => return Err(left_out()),
        Encoding::Text { .. } | Encoding::Enum { .. } | Encoding::Json | Encoding::Plain => {
            literal(text)
        }
        Encoding::UuidBytes | Encoding::Geometry => return Err(left_out()),
        Encoding::Set { array: false, .. } => literal(text),
        Encoding::Set { array: true, .. } => {
            let members: Vec<String> =
                text.split(',').filter(|m| !m.is_empty()).map(literal).collect();
            format!("ARRAY[{}]::text[]", members.join(", "))
        }
        Encoding::Bytes { pad } => {
            let mut hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
            for _ in bytes.len()..pad.unwrap_or(0) as usize {
                hex.push_str("00");
            }
            format!("'\\x{hex}'::bytea")
        }
    };
    Ok(Some(sql))
}
