//! Parts of a dump, under other names, into tables that are there.

use std::sync::Arc;

use relevo_import::{
    Certificate, CutoverMode, DirectOptions, ImportError, NoProgress, Selection, import_file,
};

use super::dump::Dump;
use super::target::Target;

async fn import(options: DirectOptions, dump: &Dump) -> Result<Certificate, ImportError> {
    import_file(dump.reader(), options, Arc::new(NoProgress)).await
}

fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_tables_asked_for_are_touched() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    let mut options = target.options();
    options.import.selection =
        Selection { only: names(&["*o"]), exclude: names(&["dep*"]), ..Selection::default() };
    let certificate = import(options, &Dump::new(310, "dos")).await.unwrap();
    assert_eq!(certificate.tables.len(), 1);
    assert_eq!(target.count("articulo").await, 310);
    let tables = "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'relevo_prev_public'";
    assert_eq!(target.ask(tables).await, "articulo");
    let mut options = target.options();
    options.import.selection.only = names(&["nada"]);
    let error = import(options, &Dump::new(310, "dos")).await.unwrap_err();
    assert!(error.to_string().contains("fits what was asked for"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_may_get_another_name_and_keys_follow() {
    let target = Target::new().await;
    let mut options = target.options();
    options.import.selection.rename = [("categoria", "category"), ("articulo", "article")]
        .map(|(old, new)| (old.to_owned(), new.to_owned()))
        .into();
    import(options, &Dump::new(300, "uno")).await.unwrap();
    assert_eq!(target.count("article JOIN category USING (cat_id)").await, 273);
    let keys = "SELECT string_agg(conrelid::regclass::text || ' ' || confrelid::regclass::text, ', ' ORDER BY 1)
                FROM pg_constraint WHERE contype = 'f' AND connamespace = 'public'::regnamespace";
    assert_eq!(target.ask(keys).await.split(", ").count(), 2);
    assert!(target.ask(keys).await.contains("article category"));
    let gone = "SELECT (to_regclass('public.articulo') IS NULL)::text";
    assert_eq!(target.ask(gone).await, "true");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_may_be_added_and_updated_by_key() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    target
        .run(
            "INSERT INTO articulo (art_id, descripcion) VALUES (9000, 'propio');
             DELETE FROM articulo WHERE art_id = 7",
        )
        .await;
    let mut options = target.options();
    options.import.cutover.mode = CutoverMode::Upsert;
    options.import.existing_only = true;
    let certificate = import(options.clone(), &Dump::new(5, "dos")).await.unwrap();
    assert_eq!(
        target.count("articulo").await,
        300,
        "none is lost, none but the deleted is missing"
    );
    assert_eq!(target.count("articulo WHERE descripcion LIKE 'dos%'").await, 5);
    assert_eq!(target.count("articulo WHERE descripcion = 'propio'").await, 1);
    assert!(certificate.previous_schema.is_none());
    import(options.clone(), &Dump::new(10, "tres")).await.unwrap();
    assert_eq!(target.count("articulo").await, 301);

    target.run("ALTER TABLE articulo DROP CONSTRAINT articulo_pkey CASCADE").await;
    let error = import(options, &Dump::new(10, "tres")).await.unwrap_err();
    assert!(error.to_string().contains("has no key"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn into_existing_tables_means_that_they_are_there() {
    let target = Target::new().await;
    let mut options = target.options();
    options.import.cutover.mode = CutoverMode::Merge;
    options.import.existing_only = true;
    let error = import(options.clone(), &Dump::new(5, "uno")).await.unwrap_err();
    assert!(error.to_string().contains("table public.departamento is not there"), "{error}");
    assert!(!error.is_transient());
    assert_eq!(target.own_schemas().await, "");

    let mut tables_only = target.options();
    tables_only.import.schema_only = true;
    import(tables_only.clone(), &Dump::new(5, "uno")).await.unwrap();
    assert_eq!(target.count("articulo").await, 0);
    import(options, &Dump::new(5, "uno")).await.unwrap();
    assert_eq!(target.count("articulo").await, 5);
    let error = import(tables_only, &Dump::new(5, "uno")).await.unwrap_err();
    assert!(error.to_string().contains("articulo fell from 5 to 0"), "{error}");
}
