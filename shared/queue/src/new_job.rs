//! What a producer hands in.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::text_enum::text_enum;
use crate::{BatchId, JobId, QueueError};

/// A payload carries references, not data: whoever wants to move a megabyte wants a file.
pub(crate) const PAYLOAD_SIZE_BYTES_MAX: usize = 1024 * 1024;
const NAME_LENGTH_MAX: usize = 100;
const KEY_LENGTH_MAX: usize = 500;
const DELAY_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// A job about to be enqueued.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Its type, 1 to 100 characters. The queue attaches no meaning to it.
    pub kind: String,
    /// Its arguments: JSON, at most 1 MiB, without `\u0000`.
    pub payload: Box<RawValue>,
    /// Version of the payload's shape, from 1. Workers claim only versions they know.
    pub payload_version: i16,
    /// Where it waits, 1 to 100 characters.
    pub queue: String,
    /// Higher is claimed first.
    pub priority: i16,
    /// Not before this time, by the database's clock; none means now.
    pub run_at: Option<DateTime<Utc>>,
    /// Added to `run_at`, or to the database's present time where that is none.
    pub delay: Option<Duration>,
    /// The attempt whose failure makes it a dead letter, from 1.
    pub max_attempts: i32,
    /// The number of workers dying under it that makes it poison, from 1.
    pub max_deaths: i16,
    /// Same key, same job, until the key expires.
    pub idempotency_key: Option<IdempotencyKey>,
    /// No second unfinished (or unclaimed) job with this key.
    pub unique: Option<Unique>,
    /// The open batch it becomes a member of.
    pub batch_id: Option<BatchId>,
    /// Opaque correlation id, to filter by.
    pub run_id: Option<i64>,
    /// W3C trace context of the enqueuer.
    pub traceparent: Option<String>,
    /// Jobs with the same key run one at a time, in the order in which they were enqueued.
    pub ordering: Option<Ordering>,
    /// The limit it is under, 1 to 100 characters, see [`Limit`](crate::Limit).
    pub limit_key: Option<String>,
}

/// One job at a time, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ordering {
    /// 1 to 500 characters, global: prefix it with what it is about.
    pub key: String,
    /// What this job's death means to those behind it.
    pub on_dead: OnDead,
}

/// What a dead letter means to the jobs behind it with the same ordering key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnDead {
    /// They wait until somebody retries or discards it.
    Block,
    /// They go on without it.
    Skip,
}

text_enum!(OnDead, "policy for a dead job in a line", {
    Block => "block",
    Skip => "skip",
});

/// A key that makes repeated enqueues have one effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdempotencyKey {
    /// 1 to 500 characters, global: prefix it with what it is about.
    pub key: String,
    /// For how long repeats are recognised, from the first enqueue.
    pub ttl: Duration,
}

/// A key that at most one waiting (or unfinished) job holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unique {
    /// 1 to 500 characters, global: prefix it with what it is about.
    pub key: String,
    /// How long the job holds it.
    pub scope: UniqueScope,
}

/// How long a job holds its unique key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UniqueScope {
    /// Until a worker claims it: an event during the run enqueues the next run.
    Claimed,
    /// Until it ends: never two at once, through retries.
    Finished,
}

text_enum!(UniqueScope, "scope of a unique key", {
    Claimed => "claimed",
    Finished => "finished",
});

/// What a dead member means to its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailedMemberPolicy {
    /// It has ended: the batch completes without it.
    Complete,
    /// It blocks the batch until somebody retries or discards it.
    Wait,
}

text_enum!(FailedMemberPolicy, "policy for failed members", {
    Complete => "complete",
    Wait => "wait",
});

/// The answer to an enqueue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Enqueued {
    /// The job: the new one, or the first one with the same key.
    pub id: JobId,
    /// Nothing was enqueued: a job with the same key was there.
    pub duplicate: bool,
}

impl NewJob {
    /// A job of `kind` on the queue `default`: version 1, priority 0, 25 attempts, 3 deaths, now.
    ///
    /// # Errors
    /// When the payload cannot be written as JSON.
    pub fn new(
        kind: impl Into<String>,
        payload: &(impl Serialize + ?Sized),
    ) -> Result<Self, serde_json::Error> {
        Ok(Self::from_raw(kind, serde_json::value::to_raw_value(payload)?))
    }

    /// The same, with a payload that is JSON already.
    pub fn from_raw(kind: impl Into<String>, payload: Box<RawValue>) -> Self {
        Self {
            kind: kind.into(),
            payload,
            payload_version: 1,
            queue: "default".to_owned(),
            priority: 0,
            run_at: None,
            delay: None,
            max_attempts: 25,
            max_deaths: 3,
            idempotency_key: None,
            unique: None,
            batch_id: None,
            run_id: None,
            traceparent: None,
            ordering: None,
            limit_key: None,
        }
    }

    /// Sets the version of the payload's shape.
    #[must_use]
    pub fn payload_version(mut self, payload_version: i16) -> Self {
        self.payload_version = payload_version;
        self
    }

    /// Sets the queue.
    #[must_use]
    pub fn queue(mut self, queue: impl Into<String>) -> Self {
        self.queue = queue.into();
        self
    }

    /// Sets the priority; higher is claimed first.
    #[must_use]
    pub fn priority(mut self, priority: i16) -> Self {
        self.priority = priority;
        self
    }

    /// Not before this time.
    #[must_use]
    pub fn run_at(mut self, run_at: DateTime<Utc>) -> Self {
        self.run_at = Some(run_at);
        self
    }

    /// Not before so much later, by the database's clock.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = Some(delay);
        self
    }

    /// Sets the number of attempts.
    #[must_use]
    pub fn max_attempts(mut self, max_attempts: i32) -> Self {
        self.max_attempts = max_attempts;
        self
    }

    /// Sets the number of deaths that make it poison.
    #[must_use]
    pub fn max_deaths(mut self, max_deaths: i16) -> Self {
        self.max_deaths = max_deaths;
        self
    }

    /// Same key, same job, for `ttl`.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>, ttl: Duration) -> Self {
        self.idempotency_key = Some(IdempotencyKey { key: key.into(), ttl });
        self
    }

    /// No second job with this key within `scope`.
    #[must_use]
    pub fn unique(mut self, key: impl Into<String>, scope: UniqueScope) -> Self {
        self.unique = Some(Unique { key: key.into(), scope });
        self
    }

    /// Makes it a member of an open batch.
    #[must_use]
    pub fn batch_id(mut self, batch_id: BatchId) -> Self {
        self.batch_id = Some(batch_id);
        self
    }

    /// Sets the correlation id.
    #[must_use]
    pub fn run_id(mut self, run_id: i64) -> Self {
        self.run_id = Some(run_id);
        self
    }

    /// Sets the W3C trace context.
    #[must_use]
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.traceparent = Some(traceparent.into());
        self
    }

    /// After every unfinished job with this key that was enqueued before, and before those after.
    #[must_use]
    pub fn ordering_key(mut self, key: impl Into<String>, on_dead: OnDead) -> Self {
        self.ordering = Some(Ordering { key: key.into(), on_dead });
        self
    }

    /// Puts it under a limit.
    #[must_use]
    pub fn limit_key(mut self, limit: impl Into<String>) -> Self {
        self.limit_key = Some(limit.into());
        self
    }

    /// Refuses a name no queue can have.
    pub(crate) fn check_queue(name: &str) -> Result<(), QueueError> {
        check_name("queue", name)
    }

    /// Refuses what the database would refuse, before a whole statement fails for one job.
    pub(crate) fn validate(&self) -> Result<(), QueueError> {
        check_name("queue", &self.queue)?;
        check_name("kind", &self.kind)?;
        let payload = self.payload.get();
        if payload.len() > PAYLOAD_SIZE_BYTES_MAX {
            return Err(QueueError::InvalidJob(format!(
                "the payload has {} bytes, at most {PAYLOAD_SIZE_BYTES_MAX} are taken",
                payload.len()
            )));
        }
        if holds_escaped_nul(payload) {
            return Err(QueueError::InvalidJob(
                "the payload holds \\u0000, which jsonb cannot store".to_owned(),
            ));
        }
        if self.payload_version < 1 || self.max_attempts < 1 || self.max_deaths < 1 {
            return Err(QueueError::InvalidJob(
                "payload_version, max_attempts and max_deaths start at 1".to_owned(),
            ));
        }
        if self.delay.is_some_and(|delay| delay > DELAY_MAX) {
            return Err(QueueError::InvalidJob("the delay exceeds ten years".to_owned()));
        }
        if let Some(key) = &self.idempotency_key {
            check_key("idempotency key", &key.key)?;
            if key.ttl.is_zero() || key.ttl > DELAY_MAX {
                return Err(QueueError::InvalidJob(
                    "an idempotency key lives more than nothing and at most ten years".to_owned(),
                ));
            }
        }
        if let Some(unique) = &self.unique {
            check_key("unique key", &unique.key)?;
        }
        if let Some(ordering) = &self.ordering {
            check_key("ordering key", &ordering.key)?;
        }
        if let Some(limit) = &self.limit_key {
            check_name("limit", limit)?;
        }
        if self.traceparent.as_ref().is_some_and(|text| text.len() > 200 || text.contains('\0')) {
            return Err(QueueError::InvalidJob("the traceparent is not one".to_owned()));
        }
        Ok(())
    }
}

pub(crate) fn check_name(what: &str, name: &str) -> Result<(), QueueError> {
    // Bytes bound characters from above; counting them is for the rare long name.
    let fits = !name.is_empty()
        && (name.len() <= NAME_LENGTH_MAX || name.chars().count() <= NAME_LENGTH_MAX);
    if fits && !name.contains('\0') {
        return Ok(());
    }
    Err(QueueError::InvalidJob(format!(
        "a {what}'s name has 1 to {NAME_LENGTH_MAX} characters, none of them NUL"
    )))
}

fn check_key(what: &str, key: &str) -> Result<(), QueueError> {
    let fits =
        !key.is_empty() && (key.len() <= KEY_LENGTH_MAX || key.chars().count() <= KEY_LENGTH_MAX);
    if fits && !key.contains('\0') {
        return Ok(());
    }
    Err(QueueError::InvalidJob(format!(
        "an {what} has 1 to {KEY_LENGTH_MAX} characters, none of them NUL"
    )))
}

/// Whether JSON text holds the escape `\u0000` (an escaped backslash before `u0000` is another
/// thing).
fn holds_escaped_nul(json: &str) -> bool {
    json.match_indices("\\u0000").any(|(at, _)| {
        let backslashes = json.as_bytes()[..at].iter().rev().take_while(|byte| **byte == b'\\');
        backslashes.count() % 2 == 0
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_escaped_nul_is_seen_and_an_escaped_backslash_is_not_mistaken_for_it() {
        assert!(holds_escaped_nul(r#"{"a":"\u0000"}"#));
        assert!(holds_escaped_nul(r#"{"a":"\\\u0000"}"#));
        assert!(!holds_escaped_nul(r#"{"a":"\\u0000"}"#));
        assert!(!holds_escaped_nul(r#"{"a":"u0000"}"#));
    }

    #[test]
    fn what_the_database_would_refuse_is_refused_with_a_reason() {
        let job = || NewJob::new("k", &1).expect("a number is JSON");
        assert!(job().validate().is_ok());
        assert!(job().queue("").validate().is_err());
        assert!(job().queue("q".repeat(101)).validate().is_err());
        assert!(job().queue("ñ".repeat(100)).validate().is_ok());
        assert!(job().queue("a\0b").validate().is_err());
        assert!(job().max_attempts(0).validate().is_err());
        assert!(job().payload_version(0).validate().is_err());
        assert!(job().idempotency_key("k", Duration::ZERO).validate().is_err());
        assert!(job().unique("", UniqueScope::Finished).validate().is_err());
        assert!(job().delay(Duration::MAX).validate().is_err());
    }
}
