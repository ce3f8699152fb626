//! A real PgBouncer in transaction mode before the tests' Postgres.

use std::path::Path;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;

use crate::{Process, free_port, wait_for};

/// How long it may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A pooler that lives as long as this value.
pub struct PgBouncer {
    port: u16,
    _process: Process,
    _folder: TempDir,
}

impl PgBouncer {
    /// Starts one before the server of `url`. It takes no notice of the `ignored` settings that a
    /// session begins with, and refuses those that are neither ignored nor known to it.
    pub async fn start(url: &str, ignored: &str) -> Self {
        let ignored = format!("ignore_startup_parameters = extra_float_digits{ignored}\n");
        Self::with(url, 4, &ignored).await
    }

    /// Starts one before the server of `url`, on so many connections to each of its databases, that
    /// takes nothing but what it knows.
    pub async fn on_connections(url: &str, connections: u32) -> Self {
        Self::with(url, connections, "").await
    }

    async fn with(url: &str, connections: u32, more: &str) -> Self {
        let server: PgConnectOptions = url.parse().expect("the server's address");
        let folder = TempDir::with_prefix("relevo-pgbouncer-").expect("a folder for the pooler");
        let port = free_port();
        let configuration = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={} port={} user={}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n\
             auth_type = any\npool_mode = transaction\ndefault_pool_size = {connections}\n\
             {more}",
            server.get_host(),
            server.get_port(),
            server.get_username(),
        );
        std::fs::write(&configuration, text).expect("write the pooler's configuration");
        let mut process = Process::program(program());
        // It refuses to run as root.
        if rustix::process::geteuid().is_root() {
            process = process.args(["-u", "nobody"]);
        }
        let process = process.arg(&configuration).spawn();
        wait_for("the pooler to listen", START_TIMEOUT, async || {
            assert!(process.exited().is_none(), "it ended:\n{}", process.output());
            tokio::net::TcpStream::connect(("127.0.0.1", port)).await.ok()
        })
        .await;
        Self { port, _process: process, _folder: folder }
    }

    /// The address of a database, by way of the pooler.
    pub fn before(&self, url: &str) -> String {
        let mut url = url::Url::parse(url).expect("a URL");
        url.set_host(Some("127.0.0.1")).expect("a host");
        url.set_port(Some(self.port)).expect("a port");
        url.into()
    }
}

/// Debian keeps it where only root's path leads.
fn program() -> &'static Path {
    let usual = Path::new("/usr/sbin/pgbouncer");
    if usual.exists() { usual } else { Path::new("pgbouncer") }
}
