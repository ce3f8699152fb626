//! The embedded server: really started, killed around, adopted, stopped.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use relevo_pg::embedded::{EmbeddedError, EmbeddedServer};
use relevo_tests::wait_for;
use rustix::process::{Pid, Signal};
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

const PATIENCE: Duration = Duration::from_secs(60);

/// A data directory; whatever server still runs in it at the end is killed.
pub(crate) struct DataDir(tempfile::TempDir);

impl DataDir {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    fn pgdata(&self) -> PathBuf {
        self.path().join("postgres/server/data")
    }

    fn postmaster(&self) -> Option<Pid> {
        let file = std::fs::read_to_string(self.pgdata().join("postmaster.pid")).ok()?;
        Pid::from_raw(file.lines().next()?.trim().parse().ok()?)
    }

    fn connection_file(&self) -> PathBuf {
        self.path().join("postgres/connection.json")
    }
}

impl Drop for DataDir {
    fn drop(&mut self) {
        let Some(pid) = self.postmaster() else { return };
        let works_here = std::fs::read_link(format!("/proc/{}/cwd", pid.as_raw_nonzero()))
            .is_ok_and(|cwd| cwd.starts_with(self.path().canonicalize().unwrap_or_default()));
        if works_here {
            let _ = rustix::process::kill_process(pid, Signal::QUIT);
        }
    }
}

async fn start(data: &DataDir) -> EmbeddedServer {
    EmbeddedServer::start_or_adopt(data.path()).await.unwrap()
}

/// The error of a start, whole.
async fn refusal(data_dir: &Path) -> EmbeddedError {
    match EmbeddedServer::start_or_adopt(data_dir).await {
        Ok(_) => panic!("the server started in {}", data_dir.display()),
        Err(error) => error,
    }
}

async fn connect(url: &SecretString) -> PgConnection {
    PgConnection::connect(url.expose_secret()).await.unwrap()
}

async fn ask(url: &SecretString, statement: &str) -> String {
    let mut connection = connect(url).await;
    sqlx::query_scalar(AssertSqlSafe(statement.to_owned()))
        .fetch_one(&mut connection)
        .await
        .unwrap()
}

async fn run(url: &SecretString, statement: &str) {
    let mut connection = connect(url).await;
    sqlx::query(AssertSqlSafe(statement.to_owned())).execute(&mut connection).await.unwrap();
}

/// Processes whose working directory is below `path`.
fn processes_below(path: &Path) -> Vec<i32> {
    let path = path.canonicalize().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    entries
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&path))
        })
        .collect()
}

async fn wait_until_gone(data: &DataDir) {
    wait_for("the server's processes to end", PATIENCE, async || {
        processes_below(data.path()).is_empty().then_some(())
    })
    .await;
}

/// Where a starter process finds its data directory.
const STARTER_DATA_DIR: &str = "RELEVO_TEST_STARTER_DATA_DIR";

/// Not a test: the process that the tests below start, to kill it or to read its error. It starts
/// the server, says so in a file, and waits for its end.
#[tokio::test]
#[ignore = "a process of its own, started by the tests beside it"]
async fn starter_process() {
    let Ok(data_dir) = std::env::var(STARTER_DATA_DIR) else { return };
    let data_dir = Path::new(&data_dir);
    match EmbeddedServer::start_or_adopt(data_dir).await {
        Ok(server) => {
            std::fs::write(data_dir.join("started"), server.url().expose_secret()).unwrap();
            std::future::pending::<()>().await;
        }
        Err(error) => std::fs::write(data_dir.join("refused"), error.to_string()).unwrap(),
    }
}

fn starter(data: &DataDir, env: &[(&str, &str)]) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "embedded::starter_process", "--ignored"])
        .env(STARTER_DATA_DIR, data.path())
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A group of its own, as a shell gives to each command.
        .process_group(0)
        .spawn()
        .unwrap()
}

async fn said_in(path: &Path) -> String {
    wait_for("the starter's word", PATIENCE, async || {
        std::fs::read_to_string(path).ok().filter(|text| !text.is_empty())
    })
    .await
}

#[tokio::test]
async fn a_server_of_our_own_durable_and_private() {
    let data = DataDir::new();
    let server = start(&data).await;
    assert!(!server.adopted());
    assert_eq!(ask(server.url(), "SELECT current_database()::text").await, "relevo");
    for setting in ["fsync", "full_page_writes", "synchronous_commit", "data_checksums"] {
        let value = ask(server.url(), &format!("SELECT current_setting('{setting}')")).await;
        assert_eq!(value, "on", "{setting}");
    }
    assert_eq!(ask(server.url(), "SHOW listen_addresses").await, "127.0.0.1");
    assert_eq!(ask(server.url(), "SELECT lower('ÑANDÚ')").await, "ñandú");
    let mode = std::fs::metadata(data.connection_file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    // Another database, twice, also by a handle found by someone else.
    let shop = server.database_url("Shop \"1\"").await.unwrap();
    assert_eq!(ask(&shop, "SELECT current_database()::text").await, "Shop \"1\"");
    let found = EmbeddedServer::find(data.path()).await.unwrap().unwrap();
    assert_eq!(found.url().expose_secret(), server.url().expose_secret());
    let again = found.database_url("Shop \"1\"").await.unwrap();
    assert_eq!(again.expose_secret(), shop.expose_secret());

    // The password is nowhere to be seen; a wrong one is refused.
    let file = std::fs::read_to_string(data.connection_file()).unwrap();
    let file: serde_json::Value = serde_json::from_str(&file).unwrap();
    let password = file["password"].as_str().unwrap();
    assert!(password.len() >= 32);
    for pid in processes_below(data.path()) {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(!String::from_utf8_lossy(&arguments).contains(password));
    }
    let below = data.path().join("postgres/server");
    assert!(!below.join("password").exists());
    let log = std::fs::read_to_string(below.join("start.log")).unwrap_or_default();
    assert!(!log.contains(password));
    let wrong = server.url().expose_secret().replace(password, "wrong");
    assert!(PgConnection::connect(&wrong).await.is_err());

    // The socket is there for people, under its own folder.
    let socket = below.join(format!("run/.s.PGSQL.{}", server.handle().port()));
    assert!(socket.exists());

    assert!(server.stop().await.unwrap());
    wait_until_gone(&data).await;
    assert!(EmbeddedServer::find(data.path()).await.unwrap().is_none());
}

#[tokio::test]
async fn stopped_and_started_again_it_is_the_same() {
    let data = DataDir::new();
    let server = start(&data).await;
    let url = server.url().clone();
    run(&url, "CREATE TABLE kept AS SELECT 'yes'::text AS word").await;
    assert!(server.stop().await.unwrap());
    wait_until_gone(&data).await;

    let server = start(&data).await;
    assert!(!server.adopted());
    // Same port and password: addresses handed out stay true.
    assert_eq!(server.url().expose_secret(), url.expose_secret());
    assert_eq!(ask(&url, "SELECT word FROM kept").await, "yes");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn it_outlives_its_starter_and_is_adopted() {
    for signal in [Signal::KILL, Signal::INT] {
        let data = DataDir::new();
        let mut child = starter(&data, &[]);
        let url = SecretString::from(said_in(&data.path().join("started")).await);
        run(&url, "CREATE TABLE kept AS SELECT 'yes'::text AS word").await;
        // To the whole group, as a terminal sends Ctrl-C.
        let group = Pid::from_raw(child.id().cast_signed()).unwrap();
        rustix::process::kill_process_group(group, signal).unwrap();
        assert!(!child.wait().unwrap().success());

        assert_eq!(ask(&url, "SELECT word FROM kept").await, "yes");
        let before = data.postmaster();
        let server = start(&data).await;
        assert!(server.adopted());
        assert_eq!(data.postmaster(), before);
        assert_eq!(server.url().expose_secret(), url.expose_secret());
        assert!(server.stop().await.unwrap());
        wait_until_gone(&data).await;
    }
}

#[tokio::test]
async fn killed_itself_it_recovers() {
    let data = DataDir::new();
    let server = start(&data).await;
    run(server.url(), "CREATE TABLE kept AS SELECT 'yes'::text AS word").await;
    let mut busy = connect(server.url()).await;
    let sleeper = tokio::spawn(async move {
        sqlx::query("SELECT pg_sleep(600)").execute(&mut busy).await.map(|_| ())
    });
    rustix::process::kill_process(data.postmaster().unwrap(), Signal::KILL).unwrap();
    drop(server);
    let server = start(&data).await;
    assert!(!server.adopted());
    assert_eq!(ask(server.url(), "SELECT word FROM kept").await, "yes");
    assert!(sleeper.await.unwrap().is_err());
    server.stop().await.unwrap();
}

/// What is left of a killed server for a moment: a process in the data directory, a pid file that
/// calls it ready, and a port that hangs up.
#[tokio::test]
async fn one_that_dies_while_it_is_adopted_is_started_anew() {
    let data = DataDir::new();
    let server = start(&data).await;
    run(server.url(), "CREATE TABLE kept AS SELECT 'yes'::text AS word").await;
    server.stop().await.unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut dying = Command::new("sleep").arg("600").current_dir(data.pgdata()).spawn().unwrap();
    let number = port.local_addr().unwrap().port();
    let pid_file = format!(
        "{}\n{}\n1700000000\n{number}\n/nowhere\n127.0.0.1\n\nready\n",
        dying.id(),
        data.pgdata().display(),
    );
    std::fs::write(data.pgdata().join("postmaster.pid"), pid_file).unwrap();
    let death = std::thread::spawn(move || {
        let knock = port.accept().unwrap();
        dying.kill().unwrap();
        dying.wait().unwrap();
        drop((knock, port));
    });
    let server = start(&data).await;
    death.join().unwrap();
    assert!(!server.adopted());
    assert_eq!(ask(server.url(), "SELECT word FROM kept").await, "yes");
    server.stop().await.unwrap();
}

/// A program that has nothing to do with PostgreSQL and runs as the server's user.
struct Namesake(Child);

impl Namesake {
    fn start(pgdata: &Path) -> Self {
        let mut command = Command::new("sleep");
        command.arg("600").current_dir("/").stdout(Stdio::null()).stderr(Stdio::null());
        if rustix::process::geteuid().is_root() {
            command.uid(std::fs::metadata(pgdata).unwrap().uid());
        }
        Self(command.spawn().unwrap())
    }

    fn lives(mut self) -> bool {
        self.0.try_wait().unwrap().is_none()
    }
}

impl Drop for Namesake {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_stale_pid_file_that_names_another_program_is_no_obstacle() {
    let data = DataDir::new();
    let server = start(&data).await;
    run(server.url(), "CREATE TABLE kept AS SELECT 'yes'::text AS word").await;
    let pid_file = data.pgdata().join("postmaster.pid");
    let stale = std::fs::read_to_string(&pid_file).unwrap();
    rustix::process::kill_process(data.postmaster().unwrap(), Signal::KILL).unwrap();
    drop(server);
    wait_until_gone(&data).await;
    // As after a container's restart: the number is given again, here to a program that runs as
    // the server's own user, which is what PostgreSQL itself cannot tell apart.
    let namesake = Namesake::start(&data.pgdata());
    let rest = stale.split_once('\n').unwrap().1;
    std::fs::write(&pid_file, format!("{}\n{rest}", namesake.0.id())).unwrap();

    let server = start(&data).await;
    assert_eq!(ask(server.url(), "SELECT word FROM kept").await, "yes");
    assert!(namesake.lives(), "the namesake was hurt");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn of_many_starters_one_starts_and_the_last_one_stops() {
    let data = DataDir::new();
    let starts = (0..4).map(|_| EmbeddedServer::start_or_adopt(data.path()));
    let servers: Vec<_> =
        futures::future::join_all(starts).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(servers.iter().filter(|server| !server.adopted()).count(), 1);
    let url = servers[0].url().clone();
    let mut left = servers.len();
    for server in servers {
        left -= 1;
        assert_eq!(server.stop().await.unwrap(), left == 0);
        if left > 0 {
            assert_eq!(ask(&url, "SELECT 'there'::text").await, "there");
        }
    }
    wait_until_gone(&data).await;
}

#[tokio::test]
async fn a_lost_or_damaged_connection_file_is_made_again() {
    let data = DataDir::new();
    let server = start(&data).await;
    run(server.url(), "CREATE TABLE kept AS SELECT 'yes'::text AS word").await;
    let first = server.url().clone();
    // While it runs: it has to be stopped, since nobody knows its password any more.
    drop(server);
    std::fs::remove_file(data.connection_file()).unwrap();
    let server = start(&data).await;
    assert_ne!(server.url().expose_secret(), first.expose_secret());
    assert_eq!(ask(server.url(), "SELECT word FROM kept").await, "yes");
    // While it doesn't run.
    server.stop().await.unwrap();
    std::fs::write(data.connection_file(), "{\"url\": 1").unwrap();
    let server = start(&data).await;
    assert_eq!(ask(server.url(), "SELECT word FROM kept").await, "yes");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn odd_and_deep_folders_and_remains_of_a_killed_start() {
    let data = DataDir::new();
    let deep = data.path().join("it's $HOME \\ \"here\", `id`").join("d".repeat(90));
    // What a starter killed within initdb leaves behind.
    let remains = deep.join("postgres/server/data.new");
    std::fs::create_dir_all(&remains).unwrap();
    if rustix::process::geteuid().is_root() {
        // Parents that aren't Relevo's own must be passable already.
        for parent in deep.ancestors().skip(1).take(2) {
            std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o755)).unwrap();
        }
        let owner = std::fs::metadata("/var/lib/postgresql").ok();
        let owner = owner.map(|owner| owner.uid());
        std::os::unix::fs::chown(remains.parent().unwrap(), owner, None).unwrap();
    }
    std::fs::write(remains.join("PG_VERSION"), "half").unwrap();

    let server = EmbeddedServer::start_or_adopt(&deep).await.unwrap();
    assert_eq!(ask(server.url(), "SELECT 'there'::text").await, "there");
    let sockets = ask(server.url(), "SHOW unix_socket_directories").await;
    let folder = PathBuf::from(sockets.trim_matches('"'));
    assert!(folder.starts_with("/tmp"), "{sockets}");
    assert!(folder.join(format!(".s.PGSQL.{}", server.handle().port())).exists());
    server.stop().await.unwrap();
    assert!(!folder.exists());
}

#[tokio::test]
async fn missing_binaries_are_told_with_the_remedy() {
    let data = DataDir::new();
    let mut child = starter(&data, &[("RELEVO_PG_BIN", "/nowhere")]);
    let message = said_in(&data.path().join("refused")).await;
    child.wait().unwrap();
    for part in ["RELEVO_PG_BIN names /nowhere", "install", "RELEVO_DATABASE_URL"] {
        assert!(message.contains(part), "{part}: {message}");
    }
}

#[tokio::test]
async fn data_of_another_version_are_left_alone() {
    let data = DataDir::new();
    std::fs::create_dir_all(data.pgdata()).unwrap();
    std::fs::write(data.pgdata().join("PG_VERSION"), "9.6\n").unwrap();
    let message = refusal(data.path()).await.to_string();
    for part in ["belong to PostgreSQL 9.6", "installed are", "pg_upgrade"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let entries = std::fs::read_dir(data.pgdata()).unwrap().count();
    assert_eq!(entries, 1);
}

#[tokio::test]
async fn durability_switched_off_is_refused() {
    let data = DataDir::new();
    let server = start(&data).await;
    run(server.url(), "ALTER SYSTEM SET synchronous_commit = off").await;
    server.stop().await.unwrap();
    let message = refusal(data.path()).await.to_string();
    assert!(message.contains("ALTER SYSTEM RESET synchronous_commit"), "{message}");
}

#[tokio::test]
async fn a_root_only_folder_is_opened_if_ours_and_named_if_not() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let data = DataDir::new();
    std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    // The data directory's parent is none of our business.
    let error = refusal(&data.path().join("inner")).await;
    assert!(
        matches!(&error, EmbeddedError::NotTraversable { parent, .. } if parent == data.path())
    );
    let message = error.to_string();
    for part in ["RELEVO_DATA_DIR", "chmod o+x", "not as root"] {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(std::fs::metadata(data.path()).unwrap().mode() & 0o777, 0o700);

    // The data directory itself is: the server's group may pass through, and no more than that.
    start(&data).await.stop().await.unwrap();
    let opened = std::fs::metadata(data.path()).unwrap();
    let server = std::fs::metadata(data.pgdata()).unwrap();
    assert_eq!((opened.mode() & 0o777, opened.gid()), (0o710, server.gid()));
    assert_eq!(server.mode() & 0o777, 0o700);
    assert_ne!(server.uid(), 0);

    // One that is made is private from the start, its parents are not.
    let made = data.path().join("a/b");
    std::fs::set_permissions(data.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    EmbeddedServer::start_or_adopt(&made).await.unwrap().stop().await.unwrap();
    assert_eq!(std::fs::metadata(&made).unwrap().mode() & 0o777, 0o710);
    assert_eq!(std::fs::metadata(data.path().join("a")).unwrap().mode() & 0o007, 0o005);
}
