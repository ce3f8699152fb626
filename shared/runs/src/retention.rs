//! Forgetting what is old: ended runs with all that belongs to them, and the audit log.
//!
//! Killed here, then what? Every round is one statement; the next pass goes on with the rest.

use std::time::Duration;

use sqlx::PgPool;

/// Rows a statement deletes at most, so that none holds its locks for long.
const ROUND: i64 = 500;

/// Rounds of a pass: what is left waits for the next one.
const ROUNDS_MAX: usize = 100;

/// For how long things are kept.
#[derive(Clone, Copy, Debug)]
pub struct Keep {
    /// Ended runs, with their log and certificate, the gateway's requests and their tokens. The
    /// newest succeeded run of each source stays for ever: its certificate is what the next import
    /// is compared with, and it is the one that can be rolled back.
    pub runs: Duration,
    /// Lines of the audit log.
    pub audit: Duration,
}

/// Deletes what is older than it has to be kept, by the database's clock; says how many runs and
/// lines of the audit log went. A run that is not cleaned up yet stays until it is.
///
/// # Errors
/// When the database fails; what was deleted until then is gone.
pub async fn prune(pool: &PgPool, keep: Keep) -> Result<u64, sqlx::Error> {
    // A log, requests and tokens go with their run, by their foreign keys.
    let runs = "-- retention::prune_runs
        DELETE FROM relevo.run
        WHERE id IN (
            SELECT id FROM relevo.run AS old
            WHERE cleaned_at IS NOT NULL AND finished_at < now() - make_interval(secs => $1)
              -- The newest succeeded one of its source stays.
              AND (state <> 'succeeded' OR EXISTS (
                      SELECT FROM relevo.run AS newer
                      WHERE newer.pipeline = old.pipeline AND newer.source = old.source
                        AND newer.state = 'succeeded' AND newer.id > old.id))
            ORDER BY finished_at LIMIT $2
        )";
    let audit = "-- retention::prune_audit
        DELETE FROM relevo.audit
        WHERE id IN (
            SELECT id FROM relevo.audit WHERE at < now() - make_interval(secs => $1)
            ORDER BY id LIMIT $2
        )";
    Ok(rounds(pool, runs, keep.runs).await? + rounds(pool, audit, keep.audit).await?)
}

async fn rounds(pool: &PgPool, statement: &'static str, age: Duration) -> Result<u64, sqlx::Error> {
    let mut gone = 0;
    for _ in 0..ROUNDS_MAX {
        let deleted =
            sqlx::query(statement).bind(age.as_secs_f64()).bind(ROUND).execute(pool).await?;
        gone += deleted.rows_affected();
        if deleted.rows_affected() < ROUND.unsigned_abs() {
            break;
        }
    }
    Ok(gone)
}
