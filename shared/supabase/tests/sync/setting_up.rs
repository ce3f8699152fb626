//! `init`, `pause`, `remove`: what they refuse, what they change, what they leave.

use super::{Clinic, number, run_sql};

const STOCK: &str = "
    CREATE TABLE booked (n integer);
    CREATE FUNCTION book() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN INSERT INTO booked VALUES (1); RETURN NEW; END $$;
    CREATE TRIGGER book AFTER INSERT ON invoice_items FOR EACH ROW
        WHEN (NEW.quantity > 0) EXECUTE FUNCTION book()";

#[tokio::test]
async fn a_dry_run_changes_nothing_and_names_what_stands_against_it() {
    let clinic = Clinic::bare(1000, "").await;
    run_sql(clinic.local.pool(), STOCK).await;
    run_sql(clinic.local.pool(), "DROP TRIGGER touch ON patients").await;
    let plan = clinic.ok(&["init", "--dry-run"]).await;
    let refusals = plan["refusals"].to_string();
    assert!(refusals.contains("trigger book") && refusals.contains("nobody maintains"), "{plan}");
    assert_eq!(
        number(clinic.local.pool(), "SELECT count(*) FROM pg_class WHERE relname ~ '^_sync'").await,
        0
    );
    assert_eq!(clinic.run(&["init"]).await.code, 1);
    assert_eq!(
        number(clinic.local.pool(), "SELECT count(*) FROM pg_class WHERE relname ~ '^_sync'").await,
        0
    );
    clinic.ok(&["init", "--suppress-triggers", "--maintain-updated-at"]).await;
    clinic.ok(&["init", "--suppress-triggers", "--maintain-updated-at"]).await;
}

#[tokio::test]
async fn application_triggers_keep_still_for_pulled_rows_and_fire_for_others() {
    let clinic = Clinic::bare(1000, "").await;
    run_sql(clinic.local.pool(), STOCK).await;
    clinic.ok(&["init", "--suppress-triggers"]).await;
    let rows = "INSERT INTO patients (name) VALUES ('a');
        INSERT INTO invoices (patient_id) SELECT id FROM patients;
        INSERT INTO invoice_items (invoice_id, quantity) SELECT id, 1 FROM invoices";
    run_sql(clinic.remote.pool(), rows).await;
    clinic.cycle().await;
    clinic.equal().await;
    assert_eq!(number(clinic.local.pool(), "SELECT count(*) FROM booked").await, 0);
    let own = "INSERT INTO invoice_items (invoice_id, quantity) SELECT id, 1 FROM invoices";
    run_sql(clinic.local.pool(), own).await;
    assert_eq!(number(clinic.local.pool(), "SELECT count(*) FROM booked").await, 1);
    clinic.ok(&["remove"]).await;
    let touched = "SELECT count(*) FROM pg_trigger
        WHERE tgname ~ '^_sync' OR pg_get_triggerdef(oid) ~ 'is_sync'";
    assert_eq!(number(clinic.local.pool(), touched).await, 0);
    run_sql(clinic.local.pool(), own).await;
    assert_eq!(number(clinic.local.pool(), "SELECT count(*) FROM booked").await, 2);
}

#[tokio::test]
async fn a_paused_sync_does_nothing_and_forgets_nothing() {
    let clinic = Clinic::new().await;
    clinic.ok(&["pause"]).await;
    run_sql(clinic.local.pool(), "INSERT INTO patients (name) VALUES ('a')").await;
    let cycle = clinic.cycle().await;
    assert_eq!((&cycle["paused"], &cycle["up"]), (&true.into(), &0.into()));
    clinic.ok(&["resume"]).await;
    assert_eq!(clinic.cycle().await["up"], 1);
}

#[tokio::test]
async fn rows_that_were_on_both_sides_before_lose_nothing() {
    let clinic = Clinic::bare(1000, "").await;
    let row = |name: &str, at: &str| {
        format!(
            "INSERT INTO patients (id, name, updated_at) VALUES ('{}', '{name}', '{at}')",
            super::id(1)
        )
    };
    run_sql(clinic.local.pool(), &row("ours", "2026-01-02")).await;
    run_sql(clinic.remote.pool(), &row("theirs", "2026-01-01")).await;
    let cycle = clinic.ok(&["init", "--suppress-triggers"]).await;
    assert_eq!((&cycle["conflicts"], &cycle["up"]), (&1.into(), &1.into()), "{cycle}");
    clinic.equal().await;
    let list = clinic.ok(&["conflicts", "list"]).await;
    assert_eq!(list[0]["loser"]["name"], "theirs");
}

#[tokio::test]
async fn what_to_run_in_supabase_can_be_run_and_run_again() {
    let clinic = Clinic::bare(1000, "").await;
    let answer = clinic.run(&["init", "--print-remote-sql"]).await;
    run_sql(clinic.remote.pool(), answer.document.as_str().unwrap()).await;
    run_sql(clinic.remote.pool(), answer.document.as_str().unwrap()).await;
    clinic.ok(&["init", "--suppress-triggers"]).await;
    run_sql(clinic.local.pool(), "INSERT INTO patients (name) VALUES ('a')").await;
    clinic.cycle().await;
    clinic.equal().await;
}
