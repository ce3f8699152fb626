//! The edit of a schedule, killed, while a leader works by it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use relevo_tests::{TestDatabase, free_port, wait_for};

use super::gate::{Gate, Place};
use crate::cli::Relevo;

const PATIENCE: Duration = Duration::from_secs(90);

async fn slots(database: &TestDatabase) -> Vec<DateTime<Utc>> {
    sqlx::query_scalar("SELECT slot FROM relevo.schedule_fire ORDER BY slot")
        .fetch_all(database.pool())
        .await
        .unwrap()
}

async fn more_slots(database: &TestDatabase) {
    let had = slots(database).await.len();
    wait_for("the leader to go on", PATIENCE, async || {
        (slots(database).await.len() > had + 3).then_some(())
    })
    .await;
}

async fn edits(database: &TestDatabase) -> i64 {
    sqlx::query_scalar(
        "SELECT count(*) FROM relevo.audit WHERE action = 'schedule.put' AND before IS NOT NULL",
    )
    .fetch_one(database.pool())
    .await
    .unwrap()
}

#[tokio::test]
async fn an_edit_that_is_killed_is_made_whole_or_not_at_all() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database).env("RELEVO_SCHEDULER_LEASE_SECONDS", "3");
    let add = ["schedule", "add", "pulse", "--cron", "* * * * * *", "--kind", "Noop"];
    relevo.ok(&[&add[..], &["--missed", "catch_up"]].concat()).await;
    let listen = format!("127.0.0.1:{}", free_port());
    let scheduler = relevo.process(&["scheduler", "--listen", &listen]).spawn();
    more_slots(&database).await;
    // Settling its slots changes the schedule too, but not what it is.
    let edited = "OLD.revision <> NEW.revision";
    let edit = ["schedule", "edit", "pulse", "--cron", "*/2 * * * * *", "--jitter", "1"];
    let rhythm = async || {
        let shown = relevo.json(&["schedule", "show", "pulse"]).await;
        shown["rhythm"].as_str().unwrap().to_owned()
    };

    let gate = Gate::close(&database, Place::Update("relevo.schedule", edited)).await;
    let killed = relevo.process(&edit).spawn();
    gate.reached().await;
    killed.kill();
    gate.open().await;
    assert_eq!(rhythm().await, "cron * * * * * *");
    assert_eq!(edits(&database).await, 0, "the audit log tells of what did not happen");
    more_slots(&database).await;
    let whole = slots(&database).await;
    let second = chrono::Duration::seconds(1);
    assert!(whole.windows(2).all(|pair| pair[1] - pair[0] == second), "{whole:?}");

    let gate = Gate::close(&database, Place::Commit("relevo.schedule", edited)).await;
    let killed = relevo.process(&edit).spawn();
    gate.reached().await;
    killed.kill();
    gate.open().await;
    assert_eq!(rhythm().await, "cron */2 * * * * *");
    let shown = relevo.json(&["schedule", "show", "pulse"]).await;
    assert_eq!(shown["jitter_seconds"], 1, "{shown}");
    assert_eq!(edits(&database).await, 1);
    // Nobody was told, so it is done again, and is as it was.
    relevo.ok(&edit).await;
    assert_eq!(relevo.json(&["schedule", "show", "pulse"]).await["rhythm"], shown["rhythm"]);
    more_slots(&database).await;

    let jobs: (i64, i64) = sqlx::query_as(
        "SELECT count(job_id), count(DISTINCT job_id) FROM relevo.schedule_fire
         WHERE outcome = 'started'",
    )
    .fetch_one(database.pool())
    .await
    .unwrap();
    assert_eq!(jobs.0, jobs.1);
    scheduler.terminate();
    assert!(scheduler.wait_exit(PATIENCE).await.success(), "{}", scheduler.output());
}
