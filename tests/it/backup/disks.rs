//! Disks that are too small, before a download and during it.

use relevo_runs::backup::BackupMode;
use relevo_tests::gateway::Fault;
use relevo_tests::{ShopDump, SmallDisk, wait_for};

use super::cluster::{Cluster, RUN_TIMEOUT, prepare};

#[tokio::test]
async fn a_disk_that_is_too_small_is_noticed_before_the_download() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump).workers(0)).await;
    let Some(disk) = SmallDisk::mount(&cluster.data_dir(), 8) else { return };
    cluster.start_worker().await;
    let id = cluster.start_run(BackupMode::Sync).await;
    let run = cluster.ended(id).await;
    cluster.assert_failed(&run, "MiB free").await;
    let error = run.error.unwrap_or_default();
    assert!(error.contains("free some space or point data_dir to a larger disk"), "{error}");
    assert!(cluster.gateway().record().await.downloads.is_empty());

    disk.resize(300);
    cluster.import(BackupMode::Sync, &dump).await;
}

#[tokio::test]
async fn a_chunk_store_on_a_disk_of_its_own_is_asked_for_its_own_need() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump).workers(0)).await;
    let Some(disk) = SmallDisk::mount(&cluster.data_dir().join("chunks"), 8) else { return };
    cluster.start_worker().await;
    let id = cluster.start_run(BackupMode::Sync).await;
    let run = cluster.ended(id).await;
    cluster.assert_failed(&run, "chunk_store.url to a larger disk").await;

    disk.resize(300);
    cluster.import(BackupMode::Sync, &dump).await;
}

#[tokio::test]
async fn a_disk_that_fills_up_during_the_download_fails_the_run() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump).workers(0)).await;
    let Some(disk) = SmallDisk::mount(&cluster.data_dir(), 120) else { return };
    cluster.start_worker().await;
    cluster.import(BackupMode::Sync, &dump).await;

    let size = std::fs::metadata(&dump.path).unwrap().len();
    let slow = Fault::SlowDownload { bytes_per_second: size / 5 };
    cluster.gateway().plan(vec![slow.times(1)]).await;
    let id = cluster.start_run(BackupMode::Sync).await;
    wait_for("the download to be under way", RUN_TIMEOUT, async || {
        (cluster.run(id).await.progress?["done"].as_u64()? > 0).then_some(())
    })
    .await;
    let filler = disk.fill();
    let run = cluster.ended(id).await;
    cluster.assert_failed(&run, "free some space").await;
    cluster.assert_target(&dump).await;

    std::fs::remove_file(filler).unwrap();
    cluster.import(BackupMode::Sync, &dump).await;
}
