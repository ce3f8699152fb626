//! The embedded server: a Postgres of our own under the data directory, for when nobody gave a
//! database.
//!
//! It is started from the newest installed binaries by `pg_ctl`, which gives it a session of its
//! own: neither our end nor a Ctrl-C reaches it. So it outlives a killed Relevo, and the next start
//! adopts it, recognised by the process that works in its data directory and by the password.
//! One process at a time starts or stops it (a lock file); the last one that uses it stops it.
//! Other processes find it by its connection file, which only its owner may read.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};
use tokio::time::Instant;

mod binaries;
mod config;
mod error;
mod identity;
mod layout;
mod process;
mod tools;

pub use error::EmbeddedError;

use binaries::Binaries;
use identity::Identity;
use layout::{Connection, DATABASE, Layout};
use process::ServerState;
use tools::Tools;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A server that someone else just started or is stopping.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(300);
const POLL: Duration = Duration::from_millis(50);
/// Another program may take the port between our look and the server's.
const START_TRIES: usize = 5;

/// An embedded server that this process started or adopted, and answers for.
///
/// Dropped without [`EmbeddedServer::stop`] it is left running, for the next start to adopt.
pub struct EmbeddedServer {
    handle: EmbeddedHandle,
    layout: Layout,
    binaries: Binaries,
    identity: Identity,
    users: File,
    adopted: bool,
}

/// The major version of the newest server binaries on this machine.
///
/// # Errors
/// When there are none, or none that is new enough, with what to do about it.
pub fn installed_major() -> Result<u32, EmbeddedError> {
    Ok(binaries::choose(Path::new(""), None)?.major)
}

/// How to reach a running embedded server.
#[derive(Clone)]
pub struct EmbeddedHandle {
    connection: Connection,
    url: SecretString,
}

impl EmbeddedHandle {
    fn new(connection: Connection) -> Self {
        Self { url: connection.url(DATABASE), connection }
    }

    /// The control plane's database.
    pub fn url(&self) -> &SecretString {
        &self.url
    }

    /// Its TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.connection.port
    }

    /// The URL of another database on this server, which is created when it isn't there.
    ///
    /// # Errors
    /// [`EmbeddedError::Connect`] when the server cannot be reached or refuses the name.
    pub async fn database_url(&self, name: &str) -> Result<SecretString, EmbeddedError> {
        let mut connection = self.open(DATABASE).await?;
        let made = make_database(&mut connection, name).await;
        made.map_err(|source| self.unusable(source))?;
        Ok(self.connection.url(name))
    }

    fn unusable(&self, source: sqlx::Error) -> EmbeddedError {
        EmbeddedError::Connect { port: self.connection.port, source }
    }

    async fn open(&self, database: &str) -> Result<PgConnection, EmbeddedError> {
        let options = PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.connection.port)
            .username(layout::ROLE)
            .password(self.connection.password.expose_secret())
            .database(database)
            .ssl_mode(sqlx::postgres::PgSslMode::Disable)
            .application_name("relevo embedded")
            .disable_statement_logging();
        match tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(&options)).await {
            Ok(outcome) => outcome.map_err(|source| self.unusable(source)),
            Err(_) => Err(self.unusable(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into()))),
        }
    }
}

impl EmbeddedServer {
    /// Starts the server under `data_dir`, or adopts the one that runs there. The control plane's
    /// database exists and durability is checked when this returns.
    ///
    /// # Errors
    /// [`EmbeddedError`], each variant with what to do about it.
    pub async fn start_or_adopt(data_dir: &Path) -> Result<Self, EmbeddedError> {
        let layout = Layout::make(data_dir)?;
        let lock = layout.lock().await?;
        let version = layout.data_version()?;
        let binaries = binaries::choose(&layout.data, version.as_deref())?;
        let identity = Identity::choose(&layout.data)?;
        identity.check_way(&layout.data_dir, &layout.root)?;
        identity.make_dir(&layout.server)?;
        let tools = Tools { binaries: &binaries, identity: &identity, layout: &layout };
        let starter = Starter { tools: &tools, layout: &layout, identity: &identity };
        let (connection, adopted) = match starter.adopt_running().await? {
            Some(connection) => (connection, true),
            None => (starter.start(version.is_some()).await?, false),
        };
        let handle = EmbeddedHandle::new(connection);
        check_durability(&handle).await?;
        let users = layout.join_users()?;
        drop(lock);
        tracing::info!(
            port = handle.port(),
            version = binaries.major,
            data = %layout.data.display(),
            "embedded PostgreSQL {}",
            if adopted { "was running and is adopted" } else { "started" },
        );
        Ok(Self { handle, layout, binaries, identity, users, adopted })
    }

    /// Finds the server that runs under `data_dir`, started by whichever process; `None` when none
    /// runs.
    ///
    /// # Errors
    /// [`EmbeddedError::Io`] when its files belong to another user, [`EmbeddedError::Connect`] when
    /// it runs and doesn't answer.
    pub async fn find(data_dir: &Path) -> Result<Option<EmbeddedHandle>, EmbeddedError> {
        let layout = Layout::of(data_dir)?;
        let Some(connection) = Connection::read(&layout.connection_path())? else {
            return Ok(None);
        };
        let handle = EmbeddedHandle::new(connection);
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        while matches!(process::server_state(&layout.data)?, ServerState::Running { .. }) {
            match handle.open(DATABASE).await {
                Ok(_) => return Ok(Some(handle)),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
        Ok(None)
    }

    /// The control plane's database.
    pub fn url(&self) -> &SecretString {
        self.handle.url()
    }

    /// How to reach it; can be kept by others.
    pub fn handle(&self) -> &EmbeddedHandle {
        &self.handle
    }

    /// See [`EmbeddedHandle::database_url`].
    ///
    /// # Errors
    /// As there.
    pub async fn database_url(&self, name: &str) -> Result<SecretString, EmbeddedError> {
        self.handle.database_url(name).await
    }

    /// Whether it was running already.
    pub fn adopted(&self) -> bool {
        self.adopted
    }

    /// PGDATA; the server's own log is in `log` below it.
    pub fn data(&self) -> &Path {
        &self.layout.data
    }

    /// Where its programs are, `psql` perhaps among them.
    pub fn bin_dir(&self) -> &PathBuf {
        &self.binaries.dir
    }

    /// Stops the server, unless another process that started or adopted it still uses it; says
    /// whether it was stopped.
    ///
    /// # Errors
    /// [`EmbeddedError::Tool`] when it doesn't stop in time.
    pub async fn stop(self) -> Result<bool, EmbeddedError> {
        let _lock = self.layout.lock().await?;
        if !self.layout.leave_users(&self.users)? {
            tracing::info!("embedded PostgreSQL is used by another process and left running");
            return Ok(false);
        }
        // Nothing else: pg_ctl signals whatever process the pid file names.
        if matches!(process::server_state(&self.layout.data)?, ServerState::Running { .. }) {
            let tools =
                Tools { binaries: &self.binaries, identity: &self.identity, layout: &self.layout };
            tools.stop().await?;
        }
        tools::remove_tree(&config::short_socket_dir(&self.layout))?;
        tracing::info!("embedded PostgreSQL stopped");
        Ok(true)
    }
}

/// The steps of a start, each under the lock.
struct Starter<'a> {
    tools: &'a Tools<'a>,
    layout: &'a Layout,
    identity: &'a Identity,
}

impl Starter<'_> {
    /// Waits until the server either is ready, which gives its port, or is gone.
    async fn settled(&self) -> Result<Option<u16>, EmbeddedError> {
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            match process::server_state(&self.layout.data)? {
                ServerState::Running { port, ready: true } => return Ok(Some(port)),
                ServerState::Running { ready: false, .. } if Instant::now() < deadline => {
                    tokio::time::sleep(POLL).await;
                }
                ServerState::Running { port, ready: false } => return Ok(Some(port)),
                ServerState::Mistaken => {
                    process::wait_for_leftovers(&self.layout.data).await?;
                    tracing::warn!(
                        "a pid file left by a killed server names another program; removed"
                    );
                    tools::remove_file(&self.layout.data.join("postmaster.pid"))?;
                }
                ServerState::Stopped => {
                    process::wait_for_leftovers(&self.layout.data).await?;
                    return Ok(None);
                }
            }
        }
    }

    /// The connection of a running server, if one runs. A server that dies or stops between our
    /// look and our knock is looked at again.
    async fn adopt_running(&self) -> Result<Option<Connection>, EmbeddedError> {
        let deadline = Instant::now() + CONNECT_TIMEOUT;
        loop {
            let Some(port) = self.settled().await? else { return Ok(None) };
            match self.adopt(port).await {
                Err(EmbeddedError::Connect { .. }) if Instant::now() < deadline => {
                    tokio::time::sleep(POLL).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// The connection of a running server, once it proved to be ours by taking the password. One
    /// whose connection file is lost is stopped, so that the start sets a new password.
    async fn adopt(&self, port: u16) -> Result<Option<Connection>, EmbeddedError> {
        if let Some(mut connection) = self.known_connection()? {
            connection.port = port;
            let handle = EmbeddedHandle::new(connection.clone());
            match self.make_ready(&handle).await {
                Ok(()) => {
                    connection.write(&self.layout.connection_path())?;
                    return Ok(Some(connection));
                }
                Err(EmbeddedError::Connect { source, .. }) if is_wrong_password(&source) => {}
                Err(error) => return Err(error),
            }
        }
        self.tools.stop().await?;
        // The start finds no valid password then, and sets one.
        tools::remove_file(&self.layout.connection_path())?;
        Ok(None)
    }

    /// Starts the server, on data made first where there are none.
    async fn start(&self, data_exist: bool) -> Result<Connection, EmbeddedError> {
        let connection_path = self.layout.connection_path();
        let mut connection = match (data_exist, self.known_connection()?) {
            (true, Some(connection)) => connection,
            (true, None) => {
                tracing::warn!(
                    "the embedded server's connection file is lost; setting a new password"
                );
                let connection = Connection::fresh();
                self.tools.reset_password(&connection.password).await?;
                connection
            }
            (false, _) => {
                let connection = Connection::fresh();
                // Before the data: where they are, their password must be known.
                connection.write(&connection_path)?;
                self.make_data(&connection).await?;
                connection
            }
        };
        let mut tries = 1;
        loop {
            connection.port = config::free_port(connection.port)?;
            config::write_start(self.identity, self.layout, connection.port)?;
            match self.tools.start().await {
                Ok(()) => break,
                Err(error) if tries < START_TRIES && config::taken(connection.port) => {
                    tracing::warn!(port = connection.port, "the port was taken meanwhile: {error}");
                    connection.port = 0;
                    tries += 1;
                }
                Err(error) => return Err(error),
            }
        }
        self.make_ready(&EmbeddedHandle::new(connection.clone())).await?;
        connection.write(&connection_path)?;
        Ok(connection)
    }

    /// A damaged connection file is as good as none: the data are ours to open anew.
    fn known_connection(&self) -> Result<Option<Connection>, EmbeddedError> {
        match Connection::read(&self.layout.connection_path()) {
            Err(EmbeddedError::ConnectionFile { .. }) => Ok(None),
            other => other,
        }
    }

    /// Makes the data under another name and moves them into place, so that a killed start leaves
    /// nothing that looks like data.
    async fn make_data(&self, connection: &Connection) -> Result<(), EmbeddedError> {
        self.tools.initdb(&connection.password).await?;
        let fresh = self.layout.server.join("data.new");
        config::complete(self.identity, &fresh)?;
        std::fs::rename(&fresh, &self.layout.data)
            .map_err(EmbeddedError::io("move the new data to", &self.layout.data))?;
        File::open(&self.layout.server)
            .and_then(|folder| folder.sync_all())
            .map_err(EmbeddedError::io("make durable", &self.layout.server))
    }

    async fn make_ready(&self, handle: &EmbeddedHandle) -> Result<(), EmbeddedError> {
        let mut connection = handle.open("postgres").await?;
        let made = make_database(&mut connection, DATABASE).await;
        made.map_err(|source| handle.unusable(source))
    }
}

fn is_wrong_password(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "28P01")
}

async fn make_database(connection: &mut PgConnection, name: &str) -> Result<(), sqlx::Error> {
    let exists: bool = sqlx::query_scalar(
        "-- embedded_database_exists
         SELECT EXISTS (SELECT FROM pg_catalog.pg_database WHERE datname = $1)",
    )
    .bind(name)
    .fetch_one(&mut *connection)
    .await?;
    if exists {
        return Ok(());
    }
    let statement =
        format!("-- embedded_create_database\nCREATE DATABASE {}", crate::ident::quote(name));
    match sqlx::query(AssertSqlSafe(statement)).execute(&mut *connection).await {
        // Two at once: whoever came second finds it made.
        Err(sqlx::Error::Database(error))
            if matches!(error.code().as_deref(), Some("42P04" | "23505")) =>
        {
            Ok(())
        }
        outcome => outcome.map(|_| ()),
    }
}

/// A server that loses what it acknowledged is worse than none.
async fn check_durability(handle: &EmbeddedHandle) -> Result<(), EmbeddedError> {
    let mut connection = handle.open(DATABASE).await?;
    for setting in ["fsync", "full_page_writes", "synchronous_commit"] {
        let value: String = sqlx::query_scalar(
            "-- embedded_check_durability
             SELECT pg_catalog.current_setting($1)",
        )
        .bind(setting)
        .fetch_one(&mut connection)
        .await
        .map_err(|source| handle.unusable(source))?;
        if value != "on" {
            return Err(EmbeddedError::NotDurable { setting });
        }
    }
    Ok(())
}
