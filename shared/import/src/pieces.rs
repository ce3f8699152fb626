//! What a direct import has committed: pieces of tables, each vouched for by a row of the ledger.
//! Whoever takes the import up after a crash passes over the batches in them.

use relevo_mysqldump::BatchStats;
use sqlx::types::JsonValue;
use sqlx::{PgConnection, PgPool};

use crate::aside::AsideRow;
use crate::batch::Known;
use crate::error::ImportError;
use crate::identity::{Fence, ImportId};
use crate::ledger;
use crate::manifest::ChunkEntry;

/// Rows of one table that one transaction has loaded.
#[derive(Debug)]
pub(crate) struct Piece {
    /// The table in Postgres.
    pub(crate) table: String,
    /// The COPY they came with.
    pub(crate) statement: String,
    pub(crate) stats: BatchStats,
    /// Number and CRC-32 of the batches.
    pub(crate) batches: Vec<(i32, u32)>,
    /// What was refused of them.
    pub(crate) aside: Vec<AsideRow>,
}

impl Piece {
    pub(crate) fn new(table: String, statement: String) -> Self {
        let (stats, batches, aside) = (BatchStats::default(), Vec::new(), Vec::new());
        Self { table, statement, stats, batches, aside }
    }

    /// Takes in more rows of the same kind.
    pub(crate) fn append(&mut self, other: Self) {
        self.stats += &other.stats;
        self.batches.extend(other.batches);
        self.aside.extend(other.aside);
    }
}

/// Writes pieces into the ledger, numbered from `first`: the last statement before their COMMIT.
/// False when the import is not ours any more. Its row stays locked until the COMMIT, so that who
/// takes it over finds every piece that was committed.
pub(crate) async fn record(
    connection: &mut PgConnection,
    id: &ImportId,
    first: i32,
    fence: Fence,
    pieces: &[Piece],
) -> Result<bool, ImportError> {
    let column = |value: &dyn Fn(&Piece) -> Result<JsonValue, ImportError>| {
        pieces.iter().map(value).collect::<Result<Vec<_>, _>>()
    };
    let of = |text: &dyn Fn(&Piece) -> String| pieces.iter().map(text).collect::<Vec<_>>();
    let rows = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let recorded = sqlx::query(
        "-- record_pieces
         WITH mine AS (
             SELECT id FROM relevo_ledger.import
             WHERE id = $1 AND state = 'loading'
               AND (fence_incarnation, fence_job_id, fence_epoch) = ($3, $4, $5)
             FOR SHARE
         )
         INSERT INTO relevo_ledger.import_chunk
             (import_id, ordinal, table_name, state, fence_incarnation, fence_job_id, fence_epoch,
              rows, checksum, body_crc32, statement, stats, batches, quarantined, done_at)
         SELECT mine.id, $2 + (p.place - 1)::integer, p.table_name, 'done', $3, $4, $5,
                p.rows, p.checksum, 0, p.statement, p.stats, p.batches, p.quarantined,
                clock_timestamp()
         FROM mine
         CROSS JOIN unnest($6::text[], $7::bigint[], $8::text[], $9::text[], $10::jsonb[],
                           $11::jsonb[], $12::bigint[])
             WITH ORDINALITY
             AS p (table_name, rows, checksum, statement, stats, batches, quarantined, place)",
    )
    .bind(id.as_str())
    .bind(first)
    .bind(fence.incarnation)
    .bind(fence.job_id)
    .bind(fence.epoch)
    .bind(of(&|piece| piece.table.clone()))
    .bind(pieces.iter().map(|piece| rows(piece.stats.rows)).collect::<Vec<_>>())
    .bind(of(&|piece| piece.stats.checksum.to_string()))
    .bind(of(&|piece| piece.statement.clone()))
    .bind(column(&|piece| ledger::write(id, "statistics", &piece.stats))?)
    .bind(column(&|piece| ledger::write(id, "batches", &piece.batches))?)
    .bind(pieces.iter().map(|piece| rows(piece.aside.len() as u64)).collect::<Vec<_>>())
    .execute(connection)
    .await
    .map_err(|source| ImportError::database("recording loaded rows", source))?;
    Ok(recorded.rows_affected() == pieces.len() as u64)
}

/// What the ledger has of an import.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// The pieces by ordinal, as the manifest lists them.
    pub(crate) chunks: Vec<ChunkEntry>,
    /// One past the last of them.
    pub(crate) next_ordinal: i32,
    /// The batches in them.
    pub(crate) known: Known,
    /// Rows that are set aside.
    pub(crate) quarantined: u64,
}

/// Reads the pieces of an import.
pub(crate) async fn loaded(pool: &PgPool, id: &ImportId) -> Result<Loaded, ImportError> {
    let rows: Vec<(i32, String, i64, i64, JsonValue, JsonValue)> = sqlx::query_as(
        "-- list_pieces
         SELECT ordinal, table_name, rows, quarantined, batches, stats
         FROM relevo_ledger.import_chunk
         WHERE import_id = $1 AND state = 'done' AND batches IS NOT NULL ORDER BY ordinal",
    )
    .bind(id.as_str())
    .fetch_all(pool)
    .await
    .map_err(|source| ImportError::database("reading what was loaded", source))?;
    let mut loaded = Loaded::default();
    for (ordinal, table, rows, quarantined, batches, stats) in rows {
        let batches: Vec<(i32, u32)> = ledger::read(id, "batches", batches)?;
        let stats: BatchStats = ledger::read(id, "statistics", stats)?;
        loaded.known.extend(batches);
        loaded.next_ordinal = ordinal + 1;
        loaded.quarantined += quarantined.unsigned_abs();
        loaded.chunks.push(ChunkEntry {
            ordinal,
            table,
            rows: rows.unsigned_abs() + quarantined.unsigned_abs(),
            body_bytes: stats.bytes_out,
            body_crc32: 0,
        });
    }
    Ok(loaded)
}
