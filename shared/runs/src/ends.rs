//! How a run ends, once, and what is noted on it afterwards.

use chrono::{DateTime, Utc};
use serde_json::Value;
use sqlx::PgConnection;

use crate::{RunError, RunId, Runs, bounded};

/// Longest error stored, in characters.
const ERROR_CHARS_MAX: usize = 20_000;

impl Runs {
    /// Ends the run with success.
    /// False when it had ended before, or is gone: then nothing has changed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn succeed_in(
        &self,
        tx: &mut PgConnection,
        id: RunId,
        stats: &Value,
        certificate: Option<&Value>,
    ) -> Result<bool, RunError> {
        let changed = sqlx::query(
            "-- Runs::succeed_in
            UPDATE relevo.run
            SET state = 'succeeded', stats = stats || $2, certificate = $3,
                started_at = coalesce(started_at, now()), finished_at = now(), updated_at = now()
            WHERE id = $1 AND state IN ('pending', 'running')",
        )
        .bind(id)
        .bind(stats)
        .bind(certificate)
        .execute(tx)
        .await?
        .rows_affected();
        Ok(changed == 1)
    }

    /// Ends the run without success; `error` says what happened and what to do.
    ///
    /// False when it had ended before, or is gone: then nothing has changed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn fail_in(
        &self,
        tx: &mut PgConnection,
        id: RunId,
        error: &str,
    ) -> Result<bool, RunError> {
        let changed = sqlx::query(
            "-- Runs::fail_in
            UPDATE relevo.run
            SET state = 'failed', error = $2, finished_at = now(), updated_at = now()
            WHERE id = $1 AND state IN ('pending', 'running')",
        )
        .bind(id)
        .bind(bounded::text(error, ERROR_CHARS_MAX))
        .execute(tx)
        .await?
        .rows_affected();
        Ok(changed == 1)
    }

    /// Ends the run as cancelled, when its handlers have stopped.
    ///
    /// False when it had ended before, or is gone: then nothing has changed.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn cancel_in(&self, tx: &mut PgConnection, id: RunId) -> Result<bool, RunError> {
        let changed = sqlx::query(
            "-- Runs::cancel_in
            UPDATE relevo.run
            SET state = 'cancelled', cancel_requested = true, finished_at = now(),
                updated_at = now()
            WHERE id = $1 AND state IN ('pending', 'running')",
        )
        .bind(id)
        .execute(tx)
        .await?
        .rows_affected();
        Ok(changed == 1)
    }

    /// Notes that the data from before a run were put back into their place; false, and nothing
    /// changed, when that was noted before or the run has put none into place.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn rolled_back_in(
        &self,
        tx: &mut PgConnection,
        id: RunId,
        at: DateTime<Utc>,
        by: &str,
    ) -> Result<bool, RunError> {
        let changed = sqlx::query(
            "-- Runs::rolled_back_in
            UPDATE relevo.run
            SET rolled_back_at = $2, rolled_back_by = $3, updated_at = now()
            WHERE id = $1 AND state = 'succeeded' AND rolled_back_at IS NULL",
        )
        .bind(id)
        .bind(at)
        .bind(bounded::text(by, 200))
        .execute(tx)
        .await?
        .rows_affected();
        Ok(changed == 1)
    }

    /// Notes that nothing of an ended run is left to clean up.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn mark_cleaned(&self, id: RunId) -> Result<(), RunError> {
        sqlx::query(
            "-- Runs::mark_cleaned
            UPDATE relevo.run SET cleaned_at = now()
            WHERE id = $1 AND finished_at IS NOT NULL AND cleaned_at IS NULL",
        )
        .bind(id)
        .execute(self.pool())
        .await?;
        Ok(())
    }
}
