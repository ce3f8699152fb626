//! A real MariaDB server of the tests' own, in a temporary folder, reached through a socket only;
//! or a real MySQL, where there is one.
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

/// A folder with the programs of a MySQL server (`mysqld`, `mysql`, `mysqldump`), which no
/// distribution installs beside MariaDB: `./dev differential --mysql` fetches one.
const MYSQL_ENV: &str = "RELEVO_TEST_MYSQL_BIN";

/// Settings that both servers know.
const SETTINGS: [&str; 7] = [
    "--skip-networking",
    "--skip-log-bin",
    // Thrown away at the end, so nothing has to survive a crash.
    "--innodb-flush-log-at-trx-commit=0",
    "--character-set-server=utf8mb4",
    "--innodb-buffer-pool-size=192M",
    // As SICAR runs its MySQL: zero dates are allowed.
    "--sql-mode=NO_ENGINE_SUBSTITUTION",
    "--max-allowed-packet=64M",
];

/// A running server; it and its data are gone when this value is dropped.
pub struct MariaDb {
    server: Child,
    socket: PathBuf,
    folder: TempDir,
    client: PathBuf,
    dump: PathBuf,
    mysql: bool,
}

impl MariaDb {
    /// Makes an empty data directory and starts a server on it.
    ///
    /// # Errors
    ///
    /// When MariaDB is not installed, or does not start; the message ends with its log.
    pub fn start() -> anyhow::Result<Self> {
        let folder = TempDir::with_prefix("relevo-mariadb-").context("a folder for the server")?;
        let data = format!("--datadir={}", folder.path().join("data").display());
        let mut install = Command::new(program("mariadb-install-db")?);
        install
            .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
            .args([&data]);
        let mut server = Command::new(program("mariadbd")?);
        server
            .args(["--no-defaults", "--innodb-doublewrite=0", "--innodb-flush-method=nosync"])
            .args(["--innodb-log-file-size=256M", &data]);
        let (client, dump) = (program("mariadb")?, program("mariadb-dump")?);
        Self::start_with(folder, install, server, client, dump, false)
    }

    /// The same of a real MySQL, when `RELEVO_TEST_MYSQL_BIN` names the folder of its programs.
    ///
    /// # Errors
    ///
    /// When it does not start; the message ends with its log.
    pub fn start_mysql() -> anyhow::Result<Option<Self>> {
        let Some(programs) = std::env::var_os(MYSQL_ENV).map(PathBuf::from) else {
            return Ok(None);
        };
        let folder = TempDir::with_prefix("relevo-mysql-").context("a folder for the server")?;
        let data = format!("--datadir={}", folder.path().join("data").display());
        let mut install = Command::new(programs.join("mysqld"));
        install.args(["--no-defaults", "--initialize-insecure", &data]);
        let mut server = Command::new(programs.join("mysqld"));
        server
            .args(["--no-defaults", "--innodb-doublewrite=OFF", "--mysqlx=OFF", &data])
            // A fresh AUTO_INCREMENT, not yesterday's statistics.
            .args(["--information-schema-stats-expiry=0", "--secure-file-priv="])
            .arg(format!("--tmpdir={}", folder.path().display()));
        let (client, dump) = (programs.join("mysql"), programs.join("mysqldump"));
        let started = Self::start_with(folder, install, server, client, dump, true)?;
        // MD5(), with which values are compared, is in a component since 9.6; before, this fails.
        started.run("INSTALL COMPONENT 'file://component_classic_hashing';").ok();
        Ok(Some(started))
    }

    fn start_with(
        folder: TempDir,
        mut install: Command,
        mut server: Command,
        client: PathBuf,
        dump: PathBuf,
        mysql: bool,
    ) -> anyhow::Result<Self> {
        let log = folder.path().join("server.log");
        let socket = folder.path().join("socket");
        let user = as_root().then_some("--user=root");
        let installed =
            install.args(user).output().context("make the data directory of a server")?;
        if !installed.status.success() {
            bail!(
                "{} failed: {}{}",
                install.get_program().display(),
                String::from_utf8_lossy(&installed.stdout),
                String::from_utf8_lossy(&installed.stderr)
            );
        }
        let output = File::create(&log).context("create the server's log")?;
        let errors = output.try_clone().context("the server's log")?;
        let server = server
            .args(user)
            .arg(format!("--socket={}", socket.display()))
            .arg(format!("--pid-file={}", folder.path().join("pid").display()))
            .args(SETTINGS)
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors)
            .spawn()
            .context("start the server")?;
        let mut database = Self { server, socket, folder, client, dump, mysql };
        database.wait_until_up(&log)?;
        Ok(database)
    }

    /// Whether it is a MySQL.
    pub fn is_mysql(&self) -> bool {
        self.mysql
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
        let mut client = Command::new(&self.client)
            .arg("--no-defaults")
            .args(["--user=root", "--batch", "--raw", "--skip-column-names"])
            .args(["--default-character-set=utf8mb4", "--max-allowed-packet=64M"])
            .arg(format!("--socket={}", self.socket.display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start the client")?;
        let mut input = client.stdin.take().context("the client's input")?;
        let text = sql.to_owned();
        // On a thread: the client may fill its output pipe before it has read everything.
        let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
        let output = client.wait_with_output().context("wait for the client")?;
        // A client that stopped at an error leaves the rest unread; its status tells.
        writer.join().ok();
        if !output.status.success() {
            bail!("the server: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        String::from_utf8(output.stdout).context("the answer is no UTF-8")
    }

    /// The server's own dump of a database, its output not yet directed anywhere.
    pub fn dump_command(&self, database: &str, options: &[String]) -> Command {
        let mut command = Command::new(&self.dump);
        command
            .args(["--no-defaults", "--user=root"])
            .arg(format!("--socket={}", self.socket.display()))
            .args(options)
            .arg(database)
            .stdin(Stdio::null());
        command
    }

    fn wait_until_up(&mut self, log: &Path) -> anyhow::Result<()> {
        let started = Instant::now();
        loop {
            if std::os::unix::net::UnixStream::connect(&self.socket).is_ok() {
                return Ok(());
            }
            let ended = self.server.try_wait().context("look at the server")?;
            if ended.is_some() || started.elapsed() > START_TIMEOUT {
                let log = std::fs::read_to_string(log).unwrap_or_default();
                bail!("the server did not start ({ended:?}):\n{log}");
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
