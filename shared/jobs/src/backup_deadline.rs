//! BackupDeadline: look after a request that was not answered or failed.

use serde::{Deserialize, Serialize};

use crate::{JobKind, Payload};

/// Looks at a stored request, at its deadline or when the gateway reported a failure. Delivered:
/// nothing to do. Otherwise the request is closed, and the run asks again, then in synchronous
/// mode, then fails with a clear error.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct BackupDeadline {
    /// The run that waits.
    pub run_id: i64,
    /// The request looked at (`relevo.backup_request.id`).
    pub request_id: i64,
}

impl Payload for BackupDeadline {
    const KIND: JobKind = JobKind::BackupDeadline;
    const VERSION: i16 = 1;
    const SCHEMA: &'static str = r#"{
        "type": "object",
        "required": ["run_id", "request_id"],
        "additionalProperties": false,
        "properties": {
            "run_id": {"type": "integer", "format": "int64"},
            "request_id": {"type": "integer", "format": "int64"}
        }
    }"#;

    fn run_id(&self) -> Option<i64> {
        Some(self.run_id)
    }
}
