//! The type table: which Postgres type a MySQL column becomes, and how its values are encoded.
//!
//! DDL and row encoder both ask here, so that they cannot disagree.

use crate::choices;
use crate::options::{BigintUnsigned, GeometryType, InetType, JsonType, SetType, TranslateOptions};
use crate::schema::{ColumnDef, ColumnType, ForeignKeyDef, IntSize, TableDef};

/// How the values of a column are written as COPY text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Encoding {
    /// Whole numbers within bounds.
    Int {
        min: i128,
        max: i128,
        /// What lies outside is refused whatever the policy.
        strict: bool,
    },
    /// `t` and `f` from 0 and 1.
    Boolean,
    /// Exact decimals.
    Decimal { precision: u32, scale: u32, unsigned: bool },
    /// 4 byte floats.
    Float,
    /// 8 byte floats.
    Double,
    /// `bit(n)`, or boolean for one bit.
    Bit { width: u32 },
    /// Dates.
    Date,
    /// Date and time without a zone.
    DateTime { fsp: u32 },
    /// Date and time in the dump's zone.
    Timestamp { fsp: u32 },
    /// Durations of up to ±838 hours.
    Time { fsp: u32 },
    /// Years.
    Year,
    /// Text of at most so many characters.
    Text { limit: Option<u32> },
    /// JSON documents.
    Json,
    /// One of the labels.
    Enum { labels: Vec<String> },
    /// Any of the labels, as an array or joined by commas.
    Set { labels: Vec<String>, array: bool },
    /// Bytes, padded with zero bytes to a length.
    Bytes { pad: Option<u32> },
    /// UUIDs and addresses: text that Postgres checks itself.
    Plain,
    /// UUIDs of 16 bytes.
    UuidBytes,
    /// Spatial values for PostGIS.
    Geometry,
}

/// A column's type in Postgres.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PgColumn {
    /// Type name.
    pub(crate) name: String,
    /// How values are written.
    pub(crate) encoding: Encoding,
    /// `COPY … TO` prints what the encoder wrote.
    pub(crate) round_trips: bool,
}

/// The type of a column of a table.
pub(crate) fn pg_column(
    table: &TableDef,
    column: &ColumnDef,
    options: &TranslateOptions,
) -> PgColumn {
    if let Some(chosen) = choices::type_choice(options, table, column)
        && let Ok(plan) = chosen.plan(column)
    {
        return plan;
    }
    let plan =
        |name: &str, encoding| PgColumn { name: name.to_owned(), encoding, round_trips: true };
    match &column.ty {
        ColumnType::Int { size: IntSize::Tiny, width: Some(1), .. }
            if options.tinyint1_as_boolean && !column.auto_increment =>
        {
            plan("boolean", Encoding::Boolean)
        }
        ColumnType::Int { size, unsigned, .. } => {
            let (name, min, max) = int_type(*size, *unsigned);
            let wide = *size == IntSize::Big && *unsigned;
            if wide && needs_bigint(table, column, options) {
                return plan(
                    "bigint",
                    Encoding::Int { min: 0, max: i128::from(i64::MAX), strict: true },
                );
            }
            plan(name, Encoding::Int { min, max, strict: false })
        }
        ColumnType::Decimal { precision, scale, unsigned } => plan(
            &format!("numeric({precision},{scale})"),
            Encoding::Decimal { precision: *precision, scale: *scale, unsigned: *unsigned },
        ),
        // The server's shortest form of a float differs from Postgres' in the exponent.
        ColumnType::Float { .. } => {
            PgColumn { round_trips: false, ..plan("real", Encoding::Float) }
        }
        ColumnType::Double { .. } => {
            PgColumn { round_trips: false, ..plan("double precision", Encoding::Double) }
        }
        ColumnType::Bit { width: 1 } => plan("boolean", Encoding::Bit { width: 1 }),
        ColumnType::Bit { width } => {
            plan(&format!("bit({width})"), Encoding::Bit { width: *width })
        }
        ColumnType::Date => plan("date", Encoding::Date),
        ColumnType::DateTime { fsp } => {
            plan(&format!("timestamp({fsp})"), Encoding::DateTime { fsp: *fsp })
        }
        // Comparable only when the dump's zone is UTC, as it is by default.
        ColumnType::Timestamp { fsp } => {
            plan(&format!("timestamptz({fsp})"), Encoding::Timestamp { fsp: *fsp })
        }
        ColumnType::Time { fsp } => plan("interval", Encoding::Time { fsp: *fsp }),
        ColumnType::Year => plan("smallint", Encoding::Year),
        ColumnType::Char { length } | ColumnType::VarChar { length } => {
            let limit = Some(*length);
            let name = match length {
                0 => "text".to_owned(),
                _ => format!("varchar({length})"),
            };
            plan(&name, Encoding::Text { limit })
        }
        ColumnType::Text => plan("text", Encoding::Text { limit: None }),
        ColumnType::Binary { length } => plan("bytea", Encoding::Bytes { pad: Some(*length) }),
        ColumnType::Geometry { kind } if options.geometry == GeometryType::Postgis => {
            let name = match kind.as_str() {
                "geometrycollection" | "geomcollection" => "geometry(geometrycollection)",
                "geometry" => "geometry",
                kind => &format!("geometry({kind})"),
            };
            PgColumn { round_trips: false, ..plan(name, Encoding::Geometry) }
        }
        ColumnType::VarBinary { .. }
        | ColumnType::Blob
        | ColumnType::Geometry { .. }
        | ColumnType::Vector => plan("bytea", Encoding::Bytes { pad: None }),
        ColumnType::Enum { labels } => plan("text", Encoding::Enum { labels: labels.clone() }),
        ColumnType::Set { labels } => {
            let array = options.set == SetType::TextArray;
            let encoding = Encoding::Set { labels: labels.clone(), array };
            plan(if array { "text[]" } else { "text" }, encoding)
        }
        ColumnType::Json => match options.json {
            JsonType::Jsonb => PgColumn { round_trips: false, ..plan("jsonb", Encoding::Json) },
            JsonType::Json => plan("json", Encoding::Json),
            JsonType::Text => plan("text", Encoding::Text { limit: None }),
        },
        ColumnType::Uuid => plan("uuid", Encoding::Plain),
        ColumnType::Inet4 | ColumnType::Inet6 if options.inet == InetType::Text => {
            plan("text", Encoding::Text { limit: None })
        }
        ColumnType::Inet4 | ColumnType::Inet6 => {
            PgColumn { round_trips: false, ..plan("inet", Encoding::Plain) }
        }
    }
}

/// Postgres type and bounds of an integer type.
fn int_type(size: IntSize, unsigned: bool) -> (&'static str, i128, i128) {
    match (size, unsigned) {
        (IntSize::Tiny, false) => ("smallint", -128, 127),
        (IntSize::Tiny, true) => ("smallint", 0, 255),
        (IntSize::Small, false) => ("smallint", -32_768, 32_767),
        (IntSize::Small, true) => ("integer", 0, 65_535),
        (IntSize::Medium, false) => ("integer", -8_388_608, 8_388_607),
        (IntSize::Medium, true) => ("integer", 0, 16_777_215),
        (IntSize::Int, false) => ("integer", i128::from(i32::MIN), i128::from(i32::MAX)),
        (IntSize::Int, true) => ("bigint", 0, i128::from(u32::MAX)),
        (IntSize::Big, false) => ("bigint", i128::from(i64::MIN), i128::from(i64::MAX)),
        (IntSize::Big, true) => ("numeric(20,0)", 0, i128::from(u64::MAX)),
    }
}

/// A `bigint unsigned` that counts by itself or takes part in a foreign key: identities need an
/// integer type, and a numeric column cannot reference a bigint one.
pub(crate) fn needs_bigint(
    table: &TableDef,
    column: &ColumnDef,
    options: &TranslateOptions,
) -> bool {
    let named = |name: &String| name.eq_ignore_ascii_case(&column.name);
    options.bigint_unsigned == BigintUnsigned::Bigint
        || column.auto_increment
        || (table.foreign_keys.iter().flat_map(|key| &key.columns).any(named)
            && !table.numeric_keys.iter().any(named))
}

/// The columns of a table's foreign keys whose other side stays `numeric`; `find` finds tables
/// that are known.
pub(crate) fn numeric_keys<'a>(
    table: &TableDef,
    find: impl Fn(&ForeignKeyDef) -> Option<&'a TableDef>,
    options: &TranslateOptions,
) -> Vec<String> {
    let pairs = table.foreign_keys.iter().flat_map(|key| {
        let parent = find(key);
        key.columns.iter().zip(&key.references_columns).map(move |(own, other)| {
            let column = parent.and_then(|p| Some((p, &p.columns[p.column_index(other)?])));
            (own, column.is_some_and(|(parent, column)| is_numeric(parent, column, options)))
        })
    });
    let (numeric, others): (Vec<_>, Vec<_>) = pairs.partition(|(_, numeric)| *numeric);
    numeric
        .into_iter()
        .map(|(own, _)| own.clone())
        .filter(|own| others.iter().all(|(other, _)| *other != own))
        .collect()
}

fn is_numeric(table: &TableDef, column: &ColumnDef, options: &TranslateOptions) -> bool {
    matches!(column.ty, ColumnType::Int { size: IntSize::Big, unsigned: true, .. })
        && !needs_bigint(table, column, options)
}
