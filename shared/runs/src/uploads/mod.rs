//! Dumps that are handed to Relevo as files: announced, appended to piece by piece, complete when
//! the last byte is there, loaded by one run, gone with it.
//!
//! Killed here, then what?
//! - While a piece is written: the file's length says how much is there; the sender asks for it and
//!   goes on from there. A piece is on the disk before it is acknowledged.
//! - After the last piece, before the row says complete: the sender's next, empty piece completes it.
//! - Between the row and the file, at either end: the sweep removes a file without a row, and a row
//!   that expired without a file.

mod store;

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

pub use store::{AppendError, Store, sha256_of};

use crate::{RunError, RunId, bounded};

/// How long an upload waits for its next piece, or for its run.
pub const LIFE: Duration = Duration::from_secs(24 * 3_600);

/// Uploads that may be under way at once.
pub const OPEN_MAX: i64 = 20;

/// Longest file name, in characters.
pub const FILENAME_CHARS_MAX: usize = 300;

/// One upload.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct Upload {
    /// Its number.
    pub id: i64,
    /// The source whose run is to load it.
    pub source: String,
    /// What its sender calls it.
    pub filename: String,
    /// How long it will be.
    pub total_bytes: i64,
    /// What its SHA-256 has to be, where its sender said so.
    #[serde(skip)]
    pub sha256: Option<Vec<u8>>,
    /// How its run is to be started when it is complete; empty where its sender starts it.
    #[serde(skip)]
    pub options: Value,
    /// When it was announced.
    pub created_at: DateTime<Utc>,
    /// When it is given up unless more of it arrives.
    pub expires_at: DateTime<Utc>,
    /// Since when all of it is there.
    pub completed_at: Option<DateTime<Utc>>,
    /// The run that loads it.
    pub run_id: Option<RunId>,
}

/// What is announced.
#[derive(Clone, Debug)]
pub struct NewUpload {
    /// The source whose run is to load it.
    pub source: String,
    /// What its sender calls it.
    pub filename: String,
    /// How long it will be.
    pub total_bytes: i64,
    /// What its SHA-256 has to be.
    pub sha256: Option<[u8; 32]>,
    /// How its run is to be started when it is complete: an object, empty for not at all.
    pub options: Value,
    /// Who sends it.
    pub created_by: String,
}

const COLUMNS: &str = "id, source, filename, total_bytes, sha256, options, created_at, expires_at, \
                       completed_at, run_id";

/// Announces an upload. `None` when too many are under way.
///
/// # Errors
/// When the database fails.
pub async fn create_in(
    tx: &mut PgConnection,
    upload: &NewUpload,
) -> Result<Option<Upload>, RunError> {
    let sql = format!(
        "-- uploads::create_in
        INSERT INTO relevo.upload
            (source, filename, total_bytes, sha256, options, created_by, expires_at)
        SELECT $1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7)
        WHERE (SELECT count(*) FROM relevo.upload WHERE completed_at IS NULL) < $8
        RETURNING {COLUMNS}"
    );
    let created = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(&upload.source)
        .bind(bounded::text(&upload.filename, FILENAME_CHARS_MAX))
        .bind(upload.total_bytes)
        .bind(upload.sha256.as_ref().map(|digest| digest.as_slice()))
        .bind(&upload.options)
        .bind(bounded::text(&upload.created_by, 200))
        .bind(LIFE.as_secs_f64())
        .bind(OPEN_MAX)
        .fetch_optional(tx)
        .await?;
    Ok(created)
}

/// One upload.
///
/// # Errors
/// When the database fails.
pub async fn get(pool: &PgPool, id: i64) -> Result<Option<Upload>, RunError> {
    let sql = format!("-- uploads::get\nSELECT {COLUMNS} FROM relevo.upload WHERE id = $1");
    Ok(sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(pool).await?)
}

/// A page of uploads, the newest first: all, or those of a source.
///
/// # Errors
/// When the database fails.
pub async fn list(
    pool: &PgPool,
    source: Option<&str>,
    before: Option<i64>,
    limit: u16,
) -> Result<Vec<Upload>, RunError> {
    let sql = format!(
        "-- uploads::list
        SELECT {COLUMNS} FROM relevo.upload
         WHERE ($1::text IS NULL OR source = $1) AND id < coalesce($2, 9223372036854775807)
         ORDER BY id DESC LIMIT $3"
    );
    let listed =
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(source).bind(before).bind(i64::from(limit));
    Ok(listed.fetch_all(pool).await?)
}

/// Notes that an upload lives: it is given up that much later.
///
/// # Errors
/// When the database fails.
pub async fn touch(pool: &PgPool, id: i64) -> Result<(), RunError> {
    sqlx::query(
        "-- uploads::touch
        UPDATE relevo.upload SET expires_at = now() + make_interval(secs => $2) WHERE id = $1",
    )
    .bind(id)
    .bind(LIFE.as_secs_f64())
    .execute(pool)
    .await?;
    Ok(())
}

/// Notes that all of an upload is there and right. True when this call is what completed it.
///
/// # Errors
/// When the database fails.
pub async fn complete_in(tx: &mut PgConnection, id: i64) -> Result<bool, RunError> {
    let changed = sqlx::query(
        "-- uploads::complete_in
        UPDATE relevo.upload
        SET completed_at = now(), expires_at = now() + make_interval(secs => $2)
        WHERE id = $1 AND completed_at IS NULL",
    )
    .bind(id)
    .bind(LIFE.as_secs_f64())
    .execute(tx)
    .await?
    .rows_affected();
    Ok(changed == 1)
}

/// Gives an upload to a run of its source, once.
///
/// # Errors
/// [`RunError::UploadUnusable`] says why it cannot be had; nothing has changed then.
pub async fn use_in(
    tx: &mut PgConnection,
    id: i64,
    source: &str,
    run: RunId,
) -> Result<(), RunError> {
    let sql = format!(
        "-- uploads::use_in\nSELECT {COLUMNS} FROM relevo.upload WHERE id = $1 FOR NO KEY UPDATE"
    );
    let upload: Option<Upload> =
        sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(id).fetch_optional(&mut *tx).await?;
    let unusable = |reason: String| RunError::UploadUnusable { upload: id, reason };
    let upload = upload.ok_or_else(|| unusable("there is none, or it has expired".to_owned()))?;
    if upload.source != source {
        return Err(unusable(format!("it is for the source {:?}", upload.source)));
    }
    if upload.completed_at.is_none() {
        return Err(unusable("it has not arrived whole".to_owned()));
    }
    if let Some(run) = upload.run_id {
        return Err(unusable(format!("run {run} has taken it already")));
    }
    sqlx::query("-- uploads::use_in\nUPDATE relevo.upload SET run_id = $2 WHERE id = $1")
        .bind(id)
        .bind(run)
        .execute(tx)
        .await?;
    Ok(())
}

/// Gives an upload up, unless a run has taken it. False when there was none to give up. Its file goes
/// with the next sweep.
///
/// # Errors
/// When the database fails.
pub async fn delete_in(tx: &mut PgConnection, id: i64) -> Result<bool, RunError> {
    let deleted = sqlx::query(
        "-- uploads::delete_in\nDELETE FROM relevo.upload WHERE id = $1 AND run_id IS NULL",
    )
    .bind(id)
    .execute(tx)
    .await?
    .rows_affected();
    Ok(deleted == 1)
}

/// Forgets uploads whose run has ended or that have expired, and removes every own file that has no
/// row. Returns how many files went.
///
/// # Errors
/// When the database or the disk fails; what was removed until then is gone.
pub async fn sweep(pool: &PgPool, store: &Store) -> Result<usize, RunError> {
    // Listed first: the row of a file is there before it.
    let files = store.list()?;
    sqlx::query(
        "-- uploads::sweep
        DELETE FROM relevo.upload AS upload
        WHERE CASE
            WHEN run_id IS NULL THEN expires_at < now()
            ELSE EXISTS (
                SELECT 1 FROM relevo.run
                WHERE id = upload.run_id AND state NOT IN ('pending', 'running'))
        END",
    )
    .execute(pool)
    .await?;
    if files.is_empty() {
        return Ok(0);
    }
    let kept: Vec<i64> =
        sqlx::query_scalar("-- uploads::sweep\nSELECT id FROM relevo.upload WHERE id = ANY ($1)")
            .bind(&files)
            .fetch_all(pool)
            .await?;
    let mut removed = 0;
    for id in files.into_iter().filter(|id| !kept.contains(id)) {
        store.remove(id)?;
        removed += 1;
    }
    Ok(removed)
}
