//! A dump of any size, in both modes, by four workers.

use std::time::Duration;

use relevo_runs::backup::BackupMode;
use relevo_tests::ShopDump;

use crate::backup::cluster::{Cluster, prepare};

/// Megabytes of the larger dump; `./dev test` leaves it small, a long run sets 300.
const SIZE_MB_ENV: &str = "RELEVO_TEST_SHOP_MB";

#[tokio::test]
async fn a_larger_dump_in_many_chunks_by_four_workers() {
    let size_mb = std::env::var(SIZE_MB_ENV).map_or(12, |text| text.parse().unwrap());
    let dump = ShopDump::generated(size_mb, 7).await;
    let chunk_size_bytes = if size_mb >= 100 { 32 << 20 } else { 1 << 20 };
    let prepared = prepare(&dump).workers(4).set("chunk_store.chunk_size_bytes", chunk_size_bytes);
    let cluster = Cluster::start(prepared).await;
    for mode in [BackupMode::Webhook, BackupMode::Sync] {
        let id = cluster.start_run(mode).await;
        let run = cluster.ended_within(id, Duration::from_secs(600)).await;
        cluster.assert_succeeded(&run, &dump).await;
    }
}
