//! `[telemetry]`: logs and traces.

use std::path::PathBuf;

use secrecy::SecretString;

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
    /// A file that gets every line too; absolute.
    pub log_file: Option<PathBuf>,
    /// The size at which the file is put aside and a new one begun.
    pub log_max_size_mb: u64,
    /// How many files put aside are kept beside the current one.
    pub log_max_files: u32,
    /// The collector's base URL; spans go to `/v1/traces` below it. `None`: no traces.
    pub otlp_endpoint: Option<String>,
    /// HTTP headers for the collector, such as `Authorization=Bearer x`; comma between two.
    pub otlp_headers: Option<SecretString>,
    /// The share of new traces that are recorded, 0 to 1.
    pub trace_ratio: f64,
    /// The service's name in traces; `None`: `relevo-` and the process's role.
    pub service_name: Option<String>,
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
    help: "Logs go to standard error, and to a file where one is named. Traces are off until a collector is named.",
    keys: &[
        Key::text(
            "log_level",
            Preset::Value("info"),
            "error, warn, info, debug, trace or off; or directives such as info,relevo_worker=debug.",
        )
        .fixed_env("LOG_LEVEL"),
        Key::text("log_format", Preset::Value("text"), "text for people, json for machines."),
        Key::text(
            "log_file",
            Preset::Absent("logs go to standard error only"),
            "File that gets every log line too; processes of one machine may share it.",
        ),
        Key::integer(
            "log_max_size_mb",
            (1, 10_240),
            "10",
            "Size in MB at which the log file is put aside as FILE.1 and a new one begun.",
        ),
        Key::integer(
            "log_max_files",
            (1, 1_000),
            "5",
            "How many log files put aside are kept; the oldest is deleted.",
        ),
        Key::text(
            "otlp_endpoint",
            Preset::Absent("no traces are made"),
            "Collector for traces by OTLP over HTTP, such as http://localhost:4318; /v1/traces is appended.",
        )
        .fixed_env("OTEL_EXPORTER_OTLP_ENDPOINT"),
        Key::secret(
            "otlp_headers",
            Preset::Absent("the collector wants none"),
            "HTTP headers for the collector, such as Authorization=Bearer TOKEN; a comma between two.",
        )
        .fixed_env("OTEL_EXPORTER_OTLP_HEADERS"),
        Key::text(
            "trace_ratio",
            Preset::Value("1"),
            "Share of new traces that are recorded, 0 to 1; a trace that was begun elsewhere keeps that side's decision.",
        ),
        Key::text(
            "service_name",
            Preset::Absent("relevo- and what the process does: api, worker, scheduler, up or cli"),
            "The service's name in traces.",
        )
        .fixed_env("OTEL_SERVICE_NAME"),
    ],
};

impl Telemetry {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let log_level = reader.parsed("log_level", check::log_level);
        let log_format = reader.parsed("log_format", |text| {
            check::one_of(text, &[LogFormat::Text, LogFormat::Json], |format| format.as_str())
        });
        let log_file = reader.optional("log_file", check::file_path);
        let log_max_size_mb = reader.integer("log_max_size_mb");
        let log_max_files = reader.integer("log_max_files");
        let otlp_endpoint = reader.optional("otlp_endpoint", check::http_url);
        let otlp_headers = reader.optional_secret("otlp_headers", check::header_list);
        let trace_ratio = reader.parsed("trace_ratio", check::ratio);
        let service_name = reader.optional("service_name", check::service_name);
        Some(Self {
            log_level: log_level?,
            log_format: log_format?,
            log_file: log_file?,
            log_max_size_mb: log_max_size_mb?,
            log_max_files: log_max_files?,
            otlp_endpoint: otlp_endpoint?,
            otlp_headers: otlp_headers?,
            trace_ratio: trace_ratio?,
            service_name: service_name?,
        })
    }
}
