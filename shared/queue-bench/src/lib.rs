//! The queue measured beside the limit: bare SQL that does the same work and nothing else, on the
//! same server, in turns. `relevo bench queue` is its door; `./dev bench queue` adds a peer.
//!
//! Everything happens in a database of its own, which is dropped at the end.

mod conditions;
mod own;
mod raw;

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde::Serialize;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, PgPool};

pub use conditions::Conditions;

/// Jobs in one bulk enqueue.
const BULK: usize = 1000;

/// A round takes less than a minute; one that hangs must say so.
const ROUND_MAX: Duration = Duration::from_secs(600);

/// Between two samples of the latency: the queue is idle, and past the throttle of notifications.
const IDLE: Duration = Duration::from_millis(50);

/// Connections of each side's pool, a peer's too.
pub const CONNECTIONS_MAX: u32 = 8;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// No-op jobs per drain.
    pub jobs: usize,
    /// Single enqueues per round.
    pub singles: i64,
    /// Latency samples per round.
    pub samples: usize,
    /// What lies in the tables beside the jobs that are drained.
    pub conditions: Conditions,
}

/// One figure beside its limit.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// What was measured, and against what.
    pub what: &'static str,
    /// Relevo's figure.
    pub relevo: f64,
    /// The limit's.
    pub limit: f64,
    /// Of both.
    pub unit: &'static str,
    /// The first by the second.
    pub ratio: f64,
    /// What the ratio is to be.
    pub target: &'static str,
}

impl Line {
    /// A figure beside its limit.
    pub fn new(
        what: &'static str,
        unit: &'static str,
        target: &'static str,
        relevo: f64,
        limit: f64,
    ) -> Self {
        Self { what, relevo, limit, unit, ratio: relevo / limit, target }
    }
}

/// A database of the benchmark's own.
pub struct BenchDatabase {
    server: PgConnectOptions,
    name: String,
}

impl BenchDatabase {
    /// Makes one on the server that `url` leads to.
    ///
    /// # Errors
    /// The role may not create databases; the server can't be reached.
    pub async fn create(url: &str) -> Result<Self> {
        let server: PgConnectOptions = url.parse().context("the server's URL is not understood")?;
        let name = format!("relevo_bench_{}", std::process::id());
        let mut admin = PgConnection::connect_with(&server).await?;
        sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut admin)
            .await
            .context("the role needs CREATEDB on that server")?;
        admin.close().await.ok();
        Ok(Self { server, name })
    }

    /// Where it is.
    pub fn options(&self) -> PgConnectOptions {
        self.server.clone().database(&self.name).disable_statement_logging()
    }

    /// Drops it, whoever is still connected.
    ///
    /// # Errors
    /// Database errors; it is named in them.
    pub async fn drop(self) -> Result<()> {
        let mut admin = PgConnection::connect_with(&self.server).await?;
        sqlx::query(AssertSqlSafe(format!("DROP DATABASE {} WITH (FORCE)", self.name)))
            .execute(&mut admin)
            .await
            .with_context(|| {
                format!("database {} is left and can be dropped by hand", self.name)
            })?;
        admin.close().await.ok();
        Ok(())
    }
}

#[derive(Default)]
struct Samples {
    raw_drain: Vec<f64>,
    own_drain: Vec<f64>,
    raw_single: Vec<f64>,
    own_single: Vec<f64>,
    raw_bulk: Vec<f64>,
    own_bulk: Vec<f64>,
    raw_latency: Vec<f64>,
    own_latency: Vec<f64>,
    loaded_drains: conditions::Samples,
}

/// A benchmark under way.
pub struct Bench {
    plan: Plan,
    pool: PgPool,
    server: PgConnectOptions,
    samples: Samples,
}

impl Bench {
    /// Makes the tables of both sides.
    ///
    /// # Errors
    /// Database errors.
    pub async fn open(plan: Plan, database: &BenchDatabase) -> Result<Self> {
        // No ping before each use: the raw side's connections pay none either.
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .test_before_acquire(false)
            .connect_with(database.options())
            .await?;
        relevo_runs::control_plane::migrate(&pool).await?;
        raw::prepare(&pool).await?;
        Ok(Self { plan, pool, server: database.options(), samples: Samples::default() })
    }

    /// Connections to the benchmark's database.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// What one side left to be written must not weigh on the next.
    ///
    /// # Errors
    /// Database errors, but not that the role may not ask for it.
    pub async fn settle(&self) -> Result<()> {
        settle(&self.pool).await
    }

    /// Measures everything once, both sides in turns.
    ///
    /// # Errors
    /// Database errors; a round that doesn't end.
    pub async fn round(&mut self) -> Result<()> {
        tokio::time::timeout(ROUND_MAX, self.one_round())
            .await
            .with_context(|| format!("no end of a round within {} s", ROUND_MAX.as_secs()))?
    }

    async fn one_round(&mut self) -> Result<()> {
        let Self { plan, pool, server, samples } = self;
        let jobs = plan.jobs;
        raw::fill(pool, i64::try_from(jobs)?).await?;
        settle(pool).await?;
        samples.raw_drain.push(rate(jobs, raw::drain(pool, server).await?));

        settle(pool).await?;
        samples.own_bulk.push(rate(jobs, own::fill(pool, jobs, BULK).await?));
        settle(pool).await?;
        samples.own_drain.push(rate(jobs, own::drain(pool, jobs).await?));
        conditions::drains(pool, server, jobs, plan.conditions, &mut samples.loaded_drains).await?;

        settle(pool).await?;
        samples.raw_bulk.push(rate(jobs, raw::copy_bulk(pool, server, jobs, BULK).await?));
        settle(pool).await?;
        let singles = usize::try_from(plan.singles)?;
        let took = raw::insert_single(pool, server, plan.singles).await?;
        samples.raw_single.push(rate(singles, took));
        samples.own_single.push(rate(singles, own::enqueue_single(pool, plan.singles).await?));

        let ms = |latencies: Vec<Duration>| {
            latencies.into_iter().map(|latency| latency.as_secs_f64() * 1000.0).collect::<Vec<_>>()
        };
        samples.raw_latency.extend(ms(raw::latency(pool, server, plan.samples).await?));
        samples.own_latency.extend(ms(own::latency(pool, plan.samples).await?));
        Ok(())
    }

    /// Jobs a second of the drains so far, the median.
    pub fn drain_rate(&self) -> f64 {
        median(&self.samples.own_drain)
    }

    /// The figures of all rounds so far: medians.
    pub fn lines(&self) -> Vec<Line> {
        let samples = &self.samples;
        let rates = |what, target, own: &[f64], raw: &[f64]| {
            Line::new(what, "jobs/s", target, median(own), median(raw))
        };
        let mut lines = vec![
            rates("drain ÷ raw loop", "≥ 0.65", &samples.own_drain, &samples.raw_drain),
            rates("bulk enqueue ÷ COPY", "≥ 0.75", &samples.own_bulk, &samples.raw_bulk),
            rates("single enqueue ÷ INSERT", "≥ 0.8", &samples.own_single, &samples.raw_single),
        ];
        for (what, target, at) in [
            ("enqueue → start, p50 ÷ raw", "≤ 1.5", 0.5),
            ("enqueue → start, p99 ÷ raw", "p99 ≤ 10 ms", 0.99),
        ] {
            let own = quantile(&samples.own_latency, at);
            lines.push(Line::new(what, "ms", target, own, quantile(&samples.raw_latency, at)));
        }
        lines.extend(samples.loaded_drains.lines(median(&samples.own_drain)));
        lines
    }
}

async fn settle(pool: &PgPool) -> Result<()> {
    match sqlx::query("CHECKPOINT").execute(pool).await {
        // Managed servers keep that to themselves.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42501") => Ok(()),
        other => Ok(other.map(drop)?),
    }
}

/// Jobs a second.
pub fn rate(jobs: usize, elapsed: Duration) -> f64 {
    u32::try_from(jobs).map_or(f64::INFINITY, f64::from) / elapsed.as_secs_f64()
}

/// The value in the middle.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which the share `at` of the values lies.
fn quantile(values: &[f64], at: f64) -> f64 {
    let mut values = values.to_vec();
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

/// The figures as a table for people.
pub fn table(lines: &[Line]) -> String {
    let mut text = format!(
        "{:<34} {:>12} {:>12} {:<7} {:>7}  target\n",
        "what", "relevo", "limit", "unit", "ratio"
    );
    for line in lines {
        text.push_str(&format!(
            "{:<34} {:>12.1} {:>12.1} {:<7} {:>7.2}  {}\n",
            line.what, line.relevo, line.limit, line.unit, line.ratio, line.target
        ));
    }
    text
}
