//! By way of a real PgBouncer in transaction mode, on three connections.

use std::time::Duration;

use relevo_pg::PoolOptions;
use relevo_queue::{JobId, JobState, NewJob, Queue};
use relevo_runs::RunState;
use relevo_runs::backup::BackupMode;
use relevo_tests::{PgBouncer, ShopDump, TestDatabase, planted, wait_for};
use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection, PgPool, Row as _};

use crate::backup::cluster::{Cluster, prepare};

const PATIENCE: Duration = Duration::from_secs(90);
/// Of the pooler, to the server.
const CONNECTIONS: u32 = 3;
const CLIENTS: i64 = 16;

async fn pool(pooler: &PgBouncer, url: &str, connections: u32) -> PgPool {
    let options = PoolOptions::named("clients")
        .max_connections(connections)
        .setting("statement_timeout", "17s")
        .transaction_pooler(true);
    relevo_pg::connect(&SecretString::from(pooler.before(url)), options).await.unwrap()
}

/// What the server's sessions are left with: nothing that a client asked for, and no lock.
async fn assert_nothing_leaks(pooler: &PgBouncer, database: &TestDatabase) {
    let options: PgConnectOptions = pooler.before(database.url()).parse().unwrap();
    let mut plain = options.extra_float_digits(None).connect().await.unwrap();
    for _ in 0..20 {
        let row = sqlx::raw_sql(
            "SELECT current_setting('statement_timeout') || current_setting('enable_seqscan')
                 || current_setting('plan_cache_mode')
                 || (SELECT count(*) FROM pg_prepared_statements)",
        );
        let left: String = row.fetch_one_text(&mut plain).await;
        assert_eq!(left, "0onauto0");
    }
    let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
                 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    let locks: i64 = sqlx::query_scalar(locks).fetch_one(database.pool()).await.unwrap();
    assert_eq!(locks, 0);
}

trait FetchText {
    async fn fetch_one_text(self, connection: &mut PgConnection) -> String;
}

impl FetchText for sqlx::RawSql {
    async fn fetch_one_text(self, connection: &mut PgConnection) -> String {
        self.fetch_one(connection).await.unwrap().get(0)
    }
}

/// Statements and transactions as on a connection of one's own, for sixteen at once.
#[tokio::test]
async fn statements_transactions_and_failures_are_what_they_are_elsewhere() {
    let database = TestDatabase::empty().await;
    let pooler = PgBouncer::on_connections(database.url(), CONNECTIONS).await;
    let pool = pool(&pooler, database.url(), u32::try_from(CLIENTS).unwrap()).await;
    sqlx::raw_sql(
        "CREATE TABLE kept (n bigint PRIMARY KEY, who bigint);
         CREATE TABLE checked (n bigint UNIQUE DEFERRABLE INITIALLY DEFERRED)",
    )
    .execute(&pool)
    .await
    .unwrap();
    let clients = (0..CLIENTS).map(|client| {
        let pool = pool.clone();
        async move {
            for round in 0..20 {
                let n = client * 1_000 + round;
                let insert = "INSERT INTO kept (n, who) VALUES ($1, $2) RETURNING who";
                let who: i64 =
                    sqlx::query_scalar(insert).bind(n).bind(client).fetch_one(&pool).await.unwrap();
                assert_eq!(who, client);
                // Twice is once too often, and says so; the connection goes on.
                let twice = sqlx::query(insert).bind(n).bind(client).execute(&pool).await;
                assert_eq!(
                    relevo_pg::error::sqlstate(&twice.unwrap_err()).as_deref(),
                    Some("23505")
                );
                // A constraint that is checked at the end of a statement's own transaction.
                let late = sqlx::query("INSERT INTO checked VALUES ($1), ($1)").bind(n);
                let late = late.execute(&pool).await.unwrap_err();
                assert_eq!(relevo_pg::error::sqlstate(&late).as_deref(), Some("23505"));
                // A transaction holds together, under the settings of the pool.
                let mut tx = pool.begin().await.unwrap();
                let sql = "UPDATE kept SET who = -1 WHERE n = $1";
                sqlx::query(sql).bind(n).execute(&mut *tx).await.unwrap();
                let (timeout, changed): (String, i64) = sqlx::query_as(
                    "SELECT current_setting('statement_timeout'), who FROM kept WHERE n = $1",
                )
                .bind(n)
                .fetch_one(&mut *tx)
                .await
                .unwrap();
                assert_eq!((timeout.as_str(), changed), ("17s", -1));
                if round % 2 == 0 {
                    tx.rollback().await.unwrap();
                } else {
                    // Given up: rolled back before the connection is used again.
                    drop(tx);
                }
                let timeout = "SELECT current_setting('statement_timeout')";
                let timeout: String = sqlx::query_scalar(timeout).fetch_one(&pool).await.unwrap();
                assert_eq!(timeout, "17s");
                // An answer of some size.
                let many = "SELECT repeat('x', 1000) FROM generate_series(1, $1)";
                let many: Vec<String> =
                    sqlx::query_scalar(many).bind(200_i32).fetch_all(&pool).await.unwrap();
                assert_eq!(many.len(), 200);
            }
        }
    });
    futures::future::join_all(clients).await;
    let kept: (i64, i64) =
        sqlx::query_as("SELECT count(*), count(*) FILTER (WHERE who >= 0) FROM kept")
            .fetch_one(database.pool())
            .await
            .unwrap();
    assert_eq!(kept, (CLIENTS * 20, CLIENTS * 20));
    pool.close().await;
    assert_nothing_leaks(&pooler, &database).await;
}

/// A cluster whose every process reaches the control plane through a pooler.
async fn cluster(
    pooler: &PgBouncer,
    databases: (TestDatabase, TestDatabase),
    listens: bool,
) -> Cluster {
    let direct = planted::with_password(databases.0.url());
    let mut prepared = prepare(&ShopDump::committed())
        .workers(2)
        .set("database.url", pooler.before(&direct))
        .set("database.pooler", "transaction")
        .databases(databases);
    if listens {
        prepared = prepared.set("database.direct_url", direct);
    }
    Cluster::start(prepared).await
}

async fn a_cluster_works(listens: bool) {
    let databases = TestDatabase::pair().await;
    let pooler = PgBouncer::on_connections(databases.0.url(), CONNECTIONS).await;
    let cluster = cluster(&pooler, databases, listens).await;
    // The library's producers and those over HTTP, sixteen of each.
    let pool = pool(&pooler, cluster.control().url(), u32::try_from(CLIENTS).unwrap()).await;
    let queue = Queue::new(pool.clone());
    let producers = (0..CLIENTS).map(|client| {
        let (queue, cluster) = (queue.clone(), &cluster);
        async move {
            let job = |n: i64| NewJob::new("Noop", &json!({"tag": client * 100 + n})).unwrap();
            let jobs: Vec<NewJob> = (0..30).map(job).collect();
            queue.enqueue_many(&jobs).await.unwrap();
            queue.enqueue(job(30)).await.unwrap();
            let body = json!({"kind": "Noop", "payload": {"tag": client * 100 + 31}});
            let request = cluster.request(Method::POST, "/api/v1/jobs").json(&body);
            assert_eq!(request.send().await.unwrap().status().as_u16(), 202);
        }
    });
    futures::future::join_all(producers).await;
    // An import, from the request to the cutover.
    let run = cluster.start_run(BackupMode::Sync).await;
    // A job that runs for long, to be cancelled.
    let long = json!({"kind": "Noop", "payload": {"sleep_ms": 600_000}});
    let answer = cluster.request(Method::POST, "/api/v1/jobs").json(&long).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    let long = JobId(answer["id"].as_i64().unwrap());
    let direct = cluster.queue();
    let state = async |id| direct.job(id).await.unwrap().unwrap().state;
    wait_for("the long job to run", PATIENCE, async || {
        (state(long).await == JobState::Running).then_some(())
    })
    .await;
    let path = format!("/api/v1/jobs/{long}/cancel");
    let answer = cluster.request(Method::POST, &path).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
    wait_for("the cancel to arrive", PATIENCE, async || {
        (state(long).await == JobState::Cancelled).then_some(())
    })
    .await;

    let run = cluster.ended(run).await;
    assert_eq!(run.state, RunState::Succeeded, "{run:#?}");
    wait_for("every job to end once", PATIENCE, async || {
        let done: (i64, i64) = sqlx::query_as(
            "SELECT count(*), count(DISTINCT payload ->> 'tag') FROM relevo.job_history
             WHERE kind = 'Noop' AND state = 'completed' AND payload ? 'tag'",
        )
        .fetch_one(cluster.pool())
        .await
        .unwrap();
        (done == (CLIENTS * 32, CLIENTS * 32)).then_some(())
    })
    .await;
    let (through, listening): (i64, i64) = sqlx::query_as(
        "SELECT count(*) FILTER (WHERE application_name LIKE 'relevo%'
                                   AND application_name <> 'relevo listen'),
                count(*) FILTER (WHERE application_name = 'relevo listen')
         FROM pg_stat_activity WHERE datname = current_database()",
    )
    .fetch_one(cluster.pool())
    .await
    .unwrap();
    assert!(through <= i64::from(CONNECTIONS), "{through} connections of the pooler");
    assert_eq!(listening, if listens { 2 } else { 0 });

    let doctor = cluster.relevo(["doctor", "--all", "--json"]).await;
    let report: Value = serde_json::from_str(&doctor.stdout).unwrap();
    let findings = report["findings"].as_array().unwrap();
    let found = findings.iter().find(|f| f["check"] == "postgres.pooler").expect("the pooler");
    assert_eq!(found["level"], if listens { "ok" } else { "warning" }, "{found}");
    // Already at this version: nothing that needs a session.
    drop(cluster.relevo(["migrate"]).await.success());
    for process in cluster.workers.iter().chain(&cluster.scheduler).chain(&cluster.api) {
        process.terminate();
        let status = process.wait_exit(PATIENCE).await;
        assert!(status.success(), "{status}\n{}", process.output());
    }
    pool.close().await;
    assert_nothing_leaks(&pooler, cluster.control()).await;
}

#[tokio::test]
async fn a_cluster_works_through_a_pooler_and_listens_past_it() {
    a_cluster_works(true).await;
}

#[tokio::test]
async fn a_cluster_works_through_a_pooler_alone() {
    a_cluster_works(false).await;
}

/// Without a way past the pooler, what needs a session says so and what to do.
#[tokio::test]
async fn what_needs_a_session_goes_past_the_pooler_or_is_refused() {
    let database = TestDatabase::empty().await;
    let pooler = PgBouncer::on_connections(database.url(), CONNECTIONS).await;
    let relevo = crate::cli::Relevo::new()
        .env("RELEVO_DATABASE_URL", pooler.before(database.url()))
        .env("RELEVO_DATABASE_POOLER", "transaction");
    let refused = relevo.run(&["migrate"]).await;
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(refused.err.contains("database.direct_url"), "{refused:?}");
    let relevo = relevo.env("RELEVO_DATABASE_DIRECT_URL", database.url());
    relevo.ok(&["migrate"]).await;
    let enqueued = relevo.json(&["job", "enqueue", "Noop"]).await;
    assert!(enqueued["id"].is_i64(), "{enqueued}");
}

#[tokio::test]
async fn the_way_to_the_pooler_is_as_encrypted_as_sslmode_says() {
    let database = TestDatabase::empty().await;
    let pooler = PgBouncer::encrypted(database.url()).await;
    let connect = async |host: &str, parameters: &str| {
        let url = pooler.before(database.url()).replace("127.0.0.1", host);
        let url = SecretString::from(format!("{url}?{parameters}"));
        let options = PoolOptions::named("clients").transaction_pooler(true);
        let pool = relevo_pg::connect(&url, options).await?;
        sqlx::query("SELECT 1").execute(&pool).await.unwrap();
        pool.close().await;
        Ok::<(), relevo_pg::PgError>(())
    };
    let verified = format!("sslmode=verify-full&sslrootcert={}", pooler.ca_file().display());
    connect("127.0.0.1", "sslmode=require").await.unwrap();
    connect("127.0.0.1", "sslmode=prefer").await.unwrap();
    connect("localhost", &verified).await.unwrap();
    // Not for this name, not signed by anyone known, not encrypted.
    let refused = connect("127.0.0.1", &verified).await.unwrap_err();
    assert!(refused.to_string().contains("127.0.0.1"), "{refused}");
    connect("127.0.0.1", "sslmode=disable").await.unwrap_err();
    for unsupported in ["sslmode=verify-ca", "sslmode=verify-full", "sslcert=x.pem"] {
        let refused = connect("localhost", unsupported).await.unwrap_err();
        assert!(refused.to_string().contains("pooler"), "{refused}");
    }
}
