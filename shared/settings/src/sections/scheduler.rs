//! `[scheduler]`: leadership, missed slots, upkeep.

use std::net::SocketAddr;

use crate::check;
use crate::reader::Reader;
use crate::schema::{Key, Preset, Section};

/// How a scheduler process leads and keeps house.
#[derive(Debug, Clone)]
pub struct Scheduler {
    /// Where it serves `/metrics`, `/livez`, `/readyz`; `None` means nowhere.
    pub metrics_listen: Option<SocketAddr>,
    /// After so long without renewal another scheduler leads.
    pub lease_seconds: u64,
    /// How often jobs are staged and dead workers' jobs taken back.
    pub upkeep_interval_ms: u64,
    /// Jobs that waited longer for a worker go with the best of their queue; 0 means never.
    pub priority_ageing_minutes: u64,
    /// What happens to slots that passed while no scheduler ran.
    pub missed_runs: MissedRuns,
    /// Slots older than this never fire any more.
    pub missed_max_age_minutes: u64,
    /// How long completed and cancelled jobs are kept.
    pub history_retention_days: u32,
    /// How long ended runs are kept, with their log, certificate and requests.
    pub run_retention_days: u32,
    /// How long the audit log is kept.
    pub audit_retention_days: u32,
}

/// What happens to slots that passed while no scheduler ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissedRuns {
    /// They are left out.
    Skip,
    /// The newest one fires, once.
    Once,
    /// Each one fires, oldest first.
    CatchUp,
}

impl MissedRuns {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Once => "once",
            Self::CatchUp => "catch_up",
        }
    }
}

pub(crate) const SECTION: Section = Section {
    name: "scheduler",
    help: "Leadership, missed slots, upkeep of the queue.",
    keys: &[
        Key::text(
            "metrics_listen",
            Preset::Absent("a scheduler process of its own serves no metrics"),
            "Address and port of /metrics, /livez and /readyz of a scheduler process of its own.",
        ),
        Key::integer(
            "lease_seconds",
            (3, 3_600),
            "15",
            "Seconds without renewal after which another scheduler leads.",
        ),
        Key::integer(
            "upkeep_interval_ms",
            (100, 60_000),
            "1000",
            "Milliseconds between rounds of upkeep: due jobs staged, dead workers' jobs taken back.",
        ),
        Key::integer(
            "priority_ageing_minutes",
            (0, 525_600),
            "60",
            "Minutes after which a job that waits for a worker gets the highest priority that waits in its queue; 0 means never.",
        ),
        Key::text(
            "missed_runs",
            Preset::Value("once"),
            "Slots that passed while no scheduler ran: skip, once (the newest fires) or catch_up (each fires).",
        ),
        Key::integer(
            "missed_max_age_minutes",
            (0, 525_600),
            "360",
            "Minutes after which a missed slot never fires any more.",
        ),
        Key::integer(
            "history_retention_days",
            (1, 3_650),
            "7",
            "Days that completed and cancelled jobs are kept.",
        ),
        Key::integer(
            "run_retention_days",
            (1, 36_500),
            "365",
            "Days that ended runs are kept, with log and certificate. The newest success of a source stays.",
        ),
        Key::integer(
            "audit_retention_days",
            (1, 36_500),
            "730",
            "Days that the audit log is kept.",
        ),
    ],
};

impl Scheduler {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let metrics_listen = reader.optional("metrics_listen", check::socket_address);
        let lease_seconds = reader.integer("lease_seconds");
        let upkeep_interval_ms = reader.integer("upkeep_interval_ms");
        let priority_ageing_minutes = reader.integer("priority_ageing_minutes");
        let missed_runs = reader.parsed("missed_runs", |text| {
            check::one_of(text, &[MissedRuns::Skip, MissedRuns::Once, MissedRuns::CatchUp], |m| {
                m.as_str()
            })
        });
        let missed_max_age_minutes = reader.integer("missed_max_age_minutes");
        let history_retention_days = reader.integer("history_retention_days");
        let run_retention_days = reader.integer("run_retention_days");
        let audit_retention_days = reader.integer("audit_retention_days");
        Some(Self {
            metrics_listen: metrics_listen?,
            lease_seconds: lease_seconds?,
            upkeep_interval_ms: upkeep_interval_ms?,
            priority_ageing_minutes: priority_ageing_minutes?,
            missed_runs: missed_runs?,
            missed_max_age_minutes: missed_max_age_minutes?,
            history_retention_days: history_retention_days?,
            run_retention_days: run_retention_days?,
            audit_retention_days: audit_retention_days?,
        })
    }
}
