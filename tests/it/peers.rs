//! The peers themselves: a simulator that strays from the contract would prove nothing.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use relevo_tests::gateway::{API_KEY, Fault};
use relevo_tests::{Gateway, MariaDb, TestDatabase, reference, wait_for};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);

/// A gzip file of a few hundred kilobytes that doesn't compress to nothing.
fn sample_dump(folder: &tempfile::TempDir) -> (PathBuf, Vec<u8>) {
    let path = folder.path().join("sample.sql.gz");
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    for number in 0..50_000u64 {
        let noise = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        writeln!(packer, "INSERT INTO `t` VALUES ({noise});").unwrap();
    }
    packer.write_all(b"-- Dump completed on 2026-11-22  6:00:00\n").unwrap();
    let bytes = packer.finish().unwrap();
    std::fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

async fn gateway() -> (Gateway, Vec<u8>, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let (path, bytes) = sample_dump(&folder);
    (Gateway::start(&path, 0.001).await, bytes, folder)
}

async fn ask(gateway: &Gateway, body: &Value) -> Value {
    let answer = reqwest::Client::new()
        .post(format!("{}/api/backup/full", gateway.url()))
        .header("API-KEY", API_KEY)
        .json(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    answer.json().await.unwrap()
}

async fn download(url: &str, range: Option<&str>) -> reqwest::Result<(u16, Vec<u8>)> {
    let mut request = reqwest::Client::new().get(url).header("API-KEY", API_KEY);
    if let Some(range) = range {
        request = request.header("Range", range);
    }
    let answer = request.send().await?;
    Ok((answer.status().as_u16(), answer.bytes().await?.to_vec()))
}

#[tokio::test]
async fn the_synchronous_mode_hands_out_a_resumable_file() {
    let (gateway, bytes, _folder) = gateway().await;
    let answer = ask(&gateway, &json!({})).await;
    assert_eq!(answer["ok"], true);
    assert_eq!(answer["type"], "download_url");
    assert_eq!(answer["filesize"], bytes.len());
    let url = answer["download_url"].as_str().unwrap();
    assert!(url.ends_with(answer["filename"].as_str().unwrap()), "{url}");

    assert_eq!(download(url, None).await.unwrap(), (200, bytes.clone()));
    assert_eq!(download(url, Some("bytes=1000-")).await.unwrap(), (206, bytes[1000..].to_vec()));
    assert_eq!(download(url, Some("bytes=5-9")).await.unwrap(), (206, bytes[5..10].to_vec()));
    let past_the_end = format!("bytes={}-", bytes.len());
    assert_eq!(download(url, Some(&past_the_end)).await.unwrap().0, 416);

    let without_key = reqwest::get(url).await.unwrap();
    assert_eq!(without_key.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(gateway.record().await.unauthorised, 1);
}

#[tokio::test]
async fn only_the_two_newest_backups_are_kept() {
    let (gateway, _bytes, _folder) = gateway().await;
    let mut urls = Vec::new();
    for _ in 0..3 {
        let answer = ask(&gateway, &json!({})).await;
        urls.push(answer["download_url"].as_str().unwrap().to_owned());
    }
    let mut found = Vec::new();
    for url in &urls {
        found.push(download(url, None).await.unwrap().0);
    }
    assert_eq!(found, [404, 200, 200]);
}

#[tokio::test]
async fn a_line_can_break_and_a_server_can_ignore_ranges() {
    let (gateway, bytes, _folder) = gateway().await;
    let answer = ask(&gateway, &json!({})).await;
    let url = answer["download_url"].as_str().unwrap();
    gateway
        .plan(vec![Fault::DropAfter { bytes: 70_000 }.times(1), Fault::IgnoreRange.times(1)])
        .await;
    download(url, None).await.unwrap_err();
    assert_eq!(download(url, Some("bytes=70000-")).await.unwrap(), (200, bytes.clone()));
    assert_eq!(download(url, Some("bytes=70000-")).await.unwrap(), (206, bytes[70_000..].to_vec()));
    assert!(gateway.record().await.faults.is_empty());
}

#[tokio::test]
async fn damaged_files_are_damaged_as_told() {
    let (gateway, bytes, _folder) = gateway().await;
    gateway
        .plan(vec![
            Fault::TruncateGzip { keep_bytes: 100_000 }.times(1),
            Fault::MissingCompleted.times(1),
            Fault::CorruptGzip.times(1),
            Fault::WrongFilesize { delta: -7 }.times(1),
        ])
        .await;
    let mut files = Vec::new();
    // The size is the announced one from the first backup on: each fault takes one backup, but the
    // wrong size goes to the first.
    for _ in 0..4 {
        let answer = ask(&gateway, &json!({})).await;
        let (status, file) =
            download(answer["download_url"].as_str().unwrap(), None).await.unwrap();
        assert_eq!(status, 200);
        files.push((answer["filesize"].as_u64().unwrap(), file));
    }
    assert_eq!(files[0], (99_993, bytes[..100_000].to_vec()));
    let unpack = |file: &[u8]| {
        std::io::read_to_string(flate2::read::GzDecoder::new(file)).map_err(|error| error.kind())
    };
    let incomplete = unpack(&files[1].1).unwrap();
    assert!(incomplete.contains("INSERT") && !incomplete.contains("Dump completed"));
    unpack(&files[2].1).unwrap_err();
    assert_eq!(files[3].1, bytes);
}

/// A receiver that refuses the first two deliveries and keeps the bodies.
async fn receiver() -> (String, Arc<Mutex<Vec<(String, Value)>>>) {
    type Seen = Arc<Mutex<Vec<(String, Value)>>>;
    async fn receive(
        State(seen): State<Seen>,
        headers: axum::http::HeaderMap,
        Json(body): Json<Value>,
    ) -> (StatusCode, Json<Value>) {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let agent = headers["user-agent"].to_str().unwrap_or_default().to_owned();
        seen.push((agent, body));
        match seen.len() {
            1 => (StatusCode::INTERNAL_SERVER_ERROR, Json(json!({ "ok": true }))),
            2 => (StatusCode::OK, Json(json!({ "ok": false }))),
            _ => (StatusCode::OK, Json(json!({ "ok": true, "message": "gracias" }))),
        }
    }
    let seen = Seen::default();
    let router = axum::Router::new().route("/hook", post(receive)).with_state(Arc::clone(&seen));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, seen)
}

#[tokio::test]
async fn webhooks_are_retried_until_accepted() {
    let (gateway, _bytes, _folder) = gateway().await;
    let (url, seen) = receiver().await;
    let answer = ask(&gateway, &json!({ "webhook_url": url })).await;
    assert_eq!(answer["status"], "processing");
    let record = wait_for("an accepted delivery", SOON, async || {
        let record = gateway.record().await;
        record.deliveries.last().is_some_and(|last| last.accepted).then_some(record)
    })
    .await;
    let statuses: Vec<_> = record.deliveries.iter().map(|delivery| delivery.status).collect();
    assert_eq!(statuses, [Some(500), Some(200), Some(200)]);
    let (agent, body) =
        seen.lock().unwrap_or_else(PoisonError::into_inner).last().cloned().unwrap();
    assert_eq!(agent, "TunnelCUSPI-Webhook/1.0");
    assert_eq!(body["backup_id"], answer["job_id"]);
    assert_eq!(body["status"], "completed");
    assert_eq!(download(body["download_url"].as_str().unwrap(), None).await.unwrap().0, 200);
}

#[tokio::test]
async fn webhooks_fail_repeat_and_spell_as_told() {
    let (gateway, _bytes, _folder) = gateway().await;
    let (url, seen) = receiver().await;
    gateway
        .plan(vec![
            Fault::LoseAnswer.times(1),
            Fault::FailBackup { error: "disco lleno".to_owned() }.times(1),
            Fault::WebhookTwice.times(1),
            Fault::OtherSpelling.times(1),
        ])
        .await;
    let lost = reqwest::Client::new()
        .post(format!("{}/api/backup/full", gateway.url()))
        .header("API-KEY", API_KEY)
        .json(&json!({ "webhook_url": url }))
        .send()
        .await;
    lost.unwrap_err();
    wait_for("both deliveries", SOON, async || {
        let deliveries = gateway.record().await.deliveries;
        (deliveries.iter().filter(|delivery| delivery.accepted).count() == 2).then_some(())
    })
    .await;
    let (_, body) = seen.lock().unwrap_or_else(PoisonError::into_inner).last().cloned().unwrap();
    assert_eq!(body["status"], "failed");
    assert_eq!(body["error"], "disco lleno");
    assert!(body["job_id"].as_str().unwrap().starts_with("backup_"));
}

/// One column of each kind, in both servers' words, with the values that are written differently.
const MARIADB_SAMPLE: &str = r"
    CREATE DATABASE sample CHARACTER SET utf8mb4; USE sample; SET sql_mode = '', time_zone = '+00:00';
    CREATE TABLE parent (id INT UNSIGNED NOT NULL AUTO_INCREMENT PRIMARY KEY) AUTO_INCREMENT = 7;
    CREATE TABLE child (
        a BIGINT NOT NULL, flag TINYINT(1), bits BIT(8), born YEAR, price DECIMAL(10,3),
        ratio DOUBLE, day DATE, moment DATETIME(3), stamp TIMESTAMP NULL, lasting TIME,
        note TEXT, code CHAR(6), kind ENUM('x','y'), parts SET('p','q'), data BLOB,
        parent_id INT UNSIGNED, PRIMARY KEY (a), UNIQUE KEY code (code, flag), KEY note (note(5)),
        KEY parent (parent_id),
        CONSTRAINT to_parent FOREIGN KEY (parent_id) REFERENCES parent (id) ON DELETE CASCADE);
    INSERT INTO parent VALUES (3);
    INSERT INTO child VALUES
        (1, 1, b'10000001', 1999, 1.500, 12.25, '2024-02-29', '2024-02-29 01:02:03.120',
         '2024-03-01 00:00:00', '-10:00:01', 'a\'b\\c\n', 'ab', 'y', 'p,q', x'00ff5c', 3),
        (-9000000000, 0, 0, 0, -100, 0, '0000-00-00', '2020-00-00 00:00:00', NULL, '838:59:59',
         '', '', NULL, '', '', NULL);";

const POSTGRES_SAMPLE: [&str; 8] = [
    "CREATE SCHEMA shop",
    "CREATE TABLE shop.parent (id bigint GENERATED BY DEFAULT AS IDENTITY (START 7) PRIMARY KEY)",
    "CREATE TABLE shop.child (
        a bigint PRIMARY KEY, flag boolean, bits bit(8), born smallint, price numeric(10,3),
        ratio double precision, day date, moment timestamp(3), stamp timestamptz, lasting interval,
        note text, code varchar(6), kind text, parts text[], data bytea,
        parent_id bigint REFERENCES shop.parent ON DELETE CASCADE)",
    "CREATE UNIQUE INDEX ON shop.child (code, flag)",
    "CREATE INDEX ON shop.child (left(note, 5))",
    "CREATE INDEX ON shop.child (parent_id)",
    "INSERT INTO shop.parent VALUES (3)",
    r"INSERT INTO shop.child VALUES
        (1, true, B'10000001', 1999, 1.5, 12.25, '2024-02-29', '2024-02-29 01:02:03.12',
         '2024-03-01 00:00:00+00', '-10:00:01', E'a\'b\\c\n', 'ab', 'y', '{p,q}', '\x00ff5c', 3),
        (-9000000000, false, B'00000000', 0, -100, 0, NULL, NULL, NULL, '838:59:59',
         '', '', NULL, '{}', '', NULL)",
];

#[tokio::test]
async fn the_comparison_finds_equal_what_is_equal_and_names_what_is_not() {
    let reference = tokio::task::spawn_blocking(|| {
        let server = MariaDb::start().unwrap();
        server.run(MARIADB_SAMPLE).unwrap();
        reference::compute(&server, "sample").unwrap()
    })
    .await
    .unwrap();
    let database = TestDatabase::empty().await;
    for statement in POSTGRES_SAMPLE {
        sqlx::query(statement).execute(database.pool()).await.unwrap();
    }
    let differences = reference::compare(database.url(), "shop", &reference).await;
    assert!(differences.is_empty(), "{differences:#?}");

    for statement in [
        "UPDATE shop.child SET note = 'A' || substr(note, 2) WHERE a = 1",
        "UPDATE shop.child SET stamp = '-infinity' WHERE stamp IS NULL",
        "INSERT INTO shop.parent DEFAULT VALUES",
        "DROP INDEX shop.child_code_flag_idx",
        "ALTER TABLE shop.child DROP CONSTRAINT child_parent_id_fkey",
        "CREATE TABLE shop.stranger (id integer)",
    ] {
        sqlx::query(statement).execute(database.pool()).await.unwrap();
    }
    let differences = reference::compare(database.url(), "shop", &reference).await;
    let named: Vec<_> = differences
        .iter()
        .map(|difference| format!("{} {}", difference.table, difference.what))
        .collect();
    assert_eq!(
        named,
        [
            "stranger table",
            "child values",
            "child column stamp (timestamp)",
            "child column note (text)",
            "child number of indexes",
            "child index code",
            "child foreign keys",
            "parent rows",
            "parent values",
            "parent column id (int(10) unsigned)",
            "parent next automatic value",
        ],
        "{differences:#?}"
    );
}
