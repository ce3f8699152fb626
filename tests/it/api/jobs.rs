//! `/api/v1/jobs`: lists, one job, cancel, retry.

use serde_json::{Value, json};

use super::server::Server;

async fn enqueue(server: &Server, body: &Value) -> i64 {
    server.post_json("/api/v1/jobs", body).await.ok(202)["id"].as_i64().unwrap()
}

fn ids(page: &Value, name: &str) -> Vec<i64> {
    page[name].as_array().unwrap().iter().map(|job| job["id"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn pages_go_from_the_newest_to_the_oldest() {
    let server = Server::start().await;
    let mut enqueued = Vec::new();
    for tag in 0..7 {
        enqueued.push(enqueue(&server, &json!({"kind": "Noop", "payload": {"tag": tag}})).await);
    }
    enqueued.reverse();

    let mut seen = Vec::new();
    let mut path = "/api/v1/jobs?limit=3".to_owned();
    loop {
        let page = server.get(&path).await.ok(200);
        seen.extend(ids(&page, "jobs"));
        match page["next_before"].as_i64() {
            Some(before) => path = format!("/api/v1/jobs?limit=3&before={before}"),
            None => break,
        }
    }
    assert_eq!(seen, enqueued);
}

#[tokio::test]
async fn lists_are_filtered() {
    let server = Server::start().await;
    let here = enqueue(&server, &json!({"kind": "Noop", "queue": "here"})).await;
    let later = enqueue(&server, &json!({"kind": "Noop", "delay_seconds": 99})).await;
    let of_run = enqueue(&server, &json!({"kind": "Notify", "payload": {"run_id": 5}})).await;
    let list = async |query: &str| {
        ids(&server.get(&format!("/api/v1/jobs?{query}")).await.ok(200), "jobs")
    };
    assert_eq!(list("").await, [of_run, later, here]);
    assert_eq!(list("queue=here").await, [here]);
    assert_eq!(list("state=scheduled").await, [later]);
    assert_eq!(list("state=scheduled,available").await, [of_run, later, here]);
    assert_eq!(list("kind=Notify").await, [of_run]);
    assert_eq!(list("kind=Notify,Noop&state=available").await, [of_run, here]);
    assert_eq!(list("run_id=5").await, [of_run]);
    assert_eq!(list("run_id=6").await, [] as [i64; 0]);
    assert_eq!(list(&format!("before={later}")).await, [here]);
}

#[tokio::test]
async fn a_wrong_query_is_refused() {
    let server = Server::start().await;
    for query in [
        "state=sleeping",
        "state=",
        "limit=0",
        "limit=501",
        "limit=-1",
        "limit=ten",
        "before=x",
        "before=99999999999999999999",
        "run_id=1.5",
        "colour=red",
        "queue=a&queue=b",
        "queue=%00",
    ] {
        server.get(&format!("/api/v1/jobs?{query}")).await.refused(400, "invalid_query");
    }
}

#[tokio::test]
async fn one_job_that_is_not_there() {
    let server = Server::start().await;
    server.get("/api/v1/jobs/99").await.refused(404, "job_not_found");
    server.post("/api/v1/jobs/99/cancel").await.refused(404, "job_not_found");
    server.post("/api/v1/jobs/99/retry").await.refused(404, "job_not_found");
    for id in ["x", "1.5", "99999999999999999999", "1%00", "%ff"] {
        server.get(&format!("/api/v1/jobs/{id}")).await.refused(400, "invalid_path");
    }
    server.get("/api/v1/jobs/-1").await.refused(404, "job_not_found");
}

#[tokio::test]
async fn a_waiting_job_is_cancelled_once() {
    let server = Server::start().await;
    let id = enqueue(&server, &json!({"kind": "Noop"})).await;
    let path = format!("/api/v1/jobs/{id}/cancel");
    let cancelled = json!({"id": id, "outcome": "cancelled"});
    let reason = json!({"reason": "not needed"});
    assert_eq!(server.post_json(&path, &reason).await.ok(200), cancelled);
    // Asking again is no mistake.
    assert_eq!(server.post(&path).await.ok(200), cancelled);
    let job = server.get(&format!("/api/v1/jobs/{id}")).await.ok(200);
    assert_eq!(job["state"], "cancelled");
    assert_eq!(job["cancel_reason"], "by api:test: not needed");
    let retried = server.post(&format!("/api/v1/jobs/{id}/retry")).await;
    retried.refused(409, "job_not_retryable");
    assert_eq!(retried.body["state"], "cancelled");
}

#[tokio::test]
async fn a_cancels_body_is_read_strictly() {
    let server = Server::start().await;
    let id = enqueue(&server, &json!({"kind": "Noop"})).await;
    let path = format!("/api/v1/jobs/{id}/cancel");
    for (body, status, code) in [
        (r#"{"because": 1}"#, 422, "invalid_body"),
        (r#"{"reason": 1}"#, 422, "invalid_body"),
        (r#"{"reason": "a\u0000"}"#, 422, "invalid_body"),
        ("[\"reason\"]", 422, "invalid_body"),
        ("{", 400, "malformed_json"),
    ] {
        server.post_text(&path, body).await.refused(status, code);
    }
    let long = json!({"reason": "r".repeat(501)});
    server.post_json(&path, &long).await.refused(422, "invalid_body");
    assert_eq!(server.jobs_of_kind("Noop").await, 1);
}

#[tokio::test]
async fn a_scheduled_job_can_be_run_now() {
    let server = Server::start().await;
    let id = enqueue(&server, &json!({"kind": "Noop", "delay_seconds": 3600})).await;
    let path = format!("/api/v1/jobs/{id}/retry");
    assert_eq!(server.post(&path).await.ok(200), json!({"id": id, "outcome": "retried"}));
    let job = server.get(&format!("/api/v1/jobs/{id}")).await.ok(200);
    assert_eq!(job["state"], "available");
    let again = server.post(&path).await;
    again.refused(409, "job_not_retryable");
    assert_eq!(again.body["state"], "available");
}
