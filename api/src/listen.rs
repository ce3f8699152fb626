//! Connections: taking them, bounding them, ending them.
//!
//! Not `axum::serve`, which waits for ever for a request's headers and takes any number of
//! connections.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::app::{ApiDeps, router};
use crate::stall::Stalling;

/// Connections at once; more wait in the listener's backlog.
const CONNECTIONS_MAX: usize = 1_024;
/// How long a connection may take to send a request's headers, idle time before them included.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a client may take nothing of what it is answered: whoever asks and never reads would
/// hold its connection for ever.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long requests under way may take when the server is told to stop.
const GRACE: Duration = Duration::from_secs(20);
/// Pause after the operating system refused a connection (too many open files).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Who is at the other end of a connection: a client, or the proxy before it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) IpAddr);

/// Answers on `listener` until `shutdown`, then lets requests under way end, at most 20 seconds.
///
/// # Errors
/// When the listener's address cannot be read; trouble with single connections is logged.
pub async fn serve(
    deps: ApiDeps,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    tracing::info!(%address, "the API listens");
    let router = TowerToHyperService::new(router(deps, shutdown.clone()));
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Some((stream, peer, permit)) = next(&listener, &permits, &shutdown).await else {
            break;
        };
        // An answer is one small packet; waiting to fill it would only add a delay.
        stream.set_nodelay(true).ok();
        let router = router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer.ip()));
            router.call(request)
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADERS_TIMEOUT)
            .serve_connection(TokioIo::new(Stalling::new(stream, WRITE_TIMEOUT)), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended badly");
            }
            drop(permit);
        });
    }
    drop(listener);
    tokio::select! {
        () = graceful.shutdown() => {}
        () = tokio::time::sleep(GRACE) => {
            tracing::warn!(grace_s = GRACE.as_secs(), "requests were still under way at the end");
        }
    }
    tracing::info!(%address, "the API has stopped");
    Ok(())
}

/// The next connection with its place among the allowed ones; `None` when it is time to stop.
async fn next(
    listener: &TcpListener,
    permits: &Arc<Semaphore>,
    shutdown: &CancellationToken,
) -> Option<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    loop {
        let taken = async {
            let permit = permits.clone().acquire_owned().await.map_err(io::Error::other)?;
            let (stream, peer) = listener.accept().await?;
            Ok::<_, io::Error>((stream, peer, permit))
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return None,
            taken = taken => match taken {
                Ok(taken) => return Some(taken),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
}
