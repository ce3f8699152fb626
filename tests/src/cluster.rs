//! A whole cluster of real processes: API, scheduler, workers and a simulated gateway.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::gateway::{self, API_KEY};
use crate::{
    Gateway, Process, ProcessBuilder, ShopDump, TestDatabase, clean_command, free_port, planted,
    wait_for,
};

/// How long a process may take until it is ready.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(600);

/// How long the gateway may take to tell what it was told.
const GATEWAY_TIMEOUT: Duration = Duration::from_secs(5);

/// The source that is configured.
pub const SOURCE: &str = "sicar";

/// What a cluster is to consist of; see [`Cluster::builder`].
pub struct ClusterBuilder {
    workers: usize,
    scheduler: bool,
    dump: PathBuf,
    time_scale: f64,
    databases: Option<(TestDatabase, TestDatabase)>,
    settings: BTreeMap<String, BTreeMap<String, Value>>,
}

impl ClusterBuilder {
    /// This many worker processes; one unless told otherwise.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// No scheduler: nothing is staged, rescued or pruned.
    #[must_use]
    pub fn without_scheduler(mut self) -> Self {
        self.scheduler = false;
        self
    }

    /// The gateway's backups are this file instead of the committed dump.
    #[must_use]
    pub fn dump(mut self, dump: &Path) -> Self {
        dump.clone_into(&mut self.dump);
        self
    }

    /// The gateway's delays are the real ones times this; 0.002 unless told otherwise, so that a
    /// backup takes about 0.4 s.
    #[must_use]
    pub fn time_scale(mut self, time_scale: f64) -> Self {
        self.time_scale = time_scale;
        self
    }

    /// This control plane and this target, instead of new ones on the server of all tests.
    #[must_use]
    pub fn databases(mut self, (control, target): (TestDatabase, TestDatabase)) -> Self {
        self.databases = Some((control, target));
        self
    }

    /// Sets a key of the configuration file, such as `worker.lease_ttl_seconds`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let (section, key) = key.rsplit_once('.').unwrap_or(("", key));
        self.settings.entry(section.to_owned()).or_default().insert(key.to_owned(), value.into());
        self
    }

    /// Starts everything, and waits until it is ready.
    pub async fn start(mut self) -> Cluster {
        let folder = TempDir::with_prefix("relevo-cluster-").expect("a folder for the cluster");
        let gateway = Gateway::start(&self.dump, self.time_scale).await;
        let (control, target) = match self.databases.take() {
            Some(given) => given,
            None => TestDatabase::pair().await,
        };
        let api_url = format!("http://127.0.0.1:{}", free_port());
        let listen = api_url.trim_start_matches("http://").to_owned();

        let source = format!("backup.{SOURCE}");
        let given = std::mem::take(&mut self.settings);
        self = self
            .set("data_dir", folder.path().join("data").to_string_lossy())
            .set("database.url", planted::with_password(control.url()))
            .set("api.listen", listen)
            .set("api.public_url", api_url.as_str())
            .set(
                "telemetry.log_level",
                "debug,sqlx=warn,hyper=info,h2=info,rustls=info,reqwest=info",
            )
            .set(&format!("{source}.gateway_url"), gateway.url())
            .set(&format!("{source}.api_key"), API_KEY)
            .set(&format!("{source}.target_url"), planted::with_password(target.url()))
            .set(&format!("{source}.schedule_enabled"), false)
            // The simulator speaks plain HTTP.
            .set(&format!("{source}.allow_http_fallback"), true);
        for (section, keys) in given {
            self.settings.entry(section).or_default().extend(keys);
        }
        let config = folder.path().join("relevo.toml");
        std::fs::write(&config, toml(&self.settings)).expect("write relevo.toml");

        let mut cluster = Cluster {
            workers: Vec::new(),
            scheduler: None,
            api: None,
            gateway,
            control,
            target,
            api_url,
            api_key: String::new(),
            config,
            started: 0,
            metrics_addresses: Vec::new(),
            folder,
        };
        cluster.start_api().await;
        let created = cluster
            .relevo(["key", "create", "--name", "tests", "--scope", "admin", "--json"])
            .await;
        let created = created.json();
        created["secret"].as_str().expect("the key's secret").clone_into(&mut cluster.api_key);
        planted::plant(&cluster.api_key);
        if self.scheduler {
            cluster.start_scheduler().await;
        }
        for _ in 0..self.workers {
            cluster.start_worker().await;
        }
        cluster
    }
}

/// The configuration file: of the values used here, JSON is TOML.
fn toml(settings: &BTreeMap<String, BTreeMap<String, Value>>) -> String {
    let mut text = String::new();
    // The keys without a section sort first, and must come first.
    for (section, keys) in settings {
        if !section.is_empty() {
            writeln!(text, "\n[{section}]").expect("write to a string");
        }
        for (key, value) in keys {
            writeln!(text, "{key} = {value}").expect("write to a string");
        }
    }
    text
}

/// A running cluster; its processes are killed and its databases dropped with it.
pub struct Cluster {
    /// The worker processes, to kill, freeze or end; [`Cluster::start_worker`] adds one.
    pub workers: Vec<Process>,
    /// The scheduler.
    pub scheduler: Option<Process>,
    /// The API.
    pub api: Option<Process>,
    gateway: Gateway,
    control: TestDatabase,
    target: TestDatabase,
    api_url: String,
    api_key: String,
    config: PathBuf,
    started: usize,
    metrics_addresses: Vec<String>,
    folder: TempDir,
}

impl Cluster {
    /// A cluster of one API, one scheduler, one worker and a gateway with the committed dump.
    pub fn builder() -> ClusterBuilder {
        ClusterBuilder {
            workers: 1,
            scheduler: true,
            dump: ShopDump::committed().path,
            time_scale: 0.002,
            databases: None,
            settings: BTreeMap::new(),
        }
    }

    /// The simulated gateway.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The control plane's database.
    pub fn control(&self) -> &TestDatabase {
        &self.control
    }

    /// The database that backups are imported into.
    pub fn target(&self) -> &TestDatabase {
        &self.target
    }

    /// Base URL of the API, without a final slash.
    pub fn api_url(&self) -> &str {
        &self.api_url
    }

    /// An API key that may do everything.
    pub fn api_key(&self) -> &str {
        &self.api_key
    }

    /// The data directory all processes share.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// `host:port` where each service serves its figures: the API, then every scheduler and worker
    /// in the order in which they were started.
    pub fn metrics_addresses(&self) -> Vec<String> {
        let api = self.api_url.trim_start_matches("http://").to_owned();
        std::iter::once(api).chain(self.metrics_addresses.iter().cloned()).collect()
    }

    /// The configuration file.
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Where a known secret is in what the cluster has stored; nowhere, when it ends.
    pub async fn find_secrets(&self) -> Vec<String> {
        let databases = [&self.control, &self.target].map(|one| one.url().to_owned());
        find_secrets(self.gateway.url(), &databases).await
    }

    /// A request to the API, with the key; `path` begins with a slash.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let url = format!("{}{path}", self.api_url);
        reqwest::Client::new().request(method, url).header("X-API-Key", &self.api_key)
    }

    /// Runs a command of the binary to its end, such as `["run", "list", "--json"]`.
    pub async fn relevo<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> CommandOutput {
        let mut command = tokio::process::Command::from(clean_command("relevo"));
        command
            .env("RELEVO_CONFIG", &self.config)
            .current_dir(self.folder.path())
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let what = format!("{:?}", command.as_std());
        let output = tokio::time::timeout(COMMAND_TIMEOUT, command.output())
            .await
            .unwrap_or_else(|_| panic!("{what} did not end within {COMMAND_TIMEOUT:?}"))
            .unwrap_or_else(|error| panic!("start {what}: {error}"));
        let output = CommandOutput {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        };
        planted::assert_absent(&what, &output.stdout);
        planted::assert_absent(&what, &output.stderr);
        output
    }

    /// Starts the API, at first or again after it was killed.
    pub async fn start_api(&mut self) {
        // The former one must have released the port.
        self.api = None;
        let url = self.api_url.clone();
        self.api = Some(self.prepare("relevo", "api", None).spawn());
        ready(&url, self.api.as_ref().expect("just started")).await;
    }

    /// Starts the scheduler, at first or again after it was killed.
    pub async fn start_scheduler(&mut self) {
        self.scheduler = None;
        self.scheduler = Some(self.started("scheduler").await);
    }

    /// Starts a scheduler beside the one that the cluster has, which stands by.
    pub async fn start_standby(&mut self) -> Process {
        self.started("scheduler").await
    }

    /// Starts one more worker.
    pub async fn start_worker(&mut self) {
        let worker = self.started("worker").await;
        self.workers.push(worker);
    }

    /// Starts a service of `binary`, which knows what `relevo` knows, with a port for its metrics and
    /// variables of its own, and waits until it is ready.
    pub async fn start_other(
        &mut self,
        binary: &str,
        service: &str,
        variables: &[(&str, &str)],
    ) -> Process {
        let port = free_port();
        let mut process = self.prepare(binary, service, Some(port));
        for (name, value) in variables {
            process = process.env(name, value);
        }
        let process = process.spawn();
        ready(&format!("http://127.0.0.1:{port}"), &process).await;
        self.metrics_addresses.push(format!("127.0.0.1:{port}"));
        process
    }

    /// Starts a service whose metrics have a port of their own, and waits until it is ready.
    async fn started(&mut self, service: &str) -> Process {
        self.start_other("relevo", service, &[]).await
    }

    fn prepare(&mut self, binary: &str, service: &str, listen: Option<u16>) -> ProcessBuilder {
        self.started += 1;
        let log = self.folder.path().join(format!("{}-{service}.log", self.started));
        let mut process = Process::builder(binary)
            .arg(service)
            .env("RELEVO_CONFIG", &self.config)
            .current_dir(self.folder.path())
            .log_file(&log);
        if let Some(port) = listen {
            process = process.args(["--listen", &format!("127.0.0.1:{port}")]);
        }
        process
    }
}

impl Drop for Cluster {
    /// Nothing that it has stored holds a secret; what its processes wrote is looked at when they
    /// end, right after this.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let gateway = self.gateway.url().to_owned();
        let databases = [&self.control, &self.target].map(|one| one.url().to_owned());
        // Asking is asynchronous work, and the test's own runtime may be single-threaded.
        let found = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(find_secrets(&gateway, &databases))
        });
        let found = found.join().expect("the search for secrets ends");
        assert!(found.is_empty(), "secrets in the databases: {found:#?}");
    }
}

/// Where a secret is in these databases, those included that the gateway was told.
async fn find_secrets(gateway: &str, databases: &[String]) -> Vec<String> {
    // A test may have ended it, and then it tells nothing.
    let told = reqwest::Client::new().get(format!("{gateway}/_control"));
    if let Ok(answer) = told.timeout(GATEWAY_TIMEOUT).send().await
        && let Ok(record) = answer.json::<gateway::Record>().await
    {
        for webhook in record.asked.iter().filter_map(|asked| asked.webhook_url.as_deref()) {
            if let Some((_, token)) = webhook.rsplit_once('/')
                && token.len() >= 32
            {
                planted::plant(token);
            }
        }
    }
    let mut found = Vec::new();
    for database in databases {
        found.extend(planted::find_in_database(database).await);
    }
    found
}

/// Waits until a process says that it is ready.
async fn ready(url: &str, process: &Process) {
    let client = reqwest::Client::new();
    wait_for(&format!("{url}/readyz"), START_TIMEOUT, async || {
        if let Some(status) = process.exited() {
            panic!("the process ended ({status}) before it was ready:\n{}", process.output());
        }
        let answer = client.get(format!("{url}/readyz")).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
}

/// What a command said.
#[derive(Debug)]
pub struct CommandOutput {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl CommandOutput {
    /// The same, after making sure that the command succeeded.
    #[must_use]
    pub fn success(self) -> Self {
        assert!(self.status.success(), "the command failed: {self:#?}");
        self
    }

    /// Standard output as JSON, after making sure that the command succeeded.
    pub fn json(&self) -> Value {
        assert!(self.status.success(), "the command failed: {self:#?}");
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON ({error}): {self:#?}"))
    }
}
