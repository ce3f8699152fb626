//! Downloads over a poor line: it breaks, falls silent, ignores `Range` and lies about lengths, as a
//! number decides; all the same, 999 of 1,000 end in a success. `./dev downloads` makes many.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use relevo_runs::RunState;
use relevo_runs::backup::BackupMode;
use relevo_tests::ShopDump;
use relevo_tests::gateway::{Fault, PlannedFault};

use super::cluster::{Cluster, prepare};

/// How many dumps are fetched.
const COUNT_ENV: &str = "RELEVO_TEST_DOWNLOADS";
/// Makes what happens to each of them another.
const SEED_ENV: &str = "RELEVO_TEST_SEED";

fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// What the line does to one dump of `size` bytes.
fn poor_line(random: &mut StdRng, size: u64) -> Vec<PlannedFault> {
    let mut faults = Vec::new();
    for _ in 0..random.random_range(1..=8) {
        // Often nothing at all comes, or all but the end.
        let bytes = match random.random_range(0..6) {
            0 => 0,
            1 => size - 1,
            _ => random.random_range(0..size),
        };
        faults.push(Fault::DropAfter { bytes }.times(1));
    }
    if random.random_range(0..3) == 0 {
        let bytes = random.random_range(0..size);
        faults.push(Fault::StallAfter { bytes }.times(1));
    }
    if random.random_range(0..3) == 0 {
        faults.push(Fault::IgnoreRange.times(random.random_range(1..=3)));
    }
    // At most two of these, since a third damaged backup ends the run.
    for _ in 0..random.random_range(0..=2) {
        let fault = match random.random_range(0..8) {
            0 => Fault::WrongFilesize { delta: -1 - random.random_range(0..1_000) },
            1 => Fault::WrongFilesize { delta: 1 + random.random_range(0..1_000) },
            // Past the header, where a name or a comment may differ unnoticed.
            2 => {
                Fault::FlipBit { at: random.random_range(10..size), bit: random.random_range(0..8) }
            }
            3 => Fault::TruncateGzip { keep_bytes: random.random_range(1..size) },
            4 => Fault::NotFound,
            _ => continue,
        };
        faults.push(fault.times(1));
    }
    faults
}

#[tokio::test]
async fn of_a_thousand_downloads_over_a_poor_line_one_may_fail() {
    let (count, seed) = (from_env(COUNT_ENV, 2), from_env(SEED_ENV, 1));
    let mut random = StdRng::seed_from_u64(seed);
    let dump = ShopDump::committed();
    let prepared = prepare(&dump).set("backup.sicar.download_idle_seconds", 2);
    let cluster = Cluster::start(prepared).await;
    let size = std::fs::metadata(&dump.path).unwrap().len();
    let (mut failed, mut connections) = (Vec::new(), 0);
    for download in 1..=count {
        let faults = poor_line(&mut random, size);
        cluster.gateway().plan(faults.clone()).await;
        let mode = if random.random_bool(0.5) { BackupMode::Webhook } else { BackupMode::Sync };
        let id = cluster.start_run(mode).await;
        let run = cluster.ended(id).await;
        if run.state == RunState::Succeeded {
            cluster.assert_succeeded(&run, &dump).await;
        } else {
            failed.push(format!("download {download}, {faults:?}: {:?}", run.error));
        }
        connections = cluster.gateway().record().await.downloads.len();
    }
    println!("{count} downloads, seed {seed}: {connections} connections, {} failed", failed.len());
    let allowed = usize::try_from(count / 1_000).unwrap();
    assert!(failed.len() <= allowed, "seed {seed}: {failed:#?}");
}
