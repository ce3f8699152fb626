//! Both sides changed: one wins, and the other is kept.

use super::{Clinic, id, number, run_sql, text};

#[tokio::test]
async fn the_newer_version_wins_and_the_other_can_be_restored() {
    let clinic = Clinic::new().await;
    run_sql(clinic.local.pool(), "INSERT INTO patients (name, amount) VALUES ('a', 1.10)").await;
    clinic.cycle().await;
    run_sql(clinic.local.pool(), "UPDATE patients SET name = 'ours'").await;
    run_sql(clinic.remote.pool(), "UPDATE patients SET name = 'theirs'").await;
    assert_eq!(clinic.cycle().await["conflicts"], 1);
    clinic.equal().await;
    assert_eq!(text(clinic.local.pool(), "SELECT name FROM patients").await, "theirs");
    let list = clinic.ok(&["conflicts", "list"]).await;
    assert_eq!((&list[0]["winner"], &list[0]["loser"]["name"]), (&"remote".into(), &"ours".into()));
    clinic.ok(&["conflicts", "restore", &list[0]["id"].to_string()]).await;
    assert_eq!(clinic.cycle().await["up"], 1);
    clinic.equal().await;
    assert_eq!(text(clinic.remote.pool(), "SELECT name FROM patients").await, "ours");
}

#[tokio::test]
async fn a_row_deleted_there_and_changed_here_is_never_silently_inserted_anew() {
    let clinic = Clinic::new().await;
    run_sql(clinic.local.pool(), "INSERT INTO patients (name) VALUES ('a')").await;
    clinic.cycle().await;
    run_sql(clinic.remote.pool(), "DELETE FROM patients").await;
    run_sql(clinic.local.pool(), "UPDATE patients SET name = 'ours'").await;
    clinic.cycle().await;
    clinic.equal().await;
    assert_eq!(number(clinic.remote.pool(), "SELECT count(*) FROM patients").await, 0);
    let list = clinic.ok(&["conflicts", "list"]).await;
    assert_eq!(
        (&list[0]["kind"], &list[0]["loser"]["name"]),
        (&"deleted_remotely".into(), &"ours".into())
    );
    clinic.ok(&["conflicts", "restore", &list[0]["id"].to_string()]).await;
    clinic.cycle().await;
    clinic.equal().await;
    assert_eq!(number(clinic.remote.pool(), "SELECT count(*) FROM patients").await, 1);
}

#[tokio::test]
async fn a_delete_counts_with_its_time() {
    let clinic = Clinic::new().await;
    run_sql(clinic.local.pool(), "INSERT INTO patients (name) VALUES ('a'), ('b')").await;
    clinic.cycle().await;
    run_sql(clinic.local.pool(), "DELETE FROM patients WHERE name = 'a'").await;
    run_sql(clinic.remote.pool(), "UPDATE patients SET name = upper(name)").await;
    run_sql(clinic.local.pool(), "DELETE FROM patients WHERE name = 'b'").await;
    assert_eq!(clinic.cycle().await["conflicts"], 2);
    clinic.equal().await;
    assert_eq!(text(clinic.local.pool(), "SELECT string_agg(name, ',') FROM patients").await, "A");
}

#[tokio::test]
async fn the_same_number_on_both_sides_waits_for_a_person() {
    let clinic = Clinic::new().await;
    same_number(&clinic).await;
    clinic.cycle().await;
    let open = clinic.ok(&["conflicts", "list", "--open"]).await;
    assert!(open.as_array().unwrap().iter().any(|one| one["kind"] == "unique"), "{open}");
    run_sql(
        clinic.local.pool(),
        &format!("UPDATE invoices SET number = 1043 WHERE id = '{}'", id(2)),
    )
    .await;
    clinic.cycle().await;
    clinic.cycle().await;
    clinic.equal().await;
    assert_eq!(number(clinic.local.pool(), "SELECT count(*) FROM invoices").await, 2);
    let open = clinic.ok(&["conflicts", "list", "--open"]).await;
    assert_eq!(open.as_array().unwrap().len(), 0, "{open}");
}

#[tokio::test]
async fn the_same_number_on_both_sides_is_renumbered_where_that_is_wanted() {
    let more =
        "[[table]]\nname = \"invoices\"\non_unique = \"renumber\"\nrenumber_column = \"number\"\n";
    let clinic = Clinic::bare(1000, more).await;
    clinic.ok(&["init", "--suppress-triggers"]).await;
    same_number(&clinic).await;
    clinic.cycle().await;
    clinic.cycle().await;
    clinic.equal().await;
    assert_eq!(number(clinic.local.pool(), "SELECT max(number)::bigint FROM invoices").await, 1043);
    let list = clinic.ok(&["conflicts", "list"]).await;
    assert!(list.as_array().unwrap().iter().any(|one| one["loser"]["number"] == 1042), "{list}");
}

async fn same_number(clinic: &Clinic) {
    run_sql(
        clinic.local.pool(),
        &format!("INSERT INTO patients (id, name) VALUES ('{}', 'a')", id(1)),
    )
    .await;
    clinic.cycle().await;
    let invoice = |nth| {
        format!(
            "INSERT INTO invoices (id, number, patient_id) VALUES ('{}', 1042, '{}')",
            id(nth),
            id(1)
        )
    };
    run_sql(clinic.local.pool(), &invoice(2)).await;
    run_sql(clinic.remote.pool(), &invoice(3)).await;
}
