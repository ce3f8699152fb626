//! Real processes of the workspace's binaries, with their output kept and their end assured.

use std::ffi::OsString;
use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{planted, wait_for};

/// How many of its last lines a process shows when its test fails.
const TAIL_LINES: usize = 60;

/// The path of a binary of the workspace: it lies beside the test executable's folder.
///
/// # Panics
///
/// When it has not been built; the message says how to.
pub fn binary_path(name: &str) -> PathBuf {
    let path = profile_folder().join(name);
    assert!(
        path.is_file(),
        "{} is missing: run the tests by `./dev test`, which builds it, or `cargo build --workspace`",
        path.display()
    );
    path
}

/// Where this build's binaries lie.
fn profile_folder() -> PathBuf {
    let own = std::env::current_exe().expect("the test's own path");
    let mut folder = own.parent().expect("a folder above the executable");
    if folder.ends_with("deps") {
        folder = folder.parent().expect("a target folder");
    }
    folder.to_owned()
}

/// The target folder of all builds: what tests install or generate once is kept below it.
pub(crate) fn target_folder() -> PathBuf {
    profile_folder().parent().expect("a folder above the profile's").to_owned()
}

/// A TCP port of the loopback interface that was free a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind a free port");
    listener.local_addr().expect("its address").port()
}

/// A command for a binary of this workspace, from whose environment everything is withheld that
/// configures Relevo: a developer's own settings must not reach a test.
pub fn clean_command(binary: &str) -> Command {
    let mut command = Command::new(binary_path(binary));
    let fixed = ["DATABASE_URL", "SYNC_INTERVAL_HOURS", "BACKUP_RETENTION_DAYS", "LOG_LEVEL"];
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let of_relevo = ["RELEVO_", "TUNNEL_", "NOTIFICATION_", "OTEL_"];
        if of_relevo.iter().any(|start| text.starts_with(start)) || fixed.contains(&&*text) {
            command.env_remove(&name);
        }
    }
    command
}

/// What to start; see [`Process::builder`].
pub struct ProcessBuilder {
    label: String,
    command: Command,
    log: Option<PathBuf>,
}

impl ProcessBuilder {
    /// Appends an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.command.arg(argument.into());
        self
    }

    /// Appends arguments.
    #[must_use]
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.command.args(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.command.env(name, value.into());
        self
    }

    /// Starts in this folder.
    #[must_use]
    pub fn current_dir(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    /// Writes standard output and standard error to this file, instead of one of its own.
    #[must_use]
    pub fn log_file(mut self, path: &Path) -> Self {
        self.log = Some(path.to_owned());
        self
    }

    /// Starts the process.
    pub fn spawn(mut self) -> Process {
        let (folder, log) = if let Some(log) = self.log {
            (None, log)
        } else {
            let folder = TempDir::with_prefix("relevo-test-").expect("a temporary folder");
            // A process that is killed leaves its temporary files; there they go with this value.
            self.command.env("TMPDIR", folder.path());
            let log = folder.path().join("output.log");
            (Some(folder), log)
        };
        let output = File::create(&log).expect("create the log file");
        let errors = output.try_clone().expect("a second handle of the log file");
        let child = self
            .command
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}", self.label));
        Process { label: self.label, child: Mutex::new(child), log, _folder: folder }
    }
}

/// A running process; it is killed when this value is dropped.
///
/// When the test is failing, the drop shows the last lines of its output.
pub struct Process {
    label: String,
    child: Mutex<Child>,
    log: PathBuf,
    _folder: Option<TempDir>,
}

impl Process {
    /// Prepares a binary of this workspace, such as `relevo`.
    ///
    /// Of the environment, what configures Relevo is withheld: a developer's own settings must not
    /// reach a test.
    pub fn builder(binary: &str) -> ProcessBuilder {
        ProcessBuilder { label: binary.to_owned(), command: clean_command(binary), log: None }
    }

    /// Prepares a program from elsewhere.
    pub fn program(path: &Path) -> ProcessBuilder {
        let label = path.display().to_string();
        ProcessBuilder { label, command: Command::new(path), log: None }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.lock().id()
    }

    /// Everything it has written so far, standard output and standard error together.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&self) -> ExitStatus {
        let mut child = self.lock();
        child.kill().ok();
        child.wait().unwrap_or_else(|error| panic!("wait for {}: {error}", self.label))
    }

    /// Asks it to end (SIGTERM), without waiting.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Freezes it (SIGSTOP): it holds what it holds, and does nothing.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets a frozen process go on (SIGCONT).
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Its exit status, when it has ended.
    pub fn exited(&self) -> Option<ExitStatus> {
        self.lock().try_wait().unwrap_or_else(|error| panic!("look at {}: {error}", self.label))
    }

    /// Waits until it ends.
    ///
    /// # Panics
    ///
    /// When it is still running after `timeout`.
    pub async fn wait_exit(&self, timeout: Duration) -> ExitStatus {
        let what = format!("the end of {} (process {})", self.label, self.id());
        wait_for(&what, timeout, async || self.exited()).await
    }

    /// Waits until a line of its output contains `text`, and returns that line.
    ///
    /// # Panics
    ///
    /// When it ends first, or `timeout` passes.
    pub async fn wait_line(&self, text: &str, timeout: Duration) -> String {
        let what = format!("{:?} in the output of {}", text, self.label);
        wait_for(&what, timeout, async || {
            let ended = self.exited();
            let found = self
                .output()
                .split_inclusive('\n')
                .find(|line| line.ends_with('\n') && line.contains(text))
                .map(|line| line.trim_end().to_owned());
            assert!(
                found.is_some() || ended.is_none(),
                "{} ended ({ended:?}) before it said {text:?}:\n{}",
                self.label,
                self.tail()
            );
            found
        })
        .await
    }

    fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
    }

    fn signal(&self, signal: Signal) {
        let mut child = self.lock();
        // A child that was waited for may have given its id to somebody else.
        if matches!(child.try_wait(), Ok(None))
            && let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw)
        {
            kill_process(pid, signal)
                .unwrap_or_else(|error| panic!("send {signal:?} to {}: {error}", self.label));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the last lines of {} ---\n{}", self.label, self.tail());
        }
        {
            let mut child = self.lock();
            child.kill().ok();
            child.wait().ok();
        }
        if !std::thread::panicking() {
            planted::assert_absent(&format!("the output of {}", self.label), &self.output());
        }
    }
}
