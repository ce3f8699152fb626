//! The command line: what can be written and what `--help` says about it.

pub mod begin;
pub mod bench;
pub mod dump;
pub mod operate;
pub mod outside;
pub mod quarantine;
pub mod schedule;
pub mod services;
pub mod state;
pub mod translation;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

pub use begin::{AnswerArgs, DemoArgs, InitArgs};
pub use bench::{BenchCommand, BenchQueueArgs};
pub use dump::DumpCommand;
pub use operate::{
    AuditCommand, BackupCommand, ConsoleCommand, DeadCommand, JobCommand, KeyCommand,
    LimitsCommand, QueueCommand, RunCommand,
};
pub use outside::{ConnectionCommand, DoctorArgs, NotifyCommand, SecretCommand};
pub use schedule::ScheduleCommand;
pub use services::{ConfigCommand, ServeArgs, UpArgs, WorkerArgs};
pub use state::StateCommand;

/// What follows every command's help: the same exit codes hold everywhere.
const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    what was asked for was tried and failed (a run that failed, a refused import)
  2    the command line, a payload or another input isn't understood
  3    the configuration is wrong
  4    the control plane can't be used: unreachable, refused, not migrated
  5    what was named doesn't exist
  6    done, but rows of the dump are missing: they are in quarantine
  130  interrupted";

const EXAMPLES: &str = "\
Examples:
  relevo up                                  everything in this process, with a Postgres of its own
  relevo backup run --source sicar --wait    fetch and load the shop's backup now, and see it end
  relevo run list                            what ran, and how it ended
  relevo dump import shop.sql.gz --to postgres://app@db/shop --schema public";

/// A durable, queue-based worker cluster that keeps databases in step.
#[derive(Debug, Parser)]
#[command(
    name = "relevo",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{EXIT_CODES}")
)]
pub struct Cli {
    /// What holds for every command.
    #[command(flatten)]
    pub global: GlobalArgs,
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that every command takes, before or after its name.
#[derive(Debug, Args)]
pub struct GlobalArgs {
    /// Configuration file [default: $RELEVO_CONFIG, ./relevo.toml, /etc/relevo/relevo.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print data and errors as JSON, one document; the shapes are in docs/cli.md
    #[arg(long, global = true)]
    pub json: bool,
}

/// All commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run everything in this process: API, scheduler and worker, with an own Postgres if none is configured
    Up(UpArgs),
    /// Ask what is needed, try it out, and write a configuration file
    Init(Box<InitArgs>),
    /// Show it: load a small shop's dump with everything in this process, on a Postgres of its own
    Demo(DemoArgs),
    /// Run the HTTP API: jobs, runs, webhooks, metrics
    Api(ServeArgs),
    /// Run a worker: claims jobs and carries them out; start as many as you like
    Worker(WorkerArgs),
    /// Run a scheduler: starts what is due and keeps the queue in order; a second one stands by
    Scheduler(ServeArgs),
    /// Bring the control plane's schema up to this version
    ///
    /// Safe to repeat and to run by several processes at once. `relevo up` does it by itself.
    #[command(
        after_help = "Examples:\n  relevo migrate\n  RELEVO_DATABASE_URL=postgres://relevo@db/relevo relevo migrate"
    )]
    Migrate,
    /// API keys: create, list, revoke
    #[command(subcommand)]
    Key(KeyCommand),
    /// The audit log: who changed what, over HTTP, in the console or by command
    #[command(subcommand)]
    Audit(AuditCommand),
    /// The console: a link that logs a browser in once
    #[command(subcommand)]
    Console(ConsoleCommand),
    /// Jobs: enqueue, list, show, cancel, retry
    #[command(subcommand)]
    Job(JobCommand),
    /// Limits of jobs under way, at once or within a time: list, set, remove
    #[command(subcommand)]
    Limits(LimitsCommand),
    /// Queues: list, stats, top, pause, resume
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Dead letters, the jobs that were given up: list, export, edit, retry, discard
    #[command(subcommand)]
    Dead(DeadCommand),
    /// Runs: list, show, log, watch, rollback, cancel
    #[command(subcommand)]
    Run(RunCommand),
    /// Backups of a configured source: run one now
    #[command(subcommand)]
    Backup(BackupCommand),
    /// Schedules: list, show, add, edit, enable, disable, run, remove
    #[command(subcommand)]
    Schedule(ScheduleCommand),
    /// MySQL dumps as files: import, translate, inspect; needs no queue and no control plane
    #[command(subcommand)]
    Dump(DumpCommand),
    /// Who is told what goes wrong: test, channels, alerts
    #[command(subcommand)]
    Notify(NotifyCommand),
    /// Connections: list, show, add, set, remove, test
    #[command(subcommand)]
    Connection(ConnectionCommand),
    /// The key that seals the secrets of kept connections: init, generate, rotate
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Examine everything and say what is wrong and what to do about it
    ///
    /// Asks this machine, the databases, gateways, mail servers and webhooks. Changes nothing.
    Doctor(DoctorArgs),
    /// The control plane's own state: back it up, restore it
    #[command(subcommand)]
    State(StateCommand),
    /// How fast the queue is on a server, beside what the server can do
    #[command(subcommand)]
    Bench(BenchCommand),
    /// The configuration: check what is in force and where it comes from
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_argument_is_explained() {
        fn check(command: &clap::Command) {
            let name = command.get_name();
            assert!(command.get_about().is_some(), "`{name}` has no help");
            for argument in command.get_arguments() {
                assert!(
                    argument.get_help().is_some(),
                    "`{name} {}` has no help",
                    argument.get_id()
                );
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }
}
