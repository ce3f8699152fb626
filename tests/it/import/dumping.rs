//! A backup of the target that runs along never fails and never sees half an import.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use relevo_import::{CutoverMode, NoProgress, import_file, steps};
use relevo_tests::{pg_dump, wait_for};
use tokio_util::sync::CancellationToken;

use super::dump::Dump;
use super::target::Target;

/// Runs `pg_dump` of `public` once and returns its rows of `articulo`.
async fn dump_once(url: &str, folder: &Path, jobs: u32) -> usize {
    let out = folder.join(format!("dump{jobs}"));
    pg_dump(url, &out, jobs).await.unwrap_or_else(|said| panic!("pg_dump failed: {said}"));
    if jobs > 1 {
        std::fs::remove_dir_all(&out).expect("remove the dump");
        return 0;
    }
    let text = std::fs::read_to_string(&out).expect("the dump");
    let rows = text.split("COPY public.articulo ").nth(1).expect("the table");
    rows.lines().skip(1).take_while(|line| *line != "\\.").count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pg_dump_that_runs_all_the_time_never_fails() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let dumps = Arc::new(AtomicU32::new(0));
    let folder = tempfile::tempdir().unwrap();
    let (url, told, counted) = (target.url().to_owned(), Arc::clone(&stop), Arc::clone(&dumps));
    let path = folder.path().to_owned();
    let dumper = tokio::spawn(async move {
        while !told.load(Ordering::Relaxed) {
            let rows = dump_once(&url, &path, 1).await;
            assert!(rows == 300 || rows == 310, "{rows}");
            dump_once(&url, &path, 2).await;
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    for mode in [CutoverMode::Swap, CutoverMode::Merge, CutoverMode::Swap] {
        for (articles, mark) in [(310, "dos"), (300, "uno")] {
            let before = dumps.load(Ordering::Relaxed);
            let mut options = target.options();
            options.import.cutover.mode = mode;
            options.import.cutover.snapshot_wait_seconds = 120;
            // Half of it is spent on waiting for a moment without any dump.
            options.import.cutover.lock_wait_seconds = 20;
            let limits = options.import.cutover.clone();
            let dump = Dump::new(articles, mark).reader();
            let imported = import_file(dump, options, Arc::new(NoProgress)).await.unwrap();
            if mode == CutoverMode::Swap {
                let never = CancellationToken::new();
                steps::rollback(target.pool(), &imported.import, &limits, &never).await.unwrap();
            }
            wait_for("one more dump", Duration::from_secs(120), async || {
                (dumps.load(Ordering::Relaxed) > before || dumper.is_finished()).then_some(())
            })
            .await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    dumper.await.expect("every dump was whole");
}
