//! A complete but suspiciously small dump does not replace a full target.

use std::sync::Arc;

use relevo_import::{ImportError, NoProgress, import_file};

use super::dump::Dump;
use super::target::Target;

#[tokio::test(flavor = "multi_thread")]
async fn a_shrunken_table_is_refused_until_forced() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    target.import(&Dump::new(210, "dos")).await.expect("30 % less is still fine");

    let error = target.import(&Dump::new(146, "tres")).await.unwrap_err();
    let ImportError::Guard { findings } = &error else { panic!("{error:?}") };
    assert_eq!(findings.len(), 1);
    assert_eq!(findings[0].table, "articulo");
    assert_eq!((findings[0].rows_before, findings[0].rows_dump), (210, Some(146)));
    assert!(error.to_string().contains("--force"), "{error}");
    assert_eq!(target.count("articulo").await, 210);
    assert_eq!(target.own_schemas().await, "relevo_prev_public");

    let mut options = target.options();
    options.import.guard.force = true;
    let forced = import_file(Dump::new(146, "tres").reader(), options, Arc::new(NoProgress));
    let certificate = forced.await.unwrap();
    assert_eq!(target.count("articulo").await, 146);
    assert!(
        certificate.notices.iter().any(|notice| notice.contains("articulo fell from 210 to 146")),
        "{:?}",
        certificate.notices
    );
    target.import(&Dump::new(146, "tres")).await.expect("measured by the latest certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_gone_is_refused() {
    let target = Target::new().await;
    target.import(&Dump::default()).await.unwrap();
    let without = Dump { without_articles: true, ..Dump::default() };
    let error = target.import(&without).await.unwrap_err();
    assert!(error.to_string().contains("articulo is gone (it had 300 rows)"), "{error}");

    let mut options = target.options();
    options.import.guard.force = true;
    import_file(without.reader(), options, Arc::new(NoProgress)).await.unwrap();
    assert_eq!(target.count("articulo").await, 300, "only the dump's own tables are exchanged");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_filled_by_others_is_guarded_too() {
    let target = Target::new().await;
    target
        .run(
            "CREATE TABLE articulo (art_id int);
             INSERT INTO articulo SELECT generate_series(1, 1000);
             CREATE TABLE unrelated (id int);",
        )
        .await;
    let error = target.import(&Dump::default()).await.unwrap_err();
    assert!(error.to_string().contains("articulo fell from 1000 to 300"), "{error}");
    assert!(!error.to_string().contains("unrelated"), "{error}");
    assert_eq!(target.count("articulo").await, 1000);
}
