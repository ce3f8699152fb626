//! What the local catalogue says of the synchronised tables, and the SQL made of it.

use std::collections::{BTreeMap, BTreeSet};

use relevo_pg::ident::{literal, quote, quote_qualified};
use sqlx::PgPool;

use crate::error::SyncError;

/// A column.
#[derive(Debug, Clone)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type as SQL writes it.
    pub kind: String,
    /// Computed by the database: never written.
    pub generated: bool,
    /// May be NULL.
    pub nullable: bool,
}

/// A synchronised table.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// Whether `id` alone is the primary key, or unique.
    pub has_key: bool,
    /// Foreign keys to other tables: own columns, their table, and what follows a delete there.
    pub references: Vec<Reference>,
    /// Columns that exist on both sides; until the remote side is known, all.
    pub shared: BTreeSet<String>,
}

/// A foreign key of one column.
#[derive(Debug, Clone)]
pub struct Reference {
    /// The referencing column.
    pub column: String,
    /// The schema of the table it leads to.
    pub schema: String,
    /// The table it leads to.
    pub table: String,
}

/// A moment as PostgREST writes and reads it, to the microsecond.
#[must_use]
pub fn iso(expression: &str) -> String {
    format!(
        "to_char(({expression})::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    )
}

impl Table {
    /// Its name, quoted, with its schema.
    #[must_use]
    pub fn path(&self) -> String {
        quote_qualified(&self.schema, &self.name)
    }

    /// Whether it has a column.
    #[must_use]
    pub fn has(&self, column: &str) -> bool {
        self.columns.iter().any(|found| found.name == column)
    }

    /// The columns that are written on both sides, with or without the id.
    fn written(&self, id: bool) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(move |column| {
            !column.generated && self.shared.contains(&column.name) && (id || column.name != "id")
        })
    }

    /// The columns as PostgREST's `select` and `columns` take them.
    #[must_use]
    pub fn select(&self) -> String {
        let names: Vec<String> = self
            .columns
            .iter()
            .filter(|column| self.shared.contains(&column.name))
            .map(|column| api_name(&column.name))
            .collect();
        names.join(",")
    }

    /// The columns that are sent.
    #[must_use]
    pub fn sent(&self) -> String {
        let names: Vec<String> = self.written(true).map(|column| api_name(&column.name)).collect();
        names.join(",")
    }

    /// The row behind `alias` as JSON, without what isn't sent.
    #[must_use]
    pub fn image(&self, alias: &str) -> String {
        let left_out: Vec<String> = self
            .columns
            .iter()
            .filter(|column| column.generated || !self.shared.contains(&column.name))
            .map(|column| literal(&column.name))
            .collect();
        if left_out.is_empty() {
            format!("to_jsonb({alias})")
        } else {
            format!("(to_jsonb({alias}) - ARRAY[{}]::text[])", left_out.join(","))
        }
    }

    /// A checksum of the row behind `alias`: of all that is the same on both sides, save the version.
    #[must_use]
    pub fn hash(&self, alias: &str) -> String {
        format!("md5(({} - 'updated_at')::text)", self.image(alias))
    }

    /// The list for `UPDATE … SET`, from `alias`.
    #[must_use]
    pub fn assignments(&self, alias: &str) -> String {
        let all: Vec<String> = self
            .written(false)
            .map(|column| format!("{0} = {alias}.{0}", quote(&column.name)))
            .collect();
        all.join(", ")
    }

    /// The columns of an insert, quoted, each after a prefix such as `r.`.
    #[must_use]
    pub fn insert_list(&self, prefix: &str) -> String {
        let all: Vec<String> =
            self.written(true).map(|column| format!("{prefix}{}", quote(&column.name))).collect();
        all.join(", ")
    }
}

/// A name in `select`: quoted where PostgREST would take a character of it for syntax.
fn api_name(name: &str) -> String {
    let plain = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if plain { name.to_owned() } else { format!("\"{}\"", name.replace('"', "\\\"")) }
}

/// Reads the tables, parents before children as far as foreign keys say.
///
/// # Errors
/// [`SyncError::Unfit`] with those that don't exist.
pub async fn read(pool: &PgPool, schema: &str, names: &[String]) -> Result<Vec<Table>, SyncError> {
    let columns: Vec<(String, String, String, bool, bool)> = sqlx::query_as(
        "-- catalog: columns
         SELECT c.relname::text, a.attname::text, format_type(a.atttypid, a.atttypmod),
                a.attgenerated <> '' OR a.attidentity = 'a', NOT a.attnotnull
         FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         WHERE n.nspname = $1 AND c.relname = ANY ($2) AND c.relkind IN ('r', 'p')
         ORDER BY c.relname, a.attnum",
    )
    .bind(schema)
    .bind(names)
    .fetch_all(pool)
    .await?;
    let keyed: Vec<String> = sqlx::query_scalar(
        "-- catalog: tables with a unique key on id alone
         SELECT DISTINCT c.relname::text
         FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_index i ON i.indrelid = c.oid AND i.indisunique AND i.indnkeyatts = 1
              AND i.indpred IS NULL
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
         WHERE n.nspname = $1 AND c.relname = ANY ($2) AND a.attname = 'id'
           AND a.atttypid = 'uuid'::regtype",
    )
    .bind(schema)
    .bind(names)
    .fetch_all(pool)
    .await?;
    let references: Vec<(String, String, String, String)> = sqlx::query_as(
        "-- catalog: foreign keys
         SELECT c.relname::text, a.attname::text, fn.nspname::text, f.relname::text
         FROM pg_constraint k
         JOIN pg_class c ON c.oid = k.conrelid
         JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_class f ON f.oid = k.confrelid
         JOIN pg_namespace fn ON fn.oid = f.relnamespace
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.conkey[1]
         WHERE k.contype = 'f' AND n.nspname = $1 AND c.relname = ANY ($2)
         ORDER BY c.relname, k.conname",
    )
    .bind(schema)
    .bind(names)
    .fetch_all(pool)
    .await?;

    let mut found: BTreeMap<String, Table> = BTreeMap::new();
    for (table, name, kind, generated, nullable) in columns {
        let entry = found.entry(table.clone()).or_insert_with(|| Table {
            schema: schema.to_owned(),
            has_key: keyed.contains(&table),
            name: table,
            columns: Vec::new(),
            references: Vec::new(),
            shared: BTreeSet::new(),
        });
        entry.shared.insert(name.clone());
        entry.columns.push(Column { name, kind, generated, nullable });
    }
    for (table, column, schema, parent) in references {
        if let Some(entry) = found.get_mut(&table) {
            entry.references.push(Reference { column, schema, table: parent });
        }
    }
    let missing: Vec<String> = names
        .iter()
        .filter(|name| !found.contains_key(*name))
        .map(|name| format!("table {schema}.{name} does not exist in the local database"))
        .collect();
    if !missing.is_empty() {
        return Err(SyncError::Unfit(missing));
    }
    Ok(in_order(found, names))
}

/// Parents first. Where tables lead to one another in a circle, the order they were named in
/// breaks it; what comes too early then is tried again later in the cycle.
fn in_order(mut found: BTreeMap<String, Table>, names: &[String]) -> Vec<Table> {
    let mut ordered = Vec::with_capacity(found.len());
    while !found.is_empty() {
        let free = |table: &Table| {
            table.references.iter().all(|reference| {
                reference.table == table.name || !found.contains_key(&reference.table)
            })
        };
        let next = names
            .iter()
            .find(|name| found.get(*name).is_some_and(free))
            .or_else(|| names.iter().find(|name| found.contains_key(*name)));
        match next.cloned().and_then(|name| found.remove(&name)) {
            Some(table) => ordered.push(table),
            None => break,
        }
    }
    ordered
}
