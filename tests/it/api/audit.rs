//! The audit log: every operator action, in its own transaction.

use serde_json::{Value, json};

use super::server::Server;

async fn entries(server: &Server) -> Vec<Value> {
    let page = server.get("/api/v1/audit").await.ok(200);
    let mut entries = page["entries"].as_array().unwrap().clone();
    entries.reverse();
    entries
}

#[tokio::test]
async fn every_operator_action_leaves_its_line() {
    let server = Server::start().await;
    let id = server
        .post_json("/api/v1/jobs", &json!({"kind": "Noop", "delay_seconds": 60}))
        .await
        .ok(202)["id"]
        .clone();
    assert_eq!(entries(&server).await, Vec::<Value>::new(), "enqueueing is no operator action");

    server.post(&format!("/api/v1/jobs/{id}/retry")).await.ok(200);
    server
        .post_json(&format!("/api/v1/jobs/{id}/cancel"), &json!({"reason": "why not"}))
        .await
        .ok(200);
    server.post(&format!("/api/v1/jobs/{id}/cancel")).await.ok(200);
    server.post("/api/v1/queues/q/pause").await.ok(200);
    server.post("/api/v1/queues/q/pause").await.ok(200);
    server.post("/api/v1/queues/q/resume").await.ok(200);
    let run = server.post("/api/v1/backups/sicar").await.ok(202)["run_id"].clone();
    server.post("/api/v1/backups/sicar").await.refused(409, "run_active");
    server.post(&format!("/api/v1/runs/{run}/cancel")).await.ok(202);

    let entries = entries(&server).await;
    let lines: Vec<(&str, String)> = entries
        .iter()
        .map(|entry| {
            (entry["action"].as_str().unwrap(), entry["object"].as_str().unwrap().to_owned())
        })
        .collect();
    // What changed nothing is not there.
    assert_eq!(
        lines,
        [
            ("job.retry", id.to_string()),
            ("job.cancel", id.to_string()),
            ("queue.pause", "q".to_owned()),
            ("queue.resume", "q".to_owned()),
            ("backup.start", "sicar".to_owned()),
            ("run.cancel", run.to_string()),
        ]
    );
    assert!(
        entries.iter().all(|entry| entry["actor"] == "api:test" && entry["api_key_id"].is_i64())
    );
    assert_eq!(entries[1]["after"]["reason"], "by api:test: why not");
    let page = server.get("/api/v1/audit?limit=4&actor=api:test").await.ok(200);
    let rest = server.get(page["next"].as_str().unwrap()).await.ok(200);
    assert_eq!(rest["entries"].as_array().unwrap().len(), 2);
    let of_job = server.get(&format!("/api/v1/audit?object={id}&action=job.cancel")).await.ok(200);
    assert_eq!(of_job["entries"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn an_action_that_cannot_be_noted_does_not_happen() {
    let server = Server::start().await;
    let id = server.post_json("/api/v1/jobs", &json!({"kind": "Noop"})).await.ok(202)["id"].clone();
    sqlx::query("ALTER TABLE relevo.audit RENAME TO audit_away")
        .execute(server.db.pool())
        .await
        .unwrap();
    for path in [
        format!("/api/v1/jobs/{id}/cancel"),
        "/api/v1/queues/q/pause".to_owned(),
        "/api/v1/backups/sicar".to_owned(),
    ] {
        server.post(&path).await.refused(500, "internal");
    }
    let job = server.get(&format!("/api/v1/jobs/{id}")).await.ok(200);
    assert_eq!(job["state"], "available");
    let runs = server.get("/api/v1/runs").await.ok(200);
    assert_eq!(runs["runs"], json!([]));
    assert_eq!(server.get("/api/v1/queues").await.ok(200)["queues"][0]["paused"], false);
}
