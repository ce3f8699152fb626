//! What people do without Relevo: restore the dump into a MariaDB, then let pgloader copy it over.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};

const DATABASE: &str = "relevo_bench";
const USER: &str = "relevo_bench";

/// A MariaDB server of the bench's own, reached through its socket and, by pgloader, on 127.0.0.1.
pub struct MariaDb {
    socket: PathBuf,
    port: u16,
}

impl MariaDb {
    /// The server that `./dev bench dump` has started; `None` without one.
    pub fn from_env() -> Result<Option<Self>> {
        let (Some(socket), Ok(port)) = (
            std::env::var_os("RELEVO_BENCH_MARIADB_SOCKET"),
            std::env::var("RELEVO_BENCH_MARIADB_PORT"),
        ) else {
            return Ok(None);
        };
        let port = port.parse().context("RELEVO_BENCH_MARIADB_PORT is no port")?;
        Ok(Some(Self { socket: socket.into(), port }))
    }

    fn client(&self) -> Command {
        let mut client = Command::new("mariadb");
        client.arg("--no-defaults").arg("--user=root");
        client.arg(format!("--socket={}", self.socket.display()));
        client
    }

    /// Restores the dump into an empty database; seconds.
    pub fn restore(&self, file: &Path) -> Result<f64> {
        let prepare = format!(
            "DROP DATABASE IF EXISTS {DATABASE}; CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4;
             CREATE USER IF NOT EXISTS {USER}@'127.0.0.1' IDENTIFIED BY '{USER}';
             GRANT ALL ON *.* TO {USER}@'127.0.0.1'"
        );
        let status = self.client().arg("--execute").arg(prepare).status()?;
        ensure!(status.success(), "MariaDB cannot be prepared: {status}");
        let started = Instant::now();
        let packed = file.extension().is_some_and(|extension| extension == "gz");
        let mut unpack = Command::new(if packed { "gzip" } else { "cat" });
        unpack.args(packed.then_some("-dc")).arg(file).stdout(Stdio::piped());
        let mut unpack = unpack.spawn().context("unpack the dump")?;
        let text = unpack.stdout.take().context("the unpacked dump")?;
        let status = self.client().arg(DATABASE).stdin(text).status()?;
        ensure!(status.success() && unpack.wait()?.success(), "the restore failed: {status}");
        Ok(started.elapsed().as_secs_f64())
    }

    /// Copies it with pgloader, tuned, zero dates cast; seconds.
    pub fn pgloader(&self, url: &str, folder: &Path) -> Result<f64> {
        let script = folder.join("pgloader.load");
        let port = self.port;
        let url = url.replacen("postgres://", "postgresql://", 1);
        std::fs::write(
            &script,
            format!(
                "LOAD DATABASE FROM mysql://{USER}:{USER}@127.0.0.1:{port}/{DATABASE} INTO {url}
                 WITH include drop, create tables, create indexes, reset sequences, foreign keys,
                      workers = 4, concurrency = 2, max parallel create index = 2,
                      batch rows = 25000, batch size = 20MB, prefetch rows = 50000
                 CAST type date drop not null drop default using zero-dates-to-null,
                      type datetime to timestamp drop not null drop default using zero-dates-to-null,
                      type timestamp to timestamptz drop not null drop default using zero-dates-to-null,
                      type tinyint to smallint drop typemod;\n"
            ),
        )?;
        let started = Instant::now();
        let output = Command::new("pgloader").arg(&script).output().context("run pgloader")?;
        let seconds = started.elapsed().as_secs_f64();
        let said = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success(), "pgloader failed: {said}");
        Ok(seconds)
    }
}
