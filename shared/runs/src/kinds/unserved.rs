//! Jobs that no worker takes: of a kind, or a version of its payload, that none of those alive
//! knows. They are not lost: they wait for a worker that does, after a deployment that began with
//! the producers, say.

use sqlx::PgPool;

/// Read at most: more come from a fault, and the first tell what is the matter.
const FOUND_MAX: i64 = 100;

/// A kind and version that waits in a queue while no worker knows it.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Unserved {
    /// Where.
    pub queue: String,
    /// Of this kind.
    pub kind: String,
    /// In this version.
    pub payload_version: i16,
    /// The newest version that a worker knows; none where none knows the kind.
    pub known_version: Option<i16>,
}

/// The claim index is skipped through from one queue, kind and version to the next. Workers publish
/// what they know every minute.
const FIND: &str = "-- unserved_kinds
    WITH RECURSIVE waiting AS (
        (SELECT j.queue, j.kind, j.payload_version FROM relevo.job AS j
         WHERE j.state = 'available' ORDER BY j.queue, j.kind, j.payload_version LIMIT 1)
        UNION ALL
        SELECT next.queue, next.kind, next.payload_version
        FROM waiting CROSS JOIN LATERAL (
            SELECT j.queue, j.kind, j.payload_version FROM relevo.job AS j
            WHERE j.state = 'available'
              AND (j.queue, j.kind, j.payload_version)
                  > (waiting.queue, waiting.kind, waiting.payload_version)
            ORDER BY j.queue, j.kind, j.payload_version LIMIT 1
        ) AS next
    )
    SELECT w.queue, w.kind, w.payload_version, k.payload_version AS known_version
    FROM (SELECT * FROM waiting LIMIT 10000) AS w
         LEFT JOIN relevo.job_kind AS k
              ON k.name = w.kind AND k.seen_at > clock_timestamp() - interval '5 minutes'
    WHERE k.payload_version IS NULL OR k.payload_version < w.payload_version
    ORDER BY w.queue, w.kind, w.payload_version LIMIT $1";

/// What waits for a worker that knows it, at most a hundred.
///
/// # Errors
/// Database errors.
pub async fn unserved(pool: &PgPool) -> Result<Vec<Unserved>, sqlx::Error> {
    sqlx::query_as(FIND).bind(FOUND_MAX).fetch_all(pool).await
}
