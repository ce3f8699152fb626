//! Connections: TLS by `sslmode`, session settings, and refusals in clear words.

use std::io;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, Row as _};

use crate::error::{PgError, sqlstate};
use crate::pooled::{self, Encryption, Upstream};
use crate::{pooler, socket};

/// The oldest server the SQL of this workspace was written for.
pub const OLDEST_SUPPORTED_MAJOR: u32 = 13;

/// URL parameters of libpq and of poolers that change nothing here; the driver would log each
/// unknown one together with its value.
const IGNORED_PARAMETERS: &[&str] = &[
    "channel_binding",
    "connect_timeout",
    "connection_limit",
    "fallback_application_name",
    "gssencmode",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "krbsrvname",
    "passfile",
    "pgbouncer",
    "pool_timeout",
    "requirepeer",
    "ssl_min_protocol_version",
    "sslcompression",
    "sslnegotiation",
    "sslsni",
    "target_session_attrs",
    "tcp_user_timeout",
];

/// URL parameters the driver takes.
const KNOWN_PARAMETERS: &[&str] = &[
    "application_name",
    "dbname",
    "host",
    "hostaddr",
    "options",
    "password",
    "port",
    "sslcert",
    "sslkey",
    "sslmode",
    "sslrootcert",
    "user",
];

/// Bounds that every session has unless its pool or its URL sets others: a statement, a wait for a
/// lock and an open transaction end some time, also when the client was frozen, and a client that
/// vanished is noticed within a minute.
const SESSION_BOUNDS: &[(&str, &str)] = &[
    ("statement_timeout", "30min"),
    ("lock_timeout", "2min"),
    ("idle_in_transaction_session_timeout", "60s"),
    ("tcp_keepalives_idle", "30"),
    ("tcp_keepalives_interval", "10"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "60000"),
];

/// A pooled connection that has rested longer is asked whether it is still alive before it is
/// handed out. Asking every time would double the round trips of single statements.
const PING_AFTER_IDLE: Duration = Duration::from_secs(10);

/// How a pool behaves. The URL says where it leads and with which `sslmode`.
#[derive(Clone, Debug)]
pub struct PoolOptions {
    /// The most connections the pool opens.
    pub max_connections: u32,
    /// What `pg_stat_activity` shows.
    pub application_name: String,
    /// How long one connection attempt may take.
    pub connect_timeout: Duration,
    /// How long a caller waits for a free connection.
    pub acquire_timeout: Duration,
    /// Session settings sent at the start of each connection, such as
    /// `("statement_timeout", "30s")`.
    pub settings: Vec<(String, String)>,
    /// Whether the URL leads to a pooler in transaction mode: then nothing may count on a session,
    /// and the settings hold for each transaction alone.
    pub transaction_pooler: bool,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            max_connections: 8,
            application_name: "relevo".to_owned(),
            connect_timeout: Duration::from_secs(10),
            acquire_timeout: Duration::from_secs(30),
            settings: Vec::new(),
            transaction_pooler: false,
        }
    }
}

impl PoolOptions {
    /// Options for the named program part, everything else as by default.
    #[must_use]
    pub fn named(application_name: impl Into<String>) -> Self {
        Self { application_name: application_name.into(), ..Self::default() }
    }

    /// Sets the most connections the pool opens.
    #[must_use]
    pub fn max_connections(mut self, max_connections: u32) -> Self {
        self.max_connections = max_connections;
        self
    }

    /// Says whether the URL leads to a pooler in transaction mode.
    #[must_use]
    pub fn transaction_pooler(mut self, transaction_pooler: bool) -> Self {
        self.transaction_pooler = transaction_pooler;
        self
    }

    /// Adds a session setting.
    #[must_use]
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }
}

/// Opens a pool, after one connection has proved that the URL works.
///
/// # Errors
/// A [`PgError`] that says what is wrong with the URL, the way there, the login or the server.
pub async fn connect(url: &SecretString, options: PoolOptions) -> Result<PgPool, PgError> {
    let connect_options = connect_options(url, &options)?;
    probe(&connect_options, options.connect_timeout).await?;
    let tcp_port = tcp_port(&connect_options);
    Ok(PgPoolOptions::new()
        .max_connections(options.max_connections)
        .acquire_timeout(options.acquire_timeout)
        .test_before_acquire(false)
        .before_acquire(|connection, meta| {
            Box::pin(async move {
                if meta.idle_for > PING_AFTER_IDLE {
                    connection.ping().await?;
                }
                Ok(true)
            })
        })
        .after_release(|connection, _| Box::pin(is_between_transactions(connection)))
        .after_connect(move |_, _| {
            Box::pin(async move {
                if let Some(port) = tcp_port {
                    socket::tune(port);
                }
                Ok(())
            })
        })
        .connect_lazy_with(connect_options))
}

/// Whether the session is outside any transaction, and so may serve the next caller.
///
/// Who gives up while BEGIN is under way leaves an open transaction that the driver doesn't know of.
/// What the next caller writes and takes for committed would be lost with it. Outside a transaction
/// a statement begins its own; in the simple protocol at its own time.
async fn is_between_transactions(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    let row = sqlx::raw_sql(
        "-- is_between_transactions
         SELECT pg_catalog.now() = pg_catalog.statement_timestamp()",
    );
    row.fetch_one(connection).await?.try_get(0)
}

/// Opens one connection outside any pool, for COPY streams, cutovers and LISTEN.
///
/// # Errors
/// As [`connect`].
pub async fn connect_one(
    url: &SecretString,
    options: &PoolOptions,
) -> Result<PgConnection, PgError> {
    open(&connect_options(url, options)?, options.connect_timeout).await
}

/// The same, after the proof that [`connect`] asks for: a server of a known version, and no pooler
/// before it.
///
/// # Errors
/// As [`connect`].
pub async fn connect_proved(
    url: &SecretString,
    options: &PoolOptions,
) -> Result<PgConnection, PgError> {
    let connect_options = connect_options(url, options)?;
    probe(&connect_options, options.connect_timeout).await?;
    open(&connect_options, options.connect_timeout).await
}

/// Opens one more connection with the settings of a pool, outside of it.
///
/// # Errors
/// As [`connect`].
pub async fn connect_beside(pool: &PgPool) -> Result<PgConnection, PgError> {
    open(&pool.connect_options(), PoolOptions::default().connect_timeout).await
}

/// Reads a URL into the driver's options, with the pool's session settings.
///
/// # Errors
/// [`PgError::Url`] when the URL is not one of Postgres or names an unknown parameter.
pub fn connect_options(
    url: &SecretString,
    options: &PoolOptions,
) -> Result<PgConnectOptions, PgError> {
    let url = checked_url(url.expose_secret())?;
    let upstream = |parsed: &PgConnectOptions| upstream(parsed, &url);
    // The parser's message quotes parts of the URL: say only that it failed.
    let mut parsed = PgConnectOptions::from_str(&url).map_err(|_| PgError::Url {
        reason: "host, port, database name or sslmode cannot be read".to_owned(),
    })?;
    if parsed.get_application_name().is_none_or(|name| name == "sqlx" || name.is_empty()) {
        parsed = parsed.application_name(&options.application_name);
    }
    let by_url = parsed.get_options().unwrap_or_default().to_owned();
    let bounds = SESSION_BOUNDS.iter().copied().filter(|(name, _)| {
        !by_url.contains(name) && !options.settings.iter().any(|(own, _)| own == name)
    });
    let settings = options.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let parsed = parsed.options(bounds.chain(settings)).disable_statement_logging();
    if !options.transaction_pooler {
        return Ok(parsed);
    }
    let upstream = upstream(&parsed)?;
    pooled::route(parsed, upstream).map_err(|source| PgError::Refused {
        address: "the loopback interface, where the way to the pooler begins".to_owned(),
        source,
    })
}

/// Where the pooler of a URL is.
fn upstream(parsed: &PgConnectOptions, url: &str) -> Result<Upstream, PgError> {
    let refuse = |reason: &str| Err(PgError::Url { reason: reason.to_owned() });
    if tcp_port(parsed).is_none() {
        return refuse("a pooler in transaction mode is reached by host and port, not by a socket");
    }
    let parameter = |wanted: &str| {
        let (_, query) = url.split_once('?')?;
        let named =
            |parameter: &&str| parameter.split_once('=').is_some_and(|(name, _)| name == wanted);
        query.split('&').find(named)?.split_once('=').map(|(_, value)| value.to_owned())
    };
    if parameter("sslcert").is_some() {
        return refuse(
            "through a pooler in transaction mode a client certificate is not supported",
        );
    }
    let encryption = match (parsed.get_ssl_mode(), parameter("sslrootcert")) {
        (PgSslMode::Disable | PgSslMode::Allow, _) => Encryption::None,
        (PgSslMode::Prefer, _) => Encryption::Preferred,
        (PgSslMode::Require, None) => Encryption::Required,
        (PgSslMode::Require | PgSslMode::VerifyFull, Some(roots)) => {
            Encryption::Verified(roots.into())
        }
        (PgSslMode::VerifyFull, None) => {
            return refuse(
                "through a pooler in transaction mode sslmode=verify-full needs sslrootcert",
            );
        }
        (PgSslMode::VerifyCa, _) => {
            return refuse("through a pooler in transaction mode use sslmode=verify-full");
        }
    };
    Ok(Upstream { host: parsed.get_host().to_owned(), port: parsed.get_port(), encryption })
}

/// Checks scheme and parameters, and takes out the parameters that mean nothing here.
fn checked_url(url: &str) -> Result<String, PgError> {
    let url = url.trim();
    let refuse = |reason: &str| Err(PgError::Url { reason: reason.to_owned() });
    if url.is_empty() {
        return refuse("it is empty");
    }
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return refuse("it does not start with postgres:// or postgresql://");
    }
    let Some((base, query)) = url.split_once('?') else { return Ok(url.to_owned()) };
    let mut kept = Vec::new();
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        let name = parameter.split_once('=').map_or(parameter, |(name, _)| name);
        if IGNORED_PARAMETERS.contains(&name) {
            continue;
        }
        if !KNOWN_PARAMETERS.contains(&name) && !name.starts_with("options") {
            return Err(PgError::Url { reason: format!("parameter {name:?} is unknown") });
        }
        kept.push(parameter);
    }
    Ok(if kept.is_empty() { base.to_owned() } else { format!("{base}?{}", kept.join("&")) })
}

/// Makes one connection, checks that it is the server's own and the server's version, closes it
/// again.
async fn probe(options: &PgConnectOptions, limit: Duration) -> Result<(), PgError> {
    let mut connection = open(options, limit).await?;
    // First of all: through a pooler even the next question may get another session's answer, unless
    // it is asked in the way that a pooler takes.
    if pooled::leads_to(options).is_none()
        && pooler::stands_between(&mut connection, options, limit).await
    {
        return Err(PgError::Pooler { address: address(options) });
    }
    // -- probe
    let version: i32 =
        sqlx::query_scalar("-- probe\nSELECT current_setting('server_version_num')::int")
            .fetch_one(&mut connection)
            .await
            .map_err(|source| PgError::database("asking the server's version", source))?;
    // A failure to say goodbye costs nothing: the connection was only a question.
    let _ = connection.close().await;
    let major = u32::try_from(version / 10_000).unwrap_or(0);
    if major < OLDEST_SUPPORTED_MAJOR {
        return Err(PgError::TooOld {
            address: address(options),
            version: major.to_string(),
            needed: OLDEST_SUPPORTED_MAJOR,
        });
    }
    Ok(())
}

async fn open(options: &PgConnectOptions, limit: Duration) -> Result<PgConnection, PgError> {
    match tokio::time::timeout(limit, options.connect()).await {
        Ok(Ok(connection)) => {
            if let Some(port) = tcp_port(options) {
                socket::tune(port);
            }
            Ok(connection)
        }
        Ok(Err(error)) => Err(explain(options, error)),
        Err(_) => Err(PgError::ConnectTimeout {
            address: address(options),
            seconds: limit.as_secs().max(1),
        }),
    }
}

/// The port, unless the way there is a Unix socket.
fn tcp_port(options: &PgConnectOptions) -> Option<u16> {
    let by_socket = options.get_socket().is_some() || options.get_host().starts_with('/');
    (!by_socket).then(|| options.get_port())
}

/// `host:port`, or the socket's path; of the pooler, where one is gone through.
fn address(options: &PgConnectOptions) -> String {
    if let Some(pooler) = pooled::leads_to(options) {
        return pooler;
    }
    match options.get_socket() {
        Some(path) => path.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    }
}

fn sslmode(mode: PgSslMode) -> &'static str {
    match mode {
        PgSslMode::Disable => "disable",
        PgSslMode::Allow => "allow",
        PgSslMode::Prefer => "prefer",
        PgSslMode::Require => "require",
        PgSslMode::VerifyCa => "verify-ca",
        PgSslMode::VerifyFull => "verify-full",
    }
}

/// Turns the driver's refusal into one that says what to do.
fn explain(options: &PgConnectOptions, error: sqlx::Error) -> PgError {
    let address = address(options);
    let user = options.get_username().to_owned();
    match error {
        sqlx::Error::Io(source) => explain_io(options, address, source),
        sqlx::Error::Tls(source) => {
            PgError::Tls { address, sslmode: sslmode(options.get_ssl_mode()).to_owned(), source }
        }
        other if pooler::refuses_settings(&other) => PgError::Pooler { address },
        other => match sqlstate(&other).as_deref() {
            Some(pooled::UNREACHABLE) => {
                PgError::Refused { address, source: io::Error::other(other) }
            }
            Some("28P01") => PgError::Password { address, user, source: other },
            Some("28000") => PgError::NotAdmitted { address, user, source: other },
            Some("3D000") => PgError::MissingDatabase {
                address,
                database: options.get_database().unwrap_or(options.get_username()).to_owned(),
                source: other,
            },
            Some("53300") => PgError::TooManyConnections { address, source: other },
            Some("57P03") => PgError::NotReady { address, source: other },
            Some("42501") => PgError::MissingRights {
                what: format!(
                    "role {user} may not connect to database {}",
                    options.get_database().unwrap_or_default()
                ),
                remedy: format!(
                    "GRANT CONNECT ON DATABASE {} TO {}",
                    crate::ident::quote(options.get_database().unwrap_or_default()),
                    crate::ident::quote(&user)
                ),
            },
            // A scram server asks for a password that the URL does not hold.
            None if matches!(&other, sqlx::Error::Protocol(text) if text.contains("password")) => {
                PgError::Password { address, user, source: other }
            }
            _ => PgError::database(format!("logging in at {address} as {user}"), other),
        },
    }
}

fn explain_io(options: &PgConnectOptions, address: String, source: io::Error) -> PgError {
    // A failed look-up has no error kind of its own; the resolver's text is all there is.
    let text = source.to_string();
    if text.contains("lookup address") || text.contains("resolve") {
        return PgError::UnknownHost { host: options.get_host().to_owned(), source };
    }
    PgError::Refused { address, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(url: &str) -> String {
        connect_options(&SecretString::from(url), &PoolOptions::default()).unwrap_err().to_string()
    }

    #[test]
    fn a_wrong_url_is_refused_without_being_repeated() {
        for url in ["", "mysql://u:geheim@h/d", "host=localhost password=geheim"] {
            let text = refusal(url);
            assert!(text.contains("postgres://"), "{text}");
            assert!(!text.contains("geheim"), "{text}");
        }
        let text = refusal("postgres://u:geheim@h:notaport/d");
        assert!(!text.contains("geheim"), "{text}");
        let text = refusal("postgres://u:geheim@h/d?sslmode=perhaps");
        assert!(text.contains("sslmode") && !text.contains("geheim"), "{text}");
        assert!(refusal("postgres://u@h/d?sslmod=require").contains("sslmod"));
    }

    #[test]
    fn poolers_parameters_are_taken_out() {
        let kept = checked_url("postgres://u@h/d?pgbouncer=true&sslmode=require").unwrap();
        assert_eq!(kept, "postgres://u@h/d?sslmode=require");
        assert_eq!(checked_url("postgres://u@h/d?connect_timeout=5").unwrap(), "postgres://u@h/d");
    }

    #[test]
    fn every_session_has_bounds_and_own_settings_hold_over_them() {
        let url = SecretString::from("postgres://u@h/d?options=-c%20lock_timeout%3D7s");
        let options = PoolOptions::named("x").setting("statement_timeout", "9s");
        let parsed = connect_options(&url, &options).unwrap();
        let text = parsed.get_options().unwrap();
        for wanted in [
            "statement_timeout=9s",
            "lock_timeout=7s",
            "idle_in_transaction_session_timeout=60s",
            "tcp_user_timeout=60000",
        ] {
            assert_eq!(text.matches(wanted).count(), 1, "{wanted} in {text}");
        }
        assert!(!text.contains("30min") && !text.contains("2min"), "{text}");
    }

    #[tokio::test]
    async fn a_closed_port_says_where_nobody_answers() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let url = SecretString::from(format!("postgres://u:p@127.0.0.1:{port}/d"));
        let error = connect(&url, PoolOptions::default()).await.unwrap_err();
        assert!(matches!(error, PgError::Refused { .. }), "{error:?}");
        assert!(error.to_string().contains(&port.to_string()));
        assert!(error.is_transient());
    }
}
