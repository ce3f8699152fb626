//! A real mail server: aiosmtpd from PyPI, with TLS by a certificate of its own.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::python::{programs_of, run};
use crate::{Process, free_port, wait_for};

/// The version that was tried.
const VERSION: &str = "1.4.6";

/// How long it may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Whom the server lets in.
pub const USER: &str = "relevo";
/// With which password.
pub const PASSWORD: &str = "s3cret-mail";

/// A running mail server.
pub struct MailServer {
    process: Process,
    port: u16,
    folder: TempDir,
}

impl MailServer {
    /// Starts one; `security` is `none`, `starttls` or `tls`.
    pub async fn start(security: &str) -> Self {
        let python = programs_of(&format!("aiosmtpd=={VERSION}")).join("python");
        let folder = TempDir::with_prefix("relevo-mail-").expect("a folder for the mail server");
        certificate(folder.path());
        let port = free_port();
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/mail/server.py");
        let process = Process::program(&python)
            .arg(script)
            .args([&port.to_string(), security])
            .arg(folder.path().join("server.pem"))
            .arg(folder.path().join("server.key"))
            .spawn();
        process.wait_line("listening", START_TIMEOUT).await;
        Self { process, port, folder }
    }

    /// Its port on the loopback interface; the certificate names `localhost`.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file with the root certificate to trust.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Every message it has taken in.
    pub fn messages(&self) -> Vec<Value> {
        let output = self.process.output();
        let lines = output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line.get("subject").is_some()).collect()
    }

    /// Waits until it has taken in `count` messages.
    pub async fn wait(&self, count: usize, timeout: Duration) -> Vec<Value> {
        wait_for("e-mail", timeout, async || {
            assert!(self.process.exited().is_none(), "it ended:\n{}", self.process.output());
            let messages = self.messages();
            (messages.len() >= count).then_some(messages)
        })
        .await
    }
}

/// A root of its own and a certificate for `localhost`: `ca.pem`, `server.pem`, `server.key`.
pub(crate) fn certificate(folder: &Path) {
    let openssl = |arguments: &[&str]| {
        run(Command::new("openssl").current_dir(folder).args(arguments));
    };
    let new_key = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"];
    openssl(
        &[
            &new_key[..],
            &["-x509", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=tests"],
            &["-addext", "keyUsage=critical,keyCertSign"],
        ]
        .concat(),
    );
    openssl(
        &[&new_key[..], &["-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=localhost"]]
            .concat(),
    );
    std::fs::write(folder.join("server.ext"), "subjectAltName=DNS:localhost\n").expect("write");
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-out",
        "server.pem",
        "-days",
        "2",
        "-extfile",
        "server.ext",
    ]);
}
