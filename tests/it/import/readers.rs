//! Readers never see a hole: not in a loop, not through views, not in a long transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use relevo_import::{CutoverMode, ImportError, NoProgress, OldSnapshots, Phase, import_file};
use relevo_tests::wait_for;
use sqlx::{Connection, Executor, PgConnection, PgPool};
use tokio::sync::Notify;

use super::dump::Dump;
use super::target::{Listener, Target, ask};

/// Reads all tables by unqualified names until told to stop; every answer must be one of the
/// allowed ones.
async fn read_on(
    pool: PgPool,
    query: &'static str,
    allowed: &'static [&'static str],
    stop: Arc<AtomicBool>,
    reads: Arc<AtomicU64>,
) {
    while !stop.load(Ordering::Relaxed) {
        let answer = ask(&pool, query).await.unwrap_or_else(|error| panic!("{query}: {error}"));
        assert!(allowed.contains(&&*answer), "{query}: {answer}");
        reads.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_reads_on_throughout() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    let application = target.role("app").await;
    target
        .run(&format!(
            "CREATE VIEW precios AS SELECT a.precio1, c.nombre FROM articulo a JOIN categoria c USING (cat_id);
             GRANT SELECT ON ALL TABLES IN SCHEMA public TO {}",
            application.name
        ))
        .await;
    let pool = application.pool().await;
    let stop = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicU64::new(0));
    // 1/11 of the articles have no category.
    let queries: [(&'static str, &'static [&'static str]); 3] = [
        (
            "SELECT count(*)::text FROM articulo a LEFT JOIN categoria USING (cat_id)
             LEFT JOIN departamento USING (dep_id)",
            &["300", "330"],
        ),
        (
            "SELECT count(*)::text FROM departamento d, categoria WHERE categoria.dep_id = d.dep_id",
            &["12"],
        ),
        ("SELECT count(*)::text FROM precios", &["273", "300"]),
    ];
    let readers: Vec<_> = queries
        .into_iter()
        .map(|(query, allowed)| {
            tokio::spawn(read_on(
                pool.clone(),
                query,
                allowed,
                Arc::clone(&stop),
                Arc::clone(&reads),
            ))
        })
        .collect();
    for round in 0..6 {
        let articles = if round % 2 == 0 { 330 } else { 300 };
        target.import(&Dump::new(articles, "dos")).await.unwrap();
        let before = reads.load(Ordering::Relaxed);
        wait_for("more reads", Duration::from_secs(20), async || {
            (reads.load(Ordering::Relaxed) > before + 20).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.expect("a reader that saw no hole");
    }
    pool.close().await;
    application.drop().await;
}

/// Begins a REPEATABLE READ transaction that has its snapshot but no lock on any of the tables.
async fn old_snapshot(target: &Target) -> PgConnection {
    let mut old = PgConnection::connect(target.url()).await.unwrap();
    old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class")
        .await
        .unwrap();
    old
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_older_than_the_load_is_waited_for() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    let mut old = old_snapshot(&target).await;

    let waiting = Arc::new(Notify::new());
    let told = Arc::clone(&waiting);
    let listener = Listener::new(move |phase| {
        if phase == Phase::Wait {
            told.notify_one();
        }
    });
    let import = tokio::spawn(import_file(
        Dump::new(310, "dos").reader(),
        target.options(),
        Arc::clone(&listener) as _,
    ));
    waiting.notified().await;
    let seen: i64 =
        sqlx::query_scalar("SELECT count(*) FROM articulo").fetch_one(&mut old).await.unwrap();
    assert_eq!(seen, 300, "the old data, whole");
    assert!(!import.is_finished());
    assert!(!listener.phases.lock().unwrap().contains(&Phase::Cutover));
    old.execute("COMMIT").await.unwrap();
    import.await.unwrap().unwrap();
    let seen: i64 =
        sqlx::query_scalar("SELECT count(*) FROM articulo").fetch_one(&mut old).await.unwrap();
    assert_eq!(seen, 310);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_importer_without_privileges_sees_the_snapshots_of_others_too() {
    let target = Target::new().await;
    let importer = target.role("importer").await;
    target
        .run(&format!(
            "DO $$ BEGIN EXECUTE format('GRANT CREATE ON DATABASE %I TO {name}', current_database()); END $$;
             GRANT CREATE, USAGE ON SCHEMA public TO {name}",
            name = importer.name
        ))
        .await;
    let mut options = target.options();
    options.target_url = importer.url().into();
    let import = |options: relevo_import::DirectOptions, articles| {
        import_file(Dump::new(articles, "uno").reader(), options, Arc::new(NoProgress))
    };
    import(options.clone(), 300).await.unwrap();

    let mut old = old_snapshot(&target).await;
    options.import.cutover.snapshot_wait_seconds = 0;
    let error = import(options.clone(), 310).await.unwrap_err();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut old).await.unwrap();
    assert!(error.to_string().contains(&format!("process {pid} ")), "{error}");
    let seen: i64 =
        sqlx::query_scalar("SELECT count(*) FROM articulo").fetch_one(&mut old).await.unwrap();
    assert_eq!(seen, 300, "the old data, whole");

    old.execute("COMMIT").await.unwrap();
    import(options, 310).await.unwrap();
    importer.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_never_ends_is_named_and_the_policy_decides() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    let mut old = old_snapshot(&target).await;
    let mut options = target.options();
    options.import.cutover.snapshot_wait_seconds = 0;
    let import =
        |options| import_file(Dump::new(310, "dos").reader(), options, Arc::new(NoProgress));

    let error = import(options.clone()).await.unwrap_err();
    assert!(matches!(error, ImportError::Cutover(_)) && error.is_transient(), "{error:?}");
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut old).await.unwrap();
    assert!(error.to_string().contains(&format!("process {pid} ")), "{error}");
    assert_eq!(target.count("articulo").await, 300);

    options.import.cutover.old_snapshots = OldSnapshots::Proceed;
    let certificate = import(options).await.unwrap();
    assert!(certificate.notices.iter().any(|notice| notice.contains("may see empty tables")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_in_use_blocks_nobody_for_long_and_is_named() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    let mut user = PgConnection::connect(target.url()).await.unwrap();
    // A lock without a snapshot: the cutover itself has to cope.
    user.execute(
        "SET application_name = 'caja 1'; BEGIN; LOCK TABLE categoria IN ACCESS SHARE MODE",
    )
    .await
    .unwrap();
    let mut options = target.options();
    options.import.cutover.lock_wait_seconds = 2;
    let import =
        tokio::spawn(import_file(Dump::new(310, "dos").reader(), options, Arc::new(NoProgress)));
    // Others read on in the pauses, and are never a deadlock's victim.
    let mut longest = Duration::ZERO;
    while !import.is_finished() {
        let started = std::time::Instant::now();
        assert_eq!(target.count("categoria JOIN articulo USING (cat_id)").await, 273);
        longest = longest.max(started.elapsed());
    }
    assert!(longest < Duration::from_secs(3), "a reader waited {longest:?}");
    let error = import.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("caja 1") && error.is_transient(), "{error}");
    user.execute("COMMIT").await.unwrap();
    target.import(&Dump::new(310, "dos")).await.unwrap();
    assert_eq!(target.count("articulo").await, 310);
}

/// Begins transactions over and over whose snapshot is a little older than their first look at a
/// table.
async fn read_repeatably(url: String, stop: Arc<AtomicBool>, reads: Arc<AtomicU64>) {
    let mut reader = PgConnection::connect(&url).await.unwrap();
    while !stop.load(Ordering::Relaxed) {
        reader
            .execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM pg_class, pg_sleep(0.03)")
            .await
            .unwrap();
        let mut seen = Vec::new();
        for _ in 0..2 {
            let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM articulo")
                .fetch_one(&mut reader)
                .await
                .unwrap();
            seen.push(rows);
        }
        assert!(seen == [300, 300] || seen == [310, 310], "{seen:?}");
        reader.execute("COMMIT").await.unwrap();
        reads.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn repeatable_readers_see_no_hole_in_either_mode() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicU64::new(0));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (stop, reads) = (Arc::clone(&stop), Arc::clone(&reads));
            tokio::spawn(read_repeatably(target.url().to_owned(), stop, reads))
        })
        .collect();
    for mode in [CutoverMode::Swap, CutoverMode::Merge, CutoverMode::Swap] {
        for articles in [310, 300] {
            let mut options = target.options();
            options.import.cutover.mode = mode;
            let dump = Dump::new(articles, "dos").reader();
            import_file(dump, options, Arc::new(NoProgress)).await.unwrap();
            let before = reads.load(Ordering::Relaxed);
            wait_for("more reads", Duration::from_secs(30), async || {
                (reads.load(Ordering::Relaxed) > before + 6).then_some(())
            })
            .await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.expect("a reader that saw no hole");
    }
}
