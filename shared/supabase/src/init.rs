//! Making a local database ready: checks, control tables, triggers; and taking them away again.

use std::collections::BTreeSet;

use relevo_pg::ident::{literal, quote, quote_qualified};
use serde::Serialize;
use sqlx::{AssertSqlSafe, PgPool};

use crate::catalog::{self, Table};
use crate::config::Config;
use crate::error::SyncError;
use crate::rest::Rest;

/// The control tables and the trigger function; `{schema}` stands for the quoted schema.
const CONTROL: &str = include_str!("control.sql");
/// What Supabase needs, for a person to run there; `{tables}` stands for a list of names.
const REMOTE: &str = include_str!("remote.sql");
/// The condition that keeps an application's trigger still in the sync's own transactions.
const STILL: &str = "(current_setting('app.is_sync'::text, true) IS DISTINCT FROM 'true'::text)";

/// What `init` is allowed to do beside its own tables and triggers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// Make application triggers keep still for pulled rows.
    pub suppress_triggers: bool,
    /// Maintain `updated_at` in tables where nobody does.
    pub maintain_updated_at: bool,
}

/// What `init` found and what it does about it.
#[derive(Debug, Default, Serialize)]
pub struct Plan {
    /// Statements, in order.
    pub statements: Vec<String>,
    /// Reasons not to begin.
    pub refusals: Vec<String>,
    /// What a person should know.
    pub warnings: Vec<String>,
}

#[derive(sqlx::FromRow)]
struct Trigger {
    table: String,
    name: String,
    definition: String,
    enabled: i8,
    before_update: bool,
    constraint: bool,
    still: bool,
}

/// The SQL for the remote side.
#[must_use]
pub fn remote_sql(config: &Config) -> String {
    let names: Vec<String> = config.sync.tables.iter().map(|name| literal(name)).collect();
    REMOTE.replace("{tables}", &names.join(", "))
}

/// Looks at both sides and says what there is to do; changes nothing.
///
/// # Errors
/// Where one of the sides can't be asked; what is wrong with the tables is in the plan.
pub async fn plan(
    pool: &PgPool,
    rest: &Rest,
    config: &Config,
    allowed: Allowed,
) -> Result<Plan, SyncError> {
    let schema = &config.local_postgres.schema;
    let mut plan = Plan::default();
    let tables = match catalog::read(pool, schema, &config.sync.tables).await {
        Ok(tables) => tables,
        Err(SyncError::Unfit(reasons)) => {
            plan.refusals = reasons;
            return Ok(plan);
        }
        Err(error) => return Err(error),
    };
    let remote = rest.schema().await?;
    plan.statements.push(CONTROL.replace("{schema}", &quote(schema)));
    let triggers = triggers(pool, schema, &config.sync.tables).await?;
    let owned = owned(pool, schema, &config.sync.tables).await?;
    for table in &tables {
        let refusals = plan.refusals.len();
        check_columns(table, &mut plan);
        if !owned.contains(&table.name) {
            plan.refusals.push(format!(
                "{}: the role {} doesn't own the table: ALTER TABLE {} OWNER TO {}",
                table.name,
                config.local_postgres.user,
                table.path(),
                quote(&config.local_postgres.user)
            ));
        }
        match remote.get(&table.name) {
            None => plan.refusals.push(format!("{}: Supabase doesn't have the table", table.name)),
            Some(columns) => {
                for missing in ["id", "updated_at"].iter().filter(|name| !columns.contains(**name))
                {
                    plan.refusals.push(format!("{}: Supabase's has no {missing}", table.name));
                }
                plan.warnings.extend(drift(table, columns));
            }
        }
        for reference in &table.references {
            if !tables
                .iter()
                .any(|other| other.name == reference.table && other.schema == reference.schema)
            {
                plan.warnings.push(format!(
                    "{}.{} leads to {}.{}, which isn't synchronised: rows whose counterpart is missing \
                     on the other side wait, and are shown",
                    table.name, reference.column, reference.schema, reference.table
                ));
            }
        }
        let own: Vec<&Trigger> =
            triggers.iter().filter(|trigger| trigger.table == table.name).collect();
        plan_triggers(table, &own, allowed, &mut plan);
        if plan.refusals.len() == refusals {
            plan.statements.extend(recording(table));
        }
    }
    Ok(plan)
}

fn check_columns(table: &Table, plan: &mut Plan) {
    let name = &table.name;
    if !table.has_key {
        plan.refusals.push(format!("{name}: id must be a UUID and the primary key, or unique"));
    }
    match table.columns.iter().find(|column| column.name == "updated_at") {
        None => plan.refusals.push(format!("{name}: there is no updated_at")),
        Some(column) if !column.kind.starts_with("timestamp") => {
            plan.refusals.push(format!("{name}: updated_at is no timestamp but {}", column.kind));
        }
        Some(column) if column.kind.starts_with("timestamp without") => plan.warnings.push(
            format!("{name}: updated_at has no time zone; it is taken for UTC on both sides"),
        ),
        Some(column) if column.nullable => plan.warnings.push(format!(
            "{name}: updated_at may be NULL; such rows are not synchronised: \
             ALTER TABLE {} ALTER updated_at SET NOT NULL",
            table.path()
        )),
        Some(_) => {}
    }
}

fn plan_triggers(table: &Table, triggers: &[&Trigger], allowed: Allowed, plan: &mut Plan) {
    let schema = &table.schema;
    if !triggers.iter().any(|trigger| trigger.before_update) {
        if allowed.maintain_updated_at {
            let function = quote_qualified(schema, "_sync_touch");
            plan.statements.push(format!(
                "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS \
                 $body$ BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END $body$"
            ));
            plan.statements.push(format!(
                "CREATE OR REPLACE TRIGGER _sync_touch BEFORE UPDATE ON {} FOR EACH ROW \
                 WHEN {STILL} EXECUTE FUNCTION {function}()",
                table.path()
            ));
        } else {
            plan.refusals.push(format!(
                "{}: nobody maintains updated_at (no BEFORE UPDATE trigger): \
                 --maintain-updated-at makes one",
                table.name
            ));
        }
    }
    for trigger in triggers.iter().filter(|trigger| !trigger.still && trigger.enabled != b'D' as i8)
    {
        if trigger.constraint {
            plan.refusals.push(format!(
                "{}: the constraint trigger {} would fire for pulled rows and can't be changed: \
                 drop it, or make it an ordinary trigger",
                table.name, trigger.name
            ));
        } else if !allowed.suppress_triggers {
            plan.refusals.push(format!(
                "{}: the trigger {} would fire again for pulled rows: --suppress-triggers makes it \
                 keep still in the sync's own transactions",
                table.name, trigger.name
            ));
        } else if let Some(still) = kept_still(&trigger.definition) {
            plan.statements.push(format!(
                "INSERT INTO {} (table_name, trigger_name, definition, enabled)
                 VALUES ({}, {}, {}, '{}') ON CONFLICT DO NOTHING",
                quote_qualified(schema, "_sync_trigger"),
                literal(&table.name),
                literal(&trigger.name),
                literal(&trigger.definition),
                char::from(trigger.enabled as u8),
            ));
            plan.statements.push(still);
            if trigger.enabled != b'O' as i8 {
                plan.statements.push(enabling(table, &trigger.name, trigger.enabled));
            }
        } else {
            plan.refusals
                .push(format!("{}: the trigger {} is not understood", table.name, trigger.name));
        }
    }
}

fn enabling(table: &Table, trigger: &str, enabled: i8) -> String {
    let word = match enabled as u8 {
        b'A' => "ENABLE ALWAYS",
        b'R' => "ENABLE REPLICA",
        b'D' => "DISABLE",
        _ => "ENABLE",
    };
    format!("ALTER TABLE {} {word} TRIGGER {}", table.path(), quote(trigger))
}

/// A trigger's definition with the condition added.
fn kept_still(definition: &str) -> Option<String> {
    let rest = definition.strip_prefix("CREATE TRIGGER ")?;
    let (head, function) = rest.rsplit_once(" EXECUTE FUNCTION ")?;
    let head = match head.split_once(" WHEN (") {
        Some((head, condition)) => format!("{head} WHEN ({STILL} AND ({condition}"),
        None => {
            return Some(format!(
                "CREATE OR REPLACE TRIGGER {head} WHEN {STILL} EXECUTE FUNCTION {function}"
            ));
        }
    };
    Some(format!("CREATE OR REPLACE TRIGGER {head}) EXECUTE FUNCTION {function}"))
}

/// The statements that make a table's changes recorded.
fn recording(table: &Table) -> [String; 2] {
    let function = quote_qualified(&table.schema, "_sync_record_change");
    [
        format!(
            "CREATE OR REPLACE TRIGGER _sync_record AFTER INSERT OR UPDATE OR DELETE ON {} \
             FOR EACH ROW EXECUTE FUNCTION {function}()",
            table.path()
        ),
        format!(
            "CREATE OR REPLACE TRIGGER _sync_truncate BEFORE TRUNCATE ON {} \
             FOR EACH STATEMENT EXECUTE FUNCTION {function}()",
            table.path()
        ),
    ]
}

/// In what a table's columns differ on the two sides.
#[must_use]
pub fn drift(table: &Table, remote: &BTreeSet<String>) -> Vec<String> {
    let mut told = Vec::new();
    for column in &table.columns {
        if !remote.contains(&column.name) {
            told.push(format!(
                "{}.{} exists only here: it isn't synchronised",
                table.name, column.name
            ));
        }
    }
    for column in remote.iter().filter(|name| !table.has(name)) {
        told.push(format!(
            "{}.{column} exists only in Supabase: it isn't synchronised",
            table.name
        ));
    }
    told
}

/// Carries a plan out, in one transaction.
///
/// # Errors
/// [`SyncError::Unfit`] with the refusals; then nothing was changed.
pub async fn carry_out(pool: &PgPool, plan: &Plan) -> Result<(), SyncError> {
    if !plan.refusals.is_empty() {
        return Err(SyncError::Unfit(plan.refusals.clone()));
    }
    let mut tx = pool.begin().await?;
    for statement in &plan.statements {
        sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Takes the triggers away and gives the application's their old definitions; the control tables
/// stay unless `tables` says otherwise.
///
/// # Errors
/// Those of the database; then nothing was changed.
pub async fn remove(pool: &PgPool, config: &Config, tables: bool) -> Result<(), SyncError> {
    let schema = &config.local_postgres.schema;
    let ready: bool =
        sqlx::query_scalar("-- remove\n SELECT to_regclass('_sync_trigger') IS NOT NULL")
            .fetch_one(pool)
            .await?;
    if !ready {
        return Err(SyncError::NotFound("there is nothing to remove: init was not run".to_owned()));
    }
    let mut tx = pool.begin().await?;
    let changed: Vec<(String, String)> = sqlx::query_as(
        "-- remove: what the triggers were
         SELECT table_name, definition FROM _sync_trigger WHERE to_regclass(quote_ident(table_name)) IS NOT NULL",
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut statements = Vec::new();
    for (_, definition) in changed {
        statements.push(definition.replacen("CREATE TRIGGER", "CREATE OR REPLACE TRIGGER", 1));
    }
    for name in &config.sync.tables {
        for trigger in ["_sync_record", "_sync_truncate", "_sync_touch"] {
            statements.push(format!(
                "DROP TRIGGER IF EXISTS {trigger} ON {}",
                quote_qualified(schema, name)
            ));
        }
    }
    for function in ["_sync_record_change", "_sync_touch"] {
        statements.push(format!("DROP FUNCTION IF EXISTS {}()", quote_qualified(schema, function)));
    }
    statements.push("DELETE FROM _sync_trigger".to_owned());
    if tables {
        for table in [
            "metadata",
            "pending",
            "log",
            "base",
            "sent",
            "position",
            "held_up",
            "held_down",
            "conflict",
            "trigger",
            "state",
        ] {
            statements
                .push(format!("DROP TABLE {}", quote_qualified(schema, &format!("_sync_{table}"))));
        }
    }
    for statement in statements {
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

async fn owned(pool: &PgPool, schema: &str, names: &[String]) -> Result<Vec<String>, SyncError> {
    Ok(sqlx::query_scalar(
        "-- owned: tables that this role may give triggers
         SELECT c.relname::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = ANY ($2) AND pg_has_role(c.relowner, 'USAGE')",
    )
    .bind(schema)
    .bind(names)
    .fetch_all(pool)
    .await?)
}

async fn triggers(
    pool: &PgPool,
    schema: &str,
    names: &[String],
) -> Result<Vec<Trigger>, SyncError> {
    Ok(sqlx::query_as(
        "-- triggers: those of the application, and who touches updated_at
         SELECT c.relname::text AS table, t.tgname::text AS name,
                pg_get_triggerdef(t.oid) AS definition, t.tgenabled AS enabled,
                (t.tgtype & 19) = 19 AND t.tgenabled <> 'D' AND EXISTS (
                    SELECT FROM pg_proc f WHERE f.oid = t.tgfoid
                    AND (f.prosrc LIKE '%updated_at%' OR f.proname = 'moddatetime')
                ) AS before_update,
                t.tgconstraint <> 0 AS constraint,
                t.tgname ~ '^_sync_' OR pg_get_triggerdef(t.oid) LIKE '%app.is_sync%' AS still
         FROM pg_trigger t
         JOIN pg_class c ON c.oid = t.tgrelid
         JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE NOT t.tgisinternal AND n.nspname = $1 AND c.relname = ANY ($2)
         ORDER BY c.relname, t.tgname",
    )
    .bind(schema)
    .bind(names)
    .fetch_all(pool)
    .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trigger_keeps_its_own_condition() {
        let plain = "CREATE TRIGGER a BEFORE UPDATE ON public.t FOR EACH ROW EXECUTE FUNCTION f()";
        let still = kept_still(plain).expect("understood");
        assert!(still.ends_with(&format!("FOR EACH ROW WHEN {STILL} EXECUTE FUNCTION f()")));
        let with = "CREATE TRIGGER a AFTER UPDATE ON public.t FOR EACH ROW \
                    WHEN ((old.x IS DISTINCT FROM new.x)) EXECUTE FUNCTION f()";
        let still = kept_still(with).expect("understood");
        assert!(
            still.contains(&format!("WHEN ({STILL} AND ((old.x IS DISTINCT FROM new.x)))")),
            "{still}"
        );
    }
}
