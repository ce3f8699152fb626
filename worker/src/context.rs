//! What every handler may use.

use std::{ops::Deref, sync::Arc};

use anyhow::Context as _;
use relevo_connections::{Connections, ReferenceError, Resolved};
use relevo_jobs::Payload;
use relevo_notify::Sender;
use relevo_queue::{Job, NewJob, Queue};
use relevo_runs::{
    Runs,
    control_plane::{self, Identity},
    typed_job, uploads,
};
use relevo_settings::{BackupSource, InForce, Settings};
use relevo_telemetry::metrics::Metrics;
use sqlx::{PgPool, PgTransaction};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    backup::{ChunkStore, Files, Names},
    targets::Targets,
};

/// What one piece of work goes by: the settings of the moment it began, and everything the handlers
/// of one worker share.
pub(crate) struct Context {
    /// In force when this piece of work began; the connections that sources name are looked up.
    pub(crate) settings: Arc<Settings>,
    resolved: Resolved,
    /// For messages to people, under these settings.
    pub(crate) sender: Sender,
    shared: Arc<Shared>,
}

/// Everything the handlers of one worker share.
pub(crate) struct Shared {
    in_force: InForce,
    pub(crate) pool: PgPool,
    pub(crate) queue: Queue,
    pub(crate) runs: Runs,
    pub(crate) metrics: Arc<Metrics>,
    /// Which control plane this is: part of every name and fence in a target.
    pub(crate) identity: Identity,
    pub(crate) targets: Targets,
    pub(crate) chunks: ChunkStore,
    pub(crate) files: Files,
    /// Dumps that were handed over.
    pub(crate) uploads: uploads::Store,
    /// How this control plane names what it leaves outside itself.
    pub(crate) names: Names,
    sender: Sender,
    /// Wakes this process's reconciler: a run has just ended.
    pub(crate) run_ended: Notify,
    /// Fires when the control plane turns out to be another one than at the start.
    pub(crate) replaced: CancellationToken,
}

impl Deref for Context {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

impl Context {
    pub(crate) async fn new(
        pool: PgPool,
        queue: Queue,
        in_force: InForce,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let identity = control_plane::identity(&pool)
            .await
            .context("the control plane does not say who it is; run `relevo migrate` first")?;
        let settings = in_force.now();
        let sender = Sender::new(&pool, Arc::clone(&settings)).await?;
        let names = Names::new(&identity.cluster_id);
        let chunks = ChunkStore::open(&settings.chunk_store.url, names.clone())?;
        let shared = Shared {
            in_force,
            runs: Runs::new(pool.clone()),
            targets: Targets::new(),
            uploads: uploads::Store::new(chunks.root(), &identity.cluster_id),
            chunks,
            files: Files::new(&settings.data_dir, names.clone()),
            names,
            sender: sender.clone(),
            run_ended: Notify::new(),
            replaced: CancellationToken::new(),
            pool,
            queue,
            metrics,
            identity,
        };
        let resolved = Resolved::as_they_are(Arc::clone(&settings));
        Ok(Self { settings, resolved, sender, shared: Arc::new(shared) })
    }

    /// The same under the settings of now, for a piece of work that uses no source.
    pub(crate) fn now(&self) -> Self {
        let settings = self.in_force.now();
        self.under(Resolved::as_they_are(settings))
    }

    /// The same under the settings of now, with the connections that sources name.
    pub(crate) async fn now_with_connections(&self) -> Self {
        let settings = self.in_force.now();
        self.under(Connections::new(self.pool.clone(), settings).resolve().await)
    }

    fn under(&self, resolved: Resolved) -> Self {
        Self {
            settings: Arc::clone(&resolved.settings),
            sender: self.shared.sender.under(Arc::clone(&resolved.settings)),
            resolved,
            shared: Arc::clone(&self.shared),
        }
    }

    /// The settings of a source, if it is still configured; the error says which connection it
    /// names and cannot have.
    pub(crate) fn source(&self, name: &str) -> Option<Result<&BackupSource, &ReferenceError>> {
        self.resolved.source(name)
    }

    /// A control-plane transaction that has proved the job's lease: every effect of a handler on
    /// the control plane belongs into one.
    pub(crate) async fn fenced(&self, job: &Job) -> anyhow::Result<PgTransaction<'_>> {
        let mut tx = self.pool.begin().await?;
        job.fence(&mut tx).await?;
        Ok(tx)
    }

    /// A job that follows from `parent`, in the same trace: under the handler that makes it, or,
    /// where a thread beside the handler does, under what `parent` carries.
    pub(crate) fn child<P: Payload>(parent: &Job, payload: &P) -> NewJob {
        let mut job = typed_job(payload);
        if job.traceparent.is_none() {
            job.traceparent.clone_from(&parent.traceparent);
        }
        job
    }
}
