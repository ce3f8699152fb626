//! A process that stands still while others wait for it.

use std::time::{Duration, Instant};

use relevo_pg::{PoolOptions, Session};
use relevo_tests::{Process, wait_for};
use secrecy::SecretString;
use sqlx::{Connection, Executor, PgConnection};

use super::dump::Dump;
use super::target::Target;

/// How long the server lets an idle client hold the tables in a cutover, and what a loaded machine
/// may add.
const READERS_WAIT_MAX: Duration = Duration::from_secs(10 + 20);

/// The cutover makes the schema for the previous tables while it holds the tables: there, this
/// trigger waits until the test has opened the gate.
const HOLD_THE_CUTOVER: &str = "
    CREATE SCHEMA gate;
    CREATE TABLE gate.opened (at timestamptz);
    CREATE FUNCTION gate.wait() RETURNS event_trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF EXISTS (SELECT FROM pg_event_trigger_ddl_commands() WHERE object_identity = 'relevo_prev_public') THEN
        WHILE NOT EXISTS (SELECT FROM gate.opened) LOOP PERFORM pg_sleep(0.02); END LOOP;
      END IF;
    END $$;
    CREATE EVENT TRIGGER gate_wait ON ddl_command_end WHEN TAG IN ('CREATE SCHEMA')
      EXECUTE FUNCTION gate.wait()";

#[tokio::test(flavor = "multi_thread")]
async fn readers_get_on_when_a_process_is_frozen_inside_its_cutover() {
    let target = Target::new().await;
    target.import(&Dump::new(300, "uno")).await.unwrap();
    target.run("DROP SCHEMA IF EXISTS relevo_prev_public CASCADE").await;
    target.run(HOLD_THE_CUTOVER).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dos.sql");
    std::fs::write(&file, Dump::new(310, "dos").sql()).unwrap();
    let import = Process::builder("relevo")
        .arg("dump")
        .arg("import")
        .arg(&file)
        .arg("--to")
        .arg(target.url())
        .arg("--schema")
        .arg("public")
        .spawn();
    wait_for("the cutover", Duration::from_secs(60), async || {
        let waiting = "SELECT count(*)::text FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event = 'PgSleep'";
        (target.ask(waiting).await == "1").then_some(())
    })
    .await;
    import.stop();
    let mut reader = PgConnection::connect(target.url()).await.unwrap();
    let reading = tokio::spawn(async move {
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM articulo").fetch_one(&mut reader).await
    });
    wait_for("a reader that waits for the cutover", Duration::from_secs(20), async || {
        let waiting = "SELECT count(*)::text FROM pg_stat_activity
                       WHERE datname = current_database() AND wait_event_type = 'Lock'";
        (target.ask(waiting).await == "1").then_some(())
    })
    .await;
    target.run("INSERT INTO gate.opened VALUES (now())").await;
    let frozen_at = Instant::now();
    let rows = tokio::time::timeout(READERS_WAIT_MAX, reading)
        .await
        .expect("the reader gets on while the process is still frozen")
        .unwrap()
        .unwrap();
    assert_eq!(rows, 300, "the previous data, whole, after {:?}", frozen_at.elapsed());

    import.resume();
    let status = import.wait_exit(Duration::from_secs(60)).await;
    assert!(!status.success(), "it says that it did not happen: {}", import.output());
    assert_eq!(target.count("articulo").await, 300);
    target.run("DROP EVENT TRIGGER gate_wait").await;
    assert_eq!(target.own_schemas().await, "", "it cleared up behind itself");
    target.import(&Dump::new(320, "tres")).await.unwrap();
    assert_eq!(target.count("articulo").await, 320);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_session_ends_by_itself_what_nobody_ends() {
    let target = Target::new().await;
    let url = SecretString::from(target.url());
    let pool = relevo_pg::connect(&url, PoolOptions::named("bounds")).await.unwrap();
    let mut session =
        Session::open(&pool, "bounds", &[("statement_timeout", "7min")]).await.unwrap();
    let mut pooled = pool.acquire().await.unwrap();
    for (connection, statement) in [(&mut *pooled, "30min"), (session.connection(), "7min")] {
        for (name, wanted) in [
            ("statement_timeout", Some(statement)),
            ("lock_timeout", None),
            ("idle_in_transaction_session_timeout", Some("1min")),
            ("tcp_keepalives_idle", None),
            ("tcp_user_timeout", None),
        ] {
            let value: String = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SHOW {name}")))
                .fetch_one(&mut *connection)
                .await
                .unwrap();
            match wanted {
                Some(wanted) => assert_eq!(value, wanted, "{name}"),
                None => assert_ne!(value, "0", "{name}"),
            }
        }
    }
    drop(pooled);
    session.close().await;
    pool.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn short_copies_over_tcp_do_not_wait_for_delayed_acknowledgements() {
    let target = Target::new().await;
    let url = SecretString::from(target.url());
    let pool = relevo_pg::connect(&url, PoolOptions::named("copies")).await.unwrap();
    let mut connection = pool.acquire().await.unwrap();
    connection.execute("CREATE TABLE short (id int)").await.unwrap();
    let mut fastest = Duration::MAX;
    for _ in 0..50 {
        let started = Instant::now();
        let mut copy = connection.copy_in_raw("COPY short FROM STDIN").await.unwrap();
        copy.send(&b"1\n"[..]).await.unwrap();
        copy.finish().await.unwrap();
        fastest = fastest.min(started.elapsed());
    }
    assert!(fastest < Duration::from_millis(30), "{fastest:?}: each takes 40 ms with Nagle's wait");
    drop(connection);
    pool.close().await;
}
