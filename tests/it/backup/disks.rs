//! Disks that are too small, before a download and during it.

use std::fs::File;

use relevo_runs::backup::BackupMode;
use relevo_tests::gateway::{API_KEY, Fault};
use relevo_tests::{ShopDump, SmallDisk, wait_for};
use serde_json::json;

use super::cluster::{Cluster, RUN_TIMEOUT, files, prepare};
use super::sources::{of_kind, server};

#[tokio::test]
async fn a_disk_that_is_too_small_is_noticed_before_the_download() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump).workers(0)).await;
    let Some(disk) = SmallDisk::mount(&cluster.data_dir(), 300) else { return };
    cluster.start_worker().await;
    cluster.import(BackupMode::Sync, &dump).await;
    disk.resize(8);
    let id = cluster.start_run(BackupMode::Sync).await;
    let run = cluster.ended(id).await;
    cluster.assert_failed(&run, "MiB free").await;
    let error = run.error.unwrap_or_default();
    assert!(error.contains("free some space or point data_dir to a larger disk"), "{error}");
    assert_eq!(cluster.gateway().record().await.downloads.len(), 1);
    cluster.assert_target(&dump).await;

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

#[tokio::test]
async fn a_dump_of_unknown_length_is_measured_when_its_server_tells() {
    let dump = ShopDump::generated(12, 7).await;
    let (_web, url) = server(&dump).await;
    let headers = format!("API-KEY: {API_KEY}");
    let settings = [("url", json!(url)), ("headers", json!(headers))];
    let prepared = of_kind(&dump, "url", &settings).set("chunk_store.chunk_size_bytes", 1 << 20);
    let mut cluster = Cluster::start(prepared.workers(0)).await;
    // Room for the dump and its chunks, but not for what the dump may become.
    let Some(disk) = SmallDisk::mount(&cluster.data_dir(), 68) else { return };
    cluster.start_worker().await;
    let id = cluster.start_run(BackupMode::Auto).await;
    let run = cluster.ended(id).await;
    cluster.assert_failed(&run, "the dump and its chunks may need").await;

    disk.resize(300);
    cluster.import(BackupMode::Auto, &dump).await;
}

#[tokio::test]
async fn a_disk_that_is_full_when_everything_is_there_hurts_nobody() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump).workers(0)).await;
    let Some(disk) = SmallDisk::mount(&cluster.data_dir(), 300) else { return };
    cluster.start_worker().await;
    let size = std::fs::metadata(&dump.path).unwrap().len();
    let slow = Fault::SlowDownload { bytes_per_second: size / 3 };
    cluster.gateway().plan(vec![slow.always()]).await;
    let id = cluster.start_run(BackupMode::Sync).await;
    wait_for("the download to be under way", RUN_TIMEOUT, async || {
        (cluster.run(id).await.phase == "download").then_some(())
    })
    .await;
    // The dump is complete and kept, but its job cannot end: its worker is killed there.
    let mut lock = cluster.pool().begin().await.unwrap();
    cluster.runs().get_for_update_in(&mut lock, id).await.unwrap();
    wait_for("the dump to be kept", RUN_TIMEOUT, async || {
        (!files(&cluster.data_dir().join("dumps")).is_empty()).then_some(())
    })
    .await;
    cluster.workers.remove(0).kill();
    lock.rollback().await.unwrap();
    disk.resize(8);
    cluster.start_worker().await;
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &dump).await;
}

#[tokio::test]
async fn a_chunk_that_a_loss_of_power_tore_costs_a_new_backup() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    cluster.import(BackupMode::Sync, &dump).await;
    for keep_bytes in [0, 2_000] {
        let asked = cluster.gateway().record().await.asked.len();
        cluster.queue().pause("translate").await.unwrap();
        let id = cluster.start_run(BackupMode::Sync).await;
        wait_for("the download to end", RUN_TIMEOUT, async || {
            (cluster.run(id).await.phase == "load").then_some(())
        })
        .await;
        let folder = cluster.data_dir().join("chunks");
        let torn = files(&folder).into_iter().min().expect("a chunk");
        let torn = File::options().write(true).open(folder.join(torn)).unwrap();
        torn.set_len(keep_bytes).unwrap();
        cluster.queue().resume("translate").await.unwrap();
        let run = cluster.ended(id).await;
        cluster.assert_succeeded(&run, &dump).await;
        let log = cluster.log(id).await;
        assert!(log.contains("asking the gateway again") && log.contains("is damaged"), "{log}");
        assert_eq!(cluster.gateway().record().await.asked.len(), asked + 2);
    }
}
