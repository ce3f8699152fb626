//! The command line: what people and programs see of it, and how it fails.

mod backup;
mod bad_dump;
mod bad_input;
mod config_check;
mod help;
mod operate;
mod queue_top;
mod services;
mod state;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use relevo_tests::{Process, ProcessBuilder, TestDatabase, binary_path};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;

/// No command that ends by itself takes longer, even on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(90);

/// The binary in a folder and an environment of its own.
pub struct Relevo {
    folder: TempDir,
    env: Vec<(String, String)>,
}

/// What a command answered.
#[derive(Debug)]
pub struct Answer {
    /// Exit code; a signal is a test failure.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Relevo {
    /// Nothing configured but the data directory.
    pub fn new() -> Self {
        let folder = TempDir::with_prefix("relevo-cli-").unwrap();
        let data_dir = folder.path().join("data").to_str().unwrap().to_owned();
        Self { folder, env: vec![("RELEVO_DATA_DIR".to_owned(), data_dir)] }
    }

    /// With this control plane.
    pub fn on(database: &TestDatabase) -> Self {
        Self::new().env("RELEVO_DATABASE_URL", database.url())
    }

    /// Sets a variable.
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.retain(|(known, _)| known != name);
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// The environment, for processes that go on running.
    pub fn environment(&self) -> &[(String, String)] {
        &self.env
    }

    /// The folder it runs in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes a file into that folder and returns its path as text.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// A command to be started as a process that can be killed, with this environment.
    pub fn process(&self, args: &[&str]) -> ProcessBuilder {
        let builder = Process::builder("relevo").args(args.iter().copied());
        let builder = builder.current_dir(self.folder.path());
        self.env.iter().fold(builder, |builder, (name, value)| builder.env(name, value))
    }

    /// Runs a command to its end, whatever it is.
    pub async fn run(&self, args: &[&str]) -> Answer {
        self.run_with(args, b"").await
    }

    /// The same with something on standard input.
    pub async fn run_with(&self, args: &[&str], stdin: &[u8]) -> Answer {
        let mut command = Command::new(binary_path("relevo"));
        command
            .args(args)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().unwrap();
        // A command that doesn't read its input closes it; that's no failure of the test.
        input.write_all(stdin).await.ok();
        drop(input);
        let output = tokio::time::timeout(TIMEOUT, child.wait_with_output())
            .await
            .unwrap_or_else(|_| panic!("relevo {args:?} did not end within {TIMEOUT:?}"))
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        let answer = Answer {
            code: output.status.code().unwrap_or(-1),
            out: text(output.stdout),
            err: text(output.stderr),
        };
        assert!(!answer.err.contains("panicked"), "relevo {args:?}: {answer:?}");
        answer
    }

    /// Runs a command that must succeed; its standard output.
    pub async fn ok(&self, args: &[&str]) -> String {
        let answer = self.run(args).await;
        assert_eq!(answer.code, 0, "relevo {args:?}: {answer:?}");
        answer.out
    }

    /// Runs a command that must succeed, and reads its JSON.
    pub async fn json(&self, args: &[&str]) -> Value {
        let out = self.ok(&[args, &["--json"]].concat()).await;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("relevo {args:?}: {error}: {out}"))
    }

    /// Runs a command that must fail with this code; says the same as people and as programs read
    /// it. Returns the text for people.
    pub async fn fails(&self, args: &[&str], code: i32) -> String {
        let answer = self.run(args).await;
        assert_eq!(answer.code, code, "relevo {args:?}: {answer:?}");
        assert!(answer.out.is_empty(), "relevo {args:?}: {answer:?}");
        // Progress and warnings may stand before it.
        let first = answer.err.lines().find(|line| line.starts_with("error: "));
        let first = first.unwrap_or_else(|| panic!("relevo {args:?}: {answer:?}")).to_owned();

        let answer_json = self.run(&[args, &["--json"]].concat()).await;
        assert_eq!(answer_json.code, code, "relevo {args:?} --json: {answer_json:?}");
        let document: Value = serde_json::from_str(answer_json.err.trim())
            .unwrap_or_else(|error| panic!("relevo {args:?}: {error}: {}", answer_json.err));
        assert_eq!(document["error"]["exit_code"], code);
        let message = document["error"]["message"].as_str().unwrap();
        assert_eq!(first, format!("error: {}", message.lines().next().unwrap()));
        answer.err
    }

    /// Runs a command that must fail, and says all of these.
    pub async fn refuses(&self, args: &[&str], code: i32, parts: &[&str]) -> String {
        let text = self.fails(args, code).await;
        for part in parts {
            assert!(text.contains(part), "relevo {args:?} doesn't say {part:?}: {text}");
        }
        text
    }
}
