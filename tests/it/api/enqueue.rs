//! `POST /api/v1/jobs`.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use relevo_queue::NewJob;
use relevo_runs::api_keys::Scope;
use relevo_tests::wait_blocked;
use reqwest::Method;
use serde_json::{Value, json};

use super::server::{BODY_LIMIT_BYTES, Server, answer};

#[tokio::test]
async fn a_job_is_enqueued_and_can_be_looked_at() {
    let server = Server::start().await;
    let created = server
        .post_json("/api/v1/jobs", &json!({"kind": "Noop", "payload": {"sleep_ms": 5, "tag": 7}}))
        .await;
    assert_eq!(created.status, 202);
    let id = created.body["id"].as_i64().unwrap();
    assert_eq!(created.body, json!({"id": id, "duplicate": false}));
    assert_eq!(created.headers["location"], format!("/api/v1/jobs/{id}"));

    let job = server.get(&format!("/api/v1/jobs/{id}")).await.ok(200);
    assert_eq!(job["kind"], "Noop");
    assert_eq!(job["queue"], "default");
    assert_eq!(job["state"], "available");
    assert_eq!(job["payload"], json!({"sleep_ms": 5, "tag": 7}));
    assert_eq!(job["max_attempts"], 5, "the kind's policy is applied");
}

#[tokio::test]
async fn everything_that_can_be_said_about_a_job_is_kept() {
    let server = Server::start().await;
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let body = json!({
        "kind": "FinishImport", "payload": {"run_id": 12, "request_id": 3},
        "queue": "elsewhere", "priority": -3, "delay_seconds": 3600, "unique_key": "mine",
    });
    let request = server.request(Method::POST, "/api/v1/jobs").header("traceparent", traceparent);
    let id = answer(request.json(&body)).await.ok(202)["id"].clone();
    let job = server.get(&format!("/api/v1/jobs/{id}")).await.ok(200);
    assert_eq!(job["state"], "scheduled");
    assert_eq!(job["queue"], "elsewhere");
    assert_eq!(job["priority"], -3);
    assert_eq!(job["run_id"], 12);
    assert_eq!(job["unique_key"], "api/mine");
    assert_eq!(job["traceparent"], traceparent);

    let at = Utc::now() + TimeDelta::days(1);
    let body = json!({"kind": "Noop", "run_at": at.to_rfc3339()});
    let id = server.post_json("/api/v1/jobs", &body).await.ok(202)["id"].clone();
    let job = server.get(&format!("/api/v1/jobs/{id}")).await.ok(200);
    assert_eq!(job["state"], "scheduled");
    let run_at: chrono::DateTime<Utc> = serde_json::from_value(job["run_at"].clone()).unwrap();
    assert!((run_at - at).abs() < TimeDelta::milliseconds(1));
}

#[tokio::test]
async fn steps_of_runs_need_more_than_the_right_to_enqueue() {
    let server = Server::start().await;
    let step = json!({"kind": "FinishImport", "payload": {"run_id": 12, "request_id": 3}});
    let by = |key: String, path: &str, body: &Value| {
        let request = server.client.post(server.url(path)).header("x-api-key", key);
        answer(request.json(body))
    };
    let (_, lesser) = server.key_for(&[Scope::Enqueue, Scope::Read]).await;
    let refused = by(lesser.clone(), "/api/v1/jobs", &step).await;
    refused.refused(403, "missing_scope");
    assert_eq!(refused.body["scope"], "operate");
    let both = json!({"jobs": [step, {"kind": "Noop"}]});
    let batch = by(lesser, "/api/v1/jobs/batch", &both).await.ok(202);
    assert_eq!(batch["results"][0]["problem"]["code"], "missing_scope");
    assert_eq!(batch["accepted"], 1);
    assert_eq!(server.jobs_of_kind("FinishImport").await, 0);
    let (_, greater) = server.key_for(&[Scope::Enqueue, Scope::Operate]).await;
    by(greater, "/api/v1/jobs", &step).await.ok(202);

    let kinds = server.get("/api/v1/kinds").await.ok(200);
    for kind in kinds["kinds"].as_array().unwrap() {
        let wanted = if kind["kind"] == "Noop" { "enqueue" } else { "operate" };
        assert_eq!(kind["scope"], wanted, "{kind}");
    }
}

#[tokio::test]
async fn an_idempotency_key_makes_a_repeat_the_same_job() {
    let server = Server::start().await;
    let body = json!({"kind": "Noop", "idempotency_key": "order-17"});
    let first = server.post_json("/api/v1/jobs", &body).await.ok(202);
    let second = server.post_json("/api/v1/jobs", &body).await.ok(202);
    assert_eq!(first["duplicate"], false);
    assert_eq!(second, json!({"id": first["id"], "duplicate": true}));

    // The header means the same key.
    let request =
        server.request(Method::POST, "/api/v1/jobs").header("Idempotency-Key", "order-17");
    let third = answer(request.json(&json!({"kind": "Noop"}))).await.ok(202);
    assert_eq!(third, second);
    let request = server.request(Method::POST, "/api/v1/jobs").header("Idempotency-Key", "other");
    answer(request.json(&body)).await.refused(422, "invalid_body");
    assert_eq!(server.jobs_of_kind("Noop").await, 1);
}

#[tokio::test]
async fn the_same_idempotency_key_at_once_is_one_job() {
    let server = Server::start().await;
    let body = json!({"kind": "Noop", "idempotency_key": "at-once"});
    let answers = futures::future::join_all(
        (0..8).map(|_| server.post_json("/api/v1/jobs", &body)).collect::<Vec<_>>(),
    )
    .await;
    let answers: Vec<Value> = answers.into_iter().map(|answer| answer.ok(202)).collect();
    assert!(answers.iter().all(|answer| answer["id"] == answers[0]["id"]), "{answers:?}");
    assert_eq!(answers.iter().filter(|answer| answer["duplicate"] == false).count(), 1);
    assert_eq!(server.jobs_of_kind("Noop").await, 1);
}

#[tokio::test]
async fn of_many_requests_at_once_each_gets_its_own_answer() {
    let server = Server::start().await;
    // Every tenth has the same key, every tenth a queue that cannot be; the others are plain.
    let body = |number: u32| match number % 10 {
        0 => json!({"kind": "Noop", "payload": {"tag": number}, "idempotency_key": "shared"}),
        1 => json!({"kind": "Noop", "payload": {"tag": number}, "queue": "q".repeat(101)}),
        _ => json!({"kind": "Noop", "payload": {"tag": number}}),
    };
    let requests = (0..200)
        .map(async |number| (number, server.post_json("/api/v1/jobs", &body(number)).await));
    let answers = futures::future::join_all(requests).await;
    let mut of_key = Vec::new();
    for (number, answer) in answers {
        match number % 10 {
            0 => of_key.push(answer.ok(202)),
            1 => answer.refused(422, "invalid_job"),
            _ => {
                let job = answer.ok(202);
                assert_eq!(job["duplicate"], false);
                let kept = server.get(&format!("/api/v1/jobs/{}", job["id"])).await.ok(200);
                assert_eq!(kept["payload"]["tag"], number, "somebody else's answer");
            }
        }
    }
    assert!(of_key.iter().all(|answer| answer["id"] == of_key[0]["id"]), "{of_key:?}");
    assert_eq!(of_key.iter().filter(|answer| answer["duplicate"] == false).count(), 1);
    assert_eq!(server.jobs_of_kind("Noop").await, 161);
}

#[tokio::test]
async fn a_key_that_somebody_holds_holds_up_nobody_else() {
    let server = Server::start().await;
    let held = NewJob::new("Noop", &json!({})).unwrap();
    let held = held.idempotency_key("api/held", Duration::from_secs(60));
    let mut holder = server.db.pool().begin().await.unwrap();
    server.deps.queue.enqueue_in(&mut holder, &[held]).await.unwrap();

    let body = json!({"kind": "Noop", "idempotency_key": "held"});
    let waiting =
        futures::future::join_all((0..4).map(|_| server.post_json("/api/v1/jobs", &body)));
    let others = async {
        wait_blocked(server.db.pool(), 4).await;
        for _ in 0..20 {
            server.post_json("/api/v1/jobs", &json!({"kind": "Noop"})).await.ok(202);
        }
        holder.rollback().await.unwrap();
    };
    let (answers, ()) = futures::future::join(waiting, others).await;
    let jobs: Vec<Value> = answers.into_iter().map(|answer| answer.ok(202)).collect();
    assert_eq!(jobs.iter().filter(|job| job["duplicate"] == false).count(), 1, "{jobs:?}");
    assert_eq!(server.jobs_of_kind("Noop").await, 21);
}

#[tokio::test]
async fn a_producer_that_goes_away_holds_up_nobody() {
    let server = Server::start().await;
    for round in 0..20 {
        let body = json!({"kind": "Noop", "payload": {"tag": round}});
        let leaving: Vec<_> = (0..8)
            .map(|_| {
                let request = server.request(Method::POST, "/api/v1/jobs").json(&body);
                tokio::spawn(request.send())
            })
            .collect();
        let staying = server.post_json("/api/v1/jobs", &body);
        let (stayed, ()) = futures::future::join(staying, async {
            tokio::task::yield_now().await;
            for request in &leaving {
                request.abort();
            }
        })
        .await;
        stayed.ok(202);
    }
    server.post_json("/api/v1/jobs", &json!({"kind": "Noop"})).await.ok(202);
}

#[tokio::test]
async fn a_unique_key_blocks_a_second_job() {
    let server = Server::start().await;
    for until in [json!("finished"), json!("claimed"), Value::Null] {
        let body =
            json!({"kind": "Noop", "unique_key": format!("u-{until}"), "unique_until": until});
        let first = server.post_json("/api/v1/jobs", &body).await.ok(202);
        let second = server.post_json("/api/v1/jobs", &body).await.ok(202);
        assert_eq!(second, json!({"id": first["id"], "duplicate": true}));
    }
}

#[tokio::test]
async fn an_unknown_kind_names_the_nearest() {
    let server = Server::start().await;
    let refused = server.post_json("/api/v1/jobs", &json!({"kind": "requestbackup"})).await;
    refused.refused(422, "unknown_kind");
    assert_eq!(refused.body["nearest"][0], "RequestBackup");
    assert!(refused.body["detail"].as_str().unwrap().contains("did you mean RequestBackup"));
    let refused = server.post_json("/api/v1/jobs", &json!({"kind": "q".repeat(5_000)})).await;
    refused.refused(422, "unknown_kind");
    assert!(refused.body.to_string().len() < 1_000, "what is shown of it is bounded");
}

#[tokio::test]
async fn what_is_wrong_with_a_job_is_said() {
    let server = Server::start().await;
    let noop = |more: Value| {
        let mut body = json!({"kind": "Noop"});
        for (name, value) in more.as_object().unwrap() {
            body[name] = value.clone();
        }
        body
    };
    for (body, code, word) in [
        (noop(json!({"payload": {"sleep": 1}})), "invalid_payload", "sleep"),
        (noop(json!({"payload": {"sleep_ms": "1"}})), "invalid_payload", "u32"),
        (noop(json!({"payload": []})), "invalid_payload", "object"),
        (noop(json!({"payload": "x"})), "invalid_payload", "object"),
        (noop(json!({"colour": 1})), "invalid_body", "colour"),
        (noop(json!({"priority": 40_000})), "invalid_body", "40000"),
        (noop(json!({"priority": "high"})), "invalid_body", "high"),
        (noop(json!({"queue": ""})), "invalid_job", "queue"),
        (noop(json!({"queue": "q".repeat(101)})), "invalid_job", "queue"),
        (noop(json!({"queue": "a\u{0}b"})), "invalid_job", "NUL"),
        (noop(json!({"run_at": "tomorrow"})), "invalid_body", "run_at"),
        (noop(json!({"run_at": "-9999-01-01T00:00:00Z"})), "invalid_body", ""),
        (noop(json!({"run_at": "1700-01-01T00:00:00Z"})), "invalid_body", "2000"),
        (noop(json!({"delay_seconds": -1})), "invalid_body", "-1"),
        (noop(json!({"delay_seconds": u64::MAX})), "invalid_job", "delay"),
        (
            noop(json!({"delay_seconds": 1, "run_at": "2030-01-01T00:00:00Z"})),
            "invalid_body",
            "not both",
        ),
        (noop(json!({"idempotency_key": ""})), "invalid_body", "idempotency_key"),
        (noop(json!({"idempotency_key": "k".repeat(401)})), "invalid_body", "400"),
        (noop(json!({"idempotency_key": "a\u{0}"})), "invalid_body", "control"),
        (noop(json!({"unique_key": ""})), "invalid_body", "unique_key"),
        (noop(json!({"unique_until": "claimed"})), "invalid_body", "unique_key"),
        (noop(json!({"unique_key": "k", "unique_until": "never"})), "invalid_body", "never"),
        (json!({"payload": {}}), "invalid_body", "kind"),
        (json!([{"kind": "Noop"}]), "invalid_body", "object"),
        (json!("Noop"), "invalid_body", ""),
        (json!(null), "invalid_body", ""),
        (json!({"kind": "RequestBackup", "payload": {}}), "invalid_payload", "run_id"),
    ] {
        let refused = server.post_json("/api/v1/jobs", &body).await;
        refused.refused(422, code);
        let detail = refused.body["detail"].as_str().unwrap();
        assert!(detail.contains(word), "{body}: {detail}");
    }
    assert_eq!(server.jobs_of_kind("Noop").await, 0);
}

#[tokio::test]
async fn a_body_that_is_no_json_is_refused() {
    let server = Server::start().await;
    for text in ["", "{", "{\"kind\": \"Noop\"", "kind=Noop", "{\"kind\": \"Noop\"} {}"] {
        server.post_text("/api/v1/jobs", text).await.refused(400, "malformed_json");
    }
    // Depth costs nothing: it is not followed.
    let deep = format!("{{\"kind\": \"Noop\", \"payload\": {}", "[".repeat(5_000));
    server.post_text("/api/v1/jobs", deep).await.refused(400, "malformed_json");
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(3_000), "]".repeat(3_000));
    let body = format!("{{\"kind\": \"Noop\", \"payload\": {deep}}}");
    server.post_text("/api/v1/jobs", body).await.refused(422, "invalid_payload");

    let invalid_utf8 = server
        .request(Method::POST, "/api/v1/jobs")
        .header("content-type", "application/json")
        .body(b"{\"kind\": \"\xff\"}".to_vec());
    answer(invalid_utf8).await.refused(400, "malformed_json");
}

#[tokio::test]
async fn only_json_is_taken() {
    let server = Server::start().await;
    let body = r#"{"kind": "Noop"}"#;
    for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp"] {
        let request = server.request(Method::POST, "/api/v1/jobs").body(body);
        answer(request.header("content-type", content_type))
            .await
            .refused(415, "unsupported_media_type");
    }
    answer(server.request(Method::POST, "/api/v1/jobs").body(body))
        .await
        .refused(415, "unsupported_media_type");
    let request = server.request(Method::POST, "/api/v1/jobs").body(body);
    answer(request.header("content-type", "Application/JSON; charset=utf-8")).await.ok(202);
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let server = Server::start().await;
    let large = json!({"kind": "Noop", "queue": "q".repeat(BODY_LIMIT_BYTES)});
    server.post_json("/api/v1/jobs", &large).await.refused(413, "body_too_large");

    // Without a length in front it is counted while it comes.
    let chunk = bytes::Bytes::from(vec![b' '; 8_192]);
    let stream = futures::stream::iter((0..8).map(move |_| Ok::<_, std::io::Error>(chunk.clone())));
    let request = server
        .request(Method::POST, "/api/v1/jobs")
        .header("content-type", "application/json")
        .body(reqwest::Body::wrap_stream(stream));
    answer(request).await.refused(413, "body_too_large");
}

#[tokio::test]
async fn sql_in_any_field_stays_data() {
    let server = Server::start().await;
    let sql = "'; DROP TABLE relevo.job; --";
    let body = json!({
        "kind": "Noop", "queue": sql, "idempotency_key": sql, "unique_key": sql,
    });
    let id = server.post_json("/api/v1/jobs", &body).await.ok(202)["id"].clone();
    let job = server.get(&format!("/api/v1/jobs/{id}")).await.ok(200);
    assert_eq!(job["queue"], sql);
    assert_eq!(job["unique_key"], format!("api/{sql}"));
    server.post_json("/api/v1/jobs", &json!({"kind": sql})).await.refused(422, "unknown_kind");

    let encoded: String = sql.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for path in [
        format!("/api/v1/jobs?queue={encoded}"),
        format!("/api/v1/jobs?kind={encoded}"),
        format!("/api/v1/runs?source={encoded}&pipeline={encoded}"),
        format!("/api/v1/dead-letters?queue={encoded}"),
    ] {
        server.get(&path).await.ok(200);
    }
    server.get(&format!("/api/v1/jobs?state={encoded}")).await.refused(400, "invalid_query");
    server.get(&format!("/api/v1/jobs/{encoded}")).await.refused(400, "invalid_path");
    server.post(&format!("/api/v1/queues/{encoded}/pause")).await.ok(200);
    server.post(&format!("/api/v1/backups/{encoded}")).await.refused(404, "source_not_found");
    let cancel = format!("/api/v1/jobs/{id}/cancel");
    server.post_json(&cancel, &json!({"reason": sql})).await.ok(200);
    let job = server.get(&format!("/api/v1/jobs/{id}")).await.ok(200);
    assert!(job["cancel_reason"].as_str().unwrap().contains(sql), "{job}");
}
