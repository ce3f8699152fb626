//! A queue in a database of its own, workers on it, and handlers made of closures.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::future::BoxFuture;
use relevo_queue::{
    BoxError, Finished, Handler, Job, JobError, JobFilter, JobId, JobState, JobView, KnownKind,
    NewJob, Observer, Outcome, Queue, WorkerConfig, run_worker,
};
use relevo_tests::{TestDatabase, wait_for};
use sqlx::PgConnection;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long a test waits for a state: much longer than any should take.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The kind of every job in these tests.
pub const KIND: &str = "test";

pub struct Fixture {
    pub database: TestDatabase,
    pub queue: Queue,
}

impl Fixture {
    pub async fn new() -> Self {
        let database = TestDatabase::new().await;
        let queue = Queue::new(database.pool().clone());
        Self { database, queue }
    }

    pub async fn view(&self, id: JobId) -> JobView {
        self.queue.job(id).await.unwrap().expect("the job is somewhere")
    }

    pub async fn state(&self, id: JobId) -> JobState {
        self.view(id).await.state
    }

    /// Waits until the job is in a state that satisfies `is`, staging what is due meanwhile.
    pub async fn reaches(&self, id: JobId, state: JobState) -> JobView {
        wait_for(&format!("job {id} to be {state}"), PATIENCE, async || {
            self.queue.stage().await.unwrap();
            let view = self.view(id).await;
            (view.state == state).then_some(view)
        })
        .await
    }

    /// Waits until no job is unfinished, staging and rescuing meanwhile.
    pub async fn settles(&self) {
        wait_for("every job to end", PATIENCE * 2, async || {
            self.queue.stage().await.unwrap();
            self.queue.rescue().await.unwrap();
            (self.unfinished().await == 0).then_some(())
        })
        .await;
    }

    pub async fn unfinished(&self) -> i64 {
        self.count("SELECT count(*) FROM relevo.job").await
    }

    pub async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(self.database.pool()).await.unwrap()
    }

    pub async fn execute(&self, sql: &'static str) -> u64 {
        sqlx::query(sql).execute(self.database.pool()).await.unwrap().rows_affected()
    }

    pub async fn in_state(&self, state: JobState) -> Vec<JobView> {
        let filter = JobFilter { states: vec![state], limit: Some(1000), ..JobFilter::default() };
        self.queue.jobs(&filter).await.unwrap()
    }

    /// Makes every session look dead for longer than its time to live.
    pub async fn age_sessions(&self) {
        // The server's own start counts as a sign of life, so the time to live is cut as well.
        self.execute(
            "UPDATE relevo.session
             SET heartbeat_at = now() - interval '1 hour', ttl = interval '1 millisecond'
             WHERE ended_at IS NULL",
        )
        .await;
    }

    pub fn worker<F, R>(&self, config: WorkerConfig, run: F) -> Worker
    where
        F: Fn(Job) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        self.worker_with(config, Closure::new(run))
    }

    pub fn worker_with(&self, config: WorkerConfig, handler: Closure) -> Worker {
        let shutdown = CancellationToken::new();
        let counts = Arc::new(Counts::default());
        let task = tokio::spawn(run_worker(
            self.queue.clone(),
            config,
            Arc::new(handler),
            counts.clone(),
            shutdown.clone(),
        ));
        Worker { shutdown, counts, task: Some(task) }
    }
}

/// A job of the tests' kind.
pub fn job() -> NewJob {
    NewJob::new(KIND, &serde_json::json!({})).unwrap()
}

pub fn config() -> WorkerConfig {
    WorkerConfig {
        name: "test".to_owned(),
        kinds: vec![KnownKind { kind: KIND.to_owned(), max_payload_version: 1 }],
        concurrency: 8,
        poll_interval: Duration::from_millis(100),
        lease_ttl: Duration::from_secs(3),
        grace: Duration::from_secs(6),
        cancel_grace: Duration::from_millis(500),
        ..WorkerConfig::default()
    }
}

pub struct Worker {
    pub shutdown: CancellationToken,
    pub counts: Arc<Counts>,
    task: Option<JoinHandle<Result<(), relevo_queue::QueueError>>>,
}

impl Worker {
    /// Drains it; returns how long that took.
    pub async fn stop(mut self) -> Duration {
        let started = std::time::Instant::now();
        self.shutdown.cancel();
        let task = self.task.take().unwrap();
        tokio::time::timeout(PATIENCE, task)
            .await
            .expect("the worker drains in time")
            .unwrap()
            .unwrap();
        started.elapsed()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // A failed test must not leave a worker behind for the others.
        self.shutdown.cancel();
    }
}

/// Counts what an observer hears.
#[derive(Default)]
pub struct Counts {
    outcomes: Mutex<HashMap<Outcome, usize>>,
    lost: Mutex<usize>,
    stuck: Mutex<usize>,
    sessions: Mutex<(usize, usize)>,
}

impl Counts {
    pub fn outcome(&self, outcome: Outcome) -> usize {
        self.outcomes.lock().unwrap().get(&outcome).copied().unwrap_or(0)
    }

    pub fn lost(&self) -> usize {
        *self.lost.lock().unwrap()
    }

    pub fn stuck(&self) -> usize {
        *self.stuck.lock().unwrap()
    }

    pub fn sessions_opened(&self) -> usize {
        self.sessions.lock().unwrap().0
    }

    pub fn sessions_lost(&self) -> usize {
        self.sessions.lock().unwrap().1
    }
}

impl Observer for Counts {
    fn finished(&self, finished: &Finished<'_>) {
        *self.outcomes.lock().unwrap().entry(finished.outcome).or_default() += 1;
    }

    fn lease_lost(&self, _: &str, _: &str) {
        *self.lost.lock().unwrap() += 1;
    }

    fn handler_stuck(&self, _: &str, _: &str) {
        *self.stuck.lock().unwrap() += 1;
    }

    fn session_opened(&self) {
        self.sessions.lock().unwrap().0 += 1;
    }

    fn session_lost(&self) {
        self.sessions.lock().unwrap().1 += 1;
    }
}

type Run = Box<dyn Fn(Job) -> BoxFuture<'static, Result<(), JobError>> + Send + Sync>;
type OnDead = Box<
    dyn for<'a> Fn(&'a mut PgConnection, &'a Job, &'a str) -> BoxFuture<'a, Result<(), BoxError>>
        + Send
        + Sync,
>;

/// A handler made of a closure.
pub struct Closure {
    run: Run,
    pub backoff: Duration,
    pub timeout: Option<Duration>,
    pub progress_deadline: Option<Duration>,
    pub on_dead: Option<OnDead>,
}

impl Closure {
    pub fn new<F, R>(run: F) -> Self
    where
        F: Fn(Job) -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        Self {
            run: Box::new(move |job| Box::pin(run(job))),
            backoff: Duration::ZERO,
            timeout: None,
            progress_deadline: None,
            on_dead: None,
        }
    }
}

impl Handler for Closure {
    fn run(&self, job: Job) -> BoxFuture<'static, Result<(), JobError>> {
        (self.run)(job)
    }

    fn backoff(&self, _: &str, _: i32) -> Duration {
        self.backoff
    }

    fn timeout(&self, _: &str) -> Option<Duration> {
        self.timeout
    }

    fn progress_deadline(&self, _: &str) -> Option<Duration> {
        self.progress_deadline
    }

    fn on_dead<'a>(
        &'a self,
        tx: &'a mut PgConnection,
        job: &'a Job,
        error: &'a str,
    ) -> BoxFuture<'a, Result<(), BoxError>> {
        match &self.on_dead {
            Some(on_dead) => on_dead(tx, job, error),
            None => Box::pin(std::future::ready(Ok(()))),
        }
    }
}
