//! Loading one chunk.

use std::time::Duration;

use relevo_mysqldump::{BatchStats, RowEncoder};
use relevo_pg::copy::CopyIn;
use relevo_pg::{PgError, Session};
use sqlx::{Executor, PgConnection, PgPool};
use tokio::io::AsyncRead;
use tokio_util::sync::CancellationToken;

use crate::aside::{self, Allowance, Sorter};
use crate::chunk::{ChunkReader, FRAME_TARGET_BYTES};
use crate::error::ImportError;
use crate::identity::{Fence, ImportId};
use crate::ledger;
use crate::options::{ChunkLimits, ImportOptions};

/// What [`load_chunk`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ChunkOutcome {
    /// Its rows and its ledger row are committed.
    Loaded {
        /// Rows.
        rows: u64,
        /// Bytes of COPY text.
        size_bytes: u64,
    },
    /// It was loaded before; nothing was changed.
    AlreadyDone {
        /// Rows it has.
        rows: u64,
    },
    /// A later writer holds the chunk; nothing was changed.
    Fenced,
}

/// Loads one chunk file ([`crate::Chunk::to_file`]) in one transaction with its ledger row.
///
/// The chunk's fence is raised first, outside that transaction, so that an earlier writer of the
/// same chunk cannot commit any more. The last statement before COMMIT sets the ledger row done if
/// the fence is still ours: one row, or everything is rolled back. When the answer to COMMIT is
/// lost, the ledger is asked.
///
/// # Errors
/// As in [`ImportError`]; nothing is committed then. [`ImportError::Ended`] when the import was
/// abandoned.
pub async fn load_chunk(
    pool: &PgPool,
    id: &ImportId,
    ordinal: i32,
    chunk: impl AsyncRead + Send + Unpin,
    fence: Fence,
    limits: ChunkLimits,
    cancel: &CancellationToken,
) -> Result<ChunkOutcome, ImportError> {
    // Whether there is anything to do is the ledger's word, not the chunk file's: the file of a
    // loaded chunk may be gone.
    let options = match start(pool, id, ordinal, fence).await? {
        Start::Go(options) => options,
        Start::Not(outcome) => return Ok(outcome),
    };
    let name = format!("{} chunk {ordinal}", id.program());
    // Should nobody be left to end it, the server does.
    let limit = format!("{}s", limits.timeout.as_secs() + 30);
    let settings = [("synchronous_commit", "off"), ("statement_timeout", &*limit)];
    let mut session = Session::open(pool, &name, &settings).await?;
    let killer = session.killer();
    let load = Load { id, ordinal, fence, limit: limits.timeout, cancel };
    let what = format!("loading chunk {ordinal}");
    let work = load.run(&mut session, chunk, &options);
    match killer.guard_all(&what, limits.timeout, cancel, work).await {
        Ok(Some(stats)) => {
            session.close().await;
            Ok(ChunkOutcome::Loaded { rows: stats.rows, size_bytes: stats.bytes_out })
        }
        Ok(None) => {
            session.close().await;
            refused(pool, id, ordinal).await
        }
        Err(ImportError::Target(PgError::Cancelled { .. })) => Err(ImportError::Cancelled),
        Err(error) => match committed(pool, id, ordinal, fence).await {
            Some(outcome) => Ok(outcome),
            None => Err(error),
        },
    }
}

/// Whether a chunk is to be loaded.
enum Start {
    Go(Box<ImportOptions>),
    Not(ChunkOutcome),
}

/// Raises the chunk's fence.
async fn start(
    pool: &PgPool,
    id: &ImportId,
    ordinal: i32,
    fence: Fence,
) -> Result<Start, ImportError> {
    let options: Option<sqlx::types::JsonValue> = sqlx::query_scalar(
        "-- start_chunk
         WITH wanted AS (
             SELECT id, options FROM relevo_ledger.import
             WHERE id = $1 AND state IN ('loading', 'sealed') AND fence_incarnation <= $3
         ), started AS (
             INSERT INTO relevo_ledger.import_chunk AS c
                 (import_id, ordinal, table_name, state, fence_incarnation, fence_job_id, fence_epoch)
             SELECT id, $2, '', 'started', $3, $4, $5 FROM wanted
             ON CONFLICT (import_id, ordinal) DO UPDATE
             SET fence_incarnation = $3, fence_job_id = $4, fence_epoch = $5,
                 started_at = clock_timestamp()
             WHERE c.state = 'started'
               AND (c.fence_incarnation, c.fence_job_id, c.fence_epoch) <= ($3, $4, $5)
             RETURNING import_id
         )
         SELECT wanted.options FROM wanted JOIN started ON started.import_id = wanted.id",
    )
    .bind(id.as_str())
    .bind(ordinal)
    .bind(fence.incarnation)
    .bind(fence.job_id)
    .bind(fence.epoch)
    .fetch_optional(pool)
    .await
    .map_err(|source| ImportError::database(format!("starting chunk {ordinal}"), source))?;
    match options {
        Some(options) => Ok(Start::Go(Box::new(ledger::read(id, "options", options)?))),
        None => refused(pool, id, ordinal).await.map(Start::Not),
    }
}

/// Why the fence did not let us in: the chunk is done, or somebody else's.
async fn refused(pool: &PgPool, id: &ImportId, ordinal: i32) -> Result<ChunkOutcome, ImportError> {
    let import = ledger::get(pool, id).await?;
    if import.state == ledger::state::FAILED {
        return Err(ledger::ended(id, &import.state));
    }
    let done = done_rows(pool, id, ordinal).await?;
    if let Some((rows, _)) = done {
        return Ok(ChunkOutcome::AlreadyDone { rows });
    }
    if import.state == ledger::state::LIVE {
        // The chunks of an import that is long live are forgotten; its certificate is not.
        return Ok(ChunkOutcome::AlreadyDone { rows: 0 });
    }
    Ok(ChunkOutcome::Fenced)
}

async fn done_rows(
    pool: &PgPool,
    id: &ImportId,
    ordinal: i32,
) -> Result<Option<(u64, Fence)>, ImportError> {
    let done: Option<(i64, i64, i64, i64)> = sqlx::query_as(
        "-- find_done_chunk
         SELECT rows, fence_incarnation, fence_job_id, fence_epoch
         FROM relevo_ledger.import_chunk
         WHERE import_id = $1 AND ordinal = $2 AND state = 'done'",
    )
    .bind(id.as_str())
    .bind(ordinal)
    .fetch_optional(pool)
    .await
    .map_err(|source| ImportError::database("reading the chunks' ledger", source))?;
    Ok(done.map(|(rows, incarnation, job_id, epoch)| {
        (rows.unsigned_abs(), Fence { incarnation, job_id, epoch })
    }))
}

/// After a failure: whether it hit only the answer to our COMMIT. A ledger that cannot be asked
/// leaves it open, and the next attempt finds out.
async fn committed(
    pool: &PgPool,
    id: &ImportId,
    ordinal: i32,
    fence: Fence,
) -> Option<ChunkOutcome> {
    let (rows, by) = done_rows(pool, id, ordinal).await.ok().flatten()?;
    if by == fence {
        Some(ChunkOutcome::Loaded { rows, size_bytes: 0 })
    } else {
        Some(ChunkOutcome::AlreadyDone { rows })
    }
}

/// One chunk's transaction.
struct Load<'a> {
    id: &'a ImportId,
    ordinal: i32,
    fence: Fence,
    limit: Duration,
    cancel: &'a CancellationToken,
}

impl Load<'_> {
    /// Returns `None` when the fence was not ours any more and everything was rolled back.
    async fn run(
        &self,
        session: &mut Session,
        chunk: impl AsyncRead + Send + Unpin,
        options: &ImportOptions,
    ) -> Result<Option<BatchStats>, ImportError> {
        let mut reader = ChunkReader::open(chunk, self.ordinal).await?;
        if reader.header.import != *self.id {
            return Err(ImportError::ChunkDamaged {
                ordinal: self.ordinal,
                reason: format!("it belongs to import {}", reader.header.import),
            });
        }
        let header = reader.header.clone();
        let table = relevo_mysqldump::ddl::table_name(&header.table);
        let failed = |source| ImportError::database(format!("loading into {table}"), source);
        let mut encoder = RowEncoder::new(&header.table, &header.insert, &options.translate)?;
        session.connection().execute("-- load_chunk\nBEGIN").await.map_err(failed)?;
        let statement = encoder.copy_statement(&self.id.staging_schema());
        let (stats, quarantined) = if options.quarantine > 0 {
            let limit = options.quarantine.into();
            self.copy_aside(session, &mut reader, &mut encoder, (&table, &statement), limit).await?
        } else {
            (self.copy(session, &mut reader, &mut encoder, (&table, &statement)).await?, 0)
        };
        if stats.rows + quarantined != header.rows {
            return Err(ImportError::ChunkDamaged {
                ordinal: self.ordinal,
                reason: format!(
                    "it holds {} rows instead of {}",
                    stats.rows + quarantined,
                    header.rows
                ),
            });
        }
        let figures = Figures {
            table: &table,
            statement: &statement,
            stats: &stats,
            body_crc32: i64::from(header.body_crc32),
            quarantined,
        };
        if !mark_done(session.connection(), self.id, self.ordinal, self.fence, &figures).await? {
            session.connection().execute("-- load_chunk\nROLLBACK").await.map_err(failed)?;
            return Ok(None);
        }
        session.connection().execute("-- load_chunk\nCOMMIT").await.map_err(failed)?;
        Ok(Some(stats))
    }

    /// Copies the rows of the chunk.
    async fn copy(
        &self,
        session: &mut Session,
        reader: &mut ChunkReader<impl AsyncRead + Send + Unpin>,
        encoder: &mut RowEncoder,
        (table, statement): (&str, &str),
    ) -> Result<BatchStats, ImportError> {
        let batch_offset = reader.header.offset;
        let what = format!("copying into {table}");
        let mut copy =
            CopyIn::begin(session, statement, what, self.limit, self.cancel.clone()).await?;
        let mut stats = BatchStats::default();
        let mut rows = Vec::with_capacity(FRAME_TARGET_BYTES + FRAME_TARGET_BYTES / 4);
        let mut text = Vec::with_capacity(FRAME_TARGET_BYTES + FRAME_TARGET_BYTES / 4);
        while reader.next_frame(&mut rows).await? {
            text.clear();
            stats += &encoder
                .encode(&rows, &mut text)
                .map_err(|source| ImportError::Row { batch_offset, source })?;
            copy.send(&text).await?;
        }
        let taken = copy.finish().await?;
        if taken != stats.rows {
            return Err(ImportError::RowsDiffer {
                table: table.to_owned(),
                rows_dump: stats.rows,
                rows_target: taken,
            });
        }
        Ok(stats)
    }

    /// Copies the rows of the chunk frame by frame, and sets aside what is refused. Of chunks that
    /// are loaded at the same time, those with such rows wait for one another, so that all of them
    /// together set aside no more than is allowed.
    async fn copy_aside(
        &self,
        session: &mut Session,
        reader: &mut ChunkReader<impl AsyncRead + Send + Unpin>,
        encoder: &mut RowEncoder,
        (name, statement): (&str, &str),
        limit: u64,
    ) -> Result<(BatchStats, u64), ImportError> {
        let taken = aside::count(session.connection(), self.id).await?;
        let mut allowance = Allowance::new(limit, taken);
        let header = reader.header.clone();
        let place = |_| (header.offset, None);
        let mut stats = BatchStats::default();
        let mut quarantined = 0;
        let (mut rows, mut text) = (Vec::new(), Vec::new());
        while reader.next_frame(&mut rows).await? {
            let mut sorter = Sorter {
                session: &mut *session,
                table: &header.table,
                name,
                statement,
                allowance: &allowance,
                idle_limit: self.limit,
                cancel: self.cancel,
            };
            let (part, refused) = sorter.copy(encoder, &rows, &mut text, &place).await?;
            if let (0, Some(first)) = (quarantined, refused.first()) {
                aside::lock(session.connection(), self.id).await?;
                let taken = aside::count(session.connection(), self.id).await?;
                allowance = Allowance::new(limit, taken);
                allowance.take_all(refused.len() as u64, || first.error())?;
            }
            aside::keep(session.connection(), self.id, &refused).await?;
            stats += &part;
            quarantined += refused.len() as u64;
        }
        Ok((stats, quarantined))
    }
}

/// What the ledger keeps of a loaded chunk.
pub(crate) struct Figures<'a> {
    pub(crate) table: &'a str,
    /// The COPY its rows came with.
    pub(crate) statement: &'a str,
    pub(crate) stats: &'a BatchStats,
    pub(crate) body_crc32: i64,
    /// Rows that were refused and set aside.
    pub(crate) quarantined: u64,
}

/// The last statement before COMMIT: one row, or roll back.
pub(crate) async fn mark_done(
    connection: &mut PgConnection,
    id: &ImportId,
    ordinal: i32,
    fence: Fence,
    figures: &Figures<'_>,
) -> Result<bool, ImportError> {
    let marked = sqlx::query(
        "-- finish_chunk
         UPDATE relevo_ledger.import_chunk AS c
         SET state = 'done', table_name = $6, rows = $7, checksum = $8, body_crc32 = $9,
             statement = $10, stats = $11, quarantined = $12, done_at = clock_timestamp()
         FROM relevo_ledger.import AS i
         WHERE c.import_id = $1 AND c.ordinal = $2 AND c.state = 'started'
           AND (c.fence_incarnation, c.fence_job_id, c.fence_epoch) = ($3, $4, $5)
           AND i.id = c.import_id AND i.state IN ('loading', 'sealed')
           AND i.fence_incarnation <= $3",
    )
    .bind(id.as_str())
    .bind(ordinal)
    .bind(fence.incarnation)
    .bind(fence.job_id)
    .bind(fence.epoch)
    .bind(figures.table)
    .bind(i64::try_from(figures.stats.rows).unwrap_or(i64::MAX))
    .bind(figures.stats.checksum.to_string())
    .bind(figures.body_crc32)
    .bind(figures.statement)
    .bind(ledger::write(id, "statistics", figures.stats)?)
    .bind(i64::try_from(figures.quarantined).unwrap_or(i64::MAX))
    .execute(connection)
    .await
    .map_err(|source| ImportError::database(format!("recording chunk {ordinal}"), source))?;
    Ok(marked.rows_affected() == 1)
}
