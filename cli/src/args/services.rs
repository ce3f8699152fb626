//! Arguments of the commands that run until they are told to stop.

use std::net::SocketAddr;

use clap::{Args, Subcommand};

/// `relevo up`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  relevo up
  relevo up --listen 0.0.0.0:8080 --concurrency 8
  RELEVO_DATABASE_URL=postgres://relevo@db/relevo relevo up

Without a database URL it starts a Postgres of its own under the data directory, from the
server programs installed on this machine, and finds it again after a crash. On the first
start it makes an API key, prints it once and keeps it in DATA_DIR/api-key (mode 0600).
SIGTERM or Ctrl-C ends it: jobs finish or are given back. A second signal ends it at once.")]
pub struct UpArgs {
    /// Address and port of the API [default: api.listen, 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Jobs that run at the same time [default: worker.concurrency, 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: Option<u16>,
    /// Run API and scheduler only; workers run as processes of their own
    #[arg(long)]
    pub no_worker: bool,
}

/// `relevo api`, `relevo scheduler`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  relevo api --listen 0.0.0.0:8080
  relevo scheduler

SIGTERM or Ctrl-C ends it in order; a second signal ends it at once.")]
pub struct ServeArgs {
    /// Address and port: of the API, or of the scheduler's metrics and health
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
}

/// `relevo worker`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  relevo worker
  relevo worker --concurrency 8 --queues backup,notify
  relevo worker --kinds TranslateChunk

Beside `relevo up` with its own Postgres a worker on the same machine finds it by the data
directory. SIGTERM or Ctrl-C: no new job is claimed, what runs is finished or given back
within worker.grace_seconds without losing an attempt. A second signal ends it at once.")]
pub struct WorkerArgs {
    /// Address and port of its metrics and health [default: worker.metrics_listen]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Jobs that run at the same time [default: worker.concurrency, 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub concurrency: Option<u16>,
    /// Queues to work on, with commas between or repeated [default: worker.queues, all]
    #[arg(long, visible_alias = "queue", value_name = "QUEUES", value_delimiter = ',')]
    pub queues: Vec<String>,
    /// Kinds of jobs to run, with commas between or repeated [default: worker.kinds, all]
    #[arg(long, visible_alias = "kind", value_name = "KINDS", value_delimiter = ',')]
    pub kinds: Vec<String>,
    /// End when there was nothing to do for so long: for workers that an autoscaler starts
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub until_idle: Option<u32>,
}

/// `relevo config …`.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read the configuration as a service would, and show each value with its origin
    ///
    /// Secrets are never shown, only whether they are set. Exit code 3 when something is wrong.
    #[command(
        after_help = "Examples:\n  relevo config check\n  relevo --config /etc/relevo/relevo.toml config check"
    )]
    Check,
}
