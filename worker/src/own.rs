//! Kinds of somebody's own, beside those of this build: what runs them, and how everybody else
//! comes to know them.
//!
//! Killed here, then what? What was published stays and is published again by the next worker; a
//! kind that no worker runs any more is forgotten after 90 days.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use relevo_jobs::{BadKind, JobKind, KindSpec, OwnKind};
use relevo_queue::{BoxFuture, Enqueued, Job, JobError, Queue, QueueError};
use relevo_runs::kinds;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

/// How often a worker says which kinds it knows.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(60);
/// How soon it tries again when that failed.
const PUBLISH_RETRY: Duration = Duration::from_secs(5);
/// How long one statement of it may take.
const PUBLISH_TIMEOUT: Duration = Duration::from_secs(20);

/// What a handler of somebody's own may use of the worker that runs it.
#[derive(Debug, Clone)]
pub struct Here {
    /// The control plane. An effect in it belongs into a transaction that has called
    /// [`Job::fence`], or ends the job by [`Job::complete_in`].
    pub pool: PgPool,
    /// Its queue, to enqueue what follows.
    pub queue: Queue,
}

impl Here {
    /// Enqueues a job of a kind of somebody's own by the kind's policy, durable once this returns.
    ///
    /// # Errors
    /// A payload that is no JSON or too large; database errors.
    pub async fn enqueue<K: OwnKind>(&self, payload: &K) -> Result<Enqueued, QueueError> {
        self.queue.enqueue(kinds::own_job(payload)?).await
    }
}

type Run = dyn Fn(Here, Job) -> BoxFuture<'static, Result<(), JobError>> + Send + Sync;

#[derive(Clone)]
struct Own {
    spec: KindSpec,
    run: Arc<Run>,
}

/// Kinds of somebody's own, each with what runs it.
#[derive(Clone, Default)]
pub struct OwnKinds {
    by_name: BTreeMap<String, Own>,
}

impl fmt::Debug for OwnKinds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_name.keys()).finish()
    }
}

impl OwnKinds {
    /// Adds a kind. A payload that `K` does not take makes its job a dead letter at once; what
    /// `handler` returns says what becomes of the others.
    ///
    /// # Errors
    /// A description that no kind can have, or a name that was added before.
    pub fn add<K, F, W>(&mut self, handler: F) -> Result<(), BadKind>
    where
        K: OwnKind,
        F: Fn(Here, Job, K) -> W + Send + Sync + 'static,
        W: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        let spec = KindSpec::of::<K>()?;
        let refuse = |what: String| Err(BadKind { kind: spec.name.clone(), what });
        if let Err(error) = kinds::check_schema(&spec.payload_schema) {
            return refuse(format!("its schema cannot be used: {error}"));
        }
        if self.by_name.contains_key(&spec.name) {
            return refuse("it was added before".to_owned());
        }
        let run: Arc<Run> =
            Arc::new(move |here, job| match read::<K>(job.payload_version, job.payload.get()) {
                Ok(payload) => Box::pin(handler(here, job, payload)),
                Err(error) => Box::pin(std::future::ready(Err(error))),
            });
        self.by_name.insert(spec.name.clone(), Own { spec, run });
        Ok(())
    }

    /// What a kind is like, where it is one of these.
    pub(crate) fn spec(&self, kind: &str) -> Option<&KindSpec> {
        self.by_name.get(kind).map(|own| &own.spec)
    }

    /// Runs a job of one of these kinds; none of another.
    pub(crate) fn run(
        &self,
        here: Here,
        job: &Job,
    ) -> Option<BoxFuture<'static, Result<(), JobError>>> {
        let own = self.by_name.get(&job.kind)?;
        Some((own.run)(here, job.clone()))
    }

    /// What this worker runs: the kinds of this build and these, or of all those the ones that
    /// `chosen` names.
    ///
    /// # Errors
    /// A name that is none of them.
    pub(crate) fn served(&self, chosen: &[String]) -> anyhow::Result<Vec<KindSpec>> {
        let built_in = JobKind::ALL.into_iter().map(KindSpec::of_built_in);
        let all: Vec<KindSpec> =
            built_in.chain(self.by_name.values().map(|own| own.spec.clone())).collect();
        if let Some(stranger) =
            chosen.iter().find(|name| all.iter().all(|kind| kind.name != **name))
        {
            let names: Vec<&str> = all.iter().map(|kind| kind.name.as_str()).collect();
            anyhow::bail!(
                "worker.kinds names {stranger:?}, which this program does not run; it runs {}",
                names.join(", ")
            );
        }
        Ok(all
            .into_iter()
            .filter(|kind| chosen.is_empty() || chosen.contains(&kind.name))
            .collect())
    }
}

/// The payload in the shape of today, whatever version it was written in.
fn read<K: OwnKind>(version: i16, payload: &str) -> Result<K, JobError> {
    if version >= K::VERSION {
        return serde_json::from_str(payload).map_err(JobError::fail);
    }
    let mut value = serde_json::from_str(payload).map_err(JobError::fail)?;
    for from in version..K::VERSION {
        value = K::upcast(from, value).map_err(|why| {
            JobError::fail(format!("a payload of version {from} has no next one: {why}"))
        })?;
    }
    serde_json::from_value(value).map_err(JobError::fail)
}

/// Says which kinds this worker runs, now and every minute, until `stop`.
pub(crate) async fn publish_forever(
    pool: PgPool,
    kinds: Vec<KindSpec>,
    worker: String,
    stop: CancellationToken,
) {
    loop {
        let published = kinds::publish(&pool, &kinds, &worker);
        let pause = match tokio::time::timeout(PUBLISH_TIMEOUT, published).await {
            Ok(Ok(())) => PUBLISH_INTERVAL,
            failed => {
                let error = match failed {
                    Ok(Err(error)) => relevo_errors::chain(&error),
                    _ => format!("no answer within {} s", PUBLISH_TIMEOUT.as_secs()),
                };
                tracing::warn!(error, "this worker's kinds could not be published, trying again");
                PUBLISH_RETRY
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Deserialize, Serialize)]
    struct Reprice {}
    impl OwnKind for Reprice {
        const KIND: &'static str = "Reprice";
        const SUMMARY: &'static str = "Reprices.";
    }

    #[derive(Deserialize, Serialize)]
    struct Broken {}
    impl OwnKind for Broken {
        const KIND: &'static str = "Broken";
        const SUMMARY: &'static str = "Has a schema that is none.";
        const SCHEMA: &'static str = r#"{"type": "object", "required": 7}"#;
    }

    async fn done<K>(_: Here, _: Job, _: K) -> Result<(), JobError> {
        Ok(())
    }

    #[test]
    fn a_kind_is_added_once_and_only_with_a_schema_that_works() {
        let mut own = OwnKinds::default();
        own.add(done::<Reprice>).unwrap();
        assert!(own.add(done::<Reprice>).unwrap_err().to_string().contains("before"));
        assert!(own.add(done::<Broken>).unwrap_err().to_string().contains("schema"));
        assert!(own.spec("Reprice").is_some() && own.spec("Broken").is_none());
    }

    #[test]
    fn a_worker_serves_what_was_chosen_and_nothing_it_has_not() {
        let mut own = OwnKinds::default();
        own.add(done::<Reprice>).unwrap();
        assert_eq!(own.served(&[]).unwrap().len(), JobKind::ALL.len() + 1);
        let served = own.served(&["Noop".to_owned(), "Reprice".to_owned()]).unwrap();
        assert_eq!(served.iter().map(|kind| &*kind.name).collect::<Vec<_>>(), ["Noop", "Reprice"]);
        let error = own.served(&["Repriced".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("\"Repriced\"") && error.ends_with("Noop, Reprice"), "{error}");
    }
}
