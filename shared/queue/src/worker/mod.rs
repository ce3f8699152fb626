//! The worker side: sessions, claims, handlers, write-backs.

mod config;
mod handler;
mod job;
mod observer;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

pub use config::{KnownKind, WorkerConfig};
pub use handler::{BoxError, BoxFuture, Handler, JobError, full_jitter};
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
    let _ = (queue, config, handler, observer, shutdown);
    unimplemented!()
}
