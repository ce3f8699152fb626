//! Who may read and write afterwards is who could before; who may not import is told so at once.

use std::sync::Arc;

use relevo_import::{ImportError, NoProgress, import_file};

use super::dump::Dump;
use super::target::{Target, ask};

/// Owner, grants on tables and columns, as one text.
const GRANTS: &str = "
    SELECT string_agg(line, E'\\n' ORDER BY line) FROM (
        SELECT format('%s owner %s', relname, pg_get_userbyid(relowner)) AS line
        FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
        UNION ALL
        SELECT format('%s %s %s %s', relname, coalesce(r.rolname, 'PUBLIC'), a.privilege_type, a.is_grantable)
        FROM pg_class c CROSS JOIN LATERAL aclexplode(c.relacl) a LEFT JOIN pg_roles r ON r.oid = a.grantee
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND a.grantee <> c.relowner
        UNION ALL
        SELECT format('%s.%s %s %s', relname, attname, r.rolname, a.privilege_type)
        FROM pg_class c JOIN pg_attribute t ON t.attrelid = c.oid
        CROSS JOIN LATERAL aclexplode(t.attacl) a JOIN pg_roles r ON r.oid = a.grantee
        WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'
    ) AS lines";

#[tokio::test(flavor = "multi_thread")]
async fn grants_owners_and_column_grants_are_carried_over() {
    let target = Target::new().await;
    let (reader, clerk, owner) =
        (target.role("reader").await, target.role("clerk").await, target.role("owner").await);
    target.import(&Dump::default()).await.unwrap();
    target
        .run(&format!(
            "GRANT SELECT ON articulo, categoria TO {reader};
             GRANT SELECT, UPDATE ON departamento TO {clerk} WITH GRANT OPTION;
             GRANT SELECT (art_id, precio1), UPDATE (precio1) ON articulo TO {clerk};
             GRANT SELECT ON departamento TO PUBLIC;
             ALTER TABLE categoria OWNER TO {owner};
             GRANT USAGE ON SEQUENCE articulo_art_id_seq TO {clerk};",
            reader = reader.name,
            clerk = clerk.name,
            owner = owner.name,
        ))
        .await;
    let before = target.ask(GRANTS).await;
    for articles in [301, 302] {
        target.import(&Dump::new(articles, "dos")).await.unwrap();
        assert_eq!(target.ask(GRANTS).await, before);
    }
    let sequence = format!(
        "SELECT has_sequence_privilege('{}', 'public.articulo_art_id_seq', 'USAGE')::text",
        clerk.name
    );
    assert_eq!(target.ask(&sequence).await, "true");
    let pool = reader.pool().await;
    assert_eq!(ask(&pool, "SELECT count(*)::text FROM articulo").await.unwrap(), "302");
    assert!(ask(&pool, "UPDATE articulo SET precio1 = 0 RETURNING '1'").await.is_err());
    assert!(ask(&pool, "SELECT count(*)::text FROM relevo_prev_public.articulo").await.is_err());
    pool.close().await;
    for role in [reader, clerk, owner] {
        role.drop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_import_gives_what_default_privileges_promise() {
    let target = Target::new().await;
    let reader = target.role("reader").await;
    target
        .run(&format!(
            "ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO {reader};
             ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE ON SEQUENCES TO {reader};",
            reader = reader.name
        ))
        .await;
    let pool = reader.pool().await;
    for articles in [300, 301] {
        target.import(&Dump::new(articles, "uno")).await.unwrap();
        let rows = ask(&pool, "SELECT count(*)::text FROM articulo JOIN categoria USING (cat_id)");
        assert_ne!(rows.await.unwrap(), "0");
        let next = ask(&pool, "SELECT nextval('articulo_art_id_seq')::text");
        assert_eq!(next.await.unwrap(), (articles + 1).to_string());
    }
    pool.close().await;
    reader.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_importer_without_superuser_rights_needs_only_what_it_is_told() {
    let target = Target::new().await;
    let importer = target.role("importer").await;
    let mut options = target.options();
    options.target_url = importer.url().into();
    let import = |options: &relevo_import::DirectOptions, articles| {
        import_file(Dump::new(articles, "uno").reader(), options.clone(), Arc::new(NoProgress))
    };

    // It is told one missing right after the other, each with the statement that gives it.
    let mut told = Vec::new();
    let certificate = loop {
        match import(&options, 300).await {
            Ok(certificate) => break certificate,
            Err(error) => {
                let text = error.to_string();
                let remedy = text.rsplit_once("run: ").unwrap_or_else(|| panic!("{text}")).1;
                assert!(remedy.starts_with("GRANT "), "{text}");
                assert!(!told.contains(&remedy.to_owned()), "{remedy} did not help");
                target.run(remedy).await;
                told.push(remedy.to_owned());
            }
        }
    };
    assert_eq!(told.len(), 2, "CREATE on the database and on the schema: {told:?}");
    assert_eq!(certificate.rows, 314);

    // A table of somebody else is not silently given up halfway.
    let owner = target.role("owner").await;
    target.run(&format!("ALTER TABLE categoria OWNER TO {}", owner.name)).await;
    let error = import(&options, 301).await.unwrap_err();
    assert!(error.to_string().contains("may not replace table public.categoria"), "{error}");
    assert!(!error.is_transient());
    assert_eq!(target.count("articulo").await, 300);

    // As a member of the owner's role it may. That role may not create in public, so the new table
    // cannot be its own; it has every right on it.
    target.run(&format!("GRANT {} TO {}", owner.name, importer.name)).await;
    let certificate = import(&options, 301).await.unwrap();
    assert!(
        certificate.notices.iter().any(|notice| notice.contains("has every right on it")),
        "{:?}",
        certificate.notices
    );
    let pool = owner.pool().await;
    let changed = ask(&pool, "UPDATE categoria SET nombre = 'x' WHERE cat_id = 1 RETURNING nombre");
    assert_eq!(changed.await.unwrap(), "x");
    pool.close().await;
    importer.drop().await;
    owner.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_role_is_refused_before_any_work() {
    let target = Target::new().await;
    let reader = target.role("reader").await;
    let mut options = target.options();
    options.target_url = reader.url().into();
    let outcome = import_file(Dump::default().reader(), options, Arc::new(NoProgress)).await;
    let error = outcome.unwrap_err();
    assert!(matches!(error, ImportError::Target(_)), "{error:?}");
    assert!(error.to_string().contains("GRANT CREATE ON DATABASE"), "{error}");
    assert_eq!(target.own_schemas().await, "");
    reader.drop().await;
}
