//! Uploads over HTTP: listed, and completed once however often that is asked.

use relevo_runs::api_keys::Scope;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::server::{Answer, Server, answer};

async fn announce(server: &Server, filename: &str, bytes: &[u8], start: bool) -> i64 {
    let sha256: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let body = json!({
        "source": "sicar", "filename": filename, "total_bytes": bytes.len(), "sha256": sha256,
        "start": start,
    });
    let upload = server.post_json("/api/v1/uploads", &body).await.ok(201);
    upload["id"].as_i64().unwrap()
}

async fn piece(server: &Server, id: i64, offset: usize, bytes: &[u8]) -> Answer {
    let request = server
        .request(Method::PATCH, &format!("/api/v1/uploads/{id}"))
        .header("upload-offset", offset)
        .header("content-type", "application/octet-stream");
    answer(request.body(bytes.to_vec())).await
}

fn ids(page: &Value) -> Vec<i64> {
    page["uploads"].as_array().unwrap().iter().map(|one| one["id"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn uploads_are_listed_page_by_page_with_what_has_arrived() {
    let server = Server::start().await;
    let empty = server.get("/api/v1/uploads").await.ok(200);
    assert_eq!(empty, json!({"uploads": [], "next": null, "next_before": null}));
    let first = announce(&server, "a.sql.gz", b"abcdef", false).await;
    let second = announce(&server, "b.sql.gz", b"abc", false).await;
    let third = announce(&server, "c.sql.gz", b"abc", false).await;
    piece(&server, first, 0, b"abcd").await.ok(200);
    piece(&server, second, 0, b"abc").await.ok(200);

    let page = server.get("/api/v1/uploads?limit=2").await.ok(200);
    assert_eq!(ids(&page), [third, second]);
    assert!(page["uploads"][1]["completed_at"].is_string(), "{page}");
    let page = server.get(page["next"].as_str().unwrap()).await.ok(200);
    assert_eq!((ids(&page), &page["next"]), (vec![first], &Value::Null));
    let shown = &page["uploads"][0];
    assert_eq!((&shown["received_bytes"], &shown["total_bytes"]), (&json!(4), &json!(6)));
    assert_eq!(shown, &server.get(&format!("/api/v1/uploads/{first}")).await.ok(200));

    let page = server.get("/api/v1/uploads?source=sicar&limit=500").await.ok(200);
    assert_eq!(ids(&page).len(), 3);
    assert_eq!(ids(&server.get("/api/v1/uploads?source=otra").await.ok(200)), [0_i64; 0]);
    server.get("/api/v1/uploads?limit=0").await.refused(400, "invalid_query");
    server.get("/api/v1/uploads?state=open").await.refused(400, "invalid_query");
    let (_, sender) = server.key_for(&[Scope::Enqueue]).await;
    let request = server.client.get(server.url("/api/v1/uploads")).header("x-api-key", sender);
    answer(request).await.refused(403, "missing_scope");
}

#[tokio::test]
async fn an_upload_that_is_completed_by_many_at_once_starts_one_run() {
    let server = Server::start().await;
    let bytes = vec![b'x'; 6 << 20];
    let half = bytes.len() / 2;
    let id = announce(&server, "a.sql.gz", &bytes, true).await;
    piece(&server, id, 0, &bytes[..half]).await.ok(200);
    // The sender lost its patience with the last piece, and asks for its end again and again.
    let last = piece(&server, id, half, &bytes[half..]);
    let again = futures::future::join_all((0..8).map(|_| piece(&server, id, bytes.len(), &[])));
    let (last, again) = tokio::join!(last, again);
    for answer in again.iter().chain([&last]) {
        match answer.status.as_u16() {
            200 => assert_eq!(answer.body["received_bytes"], bytes.len(), "{answer:?}"),
            // Not all of it is there yet, another piece is being stored, or it is being checked.
            409 => assert!(["upload_offset", "upload_busy"].contains(&answer.code()), "{answer:?}"),
            _ => panic!("{answer:?}"),
        }
    }
    let answer = piece(&server, id, bytes.len(), &[]).await;
    let run = answer.ok(200)["run_id"].as_i64().expect("a run");
    let runs = server.get("/api/v1/runs").await.ok(200);
    assert_eq!(runs["runs"].as_array().unwrap().len(), 1, "{runs}");
    assert_eq!(runs["runs"][0]["id"], run);
}

#[tokio::test]
async fn what_an_upload_of_the_same_number_left_is_none_of_its_bytes() {
    let server = Server::start().await;
    let id = announce(&server, "a.sql.gz", b"abcdef", false).await;
    piece(&server, id, 0, b"abc").await.ok(200);
    // A control plane that was restored knows nothing of it.
    for sql in [
        "DELETE FROM relevo.upload",
        "SELECT setval(pg_get_serial_sequence('relevo.upload', 'id'), 1, false)",
    ] {
        sqlx::query(sql).execute(server.db.pool()).await.unwrap();
    }
    assert_eq!(announce(&server, "b.sql.gz", b"xyz", false).await, id);
    let shown = server.get(&format!("/api/v1/uploads/{id}")).await.ok(200);
    assert_eq!(shown["received_bytes"], 0, "{shown}");
    piece(&server, id, 0, b"xyz").await.ok(200);
}
