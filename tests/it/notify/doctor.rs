//! `relevo doctor`: what is wrong is found, with what to do about it.

use relevo_tests::{Gateway, OwnPostgres, ShopDump, TestDatabase, gateway};
use serde_json::Value;

use crate::api::server::Server;
use crate::cli::Relevo;

/// The findings of a run of the doctor, and its exit code.
async fn examined(relevo: &Relevo, args: &[&str]) -> (i32, Vec<Value>) {
    let answer = relevo.run(&[&["doctor", "--json"], args].concat()).await;
    let report: Value = serde_json::from_str(&answer.out)
        .unwrap_or_else(|error| panic!("no report ({error}): {answer:?}"));
    (answer.code, report["findings"].as_array().unwrap().clone())
}

/// The finding of a check about a subject.
#[track_caller]
fn found<'a>(findings: &'a [Value], check: &str, subject: &str) -> &'a Value {
    let wanted = |finding: &&Value| finding["check"] == check && finding["subject"] == subject;
    findings
        .iter()
        .find(wanted)
        .unwrap_or_else(|| panic!("no {check} of {subject} in {findings:#?}"))
}

#[tokio::test]
async fn a_control_plane_that_is_missing_old_or_away_is_found() {
    let empty = TestDatabase::empty().await;
    let (code, findings) = examined(&Relevo::on(&empty), &[]).await;
    assert_eq!(code, 1);
    let schema = found(&findings, "control_plane.schema", "database");
    assert_eq!(schema["level"], "problem");
    assert!(schema["advice"].as_str().unwrap().contains("relevo migrate"), "{schema}");
    assert_eq!(found(&findings, "postgres.version", "database")["level"], "ok");
    assert_eq!(found(&findings, "postgres.clock", "database")["level"], "ok");

    let away = Relevo::new().env("RELEVO_DATABASE_URL", "postgres://u:p4ss@127.0.0.1:1/x");
    let (code, findings) = examined(&away, &[]).await;
    assert_eq!(code, 1);
    let reachable = found(&findings, "control_plane.reachable", "database");
    assert!(reachable["message"].as_str().unwrap().contains("127.0.0.1:1"), "{reachable}");
    assert!(!reachable.to_string().contains("p4ss"));
    // No database is configured, and no embedded one runs.
    let (code, findings) = examined(&Relevo::new(), &[]).await;
    assert_eq!(code, 1);
    found(&findings, "control_plane.reachable", "database");
}

#[tokio::test]
async fn a_whole_shop_is_examined_part_by_part() {
    // A server of its own: that of the tests may run without fsync, which is a problem.
    let server = OwnPostgres::start().await;
    let (control, target) = (server.database("control").await, server.database("shop").await);
    let gateway = Gateway::start(&ShopDump::committed().path, 0.002).await;
    let good = || {
        Relevo::new()
            .env("RELEVO_DATABASE_URL", control.clone())
            .env("TUNNEL_API_URL", gateway.url())
            .env("TUNNEL_API_KEY", gateway::API_KEY)
            .env("DATABASE_URL", target.clone())
    };
    good().ok(&["migrate"]).await;
    let (code, findings) = examined(&good(), &[]).await;
    assert_eq!(code, 0, "{findings:#?}");
    assert_eq!(found(&findings, "control_plane.schema", "database")["level"], "ok");
    assert_eq!(found(&findings, "connection.usable", "backup.sicar.gateway")["level"], "ok");
    assert_eq!(found(&findings, "target.rights", "backup.sicar.target")["level"], "ok");
    // It works, but nobody runs it and nobody would hear of a failure.
    for (check, subject) in [
        ("control_plane.workers", "database"),
        ("control_plane.scheduler", "database"),
        ("notify.channels", "notify"),
    ] {
        assert_eq!(found(&findings, check, subject)["level"], "warning");
    }
    assert_eq!(examined(&good(), &["--strict"]).await.0, 1);

    let (code, findings) = examined(&good().env("TUNNEL_API_KEY", "another-key"), &[]).await;
    assert_eq!(code, 1);
    let refused = found(&findings, "connection.usable", "backup.sicar.gateway");
    assert!(refused["message"].as_str().unwrap().contains("refuses the API key"), "{refused}");

    let relevo = good()
        .env("NOTIFICATION_EMAIL", "ops@example.com")
        .env("RELEVO_API_PUBLIC_URL", "http://127.0.0.1:1");
    let (_, findings) = examined(&relevo, &[]).await;
    assert_eq!(found(&findings, "notify.email", "notify")["level"], "warning");
    assert_eq!(found(&findings, "api.public_url", "api")["level"], "warning");
    let text = relevo.run(&["doctor"]).await.out;
    assert!(text.contains("WARNING") && text.contains("do: set smtp.host"), "{text}");
}

#[tokio::test]
async fn missing_rights_and_unsafe_settings_of_a_target_are_found() {
    let (control, target) = TestDatabase::pair().await;
    let gateway = Gateway::start(&ShopDump::committed().path, 0.002).await;
    let role = format!("{}_reader", target.name());
    let name = target.name();
    for statement in [
        format!("CREATE ROLE {role} LOGIN PASSWORD 'p4ss'"),
        format!("REVOKE CREATE ON SCHEMA public FROM PUBLIC, {role}"),
        format!("REVOKE CREATE ON DATABASE {name} FROM PUBLIC"),
        "CREATE TABLE articulo (art_id integer)".to_owned(),
        format!("ALTER ROLE {role} SET synchronous_commit = off"),
        format!("ALTER ROLE {role} SET default_transaction_read_only = on"),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(statement)).execute(target.pool()).await.unwrap();
    }
    let url = target.url().replacen("postgres://postgres@", &format!("postgres://{role}:p4ss@"), 1);
    assert!(url.contains(&role), "{url}");
    let relevo = Relevo::on(&control)
        .env("TUNNEL_API_URL", gateway.url())
        .env("TUNNEL_API_KEY", gateway::API_KEY)
        .env("DATABASE_URL", url);
    let (code, findings) = examined(&relevo, &[]).await;
    sqlx::query(sqlx::AssertSqlSafe(format!("DROP OWNED BY {role}")))
        .execute(target.pool())
        .await
        .ok();
    sqlx::query(sqlx::AssertSqlSafe(format!("DROP ROLE {role}"))).execute(target.pool()).await.ok();
    assert_eq!(code, 1);
    let subject = "backup.sicar.target";
    for (check, level, advice) in [
        ("target.create_schemas", "problem", "GRANT CREATE ON DATABASE"),
        ("target.create_tables", "problem", "GRANT CREATE, USAGE ON SCHEMA public"),
        ("target.owner", "warning", "OWNER TO"),
        ("target.statistics", "note", "pg_read_all_stats"),
        ("postgres.synchronous_commit", "warning", "synchronous_commit = on"),
        ("postgres.read_only", "problem", "primary"),
    ] {
        let finding = found(&findings, check, subject);
        assert_eq!(finding["level"], level, "{finding}");
        assert!(finding["advice"].as_str().unwrap().contains(advice), "{finding}");
    }
    assert!(!format!("{findings:?}").contains("p4ss"));
}

#[tokio::test]
async fn over_http_the_doctor_answers_administrators_only() {
    let server = Server::start().await;
    let report = server.get("/api/v1/doctor").await.ok(200);
    assert_eq!(report["worst"], "problem");
    let findings = report["findings"].as_array().unwrap();
    found(findings, "control_plane.schema", "database");
    assert_eq!(found(findings, "postgres.reachable", "backup.sicar.target")["level"], "problem");
    let (_, reader) = server.key_for(&[relevo_runs::api_keys::Scope::Read]).await;
    let request = server.client.get(server.url("/api/v1/doctor")).header("X-API-Key", reader);
    crate::api::server::answer(request).await.refused(403, "missing_scope");
}
