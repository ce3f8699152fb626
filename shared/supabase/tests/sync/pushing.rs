//! Local changes that go up: in order, once, and never over a newer version.

use super::peer::{Planned, Wrong};
use super::{Clinic, id, number, run_sql, text};

#[tokio::test]
async fn edits_of_one_row_go_as_one_and_their_echo_changes_nothing() {
    let clinic = Clinic::new().await;
    let row = id(1);
    run_sql(
        clinic.local.pool(),
        &format!(
            "INSERT INTO patients (id, name, big) VALUES ('{row}', 'a', 9007199254740993);
             UPDATE patients SET name = 'b'; UPDATE patients SET name = 'c'"
        ),
    )
    .await;
    clinic.peer.plan(&[]).await;
    assert_eq!(clinic.cycle().await["up"], 1);
    let writes = clinic.peer.seen().await;
    assert_eq!(writes.iter().filter(|one| one.method != "GET").count(), 1, "{writes:?}");
    clinic.equal().await;
    let again = clinic.cycle().await;
    assert_eq!((&again["up"], &again["down"]), (&0.into(), &0.into()), "no loop");
    assert_eq!(
        text(clinic.remote.pool(), "SELECT big::text FROM patients").await,
        "9007199254740993"
    );
}

#[tokio::test]
async fn parents_go_before_children_and_deletes_the_other_way_round() {
    let clinic = Clinic::new().await;
    run_sql(
        clinic.local.pool(),
        &format!(
            "INSERT INTO patients (id, name) VALUES ('{0}', 'a');
             INSERT INTO invoices (id, number, patient_id) VALUES ('{0}', 1, '{0}');
             INSERT INTO invoice_items (id, invoice_id, quantity) VALUES ('{0}', '{0}', 2)",
            id(1)
        ),
    )
    .await;
    assert_eq!(clinic.cycle().await["up"], 3);
    clinic.equal().await;
    run_sql(
        clinic.local.pool(),
        "DELETE FROM invoice_items; DELETE FROM invoices; DELETE FROM patients",
    )
    .await;
    assert_eq!(clinic.cycle().await["up"], 3);
    assert_eq!(number(clinic.remote.pool(), "SELECT count(*) FROM patients").await, 0);
}

#[tokio::test]
async fn a_lost_answer_doubles_nothing() {
    let clinic = Clinic::new().await;
    let row = id(1);
    for (method, change) in [
        ("POST", format!("INSERT INTO patients (id, name) VALUES ('{row}', 'a')")),
        ("PATCH", "UPDATE patients SET name = 'b'".to_owned()),
        ("DELETE", "DELETE FROM patients".to_owned()),
    ] {
        run_sql(clinic.local.pool(), &change).await;
        clinic.peer.plan(&[Planned::once(Wrong::LoseAnswer, method)]).await;
        clinic.cycle().await;
        clinic.cycle().await;
        clinic.equal().await;
    }
    assert_eq!(number(clinic.local.pool(), "SELECT count(*) FROM _sync_conflict").await, 0);
    assert_eq!(
        number(clinic.local.pool(), "SELECT count(*) FROM _sync_pending WHERE NOT synced").await,
        0
    );
}

#[tokio::test]
async fn the_echo_of_a_lost_answer_does_not_beat_a_newer_local_edit() {
    let clinic = Clinic::new().await;
    run_sql(clinic.local.pool(), "INSERT INTO patients (name) VALUES ('a')").await;
    clinic.cycle().await;
    run_sql(clinic.local.pool(), "UPDATE patients SET name = 'b'").await;
    // Both the write's answer and the looks after it are lost: the cycle ends offline.
    let lost = Planned { times: Some(3), ..Planned::once(Wrong::LoseAnswer, "PATCH") };
    clinic.peer.plan(&[lost]).await;
    let cycle = clinic.cycle().await;
    assert!(cycle["offline"].is_string(), "{cycle}");
    assert_eq!(text(clinic.remote.pool(), "SELECT name FROM patients").await, "b");
    run_sql(clinic.local.pool(), "UPDATE patients SET name = 'c'").await;
    clinic.peer.plan(&[]).await;
    clinic.cycle().await;
    clinic.equal().await;
    assert_eq!(text(clinic.remote.pool(), "SELECT name FROM patients").await, "c");
    assert_eq!(number(clinic.local.pool(), "SELECT count(*) FROM _sync_conflict").await, 0);
}

#[tokio::test]
async fn a_row_that_fails_blocks_no_other_and_ends_in_the_dead_letters_with_its_data() {
    let clinic = Clinic::new().await;
    run_sql(clinic.remote.pool(), "ALTER TABLE patients ADD CONSTRAINT few CHECK (name <> 'bad')")
        .await;
    run_sql(clinic.local.pool(), "INSERT INTO patients (name) VALUES ('bad'), ('good'), ('fine')")
        .await;
    assert_eq!(clinic.cycle().await["up"], 2);
    for _ in 0..2 {
        clinic.cycle().await;
    }
    let held = text(clinic.local.pool(), "SELECT state || ' ' || tries FROM _sync_held_up").await;
    assert_eq!(held, "dead 3");
    let open = clinic.ok(&["conflicts", "list", "--open"]).await;
    assert_eq!((&open[0]["kind"], &open[0]["loser"]["name"]), (&"rejected".into(), &"bad".into()));
    assert_eq!(clinic.run(&["status"]).await.code, 1);
    // What stood against it is gone: it is tried again on a person's word.
    run_sql(clinic.remote.pool(), "ALTER TABLE patients DROP CONSTRAINT few").await;
    clinic.ok(&["conflicts", "restore", &open[0]["id"].to_string()]).await;
    assert_eq!(clinic.cycle().await["up"], 1);
    clinic.equal().await;
}

#[tokio::test]
async fn a_row_whose_parent_is_not_synchronised_waits_and_is_never_given_up() {
    let clinic = Clinic::new().await;
    run_sql(
        clinic.remote.pool(),
        "CREATE TABLE users (id uuid PRIMARY KEY);
         ALTER TABLE patients ADD FOREIGN KEY (id) REFERENCES users",
    )
    .await;
    let row = id(1);
    run_sql(clinic.local.pool(), &format!("INSERT INTO patients (id, name) VALUES ('{row}', 'a')"))
        .await;
    for _ in 0..5 {
        clinic.cycle().await;
    }
    assert_eq!(text(clinic.local.pool(), "SELECT state FROM _sync_held_up").await, "waiting");
    run_sql(clinic.remote.pool(), &format!("INSERT INTO users VALUES ('{row}')")).await;
    assert_eq!(clinic.cycle().await["up"], 1);
    clinic.equal().await;
}

#[tokio::test]
async fn a_thousand_changes_go_with_few_requests() {
    let clinic = Clinic::new().await;
    run_sql(
        clinic.local.pool(),
        "INSERT INTO patients (name) SELECT 'p' || n FROM generate_series(1, 1000) n",
    )
    .await;
    clinic.peer.plan(&[]).await;
    assert_eq!(clinic.cycle().await["up"], 1000);
    let seen = clinic.peer.seen().await;
    assert_eq!(seen.iter().filter(|one| one.method == "POST").count(), 10);
    clinic.equal().await;
}
