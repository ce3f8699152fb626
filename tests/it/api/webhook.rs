//! `/webhook/backup-ready`: deliveries of a gateway, once and often, good and bad.

mod rounds;

use relevo_runs::backup_requests::{
    self, AskMode, BackupRequest, RequestState, answered_in, issue_token_in, open_in,
};
use relevo_runs::{NewRun, RunId};
use serde_json::{Value, json};

use super::server::{Answer, GATEWAY, Server, answer};

/// A run that asked the gateway of `sicar` and was promised the backup `gateway_id`.
struct Asked {
    server: Server,
    run: RunId,
    request: i64,
    token: String,
}

impl Asked {
    async fn new() -> Self {
        let server = Server::start().await;
        let (run, request, token) = ask(&server, "sicar", "backup_1").await;
        Self { server, run, request, token }
    }

    /// Another round of the same run.
    async fn next_round(&self, round: i32, gateway_id: &str) -> (i64, String) {
        open(&self.server, self.run, round, gateway_id).await
    }

    fn path(&self) -> String {
        path(&self.token)
    }

    async fn deliver(&self, body: &Value) -> Answer {
        deliver(&self.server, &self.path(), body).await
    }

    async fn request(&self) -> BackupRequest {
        request(&self.server, self.request).await
    }

    async fn downloads(&self) -> i64 {
        self.server.jobs_of_kind("DownloadDump").await
    }
}

async fn ask(server: &Server, source: &str, gateway_id: &str) -> (RunId, i64, String) {
    let mut conn = server.db.pool().acquire().await.unwrap();
    let run = NewRun {
        pipeline: "backup".to_owned(),
        source: source.to_owned(),
        trigger: "test".to_owned(),
        options: json!({}),
    };
    let run = server.deps.runs.create_in(&mut conn, &run).await.unwrap();
    let (request, token) = open(server, run, 1, gateway_id).await;
    (run, request, token)
}

async fn open(server: &Server, run: RunId, round: i32, gateway_id: &str) -> (i64, String) {
    let mut conn = server.db.pool().acquire().await.unwrap();
    let (request, created) = open_in(&mut conn, run, round, AskMode::Webhook).await.unwrap();
    assert!(created);
    let token = issue_token_in(&mut conn, request.id).await.unwrap();
    assert!(answered_in(&mut conn, request.id, gateway_id).await.unwrap());
    (request.id, token)
}

async fn request(server: &Server, id: i64) -> BackupRequest {
    backup_requests::get(server.db.pool(), id).await.unwrap().unwrap()
}

fn path(token: &str) -> String {
    format!("/webhook/backup-ready/{token}")
}

/// As the gateway sends it: without a key.
async fn deliver(server: &Server, path: &str, body: &Value) -> Answer {
    let request = server.client.post(server.url(path));
    answer(request.header("User-Agent", "TunnelCUSPI-Webhook/1.0").json(body)).await
}

fn completed(id: &str) -> Value {
    json!({
        "backup_id": id,
        "status": "completed",
        "download_url": format!("{GATEWAY}/api/backup/download/{id}.sql.gz"),
        "expires_at": "2025-08-22 08:51:33",
        "file_size_mb": 378.61,
        "compression_ratio": "32.8%",
    })
}

fn accepted(answer: Answer, outcome: &str) {
    let body = answer.ok(200);
    assert_eq!((&body["ok"], &body["outcome"]), (&json!(true), &json!(outcome)), "{body}");
    assert!(body["message"].is_string());
}

#[tokio::test]
async fn a_delivery_is_recorded_and_its_download_enqueued() {
    let asked = Asked::new().await;
    accepted(asked.deliver(&completed("backup_1")).await, "accepted");
    let request = asked.request().await;
    assert_eq!(request.state, RequestState::Delivered);
    assert_eq!(request.filename.as_deref(), Some("backup_1.sql.gz"));
    assert_eq!((request.filesize_bytes, request.filesize_mb), (None, Some(378.61)));
    // The gateway's clock runs in Mexico City.
    assert_eq!(request.expires_at.unwrap().to_rfc3339(), "2025-08-22T14:51:33+00:00");

    let path = format!("/api/v1/jobs?run_id={}", asked.run);
    let jobs = asked.server.get(&path).await.ok(200);
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(jobs["jobs"][0]["kind"], "DownloadDump");
    let payload = json!({"run_id": asked.run, "request_id": asked.request});
    assert_eq!(jobs["jobs"][0]["payload"], payload);
    assert_eq!(jobs["jobs"][0]["id"], request.next_job_id.unwrap());
    let log = asked.server.get(&format!("/api/v1/runs/{}/log", asked.run)).await.ok(200);
    assert_eq!(log["events"][0]["message"], "the gateway delivered the backup");
}

#[tokio::test]
async fn the_older_spelling_means_the_same() {
    let asked = Asked::new().await;
    let body = json!({
        "job_id": "backup_1",
        "status": "ready",
        "download_url": format!("{GATEWAY}/a.sql.gz"),
        "filesize_mb": "12.5",
        "filesize": 13_107_200,
        "filename": "shop.sql.gz",
    });
    accepted(asked.deliver(&body).await, "accepted");
    let request = asked.request().await;
    assert_eq!(request.filename.as_deref(), Some("shop.sql.gz"));
    assert_eq!((request.filesize_bytes, request.filesize_mb), (Some(13_107_200), Some(12.5)));
    assert_eq!(request.expires_at, None);
    // The repeat may use the other spelling.
    accepted(asked.deliver(&completed("backup_1")).await, "repeat");
    assert_eq!(asked.downloads().await, 1);
}

#[tokio::test]
async fn the_status_is_a_word_in_any_case() {
    for (status, state) in [
        ("Completed", RequestState::Delivered),
        (" READY ", RequestState::Delivered),
        ("FAILED", RequestState::Failed),
    ] {
        let asked = Asked::new().await;
        let mut body = completed("backup_1");
        body["status"] = json!(status);
        accepted(asked.deliver(&body).await, "accepted");
        assert_eq!(asked.request().await.state, state, "{status}");
    }
}

#[tokio::test]
async fn repeats_start_nothing() {
    let asked = Asked::new().await;
    accepted(asked.deliver(&completed("backup_1")).await, "accepted");
    let first = asked.request().await;
    for _ in 0..3 {
        accepted(asked.deliver(&completed("backup_1")).await, "repeat");
        let bare = "/webhook/backup-ready";
        accepted(deliver(&asked.server, bare, &completed("backup_1")).await, "repeat");
    }
    // Nor does one that comes back with other news.
    let failed = json!({"backup_id": "backup_1", "status": "failed", "error": "disk"});
    accepted(asked.deliver(&failed).await, "repeat");
    assert_eq!(asked.request().await, first);
    assert_eq!(asked.downloads().await, 1);
}

#[tokio::test]
async fn deliveries_at_once_start_one_import() {
    let asked = Asked::new().await;
    let body = completed("backup_1");
    let deliveries = (0..12).map(|nth| {
        let path = if nth % 2 == 0 { asked.path() } else { "/webhook/backup-ready".to_owned() };
        let (server, body) = (&asked.server, &body);
        async move { deliver(server, &path, body).await.ok(200)["outcome"].clone() }
    });
    let outcomes = futures::future::join_all(deliveries).await;
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "accepted").count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| *outcome == "repeat").count(), 11);
    assert_eq!(asked.downloads().await, 1);
}

#[tokio::test]
async fn a_stranger_learns_nothing() {
    let asked = Asked::new().await;
    let flipped = if asked.token.starts_with('0') { "1" } else { "0" };
    let near = format!("{flipped}{}", &asked.token[1..]);
    let unknown = deliver(&asked.server, &path("x"), &completed("backup_1")).await;
    for token in [near.as_str(), "..%2f", "%27%20OR%201=1", &"a".repeat(5_000)] {
        let refused = deliver(&asked.server, &path(token), &completed("backup_1")).await;
        refused.refused(404, "request_not_found");
        assert_eq!(refused.body, unknown.body);
    }
    // Not even whether what was sent could be read.
    let garbage = asked.server.client.post(asked.server.url(&path(&near))).body("{");
    assert_eq!(answer(garbage).await.body, unknown.body);
    assert_eq!(asked.downloads().await, 0);
    assert_eq!(asked.request().await.state, RequestState::Answered);
}

#[tokio::test]
async fn of_a_token_only_its_hash_is_kept() {
    let asked = Asked::new().await;
    asked.deliver(&completed("backup_1")).await.ok(200);
    let tables = ["backup_token", "backup_request", "run", "run_event", "job"];
    for table in tables {
        let sql = format!(
            "SELECT coalesce(string_agg(to_jsonb(t)::text, ' '), '') FROM relevo.{table} t"
        );
        let rows: String = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(asked.server.db.pool())
            .await
            .unwrap();
        assert!(!rows.contains(&asked.token), "{table}");
    }
}

#[tokio::test]
async fn a_download_from_elsewhere_is_refused() {
    let asked = Asked::new().await;
    for url in [
        "https://evil.test/a.sql.gz",
        "https://gateway.test/a.sql.gz",
        "https://gateway.test:8443@evil.test/a.sql.gz",
        "https://user:pw@gateway.test:8443/a",
        "http://169.254.169.254/latest/meta-data",
        "file:///etc/passwd",
        "gopher://gateway.test:8443/",
        "not a url",
    ] {
        let mut body = completed("backup_1");
        body["download_url"] = json!(url);
        asked.deliver(&body).await.refused(422, "download_url_refused");
    }
    assert_eq!(asked.downloads().await, 0);
    let log = asked.server.get(&format!("/api/v1/runs/{}/log", asked.run)).await.ok(200);
    let first = log["events"][0]["message"].as_str().unwrap();
    assert!(first.contains("evil.test") && first.contains("gateway.test:8443"), "{first}");
    // The true one still counts.
    accepted(asked.deliver(&completed("backup_1")).await, "accepted");
}

#[tokio::test]
async fn a_backup_under_another_id_is_refused() {
    let asked = Asked::new().await;
    asked.deliver(&completed("backup_7")).await.refused(409, "other_backup");
    assert_eq!(asked.downloads().await, 0);
}

#[tokio::test]
async fn a_failure_is_noted_and_followed_up_at_once() {
    let asked = Asked::new().await;
    let failed =
        json!({"backup_id": "backup_1", "status": "failed", "error": "mysqldump: disk full"});
    accepted(asked.deliver(&failed).await, "accepted");
    accepted(asked.deliver(&failed).await, "repeat");
    let request = asked.request().await;
    assert_eq!(request.state, RequestState::Failed);
    assert_eq!(request.error.as_deref(), Some("mysqldump: disk full"));
    assert_eq!(asked.downloads().await, 0);
    let path = format!("/api/v1/jobs?run_id={}", asked.run);
    let jobs = asked.server.get(&path).await.ok(200);
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 1);
    assert_eq!(jobs["jobs"][0]["kind"], "BackupDeadline");
    assert_eq!(jobs["jobs"][0]["state"], "available");
    let payload = json!({"run_id": asked.run, "request_id": asked.request});
    assert_eq!(jobs["jobs"][0]["payload"], payload);
}

#[tokio::test]
async fn a_failure_without_a_reason_and_with_a_huge_one() {
    let asked = Asked::new().await;
    let failed = json!({"backup_id": "backup_1", "status": "failed"});
    accepted(asked.deliver(&failed).await, "accepted");
    assert_eq!(asked.request().await.error.as_deref(), Some("the gateway gave no reason"));

    let (second, token) = asked.next_round(2, "backup_2").await;
    let failed = json!({"job_id": "backup_2", "status": "failed", "error": "e\u{0}".repeat(5_000)});
    accepted(deliver(&asked.server, &path(&token), &failed).await, "accepted");
    let error = request(&asked.server, second).await.error.unwrap();
    assert_eq!(error.chars().count(), 4_000);
}

#[tokio::test]
async fn a_delivery_after_the_runs_end_starts_nothing() {
    let asked = Asked::new().await;
    let mut conn = asked.server.db.pool().acquire().await.unwrap();
    asked.server.deps.runs.fail_in(&mut conn, asked.run, "no webhook came").await.unwrap();
    accepted(asked.deliver(&completed("backup_1")).await, "too_late");
    assert_eq!(asked.request().await.state, RequestState::Expired);
    accepted(asked.deliver(&completed("backup_1")).await, "too_late");
    let failed = json!({"backup_id": "backup_1", "status": "failed", "error": "x"});
    accepted(asked.deliver(&failed).await, "repeat");
    assert_eq!(asked.downloads().await, 0);
    assert_eq!(asked.server.jobs_of_kind("BackupDeadline").await, 0);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_and_can_be_sent_again() {
    let asked = Asked::new().await;
    let text = async |text: &str| {
        let request = asked.server.client.post(asked.server.url(&asked.path()));
        answer(request.body(text.to_owned())).await
    };
    for body in ["", "[]", "null", "{", "completed"] {
        text(body).await.refused(400, "malformed_json");
    }
    for body in [
        json!({}),
        json!({"backup_id": "backup_1"}),
        json!({"backup_id": "backup_1", "status": "processing"}),
        json!({"backup_id": "backup_1", "status": "completed"}),
        json!({"backup_id": "backup_1", "status": "completed", "download_url": 7}),
        json!({"backup_id": "b".repeat(201), "status": "completed"}),
        json!({"backup_id": "a\u{0}", "status": "completed"}),
    ] {
        let refused = asked.deliver(&body).await;
        assert_eq!(refused.status, 422, "{body}: {refused:?}");
    }
    let large = json!({"backup_id": "backup_1", "status": "completed", "x": "y".repeat(70_000)});
    asked.deliver(&large).await.refused(413, "body_too_large");
    assert_eq!(asked.request().await.state, RequestState::Answered);

    // Odd values beside the news do not stop it.
    let mut body = completed("backup_1");
    body["file_size_mb"] = json!("about 400");
    body["filesize"] = json!(-5);
    body["expires_at"] = json!("soon");
    body["new_field"] = json!({"deep": [1, 2]});
    accepted(asked.deliver(&body).await, "accepted");
    let request = asked.request().await;
    assert_eq!(
        (request.filesize_bytes, request.filesize_mb, request.expires_at),
        (None, None, None)
    );
}

#[tokio::test]
async fn a_source_that_is_not_configured_any_more() {
    let server = Server::start().await;
    let (_, request_id, token) = ask(&server, "closed-shop", "backup_1").await;
    deliver(&server, &path(&token), &completed("backup_1"))
        .await
        .refused(409, "source_not_configured");
    assert_eq!(request(&server, request_id).await.state, RequestState::Answered);
}

#[tokio::test]
async fn what_is_refused_again_and_again_fills_no_log() {
    let asked = Asked::new().await;
    let mut body = completed("backup_1");
    body["download_url"] = json!(format!("https://evil.test/{}", "x".repeat(1_500)));
    for _ in 0..40 {
        asked.deliver(&body).await.refused(422, "download_url_refused");
    }
    let lines: Vec<String> = sqlx::query_scalar(
        "SELECT message FROM relevo.run_event WHERE fields ? 'refused_webhook' AND run_id = $1",
    )
    .bind(asked.run.0)
    .fetch_all(asked.server.db.pool())
    .await
    .unwrap();
    assert!((1..=5).contains(&lines.len()), "{} lines", lines.len());
    assert!(lines.iter().all(|line| line.len() < 700));
    // Of an ended run nothing is logged any more.
    let mut conn = asked.server.db.pool().acquire().await.unwrap();
    asked.server.deps.runs.fail_in(&mut conn, asked.run, "a test").await.unwrap();
    sqlx::query("DELETE FROM relevo.run_event").execute(&mut *conn).await.unwrap();
    asked.deliver(&body).await.refused(422, "download_url_refused");
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM relevo.run_event")
        .fetch_one(&mut *conn)
        .await
        .unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn an_echoed_token_is_not_logged() {
    let asked = Asked::new().await;
    let error = format!("could not call /webhook/backup-ready/{} twice", asked.token);
    let failed = json!({"backup_id": "backup_1", "status": "failed", "error": error});
    accepted(asked.deliver(&failed).await, "accepted");
    let stored = asked.request().await.error.unwrap();
    assert_eq!(stored, "could not call /webhook/backup-ready/[token] twice");
}
