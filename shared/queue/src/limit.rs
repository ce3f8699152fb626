//! Limits: how many jobs that name one may be under way, and how many may begin within a period.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::postgres::types::PgInterval;
use sqlx::{PgConnection, PgPool, Row as _};

use crate::QueueError;
use crate::new_job::check_name;

/// The longest period: what was claimed within it is kept and counted.
const PERIOD_MAX: Duration = Duration::from_secs(31 * 24 * 3600);

/// Each claim within the period is a row that admissions read.
const RATE_MAX: u32 = 100_000;

/// Waiting jobs are counted no further, so that a list costs the same however many wait.
const WAITING_MAX: i64 = 100_000;

const SET: &str = "-- set_limit
    INSERT INTO relevo.job_limit (name, concurrency, rate, period) VALUES ($1, $2, $3, $4)
    ON CONFLICT (name) DO UPDATE
        SET concurrency = excluded.concurrency, rate = excluded.rate, period = excluded.period,
            updated_at = now()";

const REMOVE: &str = "-- remove_limit
    DELETE FROM relevo.job_limit WHERE name = $1";

const LIST: &str = "-- list_limits
    SELECT l.name, l.concurrency, l.rate, extract(epoch FROM l.period)::float8 AS period_seconds,
           l.updated_at,
           (SELECT count(*) FROM relevo.job AS j
            WHERE j.limit_key = l.name AND j.state IN ('available', 'running')) AS live,
           (SELECT count(*) FROM (
                SELECT 1 FROM relevo.job AS j
                WHERE j.limit_key = l.name AND j.state = 'waiting'
                  AND (j.ordering_key IS NULL OR j.in_turn) LIMIT $1) AS w) AS waiting,
           (SELECT coalesce(sum(u.jobs), 0)::bigint FROM relevo.limit_use AS u
            WHERE u.limit_key = l.name AND u.started_at > now() - l.period) AS begun
    FROM relevo.job_limit AS l ORDER BY l.name";

/// What is older than its limit's period, or has no limit with a rate any more.
pub(crate) const PRUNE_USE: &str = "-- prune_limit_use
    DELETE FROM relevo.limit_use WHERE ctid = ANY (ARRAY (
        SELECT u.ctid FROM relevo.limit_use AS u
             LEFT JOIN relevo.job_limit AS l ON l.name = u.limit_key
        WHERE l.period IS NULL OR u.started_at <= now() - l.period
        LIMIT 5000))";

/// A limit that jobs name: over all queues and kinds, so that it can be the budget of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// 1 to 100 characters.
    pub name: String,
    /// At most so many of its jobs are claimable or running; none at all with 0.
    pub concurrency: Option<u32>,
    /// At most so many of its jobs begin within any period.
    pub rate: Option<Rate>,
}

/// So many within any such time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// 1 to 100,000; each attempt counts.
    pub jobs: u32,
    /// A millisecond to 31 days, by the database's clock.
    pub period: Duration,
}

/// A limit as it stands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LimitView {
    /// Its name.
    pub name: String,
    /// At most so many at once.
    pub concurrency: Option<u32>,
    /// At most so many within any period.
    pub rate: Option<u32>,
    /// The period of the rate, in seconds.
    pub period_seconds: Option<f64>,
    /// Jobs that take up room: claimable or running.
    pub live: u64,
    /// Jobs that wait for room, counted up to 100,000.
    pub waiting: u64,
    /// Jobs that began within the last period; 0 without a rate.
    pub begun: u64,
    /// When it was last set.
    pub updated_at: DateTime<Utc>,
}

impl Limit {
    fn validate(&self) -> Result<(), QueueError> {
        check_name("limit", &self.name)?;
        let refuse = |what: &str| Err(QueueError::InvalidLimit(what.to_owned()));
        if self.concurrency.is_none() && self.rate.is_none() {
            return refuse("it limits nothing: give a concurrency, a rate or both");
        }
        if self.concurrency.is_some_and(|jobs| i32::try_from(jobs).is_err()) {
            return refuse("the concurrency is too large");
        }
        if let Some(rate) = self.rate {
            if !(1..=RATE_MAX).contains(&rate.jobs) {
                return refuse("a rate is 1 to 100,000 jobs");
            }
            if rate.period < Duration::from_millis(1) || rate.period > PERIOD_MAX {
                return refuse("the period of a rate is a millisecond to 31 days");
            }
        }
        Ok(())
    }
}

/// Sets a limit, in place of one with the same name. Jobs admitted before keep their admission.
pub(crate) async fn set(connection: &mut PgConnection, limit: &Limit) -> Result<(), QueueError> {
    limit.validate()?;
    let integer = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
    let period = limit.rate.map(|rate| PgInterval {
        months: 0,
        days: 0,
        microseconds: i64::try_from(rate.period.as_micros()).unwrap_or(i64::MAX),
    });
    sqlx::query(SET)
        .bind(&limit.name)
        .bind(limit.concurrency.map(integer))
        .bind(limit.rate.map(|rate| integer(rate.jobs)))
        .bind(period)
        .execute(connection)
        .await?;
    Ok(())
}

/// False when there was none. Nothing holds its jobs back from then on.
pub(crate) async fn remove(connection: &mut PgConnection, name: &str) -> Result<bool, QueueError> {
    let removed = sqlx::query(REMOVE).bind(name).execute(connection).await?;
    Ok(removed.rows_affected() > 0)
}

pub(crate) async fn list(pool: &PgPool) -> Result<Vec<LimitView>, QueueError> {
    let unsigned = |number: Option<i32>| number.map(i32::unsigned_abs);
    sqlx::query(LIST)
        .bind(WAITING_MAX)
        .fetch_all(pool)
        .await?
        .iter()
        .map(|row| {
            Ok(LimitView {
                name: row.try_get("name")?,
                concurrency: unsigned(row.try_get("concurrency")?),
                rate: unsigned(row.try_get("rate")?),
                period_seconds: row.try_get("period_seconds")?,
                live: row.try_get::<i64, _>("live")?.unsigned_abs(),
                waiting: row.try_get::<i64, _>("waiting")?.unsigned_abs(),
                begun: row.try_get::<i64, _>("begun")?.unsigned_abs(),
                updated_at: row.try_get("updated_at")?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_limits_something_and_within_bounds() {
        let limit = |concurrency, rate| Limit { name: "l".to_owned(), concurrency, rate };
        let rate = |jobs, seconds| Some(Rate { jobs, period: Duration::from_secs(seconds) });
        assert!(limit(Some(0), None).validate().is_ok());
        assert!(limit(Some(3), rate(10, 60)).validate().is_ok());
        assert!(limit(None, None).validate().is_err());
        assert!(limit(Some(u32::MAX), None).validate().is_err());
        assert!(limit(None, rate(0, 1)).validate().is_err());
        assert!(limit(None, rate(1, 0)).validate().is_err());
        assert!(limit(None, rate(1, 32 * 24 * 3600)).validate().is_err());
        assert!(Limit { name: String::new(), ..limit(Some(1), None) }.validate().is_err());
    }
}
