//! What goes wrong once the new data are live: the run does not fail for it, nobody is told that the
//! previous data are in place, and what is left to do is done when that can be.

use relevo_jobs::JobKind;
use relevo_queue::JobFilter;
use relevo_runs::backup::BackupMode;
use relevo_runs::{RunId, RunState};
use relevo_tests::{ShopDump, wait_for};
use sqlx::{Executor as _, PgPool};

use super::cluster::{Cluster, RUN_TIMEOUT, prepare};

/// A cluster whose target holds a dump, and whose gateway serves another one from now on.
async fn between_two(before: &ShopDump, after: &ShopDump) -> Cluster {
    let prepared = prepare(before).set("chunk_store.chunk_size_bytes", 1 << 20);
    let cluster = Cluster::start(prepared).await;
    cluster.import(BackupMode::Sync, before).await;
    cluster.gateway().serve(&after.path).await;
    cluster
}

/// Makes a change of a table fail or do something else: `when` and `body` of a trigger.
async fn sabotage(pool: &PgPool, table: &str, when: &str, body: &str) {
    let sql = format!(
        "CREATE FUNCTION public.sabotage() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN {body} RETURN NEW; END $$;
         CREATE TRIGGER sabotage BEFORE UPDATE ON {table} FOR EACH ROW WHEN ({when})
         EXECUTE FUNCTION public.sabotage()"
    );
    pool.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
}

async fn mend(pool: &PgPool) {
    pool.execute("DROP FUNCTION public.sabotage() CASCADE").await.unwrap();
}

/// Waits until the run's finish is given up.
async fn finish_given_up(cluster: &Cluster, id: RunId) {
    let kinds = vec![JobKind::FinishImport.as_str().to_owned()];
    let filter = JobFilter { kinds, ..JobFilter::run(id.0) };
    cluster
        .impatient(id, "the finish to be given up", async || {
            let dead = cluster.queue().dead_letters(&filter).await.unwrap();
            (!dead.is_empty()).then_some(())
        })
        .await;
}

/// Nothing that the run has said so far claims the data of before.
async fn assert_claims_nothing(cluster: &Cluster, id: RunId) {
    let log = cluster.log(id).await;
    assert!(!log.contains("previous data are untouched"), "{log}");
    assert!(log.contains("attempt 1 of FinishImport failed"), "{log}");
}

#[tokio::test]
async fn a_clean_up_that_fails_for_good_is_made_up_for() {
    let (before, after) = (ShopDump::committed(), ShopDump::generated(12, 7).await);
    let cluster = between_two(&before, &after).await;
    let target = cluster.target().pool();
    // A key of somebody else is put back unchecked, and checked after the cutover.
    for sql in [
        "CREATE SCHEMA propio",
        "CREATE TABLE propio.venta (art_id integer REFERENCES articulo)",
        "INSERT INTO propio.venta SELECT min(art_id) FROM articulo",
    ] {
        target.execute(sql).await.unwrap();
    }
    sabotage(
        target,
        "relevo_ledger.import",
        "OLD.state = 'live' AND OLD.follow_up IS DISTINCT FROM NEW.follow_up",
        "RAISE EXCEPTION 'no queda espacio' USING ERRCODE = 'disk_full';",
    )
    .await;
    let id = cluster.start_run(BackupMode::Sync).await;
    finish_given_up(&cluster, id).await;
    // The target says that the data are live, so the run has succeeded.
    let run = cluster.ended(id).await;
    cluster.assert_loaded(&run, &after).await;
    assert_claims_nothing(&cluster, id).await;
    assert_eq!(cluster.run(id).await.cleaned_at, None, "something is left to do");

    mend(target).await;
    cluster.assert_succeeded(&run, &after).await;
    let left: Vec<String> = sqlx::query_scalar(
        "SELECT follow_up::text FROM relevo_ledger.import WHERE follow_up <> '[]'",
    )
    .fetch_all(target)
    .await
    .unwrap();
    assert!(left.is_empty(), "{left:?}");
    let valid: Vec<bool> = sqlx::query_scalar(
        "SELECT convalidated FROM pg_constraint
         WHERE conrelid = 'propio.venta'::regclass AND contype = 'f'",
    )
    .fetch_all(target)
    .await
    .unwrap();
    assert_eq!(valid, [true]);
}

#[tokio::test]
async fn a_certificate_that_cannot_be_read_fails_no_run() {
    let (before, after) = (ShopDump::committed(), ShopDump::generated(12, 7).await);
    let cluster = between_two(&before, &after).await;
    let target = cluster.target().pool();
    sabotage(
        target,
        "relevo_ledger.import",
        "OLD.state = 'sealed' AND NEW.state = 'live'",
        "NEW.certificate := jsonb_build_object('guardado', NEW.certificate);",
    )
    .await;
    let id = cluster.start_run(BackupMode::Sync).await;
    wait_for("the finish to fail", RUN_TIMEOUT, async || {
        let log = cluster.log(id).await;
        log.contains("attempt 1 of FinishImport failed: the new data are live").then_some(())
    })
    .await;
    assert_eq!(cluster.run(id).await.state, RunState::Running);
    assert_claims_nothing(&cluster, id).await;
    cluster.assert_target(&after).await;

    mend(target).await;
    target
        .execute(
            "UPDATE relevo_ledger.import SET certificate = certificate -> 'guardado'
             WHERE certificate ? 'guardado'",
        )
        .await
        .unwrap();
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &after).await;
}

#[tokio::test]
async fn an_end_that_cannot_be_written_down_comes_later() {
    let (before, after) = (ShopDump::committed(), ShopDump::generated(12, 7).await);
    let cluster = between_two(&before, &after).await;
    sabotage(
        cluster.pool(),
        "relevo.run",
        "NEW.state = 'succeeded' AND OLD.state <> 'succeeded'",
        "RAISE EXCEPTION 'todavia no';",
    )
    .await;
    let id = cluster.start_run(BackupMode::Sync).await;
    finish_given_up(&cluster, id).await;
    assert_eq!(cluster.run(id).await.state, RunState::Running);
    assert_claims_nothing(&cluster, id).await;
    cluster.assert_target(&after).await;

    mend(cluster.pool()).await;
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &after).await;
}
