//! Which dumps are kept: those of the last days, and always the newest good one, whatever becomes
//! of the runs after it.

use std::fs::File;
use std::time::{Duration, SystemTime};

use relevo_runs::backup::BackupMode;
use relevo_runs::{RunId, RunState};
use relevo_tests::gateway::Fault;
use relevo_tests::{ShopDump, wait_for};

use super::cluster::{Cluster, RUN_TIMEOUT, files, prepare};

/// Makes every kept dump three days old.
fn age(cluster: &Cluster) {
    let folder = cluster.data_dir().join("dumps");
    for name in files(&folder) {
        let file = File::options().append(true).open(folder.join(name)).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(3 * 24 * 3_600)).unwrap();
    }
}

/// Waits until the kept dumps are those of these runs and nothing else is left on the disk.
async fn must_keep(cluster: &Cluster, runs: &[RunId]) {
    let wanted: Vec<String> = runs.iter().map(|id| format!("-run{id}-")).collect();
    wait_for("the disk to hold what is to be kept", RUN_TIMEOUT, async || {
        let kept = files(&cluster.data_dir().join("dumps"));
        let rest = files(&cluster.data_dir().join("incoming")).len()
            + files(&cluster.data_dir().join("chunks")).len();
        let all = wanted.iter().all(|run| kept.iter().any(|name| name.contains(run)));
        (all && kept.len() == wanted.len() && rest == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_newest_good_dump_outlives_failures_and_kills() {
    let dump = ShopDump::committed();
    let prepared = prepare(&dump).set("backup.sicar.retention_days", 1);
    let mut cluster = Cluster::start(prepared).await;
    let first = cluster.import(BackupMode::Sync, &dump).await.id;
    let second = cluster.import(BackupMode::Sync, &dump).await.id;
    must_keep(&cluster, &[first, second]).await;
    // Both are past their time, but the newest good one stays.
    age(&cluster);
    must_keep(&cluster, &[second]).await;

    cluster.gateway().plan(vec![Fault::CorruptGzip.always()]).await;
    let failed = cluster.start_run(BackupMode::Sync).await;
    let run = cluster.ended(failed).await;
    assert_eq!(run.state, RunState::Failed);
    must_keep(&cluster, &[second]).await;

    let size = std::fs::metadata(&dump.path).unwrap().len();
    let slow = Fault::SlowDownload { bytes_per_second: size / 60 };
    cluster.gateway().plan(vec![slow.always()]).await;
    let killed = cluster.start_run(BackupMode::Sync).await;
    wait_for("a part of the dump to be there", RUN_TIMEOUT, async || {
        (!files(&cluster.data_dir().join("incoming")).is_empty()).then_some(())
    })
    .await;
    cluster.workers.remove(0).kill();
    drop(cluster.relevo(["run", "cancel", &killed.to_string()]).await.success());
    cluster.start_worker().await;
    assert_eq!(cluster.ended(killed).await.state, RunState::Cancelled);
    must_keep(&cluster, &[second]).await;

    // A newer good one takes its place.
    cluster.gateway().plan(Vec::new()).await;
    let last = cluster.import(BackupMode::Sync, &dump).await.id;
    must_keep(&cluster, &[last]).await;
}
