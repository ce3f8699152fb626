//! Taking up a direct import that was cut off.
//!
//! An import is taken up when it comes from the same source with the same options and nobody is at
//! work on it: a running one holds an advisory lock named after it. The source is only how it is
//! found: whether the bytes are the same, the checksum of every batch that is passed over says.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::time::UNIX_EPOCH;

use relevo_pg::Session;
use sqlx::PgPool;

use crate::error::ImportError;
use crate::identity::{Fence, ImportId};
use crate::ledger;
use crate::options::ImportOptions;
use crate::steps::DIRECT_OWNER;

/// Bytes of the file that its source is known by, at its beginning and at its end.
const SAMPLE_BYTES: u64 = 64 * 1024;

/// An import of our own, and the session that shows our presence.
pub(crate) struct Claim {
    pub(crate) id: ImportId,
    pub(crate) fence: Fence,
    pub(crate) presence: Session,
}

/// What a dump file is known by when its import is taken up again: size, time, and a checksum of
/// its beginning and its end. `None` for what is no file and can be read only once.
///
/// # Errors
/// When the file cannot be read; it stands at its beginning afterwards.
pub fn source_of(file: &mut File) -> io::Result<Option<String>> {
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let mut crc = flate2::Crc::new();
    for start in [0, metadata.len().saturating_sub(SAMPLE_BYTES)] {
        let mut sample = Vec::new();
        file.seek(SeekFrom::Start(start))?;
        Read::take(&mut *file, SAMPLE_BYTES).read_to_end(&mut sample)?;
        crc.update(&sample);
    }
    file.seek(SeekFrom::Start(0))?;
    let modified = metadata.modified().ok().and_then(|at| at.duration_since(UNIX_EPOCH).ok());
    let nanos = modified.map(|since| since.as_nanos()).unwrap_or_default();
    // Another version may translate a value another way, and one table must not hold both.
    let version = env!("CARGO_PKG_VERSION");
    Ok(Some(format!("{} bytes, {nanos}, {:08x}, relevo {version}", metadata.len(), crc.sum())))
}

/// The import that goes on where one was cut off, else a new one.
pub(crate) async fn claim(
    pool: &PgPool,
    source: Option<&str>,
    options: &ImportOptions,
) -> Result<Claim, ImportError> {
    for id in cut_off(pool, source, options).await? {
        let Some(presence) = show_presence(pool, &id).await? else { continue };
        // Read now that nobody else is at it: whoever was may have ended it meanwhile.
        if let Some(epoch) = unfinished_epoch(pool, &id).await? {
            let fence = Fence { epoch: epoch + 1, ..Fence::default() };
            return Ok(Claim { id, fence, presence });
        }
        presence.close().await;
    }
    let id = new_id(pool).await?;
    // Nobody else knows the name.
    let presence = show_presence(pool, &id).await?;
    let presence = presence.ok_or_else(|| ImportError::Fenced { id: id.to_string() })?;
    Ok(Claim { id, fence: Fence::default(), presence })
}

/// Imports of the same source with the same options that are not through, the latest first. Not
/// those with tables that are not logged: a crash of the server empties such a table, and the
/// ledger, which is logged, goes on vouching for its rows.
async fn cut_off(
    pool: &PgPool,
    source: Option<&str>,
    options: &ImportOptions,
) -> Result<Vec<ImportId>, ImportError> {
    let Some(source) = source else { return Ok(Vec::new()) };
    let wanted = serde_json::to_value(options).unwrap_or_default();
    let found: Result<Vec<String>, _> = sqlx::query_scalar(
        "-- find_cut_off
         SELECT i.id FROM relevo_ledger.import i
         WHERE i.owner = $1 AND i.state IN ('loading', 'sealed')
           AND i.source = $2 AND i.options = $3
           AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                           WHERE n.nspname = i.staging AND c.relpersistence = 'u')
         ORDER BY i.begun_at DESC LIMIT 10",
    )
    .bind(DIRECT_OWNER)
    .bind(source)
    .bind(wanted)
    .fetch_all(pool)
    .await;
    match found {
        Ok(found) => found.into_iter().map(ImportId::new).collect(),
        Err(error) if ledger::is_missing_ledger(&error) => Ok(Vec::new()),
        Err(source) => Err(ImportError::database("looking for an import that was cut off", source)),
    }
}

/// The fence of an import's last writer, if it is not through.
async fn unfinished_epoch(pool: &PgPool, id: &ImportId) -> Result<Option<i64>, ImportError> {
    sqlx::query_scalar(
        "-- find_unfinished_epoch
         SELECT fence_epoch FROM relevo_ledger.import
         WHERE id = $1 AND state IN ('loading', 'sealed')",
    )
    .bind(id.as_str())
    .fetch_optional(pool)
    .await
    .map_err(|source| ImportError::database("looking for an import that was cut off", source))
}

/// Takes the lock that says that an import is being worked on; `None` when somebody has it.
async fn show_presence(pool: &PgPool, id: &ImportId) -> Result<Option<Session>, ImportError> {
    let mut session = Session::open(pool, &id.program(), &[]).await?;
    let taken: bool = sqlx::query_scalar(
        "-- show_presence
         SELECT pg_try_advisory_lock(hashtextextended($1, 0))",
    )
    .bind(id.program())
    .fetch_one(session.connection())
    .await
    .map_err(|source| ImportError::database("announcing the import", source))?;
    Ok(taken.then_some(session))
}

/// A name that no import has.
pub(crate) async fn new_id(pool: &PgPool) -> Result<ImportId, ImportError> {
    let random: String = sqlx::query_scalar(
        "-- new_import_id
         SELECT left(replace(gen_random_uuid()::text, '-', ''), 16)",
    )
    .fetch_one(pool)
    .await
    .map_err(|source| ImportError::database("asking for an import id", source))?;
    ImportId::new(format!("direct_{random}"))
}

/// Notes what an import is loaded from.
pub(crate) async fn note_source(
    pool: &PgPool,
    id: &ImportId,
    source: Option<&str>,
) -> Result<(), ImportError> {
    sqlx::query("-- note_source\nUPDATE relevo_ledger.import SET source = $2 WHERE id = $1")
        .bind(id.as_str())
        .bind(source)
        .execute(pool)
        .await
        .map(|_| ())
        .map_err(|source| ImportError::database("noting the source", source))
}
