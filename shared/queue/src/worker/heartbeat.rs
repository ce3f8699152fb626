//! The heartbeat: keeps the session alive, learns of cancels, and watches over handlers.
//!
//! It has a thread and a connection of its own, so that neither handlers that block the runtime's
//! threads nor a busy pool can make a healthy process look dead. The database decides who holds a
//! lease; the local clock only says when to stop trusting ourselves, counted from before the last
//! heartbeat that was answered was sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use sqlx::PgConnection;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::connect::{self, Purpose, pause};
use super::job::CancelReason;
use super::tenure::Tenure;
use super::{runner, session};

/// How often handlers are looked at between heartbeats.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Beyond its limits a handler gets so much more before somebody else acts on it: its own task
/// does, unless it is blocked.
const WATCH_MARGIN: Duration = Duration::from_secs(2);

/// Starts the thread; it ends when what is returned is dropped.
pub(crate) fn start(tenure: &Arc<Tenure>, trusted_since: Instant) -> std::io::Result<DropGuard> {
    let stop = CancellationToken::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (tenure, stopped) = (Arc::clone(tenure), stop.clone());
    std::thread::Builder::new().name("relevo-heartbeat".to_owned()).spawn(move || {
        let _watch = Watch(&tenure);
        runtime.block_on(async {
            tokio::select! {
                () = run(&tenure, trusted_since) => {}
                () = stopped.cancelled() => {}
            }
        });
    })?;
    Ok(stop.drop_guard())
}

/// Without a heartbeat there is no lease: should the thread die of a panic, the session is lost.
struct Watch<'a>(&'a Tenure);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lose("the heartbeat's thread panicked");
        }
    }
}

async fn run(tenure: &Tenure, trusted_since: Instant) {
    let ttl = tenure.config.lease_ttl;
    let mut trusted_until = trusted_since + ttl;
    let mut connection: Option<PgConnection> = None;
    let mut failures = 0;
    let mut next = Instant::now() + ttl / 3;
    loop {
        let watch = Instant::now() + WATCH_INTERVAL.min(ttl / 3);
        tokio::select! {
            () = tokio::time::sleep_until(next.min(watch).into()) => {}
            () = tenure.beat_now.notified() => next = Instant::now(),
        }
        if Instant::now() >= trusted_until {
            tenure.lose("no heartbeat was answered within its time to live");
            return;
        }
        watch_handlers(tenure);
        if Instant::now() < next {
            continue;
        }
        let sent = Instant::now();
        let limit = (ttl / 3).min(trusted_until.duration_since(sent));
        match tokio::time::timeout(limit, beat(tenure, &mut connection)).await {
            Ok(Ok(true)) => {
                failures = 0;
                trusted_until = sent + ttl;
                next = sent + ttl / 3;
            }
            Ok(Ok(false)) => {
                tenure.lose("it was taken for dead and ended");
                return;
            }
            failed => {
                connection = None;
                failures += 1;
                tenure.observer.database_error("heartbeat");
                let text = match failed {
                    Ok(Err(error)) => relevo_errors::chain(&error),
                    _ => format!("no answer within {} ms", limit.as_millis()),
                };
                tracing::warn!(
                    session = %tenure.session,
                    failures,
                    trusted_for_ms = trusted_until.duration_since(Instant::now()).as_millis(),
                    error = text,
                    "a heartbeat failed, trying again"
                );
                next = Instant::now() + pause(failures).min(ttl / 6);
            }
        }
    }
}

/// False when the session is over.
async fn beat(tenure: &Tenure, connection: &mut Option<PgConnection>) -> Result<bool, sqlx::Error> {
    let connection = match connection {
        Some(connection) => connection,
        none => none.insert(connect::connect(tenure.queue.pool(), Purpose::Heartbeat).await?),
    };
    let cancelled = session::beat(
        connection,
        tenure.session,
        tenure.in_flight.load(Ordering::Relaxed),
        tenure.draining.is_cancelled(),
        tenure.slots.load(Ordering::Relaxed),
    )
    .await?;
    let Some(cancelled) = cancelled else { return Ok(false) };
    for job in cancelled {
        tenure.leases.cancel(job, CancelReason::Requested);
    }
    Ok(true)
}

/// A handler's own task enforces its limits, unless the handler blocks it: then this does, as far
/// as it can be done from outside.
fn watch_handlers(tenure: &Tenure) {
    let now = Instant::now();
    for lease in tenure.leases.all() {
        for (at, reason) in lease.limits().into_iter().flatten() {
            if now > at + WATCH_MARGIN {
                lease.cancel(reason);
            }
        }
        let patience = tenure.config.cancel_grace + WATCH_MARGIN;
        let is_stuck = lease.cancelled_at().is_some_and(|since| now > since + patience);
        if is_stuck && tenure.try_settle(&lease, runner::decide_stuck(tenure, &lease)) {
            tenure.observer.handler_stuck(&lease.queue_name, &lease.kind);
            tracing::error!(
                job = %lease.id.job,
                kind = &*lease.kind,
                reason = ?lease.cancel_reason(),
                "a handler was told to stop and does not yield; its lease is taken from it and the \
                 job may run elsewhere; its slot stays taken until it returns or this process is \
                 restarted"
            );
        }
    }
}
