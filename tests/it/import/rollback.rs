//! What an import replaced comes back, whole and with everything that people hung on the tables.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use relevo_import::steps::{self, ImportState, RolledBack};
use relevo_import::{CutoverLimits, ImportError, ImportId};
use tokio_util::sync::CancellationToken;

use super::dump::Dump;
use super::target::{Target, ask};

async fn roll_back(target: &Target, id: &ImportId) -> Result<RolledBack, ImportError> {
    let limits = CutoverLimits { lock_wait_seconds: 20, ..CutoverLimits::default() };
    steps::rollback(target.pool(), id, &limits, &CancellationToken::new()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_previous_tables_come_back_once_and_the_next_import_goes_on() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    let before = target.content("public").await;
    let second = target.import(&Dump::new(310, "dos")).await.unwrap();
    let content = target.content("public").await;

    let done = roll_back(&target, &second.import).await.unwrap();
    assert!(!done.already);
    assert_eq!(done.tables, ["articulo", "categoria", "departamento"]);
    assert!(done.retired.is_empty());
    assert_eq!(target.content("public").await, before);
    assert_eq!(target.content("relevo_prev_public").await, content, "kept for a look");
    assert_eq!(target.own_schemas().await, "relevo_prev_public");
    let state = steps::state(target.pool(), &second.import).await.unwrap();
    assert_eq!(state, Some(ImportState::RolledBack));
    let keys = "SELECT count(*)::text FROM pg_constraint
                WHERE connamespace = 'public'::regnamespace AND contype IN ('p', 'f') AND convalidated";
    assert_eq!(target.ask(keys).await, "5");

    let again = roll_back(&target, &second.import).await.unwrap();
    assert_eq!(again, RolledBack { already: true, ..done });
    assert_eq!(target.content("public").await, before, "nothing happened twice");

    // The guard compares with what readers see, not with what was rolled back.
    let third = target.import(&Dump::new(220, "tres")).await.unwrap();
    assert_eq!(third.tables[2].rows_before, Some(300));
    assert_eq!(target.content("relevo_prev_public").await, before);
    roll_back(&target, &third.import).await.unwrap();
    assert_eq!(target.content("public").await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_last_import_that_kept_something_can_be_rolled_back() {
    let target = Target::new().await;
    let unknown = ImportId::new("run1_r").unwrap();
    let error = roll_back(&target, &unknown).await.unwrap_err();
    assert!(matches!(error, ImportError::Unknown { .. }), "{error:?}");

    let first = target.import(&Dump::new(300, "uno")).await.unwrap();
    let error = roll_back(&target, &first.import).await.unwrap_err();
    assert!(matches!(error, ImportError::NothingKept { .. }), "{error:?}");

    steps::abandon(target.pool(), &unknown, "never begun").await.unwrap();
    let error = roll_back(&target, &unknown).await.unwrap_err();
    assert!(matches!(&error, ImportError::NotLive { state, .. } if state == "failed"), "{error:?}");

    let second = target.import(&Dump::new(301, "dos")).await.unwrap();
    let third = target.import(&Dump::new(302, "tres")).await.unwrap();
    let error = roll_back(&target, &second.import).await.unwrap_err();
    assert!(
        matches!(&error, ImportError::Superseded { newer, .. } if *newer == third.import.to_string()),
        "{error:?}"
    );
    roll_back(&target, &third.import).await.unwrap();
    assert_eq!(target.count("articulo").await, 301);
    let error = roll_back(&target, &second.import).await.unwrap_err();
    assert!(matches!(error, ImportError::PreviousGone { .. }), "{error:?}");
    assert_eq!(target.count("articulo").await, 301);

    let fourth = target.import(&Dump::new(303, "cuatro")).await.unwrap();
    target.run("DROP SCHEMA relevo_prev_public CASCADE").await;
    let error = roll_back(&target, &fourth.import).await.unwrap_err();
    assert!(matches!(error, ImportError::PreviousGone { .. }), "{error:?}");
    assert_eq!(target.count("articulo").await, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_only_the_import_had_goes_and_what_hangs_on_the_others_stays() {
    let target = Target::new().await;
    let mut smaller = Dump::new(300, "uno");
    smaller.without_articles = true;
    target.import(&smaller).await.unwrap();
    let reader = target.role("reader").await;
    target
        .run(&format!(
            "CREATE TABLE cambios (cat_id int);
             CREATE FUNCTION anota() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN INSERT INTO public.cambios VALUES (NEW.cat_id); RETURN NEW; END $$;
             CREATE TRIGGER anota AFTER UPDATE ON categoria FOR EACH ROW EXECUTE FUNCTION anota();
             COMMENT ON TRIGGER anota ON categoria IS 'quien cambia';
             ALTER TABLE categoria ENABLE ROW LEVEL SECURITY;
             CREATE POLICY pares ON categoria USING (cat_id % 2 = 0);
             CREATE POLICY todas ON categoria USING (true);
             CREATE STATISTICS juntos ON cat_id, dep_id FROM categoria;
             CREATE RULE callada AS ON DELETE TO departamento DO INSTEAD NOTHING;
             CREATE VIEW nombres AS SELECT nombre FROM categoria;
             CREATE TABLE nota (cat_id int REFERENCES categoria);
             INSERT INTO nota VALUES (3);
             GRANT SELECT ON categoria, nombres TO {}",
            reader.name
        ))
        .await;
    let second = target.import(&Dump::new(310, "dos")).await.unwrap();
    // What is taken back since does not come back with the table of its time.
    target
        .run(&format!(
            "DROP POLICY todas ON categoria; GRANT SELECT ON departamento TO {}",
            reader.name
        ))
        .await;
    let done = roll_back(&target, &second.import).await.unwrap();
    assert_eq!(done.retired, ["articulo"]);
    let gone = "SELECT (to_regclass('public.articulo') IS NULL)::text";
    assert_eq!(target.ask(gone).await, "true");
    assert_eq!(target.count("relevo_prev_public.articulo").await, 310);
    target.run("UPDATE categoria SET nombre = nombre WHERE cat_id = 5").await;
    assert_eq!(target.count("cambios").await, 1, "the trigger fires, once");
    target.run("DELETE FROM departamento").await;
    assert_eq!(target.count("departamento").await, 2, "the rule holds");
    let said = "SELECT obj_description(oid, 'pg_trigger') FROM pg_trigger
                WHERE tgname = 'anota' AND tgrelid = 'public.categoria'::regclass";
    assert_eq!(target.ask(said).await, "quien cambia");
    let statistics = "SELECT string_agg(stxname, ' ') FROM pg_statistic_ext
                      WHERE stxrelid = 'public.categoria'::regclass";
    assert_eq!(target.ask(statistics).await, "juntos");
    let pool = reader.pool().await;
    assert_eq!(ask(&pool, "SELECT count(*)::text FROM categoria").await.unwrap(), "6");
    assert_eq!(ask(&pool, "SELECT count(*)::text FROM nombres").await.unwrap(), "12");
    assert_eq!(ask(&pool, "SELECT count(*)::text FROM departamento").await.unwrap(), "2");
    pool.close().await;
    let key = "SELECT confrelid::regclass::text || convalidated::text FROM pg_constraint
               WHERE conrelid = 'nota'::regclass AND contype = 'f'";
    assert_eq!(target.ask(key).await, "categoriatrue");
    reader.drop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_one_or_the_other_throughout() {
    let target = Target::new().await;
    let pool = target.pool().clone();
    target.import(&Dump::new(300, "uno")).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (reading, told) = (pool.clone(), Arc::clone(&stop));
    let reader = tokio::spawn(async move {
        let mut reads = 0_u32;
        while !told.load(Ordering::Relaxed) {
            let seen = ask(&reading, "SELECT count(*)::text FROM articulo").await.unwrap();
            assert!(["300", "310"].contains(&&*seen), "{seen}");
            reads += 1;
        }
        reads
    });
    for _ in 0..4 {
        let import = target.import(&Dump::new(310, "dos")).await.unwrap();
        roll_back(&target, &import.import).await.unwrap();
    }
    stop.store(true, Ordering::Relaxed);
    assert!(tokio::time::timeout(Duration::from_secs(60), reader).await.unwrap().unwrap() > 0);
    assert_eq!(target.count("articulo").await, 300);
}
