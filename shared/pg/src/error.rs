//! What can go wrong on the way to a Postgres server, in words that say what to do.

use std::io;

/// A failure to reach or to use a server. No variant holds a password or a whole URL.
#[derive(Debug, thiserror::Error)]
pub enum PgError {
    /// The URL itself cannot be used.
    #[error(
        "the database URL is not usable: {reason}; expected postgres://user:password@host:5432/database?sslmode=…"
    )]
    Url {
        /// What is wrong with it.
        reason: String,
    },
    /// The host name has no address.
    #[error("the database host {host} cannot be resolved; check the host name in the database URL")]
    UnknownHost {
        /// The name that was looked up.
        host: String,
        /// The resolver's answer.
        #[source]
        source: io::Error,
    },
    /// Nothing listens there, or a firewall refuses.
    #[error(
        "no Postgres answers at {address}; check that the server runs, listens there and that no firewall is in between"
    )]
    Refused {
        /// `host:port` or the socket's path.
        address: String,
        /// The operating system's answer.
        #[source]
        source: io::Error,
    },
    /// The server did not answer in time.
    #[error("{address} did not answer within {seconds} s; check the address and the network")]
    ConnectTimeout {
        /// `host:port` or the socket's path.
        address: String,
        /// The limit that passed.
        seconds: u64,
    },
    /// TLS could not be agreed on.
    #[error(
        "TLS with {address} failed (sslmode={sslmode}); for verify-ca and verify-full give the authority's certificate as sslrootcert=…, and use the host name the certificate names"
    )]
    Tls {
        /// `host:port` or the socket's path.
        address: String,
        /// The mode asked for.
        sslmode: String,
        /// What failed.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Wrong or missing password.
    #[error(
        "the server at {address} does not accept the password of role {user}; check user and password in the database URL (special characters must be percent-encoded)"
    )]
    Password {
        /// `host:port` or the socket's path.
        address: String,
        /// The role that tried to log in.
        user: String,
        /// The server's answer.
        #[source]
        source: sqlx::Error,
    },
    /// `pg_hba.conf` (or the provider's access list) has no line for this client.
    #[error(
        "the server at {address} has no entry that lets role {user} in from here; add one to pg_hba.conf or the provider's access list, or try another sslmode"
    )]
    NotAdmitted {
        /// `host:port` or the socket's path.
        address: String,
        /// The role that tried to log in.
        user: String,
        /// The server's answer.
        #[source]
        source: sqlx::Error,
    },
    /// The database in the URL is not there.
    #[error(
        "database {database} does not exist on {address}; create it (CREATE DATABASE \"{database}\") or correct the database URL"
    )]
    MissingDatabase {
        /// `host:port` or the socket's path.
        address: String,
        /// The name asked for.
        database: String,
        /// The server's answer.
        #[source]
        source: sqlx::Error,
    },
    /// The role may not do what is needed.
    #[error("missing rights: {what}; as a superuser or the owner run: {remedy}")]
    MissingRights {
        /// What may not be done, and by whom.
        what: String,
        /// The statement that gives the right.
        remedy: String,
    },
    /// All of the server's connections are taken.
    #[error(
        "the server at {address} has no connection to spare; lower the number of connections or raise its max_connections"
    )]
    TooManyConnections {
        /// `host:port` or the socket's path.
        address: String,
        /// The server's answer.
        #[source]
        source: sqlx::Error,
    },
    /// The server is starting, stopping or recovering.
    #[error("the server at {address} does not take connections at the moment")]
    NotReady {
        /// `host:port` or the socket's path.
        address: String,
        /// The server's answer.
        #[source]
        source: sqlx::Error,
    },
    /// A pooler in between, whose sessions are not one's own.
    #[error(
        "a connection pooler stands at {address}, in transaction mode or refusing the settings a session begins with; sessions of one's own are needed here: give the server's own address, or for the control plane set database.pooler"
    )]
    Pooler {
        /// `host:port` or the socket's path.
        address: String,
    },
    /// A standby, which cannot be written to.
    #[error("{address} is a read-only standby; point the database URL at the primary")]
    ReadOnly {
        /// `host:port` or the socket's path.
        address: String,
    },
    /// An older server than this was written for.
    #[error("{address} runs Postgres {version}; at least version {needed} is needed")]
    TooOld {
        /// `host:port` or the socket's path.
        address: String,
        /// What it says it is.
        version: String,
        /// The oldest major version supported.
        needed: u32,
    },
    /// A statement took longer than it may.
    #[error("{what} took longer than {seconds} s and was stopped")]
    Timeout {
        /// What was being done.
        what: String,
        /// The limit that passed.
        seconds: u64,
    },
    /// The caller asked to stop.
    #[error("{what} was cancelled")]
    Cancelled {
        /// What was being done.
        what: String,
    },
    /// Any other answer of the server or the driver.
    #[error("{what} failed")]
    Database {
        /// What was being done.
        what: String,
        /// The answer.
        #[source]
        source: sqlx::Error,
    },
}

impl PgError {
    /// Wraps a driver's error with what was being done.
    #[must_use]
    pub fn database(what: impl Into<String>, source: sqlx::Error) -> Self {
        Self::Database { what: what.into(), source }
    }

    /// Whether the same call may succeed later without anyone changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::UnknownHost { .. }
            | Self::Refused { .. }
            | Self::ConnectTimeout { .. }
            | Self::TooManyConnections { .. }
            | Self::NotReady { .. }
            | Self::ReadOnly { .. }
            | Self::Timeout { .. } => true,
            Self::Database { source, .. } => is_transient(source),
            Self::Url { .. }
            | Self::Tls { .. }
            | Self::Password { .. }
            | Self::NotAdmitted { .. }
            | Self::MissingDatabase { .. }
            | Self::MissingRights { .. }
            | Self::Pooler { .. }
            | Self::TooOld { .. }
            | Self::Cancelled { .. } => false,
        }
    }
}

impl PgError {
    /// Whether the server is not there (any more).
    #[must_use]
    pub fn is_connection_lost(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::ConnectTimeout { .. } | Self::NotReady { .. } => true,
            Self::Database { source, .. } => is_connection_lost(source),
            _ => false,
        }
    }
}

/// Whether a driver's error says that the connection is gone, or the server going.
#[must_use]
pub fn is_connection_lost(error: &sqlx::Error) -> bool {
    match error {
        // A protocol error: an answer was cut off in its middle.
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(answer) => {
            answer.code().is_some_and(|code| code.starts_with("08") || code.starts_with("57P"))
        }
        _ => false,
    }
}

/// Whether a driver's error is about the connection or the moment rather than the statement.
#[must_use]
pub fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed
        | sqlx::Error::Protocol(_) => true,
        sqlx::Error::Database(answer) => answer.code().is_some_and(|code| {
            // 08 connection, 40 rollback (serialisation, deadlock), 53 resources, 57P shutdown,
            // 55P03 lock not available, 57014 cancelled by a timeout, 25006 read-only after a
            // failover, 58 the server's own disk.
            ["08", "40", "53", "57P", "55P03", "57014", "25006", "58"]
                .iter()
                .any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

/// The SQLSTATE of a driver's error, when the server gave one.
#[must_use]
pub fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error().and_then(|answer| answer.code()).map(std::borrow::Cow::into_owned)
}
