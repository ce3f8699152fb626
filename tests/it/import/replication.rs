//! What subscribers of logical replication are sent.

use std::sync::Arc;
use std::time::Duration;

use relevo_import::{
    Certificate, CutoverMode, DirectOptions, ImportError, NoProgress, import_file,
};
use relevo_tests::{OwnPostgres, wait_for};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use super::dump::Dump;
use super::target::quick;

async fn import(url: &str, articles: u32, mode: CutoverMode) -> Result<Certificate, ImportError> {
    let mut options = DirectOptions::new(url.into());
    options.import = quick(options.import);
    options.import.cutover.mode = mode;
    import_file(Dump::new(articles, "uno").reader(), options, Arc::new(NoProgress)).await
}

/// Changes of tables that subscribers of everything were sent since the last call, the import's
/// ledger left out.
async fn sent(connection: &mut PgConnection) -> Vec<String> {
    sqlx::query_scalar(
        "SELECT split_part(data, ':', 1) || split_part(data, ':', 2)
         FROM pg_logical_slot_get_changes('seen', NULL, NULL)
         WHERE data LIKE 'table %' AND data NOT LIKE 'table relevo_ledger.%'",
    )
    .fetch_all(connection)
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_merge_sends_the_changes_alone_and_a_swap_that_would_hurt_is_refused() {
    let server = OwnPostgres::start().await;
    let url = server.database("tienda").await;
    let mut admin = PgConnection::connect(&url).await.unwrap();
    admin.execute("ALTER SYSTEM SET wal_level = 'logical'").await.unwrap();
    server.crash();
    server.start_again();
    let mut connection = wait_for("the server", Duration::from_secs(60), async || {
        PgConnection::connect(&url).await.ok()
    })
    .await;
    import(&url, 300, CutoverMode::Swap).await.unwrap();
    for sql in [
        "CREATE PUBLICATION todo FOR ALL TABLES",
        "SELECT pg_create_logical_replication_slot('abonado', 'pgoutput')",
        "SELECT pg_create_logical_replication_slot('seen', 'test_decoding')",
    ] {
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
    }
    let error = import(&url, 301, CutoverMode::Swap).await.unwrap_err();
    assert!(error.to_string().contains("publication todo"), "{error}");
    assert!(error.to_string().contains("--cutover merge"), "{error}");
    assert!(sent(&mut connection).await.is_empty(), "not one staged row");

    import(&url, 301, CutoverMode::Merge).await.unwrap();
    assert_eq!(sent(&mut connection).await, ["table public.articulo INSERT"]);
    import(&url, 301, CutoverMode::Merge).await.unwrap();
    assert!(sent(&mut connection).await.is_empty(), "nothing has changed");
    for slot in ["abonado", "seen"] {
        let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
        connection.execute(AssertSqlSafe(drop)).await.unwrap();
    }
}
