//! Bad lines, a paused project, and the comparison of both sides.

use super::peer::{Planned, Wrong};
use super::{Clinic, number, run_sql};

#[tokio::test]
async fn offline_is_no_error_and_work_resumes_by_itself() {
    let clinic = Clinic::new().await;
    clinic.peer.plan(&[Planned::always(Wrong::Cut)]).await;
    run_sql(clinic.local.pool(), "INSERT INTO patients (name) VALUES ('offline')").await;
    let answer = clinic.run(&["run", "--once"]).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    assert!(answer.json()["offline"].is_string());
    clinic.peer.plan(&[]).await;
    assert_eq!(clinic.cycle().await["up"], 1);
    clinic.equal().await;
}

#[tokio::test]
async fn what_passes_is_tried_again_and_a_paused_project_is_recognised() {
    let clinic = Clinic::new().await;
    let status = |status| Wrong::Status { status, retry_after: Some(0) };
    for passing in [408, 429, 500, 503] {
        clinic.peer.plan(&[Planned::once(status(passing), "GET")]).await;
        assert!(clinic.cycle().await["offline"].is_null(), "{passing}");
    }
    clinic.peer.plan(&[Planned::always(status(540))]).await;
    let told = clinic.cycle().await["offline"].to_string();
    assert!(told.contains("paused"), "{told}");
}

#[tokio::test]
async fn hard_deletes_are_found_and_many_of_them_wait_for_a_word() {
    let clinic = Clinic::new().await;
    run_sql(
        clinic.remote.pool(),
        "INSERT INTO patients (name) SELECT n::text FROM generate_series(1, 100) n",
    )
    .await;
    clinic.cycle().await;
    run_sql(clinic.remote.pool(), "DELETE FROM patients WHERE name::integer <= 3").await;
    assert_eq!(clinic.run(&["reconcile"]).await.code, 1);
    clinic.ok(&["reconcile", "--repair"]).await;
    clinic.equal().await;
    run_sql(clinic.remote.pool(), "DELETE FROM patients WHERE name::integer <= 50").await;
    let refused = clinic.run(&["reconcile", "--repair"]).await;
    assert_eq!(refused.code, 1, "{refused:?}");
    assert_eq!(number(clinic.local.pool(), "SELECT count(*) FROM patients").await, 97);
    clinic.ok(&["reconcile", "--repair", "--allow-many-deletions"]).await;
    clinic.equal().await;
}

#[tokio::test]
async fn reconciliation_finds_what_no_trigger_and_no_version_told() {
    let clinic = Clinic::new().await;
    run_sql(clinic.remote.pool(), "INSERT INTO patients (name) VALUES ('a'), ('b')").await;
    clinic.cycle().await;
    run_sql(
        clinic.local.pool(),
        "ALTER TABLE patients DISABLE TRIGGER _sync_record;
         UPDATE patients SET name = 'unseen' WHERE name = 'a';
         INSERT INTO patients (name) VALUES ('never sent');
         ALTER TABLE patients ENABLE TRIGGER _sync_record",
    )
    .await;
    // Committed later than any overlap allows.
    run_sql(
        clinic.remote.pool(),
        "INSERT INTO patients (name, updated_at) VALUES ('old', '2020-01-01')",
    )
    .await;
    clinic.cycle().await;
    let found = clinic.run(&["reconcile", "--repair"]).await.json();
    let patients = &found[0];
    assert_eq!(
        (&patients["stale"], &patients["unsent"], &patients["changed_unrecorded"]),
        (&1.into(), &1.into(), &1.into()),
        "{found}"
    );
    clinic.cycle().await;
    clinic.equal().await;
    assert_eq!(clinic.run(&["reconcile"]).await.code, 0);
}

#[tokio::test]
async fn a_column_of_one_side_stops_neither_its_table_nor_others() {
    let clinic = Clinic::new().await;
    run_sql(clinic.remote.pool(), "ALTER TABLE patients ADD there text").await;
    run_sql(clinic.local.pool(), "ALTER TABLE patients ADD here text").await;
    run_sql(clinic.remote.pool(), "INSERT INTO patients (name, there) VALUES ('r', 'x')").await;
    run_sql(clinic.local.pool(), "INSERT INTO patients (name, here) VALUES ('l', 'y')").await;
    let cycle = clinic.cycle().await;
    assert_eq!((&cycle["down"], &cycle["up"]), (&1.into(), &1.into()), "{cycle}");
    let drift = clinic.run(&["status"]).await.json()["drift"].to_string();
    assert!(drift.contains("patients.there") && drift.contains("patients.here"), "{drift}");
}

#[tokio::test]
async fn the_operators_queries_give_right_answers() {
    let clinic = Clinic::new().await;
    run_sql(clinic.remote.pool(), "INSERT INTO patients (name) VALUES ('a'), ('b')").await;
    clinic.cycle().await;
    run_sql(clinic.local.pool(), "UPDATE patients SET name = 'c' WHERE name = 'a'").await;
    let local = clinic.local.pool();
    let waiting =
        "SELECT count(*) FROM _sync_pending WHERE table_name = 'patients' AND synced = false";
    assert_eq!(number(local, waiting).await, 1);
    clinic.cycle().await;
    assert_eq!(number(local, waiting).await, 0);
    let last = "SELECT count(*) FROM _sync_metadata WHERE table_name = 'patients'
        AND last_sync_from_supabase > now() - interval '5 minutes'
        AND last_sync_to_supabase > now() - interval '5 minutes'
        AND records_synced_down = 2 AND records_synced_up = 1 AND last_error IS NULL";
    assert_eq!(number(local, last).await, 1);
    let log = "SELECT count(*) FROM (SELECT * FROM _sync_log ORDER BY created_at DESC LIMIT 20) l
        WHERE status = 'SUCCESS' AND records_affected IN (1, 2)";
    assert_eq!(number(local, log).await, 2);
}
