//! The tables a dump has defined so far.

use std::collections::HashMap;
use std::sync::Arc;

use super::numbering::Counter;
use crate::ddl;
use crate::options::TranslateOptions;
use crate::schema::{ForeignKeyDef, TableDef};

/// Tables by database and name.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    /// Database in force.
    pub(super) database: Option<String>,
    tables: HashMap<(Option<String>, String), Entry>,
    /// The last comment announced that a table only stands in for a view.
    stand_in: bool,
}

#[derive(Debug)]
struct Entry {
    table: Arc<TableDef>,
    filled: bool,
    /// Why no more rows may come.
    sealed: Option<&'static str>,
    counter: Counter,
    /// Triggers on INSERT that have not been told of yet.
    triggers: Vec<String>,
}

impl Catalog {
    /// A catalog that knows some tables beforehand.
    pub(super) fn new(tables: &[TableDef]) -> Self {
        let mut catalog = Self::default();
        for table in tables {
            catalog.insert(Arc::new(table.clone()));
        }
        catalog
    }

    /// Defines or redefines a table.
    pub(super) fn insert(&mut self, table: Arc<TableDef>) {
        let key = (table.database.clone(), table.name.clone());
        self.tables.insert(
            key,
            Entry {
                table,
                filled: false,
                sealed: None,
                counter: Counter::default(),
                triggers: Vec::new(),
            },
        );
    }

    /// Whether another table of the database would get the same name in Postgres.
    pub(super) fn has_long_name(&self, table: &TableDef) -> bool {
        let name = ddl::table_name(table);
        name != table.name
            && self.tables.values().any(|known| {
                known.table.database == table.database
                    && known.table.name != table.name
                    && ddl::table_name(&known.table) == name
            })
    }

    /// Columns of foreign keys to tables that are there, and numeric on both sides.
    pub(super) fn numeric_keys(&self, table: &TableDef, options: &TranslateOptions) -> Vec<String> {
        let find = |key: &ForeignKeyDef| {
            let database = key.references_database.as_deref().or(table.database.as_deref());
            let key = self.key(database, &key.references_table)?;
            Some(&*self.tables[&key].table)
        };
        ddl::types::numeric_keys(table, find, options)
    }

    /// Replaces a definition, keeping what is known of its rows.
    pub(super) fn replace(&mut self, table: Arc<TableDef>) {
        let key = (table.database.clone(), table.name.clone());
        if let Some(entry) = self.tables.get_mut(&key) {
            entry.table = table;
        }
    }

    /// The table an unqualified or qualified name means. Case counts only where two tables differ
    /// in it, since servers on Windows and macOS do not mind case.
    pub(super) fn find(&self, database: Option<&str>, name: &str) -> Option<Arc<TableDef>> {
        self.key(database, name).map(|key| Arc::clone(&self.tables[&key].table))
    }

    fn key(&self, database: Option<&str>, name: &str) -> Option<(Option<String>, String)> {
        let database = database.or(self.database.as_deref());
        let exact = (database.map(str::to_owned), name.to_owned());
        if self.tables.contains_key(&exact) {
            return Some(exact);
        }
        let lower = name.to_lowercase();
        let mut candidates = self.tables.keys().filter(|(db, table)| {
            table.to_lowercase() == lower && (db.as_deref() == database || db.is_none())
        });
        let found = candidates.next()?.clone();
        candidates.next().is_none().then_some(found)
    }

    /// Rows of a table have been seen.
    pub(super) fn mark_filled(&mut self, table: &TableDef) {
        let key = (table.database.clone(), table.name.clone());
        if let Some(entry) = self.tables.get_mut(&key) {
            entry.filled = true;
        }
    }

    /// Whether rows of a table have been seen.
    pub(super) fn is_filled(&self, database: Option<&str>, name: &str) -> bool {
        self.key(database, name).is_some_and(|key| self.tables[&key].filled)
    }

    /// From now on no rows may come.
    pub(super) fn seal(&mut self, table: &TableDef, reason: &'static str) {
        let key = (table.database.clone(), table.name.clone());
        if let Some(entry) = self.tables.get_mut(&key) {
            entry.sealed = Some(reason);
        }
    }

    /// Why no more rows of a table may come.
    pub(super) fn sealed(&self, table: &TableDef) -> Option<&'static str> {
        let key = (table.database.clone(), table.name.clone());
        self.tables.get(&key).and_then(|entry| entry.sealed)
    }

    /// What the next row of a table that counts by itself is numbered.
    pub(super) fn counter(&self, table: &TableDef) -> Counter {
        let key = (table.database.clone(), table.name.clone());
        self.tables.get(&key).map(|entry| entry.counter).unwrap_or_default()
    }

    /// Keeps a counter for the next INSERT.
    pub(super) fn keep_counter(&mut self, table: &TableDef, counter: Option<Counter>) {
        let key = (table.database.clone(), table.name.clone());
        if let (Some(entry), Some(counter)) = (self.tables.get_mut(&key), counter) {
            entry.counter = counter;
        }
    }

    /// A trigger is there that the server runs for each row to come.
    pub(super) fn add_trigger(&mut self, table: &TableDef, name: &str) {
        let key = (table.database.clone(), table.name.clone());
        if let Some(entry) = self.tables.get_mut(&key) {
            entry.triggers.push(name.to_owned());
        }
    }

    /// The triggers of a table that have not been told of yet.
    pub(super) fn take_triggers(&mut self, table: &TableDef) -> Vec<String> {
        let key = (table.database.clone(), table.name.clone());
        self.tables.get_mut(&key).map(|e| std::mem::take(&mut e.triggers)).unwrap_or_default()
    }

    /// Whether a table of just this name is there.
    pub(super) fn holds(&self, database: Option<&str>, name: &str) -> bool {
        self.tables.contains_key(&(database.map(str::to_owned), name.to_owned()))
    }

    /// All tables.
    pub(super) fn tables(&self) -> impl Iterator<Item = &TableDef> + Clone {
        self.tables.values().map(|entry| &*entry.table)
    }

    /// Forgets a table; returns its definition.
    pub(super) fn remove(&mut self, database: Option<&str>, name: &str) -> Option<Arc<TableDef>> {
        let key = self.key(database, name)?;
        self.tables.remove(&key).map(|entry| entry.table)
    }

    /// Takes note of a comment line: phpMyAdmin and old mysqldumps announce tables that only
    /// stand in for a view until it is created.
    pub(super) fn comment(&mut self, comment: &str) {
        if comment.is_empty() || comment.starts_with('(') {
            return;
        }
        let lower = comment.to_lowercase();
        self.stand_in = lower.contains("stand-in structure for view")
            || lower.contains("temporary table structure for view")
            || lower.contains("temporary view structure for view");
    }

    /// Whether the table being created stands in for a view.
    pub(super) fn takes_stand_in(&mut self) -> bool {
        std::mem::take(&mut self.stand_in)
    }
}
