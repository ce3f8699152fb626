//! `relevo bench …`.

use anyhow::Context as _;
use relevo_queue_bench::{Bench, BenchDatabase, Conditions, Plan, table};
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;

use crate::args::{BenchCommand, BenchQueueArgs};
use crate::control;
use crate::failure::{Advise as _, Exit, Failure, OrFail as _};
use crate::output::Output;
use crate::shutdown;

/// Runs it.
pub async fn bench(
    config: Option<&std::path::Path>,
    command: BenchCommand,
    out: Output,
) -> Result<(), Failure> {
    let BenchCommand::Queue(args) = command;
    let url = match &args.url {
        Some(url) => SecretString::from(url.clone()),
        None => control::url(&control::load(config)?.settings).await?,
    };
    let stop = shutdown::on_signal()?;
    let database = BenchDatabase::create(url.expose_secret())
        .await
        .context("no database for the benchmark could be made")
        .or_exit(Exit::ControlPlane)
        .advise("give a server, and a role with CREATEDB, by --url")?;
    // Also after Ctrl-C and after an error: what was made for measuring goes.
    let measured = measure(&args, &database, &stop).await;
    database.drop().await.context("clearing up failed")?;
    let bench = measured?;
    let lines = bench.lines();
    out.document(&lines, || table(&lines))
}

async fn measure(
    args: &BenchQueueArgs,
    database: &BenchDatabase,
    stop: &CancellationToken,
) -> Result<Bench, Failure> {
    let plan = Plan {
        jobs: args.jobs as usize,
        singles: i64::from(args.jobs.min(2_000)),
        samples: 200,
        conditions: Conditions {
            history: i64::from(args.history),
            depth: i64::from(args.depth),
            held_snapshot: !args.no_snapshot,
        },
    };
    let measured = async {
        let mut bench = Bench::open(plan, database).await?;
        for round in 1..=args.rounds {
            eprintln!("round {round} of {}", args.rounds);
            bench.round().await?;
        }
        anyhow::Ok(bench)
    };
    tokio::select! {
        () = stop.cancelled() => Err(Failure::new(Exit::Interrupted, "interrupted")),
        bench = measured => Ok(bench.context("measuring failed")?),
    }
}
