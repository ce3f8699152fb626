//! Compiles the encoders of a table's columns.

use std::collections::HashSet;

use crate::choices;
use crate::ddl;
use crate::ddl::types::Encoding;
use crate::encoder::{Context, Counters, RowEncoder};
use crate::error::EncoderError;
use crate::event::InsertHeader;
use crate::options::TranslateOptions;
use crate::schema::{ColumnDef, DefaultValue, TableDef};
use crate::values::date::zone_suffix;
use crate::values::text::{Decoder, DoubleByte, decoder, push_copy};

/// One column, ready to encode.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) name: String,
    pub(super) pg_name: String,
    pub(super) kind: Kind,
    pub(super) decoder: Decoder,
    /// Part of COPY; a column that Postgres computes is read and thrown away.
    pub(super) emit: bool,
    pub(super) nullable: bool,
    pub(super) auto_increment: bool,
    /// A 0 asks the server for a number.
    pub(super) counts_zero: bool,
    /// COPY text for DEFAULT, and for NULL in a column that is NOT NULL.
    pub(super) default: Option<Vec<u8>>,
    /// What MySQL stores where nothing is given for a NOT NULL column.
    pub(super) implicit: Vec<u8>,
    pub(super) nulled_dates: u64,
}

/// An encoding with all that its fast path needs at hand.
#[derive(Debug, Clone)]
pub(super) enum Kind {
    Int {
        min: i128,
        max: i128,
        /// Numbers of at most so many digits are within bounds.
        safe_digits: usize,
        /// Negative numbers may be within bounds.
        signed: bool,
        /// What lies outside is refused whatever the policy.
        strict: bool,
    },
    Boolean,
    Decimal {
        precision: u32,
        scale: u32,
        unsigned: bool,
    },
    Float {
        max: f64,
        unsigned: bool,
    },
    Bit {
        width: u32,
    },
    Date,
    Moment {
        fsp: u32,
        zoned: bool,
    },
    Time {
        fsp: u32,
    },
    Year,
    Text {
        limit: Option<usize>,
    },
    Json,
    /// Labels as text, and as the bytes of COPY.
    Enum {
        labels: Vec<(String, Vec<u8>)>,
    },
    Set {
        labels: Vec<(String, Vec<u8>)>,
        array: bool,
    },
    Bytes {
        pad: usize,
    },
    Plain,
    UuidBytes,
    Geometry,
}

/// Builds the encoder of a table and an INSERT.
pub(super) fn compile(
    table: &TableDef,
    insert: &InsertHeader,
    options: &TranslateOptions,
) -> Result<RowEncoder, EncoderError> {
    let name = table.qualified_name();
    choices::check(options, table)?;
    let mut session = insert.session.clone();
    if session.charset.is_none() {
        session.charset.clone_from(&options.source_charset);
    }
    let charset = session.charset.as_deref();
    let unknown =
        |charset: &str| EncoderError::Charset { table: name.clone(), charset: charset.to_owned() };
    let decode = decoder(charset).ok_or_else(|| unknown(charset.unwrap_or_default()))?;
    let zone_name = session.time_zone.as_deref().unwrap_or(&options.source_time_zone);
    let zone = zone_suffix(zone_name).ok_or_else(|| EncoderError::TimeZone {
        table: name.clone(),
        zone: zone_name.to_owned(),
    })?;

    let positions: Vec<usize> = match &insert.columns {
        Some(positions) => positions.clone(),
        None => (0..table.columns.len()).filter(|&at| !table.columns[at].invisible).collect(),
    };
    let mut seen = HashSet::new();
    if let Some(bad) = positions.iter().find(|&&at| at >= table.columns.len() || !seen.insert(at)) {
        let reason = format!("column number {} is repeated or not there", bad + 1);
        return Err(EncoderError::Columns { table: name, reason });
    }

    let plans = ddl::translate::column_plans(table, options);
    let mut columns = Vec::with_capacity(positions.len());
    for &at in &positions {
        let (column, (plan, pg, _)) = (&table.columns[at], &plans[at]);
        let own = match decode {
            Decoder::PerColumn if column.ty.is_text() => {
                let own = column.charset.as_deref().or(table.charset.as_deref());
                match decoder(own) {
                    Some(Decoder::PerColumn) => Decoder::Auto,
                    Some(own) => own,
                    None => return Err(unknown(own.unwrap_or_default())),
                }
            }
            Decoder::PerColumn => Decoder::Utf8,
            shared => shared,
        };
        columns.push(Column {
            name: column.name.clone(),
            pg_name: plan.pg_name.clone(),
            kind: kind(&pg.encoding),
            decoder: own,
            emit: !plan.generated,
            nullable: plan.nullable,
            auto_increment: column.auto_increment,
            default: match column.auto_increment {
                true => None,
                false => default(column, &pg.encoding),
            },
            counts_zero: column.auto_increment && !session.no_auto_value_on_zero,
            implicit: implicit(&pg.encoding),
            nulled_dates: 0,
        });
    }
    let counted = |at: usize| table.columns[at].auto_increment && !seen.contains(&at);
    if let Some(at) = (0..table.columns.len()).find(|&at| counted(at)) {
        let reason = format!(
            "it leaves `{}` to be numbered by the server; restore the dump into MySQL and dump it \
             again",
            table.columns[at].name
        );
        return Err(EncoderError::Columns { table: name, reason });
    }
    // A column that is not listed gets its default; where it has none, Postgres would refuse the
    // row that MySQL completes by itself.
    let constants = table
        .columns
        .iter()
        .zip(&plans)
        .enumerate()
        .filter(|(at, (column, (plan, ..)))| {
            !seen.contains(at) && !plan.generated && !plan.nullable && column.default.is_none()
        })
        .map(|(_, (_, (plan, pg, _)))| (plan.pg_name.clone(), implicit(&pg.encoding)))
        .collect();
    // What NOW() is told in.
    if session.time_zone.is_none() {
        session.time_zone = Some(options.source_time_zone.clone());
    }
    let plain_strings = !session.no_backslash_escapes && DoubleByte::of(charset).is_none();
    Ok(RowEncoder {
        table: name,
        pg_table: ddl::table_name(table),
        columns,
        constants,
        context: Context { options: options.clone(), session, zone, plain_strings },
        scratch: Vec::new(),
        counters: Counters::default(),
    })
}

fn kind(encoding: &Encoding) -> Kind {
    let copied = |labels: &[String]| {
        labels
            .iter()
            .map(|label| {
                let mut copy = Vec::new();
                push_copy(label.replace('\0', "").as_bytes(), &mut copy);
                (label.clone(), copy)
            })
            .collect()
    };
    match encoding {
        Encoding::Int { min, max, strict } => Kind::Int {
            strict: *strict,
            min: *min,
            max: *max,
            safe_digits: max.min(&(-*min).max(*max)).to_string().len() - 1,
            signed: *min < 0,
        },
        Encoding::Boolean => Kind::Boolean,
        Encoding::Decimal { precision, scale, unsigned } => {
            Kind::Decimal { precision: *precision, scale: *scale, unsigned: *unsigned }
        }
        Encoding::Float => Kind::Float { max: f64::from(f32::MAX), unsigned: false },
        Encoding::Double => Kind::Float { max: f64::MAX, unsigned: false },
        Encoding::Bit { width } => Kind::Bit { width: *width },
        Encoding::Date => Kind::Date,
        Encoding::DateTime { fsp } => Kind::Moment { fsp: *fsp, zoned: false },
        Encoding::Timestamp { fsp } => Kind::Moment { fsp: *fsp, zoned: true },
        Encoding::Time { fsp } => Kind::Time { fsp: *fsp },
        Encoding::Year => Kind::Year,
        Encoding::Text { limit } => Kind::Text { limit: limit.map(|limit| limit as usize) },
        Encoding::Json => Kind::Json,
        Encoding::Enum { labels } => Kind::Enum { labels: copied(labels) },
        Encoding::Set { labels, array: false } => {
            Kind::Set { labels: copied(labels), array: false }
        }
        Encoding::Set { labels, array: true } => {
            let labels = labels.iter().map(|label| (label.clone(), array_element(label))).collect();
            Kind::Set { labels, array: true }
        }
        Encoding::Bytes { pad } => Kind::Bytes { pad: pad.unwrap_or(0) as usize },
        Encoding::Plain => Kind::Plain,
        Encoding::UuidBytes => Kind::UuidBytes,
        Encoding::Geometry => Kind::Geometry,
    }
}

/// An element of a text array as Postgres prints it, in COPY text.
fn array_element(label: &str) -> Vec<u8> {
    let label = label.replace('\0', "");
    let bare = !label.is_empty()
        && !label.eq_ignore_ascii_case("null")
        && !label.contains(|c: char| {
            c.is_ascii_whitespace() || c == '\u{b}' || matches!(c, '{' | '}' | ',' | '"' | '\\')
        });
    let element = if bare {
        label
    } else {
        format!("\"{}\"", label.replace('\\', "\\\\").replace('"', "\\\""))
    };
    let mut copy = Vec::new();
    push_copy(element.as_bytes(), &mut copy);
    copy
}

/// What MySQL stores in a NOT NULL column when it is given nothing, as COPY text.
fn implicit(encoding: &Encoding) -> Vec<u8> {
    match encoding {
        Encoding::Int { .. } | Encoding::Float | Encoding::Double | Encoding::Year => b"0".to_vec(),
        Encoding::Boolean | Encoding::Bit { width: 1 } => b"f".to_vec(),
        Encoding::Bit { width } => vec![b'0'; *width as usize],
        Encoding::Decimal { scale, .. } if *scale > 0 => {
            format!("0.{}", "0".repeat(*scale as usize)).into_bytes()
        }
        Encoding::Decimal { .. } => b"0".to_vec(),
        Encoding::Date | Encoding::DateTime { .. } | Encoding::Timestamp { .. } => b"\\N".to_vec(),
        Encoding::Time { .. } => b"00:00:00".to_vec(),
        Encoding::Text { .. } => Vec::new(),
        Encoding::Json => b"null".to_vec(),
        Encoding::Enum { labels } => {
            let mut copy = Vec::new();
            push_copy(labels.first().map_or("", |l| l).as_bytes(), &mut copy);
            copy
        }
        Encoding::Set { array: true, .. } => b"{}".to_vec(),
        Encoding::Set { .. } => Vec::new(),
        Encoding::Bytes { pad } => {
            format!("\\\\x{}", "00".repeat(pad.unwrap_or(0) as usize)).into_bytes()
        }
        Encoding::Plain | Encoding::UuidBytes | Encoding::Geometry => b"\\N".to_vec(),
    }
}

/// COPY text of a literal default that needs no conversion; the word DEFAULT is rare in dumps.
fn default(column: &ColumnDef, encoding: &Encoding) -> Option<Vec<u8>> {
    match (&column.default, encoding) {
        (None | Some(DefaultValue::Null), _) if column.nullable => Some(b"\\N".to_vec()),
        (Some(DefaultValue::Null), _) => None,
        (None, _) => Some(implicit(encoding)),
        (Some(DefaultValue::Literal(text)), Encoding::Text { .. } | Encoding::Enum { .. }) => {
            let mut copy = Vec::new();
            push_copy(text.as_bytes(), &mut copy);
            Some(copy)
        }
        (Some(DefaultValue::Literal(text)), Encoding::Int { .. }) => {
            text.trim().parse::<i128>().ok().map(|number| number.to_string().into_bytes())
        }
        (Some(DefaultValue::Literal(text)), Encoding::Decimal { precision, scale, unsigned }) => {
            Some(crate::values::number::decimal(text.as_bytes(), *precision, *scale, *unsigned).0)
        }
        _ => None,
    }
}
