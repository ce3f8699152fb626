//! A worker in a process of its own, to be killed and stopped for real.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use relevo_queue::{Queue, WorkerConfig, run_worker};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::support::{Closure, Fixture, config};

const URL_ENV: &str = "RELEVO_TEST_CHILD_URL";
const MODE_ENV: &str = "RELEVO_TEST_CHILD_MODE";

/// What the child's handler does.
#[derive(Clone, Copy)]
pub enum Mode {
    /// Never returns.
    Hang,
    /// Returns after being stopped and continued: one second of its own time.
    Linger,
    /// Returns at once.
    Finish,
}

/// A child process that runs jobs; killed when dropped.
pub struct ChildWorker(Child);

impl ChildWorker {
    pub fn start(fixture: &Fixture, mode: Mode) -> Self {
        let this_binary: PathBuf = std::env::current_exe().unwrap();
        let (_, module) = module_path!().split_once("::").unwrap();
        let child = Command::new(this_binary)
            .args(["--exact", &format!("{module}::worker_process"), "--ignored", "--nocapture"])
            .env(URL_ENV, fixture.database.url())
            .env(
                MODE_ENV,
                match mode {
                    Mode::Hang => "hang",
                    Mode::Linger => "linger",
                    Mode::Finish => "finish",
                },
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self(child)
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }

    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for ChildWorker {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// Not a test: what [`ChildWorker::start`] runs.
#[test]
#[ignore = "the body of a child process"]
fn worker_process() {
    let Ok(url) = std::env::var(URL_ENV) else { return };
    let mode = std::env::var(MODE_ENV).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let pool = PgPool::connect(&url).await.unwrap();
        let handler = Closure::new(move |job| {
            let mode = mode.clone();
            async move {
                match mode.as_str() {
                    // Deaf to being cancelled as well, so that only fences protect.
                    "hang" => std::future::pending().await,
                    "linger" => tokio::time::sleep(Duration::from_secs(1)).await,
                    _ => {}
                }
                drop(job);
                Ok(())
            }
        });
        let config = WorkerConfig { lease_ttl: Duration::from_secs(1), ..config() };
        run_worker(
            Queue::new(pool),
            config,
            Arc::new(handler),
            Arc::new(relevo_queue::NoObserver),
            CancellationToken::new(),
        )
        .await
        .unwrap();
    });
}
