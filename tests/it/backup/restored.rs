//! `relevo state backup` and `relevo state restore`: what comes back, and what a new incarnation
//! makes of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use relevo_queue::JobState;
use relevo_runs::backup::BackupMode;
use relevo_runs::{RunId, RunState, typed_job};
use relevo_tests::{CommandOutput, ShopDump, TestDatabase, wait_for};
use serde_json::Value;

use super::cluster::{Cluster, RUN_TIMEOUT, files, prepare};

/// Saves the state of a cluster beside its configuration.
async fn back_up(cluster: &Cluster) -> PathBuf {
    let file = cluster.config().with_file_name("relevo.state");
    let said = cluster.relevo(["state", "backup", text(&file), "--json"]).await.json();
    assert_eq!(said["file"], text(&file), "{said}");
    assert!(said["rows"].as_u64().unwrap() > 0, "{said}");
    file
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

async fn restore(cluster: &Cluster, file: &Path, flags: &[&str]) -> CommandOutput {
    let arguments = ["state", "restore", text(file), "--json"];
    cluster.relevo(arguments.iter().chain(flags)).await
}

/// Restores once nobody counts as being at work any more.
async fn restore_when_idle(cluster: &Cluster, file: &Path, flags: &[&str]) -> Value {
    wait_for("the leases of those that are gone to run out", RUN_TIMEOUT, async || {
        let said = restore(cluster, file, flags).await;
        if said.stderr.contains("at work") {
            return None;
        }
        Some(said.json())
    })
    .await
}

/// Ends everything but the first worker.
async fn stop_all(cluster: &mut Cluster) {
    cluster.api = None;
    cluster.scheduler = None;
}

async fn phase(cluster: &Cluster, id: RunId, phase: &str) {
    wait_for("the run to get there", RUN_TIMEOUT, async || {
        (cluster.run(id).await.phase == phase).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_restored_control_plane_goes_by_what_its_targets_say() {
    let dump = ShopDump::committed();
    let prepared = prepare(&dump).set("scheduler.lease_seconds", 3);
    let mut cluster = Cluster::start(prepared).await;
    let first = cluster.import(BackupMode::Sync, &dump).await.id;

    // The second run is under way when the state is saved, and succeeds afterwards.
    let queue = cluster.queue();
    queue.pause("translate").await.unwrap();
    let second = cluster.start_run(BackupMode::Sync).await;
    phase(&cluster, second, "load").await;
    let later = typed_job(&relevo_jobs::Noop::default()).delay(Duration::from_secs(36_000));
    let later = queue.enqueue(later).await.unwrap().id;
    let file = back_up(&cluster).await;
    queue.resume("translate").await.unwrap();
    let run = cluster.ended(second).await;
    cluster.assert_succeeded(&run, &dump).await;
    // The third one happens altogether in the time that is going to be lost.
    let third = cluster.import(BackupMode::Sync, &dump).await.id;

    let refused = restore(&cluster, &file, &["--replace"]).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("at work"), "{refused:?}");
    // A worker stands still throughout, and knows of nothing.
    cluster.workers[0].stop();
    stop_all(&mut cluster).await;
    let refused = wait_for("the leases to run out", RUN_TIMEOUT, async || {
        let refused = restore(&cluster, &file, &[]).await;
        (!refused.stderr.contains("at work")).then_some(refused)
    })
    .await;
    assert!(refused.stderr.contains("--replace"), "{refused:?}");
    let restored = restore_when_idle(&cluster, &file, &["--replace"]).await;
    assert_eq!(restored["runs_to_be_ended"], 1, "{restored}");
    assert!(restored["incarnation"].as_i64().unwrap() > 1_000_000, "{restored}");
    let aside = restored["replaced_schema"].as_str().unwrap();
    assert!(aside.starts_with("relevo_replaced_"), "{restored}");
    assert_eq!(queue.job(later).await.unwrap().unwrap().state, JobState::Scheduled);
    assert!(cluster.runs().get(third).await.unwrap().is_none(), "it was not in the backup");

    // The worker of the past wakes up, finds out, and ends.
    cluster.workers[0].resume();
    let status = cluster.workers[0].wait_exit(RUN_TIMEOUT).await;
    assert!(!status.success(), "{status}");
    let output = cluster.workers.remove(0).output();
    assert!(output.contains("was restored from a backup"), "{output}");

    cluster.start_api().await;
    cluster.start_scheduler().await;
    cluster.start_worker().await;
    let run = cluster.ended(second).await;
    assert_eq!(run.state, RunState::Succeeded, "{:?}", run.error);
    assert!(run.certificate.is_some(), "the target has it");
    assert_eq!(cluster.run(first).await.state, RunState::Succeeded);

    // The queue was paused when the state was saved, so it is again.
    cluster.queue().resume("translate").await.unwrap();
    // The number of the lost run is given out again, and means another run.
    let run = cluster.import(BackupMode::Sync, &dump).await;
    assert_eq!(run.id, third);
    let kept = files(&cluster.data_dir().join("dumps"));
    let of_third = kept.iter().filter(|name| name.contains(&format!("-run{third}-"))).count();
    assert_eq!(of_third, 2, "one each: {kept:?}");
    let imports: Vec<String> =
        sqlx::query_scalar("SELECT id FROM relevo_ledger.import WHERE id LIKE '%\\_r3\\_%'")
            .fetch_all(cluster.target().pool())
            .await
            .unwrap();
    assert_eq!(imports.len(), 2, "{imports:?}");
    let path = "/api/v1/audit?action=state.restore";
    let audit = cluster.request(reqwest::Method::GET, path).send().await.unwrap();
    assert!(audit.text().await.unwrap().contains("state.restore"));
}

#[tokio::test]
async fn a_run_that_its_target_does_not_know_as_live_fails() {
    let dump = ShopDump::committed();
    let prepared = prepare(&dump).set("scheduler.lease_seconds", 3);
    let mut cluster = Cluster::start(prepared).await;
    cluster.import(BackupMode::Sync, &dump).await;
    cluster.queue().pause("translate").await.unwrap();
    let id = cluster.start_run(BackupMode::Sync).await;
    phase(&cluster, id, "load").await;
    let file = back_up(&cluster).await;
    for worker in cluster.workers.drain(..) {
        worker.kill();
    }
    stop_all(&mut cluster).await;
    let restored = restore_when_idle(&cluster, &file, &["--replace", "--pause"]).await;
    assert!(restored["jobs_cancelled"].as_u64().unwrap() > 0, "{restored}");
    let paused = restored["queues_paused"].as_array().unwrap();
    assert!(paused.contains(&"backup".into()) && paused.contains(&"notify".into()), "{restored}");

    cluster.start_api().await;
    cluster.start_scheduler().await;
    cluster.start_worker().await;
    let run = cluster.ended(id).await;
    for queue in ["backup", "translate", "notify", "default"] {
        drop(cluster.relevo(["queue", "resume", queue]).await.success());
    }
    cluster.assert_failed(&run, "was restored since").await;
    cluster.assert_target(&dump).await;
    cluster.import(BackupMode::Sync, &dump).await;
}

#[tokio::test]
async fn slots_of_the_past_do_not_fire_after_a_restore() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump).workers(0).without_scheduler()).await;
    let add = async |name: &str, cron: &str| {
        let arguments =
            ["schedule", "add", name, "--cron", cron, "--kind", "Noop", "--missed", "catch_up"];
        drop(cluster.relevo(arguments).await.success());
    };
    add("each-minute", "* * * * *").await;
    add("each-second", "* * * * * *").await;
    // As if nobody had led for hours.
    sqlx::query("UPDATE relevo.schedule SET settled_to = now() - interval '5 hours'")
        .execute(cluster.pool())
        .await
        .unwrap();
    let file = back_up(&cluster).await;
    let restored = restore_when_idle(&cluster, &file, &["--replace"]).await;
    assert_eq!(restored["queues_paused"], Value::Array(Vec::new()));
    let since: chrono::DateTime<chrono::Utc> =
        sqlx::query_scalar("SELECT min(settled_to) FROM relevo.schedule")
            .fetch_one(cluster.pool())
            .await
            .unwrap();
    cluster.start_scheduler().await;
    wait_for("the schedules to fire again", RUN_TIMEOUT, async || {
        let fires: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM relevo.schedule_fire WHERE schedule = 'each-second'",
        )
        .fetch_one(cluster.pool())
        .await
        .unwrap();
        (fires >= 3).then_some(())
    })
    .await;
    let old: i64 = sqlx::query_scalar("SELECT count(*) FROM relevo.schedule_fire WHERE slot <= $1")
        .bind(since)
        .fetch_one(cluster.pool())
        .await
        .unwrap();
    assert_eq!(old, 0, "slots of the past fired");
}

#[tokio::test]
async fn a_backup_opens_in_another_database_and_a_damaged_one_nowhere() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    let run = cluster.import(BackupMode::Sync, &dump).await;
    let file = back_up(&cluster).await;
    let mode = std::os::unix::fs::PermissionsExt::mode(&file.metadata().unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    let elsewhere = TestDatabase::empty().await;
    let there = async |arguments: &[&str]| {
        let mut command = tokio::process::Command::from(relevo_tests::clean_command("relevo"));
        command.env("RELEVO_CONFIG", cluster.config());
        command.env("RELEVO_DATABASE_URL", elsewhere.url()).args(arguments);
        let output = command.output().await.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), {
            String::from_utf8_lossy(&output.stderr).into_owned()
        })
    };
    let whole = std::fs::read(&file).unwrap();
    let half = cluster.config().with_file_name("half.state");
    std::fs::write(&half, &whole[..whole.len() / 2]).unwrap();
    let (code, _, error) = there(&["state", "restore", text(&half)]).await;
    assert_eq!(code, Some(2), "{error}");
    assert!(error.contains("damaged or incomplete"), "{error}");
    let schemas: i64 =
        sqlx::query_scalar("SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'relevo%'")
            .fetch_one(elsewhere.pool())
            .await
            .unwrap();
    assert_eq!(schemas, 0, "a damaged file changed something");

    let (code, said, error) = there(&["state", "restore", text(&file), "--json"]).await;
    assert_eq!(code, Some(0), "{error}");
    let restored: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(restored["replaced_schema"], Value::Null);
    let (_, said, _) = there(&["run", "show", &run.id.to_string(), "--json"]).await;
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert_eq!(shown["certificate"]["rows"], dump.reference.rows(), "{shown}");
    // What identity columns and sequences give out next has not been given out before.
    let (code, _, error) = there(&["job", "enqueue", "Noop"]).await;
    assert_eq!(code, Some(0), "{error}");

    // A control plane that is not migrated says so, and writes nothing.
    let empty = TestDatabase::empty().await;
    let mut command = tokio::process::Command::from(relevo_tests::clean_command("relevo"));
    let target = cluster.config().with_file_name("none.state");
    command.env("RELEVO_DATABASE_URL", empty.url()).args(["state", "backup", text(&target)]);
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(!target.exists());
}
