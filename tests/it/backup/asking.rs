//! Asking a gateway that is down, slow or mute: how often, how long, and what is said about it.

use std::time::{Duration, Instant};

use relevo_jobs::{JobKind, RequestBackup, RequestMode};
use relevo_queue::{JobFilter, JobState};
use relevo_runs::backup::BackupMode;
use relevo_runs::{RunId, typed_job};
use relevo_tests::gateway::{Fault, WEBHOOK_URL};
use relevo_tests::{Gateway, ShopDump, wait_for};

use super::cluster::{Cluster, RUN_TIMEOUT, prepare};

/// Waits until the log of a run says something.
async fn says(cluster: &Cluster, id: RunId, what: &str) {
    wait_for(&format!("the log to say {what:?}"), RUN_TIMEOUT, async || {
        cluster.log(id).await.contains(what).then_some(())
    })
    .await;
}

/// How many attempts the run's jobs of a kind have spent, the last of them.
async fn attempts(cluster: &Cluster, id: RunId, kind: JobKind) -> i32 {
    let filter = JobFilter { kinds: vec![kind.as_str().to_owned()], ..JobFilter::run(id.0) };
    cluster.queue().jobs(&filter).await.unwrap()[0].attempt
}

#[tokio::test]
async fn a_gateway_that_comes_back_is_asked_again() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    cluster.gateway().process().kill();
    let id = cluster.start_run(BackupMode::Sync).await;
    says(&cluster, id, "could not be reached").await;
    says(&cluster, id, "trying again in").await;
    let back = Gateway::start_at(cluster.gateway().address(), &dump.path, 0.002).await;
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &dump).await;
    assert_eq!(back.record().await.asked.len(), 1);
    // However long that takes, it costs no attempts.
    assert_eq!(attempts(&cluster, id, JobKind::RequestBackup).await, 1);
}

#[tokio::test]
async fn patience_with_a_gateway_that_stays_away_ends() {
    let dump = ShopDump::committed();
    let prepared = prepare(&dump).set("backup.sicar.gateway_patience_seconds", 10);
    let cluster = Cluster::start(prepared).await;
    cluster.import(BackupMode::Sync, &dump).await;
    cluster.gateway().process().kill();
    for mode in [BackupMode::Webhook, BackupMode::Sync] {
        let id = cluster.start_run(mode).await;
        let run = cluster.ended(id).await;
        cluster.assert_failed(&run, "it was tried").await;
        let error = run.error.unwrap_or_default();
        assert!(error.contains("check that it is there"), "{error}");
        let asked_for = run.finished_at.unwrap() - run.created_at;
        assert!(asked_for.num_seconds() >= 10, "it gave up after {asked_for}");
        assert_eq!(attempts(&cluster, id, JobKind::RequestBackup).await, 1);
    }
    cluster.assert_target(&dump).await;
}

#[tokio::test]
async fn a_download_without_headway_is_put_off() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    cluster.gateway().plan(vec![Fault::SlowBackup { seconds: 3.0 }.times(1)]).await;
    let id = cluster.start_run(BackupMode::Webhook).await;
    wait_for("the gateway to be asked", RUN_TIMEOUT, async || {
        (cluster.gateway().record().await.asked.len() == 1).then_some(())
    })
    .await;
    // One job's worth of fruitless connections, and one more.
    cluster.gateway().plan(vec![Fault::Unavailable { status: 503 }.times(7)]).await;
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &dump).await;
    let log = cluster.log(id).await;
    assert!(log.contains("the download broke 6 times in a row"), "{log}");
    assert_eq!(attempts(&cluster, id, JobKind::DownloadDump).await, 1);
}

#[tokio::test]
async fn after_a_lost_synchronous_answer_the_gateway_is_left_alone_for_a_while() {
    let dump = ShopDump::committed();
    let prepared = prepare(&dump).set("backup.sicar.sync_timeout_seconds", 10);
    let cluster = Cluster::start(prepared).await;
    for fault in [Fault::LoseAnswer, Fault::Unavailable { status: 502 }] {
        let asked_before = cluster.gateway().record().await.asked.len();
        cluster.gateway().plan(vec![fault.clone().times(1)]).await;
        let began = Instant::now();
        let run = cluster.import(BackupMode::Sync, &dump).await;
        let log = cluster.log(run.id).await;
        assert!(log.contains("may be making the backup all the same"), "{log}");
        // It keeps only two backups, so it is asked once more, and not at once.
        assert!(began.elapsed() > Duration::from_secs(10), "{fault:?}: {:?}", began.elapsed());
        let asked = &cluster.gateway().record().await.asked[asked_before..];
        if fault == Fault::LoseAnswer {
            assert_eq!(asked.len(), 2);
            assert!(asked[1].at_ms - asked[0].at_ms >= 10_000, "{asked:?}");
        } else {
            // The proxy before it did not let the first one through.
            assert_eq!(asked.len(), 1);
        }
    }
}

#[tokio::test]
async fn a_worker_killed_while_it_asks_does_not_ask_twice_at_once() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump)).await;
    cluster.gateway().plan(vec![Fault::SlowBackup { seconds: 60.0 }.times(1)]).await;
    let id = cluster.start_run(BackupMode::Sync).await;
    wait_for("the gateway to be asked", RUN_TIMEOUT, async || {
        (cluster.gateway().record().await.asked.len() == 1).then_some(())
    })
    .await;
    cluster.replace_worker(0).await;
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &dump).await;
    let asked = cluster.gateway().record().await.asked;
    assert_eq!(asked.len(), 2);
    // The 15 s that a synchronous answer may take here, counted from the call.
    assert!(asked[1].at_ms - asked[0].at_ms >= 14_500, "{asked:?}");
}

#[tokio::test]
async fn a_gateway_that_never_answers_is_not_asked_for_ever() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump).workers(0)).await;
    cluster.gateway().plan(vec![Fault::Unavailable { status: 504 }.always()]).await;
    let id = cluster.start_run(BackupMode::Sync).await;
    // The four calls before would take minutes: the pauses between them grow.
    sqlx::query("UPDATE relevo.run SET notes = '{\"asking\": {\"unclear\": 4}}' WHERE id = $1")
        .bind(id.0)
        .execute(cluster.pool())
        .await
        .unwrap();
    cluster.start_worker().await;
    let run = cluster.ended(id).await;
    cluster.assert_failed(&run, "asked 5 times without an answer").await;
    let error = run.error.unwrap_or_default();
    assert!(error.contains("504"), "{error}");
}

#[tokio::test]
async fn a_synchronous_answer_may_take_its_time() {
    let dump = ShopDump::committed();
    let prepared = prepare(&dump).set("backup.sicar.sync_timeout_seconds", 12);
    let cluster = Cluster::start(prepared).await;
    // As ten minutes are to the twelve that are allowed.
    cluster.gateway().plan(vec![Fault::SlowBackup { seconds: 10.0 }.times(1)]).await;
    cluster.import(BackupMode::Sync, &dump).await;
    assert_eq!(cluster.gateway().record().await.asked.len(), 1);

    // Longer than allowed: it is given as long again, then asked again.
    cluster.gateway().plan(vec![Fault::SlowBackup { seconds: 20.0 }.times(1)]).await;
    let run = cluster.import(BackupMode::Sync, &dump).await;
    assert_eq!(cluster.gateway().record().await.asked.len(), 3);
    let log = cluster.log(run.id).await;
    assert!(log.contains("answer was lost"), "{log}");
}

#[tokio::test]
async fn what_the_gateway_echoes_gives_no_token_away() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    let error = format!("no se pudo llamar a {WEBHOOK_URL} con {}", relevo_tests::gateway::API_KEY);
    cluster.gateway().plan(vec![Fault::RefuseBackup { error, status: 200 }.times(2)]).await;
    let id = cluster.import(BackupMode::Webhook, &dump).await.id;
    let asked = cluster.gateway().record().await.asked;
    let tokens: Vec<String> = asked
        .iter()
        .filter_map(|asked| Some(asked.webhook_url.as_deref()?.rsplit('/').next()?.to_owned()))
        .collect();
    assert_eq!(tokens.len(), 2);
    let log = cluster.log(id).await;
    assert!(log.contains("no se pudo llamar a [webhook URL] con [API key]"), "{log}");
    for token in &tokens {
        assert!(!log.contains(token), "{log}");
        for worker in &cluster.workers {
            assert!(!worker.output().contains(token), "the token is in a worker's log");
        }
    }
}

/// Waits until some statement whose text begins so waits for a lock.
async fn blocked(cluster: &Cluster, statement: &str) {
    wait_for(&format!("{statement:?} to wait for a lock"), RUN_TIMEOUT, async || {
        let found: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'
               AND starts_with(query, $1)",
        )
        .bind(statement)
        .fetch_one(cluster.pool())
        .await
        .unwrap();
        (found > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn an_acceptance_locks_the_run_before_its_request() {
    let dump = ShopDump::committed();
    // The gateway takes 2 s to accept.
    let cluster = Cluster::start(prepare(&dump).time_scale(2.0)).await;
    cluster.gateway().plan(vec![Fault::SlowBackup { seconds: 6.0 }.times(1)]).await;
    let id = cluster.start_run(BackupMode::Webhook).await;
    wait_for("the gateway to be asked", RUN_TIMEOUT, async || {
        (cluster.gateway().record().await.asked.len() == 1).then_some(())
    })
    .await;
    let mut tx = cluster.pool().begin().await.unwrap();
    sqlx::query("SELECT 1 FROM relevo.run WHERE id = $1 FOR NO KEY UPDATE")
        .bind(id.0)
        .execute(&mut *tx)
        .await
        .unwrap();
    blocked(&cluster, "-- Runs::").await;
    // Whoever waits for the run holds nothing that others lock after it.
    let requests = "SELECT 1 FROM relevo.backup_request WHERE run_id = $1 FOR NO KEY UPDATE NOWAIT";
    sqlx::query(requests).bind(id.0).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &dump).await;
}

#[tokio::test]
async fn the_end_of_a_download_locks_the_run_before_its_batch() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    let size = std::fs::metadata(&dump.path).unwrap().len();
    let slow = Fault::SlowDownload { bytes_per_second: size / 4 };
    cluster.gateway().plan(vec![slow.always()]).await;
    let id = cluster.start_run(BackupMode::Sync).await;
    wait_for("the download to be under way", RUN_TIMEOUT, async || {
        (cluster.run(id).await.phase == "download").then_some(())
    })
    .await;
    let mut tx = cluster.pool().begin().await.unwrap();
    sqlx::query("SELECT 1 FROM relevo.run WHERE id = $1 FOR NO KEY UPDATE")
        .bind(id.0)
        .execute(&mut *tx)
        .await
        .unwrap();
    blocked(&cluster, "-- Runs::set_phase_in").await;
    // Chunks that end take the batch for a moment; nobody keeps it who waits for the run.
    let batches = "SELECT 1 FROM relevo.batch WHERE run_id = $1 FOR UPDATE NOWAIT";
    wait_for("the batch to be free", Duration::from_secs(20), async || {
        let locked = sqlx::query(batches).bind(id.0).execute(cluster.pool()).await;
        locked.is_ok().then_some(())
    })
    .await;
    tx.commit().await.unwrap();
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &dump).await;
}

#[tokio::test]
async fn who_cannot_ask_fails_no_run_whose_backup_has_come() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump)).await;
    cluster.gateway().plan(vec![Fault::SlowDownload { bytes_per_second: 2_000 }.always()]).await;
    let id = cluster.start_run(BackupMode::Sync).await;
    wait_for("the download to be under way", RUN_TIMEOUT, async || {
        (cluster.run(id).await.progress?["done"].as_i64()? > 0).then_some(())
    })
    .await;
    // The settings lose what asking in webhook mode needs, and somebody asks by hand.
    cluster.workers.remove(0).kill();
    let settings = std::fs::read_to_string(cluster.config()).unwrap();
    let kept: Vec<&str> = settings.lines().filter(|line| !line.contains("public_url")).collect();
    std::fs::write(cluster.config(), kept.join("\n")).unwrap();
    cluster.start_worker().await;
    let payload = RequestBackup { run_id: id.0, mode: RequestMode::Webhook, round: 1 };
    let job = cluster.queue().enqueue(typed_job(&payload)).await.unwrap().id;
    wait_for("the job to end", RUN_TIMEOUT, async || {
        let job = cluster.queue().job(job).await.unwrap()?;
        (job.state == JobState::Completed).then_some(())
    })
    .await;
    assert!(!cluster.run(id).await.state.is_ended(), "its backup is there");
    cluster.gateway().plan(Vec::new()).await;
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &dump).await;
}
