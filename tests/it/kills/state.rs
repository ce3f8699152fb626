//! `relevo state restore`, killed.

use relevo_tests::TestDatabase;

use super::gate::{Gate, Place};
use crate::cli::Relevo;

/// Schemas of the control plane, present and put aside.
async fn schemas(database: &TestDatabase) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT nspname::text FROM pg_namespace WHERE nspname LIKE 'relevo%' ORDER BY 1",
    )
    .fetch_all(database.pool())
    .await
    .unwrap()
}

async fn jobs(relevo: &Relevo) -> Vec<i64> {
    let listed = relevo.json(&["job", "list"]).await;
    let mut ids: Vec<i64> =
        listed.as_array().unwrap().iter().map(|job| job["id"].as_i64().unwrap()).collect();
    ids.sort_unstable();
    ids
}

async fn enqueue(relevo: &Relevo) -> i64 {
    relevo.json(&["job", "enqueue", "Noop"]).await["id"].as_i64().unwrap()
}

#[tokio::test]
async fn a_restore_that_is_killed_has_changed_nothing_and_can_be_repeated() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    let saved = [enqueue(&relevo).await, enqueue(&relevo).await];
    let file = relevo.folder().join("relevo.state");
    let file = file.to_str().unwrap();
    relevo.ok(&["state", "backup", file]).await;
    let later = enqueue(&relevo).await;
    let incarnation = "SELECT incarnation FROM relevo.control";
    let before: i64 = sqlx::query_scalar(incarnation).fetch_one(database.pool()).await.unwrap();

    // The old schema is put aside and the new one nearly made.
    let gate = Gate::close(&database, Place::Created("relevo.upload")).await;
    let restore = relevo.process(&["state", "restore", file, "--replace"]).spawn();
    gate.reached().await;
    restore.kill();
    gate.open().await;
    assert_eq!(schemas(&database).await, ["relevo"]);
    assert_eq!(jobs(&relevo).await, [saved[0], saved[1], later]);
    let after: i64 = sqlx::query_scalar(incarnation).fetch_one(database.pool()).await.unwrap();
    assert_eq!(after, before);
    assert!(enqueue(&relevo).await > later, "it works on as it did");

    let restored = relevo.json(&["state", "restore", file, "--replace"]).await;
    assert!(restored["incarnation"].as_i64().unwrap() > before, "{restored}");
    assert_eq!(jobs(&relevo).await, saved);
    assert_eq!(schemas(&database).await.len(), 2, "what was there before is put aside");
}
