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
        /// What it may do: enqueue, read, work, operate or admin; repeatable, or with commas between
        #[arg(long = "scope", value_name = "SCOPE", required = true, value_delimiter = ',')]
        scopes: Vec<String>,
    },
    /// List keys: name, prefix, scopes, whether revoked
    #[command(after_help = "Example:\n  relevo key list")]
    List,
    /// Make a key in the place of another, with its name and scopes; both work for a while
    #[command(after_help = "Examples:
  relevo key rotate 3
  relevo key rotate 3 --overlap 0    the old one is worthless at once")]
    Rotate {
        /// Number of the key, from `relevo key list`
        id: i64,
        /// How long the old one goes on working, so that its users can change over
        #[arg(long, value_name = "SECONDS", default_value_t = 3600,
            value_parser = clap::value_parser!(u32).range(0..=2_592_000))]
        overlap: u32,
    },
    /// Revoke a key; it stops working at once
    #[command(after_help = "Example:\n  relevo key revoke 3")]
    Revoke {
        /// Number of the key, from `relevo key list`
        id: i64,
    },
}

/// `relevo audit …`.
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// List what people changed, newest first
    #[command(
        after_help = "Examples:\n  relevo audit list\n  relevo audit list --action queue.pause --json"
    )]
    List {
        /// Only by this actor: api:KEY, console:NAME or cli:USER
        #[arg(long, value_name = "ACTOR")]
        actor: Option<String>,
        /// Only this action, for instance run.rollback
        #[arg(long, value_name = "ACTION")]
        action: Option<String>,
        /// Only to this object
        #[arg(long, value_name = "OBJECT")]
        object: Option<String>,
        /// Which part of the list.
        #[command(flatten)]
        page: PageArgs,
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
  relevo job enqueue Noop --ordering-key customer/42 --limit-key mail

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
    /// Jobs with the same key run one at a time, in the order in which they were enqueued
    #[arg(long, value_name = "KEY")]
    pub ordering_key: Option<String>,
    /// What its death means to those behind it with the same --ordering-key
    #[arg(long, value_name = "POLICY", value_parser = ["block", "skip"], requires = "ordering_key")]
    pub on_dead: Option<String>,
    /// The limit it is under, see relevo limits
    #[arg(long, value_name = "LIMIT")]
    pub limit_key: Option<String>,
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
    /// scheduled, waiting, available, running, retryable, completed, cancelled or dead
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

/// `relevo limits …`.
#[derive(Debug, Subcommand)]
pub enum LimitsCommand {
    /// List limits: what they are, how many jobs are under way and how many wait
    #[command(after_help = "Example:\n  relevo limits list")]
    List,
    /// Set a limit that jobs name by --limit-key, over all queues and kinds
    Set(LimitSetArgs),
    /// Remove a limit: nothing holds its jobs back any more
    #[command(after_help = "Example:\n  relevo limits remove mail")]
    Remove {
        /// Name of the limit
        name: String,
    },
}

/// `relevo limits set`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  relevo limits set mail --concurrency 5
  relevo limits set shop-api --rate 100 --per 60
  relevo limits set shop-api --concurrency 4 --rate 100 --per 60

A lower limit takes nothing back: what runs goes on.")]
#[group(id = "kinds_of_limit", required = true, multiple = true, args = ["concurrency", "rate"])]
pub struct LimitSetArgs {
    /// Name of the limit
    pub name: String,
    /// At most so many jobs at once; none at all with 0
    #[arg(long, value_name = "N")]
    pub concurrency: Option<u32>,
    /// At most so many jobs begin within the time of --per
    #[arg(long, value_name = "N", requires = "per")]
    pub rate: Option<u32>,
    /// The time of --rate, in seconds
    #[arg(long, value_name = "SECONDS", requires = "rate")]
    pub per: Option<f64>,
}

/// `relevo queue …`.
#[derive(Debug, Subcommand)]
pub enum QueueCommand {
    /// List queues: how many jobs in which state, the oldest waiting, paused or not
    #[command(after_help = "Example:\n  relevo queue list")]
    List,
    /// How much went through lately, by queue and kind: ended, retried, waited, ran
    #[command(after_help = "Examples:
  relevo queue stats
  relevo queue stats --minutes 5 --json

Waiting counts from the moment a job was due to its last claim, running from there to its end; 95
of 100 jobs took no longer than the figure under 95 %. Of a busy cluster the newest 100,000 ended
jobs are read, and the head says since when they ended.")]
    Stats {
        /// How far back to look
        #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1440))]
        minutes: u16,
    },
    /// Watch queues, running jobs and workers, as `top` does processes
    #[command(after_help = "Examples:
  relevo queue top
  relevo queue top --interval 10
  relevo queue top --once            one look, and the end
  relevo queue top --json            the same as a document

Ctrl-C ends it. Without a terminal it looks once.")]
    Top {
        /// Seconds between two looks; each reads every unfinished job
        #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u16).range(1..=3600))]
        interval: u16,
        /// Look once and end
        #[arg(long)]
        once: bool,
    },
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
    /// Print dead letters whole, one JSON document a line
    #[command(after_help = "Example:\n  relevo dead export --kind Notify > given-up.jsonl")]
    Export {
        /// Which ones; all unless something is said.
        #[command(flatten)]
        filter: DeadFilterArgs,
    },
    /// Give a dead letter another payload, checked as its kind's own
    #[command(
        after_help = "Example:\n  relevo dead edit 4711 --payload '{\"run_id\": 12}' --retry"
    )]
    Edit {
        /// Number of the job
        id: i64,
        /// The new payload as a JSON object, @FILE for a file, @- for standard input
        #[arg(long, value_name = "JSON|@FILE")]
        payload: String,
        /// Then put it back into its queue
        #[arg(long)]
        retry: bool,
    },
    /// Put dead letters back into their queues with fresh attempts: one, or all that match
    #[command(after_help = "Examples:
  relevo dead retry 4711
  relevo dead retry --kind Notify                  counts them
  relevo dead retry --kind Notify --expected 12    retries them, if they are 12 still")]
    Retry(DeadTargetArgs),
    /// Give dead letters up, one or all that match: they end as cancelled and stay in the history
    #[command(after_help = "Examples:
  relevo dead discard 4711
  relevo dead discard --all                 counts them
  relevo dead discard --all --expected 3    discards them, if they are 3 still")]
    Discard(DeadTargetArgs),
}

/// One dead letter, or all that match.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("which").required(true).multiple(true)
    .args(["id", "all", "kinds", "queue", "run", "before"]))]
pub struct DeadTargetArgs {
    /// Number of the job
    #[arg(conflicts_with_all = ["all", "kinds", "queue", "run", "before", "expected"])]
    pub id: Option<i64>,
    /// All of them
    #[arg(long, conflicts_with_all = ["kinds", "queue", "run", "before"])]
    pub all: bool,
    /// Those that match.
    #[command(flatten)]
    pub filter: DeadFilterArgs,
    /// How many are meant, at most 10,000; without it they are only counted
    #[arg(long, value_name = "N")]
    pub expected: Option<u32>,
}

/// Which dead letters are meant; what is said must all fit.
#[derive(Debug, Args)]
pub struct DeadFilterArgs {
    /// Of this kind; repeatable
    #[arg(long = "kind", value_name = "KIND")]
    pub kinds: Vec<String>,
    /// Of this queue
    #[arg(long, value_name = "QUEUE")]
    pub queue: Option<String>,
    /// Of this run
    #[arg(long, value_name = "ID")]
    pub run: Option<i64>,
    /// Older than this job
    #[arg(long, value_name = "ID")]
    pub before: Option<i64>,
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
