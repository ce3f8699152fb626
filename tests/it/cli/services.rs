//! The commands that run until they are told to stop: how they start, drain and end.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use relevo_tests::{Process, TestDatabase, free_port, wait_for};
use sqlx::PgPool;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Relevo;
use crate::embedded::DataDir;

pub const LONG: Duration = Duration::from_secs(90);

/// `relevo …` with the environment of `relevo`.
fn start(relevo: &Relevo, args: &[&str], env: &[(&str, &str)]) -> Process {
    let builder = relevo.process(args);
    env.iter().fold(builder, |builder, (name, value)| builder.env(name, *value)).spawn()
}

async fn answers(port: u16, path: &str) -> bool {
    let url = format!("http://127.0.0.1:{port}{path}");
    reqwest::get(&url).await.is_ok_and(|answer| answer.status().is_success())
}

pub async fn ready(process: &Process, port: u16) {
    let what = format!("process {} to be ready on port {port}", process.id());
    wait_for(&what, LONG, async || {
        assert!(process.exited().is_none(), "it ended: {}", process.output());
        answers(port, "/readyz").await.then_some(())
    })
    .await;
}

async fn job(pool: &PgPool, id: i64) -> Option<(String, i32, i16)> {
    sqlx::query_as("SELECT state::text, attempt, deaths FROM relevo.job WHERE id = $1")
        .bind(id)
        .fetch_optional(pool)
        .await
        .unwrap()
}

async fn wait_job(pool: &PgPool, id: i64, wanted: &str) {
    wait_for(&format!("job {id} to be {wanted}"), LONG, async || {
        job(pool, id).await.filter(|(state, ..)| state == wanted).map(drop)
    })
    .await;
}

pub async fn enqueue(relevo: &Relevo, payload: &str) -> i64 {
    let answer = relevo.json(&["job", "enqueue", "Noop", "--payload", payload]).await;
    answer["id"].as_i64().unwrap()
}

#[tokio::test]
async fn up_runs_everything_and_ends_in_order() {
    let database = TestDatabase::empty().await;
    let relevo = Relevo::on(&database);
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let up = start(&relevo, &["up", "--listen", &listen], &[]);
    ready(&up, port).await;
    let printed = up.output();
    assert!(printed.contains(&listen), "{printed}");

    let key_file = relevo.folder().join("data/api-key");
    let mode = std::fs::metadata(&key_file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let secret = std::fs::read_to_string(&key_file).unwrap().trim().to_owned();
    assert_eq!(printed.matches(&secret).count(), 1, "printed once: {printed}");
    let client = reqwest::Client::new();
    let jobs = format!("http://{listen}/api/v1/jobs");
    let refused = client.get(&jobs).send().await.unwrap();
    assert_eq!(refused.status().as_u16(), 401);
    let answer = client.get(&jobs).header("X-API-Key", &secret).send().await.unwrap();
    assert!(answer.status().is_success(), "{answer:?}");

    // Links lead where it listens, whatever the file says.
    let link = relevo.json(&["console", "link"]).await;
    let url = link["url"].as_str().unwrap();
    assert!(url.starts_with(&format!("http://{listen}/console/link/")), "{url}");

    // What is enqueued is carried out in the same process.
    let id = enqueue(&relevo, "{}").await;
    wait_for("the job's end", LONG, async || {
        job(database.pool(), id).await.is_none().then_some(())
    })
    .await;
    up.terminate();
    assert!(up.wait_exit(LONG).await.success(), "{}", up.output());

    // Another start keeps the key and doesn't show it again.
    let up = start(&relevo, &["up", "--listen", &listen, "--no-worker", "--json"], &[]);
    ready(&up, port).await;
    let printed = up.output();
    assert!(!printed.contains(&secret), "{printed}");
    for part in [format!("\"api\": \"http://{listen}\""), "\"worker_concurrency\": 0".to_owned()] {
        assert!(printed.contains(&part), "{part}: {printed}");
    }
    assert_eq!(std::fs::read_to_string(&key_file).unwrap().trim(), secret);
    let id = enqueue(&relevo, "{}").await;
    assert_eq!(job(database.pool(), id).await.unwrap().0, "available", "nobody works");
    up.terminate();
    assert!(up.wait_exit(LONG).await.success(), "{}", up.output());
}

/// Starts everything on a port, and ends it when it was ready.
async fn up_and_down(relevo: &Relevo) {
    let port = free_port();
    let up = start(relevo, &["up", "--listen", &format!("127.0.0.1:{port}")], &[]);
    ready(&up, port).await;
    up.terminate();
    assert!(up.wait_exit(LONG).await.success(), "{}", up.output());
}

async fn keep_first_key(database: &TestDatabase, secret: &str) {
    sqlx::query(
        "INSERT INTO relevo.api_key (name, prefix, secret_sha256, scopes)
         VALUES ('first key, made by relevo up', '0a0b0c0d', sha256($1), '{admin}')",
    )
    .bind(secret.as_bytes())
    .execute(database.pool())
    .await
    .unwrap();
}

async fn good_keys(relevo: &Relevo) -> usize {
    let keys = relevo.json(&["key", "list"]).await;
    keys.as_array().unwrap().iter().filter(|key| key["revoked_at"].is_null()).count()
}

#[tokio::test]
async fn a_start_killed_while_it_made_its_key_is_made_up_for() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    let secret = format!("rk_0a0b0c0d_{}", "5a".repeat(32));
    std::fs::create_dir_all(relevo.folder().join("data")).unwrap();
    relevo.file("data/api-key.new", format!("{secret}\n"));
    let file = relevo.folder().join("data/api-key");
    // Killed before the commit: nobody has this key.
    up_and_down(&relevo).await;
    let made = std::fs::read_to_string(&file).unwrap();
    assert_ne!(made.trim(), secret);
    assert_eq!(good_keys(&relevo).await, 1);
    let log = relevo.json(&["audit", "list", "--action", "key.create"]).await;
    assert_eq!(log.as_array().unwrap().len(), 1, "{log}");

    // Killed after it: the key is good, its file lacks the name.
    keep_first_key(&database, &secret).await;
    std::fs::remove_file(&file).unwrap();
    relevo.file("data/api-key.new", format!("{secret}\n"));
    up_and_down(&relevo).await;
    assert_eq!(std::fs::read_to_string(&file).unwrap().trim(), secret);
    assert_eq!(good_keys(&relevo).await, 2);
}

#[tokio::test]
async fn another_host_leaves_a_first_key_alone_that_was_never_used() {
    let database = TestDatabase::new().await;
    keep_first_key(&database, "of the other host").await;
    let relevo = Relevo::on(&database);
    up_and_down(&relevo).await;
    assert!(!relevo.folder().join("data/api-key").exists());
    assert_eq!(good_keys(&relevo).await, 1);
}

#[tokio::test]
async fn requests_that_wait_for_a_lock_hold_up_nobody_for_long() {
    let database = TestDatabase::empty().await;
    let relevo = Relevo::on(&database);
    let port = free_port();
    let up = start(&relevo, &["up", "--listen", &format!("127.0.0.1:{port}")], &[]);
    ready(&up, port).await;
    let secret = std::fs::read_to_string(relevo.folder().join("data/api-key")).unwrap();
    let mut lock = database.pool().begin().await.unwrap();
    sqlx::query("LOCK TABLE relevo.job_history").execute(&mut *lock).await.unwrap();
    let client = reqwest::Client::new();
    let ask = || {
        let request = client.get(format!("http://127.0.0.1:{port}/api/v1/jobs"));
        request.header("x-api-key", secret.trim()).send()
    };
    // More than there are connections.
    for answer in futures::future::join_all((0..12).map(|_| ask())).await {
        let answer = answer.unwrap();
        assert_eq!(answer.status().as_u16(), 503);
        assert!(answer.headers().contains_key("retry-after"));
        let problem: serde_json::Value = answer.json().await.unwrap();
        assert_eq!(problem["code"], "database_busy", "{problem}");
    }
    assert!(answers(port, "/readyz").await, "the connections are free again");
    drop(lock);
    assert!(ask().await.unwrap().status().is_success());
    up.terminate();
    assert!(up.wait_exit(LONG).await.success(), "{}", up.output());
}

#[tokio::test]
async fn an_address_in_use_is_told_before_anything_is_changed() {
    let database = TestDatabase::empty().await;
    let relevo = Relevo::on(&database);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for command in ["up", "api"] {
        let answer = relevo.run(&[command, "--listen", &address]).await;
        assert_eq!(answer.code, 3, "{answer:?}");
        assert!(answer.err.contains(&address), "{answer:?}");
    }
    let migrated: bool = sqlx::query_scalar("SELECT to_regnamespace('relevo') IS NOT NULL")
        .fetch_one(database.pool())
        .await
        .unwrap();
    assert!(!migrated);
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_gives_back_what_it_cannot_finish() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    let grace = ("RELEVO_WORKER_GRACE_SECONDS", "5");
    let worker = start(&relevo, &["worker", "--concurrency", "1"], &[grace]);
    let long = enqueue(&relevo, r#"{"sleep_ms": 600000}"#).await;
    let waiting = enqueue(&relevo, "{}").await;
    wait_job(database.pool(), long, "running").await;
    let told_at = Instant::now();
    worker.terminate();
    let status = worker.wait_exit(LONG).await;
    let took = told_at.elapsed();
    assert!(status.success(), "{status:?}: {}", worker.output());
    assert!(took < Duration::from_secs(6), "took {took:?} of 5 s grace");
    for id in [long, waiting] {
        let (state, attempt, deaths) = job(database.pool(), id).await.expect("is not lost");
        assert_eq!((state.as_str(), attempt, deaths), ("available", 0, 0), "job {id}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_at_once() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    let port = free_port();
    let api = start(&relevo, &["api", "--listen", &format!("127.0.0.1:{port}")], &[]);
    ready(&api, port).await;
    // A request whose body doesn't come: the API waits for it when it is told to stop.
    let key = relevo.json(&["key", "create", "--name", "slow", "--scope", "enqueue"]).await;
    let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let request = format!(
        "POST /api/v1/jobs HTTP/1.1\r\nHost: relevo\r\nX-API-Key: {}\r\n\
         Content-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n",
        key["secret"].as_str().unwrap()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    // The API asks for the body: the request is under way.
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    api.terminate();
    api.wait_line("stopping", LONG).await;
    assert!(api.exited().is_none(), "it should still wait for the request");
    let told_at = Instant::now();
    api.terminate();
    let status = api.wait_exit(LONG).await;
    assert_eq!(status.code(), Some(130), "{}", api.output());
    assert!(told_at.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_service_waits_for_its_control_plane_and_can_be_stopped_meanwhile() {
    let database = TestDatabase::empty().await;
    let relevo = Relevo::on(&database);
    let worker = start(&relevo, &["worker"], &[]);
    let waiting = "waiting for the control plane";
    worker.wait_line(waiting, LONG).await;
    let stopped = start(&relevo, &["scheduler"], &[]);
    stopped.wait_line(waiting, LONG).await;
    stopped.terminate();
    assert!(stopped.wait_exit(LONG).await.success(), "{}", stopped.output());

    relevo.ok(&["migrate"]).await;
    let id = enqueue(&relevo, "{}").await;
    wait_for("the job's end", LONG, async || {
        job(database.pool(), id).await.is_none().then_some(())
    })
    .await;
    worker.terminate();
    assert!(worker.wait_exit(LONG).await.success(), "{}", worker.output());
}

#[tokio::test]
async fn services_of_their_own_work_together() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    let ports = [free_port(), free_port(), free_port()];
    let listen = ports.map(|port| format!("127.0.0.1:{port}"));
    let services = [
        start(&relevo, &["api", "--listen", &listen[0]], &[]),
        start(&relevo, &["scheduler", "--listen", &listen[1]], &[]),
        start(&relevo, &["worker", "--listen", &listen[2]], &[]),
    ];
    for (service, port) in services.iter().zip(ports) {
        ready(service, port).await;
        assert!(answers(port, "/metrics").await && answers(port, "/livez").await);
    }
    // The link leads to where this API listens, which no file says.
    let link = relevo.json(&["console", "link"]).await;
    let url = link["url"].as_str().unwrap();
    assert!(url.starts_with(&format!("http://{}/console/link/", listen[0])), "{url}");
    // Staged by the scheduler, carried out by the worker.
    let later =
        relevo.json(&["job", "enqueue", "Noop", "--delay", "1"]).await["id"].as_i64().unwrap();
    wait_for("the delayed job's end", LONG, async || {
        job(database.pool(), later).await.is_none().then_some(())
    })
    .await;
    for service in &services {
        service.terminate();
        assert!(service.wait_exit(LONG).await.success(), "{}", service.output());
    }
}

#[tokio::test]
async fn up_without_a_database_brings_its_own_and_a_worker_finds_it() {
    let data = DataDir::new();
    let relevo = Relevo::new().env("RELEVO_DATA_DIR", data.path().to_str().unwrap());
    let port = free_port();
    let listen = format!("127.0.0.1:{port}");
    let up = start(&relevo, &["up", "--listen", &listen, "--no-worker"], &[]);
    ready(&up, port).await;
    let worker = start(&relevo, &["worker"], &[]);
    let id = enqueue(&relevo, "{}").await;
    let completed = async || {
        let job = relevo.json(&["job", "show", &id.to_string()]).await;
        (job["state"] == "completed").then_some(())
    };
    wait_for("the job's end", LONG, completed).await;

    // Killed, it leaves the server; the next start adopts it with everything in it.
    up.kill();
    let up = start(&relevo, &["up", "--listen", &listen, "--no-worker"], &[]);
    ready(&up, port).await;
    wait_for("the job", LONG, completed).await;
    worker.terminate();
    assert!(worker.wait_exit(LONG).await.success(), "{}", worker.output());
    up.terminate();
    assert!(up.wait_exit(LONG).await.success(), "{}", up.output());
    relevo.refuses(&["job", "list"], 4, &["relevo up"]).await;
}

/// The whole circle on Relevo's own server, whose databases have no address until it runs.
#[tokio::test]
async fn a_backup_goes_into_the_embedded_server_and_is_rolled_back_there() {
    let data = DataDir::new();
    let relevo = Relevo::new().env("RELEVO_DATA_DIR", data.path().to_str().unwrap());
    let dump = concat!(env!("CARGO_MANIFEST_DIR"), "/data/shop.sql.gz");
    relevo.file(
        "relevo.toml",
        format!("[backup.shop]\nkind = \"file\"\npath = \"{dump}\"\nsettle_seconds = 1\n"),
    );
    let port = free_port();
    let up = start(&relevo, &["up", "--listen", &format!("127.0.0.1:{port}")], &[]);
    ready(&up, port).await;
    for _ in 0..2 {
        relevo.ok(&["backup", "run", "--source", "shop", "--wait"]).await;
    }
    let newest = relevo.json(&["run", "list"]).await[0]["id"].to_string();
    let done = relevo.ok(&["run", "rollback", &newest]).await;
    assert!(done.contains("articulo"), "{done}");
    up.terminate();
    assert!(up.wait_exit(LONG).await.success(), "{}", up.output());
}

#[tokio::test]
async fn a_worker_takes_up_another_concurrency_unless_a_flag_said_it() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    let config = |concurrency: u32| {
        relevo.file("relevo.toml", format!("[worker]\nconcurrency = {concurrency}\n"))
    };
    let path = config(1);
    let env = [("RELEVO_CONFIG", path.as_str())];
    let _worker = start(&relevo, &["worker", "--queue", "default"], &env);
    let flagged = start(&relevo, &["worker", "--queue", "other", "--concurrency", "2"], &env);
    let slots = async |queue: &str| -> Option<(i32, i64)> {
        sqlx::query_as(
            "SELECT s.concurrency, (SELECT count(*) FROM relevo.job WHERE session_id = s.id)
               FROM relevo.session AS s WHERE queues = ARRAY[$1]",
        )
        .bind(queue)
        .fetch_optional(database.pool())
        .await
        .unwrap()
    };
    for _ in 0..3 {
        enqueue(&relevo, r#"{"sleep_ms": 3600000}"#).await;
    }
    let come_to = async |queue: &str, wanted: (i32, i64)| {
        let what = format!("{wanted:?} slots and running jobs of the queue {queue}");
        wait_for(&what, LONG, async || (slots(queue).await == Some(wanted)).then_some(())).await;
    };
    come_to("default", (1, 1)).await;
    come_to("other", (2, 0)).await;
    // The handler that runs occupies the only slot: more of them are used at once.
    config(3);
    come_to("default", (3, 3)).await;
    // With fewer, what runs goes on.
    config(2);
    come_to("default", (2, 3)).await;
    wait_for("the other worker to read the file again", LONG, async || {
        flagged.output().contains("was read again").then_some(())
    })
    .await;
    come_to("other", (2, 0)).await;
}
