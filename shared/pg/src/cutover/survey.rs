//! What hangs on the present tables, and the statements that carry it over to the new ones.

use sqlx::PgConnection;

use super::{Exchange, Statement, extras, others, rights, views};
use crate::error::PgError;
use crate::ident::{fit, quote, quote_qualified};

/// Ends the name of an index or sequence whose own name is taken in the target.
pub const RENAMED_SUFFIX: &str = "_relevo";

/// What an exchange has to do beside moving tables.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Tables of the exchange that stand in the target now.
    pub present: Vec<String>,
    /// Tables that leave the target without a successor.
    pub(super) retired: Vec<String>,
    /// Whether the previous schema exists.
    pub previous_exists: bool,
    /// Whether there is anything that the previous schema is to keep.
    pub(super) keeps: bool,
    /// After the previous schema was made: its views.
    pub(super) views_kept: Vec<Statement>,
    /// What cannot be carried over, each in words.
    pub obstacles: Vec<String>,
    /// What is not carried over but does not hinder.
    pub notices: Vec<String>,
    /// Foreign keys that point into the new tables from outside.
    pub inbound: Vec<others::InboundKey>,
    /// Other relations that are locked with the tables, quoted.
    pub(super) lock_also: Vec<String>,
    /// Statements that lock a view and nothing else.
    pub(super) lock_views: Vec<String>,
    /// Before the moves.
    pub(super) detach: Vec<Statement>,
    /// Between the moves.
    pub(super) rename: Vec<Statement>,
    /// After the moves: what stands in the staging schema beside the tables.
    pub(super) move_along: Vec<Statement>,
    /// At the end.
    pub(super) attach: Vec<Statement>,
    /// After the commit.
    pub(super) follow_up: Vec<Statement>,
    target: String,
}

/// Surveys the catalogue. Within the exchange it runs under the tables' locks; before it, to say
/// early what will hinder.
///
/// The connection's search path must be `pg_catalog` alone, so that the server writes out
/// definitions with every schema named.
///
/// # Errors
/// When the server fails.
pub async fn survey(connection: &mut PgConnection, exchange: &Exchange) -> Result<Survey, PgError> {
    let mut survey = Survey {
        target: exchange.target.clone(),
        retired: exchange.retired.clone(),
        ..Survey::default()
    };
    present_tables(connection, exchange, &mut survey).await?;
    survey.keeps = !survey.present.is_empty()
        || !exchange.views_aside.is_empty()
        || !exchange.views_retired.is_empty()
        || !exchange.views_replaced.is_empty();
    name_collisions(connection, exchange, &mut survey).await?;
    rights::survey_owners(connection, exchange, &mut survey).await?;
    extras::survey(connection, exchange, &mut survey).await?;
    others::survey(connection, exchange, &mut survey).await?;
    views::survey(connection, exchange, &mut survey).await?;
    rights::survey_grants(connection, exchange, &mut survey).await?;
    extras::survey_words(connection, exchange, &mut survey).await?;
    Ok(survey)
}

impl Survey {
    /// One statement for all tables, then one for each view; `queues` or take at once.
    pub(super) fn lock_statements(&self, queues: bool) -> Vec<String> {
        let tables: Vec<String> = self
            .present
            .iter()
            .chain(&self.retired)
            .map(|table| quote_qualified(&self.target, table))
            .chain(self.lock_also.iter().cloned())
            .collect();
        let mut statements = Vec::new();
        if !tables.is_empty() {
            statements.push(format!(
                "LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE{}",
                tables.join(", ONLY "),
                if queues { "" } else { " NOWAIT" }
            ));
        }
        statements.extend(self.lock_views.iter().cloned());
        statements
    }
}

/// One name that an exchanged table takes in the target.
#[derive(sqlx::FromRow)]
struct Present {
    name: String,
    kind: String,
    entangled: bool,
    is_mine: bool,
    owner: String,
}

async fn present_tables(
    connection: &mut PgConnection,
    exchange: &Exchange,
    survey: &mut Survey,
) -> Result<(), PgError> {
    let present: Vec<Present> = sqlx::query_as(
        "-- present_tables
         SELECT c.relname::text AS name,
                CASE c.relkind WHEN 'r' THEN 'table' WHEN 'v' THEN 'view'
                     WHEN 'm' THEN 'materialized view' WHEN 'p' THEN 'partitioned table'
                     WHEN 'f' THEN 'foreign table' WHEN 'S' THEN 'sequence'
                     WHEN 'i' THEN 'index' ELSE 'relation' END AS kind,
                c.relispartition
                    OR EXISTS (SELECT FROM pg_inherits h
                               WHERE h.inhrelid = c.oid OR h.inhparent = c.oid) AS entangled,
                pg_has_role(c.relowner, 'USAGE') AS is_mine,
                pg_get_userbyid(c.relowner)::text AS owner
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relname = ANY($2)
         ORDER BY array_position($2, c.relname::text)",
    )
    .bind(&exchange.target)
    .bind(&exchange.tables)
    .fetch_all(&mut *connection)
    .await
    .map_err(|source| PgError::database("listing the present tables", source))?;
    for table in present {
        let name = format!("{}.{}", exchange.target, table.name);
        if table.kind != "table" {
            survey.obstacles.push(format!("{name} is a {} and not a table", table.kind));
        } else if table.entangled {
            survey.obstacles.push(format!("table {name} is a partition, a parent or a child"));
        } else if !table.is_mine {
            survey.obstacles.push(format!(
                "table {name} belongs to role {owner}, of which the importing role is no member \
                 (GRANT {owner} TO it, or ALTER TABLE … OWNER)",
                owner = table.owner
            ));
        } else {
            survey.present.push(table.name);
        }
    }
    survey.previous_exists = sqlx::query_scalar(
        "-- present_tables
         SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)",
    )
    .bind(&exchange.previous)
    .fetch_one(connection)
    .await
    .map_err(|source| PgError::database("looking for the previous schema", source))?;
    Ok(())
}

/// Indexes and sequences of the new tables whose names somebody else uses in the target get
/// another one; what stands beside the tables in the staging schema moves along.
async fn name_collisions(
    connection: &mut PgConnection,
    exchange: &Exchange,
    survey: &mut Survey,
) -> Result<(), PgError> {
    let taken: Vec<(String, String)> = sqlx::query_as(
        "-- name_collisions
         SELECT s.relname::text, s.relkind::text
         FROM pg_class s
         JOIN pg_class c ON c.relname = s.relname AND c.relnamespace = to_regnamespace(quote_ident($1))
         LEFT JOIN pg_index i ON i.indexrelid = c.oid
         LEFT JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid
                              AND d.refclassid = 'pg_class'::regclass AND c.relkind = 'S'
                              AND d.deptype IN ('a', 'i')
         LEFT JOIN pg_class owner ON owner.oid = coalesce(i.indrelid, d.refobjid)
         WHERE s.relnamespace = to_regnamespace(quote_ident($3))
           AND s.relkind IN ('i', 'S')
           AND NOT coalesce(owner.relname = ANY($2), false)
         ORDER BY 1",
    )
    .bind(&exchange.target)
    .bind(&exchange.tables)
    .bind(&exchange.staging)
    .fetch_all(&mut *connection)
    .await
    .map_err(|source| PgError::database("comparing names", source))?;
    for (name, kind) in taken {
        let other = fit(&name, RENAMED_SUFFIX);
        let (word, keyword) =
            if kind == "S" { ("sequence", "SEQUENCE") } else { ("index", "INDEX") };
        survey.notices.push(format!(
            "{word} {name} is called {other}, since the name is taken in schema {}",
            exchange.target
        ));
        survey.rename.push(Statement::new(
            format!("{word} {name}"),
            format!(
                "ALTER {keyword} {} RENAME TO {}",
                quote_qualified(&exchange.staging, &name),
                quote(&other)
            ),
        ));
    }

    let beside: Vec<(String, String)> = sqlx::query_as(
        "-- name_collisions
         SELECT format('function %s', p.oid::regprocedure),
                format('ALTER ROUTINE %s SET SCHEMA %I', p.oid::regprocedure, $1)
         FROM pg_proc p WHERE p.pronamespace = to_regnamespace(quote_ident($2))
         UNION ALL
         SELECT format('type %s', t.oid::regtype),
                format('ALTER TYPE %s SET SCHEMA %I', t.oid::regtype, $1)
         FROM pg_type t
         WHERE t.typnamespace = to_regnamespace(quote_ident($2)) AND t.typtype IN ('e', 'd')
         UNION ALL
         SELECT format('sequence %s', c.oid::regclass),
                format('ALTER SEQUENCE %s SET SCHEMA %I', c.oid::regclass, $1)
         FROM pg_class c
         WHERE c.relnamespace = to_regnamespace(quote_ident($2)) AND c.relkind = 'S'
           AND NOT EXISTS (SELECT FROM pg_depend d
                           WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                             AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i'))
         UNION ALL
         SELECT format('view %s', c.oid::regclass),
                format('ALTER VIEW %s SET SCHEMA %I', c.oid::regclass, $1)
         FROM pg_class c
         WHERE c.relnamespace = to_regnamespace(quote_ident($2)) AND c.relkind = 'v'
           AND (c.relname = ANY($3)
                OR NOT EXISTS (SELECT FROM pg_class taken
                               WHERE taken.relnamespace = to_regnamespace(quote_ident($1))
                                 AND taken.relname = c.relname))",
    )
    .bind(&exchange.target)
    .bind(&exchange.staging)
    .bind(&exchange.views_aside)
    .fetch_all(connection)
    .await
    .map_err(|source| PgError::database("listing what stands beside the tables", source))?;
    survey.move_along = beside.into_iter().map(|(label, sql)| Statement::new(label, sql)).collect();
    Ok(())
}

/// Runs a query that writes statements: columns `label` and `sql`; `$1` is the target schema, `$2`
/// the tables, `$3` the staging schema.
pub(super) async fn statements(
    connection: &mut PgConnection,
    exchange: &Exchange,
    what: &str,
    query: &'static str,
) -> Result<Vec<Statement>, PgError> {
    let rows: Vec<(String, String)> = sqlx::query_as(query)
        .bind(&exchange.target)
        .bind(&exchange.tables)
        .bind(&exchange.staging)
        .fetch_all(connection)
        .await
        .map_err(|source| PgError::database(what, source))?;
    Ok(rows.into_iter().map(|(label, sql)| Statement::new(label, sql)).collect())
}

/// Runs a query that writes sentences; parameters as for [`statements`].
pub(super) async fn sentences(
    connection: &mut PgConnection,
    exchange: &Exchange,
    what: &str,
    query: &'static str,
) -> Result<Vec<String>, PgError> {
    sqlx::query_scalar(query)
        .bind(&exchange.target)
        .bind(&exchange.tables)
        .bind(&exchange.staging)
        .fetch_all(connection)
        .await
        .map_err(|source| PgError::database(what, source))
}
