//! The worker side: sessions, claims, handlers, write-backs.

mod backend;
mod buffer;
mod claim;
mod config;
mod connect;
mod fetcher;
mod finish;
mod finisher;
mod handler;
mod heartbeat;
mod hints;
mod job;
mod leases;
mod listener;
mod observer;
mod runner;
mod session;
mod tenure;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub(crate) use claim::{Claims, HELD, Row, VOID_FIND, in_order};
pub use config::{KnownKind, Listen, WorkerConfig};
pub(crate) use connect::settings;
pub(crate) use finish::{Ack, Ending, already_ended, bury, end, put_back};
pub(crate) use handler::exponential;
pub use handler::{BoxError, BoxFuture, Handler, JobError, full_jitter};
pub(crate) use job::Lease;
pub use job::{CancelReason, Job, Progress};
pub use observer::{Claimed, Finished, NoObserver, Observer, Outcome};

use crate::{Queue, QueueError};

/// Runs jobs until `shutdown`, then drains and returns. Database errors never end it.
///
/// # Errors
/// Only for a configuration that cannot work.
pub async fn run_worker(
    queue: Queue,
    config: WorkerConfig,
    handler: Arc<dyn Handler>,
    observer: Arc<dyn Observer>,
    shutdown: CancellationToken,
) -> Result<(), QueueError> {
    config.validate()?;
    let config = Arc::new(config);
    let mut failures = 0;
    while !shutdown.is_cancelled() {
        match tenure::run(&queue, &config, &handler, &observer, &shutdown).await {
            Ok(true) => break,
            Ok(false) => failures = 0,
            Err(error) => {
                failures += 1;
                observer.database_error("open_session");
                tracing::warn!(
                    failures,
                    worker = config.name,
                    error = &error as &dyn std::error::Error,
                    "no worker session could be opened, trying again"
                );
                tokio::select! {
                    () = tokio::time::sleep(connect::pause(failures)) => {}
                    () = shutdown.cancelled() => {}
                }
            }
        }
    }
    Ok(())
}
