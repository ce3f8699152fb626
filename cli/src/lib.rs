//! `relevo` as a library: the whole command line, with kinds of jobs of one's own.
//!
//! The binary `relevo` is [`builder`]`().run()` and nothing else: each command calls one function
//! of a crate beside this one. A program of somebody's own adds what its worker runs:
//!
//! ```no_run
//! use relevo::{Here, Job, JobError, Kind};
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Deserialize, Serialize)]
//! struct Reprice {
//!     sku: String,
//! }
//!
//! impl Kind for Reprice {
//!     const KIND: &'static str = "Reprice";
//!     const SUMMARY: &'static str = "Asks for the price of one article and keeps it.";
//! }
//!
//! async fn reprice(_here: Here, _job: Job, reprice: Reprice) -> Result<(), JobError> {
//!     println!("{}", reprice.sku);
//!     Ok(())
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     relevo::builder().kind(reprice).run()
//! }
//! ```
//!
//! API, scheduler and console may be those of the unmodified `relevo`: the worker publishes the
//! kinds it knows. docs/own-kinds.md tells more, examples/own-kind is a whole program.

mod args;
mod audited;
mod builder;
mod certificate;
mod commands;
mod control;
mod embedded;
mod failure;
mod import_view;
mod output;
mod reload;
mod sense;
mod shutdown;
mod watch;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use relevo_telemetry::{redact, trace};
use relevo_worker::OwnKinds;
use serde_json::json;

use crate::args::{Cli, Command, ConfigCommand};
use crate::commands::{
    audit, bench, configuration, connections, console, dead, demo, doctor, dumps, init, jobs, keys,
    limits, notify, queues, runs, schedules, services, state, up,
};
use crate::control::ControlPlane;
use crate::failure::{Exit, Failure, OrFail as _};
use crate::output::Output;

pub use builder::{Builder, builder};
pub use relevo_jobs::{OrderBy, OwnKind as Kind, Policy, UniqueBy, UniqueUntil};
pub use relevo_queue::{
    BoxError, CancelReason, Enqueued, Job, JobError, JobId, NewJob, Progress, Queue, QueueError,
};
pub use relevo_worker::Here;
pub use serde_json;
/// The version that [`Here::pool`] is of.
pub use sqlx;

/// Does what the command line says.
fn run(own: OwnKinds) -> ExitCode {
    // Before any connection: two providers are linked, and the choice must not be left open.
    // It fails only where a provider is installed already, which is what is wanted.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let json = cli.global.json;
    match start(cli, own) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) if failure.is_stdout_closed() => ExitCode::SUCCESS,
        Err(failure) => report(&failure, json),
    }
}

/// Tells of a failure as it was asked to be told; the exit code of its kind.
fn report(failure: &Failure, json: bool) -> ExitCode {
    let told = if json { format!("{}\n", failure.json()) } else { failure.text() };
    eprint!("{}", redact::text(&told));
    ExitCode::from(failure.exit().code())
}

/// A command line that isn't understood, told as it asked to be told; or help and version, which
/// come this way too.
fn refuse(error: &clap::Error) -> ExitCode {
    if !error.use_stderr() {
        // A closed standard output is no failure.
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if std::env::args().any(|argument| argument == "--json") {
        let text = error.to_string();
        let text = text.strip_prefix("error: ").unwrap_or(&text).trim().to_owned();
        eprintln!("{}", redact::text(&Failure::new(Exit::Usage, text).json()));
    } else {
        let _ = error.print();
    }
    ExitCode::from(Exit::Usage.code())
}

fn start(cli: Cli, own: OwnKinds) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("the runtime can't be started")
        .or_exit(Exit::Failed)?;
    let outcome = runtime.block_on(async {
        let outcome = Box::pin(dispatch(cli, own)).await;
        trace::shutdown().await;
        outcome
    });
    // A read of standard input that never ends must not keep the process.
    runtime.shutdown_background();
    outcome
}

async fn dispatch(cli: Cli, own: OwnKinds) -> Result<(), Failure> {
    let out = Output::new(cli.global.json);
    let config = cli.global.config.as_deref();
    match cli.command {
        Command::Up(args) => Box::pin(up::up(config, args, own, out)).await,
        Command::Init(args) => Box::pin(init::init(*args, out)).await,
        Command::Demo(args) => Box::pin(demo::demo(args, own, out)).await,
        Command::Api(args) => Box::pin(services::api(config, args)).await,
        Command::Worker(args) => Box::pin(services::worker(config, args, own)).await,
        Command::Scheduler(args) => Box::pin(services::scheduler(config, args)).await,
        Command::Migrate => migrate(config, out).await,
        Command::Key(command) => keys::key(&open(config).await?, command, out).await,
        Command::Audit(command) => audit::audit(&open(config).await?, command, out).await,
        Command::Console(command) => console::console(&open(config).await?, command, out).await,
        Command::Job(command) => {
            let plane = open(config).await?;
            Box::pin(traced(&plane, "relevo job", jobs::job(&plane, command, out))).await
        }
        Command::Limits(command) => limits::limits(&open(config).await?, command, out).await,
        Command::Bench(command) => Box::pin(bench::bench(config, command, out)).await,
        Command::Queue(command) => queues::queue(&open(config).await?, command, out).await,
        Command::Dead(command) => dead::dead(&open(config).await?, command, out).await,
        Command::Run(command) => Box::pin(runs::run(&open(config).await?, command, out)).await,
        Command::Backup(command) => {
            let plane = open(config).await?;
            Box::pin(traced(&plane, "relevo backup", runs::backup(&plane, command, out))).await
        }
        Command::Schedule(command) => schedules::schedule(&open(config).await?, command, out).await,
        Command::Dump(command) => Box::pin(dumps::dump(command, out)).await,
        Command::Notify(command) => {
            Box::pin(notify::notify(&open(config).await?, command, out)).await
        }
        Command::Connection(command) => {
            Box::pin(connections::connection(&open(config).await?, command, out)).await
        }
        Command::Secret(command) => Box::pin(connections::secrets(config, command, out)).await,
        Command::Doctor(args) => Box::pin(doctor::doctor(config, args, out)).await,
        Command::State(command) => Box::pin(state::state(config, command, out)).await,
        Command::Config(ConfigCommand::Check) => configuration::check(config, out),
    }
}

async fn open(config: Option<&Path>) -> Result<ControlPlane, Failure> {
    ControlPlane::open(config).await
}

/// Runs a command that makes jobs: with a collector configured it begins their trace.
async fn traced(
    plane: &ControlPlane,
    name: &str,
    command: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    trace::init(&plane.settings.telemetry, "cli").or_exit(Exit::Configuration)?;
    let work = trace::root(name, || []);
    let outcome_of = work.clone();
    work.run(async move {
        let outcome = command.await;
        if let Err(failure) = &outcome {
            outcome_of.fail(&failure.line());
        }
        outcome
    })
    .await
}

async fn migrate(config: Option<&Path>, out: Output) -> Result<(), Failure> {
    let settings = control::load(config)?.settings;
    let pool = control::connect(&settings, "relevo-migrate", 2).await?;
    control::migrate(&settings, &pool).await?;
    out.document(&json!({"migrated": true}), || "the control plane is at this version".to_owned())
}
