//! The whole import in one process: gunzip thread → splitter thread → COPY connections, then the
//! same finish as in the pipeline.

use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use relevo_pg::{PoolOptions, connect};
use sqlx::PgPool;
use tokio::runtime::Handle;

use crate::aside::Allowance;
use crate::batch::Lanes;
use crate::certificate::{Certificate, PhaseDuration};
use crate::copy::{LoadOptions, copy_lanes};
use crate::error::ImportError;
use crate::identity::{Fence, ImportId};
use crate::manifest::{Manifest, TableManifest};
use crate::options::{DirectOptions, ImportOptions};
use crate::pieces::{self, Loaded};
use crate::progress::{ImportProgress, Phase, ProgressEvent};
use crate::resume::{self, Claim};
use crate::scan::{Found, ScanOptions, Tally, scan};
use crate::steps::{self, Begun, DIRECT_OWNER, sweep_direct};

/// Imports a dump (gzip or plain) into a schema: whole, or not at all.
///
/// Where an earlier import of the same source with the same options was cut off, its program
/// killed or its target gone, this one goes on with what that one had committed. What other direct
/// imports left behind when their program was killed is cleared up first.
///
/// # Errors
/// As in [`ImportError`]; the previous data are intact then. Nothing is left behind, unless the
/// target went away and the source is known: then running it again goes on.
pub async fn import_file(
    input: impl Read + Send + 'static,
    options: DirectOptions,
    progress: Arc<dyn ImportProgress>,
) -> Result<Certificate, ImportError> {
    progress.report(ProgressEvent::Phase(Phase::Prepare));
    let pool_options = PoolOptions::named("relevo import").max_connections(6);
    let pool = connect(&options.target_url, pool_options).await?;
    let import = ImportOptions { owner: DIRECT_OWNER.to_owned(), ..options.import.clone() };
    let source = options.source.as_deref();
    // Held as long as this function runs; a killed program loses it.
    let Claim { id, fence, presence } = resume::claim(&pool, source, &import).await?;
    let spared = source.filter(|_| options.more_follow);
    if let Err(error) = sweep_direct(&pool, spared).await {
        tracing::warn!(error = %error, "could not clear up after an earlier import");
    }

    let direct = Direct { pool: &pool, id: &id, fence, import: &import, options: &options };
    let outcome = direct.run(input, &progress).await;
    // What another program has taken over or ended is its own to clear up.
    if let Err(error) = &outcome
        && !matches!(error, ImportError::Fenced { .. } | ImportError::Ended { .. })
        && !(source.is_some() && error.is_cut_off())
        && let Err(left) = steps::abandon(&pool, &id, &error.chain()).await
    {
        tracing::warn!(import = %id, error = %left, "could not clear up after a failed import");
    }
    presence.close().await;
    pool.close().await;
    outcome
}

struct Direct<'a> {
    pool: &'a PgPool,
    id: &'a ImportId,
    fence: Fence,
    import: &'a ImportOptions,
    options: &'a DirectOptions,
}

impl Direct<'_> {
    async fn run(
        &self,
        input: impl Read + Send + 'static,
        progress: &Arc<dyn ImportProgress>,
    ) -> Result<Certificate, ImportError> {
        let begun = steps::begin(self.pool, self.id, self.import, self.fence).await?;
        let mut phases = Vec::new();
        if matches!(begun, Begun::Fresh | Begun::Resumed { .. }) {
            let source = self.options.source.as_deref();
            resume::note_source(self.pool, self.id, source).await?;
            let known = pieces::loaded(self.pool, self.id).await?;
            if !known.chunks.is_empty() {
                let rows: u64 = known.chunks.iter().map(|chunk| chunk.rows).sum();
                let notice =
                    format!("goes on with an import that was cut off: {rows} rows are loaded");
                progress.report(ProgressEvent::Notice(&notice));
            }
            progress.report(ProgressEvent::Phase(Phase::Load));
            let started = Instant::now();
            let tally = self.load(input, known, progress).await?;
            phases.push(PhaseDuration {
                phase: Phase::Load,
                duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            });
            let manifest = self.manifest(tally).await?;
            steps::seal(self.pool, self.id, &manifest, self.fence).await?;
        }
        let cancel = &self.options.cancel;
        steps::finish_after(self.pool, self.id, self.fence, &**progress, cancel, phases).await
    }

    /// Reads the dump on one thread and copies on several connections.
    async fn load(
        &self,
        input: impl Read + Send + 'static,
        known: Loaded,
        progress: &Arc<dyn ImportProgress>,
    ) -> Result<Tally, ImportError> {
        // Stops the other side when one side fails, or when this future is dropped.
        let stop = self.options.cancel.child_token();
        let _stop_on_drop = stop.clone().drop_guard();
        let (lanes, feeder) = Lanes::new(self.options.jobs.max(1), known.known);
        let reader = {
            let import = self.import.clone();
            let (pool, id, fence) = (self.pool.clone(), self.id.clone(), self.fence);
            let (progress, stop) = (Arc::clone(progress), stop.clone());
            let handle = Handle::current();
            tokio::task::spawn_blocking(move || {
                let mut feeder = feeder;
                let options = ScanOptions {
                    completion: import.completion,
                    database: import.database.as_deref(),
                    selection: &import.selection,
                    schema_only: import.schema_only,
                    unpack_limit: import.unpack_limit,
                    translate: &import.translate,
                };
                let tally = scan(input, &options, &*progress, &mut |found| {
                    if stop.is_cancelled() {
                        return Err(ImportError::Cancelled);
                    }
                    match found {
                        Found::Rows(batch) => feeder.push(batch),
                        Found::Table(table) => {
                            handle.block_on(steps::create_table(&pool, &id, table, fence))
                        }
                    }
                })?;
                feeder.finish()?;
                Ok(tally)
            })
        };
        let load = LoadOptions {
            translate: &self.import.translate,
            commit_bytes: self.options.commit_bytes,
            allowance: Allowance::new(self.import.quarantine.into(), known.quarantined),
            first_ordinal: known.next_ordinal,
            fence: self.fence,
            idle_limit: self.options.copy_timeout,
            stop: &stop,
            progress,
        };
        let copied = copy_lanes(lanes, self.pool, self.id, load).await;
        if copied.is_err() {
            stop.cancel();
        }
        let read = reader.await.map_err(|_| ImportError::Crashed { what: "reading the dump" })?;
        match (read, copied) {
            // A reader whose rows nobody takes any more reports a cancel: the reason is there.
            (Err(ImportError::Cancelled), Err(error)) => Err(error),
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(tally), Ok(())) => Ok(tally),
        }
    }

    /// What the dump holds, and the pieces that the ledger vouches for: `finish` trusts nothing
    /// else.
    async fn manifest(&self, tally: Tally) -> Result<Manifest, ImportError> {
        let loaded = pieces::loaded(self.pool, self.id).await?;
        Ok(Manifest {
            tables: tally
                .tables
                .into_iter()
                .map(|table| TableManifest {
                    definition: (*table.definition).clone(),
                    rows: table.rows,
                    rows_recounted: table.rows_recounted,
                })
                .collect(),
            chunks: loaded.chunks,
            summary: tally.summary,
            skipped: tally.skipped,
            warnings: tally.warnings,
        })
    }
}
