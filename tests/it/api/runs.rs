//! `/api/v1/runs` and `/api/v1/backups`.

use relevo_runs::{LogLevel, NewRun, RunId};
use serde_json::{Value, json};

use super::server::Server;

async fn start(server: &Server) -> RunId {
    let started = server.post("/api/v1/backups/sicar").await.ok(202);
    RunId(started["run_id"].as_i64().unwrap())
}

#[tokio::test]
async fn a_backup_is_started_and_its_run_can_be_followed() {
    let server = Server::start().await;
    let started = server.post_json("/api/v1/backups/sicar", &json!({"mode": "sync"})).await;
    assert_eq!(started.status, 202);
    let id = started.body["run_id"].as_i64().unwrap();
    assert_eq!(started.body, json!({"run_id": id, "source": "sicar", "mode": "sync"}));
    assert_eq!(started.headers["location"], format!("/api/v1/runs/{id}"));

    let run = server.get(&format!("/api/v1/runs/{id}")).await.ok(200);
    for (name, value) in [
        ("pipeline", json!("backup")),
        ("source", json!("sicar")),
        ("state", json!("pending")),
        ("trigger", json!("api:test")),
        ("options", json!({"mode": "sync"})),
        ("error", Value::Null),
        ("cancel_requested", json!(false)),
    ] {
        assert_eq!(run[name], value, "{name}");
    }
    let jobs = server.get(&format!("/api/v1/jobs?run_id={id}")).await.ok(200);
    assert_eq!(jobs["jobs"][0]["kind"], "RequestBackup");
    assert_eq!(jobs["jobs"][0]["payload"]["mode"], "sync");

    let log = server.get(&format!("/api/v1/runs/{id}/log")).await.ok(200);
    assert_eq!((&log["events"], &log["next_after"]), (&json!([]), &Value::Null));
    for line in ["first", "second", "third"] {
        server.deps.runs.log(RunId(id), LogLevel::Info, line, &json!({"n": 1})).await.unwrap();
    }
    let page = server.get(&format!("/api/v1/runs/{id}/log?limit=2")).await.ok(200);
    assert_eq!(page["events"][1]["message"], "second");
    let after = page["next_after"].as_i64().unwrap();
    let page = server.get(&format!("/api/v1/runs/{id}/log?after={after}")).await.ok(200);
    assert_eq!(page["events"].as_array().unwrap().len(), 1);
    assert_eq!(page["events"][0]["message"], "third");
    let after = page["next_after"].as_i64().unwrap();
    let page = server.get(&format!("/api/v1/runs/{id}/log?after={after}")).await.ok(200);
    assert_eq!((&page["events"], &page["next_after"]), (&json!([]), &json!(after)));
}

#[tokio::test]
async fn a_source_is_busy_until_its_run_ends() {
    let server = Server::start().await;
    let run = start(&server).await;
    let refused = server.post("/api/v1/backups/sicar").await;
    refused.refused(409, "run_active");
    assert_eq!(refused.body["run_id"], run.0);
    assert_eq!(server.jobs_of_kind("RequestBackup").await, 1, "no job without its run");

    let mut conn = server.db.pool().acquire().await.unwrap();
    assert!(server.deps.runs.fail_in(&mut conn, run, "gateway gone").await.unwrap());
    let next = start(&server).await;
    assert!(next > run);
}

#[tokio::test]
async fn many_starts_at_once_make_one_run() {
    let server = Server::start().await;
    let starts = (0..8).map(|_| server.post("/api/v1/backups/sicar")).collect::<Vec<_>>();
    let answers = futures::future::join_all(starts).await;
    let started = answers.iter().filter(|answer| answer.status == 202).count();
    let refused = answers.iter().filter(|answer| answer.status == 409).count();
    assert_eq!((started, refused), (1, 7));
    assert_eq!(server.jobs_of_kind("RequestBackup").await, 1);
}

#[tokio::test]
async fn a_start_that_cannot_work_is_refused() {
    let server = Server::start_with("").await;
    let refused = server.post("/api/v1/backups/sicra").await;
    refused.refused(404, "source_not_found");
    assert!(refused.body["detail"].as_str().unwrap().contains("did you mean sicar"));
    server.post("/api/v1/backups/zzzzzz").await.refused(404, "source_not_found");
    let path = "/api/v1/backups/sicar";
    // Without a public URL nobody can call back.
    server.post_json(path, &json!({"mode": "webhook"})).await.refused(422, "public_url_missing");
    server.post_json(path, &json!({"mode": "magic"})).await.refused(422, "invalid_body");
    server.post_json(path, &json!({"mood": "sync"})).await.refused(422, "invalid_body");
    server.post_text(path, "{").await.refused(400, "malformed_json");
    assert_eq!(server.get("/api/v1/runs").await.ok(200)["runs"], json!([]));
    let forced = server.post_json(path, &json!({"force": true})).await.ok(202);
    let run = server.get(&format!("/api/v1/runs/{}", forced["run_id"])).await.ok(200);
    assert_eq!(run["options"], json!({"mode": "auto", "force": true}));
}

#[tokio::test]
async fn runs_are_listed_by_page_and_filter() {
    let server = Server::start().await;
    let runs = &server.deps.runs;
    let mut conn = server.db.pool().acquire().await.unwrap();
    let mut ids = Vec::new();
    for nth in 0..5 {
        let run = NewRun {
            pipeline: "backup".to_owned(),
            source: format!("shop{}", nth % 2),
            trigger: "test".to_owned(),
            options: json!({}),
        };
        let id = runs.create_in(&mut conn, &run).await.unwrap();
        if nth != 4 {
            runs.fail_in(&mut conn, id, "no").await.unwrap();
        }
        ids.push(id.0);
    }
    let list = async |query: &str| -> Vec<i64> {
        let page = server.get(&format!("/api/v1/runs?{query}")).await.ok(200);
        page["runs"].as_array().unwrap().iter().map(|run| run["id"].as_i64().unwrap()).collect()
    };
    assert_eq!(list("").await, [ids[4], ids[3], ids[2], ids[1], ids[0]]);
    assert_eq!(list("limit=2").await, [ids[4], ids[3]]);
    assert_eq!(list(&format!("limit=2&before={}", ids[3])).await, [ids[2], ids[1]]);
    assert_eq!(list("source=shop1").await, [ids[3], ids[1]]);
    assert_eq!(list("state=failed&source=shop0").await, [ids[2], ids[0]]);
    assert_eq!(list("state=pending").await, [ids[4]]);
    assert_eq!(list("pipeline=other").await, [] as [i64; 0]);
    let page = server.get("/api/v1/runs?limit=5").await.ok(200);
    assert_eq!(page["next_before"], ids[0]);
    let page = server.get("/api/v1/runs?limit=6").await.ok(200);
    assert_eq!(page["next_before"], Value::Null);
    for query in ["state=done", "limit=0", "limit=501", "x=1", "source=%00", "before=a"] {
        server.get(&format!("/api/v1/runs?{query}")).await.refused(400, "invalid_query");
    }
}

#[tokio::test]
async fn a_run_that_is_not_there() {
    let server = Server::start().await;
    server.get("/api/v1/runs/9").await.refused(404, "run_not_found");
    server.get("/api/v1/runs/9/log").await.refused(404, "run_not_found");
    server.post("/api/v1/runs/9/cancel").await.refused(404, "run_not_found");
    server.get("/api/v1/runs/nine").await.refused(400, "invalid_path");
    let run = start(&server).await;
    for query in ["limit=0", "limit=1001", "after=x", "before=1"] {
        let path = format!("/api/v1/runs/{run}/log?{query}");
        server.get(&path).await.refused(400, "invalid_query");
    }
}

#[tokio::test]
async fn cancelling_a_run_cancels_its_jobs() {
    let server = Server::start().await;
    let run = start(&server).await;
    let path = format!("/api/v1/runs/{run}/cancel");
    let cancelled = server.post_json(&path, &json!({"reason": "wrong day"})).await.ok(202);
    assert_eq!(cancelled, json!({"id": run, "outcome": "requested", "jobs_cancelled": 1}));
    let shown = server.get(&format!("/api/v1/runs/{run}")).await.ok(200);
    assert_eq!((&shown["cancel_requested"], &shown["state"]), (&json!(true), &json!("pending")));
    let jobs = server.get(&format!("/api/v1/jobs?run_id={run}")).await.ok(200);
    assert_eq!(jobs["jobs"][0]["state"], "cancelled");
    let log = server.get(&format!("/api/v1/runs/{run}/log")).await.ok(200);
    assert_eq!(log["events"][0]["message"], "cancel requested: by api:test: wrong day");

    // Again: nothing left to cancel, and only one line in the log.
    assert_eq!(server.post(&path).await.ok(202)["jobs_cancelled"], 0);
    let mut conn = server.db.pool().acquire().await.unwrap();
    assert!(server.deps.runs.cancel_in(&mut conn, run).await.unwrap());
    assert_eq!(server.post(&path).await.ok(200), json!({"id": run, "outcome": "cancelled"}));

    let next = start(&server).await;
    server.deps.runs.start_in(&mut conn, next).await.unwrap();
    let stats = json!({});
    assert!(server.deps.runs.succeed_in(&mut conn, next, &stats, None).await.unwrap());
    let refused = server.post(&format!("/api/v1/runs/{next}/cancel")).await;
    refused.refused(409, "run_ended");
    assert_eq!(refused.body["state"], "succeeded");
}
