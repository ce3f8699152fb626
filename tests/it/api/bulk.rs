//! Many jobs per request, and many dead letters at once.

use relevo_runs::typed_job;
use serde_json::{Value, json};

use super::dead_letters::dead;
use super::server::Server;

#[tokio::test]
async fn each_job_of_a_batch_is_taken_or_refused_by_itself() {
    let server = Server::start().await;
    let body = json!({"jobs": [
        {"kind": "Noop", "payload": {"tag": 1}},
        {"kind": "Nop"},
        {"kind": "Noop", "payload": {"sleep": 1}},
        {"kind": "Noop", "colour": "red"},
        17,
        {"kind": "Noop", "idempotency_key": "k", "payload": {"tag": 2}},
        {"kind": "Noop", "idempotency_key": "k", "payload": {"tag": 3}},
        {"kind": "Noop", "queue": "q\u{0}"},
        {"kind": "Noop", "delay_seconds": 60},
    ]});
    let answer = server.post_json("/api/v1/jobs/batch", &body).await.ok(202);
    assert_eq!((&answer["accepted"], &answer["refused"]), (&json!(4), &json!(5)));
    let results = answer["results"].as_array().unwrap();
    let codes: Vec<&Value> = results.iter().map(|result| &result["problem"]["code"]).collect();
    let none = &Value::Null;
    assert_eq!(
        codes,
        [
            none,
            &json!("unknown_kind"),
            &json!("invalid_payload"),
            &json!("invalid_body"),
            &json!("invalid_body"),
            none,
            none,
            &json!("invalid_job"),
            none,
        ]
    );
    assert_eq!(results[5]["id"], results[6]["id"]);
    assert_eq!((&results[5]["duplicate"], &results[6]["duplicate"]), (&json!(false), &json!(true)));
    assert_eq!(server.jobs_of_kind("Noop").await, 3);
    let first = server.get(&format!("/api/v1/jobs/{}", results[0]["id"])).await.ok(200);
    assert_eq!(first["payload"], json!({"tag": 1}));
}

#[tokio::test]
async fn a_batch_is_bounded() {
    let server = Server::start().await;
    let many = |count: usize| json!({"jobs": vec![json!({"kind": "Noop"}); count]});
    server.post_json("/api/v1/jobs/batch", &many(0)).await.refused(422, "too_many_jobs");
    server.post_json("/api/v1/jobs/batch", &many(1_001)).await.refused(422, "too_many_jobs");
    let answer = server.post_json("/api/v1/jobs/batch", &many(1_000)).await.ok(202);
    assert_eq!(answer["accepted"], 1_000);
    assert_eq!(server.jobs_of_kind("Noop").await, 1_000);
    server.post_json("/api/v1/jobs/batch", &json!({"jobs": 1})).await.refused(422, "invalid_body");
}

#[tokio::test]
async fn dead_letters_are_counted_before_they_are_retried() {
    let server = Server::start().await;
    let ids = dead(&server, 4).await;
    let path = "/api/v1/dead-letters/retry";
    let filter = json!({"kinds": ["Noop"], "before": ids[3]});

    let counted =
        server.post_json(&format!("{path}?dry_run=true"), &json!({"filter": filter})).await;
    assert_eq!(counted.ok(200), json!({"dry_run": true, "matching": 3, "changed": 0}));
    server.post_json(path, &json!({"filter": filter})).await.refused(422, "expected_missing");
    let refused = server.post_json(path, &json!({"filter": filter, "expected": 4})).await;
    refused.refused(409, "count_differs");
    assert_eq!(refused.body["matching"], 3);
    assert_eq!(server.jobs_of_kind("Noop").await, 0, "nothing was changed");

    let done = server.post_json(path, &json!({"filter": filter, "expected": 3})).await.ok(200);
    assert_eq!(done, json!({"dry_run": false, "matching": 3, "changed": 3}));
    assert_eq!(server.jobs_of_kind("Noop").await, 3);
    let left = server.get("/api/v1/dead-letters").await.ok(200);
    assert_eq!(left["dead_letters"][0]["id"], ids[3]);
    let entries = server.get("/api/v1/audit?action=dead_letter.retry_many").await.ok(200);
    assert_eq!(entries["entries"][0]["after"]["changed"], 3);
}

#[tokio::test]
async fn a_held_unique_key_keeps_its_letter_dead() {
    let server = Server::start().await;
    let ids = dead(&server, 2).await;
    sqlx::query("UPDATE relevo.dead_letter SET unique_key = 'same', unique_scope = 'finished'")
        .execute(server.db.pool())
        .await
        .unwrap();
    let body = json!({"filter": {}, "expected": 2});
    let done = server.post_json("/api/v1/dead-letters/retry", &body).await.ok(200);
    assert_eq!((&done["matching"], &done["changed"]), (&json!(2), &json!(1)));
    let left = server.get("/api/v1/dead-letters").await.ok(200);
    assert_eq!(left["dead_letters"].as_array().unwrap().len(), 1);
    assert_eq!(left["dead_letters"][0]["id"], ids[1]);
    server
        .post(&format!("/api/v1/dead-letters/{}/retry", ids[1]))
        .await
        .refused(409, "unique_key_held");
}

#[tokio::test]
async fn dead_letters_are_discarded_in_bulk() {
    let server = Server::start().await;
    let ids = dead(&server, 3).await;
    let body = json!({"filter": {"queue": "default"}, "expected": 3});
    let done = server.post_json("/api/v1/dead-letters/discard", &body).await.ok(200);
    assert_eq!(done["changed"], 3);
    for id in ids {
        let job = server.get(&format!("/api/v1/jobs/{id}")).await.ok(200);
        assert_eq!(
            (&job["state"], &job["cancel_reason"]),
            (&json!("cancelled"), &json!("discarded by api:test"))
        );
    }
}

#[tokio::test]
async fn a_batch_whose_members_died_goes_on_when_they_are_retried_in_bulk() {
    use relevo_jobs::Noop;
    use relevo_queue::FailedMemberPolicy;

    let server = Server::start().await;
    let ids = dead(&server, 2).await;
    let mut tx = server.db.pool().begin().await.unwrap();
    let completion = typed_job(&Noop { tag: Some(99), ..Noop::default() });
    let batch =
        server.deps.queue.open_batch(&mut tx, completion, FailedMemberPolicy::Wait).await.unwrap();
    sqlx::query("UPDATE relevo.dead_letter SET batch_id = $1")
        .bind(batch)
        .execute(&mut *tx)
        .await
        .unwrap();
    sqlx::query("UPDATE relevo.batch SET total = 2, pending = 2, dead = 2 WHERE id = $1")
        .bind(batch)
        .execute(&mut *tx)
        .await
        .unwrap();
    server.deps.queue.seal_batch(&mut tx, batch).await.unwrap();
    tx.commit().await.unwrap();

    let body = json!({"filter": {"before": ids[1]}, "expected": 1});
    server.post_json("/api/v1/dead-letters/retry", &body).await.ok(200);
    let view = server.deps.queue.batch(batch).await.unwrap().unwrap();
    assert_eq!((view.pending, view.dead), (2, 1));
    let body = json!({"filter": {}, "expected": 1});
    server.post_json("/api/v1/dead-letters/discard", &body).await.ok(200);
    let view = server.deps.queue.batch(batch).await.unwrap().unwrap();
    assert_eq!((view.pending, view.dead, view.cancelled), (1, 0, 1));
}

#[tokio::test]
async fn a_dead_letter_is_mended_and_run_again() {
    use reqwest::Method;

    use super::server::answer;

    let server = Server::start().await;
    let ids = dead(&server, 1).await;
    let path = format!("/api/v1/dead-letters/{}/payload", ids[0]);
    let put = async |body: Value| answer(server.request(Method::PUT, &path).json(&body)).await;
    put(json!({"payload": {"sleep": 1}})).await.refused(422, "invalid_payload");
    put(json!({"payload": {}, "colour": 1})).await.refused(422, "invalid_body");
    let job = put(json!({"payload": {"tag": 5}})).await.ok(200);
    assert_eq!((&job["state"], &job["payload"]), (&json!("dead"), &json!({"tag": 5})));
    let job = put(json!({"payload": {"tag": 6}, "retry": true})).await.ok(200);
    assert_eq!((&job["state"], &job["payload"]), (&json!("available"), &json!({"tag": 6})));
    put(json!({"payload": {"tag": 7}})).await.refused(404, "dead_letter_not_found");

    let entries = server.get("/api/v1/audit?action=dead_letter.edit").await.ok(200);
    let last = &entries["entries"][0];
    assert_eq!(last["before"], json!({"payload": {"tag": 5}}));
    assert_eq!(last["after"], json!({"payload": {"tag": 6}, "retry": true}));
}
