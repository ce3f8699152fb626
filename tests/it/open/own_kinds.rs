//! examples/own-kind, a program outside the workspace, beside an unmodified API, scheduler and
//! console.

use std::time::Duration;

use relevo_jobs::{JobKind, KindSpec, UniqueUntil};
use relevo_queue::{Queue, UniqueScope};
use relevo_runs::{KindBook, dead_letters, kinds};
use relevo_tests::{Cluster, Process, TestDatabase, binary_path, free_port, wait_for};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::PgPool;

const LONG: Duration = Duration::from_secs(90);

/// Asks the API; the status and the answer.
async fn ask(cluster: &Cluster, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
    let request = cluster.request(method, path);
    let request = if body.is_null() { request } else { request.json(&body) };
    let answer = request.send().await.unwrap();
    (answer.status(), answer.json().await.unwrap_or_default())
}

async fn enqueue(cluster: &Cluster, payload: Value) -> (StatusCode, Value) {
    let job = json!({"kind": "Reprice", "payload": payload});
    ask(cluster, Method::POST, "/api/v1/jobs", job).await
}

async fn reaches(cluster: &Cluster, id: &Value, state: &str) -> Value {
    wait_for(&format!("job {id} to be {state}"), LONG, async || {
        let (_, job) = ask(cluster, Method::GET, &format!("/api/v1/jobs/{id}"), Value::Null).await;
        (job["state"] == state).then_some(job)
    })
    .await
}

/// What the example's jobs have kept.
async fn prices(cluster: &Cluster) -> Vec<(String, i64)> {
    sqlx::query_as("SELECT sku, cents FROM price ORDER BY sku")
        .fetch_all(cluster.control().pool())
        .await
        .unwrap()
}

/// The example's worker, once API and scheduler know what it runs.
async fn start_example(cluster: &Cluster) -> Process {
    sqlx::query("CREATE TABLE price (sku text PRIMARY KEY, cents bigint NOT NULL)")
        .execute(cluster.control().pool())
        .await
        .unwrap();
    binary_path("own-kind");
    let worker = Process::builder("own-kind")
        .args(["worker", "--kinds", "Reprice", "--concurrency", "2"])
        .args(["--listen", &format!("127.0.0.1:{}", free_port())])
        .env("RELEVO_CONFIG", cluster.config())
        .spawn();
    wait_for("the example's kind to be known", LONG, async || {
        let (_, kinds) = ask(cluster, Method::GET, "/api/v1/kinds", Value::Null).await;
        let kinds = kinds["kinds"].as_array().unwrap();
        kinds.iter().any(|kind| kind["kind"] == "Reprice").then_some(())
    })
    .await;
    worker
}

#[tokio::test]
async fn a_kind_that_nobody_else_was_built_with_is_served_by_all() {
    let cluster = Cluster::builder().workers(0).start().await;
    let (status, refused) = enqueue(&cluster, json!({"sku": "A-1", "cents": 5})).await;
    assert_eq!((status.as_u16(), &refused["code"]), (422, &json!("unknown_kind")), "{refused}");
    let worker = start_example(&cluster).await;

    // The API: what it is, what it takes, what it refuses.
    let (_, kinds) = ask(&cluster, Method::GET, "/api/v1/kinds", Value::Null).await;
    let kinds = kinds["kinds"].as_array().unwrap();
    assert_eq!(kinds.len(), JobKind::ALL.len() + 1);
    let kind = kinds.iter().find(|kind| kind["kind"] == "Reprice").unwrap();
    assert_eq!((&kind["built_in"], &kind["queue"]), (&json!(false), &json!("prices")));
    assert_eq!(kind["payload_schema"]["required"], json!(["sku", "cents"]));
    for payload in [json!({}), json!({"sku": "A-1", "cents": -1}), json!({"sku": 1, "cents": 1})] {
        let (status, refused) = enqueue(&cluster, payload).await;
        let code = (status.as_u16(), &refused["code"]);
        assert_eq!(code, (422, &json!("invalid_payload")), "{refused}");
    }
    let (status, taken) = enqueue(&cluster, json!({"sku": "A-1", "cents": 1250})).await;
    assert_eq!(status, StatusCode::ACCEPTED, "{taken}");
    let job = reaches(&cluster, &taken["id"], "completed").await;
    assert_eq!((&job["queue"], &job["max_attempts"]), (&json!("prices"), &json!(25)));
    assert_eq!(prices(&cluster).await, [("A-1".to_owned(), 1250)]);

    // A payload of the version before, from a producer that nobody has changed yet.
    let older = "SELECT id FROM relevo.enqueue('Reprice', $1, payload_version => 1)";
    let mut ids = Vec::new();
    for payload in [json!({"sku": "A-0", "euros": 3}), json!({"sku": "A-0"})] {
        let id: i64 = sqlx::query_scalar(older)
            .bind(payload)
            .fetch_one(cluster.control().pool())
            .await
            .unwrap();
        ids.push(json!(id));
        let state = if ids.len() == 1 { "completed" } else { "dead" };
        let job = reaches(&cluster, &json!(id), state).await;
        assert_eq!(job["payload_version"], 1);
    }
    assert!(prices(&cluster).await.contains(&("A-0".to_owned(), 300)));
    let dead = reaches(&cluster, &ids[1], "dead").await;
    assert!(dead["last_error"].as_str().unwrap().contains("the price is missing"), "{dead}");
    sqlx::query("DELETE FROM price WHERE sku = 'A-0'")
        .execute(cluster.control().pool())
        .await
        .unwrap();

    // What makes two jobs the same one comes from the kind.
    let (status, _) = ask(&cluster, Method::POST, "/api/v1/queues/prices/pause", Value::Null).await;
    assert!(status.is_success());
    let (_, first) = enqueue(&cluster, json!({"sku": "B-2", "cents": 1})).await;
    let (_, second) = enqueue(&cluster, json!({"sku": "B-2", "cents": 2})).await;
    assert_eq!((&second["id"], &second["duplicate"]), (&first["id"], &json!(true)));
    let (status, _) =
        ask(&cluster, Method::POST, "/api/v1/queues/prices/resume", Value::Null).await;
    assert!(status.is_success());
    reaches(&cluster, &first["id"], "completed").await;

    // The scheduler.
    let schedule = |cents: i64| json!({"rhythm": "every 1s", "kind": "Reprice", "payload": {"sku": "C-3", "cents": cents}});
    let path = "/api/v1/schedules/reprice";
    let (status, refused) = ask(&cluster, Method::PUT, path, schedule(-1)).await;
    assert_eq!(status.as_u16(), 422, "{refused}");
    let (status, stored) = ask(&cluster, Method::PUT, path, schedule(7)).await;
    assert_eq!(status, StatusCode::CREATED, "{stored}");
    wait_for("a fire of the schedule to be carried out", LONG, async || {
        prices(&cluster).await.contains(&("C-3".to_owned(), 7)).then_some(())
    })
    .await;
    let (status, _) = ask(&cluster, Method::DELETE, path, Value::Null).await;
    assert!(status.is_success());

    // The command line, and a dead letter that is mended: checked by the kind's own schema.
    let dear = r#"{"sku": "D-4", "cents": 900000000}"#;
    let enqueued =
        cluster.relevo(["job", "enqueue", "Reprice", "--payload", dear, "--json"]).await.json();
    let id = enqueued["id"].clone();
    let dead = reaches(&cluster, &id, "dead").await;
    assert!(dead["last_error"].as_str().unwrap().contains("costs a million"), "{dead}");
    let id_text = id.to_string();
    let edit = |payload: &'static str| {
        cluster
            .relevo(["dead", "edit", &id_text, "--payload", payload, "--retry"].map(str::to_owned))
    };
    let refused = edit(r#"{"sku": "D-4"}"#).await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(refused.stderr.contains("cents"), "{refused:?}");
    let _ = edit(r#"{"sku": "D-4", "cents": 9}"#).await.success();
    reaches(&cluster, &id, "completed").await;

    // The console.
    let page = console_page(&cluster, "/console/jobs?kind=Reprice").await;
    assert!(page.contains(r#"<option value="Reprice" selected"#), "{page}");
    assert!(page.contains(&format!("/console/jobs/{id}")), "{page}");

    worker.terminate();
    assert!(worker.wait_exit(LONG).await.success(), "{}", worker.output());
}

/// A page of the console, for who has the cluster's key.
async fn console_page(cluster: &Cluster, path: &str) -> String {
    let client =
        reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
    let answer = client
        .post(format!("{}/console/login", cluster.api_url()))
        .header("origin", cluster.api_url())
        .header("content-type", "application/x-www-form-urlencoded")
        .body(format!("key={}", cluster.api_key()))
        .send()
        .await
        .unwrap();
    let cookie = answer.headers()["set-cookie"].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap();
    let url = format!("{}{path}", cluster.api_url());
    let page = client.get(url).header("cookie", cookie).send().await.unwrap();
    assert!(page.status().is_success(), "{page:?}");
    page.text().await.unwrap()
}

#[tokio::test]
async fn a_program_refuses_kinds_it_does_not_run() {
    let database = TestDatabase::new().await;
    let worker = Process::builder("own-kind")
        .args(["worker", "--kinds", "Noop,Repriced"])
        .env("RELEVO_DATABASE_URL", database.url())
        .spawn();
    assert_eq!(worker.wait_exit(LONG).await.code(), Some(1), "{}", worker.output());
    let told = worker.output();
    assert!(told.contains("\"Repriced\"") && told.contains("Noop, Reprice"), "{told}");
}

fn spec(payload_version: i16, queue: &str) -> KindSpec {
    KindSpec {
        name: "Reprice".to_owned(),
        payload_version,
        queue: queue.to_owned(),
        ..KindSpec::of_built_in(JobKind::Noop)
    }
}

async fn known(pool: &PgPool) -> (i16, String) {
    let mut connection = pool.acquire().await.unwrap();
    let book = KindBook::load(&mut connection).await.unwrap();
    let spec = &book.find("Reprice").expect("the kind").spec;
    (spec.payload_version, spec.queue.clone())
}

#[tokio::test]
async fn an_older_build_does_not_take_a_kind_back_while_a_newer_one_runs() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    kinds::publish(pool, &[spec(2, "new")], "newer").await.unwrap();
    kinds::publish(pool, &[spec(1, "old")], "older").await.unwrap();
    assert_eq!(known(pool).await, (2, "new".to_owned()));
    // Of the same version, the last word counts.
    kinds::publish(pool, &[spec(2, "newest")], "newer").await.unwrap();
    assert_eq!(known(pool).await, (2, "newest".to_owned()));
    // Nobody has run the newer one for a while: it was rolled back.
    let aged = "UPDATE relevo.job_kind SET seen_at = now() - interval '6 minutes'";
    sqlx::query(aged).execute(pool).await.unwrap();
    kinds::publish(pool, &[spec(1, "old")], "older").await.unwrap();
    assert_eq!(known(pool).await, (1, "old".to_owned()));
    // What nobody runs any more is forgotten.
    let aged = "UPDATE relevo.job_kind SET seen_at = now() - interval '91 days'";
    sqlx::query(aged).execute(pool).await.unwrap();
    kinds::publish(pool, &[], "another").await.unwrap();
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM relevo.job_kind").fetch_one(pool).await.unwrap();
    assert_eq!(left, 0);
}

/// Makes a dead letter of the one job there is.
const BURY: &str = "
    WITH gone AS (DELETE FROM relevo.job RETURNING *)
    INSERT INTO relevo.dead_letter (id, lease_epoch, run_at, created_at, attempt, max_attempts,
                                    unique_scope, priority, deaths, max_deaths, payload_version,
                                    queue, kind, payload, unique_key, cause, last_error)
    SELECT id, lease_epoch, run_at, created_at, attempt, max_attempts, unique_scope, priority,
           deaths, max_deaths, payload_version, queue, kind, payload, unique_key, 'failed', 'no'
    FROM gone";

#[tokio::test]
async fn an_edited_dead_letter_has_the_key_of_its_new_payload_unless_its_producer_gave_it() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    let own = KindSpec {
        payload_schema: r#"{"type": "object"}"#.to_owned(),
        unique: Some(("sku".to_owned(), UniqueUntil::Finished)),
        ..spec(1, "prices")
    };
    kinds::publish(pool, &[own], "tests").await.unwrap();
    let queue = Queue::new(pool.clone());
    let payload = |sku: &str| serde_json::value::to_raw_value(&json!({"sku": sku})).unwrap();
    for (given, expected) in [(None, "kind/Reprice/b"), (Some("mine"), "mine")] {
        let mut tx = pool.begin().await.unwrap();
        let book = KindBook::load(&mut tx).await.unwrap();
        let mut job = book.job("Reprice", &payload("a")).unwrap();
        if let Some(key) = given {
            job = job.unique(key, UniqueScope::Finished);
        }
        let id = queue.enqueue_in(&mut tx, &[job]).await.unwrap()[0].id;
        sqlx::query(BURY).execute(&mut *tx).await.unwrap();
        dead_letters::edit_in(&mut tx, &queue, id, &payload("b")).await.unwrap();
        tx.commit().await.unwrap();
        let dead = queue.job(id).await.unwrap().unwrap();
        assert_eq!(dead.unique_key.as_deref(), Some(expected));
    }
}
