//! Views and sequences of the dump: tried in the staging schema, made in the cutover's transaction.

use relevo_mysqldump::{SkippedKind, SkippedObject, ddl};
use relevo_pg::cutover::{OWN_FUNCTION_MARK, Statement};
use relevo_pg::ident;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::finish::Finish;
use crate::error::ImportError;

/// What becomes of the dump's views and sequences.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// Makes room, before the cutover looks at anything.
    pub(super) first: Vec<Statement>,
    /// Makes them, once the tables stand in the target.
    pub(super) after_move: Vec<Statement>,
    /// What is not made, to be listed with its source.
    pub(super) left: Vec<SkippedObject>,
    /// What a person should read.
    pub(super) notices: Vec<String>,
}

impl Finish<'_> {
    /// Decides which of the dump's views and sequences are made. One that the server refuses in the
    /// staging schema, or whose name something of others has, is left and listed.
    pub(super) async fn plan_objects(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Objects, ImportError> {
        let options = self.options;
        let mut objects = Objects::default();
        let whole = options.selection.is_all() && !options.existing_only;
        let (wanted, other): (Vec<_>, Vec<_>) =
            self.manifest.skipped.iter().cloned().partition(|object| {
                whole && (options.database.is_none() || options.database == object.database)
            });
        objects.left = other;
        let definitions = self.manifest.definitions();
        let made = ddl::objects(&wanted, &definitions, &options.schema, &options.translate);
        objects.left.extend(made.left);
        if made.statements.is_empty() {
            return Ok(objects);
        }
        let staging = self.id.staging_schema();
        let trial = ddl::objects(&wanted, &definitions, &staging, &options.translate);
        let trials = try_out(connection, &trial.statements, &staging, &options.schema).await?;
        let taken = taken(connection, &options.schema).await?;
        for (object, trial) in made.statements.into_iter().zip(trials) {
            let place = taken.iter().find(|taken| taken.name == object.name);
            let why = match (trial, place) {
                // The cutover carries it over like any view, in place: who dumps the database
                // meanwhile finds it.
                (Trial::Unchanged, Some(place)) if place.ours => continue,
                (Trial::Refused(reason), _) => Some(format!("Postgres refuses it: {reason}")),
                (_, Some(place)) if !place.ours => {
                    Some("something of that name is in the target already and stays".to_owned())
                }
                (_, Some(place)) if place.needed => {
                    Some("others depend on the present one, which stays as it is".to_owned())
                }
                _ => None,
            };
            if let Some(why) = why {
                objects.leave(&wanted, object.kind, &object.name, &why);
                continue;
            }
            let kind = if object.kind == SkippedKind::View { "VIEW" } else { "SEQUENCE" };
            let name = ident::quote_qualified(&options.schema, &object.name);
            let label = format!("{} {}", kind.to_lowercase(), object.name);
            let is_new = !objects.after_move.iter().any(|statement| statement.label == label);
            if is_new && place.is_some() {
                let drop = format!("-- make_room\nDROP {kind} IF EXISTS {name}");
                objects.first.push(Statement::new(&*label, drop));
            }
            objects.after_move.push(Statement::new(&*label, object.sql));
            if is_new {
                let mark = ident::literal(OWN_FUNCTION_MARK);
                let comment = format!("-- mark_as_own\nCOMMENT ON {kind} {name} IS {mark}");
                objects.after_move.push(Statement::new(&*label, comment));
            }
            if !object.note.is_empty() {
                objects.notices.push(format!("{label}: {}", object.note));
            }
        }
        Ok(objects)
    }
}

impl Objects {
    fn leave(&mut self, wanted: &[SkippedObject], kind: SkippedKind, name: &str, why: &str) {
        let object = wanted.iter().find(|object| object.kind == kind && object.name == name);
        if let Some(object) = object.filter(|object| !self.left.contains(object)) {
            self.left.push(object.clone());
            self.notices.push(format!("{kind:?} {name} is not made: {why}").to_lowercase());
        }
    }
}

/// What came of making one in the staging schema.
enum Trial {
    /// The server's reason.
    Refused(String),
    /// It is the view of that name in the target, as it stands there.
    Unchanged,
    /// It is another one, or new.
    Made,
}

/// Whether a view in the staging schema says of its tables what the one in the target says of the
/// present ones, in the same columns.
const IS_UNCHANGED: &str = "-- is_view_unchanged
    SELECT replace(pg_get_viewdef(s.oid), $3, $4) = pg_get_viewdef(t.oid)
       AND (SELECT array_agg((a.attname, a.atttypid, a.atttypmod)::text ORDER BY a.attnum)
            FROM pg_attribute AS a WHERE a.attrelid = s.oid AND a.attnum > 0)
         = (SELECT array_agg((a.attname, a.atttypid, a.atttypmod)::text ORDER BY a.attnum)
            FROM pg_attribute AS a WHERE a.attrelid = t.oid AND a.attnum > 0)
    FROM pg_class AS s, pg_class AS t
    WHERE s.oid = to_regclass($1) AND t.oid = to_regclass($2)
      AND s.relkind = 'v' AND t.relkind = 'v'";

/// Tries all in a transaction that is rolled back.
async fn try_out(
    connection: &mut PgConnection,
    statements: &[ddl::ObjectSql],
    staging: &str,
    target: &str,
) -> Result<Vec<Trial>, ImportError> {
    let failed = |source| ImportError::database("trying the dump's views", source);
    let mut transaction = connection.begin().await.map_err(failed)?;
    // Every name in a view's text has its schema.
    let path = "-- qualify_names\nSET LOCAL search_path = pg_catalog";
    transaction.execute(path).await.map_err(failed)?;
    let mut outcomes = Vec::with_capacity(statements.len());
    for statement in statements {
        let mut attempt = transaction.begin().await.map_err(failed)?;
        match attempt.execute(AssertSqlSafe(statement.sql.clone())).await {
            Ok(_) => {
                attempt.commit().await.map_err(failed)?;
                let unchanged: Option<Option<bool>> = sqlx::query_scalar(IS_UNCHANGED)
                    .bind(ident::quote_qualified(staging, &statement.name))
                    .bind(ident::quote_qualified(target, &statement.name))
                    .bind(format!("{}.", ident::quote(staging)))
                    .bind(format!("{}.", ident::quote(target)))
                    .fetch_optional(&mut *transaction)
                    .await
                    .map_err(failed)?;
                let is_unchanged = unchanged.flatten().unwrap_or(false);
                outcomes.push(if is_unchanged { Trial::Unchanged } else { Trial::Made });
            }
            Err(error) => {
                let answer = error.as_database_error().map(|answer| answer.message().to_owned());
                let Some(answer) = answer else { return Err(failed(error)) };
                attempt.rollback().await.map_err(failed)?;
                outcomes.push(Trial::Refused(answer));
            }
        }
    }
    transaction.rollback().await.map_err(failed)?;
    Ok(outcomes)
}

/// A relation of the target schema that is no table.
#[derive(sqlx::FromRow)]
struct Taken {
    name: String,
    /// An earlier import made it.
    ours: bool,
    /// Something else hangs on it.
    needed: bool,
}

async fn taken(connection: &mut PgConnection, schema: &str) -> Result<Vec<Taken>, ImportError> {
    sqlx::query_as(
        "-- list_views_and_sequences
         SELECT c.relname::text AS name,
                coalesce(obj_description(c.oid, 'pg_class') = $2, false) AND c.relkind IN ('v', 'S')
                    AS ours,
                EXISTS (SELECT FROM pg_depend d
                        WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
                          AND d.deptype = 'n'
                          AND NOT (d.classid = 'pg_rewrite'::regclass AND d.objid IN
                                   (SELECT oid FROM pg_rewrite WHERE ev_class = c.oid)))
                    AS needed
         FROM pg_class c
         WHERE c.relnamespace = to_regnamespace($1) AND c.relkind NOT IN ('r', 'p', 'i', 'I', 't')",
    )
    .bind(ident::quote(schema))
    .bind(OWN_FUNCTION_MARK)
    .fetch_all(connection)
    .await
    .map_err(|source| ImportError::database("looking for views of the same names", source))
}
