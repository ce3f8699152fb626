//! `./dev bench http`: enqueueing over HTTP beside the library, on one server, in one run, in turns;
//! medians, and ratios.
//!
//! The API is the real one, with its keys, limits, metrics and log lines (into a file), in this
//! process: both sides share the machine with nothing but Postgres.

mod client;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::Parser;
use futures::future::try_join_all;
use relevo_api::ApiDeps;
use relevo_pg::PoolOptions;
use relevo_queue::{NewJob, Queue};
use relevo_runs::api_keys::{self, Scope};
use relevo_runs::{Runs, control_plane};
use relevo_telemetry::metrics::Metrics;
use serde_json::json;
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use client::{Client, request};

/// Measures enqueueing over HTTP; every figure is the median of the rounds.
#[derive(Parser)]
struct Args {
    /// A Postgres server where databases may be created.
    #[arg(long, env = "RELEVO_BENCH_POSTGRES_URL")]
    url: String,
    /// Jobs enqueued one by one, per round and side.
    #[arg(long, default_value_t = 4_000)]
    singles: usize,
    /// Jobs enqueued by the thousand, per round and side.
    #[arg(long, default_value_t = 100_000)]
    jobs: usize,
    /// Producers at once.
    #[arg(long, default_value_t = 8)]
    producers: usize,
    /// Rounds; the sides take turns.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
}

const BULK: usize = 1_000;

/// A round takes well under a minute; one that hangs must say so.
const ROUND_MAX: Duration = Duration::from_secs(300);

/// Connections of the pool that both sides use, as many as the API's own has.
const CONNECTIONS_MAX: u32 = 10;

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
    result
}

/// The side that is measured.
#[derive(Clone)]
enum Side {
    Library { queue: Queue },
    Http { address: SocketAddr, key: Arc<str> },
}

async fn measure(args: &Args, url: &str) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let settings = settings(folder.path(), url)?;
    relevo_telemetry::init_logging(&settings.telemetry)?;
    let options = PoolOptions::named("relevo-bench").max_connections(CONNECTIONS_MAX);
    let pool = relevo_pg::connect(&url.to_owned().into(), options).await?;
    control_plane::migrate(&pool).await?;
    let (_, key) = api_keys::create(&pool, "bench", &[Scope::Enqueue]).await?;
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let deps = ApiDeps {
        pool: pool.clone(),
        queue: Queue::new(pool.clone()),
        runs: Runs::new(pool.clone()),
        settings: settings.into(),
        metrics: Metrics::new(),
        next_slots: |_, _, _, _| Vec::new(),
    };
    let stop = CancellationToken::new();
    let served = tokio::spawn(relevo_api::serve(deps, listener, stop.clone()));
    let library = Side::Library { queue: Queue::new(pool.clone()) };
    let http = Side::Http { address, key: key.expose().into() };
    let mut samples: [Vec<f64>; 6] = Default::default();
    for round in 0..args.rounds {
        eprintln!("round {} of {}", round + 1, args.rounds);
        let figures = tokio::time::timeout(ROUND_MAX, one_round(args, &pool, &library, &http));
        let figures = figures
            .await
            .with_context(|| format!("no end of a round within {} s", ROUND_MAX.as_secs()))??;
        for (samples, figure) in samples.iter_mut().zip(figures) {
            samples.push(figure);
        }
    }
    stop.cancel();
    served.await??;
    report(args, samples);
    Ok(())
}

fn settings(folder: &std::path::Path, url: &str) -> Result<relevo_settings::Settings> {
    let path = folder.join("relevo.toml");
    let log = folder.join("relevo.log");
    let text = format!(
        "data_dir = {:?}\n[database]\nurl = {url:?}\n[telemetry]\nlog_file = {:?}\n",
        folder.display().to_string(),
        log.display().to_string()
    );
    std::fs::write(&path, text)?;
    Ok(relevo_settings::load(Some(&path), &|_| None)?.settings)
}

/// Jobs a second: one producer, several, and by the thousand; the library, then HTTP.
async fn one_round(args: &Args, pool: &PgPool, library: &Side, http: &Side) -> Result<[f64; 6]> {
    let mut figures = [0.0; 6];
    for (at, side) in [library, http].into_iter().enumerate() {
        settle(pool).await?;
        figures[at] = rate(side, 1, args.singles / 2, 1).await?;
        settle(pool).await?;
        figures[2 + at] = rate(side, args.producers, args.singles / args.producers, 1).await?;
        settle(pool).await?;
        figures[4 + at] = rate(side, 2, args.jobs / BULK / 2, BULK).await?;
    }
    Ok(figures)
}

/// What one side left to be written must not weigh on the next.
async fn settle(pool: &PgPool) -> Result<()> {
    sqlx::query("TRUNCATE relevo.job").execute(pool).await?;
    sqlx::query("CHECKPOINT").execute(pool).await?;
    Ok(())
}

/// Jobs a second that so many producers bring in, each so many requests of so many jobs.
async fn rate(side: &Side, producers: usize, requests: usize, jobs: usize) -> Result<f64> {
    // Connections, plans and the key are warm, as they are in a process that has run for a second.
    try_join_all((0..producers).map(|_| produce(side.clone(), 3, jobs))).await?;
    let started = Instant::now();
    let work = (0..producers).map(|_| tokio::spawn(produce(side.clone(), requests, jobs)));
    for done in try_join_all(work).await? {
        done?;
    }
    let total = u32::try_from(producers * requests * jobs)?;
    Ok(f64::from(total) / started.elapsed().as_secs_f64())
}

async fn produce(side: Side, requests: usize, jobs: usize) -> Result<()> {
    match side {
        Side::Library { queue } => {
            let job = NewJob::new("Noop", &json!({}))?;
            let many = vec![job.clone(); jobs];
            for _ in 0..requests {
                if jobs == 1 {
                    queue.enqueue(job.clone()).await?;
                } else {
                    queue.enqueue_many(&many).await?;
                }
            }
        }
        Side::Http { address, key } => {
            let one = json!({"kind": "Noop"});
            let request = if jobs == 1 {
                request("/api/v1/jobs", &key, &one.to_string())
            } else {
                let body = json!({"jobs": vec![one; jobs]}).to_string();
                request("/api/v1/jobs/batch", &key, &body)
            };
            let mut client = Client::connect(address).await?;
            for _ in 0..requests {
                client.send(&request).await?;
            }
        }
    }
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the result is what the program is for")]
fn report(args: &Args, samples: [Vec<f64>; 6]) {
    let [one, one_http, many, many_http, bulk, bulk_http] = samples.map(median);
    println!("{:<34} {:>11} {:>11} {:>7}  target", "jobs a second", "library", "HTTP", "ratio");
    let several = format!("one a request, {} producers", args.producers);
    for (what, library, http, target) in [
        ("one a request, one producer", one, one_http, "≥ 0.7"),
        (several.as_str(), many, many_http, "≥ 0.7"),
        ("1,000 a request, two producers", bulk, bulk_http, "≥ 0.5"),
    ] {
        println!("{what:<34} {library:>11.0} {http:>11.0} {:>7.2}  {target}", http / library);
    }
}

fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples.get(samples.len() / 2).copied().unwrap_or(f64::NAN)
}
