//! The way through a pooler in transaction mode, such as PgBouncer.
//!
//! There a session is nobody's: each transaction may run on another one. The driver counts on its
//! session: it prepares a statement and runs it later, and begins a session with settings. So the
//! driver's connections lead to a relay in this process, which makes of each of its statements one
//! that needs nothing from before:
//!
//! - What the driver prepared is parsed again in the same breath as it is run, without a name.
//! - The settings that the session was to begin with hold for each transaction alone (`SET LOCAL`).
//! - A single statement goes with both as one message sequence, up to one Sync: one transaction, one
//!   round trip, which the pooler cannot divide.
//!
//! What else belongs to a session cannot be had this way: LISTEN, locks and settings for longer than
//! a transaction. Nothing in this workspace asks the control plane for them but by a connection of
//! the server's own.
//!
//! The relay has a thread of its own, so that handlers that block the runtime's threads cannot make
//! a heartbeat wait. It listens on the loopback interface: who connects there has to log in, as at
//! the pooler itself.

mod frame;
mod relay;
mod startup;
mod upstream;

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub(crate) use upstream::{Encryption, Upstream};

/// SQLSTATE of a connection refused since the pooler cannot be reached.
pub(crate) const UNREACHABLE: &str = "08001";

/// More connections than this at once are not relayed: pools are far smaller.
const CONNECTIONS_MAX: usize = 4_096;

/// How long a step of making a connection may take.
const STEP_MAX: Duration = Duration::from_secs(10);

/// The relays of this process: where each listens, and where it leads.
static RELAYS: Mutex<Option<HashMap<Upstream, u16>>> = Mutex::new(None);

/// The same options by way of a relay to `upstream`, which is started unless it runs.
pub(crate) fn route(options: PgConnectOptions, upstream: Upstream) -> io::Result<PgConnectOptions> {
    let port = {
        let mut relays = RELAYS.lock().unwrap_or_else(PoisonError::into_inner);
        let relays = relays.get_or_insert_default();
        match relays.get(&upstream) {
            Some(port) => *port,
            None => {
                let port = start(upstream.clone())?;
                relays.insert(upstream, port);
                port
            }
        }
    };
    Ok(options.host(&Ipv4Addr::LOCALHOST.to_string()).port(port).ssl_mode(PgSslMode::Disable))
}

/// Where a relay leads, as `host:port`: what is said of it is to name the pooler.
pub(crate) fn leads_to(options: &PgConnectOptions) -> Option<String> {
    if options.get_host() != Ipv4Addr::LOCALHOST.to_string() {
        return None;
    }
    let relays = RELAYS.lock().unwrap_or_else(PoisonError::into_inner);
    let (upstream, _) = relays.as_ref()?.iter().find(|(_, port)| **port == options.get_port())?;
    Some(upstream.to_string())
}

/// Starts a relay; it runs as long as the process.
fn start(upstream: Upstream) -> io::Result<u16> {
    let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
    listener.set_nonblocking(true)?;
    let port = listener.local_addr()?.port();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("relevo-pooler".to_owned()).spawn(move || {
        runtime.block_on(async {
            match TcpListener::from_std(listener) {
                Ok(listener) => accept(listener, Arc::new(upstream)).await,
                Err(error) => tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the way to the pooler cannot be opened"
                ),
            }
        });
    })?;
    Ok(port)
}

async fn accept(listener: TcpListener, upstream: Arc<Upstream>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        // Never closed.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((client, _)) => {
                let upstream = Arc::clone(&upstream);
                tokio::spawn(async move {
                    // What went wrong either side learns from its connection's end.
                    if let Err(error) = relayed(client, &upstream).await {
                        tracing::debug!(
                            pooler = %upstream,
                            error = &error as &dyn std::error::Error,
                            "a connection by way of the pooler ended"
                        );
                    }
                    drop(permit);
                });
            }
            // Out of file handles, most likely: some will be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Bounds a step of making a connection.
async fn in_time<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match tokio::time::timeout(STEP_MAX, step).await {
        Ok(done) => done,
        Err(_) => Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("no answer for {} s", STEP_MAX.as_secs()),
        )),
    }
}

async fn relayed(mut client: TcpStream, upstream: &Upstream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let asked = in_time(startup::read(&mut client)).await?;
    let server = match in_time(upstream.connect()).await {
        Ok(server) => server,
        Err(error) => return startup::refuse(&mut client, upstream, &error).await,
    };
    let (message, settings) = startup::rewritten(&asked)?;
    relay::run(client, server, message, settings).await
}
