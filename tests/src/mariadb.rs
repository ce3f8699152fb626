//! A real MariaDB server of the tests' own, in a temporary folder, reached through a socket only.
//!
//! It makes the dumps and the reference values that imports are compared with.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;

/// How long a new server may take until it answers.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Where servers lie that are not in an ordinary user's PATH.
const EXTRA_FOLDERS: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/usr/libexec"];

/// A running server; it and its data are gone when this value is dropped.
pub struct MariaDb {
    server: Child,
    socket: PathBuf,
    folder: TempDir,
}

impl MariaDb {
    /// Makes an empty data directory and starts a server on it.
    ///
    /// # Errors
    ///
    /// When MariaDB is not installed, or does not start; the message ends with its log.
    pub fn start() -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("relevo-mariadb-").context("a folder for the server")?;
        let data = folder.path().join("data");
        let log = folder.path().join("server.log");
        let socket = folder.path().join("socket");
        let data_option = format!("--datadir={}", data.display());
        let installed = Command::new(program("mariadb-install-db")?)
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .arg(&data_option)
            .args(as_root().then_some("--user=root"))
            .output()
            .context("run mariadb-install-db")?;
        if !installed.status.success() {
            bail!(
                "mariadb-install-db failed: {}{}",
                String::from_utf8_lossy(&installed.stdout),
                String::from_utf8_lossy(&installed.stderr)
            );
        }
        let output = File::create(&log).context("create the server's log")?;
        let errors = output.try_clone().context("the server's log")?;
        let server = Command::new(program("mariadbd")?)
            .args(["--no-defaults", "--skip-networking", "--skip-log-bin"])
            .args(as_root().then_some("--user=root"))
            .arg(data_option)
            .arg(format!("--socket={}", socket.display()))
            .arg(format!("--pid-file={}", folder.path().join("pid").display()))
            // Thrown away at the end, so nothing has to survive a crash.
            .args(["--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=0"])
            .args(["--innodb-flush-method=nosync", "--innodb-buffer-pool-size=192M"])
            .args(["--innodb-log-file-size=256M", "--character-set-server=utf8mb4"])
            // As SICAR runs its MySQL: zero dates are allowed.
            .args(["--sql-mode=NO_ENGINE_SUBSTITUTION", "--max-allowed-packet=64M"])
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .context("start mariadbd")?;
        let mut database = Self { server, socket, folder };
        database.wait_until_up(&log)?;
        Ok(database)
    }

    /// A folder that lives as long as the server, which can read files in it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs statements, and returns what they print: rows as lines, columns separated by TAB.
    ///
    /// # Errors
    ///
    /// The server's own message when a statement fails; those after it are not run.
    pub fn run(&self, sql: &str) -> anyhow::Result<String> {
        let mut client = Command::new(program("mariadb")?)
            .arg("--no-defaults")
            .args(["--user=root", "--batch", "--raw", "--skip-column-names"])
            .args(["--default-character-set=utf8mb4", "--max-allowed-packet=64M"])
            .arg(format!("--socket={}", self.socket.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start the client mariadb")?;
        let mut input = client.stdin.take().context("the client's input")?;
        let text = sql.to_owned();
        // On a thread: the client may fill its output pipe before it has read everything.
        let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
        let output = client.wait_with_output().context("wait for the client mariadb")?;
        // A client that stopped at an error leaves the rest unread; its status tells.
        writer.join().ok();
        if !output.status.success() {
            bail!("MariaDB: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).context("MariaDB's answer is no UTF-8")
    }

    /// `mariadb-dump` of a database, its output not yet directed anywhere.
    ///
    /// # Errors
    ///
    /// When the program is not installed.
    pub fn dump_command(&self, database: &str, options: &[String]) -> anyhow::Result<Command> {
        let mut command = Command::new(program("mariadb-dump")?);
        command
            .args(["--no-defaults", "--user=root"])
            .arg(format!("--socket={}", self.socket.display()))
            .args(options)
            .arg(database)
            .stdin(Stdio::null());
        Ok(command)
    }

    fn wait_until_up(&mut self, log: &Path) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            if std::os::unix::net::UnixStream::connect(&self.socket).is_ok() {
                return Ok(());
            }
            let ended = self.server.try_wait().context("look at mariadbd")?;
            if ended.is_some() || started.elapsed() > START_TIMEOUT {
                let log = std::fs::read_to_string(log).unwrap_or_default();
                bail!("mariadbd did not start ({ended:?}):\n{log}");
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        // Its data go with it, so it need not shut down in order.
        self.server.kill().ok();
        self.server.wait().ok();
    }
}

fn as_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn program(name: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(EXTRA_FOLDERS.map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
        .with_context(|| {
            format!("{name} is not installed; on Debian and Ubuntu: apt-get install mariadb-server")
        })
}
