//! Random edits on both sides over a bad line, with the service killed again and again: in the end
//! both sides are equal and nothing waits.

use std::time::Duration;

use super::peer::{Planned, Wrong};
use super::{Clinic, TABLES, all, number, run_sql, wait_for};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

/// Edits of one run, unless the environment asks for more.
const EDITS: u32 = 150;

#[tokio::test]
async fn both_sides_are_equal_after_edits_kills_and_a_line_that_flaps() {
    let from_env = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let edits = from_env("RELEVO_FAILOVER_EDITS").unwrap_or(EDITS);
    let seed = from_env("RELEVO_FAILOVER_SEED").unwrap_or_else(|| rand::rng().random());
    println!("seed {seed}");
    let mut dice = StdRng::seed_from_u64(u64::from(seed));
    let clinic = Clinic::new().await;
    let mut service = clinic.service();
    for nth in 0..edits {
        let side = if dice.random_bool(0.5) { &clinic.local } else { &clinic.remote };
        edit(&mut dice, side.pool(), nth).await;
        if nth % 10 == 0 {
            let plan = match dice.random_range(0..5) {
                0 => vec![Planned::always(Wrong::Cut)],
                1 => vec![Planned { times: Some(2), ..Planned::always(Wrong::LoseAnswer) }],
                2 => vec![Planned {
                    times: Some(3),
                    ..Planned::always(Wrong::Status { status: 503, retry_after: None })
                }],
                _ => Vec::new(),
            };
            clinic.peer.plan(&plan).await;
        }
        if nth % 40 == 39 {
            service.kill().await;
            service = clinic.service();
        }
    }
    clinic.peer.plan(&[]).await;
    service.kill().await;
    wait_for("both sides to be equal", Duration::from_secs(120), async || {
        let busy = clinic.run(&["run", "--once"]).await.code != 0;
        clinic.run(&["reconcile", "--repair", "--allow-many-deletions"]).await;
        let mut equal = !busy;
        for table in TABLES {
            equal &=
                all(clinic.local.pool(), table).await == all(clinic.remote.pool(), table).await;
        }
        equal.then_some(())
    })
    .await;
    let waiting = "SELECT count(*) FROM _sync_pending WHERE NOT synced";
    assert_eq!(number(clinic.local.pool(), waiting).await, 0);
}

/// One edit: a new row, a change, a soft delete, a delete of a row that nothing leads to.
async fn edit(dice: &mut StdRng, pool: &sqlx::PgPool, nth: u32) {
    let some = "(SELECT id FROM patients WHERE deleted_at IS NULL ORDER BY random() LIMIT 1)";
    let sql = match dice.random_range(0..10) {
        0..=3 => format!("INSERT INTO patients (name) VALUES ('n{nth}')"),
        4..=6 => format!("UPDATE patients SET name = 'e{nth}' WHERE id = {some}"),
        7 => format!("UPDATE patients SET deleted_at = now() WHERE id = {some}"),
        8 => format!("INSERT INTO invoices (patient_id) SELECT {some} WHERE {some} IS NOT NULL"),
        _ => format!(
            "DELETE FROM patients p WHERE id = {some}
             AND NOT EXISTS (SELECT FROM invoices i WHERE i.patient_id = p.id)"
        ),
    };
    // A row that the service changes or deletes at this moment: the edit didn't happen.
    if let Err(error) = sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(pool).await {
        assert!(error.as_database_error().is_some(), "{error}");
    }
}

#[tokio::test]
async fn a_second_process_stays_away_while_one_synchronises() {
    let clinic = Clinic::new().await;
    let service = clinic.service();
    run_sql(clinic.local.pool(), "INSERT INTO patients (name) VALUES ('a')").await;
    wait_for("the service to send the row", Duration::from_secs(60), async || {
        (number(clinic.remote.pool(), "SELECT count(*) FROM patients").await == 1).then_some(())
    })
    .await;
    let second = clinic.run(&["run", "--once"]).await;
    assert_eq!(second.code, 1, "{second:?}");
    assert!(second.error.contains("another process"), "{second:?}");
    service.kill().await;
}
