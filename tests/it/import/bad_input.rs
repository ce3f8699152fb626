//! Bad input: a clear error, and the previous data as they were.

use std::io::Cursor;
use std::sync::Arc;

use relevo_import::{Completion, ImportError, NoProgress, import_file};

use super::dump::{Dump, gzip};
use super::target::Target;

/// A target that holds a good import, and its content.
async fn filled() -> (Target, String) {
    let target = Target::new().await;
    target.import(&Dump::default()).await.unwrap();
    let content = target.content("public").await;
    (target, content)
}

async fn refused(target: &Target, content: &str, input: Vec<u8>) -> ImportError {
    let outcome = import_file(Cursor::new(input), target.options(), Arc::new(NoProgress)).await;
    let error = outcome.expect_err("bad input");
    assert_eq!(target.content("public").await, content, "the previous data are intact");
    assert_eq!(target.own_schemas().await, "", "nothing is left behind");
    error
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_off_damaged_or_unfinished_dumps_are_refused() {
    let (target, content) = filled().await;
    let packed = Dump::new(2_000, "dos").gzip();

    let error = refused(&target, &content, packed[..packed.len() * 2 / 3].to_vec()).await;
    assert!(matches!(error, ImportError::Truncated { .. }), "{error:?}");
    assert!(error.to_string().contains("cut off"), "{error}");

    let mut damaged = packed.clone();
    let crc = damaged.len() - 7;
    damaged[crc] ^= 0xff;
    let error = refused(&target, &content, damaged).await;
    assert!(matches!(error, ImportError::Damaged { .. }), "{error:?}");

    let unfinished = Dump { complete: false, ..Dump::default() };
    let error = refused(&target, &content, unfinished.gzip()).await;
    assert!(matches!(error, ImportError::Incomplete), "{error:?}");

    let sql = Dump::default().sql();
    let inside_a_row = &sql[..sql.len() - 200];
    let error = refused(&target, &content, gzip(inside_a_row.as_bytes())).await;
    assert!(matches!(error, ImportError::Dump(_)), "{error:?}");
    assert!(error.to_string().contains("truncated"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn something_that_is_no_dump_is_refused() {
    let (target, content) = filled().await;
    let error = refused(&target, &content, Vec::new()).await;
    assert!(matches!(error, ImportError::Empty { .. }), "{error:?}");
    let error = refused(&target, &content, b"{\"ok\":false,\"error\":\"busy\"}".to_vec()).await;
    assert!(!error.is_transient(), "{error:?}");
    let error = refused(&target, &content, b"PK\x03\x04 and more".to_vec()).await;
    assert!(error.to_string().contains("unzip -p"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_foreign_key_names_its_rows() {
    let (target, content) = filled().await;
    let orphan = Dump { orphan: true, ..Dump::default() };
    let error = refused(&target, &content, orphan.gzip()).await;
    let ImportError::ForeignKey { table, constraint, orphans, sample } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((table.as_str(), *orphans), ("articulo", 1));
    assert_eq!(constraint, "fk_articulo_categoria");
    assert_eq!(sample, "cat_id = 999");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_breaks_a_unique_key_is_named() {
    let (target, content) = filled().await;
    let sql = Dump::default().sql().replace("'Clave-2'", "'Clave-1'");
    let error = refused(&target, &content, gzip(sql.as_bytes())).await;
    let text = error.chain();
    assert!(text.contains("articulo") && text.contains("Clave-1"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_without_its_last_line_is_taken_when_that_is_asked_for() {
    let target = Target::new().await;
    let unfinished = Dump { complete: false, ..Dump::default() };
    let mut options = target.options();
    options.import.completion = Completion::NotRequired;
    import_file(unfinished.reader(), options, Arc::new(NoProgress)).await.unwrap();
    assert_eq!(target.count("articulo").await, 300);

    let headerless = Dump { complete: false, ..Dump::new(301, "dos") }.sql();
    let headerless = headerless.lines().skip(1).collect::<Vec<_>>().join("\n");
    let mut options = target.options();
    let input = Cursor::new(headerless.clone().into_bytes());
    import_file(input, options.clone(), Arc::new(NoProgress)).await.unwrap();
    assert_eq!(target.count("articulo").await, 301, "a tool that writes no such line");

    options.import.completion = Completion::Required;
    let input = Cursor::new(headerless.into_bytes());
    let error = import_file(input, options, Arc::new(NoProgress)).await.unwrap_err();
    assert!(matches!(error, ImportError::Incomplete), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_target_is_named_without_its_password() {
    let target = Target::new().await;
    let mut options = target.options();
    let port = relevo_tests::free_port();
    options.target_url = format!("postgres://app:geheim@127.0.0.1:{port}/tienda").into();
    let error = import_file(Dump::default().reader(), options.clone(), Arc::new(NoProgress))
        .await
        .unwrap_err();
    assert!(error.chain().contains(&port.to_string()) && error.is_transient(), "{error:?}");
    assert!(!error.chain().contains("geheim") && !format!("{error:?}").contains("geheim"));

    let missing = target.url().rsplit_once('/').unwrap().0;
    options.target_url = format!("{missing}/no_such_database").into();
    let error =
        import_file(Dump::default().reader(), options, Arc::new(NoProgress)).await.unwrap_err();
    assert!(error.to_string().contains("CREATE DATABASE"), "{error}");
    assert!(!error.is_transient(), "{error:?}");
}
