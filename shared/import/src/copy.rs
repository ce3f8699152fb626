//! Row batches from one reader to several COPY connections.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use relevo_mysqldump::{BatchStats, InsertHeader, RowEncoder, TableDef, TranslateOptions, ddl};
use relevo_pg::Session;
use relevo_pg::copy::CopyIn;
use sqlx::PgPool;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::batch::{Batch, Lanes, Spare};
use crate::error::ImportError;
use crate::identity::ImportId;
use crate::progress::{ImportProgress, ProgressEvent};

/// What was copied, by table and COPY statement.
pub(crate) type Sent = BTreeMap<(String, String), BatchStats>;

/// What the rows of one COPY have in common.
type Kind = (Arc<TableDef>, Arc<InsertHeader>);

/// A batch as COPY text, and the encoder for more of its kind.
struct Encoded {
    kind: Kind,
    encoder: RowEncoder,
    text: Vec<u8>,
    part: BatchStats,
}

/// What comes after a batch.
enum Ahead {
    Ready(Box<Encoded>),
    /// Rows of another kind, or the end; and the buffer that is not needed for them.
    Other(Option<Batch>, Vec<u8>),
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
    /// another; while one is sent, the next is encoded.
    async fn copy_all(&self) -> Result<Sent, ImportError> {
        let name = format!("{} load", self.id.program());
        let mut session =
            Session::open(&self.pool, &name, &[("synchronous_commit", "off")]).await?;
        let mut sent = Sent::new();
        // Two: one is sent while the other is filled.
        let mut texts = [Vec::new(), Vec::new()];
        let mut next = self.receive().await;
        while let Some(first) = next.take() {
            let table = ddl::table_name(&first.table);
            let encoder = RowEncoder::new(&first.table, &first.insert, &self.translate)?;
            let statement = encoder.copy_statement(&self.id.staging_schema());
            let what = format!("copying into {table}");
            let mut copy =
                CopyIn::begin(&mut session, &statement, what, self.idle_limit, self.stop.clone())
                    .await?;
            let mut stats = BatchStats::default();
            let mut ready = self.encode(encoder, first, std::mem::take(&mut texts[0])).await?;
            loop {
                let Encoded { kind, encoder, text, part } = ready;
                let ahead = self.encode_following(&kind, encoder, std::mem::take(&mut texts[1]));
                let send = async { copy.send(&text).await.map_err(ImportError::from) };
                let ((), ahead) = tokio::try_join!(send, ahead)?;
                self.report(&table, &part);
                stats += &part;
                match ahead {
                    Ahead::Ready(following) => {
                        texts[1] = text;
                        ready = *following;
                    }
                    Ahead::Other(other, unused) => {
                        texts = [text, unused];
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
            let part = batch.encode(&mut encoder, &mut text, &spare)?;
            Ok(Encoded { kind, encoder, text, part })
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
