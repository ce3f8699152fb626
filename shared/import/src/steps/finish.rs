//! Everything after the load, up to the certificate.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use relevo_mysqldump::BatchStats;
use relevo_pg::cutover::{
    CutoverError, Exchange, Merge, exchange, merge, open_transactions, wait_for_transactions,
};
use relevo_pg::{PgError, Session, session};
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use super::begin::make_target_schema;
use super::clean::clean;
use super::clock::Clock;
use super::golive::GoLive;
use super::merging;
use super::objects::Objects;
use crate::build::{Builder, Counted};
use crate::certificate::{Certificate, PhaseDuration};
use crate::error::ImportError;
use crate::guard::{self, RowsBefore};
use crate::identity::{Fence, ImportId, previous_schema};
use crate::ledger;
use crate::manifest::Manifest;
use crate::options::{ImportOptions, OldSnapshots};
use crate::plan::{self, Plan};
use crate::precheck;
use crate::progress::{ImportProgress, Phase, ProgressEvent};

/// Builds indexes, keys and the rest, compares what is loaded with the dump, and puts the new
/// tables into the place of the present ones. Trusts the target's ledger alone. Run again after a
/// kill it goes on where the last one stopped; for a live import it clears up what is left and
/// returns the certificate.
///
/// # Errors
/// [`ImportError::MissingChunks`] first of all; then the guard, the verification, violated keys,
/// whatever stands in the cutover's way. [`ImportError::readers`] tells whether the cutover had
/// happened.
pub async fn finish(
    pool: &PgPool,
    id: &ImportId,
    fence: Fence,
    progress: &dyn ImportProgress,
    cancel: &CancellationToken,
) -> Result<Certificate, ImportError> {
    finish_after(pool, id, fence, progress, cancel, Vec::new()).await
}

/// As [`finish`], with the durations of phases that the same process went through before.
pub(crate) async fn finish_after(
    pool: &PgPool,
    id: &ImportId,
    fence: Fence,
    progress: &dyn ImportProgress,
    cancel: &CancellationToken,
    phases: Vec<PhaseDuration>,
) -> Result<Certificate, ImportError> {
    let mut connection = ledger::acquire(pool).await?;
    ledger::ensure(&mut connection).await?;
    drop(connection);
    let row = ledger::take_over(pool, id, fence).await?;
    let options = row.options(id)?;
    if row.state != ledger::state::LIVE {
        let manifest =
            row.manifest.clone().ok_or_else(|| ImportError::NotSealed { id: id.to_string() })?;
        let manifest: Manifest = ledger::read(id, "manifest", manifest)?;
        let clock = Clock::new(progress, phases);
        let mut finish = Finish {
            pool,
            id,
            fence,
            options: &options,
            manifest: &manifest,
            begun_at: row.begun_at,
            progress,
            cancel,
            clock,
            notices: Vec::new(),
            merged: BTreeSet::new(),
            filtered: BTreeMap::new(),
            objects: Objects::default(),
        };
        finish.run().await?;
    }
    progress.report(ProgressEvent::Phase(Phase::Clean));
    let cleaned = async {
        match clean(pool, id, &options, progress, cancel).await {
            // Nothing that is wrong for good here makes the new data any less live.
            Err(error) if !error.is_transient() => {
                let notice = format!("clearing up after the cutover failed: {}", error.chain());
                progress.report(ProgressEvent::Notice(&notice));
            }
            cleaned => cleaned?,
        }
        let certificate = super::certificate(pool, id).await?;
        certificate.ok_or_else(|| ImportError::Unknown { id: id.to_string() })
    };
    cleaned.await.map_err(|error| ImportError::AfterCutover(Box::new(error)))
}

/// What the ledger says was loaded into one table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Loaded {
    pub(crate) stats: BatchStats,
    /// Rows that were refused and set aside.
    pub(crate) quarantined: u64,
    /// The COPY that all of its rows came with; `None` when they differ.
    pub(crate) statement: Option<String>,
}

/// One finish at work.
pub(super) struct Finish<'a> {
    pub(super) pool: &'a PgPool,
    pub(super) id: &'a ImportId,
    pub(super) fence: Fence,
    pub(super) options: &'a ImportOptions,
    pub(super) manifest: &'a Manifest,
    pub(super) begun_at: DateTime<Utc>,
    progress: &'a dyn ImportProgress,
    cancel: &'a CancellationToken,
    pub(super) clock: Clock<'a>,
    pub(super) notices: Vec<String>,
    /// Present tables whose rows are changed in place; none where tables are exchanged.
    merged: BTreeSet<String>,
    /// Rows that conditions of the user took out, by table.
    pub(super) filtered: BTreeMap<String, u64>,
    /// The dump's views and sequences.
    pub(super) objects: Objects,
}

impl Finish<'_> {
    async fn run(&mut self) -> Result<(), ImportError> {
        self.check_filters()?;
        self.clock.enter(Phase::Verify);
        let loaded = self.loaded_tables().await?;
        let name = format!("{} finish", self.id.program());
        let mut session = Session::open(self.pool, &name, &[]).await?;
        let before = self.guard(session.connection()).await?;

        // Whoever still writes into the staging schema is stale: every chunk is committed.
        let staging = self.id.staging_schema();
        session::end_holders(session.connection(), &staging, &self.id.program()).await?;
        // From here on every new snapshot sees all rows.
        let older = open_transactions(session.connection()).await?;

        if self.options.cutover.mode.is_in_place() {
            self.merged =
                merging::present_tables(session.connection(), self.options, self.manifest).await?;
        }
        let exchange = self.exchange();
        precheck::check(session.connection(), &exchange, self.cancel).await?;
        let own_indexes = if self.merged.is_empty() {
            precheck::own_indexes(session.connection(), self.id, self.options, self.manifest)
                .await?
        } else {
            Vec::new()
        };

        self.clock.enter(Phase::Index);
        let (id, merged) = (self.id, &self.merged);
        let plan = plan::make(id, self.options, self.manifest, &loaded, &own_indexes, merged);
        if !self.merged.is_empty() {
            self.check_merge(&mut session, &plan).await?;
        }
        let counted = self.build(&plan).await?;
        self.notices.extend(plan.notices.iter().cloned());
        self.notices.extend(plan::differing(session.connection(), &staging).await?);
        self.filtered = self.filtered_rows(session.connection()).await?;
        for (table, loaded) in loaded.iter().filter(|(_, loaded)| loaded.quarantined > 0) {
            let rows = loaded.quarantined;
            self.notice(format!(
                "{table}: {rows} row(s) were refused and set aside: they are missing"
            ));
        }
        self.compare(&loaded, &counted)?;
        self.objects = self.plan_objects(session.connection()).await?;
        let exchange = self.exchange();

        // In place, rows are not taken from under anybody's snapshot.
        if self.merged.is_empty() {
            self.clock.enter(Phase::Wait);
            self.wait_for(&mut session, older).await?;
        }

        self.clock.enter(Phase::Cutover);
        // Another import that made it may have failed since, and taken it away.
        make_target_schema(session.connection(), self.id, &self.options.schema).await?;
        self.cut_over(&mut session, &exchange, &loaded, &counted, &before).await?;
        session.close().await;
        Ok(())
    }

    /// What the ledger says was loaded, by table, if it is exactly what the manifest says.
    async fn loaded_tables(&self) -> Result<BTreeMap<String, Loaded>, ImportError> {
        let missing = super::missing_chunks(self.pool, self.id).await?;
        if !missing.is_empty() {
            return Err(ImportError::MissingChunks { ordinals: missing });
        }
        let chunks: Vec<(i32, String, i64, String, sqlx::types::JsonValue, i64)> = sqlx::query_as(
            "-- list_loaded_chunks
             SELECT ordinal, table_name, body_crc32, statement, stats, quarantined
             FROM relevo_ledger.import_chunk
             WHERE import_id = $1 AND state = 'done' ORDER BY ordinal",
        )
        .bind(self.id.as_str())
        .fetch_all(self.pool)
        .await
        .map_err(|source| ImportError::database("reading the chunks' ledger", source))?;
        let mut loaded: BTreeMap<String, Loaded> =
            self.manifest.tables.iter().map(|table| (table.name(), Loaded::default())).collect();
        for (place, chunk) in chunks.into_iter().enumerate() {
            let (ordinal, table, crc32, statement, stats, quarantined) = chunk;
            let entry = self.manifest.chunks.get(place).filter(|entry| {
                entry.ordinal == ordinal
                    && entry.table == table
                    && i64::from(entry.body_crc32) == crc32
            });
            let (Some(entry), Some(sum)) = (entry, loaded.get_mut(&table)) else {
                return Err(ImportError::OtherDump {
                    id: self.id.to_string(),
                    difference: format!("chunk {ordinal} was loaded from other bytes"),
                });
            };
            let stats: BatchStats = ledger::read(self.id, "statistics", stats)?;
            let quarantined = quarantined.unsigned_abs();
            if stats.rows + quarantined != entry.rows {
                return Err(ImportError::RowsDiffer {
                    table,
                    rows_dump: entry.rows,
                    rows_target: stats.rows + quarantined,
                });
            }
            let first = sum.stats.rows == 0;
            sum.statement = match sum.statement.take() {
                Some(known) if known == statement => Some(known),
                None if first => Some(statement),
                _ => None,
            };
            sum.stats += &stats;
            sum.quarantined += quarantined;
        }
        for table in &self.manifest.tables {
            let taken = |loaded: &Loaded| loaded.stats.rows + loaded.quarantined;
            let rows_target = loaded.get(&table.name()).map_or(0, taken);
            if rows_target != table.rows {
                return Err(ImportError::RowsDiffer {
                    table: table.name(),
                    rows_dump: table.rows,
                    rows_target,
                });
            }
        }
        Ok(loaded)
    }

    async fn guard(&mut self, connection: &mut PgConnection) -> Result<RowsBefore, ImportError> {
        let before =
            guard::rows_before(connection, self.id, &self.options.schema, self.manifest).await?;
        for finding in guard::check(self.options, self.manifest, &before)? {
            self.notice(format!("imported all the same, as forced: {finding}"));
        }
        Ok(before)
    }

    /// Every condition is for a table that there is.
    fn check_filters(&self) -> Result<(), ImportError> {
        let tables: BTreeSet<String> =
            self.manifest.tables.iter().map(|table| table.name()).collect();
        match self.options.filters.keys().find(|table| !tables.contains(*table)) {
            Some(table) => Err(ImportError::Filter { table: table.clone() }),
            None => Ok(()),
        }
    }

    /// What the conditions took out, by table, as the ledger has it.
    async fn filtered_rows(
        &self,
        connection: &mut PgConnection,
    ) -> Result<BTreeMap<String, u64>, ImportError> {
        let steps: Vec<(String, i64)> = sqlx::query_as(
            "-- list_filtered_rows
             SELECT substr(name, length($2) + 1), rows FROM relevo_ledger.import_step
             WHERE import_id = $1 AND starts_with(name, $2) AND rows IS NOT NULL",
        )
        .bind(self.id.as_str())
        .bind(plan::FILTER_STEP)
        .fetch_all(connection)
        .await
        .map_err(|source| ImportError::database("reading what was filtered", source))?;
        Ok(steps.into_iter().map(|(table, rows)| (table, rows.unsigned_abs())).collect())
    }

    fn notice(&mut self, notice: String) {
        self.progress.report(ProgressEvent::Notice(&notice));
        self.notices.push(notice);
    }

    fn exchange(&self) -> Exchange {
        Exchange {
            target: self.options.schema.clone(),
            staging: self.id.staging_schema(),
            // Of a merge nothing is kept; what goes is dropped with the rest.
            previous: if self.merged.is_empty() {
                previous_schema(&self.options.schema)
            } else {
                self.id.trash_schema()
            },
            trash: self.id.trash_schema(),
            tables: self
                .manifest
                .tables
                .iter()
                .map(|table| table.name())
                .filter(|table| !self.merged.contains(table))
                .collect(),
            retired: Vec::new(),
            views_aside: self.objects.views_aside.clone(),
            views_retired: Vec::new(),
            views_replaced: self.objects.views_replaced.clone(),
            first: Vec::new(),
            after_move: [
                plan::after_move(self.manifest, self.options, &self.merged),
                self.objects.after_move.clone(),
            ]
            .concat(),
        }
    }

    fn merge(&self) -> Merge {
        merging::merge_of(self.id, self.options, self.manifest, &self.merged, self.exchange())
    }

    /// The staged columns get their last types first: these are what is compared.
    async fn check_merge(&self, session: &mut Session, plan: &Plan) -> Result<(), ImportError> {
        let types = plan.tables.iter().filter(|task| task.is_type_of(&self.merged));
        self.builder().run(types.cloned().collect()).await?;
        merging::check(session.connection(), &self.merge()).await
    }

    fn builder(&self) -> Builder<'_> {
        Builder {
            pool: self.pool,
            id: self.id,
            fence: self.fence,
            jobs: self.options.finish_jobs,
            progress: self.progress,
            cancel: self.cancel,
        }
    }

    async fn build(&mut self, plan: &Plan) -> Result<Counted, ImportError> {
        let built = self.builder().run(plan.tables.clone()).await?;
        for notice in built.notices {
            self.progress.report(ProgressEvent::Notice(&notice));
            self.notices.push(notice);
        }
        self.clock.enter(Phase::Constrain);
        // Two keys between the same tables, made at once, would wait for each other.
        let mut builder = Builder { jobs: 1, ..self.builder() };
        builder.run(plan.keys.clone()).await?;
        builder.jobs = self.options.finish_jobs;
        match builder.run(plan.validations.clone()).await {
            Err(ImportError::Build { table, name, source })
                if relevo_pg::error::sqlstate(&source).as_deref() == Some("23503") =>
            {
                Err(precheck::broken_key(self.pool, self.id, table, name, source).await)
            }
            outcome => outcome,
        }?;
        Ok(built.counted)
    }

    /// Rows per table in the dump = rows in the target, and the values if they were read back.
    fn compare(
        &self,
        loaded: &BTreeMap<String, Loaded>,
        counted: &Counted,
    ) -> Result<(), ImportError> {
        for table in &self.manifest.tables {
            let name = table.name();
            let (rows_target, checksum) = counted.get(&name).copied().unwrap_or_default();
            let quarantined = loaded.get(&name).map_or(0, |loaded| loaded.quarantined);
            let missing = quarantined + self.filtered.get(&name).copied().unwrap_or_default();
            let wanted = table.rows - missing.min(table.rows);
            if rows_target != wanted {
                return Err(ImportError::RowsDiffer {
                    table: name,
                    rows_dump: wanted,
                    rows_target,
                });
            }
            let sent = loaded.get(&name).map(|loaded| loaded.stats.checksum).unwrap_or_default();
            if let Some(checksum_target) = checksum.filter(|checksum| *checksum != sent) {
                return Err(ImportError::ValuesDiffer {
                    table: name,
                    checksum_dump: sent.to_string(),
                    checksum_target: checksum_target.to_string(),
                });
            }
        }
        Ok(())
    }

    /// A transaction older than the load that reads by name after the cutover would find the new
    /// tables empty.
    async fn wait_for(
        &mut self,
        session: &mut Session,
        older: Vec<relevo_pg::cutover::OldTransaction>,
    ) -> Result<(), ImportError> {
        let limits = &self.options.cutover;
        let limit = Duration::from_secs(limits.snapshot_wait_seconds);
        let left = wait_for_transactions(session.connection(), older, limit, self.cancel).await?;
        if self.cancel.is_cancelled() {
            return Err(ImportError::Cancelled);
        }
        if left.is_empty() {
            return Ok(());
        }
        let blockers: Vec<String> = left.into_iter().map(|old| old.description).collect();
        match limits.old_snapshots {
            OldSnapshots::Refuse => Err(CutoverError::OldSnapshots {
                waited_seconds: limits.snapshot_wait_seconds,
                blockers,
            }
            .into()),
            OldSnapshots::Proceed => {
                for blocker in blockers {
                    self.notice(format!(
                        "cut over although it began before the load, and may see empty tables: \
                         {blocker}"
                    ));
                }
                Ok(())
            }
        }
    }

    async fn cut_over(
        &mut self,
        session: &mut Session,
        tables: &Exchange,
        loaded: &BTreeMap<String, Loaded>,
        counted: &Counted,
        before: &RowsBefore,
    ) -> Result<(), ImportError> {
        let lock_wait = Duration::from_secs(self.options.cutover.lock_wait_seconds);
        let cancel = self.cancel;
        let outcome = {
            let mut finale = GoLive { finish: &*self, loaded, counted, before };
            if self.merged.is_empty() {
                exchange::<ImportError>(session, tables, lock_wait, cancel, &mut finale).await
            } else {
                let rows = self.merge();
                merge::<ImportError>(session, &rows, lock_wait, cancel, &mut finale).await
            }
        };
        match outcome {
            Ok(_) => Ok(()),
            Err(
                ImportError::Cutover(CutoverError::Cancelled)
                | ImportError::Target(PgError::Cancelled { .. }),
            ) => Err(ImportError::Cancelled),
            // Whether the COMMIT happened whose answer was lost, the ledger knows.
            Err(error) => match ledger::get_settled(self.pool, self.id).await {
                Ok(row) if row.state == ledger::state::LIVE => Ok(()),
                Ok(_) => Err(error),
                // A server that answered has rolled back; a lost connection tells nothing.
                Err(_) if error.is_transient() => {
                    Err(ImportError::CutoverUndecided(Box::new(error)))
                }
                Err(_) => Err(error),
            },
        }
    }
}
