//! The guard: a half-empty dump passes every other check.

use std::collections::BTreeMap;
use std::fmt;

use relevo_pg::ident;
use sqlx::{AssertSqlSafe, PgConnection};

use crate::certificate::Certificate;
use crate::error::ImportError;
use crate::identity::ImportId;
use crate::ledger;
use crate::manifest::Manifest;
use crate::options::{CutoverMode, ImportOptions};

/// One table that would lose too much.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GuardFinding {
    /// The table's name in Postgres.
    pub table: String,
    /// Rows before: by the last certificate, or in the present target.
    pub rows_before: u64,
    /// Rows in the dump; `None` when the table is gone.
    pub rows_dump: Option<u64>,
}

impl fmt::Display for GuardFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.rows_dump {
            None => write!(f, "{} is gone (it had {} rows)", self.table, self.rows_before),
            Some(rows) => {
                let lost = 100 - u128::from(rows) * 100 / u128::from(self.rows_before.max(1));
                write!(
                    f,
                    "{} fell from {} to {rows} rows (-{lost} %)",
                    self.table, self.rows_before
                )
            }
        }
    }
}

/// What the tables held before, as far as it is known.
pub(crate) type RowsBefore = BTreeMap<String, u64>;

/// Reads what the tables held before: from the last certificate of the schema, or, when there is
/// none, by counting the present tables of the same names.
pub(crate) async fn rows_before(
    connection: &mut PgConnection,
    id: &ImportId,
    schema: &str,
    manifest: &Manifest,
) -> Result<RowsBefore, ImportError> {
    let certificate: Option<sqlx::types::JsonValue> = sqlx::query_scalar(
        "-- find_last_certificate
         SELECT certificate FROM relevo_ledger.import
         WHERE schema = $1 AND state = 'live' AND rollback IS NULL AND id <> $2
         ORDER BY ended_at DESC LIMIT 1",
    )
    .bind(schema)
    .bind(id.as_str())
    .fetch_optional(&mut *connection)
    .await
    .map_err(|source| ImportError::database("reading the last certificate", source))?;
    if let Some(certificate) = certificate {
        let last: Certificate = ledger::read(id, "last certificate", certificate)?;
        return Ok(last.tables.into_iter().map(|table| (table.table, table.rows_target)).collect());
    }
    let names: Vec<String> = manifest.tables.iter().map(|table| table.name()).collect();
    let present: Vec<String> = sqlx::query_scalar(
        "-- list_present_tables
         SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r'",
    )
    .bind(schema)
    .bind(&names)
    .fetch_all(&mut *connection)
    .await
    .map_err(|source| ImportError::database("listing the present tables", source))?;
    let mut before = RowsBefore::new();
    for table in present {
        let sql = format!(
            "-- count_present_rows\nSELECT count(*) FROM {}",
            ident::quote_qualified(schema, &table)
        );
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(sql))
            .fetch_one(&mut *connection)
            .await
            .map_err(|source| ImportError::database(format!("counting {table}"), source))?;
        before.insert(table, rows.unsigned_abs());
    }
    Ok(before)
}

/// Compares the dump with what was there. Refuses, or returns what would have been refused when
/// forced.
pub(crate) fn check(
    options: &ImportOptions,
    manifest: &Manifest,
    before: &RowsBefore,
) -> Result<Vec<GuardFinding>, ImportError> {
    let dump: BTreeMap<String, u64> =
        manifest.tables.iter().map(|table| (table.name(), table.rows)).collect();
    let keep_percent = u128::from(100 - options.guard.shrink_percent.min(100));
    let findings: Vec<GuardFinding> = before
        .iter()
        // A table that was not asked for is not missing, and rows that stay are not lost.
        .filter(|(table, _)| {
            let kept = options.cutover.mode == CutoverMode::Upsert;
            !kept && (options.selection.is_all() || dump.contains_key(*table))
        })
        .filter_map(|(table, &rows_before)| {
            let rows_dump = dump.get(table).copied();
            let enough = rows_dump.is_some_and(|rows| {
                u128::from(rows) * 100 >= u128::from(rows_before) * keep_percent
            });
            (!enough).then(|| GuardFinding { table: table.clone(), rows_before, rows_dump })
        })
        .collect();
    if findings.is_empty() || options.guard.force {
        return Ok(findings);
    }
    Err(ImportError::Guard { findings })
}

#[cfg(test)]
mod tests {
    use relevo_mysqldump::{DumpSummary, TableDef};

    use super::*;
    use crate::manifest::TableManifest;
    use crate::options::Guard;

    fn manifest(tables: &[(&str, u64)]) -> Manifest {
        let tables = tables
            .iter()
            .map(|(name, rows)| TableManifest {
                rows_recounted: None,
                definition: TableDef { name: (*name).to_owned(), ..TableDef::default() },
                rows: *rows,
            })
            .collect();
        Manifest {
            tables,
            chunks: Vec::new(),
            summary: DumpSummary::default(),
            skipped: Vec::new(),
            warnings: Vec::new(),
        }
    }

    fn before(tables: &[(&str, u64)]) -> RowsBefore {
        tables.iter().map(|(name, rows)| ((*name).to_owned(), *rows)).collect()
    }

    fn options(force: bool) -> ImportOptions {
        ImportOptions { guard: Guard { shrink_percent: 30, force }, ..ImportOptions::default() }
    }

    #[test]
    fn thirty_percent_is_the_line() {
        let dump = manifest(&[("a", 70), ("b", 1)]);
        assert!(check(&options(false), &dump, &before(&[("a", 100)])).unwrap().is_empty());
        let error = check(&options(false), &dump, &before(&[("a", 101)])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("a fell from 101 to 70 rows (-31 %)"), "{text}");
        assert!(text.contains("--force"), "{text}");
    }

    #[test]
    fn a_table_that_is_gone_or_emptied_is_named() {
        let dump = manifest(&[("a", 0)]);
        let text =
            check(&options(false), &dump, &before(&[("a", 5), ("b", 7)])).unwrap_err().to_string();
        assert!(text.contains("a fell from 5 to 0") && text.contains("b is gone"), "{text}");
    }

    #[test]
    fn force_lets_through_and_reports() {
        let findings = check(&options(true), &manifest(&[("a", 1)]), &before(&[("a", 9)])).unwrap();
        assert_eq!(findings.len(), 1);
    }

    #[test]
    fn a_first_import_and_a_grown_one_pass() {
        let dump = manifest(&[("a", 10)]);
        assert!(check(&options(false), &dump, &before(&[])).unwrap().is_empty());
        assert!(check(&options(false), &dump, &before(&[("a", 0)])).unwrap().is_empty());
    }
}
