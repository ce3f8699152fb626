//! The whole import in one transaction on one connection: into new tables, without staging schema
//! and without ledger. Slower than [`crate::import_file`], and for roles that may make tables and
//! no schemas.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use relevo_mysqldump::{BatchStats, RowEncoder, SkippedObject, TableDef, ddl};
use relevo_pg::copy::CopyIn;
use relevo_pg::{PgError, PoolOptions, Session, connect, ident};
use sqlx::{AssertSqlSafe, Executor as _, PgPool};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::batch::{Batch, Known, Lanes};
use crate::certificate::{Certificate, TableCertificate};
use crate::error::ImportError;
use crate::identity::ImportId;
use crate::options::{DirectOptions, ImportOptions};
use crate::plan;
use crate::progress::{ImportProgress, Phase, ProgressEvent, each_once};
use crate::resume::new_id;
use crate::scan::{Found, ScanOptions, Tally, scan};

/// The longest a single statement may take.
const STATEMENT_LIMIT: Duration = Duration::from_secs(6 * 3600);
/// How long a COMMIT whose answer was lost is waited for, and how often it is asked about.
const COMMIT_WAIT: Duration = Duration::from_secs(60);
const COMMIT_POLL: Duration = Duration::from_millis(100);

/// Imports a dump into new tables in one transaction.
///
/// Of the options, those of the cutover, of connections and of rows set aside do not count.
///
/// # Errors
/// As in [`ImportError`]; the target is as it was then. [`ImportError::TablePresent`] when a table
/// of the dump is there already.
pub async fn import_in_one_transaction(
    input: impl Read + Send + 'static,
    options: DirectOptions,
    progress: Arc<dyn ImportProgress>,
) -> Result<Certificate, ImportError> {
    progress.report(ProgressEvent::Phase(Phase::Prepare));
    let pool_options = PoolOptions::named("relevo import").max_connections(2);
    let pool = connect(&options.target_url, pool_options).await?;
    let id = new_id(&pool).await?;
    // The transaction may wait for a slow input; a client that is gone ends it all the same.
    let settings = [("idle_in_transaction_session_timeout", "0")];
    let session = Session::open(&pool, &id.program(), &settings).await?;
    let single = Single {
        pool: &pool,
        session,
        id,
        options: &options,
        import: &options.import,
        progress: &progress,
        sent: BTreeMap::new(),
        notices: Vec::new(),
        rows: 0,
        size_bytes: 0,
    };
    let outcome = single.run(input).await;
    pool.close().await;
    outcome
}

/// Asks for a table between two COPYs.
type Asked = (Arc<TableDef>, oneshot::Sender<()>);

/// What comes next from the reader.
enum Next {
    Asked(Asked),
    Rows(Batch),
    End,
}

struct Single<'a> {
    pool: &'a PgPool,
    session: Session,
    id: ImportId,
    options: &'a DirectOptions,
    import: &'a ImportOptions,
    progress: &'a Arc<dyn ImportProgress>,
    /// What the server took, by table.
    sent: BTreeMap<String, BatchStats>,
    notices: Vec<String>,
    rows: u64,
    size_bytes: u64,
}

impl Single<'_> {
    async fn run(mut self, input: impl Read + Send + 'static) -> Result<Certificate, ImportError> {
        self.execute("begin", "BEGIN").await?;
        let started_at = self.clock().await?;
        let schema = ident::quote(&self.import.schema);
        let present = format!("SELECT to_regnamespace({}) IS NOT NULL", ident::literal(&schema));
        let present: bool = self.ask(&present).await?;
        if !present {
            self.execute("create_schema", &format!("CREATE SCHEMA {schema}")).await?;
        }
        self.progress.report(ProgressEvent::Phase(Phase::Load));
        let tally = self.load(input).await?;
        self.progress.report(ProgressEvent::Phase(Phase::Index));
        let definitions: Vec<TableDef> =
            tally.tables.iter().map(|table| (*table.definition).clone()).collect();
        let filtered = self.build(&definitions).await?;
        let left = self.make_objects(&tally, &definitions).await?;
        self.progress.report(ProgressEvent::Phase(Phase::Verify));
        let remarks = plan::differing(self.session.connection(), &self.import.schema).await?;
        self.notices.extend(remarks);
        let tables = self.verify(&tally, &filtered).await?;
        let finished_at = self.clock().await?;
        self.commit().await?;
        self.session.close().await;
        let warnings = tally.warnings.into_iter().map(|warning| warning.message);
        Ok(Certificate {
            import: self.id,
            schema: self.import.schema.clone(),
            previous_schema: None,
            started_at,
            finished_at,
            duration_ms: u64::try_from((finished_at - started_at).num_milliseconds()).unwrap_or(0),
            phases: Vec::new(),
            verify: crate::options::Verify::Rows,
            rows: tables.iter().map(|table| table.rows_dump).sum(),
            tables,
            dump: tally.summary,
            views_new: Vec::new(),
            skipped: left,
            notices: each_once(self.notices.into_iter().chain(warnings)),
        })
    }

    /// Runs one statement; ends it when the import is cancelled.
    async fn execute(&mut self, name: &str, sql: &str) -> Result<u64, ImportError> {
        let what = name.replace('_', " ");
        let sql = format!("-- {name}\n{sql}");
        let killer = self.session.killer();
        let connection = self.session.connection();
        let work = async { connection.execute(AssertSqlSafe(sql)).await };
        let done = killer.guard(&what, STATEMENT_LIMIT, &self.options.cancel, work).await?;
        Ok(done.rows_affected())
    }

    /// Takes out the rows for which a condition is not true. Prepared: the condition cannot become
    /// a second statement.
    async fn filter(&mut self, table: &str, condition: &str) -> Result<u64, ImportError> {
        let sql = plan::filter_sql(&self.import.schema, table, condition);
        let killer = self.session.killer();
        let work = sqlx::query(AssertSqlSafe(sql)).execute(self.session.connection());
        let what = format!("filtering the rows of {table}");
        let done = killer.guard(&what, STATEMENT_LIMIT, &self.options.cancel, work).await?;
        Ok(done.rows_affected())
    }

    async fn ask<T>(&mut self, sql: &str) -> Result<T, ImportError>
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        sqlx::query_scalar(AssertSqlSafe(format!("-- ask\n{sql}")))
            .fetch_one(self.session.connection())
            .await
            .map_err(|source| ImportError::database("asking the target", source))
    }

    async fn clock(&mut self) -> Result<DateTime<Utc>, ImportError> {
        self.ask("SELECT clock_timestamp()").await
    }

    /// Reads the dump on one thread and makes and fills its tables as they come.
    async fn load(&mut self, input: impl Read + Send + 'static) -> Result<Tally, ImportError> {
        let stop = self.options.cancel.child_token();
        let _stop_on_drop = stop.clone().drop_guard();
        let (mut lanes, feeder) = Lanes::new(1, Known::default());
        let (ask, mut asked) = mpsc::channel::<Asked>(1);
        let reader = {
            let (import, progress) = (self.import.clone(), Arc::clone(self.progress));
            let stop = stop.clone();
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
                let create = |table| {
                    // Nobody answers any more: the connection's own error says why.
                    let (answer, answered) = oneshot::channel();
                    ask.blocking_send((table, answer)).map_err(|_| ImportError::Cancelled)?;
                    answered.blocking_recv().map_err(|_| ImportError::Cancelled)
                };
                let tally = scan(input, &options, &*progress, &mut |found| {
                    if stop.is_cancelled() {
                        return Err(ImportError::Cancelled);
                    }
                    match found {
                        Found::Rows(batch) => feeder.push(batch),
                        Found::Table(table) => create(Arc::clone(table)),
                    }
                })?;
                feeder.finish()?;
                Ok(tally)
            })
        };
        let copied = self.take_all(&mut lanes, &mut asked, &stop).await;
        // The reader stops at its next batch.
        drop((lanes, asked));
        if copied.is_err() {
            stop.cancel();
        }
        let read = reader.await.map_err(|_| ImportError::Crashed { what: "reading the dump" })?;
        match (read, copied) {
            (Err(ImportError::Cancelled), Err(error)) => Err(error),
            (Err(error), _) | (_, Err(error)) => Err(error),
            (Ok(tally), Ok(())) => Ok(tally),
        }
    }

    async fn take_all(
        &mut self,
        lanes: &mut Lanes,
        asked: &mut mpsc::Receiver<Asked>,
        stop: &CancellationToken,
    ) -> Result<(), ImportError> {
        let mut next = receive(lanes, asked).await;
        loop {
            next = match next {
                Next::End => return Ok(()),
                Next::Asked((table, answer)) => {
                    self.create(&table).await?;
                    // A reader that is gone has an error of its own.
                    let _ = answer.send(());
                    receive(lanes, asked).await
                }
                Next::Rows(batch) => self.copy(batch, lanes, asked, stop).await?,
            };
        }
    }

    async fn create(&mut self, table: &TableDef) -> Result<(), ImportError> {
        let made = ddl::create_table(table, &self.import.schema, &self.import.translate);
        let name = ident::quote_qualified(&self.import.schema, &made.table);
        let present = format!("SELECT to_regclass({}) IS NOT NULL", ident::literal(&name));
        if self.ask(&present).await? {
            return Err(ImportError::TablePresent { table: name });
        }
        let note = |note: &ddl::Note| format!("{}: {}", note.table, note.message);
        self.notices.extend(made.notes.iter().map(note));
        self.execute("create_table", &made.sql).await.map(|_| ())
    }

    /// Copies a batch and those of its kind that follow.
    async fn copy(
        &mut self,
        first: Batch,
        lanes: &mut Lanes,
        asked: &mut mpsc::Receiver<Asked>,
        stop: &CancellationToken,
    ) -> Result<Next, ImportError> {
        let (table, insert) = (Arc::clone(&first.table), Arc::clone(&first.insert));
        let name = ddl::table_name(&table);
        let mut encoder = RowEncoder::new(&table, &insert, &self.import.translate)?;
        let statement = encoder.copy_statement(&self.import.schema);
        let what = format!("copying into {name}");
        let idle_limit = self.options.copy_timeout;
        let mut copy =
            CopyIn::begin(&mut self.session, &statement, what, idle_limit, stop.clone()).await?;
        let mut stats = BatchStats::default();
        let mut text = Vec::new();
        let mut batch = first;
        let next = loop {
            let spare = Arc::clone(&lanes.spare);
            let work = move || {
                let part = batch.encode(&mut encoder, &mut text, &spare)?;
                Ok::<_, ImportError>((encoder, text, part))
            };
            let encoded = tokio::task::spawn_blocking(work).await;
            let part;
            (encoder, text, part) =
                encoded.map_err(|_| ImportError::Crashed { what: "encoding rows" })??;
            copy.send(&text).await?;
            stats += &part;
            self.rows += part.rows;
            self.size_bytes += part.bytes_out;
            let (rows, size_bytes) = (self.rows, self.size_bytes);
            self.progress.report(ProgressEvent::Loaded { table: &name, rows, size_bytes });
            match receive(lanes, asked).await {
                Next::Rows(more) if more.continues(&table, &insert) => batch = more,
                other => break other,
            }
        };
        let taken = copy.finish().await?;
        if taken != stats.rows {
            let (rows_dump, rows_target) = (stats.rows, taken);
            return Err(ImportError::RowsDiffer { table: name, rows_dump, rows_target });
        }
        *self.sent.entry(name).or_default() += &stats;
        Ok(next)
    }

    /// Filters, keys, indexes and the rest; returns how many rows the conditions took out.
    async fn build(
        &mut self,
        definitions: &[TableDef],
    ) -> Result<BTreeMap<String, u64>, ImportError> {
        let import = self.import;
        let names: Vec<String> = definitions.iter().map(ddl::table_name).collect();
        if let Some(table) = import.filters.keys().find(|table| !names.contains(table)) {
            return Err(ImportError::Filter { table: table.clone() });
        }
        let plan = ddl::post_load(definitions, &import.schema, &import.translate);
        let note = |note: &ddl::Note| format!("{}.{}: {}", note.table, note.object, note.message);
        self.notices.extend(plan.notes.iter().map(note));
        let (types, rest): (Vec<_>, Vec<_>) =
            plan.statements.into_iter().partition(|part| part.phase == ddl::Phase::Type);
        for part in types {
            self.make(&part).await?;
        }
        let mut filtered = BTreeMap::new();
        for (table, condition) in &import.filters {
            filtered.insert(table.clone(), self.filter(table, condition).await?);
        }
        for part in rest {
            self.make(&part).await?;
        }
        for definition in definitions {
            if let Some(sql) = ddl::identity_setval(definition, &import.schema, &import.translate) {
                self.execute("set_next_identity", &sql).await?;
            }
        }
        for name in names {
            let name = ident::quote_qualified(&import.schema, &name);
            self.execute("analyze", &format!("ANALYZE {name}")).await?;
        }
        Ok(filtered)
    }

    async fn make(&mut self, part: &ddl::PostLoad) -> Result<(), ImportError> {
        match self.execute("build", &part.sql).await {
            Err(ImportError::Target(PgError::Database { source, .. })) => Err(ImportError::Build {
                table: part.table.clone(),
                name: part.name.clone(),
                source,
            }),
            made => made.map(|_| ()),
        }
    }

    /// Views and sequences, each by itself: one that the server refuses is left and named.
    async fn make_objects(
        &mut self,
        tally: &Tally,
        definitions: &[TableDef],
    ) -> Result<Vec<SkippedObject>, ImportError> {
        let import = self.import;
        let whole = import.selection.is_all();
        let (wanted, mut left): (Vec<_>, Vec<_>) =
            tally.skipped.iter().cloned().partition(|object| {
                whole && (import.database.is_none() || import.database == object.database)
            });
        let made = ddl::objects(&wanted, definitions, &import.schema, &import.translate);
        left.extend(made.left);
        for object in made.statements {
            self.execute("try_object", "SAVEPOINT object").await?;
            match self.execute("make_object", &object.sql).await {
                Ok(_) => self.execute("try_object", "RELEASE SAVEPOINT object").await?,
                Err(error) if error.is_transient() => return Err(error),
                Err(error @ ImportError::Target(PgError::Cancelled { .. })) => return Err(error),
                Err(error) => {
                    let undo = "ROLLBACK TO SAVEPOINT object; RELEASE SAVEPOINT object";
                    let undone = self.execute("leave_object", undo).await?;
                    self.notices.push(format!("{} is not made: {}", object.name, error.chain()));
                    left.extend(
                        wanted
                            .iter()
                            .find(|one| one.kind == object.kind && one.name == object.name)
                            .cloned(),
                    );
                    undone
                }
            };
        }
        Ok(left)
    }

    /// Rows per table in the dump = rows sent = rows in the target.
    async fn verify(
        &mut self,
        tally: &Tally,
        filtered: &BTreeMap<String, u64>,
    ) -> Result<Vec<TableCertificate>, ImportError> {
        let mut tables = Vec::with_capacity(tally.tables.len());
        for table in &tally.tables {
            let name = ident::quote_qualified(&self.import.schema, &table.name);
            let counted: i64 = self.ask(&format!("SELECT count(*) FROM {name}")).await?;
            let stats = self.sent.remove(&table.name).unwrap_or_default();
            let rows_filtered = filtered.get(&table.name).copied();
            let rows_target = counted.unsigned_abs();
            if stats.rows != table.rows
                || rows_target + rows_filtered.unwrap_or_default() != table.rows
            {
                return Err(ImportError::RowsDiffer {
                    table: table.name.clone(),
                    rows_dump: table.rows,
                    rows_target,
                });
            }
            tables.push(TableCertificate {
                table: table.name.clone(),
                rows_dump: table.rows,
                rows_recounted: table.rows_recounted,
                rows_filtered,
                rows_quarantined: None,
                rows_target,
                rows_before: None,
                checksum_dump: stats.checksum,
                checksum_target: None,
                changes: None,
                stats,
            });
        }
        Ok(tables)
    }

    /// Commits. Should the answer be lost, the server knows what became of the transaction.
    async fn commit(&mut self) -> Result<(), ImportError> {
        let transaction: i64 = self.ask("SELECT txid_current()").await?;
        let Err(error) = self.execute("commit", "COMMIT").await else { return Ok(()) };
        match self.committed(transaction).await {
            Some(true) => Ok(()),
            Some(false) => Err(error),
            None => Err(ImportError::CutoverUndecided(Box::new(error))),
        }
    }

    /// Whether a transaction was committed; waits, bounded, for one that is still at it. `None` when
    /// the server cannot be asked, or does not end it.
    async fn committed(&self, transaction: i64) -> Option<bool> {
        let asked = tokio::time::timeout(COMMIT_WAIT, async {
            loop {
                let status: Option<String> =
                    sqlx::query_scalar("-- find_committed\nSELECT txid_status($1)")
                        .bind(transaction)
                        .fetch_one(self.pool)
                        .await
                        .ok()?;
                match status.as_deref() {
                    Some("committed") => return Some(true),
                    Some("aborted") => return Some(false),
                    // Long forgotten, or none of this server's.
                    None => return None,
                    Some(_) => tokio::time::sleep(COMMIT_POLL).await,
                }
            }
        });
        asked.await.ok().flatten()
    }
}

/// What the reader asks for goes first: it waits for the answer.
async fn receive(lanes: &mut Lanes, asked: &mut mpsc::Receiver<Asked>) -> Next {
    tokio::select! {
        biased;
        Some(table) = asked.recv() => Next::Asked(table),
        Some(batch) = lanes.batches.recv() => Next::Rows(batch),
        else => Next::End,
    }
}
