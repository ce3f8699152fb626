//! What `dump inspect` expects of an import is what an import takes, to a generous factor.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use relevo_import::{ImportOptions, NoProgress, import_file, inspect};
use relevo_tests::ShopDump;

use super::target::Target;

#[tokio::test(flavor = "multi_thread")]
async fn the_estimate_is_near_what_an_import_takes() {
    let shop = ShopDump::generated(12, 7).await;
    let input = File::open(&shop.path).unwrap();
    let expected = inspect(input, &ImportOptions::default(), &NoProgress).unwrap().estimate;
    let target = Target::new().await;
    let started = Instant::now();
    let input = File::open(&shop.path).unwrap();
    import_file(input, target.options(), Arc::new(NoProgress)).await.unwrap();
    let took_ms = u64::try_from(started.elapsed().as_millis()).unwrap();
    let bytes = "SELECT sum(pg_total_relation_size(oid))::text FROM pg_class
                 WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'";
    let bytes: u64 = target.ask(bytes).await.parse().unwrap();

    let room = expected.target_bytes as f64 / bytes as f64;
    assert!((0.5..=2.0).contains(&room), "{} bytes expected, {bytes} taken", expected.target_bytes);
    // A machine that has other work takes longer than the estimate knows; never far less.
    let time = expected.duration_ms as f64 / took_ms as f64;
    assert!((0.02..=8.0).contains(&time), "{} ms expected, {took_ms} taken", expected.duration_ms);
}
