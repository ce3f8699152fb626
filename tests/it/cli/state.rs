//! `relevo state`: backups that earlier versions made, and the embedded server.

use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use futures::TryStreamExt as _;
use relevo_pg::embedded::EmbeddedServer;
use relevo_runs::control_plane::MIGRATIONS;
use relevo_tests::{Process, TestDatabase, free_port, wait_for};
use secrecy::ExposeSecret as _;
use serde_json::json;
use sqlx::migrate::Migrator;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, Row as _};

use super::Relevo;
use super::services::{LONG, enqueue, ready};
use crate::embedded::DataDir;

/// The first version of the control plane whose state could be saved.
const FIRST_SAVED: i64 = 20_261_122_123_200;

/// What its state holds, in words that every version since then understands.
const CONTENT: &str = "
    INSERT INTO relevo.run (pipeline, source, state, trigger, started_at, incarnation)
    VALUES ('backup', 'sicar', 'running', 'cli:alguien', now(), 1);
    INSERT INTO relevo.run_event (run_id, level, message)
    SELECT id, 'info', 'con tabulador \t y contrabarra \\' FROM relevo.run;
    INSERT INTO relevo.job (state, max_attempts, max_deaths, payload_version, queue, kind, payload)
    VALUES ('available', 5, 3, 1, 'default', 'Noop', '{\"tag\": 1}');
    INSERT INTO relevo.job (state, max_attempts, max_deaths, payload_version, queue, kind, payload,
                            session_id, claimed_at, claim_no, attempt, lease_epoch)
    VALUES ('running', 5, 3, 1, 'default', 'Noop', '{\"tag\": 2}', 1, now(), 1, 1, 1);
    INSERT INTO relevo.dead_letter (id, lease_epoch, run_at, created_at, cause, attempt,
                                    max_attempts, priority, deaths, max_deaths, payload_version,
                                    queue, kind, payload, last_error)
    VALUES (nextval('relevo.job_id_seq'), 5, now(), now(), 'exhausted', 5, 5, 0, 0, 3, 1, 'default',
            'Noop', '{\"tag\": 3}', 'cinco veces');
    INSERT INTO relevo.schedule (name, origin, rhythm, timezone, job_kind, job_payload, updated_by)
    VALUES ('noche', 'operator', 'cron 0 2 * * *', 'America/Mexico_City', 'Noop', '{}', 'alguien');
    INSERT INTO relevo.schedule_fire (schedule, slot, outcome, job_id, term)
    VALUES ('noche', now(), 'started', 1, 1);
    INSERT INTO relevo.api_key (name, prefix, secret_sha256, scopes)
    VALUES ('de antes', '12345678', sha256('x'), '{read}')";

/// Brings an empty database to a version.
async fn migrate_to(database: &TestDatabase, version: i64) {
    let known = MIGRATIONS.iter().filter(|migration| migration.version <= version);
    let mut migrator = Migrator::with_migrations(known.cloned().collect());
    migrator.dangerous_set_table_name("relevo.migration");
    migrator.set_locking(false);
    database.pool().execute("CREATE SCHEMA relevo").await.unwrap();
    migrator.run(database.pool()).await.unwrap();
}

/// Writes the file that `relevo state backup` of that version would have written.
async fn save(database: &TestDatabase, version: i64, path: &Path) {
    let mut connection = database.pool().acquire().await.unwrap();
    let file = std::fs::File::create(path).unwrap();
    let mut out = GzEncoder::new(file, Compression::fast());
    let header = json!({
        "relevo_state": 1, "relevo": "0.1.0", "schema_version": version, "cluster_id": "c0ffee00",
        "incarnation": 1, "taken_at": "2026-11-22T22:00:00Z", "history": true,
    });
    writeln!(out, "{header}").unwrap();
    let tables = sqlx::query(
        "SELECT c.relname::text AS name,
                array_agg(a.attname::text ORDER BY a.attnum) FILTER (WHERE a.attgenerated = '')
         FROM pg_class AS c JOIN pg_attribute AS a ON a.attrelid = c.oid
         WHERE c.relnamespace = 'relevo'::regnamespace AND c.relkind IN ('r', 'p')
           AND NOT c.relispartition AND a.attnum > 0 AND NOT a.attisdropped
           AND c.relname NOT IN ('migration', 'session', 'console_session', 'console_link')
         GROUP BY c.oid, c.relname
         ORDER BY EXISTS (SELECT FROM pg_constraint WHERE conrelid = c.oid AND contype = 'f'), 1",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    let mut counts = serde_json::Map::new();
    for table in tables {
        let (name, columns): (String, Vec<String>) = (table.get(0), table.get(1));
        writeln!(out, "{}", json!({"table": name, "columns": columns})).unwrap();
        let columns = columns.iter().map(|column| format!("\"{column}\"")).collect::<Vec<_>>();
        let copy = format!("COPY (SELECT {} FROM relevo.{name}) TO STDOUT", columns.join(", "));
        let rows: Vec<_> =
            connection.copy_out_raw(&copy).await.unwrap().try_collect().await.unwrap();
        let rows = rows.concat();
        counts.insert(name, rows.iter().filter(|byte| **byte == b'\n').count().into());
        out.write_all(&rows).unwrap();
        out.write_all(b"\\.\n").unwrap();
    }
    let sequences: Vec<(String, i64, bool)> = sqlx::query_as(
        "SELECT sequencename::text, coalesce(last_value, start_value), last_value IS NOT NULL
         FROM pg_sequences WHERE schemaname = 'relevo'",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    let sequences: serde_json::Map<_, _> =
        sequences.into_iter().map(|(name, value, used)| (name, json!([value, used]))).collect();
    writeln!(out, "{}", json!({"rows": counts, "sequences": sequences})).unwrap();
    out.finish().unwrap();
}

#[tokio::test]
async fn a_backup_of_any_earlier_version_is_restored_and_brought_to_this_one() {
    let versions: Vec<i64> = MIGRATIONS.iter().map(|migration| migration.version).collect();
    for version in versions.into_iter().filter(|version| *version >= FIRST_SAVED) {
        let then = TestDatabase::empty().await;
        migrate_to(&then, version).await;
        then.pool().execute(AssertSqlSafe(CONTENT)).await.unwrap();
        let now = TestDatabase::empty().await;
        let relevo = Relevo::on(&now);
        let file = relevo.folder().join("then.state");
        save(&then, version, &file).await;

        let restored = relevo.json(&["state", "restore", file.to_str().unwrap()]).await;
        assert_eq!(restored["backup"]["schema_version"], version, "{restored}");
        assert_eq!(restored["runs_to_be_ended"], 1, "{restored}");
        let keys = relevo.json(&["key", "list"]).await;
        assert_eq!(keys[0]["name"], "de antes", "{version}: {keys}");
        let schedule = relevo.json(&["schedule", "show", "noche"]).await;
        assert_eq!(schedule["timezone"], "America/Mexico_City", "{version}: {schedule}");
        let dead = relevo.json(&["dead", "list"]).await;
        assert!(dead.to_string().contains("cinco veces"), "{version}: {dead}");
        let log = relevo.json(&["run", "log", "1"]).await;
        assert!(log.to_string().contains("con tabulador \\t y contrabarra \\\\"), "{log}");

        // It is a control plane like any other: what waited runs, and numbers go on.
        let worker = relevo.process(&["worker"]).spawn();
        let new = enqueue(&relevo, "{}").await;
        assert!(new > 3, "{version}: job {new} is not the first of its number");
        for id in [1, 2, new] {
            wait_for("the job to end", LONG, async || {
                let job = relevo.json(&["job", "show", &id.to_string()]).await;
                (job["state"] == "completed").then_some(())
            })
            .await;
        }
        worker.terminate();
        assert!(worker.wait_exit(LONG).await.success(), "{}", worker.output());
    }
}

/// `relevo up` without a worker on the embedded server of `data`.
async fn up(relevo: &Relevo) -> (Process, u16) {
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let up = relevo.process(&["up", "--no-worker", "--listen", &listen]).spawn();
    ready(&up, port).await;
    (up, port)
}

async fn down(up: Process) {
    up.terminate();
    assert!(up.wait_exit(LONG).await.success(), "{}", up.output());
}

/// A superuser on the embedded server of `data`, in the control plane's database.
async fn admin_of(data: &DataDir) -> PgConnection {
    let server = EmbeddedServer::find(data.path()).await.unwrap().expect("it runs");
    PgConnection::connect(server.url().expose_secret()).await.unwrap()
}

/// Whether the key that `relevo up` has left for people opens the API.
async fn key_opens(data: &DataDir, port: u16) -> bool {
    let key = std::fs::read_to_string(data.path().join("api-key")).unwrap();
    let request = reqwest::Client::new().get(format!("http://127.0.0.1:{port}/api/v1/jobs"));
    request.header("X-API-Key", key.trim()).send().await.unwrap().status().is_success()
}

#[tokio::test]
async fn the_state_on_the_embedded_server_is_restored_there_and_on_another_machine() {
    let data = DataDir::new();
    let relevo = Relevo::new().env("RELEVO_DATA_DIR", data.path().to_str().unwrap());
    let file = relevo.folder().join("relevo.state");
    let file = file.to_str().unwrap();
    let (process, _) = up(&relevo).await;
    let saved = enqueue(&relevo, "{}").await;
    let mut admin = admin_of(&data).await;
    for sql in [
        "CREATE ROLE tienda",
        "GRANT USAGE ON SCHEMA relevo TO tienda",
        "GRANT EXECUTE ON FUNCTION relevo.enqueue TO tienda",
        "GRANT SELECT ON relevo.run TO tienda",
    ] {
        admin.execute(sql).await.unwrap();
    }
    drop(admin);
    relevo.ok(&["state", "backup", file]).await;
    let later = enqueue(&relevo, "{}").await;
    relevo.refuses(&["state", "restore", file, "--replace"], 1, &["at work"]).await;
    down(process).await;

    // Killed when it has just started the server: that goes on, and is adopted.
    let restore = relevo.process(&["state", "restore", file, "--replace"]).spawn();
    wait_for("the embedded server", LONG, async || {
        EmbeddedServer::find(data.path()).await.ok().flatten().map(drop)
    })
    .await;
    restore.kill();
    relevo.refuses(&["state", "restore", file], 1, &["--replace"]).await;
    let restored = relevo.json(&["state", "restore", file, "--replace"]).await;
    assert!(restored["replaced_schema"].is_string(), "{restored}");
    assert!(
        EmbeddedServer::find(data.path()).await.unwrap().is_none(),
        "it started it, it ends it"
    );

    let (process, port) = up(&relevo).await;
    relevo.ok(&["job", "show", &saved.to_string()]).await;
    relevo.fails(&["job", "show", &later.to_string()], 5).await;
    assert!(key_opens(&data, port).await);
    let may: bool = sqlx::query_scalar(
        "SELECT has_schema_privilege('tienda', 'relevo', 'USAGE')
            AND has_table_privilege('tienda', 'relevo.run', 'SELECT')
            AND NOT has_table_privilege('tienda', 'relevo.job', 'SELECT')
            AND has_function_privilege('tienda', oid, 'EXECUTE')
         FROM pg_proc WHERE proname = 'enqueue' AND pronamespace = 'relevo'::regnamespace",
    )
    .fetch_one(&mut admin_of(&data).await)
    .await
    .unwrap();
    assert!(may, "what others were granted comes along");
    down(process).await;

    // A new machine: nothing there yet, not even a server.
    let elsewhere = DataDir::new();
    let relevo = relevo.env("RELEVO_DATA_DIR", elsewhere.path().to_str().unwrap());
    let restored = relevo.json(&["state", "restore", file]).await;
    assert!(restored["replaced_schema"].is_null(), "{restored}");
    let (process, port) = up(&relevo).await;
    relevo.ok(&["job", "show", &saved.to_string()]).await;
    assert!(key_opens(&data, port).await, "the key came along, its text is where it was");
    down(process).await;
}
