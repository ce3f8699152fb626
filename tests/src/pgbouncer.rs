//! A real PgBouncer in transaction mode before the tests' Postgres.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tempfile::TempDir;

use crate::mail::certificate;
use crate::{Process, free_port, wait_for};

/// How long it may take until it listens.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// A pooler that lives as long as this value.
pub struct PgBouncer {
    port: u16,
    _process: Process,
    folder: TempDir,
}

impl PgBouncer {
    /// Starts one before the server of `url`. It takes no notice of the `ignored` settings that a
    /// session begins with, and refuses those that are neither ignored nor known to it.
    pub async fn start(url: &str, ignored: &str) -> Self {
        let ignored = format!("ignore_startup_parameters = extra_float_digits{ignored}\n");
        Self::with(url, 4, &ignored, false).await
    }

    /// Starts one before the server of `url` that talks to nobody without TLS.
    pub async fn encrypted(url: &str) -> Self {
        Self::with(url, 4, "", true).await
    }

    /// The file with the root certificate of an encrypted one, whose own names `localhost`.
    pub fn ca_file(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Starts one before the server of `url`, on so many connections to each of its databases, that
    /// takes nothing but what it knows.
    pub async fn on_connections(url: &str, connections: u32) -> Self {
        Self::with(url, connections, "", false).await
    }

    async fn with(url: &str, connections: u32, more: &str, encrypted: bool) -> Self {
        let server: PgConnectOptions = url.parse().expect("the server's address");
        let folder = TempDir::with_prefix("relevo-pgbouncer-").expect("a folder for the pooler");
        let port = free_port();
        let mut more = more.to_owned();
        if encrypted {
            certificate(folder.path());
            let file = |name: &str| folder.path().join(name);
            // It reads them when it is not root any more.
            for (name, mode) in [("", 0o755), ("server.key", 0o644)] {
                let permissions = Permissions::from_mode(mode);
                std::fs::set_permissions(file(name), permissions).expect("let it read the key");
            }
            let (key, own) = (file("server.key"), file("server.pem"));
            more = format!(
                "{more}client_tls_sslmode = require\nclient_tls_key_file = {}\n\
                 client_tls_cert_file = {}\n",
                key.display(),
                own.display(),
            );
        }
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
        Self { port, _process: process, folder }
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
