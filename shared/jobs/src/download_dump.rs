//! DownloadDump: fetch the dump and cut it into chunks.

use serde::{Deserialize, Serialize};

use crate::{JobKind, Payload};

/// Fetches the dump that a delivered request names, with resume; while bytes arrive they are
/// gunzipped, cut at row boundaries into chunks and checked; the staging tables are created as
/// their definitions pass; each chunk becomes a [`crate::TranslateChunk`] job in the run's batch,
/// whose completion is [`crate::FinishImport`]. At the end the manifest is sealed in the target
/// and the batch in the control plane.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DownloadDump {
    /// The run the dump is for.
    pub run_id: i64,
    /// The stored request whose delivery names the file (`relevo.backup_request.id`).
    pub request_id: i64,
}

impl Payload for DownloadDump {
    const KIND: JobKind = JobKind::DownloadDump;
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
