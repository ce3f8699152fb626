//! Choices of the user: how types and doubtful values are carried over, and the splitter's limits.

use std::collections::BTreeMap;

use serde::de::value::{Error, StringDeserializer};
use serde::de::{DeserializeOwned, IntoDeserializer as _};
use serde::{Deserialize, Serialize};

use crate::choices::{ColumnChoice, TableChoice, TypeChoice};
use crate::schema::TableDef;

/// How a dump is translated. Travels with each chunk, so that every worker decides alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TranslateOptions {
    /// `tinyint(1)` becomes boolean; a value other than 0 and 1 is then an error. Off: smallint.
    pub tinyint1_as_boolean: bool,
    /// Zero, partial and impossible dates.
    pub invalid_dates: LossPolicy,
    /// NUL characters in text, which Postgres cannot store.
    pub nul_chars: LossPolicy,
    /// Bytes that are no text in the dump's character set.
    pub invalid_text: InvalidTextPolicy,
    /// Values that do not fit their MySQL type (hand-edited dumps): adapted as MySQL itself does
    /// under the dump's SQL mode and counted, or refused.
    pub out_of_range: LossPolicy,
    /// Postgres type of `bigint unsigned`.
    pub bigint_unsigned: BigintUnsigned,
    /// Postgres type of JSON columns.
    pub json: JsonType,
    /// Postgres type of `set(…)`.
    pub set: SetType,
    /// `timestamp` values of a dump that names no time zone are in this one: an offset such as
    /// `-06:00`, or a zone name.
    pub source_time_zone: String,
    /// Character set of a dump that names none. `None`: UTF-8, and Windows-1252 for each value
    /// that is not UTF-8.
    pub source_charset: Option<String>,
    /// Create FULLTEXT indexes as GIN indexes over `to_tsvector('simple', …)`.
    pub fulltext_indexes: bool,
    /// Unique keys over texts whose case does not count in MySQL are over `lower(…)`; a primary key
    /// gets such an index beside it.
    pub case_insensitive_keys: bool,
    /// Postgres type of MariaDB's inet4 and inet6.
    pub inet: InetType,
    /// Postgres type of spatial columns.
    pub geometry: GeometryType,
    /// Types by MySQL type, as in `"tinyint(1)"`, `"binary(16)"`, `"bigint unsigned"`, `"time"`:
    /// with its arguments, or without for all of the kind.
    pub types: BTreeMap<String, TypeChoice>,
    /// Names of tables, by their name in the dump: `table` or `database.table`.
    pub tables: BTreeMap<String, TableChoice>,
    /// Names and types of columns, by `table.column` or `database.table.column`.
    pub columns: BTreeMap<String, ColumnChoice>,
    /// Schemas for the databases of a dump that holds several.
    pub schemas: BTreeMap<String, String>,
}

impl TranslateOptions {
    /// The schema for tables of a database: as chosen, else `otherwise`.
    pub fn schema_of<'a>(&'a self, database: Option<&str>, otherwise: &'a str) -> &'a str {
        database.and_then(|name| self.schemas.get(name)).map_or(otherwise, String::as_str)
    }
}

impl Default for TranslateOptions {
    fn default() -> Self {
        Self {
            tinyint1_as_boolean: false,
            invalid_dates: LossPolicy::Adapt,
            nul_chars: LossPolicy::Adapt,
            invalid_text: InvalidTextPolicy::AsServer,
            out_of_range: LossPolicy::Adapt,
            bigint_unsigned: BigintUnsigned::Numeric,
            json: JsonType::Jsonb,
            set: SetType::TextArray,
            source_time_zone: "+00:00".to_owned(),
            source_charset: None,
            fulltext_indexes: false,
            case_insensitive_keys: false,
            inet: InetType::Text,
            geometry: GeometryType::Bytea,
            types: BTreeMap::new(),
            tables: BTreeMap::new(),
            columns: BTreeMap::new(),
            schemas: BTreeMap::new(),
        }
    }
}

/// Reads one of the choices by its name, as in `as-server`; an error names those that there are.
pub fn choice<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    let name: StringDeserializer<Error> = text.replace('-', "_").into_deserializer();
    T::deserialize(name).map_err(|error| error.to_string())
}

/// What to do with a value that Postgres cannot hold as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossPolicy {
    /// Carry over what can be (a zero date becomes NULL, a NUL character is left out), and count it.
    Adapt,
    /// Refuse the row.
    Fail,
}

/// What to do with bytes that are no text in the dump's character set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InvalidTextPolicy {
    /// Put a question mark in the place of each such byte, as the server does when it loads the
    /// dump, and count the value.
    AsServer,
    /// Refuse the row.
    Fail,
    /// Put U+FFFD in their place, and count the value.
    Replace,
    /// Read the whole value as Windows-1252, and count it.
    Windows1252,
}

/// Postgres type of `bigint unsigned`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BigintUnsigned {
    /// `numeric(20,0)`: holds every value.
    Numeric,
    /// `bigint`: a value past 2^63 − 1 is an error of the row.
    Bigint,
}

/// Postgres type of JSON columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JsonType {
    /// `jsonb`. Documents with the character U+0000 are refused by Postgres.
    Jsonb,
    /// `json`: keeps the text.
    Json,
    /// `text`.
    Text,
}

/// Postgres type of `set(…)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SetType {
    /// `text[]`.
    TextArray,
    /// `text`, members joined by commas as MySQL shows them.
    Text,
}

/// Postgres type of MariaDB's inet4 and inet6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum InetType {
    /// `text` with a CHECK that it is an address: reads exactly as in MariaDB, whereas the text
    /// of an `inet` ends in `/32` or `/128`.
    Text,
    /// `inet`.
    Inet,
}

/// Postgres type of spatial columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GeometryType {
    /// `bytea`: MySQL's own form, the SRID (4 bytes, little endian) and WKB.
    Bytea,
    /// PostGIS `geometry`; SPATIAL indexes are left out and noted. The extension must be there.
    Postgis,
}

/// The splitter's limits and what it is told beforehand.
#[derive(Debug, Clone)]
pub struct SplitOptions {
    /// Longest row, in bytes.
    pub row_limit_bytes: usize,
    /// Longest statement other than the rows of an INSERT, in bytes.
    pub statement_limit_bytes: usize,
    /// Tables known beforehand, for a dump without CREATE TABLE.
    pub tables: Vec<TableDef>,
    /// Choices for tables and columns: names are put into the definitions that are handed on,
    /// types are checked against them.
    pub translate: TranslateOptions,
    /// Statements that change rows or tables and have no exact translation (UPDATE, LOAD DATA,
    /// INSERT … SELECT): refused, or left out and reported.
    pub unsupported: LossPolicy,
}

impl SplitOptions {
    /// The defaults, with the choices of a translation.
    pub fn of(translate: &TranslateOptions) -> Self {
        Self { translate: translate.clone(), ..Self::default() }
    }
}

impl Default for SplitOptions {
    fn default() -> Self {
        Self {
            row_limit_bytes: 256 << 20,
            statement_limit_bytes: 16 << 20,
            tables: Vec::new(),
            translate: TranslateOptions::default(),
            unsupported: LossPolicy::Fail,
        }
    }
}
