//! A target: the rights an import needs, and what is missing without some.

use relevo_settings::BackupSource;
use sqlx::{Connection as _, PgConnection};

use crate::{Finding, database};

/// What the role may do there.
#[derive(sqlx::FromRow)]
struct Rights {
    role: String,
    create_schemas: bool,
    schema_exists: bool,
    create_tables: bool,
    foreign_tables: i64,
    example: Option<String>,
    reads_all_stats: bool,
    superuser: bool,
    ledger: bool,
}

pub(crate) async fn ask(subject: String, source: &BackupSource, embedded: bool) -> Vec<Finding> {
    let mut findings = database::ask(subject.clone(), source.target_url.clone(), embedded).await;
    let Ok(mut connection) = database::connect(&source.target_url).await else { return findings };
    match rights(&mut connection, &source.target_schema).await {
        Ok(rights) => findings.extend(judge(&subject, &source.target_schema, &rights)),
        Err(error) => findings.push(Finding::warning(
            "target.rights",
            &subject,
            format!("the rights cannot be read: {}", relevo_errors::chain(&error)),
            "see the server's log",
        )),
    }
    let _ = connection.close().await;
    findings
}

async fn rights(connection: &mut PgConnection, schema: &str) -> Result<Rights, sqlx::Error> {
    sqlx::query_as(
        "-- doctor::rights
        SELECT current_user::text AS role,
               has_database_privilege(current_database(), 'CREATE') AS create_schemas,
               s.oid IS NOT NULL AS schema_exists,
               coalesce(has_schema_privilege(s.oid, 'CREATE')
                        AND has_schema_privilege(s.oid, 'USAGE'), false) AS create_tables,
               coalesce(t.foreign_tables, 0) AS foreign_tables,
               t.example,
               pg_has_role('pg_read_all_stats', 'MEMBER') AS reads_all_stats,
               (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
               to_regnamespace('relevo_ledger') IS NOT NULL AS ledger
          FROM (SELECT 1) AS one
               LEFT JOIN pg_namespace AS s ON s.nspname = $1
               LEFT JOIN LATERAL (
                   SELECT count(*) AS foreign_tables, min(relname)::text AS example
                     FROM pg_class
                    WHERE relnamespace = s.oid AND relkind IN ('r', 'p')
                      AND NOT pg_has_role(relowner, 'USAGE')
               ) AS t ON true",
    )
    .bind(schema)
    .persistent(false)
    .fetch_one(connection)
    .await
}

fn judge(subject: &str, schema: &str, rights: &Rights) -> Vec<Finding> {
    let mut findings = Vec::new();
    let role = &rights.role;
    if !rights.create_schemas {
        findings.push(Finding::problem(
            "target.create_schemas",
            subject,
            format!("role {role} may not create schemas here, but an import is prepared in one of its own"),
            format!("GRANT CREATE ON DATABASE … TO {role}"),
        ));
    }
    if !rights.schema_exists {
        findings.push(if rights.create_schemas {
            let message = format!("schema {schema} does not exist yet; the first import makes it");
            Finding::note("target.schema", subject, message, "nothing is to be done")
        } else {
            let message =
                format!("schema {schema} does not exist, and role {role} may not create it");
            let advice = format!("CREATE SCHEMA {schema} AUTHORIZATION {role}");
            Finding::problem("target.schema", subject, message, advice)
        });
    } else if !rights.create_tables {
        findings.push(Finding::problem(
            "target.create_tables",
            subject,
            format!("role {role} may not create tables in schema {schema}"),
            format!("GRANT CREATE, USAGE ON SCHEMA {schema} TO {role}"),
        ));
    }
    if rights.foreign_tables > 0 {
        let example = rights.example.as_deref().unwrap_or_default();
        findings.push(Finding::warning(
            "target.owner",
            subject,
            format!("{} table(s) of schema {schema} belong to other roles, such as {example}: an import that brings a table of the same name is refused", rights.foreign_tables),
            format!("ALTER TABLE … OWNER TO {role}, or make {role} a member of their owner, for those that the dump replaces"),
        ));
    }
    if !rights.reads_all_stats && !rights.superuser {
        findings.push(Finding::note(
            "target.statistics",
            subject,
            format!("role {role} does not see what other sessions run: a cutover that waits for one can name its process, not its query"),
            "GRANT pg_read_all_stats shows it",
        ));
    }
    if findings.is_empty() {
        let ledger =
            if rights.ledger { "the ledger is there" } else { "the first import makes the ledger" };
        let message = format!("role {role} has the rights an import needs; {ledger}");
        findings.push(Finding::ok("target.rights", subject, message));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;

    #[test]
    fn each_missing_right_is_named_with_what_to_grant() {
        let good = || Rights {
            role: "app".to_owned(),
            create_schemas: true,
            schema_exists: true,
            create_tables: true,
            foreign_tables: 0,
            example: None,
            reads_all_stats: true,
            superuser: false,
            ledger: true,
        };
        assert_eq!(judge("t", "public", &good())[0].level, Level::Ok);
        for (rights, check, words) in [
            (
                Rights { create_schemas: false, ..good() },
                "target.create_schemas",
                "GRANT CREATE ON DATABASE",
            ),
            (
                Rights { create_tables: false, ..good() },
                "target.create_tables",
                "ON SCHEMA public TO app",
            ),
            (Rights { foreign_tables: 2, ..good() }, "target.owner", "OWNER TO app"),
            (Rights { reads_all_stats: false, ..good() }, "target.statistics", "pg_read_all_stats"),
            (
                Rights { schema_exists: false, create_schemas: false, ..good() },
                "target.schema",
                "CREATE SCHEMA public AUTHORIZATION app",
            ),
        ] {
            let findings = judge("t", "public", &rights);
            let found = findings.iter().find(|finding| finding.check == check).expect(check);
            assert!(
                found.advice.as_deref().is_some_and(|advice| advice.contains(words)),
                "{found:?}"
            );
        }
    }
}
