//! What went through lately: how many jobs ended, how long they waited and ran, by queue and kind.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use sqlx::postgres::types::PgInterval;
use sqlx::types::Json;

use crate::QueueError;

/// The most ended jobs that are read: the newest ones. It bounds the work on a busy queue, whose
/// last minutes then stand for the whole time asked for.
const SAMPLE_MAX: i64 = 100_000;

/// Jobs of one queue and kind that ended since a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Throughput {
    /// Where they waited.
    pub queue: String,
    /// What they were.
    pub kind: String,
    /// How many completed.
    pub completed: i64,
    /// How many were cancelled.
    pub cancelled: i64,
    /// How many of them needed more than one attempt.
    pub retried: i64,
    /// Median of the time from being due to the last claim, in milliseconds; none where no worker
    /// ever took one.
    pub wait_p50_ms: Option<f64>,
    /// The same for 95 of 100.
    pub wait_p95_ms: Option<f64>,
    /// Median of the last attempt's length, in milliseconds.
    pub run_p50_ms: Option<f64>,
    /// The same for 95 of 100.
    pub run_p95_ms: Option<f64>,
}

/// What ended lately.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lately {
    /// The figures are of the time from this moment on: the moment asked for, or a later one where
    /// more jobs ended than are read.
    pub since: DateTime<Utc>,
    /// When they were read, by the database's clock.
    pub until: DateTime<Utc>,
    /// By queue and kind.
    pub kinds: Vec<Throughput>,
}

impl Lately {
    /// Seconds that the figures are of; never 0.
    pub fn seconds(&self) -> f64 {
        (self.until - self.since).as_seconds_f64().max(0.001)
    }
}

pub(crate) async fn lately(pool: &PgPool, window: Duration) -> Result<Lately, QueueError> {
    let window = PgInterval::try_from(window)
        .map_err(|_| QueueError::InvalidJob("the time to look back is too long".to_owned()))?;
    // Inside stands the day alone, so that the walk through the index ends at its limit: every row
    // of those partitions fits.
    let (since, until, kinds): (_, _, Json<Vec<Throughput>>) = sqlx::query_as(
        "-- throughput
         WITH newest AS MATERIALIZED (
             SELECT queue, kind, state, attempt, run_at, claimed_at, finished_at
             FROM relevo.job_history
             WHERE finished_at >= date_trunc('day', now() - $1, 'UTC')
             ORDER BY id DESC LIMIT $2
         ), span AS (
             SELECT CASE WHEN count(*) < $2 THEN now() - $1
                         ELSE greatest(now() - $1, min(finished_at)) END AS since
             FROM newest
         ), lengths AS (
             SELECT queue, kind, state, attempt,
                    CASE WHEN claimed_at IS NOT NULL
                         THEN 1000 * greatest(extract(epoch FROM claimed_at - run_at), 0)::float8
                    END AS wait_ms,
                    1000 * extract(epoch FROM finished_at - claimed_at)::float8 AS run_ms
             FROM newest WHERE finished_at > now() - $1
         ), kinds AS (
             SELECT queue, kind,
                    count(*) FILTER (WHERE state = 'completed') AS completed,
                    count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
                    count(*) FILTER (WHERE attempt > 1) AS retried,
                    percentile_cont(0.5) WITHIN GROUP (ORDER BY wait_ms) AS wait_p50_ms,
                    percentile_cont(0.95) WITHIN GROUP (ORDER BY wait_ms) AS wait_p95_ms,
                    percentile_cont(0.5) WITHIN GROUP (ORDER BY run_ms) AS run_p50_ms,
                    percentile_cont(0.95) WITHIN GROUP (ORDER BY run_ms) AS run_p95_ms
             FROM lengths GROUP BY queue, kind
         )
         SELECT span.since, now(),
                (SELECT coalesce(jsonb_agg(kinds ORDER BY queue, kind), '[]') FROM kinds)
         FROM span",
    )
    .bind(window)
    .bind(SAMPLE_MAX)
    .fetch_one(pool)
    .await?;
    Ok(Lately { since, until, kinds: kinds.0 })
}
