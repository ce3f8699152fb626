//! `./dev bench queue`: what `relevo bench queue` measures, and apalis-postgres beside it.

mod apalis;

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use relevo_queue_bench::{Bench, BenchDatabase, Conditions, Line, Plan, table};

/// Measures the queue; every figure is the median of the rounds.
#[derive(Parser)]
struct Args {
    /// A Postgres server where databases may be created.
    #[arg(long, env = "RELEVO_BENCH_POSTGRES_URL")]
    url: String,
    /// No-op jobs per drain.
    #[arg(long, default_value_t = 100_000)]
    jobs: usize,
    /// Rounds; the contestants take turns.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Single enqueues per round.
    #[arg(long, default_value_t = 2_000)]
    singles: i64,
    /// Latency samples per round.
    #[arg(long, default_value_t = 200)]
    samples: usize,
    /// Ended jobs in the history during a drain of its own; 0 leaves it out.
    #[arg(long, default_value_t = 1_000_000)]
    history: i64,
    /// Jobs for tomorrow, and as many in another queue, during a drain of its own; 0 leaves it out.
    #[arg(long, default_value_t = 200_000)]
    depth: i64,
    /// Leave the drain under a held snapshot out.
    #[arg(long)]
    no_snapshot: bool,
    /// Leave the peer out.
    #[arg(long)]
    no_peer: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// The peer's drain of a round ends within this time, or it hangs.
const PEER_MAX: Duration = Duration::from_secs(600);

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let database = BenchDatabase::create(&args.url).await?;
    let measured = measure(&args, &database).await;
    database.drop().await?;
    let lines = measured?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        print!("{}", table(&lines));
    }
    Ok(())
}

async fn measure(args: &Args, database: &BenchDatabase) -> Result<Vec<Line>> {
    let plan = Plan {
        jobs: args.jobs,
        singles: args.singles,
        samples: args.samples,
        conditions: Conditions {
            history: args.history,
            depth: args.depth,
            held_snapshot: !args.no_snapshot,
        },
    };
    let mut bench = Bench::open(plan, database).await?;
    if !args.no_peer {
        apalis::prepare(bench.pool()).await?;
    }
    let mut peer = Vec::new();
    for round in 1..=args.rounds {
        eprintln!("round {round} of {}", args.rounds);
        bench.round().await?;
        if !args.no_peer {
            apalis::fill(bench.pool(), args.jobs).await?;
            bench.settle().await?;
            let drained = apalis::drain(bench.pool(), args.jobs);
            let took =
                tokio::time::timeout(PEER_MAX, drained).await.context("the peer hangs")??;
            peer.push(relevo_queue_bench::rate(args.jobs, took));
        }
    }
    let mut lines = bench.lines();
    if !args.no_peer {
        let rate = relevo_queue_bench::median(&peer);
        let line = Line::new("drain ÷ apalis-postgres", "jobs/s", "≥ 5", bench.drain_rate(), rate);
        lines.insert(1, line);
    }
    Ok(lines)
}
