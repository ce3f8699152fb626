//! How types and doubtful values are carried over, for every command that reads a dump.

use std::collections::BTreeMap;

use clap::Args;
use relevo_mysqldump::{
    BigintUnsigned, ColumnChoice, GeometryType, InetType, InvalidTextPolicy, JsonType, LossPolicy,
    SetType, TranslateOptions, TypeChoice, choice,
};

use super::dump::pair;

/// Flags of a translation.
#[derive(Debug, Args)]
#[command(next_help_heading = "Types and values")]
pub struct TranslationArgs {
    /// tinyint(1) becomes boolean instead of smallint
    #[arg(long)]
    pub tinyint1_as_boolean: bool,
    /// A Postgres type for a MySQL type, as in 'binary(16)=uuid' or time=time; may be repeated
    #[arg(long = "type", value_name = "MYSQL=TYPE", value_parser = typed)]
    pub types: Vec<(String, TypeChoice)>,
    /// A Postgres type for a column, as in venta.pagada=boolean; may be repeated
    #[arg(long = "column", value_name = "TABLE.COLUMN=TYPE", value_parser = typed)]
    pub columns: Vec<(String, TypeChoice)>,
    /// Zero and impossible dates: adapt makes them NULL and counts them, fail refuses them
    #[arg(long, value_name = "POLICY", default_value = "adapt", value_parser = choice::<LossPolicy>)]
    pub zero_dates: LossPolicy,
    /// NUL characters in texts: adapt leaves them out and counts the values, fail refuses them
    #[arg(long, value_name = "POLICY", default_value = "adapt", value_parser = choice::<LossPolicy>)]
    pub nul_chars: LossPolicy,
    /// Values that do not fit their MySQL type: adapt does as MySQL and counts them, fail refuses them
    #[arg(long, value_name = "POLICY", default_value = "adapt", value_parser = choice::<LossPolicy>)]
    pub out_of_range: LossPolicy,
    /// Bytes that are no text: as-server, replace, windows1252, or fail
    #[arg(long, value_name = "POLICY", default_value = "as-server", value_parser = choice::<InvalidTextPolicy>)]
    pub invalid_text: InvalidTextPolicy,
    /// bigint unsigned becomes numeric, or bigint, where a value past 2^63 - 1 is refused
    #[arg(long, value_name = "TYPE", default_value = "numeric", value_parser = choice::<BigintUnsigned>)]
    pub bigint_unsigned: BigintUnsigned,
    /// JSON becomes jsonb, json or text
    #[arg(long, value_name = "TYPE", default_value = "jsonb", value_parser = choice::<JsonType>)]
    pub json_type: JsonType,
    /// set(…) becomes text-array or text
    #[arg(long, value_name = "TYPE", default_value = "text-array", value_parser = choice::<SetType>)]
    pub set_type: SetType,
    /// inet4 and inet6 become text or inet
    #[arg(long, value_name = "TYPE", default_value = "text", value_parser = choice::<InetType>)]
    pub inet_type: InetType,
    /// Spatial columns become bytea or postgis
    #[arg(long, value_name = "TYPE", default_value = "bytea", value_parser = choice::<GeometryType>)]
    pub geometry_type: GeometryType,
    /// FULLTEXT indexes become GIN indexes; otherwise they are left out and named
    #[arg(long)]
    pub fulltext_indexes: bool,
    /// Unique keys whose case does not count in MySQL do not mind it here either, by lower(…)
    #[arg(long)]
    pub case_insensitive_keys: bool,
    /// The zone of timestamps in a dump that names none, such as -06:00
    #[arg(long, value_name = "ZONE", default_value = "+00:00", allow_hyphen_values = true)]
    pub source_time_zone: String,
    /// The character set of a dump that names none
    #[arg(long, value_name = "NAME")]
    pub source_charset: Option<String>,
}

impl TranslationArgs {
    /// As the library takes them.
    pub fn into_options(self) -> TranslateOptions {
        let column = |(name, pg_type)| (name, ColumnChoice { name: None, pg_type: Some(pg_type) });
        TranslateOptions {
            tinyint1_as_boolean: self.tinyint1_as_boolean,
            invalid_dates: self.zero_dates,
            nul_chars: self.nul_chars,
            invalid_text: self.invalid_text,
            out_of_range: self.out_of_range,
            bigint_unsigned: self.bigint_unsigned,
            json: self.json_type,
            set: self.set_type,
            source_time_zone: self.source_time_zone,
            source_charset: self.source_charset,
            fulltext_indexes: self.fulltext_indexes,
            case_insensitive_keys: self.case_insensitive_keys,
            inet: self.inet_type,
            geometry: self.geometry_type,
            types: self.types.into_iter().collect::<BTreeMap<_, _>>(),
            columns: self.columns.into_iter().map(column).collect(),
            ..TranslateOptions::default()
        }
    }
}

/// Reads `NAME=TYPE`.
fn typed(text: &str) -> Result<(String, TypeChoice), String> {
    let (name, pg_type) = pair(text)?;
    Ok((name, choice(&pg_type)?))
}
