//! Workers that are killed, frozen or told to stop at a chosen step; `kills::alone` kills them, and
//! everything else, at any moment.

use std::time::Duration;

use relevo_jobs::Noop;
use relevo_queue::{JobFilter, JobId, JobState};
use relevo_runs::backup::BackupMode;
use relevo_runs::{Run, RunId, typed_job};
use relevo_tests::gateway::Fault;
use relevo_tests::{ShopDump, wait_for};
use sqlx::AssertSqlSafe;

use crate::backup::cluster::{Cluster, RUN_TIMEOUT, prepare};

#[tokio::test]
async fn a_worker_frozen_past_its_lease_changes_nothing_when_it_wakes() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump)).await;
    let size = std::fs::metadata(&dump.path).unwrap().len();
    let slow = Fault::SlowDownload { bytes_per_second: size / 6 };
    cluster.gateway().plan(vec![slow.times(1)]).await;
    let id = cluster.start_run(BackupMode::Sync).await;
    let download = running_download(&cluster, id).await;

    // It holds the download and some chunks; another worker takes all of it over and ends the run.
    cluster.workers[0].stop();
    let run = ended_by_another(&mut cluster, id, &dump).await;
    let before = snapshot(&cluster, &run).await;
    assert!(before.lease_epoch > download.1, "the download was not taken over");
    wakes_and_changes_nothing(&mut cluster, &run, before, &dump).await;
}

/// Starts a second worker, which has to end the run that the first one is frozen in.
async fn ended_by_another(cluster: &mut Cluster, id: RunId, dump: &ShopDump) -> Run {
    cluster.start_worker().await;
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, dump).await;
    run
}

/// Lets the frozen first worker go on: it may change nothing of what the second one did.
async fn wakes_and_changes_nothing(
    cluster: &mut Cluster,
    run: &Run,
    before: Snapshot,
    dump: &ShopDump,
) {
    cluster.workers[0].resume();
    // It learns that its leases are lost, and works on under a new session: that is shown by a job
    // that only it can run.
    cluster.workers[1].terminate();
    cluster.workers[1].wait_exit(RUN_TIMEOUT).await;
    let job = cluster.queue().enqueue(typed_job(&Noop::default())).await.unwrap();
    wait_for("the woken worker to run a job", RUN_TIMEOUT, async || {
        let job = cluster.queue().job(job.id).await.unwrap()?;
        (job.state == JobState::Completed).then_some(())
    })
    .await;
    let after = snapshot(cluster, run).await;
    assert!(after.run == before.run, "the run changed to {:?}", after.run);
    assert_eq!(after.log, before.log);
    assert_eq!(after.lease_epoch, before.lease_epoch);
    assert_eq!(after.jobs, before.jobs);
    assert_eq!(after.tables, before.tables);
    cluster.assert_succeeded(run, dump).await;
}

/// Waits until a session of an import that is at `step` waits for a lock in the target.
async fn waits_for_a_lock(cluster: &Cluster, step: &str) {
    let name = format!("relevo import %{step}%");
    wait_for("the import to wait for our lock", RUN_TIMEOUT, async || {
        let waits: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_stat_activity
                            WHERE datname = current_database() AND application_name LIKE $1
                              AND wait_event_type = 'Lock')",
        )
        .bind(&name)
        .fetch_one(cluster.target().pool())
        .await
        .unwrap();
        waits.then_some(())
    })
    .await;
}

/// Locks every table of a schema pattern in the target until the transaction ends.
async fn lock_tables(cluster: &Cluster, schema: &str, mode: &str) -> sqlx::PgTransaction<'static> {
    let mut lock = cluster.target().pool().begin().await.unwrap();
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname LIKE $1 AND c.relkind = 'r'",
    )
    .bind(schema)
    .fetch_all(&mut *lock)
    .await
    .unwrap();
    assert!(!tables.is_empty(), "there is nothing to lock");
    let sql = format!("LOCK TABLE {} IN {mode} MODE", tables.join(", "));
    sqlx::query(AssertSqlSafe(sql)).execute(&mut *lock).await.unwrap();
    lock
}

#[tokio::test]
async fn a_worker_frozen_in_a_chunk_changes_nothing_when_it_wakes() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump)).await;
    cluster.queue().pause("translate").await.unwrap();
    let id = cluster.start_run(BackupMode::Sync).await;
    wait_for("the download to end", RUN_TIMEOUT, async || {
        (cluster.run(id).await.phase == "load").then_some(())
    })
    .await;
    // A COPY can begin, and gets no further.
    let lock = lock_tables(&cluster, "relevo\\_stage\\_%", "SHARE").await;
    cluster.queue().resume("translate").await.unwrap();
    waits_for_a_lock(&cluster, "chunk").await;

    cluster.workers[0].stop();
    lock.rollback().await.unwrap();
    let run = ended_by_another(&mut cluster, id, &dump).await;
    let before = snapshot(&cluster, &run).await;
    wakes_and_changes_nothing(&mut cluster, &run, before, &dump).await;
}

#[tokio::test]
async fn a_worker_frozen_in_the_finish_changes_nothing_when_it_wakes() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump)).await;
    cluster.import(BackupMode::Sync, &dump).await;
    // An application that reads keeps the cutover waiting.
    let lock = lock_tables(&cluster, "public", "ACCESS SHARE").await;
    let id = cluster.start_run(BackupMode::Sync).await;
    waits_for_a_lock(&cluster, "finish").await;

    cluster.workers[0].stop();
    cluster.start_worker().await;
    let filter = JobFilter { kinds: vec!["FinishImport".to_owned()], ..JobFilter::run(id.0) };
    wait_for("the finish to be taken over", RUN_TIMEOUT, async || {
        let job = cluster.queue().jobs(&filter).await.unwrap().into_iter().next()?;
        (job.state == JobState::Running && job.lease_epoch > 1).then_some(())
    })
    .await;
    lock.rollback().await.unwrap();
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &dump).await;
    let before = snapshot(&cluster, &run).await;
    wakes_and_changes_nothing(&mut cluster, &run, before, &dump).await;
}

/// Waits until the run's download is running and has begun to bring bytes; its job and epoch.
async fn running_download(cluster: &Cluster, id: RunId) -> (JobId, i64) {
    let filter = JobFilter {
        kinds: vec!["DownloadDump".to_owned()],
        states: vec![JobState::Running],
        ..JobFilter::run(id.0)
    };
    wait_for("the download to be under way", RUN_TIMEOUT, async || {
        let job = cluster.queue().jobs(&filter).await.unwrap().into_iter().next()?;
        (job.progress?.done > 0).then_some((job.id, job.lease_epoch))
    })
    .await
}

/// What a stale worker could have changed.
struct Snapshot {
    run: Run,
    log: String,
    lease_epoch: i64,
    jobs: Vec<(JobId, JobState)>,
    /// The transaction in which each table of the target was last created or moved.
    tables: Vec<(String, String)>,
}

async fn snapshot(cluster: &Cluster, run: &Run) -> Snapshot {
    let mut filter = JobFilter { limit: Some(1_000), ..JobFilter::run(run.id.0) };
    let jobs = cluster.queue().jobs(&filter).await.unwrap();
    filter.kinds = vec!["DownloadDump".to_owned()];
    let download = cluster.queue().jobs(&filter).await.unwrap().into_iter().next().unwrap();
    let tables = sqlx::query_as(
        "SELECT oid::regclass::text, xmin::text FROM pg_class
         WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1",
    )
    .fetch_all(cluster.target().pool())
    .await
    .unwrap();
    Snapshot {
        run: cluster.run(run.id).await,
        log: cluster.log(run.id).await,
        lease_epoch: download.lease_epoch,
        jobs: jobs.iter().map(|job| (job.id, job.state)).collect(),
        tables,
    }
}

#[tokio::test]
async fn a_worker_told_to_stop_gives_back_what_it_cannot_finish() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump)).await;
    let size = std::fs::metadata(&dump.path).unwrap().len();
    cluster.gateway().plan(vec![Fault::SlowDownload { bytes_per_second: size / 8 }.always()]).await;
    let id = cluster.start_run(BackupMode::Webhook).await;
    let (download, _) = running_download(&cluster, id).await;

    cluster.workers[0].terminate();
    // Grace is 10 s here; the download alone would take longer than it takes to stop.
    let status = cluster.workers[0].wait_exit(Duration::from_secs(12)).await;
    assert!(status.success(), "{status}\n{}", cluster.workers[0].output());
    let job = cluster.queue().job(download).await.unwrap().unwrap();
    assert_eq!((job.state, job.attempt), (JobState::Available, 0), "an attempt was spent");
    assert_eq!(job.deaths, 0);
    let sessions = cluster.queue().sessions().await.unwrap();
    assert!(sessions.is_empty(), "{sessions:?}");

    cluster.gateway().plan(Vec::new()).await;
    cluster.start_worker().await;
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &dump).await;
    let starts: Vec<u64> =
        cluster.gateway().record().await.downloads.iter().map(|download| download.start).collect();
    assert_eq!(starts.len(), 2, "{starts:?}");
    assert!(starts[1] > 0, "the second worker did not resume: {starts:?}");
}

#[tokio::test]
async fn workers_that_die_under_a_job_again_and_again_fail_its_run() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump)).await;
    let size = std::fs::metadata(&dump.path).unwrap().len();
    cluster
        .gateway()
        .plan(vec![Fault::SlowDownload { bytes_per_second: size / 30 }.always()])
        .await;
    let id = cluster.start_run(BackupMode::Sync).await;
    let (download, _) = running_download(&cluster, id).await;
    // One death is enough here.
    sqlx::query("UPDATE relevo.job SET max_deaths = 1 WHERE id = $1")
        .bind(download)
        .execute(cluster.pool())
        .await
        .unwrap();
    cluster.replace_worker(0).await;
    let run = cluster.ended(id).await;
    cluster.assert_failed(&run, "DownloadDump failed for good").await;
}

/// What becomes of a finish whose worker is killed between the cutover and the run's end.
enum Then {
    /// Another worker takes the job over.
    TakenOver,
    /// The job is cancelled before another worker can take it over.
    Cancelled,
}

/// A run that has begun its finish and cannot end as long as its row is locked.
async fn locked_in_its_finish(cluster: &Cluster) -> (RunId, sqlx::PgTransaction<'static>) {
    for _ in 0..5 {
        let id = cluster.start_run(BackupMode::Sync).await;
        wait_for("the finish to begin", RUN_TIMEOUT, async || {
            let run = cluster.run(id).await;
            (run.phase == "finish" || run.state.is_ended()).then_some(())
        })
        .await;
        let mut lock = cluster.pool().begin().await.unwrap();
        let run = cluster.runs().get_for_update_in(&mut lock, id).await.unwrap().unwrap();
        if !run.state.is_ended() {
            return (id, lock);
        }
        // It was faster than we looked; another one then.
        lock.rollback().await.unwrap();
        cluster.assert_clean(id).await;
    }
    panic!("every run ended before it could be locked");
}

/// Kills the worker when its target is live already and its run has not ended yet.
async fn killed_after_the_cutover(then: Then) {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump)).await;
    let size = std::fs::metadata(&dump.path).unwrap().len();
    let slow = Fault::SlowDownload { bytes_per_second: size / 2 };
    cluster.gateway().plan(vec![slow.always()]).await;
    let (id, lock) = locked_in_its_finish(&cluster).await;
    wait_for("the target to be live", RUN_TIMEOUT, async || {
        let states: Vec<String> = sqlx::query_scalar("SELECT state FROM relevo_ledger.import")
            .fetch_all(cluster.target().pool())
            .await
            .unwrap();
        (states.last().is_some_and(|state| state == "live")).then_some(())
    })
    .await;
    cluster.workers.remove(0).kill();
    lock.rollback().await.unwrap();

    if matches!(then, Then::Cancelled) {
        let filter = JobFilter { kinds: vec!["FinishImport".to_owned()], ..JobFilter::run(id.0) };
        let finish = wait_for("the rescue of the finish", RUN_TIMEOUT, async || {
            let job = cluster.queue().jobs(&filter).await.unwrap().into_iter().next()?;
            (job.state == JobState::Available).then_some(job.id)
        })
        .await;
        cluster.queue().cancel(finish, "by hand").await.unwrap();
    }
    cluster.start_worker().await;
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &dump).await;
}

#[tokio::test]
async fn a_kill_after_the_cutover_is_healed_by_the_next_worker() {
    killed_after_the_cutover(Then::TakenOver).await;
}

#[tokio::test]
async fn a_kill_after_the_cutover_is_healed_even_without_the_job() {
    killed_after_the_cutover(Then::Cancelled).await;
}
