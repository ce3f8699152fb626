//! Runs that cannot succeed: the error says why, nothing is left behind, and the previous data are
//! what they were.

use relevo_queue::JobFilter;
use relevo_runs::RunState;
use relevo_runs::backup::BackupMode;
use relevo_tests::gateway::Fault;
use relevo_tests::{ShopDump, TestDatabase, wait_for};
use sqlx::AssertSqlSafe;

use super::cluster::{Cluster, RUN_TIMEOUT, prepare};

/// A cluster whose target holds a good import.
async fn with_previous_data(dump: &ShopDump) -> Cluster {
    let cluster = Cluster::start(prepare(dump).workers(2)).await;
    cluster.import(BackupMode::Sync, dump).await;
    cluster
}

/// Runs one import that has to fail for `reason`.
async fn must_fail(cluster: &Cluster, mode: BackupMode, reason: &str, dump: &ShopDump) {
    let id = cluster.start_run(mode).await;
    let run = cluster.ended(id).await;
    cluster.assert_failed(&run, reason).await;
    cluster.assert_target(dump).await;
    let filter = JobFilter { kinds: vec!["Notify".to_owned()], ..JobFilter::run(id.0) };
    assert_eq!(cluster.queue().jobs(&filter).await.unwrap().len(), 1, "nobody is told");
}

#[tokio::test]
async fn dumps_that_are_always_damaged() {
    let dump = ShopDump::committed();
    let cluster = with_previous_data(&dump).await;
    let size = std::fs::metadata(&dump.path).unwrap().len();
    for (fault, reason) in [
        (Fault::TruncateGzip { keep_bytes: size / 2 }, "cut off"),
        (Fault::CorruptGzip, "damaged"),
        (Fault::MissingCompleted, "Dump completed"),
        (Fault::WrongFilesize { delta: -5_000 }, "the gateway announced"),
    ] {
        cluster.gateway().plan(vec![fault.always()]).await;
        must_fail(&cluster, BackupMode::Sync, reason, &dump).await;
    }
    let record = cluster.gateway().record().await;
    assert_eq!(record.asked.len(), 1 + 4 * 3, "three requests a run, not for ever");
}

#[tokio::test]
async fn a_gateway_that_refuses() {
    let dump = ShopDump::committed();
    let cluster = with_previous_data(&dump).await;
    let error = "no hay espacio en el disco C:".to_owned();
    let refuses = Fault::RefuseBackup { error, status: 200 };
    cluster.gateway().plan(vec![refuses.always()]).await;
    must_fail(&cluster, BackupMode::Webhook, "no hay espacio en el disco C:", &dump).await;

    cluster
        .gateway()
        .plan(vec![Fault::FailBackup { error: "mysqldump murió".into() }.always()])
        .await;
    must_fail(&cluster, BackupMode::Webhook, "mysqldump murió", &dump).await;

    let elsewhere = Fault::ForeignUrl { base: "http://169.254.169.254".to_owned() };
    cluster.gateway().plan(vec![elsewhere.always()]).await;
    must_fail(&cluster, BackupMode::Sync, "169.254.169.254", &dump).await;

    cluster.gateway().plan(vec![Fault::NotFound.always()]).await;
    must_fail(&cluster, BackupMode::Sync, "no longer has the backup", &dump).await;
}

#[tokio::test]
async fn a_wrong_key() {
    let dump = ShopDump::committed();
    let prepared = prepare(&dump).set("backup.sicar.api_key", "clave-equivocada");
    let cluster = Cluster::start(prepared).await;
    for mode in [BackupMode::Webhook, BackupMode::Sync] {
        let id = cluster.start_run(mode).await;
        let run = cluster.ended(id).await;
        cluster.assert_failed(&run, "refused the API key").await;
        let error = run.error.unwrap_or_default();
        assert!(error.contains("TUNNEL_API_KEY"), "{error}");
        assert!(!error.contains("clave-equivocada"), "{error}");
    }
    // No retries: a key does not become right by trying.
    assert_eq!(cluster.gateway().record().await.unauthorised, 2);
    for worker in &cluster.workers {
        assert!(!worker.output().contains("clave-equivocada"), "the key is in a log");
    }
}

#[tokio::test]
async fn a_job_that_fails_too_often_fails_its_run() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump).workers(0)).await;
    cluster.gateway().plan(vec![Fault::Unavailable { status: 503 }.always()]).await;
    let id = cluster.start_run(BackupMode::Webhook).await;
    // Eight attempts would take minutes.
    sqlx::query("UPDATE relevo.job SET max_attempts = 2 WHERE run_id = $1")
        .bind(id.0)
        .execute(cluster.pool())
        .await
        .unwrap();
    cluster.start_worker().await;
    let run = cluster.ended(id).await;
    let reason = "RequestBackup failed for good after 2 attempt(s): the gateway is not available";
    cluster.assert_failed(&run, reason).await;
    let log = cluster.log(id).await;
    assert!(log.contains("trying again"), "{log}");
}

#[tokio::test]
async fn a_target_that_refuses() {
    let dump = ShopDump::committed();
    let elsewhere = TestDatabase::empty().await;
    let role = format!("{}_reader", elsewhere.name());
    let mut admin = elsewhere.pool().acquire().await.unwrap();
    for sql in
        [format!("CREATE ROLE {role} LOGIN"), format!("GRANT USAGE ON SCHEMA public TO {role}")]
    {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *admin).await.unwrap();
    }
    let url = elsewhere.url().replacen("//postgres@", &format!("//{role}@"), 1);
    assert_ne!(url, elsewhere.url());
    let cluster = Cluster::start(prepare(&dump).set("backup.sicar.target_url", url.as_str())).await;
    let id = cluster.start_run(BackupMode::Sync).await;
    let run = cluster.ended(id).await;
    cluster.assert_failed(&run, &role).await;
    drop(cluster);

    let missing = url.replace(elsewhere.name(), "no_such_database");
    let prepared = prepare(&dump).set("backup.sicar.target_url", missing.as_str());
    let cluster = Cluster::start(prepared).await;
    let id = cluster.start_run(BackupMode::Sync).await;
    let run = cluster.ended(id).await;
    assert_eq!(run.state, RunState::Failed);
    let error = run.error.unwrap_or_default();
    assert!(error.contains("no_such_database"), "{error}");
    drop(cluster);
    for sql in [format!("DROP OWNED BY {role}"), format!("DROP ROLE {role}")] {
        sqlx::query(AssertSqlSafe(sql)).execute(&mut *admin).await.unwrap();
    }
}

#[tokio::test]
async fn a_half_empty_dump_is_refused() {
    let full = ShopDump::generated(12, 7).await;
    let small = ShopDump::committed();
    let prepared = prepare(&full).set("chunk_store.chunk_size_bytes", 1 << 20);
    let cluster = Cluster::start(prepared).await;
    cluster.import(BackupMode::Sync, &full).await;
    cluster.gateway().serve(&small.path).await;
    must_fail(&cluster, BackupMode::Sync, "suspiciously small", &full).await;
}

#[tokio::test]
async fn a_run_is_cancelled_while_it_downloads() {
    let dump = ShopDump::committed();
    let cluster = with_previous_data(&dump).await;
    cluster.gateway().plan(vec![Fault::SlowDownload { bytes_per_second: 20_000 }.always()]).await;
    let id = cluster.start_run(BackupMode::Webhook).await;
    wait_for("the download to be under way", RUN_TIMEOUT, async || {
        let progress = cluster.run(id).await.progress?;
        (progress["done"].as_i64()? > 0).then_some(())
    })
    .await;
    cluster.runs().request_cancel(id, "a test").await.unwrap();
    let run = cluster.ended(id).await;
    assert_eq!(run.state, RunState::Cancelled, "{:?}", run.error);
    cluster.assert_clean(id).await;
    cluster.assert_target(&dump).await;
    // The source is free for the next run.
    cluster.gateway().plan(Vec::new()).await;
    cluster.import(BackupMode::Sync, &dump).await;
}

#[tokio::test]
async fn a_run_whose_jobs_are_gone_is_ended() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    cluster.gateway().plan(vec![Fault::WebhookNever.always()]).await;
    let id = cluster.start_run(BackupMode::Webhook).await;
    wait_for("the run to wait for its webhook", RUN_TIMEOUT, async || {
        let log = cluster.log(id).await;
        log.contains("will call back").then_some(())
    })
    .await;
    for job in cluster.queue().jobs(&JobFilter::run(id.0)).await.unwrap() {
        cluster.queue().cancel(job.id, "by hand").await.unwrap();
    }
    let run = cluster.ended(id).await;
    cluster.assert_failed(&run, "no job works for this run any more").await;
}
