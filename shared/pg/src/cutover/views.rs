//! Views that come with the tables: the former ones are kept beside the former tables, and what
//! takes their place gets their owner and grants.

use sqlx::PgConnection;

use super::survey::Survey;
use super::{Exchange, Statement};
use crate::error::PgError;

/// To `previous`, as it stands.
const ASIDE: &str = "-- keep_views
    SELECT format('view %I.%I', $1, v.relname),
           format('ALTER VIEW %I.%I SET SCHEMA %I', $1, v.relname, $3)
    FROM pg_class v
    WHERE v.relnamespace = to_regnamespace(quote_ident($1)) AND v.relkind = 'v'
      AND v.relname = ANY($2)
    ORDER BY v.oid";

/// A copy in `previous`, made before the tables move: it goes on reading these.
const COPIES: &str = "-- keep_views
    SELECT format('view %I.%I', $1, v.relname), parts.sql
    FROM pg_class v
    CROSS JOIN LATERAL (
        SELECT 1 AS place,
               format('CREATE VIEW %I.%I (%s) AS %s', $3, v.relname,
                      (SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
                       FROM pg_attribute a WHERE a.attrelid = v.oid AND a.attnum > 0),
                      pg_get_viewdef(v.oid)) AS sql
        UNION ALL
        SELECT 2, format('COMMENT ON VIEW %I.%I IS %L', $3, v.relname,
                         obj_description(v.oid, 'pg_class'))
    ) AS parts
    WHERE v.relnamespace = to_regnamespace(quote_ident($1)) AND v.relkind = 'v'
      AND v.relname = ANY($2)
    ORDER BY v.oid, parts.place";

/// Owner, options and grants of a view that goes, for the one that comes.
const RIGHTS: &str = "-- carry_view_rights
    SELECT format('rights on view %I.%I', $1, v.relname), parts.sql
    FROM pg_class v
    JOIN pg_roles o ON o.oid = v.relowner
    CROSS JOIN LATERAL (
        SELECT 1 AS place, format('ALTER VIEW %I.%I OWNER TO %I', $1, v.relname, o.rolname) AS sql
        WHERE has_schema_privilege(o.oid, v.relnamespace, 'CREATE')
           OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
        UNION ALL
        SELECT 2, format('ALTER VIEW %I.%I SET (%s)', $1, v.relname, array_to_string(v.reloptions, ', '))
        WHERE v.reloptions IS NOT NULL
        UNION ALL
        SELECT 3, format('REVOKE ALL ON TABLE %I.%I FROM %I', $1, v.relname, o.rolname)
        WHERE v.relacl IS NOT NULL
        UNION ALL
        SELECT 4, format('GRANT %s ON TABLE %I.%I TO %s%s', a.privilege_type, $1, v.relname,
                         CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                         CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM aclexplode(v.relacl) AS a
        UNION ALL
        -- the one that comes may have other columns
        SELECT 5, format('DO %L', format(
                  'BEGIN IF EXISTS (SELECT FROM pg_catalog.pg_attribute WHERE attrelid = %L::pg_catalog.regclass '
                  || 'AND attname = %L) THEN GRANT %s (%I) ON TABLE %I.%I TO %s%s; END IF; END',
                  format('%I.%I', $1, v.relname), att.attname, a.privilege_type, att.attname, $1, v.relname,
                  CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END,
                  CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END))
        FROM pg_attribute att CROSS JOIN LATERAL aclexplode(att.attacl) AS a
        WHERE att.attrelid = v.oid AND att.attnum > 0
    ) AS parts
    WHERE v.relnamespace = to_regnamespace(quote_ident($1)) AND v.relkind = 'v'
      AND v.relname = ANY($2) AND $3::text IS NOT NULL
    ORDER BY v.oid, parts.place";

/// Adds what keeps former views, and what gives their successors the same rights.
pub(super) async fn survey(
    connection: &mut PgConnection,
    exchange: &Exchange,
    survey: &mut Survey,
) -> Result<(), PgError> {
    let Exchange { views_aside, views_retired, views_replaced, .. } = exchange;
    let leaving = [&**views_aside, &**views_retired].concat();
    // A copy names the views it reads from where they stand.
    survey.views_kept = written(connection, exchange, COPIES, views_replaced).await?;
    survey.views_kept.extend(written(connection, exchange, ASIDE, &leaving).await?);
    survey.attach.extend(written(connection, exchange, RIGHTS, views_aside).await?);
    Ok(())
}

/// The statements that a query writes about some views of the target.
async fn written(
    connection: &mut PgConnection,
    exchange: &Exchange,
    query: &'static str,
    views: &[String],
) -> Result<Vec<Statement>, PgError> {
    if views.is_empty() {
        return Ok(Vec::new());
    }
    let rows: Vec<(String, String)> = sqlx::query_as(query)
        .bind(&exchange.target)
        .bind(views)
        .bind(&exchange.previous)
        .fetch_all(connection)
        .await
        .map_err(|source| PgError::database("listing the views that are exchanged", source))?;
    Ok(rows.into_iter().map(|(label, sql)| Statement::new(label, sql)).collect())
}
