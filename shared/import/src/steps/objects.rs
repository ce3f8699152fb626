//! Views and sequences of the dump: tried in the staging schema, made in the cutover's transaction.

use std::collections::BTreeSet;

use relevo_mysqldump::{SkippedKind, SkippedObject, ddl};
use relevo_pg::cutover::{OWN_FUNCTION_MARK, Statement};
use relevo_pg::ident;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::finish::Finish;
use crate::error::ImportError;

/// What becomes of the dump's views and sequences.
#[derive(Debug, Default)]
pub(super) struct Objects {
    /// Makes them, once the tables stand in the target.
    pub(super) after_move: Vec<Statement>,
    /// Views of an earlier import that are kept with its tables, and others take their place.
    pub(super) views_aside: Vec<String>,
    /// Views of an earlier import that become others in place.
    pub(super) views_replaced: Vec<String>,
    /// Views that the target had not.
    pub(super) views_new: Vec<String>,
    /// What is not made, to be listed with its source.
    pub(super) left: Vec<SkippedObject>,
    /// What a person should read.
    pub(super) notices: Vec<String>,
}

impl Finish<'_> {
    /// Decides which of the dump's views and sequences are made. One that the server refuses in the
    /// staging schema, or whose name something of others has, is left and listed.
    ///
    /// Nothing that stands in the target is dropped under who reads it: a `pg_dump` that has listed
    /// it would fail. A sequence is changed in place, and a view as far as its columns allow; else
    /// it goes where the former tables go, or out of the way where rows are merged.
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
        let names: Vec<&str> = made.statements.iter().map(|object| &*object.name).collect();
        let anew = come_anew(&names, &trials, &taken);
        // Whatever reads from a view that goes has to read from its successor.
        let any_goes = names.iter().zip(&trials).any(|(name, trial)| {
            let stands = taken.iter().any(|taken| taken.name == *name && taken.kind == "v");
            stands && anew.contains(name) && matches!(trial, Trial::OtherColumns)
        });
        let mut begun: BTreeSet<String> = BTreeSet::new();
        for (object, trial) in made.statements.iter().zip(&trials) {
            let place = taken.iter().find(|taken| taken.name == object.name);
            let is_view = object.kind == SkippedKind::View;
            let of_its_kind =
                |taken: &Taken| taken.ours && taken.kind == if is_view { "v" } else { "S" };
            let why = match (trial, place) {
                // The cutover carries it over like any view.
                (Trial::Unchanged, Some(place)) if of_its_kind(place) && !any_goes => continue,
                (Trial::Refused(reason), _) => Some(format!("Postgres refuses it: {reason}")),
                (_, Some(place)) if !of_its_kind(place) => {
                    Some("something of that name is in the target already and stays".to_owned())
                }
                (_, Some(_)) if is_view && !anew.contains(&*object.name) => Some(
                    "others depend on the columns of the present one, which stays as it is"
                        .to_owned(),
                ),
                _ => None,
            };
            if let Some(why) = why {
                objects.leave(&wanted, object.kind, &object.name, &why);
                continue;
            }
            let kind = if is_view { "VIEW" } else { "SEQUENCE" };
            let name = ident::quote_qualified(&options.schema, &object.name);
            let label = format!("{} {}", kind.to_lowercase(), object.name);
            let in_place = place.is_some() && !(is_view && matches!(trial, Trial::OtherColumns));
            let sql = if in_place { &object.sql_in_place } else { &object.sql };
            let is_new = begun.insert(label.clone());
            if is_new && is_view {
                let view = object.name.clone();
                match place {
                    None => objects.views_new.push(view),
                    Some(_) if in_place => objects.views_replaced.push(view),
                    Some(_) => objects.views_aside.push(view),
                }
            }
            objects.after_move.push(Statement::new(&*label, sql.clone()));
            if is_new && !in_place {
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

/// The views that come, of all that the dump has: not those the server refuses, nor those whose
/// columns change under somebody who reads them and does not come anew himself.
fn come_anew<'a>(names: &[&'a str], trials: &[Trial], taken: &[Taken]) -> BTreeSet<&'a str> {
    let mut anew: BTreeSet<&str> = names
        .iter()
        .zip(trials)
        .filter(|(_, trial)| !matches!(trial, Trial::Refused(_)))
        .map(|(name, _)| *name)
        .collect();
    loop {
        let stays = names.iter().zip(trials).find(|(name, trial)| {
            let place = taken.iter().find(|taken| taken.name == **name);
            matches!(trial, Trial::OtherColumns)
                && anew.contains(**name)
                && place.is_some_and(|place| {
                    place.needed || place.views.iter().any(|view| !anew.contains(&**view))
                })
        });
        let Some((name, _)) = stays else { return anew };
        anew.remove(name);
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
    /// It is new, or another one that begins with the columns of the one that stands there.
    Made,
    /// It is another one with other columns.
    OtherColumns,
}

/// Compares a view in the staging schema with the one in the target: whether it has all of its
/// columns in the same places, and whether it says the same of its tables in the same columns.
const COMPARE: &str = "-- compare_views
    SELECT parts.begins,
           parts.begins AND parts.as_many
           AND replace(pg_get_viewdef(s.oid), $3, $4) = pg_get_viewdef(t.oid)
    FROM pg_class AS s
    CROSS JOIN pg_class AS t
    CROSS JOIN LATERAL (
        SELECT bool_and(coalesce((a.attname, a.atttypid, a.atttypmod, a.attcollation)
                                 = (b.attname, b.atttypid, b.atttypmod, b.attcollation), false))
                   AS begins,
               count(*) = s.relnatts AS as_many
        FROM pg_attribute AS a
        LEFT JOIN pg_attribute AS b ON b.attrelid = s.oid AND b.attnum = a.attnum
        WHERE a.attrelid = t.oid AND a.attnum > 0
    ) AS parts
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
                let compared: Option<(bool, bool)> = sqlx::query_as(COMPARE)
                    .bind(ident::quote_qualified(staging, &statement.name))
                    .bind(ident::quote_qualified(target, &statement.name))
                    .bind(format!("{}.", ident::quote(staging)))
                    .bind(format!("{}.", ident::quote(target)))
                    .fetch_optional(&mut *transaction)
                    .await
                    .map_err(failed)?;
                outcomes.push(match compared {
                    Some((_, true)) => Trial::Unchanged,
                    Some((false, _)) => Trial::OtherColumns,
                    _ => Trial::Made,
                });
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
    /// As in `pg_class.relkind`.
    kind: String,
    /// An earlier import made it.
    ours: bool,
    /// Views of the same schema that read from it.
    views: Vec<String>,
    /// Something else hangs on it.
    needed: bool,
}

async fn taken(connection: &mut PgConnection, schema: &str) -> Result<Vec<Taken>, ImportError> {
    sqlx::query_as(
        "-- list_views_and_sequences
         SELECT c.relname::text AS name, c.relkind::text AS kind,
                coalesce(obj_description(c.oid, 'pg_class') = $2, false) AND c.relkind IN ('v', 'S')
                    AS ours,
                readers.views,
                readers.others
                    OR EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid)
                    OR EXISTS (SELECT FROM pg_rewrite r
                               WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN') AS needed
         FROM pg_class c
         CROSS JOIN LATERAL (
             SELECT coalesce(array_agg(DISTINCT v.relname::text) FILTER (WHERE v.oid IS NOT NULL), '{}')
                        AS views,
                    count(*) FILTER (WHERE v.oid IS NULL) > 0 AS others
             FROM pg_depend d
             LEFT JOIN pg_rewrite r ON d.classid = 'pg_rewrite'::regclass AND r.oid = d.objid
             LEFT JOIN pg_class v ON v.oid = r.ev_class AND v.relkind = 'v'
                                 AND v.relnamespace = c.relnamespace
             WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid AND d.deptype = 'n'
               AND r.ev_class IS DISTINCT FROM c.oid
         ) AS readers
         WHERE c.relnamespace = to_regnamespace($1) AND c.relkind NOT IN ('r', 'p', 'i', 'I', 't')",
    )
    .bind(ident::quote(schema))
    .bind(OWN_FUNCTION_MARK)
    .fetch_all(connection)
    .await
    .map_err(|source| ImportError::database("looking for views of the same names", source))
}

/// Which views of an import a rollback puts aside, and which of those that were kept it puts back.
#[derive(Debug, Default)]
pub(super) struct ViewsBack {
    /// Each has a former one that comes back.
    pub(super) aside: Vec<String>,
    /// The import brought them.
    pub(super) retired: Vec<String>,
}

/// Looks which views of an import may go. One that somebody has built upon stays, and is carried
/// over onto the tables that come back.
pub(super) async fn views_back(
    connection: &mut PgConnection,
    schema: &str,
    previous: &str,
    new: &[String],
) -> Result<ViewsBack, ImportError> {
    let present = taken(connection, schema).await?;
    let kept = taken(connection, previous).await?;
    let kept: BTreeSet<&str> =
        kept.iter().filter(|view| view.kind == "v").map(|view| &*view.name).collect();
    let mut going: BTreeSet<&str> = present
        .iter()
        .filter(|view| view.ours && view.kind == "v" && !view.needed)
        .map(|view| &*view.name)
        .filter(|name| kept.contains(name) || new.iter().any(|new| new == name))
        .collect();
    while let Some(stays) = present.iter().find(|view| {
        going.contains(&*view.name) && view.views.iter().any(|reader| !going.contains(&**reader))
    }) {
        going.remove(&*stays.name);
    }
    let (aside, retired) =
        going.into_iter().map(str::to_owned).partition(|name| kept.contains(&**name));
    Ok(ViewsBack { aside, retired })
}
