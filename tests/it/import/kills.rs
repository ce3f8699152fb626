//! Interrupted at any point: afterwards it runs on to the same end, and nothing is left behind.

use std::sync::Arc;
use std::time::Duration;

use relevo_import::steps::{self, ChunkOutcome};
use relevo_import::{ImportError, NoProgress, Phase, import_file};
use relevo_tests::wait_for;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::dump::Dump;
use super::steps::{Cut, fence};
use super::target::{Listener, Target};

/// Ends all of the database's sessions whose program is named so.
async fn end_sessions(target: &Target, like: &str) -> i64 {
    target
        .ask(&format!(
            "SELECT count(pg_terminate_backend(pid))::text FROM pg_stat_activity
             WHERE datname = current_database() AND application_name LIKE '{like}'"
        ))
        .await
        .parse()
        .unwrap()
}

/// No session of an import is left on the server.
async fn quiet(target: &Target) {
    wait_for("the import's sessions to end", Duration::from_secs(20), async || {
        let left = "SELECT count(*)::text FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name LIKE 'relevo import %'";
        (target.ask(left).await == "0").then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_import_dropped_in_any_phase_is_cleared_up_by_the_next() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    for wanted in
        [Phase::Load, Phase::Verify, Phase::Index, Phase::Constrain, Phase::Wait, Phase::Cutover]
    {
        let reached = Arc::new(Notify::new());
        let told = Arc::clone(&reached);
        let listener = Listener::new(move |phase| {
            if phase == wanted {
                told.notify_one();
            }
        });
        let import =
            tokio::spawn(import_file(Dump::new(310, "dos").reader(), target.options(), listener));
        reached.notified().await;
        import.abort();
        let ended = import.await;
        quiet(&target).await;
        if ended.is_err() {
            // Not through yet: whole old data, or, where the COMMIT was on its way, whole new data.
            let rows = target.count("articulo").await;
            assert!(rows == 300 || rows == 310, "{wanted}: {rows}");
        }
    }
    target.import(&Dump::new(320, "tres")).await.unwrap();
    assert_eq!(target.count("articulo").await, 320);
    assert_eq!(target.own_schemas().await, "relevo_prev_public");
    let unfinished =
        "SELECT count(*)::text FROM relevo_ledger.import WHERE state IN ('loading', 'sealed')";
    assert_eq!(target.ask(unfinished).await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_direct_import_in_progress_is_not_swept_by_another() {
    let target = Target::new().await;
    let reached = Arc::new(Notify::new());
    let told = Arc::clone(&reached);
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = std::sync::Mutex::new(Some(held));
    // Holds the import in the middle of its work until the other one is through.
    let listener = Listener::new(move |phase| {
        if phase == Phase::Index
            && let Some(held) = held.lock().unwrap().take()
        {
            told.notify_one();
            let _ = held.recv_timeout(Duration::from_secs(30));
        }
    });
    // On threads of its own: the listener blocks one of them.
    let options = target.options();
    let slow = std::thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(import_file(Dump::new(310, "uno").reader(), options, listener))
    });
    reached.notified().await;
    target.import(&Dump::new(311, "dos")).await.unwrap();
    assert_eq!(target.count("articulo").await, 311);
    release.send(()).unwrap();
    let slow = tokio::task::spawn_blocking(move || slow.join()).await.unwrap();
    let error = slow.unwrap().unwrap_err();
    assert!(matches!(error, ImportError::Superseded { .. }), "{error:?}");
    assert_eq!(target.count("articulo").await, 311);
    assert_eq!(target.own_schemas().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ended_while_rows_are_copied_fails_the_import_cleanly() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    let (mut writer, reader) = std::io::pipe().map(|(reader, writer)| (writer, reader)).unwrap();
    let import = tokio::spawn(import_file(reader, target.options(), Arc::new(NoProgress)));
    // Far more than the pipeline holds, so that a COPY is open long before the end of the dump.
    let text = Dump::new(400_000, "dos").sql().into_bytes();
    let feed = tokio::task::spawn_blocking(move || {
        use std::io::Write;
        let cut = text.len() - 1000;
        let first = writer.write_all(&text[..cut]);
        (first, writer)
    });
    wait_for("a COPY into articulo", Duration::from_secs(30), async || {
        let copying = "SELECT count(*)::text FROM pg_stat_activity
                       WHERE datname = current_database() AND query LIKE '%COPY%articulo%'
                         AND application_name LIKE 'relevo import % load'
                         AND state = 'active'";
        (target.ask(copying).await != "0").then_some(())
    })
    .await;
    assert!(end_sessions(&target, "relevo import % load").await > 0);
    let (_, writer) = feed.await.unwrap();
    drop(writer);
    let error = import.await.unwrap().unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(error.chain().contains("copying into "), "{}", error.chain());
    assert_eq!(target.count("articulo").await, 300);
    assert_eq!(target.own_schemas().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_import_stops_at_once_and_leaves_nothing() {
    let target = Target::new().await;
    for wanted in [Phase::Load, Phase::Index, Phase::Cutover] {
        let cancel = CancellationToken::new();
        let token = cancel.clone();
        let listener = Listener::new(move |phase| {
            if phase == wanted {
                token.cancel();
            }
        });
        let mut options = target.options();
        options.cancel = cancel;
        let outcome = import_file(Dump::new(5_000, "uno").reader(), options, listener).await;
        let error = outcome.expect_err("cancelled");
        assert!(matches!(error, ImportError::Cancelled), "{wanted}: {error:?}");
        assert_eq!(target.own_schemas().await, "");
        quiet(&target).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_whose_session_is_ended_is_loaded_whole_by_the_next_attempt() {
    let target = Target::new().await;
    let pool = target.pool();
    let cut = Cut::new("run1_k", &Dump::default());
    cut.prepare(pool, fence(1, 1)).await;
    let file = cut.chunks[1].to_file().unwrap();
    let (mut feed, chunk) = tokio::io::duplex(64);
    let (load_pool, id) = (pool.clone(), cut.id.clone());
    let load = tokio::spawn(async move {
        let cancel = CancellationToken::new();
        steps::load_chunk(&load_pool, &id, 1, chunk, fence(5, 1), Default::default(), &cancel).await
    });
    use tokio::io::AsyncWriteExt;
    feed.write_all(&file[..file.len() - 20]).await.unwrap();
    wait_for("the chunk's COPY", Duration::from_secs(20), async || {
        (end_sessions(&target, "relevo import % chunk 1").await > 0).then_some(())
    })
    .await;
    let _ = feed.write_all(&file[file.len() - 20..]).await;
    drop(feed);
    let error = load.await.unwrap().unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let staged = format!("{}.categoria", cut.id.staging_schema());
    assert_eq!(target.count(&staged).await, 0);
    assert!(matches!(cut.load(pool, 1, fence(5, 2)).await, ChunkOutcome::Loaded { .. }));
}

#[tokio::test(flavor = "multi_thread")]
async fn finish_dropped_or_cut_off_in_any_phase_goes_on_where_it_stopped() {
    let target = Target::new().await;
    let pool = target.pool();
    target.import(&Dump::new(290, "antes")).await.unwrap();
    let cut = Cut::new("run2_k", &Dump::default());
    cut.prepare(pool, fence(1, 1)).await;
    cut.load_all(pool, 2).await;
    steps::seal(pool, &cut.id, &cut.manifest, fence(1, 1)).await.unwrap();
    let phases =
        [Phase::Verify, Phase::Index, Phase::Constrain, Phase::Wait, Phase::Cutover, Phase::Clean];
    let mut epoch = 0;
    for wanted in phases {
        for dropped in [true, false] {
            epoch += 1;
            let reached = Arc::new(Notify::new());
            let told = Arc::clone(&reached);
            let listener = Listener::new(move |phase| {
                if phase == wanted {
                    told.notify_one();
                }
            });
            let (finish_pool, id) = (pool.clone(), cut.id.clone());
            let mut finish = tokio::spawn(async move {
                let cancel = CancellationToken::new();
                steps::finish(&finish_pool, &id, fence(3, epoch), &*listener, &cancel).await
            });
            // Once it is live, the phases before are not entered any more.
            tokio::select! {
                () = reached.notified() => {
                    if dropped {
                        finish.abort();
                    } else {
                        end_sessions(&target, "relevo import run2_k %").await;
                    }
                    let _ = finish.await;
                }
                _ = &mut finish => {}
            }
            let rows = target.count("articulo").await;
            assert!(rows == 290 || rows == 300, "{wanted}: {rows}");
        }
    }
    let certificate = cut.finish(pool, fence(4, 1)).await.unwrap();
    assert_eq!(certificate.rows, 314);
    assert_eq!(target.count("articulo").await, 300);
    assert_eq!(target.count("relevo_prev_public.articulo").await, 290, "exchanged once");
    assert_eq!(target.own_schemas().await, "relevo_prev_public");
    let keys = "SELECT count(*)::text FROM pg_constraint
                WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'f') AND convalidated";
    assert_eq!(target.ask(keys).await, "5");
}
