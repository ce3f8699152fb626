//! Foreign keys and CHECK constraints.

use crate::ddl::expression;
use crate::ddl::index::references_a_key;
use crate::ddl::names::{NamePool, block, column_name, literal, quote};
use crate::ddl::postload::{Phase, PostLoadPlan, qualified};
use crate::ddl::translate::{Note, column_plans};
use crate::ddl::types::Encoding;
use crate::options::TranslateOptions;
use crate::schema::{ColumnType, ForeignKeyDef, TableDef};

/// The table that a foreign key refers to.
pub(super) fn referred<'a>(
    table: &TableDef,
    key: &ForeignKeyDef,
    tables: &'a [TableDef],
) -> Option<&'a TableDef> {
    let database = key.references_database.as_ref().or(table.database.as_ref());
    tables
        .iter()
        .filter(|t| database.is_none() || t.database.is_none() || t.database.as_ref() == database)
        .find(|t| t.name == key.references_table)
        .or_else(|| {
            let lower = key.references_table.to_lowercase();
            tables.iter().find(|t| t.name.to_lowercase() == lower)
        })
}

pub(super) fn foreign_keys(
    table: &TableDef,
    tables: &[TableDef],
    schema: &str,
    plan: &mut PostLoadPlan,
) {
    let mut names = NamePool::default();
    for key in &table.foreign_keys {
        let mut refuse = |reason: String| {
            plan.notes.push(Note::new(
                table,
                &key.name,
                format!("foreign key to `{}` left out: {reason}", key.references_table),
            ));
        };
        let parent = referred(table, key, tables);
        let Some(parent) = parent else {
            refuse("the table is not in the dump".to_owned());
            continue;
        };
        let resolve = |table: &TableDef, names: &[String]| -> Option<String> {
            let columns: Option<Vec<String>> = names
                .iter()
                .map(|name| {
                    Some(quote(&column_name(table, &table.columns[table.column_index(name)?])))
                })
                .collect();
            columns.map(|columns| columns.join(", "))
        };
        let (Some(from), Some(to)) =
            (resolve(table, &key.columns), resolve(parent, &key.references_columns))
        else {
            refuse("it names a column that is not there".to_owned());
            continue;
        };
        if !references_a_key(parent, &key.references_columns) {
            refuse("the referenced columns are not unique, which Postgres demands".to_owned());
            continue;
        }
        let wanted = if key.name.is_empty() {
            format!("{}_{}_fkey", table.name, key.columns.join("_"))
        } else {
            key.name.clone()
        };
        let name = names.take(&wanted);
        let action = |on: &str, action: &Option<String>| {
            action.as_ref().map_or_else(String::new, |action| format!(" ON {on} {action}"))
        };
        let sql = format!(
            "-- foreign_key\nALTER TABLE {} ADD CONSTRAINT {} FOREIGN KEY ({from}) REFERENCES {} \
             ({to}){}{}",
            qualified(schema, table),
            quote(&name),
            qualified(schema, parent),
            action("DELETE", &key.on_delete),
            action("UPDATE", &key.on_update),
        );
        plan.push(table, Phase::ForeignKey, name, sql);
    }
}

pub(super) fn checks(
    table: &TableDef,
    schema: &str,
    options: &TranslateOptions,
    plan: &mut PostLoadPlan,
) {
    let mut names = NamePool::default();
    let mut constraints: Vec<(String, String)> = Vec::new();
    for (definition, (column, pg, _)) in table.columns.iter().zip(column_plans(table, options)) {
        if matches!(definition.ty, ColumnType::Inet4 | ColumnType::Inet6) && pg.name == "text" {
            let family = if definition.ty == ColumnType::Inet4 { 4 } else { 6 };
            // The cast refuses what is no address.
            let condition = format!("family({}::inet) = {family}", quote(&column.pg_name));
            let name = names.take(&format!("{}_{}_check", table.name, column.name));
            constraints.push((name, condition));
            continue;
        }
        let (labels, operator) = match &pg.encoding {
            Encoding::Enum { labels } => (labels, "= ANY"),
            Encoding::Set { labels, array: true } => (labels, "<@"),
            _ => continue,
        };
        let list: Vec<String> = labels.iter().map(|label| literal(label)).collect();
        let condition =
            format!("{} {operator} (ARRAY[{}]::text[])", quote(&column.pg_name), list.join(", "));
        let name = names.take(&format!("{}_{}_check", table.name, column.name));
        constraints.push((name, condition));
    }
    for (number, check) in table.checks.iter().enumerate() {
        if !check.enforced {
            let message = format!("CHECK left out, it was not enforced: {}", check.expression);
            plan.notes.push(Note::new(table, &check.name, message));
            continue;
        }
        let Some(sql) = expression::check(&check.expression, table, options) else {
            let message =
                format!("CHECK left out, it has no safe translation: {}", check.expression);
            plan.notes.push(Note::new(table, &check.name, message));
            continue;
        };
        let wanted = match check.name.as_str() {
            "" => format!("{}_check{}", table.name, number + 1),
            name => name.to_owned(),
        };
        constraints.push((names.take(&wanted), sql));
    }
    if constraints.is_empty() {
        return;
    }
    let target = qualified(schema, table);
    let add = |suffix: &str, (name, condition): &(String, String)| {
        format!("ADD CONSTRAINT {} CHECK ({condition}){suffix}", quote(name))
    };
    let together: Vec<String> = constraints.iter().map(|c| add("", c)).collect();
    let apart: String = constraints
        .iter()
        .map(|constraint| {
            format!(
                "  BEGIN\n    ALTER TABLE {target} {};\n  EXCEPTION WHEN check_violation THEN\n    \
                 ALTER TABLE {target} {};\n    RAISE WARNING 'existing rows violate %: added NOT \
                 VALID', {};\n  END;\n",
                add("", constraint),
                add(" NOT VALID", constraint),
                literal(&constraint.0)
            )
        })
        .collect();
    let sql = format!(
        "BEGIN\n  ALTER TABLE {target} {};\nEXCEPTION WHEN check_violation \
         THEN\n{apart}END\n",
        together.join(", ")
    );
    plan.push(table, Phase::Check, constraints[0].0.clone(), block("checks", &sql));
}
