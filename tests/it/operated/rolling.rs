//! Every process is exchanged for a new one while producers and workers go on.
//!
//! Two APIs behind a balancer, two schedulers, two workers. Whatever the balancer is answered is
//! final: it asks again only where nobody listened. `./dev upgrade` runs the same from the binary
//! of an earlier version (`RELEVO_TEST_PREVIOUS`) to that of this build.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use relevo_tests::{Process, TestDatabase, binary_path, free_port, wait_for};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const LONG: Duration = Duration::from_secs(90);
/// How often the balancer asks who is ready.
const PROBE_PAUSE: Duration = Duration::from_millis(25);
/// What it grants an API to say so.
const PROBE_MAX: Duration = Duration::from_secs(5);
/// How long an API that is told to stop goes on answering: far longer than a probe takes.
const DRAIN_SECONDS: u64 = 2;
const PRODUCERS: usize = 4;
const PRODUCER_PAUSE: Duration = Duration::from_millis(15);
/// So many jobs are acknowledged before the next process is exchanged.
const BETWEEN: usize = 40;
/// One job in so many runs for long, so that every worker that is stopped has some to give back.
const LONG_JOB_EVERY: i64 = 8;
const LONG_JOB_MS: i64 = 1_500;

/// One of two APIs, as a balancer knows it.
struct Backend {
    url: String,
    ready: AtomicBool,
    /// Whether its operator has taken it out, whatever it says itself.
    taken_out: AtomicBool,
}

/// Spreads requests over the APIs that are ready.
struct Balancer {
    backends: Vec<Backend>,
    key: String,
    next: AtomicUsize,
    client: reqwest::Client,
}

impl Balancer {
    fn new(ports: &[u16], key: String) -> Arc<Self> {
        let backend = |port| Backend {
            url: format!("http://127.0.0.1:{port}"),
            ready: AtomicBool::new(true),
            taken_out: AtomicBool::new(false),
        };
        let backends = ports.iter().copied().map(backend).collect();
        let client = reqwest::Client::builder().timeout(LONG).build().unwrap();
        Arc::new(Self { backends, key, next: AtomicUsize::new(0), client })
    }

    /// Asks an API again and again whether it is ready, over connections of its own.
    async fn probe(self: Arc<Self>, index: usize, stop: CancellationToken) {
        let probes = reqwest::Client::builder().timeout(PROBE_MAX).pool_max_idle_per_host(0);
        let probes = probes.build().unwrap();
        let backend = &self.backends[index];
        while !stop.is_cancelled() {
            let answer = probes.get(format!("{}/readyz", backend.url)).send().await;
            let ready = answer.is_ok_and(|answer| answer.status().is_success());
            let ready = ready && !backend.taken_out.load(Ordering::Relaxed);
            backend.ready.store(ready, Ordering::Relaxed);
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    }

    /// Enqueues a job; what went wrong, where anything but a closed port did.
    async fn enqueue(&self, job: &Value) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            let first = self.next.fetch_add(1, Ordering::Relaxed);
            let mut turn = (first..first + 2).map(|n| &self.backends[n % self.backends.len()]);
            if let Some(backend) = turn.find(|backend| backend.ready.load(Ordering::Relaxed))
                && let Some(told) = self.ask(backend, job).await
            {
                return told;
            }
            assert!(begun.elapsed() < LONG, "no API has listened for {LONG:?}");
            tokio::time::sleep(PROBE_PAUSE).await;
        }
    }

    /// The same of one API; none where nobody listens.
    async fn ask(&self, backend: &Backend, job: &Value) -> Option<Result<(), String>> {
        let request = self.client.post(format!("{}/api/v1/jobs", backend.url));
        let answer = match request.header("X-API-Key", &self.key).json(job).send().await {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => {
                backend.ready.store(false, Ordering::Relaxed);
                return None;
            }
            Err(error) => return Some(Err(format!("{}: {error:?}", backend.url))),
        };
        let status = answer.status();
        let text = answer.text().await.unwrap_or_else(|error| error.to_string());
        let id = serde_json::from_str::<Value>(&text).ok().and_then(|made| made["id"].as_i64());
        let refused = || format!("{} answered {status}: {text}", backend.url);
        Some(id.filter(|_| status.is_success()).map(drop).ok_or_else(refused))
    }
}

/// Jobs put in all the time.
struct Load {
    acknowledged: Arc<AtomicUsize>,
    stop: CancellationToken,
    running: JoinSet<()>,
    refused: Arc<std::sync::Mutex<Vec<String>>>,
}

impl Load {
    fn start(balancer: &Arc<Balancer>) -> Self {
        let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
        let acknowledged = Arc::new(AtomicUsize::new(0));
        let refused = Arc::new(std::sync::Mutex::new(Vec::new()));
        let next_tag = Arc::new(AtomicI64::new(0));
        for index in 0..balancer.backends.len() {
            running.spawn(Arc::clone(balancer).probe(index, stop.clone()));
        }
        for _ in 0..PRODUCERS {
            let (balancer, stop) = (Arc::clone(balancer), stop.clone());
            let (acknowledged, refused) = (Arc::clone(&acknowledged), Arc::clone(&refused));
            let next_tag = Arc::clone(&next_tag);
            running.spawn(async move {
                while !stop.is_cancelled() {
                    let tag = next_tag.fetch_add(1, Ordering::Relaxed);
                    let sleep_ms = if tag % LONG_JOB_EVERY == 0 { LONG_JOB_MS } else { tag % 20 };
                    let payload = json!({"sleep_ms": sleep_ms, "tag": tag});
                    match balancer.enqueue(&json!({"kind": "Noop", "payload": payload})).await {
                        Ok(()) => {
                            acknowledged.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(why) => refused.lock().unwrap().push(why),
                    }
                    tokio::time::sleep(PRODUCER_PAUSE).await;
                }
            });
        }
        Self { acknowledged, stop, running, refused }
    }

    /// Waits until some more jobs are acknowledged.
    async fn goes_on(&self) {
        let before = self.acknowledged.load(Ordering::Relaxed);
        wait_for("more jobs to be acknowledged", LONG, async || {
            (self.acknowledged.load(Ordering::Relaxed) >= before + BETWEEN).then_some(())
        })
        .await;
    }

    /// Ends it: how many jobs were acknowledged, and which requests were not.
    async fn end(mut self) -> (usize, Vec<String>) {
        self.stop.cancel();
        while let Some(ended) = self.running.join_next().await {
            ended.expect("a producer that came to its end");
        }
        let refused = std::mem::take(&mut *self.refused.lock().unwrap());
        (self.acknowledged.load(Ordering::Relaxed), refused)
    }
}

/// A process at its place: what it is, and where it listens.
struct Place {
    service: &'static str,
    port: u16,
    process: Option<Process>,
}

/// Two processes of each service over one control plane.
struct Stack {
    places: Vec<Place>,
    config: PathBuf,
    database: TestDatabase,
    folder: TempDir,
}

impl Stack {
    async fn new() -> Self {
        let folder = TempDir::with_prefix("relevo-rolling-").unwrap();
        let database = TestDatabase::empty().await;
        let config = folder.path().join("relevo.toml");
        let text = format!(
            "data_dir = {:?}\n[database]\nurl = {:?}\n[worker]\nconcurrency = 24\n",
            folder.path().join("data"),
            database.url()
        );
        std::fs::write(&config, text).unwrap();
        let places = ["api", "api", "scheduler", "scheduler", "worker", "worker"];
        let place = |service| Place { service, port: free_port(), process: None };
        let places = places.into_iter().map(place).collect();
        Self { places, config, database, folder }
    }

    /// A command of a build, with nothing of the tests' environment; its standard output.
    async fn run(&self, binary: &Path, arguments: &[&str]) -> String {
        let mut command = tokio::process::Command::new(binary);
        command.env_clear().env("RELEVO_CONFIG", &self.config).args(arguments);
        let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(LONG, output).await.unwrap().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {told}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Ends what is at a place, in order, and puts a process of this build there.
    async fn exchange(&mut self, index: usize, binary: &Path) {
        let place = &mut self.places[index];
        if let Some(process) = place.process.take() {
            process.terminate();
            let status = process.wait_exit(LONG).await;
            assert!(status.success(), "{} ended with {status}", place.service);
        }
        let url = format!("http://127.0.0.1:{}/readyz", place.port);
        // Without the tests' own environment.
        let mut process = Process::program(Path::new("env")).arg("-i");
        process = process.arg(format!("RELEVO_CONFIG={}", self.config.display()));
        if place.service == "api" && binary == binary_path("relevo") {
            process = process.arg(format!("RELEVO_API_DRAIN_SECONDS={DRAIN_SECONDS}"));
        }
        let process = process
            .arg(binary)
            .args([place.service, "--listen", &format!("127.0.0.1:{}", place.port)])
            .current_dir(self.folder.path())
            .spawn();
        wait_for(&url, LONG, async || {
            assert!(process.exited().is_none(), "it ended:\n{}", process.output());
            reqwest::get(&url).await.ok()?.status().is_success().then_some(())
        })
        .await;
        place.process = Some(process);
    }

    async fn count(&self, what: &str) -> usize {
        let statement = sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {what}"));
        let count: i64 =
            sqlx::query_scalar(statement).fetch_one(self.database.pool()).await.unwrap();
        usize::try_from(count).unwrap()
    }
}

#[tokio::test]
async fn every_process_is_exchanged_under_load_and_no_job_notices() {
    let new = binary_path("relevo");
    let old = std::env::var_os("RELEVO_TEST_PREVIOUS").map_or_else(|| new.clone(), PathBuf::from);
    let mut stack = Stack::new().await;
    stack.run(&old, &["migrate"]).await;
    let key = ["key", "create", "--name", "producer", "--scope", "enqueue", "--json"];
    let key: Value = serde_json::from_str(&stack.run(&old, &key).await).unwrap();
    for index in 0..stack.places.len() {
        stack.exchange(index, &old).await;
    }
    let ports = [stack.places[0].port, stack.places[1].port];
    let balancer = Balancer::new(&ports, key["secret"].as_str().unwrap().to_owned());
    let load = Load::start(&balancer);
    load.goes_on().await;
    // The newer schema first, while everything runs.
    stack.run(&new, &["migrate"]).await;
    if old == new {
        // A schema from the future, under which processes of this build must be able to start too.
        sqlx::query(
            "INSERT INTO relevo.migration (version, description, success, checksum, execution_time)
             VALUES (29990101000000, 'from the future', true, '\\x00', 0)",
        )
        .execute(stack.database.pool())
        .await
        .unwrap();
    }
    load.goes_on().await;
    for index in 0..stack.places.len() {
        // What an earlier version says of itself when it is told to stop is not asked here.
        let backend = balancer.backends.get(index).filter(|_| old != new);
        if let Some(backend) = backend {
            backend.taken_out.store(true, Ordering::Relaxed);
            load.goes_on().await;
        }
        stack.exchange(index, &new).await;
        if let Some(backend) = backend {
            backend.taken_out.store(false, Ordering::Relaxed);
        }
        load.goes_on().await;
    }
    let (acknowledged, refused) = load.end().await;
    assert!(refused.is_empty(), "{} of {acknowledged} refused: {refused:#?}", refused.len());
    wait_for("every job to end", LONG, async || {
        (stack.count("relevo.job WHERE kind = 'Noop'").await == 0).then_some(())
    })
    .await;
    let done = "relevo.job_history WHERE kind = 'Noop' AND state = 'completed'";
    assert_eq!(stack.count(done).await, acknowledged);
    assert_eq!(stack.count("relevo.dead_letter WHERE kind = 'Noop'").await, 0);
    let spent = format!("{done} AND (attempt <> 1 OR deaths <> 0 OR last_error IS NOT NULL)");
    assert_eq!(stack.count(&spent).await, 0, "an attempt was spent");
    // Else the workers had nothing to give back, and this would have shown little.
    let given_back = stack.count(&format!("{done} AND lease_epoch > 1")).await;
    assert!(given_back > 0, "no job was given back");
    eprintln!("{acknowledged} jobs acknowledged, {given_back} of them given back on the way");
}
