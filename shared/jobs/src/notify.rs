//! Notify: tell people how a run ended.

use serde::{Deserialize, Serialize};

use crate::{JobKind, Payload};

/// Reads how the run ended and tells it, with the statistics, to the log and to the configured
/// webhook.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// The run to report.
    pub run_id: i64,
}

impl Payload for Notify {
    const KIND: JobKind = JobKind::Notify;
    const VERSION: i16 = 1;
    const SCHEMA: &'static str = r#"{
        "type": "object",
        "required": ["run_id"],
        "additionalProperties": false,
        "properties": {
            "run_id": {"type": "integer", "format": "int64"}
        }
    }"#;

    fn run_id(&self) -> Option<i64> {
        Some(self.run_id)
    }
}
