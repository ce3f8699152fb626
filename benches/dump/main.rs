//! `./dev bench dump`: the dump import beside its limits, on one server, in one run, in turns:
//! gunzip alone, translation to nowhere, a bare COPY of the same rows, COPY, indexes, keys and
//! ANALYZE one after the other, and a restore into MariaDB followed by pgloader. Medians, and ratios
//! to the targets.

mod baseline;
mod import;
mod peers;
mod report;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::{Parser, Subcommand};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, PgPool};

use crate::baseline::Encoded;
use crate::report::Samples;

/// Measures the dump import; every figure is the median of the rounds.
#[derive(Parser)]
#[command(subcommand_negates_reqs = true)]
struct Args {
    /// A dump, gzip or plain.
    #[arg(env = "RELEVO_BENCH_DUMP", required = true)]
    file: Option<PathBuf>,
    /// A Postgres server where databases may be created.
    #[arg(long, env = "RELEVO_BENCH_POSTGRES_URL")]
    url: Option<String>,
    /// Rounds; the contestants take turns.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Print JSON instead of a table.
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// One import in a process of its own, so that its memory can be measured.
    #[command(hide = true)]
    One {
        /// The dump.
        file: PathBuf,
        /// The target database.
        url: String,
        /// COPY connections.
        jobs: usize,
        /// Hash every value on both sides.
        #[arg(long)]
        values: bool,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    if let Some(Command::One { file, url, jobs, values }) = args.command {
        return import::one(&file, &url, jobs, values).await;
    }
    let file = args.file.context("name a dump, or set RELEVO_BENCH_DUMP")?;
    ensure!(file.exists(), "{} is not there", file.display());
    let url = args.url.context("name a server with --url, or set RELEVO_BENCH_POSTGRES_URL")?;
    let server = Server::connect(&url).await?;
    let outcome = measure(&file, &server, args.rounds.max(1)).await;
    server.clean_up().await?;
    report::print(&outcome?, args.json)
}

async fn measure(file: &std::path::Path, server: &Server, rounds: usize) -> Result<Samples> {
    let folder = tempfile::Builder::new().prefix("relevo-bench").tempdir()?;
    eprintln!("encoding the rows for the bare COPY …");
    let encoded = Encoded::new(file, folder.path())?;
    let mariadb = peers::MariaDb::from_env()?;
    let mut samples = Samples::new(file, &encoded, &server.version().await?)?;
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds} …");
        samples.gunzip.push(timed(|| baseline::gunzip(file))?);
        samples.translate.push(timed(|| baseline::translate(file))?);

        let url = server.database().await?;
        let bare = baseline::load(&url, &encoded).await?;
        samples.bare_copy.push(bare.copy_s);
        samples.bare_all.push(bare.all_s);
        server.drop_databases().await?;

        for jobs in [1, 2] {
            let url = server.database().await?;
            let imported = import::in_child(file, &url, jobs, false).await?;
            ensure!(imported.rows == encoded.rows, "the import has other rows than the dump");
            samples.imports.entry(jobs).or_default().push(imported);
            server.drop_databases().await?;
        }
        let url = server.database().await?;
        samples.hashed.push(import::in_child(file, &url, 2, true).await?);
        server.drop_databases().await?;

        if let Some(mariadb) = &mariadb {
            samples.restore.push(mariadb.restore(file)?);
            let url = server.database().await?;
            samples.pgloader.push(mariadb.pgloader(&url, folder.path())?);
            server.drop_databases().await?;
        }
    }
    Ok(samples)
}

/// Seconds that something takes.
fn timed(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let started = Instant::now();
    work()?;
    Ok(started.elapsed().as_secs_f64())
}

/// The server, and the databases made on it.
struct Server {
    pool: PgPool,
    base: String,
    made: std::sync::Mutex<Vec<String>>,
}

impl Server {
    async fn connect(url: &str) -> Result<Self> {
        let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
        let (base, _) = url.rsplit_once('/').context("the URL names no database")?;
        Ok(Self { pool, base: base.to_owned(), made: std::sync::Mutex::default() })
    }

    async fn version(&self) -> Result<String> {
        Ok(sqlx::query_scalar("SELECT current_setting('server_version')")
            .fetch_one(&self.pool)
            .await?)
    }

    /// A fresh database, after a checkpoint, so that none of another's making falls into the
    /// measurement.
    async fn database(&self) -> Result<String> {
        let count = self.made.lock().map_err(|_| anyhow::anyhow!("a lock broke"))?.len();
        let name = format!("relevo_bench_dump_{}_{count}", std::process::id());
        self.run(&format!("CREATE DATABASE {name}")).await?;
        self.made.lock().map_err(|_| anyhow::anyhow!("a lock broke"))?.push(name.clone());
        self.run("CHECKPOINT").await?;
        Ok(format!("{}/{name}", self.base))
    }

    async fn drop_databases(&self) -> Result<()> {
        let made: Vec<String> =
            self.made.lock().map_err(|_| anyhow::anyhow!("a lock broke"))?.clone();
        for name in made {
            self.run(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await?;
        }
        Ok(())
    }

    async fn clean_up(&self) -> Result<()> {
        self.drop_databases().await?;
        self.pool.close().await;
        Ok(())
    }

    async fn run(&self, sql: &str) -> Result<()> {
        sqlx::query(AssertSqlSafe(sql.to_owned())).execute(&self.pool).await?;
        Ok(())
    }
}
