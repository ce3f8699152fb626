//! `[alerts]`: what is noticed without anybody looking.

use crate::reader::Reader;
use crate::schema::{Key, Section};

/// The built-in rules.
#[derive(Debug, Clone)]
pub struct Alerts {
    /// A run failed.
    pub failed: bool,
    /// No success within a source's interval and the grace.
    pub overdue: bool,
    /// How late a source may be.
    pub overdue_grace_minutes: u32,
    /// Little space under a data directory.
    pub disk_low: bool,
    /// Less than this share of the disk is little.
    pub disk_free_percent_min: u8,
    /// No worker is alive.
    pub no_worker: bool,
    /// For how long none has to be alive.
    pub no_worker_minutes: u32,
    /// Dead letters are present, or more than were told of.
    pub dead_letters: bool,
    /// So many are no alert.
    pub dead_letters_max: u64,
    /// After how long a state that lasts is told again; 0: never.
    pub repeat_hours: u32,
    /// How often the rules are looked at.
    pub interval_seconds: u64,
}

pub(crate) const SECTION: Section = Section {
    name: "alerts",
    help: "What is noticed without anybody looking, and told once when it begins and once when it is over.",
    keys: &[
        Key::boolean("failed", "true", "Whether failed runs are told."),
        Key::boolean(
            "overdue",
            "true",
            "Whether a scheduled source without a success within its interval and the grace is told.",
        ),
        Key::integer(
            "overdue_grace_minutes",
            (0, 100_000),
            "90",
            "Minutes that a success may come late.",
        ),
        Key::boolean("disk_low", "true", "Whether a disk that fills up is told."),
        Key::integer(
            "disk_free_percent_min",
            (1, 99),
            "10",
            "Percent of the disk under data_dir that should stay free.",
        ),
        Key::boolean("no_worker", "true", "Whether it is told that no worker is alive."),
        Key::integer(
            "no_worker_minutes",
            (0, 10_000),
            "5",
            "Minutes without any worker before it is told.",
        ),
        Key::boolean("dead_letters", "true", "Whether dead letters are told, and that they grow."),
        Key::integer(
            "dead_letters_max",
            (0, 1_000_000_000),
            "0",
            "Dead letters that are still no alert.",
        ),
        Key::integer(
            "repeat_hours",
            (0, 10_000),
            "24",
            "Hours after which a state that lasts is told again; 0 tells it once only.",
        ),
        Key::integer(
            "interval_seconds",
            (1, 3_600),
            "30",
            "Seconds between two looks at all of this.",
        ),
    ],
};

impl Alerts {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let failed = reader.boolean("failed");
        let overdue = reader.boolean("overdue");
        let overdue_grace_minutes = reader.integer("overdue_grace_minutes");
        let disk_low = reader.boolean("disk_low");
        let disk_free_percent_min = reader.integer("disk_free_percent_min");
        let no_worker = reader.boolean("no_worker");
        let no_worker_minutes = reader.integer("no_worker_minutes");
        let dead_letters = reader.boolean("dead_letters");
        let dead_letters_max = reader.integer("dead_letters_max");
        let repeat_hours = reader.integer("repeat_hours");
        let interval_seconds = reader.integer("interval_seconds");
        Some(Self {
            failed: failed?,
            overdue: overdue?,
            overdue_grace_minutes: overdue_grace_minutes?,
            disk_low: disk_low?,
            disk_free_percent_min: disk_free_percent_min?,
            no_worker: no_worker?,
            no_worker_minutes: no_worker_minutes?,
            dead_letters: dead_letters?,
            dead_letters_max: dead_letters_max?,
            repeat_hours: repeat_hours?,
            interval_seconds: interval_seconds?,
        })
    }
}
