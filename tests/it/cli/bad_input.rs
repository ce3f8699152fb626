//! Bad input: a clear error, the right exit code, and nothing lost or left.

use relevo_tests::{TestDatabase, free_port};
use sqlx::{AssertSqlSafe, Executor as _};

use super::Relevo;

async fn jobs(database: &TestDatabase) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM relevo.job").fetch_one(database.pool()).await.unwrap()
}

#[tokio::test]
async fn an_unknown_kind_is_answered_with_the_nearest_names() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    relevo.refuses(&["job", "enqueue", "nop"], 2, &["nop", "Noop"]).await;
    relevo.refuses(&["job", "enqueue", ""], 2, &["kind"]).await;
    let args = ["schedule", "add", "x", "--cron", "* * * * *", "--kind", "Notifi"];
    relevo.refuses(&args, 2, &["Notify"]).await;
    assert_eq!(jobs(&database).await, 0);
}

#[tokio::test]
async fn a_wrong_payload_is_refused_before_anything_is_stored() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    for (payload, parts) in [
        (r#"{"slep_ms": 5}"#, &["slep_ms", "sleep_ms"][..]),
        (r#"{"sleep_ms": "long"}"#, &["long"]),
        (r#"{"sleep_ms": -1}"#, &["-1"]),
        ("[1]", &["object"]),
        ("{not json", &["JSON", "what to do"]),
    ] {
        relevo.refuses(&["job", "enqueue", "Noop", "--payload", payload], 2, parts).await;
    }
    relevo.refuses(&["job", "enqueue", "FinishImport"], 2, &["run_id"]).await;
    let args = ["job", "enqueue", "Noop", "--payload", "@missing.json"];
    relevo.refuses(&args, 5, &["missing.json"]).await;
    let long = "q".repeat(101);
    relevo.refuses(&["job", "enqueue", "Noop", "--queue", &long], 2, &["100"]).await;
    assert_eq!(jobs(&database).await, 0);

    // From a file and from standard input the same payload is taken.
    relevo.file("payload.json", r#"{"tag": 1}"#);
    relevo.ok(&["job", "enqueue", "Noop", "--payload", "@payload.json"]).await;
    let args = ["job", "enqueue", "Noop", "--payload", "@-"];
    assert_eq!(relevo.run_with(&args, br#"{"tag": 2}"#).await.code, 0);
    assert_eq!(jobs(&database).await, 2);
}

#[tokio::test]
async fn what_does_not_exist_has_its_own_code() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    for args in [
        &["job", "show", "4711"][..],
        &["job", "cancel", "4711"],
        &["job", "retry", "4711"],
        &["dead", "retry", "4711"],
        &["dead", "discard", "4711"],
        &["run", "show", "4711"],
        &["run", "log", "4711"],
        &["run", "watch", "4711"],
        &["run", "cancel", "4711"],
        &["key", "revoke", "4711"],
        &["schedule", "remove", "nightly"],
    ] {
        relevo.refuses(args, 5, &["there is no"]).await;
    }
    relevo.refuses(&["backup", "run", "--source", "sicar"], 5, &["sicar", "relevo.toml"]).await;
    relevo.refuses(&["job", "list", "--state", "undead"], 2, &["undead", "dead"]).await;
    relevo.refuses(&["run", "list", "--state", "walking"], 2, &["walking", "failed"]).await;
    let args = ["key", "create", "--name", "x", "--scope", "root"];
    relevo.refuses(&args, 2, &["root", "operate"]).await;
    let args = ["schedule", "add", "x", "--cron", "61 * * * *", "--kind", "Noop"];
    relevo.refuses(&args, 2, &["61 * * * *"]).await;
    let args =
        ["schedule", "add", "x", "--cron", "* * * * *", "--kind", "Noop", "--timezone", "Mars"];
    relevo.refuses(&args, 2, &["Mars", "America/Mexico_City"]).await;
}

#[tokio::test]
async fn an_unknown_key_of_the_configuration_is_refused_with_the_nearest() {
    let relevo = Relevo::new();
    relevo.file("relevo.toml", "[worker]\nconcurency = 4\n");
    for args in [&["config", "check"][..], &["job", "list"], &["up"], &["worker"]] {
        relevo.refuses(args, 3, &["concurency", "concurrency", "relevo.toml:2"]).await;
    }
    relevo.file("relevo.toml", "[worker\n");
    relevo.refuses(&["config", "check"], 3, &["relevo.toml:1"]).await;
    relevo
        .refuses(&["--config", "elsewhere.toml", "config", "check"], 3, &["elsewhere.toml"])
        .await;
    let relevo = Relevo::new().env("RELEVO_WORKER_CONCURRENCY", "many");
    relevo.refuses(&["config", "check"], 3, &["many", "RELEVO_WORKER_CONCURRENCY"]).await;
    let relevo = Relevo::new().env("RELEVO_WORKER_CONCURENCY", "4");
    let answer = relevo.run(&["config", "check"]).await;
    assert_eq!(answer.code, 0);
    assert!(answer.err.contains("RELEVO_WORKER_CONCURRENCY"), "{answer:?}");
}

#[tokio::test]
async fn config_check_shows_origins_and_no_secrets() {
    let relevo = Relevo::new()
        .env("RELEVO_DATABASE_URL", "postgres://relevo:geheim@db.example/relevo")
        .env("TUNNEL_API_URL", "https://gateway.example")
        .env("TUNNEL_API_KEY", "streng-geheim")
        .env("DATABASE_URL", "postgres://app:geheim@db.example/shop");
    relevo.file("relevo.toml", "[worker]\nconcurrency = 7\n");
    let text = relevo.ok(&["config", "check"]).await;
    assert!(!text.contains("geheim"), "{text}");
    assert!(text.contains("worker.concurrency = 7") && text.contains("relevo.toml:2"), "{text}");
    let json = relevo.json(&["config", "check"]).await;
    assert!(!json.to_string().contains("geheim"), "{json}");
    let values = json["values"].as_array().unwrap();
    let concurrency = values.iter().find(|value| value["key"] == "worker.concurrency").unwrap();
    assert_eq!(concurrency["value"], "7");
    assert!(json["file"].as_str().unwrap().ends_with("relevo.toml"));
}

#[tokio::test]
async fn a_control_plane_that_cannot_be_used_is_told_apart() {
    let port = free_port();
    let unreachable = format!("postgres://u:geheim@127.0.0.1:{port}/relevo");
    let relevo = Relevo::new().env("RELEVO_DATABASE_URL", unreachable);
    let text = relevo.refuses(&["job", "list"], 4, &[&port.to_string(), "what to do"]).await;
    assert!(!text.contains("geheim"), "{text}");

    let relevo = Relevo::new().env("RELEVO_DATABASE_URL", "mysql://u:geheim@127.0.0.1/shop");
    let text = relevo.refuses(&["job", "list"], 3, &["postgres://"]).await;
    assert!(!text.contains("geheim"), "{text}");

    let database = TestDatabase::new().await;
    let missing = database.url().replace(database.name(), "relevo_no_such_database");
    let relevo = Relevo::new().env("RELEVO_DATABASE_URL", missing);
    relevo.refuses(&["job", "list"], 4, &["relevo_no_such_database"]).await;

    let empty = TestDatabase::empty().await;
    relevo_on_empty(&empty).await;

    // Nothing configured and nothing embedded.
    Relevo::new().refuses(&["job", "list"], 4, &["RELEVO_DATABASE_URL", "relevo up"]).await;
}

async fn relevo_on_empty(empty: &TestDatabase) {
    let relevo = Relevo::on(empty);
    relevo.refuses(&["job", "list"], 4, &["relevo migrate"]).await;
    assert_eq!(relevo.json(&["migrate"]).await["migrated"], true);
    relevo.ok(&["migrate"]).await;
    assert!(relevo.ok(&["job", "list"]).await.contains("no jobs"));
}

/// The URL of a database for another role.
fn url_as(database: &TestDatabase, role: &str) -> String {
    let (scheme, rest) = database.url().split_once("://").unwrap();
    let address = rest.rsplit_once('@').map_or(rest, |(_, address)| address);
    format!("{scheme}://{role}:weak@{address}")
}

#[tokio::test]
async fn missing_rights_are_named() {
    let (database, empty) = TestDatabase::pair().await;
    let role = format!("weak_{}", std::process::id());
    let create = format!("CREATE ROLE {role} LOGIN PASSWORD 'weak'");
    database.pool().execute(AssertSqlSafe(create)).await.unwrap();

    let relevo = Relevo::new().env("RELEVO_DATABASE_URL", url_as(&database, &role));
    relevo.refuses(&["job", "list"], 4, &["permission denied", "what to do"]).await;
    let relevo = Relevo::new().env("RELEVO_DATABASE_URL", url_as(&empty, &role));
    relevo.refuses(&["migrate"], 4, &["CREATE SCHEMA relevo"]).await;

    let drop = format!("DROP ROLE {role}");
    database.pool().execute(AssertSqlSafe(drop)).await.unwrap();
}
