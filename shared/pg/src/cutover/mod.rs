//! The switch that readers see: staged tables take the place of the present ones, in one short
//! transaction.
//!
//! The story of an exchange:
//!
//! 1. The tables are locked, all of them or none, within a budget shorter than the server's
//!    deadlock timeout: a reader that waits for us never becomes a deadlock's victim, and an attempt
//!    that does not get through lets everybody go on and is repeated a little later.
//! 2. Under the locks the catalogue is surveyed: owners, grants, row security, policies, triggers,
//!    publications, comments, views and foreign keys of others. What cannot be carried over stops
//!    the exchange and is named.
//! 3. The tables kept from last time go to the trash schema, the present ones to the previous
//!    schema, the staged ones into the target; everything surveyed is put onto the new tables.
//! 4. The caller's finale runs (the ledger's fenced row), then COMMIT.
//!
//! A `pg_dump` that runs is let go on: for half of the time there is, nothing is exchanged under it,
//! and afterwards without ever waiting in a queue, where its workers would not wait.
//!
//! Nothing is dropped here, and nothing anywhere with CASCADE. Views are replaced in place, so
//! their own grants and dependents stay.

mod error;
mod extras;
mod merge;
mod others;
mod rights;
mod script;
mod snapshot;
mod survey;
mod views;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tokio_util::sync::CancellationToken;

pub use error::CutoverError;
pub use extras::OWN_FUNCTION_MARK;
pub use merge::{Merge, MergePlan, RowChanges, merge, plan_merge};
pub use others::InboundKey;
pub use script::{Statement, run_script};
pub use snapshot::{OldTransaction, backup_runs, open_transactions, wait_for_transactions};
pub use survey::{RENAMED_SUFFIX, Survey, survey};

use crate::error::{PgError, sqlstate};
use crate::ident::{literal, quote, quote_qualified};
use crate::session::Session;

/// The first attempt's budget for all locks together; it doubles up to the largest that is safe.
const FIRST_BUDGET: Duration = Duration::from_millis(100);
/// The pause after an attempt, as a multiple of the budget it had.
const PAUSE_FACTOR: u32 = 2;
/// The pause between two looks whether a pg_dump still runs.
const BACKUP_PAUSE: Duration = Duration::from_millis(10);
/// The longest wait for one lock after the tables are held: views and sequences of others.
const LATE_LOCK_MS: u64 = 100;
/// The longest that one statement may take while readers wait: all of them change the catalogue
/// only.
const STATEMENT_LIMIT: &str = "30s";
/// How long a client that was frozen in the middle of a cutover keeps readers waiting.
const IDLE_LIMIT: &str = "10s";

/// Which tables change places, and between which schemas.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The schema readers use.
    pub target: String,
    /// Where the new tables stand.
    pub staging: String,
    /// Where the present tables go.
    pub previous: String,
    /// Where the tables that `previous` holds now go.
    pub trash: String,
    /// The tables, by name. All of them stand in `staging`.
    pub tables: Vec<String>,
    /// Tables of the target that go to `previous` without a successor.
    pub retired: Vec<String>,
    /// Views of the target that go to `previous`; the one of the same name that stands in `staging`
    /// or that `after_move` makes gets their owner and grants.
    pub views_aside: Vec<String>,
    /// Views of the target that go to `previous` without a successor.
    pub views_retired: Vec<String>,
    /// Views of the target that `after_move` replaces in place. `previous` keeps a copy of each as
    /// it was.
    pub views_replaced: Vec<String>,
    /// Run first, before anything is surveyed.
    pub first: Vec<Statement>,
    /// Run once the new tables are in place, before others' triggers are put onto them.
    pub after_move: Vec<Statement>,
}

/// What an exchange did.
#[derive(Clone, Debug, Default)]
pub struct Exchanged {
    /// Whether there were tables to keep, so that the previous schema holds them now.
    pub kept_previous: bool,
    /// Whether the trash schema holds the tables of the time before.
    pub has_trash: bool,
    /// To be run after the commit, each by itself: validations that may take their time.
    pub follow_up: Vec<Statement>,
    /// What a person should read.
    pub notices: Vec<String>,
    /// Rows changed in place, by table, where they were merged.
    pub changes: BTreeMap<String, RowChanges>,
}

/// The caller's part of the cutover, in its transaction, directly before COMMIT.
///
/// A trait and no async closure: the compiler cannot prove the future of one to be `Send`.
pub trait Finale<E>: Send {
    /// Writes what has to be committed together with the exchange; an error rolls everything back.
    fn run<'c>(
        &'c mut self,
        connection: &'c mut PgConnection,
        exchanged: &'c Exchanged,
    ) -> Pin<Box<dyn Future<Output = Result<(), E>> + Send + 'c>>;
}

/// Exchanges the tables, trying again while they are in use, for `lock_wait` at most.
///
/// An error of the last COMMIT may mean that it happened: ask the ledger that `finale` wrote.
///
/// # Errors
/// [`CutoverError::Entangled`], [`CutoverError::Blocked`], the server's refusals, and whatever
/// `finale` says; the tables are untouched after each.
pub async fn exchange<E: From<CutoverError>>(
    session: &mut Session,
    exchange: &Exchange,
    lock_wait: Duration,
    cancel: &CancellationToken,
    finale: &mut dyn Finale<E>,
) -> Result<Exchanged, E> {
    let started = Instant::now();
    let largest = largest_budget(session.connection()).await.map_err(CutoverError::from)?;
    let mut budget = FIRST_BUDGET.min(largest);
    loop {
        if cancel.is_cancelled() {
            return Err(CutoverError::Cancelled.into());
        }
        let backup = backup_runs(session.connection()).await.map_err(CutoverError::from)?;
        let patient = started.elapsed() < lock_wait / 2;
        if backup && patient {
            tokio::time::sleep(BACKUP_PAUSE).await;
            continue;
        }
        let how = Attempt { budget, gives_way: patient };
        match attempt(session.connection(), exchange, how, finale).await {
            Ok(exchanged) => return Ok(exchanged),
            Err(Failed::For(error)) => {
                roll_back(session.connection()).await;
                return Err(error);
            }
            Err(Failed::ToLock) => roll_back(session.connection()).await,
        }
        let schemas = [&*exchange.target, &*exchange.staging];
        let blockers = snapshot::lock_holders(session.connection(), &schemas, &exchange.tables)
            .await
            .unwrap_or_default();
        if started.elapsed() >= lock_wait {
            return Err(CutoverError::Blocked {
                waited_seconds: started.elapsed().as_secs(),
                blockers: blockers.into_iter().map(|blocker| blocker.description).collect(),
            }
            .into());
        }
        if backup {
            tokio::time::sleep(BACKUP_PAUSE).await;
            continue;
        }
        let pause = budget * PAUSE_FACTOR;
        // The server takes a table away from autovacuum only for somebody who has waited for it
        // longer than the deadlock timeout.
        let by_autovacuum = blockers.iter().any(|blocker| blocker.autovacuum);
        budget = if by_autovacuum { largest * 2 } else { (budget.min(largest) * 2).min(largest) };
        tokio::select! {
            () = cancel.cancelled() => return Err(CutoverError::Cancelled.into()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Why an attempt ended.
enum Failed<E> {
    /// The locks were not to be had in time.
    ToLock,
    /// For good.
    For(E),
}

impl<E: From<CutoverError>> From<CutoverError> for Failed<E> {
    fn from(error: CutoverError) -> Self {
        Self::For(error.into())
    }
}

impl<E: From<CutoverError>> From<PgError> for Failed<E> {
    fn from(error: PgError) -> Self {
        Self::For(CutoverError::from(error).into())
    }
}

/// How one attempt goes about it.
#[derive(Clone, Copy)]
struct Attempt {
    /// For all locks together.
    budget: Duration,
    /// Whether it gives up for a pg_dump that has begun meanwhile.
    gives_way: bool,
}

async fn attempt<E: From<CutoverError>>(
    connection: &mut PgConnection,
    exchange: &Exchange,
    how: Attempt,
    finale: &mut dyn Finale<E>,
) -> Result<Exchanged, Failed<E>> {
    let budget = how.budget;
    // synchronous_commit on: with this commit everything written before it is durable too. No
    // search path: what the server writes out for us then names every schema. Readers wait for this
    // transaction: if its client is frozen in the middle, the server ends it soon.
    let begin = format!(
        "-- begin_cutover
         BEGIN ISOLATION LEVEL READ COMMITTED;
         SET LOCAL synchronous_commit = 'on';
         SET LOCAL search_path = pg_catalog;
         SET LOCAL idle_in_transaction_session_timeout = '{IDLE_LIMIT}';
         SET LOCAL statement_timeout = {budget};
         SELECT pg_advisory_xact_lock(hashtextextended({key}, 0));
         SET LOCAL statement_timeout = '{STATEMENT_LIMIT}';",
        budget = budget.as_millis(),
        key = literal(&format!("relevo cutover {}", exchange.target)),
    );
    locking(connection.execute(AssertSqlSafe(begin)).await.map(|_| ()), "beginning the cutover")?;
    run_all(connection, &exchange.first).await?;

    let before = survey(connection, exchange).await?;
    // The budget counts from the first lock: only who waits for us can be hurt by our waiting.
    let started = Instant::now();
    // Looked at as late as can be: whoever comes after us waits behind us and has no workers yet.
    let queues = !backup_runs(connection).await?;
    for statement in before.lock_statements(queues) {
        let left = budget.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
        let sql = format!(
            "-- lock_tables\nSET LOCAL statement_timeout = {};\n{statement}",
            left.as_millis()
        );
        locking(connection.execute(AssertSqlSafe(sql)).await.map(|_| ()), "locking the tables")?;
    }
    let release = format!(
        "-- lock_tables
         SET LOCAL statement_timeout = '{STATEMENT_LIMIT}';
         SET LOCAL lock_timeout = {LATE_LOCK_MS};"
    );
    locking(connection.execute(AssertSqlSafe(release)).await.map(|_| ()), "locking the tables")?;

    // Once more under the locks: grants and views may have changed while we waited.
    let survey = survey(connection, exchange).await?;
    if survey.lock_statements(true) != before.lock_statements(true) {
        return Err(Failed::ToLock);
    }
    if !survey.obstacles.is_empty() {
        return Err(CutoverError::Entangled { objects: survey.obstacles }.into());
    }
    run_all(connection, &survey.script(exchange)).await?;
    let exchanged = Exchanged {
        kept_previous: survey.keeps,
        has_trash: survey.previous_exists && survey.keeps,
        follow_up: survey.follow_up,
        notices: survey.notices,
        changes: BTreeMap::new(),
    };
    finale.run(connection, &exchanged).await.map_err(Failed::For)?;
    if how.gives_way && backup_runs(connection).await? {
        return Err(Failed::ToLock);
    }
    connection.execute("-- commit_cutover\nCOMMIT").await.map_err(|source| {
        CutoverError::from(PgError::database("committing the cutover", source))
    })?;
    Ok(exchanged)
}

async fn run_all<E: From<CutoverError>>(
    connection: &mut PgConnection,
    script: &[Statement],
) -> Result<(), Failed<E>> {
    match run_script(connection, script).await {
        Ok(()) => Ok(()),
        Err(error) if error.is_lock_timeout() => Err(Failed::ToLock),
        Err(error) => Err(error.into_cutover_error().into()),
    }
}

/// Tells "not in time" from every other failure.
fn locking<E: From<CutoverError>>(
    outcome: Result<(), sqlx::Error>,
    what: &str,
) -> Result<(), Failed<E>> {
    outcome.map_err(|source| match sqlstate(&source).as_deref() {
        // Statement timeout, lock timeout, deadlock.
        Some("57014" | "55P03" | "40P01") => Failed::ToLock,
        _ => CutoverError::from(PgError::database(what, source)).into(),
    })
}

async fn roll_back(connection: &mut PgConnection) {
    // A connection that cannot roll back is lost, and the server has rolled back for it.
    let _ = connection.execute("-- roll_back_cutover\nROLLBACK").await;
}

/// Four fifths of the deadlock timeout: a reader that has waited for us less than that has not
/// looked for deadlocks yet.
async fn largest_budget(connection: &mut PgConnection) -> Result<Duration, PgError> {
    let deadlock_ms: i64 = sqlx::query_scalar(
        "-- largest_budget
         SELECT setting::bigint FROM pg_settings WHERE name = 'deadlock_timeout'",
    )
    .fetch_one(connection)
    .await
    .map_err(|source| PgError::database("asking for the deadlock timeout", source))?;
    let deadlock_ms = u64::try_from(deadlock_ms).unwrap_or(1_000);
    Ok(Duration::from_millis((deadlock_ms * 4 / 5).clamp(10, 2_000)))
}

impl Survey {
    /// All statements of the exchange, in order.
    fn script(&self, exchange: &Exchange) -> Vec<Statement> {
        let Exchange { target, staging, previous, trash, .. } = exchange;
        let mut script = self.detach.clone();
        if self.keeps {
            if self.previous_exists {
                script.push(Statement::new(
                    format!("schema {previous}"),
                    format!("ALTER SCHEMA {} RENAME TO {}", quote(previous), quote(trash)),
                ));
            }
            script.push(Statement::new(
                format!("schema {previous}"),
                format!("CREATE SCHEMA {}", quote(previous)),
            ));
        }
        // A view stays with the tables that it reads, whatever they are called later.
        script.extend(self.views_kept.iter().cloned());
        for table in self.present.iter().chain(&self.retired) {
            script.push(Statement::new(
                format!("table {target}.{table}"),
                format!(
                    "ALTER TABLE {} SET SCHEMA {}",
                    quote_qualified(target, table),
                    quote(previous)
                ),
            ));
        }
        script.extend(self.rename.iter().cloned());
        for table in &exchange.tables {
            script.push(Statement::new(
                format!("table {staging}.{table}"),
                format!(
                    "ALTER TABLE {} SET SCHEMA {}",
                    quote_qualified(staging, table),
                    quote(target)
                ),
            ));
            script.push(Statement::new(
                format!("table {target}.{table}"),
                format!(
                    "ALTER TABLE {} RESET (autovacuum_enabled)",
                    quote_qualified(target, table)
                ),
            ));
        }
        script.extend(self.move_along.iter().cloned());
        script.extend(exchange.after_move.iter().cloned());
        script.extend(self.attach.iter().cloned());
        script
    }
}
