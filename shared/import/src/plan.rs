//! What is to be built on the loaded tables, and in which order.

use std::collections::{BTreeMap, BTreeSet};

use relevo_mysqldump::ddl::{self, PostLoad};
use relevo_pg::cutover::{OWN_FUNCTION_MARK, Statement};
use relevo_pg::ident;
use sqlx::PgConnection;

use crate::build::{Task, Work};
use crate::error::ImportError;
use crate::identity::ImportId;
use crate::manifest::Manifest;
use crate::options::{ImportOptions, Verify};
use crate::progress::Phase;
use crate::steps::Loaded;

/// What is to be built, in three rounds.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    /// Table by table, the largest first: types, keys, indexes, counts, identities, checks,
    /// comments; then ANALYZE, for connections that would have nothing else to do.
    pub(crate) tables: Vec<Task>,
    /// Foreign keys, not validated: nothing is read.
    pub(crate) keys: Vec<Task>,
    /// Their validation, table by table.
    pub(crate) validations: Vec<Task>,
    /// What the translation leaves out or changes.
    pub(crate) notices: Vec<String>,
}

/// An index that the application itself put on a present table.
#[derive(Debug, sqlx::FromRow)]
pub(crate) struct OwnIndex {
    /// The table.
    pub(crate) table: String,
    /// The index.
    pub(crate) name: String,
    /// Makes it on the staged table.
    pub(crate) sql: String,
}

/// Names of keys and indexes that an import of these tables makes.
pub(crate) fn index_names(manifest: &Manifest, options: &ImportOptions) -> Vec<String> {
    let plan = ddl::post_load(&manifest.definitions(), &options.schema, &options.translate);
    let keys = [ddl::Phase::PrimaryKey, ddl::Phase::Index];
    plan.statements
        .into_iter()
        .filter(|statement| keys.contains(&statement.phase))
        .map(|statement| statement.name)
        .collect()
}

/// Makes the plan. Of tables whose rows are `merged` into present ones nothing is built but what the
/// comparison needs.
pub(crate) fn make(
    id: &ImportId,
    options: &ImportOptions,
    manifest: &Manifest,
    loaded: &BTreeMap<String, Loaded>,
    own_indexes: &[OwnIndex],
    merged: &BTreeSet<String>,
) -> Plan {
    let staging = id.staging_schema();
    let definitions = manifest.definitions();
    let post_load = ddl::post_load(&definitions, &staging, &options.translate);
    let mut plan = Plan::default();
    let note = |note: &ddl::Note| {
        if note.object.is_empty() {
            format!("{}: {}", note.table, note.message)
        } else {
            format!("{}.{}: {}", note.table, note.object, note.message)
        }
    };
    plan.notices.extend(post_load.notes.iter().map(note));

    let mut by_table: BTreeMap<&str, Vec<&PostLoad>> = BTreeMap::new();
    for statement in &post_load.statements {
        by_table.entry(&statement.table).or_default().push(statement);
    }
    let mut tables: Vec<_> = manifest.tables.iter().collect();
    tables.sort_by_key(|table| {
        let bytes = loaded.get(&table.name()).map_or(0, |loaded| loaded.stats.bytes_out);
        (std::cmp::Reverse(bytes), table.name())
    });
    let mut analyses = Vec::new();
    for table in tables {
        let name = table.name();
        let made = ddl::create_table(&table.definition, &staging, &options.translate);
        plan.notices.extend(made.notes.iter().map(note));
        let round_trips = made.columns.iter().all(|column| column.round_trips);
        let statements = by_table.remove(name.as_str()).unwrap_or_default();
        // First what rewrites or locks the table, then what shares it, so that the shared work of
        // the largest tables is spread over the connections early.
        let early = [ddl::Phase::NotNull, ddl::Phase::PrimaryKey];
        let of = |phases: &[ddl::Phase]| {
            statements
                .iter()
                .filter(|statement| phases.contains(&statement.phase))
                .map(|statement| build(statement))
                .collect::<Vec<Task>>()
        };
        analyses.push(Task {
            phase: Phase::Analyze,
            table: name.clone(),
            name: "statistics".to_owned(),
            work: Work::Run { sql: format!("ANALYZE {}", ident::quote_qualified(&staging, &name)) },
            exclusive: true,
            optional: false,
        });
        // What was sent is not what stays, so values cannot be compared.
        let verify =
            if options.filters.contains_key(&name) { Verify::Rows } else { options.verify };
        let filter = options.filters.get(&name).map(|condition| filter(&staging, &name, condition));
        if merged.contains(&name) {
            plan.tables.extend(of(&[ddl::Phase::Type]));
            plan.tables.extend(filter);
            plan.tables.push(count(&name, verify, loaded.get(&name), round_trips));
            continue;
        }
        plan.tables.extend(of(&[ddl::Phase::Type]));
        plan.tables.extend(filter);
        plan.tables.extend(of(&early));
        plan.tables.extend(of(&[ddl::Phase::Index]));
        plan.tables.extend(own_indexes.iter().filter(|own| own.table == name).map(|own| Task {
            phase: Phase::Index,
            table: name.clone(),
            name: own.name.clone(),
            work: Work::Build {
                step: format!("own index {} {}", own.table, own.name),
                sql: own.sql.clone(),
            },
            exclusive: false,
            optional: true,
        }));
        plan.tables.push(count(&name, verify, loaded.get(&name), round_trips));
        plan.tables.extend(of(&[ddl::Phase::Identity]));
        let setval = ddl::identity_setval(&table.definition, &staging, &options.translate);
        plan.tables.extend(setval.map(|sql| Task {
            phase: Phase::Index,
            table: name.clone(),
            name: "next identity value".to_owned(),
            work: Work::Run { sql },
            exclusive: true,
            optional: false,
        }));
        plan.tables.extend(of(&[ddl::Phase::Check, ddl::Phase::Comment]));
        // Beside merged tables the keys of new ones are made when these are in their place.
        let keys = statements.iter().filter(|key| key.phase == ddl::Phase::ForeignKey);
        for key in keys.filter(|_| merged.is_empty()) {
            let mut add = build(key);
            if let Work::Build { sql, .. } = &mut add.work {
                sql.push_str(" NOT VALID");
            }
            plan.keys.push(add);
            plan.validations.push(Task {
                work: Work::Build {
                    step: format!("validate {} {}", key.table, key.name),
                    sql: format!(
                        "-- validate_key\nALTER TABLE {} VALIDATE CONSTRAINT {}",
                        ident::quote_qualified(&staging, &name),
                        ident::quote(&key.name)
                    ),
                },
                ..build(key)
            });
        }
    }
    plan.tables.extend(analyses);
    plan
}

/// What the step is called that filters a table's rows.
pub(crate) const FILTER_STEP: &str = "filter ";

/// The statement that takes out the rows for which the condition is not true.
pub(crate) fn filter_sql(schema: &str, table: &str, condition: &str) -> String {
    let target = ident::quote_qualified(schema, table);
    // On lines of its own: a comment in it ends with it.
    format!("-- filter_rows\nDELETE FROM {target} WHERE (\n{condition}\n) IS NOT TRUE")
}

/// Takes out the rows for which the condition is not true.
fn filter(staging: &str, table: &str, condition: &str) -> Task {
    Task {
        phase: Phase::Verify,
        table: table.to_owned(),
        name: "row filter".to_owned(),
        work: Work::Filter {
            step: format!("{FILTER_STEP}{table}"),
            sql: filter_sql(staging, table, condition),
        },
        exclusive: true,
        optional: false,
    }
}

fn build(statement: &PostLoad) -> Task {
    let phase = match statement.phase {
        ddl::Phase::Type
        | ddl::Phase::NotNull
        | ddl::Phase::PrimaryKey
        | ddl::Phase::Index
        | ddl::Phase::Identity => Phase::Index,
        ddl::Phase::ForeignKey | ddl::Phase::Check | ddl::Phase::Comment | ddl::Phase::Trigger => {
            Phase::Constrain
        }
    };
    Task {
        phase,
        table: statement.table.clone(),
        name: statement.name.clone(),
        work: Work::Build {
            step: format!("{:?} {} {}", statement.phase, statement.table, statement.name),
            sql: statement.sql.clone(),
        },
        exclusive: statement.phase != ddl::Phase::Index,
        optional: false,
    }
}

/// Counts the table, or reads it back where every value is to be compared and can be.
fn count(name: &str, verify: Verify, loaded: Option<&Loaded>, round_trips: bool) -> Task {
    let mirrored = loaded
        .and_then(|loaded| loaded.statement.as_deref())
        .filter(|_| verify == Verify::Values && round_trips)
        .filter(|statement| statement.contains(" FROM STDIN"));
    let work = match mirrored {
        Some(statement) => {
            Work::Hash { statement: statement.replacen(" FROM STDIN", " TO STDOUT", 1) }
        }
        None => Work::Count,
    };
    Task {
        phase: Phase::Verify,
        table: name.to_owned(),
        name: "row count".to_owned(),
        work,
        exclusive: false,
        optional: false,
    }
}

/// What is made once the tables stand in the target: triggers, whose functions do not follow a
/// table that moves.
pub(crate) fn after_move(
    manifest: &Manifest,
    options: &ImportOptions,
    merged: &BTreeSet<String>,
) -> Vec<Statement> {
    let definitions = manifest.definitions();
    let plan = ddl::post_load(&definitions, &options.schema, &options.translate);
    let triggers = plan.statements.into_iter().filter(|statement| {
        statement.phase == ddl::Phase::Trigger && !merged.contains(&statement.table)
    });
    let mut statements = Vec::new();
    for trigger in triggers {
        let label = format!("trigger {} on {}.{}", trigger.name, options.schema, trigger.table);
        statements.push(Statement::new(&*label, trigger.sql));
        if let Some(function) = trigger.function {
            statements.push(Statement::new(
                label,
                format!(
                    "COMMENT ON FUNCTION {}() IS {}",
                    ident::quote_qualified(&options.schema, &function),
                    ident::literal(OWN_FUNCTION_MARK)
                ),
            ));
        }
    }
    statements
}

/// What only the rows decided: CHECK constraints that they violate, which MySQL let in, and indexes
/// that some of their values do not fit.
pub(crate) async fn differing(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<Vec<String>, ImportError> {
    sqlx::query_scalar(
        "-- list_differing
         SELECT format('%s: rows of the dump violate CHECK %s, which is therefore NOT VALID',
                       c.relname, k.conname)
         FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
         WHERE c.relnamespace = to_regnamespace($1) AND k.contype = 'c' AND NOT k.convalidated
         UNION ALL
         SELECT format('%s: index %s: %s', t.relname, c.relname,
                       substr(obj_description(c.oid, 'pg_class'), length($2) + 1))
         FROM pg_class c JOIN pg_index x ON x.indexrelid = c.oid JOIN pg_class t ON t.oid = x.indrelid
         WHERE c.relnamespace = to_regnamespace($1)
           AND starts_with(obj_description(c.oid, 'pg_class'), $2)
         ORDER BY 1",
    )
    .bind(ident::quote(schema))
    .bind(ddl::REMARK_MARK)
    .fetch_all(connection)
    .await
    .map_err(|source| ImportError::database("looking at checks and indexes", source))
}
