//! Both modes of the gateway, with one worker and with four.

use relevo_runs::backup::BackupMode;
use relevo_tests::ShopDump;

use super::cluster::{Cluster, files, prepare};

async fn import_both_ways(workers: usize) {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump).workers(workers)).await;
    cluster.import(BackupMode::Webhook, &dump).await;
    let record = cluster.gateway().record().await;
    assert_eq!(record.asked.len(), 1);
    let webhook = record.asked[0].webhook_url.as_deref().unwrap_or_default();
    assert!(webhook.contains("/webhook/backup-ready/"), "{webhook}");

    // The second replaces the first, whose dump goes only with time.
    let run = cluster.import(BackupMode::Sync, &dump).await;
    let record = cluster.gateway().record().await;
    assert_eq!(record.asked.len(), 2);
    assert_eq!(record.asked[1].webhook_url, None);
    assert_eq!(record.unauthorised, 0);
    let kept = files(&cluster.data_dir().join("dumps"));
    assert_eq!(kept.len(), 2, "{kept:?}");

    let log = cluster.log(run.id).await;
    for line in ["asking the gateway", "downloading", "complete and undamaged", "is live"] {
        assert!(log.contains(line), "{line:?} is missing in:\n{log}");
    }
    assert!(run.stats["chunks"].as_u64().unwrap_or(0) > 5, "{}", run.stats);
    assert!(run.stats["downloaded_bytes"].as_u64() > Some(0), "{}", run.stats);
}

#[tokio::test]
async fn one_worker_imports_exactly_what_was_dumped() {
    import_both_ways(1).await;
}

#[tokio::test]
async fn four_workers_import_exactly_what_was_dumped() {
    import_both_ways(4).await;
}

#[tokio::test]
async fn a_single_handler_is_enough() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump).set("worker.concurrency", 1)).await;
    cluster.import(BackupMode::Auto, &dump).await;
    // A public URL is configured, so `auto` means webhook.
    assert!(cluster.gateway().record().await.asked[0].webhook_url.is_some());
}

#[cfg(unix)]
#[tokio::test]
async fn nobody_else_may_look_at_dumps_and_chunks() {
    use std::os::unix::fs::PermissionsExt as _;

    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    cluster.import(BackupMode::Sync, &dump).await;
    for folder in ["incoming", "dumps", "dumps/sicar", "chunks"] {
        let path = cluster.data_dir().join(folder);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{folder} has mode {mode:o}");
    }
}
