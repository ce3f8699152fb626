//! TranslateChunk: load one chunk of a dump.

use serde::{Deserialize, Serialize};

use crate::{JobKind, Payload};

/// Reads one chunk from the chunk store, encodes its rows and copies them into the staging schema,
/// in one transaction with the chunk's row in the target's ledger.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct TranslateChunk {
    /// The run the chunk belongs to.
    pub run_id: i64,
    /// The request whose dump the chunk was cut from: when a run has to ask for a second dump, the
    /// first one's chunks are void.
    pub request_id: i64,
    /// The chunk's place in the dump, counted from 0.
    pub ordinal: i32,
}

impl Payload for TranslateChunk {
    const KIND: JobKind = JobKind::TranslateChunk;
    const VERSION: i16 = 1;
    const SCHEMA: &'static str = r#"{
        "type": "object",
        "required": ["run_id", "request_id", "ordinal"],
        "additionalProperties": false,
        "properties": {
            "run_id": {"type": "integer", "format": "int64"},
            "request_id": {"type": "integer", "format": "int64"},
            "ordinal": {"type": "integer", "format": "int32", "minimum": -2147483648, "maximum": 2147483647}
        }
    }"#;

    fn run_id(&self) -> Option<i64> {
        Some(self.run_id)
    }
}
