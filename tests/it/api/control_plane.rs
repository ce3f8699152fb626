//! `relevo_runs::control_plane`: bringing a database to this build's version.

use std::sync::Arc;
use std::time::Duration;

use relevo_runs::control_plane::{
    self, MIGRATIONS, MigrateError, SchemaStatus, migrate, migrate_within, status,
};
use relevo_tests::TestDatabase;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, PgPool};

async fn run(pool: &PgPool, sql: &str) {
    sqlx::query(AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

#[tokio::test]
async fn many_processes_migrate_an_empty_database_at_once() {
    let db = TestDatabase::empty().await;
    assert_eq!(status(db.pool()).await.unwrap(), SchemaStatus::Absent);
    let all = futures::future::join_all((0..4).map(|_| migrate(db.pool()))).await;
    for outcome in all {
        outcome.unwrap();
    }
    assert_eq!(status(db.pool()).await.unwrap(), SchemaStatus::Current);
    migrate(db.pool()).await.unwrap();
    let identity = control_plane::identity(db.pool()).await.unwrap();
    assert_eq!((identity.cluster_id.len(), identity.incarnation), (8, 1));
    let outside: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace",
    )
    .fetch_one(db.pool())
    .await
    .unwrap();
    assert_eq!(outside, 0, "nothing is made outside of the schema relevo");
}

#[tokio::test]
async fn tables_and_columns_are_commented() {
    let db = TestDatabase::new().await;
    // The queue's other tables repeat the columns of relevo.job, and are documented as a whole.
    let silent: Vec<String> = sqlx::query_scalar(
        "SELECT c.relname || coalesce('.' || a.attname, '')
         FROM pg_class c
         LEFT JOIN pg_attribute a
             ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                AND c.relname IN ('control', 'run', 'run_event', 'api_key', 'backup_request',
                                  'backup_token', 'job')
         WHERE c.relnamespace = 'relevo'::regnamespace AND c.relkind IN ('r', 'p')
           AND NOT c.relispartition AND c.relname <> 'migration'
           AND (obj_description(c.oid) IS NULL
                OR a.attnum IS NOT NULL AND col_description(c.oid, a.attnum) IS NULL)
         ORDER BY 1",
    )
    .fetch_all(db.pool())
    .await
    .unwrap();
    assert_eq!(silent, [] as [String; 0]);
}

#[tokio::test]
async fn a_database_of_a_newer_build_is_left_alone() {
    let db = TestDatabase::new().await;
    run(
        db.pool(),
        "INSERT INTO relevo.migration (version, description, success, checksum, execution_time)
         VALUES (29990101000000, 'from the future', true, '\\x00', 0)",
    )
    .await;
    let error = migrate(db.pool()).await.unwrap_err();
    assert!(matches!(error, MigrateError::NewerDatabase { database: 29_990_101_000_000, .. }));
    assert!(error.to_string().contains("install the newer relevo"), "{error}");
    assert_eq!(
        status(db.pool()).await.unwrap(),
        SchemaStatus::Newer { version: 29_990_101_000_000 }
    );
}

#[tokio::test]
async fn a_database_of_another_build_is_left_alone() {
    let db = TestDatabase::new().await;
    let version = MIGRATIONS.iter().next().unwrap().version;
    run(db.pool(), "UPDATE relevo.migration SET checksum = '\\x00'").await;
    let error = migrate(db.pool()).await.unwrap_err();
    assert!(matches!(error, MigrateError::Changed(changed) if changed == version), "{error}");
}

#[tokio::test]
async fn missing_migrations_are_counted() {
    let db = TestDatabase::new().await;
    run(db.pool(), "DELETE FROM relevo.migration").await;
    let pending = MIGRATIONS.iter().count();
    assert_eq!(status(db.pool()).await.unwrap(), SchemaStatus::Behind { pending });
    // They cannot be applied twice; that fails whole.
    let error = migrate(db.pool()).await.unwrap_err();
    assert!(matches!(error, MigrateError::Failed { .. }), "{error:?}");
    assert_eq!(status(db.pool()).await.unwrap(), SchemaStatus::Behind { pending });
}

#[tokio::test]
async fn another_migration_under_way_is_waited_for_but_not_for_ever() {
    let db = TestDatabase::empty().await;
    let mut holder = db.pool().acquire().await.unwrap();
    sqlx::query("SELECT pg_advisory_lock(125779935852143)").execute(&mut *holder).await.unwrap();
    let error = migrate_within(db.pool(), Duration::from_millis(200)).await.unwrap_err();
    assert!(matches!(error, MigrateError::Locked { waited_ms: 200, .. }), "{error:?}");
    holder.detach();
    migrate(db.pool()).await.unwrap();
}

#[tokio::test]
async fn no_superuser_is_needed() {
    let db = Arc::new(TestDatabase::empty().await);
    let role = format!("r_{}", db.name());
    run(db.pool(), &format!("CREATE ROLE {role} LOGIN PASSWORD 'p'")).await;
    // A task of its own: roles outlive databases, so this one goes whatever happens in there.
    let outcome = tokio::spawn(migrate_as(db.clone(), role.clone())).await;
    run(db.pool(), &format!("DROP OWNED BY {role} CASCADE")).await;
    run(db.pool(), &format!("DROP ROLE {role}")).await;
    outcome.unwrap();
}

async fn migrate_as(db: Arc<TestDatabase>, role: String) {
    let options: PgConnectOptions = db.url().parse().unwrap();
    let pool = PgPoolOptions::new()
        .max_connections(2)
        .connect_with(options.username(&role).password("p"))
        .await
        .unwrap();
    let error = migrate(&pool).await.unwrap_err();
    assert!(matches!(error, MigrateError::MayNotCreateSchema { .. }), "{error:?}");
    let remedy = format!("CREATE SCHEMA relevo AUTHORIZATION {role}");
    assert!(error.to_string().contains(&remedy), "{error}");

    // The remedy it names is enough.
    run(db.pool(), &remedy).await;
    migrate(&pool).await.unwrap();
    assert_eq!(status(&pool).await.unwrap(), SchemaStatus::Current);
    pool.close().await;
}

#[tokio::test]
async fn an_unreachable_server_is_said_to_be_one() {
    let options: PgConnectOptions = "postgres://nobody@127.0.0.1:1/none".parse().unwrap();
    let pool =
        PgPoolOptions::new().acquire_timeout(Duration::from_secs(5)).connect_lazy_with(options);
    let error = migrate(&pool).await.unwrap_err();
    assert!(matches!(error, MigrateError::Database(_)), "{error:?}");
}
