//! `[schedule.NAME]`: what the clock starts, beside the sources' own backups.

use chrono_tz::Tz;

use crate::check;
use crate::reader::Reader;
use crate::schema::{Key, Preset, SCHEDULE, Section};
use crate::sections::scheduler::MissedRuns;

/// One schedule of the file. What its texts mean is checked where schedules are known: by the
/// scheduler, and by `relevo config check`.
#[derive(Debug, Clone)]
pub struct ScheduleEntry {
    /// `cron 0 3 * * *`, `every 12h from 06:00` or `every 15m`.
    pub rhythm: String,
    /// The zone whose wall clock the rhythm is meant in.
    pub timezone: Tz,
    /// The kind of the job it enqueues.
    pub kind: Option<String>,
    /// The payload of that job, JSON.
    pub payload: Option<String>,
    /// The source whose backup it starts, in place of a job.
    pub backup_source: Option<String>,
    /// What happens to slots that passed while no scheduler ran.
    pub missed_runs: MissedRuns,
    /// Slots older than this never fire any more.
    pub missed_max_age_minutes: u32,
    /// Seconds over which starts are spread.
    pub jitter_seconds: u32,
    /// Whether it fires.
    pub enabled: bool,
}

pub(crate) const SECTION: Section = Section {
    name: SCHEDULE,
    help: "One table for each thing the clock starts, such as [schedule.nightly]; `relevo schedule add` keeps others in the control plane. Taken up without a restart. docs/scheduling.md tells more.",
    keys: &[
        Key::text(
            "rhythm",
            Preset::Required,
            "When: cron 0 3 * * * (five fields, or six with seconds first), every 12h from 06:00 (wall clock), or every 15m (real time).",
        ),
        Key::text("timezone", Preset::Value("UTC"), "Zone of the rhythm's wall clock."),
        Key::text(
            "kind",
            Preset::Absent("it starts a backup; see backup_source"),
            "Kind of the job it enqueues; `relevo schedule add --help` and GET /api/v1/kinds list them.",
        ),
        Key::text(
            "payload",
            Preset::Absent("the job's payload is {}"),
            "Payload of that job, JSON.",
        ),
        Key::text(
            "backup_source",
            Preset::Absent("it enqueues a job; see kind"),
            "Source whose backup it starts, in place of a job.",
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
            "jitter_seconds",
            (0, 3_600),
            "0",
            "Seconds over which its starts are spread after their slots.",
        ),
        Key::boolean("enabled", "true", "Whether it fires."),
    ],
};

impl ScheduleEntry {
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let text = |text: &str| Ok::<_, String>(text.to_owned());
        let rhythm = reader.parsed("rhythm", text);
        let timezone = reader.parsed("timezone", check::timezone);
        let kind = reader.optional("kind", text);
        let payload = reader.optional("payload", text);
        let backup_source = reader.optional("backup_source", text);
        let missed_runs = reader.parsed("missed_runs", |text| {
            check::one_of(text, &[MissedRuns::Skip, MissedRuns::Once, MissedRuns::CatchUp], |m| {
                m.as_str()
            })
        });
        let missed_max_age_minutes = reader.integer("missed_max_age_minutes");
        let jitter_seconds = reader.integer("jitter_seconds");
        let enabled = reader.boolean("enabled");
        Some(Self {
            rhythm: rhythm?,
            timezone: timezone?,
            kind: kind?,
            payload: payload?,
            backup_source: backup_source?,
            missed_runs: missed_runs?,
            missed_max_age_minutes: missed_max_age_minutes?,
            jitter_seconds: jitter_seconds?,
            enabled: enabled?,
        })
    }
}
