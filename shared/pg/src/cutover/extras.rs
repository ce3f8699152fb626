//! What else people hang on a table: triggers, rules, publications, replica identity, storage and
//! column options, comments, security labels, extended statistics.

use sqlx::PgConnection;

use super::Exchange;
use super::survey::{Survey, sentences, statements};
use crate::error::PgError;

/// The comment on functions that an import makes. Triggers that call them belong to the import, not
/// to the application: the next import makes its own.
pub const OWN_FUNCTION_MARK: &str = "made by relevo import";

/// Triggers of the application, each with the mode it fires in.
const TRIGGERS: &str = "-- carry_triggers
    SELECT format('trigger %I on %I.%I', t.tgname, $1, c.relname), parts.sql
    FROM pg_trigger t
    JOIN pg_class c ON c.oid = t.tgrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (
        SELECT 1 AS place, pg_get_triggerdef(t.oid) AS sql
        UNION ALL
        SELECT 2, format('ALTER TABLE %I.%I %s TRIGGER %I', $1, c.relname,
                         CASE t.tgenabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA'
                              ELSE 'ENABLE ALWAYS' END, t.tgname)
        WHERE t.tgenabled <> 'O'
    ) AS parts
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r' AND $3::text IS NOT NULL
      AND NOT t.tgisinternal
      AND coalesce(obj_description(t.tgfoid, 'pg_proc'), '') <> 'made by relevo import'
    ORDER BY c.relname, t.tgname, parts.place";

/// Rules of the application, each with the mode it fires in.
const RULES: &str = "-- carry_rules
    SELECT format('rule %I on %I.%I', r.rulename, $1, c.relname), parts.sql
    FROM pg_rewrite r
    JOIN pg_class c ON c.oid = r.ev_class
    JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (
        SELECT 1 AS place, pg_get_ruledef(r.oid) AS sql
        UNION ALL
        SELECT 2, format('ALTER TABLE %I.%I %s RULE %I', $1, c.relname,
                         CASE r.ev_enabled WHEN 'D' THEN 'DISABLE' WHEN 'R' THEN 'ENABLE REPLICA'
                              ELSE 'ENABLE ALWAYS' END, r.rulename)
        WHERE r.ev_enabled <> 'O'
    ) AS parts
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r' AND $3::text IS NOT NULL
    ORDER BY c.relname, r.rulename, parts.place";

/// What a staged table brings along that the present one decides on: a table that was kept and
/// comes back has the triggers, rules, policies and statistics of its own time.
const OF_THE_STAGED: &str = "-- clear_staged
    SELECT format('what %I.%I had before', $1, s.relname), parts.sql
    FROM pg_class s
    JOIN pg_class c ON c.relname = s.relname AND c.relkind = 'r'
                   AND c.relnamespace = to_regnamespace(quote_ident($1))
    CROSS JOIN LATERAL (
        SELECT format('DROP TRIGGER %I ON %I.%I', t.tgname, $1, s.relname) AS sql
        FROM pg_trigger t
        WHERE t.tgrelid = s.oid AND NOT t.tgisinternal
          AND coalesce(obj_description(t.tgfoid, 'pg_proc'), '') <> 'made by relevo import'
        UNION ALL
        SELECT format('DROP RULE %I ON %I.%I', r.rulename, $1, s.relname)
        FROM pg_rewrite r WHERE r.ev_class = s.oid
        UNION ALL
        SELECT format('DROP POLICY %I ON %I.%I', p.polname, $1, s.relname)
        FROM pg_policy p WHERE p.polrelid = s.oid
        UNION ALL
        SELECT format('DROP STATISTICS %I.%I', xn.nspname, x.stxname)
        FROM pg_statistic_ext x JOIN pg_namespace xn ON xn.oid = x.stxnamespace
        WHERE x.stxrelid = s.oid
        UNION ALL
        SELECT format('ALTER TABLE %I.%I DISABLE ROW LEVEL SECURITY', $1, s.relname)
        WHERE s.relrowsecurity
        UNION ALL
        SELECT format('ALTER TABLE %I.%I NO FORCE ROW LEVEL SECURITY', $1, s.relname)
        WHERE s.relforcerowsecurity
    ) AS parts
    WHERE s.relnamespace = to_regnamespace(quote_ident($3)) AND s.relname = ANY($2) AND s.relkind = 'r'";

/// What the planner is told of single columns.
const COLUMN_OPTIONS: &str = "-- carry_column_options
    SELECT format('options of column %I.%I.%I', $1, c.relname, a.attname),
           format('ALTER TABLE %I.%I ALTER COLUMN %I %s', $1, c.relname, a.attname, parts.words)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_class s ON s.relname = c.relname AND s.relnamespace = to_regnamespace(quote_ident($3))
    JOIN pg_attribute sa ON sa.attrelid = s.oid AND sa.attname = a.attname AND NOT sa.attisdropped
    CROSS JOIN LATERAL (
        SELECT format('SET STATISTICS %s', a.attstattarget) AS words WHERE a.attstattarget >= 0
        UNION ALL
        SELECT format('SET (%s)', array_to_string(a.attoptions, ', ')) WHERE a.attoptions IS NOT NULL
    ) AS parts
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r'
    ORDER BY c.relname, a.attnum";

/// Comments on what was carried over, and on keys and indexes that the dump makes again.
const COMMENTS_ON_PARTS: &str = "-- carry_comments
    WITH present AS (
        SELECT c.oid, c.relname, s.oid AS staged
        FROM pg_class c
        JOIN pg_class s ON s.relname = c.relname AND s.relnamespace = to_regnamespace(quote_ident($3))
        WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relname = ANY($2) AND c.relkind = 'r'
    ), parts AS (
        SELECT 'pg_trigger'::regclass AS catalog, t.oid,
               format('TRIGGER %I ON %I.%I', t.tgname, $1, p.relname) AS words
        FROM present p JOIN pg_trigger t ON t.tgrelid = p.oid AND NOT t.tgisinternal
        WHERE coalesce(obj_description(t.tgfoid, 'pg_proc'), '') <> 'made by relevo import'
        UNION ALL
        SELECT 'pg_rewrite'::regclass, r.oid, format('RULE %I ON %I.%I', r.rulename, $1, p.relname)
        FROM present p JOIN pg_rewrite r ON r.ev_class = p.oid
        UNION ALL
        SELECT 'pg_policy'::regclass, y.oid, format('POLICY %I ON %I.%I', y.polname, $1, p.relname)
        FROM present p JOIN pg_policy y ON y.polrelid = p.oid
        UNION ALL
        SELECT 'pg_statistic_ext'::regclass, x.oid, format('STATISTICS %I.%I', xn.nspname, x.stxname)
        FROM present p
        JOIN pg_statistic_ext x ON x.stxrelid = p.oid
        JOIN pg_namespace xn ON xn.oid = x.stxnamespace
        UNION ALL
        SELECT 'pg_constraint'::regclass, k.oid,
               format('CONSTRAINT %I ON %I.%I', k.conname, $1, p.relname)
        FROM present p
        JOIN pg_constraint k ON k.conrelid = p.oid
        JOIN pg_constraint l ON l.conrelid = p.staged AND l.conname = k.conname
        UNION ALL
        SELECT 'pg_class'::regclass, x.oid, format('INDEX %I.%I', $1, x.relname)
        FROM present p
        JOIN pg_index i ON i.indrelid = p.oid
        JOIN pg_class x ON x.oid = i.indexrelid
        JOIN pg_index j ON j.indrelid = p.staged
        JOIN pg_class y ON y.oid = j.indexrelid AND y.relname = x.relname
    )
    SELECT format('comment on %s', parts.words),
           format('COMMENT ON %s IS %L', parts.words, d.description)
    FROM parts
    JOIN pg_description d ON d.classoid = parts.catalog AND d.objoid = parts.oid AND d.objsubid = 0
    ORDER BY 1";

const SECURITY_LABELS: &str = "-- carry_security_labels
    SELECT format('security label on %I.%I', $1, c.relname),
           format('SECURITY LABEL FOR %I ON %s IS %L', l.provider,
                  CASE WHEN a.attname IS NULL THEN format('TABLE %I.%I', $1, c.relname)
                       ELSE format('COLUMN %I.%I.%I', $1, c.relname, a.attname) END, l.label)
    FROM pg_seclabel l
    JOIN pg_class c ON c.oid = l.objoid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = l.objsubid AND l.objsubid > 0
    WHERE l.classoid = 'pg_class'::regclass AND n.nspname = $1 AND c.relname = ANY($2)
      AND c.relkind = 'r' AND $3::text IS NOT NULL
    ORDER BY c.relname, l.objsubid";

/// Before version 15 a publication holds whole tables.
const PUBLICATIONS_14: &str = "-- carry_publications
    SELECT format('publication %I of %I.%I', p.pubname, $1, c.relname), parts.sql
    FROM pg_publication_rel pr
    JOIN pg_publication p ON p.oid = pr.prpubid
    JOIN pg_class c ON c.oid = pr.prrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (
        SELECT 1 AS place,
               format('ALTER PUBLICATION %I DROP TABLE ONLY %I.%I', p.pubname, $4::text, c.relname) AS sql
        UNION ALL
        SELECT 2, format('ALTER PUBLICATION %I ADD TABLE ONLY %I.%I', p.pubname, $1, c.relname)
    ) AS parts
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r' AND $3::text IS NOT NULL
    ORDER BY p.pubname, c.relname, parts.place";

/// From version 15 on it may hold columns and rows by condition.
const PUBLICATIONS_15: &str = "-- carry_publications
    SELECT format('publication %I of %I.%I', p.pubname, $1, c.relname), parts.sql
    FROM pg_publication_rel pr
    JOIN pg_publication p ON p.oid = pr.prpubid
    JOIN pg_class c ON c.oid = pr.prrelid
    JOIN pg_namespace n ON n.oid = c.relnamespace
    CROSS JOIN LATERAL (
        SELECT 1 AS place,
               format('ALTER PUBLICATION %I DROP TABLE ONLY %I.%I', p.pubname, $4::text, c.relname) AS sql
        UNION ALL
        SELECT 2, format('ALTER PUBLICATION %I ADD TABLE ONLY %I.%I%s%s', p.pubname, $1, c.relname,
                         (SELECT ' (' || string_agg(quote_ident(att.attname), ', ' ORDER BY att.attnum) || ')'
                          FROM pg_attribute att
                          WHERE att.attrelid = c.oid AND att.attnum = ANY(pr.prattrs::int2[])),
                         ' WHERE (' || pg_get_expr(pr.prqual, pr.prrelid) || ')')
    ) AS parts
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r' AND $3::text IS NOT NULL
    ORDER BY p.pubname, c.relname, parts.place";

const REPLICA_IDENTITY: &str = "-- carry_replica_identity
    SELECT format('replica identity of %I.%I', $1, c.relname),
           format('ALTER TABLE %I.%I REPLICA IDENTITY %s', $1, c.relname,
                  CASE c.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING'
                       ELSE 'USING INDEX ' || quote_ident(x.relname) END)
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_index i ON i.indrelid = c.oid AND i.indisreplident
    LEFT JOIN pg_class x ON x.oid = i.indexrelid
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r' AND $3::text IS NOT NULL
      AND (c.relreplident IN ('f', 'n') OR (c.relreplident = 'i' AND x.oid IS NOT NULL))
    ORDER BY c.relname";

const STORAGE_OPTIONS: &str = "-- carry_storage_options
    SELECT format('storage options of %I.%I', $1, c.relname),
           format('ALTER TABLE %I.%I SET (%s)', $1, c.relname, array_to_string(c.reloptions, ', '))
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r' AND $3::text IS NOT NULL
      AND c.reloptions IS NOT NULL
    ORDER BY c.relname";

/// Where the dump brings no comment of its own.
const COMMENTS: &str = "-- carry_comments
    SELECT format('comment on %I.%I', $1, c.relname),
           CASE WHEN att.attname IS NULL
                THEN format('COMMENT ON TABLE %I.%I IS %L', $1, c.relname, d.description)
                ELSE format('COMMENT ON COLUMN %I.%I.%I IS %L', $1, c.relname, att.attname, d.description)
           END
    FROM pg_class c
    JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_class s ON s.relname = c.relname AND s.relnamespace = to_regnamespace(quote_ident($3))
    JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = c.oid
    LEFT JOIN pg_attribute att ON att.attrelid = c.oid AND att.attnum = d.objsubid AND d.objsubid > 0
    LEFT JOIN pg_attribute sa ON sa.attrelid = s.oid AND sa.attname = att.attname
                             AND NOT sa.attisdropped
    WHERE n.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r'
      AND (d.objsubid = 0 OR sa.attnum IS NOT NULL)
      AND NOT EXISTS (SELECT FROM pg_description own
                      WHERE own.classoid = 'pg_class'::regclass AND own.objoid = s.oid
                        AND own.objsubid = coalesce(sa.attnum, 0))
    ORDER BY c.relname, d.objsubid";

/// Extended statistics do not move with their table; the present one makes room first.
const STATISTICS_AWAY: &str = "-- carry_statistics
    SELECT format('statistics %I.%I', n.nspname, x.stxname),
           format('ALTER STATISTICS %I.%I RENAME TO %I', n.nspname, x.stxname,
                  left(x.stxname, 40) || '_relevo_' || x.oid)
    FROM pg_statistic_ext x
    JOIN pg_class c ON c.oid = x.stxrelid
    JOIN pg_namespace cn ON cn.oid = c.relnamespace
    JOIN pg_namespace n ON n.oid = x.stxnamespace
    WHERE cn.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r' AND $3::text IS NOT NULL";

const STATISTICS_BACK: &str = "-- carry_statistics
    SELECT format('statistics %I.%I', n.nspname, x.stxname), pg_get_statisticsobjdef(x.oid)
    FROM pg_statistic_ext x
    JOIN pg_class c ON c.oid = x.stxrelid
    JOIN pg_namespace cn ON cn.oid = c.relnamespace
    JOIN pg_namespace n ON n.oid = x.stxnamespace
    WHERE cn.nspname = $1 AND c.relname = ANY($2) AND c.relkind = 'r' AND $3::text IS NOT NULL";

/// What is on the present table and not in the dump, and cannot be guessed.
const LEFT_BEHIND: &str = "-- list_left_behind
    WITH pair AS (
        SELECT c.oid AS old, s.oid AS new, c.relname
        FROM pg_class c
        JOIN pg_class s ON s.relname = c.relname AND s.relnamespace = to_regnamespace(quote_ident($3))
        WHERE c.relnamespace = to_regnamespace(quote_ident($1)) AND c.relname = ANY($2) AND c.relkind = 'r'
    )
    SELECT format('column %s.%s.%s is not in the dump and stays with the previous table', $1, relname, a.attname)
    FROM pair
    JOIN pg_attribute a ON a.attrelid = old AND a.attnum > 0 AND NOT a.attisdropped
    WHERE NOT EXISTS (SELECT FROM pg_attribute b
                      WHERE b.attrelid = new AND b.attname = a.attname AND NOT b.attisdropped)
    UNION ALL
    SELECT format('index %s on %s.%s is not in the dump and stays with the previous table', x.relname, $1, pair.relname)
    FROM pair
    JOIN pg_index i ON i.indrelid = old
    JOIN pg_class x ON x.oid = i.indexrelid
    WHERE NOT EXISTS (SELECT FROM pg_index j JOIN pg_class y ON y.oid = j.indexrelid
                      WHERE j.indrelid = new AND y.relname IN (x.relname, left(x.relname, 56) || '_relevo'))
    UNION ALL
    SELECT format('constraint %s on %s.%s is not in the dump and stays with the previous table', k.conname, $1, pair.relname)
    FROM pair
    JOIN pg_constraint k ON k.conrelid = old AND k.contype IN ('c', 'x')
    WHERE NOT EXISTS (SELECT FROM pg_constraint l WHERE l.conrelid = new AND l.conname = k.conname)
    ORDER BY 1";

/// Adds what carries the rest of a table's belongings over.
pub(super) async fn survey(
    connection: &mut PgConnection,
    exchange: &Exchange,
    survey: &mut Survey,
) -> Result<(), PgError> {
    let what = "listing what hangs on the tables";
    survey.detach.extend(statements(connection, exchange, what, STATISTICS_AWAY).await?);
    for query in [
        OF_THE_STAGED,
        TRIGGERS,
        RULES,
        REPLICA_IDENTITY,
        STORAGE_OPTIONS,
        COLUMN_OPTIONS,
        COMMENTS,
        STATISTICS_BACK,
    ] {
        survey.attach.extend(statements(connection, exchange, what, query).await?);
    }
    publications(connection, exchange, survey).await?;
    survey.notices.extend(sentences(connection, exchange, what, LEFT_BEHIND).await?);
    Ok(())
}

/// Adds what is said of all that, which comes after everything else.
pub(super) async fn survey_words(
    connection: &mut PgConnection,
    exchange: &Exchange,
    survey: &mut Survey,
) -> Result<(), PgError> {
    let what = "listing what is said of the tables";
    for query in [COMMENTS_ON_PARTS, SECURITY_LABELS] {
        survey.attach.extend(statements(connection, exchange, what, query).await?);
    }
    Ok(())
}

async fn publications(
    connection: &mut PgConnection,
    exchange: &Exchange,
    survey: &mut Survey,
) -> Result<(), PgError> {
    let failed = |source| PgError::database("listing publications", source);
    let version: i32 = sqlx::query_scalar(
        "-- carry_publications
         SELECT current_setting('server_version_num')::int",
    )
    .fetch_one(&mut *connection)
    .await
    .map_err(failed)?;
    let query = if version >= 150_000 { PUBLICATIONS_15 } else { PUBLICATIONS_14 };
    let found: Vec<(String, String)> = sqlx::query_as(query)
        .bind(&exchange.target)
        .bind(&exchange.tables)
        .bind(&exchange.staging)
        .bind(&exchange.previous)
        .fetch_all(connection)
        .await
        .map_err(failed)?;
    if !found.is_empty() {
        survey.notices.push(
            "tables of a publication were exchanged: their new rows are not sent to subscribers, \
             which have to copy them afresh (TRUNCATE there, then ALTER SUBSCRIPTION … REFRESH \
             PUBLICATION); with --cutover merge only the changes are sent"
                .to_owned(),
        );
    }
    survey.attach.extend(found.into_iter().map(|(label, sql)| super::Statement::new(label, sql)));
    Ok(())
}
