//! Targets that are down, restarted, full or in use.

use relevo_queue::JobFilter;
use relevo_runs::backup::BackupMode;
use relevo_runs::{Run, RunId, RunState};
use relevo_tests::gateway::Fault;
use relevo_tests::{OwnPostgres, ShopDump, SmallDisk, reference, wait_for};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};

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
        let differences = reference::compare(&self.url, "public", &dump.reference).await;
        assert!(differences.is_empty(), "{} differences", differences.len());
        self.cluster.assert_clean(run.id).await;
        let staging: Vec<String> = sqlx::query_scalar(
            "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'relevo\\_stage%'",
        )
        .fetch_all(&mut PgConnection::connect(&self.url).await.unwrap())
        .await
        .unwrap();
        assert!(staging.is_empty(), "{staging:?}");
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

#[tokio::test]
async fn a_target_without_space_is_given_time_to_get_some() {
    let dump = ShopDump::generated(12, 7).await;
    let postgres = OwnPostgres::start().await;
    let folder = tempfile::tempdir().unwrap();
    // The server has to pass through.
    postgres.give(folder.path());
    let place = folder.path().join("tablespace");
    // An empty database takes about 8 MB of it, the dump more than the rest.
    let Some(disk) = SmallDisk::mount(&place, 14) else { return };
    postgres.give(&place);
    postgres.database(DATABASE).await;
    let mut admin = PgConnection::connect(&postgres.database("otra").await).await.unwrap();
    for sql in [
        format!("CREATE TABLESPACE lleno LOCATION '{}'", place.display()),
        format!("ALTER DATABASE {DATABASE} SET TABLESPACE lleno"),
    ] {
        admin.execute(sqlx::AssertSqlSafe(sql)).await.unwrap();
    }
    let own = Own::on(postgres, &dump).await;

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
