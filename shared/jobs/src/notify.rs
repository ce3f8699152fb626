//! Notify: tell people how a run ended, or of a state they should look at.

use serde::{Deserialize, Serialize};

use crate::{JobKind, Payload};

/// Without a channel: finds out who hears of the run or the alert, and enqueues one job for each
/// channel. With one: writes the message in its language and sends it; `heartbeat` asks the source's
/// heartbeat URL.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(try_from = "Fields")]
pub struct Notify {
    /// The ended run to report.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<i64>,
    /// The alert to report; together with a run, the state of failing it goes on with or ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alert_id: Option<i64>,
    /// Whether the alert is over.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub resolved: bool,
    /// The channel to tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub channel: Option<String>,
}

/// The same as it is written down, before it is known to report anything.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    #[serde(default)]
    run_id: Option<i64>,
    #[serde(default)]
    alert_id: Option<i64>,
    #[serde(default)]
    resolved: bool,
    #[serde(default)]
    channel: Option<String>,
}

impl TryFrom<Fields> for Notify {
    type Error = &'static str;

    fn try_from(fields: Fields) -> Result<Self, Self::Error> {
        let Fields { run_id, alert_id, resolved, channel } = fields;
        if run_id.is_none() && alert_id.is_none() {
            return Err("it reports nothing: give a run_id, an alert_id, or both");
        }
        Ok(Self { run_id, alert_id, resolved, channel })
    }
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
        },
        "anyOf": [
            {"required": ["run_id"], "properties": {"run_id": {"type": "integer"}}},
            {"required": ["alert_id"], "properties": {"alert_id": {"type": "integer"}}}
        ]
    }"#;

    fn run_id(&self) -> Option<i64> {
        self.run_id
    }
}
