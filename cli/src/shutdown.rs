//! SIGTERM and Ctrl-C: the first asks for an orderly end, the second ends at once.

use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::failure::{Exit, Failure};

/// Past the grace time so much is left for closing connections before the process gives up.
const CLOSING: Duration = Duration::from_secs(5);

/// A token that the first SIGTERM or Ctrl-C cancels; the second ends the process.
pub fn on_signal() -> Result<CancellationToken, Failure> {
    let mut terminate = signal(SignalKind::terminate()).context("listening for SIGTERM failed")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listening for SIGINT failed")?;
    let token = CancellationToken::new();
    let cancelled = token.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        cancelled.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        quit();
    });
    Ok(token)
}

#[expect(
    clippy::disallowed_methods,
    reason = "a second signal means: now; leases run out and an embedded server is adopted later"
)]
fn quit() {
    std::process::exit(i32::from(Exit::Interrupted.code()));
}

/// Runs a service until it ends by itself or, after `stop`, within `grace` and a little more.
///
/// A service that doesn't end in that time is left: the process ends, and its leases are taken
/// back by others as after a crash.
pub async fn within_grace<T>(
    service: impl Future<Output = Result<T, Failure>>,
    stop: &CancellationToken,
    grace: Duration,
) -> Result<T, Failure> {
    tokio::pin!(service);
    tokio::select! {
        ended = &mut service => return ended,
        () = stop.cancelled() => {}
    }
    tracing::info!(grace_seconds = grace.as_secs(), "stopping: nothing new is begun");
    match tokio::time::timeout(grace + CLOSING, service).await {
        Ok(ended) => ended,
        Err(_) => Err(Failure::new(
            Exit::Failed,
            format!(
                "not everything ended within {} s; the rest is left",
                (grace + CLOSING).as_secs()
            ),
        )
        .advise("nothing is lost: what was running is taken back by other workers")),
    }
}
