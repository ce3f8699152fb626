//! The tests' cluster, as the backup import uses it.

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::time::Duration;

use relevo_queue::{JobFilter, JobState, Queue};
use relevo_runs::backup::{BackupMode, StartOptions, start_in};
use relevo_runs::{LogLevel, Run, RunId, RunState, Runs};
use relevo_tests::{ClusterBuilder, SOURCE, ShopDump, reference, wait_for};
use sqlx::PgPool;

/// How long a run of the small dump may take, on a slow machine with everything else going on.
pub const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// How long the clean-up after a run may take: some passes of the reconciler.
const CLEAN_TIMEOUT: Duration = Duration::from_secs(60);

/// A cluster with one gateway and one target.
pub struct Cluster(relevo_tests::Cluster);

impl Deref for Cluster {
    type Target = relevo_tests::Cluster;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Cluster {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// A cluster in preparation: small chunks, short leases, a gateway that serves `dump`.
pub fn prepare(dump: &ShopDump) -> ClusterBuilder {
    relevo_tests::Cluster::builder()
        .dump(&dump.path)
        .set("chunk_store.chunk_size_bytes", 1 << 16)
        .set("worker.lease_ttl_seconds", 3)
        .set("worker.poll_interval_ms", 100)
        .set("worker.grace_seconds", 10)
        .set("scheduler.upkeep_interval_ms", 200)
        .set("backup.sicar.webhook_timeout_seconds", 60)
        .set("backup.sicar.sync_timeout_seconds", 15)
        .set("backup.sicar.retry_pause_seconds", 1)
}

impl Cluster {
    /// Starts what was prepared.
    pub async fn start(prepared: ClusterBuilder) -> Self {
        Self(prepared.start().await)
    }

    /// Kills worker `index` by `kill -9` and starts another in its place.
    pub async fn replace_worker(&mut self, index: usize) {
        self.workers[index].kill();
        self.start_worker().await;
        self.workers.swap_remove(index);
    }

    /// The control plane's pool.
    pub fn pool(&self) -> &PgPool {
        self.control().pool()
    }

    pub fn queue(&self) -> Queue {
        Queue::new(self.pool().clone())
    }

    pub fn runs(&self) -> Runs {
        Runs::new(self.pool().clone())
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

    /// Gives every job of a run, also those to come, at most two attempts: all of them would take
    /// hours. Waits until `seen` says something.
    pub async fn impatient<T>(
        &self,
        id: RunId,
        what: &str,
        seen: impl AsyncFn() -> Option<T>,
    ) -> T {
        wait_for(what, RUN_TIMEOUT, async || {
            sqlx::query("UPDATE relevo.job SET max_attempts = 2 WHERE run_id = $1")
                .bind(id.0)
                .execute(self.pool())
                .await
                .unwrap();
            seen().await
        })
        .await
    }

    /// Waits for the end of a run whose jobs have two attempts each.
    pub async fn ended_soon(&self, id: RunId) -> Run {
        self.impatient(id, "the end of the run", async || {
            Some(self.run(id).await).filter(|run| run.state.is_ended())
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

    /// Puts a dump into the target without its gateway.
    pub async fn load_file(&self, dump: &ShopDump) {
        let path = dump.path.to_string_lossy().into_owned();
        let arguments = ["backup", "run", "--source", SOURCE, "--file", &path, "--wait", "--json"];
        let run = self.relevo(arguments).await.json();
        assert_eq!(run["state"], "succeeded", "{run}");
        self.assert_target(dump).await;
    }

    /// Checks a run that has to have succeeded: its certificate, the target's rows and values, and
    /// that nothing but the kept dump is left.
    pub async fn assert_succeeded(&self, run: &Run, dump: &ShopDump) {
        self.assert_loaded(run, dump).await;
        self.assert_clean(run.id).await;
        let kept = files(&self.data_dir().join("dumps"));
        let own = format!("run{}-", run.id);
        assert!(kept.iter().any(|name| name.contains(&own)), "the dump is not kept: {kept:?}");
    }

    /// The same without its clean-up, which may still be to come.
    pub async fn assert_loaded(&self, run: &Run, dump: &ShopDump) {
        let log = self.log(run.id).await;
        assert_eq!(run.state, RunState::Succeeded, "{:?}\n{log}", run.error);
        let certificate = run.certificate.as_ref().expect("a run that succeeded has one");
        assert_eq!(certificate["rows"], dump.reference.rows(), "{certificate}");
        assert_eq!(run.stats["rows"], dump.reference.rows());
        self.assert_target(dump).await;
    }

    /// Compares the target with what MariaDB says of a dump.
    pub async fn assert_target(&self, dump: &ShopDump) {
        let differences = reference::compare(self.target().url(), "public", &dump.reference).await;
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
        // Each worker looks at its own disk after that.
        let own = format!("run{}-", run.id);
        wait_for("the useless dump to go", CLEAN_TIMEOUT, async || {
            let kept = files(&self.data_dir().join("dumps"));
            (!kept.iter().any(|name| name.contains(&own))).then_some(())
        })
        .await;
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
        .fetch_all(self.target().pool())
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
