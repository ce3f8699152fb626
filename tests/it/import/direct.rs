//! The direct import: all values arrive, again and again.

use std::fs::File;
use std::io::Cursor;
use std::sync::Arc;

use relevo_import::{ImportOptions, NoProgress, Phase, Verify, import_file, inspect, translate};
use relevo_tests::{ShopDump, reference};

use super::dump::Dump;
use super::target::{Listener, Target};

#[tokio::test(flavor = "multi_thread")]
async fn every_value_of_the_shop_arrives_with_one_and_with_several_connections() {
    let shop = ShopDump::committed();
    for jobs in [1, 3] {
        let target = Target::new().await;
        let mut options = target.options();
        options.jobs = jobs;
        options.import.verify = Verify::Values;
        let input = File::open(&shop.path).unwrap();
        let certificate = import_file(input, options, Arc::new(NoProgress)).await.unwrap();
        let differences = reference::compare(target.url(), "public", &shop.reference).await;
        assert_eq!(differences, [], "{jobs} connections");
        assert_eq!(certificate.rows, shop.reference.rows());
        assert_eq!(certificate.previous_schema, None, "nothing was there before");
        assert_eq!(target.own_schemas().await, "");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn importing_again_replaces_the_tables_and_keeps_the_previous_ones() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    target.import(&Dump::new(310, "dos")).await.unwrap();
    let certificate = target.import(&Dump::new(320, "tres")).await.unwrap();
    assert_eq!(target.count("public.articulo").await, 320);
    assert_eq!(target.count("relevo_prev_public.articulo").await, 310);
    assert_eq!(certificate.previous_schema.as_deref(), Some("relevo_prev_public"));
    assert_eq!(target.own_schemas().await, "relevo_prev_public");
    let marked = "SELECT count(*)::text FROM articulo WHERE descripcion LIKE 'tres: %'";
    assert_eq!(target.ask(marked).await, "320");
    // Keys, identities and the trigger are there each time, under the same names.
    let next = "INSERT INTO departamento (nombre) VALUES ('Nuevo') RETURNING dep_id::text";
    assert_eq!(target.ask(next).await, "7", "AUTO_INCREMENT=7");
    let next = "INSERT INTO categoria (nombre, dep_id) VALUES ('Nueva', 1) RETURNING cat_id::text";
    assert_eq!(target.ask(next).await, "13", "past the maximum");
    let names = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class
                 WHERE relnamespace = $$SCHEMA$$::regnamespace AND relkind IN ('i', 'S')";
    assert_eq!(
        target.ask(&names.replace("SCHEMA", "public")).await,
        target.ask(&names.replace("SCHEMA", "relevo_prev_public")).await,
    );
    let foreign = "SELECT count(*)::text FROM pg_constraint
                   WHERE contype = 'f' AND convalidated AND connamespace = 'public'::regnamespace";
    assert_eq!(target.ask(foreign).await, "2");
    let touched =
        "WITH touched AS (UPDATE articulo SET precio1 = 1 WHERE art_id = 1 RETURNING modificado)
                   SELECT (modificado > now() - interval '1 minute')::text FROM touched";
    assert_eq!(target.ask(touched).await, "true", "ON UPDATE CURRENT_TIMESTAMP");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_file_and_a_gzip_file_give_the_same() {
    let (plain, packed) = (Target::new().await, Target::new().await);
    let dump = Dump::default();
    let text = Cursor::new(dump.sql().into_bytes());
    import_file(text, plain.options(), Arc::new(NoProgress)).await.unwrap();
    packed.import(&dump).await.unwrap();
    assert_eq!(plain.content("public").await, packed.content("public").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_says_what_happened_and_is_kept_in_the_target() {
    let target = Target::new().await;
    let mut options = target.options();
    options.import.verify = Verify::Values;
    let listener = Listener::new(|_| {});
    let listening = Arc::clone(&listener);
    let certificate = import_file(Dump::default().reader(), options, listening).await.unwrap();
    let article = certificate.tables.iter().find(|table| table.table == "articulo").unwrap();
    assert_eq!((article.rows_dump, article.rows_target), (300, 300));
    assert_eq!(article.checksum_target, Some(article.checksum_dump));
    assert_eq!(article.stats.nulled_dates.get("alta"), Some(&42), "every seventh");
    assert!(certificate.dump.complete);
    assert!(certificate.finished_at > certificate.started_at);
    let phases: Vec<Phase> = certificate.phases.iter().map(|phase| phase.phase).collect();
    assert_eq!(phases.first(), Some(&Phase::Load));
    assert_eq!(phases.last(), Some(&Phase::Cutover));
    assert_eq!(listener.phases.lock().unwrap().last(), Some(&Phase::Clean));
    let kept = "SELECT certificate ->> 'rows' FROM relevo_ledger.import WHERE state = 'live'";
    assert_eq!(target.ask(kept).await, "314");
    // A zero date became NULL, so the column cannot be NOT NULL; it stays so where all fit.
    let nullable = "SELECT is_nullable FROM information_schema.columns
                    WHERE table_schema = 'public' AND table_name = 'articulo' AND column_name = 'alta'";
    assert_eq!(target.ask(nullable).await, "YES");
    let analysed = "SELECT count(*)::text FROM pg_stats WHERE schemaname = 'public' AND tablename = 'articulo'";
    assert_ne!(target.ask(analysed).await, "0", "ANALYZE");
    let options = "SELECT coalesce(array_to_string(reloptions, ','), '') FROM pg_class
                   WHERE oid = 'public.articulo'::regclass";
    assert_eq!(target.ask(options).await, "", "autovacuum is on again");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_schema_leaves_public_alone() {
    let target = Target::new().await;
    target.run("CREATE TABLE public.articulo (mine int)").await;
    let mut options = target.options();
    options.import.schema = "Tienda \"Uno\"".to_owned();
    import_file(Dump::default().reader(), options, Arc::new(NoProgress)).await.unwrap();
    assert_eq!(target.count("\"Tienda \"\"Uno\"\"\".articulo").await, 300);
    assert_eq!(target.count("public.articulo").await, 0);
}

#[test]
fn inspect_and_translate_need_no_database() {
    let dump = Dump::default();
    let inspection = inspect(dump.reader(), &ImportOptions::default(), &NoProgress).unwrap();
    assert_eq!(inspection.packing, relevo_import::Packing::Gzip);
    let rows: Vec<_> = inspection.tables.iter().map(|t| (t.name.as_str(), t.rows)).collect();
    assert_eq!(rows, [("departamento", 2), ("categoria", 12), ("articulo", 300)]);
    let mut sql = Vec::new();
    let translation =
        translate(dump.reader(), &mut sql, "public", &Default::default(), &NoProgress).unwrap();
    assert_eq!(translation.stats.rows, 314);
    let sql = String::from_utf8(sql).unwrap();
    assert!(sql.contains("COPY \"public\".\"articulo\""), "{sql}");
}
