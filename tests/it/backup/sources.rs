//! Dumps that come from elsewhere than the gateway: folders, files, web servers, uploads.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::response::Redirect;
use axum::routing::get;
use relevo_runs::backup::BackupMode;
use relevo_runs::{Run, RunId, RunState};
use relevo_tests::gateway::{API_KEY, Fault};
use relevo_tests::{ClusterBuilder, Gateway, ShopDump, wait_for};
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::cluster::{Cluster, RUN_TIMEOUT, files, prepare};

/// Puts a copy of a dump somewhere, as if it had been written so long ago.
pub(super) fn put(dump: &Path, at: &Path, age: Duration) {
    fs::copy(dump, at).unwrap();
    let file = File::options().append(true).open(at).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

const HOUR: Duration = Duration::from_secs(3_600);

pub(super) fn of_kind(dump: &ShopDump, kind: &str, settings: &[(&str, Value)]) -> ClusterBuilder {
    let mut prepared = prepare(dump).set("backup.sicar.kind", kind);
    for (key, value) in settings {
        prepared = prepared.set(&format!("backup.sicar.{key}"), value.clone());
    }
    prepared
}

async fn says(cluster: &Cluster, id: RunId, what: &str) {
    wait_for(&format!("the log to say {what:?}"), RUN_TIMEOUT, async || {
        cluster.log(id).await.contains(what).then_some(())
    })
    .await;
}

#[tokio::test]
async fn of_a_folder_the_newest_complete_dump_is_taken() {
    let (small, large) = (ShopDump::committed(), ShopDump::generated(12, 7).await);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    put(&small.path, &at("shop-1.sql.gz"), HOUR);
    put(&large.path, &at("shop-2.sql.gz"), HOUR / 2);
    // Names that do not count, though newer.
    put(&small.path, &at("shop-3.sql.gz.part"), HOUR / 4);
    put(&small.path, &at(".shop-4.sql.gz"), HOUR / 4);
    put(&small.path, &at("other-5.sql.gz"), HOUR / 4);
    let settings = [
        ("path", json!(folder.path())),
        ("pattern", json!("shop-*.sql.gz")),
        ("settle_seconds", json!(3)),
    ];
    let prepared = of_kind(&large, "folder", &settings);
    let cluster = Cluster::start(prepared.set("chunk_store.chunk_size_bytes", 1 << 20)).await;
    let run = cluster.import(BackupMode::Auto, &large).await;
    let log = cluster.log(run.id).await;
    assert!(log.contains("shop-2.sql.gz"), "{log}");
    assert!(cluster.gateway().record().await.asked.is_empty());
    // The folder is somebody else's: nothing in it is touched.
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 5);
    let sources = cluster.request(Method::GET, "/api/v1/sources").send().await.unwrap();
    let sources: Value = sources.json().await.unwrap();
    assert_eq!(sources["sources"][0]["kind"], "folder", "{sources}");
}

#[tokio::test]
async fn a_file_that_is_still_being_written_is_waited_for() {
    let (old, new) = (ShopDump::committed(), ShopDump::generated(12, 7).await);
    let folder = tempfile::tempdir().unwrap();
    put(&old.path, &folder.path().join("a.sql.gz"), HOUR);
    let settings = [("path", json!(folder.path())), ("settle_seconds", json!(3))];
    let prepared = of_kind(&new, "folder", &settings);
    let cluster = Cluster::start(prepared.set("chunk_store.chunk_size_bytes", 1 << 20)).await;
    let bytes = fs::read(&new.path).unwrap();
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let mut writer = File::create(folder.path().join("b.sql.gz")).unwrap();
    writer.write_all(first).unwrap();
    let id = cluster.start_run(BackupMode::Auto).await;
    says(&cluster, id, "b.sql.gz is still being written").await;
    writer.write_all(second).unwrap();
    drop(writer);
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &new).await;
}

#[tokio::test]
async fn a_file_may_come_late_be_damaged_and_be_replaced() {
    let dump = ShopDump::committed();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.sql.gz");
    let settings = [
        ("path", json!(path)),
        ("settle_seconds", json!(1)),
        ("gateway_patience_seconds", json!(60)),
    ];
    let cluster = Cluster::start(of_kind(&dump, "file", &settings)).await;
    // Not there yet.
    let id = cluster.start_run(BackupMode::Auto).await;
    says(&cluster, id, "there is no dump in").await;
    put(&dump.path, &path, HOUR);
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, &dump).await;

    // Damaged.
    let bytes = fs::read(&dump.path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let id = cluster.start_run(BackupMode::Auto).await;
    let run = cluster.ended(id).await;
    cluster.assert_failed(&run, "no usable backup after 3 request(s) to the file").await;
    cluster.assert_target(&dump).await;

    // Not gzipped.
    let mut plain = Vec::new();
    let mut packed = flate2::read::MultiGzDecoder::new(bytes.as_slice());
    std::io::Read::read_to_end(&mut packed, &mut plain).unwrap();
    fs::write(&path, plain).unwrap();
    cluster.import(BackupMode::Auto, &dump).await;
}

/// A gateway that plays a web server, and the address of a backup on it.
pub(super) async fn server(dump: &ShopDump) -> (Gateway, String) {
    let gateway = Gateway::start(&dump.path, 0.0).await;
    let asked = reqwest::Client::new()
        .post(format!("{}/api/backup/full", gateway.url()))
        .header("API-KEY", API_KEY)
        .json(&json!({}));
    let answer: Value = asked.send().await.unwrap().json().await.unwrap();
    let url = answer["download_url"].as_str().unwrap().to_owned();
    (gateway, format!("{url}?firma=secreto-del-enlace"))
}

#[tokio::test]
async fn a_url_is_fetched_with_its_headers_and_resumed() {
    let dump = ShopDump::generated(12, 7).await;
    let (web, url) = server(&dump).await;
    let headers = format!("API-KEY: {API_KEY}\nX-Otro: secreto-de-cabecera");
    let settings = [("url", json!(url)), ("headers", json!(headers))];
    let prepared = of_kind(&dump, "url", &settings).set("chunk_store.chunk_size_bytes", 1 << 20);
    let cluster = Cluster::start(prepared).await;
    let size = fs::metadata(&dump.path).unwrap().len();
    web.plan(vec![Fault::DropAfter { bytes: size / 3 }.times(1)]).await;
    let run = cluster.import(BackupMode::Auto, &dump).await;
    let downloads = web.record().await.downloads;
    assert_eq!(downloads.iter().map(|download| download.status).collect::<Vec<_>>(), [200, 206]);

    // What is secret stays so, wherever one looks.
    let log = cluster.log(run.id).await;
    let requests: Vec<String> =
        sqlx::query_scalar("SELECT download_url FROM relevo.backup_request")
            .fetch_all(cluster.pool())
            .await
            .unwrap();
    let check = cluster.relevo(["config", "check"]).await;
    for secret in ["secreto-del-enlace", "secreto-de-cabecera", API_KEY] {
        assert!(!log.contains(secret), "{log}");
        assert!(!requests.concat().contains(secret), "{requests:?}");
        assert!(!cluster.workers[0].output().contains(secret), "{secret} is in the worker's log");
        assert!(!check.stdout.contains(secret), "{check:?}");
    }
}

#[tokio::test]
async fn a_url_that_refuses_or_redirects_fails_the_run() {
    let dump = ShopDump::committed();
    let (_web, url) = server(&dump).await;
    let cluster = Cluster::start(of_kind(&dump, "url", &[("url", json!(url))])).await;
    let id = cluster.start_run(BackupMode::Auto).await;
    let run = cluster.ended(id).await;
    cluster.assert_failed(&run, "refused the key").await;

    let elsewhere = "http://169.254.169.254/latest/meta-data";
    let routes = Router::new()
        .route("/a.sql.gz", get(move || async move { Redirect::temporary(elsewhere) }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/a.sql.gz", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move { axum::serve(listener, routes).await });
    let cluster = Cluster::start(of_kind(&dump, "url", &[("url", json!(url))])).await;
    let id = cluster.start_run(BackupMode::Auto).await;
    let run = cluster.ended(id).await;
    cluster.assert_failed(&run, "which is not followed").await;
    serving.abort();
}

/// Sends a request with JSON, and returns status and answer.
async fn ask(cluster: &Cluster, method: Method, path: &str, body: &Value) -> (u16, Value) {
    let answer = cluster.request(method, path).json(body).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap_or(Value::Null))
}

/// A request that sends one piece.
pub fn piece_request(cluster: &Cluster, id: i64, offset: usize, bytes: &[u8]) -> RequestBuilder {
    cluster
        .request(Method::PATCH, &format!("/api/v1/uploads/{id}"))
        .header("Upload-Offset", offset)
        .header("Content-Type", "application/octet-stream")
        .body(bytes.to_vec())
}

/// Sends one piece, and returns status and answer.
pub async fn piece(cluster: &Cluster, id: i64, offset: usize, bytes: &[u8]) -> (u16, Value) {
    let answer = piece_request(cluster, id, offset, bytes).send().await.unwrap();
    let status = answer.status().as_u16();
    (status, answer.json().await.unwrap())
}

/// What HEAD says is there.
pub async fn offset(cluster: &Cluster, id: i64) -> usize {
    let answer = cluster.request(Method::HEAD, &format!("/api/v1/uploads/{id}")).send().await;
    let answer = answer.unwrap();
    assert_eq!(answer.status(), 200);
    answer.headers()["upload-offset"].to_str().unwrap().parse().unwrap()
}

pub async fn announce(cluster: &Cluster, body: Value) -> i64 {
    let (status, upload) = ask(cluster, Method::POST, "/api/v1/uploads", &body).await;
    assert_eq!(status, 201, "{upload}");
    upload["id"].as_i64().unwrap()
}

async fn run_of(cluster: &Cluster, answer: &Value) -> Run {
    let id = RunId(answer["run_id"].as_i64().unwrap_or_else(|| panic!("no run: {answer}")));
    cluster.ended(id).await
}

#[tokio::test]
async fn an_upload_is_resumed_checked_and_loaded() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(of_kind(&dump, "upload", &[])).await;
    let bytes = fs::read(&dump.path).unwrap();
    let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let announced = json!({
        "source": "sicar", "filename": "tienda.sql.gz", "total_bytes": bytes.len(),
        "sha256": sha256,
    });
    let id = announce(&cluster, announced.clone()).await;
    let (third, two_thirds) = (bytes.len() / 3, bytes.len() * 2 / 3);
    let (status, answer) = piece(&cluster, id, 0, &bytes[..third]).await;
    assert_eq!((status, &answer["received_bytes"]), (200, &json!(third)));
    // Sent again, since its answer was lost; sent too far on; sent too long.
    let (status, answer) = piece(&cluster, id, 0, &bytes[..third]).await;
    assert_eq!((status, &answer["code"]), (409, &json!("upload_offset")));
    assert_eq!(answer["received_bytes"], third);
    assert_eq!(piece(&cluster, id, two_thirds, &bytes[two_thirds..]).await.0, 409);
    let (status, answer) = piece(&cluster, id, third, &bytes).await;
    assert_eq!((status, &answer["code"]), (422, &json!("upload_too_long")));
    // The API is killed and started again in between.
    cluster.api.as_ref().unwrap().kill();
    cluster.start_api().await;
    assert_eq!(offset(&cluster, id).await, third);
    assert_eq!(piece(&cluster, id, third, &bytes[third..two_thirds]).await.0, 200);
    let (status, answer) = piece(&cluster, id, two_thirds, &bytes[two_thirds..]).await;
    assert_eq!(status, 200, "{answer}");
    let run = run_of(&cluster, &answer).await;
    cluster.assert_succeeded(&run, &dump).await;
    let kept = files(&cluster.data_dir().join("dumps"));
    assert!(kept.iter().any(|name| name.ends_with("tienda.sql.gz")), "{kept:?}");

    // What arrives is not what was announced.
    let id = announce(&cluster, announced).await;
    let mut wrong = bytes.clone();
    wrong[third] ^= 1;
    let (status, answer) = piece(&cluster, id, 0, &wrong).await;
    assert_eq!((status, &answer["code"]), (422, &json!("checksum_mismatch")));
    assert_eq!(offset(&cluster, id).await, 0);
    let (status, answer) = piece(&cluster, id, 0, &bytes).await;
    assert_eq!(status, 200, "{answer}");
    let run = run_of(&cluster, &answer).await;
    cluster.assert_succeeded(&run, &dump).await;
}

#[tokio::test]
async fn uploads_have_their_limits_and_their_end() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(of_kind(&dump, "upload", &[("upload_max_mb", json!(1))])).await;
    let bytes = fs::read(&dump.path).unwrap();
    let body = |filename: &str, total: usize| json!({"source": "sicar", "filename": filename, "total_bytes": total, "start": false});
    for (body, status, code) in [
        (body("a.sql.gz", 2 << 20), 422, "upload_too_large"),
        (body("a.sql.gz", 0), 422, "invalid_upload"),
        (body("../a.sql.gz", 10), 422, "invalid_upload"),
        (json!({"source": "otra", "filename": "a", "total_bytes": 1}), 404, "source_not_found"),
    ] {
        let (got, problem) = ask(&cluster, Method::POST, "/api/v1/uploads", &body).await;
        assert_eq!((got, &problem["code"]), (status, &json!(code)), "{body}");
    }
    // A source of this kind has nothing else to load.
    let start = "/api/v1/backups/sicar";
    let (status, problem) = ask(&cluster, Method::POST, start, &json!({})).await;
    assert_eq!((status, &problem["code"]), (422, &json!("upload_missing")));

    // Started by hand, not before it is whole, and once.
    let id = announce(&cluster, body("a.sql.gz", bytes.len())).await;
    let (status, problem) = ask(&cluster, Method::POST, start, &json!({"upload": id})).await;
    assert_eq!((status, &problem["code"]), (409, &json!("upload_unusable")));
    let (status, answer) = piece(&cluster, id, 0, &bytes).await;
    assert_eq!((status, &answer["run_id"]), (200, &Value::Null));
    let (status, started) = ask(&cluster, Method::POST, start, &json!({"upload": id})).await;
    assert_eq!(status, 202, "{started}");
    let run = run_of(&cluster, &started).await;
    cluster.assert_succeeded(&run, &dump).await;
    let (status, _) = ask(&cluster, Method::POST, start, &json!({"upload": id})).await;
    assert_eq!(status, 409);

    // A damaged one fails its run at once: it does not get better by waiting.
    let cut = &bytes[..bytes.len() / 2];
    let mut announced = body("b.sql.gz", cut.len());
    announced["start"] = json!(true);
    let id = announce(&cluster, announced).await;
    let (status, answer) = piece(&cluster, id, 0, cut).await;
    assert_eq!(status, 200, "{answer}");
    let run = run_of(&cluster, &answer).await;
    cluster.assert_failed(&run, "no usable backup after 1 request(s) to the upload").await;

    // One that nobody finishes goes with its file.
    let id = announce(&cluster, body("c.sql.gz", bytes.len())).await;
    piece(&cluster, id, 0, &bytes[..10]).await;
    sqlx::query("UPDATE relevo.upload SET expires_at = now() WHERE id = $1")
        .bind(id)
        .execute(cluster.pool())
        .await
        .unwrap();
    wait_for("the sweep to take it", RUN_TIMEOUT, async || {
        let left = files(&cluster.data_dir().join("chunks/uploads"));
        left.is_empty().then_some(())
    })
    .await;
    assert_eq!(piece(&cluster, id, 10, &bytes[10..]).await.0, 404);
}

#[tokio::test]
async fn an_upload_that_meets_an_active_run_waits_for_its_sender() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    cluster.gateway().plan(vec![Fault::WebhookNever.always()]).await;
    let busy = cluster.start_run(BackupMode::Webhook).await;
    let bytes = fs::read(&dump.path).unwrap();
    let body = json!({"source": "sicar", "filename": "a.sql.gz", "total_bytes": bytes.len()});
    let id = announce(&cluster, body).await;
    let (status, answer) = piece(&cluster, id, 0, &bytes).await;
    assert_eq!((status, &answer["run_id"]), (200, &Value::Null), "{answer}");
    assert!(answer["message"].as_str().unwrap().contains("still active"), "{answer}");
    cluster.runs().request_cancel(busy, "a test").await.unwrap();
    assert_eq!(cluster.ended(busy).await.state, RunState::Cancelled);
    let start = "/api/v1/backups/sicar";
    let (status, started) = ask(&cluster, Method::POST, start, &json!({"upload": id})).await;
    assert_eq!(status, 202, "{started}");
    let run = run_of(&cluster, &started).await;
    cluster.assert_succeeded(&run, &dump).await;
}

#[tokio::test]
async fn the_command_line_loads_a_file_in_the_gateways_place() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    let path = dump.path.to_string_lossy().into_owned();
    let arguments = ["backup", "run", "--source", "sicar", "--file", &path, "--wait", "--json"];
    let run = cluster.relevo(arguments).await.json();
    assert_eq!(run["state"], "succeeded", "{run}");
    let run = cluster.run(RunId(run["id"].as_i64().unwrap())).await;
    cluster.assert_succeeded(&run, &dump).await;
    assert!(cluster.gateway().record().await.asked.is_empty());
    wait_for("the copy to be taken away", RUN_TIMEOUT, async || {
        files(&cluster.data_dir().join("chunks/uploads")).is_empty().then_some(())
    })
    .await;

    let missing =
        cluster.relevo(["backup", "run", "--source", "sicar", "--file", "/no/such/file"]).await;
    assert_eq!(missing.status.code(), Some(5), "{missing:?}");
}
