//! Connections: taking them, bounding them, ending them.
//!
//! Not `axum::serve`, which waits for ever for a request's headers and takes any number of
//! connections.

use std::future::ready;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use axum::response::{IntoResponse as _, Response};
use futures::future::Either;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use relevo_settings::InForce;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::app::{ApiDeps, router};
use crate::error::ApiError;
use crate::places::{Asks, Places};
use crate::stall::Stalling;

/// How long a connection may take to send a request's headers, idle time before them included.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(60);
/// The same on a place that is kept for health: those are few.
const KEPT_HEADERS_TIMEOUT: Duration = Duration::from_secs(1);
/// What may be asked when there is no other place.
const HEALTH: [&str; 3] = ["/livez", "/readyz", "/metrics"];
/// How soon to come again when there was no place.
const FULL_RETRY_AFTER_SECONDS: u64 = 5;
/// How often the log says that there are more connections than places.
const FULL_TOLD_EVERY: Duration = Duration::from_secs(60);
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

/// Answers on `listener` until `shutdown`, and after it for `api.drain_seconds` as one that is not
/// ready; then lets requests under way end, at most 20 seconds.
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
    let settings = deps.settings.clone();
    let router = TowerToHyperService::new(router(deps, shutdown.clone()));
    let graceful = GracefulShutdown::new();
    let places = Places::default();
    let mut full = Full::default();
    let stop = drained(settings.clone(), shutdown);
    tokio::pin!(stop);
    while let Some((stream, peer)) = next(&listener, stop.as_mut()).await {
        let settings = settings.now();
        let limits = (settings.api.connections_max, settings.api.connections_per_address_max);
        let place = places.take(peer.ip(), limits.0, limits.1);
        if place.as_ref().is_none_or(|place| place.asks == Asks::Health) {
            full.tell(peer.ip());
        }
        // Without a place of either kind the connection ends here.
        let Some(place) = place else { continue };
        // An answer is one small packet; waiting to fill it would only add a delay.
        stream.set_nodelay(true).ok();
        let router = router.clone();
        let asks = place.asks;
        let service = service_fn(move |mut request: Request<Incoming>| {
            if asks == Asks::Health && !HEALTH.contains(&request.uri().path()) {
                return Either::Right(ready(Ok(no_place())));
            }
            request.extensions_mut().insert(Peer(peer.ip()));
            Either::Left(router.call(request))
        });
        let headers_timeout = match asks {
            Asks::Anything => HEADERS_TIMEOUT,
            Asks::Health => KEPT_HEADERS_TIMEOUT,
        };
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(headers_timeout)
            .keep_alive(asks == Asks::Anything)
            .serve_connection(TokioIo::new(Stalling::new(stream, WRITE_TIMEOUT)), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended badly");
            }
            drop(place);
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

/// 503: every place is taken.
fn no_place() -> Response {
    ApiError::unavailable(
        "too_many_connections",
        "there are as many connections as this API takes (api.connections_max, and of one address \
         api.connections_per_address_max); come again",
    )
    .retry_after(FULL_RETRY_AFTER_SECONDS)
    .into_response()
}

/// Tells the log of connections without a place, not of each.
#[derive(Default)]
struct Full {
    told_at: Option<Instant>,
}

impl Full {
    fn tell(&mut self, address: IpAddr) {
        if self.told_at.is_none_or(|at| at.elapsed() >= FULL_TOLD_EVERY) {
            self.told_at = Some(Instant::now());
            tracing::warn!(
                %address,
                "more connections come than api.connections_max or, of one address, \
                 api.connections_per_address_max allows; they are refused but for health"
            );
        }
    }
}

/// The moment to take no more connections: the order to stop, and the time that whoever sends
/// requests here needs to notice.
async fn drained(settings: InForce, shutdown: CancellationToken) {
    shutdown.cancelled().await;
    let drain = Duration::from_secs(settings.now().api.drain_seconds);
    if !drain.is_zero() {
        tracing::info!(drain_s = drain.as_secs(), "stopping: the API says that it is not ready");
        tokio::time::sleep(drain).await;
    }
}

/// The next connection; `None` when it is time to stop and nobody waits to be let in.
async fn next(
    listener: &TcpListener,
    mut stop: impl Future<Output = ()> + Unpin,
) -> Option<(TcpStream, SocketAddr)> {
    loop {
        tokio::select! {
            // Who has been let in by the system already would otherwise be turned away unheard.
            biased;
            taken = listener.accept() => match taken {
                Ok(taken) => return Some(taken),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be taken");
                    tokio::select! {
                        () = &mut stop => return None,
                        () = tokio::time::sleep(ACCEPT_PAUSE) => {}
                    }
                }
            },
            () = &mut stop => return None,
        }
    }
}
