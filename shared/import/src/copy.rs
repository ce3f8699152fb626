//! Row batches from one reader to several COPY connections, committed in pieces: the rows of a piece
//! and the ledger row that vouches for them are one transaction.

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt as _;
use relevo_mysqldump::{BatchStats, InsertHeader, RowEncoder, TableDef, TranslateOptions, ddl};
use relevo_pg::Session;
use relevo_pg::copy::CopyIn;
use sqlx::{Executor as _, PgPool};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::aside::{self, Allowance, Sorter};
use crate::batch::{Batch, Lanes, Spare};
use crate::error::ImportError;
use crate::identity::{Fence, ImportId};
use crate::pieces::{self, Piece};
use crate::progress::{ImportProgress, ProgressEvent};

/// What the rows of one COPY have in common.
type Kind = (Arc<TableDef>, Arc<InsertHeader>);

/// A batch as COPY text, and the encoder for more of its kind.
struct Encoded {
    kind: Kind,
    encoder: RowEncoder,
    text: Vec<u8>,
    part: BatchStats,
    number: i32,
    crc32: u32,
}

/// What is copied next.
enum Next {
    Batch(Batch),
    Ready(Box<Encoded>),
}

/// What comes after a batch.
enum Ahead {
    Ready(Box<Encoded>),
    /// Rows of another kind, or the end; and the buffer that is not needed for them.
    Other(Option<Batch>, Vec<u8>),
}

/// What a load is done with.
pub(crate) struct LoadOptions<'a> {
    pub(crate) translate: &'a TranslateOptions,
    /// A transaction is committed once it holds this many bytes of COPY text.
    pub(crate) commit_bytes: u64,
    /// Rows that may be set aside.
    pub(crate) allowance: Allowance,
    /// The ordinal of the first piece.
    pub(crate) first_ordinal: i32,
    pub(crate) fence: Fence,
    /// The longest silence of the target.
    pub(crate) idle_limit: Duration,
    pub(crate) stop: &'a CancellationToken,
    pub(crate) progress: &'a Arc<dyn ImportProgress>,
}

/// What the connections share.
struct Shared {
    pool: PgPool,
    id: ImportId,
    translate: TranslateOptions,
    commit_bytes: u64,
    allowance: Allowance,
    fence: Fence,
    ordinals: AtomicI32,
    idle_limit: Duration,
    stop: CancellationToken,
    progress: Arc<dyn ImportProgress>,
    batches: tokio::sync::Mutex<mpsc::Receiver<Batch>>,
    spare: Spare,
    rows: AtomicU64,
    size_bytes: AtomicU64,
}

/// Copies everything that comes through the lanes into the staging schema. What was copied is in
/// the ledger then: for each COPY, the rows sent are the rows that the server says it took.
pub(crate) async fn copy_lanes(
    lanes: Lanes,
    pool: &PgPool,
    id: &ImportId,
    options: LoadOptions<'_>,
) -> Result<(), ImportError> {
    let shared = Arc::new(Shared {
        pool: pool.clone(),
        id: id.clone(),
        translate: options.translate.clone(),
        commit_bytes: options.commit_bytes,
        allowance: options.allowance,
        fence: options.fence,
        ordinals: AtomicI32::new(options.first_ordinal),
        idle_limit: options.idle_limit,
        stop: options.stop.clone(),
        progress: Arc::clone(options.progress),
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
    let mut first_error = None;
    while let Some(outcome) = connections.join_next().await {
        let outcome = outcome.map_err(|_| ImportError::Crashed { what: "copying rows" }).flatten();
        let Err(error) = outcome else { continue };
        let known = matches!(first_error, Some(ref known) if !is_cancel(known));
        if !known {
            first_error = Some(error);
        }
    }
    match first_error {
        Some(error) if is_cancel(&error) => Err(ImportError::Cancelled),
        Some(error) => Err(error),
        None => Ok(()),
    }
}

fn is_cancel(error: &ImportError) -> bool {
    use relevo_pg::PgError;
    matches!(error, ImportError::Cancelled | ImportError::Target(PgError::Cancelled { .. }))
}

/// One connection at work.
struct Lane<'a> {
    shared: &'a Shared,
    session: Session,
    /// What the open transaction has loaded; `None` where none is open.
    open: Option<Vec<Piece>>,
    /// Bytes of COPY text in it.
    size_bytes: u64,
    /// Buffers for COPY text: one is sent while the other is filled.
    texts: Vec<Vec<u8>>,
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
    /// another; while one is sent, the next is encoded.
    async fn copy_all(&self) -> Result<(), ImportError> {
        let name = format!("{} load", self.id.program());
        let settings = [("synchronous_commit", "off")];
        let session = Session::open(&self.pool, &name, &settings).await?;
        let mut lane = Lane { shared: self, session, open: None, size_bytes: 0, texts: Vec::new() };
        let mut next = self.receive().await.map(Next::Batch);
        while let Some(first) = next.take() {
            lane.begin().await?;
            next = match first {
                Next::Batch(batch) if self.allowance.is_given() => {
                    lane.copy_aside(batch).await?;
                    let waiting = match self.receive().now_or_never() {
                        Some(batch) => batch,
                        None => {
                            // The server ends a transaction in which nothing happens for long.
                            lane.commit().await?;
                            self.receive().await
                        }
                    };
                    waiting.map(Next::Batch)
                }
                Next::Batch(batch) => {
                    let encoder = RowEncoder::new(&batch.table, &batch.insert, &self.translate)?;
                    let text = lane.texts.pop().unwrap_or_default();
                    let ready = self.encode(encoder, batch, text).await?;
                    lane.copy(ready).await?
                }
                Next::Ready(ready) => lane.copy(*ready).await?,
            };
            if next.is_none() || lane.size_bytes >= self.commit_bytes {
                lane.commit().await?;
            }
        }
        if self.stop.is_cancelled() {
            return Err(ImportError::Cancelled);
        }
        lane.session.close().await;
        Ok(())
    }

    /// The next batch, encoded if it goes into the COPY at hand.
    async fn encode_following(
        &self,
        (table, insert): &Kind,
        encoder: RowEncoder,
        text: Vec<u8>,
    ) -> Result<Ahead, ImportError> {
        match self.receive().await {
            Some(batch) if batch.continues(table, insert) => {
                let ready = self.encode(encoder, batch, text).await?;
                Ok(Ahead::Ready(Box::new(ready)))
            }
            other => Ok(Ahead::Other(other, text)),
        }
    }

    /// Encodes where it keeps nobody from sending.
    async fn encode(
        &self,
        mut encoder: RowEncoder,
        batch: Batch,
        mut text: Vec<u8>,
    ) -> Result<Encoded, ImportError> {
        let spare = Arc::clone(&self.spare);
        let work = move || {
            let kind = (Arc::clone(&batch.table), Arc::clone(&batch.insert));
            let (number, crc32) = (batch.number, batch.crc32());
            let part = batch.encode(&mut encoder, &mut text, &spare)?;
            Ok(Encoded { kind, encoder, text, part, number, crc32 })
        };
        tokio::task::spawn_blocking(work)
            .await
            .map_err(|_| ImportError::Crashed { what: "encoding rows" })?
    }

    fn report(&self, table: &str, part: &BatchStats) {
        let rows = self.rows.fetch_add(part.rows, Ordering::Relaxed) + part.rows;
        let size_bytes =
            self.size_bytes.fetch_add(part.bytes_out, Ordering::Relaxed) + part.bytes_out;
        self.progress.report(ProgressEvent::Loaded { table, rows, size_bytes });
    }
}

impl Lane<'_> {
    /// Opens a transaction unless one is open.
    async fn begin(&mut self) -> Result<(), ImportError> {
        if self.open.is_none() {
            let begun = self.session.connection().execute("-- load_rows\nBEGIN").await;
            begun.map_err(|source| ImportError::database("beginning to load rows", source))?;
            self.open = Some(Vec::new());
        }
        Ok(())
    }

    /// Copies a batch and those of its kind that follow, until the transaction is full.
    async fn copy(&mut self, first: Encoded) -> Result<Option<Next>, ImportError> {
        let shared = self.shared;
        let table = ddl::table_name(&first.kind.0);
        let statement = first.encoder.copy_statement(&shared.id.staging_schema());
        let what = format!("copying into {table}");
        let stop = shared.stop.clone();
        let mut copy =
            CopyIn::begin(&mut self.session, &statement, what, shared.idle_limit, stop).await?;
        let mut piece = Piece::new(table, statement);
        let mut ready = first;
        let next = loop {
            let Encoded { kind, encoder, text, part, number, crc32 } = ready;
            let spare = self.texts.pop().unwrap_or_default();
            let ahead = shared.encode_following(&kind, encoder, spare);
            let send = async { copy.send(&text).await.map_err(ImportError::from) };
            let ((), ahead) = tokio::try_join!(send, ahead)?;
            self.texts.push(text);
            shared.report(&piece.table, &part);
            piece.stats += &part;
            piece.batches.push((number, crc32));
            let full = self.size_bytes + piece.stats.bytes_out >= shared.commit_bytes;
            match ahead {
                Ahead::Ready(following) if !full => ready = *following,
                Ahead::Ready(following) => break Some(Next::Ready(following)),
                Ahead::Other(other, unused) => {
                    self.texts.push(unused);
                    break other.map(Next::Batch);
                }
            }
        };
        let taken = copy.finish().await?;
        if taken != piece.stats.rows {
            return Err(ImportError::RowsDiffer {
                table: piece.table,
                rows_dump: piece.stats.rows,
                rows_target: taken,
            });
        }
        self.add(piece);
        Ok(next)
    }

    /// Copies one batch, and sets aside what is refused.
    async fn copy_aside(&mut self, batch: Batch) -> Result<(), ImportError> {
        let shared = self.shared;
        let mut encoder = RowEncoder::new(&batch.table, &batch.insert, &shared.translate)?;
        let name = ddl::table_name(&batch.table);
        let statement = encoder.copy_statement(&shared.id.staging_schema());
        let mut text = self.texts.pop().unwrap_or_default();
        let place = |byte: usize| {
            let (offset, line) = batch.place(byte);
            (offset, Some(line))
        };
        let mut sorter = Sorter {
            session: &mut self.session,
            table: &batch.table,
            name: &name,
            statement: &statement,
            allowance: &shared.allowance,
            idle_limit: shared.idle_limit,
            cancel: &shared.stop,
        };
        let (stats, aside) = sorter.copy(&mut encoder, batch.rows(), &mut text, &place).await?;
        self.texts.push(text);
        shared.report(&name, &stats);
        let mut piece = Piece::new(name, statement);
        piece.stats = stats;
        piece.batches.push((batch.number, batch.crc32()));
        piece.aside = aside;
        batch.recycle(&shared.spare);
        self.add(piece);
        Ok(())
    }

    /// Adds what was copied to what the open transaction vouches for.
    fn add(&mut self, piece: Piece) {
        self.size_bytes += piece.stats.bytes_out;
        let pieces = self.open.get_or_insert_default();
        match pieces.last_mut() {
            Some(last) if last.table == piece.table && last.statement == piece.statement => {
                last.append(piece);
            }
            _ => pieces.push(piece),
        }
    }

    /// Commits the rows together with their ledger rows, unless the load is to stop.
    async fn commit(&mut self) -> Result<(), ImportError> {
        let Some(pieces) = self.open.take() else { return Ok(()) };
        let shared = self.shared;
        if shared.stop.is_cancelled() {
            return Err(ImportError::Cancelled);
        }
        let count = i32::try_from(pieces.len()).unwrap_or(i32::MAX);
        let first = shared.ordinals.fetch_add(count, Ordering::Relaxed);
        let connection = self.session.connection();
        for piece in &pieces {
            aside::keep(connection, &shared.id, &piece.aside).await?;
        }
        if !pieces::record(connection, &shared.id, first, shared.fence, &pieces).await? {
            return Err(ImportError::Fenced { id: shared.id.to_string() });
        }
        let committed = connection.execute("-- load_rows\nCOMMIT").await;
        committed.map_err(|source| ImportError::database("committing loaded rows", source))?;
        self.size_bytes = 0;
        Ok(())
    }
}
