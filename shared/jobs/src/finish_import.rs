//! FinishImport: from a loaded staging schema to live tables.

use serde::{Deserialize, Serialize};

use crate::{JobKind, Payload};

/// Completes an import whose chunks have all ended: chunks that the target's ledger misses are
/// enqueued again (in a new batch, whose completion is the next round of this job); when none is
/// missing, indexes, keys and identities are built, rows verified, the tables cut over, and the
/// run ends with its certificate.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct FinishImport {
    /// The run to finish.
    pub run_id: i64,
    /// The request whose dump was loaded.
    pub request_id: i64,
    /// Counted from 1; rises each time missing chunks are enqueued again, and is bounded.
    #[serde(default = "first")]
    pub round: i32,
}

const fn first() -> i32 {
    1
}

impl Payload for FinishImport {
    const KIND: JobKind = JobKind::FinishImport;
    const VERSION: i16 = 1;
    const SCHEMA: &'static str = r#"{
        "type": "object",
        "required": ["run_id", "request_id"],
        "additionalProperties": false,
        "properties": {
            "run_id": {"type": "integer", "format": "int64"},
            "request_id": {"type": "integer", "format": "int64"},
            "round": {"type": "integer", "format": "int32", "minimum": -2147483648, "maximum": 2147483647, "default": 1}
        }
    }"#;

    fn run_id(&self) -> Option<i64> {
        Some(self.run_id)
    }
}
