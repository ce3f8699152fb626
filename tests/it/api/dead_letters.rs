//! `/api/v1/dead-letters`: jobs made dead by a real worker.

use std::sync::Arc;
use std::time::Duration;

use relevo_queue::{
    BoxFuture, Handler, Job, JobError, JobState, KnownKind, NoObserver, Queue, WorkerConfig,
    run_worker,
};
use relevo_tests::wait_for;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::server::Server;

/// Gives up every job at once.
struct GivesUp;

impl Handler for GivesUp {
    fn run(&self, _job: Job) -> BoxFuture<'static, Result<(), JobError>> {
        Box::pin(async { Err(JobError::fail("no such shop")) })
    }
}

/// Enqueues `count` jobs and lets a worker give them up; their ids, oldest first.
pub async fn dead(server: &Server, count: usize) -> Vec<i64> {
    let mut ids = Vec::new();
    for _ in 0..count {
        let created = server.post_json("/api/v1/jobs", &json!({"kind": "Noop"})).await.ok(202);
        ids.push(created["id"].as_i64().unwrap());
    }
    give_up(&server.deps.queue, &ids).await;
    ids
}

/// Lets a worker give these jobs up, whose kind is `Noop`.
pub async fn give_up(queue: &Queue, ids: &[i64]) {
    let config = WorkerConfig {
        name: "gives-up".to_owned(),
        kinds: vec![KnownKind { kind: "Noop".to_owned(), max_payload_version: 1 }],
        poll_interval: Duration::from_millis(50),
        ..WorkerConfig::default()
    };
    let stop = CancellationToken::new();
    let worker = tokio::spawn(run_worker(
        queue.clone(),
        config,
        Arc::new(GivesUp),
        Arc::new(NoObserver),
        stop.clone(),
    ));
    wait_for("the jobs to be dead", Duration::from_secs(30), async || {
        let mut states = Vec::new();
        for id in ids {
            states.push(queue.job((*id).into()).await.unwrap()?.state);
        }
        states.iter().all(|state| *state == JobState::Dead).then_some(())
    })
    .await;
    stop.cancel();
    worker.await.unwrap().unwrap();
}

#[tokio::test]
async fn dead_letters_are_listed_retried_and_discarded() {
    let server = Server::start().await;
    let ids = dead(&server, 3).await;

    let page = server.get("/api/v1/dead-letters?limit=2").await.ok(200);
    let listed = page["dead_letters"].as_array().unwrap();
    assert_eq!((&listed[0]["id"], &listed[1]["id"]), (&json!(ids[2]), &json!(ids[1])));
    assert_eq!(listed[0]["state"], "dead");
    assert!(listed[0]["last_error"].as_str().unwrap().contains("no such shop"));
    assert_eq!(page["next_before"], ids[1]);
    let next = server.get(&format!("/api/v1/dead-letters?before={}", ids[1])).await.ok(200);
    assert_eq!(next["dead_letters"][0]["id"], ids[0]);
    let none = server.get("/api/v1/dead-letters?queue=other").await.ok(200);
    assert_eq!(none["dead_letters"], json!([]));

    let retried = server.post(&format!("/api/v1/dead-letters/{}/retry", ids[0])).await;
    assert_eq!(retried.ok(200), json!({"id": ids[0], "outcome": "retried"}));
    let job = server.get(&format!("/api/v1/jobs/{}", ids[0])).await.ok(200);
    assert_eq!(job["state"], "available");

    let path = format!("/api/v1/dead-letters/{}", ids[1]);
    assert_eq!(server.delete(&path).await.status, 204);
    server.delete(&path).await.refused(404, "dead_letter_not_found");
    let job = server.get(&format!("/api/v1/jobs/{}", ids[1])).await.ok(200);
    assert_eq!(job["state"], "cancelled");

    // The general door takes dead ones too.
    server.post(&format!("/api/v1/jobs/{}/retry", ids[2])).await.ok(200);
    assert_eq!(
        server.get("/api/v1/dead-letters").await.ok(200),
        json!({"dead_letters": [], "next": null, "next_before": null})
    );
}

#[tokio::test]
async fn only_dead_jobs_are_dead_letters() {
    let server = Server::start().await;
    let created = server.post_json("/api/v1/jobs", &json!({"kind": "Noop"})).await.ok(202);
    let path = format!("/api/v1/dead-letters/{}", created["id"]);
    server.delete(&path).await.refused(404, "dead_letter_not_found");
    server.post(&format!("{path}/retry")).await.refused(404, "dead_letter_not_found");
    server.delete("/api/v1/dead-letters/777").await.refused(404, "dead_letter_not_found");
    server.delete("/api/v1/dead-letters/x").await.refused(400, "invalid_path");
    server.get("/api/v1/dead-letters?state=dead").await.refused(400, "invalid_query");
    assert_eq!(server.jobs_of_kind("Noop").await, 1);
}
