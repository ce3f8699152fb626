//! Arguments of the commands that look at the control plane or change it.

use std::path::PathBuf;

use chrono::{DateTime, Utc};
use clap::{Args, Subcommand, ValueEnum};

/// `relevo key …`.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Make an API key; its secret is printed once and stored nowhere
    #[command(
        after_help = "Examples:\n  relevo key create --name shop --scope enqueue --scope read\n  relevo key create --name admin --scope admin"
    )]
    Create {
        /// What the key is for, so that people recognise it
        #[arg(long)]
        name: String,
        /// What it may do: enqueue, read, operate or admin; repeatable
        #[arg(long = "scope", value_name = "SCOPE", required = true)]
        scopes: Vec<String>,
    },
    /// List keys: name, prefix, scopes, whether revoked
    #[command(after_help = "Example:\n  relevo key list")]
    List,
    /// Revoke a key; it stops working at once
    #[command(after_help = "Example:\n  relevo key revoke 3")]
    Revoke {
        /// Number of the key, from `relevo key list`
        id: i64,
    },
}

/// `relevo console …`.
#[derive(Debug, Subcommand)]
pub enum ConsoleCommand {
    /// Print a link that opens the console, once and soon
    #[command(after_help = "Examples:
  relevo console link
  relevo console link --read-only --minutes 30

Whoever opens it first is logged in for 12 hours at most, without knowing an API key; what
they do stands in the audit log under the name of the user who made the link.")]
    Link {
        /// The session may look, not act
        #[arg(long)]
        read_only: bool,
        /// How long the link is good
        #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1440))]
        minutes: u16,
    },
}

/// `relevo job …`.
#[derive(Debug, Subcommand)]
pub enum JobCommand {
    /// Put a job into its queue
    Enqueue(EnqueueArgs),
    /// List jobs, newest first
    #[command(
        after_help = "Examples:\n  relevo job list --state running\n  relevo job list --kind Notify --limit 100 --json"
    )]
    List(JobListArgs),
    /// Show a job wherever it is: queue, history or dead letters
    #[command(after_help = "Example:\n  relevo job show 4711")]
    Show {
        /// Number of the job
        id: i64,
    },
    /// Cancel a job: a waiting one at once, a running one as soon as its handler stops
    #[command(after_help = "Example:\n  relevo job cancel 4711 --reason \"sent twice\"")]
    Cancel {
        /// Number of the job
        id: i64,
        /// Why, for its record
        #[arg(long, default_value = "cancelled by relevo job cancel")]
        reason: String,
    },
    /// Run a job now that waits for its time or its next attempt, or that was given up
    #[command(after_help = "Example:\n  relevo job retry 4711")]
    Retry {
        /// Number of the job
        id: i64,
    },
}

/// `relevo job enqueue`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  relevo job enqueue Noop
  relevo job enqueue Notify --payload '{\"run_id\": 12}'
  relevo job enqueue Noop --delay 90 --idempotency-key nightly-2026-11-22
  relevo job enqueue Noop --payload @payload.json

A payload is checked before anything is stored: exit code 2 when it doesn't fit its kind.")]
pub struct EnqueueArgs {
    /// What to do; an unknown kind is answered with the nearest names
    pub kind: String,
    /// Arguments as a JSON object, @FILE for a file, @- for standard input
    #[arg(long, default_value = "{}", value_name = "JSON|@FILE")]
    pub payload: String,
    /// Another queue than the kind's own
    #[arg(long, value_name = "QUEUE")]
    pub queue: Option<String>,
    /// Higher runs first
    #[arg(long, allow_negative_numbers = true, value_name = "N")]
    pub priority: Option<i16>,
    /// Not before so many seconds from now
    #[arg(long, value_name = "SECONDS", conflicts_with = "run_at")]
    pub delay: Option<u64>,
    /// Not before this moment, for instance 2026-11-22T18:00:00-06:00
    #[arg(long, value_name = "TIME")]
    pub run_at: Option<DateTime<Utc>>,
    /// The same key again within a day has no second effect
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// No second job with this key until this one is finished
    #[arg(long, value_name = "KEY")]
    pub unique_key: Option<String>,
}

/// What `list` takes everywhere.
#[derive(Debug, Args)]
pub struct PageArgs {
    /// At most so many
    #[arg(long, default_value_t = 20, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub limit: u16,
    /// Only those with a smaller number: the next page
    #[arg(long, value_name = "ID")]
    pub before: Option<i64>,
}

/// `relevo job list`.
#[derive(Debug, Args)]
pub struct JobListArgs {
    /// scheduled, available, running, retryable, completed, cancelled or dead
    #[arg(long, value_name = "STATE")]
    pub state: Option<String>,
    /// Only this kind
    #[arg(long, value_name = "KIND")]
    pub kind: Option<String>,
    /// Only this queue
    #[arg(long, value_name = "QUEUE")]
    pub queue: Option<String>,
    /// Only jobs of this run
    #[arg(long, value_name = "RUN")]
    pub run: Option<i64>,
    /// Which part of the list.
    #[command(flatten)]
    pub page: PageArgs,
}

/// `relevo queue …`.
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// List queues: how many jobs in which state, the oldest waiting, paused or not
    #[command(after_help = "Example:\n  relevo queue list")]
    List,
    /// Stop claiming from a queue; what runs goes on
    #[command(after_help = "Example:\n  relevo queue pause backup")]
    Pause {
        /// Name of the queue
        queue: String,
    },
    /// Claim from a queue again
    #[command(after_help = "Example:\n  relevo queue resume backup")]
    Resume {
        /// Name of the queue
        queue: String,
    },
}

/// `relevo dead …`.
#[derive(Debug, Subcommand)]
pub enum DeadCommand {
    /// List dead letters, newest first, with the last error
    #[command(after_help = "Example:\n  relevo dead list --kind Notify")]
    List {
        /// Only this kind
        #[arg(long, value_name = "KIND")]
        kind: Option<String>,
        /// Only this queue
        #[arg(long, value_name = "QUEUE")]
        queue: Option<String>,
        /// Which part of the list.
        #[command(flatten)]
        page: PageArgs,
    },
    /// Put a dead letter back into its queue with fresh attempts
    #[command(after_help = "Example:\n  relevo dead retry 4711")]
    Retry {
        /// Number of the job
        id: i64,
    },
    /// Remove a dead letter for good
    #[command(after_help = "Example:\n  relevo dead discard 4711")]
    Discard {
        /// Number of the job
        id: i64,
    },
}

/// `relevo run …`.
#[derive(Debug, Subcommand)]
pub enum RunCommand {
    /// List runs, newest first
    #[command(
        after_help = "Examples:\n  relevo run list\n  relevo run list --source sicar --state failed"
    )]
    List {
        /// Only this source
        #[arg(long, value_name = "NAME")]
        source: Option<String>,
        /// pending, running, succeeded, failed or cancelled
        #[arg(long, value_name = "STATE")]
        state: Option<String>,
        /// Which part of the list.
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show a run: state, progress, figures, certificate (rows per table on both sides), error
    #[command(after_help = "Example:\n  relevo run show 12")]
    Show {
        /// Number of the run
        id: i64,
    },
    /// Print a run's log
    #[command(after_help = "Examples:\n  relevo run log 12\n  relevo run log 12 --follow")]
    Log {
        /// Number of the run
        id: i64,
        /// Go on until the run ends
        #[arg(long, short)]
        follow: bool,
    },
    /// Follow a run to its end; exit code 0 when it succeeds, 1 when not
    #[command(after_help = "Example:\n  relevo run watch 12")]
    Watch {
        /// Number of the run
        id: i64,
    },
    /// Put the data back that a run's import replaced
    ///
    /// The previous tables are kept until the next import succeeds; until then this exchanges them
    /// for the present ones, in one short transaction, with rights, views and foreign keys as they
    /// are. It needs no worker. Asked again, it says what it did the first time.
    #[command(after_help = "Example:\n  relevo run rollback 12")]
    Rollback {
        /// Number of the run
        id: i64,
    },
    /// Ask a run to end; what it had loaded is removed, the previous data stay
    #[command(after_help = "Example:\n  relevo run cancel 12")]
    Cancel {
        /// Number of the run
        id: i64,
    },
}

/// `relevo backup …`.
#[derive(Debug, Subcommand)]
pub enum BackupCommand {
    /// Start a run that fetches a source's backup and loads it
    #[command(after_help = "Examples:
  relevo backup run --source sicar
  relevo backup run --source sicar --mode sync --wait
  relevo backup run --source sicar --force
  relevo backup run --source sicar --file /mnt/usb/shop.sql.gz --wait

With --wait it shows the progress and ends with the run: exit code 0 when it succeeded, 1 when
not; Ctrl-C stops the watching, never the run. Only one run of a source is active at a time.")]
    Run {
        /// Name of the source: [backup.NAME] in the configuration
        #[arg(long, value_name = "NAME")]
        source: String,
        /// How to ask the gateway [default: the source's mode]
        #[arg(long, value_enum)]
        mode: Option<ModeArg>,
        /// Load this dump, in place of what the source would bring
        #[arg(long, value_name = "PATH", conflicts_with = "mode")]
        file: Option<PathBuf>,
        /// Load a backup that is empty or has shrunk against the last one, too
        #[arg(long)]
        force: bool,
        /// Follow the run to its end
        #[arg(long)]
        wait: bool,
    },
}

/// How to ask the gateway for a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ModeArg {
    /// The gateway calls back when the backup is ready; needs api.public_url
    Webhook,
    /// The gateway answers when the backup is ready
    Sync,
}
