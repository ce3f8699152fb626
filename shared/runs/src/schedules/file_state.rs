//! What the leading scheduler says about its configuration file: which one is in force, and what is
//! wrong with the one on disk.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};

/// The leading scheduler's configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct FileState {
    /// Where it is; none when the scheduler runs without one.
    pub path: Option<String>,
    /// When what is in force was read.
    pub loaded_at: DateTime<Utc>,
    /// Why what is on disk now, or a part of it, is not in force.
    pub problem: Option<String>,
    /// Since when.
    pub problem_at: Option<DateTime<Utc>>,
    /// Which process says so.
    pub reported_by: String,
}

/// Stores it, as the leader of `term`.
///
/// # Errors
/// Errors of the database.
pub async fn put_file_state_in(
    tx: &mut PgConnection,
    state: &FileState,
    term: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- put_schedule_file
         INSERT INTO relevo.schedule_file (path, loaded_at, problem, problem_at, reported_by, term)
         VALUES ($1, $2, $3, $4, $5, $6)
         ON CONFLICT (only_row) DO UPDATE
            SET path = excluded.path, loaded_at = excluded.loaded_at, problem = excluded.problem,
                problem_at = excluded.problem_at, reported_by = excluded.reported_by,
                term = excluded.term",
    )
    .bind(&state.path)
    .bind(state.loaded_at)
    .bind(&state.problem)
    .bind(state.problem_at)
    .bind(&state.reported_by)
    .bind(term)
    .execute(tx)
    .await
    .map(drop)
}

/// What the leader last said; none before any scheduler has led.
///
/// # Errors
/// Errors of the database.
pub async fn file_state(pool: &PgPool) -> Result<Option<FileState>, sqlx::Error> {
    sqlx::query_as(
        "-- schedule_file
         SELECT path, loaded_at, problem, problem_at, reported_by FROM relevo.schedule_file",
    )
    .fetch_optional(pool)
    .await
}
