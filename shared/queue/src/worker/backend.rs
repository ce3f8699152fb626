//! The apalis backend: jobs come out of the buffer, one per free slot, and run as tokio tasks.
//!
//! Outcomes don't pass through apalis: the runner hands them to the finisher. No error ever reaches
//! apalis either, since it would end its worker and drop what runs: database errors are the
//! fetcher's and the finisher's, a handler's failure is an outcome.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use apalis_core::backend::finalize::Ephemeral;
use apalis_core::backend::{Backend, BackendConfig};
use apalis_core::error::{BoxDynError, WorkerError};
use apalis_core::task::Task;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::context::WorkerContext;
use apalis_core::worker::ext::parallelize::ParallelizeExt as _;
use tower::Service;
use tower::layer::util::Identity;

use super::tenure::Tenure;
use super::{BoxFuture, Job, runner};

/// Runs jobs until the tenure drains and every handler has ended.
pub(crate) async fn run(tenure: Arc<Tenure>) {
    if let Err(error) = start(tenure).await {
        tracing::error!(error = &error as &dyn std::error::Error, "the apalis worker failed");
    }
}

/// The worker's future by its bounds alone: the compiler cannot see through its type that it may
/// move between threads.
fn start(tenure: Arc<Tenure>) -> BoxFuture<'static, Result<(), WorkerError>> {
    let worker = WorkerBuilder::new(tenure.config.name.as_str())
        .backend(Slots { tenure: Arc::clone(&tenure), config: () })
        .parallelize(tokio::spawn)
        .build(RunJob { tenure });
    Box::pin(worker.run())
}

/// Yields a job whenever one is claimed and a slot is free.
struct Slots {
    tenure: Arc<Tenure>,
    config: (),
}

impl Backend for Slots {
    type Task = Task<Job>;
    type Error = Infallible;

    fn poll_ready(
        &mut self,
        context: &mut Context<'_>,
        worker: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        if self.tenure.draining.is_cancelled() {
            // Ends the loop once nothing runs; it wakes the worker to see it.
            worker.stop().ok();
            return Poll::Pending;
        }
        // When all slots are taken, the end of any handler polls this again, and so do more slots;
        // looked at once more, should they have come in between.
        if self.tenure.has_slot() {
            return Poll::Ready(Ok(()));
        }
        self.tenure.more_slots.register(context.waker());
        if self.tenure.has_slot() { Poll::Ready(Ok(())) } else { Poll::Pending }
    }

    fn poll_next(
        &mut self,
        context: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Option<Result<Self::Task, Infallible>>> {
        self.tenure.buffer.poll_pop(context).map(|job| {
            self.tenure.in_flight.fetch_add(1, Ordering::AcqRel);
            self.tenure.room.notify_one();
            Some(Ok(Task::new(job)))
        })
    }

    fn poll_close(
        &mut self,
        _: &mut Context<'_>,
        _: &WorkerContext,
    ) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
}

impl BackendConfig for Slots {
    type Args = Job;
    type Id = i64;
    /// The payload stays JSON: a bad one is a failed job, not a failed worker.
    type Kind = Ephemeral;
    type Config = ();
    type Layer = Identity;

    fn config(&self) -> &() {
        &self.config
    }

    fn middleware(&mut self, _: &mut WorkerContext) -> Identity {
        Identity::new()
    }
}

/// The service apalis calls per job.
#[derive(Clone)]
struct RunJob {
    tenure: Arc<Tenure>,
}

impl Service<Task<Job>> for RunJob {
    type Response = ();
    type Error = BoxDynError;
    type Future = BoxFuture<'static, Result<(), BoxDynError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxDynError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, task: Task<Job>) -> Self::Future {
        let run = runner::run(Arc::clone(&self.tenure), task.args);
        Box::pin(async move {
            run.await;
            Ok(())
        })
    }
}
