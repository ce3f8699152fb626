//! `[telemetry]`: logs.

use crate::check;
use crate::reader::Reader;
use crate::schema::{Key, Preset, Section};

/// How a process speaks to its operators.
#[derive(Debug, Clone)]
pub struct Telemetry {
    /// A level, or directives such as `info,relevo_worker=debug`.
    pub log_level: String,
    /// Text for people, JSON for machines.
    pub log_format: LogFormat,
}

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line per event.
    Text,
    /// One JSON object per event.
    Json,
}

impl LogFormat {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

pub(crate) const SECTION: Section = Section {
    name: "telemetry",
    help: "Logs go to standard error.",
    keys: &[
        Key::text(
            "log_level",
            Preset::Value("info"),
            "error, warn, info, debug, trace or off; or directives such as info,relevo_worker=debug.",
        )
        .fixed_env("LOG_LEVEL"),
        Key::text("log_format", Preset::Value("text"), "text for people, json for machines."),
    ],
};

impl Telemetry {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let log_level = reader.parsed("log_level", check::log_level);
        let log_format = reader.parsed("log_format", |text| {
            check::one_of(text, &[LogFormat::Text, LogFormat::Json], |format| format.as_str())
        });
        Some(Self { log_level: log_level?, log_format: log_format? })
    }
}
