//! Choices of the user for single tables, columns and types: other names, other Postgres types.

use serde::{Deserialize, Serialize};

use crate::ddl::types::{Encoding, PgColumn};
use crate::error::EncoderError;
use crate::options::TranslateOptions;
use crate::schema::{ColumnDef, ColumnType, TableDef};

/// What is chosen for a table.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TableChoice {
    /// Its name in Postgres.
    pub name: Option<String>,
}

/// What is chosen for a column.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColumnChoice {
    /// Its name in Postgres.
    pub name: Option<String>,
    /// Its type in Postgres.
    #[serde(rename = "type")]
    pub pg_type: Option<TypeChoice>,
}

/// Postgres types that can be chosen. A value that the type cannot hold is an error of its row,
/// never adapted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TypeChoice {
    /// `boolean`, of whole numbers that are 0 or 1.
    Boolean,
    /// `smallint`, of whole numbers.
    Smallint,
    /// `integer`, of whole numbers.
    Integer,
    /// `bigint`, of whole numbers.
    Bigint,
    /// `numeric` without bounds, of numbers.
    Numeric,
    /// `text`, of all that is no bytes: as the dump writes it, so that dates keep their zeros.
    Text,
    /// `text[]`, of sets.
    TextArray,
    /// `json`, of texts.
    Json,
    /// `jsonb`, of texts.
    Jsonb,
    /// `uuid`, of texts and of `binary(16)`.
    Uuid,
    /// `inet`, of texts and addresses.
    Inet,
    /// `time`, of times within a day.
    Time,
    /// `interval`, of times.
    Interval,
    /// `timestamp`, of dates with time; a `timestamp` of MySQL in the dump's zone.
    Timestamp,
    /// `timestamptz`, of dates with time; a `datetime` of MySQL is in the dump's zone.
    Timestamptz,
    /// `bytea`, of bytes and spatial values.
    Bytea,
}

impl TypeChoice {
    /// How a column of this MySQL type is written as the chosen one; an error says why it cannot.
    pub(crate) fn plan(self, column: &ColumnDef) -> Result<PgColumn, String> {
        let ty = &column.ty;
        let refuse = || Err(format!("{} values are no {self:?}", ty.mysql_name()));
        let whole = matches!(ty, ColumnType::Int { .. } | ColumnType::Year)
            || matches!(ty, ColumnType::Decimal { scale: 0, .. });
        let text =
            matches!(ty, ColumnType::Char { .. } | ColumnType::VarChar { .. } | ColumnType::Text);
        // Without an identity then, which numeric cannot be.
        let counts = matches!(self, Self::Smallint | Self::Integer | Self::Bigint | Self::Numeric);
        if column.auto_increment && !counts {
            return Err("an AUTO_INCREMENT column must count in whole numbers".to_owned());
        }
        let int = |name: &str, min: i64, max: i64| {
            let (min, max) = (i128::from(min), i128::from(max));
            (name.to_owned(), Encoding::Int { min, max, strict: true }, true)
        };
        let (name, encoding, round_trips) = match self {
            Self::Boolean if whole => ("boolean".to_owned(), Encoding::Boolean, true),
            Self::Boolean if *ty == (ColumnType::Bit { width: 1 }) => {
                ("boolean".to_owned(), Encoding::Bit { width: 1 }, true)
            }
            Self::Smallint if whole => int("smallint", i16::MIN.into(), i16::MAX.into()),
            Self::Integer if whole => int("integer", i32::MIN.into(), i32::MAX.into()),
            Self::Bigint if whole => int("bigint", i64::MIN, i64::MAX),
            Self::Numeric => match ty {
                ColumnType::Int { .. } => {
                    let bounds = (i128::from(i64::MIN), i128::from(u64::MAX));
                    let (min, max) = bounds;
                    ("numeric".to_owned(), Encoding::Int { min, max, strict: true }, true)
                }
                ColumnType::Decimal { precision, scale, unsigned } => {
                    let (precision, scale, unsigned) = (*precision, *scale, *unsigned);
                    let encoding = Encoding::Decimal { precision, scale, unsigned };
                    ("numeric".to_owned(), encoding, true)
                }
                _ => return refuse(),
            },
            Self::Text if !ty.is_binary() && !matches!(ty, ColumnType::Bit { .. }) => {
                let encoding = match ty {
                    ColumnType::Enum { labels } => Encoding::Enum { labels: labels.clone() },
                    ColumnType::Set { labels } => {
                        Encoding::Set { labels: labels.clone(), array: false }
                    }
                    _ => Encoding::Text { limit: None },
                };
                ("text".to_owned(), encoding, true)
            }
            Self::TextArray => match ty {
                ColumnType::Set { labels } => {
                    let labels = labels.clone();
                    ("text[]".to_owned(), Encoding::Set { labels, array: true }, true)
                }
                _ => return refuse(),
            },
            Self::Json if text || *ty == ColumnType::Json => {
                ("json".to_owned(), Encoding::Json, true)
            }
            Self::Jsonb if text || *ty == ColumnType::Json => {
                ("jsonb".to_owned(), Encoding::Json, false)
            }
            Self::Uuid if *ty == (ColumnType::Binary { length: 16 }) => {
                ("uuid".to_owned(), Encoding::UuidBytes, true)
            }
            // Postgres prints its own form of what it reads.
            Self::Uuid if text || *ty == ColumnType::Uuid => {
                ("uuid".to_owned(), Encoding::Plain, *ty == ColumnType::Uuid)
            }
            Self::Inet if text || matches!(ty, ColumnType::Inet4 | ColumnType::Inet6) => {
                ("inet".to_owned(), Encoding::Plain, false)
            }
            Self::Time | Self::Interval => match ty {
                ColumnType::Time { fsp } if self == Self::Time => {
                    (format!("time({fsp})"), Encoding::Time { fsp: *fsp }, true)
                }
                ColumnType::Time { fsp } => {
                    ("interval".to_owned(), Encoding::Time { fsp: *fsp }, true)
                }
                _ => return refuse(),
            },
            Self::Timestamp | Self::Timestamptz => match ty {
                ColumnType::DateTime { fsp } | ColumnType::Timestamp { fsp } => {
                    let fsp = *fsp;
                    if self == Self::Timestamp {
                        (format!("timestamp({fsp})"), Encoding::DateTime { fsp }, true)
                    } else {
                        (format!("timestamptz({fsp})"), Encoding::Timestamp { fsp }, true)
                    }
                }
                _ => return refuse(),
            },
            Self::Bytea if ty.is_binary() => {
                let pad = match ty {
                    ColumnType::Binary { length } => Some(*length),
                    _ => None,
                };
                ("bytea".to_owned(), Encoding::Bytes { pad }, true)
            }
            _ => return refuse(),
        };
        Ok(PgColumn { name, encoding, round_trips })
    }
}

/// The keys a table goes by in the choices.
fn keys(table: &TableDef) -> [Option<String>; 2] {
    let database = table.database.as_ref();
    [database.map(|database| format!("{database}.{}", table.name)), Some(table.name.clone())]
}

fn column_choice<'a>(
    options: &'a TranslateOptions,
    table: &TableDef,
    column: &ColumnDef,
) -> Option<&'a ColumnChoice> {
    if options.columns.is_empty() {
        return None;
    }
    let found = |key: String| options.columns.get(&format!("{key}.{}", column.name));
    keys(table).into_iter().flatten().find_map(found)
}

/// The type chosen for a column: by its name, else by its MySQL type.
pub(crate) fn type_choice(
    options: &TranslateOptions,
    table: &TableDef,
    column: &ColumnDef,
) -> Option<TypeChoice> {
    // What the splitter put into the definition holds, whatever name the table gets later.
    let own = column
        .pg_type
        .or_else(|| column_choice(options, table, column).and_then(|choice| choice.pg_type));
    if own.is_some() || options.types.is_empty() {
        return own;
    }
    let name = column.ty.mysql_name();
    let bare = match (name.find('('), name.find(')')) {
        (Some(open), Some(close)) => format!("{}{}", &name[..open], &name[close + 1..]),
        _ => name.clone(),
    };
    options.types.get(&name).or_else(|| options.types.get(&bare)).copied()
}

/// Puts the names and types chosen by name into a definition.
pub(crate) fn name(options: &TranslateOptions, table: &mut TableDef) {
    let chosen = keys(table).into_iter().flatten().find_map(|key| options.tables.get(&key));
    table.pg_name = chosen.and_then(|choice| choice.name.clone());
    if options.columns.is_empty() {
        return;
    }
    for at in 0..table.columns.len() {
        let Some(chosen) = column_choice(options, table, &table.columns[at]) else { continue };
        table.columns[at].pg_name.clone_from(&chosen.name);
        table.columns[at].pg_type = chosen.pg_type;
    }
}

/// Whether every type chosen for a table's columns can hold their values.
pub(crate) fn check(options: &TranslateOptions, table: &TableDef) -> Result<(), EncoderError> {
    if options.columns.is_empty() && options.types.is_empty() {
        return Ok(());
    }
    for column in &table.columns {
        if let Some(choice) = type_choice(options, table, column) {
            choice.plan(column).map_err(|reason| EncoderError::Choice {
                table: table.qualified_name(),
                column: column.name.clone(),
                reason,
            })?;
        }
    }
    Ok(())
}

/// The choices for tables and columns that are in none of these tables: misspelt, most likely.
pub(crate) fn unknown<'a>(
    options: &TranslateOptions,
    tables: &(impl Iterator<Item = &'a TableDef> + Clone),
) -> Vec<String> {
    let is_table =
        |key: &String| tables.clone().any(|t| keys(t).iter().flatten().any(|k| k == key));
    let is_column = |key: &String| {
        tables.clone().any(|table| {
            keys(table).iter().flatten().any(|prefix| {
                key.strip_prefix(prefix.as_str())
                    .and_then(|rest| rest.strip_prefix('.'))
                    .is_some_and(|name| table.columns.iter().any(|column| column.name == name))
            })
        })
    };
    let strange = |what: &str, key: &String| {
        format!(
            "the choice {what}.{key:?} is for nothing in this dump; names count as it writes them"
        )
    };
    let tables_unknown =
        options.tables.keys().filter(|key| !is_table(key)).map(|key| strange("tables", key));
    let columns_unknown =
        options.columns.keys().filter(|key| !is_column(key)).map(|key| strange("columns", key));
    tables_unknown.chain(columns_unknown).collect()
}
