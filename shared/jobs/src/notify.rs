//! Notify: tell people how a run ended, or of a state they should look at.

use serde::{Deserialize, Serialize};

use crate::{JobKind, Payload};

/// Without a channel: finds out who hears of the run or the alert, and enqueues one job for each
/// channel. With one: writes the message in its language and sends it; `heartbeat` asks the source's
/// heartbeat URL.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Notify {
    /// The ended run to report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<i64>,
    /// The alert to report; together with a run, the state of failing it goes on with or ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alert_id: Option<i64>,
    /// Whether the alert is over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub resolved: bool,
    /// The channel to tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
}

impl Notify {
    /// Tells everybody how a run ended.
    #[must_use]
    pub fn of_run(run_id: i64) -> Self {
        Self { run_id: Some(run_id), ..Self::default() }
    }

    /// Tells everybody of an alert.
    #[must_use]
    pub fn of_alert(alert_id: i64, resolved: bool) -> Self {
        Self { alert_id: Some(alert_id), resolved, ..Self::default() }
    }
}

impl Payload for Notify {
    const KIND: JobKind = JobKind::Notify;
    /// 2: alerts and channels.
    const VERSION: i16 = 2;
    const SCHEMA: &'static str = r#"{
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "run_id": {"type": ["integer", "null"], "format": "int64"},
            "alert_id": {"type": ["integer", "null"], "format": "int64"},
            "resolved": {"type": "boolean"},
            "channel": {"type": ["string", "null"]}
        }
    }"#;

    fn run_id(&self) -> Option<i64> {
        self.run_id
    }
}
