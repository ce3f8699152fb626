//! Keys of `[backup.NAME]` that say what of a dump is loaded, and how its types and values are
//! carried over.

use std::collections::BTreeMap;

use relevo_mysqldump::{ColumnChoice, TranslateOptions, TypeChoice, choice};

use crate::reader::Reader;
use crate::schema::{Key, Preset};

/// What of a dump is loaded, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpChoices {
    /// Of a dump of several databases, the one that is taken.
    pub database: Option<String>,
    /// Patterns of tables that are taken; empty for all.
    pub only: Vec<String>,
    /// Patterns of tables that are left out.
    pub exclude: Vec<String>,
    /// New names of tables, by the name in the dump.
    pub rename: BTreeMap<String, String>,
    /// Conditions in SQL for rows, by the table's name in Postgres.
    pub filters: BTreeMap<String, String>,
    /// So many rows that are refused are set aside; one more, and the import fails.
    pub quarantine: u32,
    /// Types and policies.
    pub translate: TranslateOptions,
}

pub(crate) const KEYS: &[Key] = &[
    Key::text(
        "database",
        Preset::Absent("a dump of several databases is taken whole, where no name is there twice"),
        "Of a dump of several databases, the one that is taken.",
    ),
    Key::list(
        "only",
        "",
        "Tables that are taken, all when empty; * stands for any text, ? for one letter.",
    ),
    Key::list("exclude", "", "Tables that are left out, written as in only."),
    Key::list("rename", "", "Tables that get another name, each OLD=NEW."),
    Key::text(
        "where",
        Preset::Value(""),
        "Conditions for rows, one TABLE=CONDITION per line: the table as it is called in Postgres, the condition in SQL.",
    ),
    Key::integer(
        "quarantine",
        (0, 100_000),
        "0",
        "Rows that may be refused and set aside while the rest is loaded; with 0, one refused row fails the import. See relevo dump quarantine.",
    ),
    Key::text(
        "types",
        Preset::Value(""),
        "Postgres types for MySQL types, one MYSQL=TYPE per line, such as binary(16)=uuid.",
    ),
    Key::text(
        "columns",
        Preset::Value(""),
        "Postgres types for columns, one TABLE.COLUMN=TYPE per line; names as the dump writes them.",
    ),
    Key::boolean(
        "tinyint1_as_boolean",
        "false",
        "Whether tinyint(1) becomes boolean instead of smallint.",
    ),
    Key::text(
        "zero_dates",
        Preset::Value("adapt"),
        "Zero and impossible dates: adapt (NULL, counted) or fail.",
    ),
    Key::text(
        "nul_chars",
        Preset::Value("adapt"),
        "NUL characters in texts: adapt (left out, counted) or fail.",
    ),
    Key::text(
        "out_of_range",
        Preset::Value("adapt"),
        "Values that do not fit their MySQL type: adapt (as MySQL does, counted) or fail.",
    ),
    Key::text(
        "invalid_text",
        Preset::Value("as-server"),
        "Bytes that are no text: as-server (a question mark), replace, windows1252, or fail.",
    ),
    Key::text(
        "bigint_unsigned",
        Preset::Value("numeric"),
        "What bigint unsigned becomes: numeric, or bigint, where a value past 2^63 - 1 is refused.",
    ),
    Key::text("json_type", Preset::Value("jsonb"), "What JSON becomes: jsonb, json or text."),
    Key::text("set_type", Preset::Value("text-array"), "What set becomes: text-array or text."),
    Key::text("inet_type", Preset::Value("text"), "What inet4 and inet6 become: text or inet."),
    Key::text(
        "geometry_type",
        Preset::Value("bytea"),
        "What spatial columns become: bytea or postgis.",
    ),
    Key::boolean(
        "fulltext_indexes",
        "false",
        "Whether FULLTEXT indexes become GIN indexes; otherwise they are left out and named.",
    ),
    Key::boolean(
        "case_insensitive_keys",
        "false",
        "Whether unique keys whose case does not count in MySQL do not mind it either, by lower(…).",
    ),
    Key::text(
        "source_time_zone",
        Preset::Value("+00:00"),
        "Zone of the timestamps in a dump that names none.",
    ),
    Key::text(
        "source_charset",
        Preset::Absent("UTF-8, and Windows-1252 for each value that is not"),
        "Character set of a dump that names none.",
    ),
];

impl DumpChoices {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let name = |text: &str| Ok(text.trim().to_owned());
        let database = reader.optional("database", name);
        let only = reader.list("only");
        let exclude = reader.list("exclude");
        let rename = reader.parsed("rename", |text| pairs(text.split(','), name));
        let filters = reader.parsed("where", |text| pairs(text.lines(), name));
        let quarantine = reader.integer("quarantine");
        let types = reader.parsed("types", |text| pairs(text.lines(), choice::<TypeChoice>));
        let columns = reader.parsed("columns", |text| pairs(text.lines(), column));
        let tinyint1_as_boolean = reader.boolean("tinyint1_as_boolean");
        let invalid_dates = reader.parsed("zero_dates", choice);
        let nul_chars = reader.parsed("nul_chars", choice);
        let out_of_range = reader.parsed("out_of_range", choice);
        let invalid_text = reader.parsed("invalid_text", choice);
        let bigint_unsigned = reader.parsed("bigint_unsigned", choice);
        let json = reader.parsed("json_type", choice);
        let set = reader.parsed("set_type", choice);
        let inet = reader.parsed("inet_type", choice);
        let geometry = reader.parsed("geometry_type", choice);
        let fulltext_indexes = reader.boolean("fulltext_indexes");
        let case_insensitive_keys = reader.boolean("case_insensitive_keys");
        let source_time_zone = reader.parsed("source_time_zone", name);
        let source_charset = reader.optional("source_charset", name);
        Some(Self {
            database: database?,
            only: only?,
            exclude: exclude?,
            rename: rename?,
            filters: filters?,
            quarantine: quarantine?,
            translate: TranslateOptions {
                types: types?,
                columns: columns?,
                tinyint1_as_boolean: tinyint1_as_boolean?,
                invalid_dates: invalid_dates?,
                nul_chars: nul_chars?,
                out_of_range: out_of_range?,
                invalid_text: invalid_text?,
                bigint_unsigned: bigint_unsigned?,
                json: json?,
                set: set?,
                inet: inet?,
                geometry: geometry?,
                fulltext_indexes: fulltext_indexes?,
                case_insensitive_keys: case_insensitive_keys?,
                source_time_zone: source_time_zone?,
                source_charset: source_charset?,
                ..TranslateOptions::default()
            },
        })
    }
}

/// A column's type.
fn column(text: &str) -> Result<ColumnChoice, String> {
    choice(text).map(|pg_type| ColumnChoice { name: None, pg_type: Some(pg_type) })
}

/// Reads `NAME=VALUE`, one a piece; each name once.
fn pairs<'a, T>(
    pieces: impl Iterator<Item = &'a str>,
    value: impl Fn(&str) -> Result<T, String>,
) -> Result<BTreeMap<String, T>, String> {
    let mut pairs = BTreeMap::new();
    for piece in pieces.map(str::trim).filter(|piece| !piece.is_empty()) {
        let (name, text) = piece
            .split_once('=')
            .map(|(name, text)| (name.trim(), text.trim()))
            .filter(|(name, text)| !name.is_empty() && !text.is_empty())
            .ok_or_else(|| format!("`{piece}` has not the form NAME=VALUE"))?;
        let value = value(text).map_err(|reason| format!("`{piece}`: {reason}"))?;
        if pairs.insert(name.to_owned(), value).is_some() {
            return Err(format!("`{name}` is there twice"));
        }
    }
    Ok(pairs)
}
