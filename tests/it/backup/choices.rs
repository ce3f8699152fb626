//! What a source's settings say of the dump's tables, types and values is what its backups do.

use std::time::Duration;

use relevo_runs::RunState;
use relevo_runs::backup::BackupMode;
use relevo_tests::ShopDump;
use serde_json::json;
use sqlx::PgPool;

use super::cluster::Cluster;
use super::sources::{of_kind, put};
use crate::import::dump::Dump;

#[tokio::test]
async fn a_sources_choices_reach_every_step_of_its_backups() {
    let folder = tempfile::tempdir().unwrap();
    let (packed, path) = (folder.path().join("made.sql.gz"), folder.path().join("shop.sql.gz"));
    std::fs::write(&packed, Dump::default().gzip()).unwrap();
    put(&packed, &path, Duration::from_secs(3_600));
    let settings = [
        ("path", json!(path)),
        ("settle_seconds", json!(1)),
        ("exclude", json!(["dep*"])),
        ("rename", json!(["articulo=article"])),
        ("where", json!("article=art_id <= 100\n")),
        ("columns", json!("articulo.art_id=bigint\narticulo.modificado=timestamp")),
        ("types", json!("blob=bytea\ndecimal(10,2)=numeric")),
        ("zero_dates", json!("adapt")),
    ];
    let cluster = Cluster::start(of_kind(&ShopDump::committed(), "file", &settings)).await;
    let id = cluster.start_run(BackupMode::Auto).await;
    let run = cluster.ended(id).await;
    let log = cluster.log(id).await;
    assert_eq!(run.state, RunState::Succeeded, "{:?}\n{log}", run.error);
    let certificate = run.certificate.as_ref().unwrap();
    let tables = certificate["tables"].as_array().unwrap();
    let article = tables.iter().find(|table| table["table"] == "article").unwrap();
    assert_eq!(article["rows_dump"], 300, "{article}");
    assert_eq!(article["rows_filtered"], 200, "{article}");
    let target = PgPool::connect(cluster.target().url()).await.unwrap();
    let columns: Vec<String> = sqlx::query_scalar(
        "SELECT format('%s.%s %s', c.relname, a.attname, format_type(a.atttypid, a.atttypmod))
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0
           AND a.attname IN ('art_id', 'modificado', 'precio1', 'dep_id')
         ORDER BY 1",
    )
    .fetch_all(&target)
    .await
    .unwrap();
    let expected = [
        "article.art_id bigint",
        "article.modificado timestamp(0) without time zone",
        "article.precio1 numeric",
        "categoria.dep_id integer",
    ];
    assert_eq!(columns, expected);
    let rows: i64 =
        sqlx::query_scalar("SELECT count(*) FROM article").fetch_one(&target).await.unwrap();
    assert_eq!(rows, 100);
    target.close().await;
}

#[tokio::test]
async fn a_policy_that_refuses_a_value_fails_the_run_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let (packed, path) = (folder.path().join("made.sql.gz"), folder.path().join("shop.sql.gz"));
    std::fs::write(&packed, Dump::default().gzip()).unwrap();
    put(&packed, &path, Duration::from_secs(3_600));
    let settings =
        [("path", json!(path)), ("settle_seconds", json!(1)), ("zero_dates", json!("fail"))];
    let cluster = Cluster::start(of_kind(&ShopDump::committed(), "file", &settings)).await;
    let id = cluster.start_run(BackupMode::Auto).await;
    let run = cluster.ended(id).await;
    cluster.assert_failed(&run, "0000-00-00").await;
}

#[tokio::test]
async fn rows_that_are_refused_are_set_aside_where_a_source_allows_it() {
    let folder = tempfile::tempdir().unwrap();
    let (packed, path) = (folder.path().join("made.sql.gz"), folder.path().join("shop.sql.gz"));
    std::fs::write(&packed, Dump::default().gzip()).unwrap();
    put(&packed, &path, Duration::from_secs(3_600));
    let settings = [
        ("path", json!(path)),
        ("settle_seconds", json!(1)),
        // Every seventh of 300.
        ("zero_dates", json!("fail")),
        ("quarantine", json!(42)),
    ];
    let cluster = Cluster::start(of_kind(&ShopDump::committed(), "file", &settings)).await;
    let id = cluster.start_run(BackupMode::Auto).await;
    let run = cluster.ended(id).await;
    let log = cluster.log(id).await;
    assert_eq!(run.state, RunState::Succeeded, "{:?}\n{log}", run.error);
    let certificate = run.certificate.as_ref().unwrap();
    let tables = certificate["tables"].as_array().unwrap();
    let article = tables.iter().find(|table| table["table"] == "articulo").unwrap();
    assert_eq!((&article["rows_dump"], &article["rows_target"]), (&json!(300), &json!(258)));
    assert_eq!(article["rows_quarantined"], 42, "{article}");
    let target = PgPool::connect(cluster.target().url()).await.unwrap();
    let waiting: i64 =
        sqlx::query_scalar("SELECT count(*) FROM relevo_ledger.quarantine WHERE state = 'waiting'")
            .fetch_one(&target)
            .await
            .unwrap();
    assert_eq!(waiting, 42);
    target.close().await;
}
