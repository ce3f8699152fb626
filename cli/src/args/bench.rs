//! Arguments of `relevo bench …`.

use clap::{Args, Subcommand};

/// `relevo bench …`.
#[derive(Debug, Subcommand)]
pub enum BenchCommand {
    /// The queue beside bare SQL on the same server: enqueue, drain, latency, under load
    Queue(BenchQueueArgs),
}

/// `relevo bench queue`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  relevo bench queue
  relevo bench queue --jobs 10000 --rounds 1 --history 0 --depth 0 --no-snapshot
  relevo bench queue --url postgres://postgres@db/postgres --json

It makes a database of its own on the server, relevo_bench_PID, fills it with up to a gigabyte and
drops it at the end; nothing else is touched. It keeps the server busy: measure one that nobody
needs meanwhile. Each figure is the median of the rounds, beside a limit measured in the same run:
bare SQL that does the same work without sessions, fences and retries, or, for the last lines, the
drain of an empty queue.")]
pub struct BenchQueueArgs {
    /// A server where databases may be created; by default that of the control plane
    #[arg(long, value_name = "URL", env = "RELEVO_BENCH_POSTGRES_URL", hide_env_values = true)]
    pub url: Option<String>,
    /// No-op jobs per drain, in thousands at once
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1000..=10_000_000))]
    pub jobs: u32,
    /// Rounds
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=100))]
    pub rounds: u16,
    /// Ended jobs in the history while draining; 0 leaves that line out
    #[arg(long, default_value_t = 1_000_000, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100_000_000))]
    pub history: u32,
    /// Jobs for tomorrow, and as many in another queue, while draining; 0 leaves that line out
    #[arg(long, default_value_t = 200_000, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=10_000_000))]
    pub depth: u32,
    /// Leave out the drain under a snapshot that somebody holds
    #[arg(long)]
    pub no_snapshot: bool,
}
