//! The migrations, as one transaction can run all of them.
//!
//! Run one by one, a migration may add a value to a type for later ones to use, or make an index
//! beside writers. A restore makes everything in one transaction, in which such a value cannot be
//! used yet and such an index cannot be made. So there a type has from its beginning the values that
//! it gets later, and indexes are made as nobody is there to be held up. What comes of it, the
//! bookkeeping included, is the same.

use sqlx::migrate::Migration;
use sqlx::{AssertSqlSafe, SqlSafeStr as _};

use crate::control_plane::MIGRATIONS;

/// The migrations up to this version, or all.
pub(super) fn in_one_transaction(version: Option<i64>) -> Vec<Migration> {
    let added: Vec<Added<'_>> =
        MIGRATIONS.iter().flat_map(|migration| added(migration.sql.as_str())).collect();
    let known = MIGRATIONS
        .iter()
        .filter(|migration| version.is_none_or(|version| migration.version <= version));
    known
        .map(|migration| {
            let mut sql = migration.sql.as_str().replace(" CONCURRENTLY ", " ");
            for value in &added {
                value.put_into(&mut sql);
            }
            // The checksum stays that of the text as it is.
            Migration { sql: AssertSqlSafe(sql).into_sql_str(), ..migration.clone() }
        })
        .collect()
}

/// A value that a migration adds to a type.
#[derive(Debug, PartialEq)]
struct Added<'a> {
    /// The type.
    name: &'a str,
    /// The value, in its quotes.
    value: &'a str,
    /// The value that it comes before.
    before: &'a str,
}

/// The values that a migration adds, all of them with `IF NOT EXISTS` and a place.
fn added(sql: &str) -> Vec<Added<'_>> {
    let statements = sql.split(';').filter_map(|text| Some(text.split_once("ALTER TYPE ")?.1));
    statements
        .filter_map(|statement| {
            let words: Vec<&str> = statement.split_whitespace().collect();
            match words[..] {
                [name, "ADD", "VALUE", "IF", "NOT", "EXISTS", value, "BEFORE", before] => {
                    Some(Added { name, value, before })
                }
                _ => None,
            }
        })
        .collect()
}

impl Added<'_> {
    /// Puts the value into the statement that makes its type, where this text holds that.
    fn put_into(&self, sql: &mut String) {
        let Self { name, value, before } = self;
        let Some(begin) = sql.find(&format!("CREATE TYPE {name} AS ENUM")) else { return };
        let end = sql[begin..].find(';').map_or(sql.len(), |length| begin + length);
        let made = sql[begin..end].replacen(before, &format!("{value}, {before}"), 1);
        sql.replace_range(begin..end, &made);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_has_the_values_that_it_gets_later() {
        let later =
            "-- A state.\nALTER TYPE relevo.job_state\n  ADD VALUE IF NOT EXISTS 'b' BEFORE 'c';";
        let mut sql =
            "SELECT 'c';\nCREATE TYPE relevo.job_state AS ENUM\n ('a', 'c');\nSELECT 'c';"
                .to_owned();
        for value in added(later) {
            value.put_into(&mut sql);
        }
        let made =
            "SELECT 'c';\nCREATE TYPE relevo.job_state AS ENUM\n ('a', 'b', 'c');\nSELECT 'c';";
        assert_eq!(sql, made);
    }

    #[test]
    fn every_value_that_a_migration_adds_is_understood() {
        for migration in MIGRATIONS.iter() {
            let sql = migration.sql.as_str();
            assert_eq!(added(sql).len(), sql.matches("ADD VALUE").count(), "{}", migration.version);
            for Added { name, .. } in added(sql) {
                let makes = format!("CREATE TYPE {name} AS ENUM");
                assert!(
                    MIGRATIONS.iter().any(|other| other.sql.as_str().contains(&makes)),
                    "{name}"
                );
            }
        }
        let whole = in_one_transaction(None);
        for (one, before) in whole.iter().zip(MIGRATIONS.iter()) {
            assert_eq!((one.version, &one.checksum), (before.version, &before.checksum));
        }
    }
}
