//! Runs the server's programs as its user: `initdb`, `pg_ctl`, `postgres --single`.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

use super::binaries::Binaries;
use super::error::EmbeddedError;
use super::identity::Identity;
use super::layout::{Layout, ROLE};

/// Recovery after a crash replays up to `max_wal_size`, on a slow disk for minutes.
const START_TIMEOUT: Duration = Duration::from_secs(300);
const STOP_TIMEOUT: Duration = Duration::from_secs(120);
const TAIL_BYTES: u64 = 4_096;

/// The programs of one installation, run as one user in one folder.
pub(super) struct Tools<'a> {
    pub(super) binaries: &'a Binaries,
    pub(super) identity: &'a Identity,
    pub(super) layout: &'a Layout,
}

impl Tools<'_> {
    /// Paths are given relative to the server's folder: `pg_ctl` passes them through a shell.
    fn command(&self, tool: &'static str) -> Command {
        let mut command = Command::new(self.binaries.dir.join(tool));
        command.current_dir(&self.layout.server).stdin(Stdio::null());
        // Our own process group, so that Ctrl-C for us doesn't break off an initdb; pg_ctl gives
        // the server a session of its own.
        command.process_group(0);
        if let Identity::Other(user) = self.identity {
            // As root, std drops the supplementary groups when it changes the user.
            command.uid(user.uid).gid(user.gid);
        }
        // A PGDATA or PGPORT meant for another server must not reach this one.
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| name.starts_with("PG")) {
                command.env_remove(name);
            }
        }
        command.env("LC_ALL", "C");
        command
    }

    async fn run(&self, tool: &'static str, mut command: Command) -> Result<(), EmbeddedError> {
        let output = command
            .output()
            .await
            .map_err(EmbeddedError::io("run", &self.binaries.dir.join(tool)))?;
        self.check(tool, &output)
    }

    fn check(&self, tool: &'static str, output: &Output) -> Result<(), EmbeddedError> {
        if output.status.success() {
            return Ok(());
        }
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        if tool == "pg_ctl" {
            for log in [Some(self.layout.server.join("start.log")), self.newest_log()] {
                text.push_str(&log.and_then(|log| tail(&log)).unwrap_or_default());
            }
        }
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let last = lines.len().saturating_sub(12);
        Err(EmbeddedError::Tool {
            tool,
            status: output.status.to_string(),
            output: lines[last..].join("; "),
        })
    }

    fn newest_log(&self) -> Option<PathBuf> {
        let entries = fs::read_dir(self.layout.data.join("log")).ok()?;
        let newest =
            entries.flatten().max_by_key(|log| log.metadata().and_then(|m| m.modified()).ok());
        Some(newest?.path())
    }

    /// Makes `data.new`, with the password from a file that only the server's user reads: neither
    /// arguments nor the environment of a process are private.
    pub(super) async fn initdb(&self, password: &SecretString) -> Result<(), EmbeddedError> {
        let password_path = self.layout.server.join("password");
        self.identity.write_file(&password_path, password.expose_secret())?;
        let mut outcome = Ok(());
        // C.UTF-8 knows the case of accented letters; the oldest systems lack it.
        for locale in ["C.UTF-8", "C"] {
            remove_tree(&self.layout.server.join("data.new"))?;
            let mut command = self.command("initdb");
            command.args(["--pgdata=data.new", "--pwfile=password", "--encoding=UTF8"]);
            command.args([&format!("--username={ROLE}"), &format!("--locale={locale}")]);
            command.args(["--auth=scram-sha-256", "--data-checksums"]);
            outcome = self.run("initdb", command).await;
            if outcome.is_ok() {
                break;
            }
        }
        fs::remove_file(&password_path).map_err(EmbeddedError::io("remove", &password_path))?;
        outcome
    }

    pub(super) async fn start(&self) -> Result<(), EmbeddedError> {
        // What it said at former starts only confuses.
        remove_file(&self.layout.server.join("start.log"))?;
        let mut command = self.command("pg_ctl");
        command.args(["start", "--pgdata=data", "--log=start.log", "--silent", "--wait"]);
        command.arg(format!("--timeout={}", START_TIMEOUT.as_secs()));
        self.run("pg_ctl", command).await
    }

    /// Stops the server: sessions are ended, what was committed is on disk.
    pub(super) async fn stop(&self) -> Result<(), EmbeddedError> {
        let mut command = self.command("pg_ctl");
        command.args(["stop", "--pgdata=data", "--mode=fast", "--silent", "--wait"]);
        command.arg(format!("--timeout={}", STOP_TIMEOUT.as_secs()));
        self.run("pg_ctl", command).await
    }

    /// Sets a new password while the server is stopped. The statement goes through a pipe.
    pub(super) async fn reset_password(
        &self,
        password: &SecretString,
    ) -> Result<(), EmbeddedError> {
        let tool = "postgres";
        let path = self.binaries.dir.join(tool);
        let mut command = self.command(tool);
        command.args(["--single", "-D", "data", "-c", "exit_on_error=on", "postgres"]);
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(EmbeddedError::io("run", &path))?;
        let statement = format!("ALTER ROLE {ROLE} PASSWORD '{}'\n", password.expose_secret());
        if let Some(mut stdin) = child.stdin.take() {
            stdin
                .write_all(statement.as_bytes())
                .await
                .map_err(EmbeddedError::io("speak to", &path))?;
        }
        let output = child.wait_with_output().await.map_err(EmbeddedError::io("run", &path))?;
        self.check(tool, &output)
    }
}

fn tail(path: &Path) -> Option<String> {
    let mut file = fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES))).ok()?;
    let mut bytes = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

pub(super) fn remove_file(path: &Path) -> Result<(), EmbeddedError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EmbeddedError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

pub(super) fn remove_tree(path: &Path) -> Result<(), EmbeddedError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EmbeddedError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}
