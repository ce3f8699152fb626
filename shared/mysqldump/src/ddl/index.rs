//! Indexes: names unique per schema, prefixes, what Postgres has no like for.

use crate::ddl::expression;
use crate::ddl::names::{NamePool, block, column_name, literal, quote, table_name};
use crate::options::{GeometryType, TranslateOptions};
use crate::schema::{ColumnDef, ColumnType, IndexDef, IndexKey, IndexKind, IndexPart, TableDef};

/// Bytes that certainly fit a btree entry (the limit is 2,704) with room for other columns.
const SAFE_KEY_BYTES: u32 = 2_000;

/// Names of relations within the schema: tables and indexes share them.
#[derive(Debug)]
pub(super) struct IndexNames(NamePool);

impl IndexNames {
    pub(super) fn new(tables: &[TableDef]) -> Self {
        let mut pool = NamePool::default();
        for table in tables {
            pool.reserve(table_name(table));
        }
        Self(pool)
    }

    pub(super) fn take(&mut self, wanted: &str) -> String {
        self.0.take(wanted)
    }
}

/// The columns of a key made of whole columns; prefixes are dropped, since what is unique in its
/// prefix is unique as a whole.
pub(super) fn key_columns<'a>(
    table: &'a TableDef,
    parts: &[IndexPart],
) -> Result<Vec<&'a ColumnDef>, String> {
    parts
        .iter()
        .map(|part| match &part.key {
            IndexKey::Column(name) => table
                .column_index(name)
                .map(|at| &table.columns[at])
                .ok_or_else(|| format!("key left out: there is no column `{name}`")),
            IndexKey::Expression(source) => {
                Err(format!("key left out: it is over the expression {source}"))
            }
        })
        .collect()
}

/// Whether these columns are, in any order, the primary key or a unique index over whole columns.
pub(super) fn references_a_key(parent: &TableDef, columns: &[String]) -> bool {
    let mut wanted: Vec<String> = columns.iter().map(|c| c.to_lowercase()).collect();
    wanted.sort();
    let matches = |parts: &[IndexPart], prefixes: bool| {
        let mut names: Vec<String> = parts
            .iter()
            .filter(|part| prefixes || part.prefix.is_none())
            .filter_map(|part| match &part.key {
                IndexKey::Column(name) => Some(name.to_lowercase()),
                IndexKey::Expression(_) => None,
            })
            .collect();
        names.sort();
        names.len() == parts.len() && names == wanted
    };
    matches(&parent.primary_key, true)
        || parent
            .indexes
            .iter()
            .any(|index| index.kind == IndexKind::Unique && matches(&index.parts, false))
}

/// Whether a key has a text column with a collation that does not tell case.
pub(super) fn ignores_case(table: &TableDef, parts: &[IndexPart]) -> bool {
    parts.iter().any(|part| {
        let IndexKey::Column(name) = &part.key else { return false };
        let Some(column) = table.column_index(name).map(|at| &table.columns[at]) else {
            return false;
        };
        // A character set without a named collation has one of its own that ignores case.
        let own = column.collation.as_deref();
        let collation =
            if column.charset.is_some() { own } else { own.or(table.collation.as_deref()) };
        let exact = |c: &str| c.ends_with("_bin") || c.ends_with("_cs") || c == "binary";
        matches!(column.ty, ColumnType::Char { .. } | ColumnType::VarChar { .. } | ColumnType::Text)
            && !collation.is_some_and(exact)
    })
}

/// Name and statement of one index; an error says why it is left out.
pub(super) fn index_statement(
    table: &TableDef,
    index: &IndexDef,
    schema: &str,
    options: &TranslateOptions,
    names: &mut IndexNames,
) -> Result<(String, String), String> {
    let unique = index.kind == IndexKind::Unique;
    match index.kind {
        IndexKind::Plain | IndexKind::Unique => {}
        IndexKind::FullText if options.fulltext_indexes => {
            return full_text(table, index, schema, names);
        }
        IndexKind::FullText => {
            return Err("FULLTEXT index left out; it can be made as GIN on request".to_owned());
        }
        IndexKind::Spatial if options.geometry == GeometryType::Postgis => {
            return spatial(table, index, schema, names);
        }
        IndexKind::Spatial => return Err("SPATIAL index left out: it needs PostGIS".to_owned()),
        IndexKind::Vector => return Err("VECTOR index left out: it needs pgvector".to_owned()),
    }
    let parts = index
        .parts
        .iter()
        .map(|part| part_sql(table, part, unique, options))
        .collect::<Result<Vec<_>, _>>()?;
    let name = names.take(&wanted_name(table, index));
    let create = |parts: &str| {
        format!(
            "CREATE {}INDEX {} ON {}.{} ({parts})",
            if unique { "UNIQUE " } else { "" },
            quote(&name),
            quote(schema),
            quote(&table_name(table)),
        )
    };
    let whole = create(&parts.join(", "));
    let purpose = if unique { KeyUse::Unique } else { KeyUse::Plain };
    let sql = match narrow_parts(table, &index.parts, purpose, options) {
        None => format!("-- index\n{whole}"),
        Some(narrow) => {
            let why = if unique {
                "a value is too long for an index: it is unique by its hash"
            } else {
                "a value is too long for an index: it is over the beginnings of values"
            };
            let sql = format!(
                "BEGIN\n  {whole};\nEXCEPTION WHEN program_limit_exceeded THEN\n  {};\n{}\
                 \x20 RAISE WARNING {};\nEND\n",
                create(&narrow),
                remark(schema, &name, why),
                literal(why),
            );
            block("index", &sql)
        }
    };
    Ok((name, sql))
}

/// What the comment of an index begins with that is not quite what the dump says.
pub const REMARK_MARK: &str = "relevo: ";

/// Writes on an index why it is not quite what the dump says.
pub(super) fn remark(schema: &str, index: &str, why: &str) -> String {
    format!(
        "  COMMENT ON INDEX {}.{} IS {};\n",
        quote(schema),
        quote(index),
        literal(&format!("{REMARK_MARK}{why}"))
    )
}

/// What the parts of a key are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KeyUse {
    /// A primary key: of whole columns, whatever the prefixes.
    Primary,
    Unique,
    Plain,
}

/// The parts of a key with something short in the place of texts and bytes; `None` where every
/// value certainly fits a btree entry as it is.
pub(super) fn narrow_parts(
    table: &TableDef,
    parts: &[IndexPart],
    purpose: KeyUse,
    options: &TranslateOptions,
) -> Option<String> {
    let mut size_bytes = 0_u32;
    let mut narrow = Vec::with_capacity(parts.len());
    for part in parts {
        let IndexKey::Column(name) = &part.key else { return None };
        let column = &table.columns[table.column_index(name)?];
        let quoted = quote(&column_name(table, column));
        let (length, unit_bytes) = match &column.ty {
            ColumnType::Char { length } | ColumnType::VarChar { length } => (*length, 4),
            ColumnType::Text => (u32::MAX, 4),
            ColumnType::Binary { length } | ColumnType::VarBinary { length } => (*length, 1),
            ColumnType::Blob => (u32::MAX, 1),
            _ => {
                size_bytes = size_bytes.saturating_add(16);
                narrow.push(quoted);
                continue;
            }
        };
        let indexed = match (purpose, part.prefix) {
            (KeyUse::Primary, _) => length,
            (_, Some(prefix)) => prefix.min(length),
            // By its hash already.
            (KeyUse::Unique, None) if length == u32::MAX => 8,
            (_, None) => length,
        };
        size_bytes = size_bytes.saturating_add(indexed.saturating_mul(unit_bytes));
        let first = |count: u32| match unit_bytes {
            1 => format!("substring({quoted} FROM 1 FOR {count})"),
            _ => format!("\"left\"({quoted}, {count})"),
        };
        let short = SAFE_KEY_BYTES / 4 / u32::try_from(parts.len()).unwrap_or(u32::MAX);
        narrow.push(match (purpose, part.prefix) {
            (KeyUse::Plain, _) => first(short),
            (_, prefix) => {
                let value = prefix.map_or(quoted.clone(), first);
                let folds = options.case_insensitive_keys
                    && ignores_case(table, std::slice::from_ref(part));
                if folds { format!("md5(lower({value}))") } else { format!("md5({value})") }
            }
        });
    }
    (size_bytes > SAFE_KEY_BYTES).then(|| narrow.join(", "))
}

/// MySQL's index names repeat from table to table: the table's name comes first.
fn wanted_name(table: &TableDef, index: &IndexDef) -> String {
    if !index.name.is_empty() {
        return format!("{}_{}", table.name, index.name);
    }
    let columns: Vec<&str> = index
        .parts
        .iter()
        .map(|part| match &part.key {
            IndexKey::Column(name) => name.as_str(),
            IndexKey::Expression(_) => "expr",
        })
        .collect();
    format!("{}_{}_idx", table.name, columns.join("_"))
}

fn part_sql(
    table: &TableDef,
    part: &IndexPart,
    unique: bool,
    options: &TranslateOptions,
) -> Result<String, String> {
    let direction = if part.descending { " DESC" } else { "" };
    let name = match &part.key {
        IndexKey::Column(name) => name,
        IndexKey::Expression(source) => {
            return expression::index(source, table, options)
                .map(|sql| format!("({sql}){direction}"))
                .ok_or_else(|| {
                    format!("index left out: the expression {source} has no safe translation")
                });
        }
    };
    let column = table
        .column_index(name)
        .map(|at| &table.columns[at])
        .ok_or_else(|| format!("index left out: there is no column `{name}`"))?;
    let quoted = quote(&column_name(table, column));
    let sql = match (&column.ty, part.prefix) {
        (ColumnType::Char { length } | ColumnType::VarChar { length }, Some(prefix))
            if prefix >= *length || (!unique && *length * 4 <= SAFE_KEY_BYTES) =>
        {
            quoted
        }
        (ColumnType::Char { .. } | ColumnType::VarChar { .. } | ColumnType::Text, Some(prefix)) => {
            format!("\"left\"({quoted}, {prefix})")
        }
        (ty, Some(prefix)) if ty.is_binary() => format!("substring({quoted} FROM 1 FOR {prefix})"),
        // MariaDB's hashed uniqueness of whole texts; longer values fit no btree entry.
        (ColumnType::Text, None) if unique => format!("md5({quoted})"),
        (ColumnType::Blob, None) if unique => format!("md5({quoted})"),
        (ColumnType::Json, _) => {
            return Err(format!("index left out: `{name}` is a JSON column"));
        }
        _ => quoted,
    };
    if unique && options.case_insensitive_keys && ignores_case(table, std::slice::from_ref(part)) {
        return Ok(format!("lower({sql}){direction}"));
    }
    Ok(format!("{sql}{direction}"))
}

fn full_text(
    table: &TableDef,
    index: &IndexDef,
    schema: &str,
    names: &mut IndexNames,
) -> Result<(String, String), String> {
    let columns: Vec<String> = key_columns(table, &index.parts)?
        .into_iter()
        .map(|column| format!("COALESCE({}, '')", quote(&column_name(table, column))))
        .collect();
    let name = names.take(&wanted_name(table, index));
    let sql = format!(
        "-- index\nCREATE INDEX {} ON {}.{} USING gin (to_tsvector({}, {}))",
        quote(&name),
        quote(schema),
        quote(&table_name(table)),
        literal("simple"),
        columns.join(" || ' ' || ")
    );
    Ok((name, sql))
}

fn spatial(
    table: &TableDef,
    index: &IndexDef,
    schema: &str,
    names: &mut IndexNames,
) -> Result<(String, String), String> {
    let columns: Vec<String> = key_columns(table, &index.parts)?
        .into_iter()
        .map(|column| quote(&column_name(table, column)))
        .collect();
    let name = names.take(&wanted_name(table, index));
    let sql = format!(
        "-- index\nCREATE INDEX {} ON {}.{} USING gist ({})",
        quote(&name),
        quote(schema),
        quote(&table_name(table)),
        columns.join(", ")
    );
    Ok((name, sql))
}
