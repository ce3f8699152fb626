//! Row batches from one reader to several COPY connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use relevo_mysqldump::{
    BatchStats, InsertHeader, RowBatch, RowEncoder, TableDef, TranslateOptions, ddl,
};
use relevo_pg::Session;
use relevo_pg::copy::CopyIn;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::error::ImportError;
use crate::identity::ImportId;
use crate::progress::{ImportProgress, ProgressEvent};

/// A batch is handed on once it holds this many bytes of rows.
const BATCH_BYTES: usize = 1024 * 1024;

/// What was copied, by table and COPY statement.
pub(crate) type Sent = BTreeMap<(String, String), BatchStats>;

/// Whole rows of one INSERT header.
struct Batch {
    table: Arc<TableDef>,
    insert: Arc<InsertHeader>,
    /// Where its first row starts in the unpacked dump.
    offset: u64,
    bytes: Vec<u8>,
}

impl Batch {
    fn continues(&self, table: &Arc<TableDef>, insert: &Arc<InsertHeader>) -> bool {
        let same_table = Arc::ptr_eq(&self.table, table) || self.table == *table;
        same_table && (Arc::ptr_eq(&self.insert, insert) || self.insert == *insert)
    }
}

/// Emptied buffers, on their way back to the reader.
type Spare = Arc<Mutex<Vec<Vec<u8>>>>;

/// The connections' end.
pub(crate) struct Lanes {
    jobs: usize,
    batches: mpsc::Receiver<Batch>,
    spare: Spare,
}

/// The reader's end.
pub(crate) struct Feeder {
    open: Option<Batch>,
    batches: mpsc::Sender<Batch>,
    spare: Spare,
}

impl Lanes {
    /// Both ends; about one batch per connection waits in between.
    pub(crate) fn new(jobs: usize) -> (Self, Feeder) {
        let (sender, batches) = mpsc::channel(jobs);
        let spare = Spare::default();
        let feeder = Feeder { open: None, batches: sender, spare: Arc::clone(&spare) };
        (Self { jobs, batches, spare }, feeder)
    }
}

impl Feeder {
    /// Takes rows, and hands a batch on when it is full. Blocks while all connections are busy.
    pub(crate) fn push(&mut self, rows: RowBatch<'_>) -> Result<(), ImportError> {
        let fits = self.open.as_ref().is_some_and(|open| {
            open.continues(&rows.table, &rows.insert)
                && open.bytes.len() + rows.bytes.len() < open.bytes.capacity().max(BATCH_BYTES)
        });
        if !fits {
            self.hand_on()?;
        }
        match &mut self.open {
            Some(open) => {
                open.bytes.push(b',');
                open.bytes.extend_from_slice(rows.bytes);
            }
            None => {
                let mut bytes = lock(&self.spare).pop().unwrap_or_default();
                bytes.extend_from_slice(rows.bytes);
                let RowBatch { table, insert, offset, .. } = rows;
                self.open = Some(Batch { table, insert, offset, bytes });
            }
        }
        if self.open.as_ref().is_some_and(|open| open.bytes.len() >= BATCH_BYTES * 3 / 4) {
            self.hand_on()?;
        }
        Ok(())
    }

    /// Hands the last batch on.
    pub(crate) fn finish(mut self) -> Result<(), ImportError> {
        self.hand_on()
    }

    fn hand_on(&mut self) -> Result<(), ImportError> {
        let Some(batch) = self.open.take() else { return Ok(()) };
        // Nobody takes them any more: the connections' own error says why.
        self.batches.blocking_send(batch).map_err(|_| ImportError::Cancelled)
    }
}

fn lock(spare: &Spare) -> std::sync::MutexGuard<'_, Vec<Vec<u8>>> {
    // A panic while it was held can only have left whole buffers behind.
    spare.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What the connections share.
struct Shared {
    pool: PgPool,
    id: ImportId,
    translate: TranslateOptions,
    idle_limit: Duration,
    stop: CancellationToken,
    progress: Arc<dyn ImportProgress>,
    batches: tokio::sync::Mutex<mpsc::Receiver<Batch>>,
    spare: Spare,
    rows: AtomicU64,
    size_bytes: AtomicU64,
}

/// Copies everything that comes through the lanes into the staging schema, and returns what was
/// copied: for each COPY, the rows sent are the rows that the server says it took.
pub(crate) async fn copy_lanes(
    lanes: Lanes,
    pool: &PgPool,
    id: &ImportId,
    translate: &TranslateOptions,
    idle_limit: Duration,
    stop: &CancellationToken,
    progress: &Arc<dyn ImportProgress>,
) -> Result<Sent, ImportError> {
    let shared = Arc::new(Shared {
        pool: pool.clone(),
        id: id.clone(),
        translate: translate.clone(),
        idle_limit,
        stop: stop.clone(),
        progress: Arc::clone(progress),
        batches: tokio::sync::Mutex::new(lanes.batches),
        spare: lanes.spare,
        rows: AtomicU64::new(0),
        size_bytes: AtomicU64::new(0),
    });
    // A set: dropping it, with this future, ends the connections.
    let mut connections = JoinSet::new();
    for _ in 0..lanes.jobs {
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let outcome = shared.copy_all().await;
            if outcome.is_err() {
                // The reader stops at its next batch, the other connections at once.
                shared.stop.cancel();
                shared.batches.lock().await.close();
            }
            outcome
        });
    }
    drop(shared);
    let mut sent = Sent::new();
    let mut first_error = None;
    while let Some(outcome) = connections.join_next().await {
        match outcome.map_err(|_| ImportError::Crashed { what: "copying rows" }).flatten() {
            Ok(part) => {
                for (key, stats) in part {
                    *sent.entry(key).or_default() += &stats;
                }
            }
            Err(error) => {
                let known = matches!(
                    first_error,
                    Some(ref known) if !is_cancel(known)
                );
                if !known {
                    first_error = Some(error);
                }
            }
        }
    }
    match first_error {
        Some(error) if is_cancel(&error) => Err(ImportError::Cancelled),
        Some(error) => Err(error),
        None => Ok(sent),
    }
}

fn is_cancel(error: &ImportError) -> bool {
    use relevo_pg::PgError;
    matches!(error, ImportError::Cancelled | ImportError::Target(PgError::Cancelled { .. }))
}

impl Shared {
    async fn receive(&self) -> Option<Batch> {
        let mut batches = self.batches.lock().await;
        tokio::select! {
            () = self.stop.cancelled() => None,
            batch = batches.recv() => batch,
        }
    }

    /// One connection's share. A COPY stays open for as long as batches of one kind follow one
    /// another.
    async fn copy_all(&self) -> Result<Sent, ImportError> {
        let name = format!("{} load", self.id.program());
        let mut session =
            Session::open(&self.pool, &name, &[("synchronous_commit", "off")]).await?;
        let mut sent = Sent::new();
        let mut text = Vec::with_capacity(BATCH_BYTES + BATCH_BYTES / 2);
        let mut next = self.receive().await;
        while let Some(first) = next.take() {
            let table = ddl::table_name(&first.table);
            let mut encoder = RowEncoder::new(&first.table, &first.insert, &self.translate)?;
            let statement = encoder.copy_statement(&self.id.staging_schema());
            let what = format!("copying into {table}");
            let mut copy =
                CopyIn::begin(&mut session, &statement, what, self.idle_limit, self.stop.clone())
                    .await?;
            let mut stats = BatchStats::default();
            let mut batch = first;
            loop {
                text.clear();
                let part = encoder
                    .encode(&batch.bytes, &mut text)
                    .map_err(|source| ImportError::Row { batch_offset: batch.offset, source })?;
                copy.send(&text).await?;
                self.report(&table, &part);
                stats += &part;
                let (kind, insert) = (batch.table, batch.insert);
                batch.bytes.clear();
                lock(&self.spare).push(batch.bytes);
                match self.receive().await {
                    Some(following) if following.continues(&kind, &insert) => batch = following,
                    other => {
                        next = other;
                        break;
                    }
                }
            }
            let taken = copy.finish().await?;
            if taken != stats.rows {
                return Err(ImportError::RowsDiffer {
                    table,
                    rows_dump: stats.rows,
                    rows_target: taken,
                });
            }
            *sent.entry((table, statement)).or_default() += &stats;
        }
        if self.stop.is_cancelled() {
            return Err(ImportError::Cancelled);
        }
        session.close().await;
        Ok(sent)
    }

    fn report(&self, table: &str, part: &BatchStats) {
        let rows = self.rows.fetch_add(part.rows, Ordering::Relaxed) + part.rows;
        let size_bytes =
            self.size_bytes.fetch_add(part.bytes_out, Ordering::Relaxed) + part.bytes_out;
        self.progress.report(ProgressEvent::Loaded { table, rows, size_bytes });
    }
}
