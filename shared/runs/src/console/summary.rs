//! What the console's first page asks for in one statement each.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use crate::{RunId, RunState};

/// How a source stands.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct SourceSummary {
    /// Its name.
    pub source: String,
    /// Its newest run.
    pub last_run: Option<RunId>,
    /// That run's state.
    pub last_state: Option<RunState>,
    /// When that run ended.
    pub last_finished_at: Option<DateTime<Utc>>,
    /// When it last succeeded.
    pub succeeded_at: Option<DateTime<Utc>>,
    /// The run that did.
    pub succeeded_run: Option<RunId>,
}

/// How these sources of a pipeline stand, in their order.
///
/// # Errors
/// When the database fails.
pub async fn sources(
    pool: &PgPool,
    pipeline: &str,
    names: &[String],
) -> Result<Vec<SourceSummary>, sqlx::Error> {
    sqlx::query_as(
        "-- console::sources
        SELECT n.source, l.id AS last_run, l.state::text AS last_state,
               l.finished_at AS last_finished_at, s.finished_at AS succeeded_at,
               s.id AS succeeded_run
        FROM unnest($2::text[]) WITH ORDINALITY AS n (source, nth)
             LEFT JOIN LATERAL (
                 SELECT id, state, finished_at FROM relevo.run
                 WHERE pipeline = $1 AND source = n.source ORDER BY id DESC LIMIT 1
             ) AS l ON true
             LEFT JOIN LATERAL (
                 SELECT id, finished_at FROM relevo.run
                 WHERE pipeline = $1 AND source = n.source AND state = 'succeeded'
                 ORDER BY id DESC LIMIT 1
             ) AS s ON true
        ORDER BY n.nth",
    )
    .bind(pipeline)
    .bind(names)
    .fetch_all(pool)
    .await
}

/// Who leads the schedulers.
#[derive(Clone, Debug, sqlx::FromRow)]
pub struct Leader {
    /// Host, process and a random part.
    pub holder: Option<String>,
    /// Which term of office it is.
    pub term: i64,
    /// Whether the office is held now.
    pub is_held: bool,
}

/// The leading scheduler, or who led last.
///
/// # Errors
/// When the database fails.
pub async fn leader(pool: &PgPool) -> Result<Option<Leader>, sqlx::Error> {
    sqlx::query_as(
        "-- console::leader
        SELECT holder, term, expires_at > clock_timestamp() AS is_held
        FROM relevo.leader_lease WHERE name = 'scheduler'",
    )
    .fetch_optional(pool)
    .await
}
