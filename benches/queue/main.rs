//! `./dev bench queue`: Relevo's queue beside the bare loop and beside apalis-postgres, on one
//! server, in one run, in turns; medians, and ratios to the limit.

mod apalis;
mod raw;
mod relevo;

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Parser;
use serde::Serialize;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};

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
    /// Leave the peer out.
    #[arg(long)]
    no_peer: bool,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
}

/// One line of the result.
#[derive(Serialize)]
struct Line {
    what: &'static str,
    relevo: f64,
    limit: f64,
    unit: &'static str,
    ratio: f64,
    target: &'static str,
}

#[derive(Default)]
struct Samples {
    raw_drain: Vec<f64>,
    relevo_drain: Vec<f64>,
    peer_drain: Vec<f64>,
    raw_single: Vec<f64>,
    relevo_single: Vec<f64>,
    raw_bulk: Vec<f64>,
    relevo_bulk: Vec<f64>,
    raw_latency: Vec<f64>,
    relevo_latency: Vec<f64>,
}

const BULK: usize = 1000;

/// A round takes less than a minute; one that hangs must say so.
const ROUND_MAX: Duration = Duration::from_secs(600);

/// Between two samples of the latency: the queue is idle, and past the throttle of notifications.
const IDLE: Duration = Duration::from_millis(50);

/// Connections of each side's pool.
const CONNECTIONS_MAX: u32 = 8;

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let server = PgPoolOptions::new().max_connections(1).connect(&args.url).await?;
    let name = format!("relevo_bench_{}", std::process::id());
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&server).await?;
    let (start, _) = args.url.rsplit_once('/').context("the URL names no database")?;
    let result = measure(&args, &format!("{start}/{name}")).await;
    sqlx::query(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)")))
        .execute(&server)
        .await?;
    print(&args, &result?)
}

async fn measure(args: &Args, url: &str) -> Result<Vec<Line>> {
    // No ping before each use: the raw side's connections pay none either.
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS_MAX)
        .test_before_acquire(false)
        .connect(url)
        .await?;
    relevo_runs::control_plane::migrate(&pool).await?;
    raw::prepare(&pool).await?;
    if !args.no_peer {
        apalis::prepare(&pool).await?;
    }
    let mut samples = Samples::default();
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        tokio::time::timeout(ROUND_MAX, one_round(args, &pool, url, &mut samples))
            .await
            .with_context(|| format!("no end of a round within {} s", ROUND_MAX.as_secs()))??;
    }
    Ok(lines(args, samples))
}

async fn one_round(args: &Args, pool: &PgPool, url: &str, samples: &mut Samples) -> Result<()> {
    let rate = |jobs: usize, elapsed: Duration| {
        u32::try_from(jobs).map_or(f64::INFINITY, f64::from) / elapsed.as_secs_f64()
    };
    // What one side left to be written must not weigh on the next.
    let settle = async || sqlx::query("CHECKPOINT").execute(pool).await.map(drop);
    raw::fill(pool, i64::try_from(args.jobs)?).await?;
    settle().await?;
    samples.raw_drain.push(rate(args.jobs, raw::drain(pool, url).await?));

    settle().await?;
    samples.relevo_bulk.push(rate(args.jobs, relevo::fill(pool, args.jobs, BULK).await?));
    settle().await?;
    samples.relevo_drain.push(rate(args.jobs, relevo::drain(pool, args.jobs).await?));

    if !args.no_peer {
        apalis::fill(pool, args.jobs).await?;
        settle().await?;
        samples.peer_drain.push(rate(args.jobs, apalis::drain(pool, args.jobs).await?));
    }

    settle().await?;
    samples.raw_bulk.push(rate(args.jobs, raw::copy_bulk(pool, url, args.jobs, BULK).await?));
    settle().await?;
    let singles = usize::try_from(args.singles)?;
    samples.raw_single.push(rate(singles, raw::insert_single(pool, url, args.singles).await?));
    samples.relevo_single.push(rate(singles, relevo::enqueue_single(pool, args.singles).await?));

    let ms = |latencies: Vec<Duration>| {
        latencies.into_iter().map(|latency| latency.as_secs_f64() * 1000.0).collect::<Vec<_>>()
    };
    samples.raw_latency.extend(ms(raw::latency(pool, url, args.samples).await?));
    samples.relevo_latency.extend(ms(relevo::latency(pool, args.samples).await?));
    Ok(())
}

fn lines(args: &Args, mut samples: Samples) -> Vec<Line> {
    let mut lines = Vec::new();
    let mut compare = |what, unit, target, relevo: f64, limit: f64| {
        lines.push(Line { what, relevo, limit, unit, ratio: relevo / limit, target });
    };
    let relevo_drain = quantile(&mut samples.relevo_drain, 0.5);
    compare("drain ÷ raw loop", "jobs/s", "≥ 0.65", relevo_drain, {
        quantile(&mut samples.raw_drain, 0.5)
    });
    if !args.no_peer {
        let peer_drain = quantile(&mut samples.peer_drain, 0.5);
        compare("drain ÷ apalis-postgres", "jobs/s", "≥ 5", relevo_drain, peer_drain);
    }
    compare(
        "bulk enqueue ÷ COPY",
        "jobs/s",
        "≥ 0.75",
        quantile(&mut samples.relevo_bulk, 0.5),
        quantile(&mut samples.raw_bulk, 0.5),
    );
    compare(
        "single enqueue ÷ INSERT",
        "jobs/s",
        "≥ 0.8",
        quantile(&mut samples.relevo_single, 0.5),
        quantile(&mut samples.raw_single, 0.5),
    );
    for (what, target, at) in [
        ("enqueue → start, p50 ÷ raw", "≤ 1.5", 0.5),
        ("enqueue → start, p99 ÷ raw", "p99 ≤ 10 ms", 0.99),
    ] {
        compare(
            what,
            "ms",
            target,
            quantile(&mut samples.relevo_latency, at),
            quantile(&mut samples.raw_latency, at),
        );
    }
    lines
}

/// The value below which the share `at` of the values lies.
fn quantile(values: &mut [f64], at: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "an index into a handful of samples"
    )]
    let index = (last as f64 * at).round() as usize;
    values.get(index).copied().unwrap_or(f64::NAN)
}

fn print(args: &Args, lines: &[Line]) -> Result<()> {
    if args.json {
        println!("{}", serde_json::to_string_pretty(lines)?);
        return Ok(());
    }
    println!(
        "{:<28} {:>12} {:>12} {:<7} {:>7}  target",
        "what", "relevo", "limit", "unit", "ratio"
    );
    for line in lines {
        println!(
            "{:<28} {:>12.1} {:>12.1} {:<7} {:>7.2}  {}",
            line.what, line.relevo, line.limit, line.unit, line.ratio, line.target
        );
    }
    Ok(())
}
