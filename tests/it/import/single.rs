//! `relevo dump import --single-transaction`: new tables, all in one transaction, nothing else.

use relevo_tests::ShopDump;
use relevo_tests::reference;

use super::dump::Dump;
use super::target::Target;
use crate::cli::Relevo;

/// Tables of `public` and schemas of ours.
async fn things(target: &Target) -> String {
    let sql = "SELECT concat_ws(' ', (SELECT count(*) FROM pg_tables WHERE schemaname = 'public'),
                      (SELECT string_agg(nspname, ' ') FROM pg_namespace WHERE nspname LIKE 'relevo%'))";
    target.ask(sql).await
}

#[tokio::test]
async fn every_value_of_the_shop_arrives_without_ledger_and_staging_schema() {
    let target = Target::new().await;
    let shop = ShopDump::committed();
    let path = shop.path.to_str().unwrap();
    let args = ["dump", "import", path, "--to", target.url(), "--single-transaction"];
    let relevo = Relevo::new();
    let certificate = relevo.json(&args).await;
    assert_eq!(certificate["rows"], shop.reference.rows(), "{certificate}");
    assert_eq!(reference::compare(target.url(), "public", &shop.reference).await, []);
    let there = things(&target).await;
    assert!(!there.contains("relevo"), "{there}");
    // Its tables are new ones only.
    relevo.refuses(&args, 1, &["is there already", "the previous data are untouched"]).await;
    assert_eq!(things(&target).await, there);
}

#[tokio::test]
async fn what_fails_late_leaves_nothing_at_all() {
    let target = Target::new().await;
    let relevo = Relevo::new();
    relevo.file("tienda.sql", Dump { orphan: true, ..Dump::default() }.sql());
    let args =
        ["dump", "import", "tienda.sql", "--to", target.url(), "--single-transaction", "--schema"];
    relevo.refuses(&[&args[..], &["nueva"]].concat(), 1, &["fk_articulo_categoria", "999"]).await;
    let schemas = "SELECT (to_regnamespace('nueva') IS NULL)::text";
    assert_eq!(target.ask(schemas).await, "true");
    assert_eq!(things(&target).await, "0");
    // Rows by condition and other names go with it.
    let more = ["nueva", "--where", "article=art_id <= 200", "--rename", "articulo=article"];
    relevo.ok(&[&args[..], &more].concat()).await;
    assert_eq!(target.count("nueva.article").await, 200);
}

#[tokio::test]
async fn options_that_contradict_it_are_refused() {
    let relevo = Relevo::new();
    relevo.file("tienda.sql", Dump::default().sql());
    let args = ["dump", "import", "tienda.sql", "--to", "postgres://nowhere/x"];
    for option in [
        ["--jobs", "2"],
        ["--cutover", "merge"],
        ["--into-existing", "merge"],
        ["--quarantine", "3"],
        ["--map", "a=b"],
    ] {
        let line = [&args[..], &["--single-transaction"], &option].concat();
        relevo.refuses(&line, 2, &["cannot be used with", option[0]]).await;
    }
}
