//! What the catalogue says of tables that are to be merged.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use super::{Merge, OwnTrigger, Statement};
use crate::error::PgError;
use crate::ident::{quote, quote_qualified};

/// What a merge has to know and to do.
#[derive(Clone, Debug, Default)]
pub struct MergePlan {
    /// Why rows cannot be merged, each in words.
    pub obstacles: Vec<String>,
    /// What a person should read.
    pub notices: Vec<String>,
    /// The tables, each after those that its foreign keys lead to, as far as there is such an order.
    pub(super) tables: Vec<MergeTable>,
    /// Triggers that rest meanwhile.
    pub(super) own_triggers: Vec<OwnTrigger>,
    /// Keys between the tables that cannot be deferred yet.
    immediate: Vec<Key>,
}

/// One table.
#[derive(Clone, Debug)]
pub(super) struct MergeTable {
    pub(super) name: String,
    /// Columns that the staged table has too, generated ones excepted.
    pub(super) columns: Vec<Column>,
    /// Whether triggers of the application fire on its rows.
    pub(super) has_triggers: bool,
    /// Whether deleting a row deletes or changes rows elsewhere.
    pub(super) cascades: bool,
}

impl MergeTable {
    /// Columns of the key that rows are compared by; none for a table without one.
    pub(super) fn key(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.is_key)
    }
}

/// One column.
#[derive(Clone, Debug, sqlx::FromRow)]
pub(super) struct Column {
    table: String,
    pub(super) name: String,
    pub(super) is_key: bool,
    pub(super) is_identity_always: bool,
    has_collation: bool,
    compares_as_text: bool,
}

impl Column {
    /// The column for a comparison that takes equal only for the same value: not for equal under
    /// the rules of a language, and not for unequal where the type has no equality.
    pub(super) fn exactly(&self, alias: &str) -> String {
        let column = format!("{alias}.{}", quote(&self.name));
        match (self.compares_as_text, self.has_collation) {
            (true, _) => format!("{column}::text COLLATE \"C\""),
            (false, true) => format!("{column} COLLATE \"C\""),
            (false, false) => column,
        }
    }
}

#[derive(Clone, Debug, sqlx::FromRow)]
struct Table {
    name: String,
    kind: String,
    has_children: bool,
    may: bool,
    user: String,
    has_triggers: bool,
    cascades: bool,
}

#[derive(Clone, Debug, sqlx::FromRow)]
struct Key {
    name: String,
    table: String,
    references: String,
    deferrable: bool,
    is_mine: bool,
}

impl MergePlan {
    /// What makes keys between the tables deferrable. It changes nothing for anybody who does not
    /// ask for it.
    pub(super) fn deferrable_statements(&self) -> Vec<Statement> {
        self.immediate
            .iter()
            .map(|key| {
                Statement::new(
                    format!("foreign key {} of {}", key.name, key.table),
                    format!(
                        "ALTER TABLE {} ALTER CONSTRAINT {} DEFERRABLE INITIALLY IMMEDIATE",
                        key.table,
                        quote(&key.name)
                    ),
                )
            })
            .collect()
    }
}

/// Looks at the tables: whether the staged rows fit into them, and in which order they change.
///
/// # Errors
/// When the server fails.
pub async fn plan_merge(
    connection: &mut PgConnection,
    merge: &Merge,
) -> Result<MergePlan, PgError> {
    let mut plan = MergePlan::default();
    let tables = list_tables(connection, merge).await?;
    for table in &tables {
        let name = format!("{}.{}", merge.target, table.name);
        if !matches!(&*table.kind, "r" | "p") {
            plan.obstacles.push(format!("{name} is not a table"));
        } else if table.has_children && table.kind == "r" {
            plan.obstacles.push(format!("table {name} has children that inherit from it"));
        } else if !table.may {
            plan.obstacles.push(format!(
                "role {user} may not change the rows of {name} (GRANT SELECT, INSERT, UPDATE, \
                 DELETE ON {quoted} TO {role})",
                user = table.user,
                quoted = quote_qualified(&merge.target, &table.name),
                role = quote(&table.user),
            ));
        }
    }
    plan.obstacles.extend(differences(connection, merge).await?);
    plan.notices.extend(left_out(connection, merge).await?);

    let mut columns: BTreeMap<String, Vec<Column>> = BTreeMap::new();
    for column in list_columns(connection, merge).await? {
        columns.entry(column.table.clone()).or_default().push(column);
    }
    let keys = list_keys(connection, merge).await?;
    let mut tables: BTreeMap<String, Table> =
        tables.into_iter().map(|table| (table.name.clone(), table)).collect();
    for name in parents_first(&merge.tables, &keys, &merge.target) {
        let Some(table) = tables.remove(&name) else { continue };
        let columns = columns.remove(&name).unwrap_or_default();
        if merge.keep_others && !columns.iter().any(|column| column.is_key) {
            plan.obstacles.push(format!(
                "table {}.{name} has no key to tell by which rows are the same",
                merge.target
            ));
        }
        plan.tables.push(MergeTable {
            columns,
            has_triggers: table.has_triggers,
            cascades: table.cascades,
            name,
        });
    }
    plan.immediate = keys.into_iter().filter(|key| !key.deferrable && key.is_mine).collect();
    plan.own_triggers = list_own_triggers(connection, merge).await?;
    Ok(plan)
}

/// Each table after those that its keys lead to; what is in a circle comes in any order.
fn parents_first(tables: &[String], keys: &[Key], target: &str) -> Vec<String> {
    let mut left: Vec<String> = tables.to_vec();
    let mut ordered = Vec::with_capacity(left.len());
    while !left.is_empty() {
        let waiting: BTreeSet<String> =
            left.iter().map(|table| quote_qualified(target, table)).collect();
        let free = left.iter().position(|table| {
            let table = quote_qualified(target, table);
            !keys.iter().any(|key| {
                key.table == table && key.references != table && waiting.contains(&key.references)
            })
        });
        ordered.push(left.remove(free.unwrap_or(0)));
    }
    ordered
}

async fn list_tables(connection: &mut PgConnection, merge: &Merge) -> Result<Vec<Table>, PgError> {
    sqlx::query_as(
        "-- list_merge_tables
         SELECT c.relname::text AS name, c.relkind::text AS kind,
                EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid) AS has_children,
                has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                    AND has_table_privilege(c.oid, 'UPDATE')
                    AND has_table_privilege(c.oid, 'DELETE') AS may,
                current_user::text AS user,
                EXISTS (SELECT FROM pg_trigger t
                        WHERE t.tgrelid = c.oid AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A')
                          AND coalesce(obj_description(t.tgfoid, 'pg_proc'), '')
                              <> 'made by relevo import') AS has_triggers,
                EXISTS (SELECT FROM pg_constraint k
                        WHERE k.confrelid = c.oid AND k.contype = 'f'
                          AND k.confdeltype IN ('c', 'n', 'd')) AS cascades
         FROM pg_class c
         WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relname = ANY($2)",
    )
    .bind(&merge.target)
    .bind(&merge.tables)
    .fetch_all(connection)
    .await
    .map_err(|source| PgError::database("looking at the tables to merge", source))
}

async fn list_columns(
    connection: &mut PgConnection,
    merge: &Merge,
) -> Result<Vec<Column>, PgError> {
    // The key: the primary one, or else any unique index that every row has a place in.
    sqlx::query_as(
        "-- list_merge_columns
         SELECT c.relname::text AS table, a.attname::text AS name,
                coalesce(a.attnum = ANY ((key.indkey::int2[])[0:key.indnkeyatts - 1]), false) AS is_key,
                a.attidentity = 'a' AS is_identity_always,
                a.attcollation <> 0 AS has_collation,
                t.typcategory = 'G' OR t.typname IN ('json', 'jsonb', 'xml') AS compares_as_text
         FROM pg_class c
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                            AND a.attgenerated = ''
         JOIN pg_type t ON t.oid = a.atttypid
         JOIN pg_class s ON s.relname = c.relname AND s.relnamespace = to_regnamespace(quote_ident($3))
         JOIN pg_attribute sa ON sa.attrelid = s.oid AND sa.attname = a.attname
                             AND NOT sa.attisdropped
         LEFT JOIN LATERAL (
             SELECT i.indkey, i.indnkeyatts FROM pg_index i
             WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
               AND i.indpred IS NULL AND i.indexprs IS NULL
               AND NOT EXISTS (
                   SELECT FROM pg_attribute k
                   LEFT JOIN pg_attribute sk ON sk.attrelid = s.oid AND sk.attname = k.attname
                                            AND NOT sk.attisdropped
                   WHERE k.attrelid = c.oid
                     AND k.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
                     AND (NOT k.attnotnull OR k.attgenerated <> '' OR sk.attnum IS NULL))
             ORDER BY i.indisprimary DESC, i.indnkeyatts, i.indexrelid LIMIT 1
         ) AS key ON true
         WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relname = ANY($2)
         ORDER BY c.relname, a.attnum",
    )
    .bind(&merge.target)
    .bind(&merge.tables)
    .bind(&merge.staging)
    .fetch_all(connection)
    .await
    .map_err(|source| PgError::database("looking at the columns to merge", source))
}

/// Columns that the dump has and the table has not, or of another type.
async fn differences(connection: &mut PgConnection, merge: &Merge) -> Result<Vec<String>, PgError> {
    sqlx::query_scalar(
        "-- compare_columns
         SELECT CASE WHEN a.attname IS NULL
                     THEN format('column %s.%s.%s is in the dump and not in the table', $1, s.relname, sa.attname)
                     ELSE format('column %s.%s.%s has type %s and in the dump %s', $1, s.relname, sa.attname,
                                 format_type(a.atttypid, a.atttypmod), format_type(sa.atttypid, sa.atttypmod))
                END
         FROM pg_class s
         JOIN pg_class c ON c.relname = s.relname AND c.relnamespace = to_regnamespace(quote_ident($1))
         JOIN pg_attribute sa ON sa.attrelid = s.oid AND sa.attnum > 0 AND NOT sa.attisdropped
         LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = sa.attname
                                 AND a.attnum > 0 AND NOT a.attisdropped
         WHERE s.relnamespace = to_regnamespace(quote_ident($3)) AND s.relname = ANY($2)
           AND (a.attname IS NULL OR a.atttypid <> sa.atttypid OR a.atttypmod <> sa.atttypmod)
         ORDER BY 1",
    )
    .bind(&merge.target)
    .bind(&merge.tables)
    .bind(&merge.staging)
    .fetch_all(connection)
    .await
    .map_err(|source| PgError::database("comparing columns", source))
}

/// Columns of the tables that the dump does not hold.
async fn left_out(connection: &mut PgConnection, merge: &Merge) -> Result<Vec<String>, PgError> {
    sqlx::query_scalar(
        "-- list_other_columns
         SELECT format('column %s.%s.%s is not in the dump: rows that stay keep it, new ones get its default',
                       $1, c.relname, a.attname)
         FROM pg_class c
         JOIN pg_class s ON s.relname = c.relname AND s.relnamespace = to_regnamespace(quote_ident($3))
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                            AND a.attgenerated = ''
         WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relname = ANY($2)
           AND NOT EXISTS (SELECT FROM pg_attribute sa
                           WHERE sa.attrelid = s.oid AND sa.attname = a.attname AND NOT sa.attisdropped)
         ORDER BY 1",
    )
    .bind(&merge.target)
    .bind(&merge.tables)
    .bind(&merge.staging)
    .fetch_all(connection)
    .await
    .map_err(|source| PgError::database("comparing columns", source))
}

async fn list_keys(connection: &mut PgConnection, merge: &Merge) -> Result<Vec<Key>, PgError> {
    sqlx::query_as(
        "-- list_merge_keys
         WITH merged AS (
             SELECT c.oid, c.relname FROM pg_class c
             WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relname = ANY($2)
         )
         SELECT k.conname::text AS name, format('%I.%I', $1, f.relname) AS table,
                format('%I.%I', $1, t.relname) AS references, k.condeferrable AS deferrable,
                pg_has_role(c.relowner, 'USAGE') AS is_mine
         FROM pg_constraint k
         JOIN merged f ON f.oid = k.conrelid
         JOIN merged t ON t.oid = k.confrelid
         JOIN pg_class c ON c.oid = k.conrelid
         WHERE k.contype = 'f' AND k.conparentid = 0
         ORDER BY 2, 1",
    )
    .bind(&merge.target)
    .bind(&merge.tables)
    .fetch_all(connection)
    .await
    .map_err(|source| PgError::database("looking at the keys between the tables", source))
}

async fn list_own_triggers(
    connection: &mut PgConnection,
    merge: &Merge,
) -> Result<Vec<OwnTrigger>, PgError> {
    sqlx::query_as(
        "-- list_own_triggers
         SELECT format('%I.%I', $1, c.relname) AS table, t.tgname::text AS name,
                t.tgenabled::text AS enabled
         FROM pg_trigger t
         JOIN pg_class c ON c.oid = t.tgrelid
         WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relname = ANY($2)
           AND NOT t.tgisinternal AND t.tgenabled <> 'D'
           AND obj_description(t.tgfoid, 'pg_proc') = 'made by relevo import'
         ORDER BY 1, 2",
    )
    .bind(&merge.target)
    .bind(&merge.tables)
    .fetch_all(connection)
    .await
    .map_err(|source| PgError::database("looking at the import's own triggers", source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(table: &str, references: &str) -> Key {
        Key {
            name: "k".to_owned(),
            table: quote_qualified("public", table),
            references: quote_qualified("public", references),
            deferrable: false,
            is_mine: true,
        }
    }

    #[test]
    fn parents_come_first_and_circles_do_not_hang() {
        let tables = ["c", "b", "a", "x", "y"].map(str::to_owned);
        let keys = [key("c", "b"), key("b", "a"), key("a", "a"), key("x", "y"), key("y", "x")];
        let ordered = parents_first(&tables, &keys, "public");
        let place = |name: &str| ordered.iter().position(|table| table == name).unwrap();
        assert!(place("a") < place("b") && place("b") < place("c"), "{ordered:?}");
        assert_eq!(ordered.len(), 5);
    }
}
