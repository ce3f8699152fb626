//! What cannot be carried over stops the import, is named, and changes nothing.

use relevo_import::ImportError;

use super::dump::Dump;
use super::target::Target;

async fn refused(sql: &str, named: &str) {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    target.run(sql).await;
    let before = target.count("articulo").await;
    let error = target.import(&Dump::new(310, "dos")).await.unwrap_err();
    assert!(matches!(error, ImportError::Cutover(_)), "{error:?}");
    assert!(error.to_string().contains(named), "{named} is not named: {error}");
    assert!(!error.is_transient());
    assert_eq!(target.count("articulo").await, before);
    assert_eq!(target.own_schemas().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_materialized_view() {
    refused(
        "CREATE MATERIALIZED VIEW foto AS SELECT count(*) FROM articulo",
        "materialized view public.foto",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_over_the_row_type() {
    refused(
        "CREATE FUNCTION etiqueta(a articulo) RETURNS text LANGUAGE sql AS $$ SELECT a.descripcion $$",
        "function public.etiqueta(public.articulo)",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_the_row_type() {
    refused("CREATE TABLE archivo (fila articulo)", "column fila of table public.archivo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_needs_a_column_the_dump_has_not() {
    refused(
        "ALTER TABLE articulo ADD COLUMN nota text;
         CREATE VIEW notas AS SELECT art_id, nota FROM articulo",
        "view public.notas",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_elsewhere_that_refer_to_rows_the_dump_has_not() {
    refused(
        "INSERT INTO articulo (art_id, descripcion) VALUES (9999, 'a mano');
         CREATE TABLE pedido (art_id int REFERENCES articulo);
         INSERT INTO pedido VALUES (9999)",
        "1 of its rows refer to rows of articulo",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_table() {
    refused("CREATE TABLE articulo_viejo () INHERITS (articulo)", "table public.articulo").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn something_else_of_the_same_name() {
    let target = Target::new().await;
    target.run("CREATE VIEW articulo AS SELECT 1 AS art_id").await;
    let error = target.import(&Dump::default()).await.unwrap_err();
    assert!(error.to_string().contains("public.articulo is not a table"), "{error}");
    assert_eq!(target.own_schemas().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_others_use_are_stepped_around() {
    let target = Target::new().await;
    target
        .run(
            "CREATE TABLE ajena (id int);
             CREATE INDEX \"articulo_cat_idx\" ON ajena (id);
             CREATE SEQUENCE articulo_art_id_seq;",
        )
        .await;
    for articles in [300, 301] {
        let certificate = target.import(&Dump::new(articles, "uno")).await.unwrap();
        assert!(
            certificate.notices.iter().any(|notice| notice.contains("articulo_cat_idx_relevo"))
        );
        let next = "INSERT INTO articulo (descripcion) VALUES ('nuevo') RETURNING art_id::text";
        assert_eq!(target.ask(next).await, (articles + 1).to_string());
    }
    let mine = "SELECT indrelid::regclass::text FROM pg_index WHERE indexrelid = 'articulo_cat_idx'::regclass";
    assert_eq!(target.ask(mine).await, "ajena");
}
