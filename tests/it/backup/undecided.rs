//! Runs that are to end in their last phase while their target cannot be asked whether the cutover
//! happened: nothing is claimed, and nobody else waits for it.

use std::path::Path;

use relevo_runs::backup::{BackupMode, StartOptions, start_in};
use relevo_runs::{RunId, RunState};
use relevo_tests::gateway::{API_KEY, Fault};
use relevo_tests::{Gateway, OwnPostgres, ShopDump, wait_for};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, PgPool, PgTransaction};

use super::cluster::{Cluster, RUN_TIMEOUT, prepare};

/// Waits until the run is in its last phase and the cutover waits for a reader.
async fn waits_for_readers(cluster: &Cluster, id: RunId) {
    wait_for("the cutover to wait", RUN_TIMEOUT, async || {
        let run = cluster.run(id).await;
        let message = run.progress?["message"].as_str()?.to_owned();
        (run.phase == "finish" && message.contains("cutover")).then_some(())
    })
    .await;
}

/// A reader that keeps the tables of a target in use.
async fn reader(target: &PgPool) -> PgTransaction<'static> {
    let mut reader = target.begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM articulo").execute(&mut *reader).await.unwrap();
    reader
}

#[tokio::test]
async fn a_target_that_is_away_holds_up_no_other_source() {
    let dump = ShopDump::committed();
    let postgres = OwnPostgres::start().await;
    let url = postgres.database("tienda").await;
    let other = Gateway::start(&dump.path, 0.002).await;
    let prepared = prepare(&dump)
        .set("backup.otra.gateway_url", other.url())
        .set("backup.otra.api_key", API_KEY)
        .set("backup.otra.target_url", url.as_str())
        .set("backup.otra.schedule_enabled", false);
    let cluster = Cluster::start(prepared).await;
    let start_other = async || {
        let mut tx = cluster.pool().begin().await.unwrap();
        let options = StartOptions { mode: BackupMode::Sync, ..StartOptions::default() };
        let id = start_in(&mut tx, &cluster.queue(), "otra", &options, "test").await.unwrap();
        tx.commit().await.unwrap();
        id
    };
    let first = start_other().await;
    assert_eq!(cluster.ended(first).await.state, RunState::Succeeded);

    let mut reader = PgConnection::connect(&url).await.unwrap();
    for sql in ["BEGIN", "SELECT count(*) FROM articulo"] {
        sqlx::query(sql).execute(&mut reader).await.unwrap();
    }
    let held_up = start_other().await;
    waits_for_readers(&cluster, held_up).await;
    postgres.crash();
    cluster.runs().request_cancel(held_up, "a test").await.unwrap();

    // Another source's run is cancelled meanwhile, and cleaned up after.
    cluster.gateway().plan(vec![Fault::SlowDownload { bytes_per_second: 5_000 }.always()]).await;
    let id = cluster.start_run(BackupMode::Sync).await;
    wait_for("the download to be under way", RUN_TIMEOUT, async || {
        (cluster.run(id).await.progress?["done"].as_i64()? > 0).then_some(())
    })
    .await;
    cluster.runs().request_cancel(id, "a test").await.unwrap();
    assert_eq!(cluster.ended(id).await.state, RunState::Cancelled);
    wait_for("the clean-up after the run", RUN_TIMEOUT, async || cluster.run(id).await.cleaned_at)
        .await;
    assert!(!cluster.run(held_up).await.state.is_ended(), "nobody can know that");

    postgres.start_again();
    assert_eq!(cluster.ended(held_up).await.state, RunState::Cancelled);
    cluster.assert_clean(held_up).await;
}

/// Rewrites the configuration file without the sections whose names begin so; returns what it was.
fn without(config: &Path, section: &str) -> String {
    let before = std::fs::read_to_string(config).unwrap();
    let mut left_out = false;
    let kept: Vec<&str> = before
        .lines()
        .filter(|line| {
            if line.starts_with('[') {
                left_out = line.starts_with(&format!("[{section}"));
            }
            !left_out
        })
        .collect();
    std::fs::write(config, kept.join("\n")).unwrap();
    before
}

#[tokio::test]
async fn a_worker_that_does_not_know_the_source_claims_nothing_about_its_target() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump)).await;
    cluster.import(BackupMode::Sync, &dump).await;
    let reader = reader(cluster.target().pool()).await;
    let id = cluster.start_run(BackupMode::Sync).await;
    waits_for_readers(&cluster, id).await;
    cluster.workers.remove(0).kill();
    let settings = without(cluster.config(), "backup");
    cluster.start_worker().await;
    cluster.runs().request_cancel(id, "a test").await.unwrap();
    wait_for("the worker to look at the run", RUN_TIMEOUT, async || {
        cluster.workers[0].output().contains("the run cannot be ended yet").then_some(())
    })
    .await;
    assert!(!cluster.run(id).await.state.is_ended());

    // It is waited for somebody who knows for an hour.
    sqlx::query("UPDATE relevo.run SET updated_at = now() - interval '61 minutes' WHERE id = $1")
        .bind(id.0)
        .execute(cluster.pool())
        .await
        .unwrap();
    let run = cluster.ended(id).await;
    assert_eq!((run.state, run.is_undecided()), (RunState::Failed, true), "{:?}", run.error);
    let error = run.error.unwrap_or_default();
    assert!(error.contains("\"sicar\" is not configured here"), "{error}");
    assert!(error.contains("look into its table relevo_ledger.import"), "{error}");
    let log = cluster.log(id).await;
    assert!(!log.contains("previous data are untouched"), "{log}");

    // Who knows the source again finds what was left.
    reader.rollback().await.unwrap();
    cluster.workers.remove(0).kill();
    std::fs::write(cluster.config(), settings).unwrap();
    cluster.start_worker().await;
    cluster.assert_clean(id).await;
    cluster.assert_target(&dump).await;
    cluster.import(BackupMode::Sync, &dump).await;
}

#[tokio::test]
async fn a_target_that_refuses_whoever_repeats_the_finish_is_asked_again() {
    let dump = ShopDump::committed();
    let postgres = OwnPostgres::start().await;
    let url = postgres.database("tienda").await;
    let prepared = prepare(&dump).set("backup.sicar.target_url", url.as_str());
    let mut cluster = Cluster::start(prepared).await;
    let first = cluster.start_run(BackupMode::Sync).await;
    assert_eq!(cluster.ended(first).await.state, RunState::Succeeded);

    let mut reader = PgConnection::connect(&url).await.unwrap();
    for sql in ["BEGIN", "SELECT count(*) FROM articulo"] {
        sqlx::query(sql).execute(&mut reader).await.unwrap();
    }
    let id = cluster.start_run(BackupMode::Sync).await;
    waits_for_readers(&cluster, id).await;
    cluster.workers.remove(0).kill();
    drop(reader);

    // As if somebody had mended a name at the wrong moment: this is no server that is down.
    let mut admin = PgConnection::connect(&postgres.database("aparte").await).await.unwrap();
    wait_for("the database to be left alone", RUN_TIMEOUT, async || {
        let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE datname = 'tienda'";
        sqlx::query(ended).execute(&mut admin).await.unwrap();
        let renamed = sqlx::query("ALTER DATABASE tienda RENAME TO otra").execute(&mut admin).await;
        renamed.ok()
    })
    .await;
    cluster.start_worker().await;
    wait_for("the finish to be repeated", RUN_TIMEOUT, async || {
        cluster.log(id).await.contains("only the target knows").then_some(())
    })
    .await;
    assert!(!cluster.run(id).await.state.is_ended(), "nobody can know that");

    sqlx::query("ALTER DATABASE otra RENAME TO tienda").execute(&mut admin).await.unwrap();
    let run = cluster.ended(id).await;
    assert_eq!(run.state, RunState::Succeeded, "{:?}", run.error);
    let log = cluster.log(id).await;
    assert!(!log.contains("previous data are untouched"), "{log}");
}
