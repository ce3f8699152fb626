//! Limits: how often, how deep; and the webhook's stricter mode.

use std::time::Duration;

use relevo_tests::wait_for;
use serde_json::json;

use super::server::{Server, execute};

#[tokio::test]
async fn a_key_that_asks_too_often_is_told_when_to_come_again() {
    let server = Server::start_with("api.rate_limit_per_second = 5\n").await;
    let (_, other) = server.key_for(&[relevo_runs::api_keys::Scope::Read]).await;
    let answers =
        futures::future::join_all((0..20).map(|_| server.get("/api/v1/kinds")).collect::<Vec<_>>())
            .await;
    let refused: Vec<_> = answers.iter().filter(|answer| answer.status == 429).collect();
    assert!(refused.len() >= 10, "{} refused", refused.len());
    refused[0].refused(429, "rate_limited");
    assert_eq!(refused[0].headers["retry-after"], "1");
    let request = server.client.get(server.url("/api/v1/kinds")).header("x-api-key", other);
    super::server::answer(request).await.ok(200);
    wait_for("the bucket to fill", Duration::from_secs(3), async || {
        (server.get("/api/v1/kinds").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_full_queue_takes_no_more_over_http() {
    let server = Server::start_with("api.queue_depth_max = 50\n").await;
    let many = json!({"jobs": vec![json!({"kind": "Noop"}); 200]});
    server.post_json("/api/v1/jobs/batch", &many).await.ok(202);
    let refused = wait_for("the queue to be seen full", Duration::from_secs(5), async || {
        let answer = server.post_json("/api/v1/jobs", &json!({"kind": "Noop"})).await;
        (answer.status == 429).then_some(answer)
    })
    .await;
    refused.refused(429, "queue_full");
    assert_eq!(refused.headers["retry-after"], "2");
    // Another queue has room; of a batch only the full queue's jobs are refused.
    let elsewhere = json!({"kind": "Noop", "queue": "elsewhere"});
    server.post_json("/api/v1/jobs", &elsewhere).await.ok(202);
    let mixed = json!({"jobs": [{"kind": "Noop"}, elsewhere]});
    let answer = server.post_json("/api/v1/jobs/batch", &mixed).await.ok(202);
    assert_eq!(answer["results"][0]["problem"]["code"], "queue_full");
    assert!(answer["results"][1]["id"].is_i64());

    sqlx::query("TRUNCATE relevo.job").execute(server.db.pool()).await.unwrap();
    wait_for("the queue to be seen empty", Duration::from_secs(5), async || {
        let answer = server.post_json("/api/v1/jobs", &json!({"kind": "Noop"})).await;
        (answer.status == 202).then_some(())
    })
    .await;
}

#[tokio::test]
async fn jobs_for_later_fill_a_queue_too() {
    let server = Server::start_with("api.queue_depth_max = 50\n").await;
    let later = json!({"kind": "Noop", "delay_seconds": 3600});
    let many = json!({"jobs": vec![later.clone(); 200]});
    server.post_json("/api/v1/jobs/batch", &many).await.ok(202);
    let refused = wait_for("the queue to be seen full", Duration::from_secs(30), async || {
        let answer = server.post_json("/api/v1/jobs", &later).await;
        (answer.status == 429).then_some(answer)
    })
    .await;
    refused.refused(429, "queue_full");
}

#[tokio::test]
async fn an_address_that_guesses_keys_is_told_to_wait() {
    let server = Server::start().await;
    server.get("/api/v1/kinds").await.ok(200);
    let guess = || {
        let request = server.client.get(server.url("/api/v1/kinds"));
        super::server::answer(request.header("x-api-key", "rk_00000000_guess"))
    };
    let refused = wait_for("the guesses to be refused", Duration::from_secs(60), async || {
        let answers = futures::future::join_all((0..50).map(|_| guess())).await;
        answers.into_iter().find(|answer| answer.status == 429)
    })
    .await;
    refused.refused(429, "rate_limited");
    assert_eq!(refused.headers["retry-after"], "1");
    // Whoever has a key behind the same address goes on.
    server.get("/api/v1/kinds").await.ok(200);
}

#[tokio::test]
async fn the_webhook_without_a_token_can_be_switched_off() {
    let server = Server::start_with("api.bare_webhook = false\n").await;
    let body = json!({"backup_id": "b", "status": "completed"});
    let request = |path: &str| server.client.post(server.url(path)).json(&body).build().unwrap();
    let bare = execute(&server.client, request("/webhook/backup-ready")).await;
    bare.refused(404, "route_not_found");
    let secret = execute(&server.client, request("/webhook/backup-ready/guess")).await;
    secret.refused(404, "request_not_found");
    let document = server.get("/openapi.json").await.ok(200);
    assert!(document["paths"]["/webhook/backup-ready"].is_null());
}

#[tokio::test]
async fn a_busy_key_costs_one_question_a_second() {
    let server = Server::start().await;
    server.get("/api/v1/kinds").await.ok(200);
    // Without its table the key is still believed, for a moment.
    sqlx::query("ALTER TABLE relevo.api_key RENAME TO api_key_away")
        .execute(server.db.pool())
        .await
        .unwrap();
    let (mut believed, mut asked) = (0, 0);
    wait_for("the key to be asked for again", Duration::from_secs(5), async || {
        match server.get("/api/v1/kinds").await.status.as_u16() {
            200 => believed += 1,
            _ => asked += 1,
        }
        (asked > 0).then_some(())
    })
    .await;
    assert!(believed >= 1, "the key was asked for at once");
}
