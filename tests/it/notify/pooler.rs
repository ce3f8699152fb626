//! A pooler in transaction mode before the control plane and before a target: the doctor says so,
//! and whatever would need a session of its own refuses clearly instead of going wrong.

use relevo_runs::RunState;
use relevo_runs::backup::BackupMode;
use relevo_tests::{PgBouncer, ShopDump, TestDatabase};
use serde_json::Value;

use crate::backup::cluster::{Cluster, prepare};
use crate::cli::Relevo;

/// As a pooler is by default, and as one is set up that swallows a session's settings.
const IGNORED: [&str; 2] = ["", ", options"];

#[tokio::test]
async fn a_pooler_before_the_control_plane_is_found_and_refused() {
    let (control, target) = TestDatabase::pair().await;
    for ignored in IGNORED {
        let pooler = PgBouncer::start(control.url(), ignored).await;
        let relevo = Relevo::new()
            .env("RELEVO_DATABASE_URL", pooler.before(control.url()))
            .env("DATABASE_URL", pooler.before(target.url()))
            .env("TUNNEL_API_URL", "http://127.0.0.1:9")
            .env("TUNNEL_API_KEY", "key-of-the-gateway");
        let answer = relevo.run(&["doctor", "--json"]).await;
        assert_eq!(answer.code, 1, "{answer:?}");
        let report: Value = serde_json::from_str(&answer.out).unwrap();
        let findings = report["findings"].as_array().unwrap();
        for subject in ["database", "backup.sicar.target"] {
            let found = findings.iter().find(|finding| {
                finding["check"] == "postgres.pooler" && finding["subject"] == subject
            });
            let found = found.unwrap_or_else(|| panic!("{subject}{ignored}: {report:#}"));
            assert_eq!(found["level"], "problem");
            let advice = found["advice"].as_str().unwrap();
            let wanted = if subject == "database" { "direct_url" } else { "LISTEN" };
            assert!(advice.contains("own address") && advice.contains(wanted), "{advice}");
        }
        for command in [&["job", "list"][..], &["migrate"], &["worker"], &["scheduler"], &["api"]] {
            let answer = relevo.run(command).await;
            assert_eq!(answer.code, 4, "{command:?}{ignored}: {answer:?}");
            assert!(answer.err.contains("pooler"), "{command:?}{ignored}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn an_import_through_a_pooler_fails_by_name_and_touches_nothing() {
    let (control, target) = TestDatabase::pair().await;
    let pooler = PgBouncer::start(target.url(), IGNORED[1]).await;
    let dump = ShopDump::committed();
    let through = pooler.before(target.url());
    let prepared =
        prepare(&dump).set("backup.sicar.target_url", through).databases((control, target));
    let cluster = Cluster::start(prepared).await;
    let run = cluster.start_run(BackupMode::Sync).await;
    let run = cluster.ended(run).await;
    assert_eq!(run.state, RunState::Failed);
    let error = run.error.unwrap();
    assert!(error.contains("pooler") && error.contains("own address"), "{error}");
    let tables: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
          WHERE c.relkind = 'r' AND n.nspname !~ '^(pg_|information_schema)'",
    )
    .fetch_one(cluster.target().pool())
    .await
    .unwrap();
    assert_eq!(tables, 0);
}
