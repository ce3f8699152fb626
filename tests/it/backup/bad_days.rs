//! Days on which the gateway or the line is not well, and the run ends well all the same.

use relevo_runs::backup::BackupMode;
use relevo_tests::gateway::Fault;
use relevo_tests::{ShopDump, wait_for};

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
