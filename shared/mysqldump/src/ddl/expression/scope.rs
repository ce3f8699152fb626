//! Where the names in an expression are looked up: one table's columns, or the relations of a
//! SELECT.

use crate::ddl::expression::typing::{Kind, Typed, kind_of};
use crate::ddl::names::{column_name, quote};
use crate::ddl::types::pg_column;
use crate::options::{JsonType, TranslateOptions};
use crate::schema::{ColumnType, TableDef};

/// Where names are looked up.
#[derive(Debug, Clone, Copy)]
pub(in crate::ddl) enum Scope<'a> {
    /// The columns of one table, unqualified.
    Table(&'a TableDef),
    /// What stands behind FROM.
    Relations(&'a [Relation]),
}

/// A table, view or subquery behind FROM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ddl) struct Relation {
    /// Its name or alias in MySQL.
    pub(in crate::ddl) alias: String,
    /// Its columns in order.
    pub(in crate::ddl) columns: Vec<ScopeColumn>,
}

/// A column that can be named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::ddl) struct ScopeColumn {
    /// Name in MySQL.
    pub(in crate::ddl) name: String,
    /// Name in Postgres, unquoted.
    pub(in crate::ddl) pg_name: String,
    /// What it holds.
    pub(in crate::ddl) kind: Kind,
}

impl Relation {
    /// A table of the dump under an alias.
    pub(in crate::ddl) fn of_table(
        alias: String,
        table: &TableDef,
        options: &TranslateOptions,
    ) -> Self {
        let columns = table
            .columns
            .iter()
            .map(|column| ScopeColumn {
                name: column.name.clone(),
                pg_name: column_name(table, column),
                kind: column_kind(table, column, options),
            })
            .collect();
        Self { alias, columns }
    }
}

fn column_kind(
    table: &TableDef,
    column: &crate::schema::ColumnDef,
    options: &TranslateOptions,
) -> Kind {
    // A zero-filled number counts as its digits in one place and as a number in another.
    if matches!(column.ty, ColumnType::Int { zerofill: true, .. }) {
        return Kind::Other;
    }
    match kind_of(&pg_column(table, column, options).encoding) {
        Kind::Json if options.json != JsonType::Jsonb => Kind::Other,
        kind => kind,
    }
}

impl Scope<'_> {
    /// Whether all text is stored as UTF-8 in MySQL, too; of views this is not known.
    pub(super) fn is_utf8(&self) -> bool {
        let Self::Table(table) = self else { return false };
        table.columns.iter().filter(|column| column.ty.is_text()).all(|column| {
            let charset = column.charset.as_deref().or(table.charset.as_deref());
            charset.is_none_or(|name| name.starts_with("utf8") || name == "ascii")
        })
    }

    /// A column by its name and, where one is given, the table's.
    pub(super) fn column(
        &self,
        qualifier: Option<&str>,
        name: &str,
        generated_too: bool,
        options: &TranslateOptions,
    ) -> Option<Typed> {
        match self {
            Self::Table(table) => {
                if qualifier.is_some_and(|q| !q.eq_ignore_ascii_case(&table.name)) {
                    return None;
                }
                let column = &table.columns[table.column_index(name)?];
                // Postgres allows no generated column in another's rule.
                if column.generated.is_some() && !generated_too {
                    return None;
                }
                if matches!(column.ty, ColumnType::Int { zerofill: true, .. }) {
                    return None;
                }
                match column_kind(table, column, options) {
                    Kind::Other if column.ty == ColumnType::Json => None,
                    kind => Some((quote(&column_name(table, column)), kind)),
                }
            }
            Self::Relations(relations) => {
                let lower = name.to_lowercase();
                let mut found = relations
                    .iter()
                    .filter(|relation| {
                        qualifier.is_none_or(|q| q.to_lowercase() == relation.alias.to_lowercase())
                    })
                    .flat_map(|relation| relation.columns.iter().map(move |c| (relation, c)))
                    .filter(|(_, column)| column.name.to_lowercase() == lower);
                let (relation, column) = found.next()?;
                if found.next().is_some() {
                    return None;
                }
                let sql = format!("{}.{}", quote(&relation.alias), quote(&column.pg_name));
                Some((sql, column.kind))
            }
        }
    }
}
