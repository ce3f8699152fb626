//! `relevo queue stats` and `relevo queue top`.

use std::time::Duration;

use relevo_tests::{TestDatabase, wait_for};

use super::Relevo;
use super::operate::{assert_has, service};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn what_went_through_is_told_by_queue_and_kind() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    assert!(relevo.ok(&["queue", "stats"]).await.contains("no job has ended since"));
    for _ in 0..3 {
        relevo.json(&["job", "enqueue", "Noop"]).await;
    }
    let paused = relevo.json(&["job", "enqueue", "Noop", "--queue", "later"]).await;
    relevo.json(&["job", "cancel", &paused["id"].to_string()]).await;
    let worker = service(&relevo, "worker");
    let stats = wait_for("three jobs to have ended", LONG, async || {
        let stats = relevo.json(&["queue", "stats", "--minutes", "5"]).await;
        let kinds = stats["kinds"].as_array().unwrap().clone();
        kinds.iter().any(|kind| kind["completed"] == 3).then_some(stats)
    })
    .await;
    assert_has(&stats, &["since", "until", "kinds"]);
    let kinds = stats["kinds"].as_array().unwrap();
    let of = |queue: &str| kinds.iter().find(|kind| kind["queue"] == queue).unwrap();
    let done = of("default");
    assert_has(done, &["kind", "retried", "wait_p50_ms", "wait_p95_ms", "run_p50_ms"]);
    assert!(done["wait_p95_ms"].as_f64().unwrap() >= done["wait_p50_ms"].as_f64().unwrap());
    assert!(done["run_p50_ms"].as_f64().unwrap() >= 0.0, "{done}");
    // No worker ever took the cancelled one.
    assert_eq!(of("later")["cancelled"], 1);
    assert!(of("later")["wait_p50_ms"].is_null());
    let text = relevo.ok(&["queue", "stats"]).await;
    assert!(text.starts_with("since 2") && text.contains("PER MIN"), "{text}");
    worker.terminate();
    worker.wait_exit(LONG).await;
}

#[tokio::test]
async fn one_look_shows_queues_running_jobs_and_workers() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    let text = relevo.ok(&["queue", "top", "--once"]).await;
    assert!(text.contains("no job runs") && text.contains("no worker is there"), "{text}");
    let worker = service(&relevo, "worker");
    let job = relevo.json(&["job", "enqueue", "Noop", "--payload", "{\"sleep_ms\": 60000}"]).await;
    let look = wait_for("the job to run", LONG, async || {
        let look = relevo.json(&["queue", "top"]).await;
        (look["running"][0]["id"] == job["id"] && look["workers"][0]["running"] == 1)
            .then_some(look)
    })
    .await;
    assert_has(&look, &["at", "queues", "lately", "running", "workers"]);
    assert_eq!(look["queues"][0]["running"], 1);
    // Without a terminal it looks once.
    let text = relevo.ok(&["queue", "top", "--interval", "1"]).await;
    assert!(text.contains("1 worker(s), 1 of "), "{text}");
    assert!(text.contains(&job["id"].to_string()) && text.contains("Noop"), "{text}");
    worker.kill();
}
