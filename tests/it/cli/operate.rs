//! The commands that look at the control plane and change it; the shapes of their JSON.

use std::process::Stdio;
use std::time::Duration;

use relevo_tests::{Process, TestDatabase, binary_path, wait_for};
use serde_json::{Value, json};

use super::Relevo;

const LONG: Duration = Duration::from_secs(60);

/// A worker or scheduler on the database of `relevo`, quicker than usual.
pub fn service(relevo: &Relevo, name: &str) -> Process {
    relevo
        .environment()
        .iter()
        .fold(Process::builder("relevo"), |builder, (name, value)| builder.env(name, value))
        .arg(name)
        .env("RELEVO_WORKER_POLL_INTERVAL_MS", "200")
        .env("RELEVO_SCHEDULER_UPKEEP_INTERVAL_MS", "200")
        .current_dir(relevo.folder())
        .spawn()
}

async fn state(relevo: &Relevo, id: i64) -> String {
    let job = relevo.json(&["job", "show", &id.to_string()]).await;
    job["state"].as_str().unwrap().to_owned()
}

async fn wait_state(relevo: &Relevo, id: i64, wanted: &str) {
    wait_for(&format!("job {id} to be {wanted}"), LONG, async || {
        (state(relevo, id).await == wanted).then_some(())
    })
    .await;
}

async fn enqueue(relevo: &Relevo, args: &[&str]) -> i64 {
    let answer = relevo.json(&[&["job", "enqueue", "Noop"], args].concat()).await;
    assert_eq!(answer["duplicate"], false, "{answer}");
    answer["id"].as_i64().unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// Every one of these is in the document: names are never taken away.
pub fn assert_has(value: &Value, names: &[&str]) {
    for name in names {
        assert!(keys(value).contains(name), "{name} is missing in {value}");
    }
}

#[tokio::test]
async fn a_job_goes_from_enqueue_to_completed() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    let id = enqueue(&relevo, &[]).await;
    assert_eq!(state(&relevo, id).await, "available");
    let worker = service(&relevo, "worker");
    wait_state(&relevo, id, "completed").await;
    worker.terminate();
    assert!(worker.wait_exit(LONG).await.success(), "{}", worker.output());

    let job = relevo.json(&["job", "show", &id.to_string()]).await;
    assert_has(
        &job,
        &[
            "id",
            "kind",
            "queue",
            "state",
            "priority",
            "payload",
            "attempt",
            "max_attempts",
            "run_at",
            "created_at",
            "finished_at",
            "run_id",
            "last_error",
            "progress",
        ],
    );
    assert_eq!((&job["kind"], &job["attempt"]), (&Value::from("Noop"), &Value::from(1)));
    let list = relevo.json(&["job", "list", "--kind", "Noop", "--state", "completed"]).await;
    assert_eq!(list[0]["id"], id);
    let text = relevo.ok(&["job", "list"]).await;
    assert!(text.starts_with("ID") && text.contains("completed"), "{text}");
    let text = relevo.ok(&["job", "show", &id.to_string()]).await;
    assert!(text.contains("completed") && text.contains("1 of"), "{text}");
}

#[tokio::test]
async fn keys_delays_and_cancel() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    let later = enqueue(&relevo, &["--delay", "3600", "--priority", "-5"]).await;
    assert_eq!(state(&relevo, later).await, "scheduled");
    let retried = relevo.json(&["job", "retry", &later.to_string()]).await;
    assert_eq!(retried["outcome"], "retried");
    assert_eq!(state(&relevo, later).await, "available");

    for key in ["--idempotency-key", "--unique-key"] {
        let first = enqueue(&relevo, &[key, "nightly"]).await;
        let second = relevo.json(&["job", "enqueue", "Noop", key, "nightly"]).await;
        assert_eq!(second["id"], first);
        assert_eq!(second["duplicate"], true);
    }
    let cancelled = relevo.json(&["job", "cancel", &later.to_string()]).await;
    assert_eq!(cancelled["outcome"], "cancelled");
    assert_eq!(state(&relevo, later).await, "cancelled");
    relevo.refuses(&["job", "cancel", &later.to_string()], 1, &["cancelled already"]).await;
    relevo.refuses(&["dead", "retry", &later.to_string()], 1, &["no dead letter"]).await;
}

#[tokio::test]
async fn dead_letters_are_listed_retried_and_discarded() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    let fatal = r#"{"fail": "fatal"}"#;
    let first = enqueue(&relevo, &["--payload", fatal]).await;
    let second = enqueue(&relevo, &["--payload", fatal]).await;
    let running = service(&relevo, "worker");
    wait_state(&relevo, first, "dead").await;
    wait_state(&relevo, second, "dead").await;
    running.terminate();
    running.wait_exit(LONG).await;

    let dead = relevo.json(&["dead", "list"]).await;
    assert_eq!(dead.as_array().unwrap().len(), 2);
    assert!(dead[0]["last_error"].as_str().is_some_and(|error| !error.is_empty()));
    let queues = relevo.json(&["queue", "list"]).await;
    assert_has(
        &queues[0],
        &[
            "queue",
            "available",
            "running",
            "scheduled",
            "retryable",
            "dead",
            "oldest_available",
            "paused",
        ],
    );
    relevo.ok(&["dead", "retry", &first.to_string()]).await;
    assert_eq!(state(&relevo, first).await, "available");
    let discarded = relevo.json(&["dead", "discard", &second.to_string()]).await;
    assert_eq!(discarded["discarded"], true);
    assert_eq!(relevo.json(&["dead", "list"]).await.as_array().unwrap().len(), 0);
    assert!(relevo.ok(&["dead", "list"]).await.contains("no dead letters"));
}

#[tokio::test]
async fn dead_letters_are_exported_mended_and_acted_on_together() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    let mut ids = Vec::new();
    for tag in 0..4 {
        let payload = format!(r#"{{"fail": "fatal", "tag": {tag}}}"#);
        ids.push(enqueue(&relevo, &["--payload", &payload]).await);
    }
    let running = service(&relevo, "worker");
    for id in &ids {
        wait_state(&relevo, *id, "dead").await;
    }
    running.terminate();
    running.wait_exit(LONG).await;

    let lines = relevo.ok(&["dead", "export", "--kind", "Noop"]).await;
    let exported: Vec<serde_json::Value> =
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(exported.len(), 4);
    assert_eq!((&exported[0]["id"], &exported[0]["payload"]["tag"]), (&ids[3].into(), &3.into()));
    assert!(relevo.ok(&["dead", "export", "--queue", "elsewhere"]).await.is_empty());

    let first = ids[0].to_string();
    let edit = ["dead", "edit", &first, "--payload"];
    relevo.refuses(&[&edit[..], &[r#"{"nonsense": 1}"#]].concat(), 2, &["nonsense"]).await;
    relevo.refuses(&[&edit[..], &["{"]].concat(), 2, &["isn't JSON"]).await;
    relevo.refuses(&["dead", "edit", "4711", "--payload", "{}"], 5, &["no job 4711"]).await;
    assert_eq!(state(&relevo, ids[0]).await, "dead");
    let mended = relevo.json(&[&edit[..], &[r#"{"tag": 17}"#, "--retry"]].concat()).await;
    assert_eq!(mended["retried"], true);
    let job = relevo.json(&["job", "show", &first]).await;
    assert_eq!((&job["state"], &job["payload"]["tag"]), (&"available".into(), &17.into()));
    relevo.refuses(&[&edit[..], &["{}"]].concat(), 1, &["no dead letter"]).await;

    // Counted, refused for another number, done.
    relevo.refuses(&["dead", "retry"], 2, &["required"]).await;
    let before = ids[2].to_string();
    let older = ["dead", "discard", "--kind", "Noop", "--before", &before];
    assert!(relevo.ok(&older).await.contains("--expected 1"));
    assert_eq!(relevo.json(&older).await["matching"], 1);
    relevo.refuses(&[&older[..], &["--expected", "2"]].concat(), 1, &["1 match by now"]).await;
    let done = relevo.json(&[&older[..], &["--expected", "1"]].concat()).await;
    assert_eq!(done["changed"], 1);
    assert_eq!(state(&relevo, ids[1]).await, "cancelled");
    // What changes nothing leaves no line in the audit log.
    let none = ["dead", "discard", "--queue", "elsewhere", "--expected", "0"];
    assert_eq!(relevo.json(&none).await["changed"], 0);
    let all = ["dead", "retry", "--all", "--expected", "2"];
    assert_eq!(relevo.json(&all).await["changed"], 2);
    assert_eq!(state(&relevo, ids[3]).await, "available");
    let log = relevo.json(&["audit", "list"]).await;
    let actions: Vec<&str> =
        log.as_array().unwrap().iter().filter_map(|entry| entry["action"].as_str()).collect();
    let expected = ["dead_letter.retry_many", "dead_letter.discard_many", "dead_letter.edit"];
    assert_eq!(actions, expected);
}

#[tokio::test]
async fn a_paused_queue_waits() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    let queue = relevo.json(&["job", "show", &enqueue(&relevo, &[]).await.to_string()]).await;
    let queue = queue["queue"].as_str().unwrap().to_owned();
    assert_eq!(relevo.json(&["queue", "pause", &queue]).await["changed"], true);
    assert_eq!(relevo.json(&["queue", "pause", &queue]).await["changed"], false);
    assert!(relevo.ok(&["queue", "pause", "bakcup"]).await.contains("is its name right?"));
    assert_eq!(relevo.json(&["queue", "pause", "backup"]).await["known"], true);
    let held = enqueue(&relevo, &[]).await;
    let open = enqueue(&relevo, &["--queue", "elsewhere"]).await;
    let running = service(&relevo, "worker");
    wait_state(&relevo, open, "completed").await;
    assert_eq!(state(&relevo, held).await, "available");
    assert!(relevo.ok(&["queue", "list"]).await.contains("paused"));
    assert_eq!(relevo.json(&["queue", "resume", &queue]).await["paused"], false);
    wait_state(&relevo, held, "completed").await;
    running.terminate();
    running.wait_exit(LONG).await;
}

#[tokio::test]
async fn api_keys_show_their_secret_once() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    let args = ["key", "create", "--name", "shop", "--scope", "enqueue", "--scope", "read"];
    let made = relevo.json(&args).await;
    let secret = made["secret"].as_str().unwrap();
    assert!(secret.starts_with("rk_"));
    assert_eq!(made["key"]["scopes"], serde_json::json!(["enqueue", "read"]));
    let id = made["key"]["id"].as_i64().unwrap().to_string();
    let list = relevo.json(&["key", "list"]).await;
    assert_has(&list[0], &["id", "name", "prefix", "scopes", "created_at", "revoked_at"]);
    assert!(!list.to_string().contains(secret));
    assert_eq!(relevo.json(&["key", "revoke", &id]).await["revoked"], true);
    relevo.refuses(&["key", "revoke", &id], 5, &["opens nothing any more"]).await;

    let made = relevo.json(&["key", "create", "--name", "erp", "--scope", "read,operate"]).await;
    let old = made["key"]["id"].as_i64().unwrap().to_string();
    let rotated = relevo.json(&["key", "rotate", &old, "--overlap", "0"]).await;
    assert_eq!(rotated["key"]["scopes"], serde_json::json!(["read", "operate"]));
    assert_ne!(rotated["secret"], made["secret"]);
    relevo.refuses(&["key", "rotate", &old], 5, &["opens nothing any more"]).await;
    relevo.refuses(&["key", "rotate", "4711"], 5, &["no key 4711", "key list"]).await;
    let log = relevo.json(&["audit", "list", "--action", "key.rotate"]).await;
    assert_eq!((log.as_array().unwrap().len(), &log[0]["object"]), (1, &old.into()));
    assert!(relevo.ok(&["audit", "list"]).await.contains("key.revoke"));
}

#[tokio::test]
async fn schedules_are_added_listed_changed_and_removed() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    let add = |cron: &'static str| {
        [
            "schedule",
            "add",
            "nightly",
            "--cron",
            cron,
            "--kind",
            "Noop",
            "--timezone",
            "America/Mexico_City",
        ]
    };
    let added = relevo.json(&add("30 2 * * *")).await;
    assert!(added["next_slot"].as_str().unwrap().contains("T08:30:00"), "{added}");
    relevo.ok(&add("0 3 * * *")).await;
    let list = relevo.json(&["schedule", "list"]).await;
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_has(
        &list[0],
        &[
            "name",
            "origin",
            "active",
            "rhythm",
            "timezone",
            "starts",
            "missed_runs",
            "next_slot",
            "last_slot",
            "last_outcome",
            "last_reason",
            "last_run_id",
            "last_job_id",
        ],
    );
    assert_eq!(list[0]["rhythm"], "cron 0 3 * * *");
    let text = relevo.ok(&["schedule", "list"]).await;
    assert!(text.contains("nightly") && text.contains("job Noop"), "{text}");
    let edit = ["schedule", "edit", "nightly", "--every", "15m", "--jitter", "20"];
    relevo.ok(&edit).await;
    let shown = relevo.json(&["schedule", "show", "nightly", "--slots", "7"]).await;
    assert_eq!((&shown["rhythm"], &shown["jitter_seconds"]), (&json!("every 15m"), &json!(20)));
    assert_eq!(shown["timezone"], "America/Mexico_City", "what isn't given stays");
    assert_eq!(shown["next_slots"].as_array().unwrap().len(), 7);
    relevo.refuses(&["schedule", "edit", "nightly", "--every", "often"], 2, &["every 15m"]).await;
    let text = relevo.ok(&["schedule", "disable", "nightly"]).await;
    assert!(text.contains("rests"), "{text}");
    let started = relevo.json(&["schedule", "run", "nightly"]).await;
    let job = relevo.json(&["job", "show", &started["job_id"].to_string()]).await;
    assert_eq!(job["kind"], "Noop", "also while it rests");
    let text = relevo.ok(&["schedule", "enable", "nightly"]).await;
    assert!(text.contains("next slot"), "{text}");
    for verb in ["show", "enable", "disable", "run", "remove"] {
        relevo.refuses(&["schedule", verb, "none"], 5, &["no schedule `none`"]).await;
    }
    relevo.ok(&["schedule", "remove", "nightly"]).await;
    assert!(relevo.ok(&["schedule", "list"]).await.contains("no schedules"));
}

#[tokio::test]
async fn a_reader_that_has_seen_enough_ends_a_command_quietly() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    for _ in 0..3 {
        enqueue(&relevo, &[]).await;
    }
    for args in [&["job", "list"][..], &["job", "list", "--json"], &["--help"]] {
        let mut child = tokio::process::Command::new(binary_path("relevo"))
            .args(args)
            .env_remove("RELEVO_TEST_POSTGRES_URL")
            .envs(relevo.environment().iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Nobody reads, from the very beginning.
        drop(child.stdout.take());
        let output = tokio::time::timeout(LONG, child.wait_with_output()).await.unwrap().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{args:?}: {:?}: {errors}", output.status);
        assert!(errors.is_empty(), "{args:?}: {errors}");
    }
}

#[tokio::test]
async fn limits_are_set_shown_and_removed() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    relevo
        .json(&["limits", "set", "mail", "--concurrency", "1", "--rate", "9", "--per", "0.5"])
        .await;
    let first = enqueue(&relevo, &["--limit-key", "mail", "--ordering-key", "customer/1"]).await;
    let second = enqueue(&relevo, &["--limit-key", "mail"]).await;
    assert_eq!(state(&relevo, first).await, "available");
    assert_eq!(state(&relevo, second).await, "waiting");
    let limits = relevo.json(&["limits", "list"]).await;
    assert_has(&limits[0], &["name", "concurrency", "rate", "period_seconds", "live", "waiting"]);
    assert_eq!((&limits[0]["live"], &limits[0]["waiting"]), (&json!(1), &json!(1)));
    let waiting = relevo.json(&["job", "list", "--state", "waiting"]).await;
    assert_eq!(waiting[0]["id"], second);
    assert_eq!(relevo.json(&["limits", "remove", "mail"]).await["removed"], true);
    // The leader's look lets it go.
    let _scheduler = service(&relevo, "scheduler");
    wait_state(&relevo, second, "available").await;
}
