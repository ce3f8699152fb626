//! A Postgres server of one test's own: to stop, to restart and to fill up.

use std::os::unix::fs::{MetadataExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use relevo_pg::embedded::EmbeddedServer;
use secrecy::ExposeSecret as _;
use tempfile::TempDir;

/// A server that lives as long as this value.
pub struct OwnPostgres {
    server: EmbeddedServer,
    folder: TempDir,
}

impl OwnPostgres {
    /// Makes and starts one, from the newest installed programs.
    pub async fn start() -> Self {
        let folder = TempDir::with_prefix("relevo-postgres-").expect("a folder for the server");
        let server = EmbeddedServer::start_or_adopt(folder.path())
            .await
            .unwrap_or_else(|error| panic!("start a Postgres of the test's own: {error}"));
        Self { server, folder }
    }

    /// The URL of a database on it, made when it is not there, with superuser rights.
    pub async fn database(&self, name: &str) -> String {
        let url = self.server.database_url(name).await;
        let url = url.unwrap_or_else(|error| panic!("the database {name}: {error}"));
        url.expose_secret().to_owned()
    }

    /// Ends it as a crash would.
    pub fn crash(&self) {
        self.pg_ctl(&["stop", "--mode=immediate"]);
    }

    /// Starts it again.
    pub fn start_again(&self) {
        self.pg_ctl(&["start", "--log=start.log"]);
    }

    /// Ends it as a crash would and starts it, in one go: `pg_ctl restart -m immediate`.
    pub fn restart_at_once(&self) {
        self.pg_ctl(&["restart", "--mode=immediate", "--log=start.log"]);
    }

    /// Gives a file or folder to the user it runs as.
    pub fn give(&self, path: &Path) {
        let owner = std::fs::metadata(self.server.data()).expect("the data folder");
        chown(path, Some(owner.uid()), Some(owner.gid()))
            .unwrap_or_else(|error| panic!("give {} away: {error}", path.display()));
    }

    fn pg_ctl(&self, arguments: &[&str]) {
        let data = self.server.data();
        let owner = std::fs::metadata(data).expect("the data folder");
        let folder = data.parent().expect("a folder above the data");
        let mut command = Command::new(self.server.bin_dir().join("pg_ctl"));
        command.current_dir(folder).args(arguments);
        command.args(["--pgdata=data", "--silent", "--wait", "--timeout=60"]);
        // What pg_ctl starts would otherwise keep the test's pipes open.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.uid(owner.uid()).gid(owner.gid());
        }
        let status = command.status().expect("run pg_ctl");
        assert!(status.success(), "pg_ctl {arguments:?} failed: {status}");
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        let running = self.server.data().join("postmaster.pid").exists();
        if running && self.folder.path().exists() && !std::thread::panicking() {
            self.crash();
        } else if running {
            // No second panic: the server goes, whatever pg_ctl says of it.
            let stop = || self.crash();
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(stop)).ok();
        }
    }
}
