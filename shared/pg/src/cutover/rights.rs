//! Owners, grants and row security.

use sqlx::PgConnection;

use super::Exchange;
use super::survey::{Survey, sentences, statements};
use crate::error::PgError;

const OWNERS: &str = "-- carry_owners
    SELECT format('owner of %I.%I', $1, c.relname),
           format('ALTER TABLE %I.%I OWNER TO %I', $1, c.relname, r.rolname)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_roles r ON r.oid = c.relowner
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r' AND $3::text IS NOT NULL
      AND r.rolname <> current_user
      AND (has_schema_privilege(r.oid, n.oid, 'CREATE')
           OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user))
    ORDER BY c.relname";

/// Postgres refuses to give a table to a role that may not create in its schema; such an owner
/// gets every right on the new table instead.
const GRANTS_INSTEAD: &str = "-- carry_owners
    SELECT format('owner of %I.%I', $1, c.relname),
           format('GRANT ALL ON TABLE %I.%I TO %I WITH GRANT OPTION', $1, c.relname, r.rolname)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_roles r ON r.oid = c.relowner
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r' AND $3::text IS NOT NULL
      AND r.rolname <> current_user
      AND NOT has_schema_privilege(r.oid, n.oid, 'CREATE')
      AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
    ORDER BY c.relname";

/// What the new table was given by default, and then the owner's own rights where they are written
/// down: the grants below are then all there is.
const REVOKES: &str = "-- carry_grants
    SELECT format('grants on %I.%I', $1, c.relname),
           format('REVOKE ALL ON TABLE %I.%I FROM %s', $1, c.relname, string_agg(DISTINCT g.grantee, ', '))
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class s ON s.relname = c.relname AND s.relnamespace = to_regnamespace(quote_ident($3))
    CROSS JOIN LATERAL (
        SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
        FROM aclexplode(s.relacl) AS a
        WHERE a.grantee <> s.relowner
        UNION ALL
        SELECT CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
        FROM pg_attribute sa CROSS JOIN LATERAL aclexplode(sa.attacl) AS a
        WHERE sa.attrelid = s.oid AND a.grantee <> s.relowner
        UNION ALL
        SELECT quote_ident(pg_get_userbyid(c.relowner)) WHERE c.relacl IS NOT NULL
    ) AS g(grantee)
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r'
    GROUP BY c.relname
    ORDER BY c.relname";

const GRANTS: &str = "-- carry_grants
    SELECT format('grants on %I.%I', $1, c.relname),
           format('GRANT %s ON TABLE %I.%I TO %s%s',
                  string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type), $1, c.relname,
                  CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END,
                  CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL aclexplode(c.relacl) AS a
    LEFT JOIN pg_roles r ON r.oid = a.grantee
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r'
      AND (a.grantee = 0 OR r.oid IS NOT NULL) AND $3::text IS NOT NULL
    GROUP BY c.relname, a.grantee, r.rolname, a.is_grantable
    ORDER BY c.relname";

const COLUMN_GRANTS: &str = "-- carry_grants
    SELECT format('grants on columns of %I.%I', $1, c.relname),
           format('GRANT %s (%I) ON TABLE %I.%I TO %s%s', a.privilege_type, att.attname, $1, c.relname,
                  CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END,
                  CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute att ON att.attrelid = c.oid AND att.attnum > 0 AND NOT att.attisdropped
    JOIN pg_class s ON s.relname = c.relname AND s.relnamespace = to_regnamespace(quote_ident($3))
    JOIN pg_attribute sa ON sa.attrelid = s.oid AND sa.attname = att.attname AND NOT sa.attisdropped
    CROSS JOIN LATERAL aclexplode(att.attacl) AS a
    LEFT JOIN pg_roles r ON r.oid = a.grantee
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r'
      AND (a.grantee = 0 OR r.oid IS NOT NULL)
    ORDER BY c.relname, att.attnum";

/// A sequence behind a column keeps the grants of the one behind the same column before.
const SEQUENCE_GRANTS: &str = "-- carry_grants
    WITH owned AS (
        SELECT n.nspname, t.relname AS table_name, att.attname, seq.oid, seq.relname, seq.relacl, seq.relowner
        FROM pg_class seq
        JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = seq.oid
                        AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
        JOIN pg_class t ON t.oid = d.refobjid
        JOIN pg_namespace n ON n.oid = t.relnamespace
        JOIN pg_attribute att ON att.attrelid = t.oid AND att.attnum = d.refobjsubid
        WHERE seq.relkind = 'S' AND t.relname = ANY($2) AND n.nspname IN ($1, $3)
    )
    SELECT format('grants on the sequence of %I.%I.%I', $1, old.table_name, old.attname),
           format('GRANT %s ON SEQUENCE %I.%I TO %s%s', a.privilege_type, $1, new.relname,
                  CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END,
                  CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM owned AS old
    JOIN owned AS new ON new.nspname = $3 AND new.table_name = old.table_name
                     AND new.attname = old.attname
    CROSS JOIN LATERAL aclexplode(old.relacl) AS a
    LEFT JOIN pg_roles r ON r.oid = a.grantee
    WHERE old.nspname = $1 AND a.grantee <> old.relowner
      AND (a.grantee = 0 OR r.oid IS NOT NULL)";

/// A table that is new in the target gets what ALTER DEFAULT PRIVILEGES … IN SCHEMA promises for
/// tables made there by us; it was made elsewhere.
const DEFAULT_GRANTS: &str = "-- carry_grants
    WITH made AS (
        SELECT s.oid, s.relname FROM pg_class s
        WHERE s.relnamespace = to_regnamespace(quote_ident($3)) AND s.relname = ANY($2) AND s.relkind = 'r'
          AND NOT EXISTS (SELECT FROM pg_class c
                          WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relname = s.relname)
    ), things AS (
        SELECT 'r'::\"char\" AS kind, 'TABLE' AS keyword, made.relname FROM made
        UNION ALL
        SELECT 'S', 'SEQUENCE', seq.relname
        FROM made
        JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = made.oid
                        AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
        JOIN pg_class seq ON seq.oid = d.objid AND seq.relkind = 'S'
    )
    SELECT format('default privileges on %I.%I', $1, things.relname),
           format('GRANT %s ON %s %I.%I TO %s%s',
                  string_agg(a.privilege_type, ', ' ORDER BY a.privilege_type), things.keyword, $1,
                  things.relname,
                  CASE WHEN a.grantee = 0 THEN 'PUBLIC' ELSE quote_ident(r.rolname) END,
                  CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
    FROM things
    JOIN pg_default_acl d ON d.defaclobjtype = things.kind
                         AND d.defaclnamespace = to_regnamespace(quote_ident($1))
                         AND d.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = current_user)
    CROSS JOIN LATERAL aclexplode(d.defaclacl) AS a
    LEFT JOIN pg_roles r ON r.oid = a.grantee
    WHERE a.grantee = 0 OR r.oid IS NOT NULL
    GROUP BY things.keyword, things.relname, a.grantee, r.rolname, a.is_grantable";

const ROW_SECURITY: &str = "-- carry_row_security
    SELECT format('row security of %I.%I', $1, c.relname),
           format('ALTER TABLE %I.%I %s ROW LEVEL SECURITY', $1, c.relname, switch.words)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (
        SELECT 'ENABLE' WHERE c.relrowsecurity
        UNION ALL
        SELECT 'FORCE' WHERE c.relforcerowsecurity
    ) AS switch(words)
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r' AND $3::text IS NOT NULL
    ORDER BY c.relname";

const POLICIES: &str = "-- carry_row_security
    SELECT format('policy %I on %I.%I', p.polname, $1, c.relname),
           format('CREATE POLICY %I ON %I.%I AS %s FOR %s TO %s%s%s', p.polname, $1, c.relname,
                  CASE WHEN p.polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
                  CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE'
                       WHEN 'd' THEN 'DELETE' ELSE 'ALL' END,
                  (SELECT string_agg(CASE WHEN role = 0 THEN 'PUBLIC'
                                          ELSE quote_ident(pg_get_userbyid(role)) END, ', ')
                   FROM unnest(p.polroles) AS role),
                  coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', ''),
                  coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''))
    FROM pg_policy p
    JOIN pg_class c ON c.oid = p.polrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r' AND $3::text IS NOT NULL
    ORDER BY c.relname, p.polname";

const OWNERS_WITHOUT_PLACE: &str = "-- carry_owners
    SELECT format('table %s.%s now belongs to role %s, since its former owner %s may not create in schema %s; that role has every right on it',
                  $1, c.relname, current_user, r.rolname, $1)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_roles r ON r.oid = c.relowner
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r' AND $3::text IS NOT NULL
      AND r.rolname <> current_user
      AND NOT has_schema_privilege(r.oid, n.oid, 'CREATE')
      AND NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
    ORDER BY c.relname";

/// Adds what gives the new tables their owners. It comes before everything else, since a grant is
/// made in the owner's name.
pub(super) async fn survey_owners(
    connection: &mut PgConnection,
    exchange: &Exchange,
    survey: &mut Survey,
) -> Result<(), PgError> {
    let what = "listing owners";
    survey.attach.extend(statements(connection, exchange, what, OWNERS).await?);
    survey.notices.extend(sentences(connection, exchange, what, OWNERS_WITHOUT_PLACE).await?);
    Ok(())
}

/// Adds what carries grants and row security over. It comes after everything else, since an owner
/// may have given up rights of its own that creating a trigger or a key needs.
pub(super) async fn survey_grants(
    connection: &mut PgConnection,
    exchange: &Exchange,
    survey: &mut Survey,
) -> Result<(), PgError> {
    let what = "listing grants and policies";
    for query in [
        REVOKES,
        GRANTS,
        COLUMN_GRANTS,
        SEQUENCE_GRANTS,
        DEFAULT_GRANTS,
        GRANTS_INSTEAD,
        POLICIES,
        ROW_SECURITY,
    ] {
        survey.attach.extend(statements(connection, exchange, what, query).await?);
    }
    Ok(())
}
