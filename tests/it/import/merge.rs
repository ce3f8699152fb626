//! Rows changed in place: the tables stay, and so does everything on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use relevo_import::{
    Certificate, CutoverMode, DirectOptions, ImportError, NoProgress, import_file,
};
use relevo_pg::cutover::RowChanges;
use relevo_tests::wait_for;
use sqlx::{Connection, Executor, PgConnection};

use super::dump::Dump;
use super::target::{Target, ask};

fn merging(target: &Target) -> DirectOptions {
    let mut options = target.options();
    options.import.cutover.mode = CutoverMode::Merge;
    options.import.cutover.snapshot_wait_seconds = 0;
    options
}

async fn merge(target: &Target, dump: &Dump) -> Result<Certificate, ImportError> {
    import_file(dump.reader(), merging(target), Arc::new(NoProgress)).await
}

async fn merge_sql(target: &Target, sql: &str) -> Result<Certificate, ImportError> {
    let dump = format!("{sql}\n-- Dump completed\n").into_bytes();
    let mut options = merging(target);
    options.import.guard.force = true;
    import_file(std::io::Cursor::new(dump), options, Arc::new(NoProgress)).await
}

fn changes(certificate: &Certificate, table: &str) -> RowChanges {
    let table = certificate.tables.iter().find(|found| found.table == table);
    table.and_then(|table| table.changes).expect("merged rows")
}

/// Where the tables stand: unchanged as long as they are the same tables.
const PLACES: &str = "SELECT string_agg(oid::text || ' ' || relfilenode, ', ' ORDER BY relname)
                      FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'";

#[tokio::test(flavor = "multi_thread")]
async fn rows_become_those_of_the_dump_and_the_tables_stay() {
    let (target, swapped) = (Target::new().await, Target::new().await);
    // The first import finds nothing to merge into.
    let first = merge(&target, &Dump::new(300, "uno")).await.unwrap();
    assert!(first.tables.iter().all(|table| table.changes.is_none()));
    let places = target.ask(PLACES).await;

    let same = merge(&target, &Dump::new(300, "uno")).await.unwrap();
    for table in ["articulo", "categoria", "departamento"] {
        assert_eq!(changes(&same, table), RowChanges::default(), "{table}");
    }
    target
        .run(
            "UPDATE articulo SET precio1 = 0, foto = 'x' WHERE art_id IN (3, 4);
             DELETE FROM articulo WHERE art_id = 9;
             INSERT INTO articulo (art_id, descripcion, modificado) VALUES (5000, 'de más', now())",
        )
        .await;
    let mended = merge(&target, &Dump::new(310, "uno")).await.unwrap();
    let wanted = RowChanges { deleted: 1, updated: 2, inserted: 11 };
    assert_eq!(changes(&mended, "articulo"), wanted);
    let all = merge(&target, &Dump::new(250, "dos")).await.unwrap();
    assert_eq!(changes(&all, "articulo"), RowChanges { deleted: 60, updated: 250, inserted: 0 });
    assert_eq!(target.ask(PLACES).await, places);
    assert_eq!(all.previous_schema, None);
    assert_eq!(target.own_schemas().await, "");

    swapped.import(&Dump::new(250, "dos")).await.unwrap();
    assert_eq!(target.content("public").await, swapped.content("public").await);
    let trigger = "SELECT string_agg(tgenabled::text, '') FROM pg_trigger WHERE NOT tgisinternal";
    assert_eq!(target.ask(trigger).await, "O", "the import's own trigger is awake again");
    let next = "INSERT INTO articulo (descripcion) VALUES ('nuevo') RETURNING art_id::text";
    assert_eq!(target.ask(next).await, swapped.ask(next).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hinders_an_exchange_does_not_hinder_a_merge() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    target
        .run(
            "ALTER TABLE articulo ADD COLUMN nota text DEFAULT 'sin nota';
             UPDATE articulo SET nota = 'mía' WHERE art_id = 1;
             CREATE MATERIALIZED VIEW foto AS SELECT count(*) FROM articulo;
             CREATE FUNCTION etiqueta(a articulo) RETURNS text LANGUAGE sql AS $$ SELECT a.descripcion $$;
             CREATE TABLE archivo (fila articulo);
             CREATE TABLE pedido (art_id int REFERENCES articulo ON DELETE CASCADE);
             INSERT INTO pedido SELECT generate_series(1, 300);",
        )
        .await;
    let error = target.import(&Dump::new(299, "dos")).await.unwrap_err();
    assert!(error.to_string().contains("--cutover merge"), "{error}");
    let certificate = merge(&target, &Dump::new(299, "dos")).await.unwrap();
    assert!(
        certificate.notices.iter().any(|notice| notice.contains("public.articulo.nota")),
        "{:?}",
        certificate.notices
    );
    let notes = "SELECT string_agg(DISTINCT nota, ', ' ORDER BY nota) FROM articulo";
    assert_eq!(target.ask(notes).await, "mía, sin nota");
    assert_eq!(target.count("pedido").await, 299, "a changed article keeps its orders");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_move_between_parents_and_exchange_unique_values() {
    let target = Target::new().await;
    let schema = "CREATE TABLE `padre` (`id` int NOT NULL, `nombre` varchar(20), PRIMARY KEY (`id`), UNIQUE KEY `n` (`nombre`));
        CREATE TABLE `hijo` (`id` int NOT NULL, `padre` int, `otro` int, PRIMARY KEY (`id`),
          CONSTRAINT `f` FOREIGN KEY (`padre`) REFERENCES `padre` (`id`),
          CONSTRAINT `g` FOREIGN KEY (`otro`) REFERENCES `hijo` (`id`));
        CREATE TABLE `suelta` (`a` int, `b` json, `c` varchar(10));";
    let rows = |padres: &str, hijos: &str, sueltas: &str| {
        format!(
            "{schema}\nINSERT INTO `padre` VALUES {padres};\nINSERT INTO `hijo` VALUES {hijos};\n\
             INSERT INTO `suelta` VALUES {sueltas};"
        )
    };
    let first = rows("(1,'a'),(2,'b'),(3,'c')", "(1,1,2),(2,3,1)", "(1,'{}','x'),(1,'{}','x')");
    merge_sql(&target, &first).await.unwrap();
    // Parent 3 goes, its child moves to a new one; two parents exchange names, a new one takes the
    // name of the one that goes.
    let second =
        rows("(1,'b'),(2,'a'),(4,'c')", "(1,4,3),(2,4,1),(3,1,1)", "(1,'{}','x'),(1,'{}','x')");
    let certificate = merge_sql(&target, &second).await.unwrap();
    let everything = "SELECT (SELECT string_agg(p::text, ' ' ORDER BY id) FROM padre p) || ' / ' ||
                             (SELECT string_agg(h::text, ' ' ORDER BY id) FROM hijo h)";
    assert_eq!(target.ask(everything).await, "(1,b) (2,a) (4,c) / (1,4,3) (2,4,1) (3,1,1)");
    let exchanged = RowChanges { deleted: 1, updated: 2, inserted: 1 };
    assert_eq!(changes(&certificate, "padre"), exchanged);
    assert_eq!(
        certificate.tables[2].changes, None,
        "a table without a key is left alone while its rows are the same"
    );
    let third = rows("(1,'b'),(2,'a'),(4,'c')", "(1,4,3),(2,4,1),(3,1,1)", "(1,'{}','x')");
    let certificate = merge_sql(&target, &third).await.unwrap();
    assert_eq!(changes(&certificate, "suelta"), RowChanges { deleted: 2, updated: 0, inserted: 1 });
    assert_eq!(target.count("suelta").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_do_not_fit_are_refused_by_name_and_nothing_changes() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    let before = target.content("public").await;
    let refused = async |sql: &str, named: &str| {
        target.run(sql).await;
        let error = merge(&target, &Dump::new(299, "dos")).await.unwrap_err();
        assert!(error.to_string().contains(named), "{named} is not named: {error}");
        assert!(!error.is_transient(), "{error:?}");
        assert_eq!(target.content("public").await, before);
        assert_eq!(target.own_schemas().await, "");
    };
    refused(
        "CREATE TABLE pedido (art_id int REFERENCES articulo); INSERT INTO pedido VALUES (300)",
        "merging the rows of articulo was refused",
    )
    .await;
    target.run("DROP TABLE pedido").await;
    refused(
        "ALTER TABLE articulo ADD CONSTRAINT barato CHECK (descripcion NOT LIKE 'dos%')",
        "barato",
    )
    .await;
    target.run("ALTER TABLE articulo DROP CONSTRAINT barato").await;
    refused(
        "ALTER TABLE categoria ALTER COLUMN nombre TYPE varchar(200)",
        "public.categoria.nombre has type character varying(200) and in the dump",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_table_of_the_dump_is_moved_in_with_its_keys() {
    let target = Target::new().await;
    let smaller = Dump { without_articles: true, ..Dump::new(0, "uno") };
    merge(&target, &smaller).await.unwrap();
    let certificate = merge(&target, &Dump::new(300, "uno")).await.unwrap();
    assert_eq!(changes(&certificate, "categoria"), RowChanges::default());
    assert_eq!(target.count("articulo").await, 300);
    let key = "SELECT string_agg(confrelid::regclass::text || ' ' || convalidated::text, ', ')
               FROM pg_constraint WHERE conrelid = 'articulo'::regclass AND contype = 'f'";
    assert_eq!(target.ask(key).await, "categoria true");
    assert_eq!(target.own_schemas().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn long_readers_hold_nothing_up_and_see_their_own_time() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    let mut old = PgConnection::connect(target.url()).await.unwrap();
    // It holds a lock on the table, too, which would stop an exchange for good.
    old.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM articulo")
        .await
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let reads = Arc::new(AtomicU64::new(0));
    let (pool, told, counted) = (target.pool().clone(), Arc::clone(&stop), Arc::clone(&reads));
    let reader = tokio::spawn(async move {
        while !told.load(Ordering::Relaxed) {
            let seen = ask(
                &pool,
                "SELECT count(*)::text || ' ' || count(DISTINCT left(descripcion, 3)) FROM articulo",
            );
            let seen = seen.await.unwrap();
            assert!(["300 1", "310 1"].contains(&&*seen), "{seen}");
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    for (articles, mark) in [(310, "dos"), (300, "uno"), (310, "dos")] {
        merge(&target, &Dump::new(articles, mark)).await.unwrap();
        let seen: i64 =
            sqlx::query_scalar("SELECT count(*) FROM articulo WHERE descripcion LIKE 'uno%'")
                .fetch_one(&mut old)
                .await
                .unwrap();
        assert_eq!(seen, 300, "the rows of its snapshot");
        let before = reads.load(Ordering::Relaxed);
        wait_for("more reads", Duration::from_secs(20), async || {
            (reads.load(Ordering::Relaxed) > before + 5).then_some(())
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    reader.await.expect("a reader that saw no hole");
    old.execute("COMMIT").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_is_waited_for_within_bounds_and_named() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    let mut writer = PgConnection::connect(target.url()).await.unwrap();
    writer.execute("BEGIN; UPDATE articulo SET precio1 = 1 WHERE art_id = 1").await.unwrap();
    let pid: i32 =
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut writer).await.unwrap();
    let mut options = merging(&target);
    options.import.cutover.lock_wait_seconds = 1;
    let outcome = import_file(Dump::new(310, "dos").reader(), options, Arc::new(NoProgress)).await;
    let error = outcome.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(error.to_string().contains(&format!("process {pid} ")), "{error}");
    writer.execute("COMMIT").await.unwrap();
    merge(&target, &Dump::new(310, "dos")).await.unwrap();
    assert_eq!(target.ask("SELECT precio1::text FROM articulo WHERE art_id = 1").await, "1.50");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_may_change_rows_may_merge() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    // The trigger is the import's own, and only the table's owner could put it to rest.
    target.run("DROP TRIGGER IF EXISTS articulo_on_update ON articulo").await;
    target.run("DO $$ DECLARE t record; BEGIN FOR t IN SELECT tgname FROM pg_trigger WHERE NOT tgisinternal LOOP EXECUTE format('DROP TRIGGER %I ON articulo', t.tgname); END LOOP; END $$").await;
    let importer = target.role("importer").await;
    let mut options = merging(&target);
    options.target_url = importer.url().into();
    let mut told = 0;
    loop {
        let dump = Dump::new(310, "dos").reader();
        match import_file(dump, options.clone(), Arc::new(NoProgress)).await {
            Ok(_) => break,
            Err(error) => {
                let text = error.to_string();
                let remedy = text.rsplit_once("run: ").unwrap_or_else(|| panic!("{text}")).1;
                target.run(remedy).await;
                told += 1;
                assert!(told < 12, "{text}");
            }
        }
    }
    assert_eq!(target.count("articulo").await, 310);
    importer.drop().await;
}
