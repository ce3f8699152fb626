//! What others built on the tables: views and foreign keys are built again on the new ones;
//! everything else stops the exchange and is named.

use sqlx::PgConnection;

use super::survey::{Survey, sentences};
use super::{Exchange, Statement};
use crate::error::PgError;

/// A foreign key of a table that is not exchanged into one that is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundKey {
    /// The constraint's name.
    pub name: String,
    /// The referencing table, quoted, with its schema.
    pub table: String,
    /// Its columns.
    pub columns: Vec<String>,
    /// The referenced table's name.
    pub references: String,
    /// Its columns.
    pub references_columns: Vec<String>,
    /// Whether Postgres vouches for the present rows.
    pub validated: bool,
}

#[derive(sqlx::FromRow)]
struct View {
    name: String,
    /// Another one comes in its place.
    goes: bool,
    is_mine: bool,
    owner: String,
    sql: String,
    lock: String,
}

#[derive(sqlx::FromRow)]
struct Key {
    name: String,
    table_quoted: String,
    columns: Vec<String>,
    references: String,
    references_columns: Vec<String>,
    definition: String,
    validated: bool,
    inbound: bool,
    partitioned: bool,
    other_quoted: String,
    is_mine: bool,
    owner: String,
}

/// Adds views, foreign keys and obstacles.
pub(super) async fn survey(
    connection: &mut PgConnection,
    exchange: &Exchange,
    survey: &mut Survey,
) -> Result<(), PgError> {
    views(connection, exchange, survey).await?;
    keys(connection, exchange, survey).await?;
    let what = "looking for objects that depend on the tables";
    survey.obstacles.extend(sentences(connection, exchange, what, OBSTACLES).await?);
    Ok(())
}

async fn views(
    connection: &mut PgConnection,
    exchange: &Exchange,
    survey: &mut Survey,
) -> Result<(), PgError> {
    // A view is replaced in place: its grants, comments, triggers and dependents stay.
    let views: Vec<View> = sqlx::query_as(
        "-- carry_views
         SELECT DISTINCT format('%I.%I', vn.nspname, v.relname) AS name,
                vn.nspname = $1 AND v.relname = ANY($3) AS goes,
                pg_has_role(v.relowner, 'USAGE') AS is_mine,
                pg_get_userbyid(v.relowner)::text AS owner,
                format('CREATE OR REPLACE VIEW %I.%I%s AS %s', vn.nspname, v.relname,
                       ' WITH (' || array_to_string(v.reloptions, ', ') || ')',
                       pg_get_viewdef(v.oid)) AS sql,
                format('ALTER VIEW %I.%I OWNER TO %I', vn.nspname, v.relname,
                       pg_get_userbyid(v.relowner)) AS lock
         FROM pg_class c
         JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = c.oid
                         AND d.classid = 'pg_rewrite'::regclass
         JOIN pg_rewrite r ON r.oid = d.objid
         JOIN pg_class v ON v.oid = r.ev_class AND v.relkind = 'v'
         JOIN pg_namespace vn ON vn.oid = v.relnamespace
         WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r'
         ORDER BY name",
    )
    .bind(&exchange.target)
    .bind(&exchange.tables)
    .bind([&*exchange.views_aside, &*exchange.views_retired, &*exchange.views_replaced].concat())
    .fetch_all(connection)
    .await
    .map_err(|source| PgError::database("listing views", source))?;
    for view in views {
        if !view.is_mine {
            survey.obstacles.push(format!(
                "view {} belongs to role {}, of which the importing role is no member",
                view.name, view.owner
            ));
            continue;
        }
        // Giving a view to the owner it has changes nothing, but takes the view's lock alone,
        // which LOCK TABLE would not: that locks all the view's tables too.
        survey.lock_views.push(view.lock);
        if view.goes {
            continue;
        }
        survey.attach.push(Statement::new(format!("view {}", view.name), view.sql));
    }
    Ok(())
}

async fn keys(
    connection: &mut PgConnection,
    exchange: &Exchange,
    survey: &mut Survey,
) -> Result<(), PgError> {
    let keys: Vec<Key> = sqlx::query_as(
        "-- carry_foreign_keys
         WITH present AS (
             SELECT c.oid, c.relname FROM pg_class c
             WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relname = ANY($2) AND c.relkind = 'r'
         )
         SELECT k.conname::text AS name,
                format('%I.%I', fn.nspname, f.relname) AS table_quoted,
                (SELECT array_agg(a.attname::text ORDER BY key.place)
                 FROM unnest(k.conkey) WITH ORDINALITY AS key(attnum, place)
                 JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = key.attnum) AS columns,
                t.relname::text AS references,
                (SELECT array_agg(a.attname::text ORDER BY key.place)
                 FROM unnest(k.confkey) WITH ORDINALITY AS key(attnum, place)
                 JOIN pg_attribute a ON a.attrelid = k.confrelid AND a.attnum = key.attnum) AS references_columns,
                pg_get_constraintdef(k.oid) AS definition,
                k.convalidated AS validated,
                k.confrelid IN (SELECT oid FROM present) AS inbound,
                f.relkind = 'p' AS partitioned,
                CASE WHEN k.confrelid IN (SELECT oid FROM present) THEN format('%I.%I', fn.nspname, f.relname)
                     ELSE format('%I.%I', tn.nspname, t.relname) END AS other_quoted,
                pg_has_role(f.relowner, 'USAGE') AS is_mine,
                pg_get_userbyid(f.relowner)::text AS owner
         FROM pg_constraint k
         JOIN pg_class f ON f.oid = k.conrelid
         JOIN pg_namespace fn ON fn.oid = f.relnamespace
         JOIN pg_class t ON t.oid = k.confrelid
         JOIN pg_namespace tn ON tn.oid = t.relnamespace
         WHERE k.contype = 'f' AND k.conparentid = 0
           AND (k.confrelid IN (SELECT oid FROM present)) <> (k.conrelid IN (SELECT oid FROM present))
           -- the tables kept from last time still point at each other only
           AND fn.nspname <> $3
           -- what leaves the target goes on pointing at what leaves with it
           AND NOT (fn.nspname = $1 AND f.relname = ANY($4))
           AND NOT (tn.nspname = $1 AND t.relname = ANY($4))
         ORDER BY table_quoted, name",
    )
    .bind(&exchange.target)
    .bind(&exchange.tables)
    .bind(&exchange.previous)
    .bind(&exchange.retired)
    .fetch_all(connection)
    .await
    .map_err(|source| PgError::database("listing foreign keys", source))?;
    for key in keys {
        let label = format!("foreign key {} of {}", key.name, key.table_quoted);
        if !key.is_mine {
            survey.obstacles.push(format!(
                "{label} (its table belongs to role {}, of which the importing role is no member)",
                key.owner
            ));
            continue;
        }
        let name = crate::ident::quote(&key.name);
        survey.lock_also.push(key.other_quoted);
        survey.detach.push(Statement::new(
            label.clone(),
            format!("ALTER TABLE {} DROP CONSTRAINT {name}", key.table_quoted),
        ));
        // Not validated within the cutover: readers wait for it. New rows are checked at once.
        let postponed = key.validated && !key.partitioned;
        survey.attach.push(Statement::new(
            label.clone(),
            format!(
                "ALTER TABLE {} ADD CONSTRAINT {name} {}{}",
                key.table_quoted,
                key.definition,
                if postponed { " NOT VALID" } else { "" }
            ),
        ));
        if postponed {
            survey.follow_up.push(Statement::new(
                label,
                format!("ALTER TABLE {} VALIDATE CONSTRAINT {name}", key.table_quoted),
            ));
        }
        if key.inbound {
            survey.inbound.push(InboundKey {
                name: key.name,
                table: key.table_quoted,
                columns: key.columns,
                references: key.references,
                references_columns: key.references_columns,
                validated: key.validated,
            });
        }
    }
    survey.lock_also.sort();
    survey.lock_also.dedup();
    Ok(())
}

/// Everything that depends on the tables, their row types or the sequences behind their columns,
/// less what belongs to them and what is carried over elsewhere in this module's neighbours.
const OBSTACLES: &str = "-- list_obstacles
    WITH present AS (
        SELECT c.oid, c.reltype FROM pg_class c
        WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relname = ANY($2) AND c.relkind = 'r'
          AND $3::text IS NOT NULL
    ), relations AS (
        SELECT oid FROM present
        UNION
        SELECT d.objid FROM pg_depend d JOIN pg_class seq ON seq.oid = d.objid AND seq.relkind = 'S'
        WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass
          AND d.refobjid IN (SELECT oid FROM present) AND d.deptype IN ('a', 'i')
    ), types AS (
        SELECT reltype AS oid FROM present
        UNION
        SELECT t.typarray FROM pg_type t JOIN present ON present.reltype = t.oid
    )
    SELECT DISTINCT
           format('%s (depends on %s)', pg_describe_object(d.classid, d.objid, d.objsubid),
                  pg_describe_object(d.refclassid, d.refobjid, 0))
    FROM pg_depend d
    WHERE ((d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM relations))
           OR (d.refclassid = 'pg_type'::regclass AND d.refobjid IN (SELECT oid FROM types)))
      AND d.deptype NOT IN ('i', 'e')
      -- its own indexes, sequences and row types
      AND NOT (d.classid = 'pg_class'::regclass AND d.objid IN (SELECT oid FROM relations))
      AND NOT (d.classid = 'pg_class'::regclass
               AND EXISTS (SELECT FROM pg_index i
                           WHERE i.indexrelid = d.objid AND i.indrelid IN (SELECT oid FROM present)))
      AND NOT (d.classid = 'pg_type'::regclass AND d.objid IN (SELECT oid FROM types))
      -- its own constraints, and foreign keys in both directions
      AND NOT (d.classid = 'pg_constraint'::regclass
               AND EXISTS (SELECT FROM pg_constraint k
                           WHERE k.oid = d.objid
                             AND (k.contype = 'f' OR k.conrelid IN (SELECT oid FROM present))))
      -- its own defaults, triggers and policies
      AND NOT (d.classid = 'pg_attrdef'::regclass
               AND EXISTS (SELECT FROM pg_attrdef a
                           WHERE a.oid = d.objid AND a.adrelid IN (SELECT oid FROM present)))
      AND NOT (d.classid = 'pg_trigger'::regclass
               AND EXISTS (SELECT FROM pg_trigger t
                           WHERE t.oid = d.objid
                             AND (t.tgisinternal OR t.tgrelid IN (SELECT oid FROM present))))
      AND NOT (d.classid = 'pg_policy'::regclass
               AND EXISTS (SELECT FROM pg_policy p
                           WHERE p.oid = d.objid AND p.polrelid IN (SELECT oid FROM present)))
      -- views are replaced, own rules, publications and statistics carried over
      AND NOT (d.classid = 'pg_rewrite'::regclass
               AND EXISTS (SELECT FROM pg_rewrite r JOIN pg_class v ON v.oid = r.ev_class
                           WHERE r.oid = d.objid
                             AND (v.relkind = 'v' OR v.oid IN (SELECT oid FROM present))))
      AND d.classid <> 'pg_publication_rel'::regclass
      AND NOT (d.classid = 'pg_statistic_ext'::regclass
               AND EXISTS (SELECT FROM pg_statistic_ext x
                           WHERE x.oid = d.objid AND x.stxrelid IN (SELECT oid FROM present)))
    ORDER BY 1";
