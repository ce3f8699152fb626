//! Workers over HTTP: the protocol itself, and examples/python-worker beside a cluster that has no
//! worker of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use relevo_tests::{Cluster, Process, wait_for};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(90);

/// Asks the API with a key; the status and the answer.
async fn ask(cluster: &Cluster, key: &str, path: &str, body: Value) -> (u16, Value) {
    let url = format!("{}/api/v1{path}", cluster.api_url());
    let request = reqwest::Client::new().post(url).header("X-API-Key", key).json(&body);
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap_or_default())
}

async fn job(cluster: &Cluster, id: &Value) -> Value {
    let path = format!("/api/v1/jobs/{id}");
    cluster.request(Method::GET, &path).send().await.unwrap().json().await.unwrap()
}

async fn reaches(cluster: &Cluster, id: &Value, state: &str) -> Value {
    wait_for(&format!("job {id} to be {state}"), LONG, async || {
        let job = job(cluster, id).await;
        (job["state"] == state).then_some(job)
    })
    .await
}

async fn enqueue(cluster: &Cluster, kind: &str, payload: Value) -> Value {
    let request = cluster.request(Method::POST, "/api/v1/jobs");
    let answer = request.json(&json!({"kind": kind, "payload": payload})).send().await.unwrap();
    let status = answer.status();
    let body: Value = answer.json().await.unwrap();
    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    body["id"].clone()
}

/// A key that may work and nothing else.
async fn work_key(cluster: &Cluster, name: &str) -> String {
    let made = cluster.relevo(["key", "create", "--name", name, "--scope", "work", "--json"]).await;
    made.success().json()["secret"].as_str().unwrap().to_owned()
}

/// A session of a worker that runs the kind `Echo`.
async fn open(cluster: &Cluster, key: &str) -> Value {
    let kind = json!({"kind": "Echo", "summary": "Says it again.", "queue": "echo",
        "payload_schema": {"type": "object", "required": ["text"]}, "max_attempts": 2});
    let worker = json!({"name": "by hand", "kinds": [kind], "slots": 4, "lease_seconds": 600});
    let (status, opened) = ask(cluster, key, "/work/sessions", worker).await;
    assert_eq!(status, 200, "{opened}");
    opened["session"].clone()
}

/// Claims until there is a job.
async fn claim(cluster: &Cluster, key: &str, session: &Value, number: i64) -> Value {
    let asked = json!({"session": session, "claim": number, "wait_seconds": 20});
    let (status, answer) = ask(cluster, key, "/work/claim", asked).await;
    assert_eq!(status, 200, "{answer}");
    answer["jobs"][0].clone()
}

fn finished(session: &Value, job: &Value, outcome: &str) -> Value {
    json!({"session": session, "jobs": [
        {"id": job["id"], "epoch": job["epoch"], "outcome": outcome, "error": "as told"}]})
}

#[tokio::test]
async fn a_worker_over_http_claims_finishes_and_is_fenced() {
    let cluster = Cluster::builder().workers(0).start().await;
    let (key, other) = (work_key(&cluster, "one").await, work_key(&cluster, "two").await);
    let session = open(&cluster, &key).await;
    let id = enqueue(&cluster, "Echo", json!({"text": "ñ"})).await;
    let noop = enqueue(&cluster, "Noop", json!({})).await;

    // A claim whose answer was lost brings the same job again.
    let first = claim(&cluster, &key, &session, 1).await;
    assert_eq!((&first["id"], &first["payload"]), (&id, &json!({"text": "ñ"})));
    assert_eq!(claim(&cluster, &key, &session, 1).await, first);

    // Another key can do nothing with it.
    for (path, body) in [
        ("/work/heartbeat", json!({"session": session})),
        ("/work/claim", json!({"session": session, "claim": 9})),
    ] {
        let (status, refused) = ask(&cluster, &other, path, body).await;
        assert_eq!((status, &refused["code"]), (409, &json!("session_ended")), "{refused}");
    }
    let (status, refused) =
        ask(&cluster, &other, "/work/finish", finished(&session, &first, "completed")).await;
    assert_eq!((status, &refused["stale"]), (409, &json!([id])), "{refused}");

    // A retry raises the epoch: what the earlier run still says changes nothing.
    let mut again = finished(&session, &first, "retry");
    again["jobs"][0]["delay_seconds"] = json!(0);
    let (status, answer) = ask(&cluster, &key, "/work/finish", again).await;
    assert_eq!((status, &answer["written"]), (200, &json!([id])), "{answer}");
    let second = claim(&cluster, &key, &session, 2).await;
    assert_eq!((&second["id"], &second["attempt"]), (&id, &json!(2)));
    let (status, refused) =
        ask(&cluster, &key, "/work/finish", finished(&session, &first, "completed")).await;
    assert_eq!((status, &refused["code"]), (409, &json!("lease_lost")), "{refused}");
    assert_eq!(job(&cluster, &id).await["state"], "running");

    // A cancel arrives with the next heartbeat; an outcome may be told twice.
    let (status, _) =
        ask(&cluster, cluster.api_key(), &format!("/jobs/{id}/cancel"), json!({})).await;
    assert!(status < 300);
    let (_, beat) = ask(&cluster, &key, "/work/heartbeat", json!({"session": session})).await;
    let stop = json!([{"id": id, "epoch": second["epoch"], "reason": "cancelled"}]);
    assert_eq!(beat["stop"], stop);
    let over = finished(&session, &second, "cancelled");
    let (status, answer) = ask(&cluster, &key, "/work/finish", over.clone()).await;
    assert_eq!((status, &answer["written"]), (200, &json!([id])), "{answer}");
    let (status, answer) = ask(&cluster, &key, "/work/finish", over).await;
    assert_eq!((status, &answer["repeated"]), (200, &json!([id])), "{answer}");
    assert_eq!(job(&cluster, &id).await["state"], "cancelled");

    // The last attempt fails: a dead letter. Progress is shown, and what ends gives back.
    let id = enqueue(&cluster, "Echo", json!({"text": "b"})).await;
    let third = claim(&cluster, &key, &session, 3).await;
    let told =
        json!({"session": session, "id": id, "epoch": third["epoch"], "done": 3, "total": 7});
    let (status, _) = ask(&cluster, &key, "/work/progress", told).await;
    assert_eq!(status, 204);
    let (status, _) =
        ask(&cluster, &key, "/work/finish", finished(&session, &third, "failed")).await;
    assert_eq!(status, 200);
    assert_eq!(reaches(&cluster, &id, "dead").await["last_error"], "as told");
    let id = enqueue(&cluster, "Echo", json!({"text": "c"})).await;
    claim(&cluster, &key, &session, 4).await;
    let (_, ended) = ask(&cluster, &key, &format!("/work/sessions/{session}/end"), json!({})).await;
    assert_eq!(ended["ended"], true);
    let back = reaches(&cluster, &id, "available").await;
    assert_eq!(back["attempt"], 0, "{back}");
    assert_eq!(job(&cluster, &noop).await["state"], "available", "nobody here knows its kind");
}

#[tokio::test]
async fn what_no_worker_can_be_is_refused() {
    let cluster = Cluster::builder().workers(0).without_scheduler().start().await;
    let key = work_key(&cluster, "one").await;
    let schema = json!({"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:9/"}}});
    for kind in [
        json!({"kind": "Noop", "summary": "Relevo's own."}),
        json!({"kind": "1st", "summary": "No name."}),
        json!({"kind": "Far", "summary": "Leads elsewhere.", "payload_schema": schema}),
        json!({"kind": "Twice", "summary": "Two.", "payload_schema": {"type": "object"}}),
        json!({"kind": "Nul", "summary": "No \u{0}."}),
    ] {
        let worker = json!({"name": "by hand", "kinds": [kind, kind]});
        let (status, refused) = ask(&cluster, &key, "/work/sessions", worker).await;
        assert_eq!((status, &refused["code"]), (422, &json!("invalid_kind")), "{refused}");
    }
    let (status, refused) = ask(&cluster, &key, "/jobs", json!({"kind": "Noop"})).await;
    assert_eq!((status, &refused["code"]), (403, &json!("missing_scope")), "{refused}");
}

/// The folder of the example.
fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/python-worker")
}

fn start_python(cluster: &Cluster, key: &str, prices: &Path) -> Process {
    Process::program(Path::new("python3"))
        .args(["-B", "prices.py"])
        .current_dir(&example())
        .env("RELEVO_URL", cluster.api_url())
        .env("RELEVO_API_KEY", key)
        .env("PRICES", prices)
        .env("LEASE", "10")
        .spawn()
}

async fn appears(path: PathBuf) -> String {
    wait_for(&path.display().to_string(), LONG, async || std::fs::read_to_string(&path).ok()).await
}

#[tokio::test]
async fn a_worker_in_python_is_a_worker_like_any_other() {
    let cluster = Cluster::builder().workers(0).start().await;
    let key = work_key(&cluster, "python").await;
    let folder = TempDir::new().unwrap();
    let python = start_python(&cluster, &key, folder.path());
    wait_for("the kind to be known", LONG, async || {
        let answer = cluster.request(Method::GET, "/api/v1/kinds").send().await.unwrap();
        let kinds: Value = answer.json().await.unwrap();
        let kinds = kinds["kinds"].as_array().unwrap();
        kinds.iter().any(|kind| kind["kind"] == "PyReprice").then_some(())
    })
    .await;

    // Its schema is held to; it retries by its backoff; what it gives up is a dead letter.
    let wrong = json!({"kind": "PyReprice", "payload": {"sku": "A-1", "cents": "5"}});
    let (status, refused) = ask(&cluster, cluster.api_key(), "/jobs", wrong).await;
    assert_eq!((status, &refused["code"]), (422, &json!("invalid_payload")), "{refused}");
    let fails = enqueue(&cluster, "PyReprice", json!({"sku": "A-1", "cents": 5, "fails": 1})).await;
    let dear = enqueue(&cluster, "PyReprice", json!({"sku": "B-2", "cents": 2_000_000})).await;
    assert_eq!(reaches(&cluster, &fails, "completed").await["attempt"], 2);
    assert_eq!(appears(folder.path().join("A-1")).await, "5");
    let dead = reaches(&cluster, &dear, "dead").await;
    assert!(dead["last_error"].as_str().unwrap().contains("never costs"), "{dead}");

    // A cancel reaches a handler at work.
    let long = json!({"sku": "C-3", "cents": 1, "takes_seconds": 600});
    let long = enqueue(&cluster, "PyReprice", long).await;
    appears(folder.path().join("C-3.begun")).await;
    let cancel = format!("/jobs/{long}/cancel");
    assert!(ask(&cluster, cluster.api_key(), &cancel, json!({})).await.0 < 300);
    reaches(&cluster, &long, "cancelled").await;

    // Killed in the middle: another one runs the job.
    let slow = json!({"sku": "D-4", "cents": 4, "takes_seconds": 2});
    let slow = enqueue(&cluster, "PyReprice", slow).await;
    let epoch = appears(folder.path().join("D-4.begun")).await;
    python.kill();
    let python = start_python(&cluster, &key, folder.path());
    let done = reaches(&cluster, &slow, "completed").await;
    assert_eq!(done["attempt"], 1, "a death spends no attempt: {done}");
    assert_eq!(appears(folder.path().join("D-4")).await, "4");
    let second = std::fs::read_to_string(folder.path().join("D-4.begun")).unwrap();
    assert!(second.parse::<i64>().unwrap() > epoch.parse().unwrap(), "{epoch} {second}");

    // SIGTERM: what runs ends first.
    let last = json!({"sku": "E-5", "cents": 5, "takes_seconds": 2});
    let last = enqueue(&cluster, "PyReprice", last).await;
    appears(folder.path().join("E-5.begun")).await;
    python.terminate();
    let status = python.wait_exit(LONG).await;
    assert!(status.success(), "{status:?} {}", python.output());
    assert_eq!(job(&cluster, &last).await["state"], "completed");
}
