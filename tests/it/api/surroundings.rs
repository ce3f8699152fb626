//! What surrounds the routes: health, figures, headers, strangers' paths, time limits, the end.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use relevo_tests::wait_for;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::server::{Server, answer};

#[tokio::test]
async fn health_and_figures_are_open_and_true() {
    let server = Server::start().await;
    let open = async |path: &str| answer(server.client.get(server.url(path))).await;
    assert_eq!(open("/livez").await.ok(200), "alive\n");
    assert_eq!(open("/readyz").await.ok(200), "ready\n");

    let text = open("/metrics").await.ok(200);
    let figure = r#"relevo_jobs_enqueued_total{kind="Noop",queue="default"} 0"#;
    assert!(text.as_str().unwrap().contains(figure), "{text}");

    server.post_json("/api/v1/jobs", &json!({"kind": "Noop"})).await.ok(202);
    let strange = json!({"kind": "Noop", "queue": "made-up"});
    server.post_json("/api/v1/jobs", &strange).await.ok(202);
    server.get("/api/v1/jobs/77").await.refused(404, "job_not_found");
    server.get("/no/such/place").await.refused(404, "route_not_found");
    let text = open("/metrics").await.ok(200);
    let text = text.as_str().unwrap();
    for line in [
        r#"relevo_jobs_enqueued_total{kind="Noop",queue="default"} 1"#,
        r#"relevo_jobs_enqueued_total{kind="Noop",queue="other"} 1"#,
        r#"relevo_http_requests_total{method="POST",route="/api/v1/jobs",status="202"} 2"#,
        r#"relevo_http_requests_total{method="GET",route="/api/v1/jobs/{id}",status="404"} 1"#,
        r#"relevo_http_request_seconds_count{method="POST",route="/api/v1/jobs"} 2"#,
        r#"route="unmatched""#,
    ] {
        assert!(text.contains(line), "{line} in {text}");
    }
    assert!(!text.contains("made-up") && !text.contains("such"), "labels stay few");
}

#[tokio::test]
async fn not_ready_without_a_schema_or_a_database() {
    let server = Server::start().await;
    sqlx::query(
        "DELETE FROM relevo.migration WHERE version IN (SELECT max(version) FROM relevo.migration)",
    )
    .execute(server.db.pool())
    .await
    .unwrap();
    let ready = server.get("/readyz").await;
    assert_eq!(ready.status, 503);
    assert_eq!(ready.body, "not ready: 1 migrations are missing; run `relevo migrate`\n");
    sqlx::query("DROP TABLE relevo.migration").execute(server.db.pool()).await.unwrap();
    let ready = server.get("/readyz").await.ok(503);
    assert!(ready.as_str().unwrap().contains("not migrated"), "{ready}");

    server.deps.pool.close().await;
    let ready = server.get("/readyz").await.ok(503);
    assert!(ready.as_str().unwrap().contains("does not answer"), "{ready}");
    assert_eq!(server.get("/livez").await.ok(200), "alive\n");
    let refused = server.get("/api/v1/jobs").await;
    refused.refused(503, "database_unavailable");
    assert_eq!(refused.headers["retry-after"], "5");
}

#[tokio::test]
async fn what_broke_inside_stays_in_the_log() {
    let server = Server::start().await;
    sqlx::query("ALTER TABLE relevo.run RENAME COLUMN phase TO stage")
        .execute(server.db.pool())
        .await
        .unwrap();
    let refused = server.get("/api/v1/runs").await;
    refused.refused(500, "internal");
    let text = refused.body.to_string();
    assert!(!text.contains("phase") && !text.contains("column"), "{text}");
}

#[tokio::test]
async fn strangers_paths_and_methods_are_problems_too() {
    let server = Server::start().await;
    for path in ["/api", "/api/v1", "/api/v1/", "/api/v2/jobs", "/api/v1/jobs/1/2/3", "/%00"] {
        server.get(path).await.refused(404, "route_not_found");
    }
    for (method, path) in [
        (Method::DELETE, "/api/v1/jobs"),
        (Method::PUT, "/api/v1/jobs/1"),
        (Method::GET, "/api/v1/jobs/1/cancel"),
        (Method::GET, "/webhook/backup-ready"),
        (Method::GET, "/webhook/backup-ready/abc"),
        (Method::POST, "/livez"),
    ] {
        let got = answer(server.request(method.clone(), path)).await;
        got.refused(405, "method_not_allowed");
        assert!(got.headers.contains_key("allow"), "{method} {path}: {got:?}");
    }
}

#[tokio::test]
async fn every_answer_carries_the_safe_headers() {
    let server = Server::start().await;
    for path in ["/livez", "/metrics", "/api/v1/queues", "/api/v1/jobs/1", "/nowhere"] {
        let got = server.get(path).await;
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("x-frame-options", "DENY"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ] {
            assert_eq!(got.headers[name], value, "{path}: {name}");
        }
    }
}

#[tokio::test]
async fn a_request_under_way_is_answered_before_the_end() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let body = json!({"kind": "Noop"}).to_string();
    let head = format!(
        "POST /api/v1/jobs HTTP/1.1\r\nhost: relevo\r\nx-api-key: {}\r\n\
         content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        server.key,
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The server asks for the body: from here on the request is under way.
    let mut answered = vec![0; 1_024];
    let read = stream.read(&mut answered).await.unwrap();
    assert!(answered[..read].starts_with(b"HTTP/1.1 100"));

    server.shutdown.cancel();
    wait_for("the port to be closed", Duration::from_secs(10), async || {
        TcpStream::connect(server.address).await.is_err().then_some(())
    })
    .await;
    assert!(!server.served.is_finished(), "one request is still under way");
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert!(rest.starts_with("HTTP/1.1 202"), "{rest}");
    let ended = tokio::time::timeout(Duration::from_secs(10), server.served).await;
    ended.expect("the server ends").unwrap().unwrap();
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let server = Server::start().await;
    server.get("/livez").await.ok(200);
    let silent = TcpStream::connect(server.address).await.unwrap();
    server.shutdown.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), server.served).await;
    ended.expect("the server ends").unwrap().unwrap();
    drop(silent);
}

/// A connection from this address of this machine that has been answered, and stays.
async fn held(server: &Server, from: [u8; 4]) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::from(from), 0).into()).unwrap();
    let mut stream = socket.connect(server.address).await.unwrap();
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: relevo\r\n\r\n").await.unwrap();
    let mut begun = [0; 12];
    stream.read_exact(&mut begun).await.unwrap();
    assert_eq!(&begun, b"HTTP/1.1 200");
    stream
}

#[tokio::test]
async fn who_has_too_many_connections_is_refused_but_for_health() {
    let limits = "api.connections_max = 20\napi.connections_per_address_max = 16\n";
    let server = Server::start_with(limits).await;
    let ask = async |from: [u8; 4], path: &str| {
        let client = reqwest::Client::builder()
            .local_address(IpAddr::from(from))
            .timeout(Duration::from_secs(60))
            .build()
            .unwrap();
        answer(client.get(server.url(path)).header("x-api-key", &server.key)).await
    };
    let (one, two, three) = ([127, 0, 0, 1], [127, 0, 0, 2], [127, 0, 0, 3]);
    let mut of_one = Vec::new();
    for _ in 0..16 {
        of_one.push(held(&server, one).await);
    }
    let refused = ask(one, "/api/v1/kinds").await;
    refused.refused(503, "too_many_connections");
    assert_eq!(refused.headers["retry-after"], "5");
    for path in ["/livez", "/readyz", "/metrics"] {
        ask(one, path).await.ok(200);
    }
    // Another address has places left, until all are taken.
    ask(two, "/api/v1/kinds").await.ok(200);
    let mut of_two = Vec::new();
    wait_for("every place to be taken", Duration::from_secs(60), async || {
        of_two.push(held(&server, two).await);
        (ask(three, "/api/v1/kinds").await.status == 503).then_some(())
    })
    .await;
    ask(three, "/api/v1/kinds").await.refused(503, "too_many_connections");
    ask(three, "/readyz").await.ok(200);
    drop((of_one, of_two));
    wait_for("places to be free again", Duration::from_secs(60), async || {
        (ask(one, "/api/v1/kinds").await.status == 200).then_some(())
    })
    .await;
}
