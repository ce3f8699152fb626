//! Targets that are down, restarted, full or in use.

use std::fs::File;

use relevo_queue::JobFilter;
use relevo_runs::backup::BackupMode;
use relevo_runs::{Run, RunId, RunState};
use relevo_tests::gateway::Fault;
use relevo_tests::{OwnPostgres, ShopDump, SmallDisk, reference, wait_for};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use tempfile::TempDir;

use super::cluster::{Cluster, RUN_TIMEOUT, prepare};

/// The target's name there.
const DATABASE: &str = "tienda";

/// A cluster whose target is on a server of its own.
struct Own {
    postgres: OwnPostgres,
    url: String,
    cluster: Cluster,
}

impl Own {
    async fn start(dump: &ShopDump) -> Self {
        Self::on(OwnPostgres::start().await, dump).await
    }

    async fn on(postgres: OwnPostgres, dump: &ShopDump) -> Self {
        let url = postgres.database(DATABASE).await;
        let prepared = prepare(dump).set("backup.sicar.target_url", url.as_str());
        Self { postgres, cluster: Cluster::start(prepared).await, url }
    }

    /// Waits until the log of a run says something.
    async fn says(&self, id: RunId, what: &str) {
        wait_for(&format!("the log to say {what:?}"), RUN_TIMEOUT, async || {
            self.cluster.log(id).await.contains(what).then_some(())
        })
        .await;
    }

    /// Checks that a run succeeded, left nothing, and brought MariaDB's values.
    async fn assert_succeeded(&self, run: &Run, dump: &ShopDump) {
        let log = self.cluster.log(run.id).await;
        assert_eq!(run.state, RunState::Succeeded, "{:?}\n{log}", run.error);
        self.assert_holds(dump).await;
        self.cluster.assert_clean(run.id).await;
        self.assert_nothing_left().await;
    }

    /// Compares the target with MariaDB's values.
    async fn assert_holds(&self, dump: &ShopDump) {
        let differences = reference::compare(&self.url, "public", &dump.reference).await;
        assert!(differences.is_empty(), "{} differences", differences.len());
    }

    /// Checks that no schema of an import is left in the target.
    async fn assert_nothing_left(&self) {
        let left: Vec<String> = sqlx::query_scalar(
            "SELECT nspname::text FROM pg_namespace
             WHERE nspname LIKE 'relevo\\_stage%' OR nspname LIKE 'relevo\\_trash%'",
        )
        .fetch_all(&mut PgConnection::connect(&self.url).await.unwrap())
        .await
        .unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn a_target_that_is_down_is_waited_for() {
    let dump = ShopDump::committed();
    let own = Own::start(&dump).await;
    own.postgres.crash();
    let id = own.cluster.start_run(BackupMode::Sync).await;
    own.says(id, "attempt 1 of DownloadDump failed").await;
    own.postgres.start_again();
    let run = own.cluster.ended(id).await;
    own.assert_succeeded(&run, &dump).await;
    // The dump is fetched once.
    assert_eq!(own.cluster.gateway().record().await.asked.len(), 1);
}

#[tokio::test]
async fn a_target_that_is_restarted_in_the_middle_loses_nothing() {
    let dump = ShopDump::generated(12, 7).await;
    let own = Own::start(&dump).await;
    let size = std::fs::metadata(&dump.path).unwrap().len();
    let slow = Fault::SlowDownload { bytes_per_second: size / 6 };
    own.cluster.gateway().plan(vec![slow.always()]).await;
    let id = own.cluster.start_run(BackupMode::Sync).await;
    for chunks in [3, 30] {
        wait_for("some chunks to be loaded", RUN_TIMEOUT, async || {
            let mut target = PgConnection::connect(&own.url).await.ok()?;
            let loaded: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM relevo_ledger.import_chunk WHERE state = 'done'",
            )
            .fetch_one(&mut target)
            .await
            .ok()?;
            (loaded >= chunks).then_some(())
        })
        .await;
        own.postgres.crash();
        own.postgres.start_again();
    }
    let run = own.cluster.ended(id).await;
    own.assert_succeeded(&run, &dump).await;
}

/// A cluster whose target lies on a disk of its own; none where no such disk can be made. The folder
/// goes last.
async fn on_a_small_disk(dump: &ShopDump, size_mb: u32) -> Option<(Own, SmallDisk, TempDir)> {
    let postgres = OwnPostgres::start().await;
    let folder = tempfile::tempdir().unwrap();
    // The server has to pass through.
    postgres.give(folder.path());
    let place = folder.path().join("tablespace");
    let disk = SmallDisk::mount(&place, size_mb)?;
    postgres.give(&place);
    postgres.database(DATABASE).await;
    let mut admin = PgConnection::connect(&postgres.database("otra").await).await.unwrap();
    for sql in [
        format!("CREATE TABLESPACE lleno LOCATION '{}'", place.display()),
        format!("ALTER DATABASE {DATABASE} SET TABLESPACE lleno"),
    ] {
        admin.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
    }
    Some((Own::on(postgres, dump).await, disk, folder))
}

#[tokio::test]
async fn a_target_without_space_is_given_time_to_get_some() {
    let dump = ShopDump::generated(12, 7).await;
    // An empty database takes about 8 MB of it, the dump more than the rest.
    let Some((own, disk, _folder)) = on_a_small_disk(&dump, 14).await else { return };
    let id = own.cluster.start_run(BackupMode::Sync).await;
    own.says(id, "No space left on device").await;
    assert_eq!(own.cluster.run(id).await.state, RunState::Running);
    disk.resize(400);
    let run = own.cluster.ended(id).await;
    own.assert_succeeded(&run, &dump).await;
    // Before its disk goes.
    drop(own);
}

#[tokio::test]
async fn a_target_that_stays_full_fails_the_run_and_keeps_its_data() {
    let (before, dump) = (ShopDump::committed(), ShopDump::generated(12, 7).await);
    let Some((own, disk, _folder)) = on_a_small_disk(&before, 60).await else { return };
    let first = own.cluster.start_run(BackupMode::Sync).await;
    let first = own.cluster.ended(first).await;
    own.assert_succeeded(&first, &before).await;

    // Room for a part of the rows.
    let filler = disk.fill();
    let file = File::options().write(true).open(&filler).unwrap();
    file.set_len(file.metadata().unwrap().len() - (4 << 20)).unwrap();
    own.cluster.gateway().serve(&dump.path).await;
    let id = own.cluster.start_run(BackupMode::Sync).await;
    own.says(id, "No space left on device").await;
    // Nothing is left for the ledger either: what the run has loaded has to go first.
    disk.fill();
    let run = own.cluster.ended_soon(id).await;
    own.cluster.assert_failed(&run, "No space left on device").await;
    let error = run.error.as_deref().unwrap_or_default();
    assert!(error.contains("failed for good after 2 attempt(s)"), "{error}");
    assert!(error.contains("make room on the disk of the target's server"), "{error}");
    assert!(error.contains("start a new run"), "{error}");
    own.assert_holds(&before).await;

    // To drop a table, too, Postgres may need a page of its catalogues: with room, it goes.
    disk.resize(400);
    std::fs::remove_file(filler).unwrap();
    own.assert_nothing_left().await;
    let id = own.cluster.start_run(BackupMode::Sync).await;
    let run = own.cluster.ended(id).await;
    own.assert_succeeded(&run, &dump).await;
    drop(own);
}

#[tokio::test]
async fn tables_in_use_by_a_long_reader_are_waited_for() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    cluster.import(BackupMode::Sync, &dump).await;
    let mut reader = cluster.target().pool().begin().await.unwrap();
    let count = "SELECT count(*) FROM articulo";
    let before: i64 = sqlx::query_scalar(count).fetch_one(&mut *reader).await.unwrap();
    let id = cluster.start_run(BackupMode::Sync).await;
    wait_for("the cutover to wait for the reader", RUN_TIMEOUT, async || {
        let waiting: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
             WHERE datname = current_database() AND wait_event_type = 'Lock'
               AND starts_with(query, '-- lock_tables')",
        )
        .fetch_one(cluster.target().pool())
        .await
        .unwrap();
        (waiting > 0).then_some(())
    })
    .await;
    // It is in nobody's way meanwhile: not in the reader's, nor in that of one who comes later.
    let still: i64 = sqlx::query_scalar(count).fetch_one(&mut *reader).await.unwrap();
    let other: i64 = sqlx::query_scalar(count).fetch_one(cluster.target().pool()).await.unwrap();
    assert_eq!((still, other), (before, before));
    assert!(!cluster.run(id).await.state.is_ended());
    reader.commit().await.unwrap();
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &dump).await;
}

/// A run that readers never let through: it fails and says who they are, and what to do.
async fn must_be_held_up(cluster: &Cluster, dump: &ShopDump, reason: &str) {
    let id = cluster.start_run(BackupMode::Sync).await;
    let run = cluster.ended(id).await;
    cluster.assert_failed(&run, reason).await;
    let error = run.error.as_deref().unwrap_or_default();
    assert!(error.contains("un_informe"), "the reader is not named: {error}");
    assert!(error.contains("end what is in the way, then start a new run"), "{error}");
    cluster.assert_target(dump).await;
}

#[tokio::test]
async fn a_reader_that_never_lets_go_fails_the_run_and_reads_on() {
    let dump = ShopDump::committed();
    let prepared = prepare(&dump).set("backup.sicar.cutover_patience_seconds", 4);
    let cluster = Cluster::start(prepared).await;
    cluster.import(BackupMode::Sync, &dump).await;
    let mut reader = cluster.target().pool().begin().await.unwrap();
    reader.execute("SET LOCAL application_name = 'un_informe'").await.unwrap();
    let count = "SELECT count(*) FROM articulo";
    let before: i64 = sqlx::query_scalar(count).fetch_one(&mut *reader).await.unwrap();
    must_be_held_up(&cluster, &dump, "the tables stayed in use for").await;
    let still: i64 = sqlx::query_scalar(count).fetch_one(&mut *reader).await.unwrap();
    assert_eq!(still, before);
    reader.rollback().await.unwrap();
    cluster.import(BackupMode::Sync, &dump).await;
}

#[tokio::test]
async fn an_old_transaction_that_never_ends_fails_the_run_and_reads_on() {
    let dump = ShopDump::committed();
    let prepared = prepare(&dump)
        .set("backup.sicar.snapshot_wait_seconds", 2)
        .set("backup.sicar.cutover_patience_seconds", 3);
    let cluster = Cluster::start(prepared).await;
    cluster.import(BackupMode::Sync, &dump).await;
    let mut reader = cluster.target().pool().begin().await.unwrap();
    // Its snapshot stands, and it holds no table: what it reads next it would find empty.
    for sql in [
        "SET LOCAL application_name = 'un_informe'",
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
        "SELECT 1",
    ] {
        reader.execute(sql).await.unwrap();
    }
    must_be_held_up(&cluster, &dump, "transactions that began before the load are still open")
        .await;
    let read: i64 =
        sqlx::query_scalar("SELECT count(*) FROM articulo").fetch_one(&mut *reader).await.unwrap();
    assert!(read > 0, "it sees a hole");
    reader.rollback().await.unwrap();
    cluster.import(BackupMode::Sync, &dump).await;
}

#[tokio::test]
async fn a_second_run_of_a_busy_source_is_refused() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    cluster.gateway().plan(vec![Fault::WebhookNever.always()]).await;
    let id = cluster.start_run(BackupMode::Webhook).await;
    let path = "/api/v1/backups/sicar";
    let answer = cluster.request(reqwest::Method::POST, path).send().await.unwrap();
    assert_eq!(answer.status(), 409);
    let problem: serde_json::Value = answer.json().await.unwrap();
    assert_eq!(problem["code"], "run_active", "{problem}");
    let refused = cluster.relevo(["backup", "run", "--source", "sicar"]).await;
    assert!(!refused.status.success(), "{refused:?}");
    let still_active = format!("run {id} of this source is still active");
    assert!(refused.stderr.contains(&still_active), "{refused:?}");
    assert_eq!(cluster.runs().list(&relevo_runs::RunFilter::default()).await.unwrap().len(), 1);
    assert_eq!(cluster.queue().jobs(&JobFilter::run(id.0 + 1)).await.unwrap().len(), 0);
}
