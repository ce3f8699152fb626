//! Noop: a job that does nothing, for tests and benchmarks of the queue.

use serde::{Deserialize, Serialize};

use crate::{JobKind, Payload};

/// Does nothing; on request it takes its time or fails.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Noop {
    /// Milliseconds to wait before the end; a cancel or drain cuts the wait short.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sleep_ms: u32,
    /// Ends with this failure instead of success.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fail: Option<NoopFailure>,
    /// Tells apart jobs that are otherwise equal, for whoever enqueues them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<i64>,
}

/// How a [`Noop`] fails.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NoopFailure {
    /// Every attempt fails; the job is retried until its attempts are spent.
    Retry,
    /// The first attempt fails, the second succeeds.
    Once,
    /// Fails for good at the first attempt.
    Fatal,
    /// The handler panics.
    Panic,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants a function of a reference")]
const fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Payload for Noop {
    const KIND: JobKind = JobKind::Noop;
    const VERSION: i16 = 1;
    const SCHEMA: &'static str = r#"{
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "sleep_ms": {"type": "integer", "format": "int64", "minimum": 0, "maximum": 4294967295, "default": 0},
            "fail": {"type": ["string", "null"], "enum": ["retry", "once", "fatal", "panic", null]},
            "tag": {"type": ["integer", "null"], "format": "int64"}
        }
    }"#;

    fn run_id(&self) -> Option<i64> {
        None
    }
}
