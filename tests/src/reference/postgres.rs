//! The Postgres side: the same values from imported tables.

use std::collections::BTreeSet;
use std::fmt::{Debug, Write};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row};

use super::{
    COLUMN_DIGITS, Column, ColumnKind, Difference, ForeignKey, Index, Reference, Table,
    column_checksum, row_checksum,
};

/// Compares imported tables with the reference values: which tables there are, their columns,
/// rows, values, keys, indexes, foreign keys and next automatic values.
///
/// Where a table's values differ, the columns that do are named. An empty answer means: equal.
///
/// # Panics
///
/// When the database cannot be queried.
pub async fn compare(url: &str, schema: &str, reference: &Reference) -> Vec<Difference> {
    let mut connection = PgConnection::connect(url)
        .await
        .unwrap_or_else(|error| panic!("connect to {url}: {error}"));
    for setting in ["timezone = 'UTC'", "datestyle = 'ISO'", "extra_float_digits = 1"] {
        connection
            .execute(AssertSqlSafe(format!("SET {setting}")))
            .await
            .expect("set the session up");
    }
    let mut comparison = Comparison { connection, schema, differences: Vec::new() };
    comparison.tables(reference).await;
    comparison.differences
}

/// Columns, table referred to, columns referred to, letters of the rules on delete and on update.
type CatalogKey = (Vec<String>, String, Vec<String>, String, String);

struct Comparison<'a> {
    connection: PgConnection,
    schema: &'a str,
    differences: Vec<Difference>,
}

impl Comparison<'_> {
    async fn tables(&mut self, reference: &Reference) {
        let found: Vec<String> = sqlx::query_scalar(
            "SELECT relname::text FROM pg_class \
             WHERE relnamespace = to_regnamespace(quote_ident($1)) AND relkind IN ('r', 'p')",
        )
        .bind(self.schema)
        .fetch_all(&mut self.connection)
        .await
        .expect("list the tables");
        for name in &found {
            if !reference.tables.contains_key(name) {
                self.differ(name, "table", "none", "one");
            }
        }
        for (name, table) in &reference.tables {
            if found.contains(name) {
                self.values(name, table).await;
                self.indexes(name, table).await;
                self.foreign_keys(name, table).await;
                self.next_value(name, table).await;
            } else {
                self.differ(name, "table", "one", "none");
            }
        }
    }

    fn differ(&mut self, table: &str, what: &str, expected: &str, found: &str) {
        self.differences.push(Difference {
            table: table.to_owned(),
            what: what.to_owned(),
            expected: expected.to_string(),
            found: found.to_string(),
        });
    }

    fn expect<T: PartialEq + Debug>(&mut self, table: &str, what: &str, expected: &T, found: &T) {
        if expected != found {
            self.differ(table, what, &format!("{expected:?}"), &format!("{found:?}"));
        }
    }

    fn qualified(&self, table: &str) -> String {
        format!("{}.{}", quote(self.schema), quote(table))
    }

    async fn values(&mut self, name: &str, table: &Table) {
        let types: Vec<(String, String)> = sqlx::query_as(
            "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute \
             WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
        )
        .bind(self.qualified(name))
        .fetch_all(&mut self.connection)
        .await
        .expect("list the columns");
        let expected: Vec<_> = table.columns.iter().map(|column| &column.name).collect();
        let found: Vec<_> = types.iter().map(|(column, _)| column).collect();
        self.expect(name, "columns", &expected, &found);
        if expected != found {
            return;
        }
        let texts: Vec<_> = table
            .columns
            .iter()
            .zip(&types)
            .map(|(column, (_, pg_type))| marked(&canonical(column, pg_type)))
            .collect();
        let quarters = [(1, 8), (9, 8), (17, 8), (25, 8)];
        let (rows, sums) = self.hash(name, &texts.join(" || "), &quarters).await;
        let half = |upper: usize| (sums[upper] << 32) + sums[upper + 1];
        let hash = row_checksum(half(0), half(2));
        self.expect(name, "rows", &table.rows, &rows);
        self.expect(name, "values", &table.checksum, &hash);
        if hash == table.checksum {
            return;
        }
        for (column, text) in table.columns.iter().zip(&texts) {
            let (_, sums) = self.hash(name, text, &[(1, COLUMN_DIGITS)]).await;
            let hash = column_checksum(sums[0]);
            if hash != column.checksum {
                let qualified = self.qualified(name);
                let sql = format!("SELECT count(*) FROM {qualified} WHERE {text} = 'N;'");
                let nulls: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
                    .fetch_one(&mut self.connection)
                    .await
                    .expect("count the nulls");
                self.differ(
                    name,
                    &format!("column {} ({})", column.name, column.mysql_type),
                    &format!("{} with {} nulls", column.checksum, column.nulls),
                    &format!("{hash} with {nulls} nulls"),
                );
            }
        }
    }

    /// The number of rows, and sums over the given digits of the hashes of a text per row.
    async fn hash(&mut self, table: &str, text: &str, digits: &[(u32, u32)]) -> (u64, Vec<u128>) {
        // Not signed: at most 60 bits each.
        let sums = digits.iter().fold(String::new(), |mut sums, (from, digits)| {
            let bits = digits * 4;
            let word = format!("('x' || substr(h, {from}, {digits}))::bit({bits})::bigint");
            write!(sums, ", coalesce(sum({word}), 0)::text").ok();
            sums
        });
        // OFFSET keeps the planner from computing each hash once per sum.
        let sql = format!(
            "SELECT count(*){sums} FROM (SELECT md5({text}) AS h FROM {} OFFSET 0) AS hashes",
            self.qualified(table)
        );
        let row = sqlx::query(AssertSqlSafe(sql.clone()))
            .fetch_one(&mut self.connection)
            .await
            .unwrap_or_else(|error| panic!("{sql}: {error}"));
        let rows: i64 = row.get(0);
        let sums = (1..=digits.len())
            .map(|column| row.get::<String, _>(column).parse().expect("a sum of numbers"))
            .collect();
        (rows.unsigned_abs(), sums)
    }

    async fn indexes(&mut self, name: &str, table: &Table) {
        // An expression in an index has no column; it is NULL in the list.
        let found: Vec<(bool, bool, Vec<Option<String>>)> = sqlx::query_as(
            "SELECT i.indisprimary, i.indisunique, \
                    array_agg(a.attname::text ORDER BY k.ordinality) \
             FROM pg_index i \
             CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY AS k (attnum, ordinality) \
             LEFT JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum \
             WHERE i.indrelid = to_regclass($1) AND i.indisvalid \
             GROUP BY i.indexrelid, i.indisprimary, i.indisunique",
        )
        .bind(self.qualified(name))
        .fetch_all(&mut self.connection)
        .await
        .expect("list the indexes");
        let primary: Option<Vec<_>> = found
            .iter()
            .find(|(primary, ..)| *primary)
            .map(|(.., columns)| columns.iter().flatten().cloned().collect());
        let expected = table.indexes.get("PRIMARY").map(|index| index.columns.clone());
        self.expect(name, "primary key", &expected, &primary);
        self.expect(name, "number of indexes", &table.indexes.len(), &found.len());
        let found: BTreeSet<Index> = found
            .into_iter()
            .filter_map(|(_, unique, columns)| {
                let columns = columns.into_iter().collect::<Option<Vec<_>>>()?;
                Some(Index { unique, columns, prefix: false })
            })
            .collect();
        for (index_name, index) in &table.indexes {
            if !index.prefix && !found.contains(index) {
                self.differ(name, &format!("index {index_name}"), &format!("{index:?}"), "none");
            }
        }
    }

    async fn foreign_keys(&mut self, name: &str, table: &Table) {
        let found: Vec<CatalogKey> = sqlx::query_as(
            "SELECT (SELECT array_agg(a.attname::text ORDER BY k.ordinality) \
                     FROM unnest(c.conkey) WITH ORDINALITY AS k (attnum, ordinality) \
                     JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.attnum), \
                    t.relname::text, \
                    (SELECT array_agg(a.attname::text ORDER BY k.ordinality) \
                     FROM unnest(c.confkey) WITH ORDINALITY AS k (attnum, ordinality) \
                     JOIN pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.attnum), \
                    c.confdeltype::text, c.confupdtype::text \
             FROM pg_constraint c JOIN pg_class t ON t.oid = c.confrelid \
             WHERE c.conrelid = to_regclass($1) AND c.contype = 'f' AND c.convalidated",
        )
        .bind(self.qualified(name))
        .fetch_all(&mut self.connection)
        .await
        .expect("list the foreign keys");
        let rule = |letter: &str| {
            let rule = match letter {
                "c" => "CASCADE",
                "n" => "SET NULL",
                "d" => "SET DEFAULT",
                _ => "NO ACTION",
            };
            rule.to_owned()
        };
        let found: BTreeSet<ForeignKey> = found
            .into_iter()
            .map(|(columns, table, referred, on_delete, on_update)| ForeignKey {
                columns,
                table,
                referred,
                rules: (rule(&on_delete), rule(&on_update)),
            })
            .collect();
        let expected: BTreeSet<_> = table.foreign_keys.values().cloned().collect();
        self.expect(name, "foreign keys", &expected, &found);
    }

    async fn next_value(&mut self, name: &str, table: &Table) {
        let sequences: Vec<String> = sqlx::query_scalar(
            "SELECT s.sequence FROM pg_attribute a \
             CROSS JOIN LATERAL pg_get_serial_sequence($1, a.attname::text) AS s (sequence) \
             WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped \
               AND s.sequence IS NOT NULL",
        )
        .bind(self.qualified(name))
        .fetch_all(&mut self.connection)
        .await
        .expect("list the sequences");
        let mut next = None;
        if let Some(sequence) = sequences.first() {
            let value: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
                "SELECT last_value + is_called::int FROM {sequence}"
            )))
            .fetch_one(&mut self.connection)
            .await
            .expect("read the sequence");
            next = u64::try_from(value).ok();
        }
        self.expect(name, "next automatic value", &table.auto_increment, &next);
    }
}

fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn marked(text: &str) -> String {
    format!("coalesce('V' || octet_length({text}) || ':' || {text} || ';', 'N;')")
}

/// The canonical text of a column as Postgres writes it.
fn canonical(column: &Column, pg_type: &str) -> String {
    let name = quote(&column.name);
    match (column.kind, pg_type) {
        (ColumnKind::Int, "boolean") => format!("{name}::int::text"),
        // 64 bits may look negative.
        (ColumnKind::Int, "bit") => {
            format!(
                "({name}::bigint + ({name}::bigint < 0)::int * 2::numeric ^ 64)::numeric(20)::text"
            )
        }
        (ColumnKind::Decimal, _) => format!("trim_scale({name}::numeric)::text"),
        (ColumnKind::Time, _) => format!("trim_scale(extract(epoch FROM {name}))::text"),
        (ColumnKind::Text, "text[]") => format!("array_to_string({name}, ',')"),
        (ColumnKind::Char, _) => format!("rtrim({name}::text, ' ')"),
        (ColumnKind::Binary, _) => format!("encode({name}, 'hex')"),
        (ColumnKind::DateTime, "timestamp with time zone") => format!("{name}::timestamp::text"),
        (ColumnKind::Float, _) => format!(
            "(SELECT string_agg(substr(encode(float8send({name}::text::float8), 'hex'), i, 2), '' \
             ORDER BY i DESC) FROM generate_series(1, 15, 2) AS i)"
        ),
        (ColumnKind::Int | ColumnKind::DateTime | ColumnKind::Text, _) => {
            format!("{name}::text")
        }
    }
}
