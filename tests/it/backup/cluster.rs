//! A whole cluster of real processes around one gateway and one target.

use std::path::{Path, PathBuf};
use std::time::Duration;

use relevo_queue::{JobFilter, JobState, Queue};
use relevo_runs::backup::{BackupMode, StartOptions, start_in};
use relevo_runs::{LogLevel, Run, RunId, RunState, Runs};
use relevo_tests::gateway::API_KEY;
use relevo_tests::{Gateway, Process, ShopDump, TestDatabase, free_port, reference, wait_for};
use sqlx::PgPool;
use tempfile::TempDir;

/// The source that the tests configure.
pub const SOURCE: &str = "sicar";

/// How long a run of the small dump may take, on a slow machine with everything else going on.
pub const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the clean-up after a run may take: some passes of the reconciler.
const CLEAN_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a lease lives without a heartbeat here, in seconds.
const LEASE_TTL_SECONDS: u64 = 3;

/// What differs from one cluster to another.
pub struct Options {
    /// Worker processes.
    pub workers: usize,
    /// Handlers per worker.
    pub concurrency: usize,
    /// The gateway's delays are multiplied by this.
    pub time_scale: f64,
    /// Size at which chunks are closed.
    pub chunk_size_bytes: u64,
    /// How long a webhook may take.
    pub webhook_timeout_seconds: u64,
    /// Sent to the gateway.
    pub api_key: String,
    /// Whether the target's rows may shrink by so much.
    pub guard_shrink_percent: u8,
    /// Where the end of a run is told.
    pub notify_url: Option<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            workers: 1,
            concurrency: 4,
            time_scale: 0.002,
            chunk_size_bytes: 1 << 16,
            webhook_timeout_seconds: 60,
            api_key: API_KEY.to_owned(),
            guard_shrink_percent: 30,
            notify_url: None,
        }
    }
}

/// The processes, the databases and the folder they share. Dropped, everything ends.
pub struct Cluster {
    pub workers: Vec<Process>,
    pub gateway: Gateway,
    pub control: TestDatabase,
    pub target: TestDatabase,
    _api: Process,
    _scheduler: Process,
    folder: TempDir,
}

impl Cluster {
    /// Starts a gateway that serves `dump`, an API, a scheduler and the workers.
    pub async fn start(dump: &ShopDump, options: Options) -> Self {
        let (control, target) = TestDatabase::pair().await;
        let gateway = Gateway::start(&dump.path, options.time_scale).await;
        let folder = TempDir::with_prefix("relevo-backup-").unwrap();
        let port = free_port();
        let text = configuration(&options, folder.path(), port, &gateway, &control, &target);
        std::fs::write(folder.path().join("relevo.toml"), text).unwrap();
        let api = service(folder.path(), &["api"]);
        let scheduler = service(folder.path(), &["scheduler"]);
        let mut cluster = Self {
            workers: Vec::new(),
            gateway,
            control,
            target,
            _api: api,
            _scheduler: scheduler,
            folder,
        };
        for _ in 0..options.workers {
            cluster.add_worker();
        }
        wait_for("the API to answer", Duration::from_secs(60), async || {
            let answer = reqwest::get(format!("http://127.0.0.1:{port}/livez")).await.ok()?;
            answer.status().is_success().then_some(())
        })
        .await;
        cluster
    }

    /// Starts one more worker.
    pub fn add_worker(&mut self) {
        self.workers.push(service(self.folder.path(), &["worker"]));
    }

    /// Kills worker `index` by `kill -9` and starts another in its place.
    pub fn replace_worker(&mut self, index: usize) {
        self.workers[index].kill();
        self.workers[index] = service(self.folder.path(), &["worker"]);
    }

    /// The control plane's pool.
    pub fn pool(&self) -> &PgPool {
        self.control.pool()
    }

    pub fn queue(&self) -> Queue {
        Queue::new(self.pool().clone())
    }

    pub fn runs(&self) -> Runs {
        Runs::new(self.pool().clone())
    }

    /// The folder that holds the workers' files.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// Starts a run.
    pub async fn start_run(&self, mode: BackupMode) -> RunId {
        let mut tx = self.pool().begin().await.unwrap();
        let options = StartOptions { mode, ..StartOptions::default() };
        let id = start_in(&mut tx, &self.queue(), SOURCE, &options, "test").await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    /// A run as it stands.
    pub async fn run(&self, id: RunId) -> Run {
        self.runs().get(id).await.unwrap().expect("the run exists")
    }

    /// Waits for the end of a run, however it ends.
    pub async fn ended(&self, id: RunId) -> Run {
        self.ended_within(id, RUN_TIMEOUT).await
    }

    /// Waits for the end of a run, at most `timeout`; in vain, it says how far the run came.
    pub async fn ended_within(&self, id: RunId, timeout: Duration) -> Run {
        let started = std::time::Instant::now();
        wait_for("the end of the run", timeout + Duration::from_secs(5), async || {
            let run = self.run(id).await;
            if !run.state.is_ended() && started.elapsed() > timeout {
                let jobs = self.queue().jobs(&JobFilter::run(id.0)).await.unwrap();
                panic!("the run does not end: {run:#?}\n{}\njobs: {jobs:#?}", self.log(id).await);
            }
            run.state.is_ended().then_some(run)
        })
        .await
    }

    /// The run's log as text.
    pub async fn log(&self, id: RunId) -> String {
        let events = self.runs().logs(id, None, 0).await.unwrap();
        let line = |event: &relevo_runs::RunEvent| format!("{} {}", event.level, event.message);
        events.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// Runs one import that has to succeed, and compares the target with MariaDB's values.
    pub async fn import(&self, mode: BackupMode, dump: &ShopDump) -> Run {
        let id = self.start_run(mode).await;
        let run = self.ended(id).await;
        self.assert_succeeded(&run, dump).await;
        run
    }

    /// Checks a run that has to have succeeded: its certificate, the target's rows and values, and
    /// that nothing but the kept dump is left.
    pub async fn assert_succeeded(&self, run: &Run, dump: &ShopDump) {
        let log = self.log(run.id).await;
        assert_eq!(run.state, RunState::Succeeded, "{:?}\n{log}", run.error);
        let certificate = run.certificate.as_ref().expect("a run that succeeded has one");
        assert_eq!(certificate["rows"], dump.reference.rows(), "{certificate}");
        assert_eq!(run.stats["rows"], dump.reference.rows());
        self.assert_target(dump).await;
        self.assert_clean(run.id).await;
        let kept = files(&self.data_dir().join("dumps"));
        let own = format!("run{}-", run.id);
        assert!(kept.iter().any(|name| name.contains(&own)), "the dump is not kept: {kept:?}");
    }

    /// Compares the target with what MariaDB says of a dump.
    pub async fn assert_target(&self, dump: &ShopDump) {
        let differences = reference::compare(self.target.url(), "public", &dump.reference).await;
        assert!(
            differences.is_empty(),
            "the target differs from MariaDB:\n{}",
            differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        );
    }

    /// Checks a run that has to have failed: its reason, and that nothing of it is left.
    pub async fn assert_failed(&self, run: &Run, reason: &str) {
        let log = self.log(run.id).await;
        assert_eq!(run.state, RunState::Failed, "{log}");
        let error = run.error.as_deref().unwrap_or_default();
        assert!(error.contains(reason), "the error {error:?} does not say {reason:?}\n{log}");
        let events = self.runs().logs(run.id, None, 0).await.unwrap();
        assert!(events.iter().any(|event| event.level == LogLevel::Error), "{log}");
        self.assert_clean(run.id).await;
        let kept = files(&self.data_dir().join("dumps"));
        let own = format!("run{}-", run.id);
        assert!(!kept.iter().any(|name| name.contains(&own)), "a useless dump is kept: {kept:?}");
    }

    /// Waits until nothing of an ended run is left but what it achieved, and says what is.
    pub async fn assert_clean(&self, id: RunId) {
        wait_for("the clean-up after the run", CLEAN_TIMEOUT, async || {
            self.run(id).await.cleaned_at
        })
        .await;
        // Two looks at different moments: what a stopped process left goes with a later pass.
        let what = "nothing to be left of the run";
        let mut left = Vec::new();
        let cleaned = tokio::time::timeout(
            CLEAN_TIMEOUT,
            wait_for(what, CLEAN_TIMEOUT * 2, async || {
                left = self.leftovers(id).await;
                left.is_empty().then_some(())
            }),
        )
        .await;
        assert!(cleaned.is_ok(), "the run left: {left:?}");
    }

    async fn leftovers(&self, id: RunId) -> Vec<String> {
        let mut left: Vec<String> = sqlx::query_scalar(
            "SELECT nspname::text FROM pg_namespace
             WHERE nspname LIKE 'relevo\\_stage%' OR nspname LIKE 'relevo\\_trash%'",
        )
        .fetch_all(self.target.pool())
        .await
        .unwrap();
        left.extend(files(&self.data_dir().join("incoming")));
        left.extend(files(&self.data_dir().join("chunks")));
        let unfinished = JobFilter {
            states: vec![
                JobState::Scheduled,
                JobState::Available,
                JobState::Running,
                JobState::Retryable,
            ],
            ..JobFilter::run(id.0)
        };
        let jobs = self.queue().jobs(&unfinished).await.unwrap();
        left.extend(jobs.iter().map(|job| format!("job {} {} {}", job.id, job.kind, job.state)));
        left
    }
}

/// Starts one of Relevo's services with the cluster's configuration.
fn service(folder: &Path, arguments: &[&str]) -> Process {
    Process::builder("relevo")
        .arg("--config")
        .arg(folder.join("relevo.toml"))
        .args(arguments)
        .current_dir(folder)
        .spawn()
}

fn configuration(
    options: &Options,
    folder: &Path,
    port: u16,
    gateway: &Gateway,
    control: &TestDatabase,
    target: &TestDatabase,
) -> String {
    let notify = options
        .notify_url
        .as_ref()
        .map_or_else(String::new, |url| format!("[notify]\nwebhook_url = {url:?}\n"));
    format!(
        "data_dir = {data_dir:?}
[database]
url = {control_url:?}
[api]
listen = \"127.0.0.1:{port}\"
public_url = \"http://127.0.0.1:{port}\"
[worker]
concurrency = {concurrency}
lease_ttl_seconds = {LEASE_TTL_SECONDS}
poll_interval_ms = 100
grace_seconds = 10
[scheduler]
upkeep_interval_ms = 200
[telemetry]
log_level = \"info\"
[chunk_store]
chunk_size_bytes = {chunk_size_bytes}
{notify}
[backup.{SOURCE}]
gateway_url = {gateway_url:?}
api_key = {api_key:?}
target_url = {target_url:?}
schedule_enabled = false
webhook_timeout_seconds = {webhook_timeout_seconds}
sync_timeout_seconds = 60
guard_shrink_percent = {guard_shrink_percent}
",
        data_dir = folder.join("data"),
        control_url = control.url(),
        target_url = target.url(),
        gateway_url = gateway.url(),
        api_key = options.api_key,
        concurrency = options.concurrency,
        chunk_size_bytes = options.chunk_size_bytes,
        webhook_timeout_seconds = options.webhook_timeout_seconds,
        guard_shrink_percent = options.guard_shrink_percent,
    )
}

/// The files under a folder, by their paths within it.
pub fn files(folder: &Path) -> Vec<String> {
    let Ok(listing) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry.unwrap();
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() {
            found.extend(files(&entry.path()).iter().map(|inner| format!("{name}/{inner}")));
        } else {
            found.push(name);
        }
    }
    found
}
