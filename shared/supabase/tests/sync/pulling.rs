//! Rows that come down: nothing missed, nothing written over, nothing changed on the way.

use super::peer::{Planned, Wrong};
use super::{Clinic, all, id, number, run_sql, text};

#[tokio::test]
async fn every_value_comes_down_as_it_is() {
    let clinic = Clinic::new().await;
    run_sql(
        clinic.remote.pool(),
        "INSERT INTO patients (name, big, amount, notes, photo, tags, feeling, created_at) VALUES
             ('Ñandú', 9007199254740993, 12345678901234567890.123450, '{\"n\": 1.10, \"a\": [null]}',
              '\\x00ff', '{a,\"b,c\",NULL}', 'worried', '2026-01-02 03:04:05.678901+00')",
    )
    .await;
    assert_eq!(clinic.cycle().await["down"], 1);
    clinic.equal().await;
    let exact = text(clinic.local.pool(), "SELECT big || ' ' || amount FROM patients").await;
    assert_eq!(exact, "9007199254740993 12345678901234567890.123450");
}

#[tokio::test]
async fn neither_equal_moments_nor_cut_pages_leave_a_row_out() {
    // The server cuts at 7 rows, and 50 of them carry the same moment.
    let clinic = Clinic::bare(7, "").await;
    clinic.ok(&["init", "--suppress-triggers"]).await;
    run_sql(
        clinic.remote.pool(),
        "INSERT INTO patients (name, updated_at)
         SELECT 'p' || n, '2026-01-01' FROM generate_series(1, 50) n;
         INSERT INTO patients (name) SELECT 'q' || n FROM generate_series(1, 30) n",
    )
    .await;
    assert_eq!(clinic.cycle().await["down"], 80);
    clinic.equal().await;
    assert_eq!(clinic.cycle().await["down"], 0, "nothing is written twice");
}

#[tokio::test]
async fn what_commits_late_is_still_seen() {
    let clinic = Clinic::new().await;
    let mut late = clinic.remote.pool().begin().await.unwrap();
    sqlx::query("INSERT INTO patients (name) VALUES ('late')").execute(&mut *late).await.unwrap();
    run_sql(clinic.remote.pool(), "INSERT INTO patients (name) VALUES ('early')").await;
    assert_eq!(clinic.cycle().await["down"], 1);
    late.commit().await.unwrap();
    assert_eq!(clinic.cycle().await["down"], 1);
    clinic.equal().await;
}

#[tokio::test]
async fn a_row_dated_into_the_future_hides_no_other() {
    let clinic = Clinic::new().await;
    run_sql(
        clinic.remote.pool(),
        "INSERT INTO patients (name, updated_at) VALUES ('future', '2099-01-01')",
    )
    .await;
    clinic.cycle().await;
    run_sql(clinic.remote.pool(), "INSERT INTO patients (name) VALUES ('now')").await;
    assert_eq!(clinic.cycle().await["down"], 1);
    clinic.equal().await;
}

#[tokio::test]
async fn a_pull_does_not_write_over_a_newer_pending_change() {
    let clinic = Clinic::new().await;
    let row = id(1);
    run_sql(
        clinic.remote.pool(),
        &format!("INSERT INTO patients (id, name) VALUES ('{row}', 'a')"),
    )
    .await;
    clinic.cycle().await;
    run_sql(clinic.remote.pool(), "UPDATE patients SET name = 'theirs'").await;
    run_sql(clinic.local.pool(), "UPDATE patients SET name = 'ours'").await;
    let cycle = clinic.cycle().await;
    assert_eq!((&cycle["conflicts"], &cycle["up"]), (&1.into(), &1.into()), "{cycle}");
    assert_eq!(text(clinic.local.pool(), "SELECT name FROM patients").await, "ours");
    clinic.equal().await;
}

#[tokio::test]
async fn children_whose_parent_comes_later_wait_and_come_in() {
    let clinic = Clinic::new().await;
    run_sql(clinic.local.pool(), "ALTER TABLE patients ADD CONSTRAINT few CHECK (name <> 'bad')")
        .await;
    run_sql(
        clinic.remote.pool(),
        &format!(
            "INSERT INTO patients (id, name) VALUES ('{0}', 'bad'), ('{1}', 'good');
             INSERT INTO invoices (number, patient_id) VALUES (1, '{0}'), (2, '{1}')",
            id(1),
            id(2)
        ),
    )
    .await;
    let cycle = clinic.cycle().await;
    assert_eq!(cycle["down"], 2, "the good ones come in: {cycle}");
    assert_eq!(number(clinic.local.pool(), "SELECT count(*) FROM _sync_held_down").await, 2);
    run_sql(clinic.local.pool(), "ALTER TABLE patients DROP CONSTRAINT few").await;
    clinic.cycle().await;
    clinic.equal().await;
    assert_eq!(number(clinic.local.pool(), "SELECT count(*) FROM _sync_held_down").await, 0);
}

#[tokio::test]
async fn an_idle_cycle_costs_one_small_request_a_table() {
    let clinic = Clinic::bare(1000, "overlap_seconds = 0\n").await;
    run_sql(
        clinic.remote.pool(),
        "INSERT INTO patients (name, updated_at) SELECT 'p', now() - interval '1 hour'
         FROM generate_series(1, 500)",
    )
    .await;
    clinic.ok(&["init", "--suppress-triggers"]).await;
    clinic.peer.plan(&[]).await;
    clinic.cycle().await;
    let seen = clinic.peer.seen().await;
    for table in super::TABLES {
        let requests: Vec<_> = seen.iter().filter(|one| one.table == table).collect();
        assert_eq!(requests.len(), 1, "{requests:?}");
        assert!(requests[0].bytes < 10, "{requests:?}");
    }
}

#[tokio::test]
async fn a_clock_that_is_wrong_misses_nothing() {
    let clinic = Clinic::new().await;
    for offset_seconds in [-7200, 7200] {
        clinic.peer.plan(&[Planned::always(Wrong::Clock { offset_seconds })]).await;
        run_sql(clinic.remote.pool(), "INSERT INTO patients (name) VALUES ('x')").await;
        clinic.cycle().await;
        assert_eq!(
            all(clinic.local.pool(), "patients").await,
            all(clinic.remote.pool(), "patients").await
        );
    }
}
