//! The way to the control plane: settings, then the database they name or the embedded one.

use std::ffi::OsString;
use std::path::Path;

use anyhow::Context as _;
use relevo_pg::PoolOptions;
use relevo_queue::Queue;
use relevo_runs::control_plane::{self, SchemaStatus};
use relevo_runs::{KindBook, Runs};
use relevo_settings::{Loaded, Pooler, Settings, SettingsError};
use relevo_telemetry::redact;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgPool;

use crate::failure::{Advise as _, Exit, Failure, OrFail as _};

/// Connections of a command that looks or changes something and ends.
const COMMAND_CONNECTIONS: u32 = 4;

/// Reads the configuration: file, then environment.
pub fn load(config: Option<&Path>) -> Result<Loaded, Failure> {
    read(config).map_err(unreadable)
}

/// A configuration that cannot be read, as a failure.
pub fn unreadable(error: SettingsError) -> Failure {
    Failure::with(Exit::Configuration, error.into()).advise(
        "correct it; docs/configuration.md lists every key, `relevo config check` tells when all is well",
    )
}

/// Reads the configuration; tells of variables that mean nothing.
pub fn read(config: Option<&Path>) -> Result<Loaded, SettingsError> {
    let loaded = relevo_settings::load(config, &|name| std::env::var(name).ok())?;
    for secret in loaded.secrets() {
        redact::hide(secret.expose_secret());
    }
    for (name, meant) in unknown_variables(&loaded) {
        let meant = meant.map(|name| format!(" (did you mean {name}?)")).unwrap_or_default();
        eprintln!("warning: the environment variable {name} means nothing to relevo{meant}");
    }
    Ok(loaded)
}

/// Refuses schedules of the configuration that make no sense: what reading the file cannot know.
pub fn check_schedules(settings: &Settings) -> Result<(), Failure> {
    relevo_scheduler::schedule::configured(settings)
        .map(drop)
        .or_exit(Exit::Configuration)
        .advise("correct its table; docs/scheduling.md tells what can be written")
}

/// Environment variables that look like ours and mean nothing, with what was probably meant.
pub fn unknown_variables(loaded: &Loaded) -> Vec<(String, Option<String>)> {
    let names: Vec<String> = std::env::vars_os()
        .map(|(name, _)| name)
        .filter_map(|n| OsString::into_string(n).ok())
        .collect();
    loaded.unknown_variables(names.iter().map(String::as_str))
}

/// What commands need of the control plane.
pub struct ControlPlane {
    /// The settings in force.
    pub settings: Settings,
    /// Connections to it.
    pub pool: PgPool,
    /// Its queue.
    pub queue: Queue,
    /// Its runs.
    pub runs: Runs,
}

impl ControlPlane {
    /// Opens it for a command: reads the configuration, connects, and sees that the schema is this
    /// version's.
    pub async fn open(config: Option<&Path>) -> Result<Self, Failure> {
        let settings = load(config)?.settings;
        let pool = connect(&settings, "relevo-cli", COMMAND_CONNECTIONS).await?;
        require_current(&pool).await?;
        Ok(Self::with(settings, pool))
    }

    /// The kinds of jobs, to look `kind` up in.
    pub async fn kinds(&self, kind: &str) -> Result<KindBook, Failure> {
        let asked = async {
            let mut connection = self.pool.acquire().await?;
            KindBook::load_for(&mut connection, kind).await
        };
        Ok(asked.await.context("the kinds of jobs can't be read")?)
    }

    /// All kinds of jobs.
    pub async fn all_kinds(&self) -> Result<KindBook, Failure> {
        let asked = async {
            let mut connection = self.pool.acquire().await?;
            KindBook::load(&mut connection).await
        };
        Ok(asked.await.context("the kinds of jobs can't be read")?)
    }

    /// The same over a pool that is open already.
    pub fn with(settings: Settings, pool: PgPool) -> Self {
        Self { settings, queue: Queue::new(pool.clone()), runs: Runs::new(pool.clone()), pool }
    }
}

/// Connects to the configured database, or to the embedded server of the data directory.
pub async fn connect(
    settings: &Settings,
    application: &str,
    max_connections: u32,
) -> Result<PgPool, Failure> {
    let url = url(settings).await?;
    open(&url, options(settings, application, max_connections)).await
}

/// Connects with sessions of one's own: past a pooler in transaction mode, where there is one.
pub async fn connect_directly(
    settings: &Settings,
    application: &str,
    max_connections: u32,
) -> Result<PgPool, Failure> {
    if settings.database.pooler == Pooler::None {
        return connect(settings, application, max_connections).await;
    }
    let Some(url) = &settings.database.direct_url else {
        let message = "this needs a session of its own, and database.pooler is \"transaction\"";
        return Err(Failure::new(Exit::Configuration, message.to_owned()).advise(
            "set database.direct_url (RELEVO_DATABASE_DIRECT_URL) to the address of the server itself",
        ));
    };
    connect_to(url, application, max_connections).await
}

/// Connects to it for answering requests: a statement ends before its request is given up, and a
/// lock that others hold is not waited for long, so that neither keeps a connection from the next.
pub async fn connect_for_requests(
    settings: &Settings,
    application: &str,
) -> Result<PgPool, Failure> {
    let options = options(settings, application, settings.database.max_connections)
        .setting("statement_timeout", "25s")
        .setting("lock_timeout", "5s");
    open(&url(settings).await?, options).await
}

/// Connects to the control plane at this address, where no pooler in transaction mode is.
pub async fn connect_to(
    url: &SecretString,
    application: &str,
    max_connections: u32,
) -> Result<PgPool, Failure> {
    open(url, direct_options(application, max_connections)).await
}

fn options(settings: &Settings, application: &str, max_connections: u32) -> PoolOptions {
    direct_options(application, max_connections)
        .transaction_pooler(settings.database.pooler == Pooler::Transaction)
}

fn direct_options(application: &str, max_connections: u32) -> PoolOptions {
    // A process that was frozen inside a transaction must not keep a job or a run locked for ever.
    PoolOptions::named(application)
        .max_connections(max_connections)
        .setting("idle_in_transaction_session_timeout", "30s")
}

async fn open(url: &SecretString, options: PoolOptions) -> Result<PgPool, Failure> {
    relevo_pg::connect(url, options)
        .await
        .context("the control plane's database can't be used")
        .or_exit(Exit::ControlPlane)
        .advise(
            "database.url (RELEVO_DATABASE_URL) says where it is; `relevo config check` shows it",
        )
}

/// Where the control plane is: the configured database, or the embedded server.
pub async fn url(settings: &Settings) -> Result<SecretString, Failure> {
    match &settings.database.url {
        Some(url) => Ok(url.clone()),
        None => crate::embedded::find(&settings.data_dir).await,
    }
}

/// Refuses a control plane whose schema isn't this version's.
pub async fn require_current(pool: &PgPool) -> Result<(), Failure> {
    require(status(pool).await?)
}

/// The same for a service, which works on the schema of a newer version too: while a newer one takes
/// its place, it may have to start again.
pub async fn require_for_service(pool: &PgPool) -> Result<(), Failure> {
    match status(pool).await? {
        SchemaStatus::Newer { version } => {
            tracing::warn!(version, "the control plane is of a newer relevo; update this process");
            Ok(())
        }
        other => require(other),
    }
}

async fn status(pool: &PgPool) -> Result<SchemaStatus, Failure> {
    control_plane::status(pool)
        .await
        .context("the control plane's version can't be read")
        .or_exit(Exit::ControlPlane)
}

fn require(status: SchemaStatus) -> Result<(), Failure> {
    let (message, advice) = match status {
        SchemaStatus::Current => return Ok(()),
        SchemaStatus::Absent => (
            "the database holds no control plane yet".to_owned(),
            "run `relevo migrate` once; `relevo up` does it by itself",
        ),
        SchemaStatus::Behind { pending } => (
            format!("the control plane lacks {pending} migration(s) of this version"),
            "run `relevo migrate`",
        ),
        SchemaStatus::Newer { version } => (
            format!("the control plane is of a newer relevo (migration {version})"),
            "use that version of relevo",
        ),
    };
    Err(Failure::new(Exit::ControlPlane, message).advise(advice))
}

/// Brings the control plane's schema up to this version.
pub async fn migrate(settings: &Settings, pool: &PgPool) -> Result<(), Failure> {
    if settings.database.pooler == Pooler::Transaction {
        // A lock of the session, and settings for it, would be left with somebody else.
        if require_current(pool).await.is_ok() {
            return Ok(());
        }
        return bring_up(&connect_directly(settings, "relevo-migrate", 2).await?).await;
    }
    bring_up(pool).await
}

async fn bring_up(pool: &PgPool) -> Result<(), Failure> {
    control_plane::migrate(pool)
        .await
        .context("the control plane can't be brought to this version")
        .or_exit(Exit::ControlPlane)
}
