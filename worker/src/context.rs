//! What every handler may use.

use std::sync::Arc;

use anyhow::Context as _;
use relevo_jobs::Payload;
use relevo_notify::Sender;
use relevo_queue::{Job, NewJob, Queue};
use relevo_runs::{
    Runs,
    control_plane::{self, Identity},
    typed_job, uploads,
};
use relevo_settings::{BackupSource, Settings};
use relevo_telemetry::metrics::Metrics;
use sqlx::{PgPool, PgTransaction};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{
    backup::{ChunkStore, Files, Names},
    targets::Targets,
};

/// Everything the handlers of one worker share.
pub(crate) struct Context {
    pub(crate) settings: Arc<Settings>,
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
    /// For messages to people.
    pub(crate) sender: Sender,
    /// Wakes this process's reconciler: a run has just ended.
    pub(crate) run_ended: Notify,
    /// Fires when the control plane turns out to be another one than at the start.
    pub(crate) replaced: CancellationToken,
}

impl Context {
    pub(crate) async fn new(
        pool: PgPool,
        queue: Queue,
        settings: Arc<Settings>,
        metrics: Arc<Metrics>,
    ) -> anyhow::Result<Self> {
        let identity = control_plane::identity(&pool)
            .await
            .context("the control plane does not say who it is; run `relevo migrate` first")?;
        let sender = Sender::new(&pool, Arc::clone(&settings)).await?;
        let names = Names::new(&identity.cluster_id);
        let chunks = ChunkStore::open(&settings.chunk_store.url, names.clone())?;
        Ok(Self {
            runs: Runs::new(pool.clone()),
            targets: Targets::new(),
            uploads: uploads::Store::new(chunks.root(), &identity.cluster_id),
            chunks,
            files: Files::new(&settings.data_dir, names.clone()),
            names,
            sender,
            run_ended: Notify::new(),
            replaced: CancellationToken::new(),
            pool,
            queue,
            settings,
            metrics,
            identity,
        })
    }

    /// The settings of a source, if it is still configured.
    pub(crate) fn source(&self, name: &str) -> Option<&BackupSource> {
        self.settings.backup.get(name)
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
