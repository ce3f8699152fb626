//! Runs that cannot succeed: the error says why, nothing is left behind, and the previous data are
//! what they were. And what must not touch each other: control planes that share a disk.

use relevo_queue::JobFilter;
use relevo_runs::RunState;
use relevo_runs::backup::{BackupMode, StartOptions, start_in};
use relevo_tests::gateway::Fault;
use relevo_tests::{ShopDump, TestDatabase, wait_for};
use sqlx::AssertSqlSafe;

use super::cluster::{Cluster, RUN_TIMEOUT, files, prepare};

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
        (Fault::WrongFilesize { delta: -5_000 }, "bytes were announced"),
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
    cluster.load_file(&dump).await;
    for mode in [BackupMode::Webhook, BackupMode::Sync] {
        let id = cluster.start_run(mode).await;
        let run = cluster.ended(id).await;
        cluster.assert_failed(&run, "refused the API key").await;
        cluster.assert_target(&dump).await;
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
    // A source that the workers were started without.
    let mut tx = cluster.pool().begin().await.unwrap();
    let options = StartOptions::default();
    let id = start_in(&mut tx, &cluster.queue(), "otra", &options, "test").await.unwrap();
    tx.commit().await.unwrap();
    // All its attempts would take hours.
    sqlx::query("UPDATE relevo.job SET max_attempts = 2 WHERE run_id = $1")
        .bind(id.0)
        .execute(cluster.pool())
        .await
        .unwrap();
    cluster.start_worker().await;
    let run = cluster.ended(id).await;
    let reason = "RequestBackup failed for good after 2 attempt(s): source \"otra\"";
    cluster.assert_failed(&run, reason).await;
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

#[tokio::test]
async fn a_run_cancelled_before_its_cutover_does_not_cut_over() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    let queue = cluster.queue();
    queue.pause("translate").await.unwrap();
    let id = cluster.start_run(BackupMode::Sync).await;
    wait_for("the download to end", RUN_TIMEOUT, async || {
        (cluster.run(id).await.phase == "load").then_some(())
    })
    .await;
    queue.pause("backup").await.unwrap();
    queue.resume("translate").await.unwrap();
    let finish = JobFilter { kinds: vec!["FinishImport".to_owned()], ..JobFilter::run(id.0) };
    wait_for("the finish to be due", RUN_TIMEOUT, async || {
        queue.jobs(&finish).await.unwrap().into_iter().next()
    })
    .await;
    // It is wanted cancelled in the very moment in which its last phase begins: the finish has read
    // the run already and waits for its row.
    let mut wish = cluster.pool().begin().await.unwrap();
    cluster.runs().request_cancel_in(&mut wish, id, "a test").await.unwrap();
    queue.resume("backup").await.unwrap();
    wait_for("the finish to wait for the run", RUN_TIMEOUT, async || {
        let waits: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_stat_activity
                            WHERE datname = current_database() AND wait_event_type = 'Lock'
                              AND query LIKE '%relevo.run%')",
        )
        .fetch_one(cluster.pool())
        .await
        .unwrap();
        waits.then_some(())
    })
    .await;
    wish.commit().await.unwrap();
    let run = cluster.ended(id).await;
    assert_eq!(run.state, RunState::Cancelled, "{:?}", run.error);
    assert_ne!(run.phase, "finish", "it entered its last phase");
    cluster.assert_clean(id).await;
    let tables: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'",
    )
    .fetch_one(cluster.target().pool())
    .await
    .unwrap();
    assert_eq!(tables, 0, "a cancelled run went live");
}

#[tokio::test]
async fn a_new_control_plane_over_an_old_data_dir() {
    let dump = ShopDump::committed();
    let folder = tempfile::tempdir().unwrap();
    let data_dir = folder.path().join("data");
    let shared = |prepared: relevo_tests::ClusterBuilder| {
        prepared.set("data_dir", data_dir.to_string_lossy().into_owned())
    };
    let old = Cluster::start(shared(prepare(&dump))).await;
    let id = old.start_run(BackupMode::Sync).await;
    let run = old.ended(id).await;
    assert_eq!((run.id.0, run.state), (1, RunState::Succeeded), "{:?}", run.error);
    wait_for("the clean-up after the run", RUN_TIMEOUT, async || old.run(id).await.cleaned_at)
        .await;
    let old_id: String = sqlx::query_scalar("SELECT cluster_id FROM relevo.control")
        .fetch_one(old.pool())
        .await
        .unwrap();
    drop(old);
    // What the old one would have left had it been killed: the new one's first run and request have
    // the same numbers.
    let part = data_dir.join(format!("incoming/{old_id}-run1-request1.part"));
    let chunk = data_dir.join(format!("chunks/{old_id}/1/1/000000.chunk"));
    for path in [&part, &chunk] {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"of somebody else").unwrap();
    }
    let before = files(&data_dir);

    let mut new = Cluster::start(shared(prepare(&dump).workers(0))).await;
    // The tests' databases are copies of one, which made its id once for all of them.
    sqlx::query("UPDATE relevo.control SET cluster_id = '0ddba11e'")
        .execute(new.pool())
        .await
        .unwrap();
    new.start_worker().await;
    let id = new.start_run(BackupMode::Sync).await;
    assert_eq!(id.0, 1);
    let run = new.ended(id).await;
    assert_eq!(run.state, RunState::Succeeded, "{:?}", run.error);
    new.assert_target(&dump).await;
    wait_for("the clean-up after the run", RUN_TIMEOUT, async || new.run(id).await.cleaned_at)
        .await;
    let after = files(&data_dir);
    for path in &before {
        assert!(after.contains(path), "{path} is gone; there are {after:?}");
    }
    let own: Vec<_> = after.iter().filter(|path| !before.contains(path)).collect();
    assert_eq!(own.len(), 1, "of its own it keeps the dump: {own:?}");
}
