//! What follows the load: keys, indexes, identities, foreign keys, checks, comments, triggers.

use serde::{Deserialize, Serialize};

use crate::choices::{TypeChoice, type_choice};
use crate::ddl::constraints::{checks, foreign_keys, referred};
use crate::ddl::index::{
    IndexNames, KeyUse, ignores_case, index_statement, key_columns, narrow_parts, remark,
};
use crate::ddl::names::{block, body, column_name, limited, literal, quote, table_name};
use crate::ddl::translate::{Note, column_plans, default};
use crate::ddl::types::{Encoding, needs_bigint, numeric_keys};
use crate::options::TranslateOptions;
use crate::schema::{ColumnDef, ColumnType, IndexDef, IndexKind, IntSize, TableDef};

/// When a statement runs. Phases run in this order; within one, statements are independent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Types that only later statements of the dump decide (phpMyAdmin names AUTO_INCREMENT last).
    Type,
    /// NOT NULL on date columns, where no zero date became NULL.
    NotNull,
    /// Primary keys.
    PrimaryKey,
    /// Unique and plain indexes.
    Index,
    /// Identity columns.
    Identity,
    /// Foreign keys.
    ForeignKey,
    /// CHECK constraints. What existing rows violate is added NOT VALID.
    Check,
    /// COMMENT ON.
    Comment,
    /// `ON UPDATE CURRENT_TIMESTAMP`.
    Trigger,
}

/// Something to run after the rows are loaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PostLoad {
    /// Table in Postgres.
    pub table: String,
    /// The constraint, index, column or trigger made, to look up whether it is there already.
    pub name: String,
    /// When.
    pub phase: Phase,
    /// One statement (two in the Trigger phase).
    pub sql: String,
    /// The trigger function, which lives in the schema beside the table and does not follow it
    /// when the table changes its schema.
    pub function: Option<String>,
}

/// All that follows the load of a set of tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct PostLoadPlan {
    /// Statements, sorted by phase.
    pub statements: Vec<PostLoad>,
    /// What is not carried over, or differs.
    pub notes: Vec<Note>,
}

impl PostLoadPlan {
    pub(super) fn push(
        &mut self,
        table: &TableDef,
        phase: Phase,
        name: impl Into<String>,
        sql: String,
    ) {
        self.statements.push(PostLoad {
            table: table_name(table),
            name: name.into(),
            phase,
            sql,
            function: None,
        });
    }
}

/// What follows the load of these tables, all in one schema. Foreign keys are made between them
/// only; one that leads elsewhere is noted.
pub fn post_load(tables: &[TableDef], schema: &str, options: &TranslateOptions) -> PostLoadPlan {
    let mut plan = PostLoadPlan::default();
    let mut names = IndexNames::new(tables);
    for table in tables {
        types(table, tables, schema, options, &mut plan);
        not_null(table, schema, options, &mut plan);
        primary_key(table, schema, options, &mut names, &mut plan);
        for index in &table.indexes {
            match index_statement(table, index, schema, options, &mut names) {
                Ok((name, sql)) => {
                    if index.kind == IndexKind::Unique
                        && !options.case_insensitive_keys
                        && ignores_case(table, &index.parts)
                    {
                        plan.notes.push(Note::new(table, &index.name, CASE_NOTE));
                    }
                    plan.push(table, Phase::Index, name, sql);
                }
                Err(reason) => plan.notes.push(Note::new(table, &index.name, reason)),
            }
        }
        identity(table, schema, options, &mut plan);
        foreign_keys(table, tables, schema, &mut plan);
        checks(table, schema, options, &mut plan);
        comments(table, schema, &mut plan);
        on_update(table, schema, &mut plan);
    }
    plan.statements.sort_by_key(|statement| statement.phase);
    plan
}

/// Said of keys over texts that MySQL compares without regard to case.
const CASE_NOTE: &str = "unique without regard to case in MySQL, with regard to it in Postgres";

pub(super) fn qualified(schema: &str, table: &TableDef) -> String {
    format!("{}.{}", quote(schema), quote(&table_name(table)))
}

/// Identities and what refers to them want `bigint`; a table created before its ALTERs were read
/// has `numeric`. Where the type is right already this costs nothing.
fn types(
    table: &TableDef,
    tables: &[TableDef],
    schema: &str,
    options: &TranslateOptions,
    plan: &mut PostLoadPlan,
) {
    let target = qualified(schema, table);
    let numeric = numeric_keys(table, |key| referred(table, key, tables), options);
    for column in table.columns.iter().filter(|column| {
        matches!(column.ty, ColumnType::Int { size: IntSize::Big, unsigned: true, .. })
            && needs_bigint(table, column, options)
            && type_choice(options, table, column).is_none()
            && (column.auto_increment || !numeric.contains(&column.name))
    }) {
        let name = column_name(table, column);
        // Even a change to the same type is refused where a generated column uses the column.
        let sql = format!(
            "BEGIN\n  IF EXISTS (SELECT FROM pg_attribute WHERE attrelid \
             = {}::regclass AND attname = {} AND atttypid <> 'bigint'::regtype) THEN\n    ALTER \
             TABLE {target} ALTER COLUMN {} TYPE bigint;\n  END IF;\nEND\n",
            literal(&target),
            literal(&name),
            quote(&name)
        );
        plan.push(table, Phase::Type, name, block("column_types", &sql));
    }
    later_columns(table, &target, options, plan);
}

/// Columns that ALTERs added or changed after the first rows.
fn later_columns(
    table: &TableDef,
    target: &str,
    options: &TranslateOptions,
    plan: &mut PostLoadPlan,
) {
    for (column, (column_plan, pg, generated)) in
        table.columns.iter().zip(column_plans(table, options))
    {
        let name = quote(&column_plan.pg_name);
        let default = default(column, &pg.encoding, table, options).unwrap_or_else(|reason| {
            plan.notes.push(Note::new(table, &column.name, reason));
            None
        });
        if table.added_later.contains(&column.name) {
            let rule = match (&generated, &default) {
                (Some(rule), _) => format!(" GENERATED ALWAYS AS ({rule}) STORED"),
                (None, Some(value)) => format!(" DEFAULT {value}"),
                (None, None) => String::new(),
            };
            // Without a default the server gives earlier rows the type's empty value.
            let needs_value = !column_plan.nullable && rule.is_empty();
            let (fill, unfill) = match implicit_literal(&pg.encoding) {
                Some(value) if needs_value => (
                    format!(" DEFAULT {value}"),
                    format!(";\n  ALTER TABLE {target} ALTER COLUMN {name} DROP DEFAULT"),
                ),
                _ => (String::new(), String::new()),
            };
            let not_null = if column_plan.nullable || needs_value && fill.is_empty() {
                ""
            } else {
                " NOT NULL"
            };
            let sql = format!(
                "BEGIN\n  ALTER TABLE {target} ADD COLUMN {name} \
                 {}{not_null}{rule}{fill}{unfill};\nEND\n",
                pg.name
            );
            plan.push(table, Phase::Type, column_plan.pg_name, block("added_column", &sql));
        } else if table.widened_later.contains(&column.name) {
            let default = default
                .map_or_else(|| "DROP DEFAULT".to_owned(), |value| format!("SET DEFAULT {value}"));
            let null = if column_plan.nullable { "DROP" } else { "SET" };
            let sql = format!(
                "-- changed_column\nALTER TABLE {target} ALTER COLUMN {name} TYPE {}, ALTER COLUMN \
                 {name} {default}, ALTER COLUMN {name} {null} NOT NULL",
                pg.name
            );
            plan.push(table, Phase::Type, column_plan.pg_name, sql);
        }
    }
}

/// What MySQL fills a new NOT NULL column with, as a literal.
fn implicit_literal(encoding: &Encoding) -> Option<&'static str> {
    match encoding {
        Encoding::Int { .. }
        | Encoding::Year
        | Encoding::Decimal { .. }
        | Encoding::Float
        | Encoding::Double => Some("0"),
        Encoding::Boolean | Encoding::Bit { width: 1 } => Some("false"),
        Encoding::Text { .. } | Encoding::Set { array: false, .. } => Some("''"),
        Encoding::Set { array: true, .. } => Some("'{}'"),
        Encoding::Bytes { pad: None } => Some("''"),
        Encoding::Time { .. } => Some("'00:00:00'"),
        _ => None,
    }
}

fn not_null(table: &TableDef, schema: &str, options: &TranslateOptions, plan: &mut PostLoadPlan) {
    let columns: Vec<String> = table
        .columns
        .iter()
        .zip(column_plans(table, options))
        .filter(|(column, (column_plan, ..))| {
            !column.nullable && column_plan.nullable && column.ty.is_date()
        })
        .map(|(_, (column_plan, ..))| column_plan.pg_name)
        .collect();
    if columns.is_empty() {
        return;
    }
    let target = qualified(schema, table);
    let actions: Vec<String> =
        columns.iter().map(|c| format!("ALTER COLUMN {} SET NOT NULL", quote(c))).collect();
    let list: Vec<String> = columns.iter().map(|c| literal(c)).collect();
    // One scan when all is well; column by column only when some zero date became NULL.
    let sql = format!(
        "DECLARE\n  name text;\nBEGIN\n  ALTER TABLE {target} {};\n\
         EXCEPTION WHEN not_null_violation THEN\n  FOREACH name IN ARRAY ARRAY[{}]::text[] LOOP\n\
         \x20   BEGIN\n      EXECUTE format({}, name);\n    EXCEPTION WHEN not_null_violation THEN\n\
         \x20     RAISE WARNING 'column % stays without NOT NULL: zero dates became NULL', name;\n\
         \x20   END;\n  END LOOP;\nEND\n",
        actions.join(", "),
        list.join(", "),
        literal(&format!("ALTER TABLE {} ALTER COLUMN %I SET NOT NULL", target.replace('%', "%%"))),
    );
    plan.push(table, Phase::NotNull, table_name(table), block("set_not_null", &sql));
}

fn primary_key(
    table: &TableDef,
    schema: &str,
    options: &TranslateOptions,
    names: &mut IndexNames,
    plan: &mut PostLoadPlan,
) {
    if table.primary_key.is_empty() {
        return;
    }
    let columns = match key_columns(table, &table.primary_key) {
        Ok(columns) => columns,
        Err(reason) => {
            plan.notes.push(Note::new(table, "PRIMARY", reason));
            return;
        }
    };
    let name = names.take(&format!("{}_pkey", table.name));
    let target = qualified(schema, table);
    let list = columns.iter().map(|c| quote(&column_name(table, c))).collect::<Vec<_>>().join(", ");
    let add = format!("ALTER TABLE {target} ADD CONSTRAINT {} PRIMARY KEY ({list})", quote(&name));
    let instead = |when: &str, list: &str, why: &str| {
        format!(
            "WHEN {when} THEN\n  CREATE UNIQUE INDEX {name} ON {target} ({list});\n\
             {}\x20 RAISE WARNING {};\n",
            remark(schema, &name, why),
            literal(why),
            name = quote(&name),
        )
    };
    let mut otherwise = String::new();
    if columns.iter().any(|c| c.ty.is_date()) {
        // A zero date in a key is NULL here: such a table keeps uniqueness, but no primary key.
        let why = "no primary key: zero dates in it became NULL";
        otherwise.push_str(&instead("not_null_violation", &list, why));
    }
    if let Some(parts) = narrow_parts(table, &table.primary_key, KeyUse::Primary, options) {
        let why = "no primary key: a value of it is too long for an index";
        otherwise.push_str(&instead("program_limit_exceeded", &parts, why));
    }
    let sql = if otherwise.is_empty() {
        format!("-- primary_key\n{add}")
    } else {
        block("primary_key", &format!("BEGIN\n  {add};\nEXCEPTION {otherwise}END\n"))
    };
    plan.push(table, Phase::PrimaryKey, name, sql);
    if !ignores_case(table, &table.primary_key) {
        return;
    }
    if !options.case_insensitive_keys {
        plan.notes.push(Note::new(table, "PRIMARY", CASE_NOTE));
        return;
    }
    // A primary key has columns only: a second index minds that case does not count.
    let index = IndexDef {
        name: "PRIMARY_ci".to_owned(),
        kind: IndexKind::Unique,
        parts: table.primary_key.clone(),
        using: None,
        comment: String::new(),
    };
    match index_statement(table, &index, schema, options, names) {
        Ok((name, sql)) => plan.push(table, Phase::Index, name, sql),
        Err(reason) => plan.notes.push(Note::new(table, "PRIMARY", reason)),
    }
}

fn identity(table: &TableDef, schema: &str, options: &TranslateOptions, plan: &mut PostLoadPlan) {
    let Some(column) = table.auto_increment_column() else { return };
    if type_choice(options, table, column) == Some(TypeChoice::Numeric) {
        let why = "AUTO_INCREMENT left out: numeric, as chosen, cannot count by itself";
        plan.notes.push(Note::new(table, &column.name, why));
        return;
    }
    if !matches!(column.ty, ColumnType::Int { .. }) {
        plan.notes.push(Note::new(
            table,
            &column.name,
            "AUTO_INCREMENT left out: only whole numbers count in Postgres",
        ));
        return;
    }
    let name = quote(&column_name(table, column));
    let start = table.auto_increment.unwrap_or(1).clamp(1, identity_limit(column));
    let sql = format!(
        "-- identity\nALTER TABLE {} ALTER COLUMN {name} SET NOT NULL, ALTER COLUMN {name} ADD \
         GENERATED BY DEFAULT AS IDENTITY (START WITH {start})",
        qualified(schema, table),
    );
    plan.push(table, Phase::Identity, column_name(table, column), sql);
}

/// The largest value of the Postgres type an identity column has.
fn identity_limit(column: &ColumnDef) -> u64 {
    match column.ty {
        ColumnType::Int { size: IntSize::Tiny, .. }
        | ColumnType::Int { size: IntSize::Small, unsigned: false, .. } => i16::MAX as u64,
        ColumnType::Int { size: IntSize::Small | IntSize::Medium, .. }
        | ColumnType::Int { size: IntSize::Int, unsigned: false, .. } => i32::MAX as u64,
        _ => i64::MAX as u64,
    }
}

/// Sets the identity's sequence past the AUTO_INCREMENT that the dump names and past the largest
/// value in the table. `None`: the table has no identity. To be run after the Identity phase.
pub fn identity_setval(
    table: &TableDef,
    schema: &str,
    options: &TranslateOptions,
) -> Option<String> {
    let column =
        table.auto_increment_column().filter(|c| matches!(c.ty, ColumnType::Int { .. }))?;
    if type_choice(options, table, column) == Some(TypeChoice::Numeric) {
        return None;
    }
    let target = qualified(schema, table);
    let limit = identity_limit(column);
    let next = table.auto_increment.unwrap_or(1).clamp(1, limit);
    Some(format!(
        "-- identity_setval\nSELECT setval(pg_get_serial_sequence({}, {}), LEAST(GREATEST((SELECT \
         max({}) FROM {target})::numeric + 1, {next}), {limit})::bigint, false)",
        literal(&target),
        literal(&column_name(table, column)),
        quote(&column_name(table, column)),
    ))
}

fn comments(table: &TableDef, schema: &str, plan: &mut PostLoadPlan) {
    let target = qualified(schema, table);
    if !table.comment.is_empty() {
        let sql = format!("-- comment\nCOMMENT ON TABLE {target} IS {}", literal(&table.comment));
        plan.push(table, Phase::Comment, table_name(table), sql);
    }
    for column in table.columns.iter().filter(|c| !c.comment.is_empty()) {
        let name = column_name(table, column);
        let sql = format!(
            "-- comment\nCOMMENT ON COLUMN {target}.{} IS {}",
            quote(&name),
            literal(&column.comment)
        );
        plan.push(table, Phase::Comment, name, sql);
    }
}

fn on_update(table: &TableDef, schema: &str, plan: &mut PostLoadPlan) {
    let columns: Vec<String> = table
        .columns
        .iter()
        .filter(|column| column.on_update_now)
        .map(|column| quote(&column_name(table, column)))
        .collect();
    if columns.is_empty() {
        return;
    }
    let name = limited(&format!("{}_on_update", table.name));
    let assignments: String = columns
        .iter()
        .map(|c| {
            format!(
                "  IF NEW.{c} IS NOT DISTINCT FROM OLD.{c} THEN\n    NEW.{c} := \
                 CURRENT_TIMESTAMP;\n  END IF;\n"
            )
        })
        .collect();
    let body = body(&format!("BEGIN\n{assignments}  RETURN NEW;\nEND\n"));
    // Column by column: of a row that is about to be written, Postgres knows no generated ones yet.
    let changed = table
        .columns
        .iter()
        .filter(|column| column.generated.is_none())
        .map(|column| {
            let name = quote(&column_name(table, column));
            // The type json knows no equality.
            let cast = if column.ty == ColumnType::Json { "::text" } else { "" };
            format!("OLD.{name}{cast} IS DISTINCT FROM NEW.{name}{cast}")
        })
        .collect::<Vec<_>>()
        .join(" OR ");
    let sql = format!(
        "-- on_update\nCREATE OR REPLACE FUNCTION {schema}.{function}() RETURNS trigger LANGUAGE \
         plpgsql AS {body};\nCREATE OR REPLACE TRIGGER {function} BEFORE UPDATE ON {} FOR EACH ROW WHEN ({changed}) \
         EXECUTE FUNCTION {schema}.{function}()",
        qualified(schema, table),
        schema = quote(schema),
        function = quote(&name),
    );
    plan.push(table, Phase::Trigger, name.clone(), sql);
    if let Some(statement) = plan.statements.last_mut() {
        statement.function = Some(name);
    }
}
