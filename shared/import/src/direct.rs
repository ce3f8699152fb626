//! The whole import in one process: gunzip thread → splitter thread → COPY connections, then the
//! same finish as in the pipeline.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use relevo_mysqldump::BatchStats;
use relevo_pg::{PoolOptions, Session, connect};
use sqlx::PgPool;
use tokio::runtime::Handle;

use crate::batch::Lanes;
use crate::certificate::{Certificate, PhaseDuration};
use crate::copy::{Sent, copy_lanes};
use crate::error::ImportError;
use crate::identity::{Fence, ImportId};
use crate::ledger;
use crate::manifest::{ChunkEntry, Manifest, TableManifest};
use crate::options::{DirectOptions, ImportOptions};
use crate::progress::{ImportProgress, Phase, ProgressEvent};
use crate::scan::{Found, ScanOptions, Tally, scan};
use crate::steps::{self, DIRECT_OWNER, sweep_direct};

/// Nobody else writes into an import of our own making.
const FENCE: Fence = Fence { incarnation: 0, job_id: 0, epoch: 0 };

/// Imports a dump (gzip or plain) into a schema: whole, or not at all.
///
/// What an earlier direct import left behind when its program was killed is cleared up first.
///
/// # Errors
/// As in [`ImportError`]; the previous data are intact then, and nothing is left behind.
pub async fn import_file(
    input: impl Read + Send + 'static,
    options: DirectOptions,
    progress: Arc<dyn ImportProgress>,
) -> Result<Certificate, ImportError> {
    progress.report(ProgressEvent::Phase(Phase::Prepare));
    let pool_options = PoolOptions::named("relevo import").max_connections(6);
    let pool = connect(&options.target_url, pool_options).await?;
    let id = new_id(&pool).await?;
    // Held as long as this function runs; a killed program loses it, and the next one clears up.
    let mut presence = Session::open(&pool, &id.program(), &[]).await?;
    sqlx::query("-- show_presence\nSELECT pg_advisory_lock(hashtextextended($1, 0))")
        .bind(id.program())
        .execute(presence.connection())
        .await
        .map_err(|source| ImportError::database("announcing the import", source))?;
    if let Err(error) = sweep_direct(&pool).await {
        tracing::warn!(error = %error, "could not clear up after an earlier import");
    }

    let import = ImportOptions { owner: DIRECT_OWNER.to_owned(), ..options.import.clone() };
    let direct = Direct { pool: &pool, id: &id, import: &import, options: &options };
    let outcome = direct.run(input, &progress).await;
    if let Err(error) = &outcome
        && let Err(left) = steps::abandon(&pool, &id, &error.chain()).await
    {
        tracing::warn!(import = %id, error = %left, "could not clear up after a failed import");
    }
    presence.close().await;
    pool.close().await;
    outcome
}

async fn new_id(pool: &PgPool) -> Result<ImportId, ImportError> {
    let random: String = sqlx::query_scalar(
        "-- new_import_id
         SELECT left(replace(gen_random_uuid()::text, '-', ''), 16)",
    )
    .fetch_one(pool)
    .await
    .map_err(|source| ImportError::database("asking for an import id", source))?;
    ImportId::new(format!("direct_{random}"))
}

struct Direct<'a> {
    pool: &'a PgPool,
    id: &'a ImportId,
    import: &'a ImportOptions,
    options: &'a DirectOptions,
}

impl Direct<'_> {
    async fn run(
        &self,
        input: impl Read + Send + 'static,
        progress: &Arc<dyn ImportProgress>,
    ) -> Result<Certificate, ImportError> {
        steps::begin(self.pool, self.id, self.import, FENCE).await?;
        progress.report(ProgressEvent::Phase(Phase::Load));
        let started = Instant::now();
        let (tally, sent) = self.load(input, progress).await?;
        let load = PhaseDuration {
            phase: Phase::Load,
            duration_ms: u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let manifest = self.record(tally, &sent).await?;
        steps::seal(self.pool, self.id, &manifest, FENCE).await?;
        let cancel = &self.options.cancel;
        steps::finish_after(self.pool, self.id, FENCE, &**progress, cancel, vec![load]).await
    }

    /// Reads the dump on one thread and copies on several connections.
    async fn load(
        &self,
        input: impl Read + Send + 'static,
        progress: &Arc<dyn ImportProgress>,
    ) -> Result<(Tally, Sent), ImportError> {
        // Stops the other side when one side fails, or when this future is dropped.
        let stop = self.options.cancel.child_token();
        let _stop_on_drop = stop.clone().drop_guard();
        let (lanes, feeder) = Lanes::new(self.options.jobs.max(1));
        let reader = {
            let import = self.import.clone();
            let (pool, id) = (self.pool.clone(), self.id.clone());
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
                            handle.block_on(steps::create_table(&pool, &id, table, FENCE))
                        }
                        Found::Dropped(table) => {
                            handle.block_on(steps::drop_table(&pool, &id, table, FENCE))
                        }
                    }
                })?;
                feeder.finish()?;
                Ok(tally)
            })
        };
        let copied = copy_lanes(
            lanes,
            self.pool,
            self.id,
            &self.import.translate,
            self.options.copy_timeout,
            &stop,
            progress,
        )
        .await;
        if copied.is_err() {
            stop.cancel();
        }
        let read = reader.await.map_err(|_| ImportError::Crashed { what: "reading the dump" })?;
        match (read, copied) {
            // A reader whose rows nobody takes any more reports a cancel: the reason is there.
            (Err(ImportError::Cancelled), Err(error)) => Err(error),
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(tally), Ok(sent)) => Ok((tally, sent)),
        }
    }

    /// Writes what was sent into the ledger, one row a table: `finish` trusts nothing else.
    async fn record(&self, tally: Tally, sent: &Sent) -> Result<Manifest, ImportError> {
        let failed = |source| ImportError::database("recording what was loaded", source);
        let mut tx = self.pool.begin().await.map_err(failed)?;
        let mut by_table: BTreeMap<&str, (BatchStats, Vec<&str>)> = BTreeMap::new();
        for ((table, statement), stats) in sent {
            let entry = by_table.entry(table).or_default();
            entry.0 += stats;
            entry.1.push(statement);
        }
        let mut chunks = Vec::new();
        for table in &tally.tables {
            let Some((stats, statements)) = by_table.get(table.name.as_str()) else { continue };
            let ordinal = i32::try_from(chunks.len()).unwrap_or(i32::MAX);
            // Rows that came in different shapes cannot be read back in one.
            let statement = if let [one] = statements[..] { one } else { "" };
            sqlx::query(
                "-- record_loaded_table
                 INSERT INTO relevo_ledger.import_chunk
                     (import_id, ordinal, table_name, state, fence_incarnation, fence_job_id,
                      fence_epoch, rows, checksum, body_crc32, statement, stats, done_at)
                 VALUES ($1, $2, $3, 'done', 0, 0, 0, $4, $5, 0, $6, $7, clock_timestamp())",
            )
            .bind(self.id.as_str())
            .bind(ordinal)
            .bind(&table.name)
            .bind(i64::try_from(stats.rows).unwrap_or(i64::MAX))
            .bind(stats.checksum.to_string())
            .bind(statement)
            .bind(ledger::write(self.id, "statistics", stats)?)
            .execute(&mut *tx)
            .await
            .map_err(failed)?;
            chunks.push(ChunkEntry {
                ordinal,
                table: table.name.clone(),
                rows: stats.rows,
                body_bytes: table.rows_bytes,
                body_crc32: 0,
            });
        }
        tx.commit().await.map_err(failed)?;
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
            chunks,
            summary: tally.summary,
            skipped: tally.skipped,
            warnings: tally.warnings,
        })
    }
}
