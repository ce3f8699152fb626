//! Limits: how often one key may ask, and how deep a queue may get.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use sqlx::PgPool;

use crate::error::ApiError;
use crate::listen::Peer;
use crate::places::client_of;

/// How long a queue's depth is believed.
const DEPTH_LIFE: Duration = Duration::from_secs(1);
/// How soon to come again when a queue is full.
const DEPTH_RETRY_AFTER_SECONDS: u64 = 2;
/// Queues whose depth is remembered at once; names are free text to whoever enqueues.
const DEPTHS_MAX: usize = 1_000;

/// A token bucket per API key, holding one second's worth of the rate that holds at each request.
#[derive(Debug, Default)]
pub(crate) struct RateLimit {
    buckets: Mutex<HashMap<i64, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled_at: Instant,
}

impl RateLimit {
    /// Takes a token of a key's bucket, or says how long until there is one; 0 per second is no
    /// limit.
    ///
    /// Keys are few, made by an administrator, so their buckets are never cleared away.
    fn take(&self, key_id: i64, per_second: u32, now: Instant) -> Result<(), Duration> {
        let per_second = f64::from(per_second);
        if per_second == 0.0 {
            return Ok(());
        }
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let full = Bucket { tokens: per_second, filled_at: now };
        let bucket = buckets.entry(key_id).or_insert(full);
        let gained = now.saturating_duration_since(bucket.filled_at).as_secs_f64() * per_second;
        bucket.tokens = (bucket.tokens + gained).min(per_second);
        bucket.filled_at = now;
        if bucket.tokens >= 1.0 {
            bucket.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - bucket.tokens) / per_second))
    }

    /// Refuses a request of a key that asks too often.
    pub(crate) fn check(&self, key_id: i64, per_second: u32) -> Result<(), ApiError> {
        self.take(key_id, per_second, Instant::now()).map_err(|wait| {
            ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                format!(
                    "this API key may ask {per_second} times a second (api.rate_limit_per_second); \
                     many jobs fit into one request to /api/v1/jobs/batch"
                ),
            )
            .retry_after(wait.as_secs() + 1)
        })
    }
}

/// The depth of queues, asked for at most once a second each.
#[derive(Debug, Default)]
pub(crate) struct DepthLimit {
    depths: Mutex<HashMap<String, (u64, Instant)>>,
}

impl DepthLimit {
    /// Refuses an enqueue into a queue that was full within the last second: one that holds `max`
    /// waiting jobs or more; 0 is no limit.
    pub(crate) async fn check(&self, pool: &PgPool, queue: &str, max: u64) -> Result<(), ApiError> {
        if self.is_full(pool, queue, max).await? { Err(Self::refusal(max)) } else { Ok(()) }
    }

    /// Whether a queue was full within the last second.
    pub(crate) async fn is_full(
        &self,
        pool: &PgPool,
        queue: &str,
        max: u64,
    ) -> Result<bool, ApiError> {
        // A name that no queue can have is the queue's to refuse; the database could not be asked.
        let asks = max > 0 && !queue.contains('\0');
        Ok(asks && self.depth(pool, queue, max).await? >= max)
    }

    /// Why nothing is enqueued into a full queue.
    pub(crate) fn refusal(max: u64) -> ApiError {
        ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "queue_full",
            format!("{max} jobs or more wait in this queue (api.queue_depth_max)"),
        )
        .with("queue_depth_max", max)
        .retry_after(DEPTH_RETRY_AFTER_SECONDS)
    }

    async fn depth(&self, pool: &PgPool, queue: &str, max: u64) -> Result<u64, ApiError> {
        {
            let mut depths = self.depths.lock().unwrap_or_else(PoisonError::into_inner);
            match depths.get_mut(queue) {
                Some((depth, asked)) if asked.elapsed() < DEPTH_LIFE => return Ok(*depth),
                // Whoever comes meanwhile goes by the old figure instead of asking too.
                Some((_, asked)) => *asked = Instant::now(),
                None => {}
            }
        }
        let depth = count(pool, queue, max).await?;
        let mut depths = self.depths.lock().unwrap_or_else(PoisonError::into_inner);
        if depths.len() >= DEPTHS_MAX {
            depths.clear();
        }
        depths.insert(queue.to_owned(), (depth, Instant::now()));
        Ok(depth)
    }
}

/// Jobs that wait in a queue, now or for a later moment, counted no further than `max`. A job takes
/// more than 128 bytes, so a small table cannot hold `max` of them and nothing is counted; else the
/// indexes of what can be claimed and of what falls due are read.
async fn count(pool: &PgPool, queue: &str, max: u64) -> Result<u64, sqlx::Error> {
    let depth: i64 = sqlx::query_scalar(
        "-- queue_depth
        SELECT CASE WHEN pg_relation_size('relevo.job') / 128 < $2 THEN 0 ELSE (
            SELECT count(*) FROM (
                (SELECT 1 FROM relevo.job WHERE queue = $1 AND state = 'available' LIMIT $2)
                UNION ALL
                (SELECT 1 FROM relevo.job
                 WHERE queue = $1 AND state IN ('scheduled', 'retryable') LIMIT $2)
                UNION ALL
                (SELECT 1 FROM relevo.job WHERE queue = $1 AND state = 'waiting' LIMIT $2)
                LIMIT $2
            ) AS waiting
        ) END",
    )
    .bind(queue)
    .bind(i64::try_from(max).unwrap_or(i64::MAX))
    .fetch_one(pool)
    .await?;
    Ok(depth.unsigned_abs())
}

/// Addresses remembered at once.
const ADDRESSES_MAX: usize = 10_000;

/// How often one client may show a wrong key. A key cannot be guessed; this keeps those who try
/// from costing a query each. Without an address, all share one bucket.
#[derive(Debug)]
pub(crate) struct FailureLimit {
    /// Failures in a row.
    burst: f64,
    /// Further ones each second.
    per_second: f64,
    buckets: Mutex<HashMap<Option<IpAddr>, Bucket>>,
}

impl FailureLimit {
    /// For people at the console's form.
    pub(crate) fn of_log_ins() -> Self {
        Self { burst: 10.0, per_second: 1.0 / 6.0, buckets: Mutex::default() }
    }

    /// For programs: many may stand behind one proxy, and one whose key was just revoked goes on
    /// asking.
    pub(crate) fn of_keys() -> Self {
        Self { burst: 200.0, per_second: 5.0, buckets: Mutex::default() }
    }

    /// Whether this address may try once more.
    pub(crate) fn may_try(&self, peer: Option<Peer>) -> bool {
        self.left(peer, Instant::now(), 0.0) >= 1.0
    }

    /// Notes an attempt that failed.
    pub(crate) fn failed(&self, peer: Option<Peer>) {
        self.left(peer, Instant::now(), 1.0);
    }

    /// Attempts left, after so many were taken.
    fn left(&self, peer: Option<Peer>, now: Instant, taken: f64) -> f64 {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= ADDRESSES_MAX {
            buckets.clear();
        }
        let full = Bucket { tokens: self.burst, filled_at: now };
        let bucket = buckets.entry(peer.map(|Peer(address)| client_of(address))).or_insert(full);
        let gained =
            now.saturating_duration_since(bucket.filled_at).as_secs_f64() * self.per_second;
        bucket.tokens = (bucket.tokens + gained).min(self.burst) - taken;
        bucket.filled_at = now;
        bucket.tokens
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_a_second_and_fills_evenly() {
        let limit = RateLimit::default();
        let take = |key, now| limit.take(key, 10, now);
        let start = Instant::now();
        for _ in 0..10 {
            assert_eq!(take(1, start), Ok(()));
        }
        let wait = take(1, start).unwrap_err();
        assert!(wait > Duration::from_millis(90) && wait < Duration::from_millis(110), "{wait:?}");
        assert_eq!(take(2, start), Ok(()), "each key has its own");
        let later = start + Duration::from_millis(150);
        assert_eq!(take(1, later), Ok(()));
        assert!(take(1, later).is_err());
        let much_later = start + Duration::from_secs(3_600);
        let passed = (0..20).filter(|_| take(1, much_later).is_ok()).count();
        assert_eq!(passed, 10, "a long silence saves up no more than a second");
    }

    #[test]
    fn an_address_that_fails_too_often_waits() {
        let limit = FailureLimit::of_log_ins();
        let peer = |address: [u8; 4]| Some(Peer(IpAddr::from(address)));
        let (one, two) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let start = Instant::now();
        for _ in 0..10 {
            assert!(limit.left(peer(one), start, 0.0) >= 1.0);
            limit.left(peer(one), start, 1.0);
        }
        assert!(limit.left(peer(one), start, 0.0) < 1.0);
        assert!(limit.left(peer(two), start, 0.0) >= 1.0, "each has its own");
        assert!(limit.left(peer(one), start + Duration::from_secs(7), 0.0) >= 1.0);
    }

    #[test]
    fn zero_is_no_limit() {
        let limit = RateLimit::default();
        let now = Instant::now();
        assert!((0..1_000).all(|_| limit.take(1, 0, now).is_ok()));
    }

    #[test]
    fn a_changed_rate_holds_from_the_next_request() {
        let limit = RateLimit::default();
        let now = Instant::now();
        assert!((0..1_000).all(|_| limit.take(1, 1_000, now).is_ok()));
        assert!(limit.take(1, 1_000, now).is_err());
        let later = now + Duration::from_secs(1);
        assert_eq!((0..20).filter(|_| limit.take(1, 5, later).is_ok()).count(), 5);
    }
}
