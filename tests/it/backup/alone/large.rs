//! A dump of any size, in both modes, by one worker and by four.

use std::time::{Duration, Instant};

use relevo_runs::backup::BackupMode;
use relevo_tests::ShopDump;

use crate::backup::cluster::{Cluster, prepare};

/// Megabytes of the larger dump; `./dev test` leaves it small, a long run sets 300.
const SIZE_MB_ENV: &str = "RELEVO_TEST_SHOP_MB";

async fn import_both_ways(workers: usize) {
    let size_mb = std::env::var(SIZE_MB_ENV).map_or(12, |text| text.parse().unwrap());
    let dump = ShopDump::generated(size_mb, 7).await;
    let chunk_size_bytes = if size_mb >= 100 { 32 << 20 } else { 1 << 20 };
    let prepared =
        prepare(&dump).workers(workers).set("chunk_store.chunk_size_bytes", chunk_size_bytes);
    let cluster = Cluster::start(prepared).await;
    for mode in [BackupMode::Webhook, BackupMode::Sync] {
        let id = cluster.start_run(mode).await;
        let run = cluster.ended_within(id, Duration::from_secs(600)).await;
        let took = run.finished_at.unwrap_or(run.created_at) - run.created_at;
        let compared = Instant::now();
        cluster.assert_succeeded(&run, &dump).await;
        println!(
            "{size_mb} MB, {} mode, {workers} worker(s): {} rows in {:.1} s, {} chunks of {} bytes of \
             SQL, equal to MariaDB in every table (compared in {:.1} s)",
            mode.as_str(),
            run.stats["rows"],
            took.as_seconds_f64(),
            run.stats["chunks"],
            run.stats["raw_bytes"],
            compared.elapsed().as_secs_f64(),
        );
    }
}

#[tokio::test]
async fn a_larger_dump_in_many_chunks_by_one_worker() {
    import_both_ways(1).await;
}

#[tokio::test]
async fn a_larger_dump_in_many_chunks_by_four_workers() {
    import_both_ways(4).await;
}
