//! Days on which the gateway or the line is not well, and the run ends well all the same.

use relevo_runs::backup::BackupMode;
use relevo_tests::gateway::Fault;
use relevo_tests::{Gateway, ShopDump, wait_for};

use super::cluster::{Cluster, RUN_TIMEOUT, prepare};

async fn cluster(dump: &ShopDump) -> Cluster {
    Cluster::start(prepare(dump)).await
}

#[tokio::test]
async fn a_line_that_breaks_again_and_again_is_resumed() {
    let dump = ShopDump::generated(12, 7).await;
    let prepared = prepare(&dump).set("chunk_store.chunk_size_bytes", 1 << 20);
    let cluster = Cluster::start(prepared).await;
    let size = std::fs::metadata(&dump.path).unwrap().len();
    cluster.gateway().plan(vec![Fault::DropAfter { bytes: size / 5 }.times(3)]).await;
    cluster.import(BackupMode::Sync, &dump).await;
    let downloads = cluster.gateway().record().await.downloads;
    let starts: Vec<u64> = downloads.iter().map(|download| download.start).collect();
    assert_eq!(starts.len(), 4, "{starts:?}");
    // What was on the line when it broke is lost; everything before is kept.
    assert!(starts.windows(2).all(|pair| pair[0] < pair[1]), "{starts:?}");
    assert_eq!(downloads[3].status, 206);
}

#[tokio::test]
async fn a_server_that_ignores_range_is_read_anew() {
    let dump = ShopDump::committed();
    let cluster = cluster(&dump).await;
    let size = std::fs::metadata(&dump.path).unwrap().len();
    let faults = vec![Fault::DropAfter { bytes: size / 2 }.times(1), Fault::IgnoreRange.times(1)];
    cluster.gateway().plan(faults).await;
    cluster.import(BackupMode::Webhook, &dump).await;
    let downloads = cluster.gateway().record().await.downloads;
    let answers: Vec<(u64, u16)> =
        downloads.iter().map(|download| (download.start, download.status)).collect();
    assert_eq!(answers, [(0, 200), (0, 200)]);
}

#[tokio::test]
async fn a_backup_that_is_gone_is_asked_for_anew() {
    let dump = ShopDump::committed();
    let cluster = cluster(&dump).await;
    cluster.gateway().plan(vec![Fault::NotFound.times(1)]).await;
    let run = cluster.import(BackupMode::Webhook, &dump).await;
    assert_eq!(cluster.gateway().record().await.asked.len(), 2);
    let log = cluster.log(run.id).await;
    assert!(log.contains("no longer has the backup"), "{log}");
}

#[tokio::test]
async fn a_damaged_dump_is_asked_for_anew() {
    let dump = ShopDump::committed();
    let cluster = cluster(&dump).await;
    for fault in [
        Fault::CorruptGzip,
        Fault::TruncateGzip { keep_bytes: 50_000 },
        Fault::WrongFilesize { delta: 1_000 },
    ] {
        cluster.gateway().plan(vec![fault.times(1)]).await;
        cluster.import(BackupMode::Sync, &dump).await;
    }
    assert_eq!(cluster.gateway().record().await.asked.len(), 6);
}

#[tokio::test]
async fn a_webhook_that_comes_twice_starts_one_download() {
    let dump = ShopDump::committed();
    let cluster = cluster(&dump).await;
    cluster.gateway().plan(vec![Fault::WebhookTwice.times(1), Fault::OtherSpelling.times(1)]).await;
    cluster.import(BackupMode::Webhook, &dump).await;
    let record = wait_for("both deliveries", RUN_TIMEOUT, async || {
        let record = cluster.gateway().record().await;
        (record.deliveries.len() == 2).then_some(record)
    })
    .await;
    assert!(record.deliveries.iter().all(|delivery| delivery.accepted), "{record:?}");
    assert_eq!(record.asked.len(), 1);
    assert_eq!(record.downloads.len(), 1);
}

#[tokio::test]
async fn after_a_lost_answer_the_webhook_is_waited_for() {
    let dump = ShopDump::committed();
    let cluster = cluster(&dump).await;
    cluster.gateway().plan(vec![Fault::LoseAnswer.times(1)]).await;
    let run = cluster.import(BackupMode::Webhook, &dump).await;
    // The gateway keeps only two backups: it was asked once.
    assert_eq!(cluster.gateway().record().await.asked.len(), 1);
    let log = cluster.log(run.id).await;
    assert!(log.contains("answer was lost"), "{log}");
}

#[tokio::test]
async fn without_webhooks_the_run_asks_again_and_then_synchronously() {
    let dump = ShopDump::committed();
    let prepared = prepare(&dump).set("backup.sicar.webhook_timeout_seconds", 10);
    let cluster = Cluster::start(prepared).await;
    cluster.gateway().plan(vec![Fault::WebhookNever.always()]).await;
    let run = cluster.import(BackupMode::Webhook, &dump).await;
    let asked = cluster.gateway().record().await.asked;
    let modes: Vec<bool> = asked.iter().map(|asked| asked.webhook_url.is_some()).collect();
    assert_eq!(modes, [true, true, false]);
    let log = cluster.log(run.id).await;
    assert!(log.contains("no webhook came within 10 s"), "{log}");
}

#[tokio::test]
async fn a_backup_that_failed_at_the_gateway_is_asked_for_again() {
    let dump = ShopDump::committed();
    let cluster = cluster(&dump).await;
    let failed = || Fault::FailBackup { error: "mysqldump: disco lleno".to_owned() };
    cluster.gateway().plan(vec![failed().times(1)]).await;
    let run = cluster.import(BackupMode::Webhook, &dump).await;
    let log = cluster.log(run.id).await;
    assert!(log.contains("disco lleno"), "{log}");
    cluster.gateway().plan(vec![failed().times(1)]).await;
    cluster.import(BackupMode::Sync, &dump).await;
    assert_eq!(cluster.gateway().record().await.asked.len(), 4);
}

#[tokio::test]
async fn a_webhook_that_comes_late_is_welcome_while_the_run_waits() {
    let dump = ShopDump::committed();
    let prepared = prepare(&dump).set("backup.sicar.webhook_timeout_seconds", 10);
    let cluster = Cluster::start(prepared).await;
    cluster.gateway().plan(vec![Fault::WebhookLate { seconds: 14.0 }.times(1)]).await;
    let id = cluster.start_run(BackupMode::Webhook).await;
    wait_for("the first webhook to be late", RUN_TIMEOUT, async || {
        cluster.gateway().record().await.faults.is_empty().then_some(())
    })
    .await;
    // The second request's never comes.
    cluster.gateway().plan(vec![Fault::WebhookNever.times(1)]).await;
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &dump).await;
    let record = cluster.gateway().record().await;
    assert_eq!(record.asked.len(), 2, "{record:?}");
    let log = cluster.log(run.id).await;
    assert!(log.contains("no webhook came within 10 s"), "{log}");
}

#[tokio::test]
async fn a_refusal_with_status_200_is_a_refusal() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    for mode in [BackupMode::Webhook, BackupMode::Sync] {
        let error = "MySQL no responde".to_owned();
        cluster.gateway().plan(vec![Fault::RefuseBackup { error, status: 200 }.times(1)]).await;
        let run = cluster.import(mode, &dump).await;
        let log = cluster.log(run.id).await;
        assert!(log.contains("MySQL no responde"), "{log}");
    }
    assert_eq!(cluster.gateway().record().await.asked.len(), 4);
}

#[tokio::test]
async fn a_line_that_falls_silent_is_cut_and_resumed() {
    let dump = ShopDump::committed();
    let prepared = prepare(&dump).set("backup.sicar.download_idle_seconds", 3);
    let cluster = Cluster::start(prepared).await;
    let size = std::fs::metadata(&dump.path).unwrap().len();
    cluster.gateway().plan(vec![Fault::StallAfter { bytes: size / 2 }.times(1)]).await;
    cluster.import(BackupMode::Webhook, &dump).await;
    let downloads = cluster.gateway().record().await.downloads;
    assert_eq!(downloads.len(), 2);
    assert_eq!((downloads[1].start, downloads[1].status), (size / 2, 206));
}

#[tokio::test]
async fn a_dump_that_was_not_completed_is_asked_for_anew() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    cluster.gateway().plan(vec![Fault::MissingCompleted.times(1)]).await;
    let run = cluster.import(BackupMode::Webhook, &dump).await;
    let log = cluster.log(run.id).await;
    assert!(log.contains("Dump completed"), "{log}");
    assert_eq!(cluster.gateway().record().await.asked.len(), 2);
}

#[tokio::test]
async fn what_a_stranger_delivers_changes_nothing() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    cluster.gateway().plan(vec![Fault::SlowBackup { seconds: 4.0 }.times(1)]).await;
    let id = cluster.start_run(BackupMode::Webhook).await;
    let asked = wait_for("the gateway to be asked", RUN_TIMEOUT, async || {
        cluster.gateway().record().await.asked.first().cloned()
    })
    .await;
    let path = asked.webhook_url.as_deref().expect("webhook mode");
    let delivery = |backup_id: &str, url: &str| serde_json::json!({"backup_id": backup_id, "status": "completed", "download_url": url});
    let own = format!("{}/api/backup/download/otro.sql.gz", cluster.gateway().url());
    let guessed = format!("{}/webhook/backup-ready/{}", cluster.api_url(), "0".repeat(64));
    let bare = format!("{}/webhook/backup-ready", cluster.api_url());
    let client = reqwest::Client::new();
    for (address, body, status) in [
        (guessed.as_str(), delivery(&asked.backup_id, &own), 404),
        (&bare, delivery("backup_0000000000000", &own), 404),
        (path, delivery(&asked.backup_id, "http://169.254.169.254/latest/meta-data"), 422),
        (path, delivery(&asked.backup_id, "http://evil.test/a.sql.gz"), 422),
    ] {
        let answer = client.post(address).json(&body).send().await.unwrap();
        assert_eq!(answer.status(), status, "{address} {body}");
    }
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &dump).await;
    assert_eq!(cluster.gateway().record().await.downloads.len(), 1);
}

/// A cluster whose gateway is asked over TLS, where it shows a certificate that nobody trusts.
async fn with_bad_tls(dump: &ShopDump, allow_http_fallback: bool) -> (Gateway, Cluster) {
    let gateway = Gateway::start_with("127.0.0.1:0", &dump.path, 0.002, &["--bad-tls"]).await;
    let prepared = prepare(dump)
        .set("backup.sicar.gateway_url", format!("https://{}", gateway.address()))
        .set("backup.sicar.allow_http_fallback", allow_http_fallback);
    (gateway, Cluster::start(prepared).await)
}

#[tokio::test]
async fn without_the_fallback_a_bad_certificate_fails_the_run() {
    let dump = ShopDump::committed();
    let (gateway, cluster) = with_bad_tls(&dump, false).await;
    cluster.load_file(&dump).await;
    for mode in [BackupMode::Webhook, BackupMode::Sync] {
        let id = cluster.start_run(mode).await;
        let run = cluster.ended(id).await;
        cluster.assert_failed(&run, "certificate is not accepted").await;
        cluster.assert_target(&dump).await;
        let error = run.error.unwrap_or_default();
        assert!(error.contains("allow_http_fallback"), "{error}");
    }
    // Not even an attempt: the key never went out unencrypted.
    let record = gateway.record().await;
    assert_eq!((record.asked.len(), record.unauthorised), (0, 0));
}

#[tokio::test]
async fn where_it_is_configured_plain_http_follows_a_failed_https() {
    let dump = ShopDump::committed();
    let (gateway, cluster) = with_bad_tls(&dump, true).await;
    for mode in [BackupMode::Webhook, BackupMode::Sync] {
        cluster.import(mode, &dump).await;
    }
    assert_eq!(gateway.record().await.asked.len(), 2);
    let output = cluster.workers[0].output();
    assert!(output.contains("trying plain http as configured"), "nobody is told");
}
