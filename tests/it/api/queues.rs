//! `/api/v1/queues`.

use serde_json::{Value, json};

use super::server::Server;

async fn queue(server: &Server, name: &str) -> Option<Value> {
    let listed = server.get("/api/v1/queues").await.ok(200);
    listed["queues"].as_array().unwrap().iter().find(|queue| queue["queue"] == name).cloned()
}

#[tokio::test]
async fn queues_say_what_waits_in_them() {
    let server = Server::start().await;
    assert_eq!(server.get("/api/v1/queues").await.ok(200), json!({"queues": []}));
    for body in [
        json!({"kind": "Noop"}),
        json!({"kind": "Noop"}),
        json!({"kind": "Noop", "delay_seconds": 60}),
    ] {
        server.post_json("/api/v1/jobs", &body).await.ok(202);
    }
    let default = queue(&server, "default").await.unwrap();
    assert_eq!((&default["available"], &default["scheduled"]), (&json!(2), &json!(1)));
    assert_eq!((&default["dead"], &default["paused"]), (&json!(0), &json!(false)));
    assert!(default["oldest_available"].is_string());
}

#[tokio::test]
async fn how_much_work_there_is_is_always_a_number() {
    let server = Server::start().await;
    let nothing = json!({"work": 0, "available": 0, "running": 0});
    assert_eq!(server.get("/api/v1/work").await.ok(200), nothing);
    // Another one: a count serves for some seconds.
    let server = Server::start().await;
    for body in [
        json!({"kind": "Noop"}),
        json!({"kind": "Noop", "queue": "other"}),
        json!({"kind": "Noop", "queue": "third"}),
        json!({"kind": "Noop", "delay_seconds": 60}),
    ] {
        server.post_json("/api/v1/jobs", &body).await.ok(202);
    }
    let answer = json!({"work": 3, "available": 3, "running": 0});
    assert_eq!(server.get("/api/v1/work").await.ok(200), answer);
    for (path, count) in [("?queue=default,other", 2), ("?queue=third", 1), ("?queue=none", 0)] {
        let answer = server.get(&format!("/api/v1/work{path}")).await.ok(200);
        assert_eq!(answer["work"], count, "{path}");
    }
    server.get("/api/v1/work?qeue=x").await.refused(400, "invalid_query");
}

#[tokio::test]
async fn a_queue_is_paused_and_resumed() {
    let server = Server::start().await;
    let answer = |paused, changed| json!({"queue": "q", "paused": paused, "changed": changed});
    assert_eq!(server.post("/api/v1/queues/q/pause").await.ok(200), answer(true, true));
    assert_eq!(server.post("/api/v1/queues/q/pause").await.ok(200), answer(true, false));
    assert_eq!(queue(&server, "q").await.unwrap()["paused"], true);
    assert_eq!(server.post("/api/v1/queues/q/resume").await.ok(200), answer(false, true));
    assert_eq!(server.post("/api/v1/queues/q/resume").await.ok(200), answer(false, false));
    let long = "q".repeat(101);
    server.post(&format!("/api/v1/queues/{long}/pause")).await.refused(422, "invalid_job");
    server.post("/api/v1/queues/a%00b/pause").await.refused(400, "invalid_path");
}

#[tokio::test]
async fn a_limit_is_set_holds_back_and_is_removed() {
    let server = Server::start().await;
    assert_eq!(server.get("/api/v1/limits").await.ok(200), json!({"limits": []}));
    let set = json!({"concurrency": 1, "rate": 100, "period_seconds": 60});
    let answer = server.post_json("/api/v1/limits/mail", &set).await.ok(200);
    assert_eq!(answer, json!({"limit": "mail"}));
    let job = json!({"kind": "Noop", "limit_key": "mail", "ordering_key": "a", "on_dead": "skip"});
    let first = server.post_json("/api/v1/jobs", &job).await.ok(202)["id"].clone();
    server.post_json("/api/v1/jobs", &job).await.ok(202);
    let other = json!({"kind": "Noop", "limit_key": "mail"});
    server.post_json("/api/v1/jobs", &other).await.ok(202);
    let default = queue(&server, "default").await.unwrap();
    assert_eq!((&default["available"], &default["waiting"]), (&json!(1), &json!(2)));
    let held = server.get("/api/v1/jobs?state=waiting").await.ok(200);
    assert_eq!(held["jobs"][1]["ordering_key"], "a");
    assert_eq!(held["jobs"][0]["limit_key"], "mail");
    let limits = server.get("/api/v1/limits").await.ok(200);
    let mail = &limits["limits"][0];
    assert_eq!((&mail["concurrency"], &mail["rate"]), (&json!(1), &json!(100)));
    assert_eq!(
        (&mail["live"], &mail["waiting"], &mail["begun"]),
        (&json!(1), &json!(1), &json!(0))
    );

    // The cancelled one makes room.
    server.post(&format!("/api/v1/jobs/{first}/cancel")).await.ok(200);
    let removed = server.post("/api/v1/limits/mail/remove").await.ok(200);
    assert_eq!(removed, json!({"limit": "mail", "removed": true}));
    let removed = server.post("/api/v1/limits/mail/remove").await.ok(200);
    assert_eq!(removed["removed"], json!(false));

    for nonsense in [json!({}), json!({"rate": 5}), json!({"concurrency": 1, "period_seconds": 5})]
    {
        server.post_json("/api/v1/limits/mail", &nonsense).await.refused(422, "invalid_limit");
    }
    let lonely = json!({"kind": "Noop", "on_dead": "skip"});
    server.post_json("/api/v1/jobs", &lonely).await.refused(422, "invalid_body");
}
