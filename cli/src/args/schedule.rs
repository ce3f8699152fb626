//! Arguments of `relevo schedule …`.

use clap::{ArgGroup, Args, Subcommand};

/// `relevo schedule …`.
#[derive(Debug, Subcommand)]
pub enum ScheduleCommand {
    /// List schedules: the next slot, and what became of the last
    #[command(after_help = "Example:\n  relevo schedule list

Says too when the leading scheduler's configuration file has changed and makes no sense.")]
    List,
    /// Show one schedule whole, with its next slots
    #[command(after_help = "Example:\n  relevo schedule show nightly --slots 10")]
    Show {
        /// Name of the schedule
        name: String,
        /// How many slots to come
        #[arg(long, default_value_t = 5, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1000))]
        slots: u16,
    },
    /// Store a schedule, or replace the one of that name
    Add(ScheduleAddArgs),
    /// Change parts of a schedule that was made here or over the API
    Edit(ScheduleEditArgs),
    /// Let a schedule fire again; slots that passed meanwhile do not fire
    #[command(after_help = "Example:\n  relevo schedule enable nightly")]
    Enable {
        /// Name of the schedule
        name: String,
    },
    /// Keep a schedule, but let it rest
    #[command(after_help = "Example:\n  relevo schedule disable nightly")]
    Disable {
        /// Name of the schedule
        name: String,
    },
    /// Start now what a schedule would start, beside its slots
    #[command(after_help = "Example:\n  relevo schedule run nightly")]
    Run {
        /// Name of the schedule
        name: String,
    },
    /// Remove a schedule that was made here or over the API, with its history
    #[command(after_help = "Example:\n  relevo schedule remove nightly")]
    Remove {
        /// Name of the schedule
        name: String,
    },
}

/// `relevo schedule add`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("when").required(true).args(["cron", "every"]),
    group = ArgGroup::new("what").required(true).args(["kind", "backup"]),
    after_help = "Examples:
  relevo schedule add nightly --cron \"30 2 * * *\" --timezone America/Mexico_City --kind Noop
  relevo schedule add pulse --every 15m --kind Noop --missed skip --jitter 60
  relevo schedule add early --every \"6h from 03:00\" --timezone Europe/Madrid --backup sicar

--every takes an interval of real time (90s, 15m, 2h, 1d), or hours of the wall clock from a time of
each day on (12h from 06:00). docs/scheduling.md tells what happens when clocks change."
)]
pub struct ScheduleAddArgs {
    /// Name of the schedule
    pub name: String,
    /// Cron expression: minute hour day month weekday, or six fields with seconds first
    #[arg(long, value_name = "EXPRESSION")]
    pub cron: Option<String>,
    /// Interval: 90s, 15m, 2h, 1d, or 12h from 06:00
    #[arg(long, value_name = "INTERVAL")]
    pub every: Option<String>,
    /// Zone whose wall clock is meant
    #[arg(long, default_value = "UTC", value_name = "ZONE")]
    pub timezone: String,
    /// Kind of the job to enqueue
    #[arg(long)]
    pub kind: Option<String>,
    /// Arguments of the job as a JSON object, @FILE for a file, @- for standard input
    #[arg(long, value_name = "JSON|@FILE")]
    pub payload: Option<String>,
    /// Source whose backup to start, in place of a job
    #[arg(long, value_name = "SOURCE")]
    pub backup: Option<String>,
    /// What becomes of slots nobody was there for: once, skip or catch_up
    #[arg(long, default_value = "once", value_name = "POLICY")]
    pub missed: String,
    /// A missed slot older than this never starts
    #[arg(long, default_value_t = 360, value_name = "MINUTES")]
    pub missed_max_age: u32,
    /// Spread the starts over so many seconds after their slots
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub jitter: u32,
    /// Store it resting; `relevo schedule enable` wakes it
    #[arg(long)]
    pub disabled: bool,
}

/// `relevo schedule edit`.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("when").args(["cron", "every"]),
    group = ArgGroup::new("what").args(["kind", "backup"]),
    after_help = "Examples:
  relevo schedule edit nightly --cron \"0 4 * * *\"
  relevo schedule edit nightly --missed catch_up --missed-max-age 60

What isn't given stays. A change of when it is due counts from now on."
)]
pub struct ScheduleEditArgs {
    /// Name of the schedule
    pub name: String,
    /// Cron expression: minute hour day month weekday, or six fields with seconds first
    #[arg(long, value_name = "EXPRESSION")]
    pub cron: Option<String>,
    /// Interval: 90s, 15m, 2h, 1d, or 12h from 06:00
    #[arg(long, value_name = "INTERVAL")]
    pub every: Option<String>,
    /// Zone whose wall clock is meant
    #[arg(long, value_name = "ZONE")]
    pub timezone: Option<String>,
    /// Kind of the job to enqueue
    #[arg(long)]
    pub kind: Option<String>,
    /// Arguments of the job as a JSON object, @FILE for a file, @- for standard input
    #[arg(long, value_name = "JSON|@FILE")]
    pub payload: Option<String>,
    /// Source whose backup to start, in place of a job
    #[arg(long, value_name = "SOURCE")]
    pub backup: Option<String>,
    /// What becomes of slots nobody was there for: once, skip or catch_up
    #[arg(long, value_name = "POLICY")]
    pub missed: Option<String>,
    /// A missed slot older than this never starts
    #[arg(long, value_name = "MINUTES")]
    pub missed_max_age: Option<u32>,
    /// Spread the starts over so many seconds after their slots
    #[arg(long, value_name = "SECONDS")]
    pub jitter: Option<u32>,
}
