//! The statements that change rows.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, Executor, PgConnection};

use super::plan::MergeTable;
use super::{Merge, MergePlan, RowChanges};
use crate::cutover::Failed;
use crate::cutover::error::CutoverError;
use crate::error::{PgError, sqlstate};
use crate::ident::{quote, quote_qualified};

/// Changes the rows of all tables: first what goes, children before parents, then what changes and
/// what is new, parents before children. Keys that can wait are checked at the end.
pub(super) async fn change<E: From<CutoverError>>(
    connection: &mut PgConnection,
    merge: &Merge,
    plan: &MergePlan,
) -> Result<BTreeMap<String, RowChanges>, Failed<E>> {
    let mut changes: BTreeMap<String, RowChanges> = BTreeMap::new();
    execute(connection, "", "SET CONSTRAINTS ALL DEFERRED".to_owned()).await?;
    let mut tables = Vec::new();
    for table in plan.tables.iter().rev() {
        let statements = Statements::new(merge, table);
        if merge.keep_others {
            tables.push(statements);
            continue;
        }
        let unchanged = !statements.has_key() && statements.same(connection).await?;
        if !unchanged {
            let deleted = execute(connection, &table.name, statements.delete()).await?;
            changes.entry(table.name.clone()).or_default().deleted = deleted;
            tables.push(statements);
        }
    }
    tables.reverse();
    for statements in tables.iter().filter(|statements| statements.has_key()) {
        if let Some(update) = statements.update() {
            let change = statements.change_in_place(connection, update).await?;
            let entry = changes.entry(statements.table.name.clone()).or_default();
            entry.updated = change.rows;
            entry.inserted = if change.taken_out { change.rows } else { 0 };
        }
    }
    for statements in &tables {
        let name = &statements.table.name;
        let inserted = execute(connection, name, statements.insert()).await?;
        let entry = changes.entry(name.clone()).or_default();
        // Rows that were taken out come back here and are not new.
        entry.inserted = inserted.saturating_sub(entry.inserted);
    }
    execute(connection, "", "SET CONSTRAINTS ALL IMMEDIATE".to_owned()).await?;
    Ok(changes)
}

/// Compares the tables with the staged ones once more; returns what triggers of the application
/// made of the rows.
pub(super) async fn check<E: From<CutoverError>>(
    connection: &mut PgConnection,
    merge: &Merge,
    plan: &MergePlan,
) -> Result<Vec<String>, Failed<E>> {
    let mut notices = Vec::new();
    for table in &plan.tables {
        let statements = Statements::new(merge, table);
        let sql = format!(
            "-- count_merged
             SELECT (SELECT count(*) FROM {}), (SELECT count(*) FROM {})",
            statements.target, statements.staged
        );
        let (target, staged): (i64, i64) = sqlx::query_as(AssertSqlSafe(sql))
            .fetch_one(&mut *connection)
            .await
            .map_err(|source| refused::<E>(&table.name, source))?;
        if target < staged || (target > staged && !merge.keep_others) {
            return Err(CutoverError::Refused {
                table: table.name.clone(),
                reason: format!("it holds {target} rows afterwards instead of {staged}"),
            }
            .into());
        }
        if table.has_triggers && statements.has_key() {
            let sql = format!(
                "-- count_differing
                 SELECT count(*) FROM {} AS t, {} AS s WHERE {} AND ({})",
                statements.target,
                statements.staged,
                statements.joined(),
                statements.differ()
            );
            let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
                .fetch_one(&mut *connection)
                .await
                .map_err(|source| refused::<E>(&table.name, source))?;
            if rows > 0 {
                notices.push(format!(
                    "triggers of the application made other values of {rows} row(s) of {}",
                    table.name
                ));
            }
        }
    }
    Ok(notices)
}

/// The SQL for one table.
struct Statements<'a> {
    table: &'a MergeTable,
    target: String,
    staged: String,
}

impl<'a> Statements<'a> {
    fn new(merge: &Merge, table: &'a MergeTable) -> Self {
        Self {
            target: quote_qualified(&merge.target, &table.name),
            staged: quote_qualified(&merge.staging, &table.name),
            table,
        }
    }

    fn has_key(&self) -> bool {
        self.table.key().next().is_some()
    }

    /// The same key in `t` and `s`.
    fn joined(&self) -> String {
        let equal = self.table.key().map(|column| {
            let column = quote(&column.name);
            format!("t.{column} = s.{column}")
        });
        equal.collect::<Vec<_>>().join(" AND ")
    }

    /// Any value differs between `t` and `s`.
    fn differ(&self) -> String {
        let differ: Vec<String> = self
            .table
            .columns
            .iter()
            .map(|column| {
                format!("{} IS DISTINCT FROM {}", column.exactly("t"), column.exactly("s"))
            })
            .collect();
        if differ.is_empty() { "false".to_owned() } else { differ.join(" OR ") }
    }

    fn delete(&self) -> String {
        if !self.has_key() {
            return format!("DELETE FROM {}", self.target);
        }
        format!(
            "DELETE FROM {} AS t WHERE NOT EXISTS (SELECT FROM {} AS s WHERE {})",
            self.target,
            self.staged,
            self.joined()
        )
    }

    /// `None` for a table with nothing but what cannot be set.
    fn update(&self) -> Option<String> {
        let set: Vec<String> = self
            .table
            .columns
            .iter()
            .filter(|column| !column.is_identity_always)
            .map(|column| format!("{column} = s.{column}", column = quote(&column.name)))
            .collect();
        (!set.is_empty()).then(|| {
            format!(
                "UPDATE {} AS t SET {} FROM {} AS s WHERE {} AND ({})",
                self.target,
                set.join(", "),
                self.staged,
                self.joined(),
                self.differ()
            )
        })
    }

    /// The rows that change, taken out to be inserted again.
    fn delete_changed(&self) -> String {
        format!(
            "DELETE FROM {} AS t USING {} AS s WHERE {} AND ({})",
            self.target,
            self.staged,
            self.joined(),
            self.differ()
        )
    }

    fn insert(&self) -> String {
        let names: Vec<String> =
            self.table.columns.iter().map(|column| quote(&column.name)).collect();
        let values: Vec<String> = names.iter().map(|name| format!("s.{name}")).collect();
        let only_new = if self.has_key() {
            format!(" WHERE NOT EXISTS (SELECT FROM {} AS t WHERE {})", self.target, self.joined())
        } else {
            String::new()
        };
        format!(
            "INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE SELECT {} FROM {} AS s{only_new}",
            self.target,
            names.join(", "),
            values.join(", "),
            self.staged
        )
    }

    /// Whether a table without a key holds the staged rows already.
    async fn same<E: From<CutoverError>>(
        &self,
        connection: &mut PgConnection,
    ) -> Result<bool, Failed<E>> {
        let values = |alias: &str| {
            let values = self.table.columns.iter().map(|column| column.exactly(alias));
            values.collect::<Vec<_>>().join(", ")
        };
        let (of_target, of_staged) = (values("t"), values("s"));
        let sql = format!(
            "-- compare_rows
             SELECT NOT EXISTS (SELECT {of_target} FROM {target} AS t
                                EXCEPT ALL SELECT {of_staged} FROM {staged} AS s)
                AND NOT EXISTS (SELECT {of_staged} FROM {staged} AS s
                                EXCEPT ALL SELECT {of_target} FROM {target} AS t)",
            target = self.target,
            staged = self.staged,
        );
        sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(connection)
            .await
            .map_err(|source| refused(&self.table.name, source))
    }

    /// Updates the rows that differ. Rows that exchange the values of a unique index stand in each
    /// other's way: they are taken out, and come back with the new ones.
    async fn change_in_place<E: From<CutoverError>>(
        &self,
        connection: &mut PgConnection,
        update: String,
    ) -> Result<Change, Failed<E>> {
        let name = &self.table.name;
        execute(connection, name, "SAVEPOINT in_place".to_owned()).await?;
        let sql = AssertSqlSafe(format!("-- merge_rows\n{update}"));
        let change = match connection.execute(sql).await {
            Ok(done) => Change { rows: done.rows_affected(), taken_out: false },
            Err(error) if sqlstate(&error).as_deref() == Some("23505") && !self.table.cascades => {
                execute(connection, name, "ROLLBACK TO SAVEPOINT in_place".to_owned()).await?;
                let rows = execute(connection, name, self.delete_changed()).await?;
                Change { rows, taken_out: true }
            }
            Err(error) => return Err(refused(name, error)),
        };
        execute(connection, name, "RELEASE SAVEPOINT in_place".to_owned()).await?;
        Ok(change)
    }
}

/// What became of the rows that differ.
struct Change {
    rows: u64,
    /// They are to be inserted again.
    taken_out: bool,
}

async fn execute<E: From<CutoverError>>(
    connection: &mut PgConnection,
    table: &str,
    sql: String,
) -> Result<u64, Failed<E>> {
    connection
        .execute(AssertSqlSafe(format!("-- merge_rows\n{sql}")))
        .await
        .map(|done| done.rows_affected())
        .map_err(|source| refused(table, source))
}

/// A lock that was not to be had is tried again; what the table refuses is named with it.
fn refused<E: From<CutoverError>>(table: &str, source: sqlx::Error) -> Failed<E> {
    if matches!(sqlstate(&source).as_deref(), Some("55P03" | "40P01")) {
        return Failed::ToLock;
    }
    let answer = source.as_database_error().filter(|_| !crate::error::is_transient(&source));
    match answer {
        Some(answer) => {
            let detail = answer
                .try_downcast_ref::<sqlx::postgres::PgDatabaseError>()
                .and_then(sqlx::postgres::PgDatabaseError::detail)
                .map(|detail| format!(" ({detail})"))
                .unwrap_or_default();
            let reason = format!("{}{detail}", answer.message());
            CutoverError::Refused { table: table.to_owned(), reason }.into()
        }
        None => CutoverError::from(PgError::database(format!("merging {table}"), source)).into(),
    }
}
