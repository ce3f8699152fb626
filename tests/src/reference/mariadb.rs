//! The MariaDB or MySQL side: structure from `information_schema`, checksums from SQL.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};

use super::{
    COLUMN_DIGITS, Column, ColumnKind, ForeignKey, Index, Reference, Table, column_checksum,
    row_checksum,
};
use crate::MariaDb;

/// Computes the reference values of a database.
///
/// # Errors
///
/// When the server refuses a query, or a column has a type that has no [`ColumnKind`].
pub fn compute(server: &MariaDb, database: &str) -> anyhow::Result<Reference> {
    let version = server.run("SELECT version();")?.trim().to_owned();
    let mut tables = tables(server, database)?;
    columns(server, database, &mut tables)?;
    indexes(server, database, &mut tables)?;
    foreign_keys(server, database, &mut tables)?;
    // MariaDB computes on one core per connection.
    let left = Mutex::new(tables.iter_mut());
    let work = || -> anyhow::Result<()> {
        loop {
            let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((name, table)) = next else { return Ok(()) };
            values(server, database, name, table).with_context(|| format!("table {name}"))?;
        }
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(work);
        work()?;
        other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })?;
    Ok(Reference { server: version, tables })
}

fn tables(server: &MariaDb, database: &str) -> anyhow::Result<BTreeMap<String, Table>> {
    let listed = server.run(&format!(
        "SELECT table_name, IFNULL(auto_increment, '') FROM information_schema.tables \
         WHERE table_schema = '{database}' \
           AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED');"
    ))?;
    let mut tables = BTreeMap::new();
    for line in listed.lines() {
        let [name, auto_increment] = fields(line)?;
        let table = Table {
            rows: 0,
            checksum: String::new(),
            columns: Vec::new(),
            auto_increment: auto_increment.parse().ok(),
            indexes: BTreeMap::new(),
            foreign_keys: BTreeMap::new(),
        };
        tables.insert(name.to_owned(), table);
    }
    Ok(tables)
}

fn columns(
    server: &MariaDb,
    database: &str,
    tables: &mut BTreeMap<String, Table>,
) -> anyhow::Result<()> {
    let listed = server.run(&format!(
        "SELECT table_name, column_name, data_type, REPLACE(column_type, '\t', ' ') \
         FROM information_schema.columns \
         WHERE table_schema = '{database}' ORDER BY table_name, ordinal_position;"
    ))?;
    for line in listed.lines() {
        let [table, name, data_type, column_type] = fields(line)?;
        // Views have columns too.
        if let Some(table) = tables.get_mut(table) {
            table.columns.push(Column {
                name: name.to_owned(),
                mysql_type: column_type.to_owned(),
                kind: kind(data_type)?,
                nulls: 0,
                checksum: String::new(),
            });
        }
    }
    Ok(())
}

fn indexes(
    server: &MariaDb,
    database: &str,
    tables: &mut BTreeMap<String, Table>,
) -> anyhow::Result<()> {
    let listed = server.run(&format!(
        "SELECT table_name, index_name, column_name, non_unique, sub_part IS NOT NULL \
         FROM information_schema.statistics WHERE table_schema = '{database}' \
           AND index_type NOT IN ('FULLTEXT', 'SPATIAL') \
         ORDER BY table_name, index_name, seq_in_index;"
    ))?;
    for line in listed.lines() {
        let [table, name, column, non_unique, prefix] = fields(line)?;
        let table = tables.get_mut(table).context("an index of no table")?;
        let index = table.indexes.entry(name.to_owned()).or_insert_with(|| Index {
            unique: non_unique == "0",
            columns: Vec::new(),
            prefix: false,
        });
        index.columns.push(column.to_owned());
        index.prefix |= prefix == "1";
    }
    Ok(())
}

fn foreign_keys(
    server: &MariaDb,
    database: &str,
    tables: &mut BTreeMap<String, Table>,
) -> anyhow::Result<()> {
    let listed = server.run(&format!(
        "SELECT k.table_name, k.constraint_name, k.column_name, k.referenced_table_name, \
                k.referenced_column_name, r.delete_rule, r.update_rule \
         FROM information_schema.key_column_usage k \
         JOIN information_schema.referential_constraints r \
           ON r.constraint_schema = k.table_schema AND r.table_name = k.table_name \
          AND r.constraint_name = k.constraint_name \
         WHERE k.table_schema = '{database}' AND k.referenced_table_name IS NOT NULL \
         ORDER BY k.table_name, k.constraint_name, k.ordinal_position;"
    ))?;
    // RESTRICT and NO ACTION are the same thing in MariaDB.
    let rule = |rule: &str| rule.replace("RESTRICT", "NO ACTION");
    for line in listed.lines() {
        let [table, name, column, to_table, to_column, on_delete, on_update] = fields(line)?;
        let table = tables.get_mut(table).context("a foreign key of no table")?;
        let key = table.foreign_keys.entry(name.to_owned()).or_insert_with(|| ForeignKey {
            columns: Vec::new(),
            table: to_table.to_owned(),
            referred: Vec::new(),
            rules: (rule(on_delete), rule(on_update)),
        });
        key.columns.push(column.to_owned());
        key.referred.push(to_column.to_owned());
    }
    Ok(())
}

fn fields<const N: usize>(line: &str) -> anyhow::Result<[&str; N]> {
    let fields: Vec<_> = line.split('\t').collect();
    fields.try_into().ok().with_context(|| format!("{N} fields in {line:?}"))
}

fn kind(data_type: &str) -> anyhow::Result<ColumnKind> {
    Ok(match data_type {
        "tinyint" | "smallint" | "mediumint" | "int" | "bigint" | "bit" | "year" => ColumnKind::Int,
        "decimal" => ColumnKind::Decimal,
        "float" | "double" => ColumnKind::Float,
        "date" | "datetime" | "timestamp" => ColumnKind::DateTime,
        "time" => ColumnKind::Time,
        "char" => ColumnKind::Char,
        "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "enum" | "set" | "uuid"
        | "inet4" | "inet6" | "json" => ColumnKind::Text,
        "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "geometry"
        | "point" | "vector" => ColumnKind::Binary,
        other => bail!("no canonical text is known for values of type {other}"),
    })
}

/// The canonical text of a column as MariaDB writes it; NULL where the value counts as NULL.
fn canonical(column: &Column) -> String {
    let name = format!("`{}`", column.name.replace('`', "``"));
    // Postgres has no NUL characters: an import leaves them out.
    let text = |name: &str| format!("REPLACE(CONVERT({name} USING utf8mb4), '\\0', '')");
    let trim_zeros = |text: &str| format!("TRIM(TRAILING '.' FROM TRIM(TRAILING '0' FROM {text}))");
    match column.kind {
        ColumnKind::Int => format!("CAST({name} + 0 AS CHAR)"),
        ColumnKind::Decimal if !column.mysql_type.contains(",0)") => trim_zeros(&name),
        ColumnKind::Decimal => format!("CAST({name} AS CHAR)"),
        // The X of a point in WKB, behind its byte order and type. A float is what is printed of it.
        ColumnKind::Float => format!(
            "LOWER(SUBSTR(HEX(ST_AsBinary(POINT(CAST(CAST({name} AS CHAR) AS DOUBLE), 0))), 11, 16))"
        ),
        ColumnKind::DateTime => {
            let text = format!("CAST({name} AS CHAR)");
            // With parentheses come digits of a second: `datetime(3)`.
            let text = if column.mysql_type.contains('(') { trim_zeros(&text) } else { text };
            format!("IF(MONTH({name}) = 0 OR DAYOFMONTH({name}) = 0, NULL, {text})")
        }
        ColumnKind::Time if column.mysql_type.contains('(') => {
            // MySQL's TIME_TO_SEC knows whole seconds only.
            trim_zeros(&format!(
                "CONCAT(IF({name} < 0, '-', ''), ABS(TRUNCATE(TIME_TO_SEC({name}), 0)), '.', \
                 LPAD(MICROSECOND({name}), 6, '0'))"
            ))
        }
        ColumnKind::Time => format!("CAST(TIME_TO_SEC({name}) AS CHAR)"),
        ColumnKind::Text => text(&name),
        ColumnKind::Char => format!("TRIM(TRAILING ' ' FROM {})", text(&name)),
        ColumnKind::Binary => format!("LOWER(HEX({name}))"),
    }
}

/// Fills in rows, nulls and checksums, by one pass over the table.
fn values(server: &MariaDb, database: &str, name: &str, table: &mut Table) -> anyhow::Result<()> {
    let word = |hash: &str, from: u32, digits: u32| {
        format!("CAST(CONV(SUBSTR({hash}, {from}, {digits}), 16, 10) AS UNSIGNED)")
    };
    let mut sums = String::new();
    let mut row = Vec::new();
    for column in &table.columns {
        let text = canonical(column);
        let marked = format!("IFNULL(CONCAT('V', LENGTH({text}), ':', {text}, ';'), 'N;')");
        write!(sums, ", IFNULL(SUM({text} IS NULL), 0)")?;
        write!(sums, ", IFNULL(SUM({}), 0)", word(&format!("MD5({marked})"), 1, COLUMN_DIGITS))?;
        row.push(marked);
    }
    let row = format!("MD5(CONCAT({}))", row.join(", "));
    // SUM over integers is a DECIMAL, so it cannot overflow.
    let answer = server.run(&format!(
        "SET NAMES utf8mb4 COLLATE utf8mb4_bin; SET time_zone = '+00:00'; \
         SELECT COUNT(*), IFNULL(SUM({}), 0), IFNULL(SUM({}), 0){sums} FROM `{database}`.`{}`;",
        word(&row, 1, 16),
        word(&row, 17, 16),
        name.replace('`', "``"),
    ))?;
    let mut numbers = answer
        .trim()
        .split('\t')
        .map(|text| text.parse::<u128>().with_context(|| format!("{text:?} is no number")));
    let mut next = move || numbers.next().context("a number is missing")?;
    table.rows = u64::try_from(next()?)?;
    table.checksum = row_checksum(next()?, next()?);
    for column in &mut table.columns {
        column.nulls = u64::try_from(next()?)?;
        column.checksum = column_checksum(next()?);
    }
    Ok(())
}
