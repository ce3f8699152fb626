//! `relevo run rollback` and its twin over HTTP: the data from before a run return, or the refusal
//! says by name why they cannot.

use relevo_runs::backup::BackupMode;
use relevo_tests::gateway::Fault;
use relevo_tests::{ShopDump, wait_for};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use super::cluster::{Cluster, RUN_TIMEOUT, prepare};

/// Asks for a rollback over HTTP.
async fn ask(cluster: &Cluster, run: i64) -> (StatusCode, Value) {
    let path = format!("/api/v1/runs/{run}/rollback");
    let answer = cluster.request(Method::POST, &path).send().await.unwrap();
    let status = answer.status();
    (status, answer.json().await.unwrap())
}

/// A new key with one scope.
async fn key_of(cluster: &Cluster, scope: &str) -> String {
    let made = cluster.relevo(["key", "create", "--name", scope, "--scope", scope, "--json"]).await;
    let key = made.json()["secret"].as_str().unwrap().to_owned();
    relevo_tests::planted::plant(&key);
    key
}

async fn must_refuse(cluster: &Cluster, run: i64, status: StatusCode, code: &str) {
    let (answered, problem) = ask(cluster, run).await;
    assert_eq!((answered, problem["code"].as_str()), (status, Some(code)), "{problem}");
}

#[tokio::test]
async fn the_data_from_before_a_run_come_back() {
    let before = ShopDump::committed();
    let after = ShopDump::generated(12, 7).await;
    let prepared = prepare(&before).set("chunk_store.chunk_size_bytes", 1 << 20);
    let cluster = Cluster::start(prepared).await;
    cluster.import(BackupMode::Sync, &before).await;
    cluster.gateway().serve(&after.path).await;
    let run = cluster.import(BackupMode::Sync, &after).await;

    // Who may only look, or enqueue, takes nothing back; who operates does, below.
    let path = format!("{}/api/v1/runs/{}/rollback", cluster.api_url(), run.id);
    for scope in ["read", "enqueue"] {
        let key = key_of(&cluster, scope).await;
        let answer = reqwest::Client::new().post(&path).header("X-API-Key", key).send().await;
        assert_eq!(answer.unwrap().status(), StatusCode::FORBIDDEN, "{scope}");
    }
    cluster.assert_target(&after).await;

    let id = run.id.to_string();
    let done = cluster.relevo(["run", "rollback", &id, "--json"]).await.json();
    assert_eq!((&done["already"], &done["schema"]), (&false.into(), &"public".into()), "{done}");
    let tables = done["tables"].as_array().unwrap();
    assert_eq!(tables.len(), before.reference.tables.len(), "{done}");
    cluster.assert_target(&before).await;

    let shown = cluster.relevo(["run", "show", &id, "--json"]).await.json();
    assert_eq!(shown["state"], "succeeded");
    assert!(shown["rolled_back_at"].is_string(), "{shown}");
    assert!(shown["rolled_back_by"].as_str().unwrap().starts_with("cli:"), "{shown}");
    let log = cluster.log(run.id).await;
    assert!(log.contains("rolled back by cli:"), "{log}");
    let audit = cluster.request(Method::GET, "/api/v1/audit?action=run.rollback").send().await;
    let audit: Value = audit.unwrap().json().await.unwrap();
    assert!(audit.to_string().contains("run.rollback"), "{audit}");

    // The answer may have been lost, so it is given again, by either door.
    let again = cluster.relevo(["run", "rollback", &id, "--json"]).await.json();
    assert_eq!(again["already"], true, "{again}");
    let (status, again) = ask(&cluster, run.id.0).await;
    assert_eq!((status, &again["already"]), (StatusCode::OK, &true.into()), "{again}");
    cluster.assert_target(&before).await;
    let key = key_of(&cluster, "operate").await;
    let answer = reqwest::Client::new().post(&path).header("X-API-Key", key).send().await;
    assert_eq!(answer.unwrap().status(), StatusCode::OK);

    // The next import takes its place over the ones that were put back.
    cluster.import(BackupMode::Sync, &after).await;
}

#[tokio::test]
async fn what_cannot_be_rolled_back_is_refused_by_name() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    must_refuse(&cluster, 99, StatusCode::NOT_FOUND, "run_not_found").await;
    let first = cluster.import(BackupMode::Sync, &dump).await;
    must_refuse(&cluster, first.id.0, StatusCode::CONFLICT, "nothing_kept").await;
    let second = cluster.import(BackupMode::Sync, &dump).await;
    must_refuse(&cluster, first.id.0, StatusCode::CONFLICT, "import_superseded").await;

    cluster.gateway().plan(vec![Fault::NotFound.always()]).await;
    let failed = cluster.start_run(BackupMode::Sync).await;
    cluster.ended(failed).await;
    must_refuse(&cluster, failed.0, StatusCode::CONFLICT, "run_not_succeeded").await;

    let slow = Fault::SlowDownload { bytes_per_second: 5_000 };
    cluster.gateway().plan(vec![slow.always()]).await;
    let active = cluster.start_run(BackupMode::Sync).await;
    must_refuse(&cluster, second.id.0, StatusCode::CONFLICT, "run_active").await;
    drop(cluster.relevo(["run", "cancel", &active.to_string()]).await.success());
    cluster.ended(active).await;
    cluster.assert_clean(active).await;

    sqlx::query("DROP SCHEMA relevo_prev_public CASCADE")
        .execute(cluster.target().pool())
        .await
        .unwrap();
    must_refuse(&cluster, second.id.0, StatusCode::CONFLICT, "previous_gone").await;
    let refused = cluster.relevo(["run", "rollback", &second.id.to_string()]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("relevo_prev_public"), "{refused:?}");
    cluster.assert_target(&dump).await;
    assert_eq!(cluster.run(second.id).await.rolled_back_at, None);
}

#[tokio::test]
async fn a_rollback_that_is_killed_is_done_by_the_next_call() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    cluster.import(BackupMode::Sync, &dump).await;
    let run = cluster.import(BackupMode::Sync, &dump).await;
    // A reader keeps the exchange waiting.
    let mut reader = cluster.target().pool().begin().await.unwrap();
    let table: String = sqlx::query_scalar(
        "SELECT oid::regclass::text FROM pg_class
         WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' LIMIT 1",
    )
    .fetch_one(&mut *reader)
    .await
    .unwrap();
    let lock = sqlx::AssertSqlSafe(format!("LOCK TABLE {table} IN ACCESS SHARE MODE"));
    sqlx::query(lock).execute(&mut *reader).await.unwrap();
    let process = relevo_tests::Process::builder("relevo")
        .args(["run", "rollback", &run.id.to_string()])
        .env("RELEVO_CONFIG", cluster.config())
        .spawn();
    wait_for("the rollback to wait for the reader", RUN_TIMEOUT, async || {
        let waits: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_stat_activity
                            WHERE datname = current_database() AND wait_event_type = 'Lock'
                              AND application_name LIKE '%rollback%')",
        )
        .fetch_one(cluster.target().pool())
        .await
        .unwrap();
        waits.then_some(())
    })
    .await;
    process.kill();
    reader.rollback().await.unwrap();
    assert_eq!(cluster.run(run.id).await.rolled_back_at, None);
    cluster.assert_target(&dump).await;

    let done = cluster.relevo(["run", "rollback", &run.id.to_string(), "--json"]).await.json();
    assert!(done["tables"].as_array().is_some_and(|tables| !tables.is_empty()), "{done}");
    assert!(cluster.run(run.id).await.rolled_back_at.is_some());
    cluster.assert_target(&dump).await;
}
