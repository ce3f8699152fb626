//! The other cutover: the tables stay where they are, and their rows are changed in place until
//! they are those of the staged ones, in one transaction.
//!
//! Readers are never waited for and never wait, however long they read: each goes on with the rows
//! of its snapshot. Logical replication sends the changes and nothing else. Writers wait until the
//! transaction has ended. The story of a merge:
//!
//! 1. Before it, foreign keys between the tables are made deferrable (initially immediate, which
//!    changes nothing for anybody else), so that rows may change in any order.
//! 2. The tables are locked against writers, all or none within a budget, and tried again.
//! 3. Rows whose key is gone are deleted, those that differ are updated, new ones inserted; a table
//!    without a key is left alone where its rows are the same, and emptied and filled where not.
//! 4. The rows are counted against the staged ones, the keys are checked, new tables are moved in,
//!    the caller's finale runs (the ledger's fenced row), then COMMIT.

mod plan;
mod rows;

use std::time::{Duration, Instant};

use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tokio_util::sync::CancellationToken;

pub use plan::{MergePlan, plan_merge};

use super::error::CutoverError;
use super::{
    BACKUP_PAUSE, Exchange, Exchanged, FIRST_BUDGET, Failed, Finale, PAUSE_FACTOR, Statement,
    largest_budget, locking, roll_back, run_all, snapshot, survey,
};
use crate::error::{PgError, sqlstate};
use crate::ident::{literal, quote, quote_qualified};
use crate::session::Session;

/// The longest that one statement of a merge may take.
const STATEMENT_LIMIT: &str = "6h";
/// The longest that a whole merge may take.
const MERGE_LIMIT: Duration = Duration::from_secs(12 * 3600);
/// The longest wait for a row that somebody else has locked: one of a table outside that a foreign
/// key leads to.
const ROW_LOCK_LIMIT: &str = "60s";
/// How long all attempts to make one key deferrable may take.
const DEFERRABLE_WAIT: Duration = Duration::from_secs(10);

/// What is merged into what.
#[derive(Clone, Debug)]
pub struct Merge {
    /// The schema readers use.
    pub target: String,
    /// Where the new rows stand, in tables of the same names.
    pub staging: String,
    /// The tables that are there in both.
    pub tables: Vec<String>,
    /// Leave rows alone that the staged tables do not have.
    pub keep_others: bool,
    /// Tables that the target does not have yet.
    pub fresh: Option<Exchange>,
    /// Run once the rows are changed and the fresh tables in place.
    pub after: Vec<Statement>,
    /// To be run after the commit, each by itself.
    pub follow_up: Vec<Statement>,
}

/// How many rows of a table a merge changed.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct RowChanges {
    /// Rows that the target had and the dump has not.
    pub deleted: u64,
    /// Rows of the same key with other values.
    pub updated: u64,
    /// Rows that the target had not.
    pub inserted: u64,
}

/// Merges the rows, trying again while writers hold the tables, for `lock_wait` at most.
///
/// An error of the last COMMIT may mean that it happened: ask the ledger that `finale` wrote.
///
/// # Errors
/// [`CutoverError::Unmergeable`], [`CutoverError::Refused`], [`CutoverError::Blocked`], the server's
/// refusals, and whatever `finale` says; the rows are untouched after each.
pub async fn merge<E: From<CutoverError> + From<PgError>>(
    session: &mut Session,
    merge: &Merge,
    lock_wait: Duration,
    cancel: &CancellationToken,
    finale: &mut dyn Finale<E>,
) -> Result<Exchanged, E> {
    let killer = session.killer();
    let work = repeat(session.connection(), merge, lock_wait, cancel, finale);
    killer.guard_all("merging the rows", MERGE_LIMIT, cancel, work).await
}

async fn repeat<E: From<CutoverError> + From<PgError>>(
    connection: &mut PgConnection,
    merge: &Merge,
    lock_wait: Duration,
    cancel: &CancellationToken,
    finale: &mut dyn Finale<E>,
) -> Result<Exchanged, E> {
    let plan = plan_merge(connection, merge).await?;
    for statement in plan.deferrable_statements() {
        make_deferrable(connection, &statement).await?;
    }
    let started = Instant::now();
    let largest = largest_budget(connection).await?;
    let mut budget = FIRST_BUDGET.min(largest);
    loop {
        match attempt(connection, merge, budget, finale).await {
            Ok(exchanged) => return Ok(exchanged),
            Err(Failed::For(error)) => {
                roll_back(connection).await;
                return Err(error);
            }
            Err(Failed::ToLock) => roll_back(connection).await,
        }
        if started.elapsed() >= lock_wait {
            let schemas = [&*merge.target, &*merge.staging];
            let blockers = snapshot::lock_holders(connection, &schemas, &merge.tables).await?;
            return Err(CutoverError::Blocked {
                waited_seconds: started.elapsed().as_secs(),
                blockers: blockers.into_iter().map(|blocker| blocker.description).collect(),
            }
            .into());
        }
        let pause = budget * PAUSE_FACTOR;
        budget = (budget * 2).min(largest);
        tokio::select! {
            () = cancel.cancelled() => return Err(CutoverError::Cancelled.into()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Makes one key deferrable; where that is not to be had (rights, a reader that never ends), rows
/// are changed in the order that suits most.
async fn make_deferrable(
    connection: &mut PgConnection,
    statement: &Statement,
) -> Result<(), PgError> {
    let started = Instant::now();
    loop {
        if snapshot::backup_runs(connection).await? {
            if started.elapsed() >= DEFERRABLE_WAIT {
                return Ok(());
            }
            tokio::time::sleep(BACKUP_PAUSE).await;
            continue;
        }
        // Readers wait behind us for as long as we wait ourselves.
        let sql = format!(
            "-- make_deferrable\nBEGIN; SET LOCAL lock_timeout = '100ms'; {}; COMMIT;",
            statement.sql
        );
        let Err(error) = connection.execute(AssertSqlSafe(sql)).await else { return Ok(()) };
        roll_back(connection).await;
        let code = sqlstate(&error);
        let again = matches!(code.as_deref(), Some("55P03" | "40P01"));
        if code.is_none() {
            return Err(PgError::database("making foreign keys deferrable", error));
        }
        if !again || started.elapsed() >= DEFERRABLE_WAIT {
            tracing::debug!(%error, "{} stays as it is", statement.label);
            return Ok(());
        }
        tokio::time::sleep(FIRST_BUDGET * PAUSE_FACTOR).await;
    }
}

async fn attempt<E: From<CutoverError>>(
    connection: &mut PgConnection,
    merge: &Merge,
    budget: Duration,
    finale: &mut dyn Finale<E>,
) -> Result<Exchanged, Failed<E>> {
    // Row security is not to hide rows from us: better an error than half a merge.
    let begin = format!(
        "-- begin_merge
         BEGIN ISOLATION LEVEL READ COMMITTED;
         SET LOCAL synchronous_commit = 'on';
         SET LOCAL search_path = pg_catalog;
         SET LOCAL row_security = off;
         SET LOCAL idle_in_transaction_session_timeout = '30s';
         SET LOCAL statement_timeout = {budget};
         SELECT pg_advisory_xact_lock(hashtextextended({key}, 0));
         LOCK TABLE {tables} IN SHARE ROW EXCLUSIVE MODE;
         SET LOCAL statement_timeout = '{STATEMENT_LIMIT}';
         SET LOCAL lock_timeout = '{ROW_LOCK_LIMIT}';",
        budget = budget.as_millis(),
        key = literal(&format!("relevo cutover {}", merge.target)),
        tables = merge
            .tables
            .iter()
            .map(|table| quote_qualified(&merge.target, table))
            .collect::<Vec<_>>()
            .join(", "),
    );
    locking(connection.execute(AssertSqlSafe(begin)).await.map(|_| ()), "locking the tables")?;
    // Under the locks: what it shows stands until we have committed.
    let plan = plan_merge(connection, merge).await?;
    if !plan.obstacles.is_empty() {
        return Err(CutoverError::Unmergeable { objects: plan.obstacles }.into());
    }
    let resting = plan.own_triggers.iter().map(|trigger| trigger.switch("DISABLE"));
    run_all(connection, &resting.collect::<Vec<_>>()).await?;
    let mut exchanged = Exchanged { notices: plan.notices.clone(), ..Exchanged::default() };
    exchanged.changes = rows::change(connection, merge, &plan).await?;
    let woken = plan.own_triggers.iter().map(|trigger| trigger.switch(trigger.words_to_enable()));
    run_all(connection, &woken.collect::<Vec<_>>()).await?;
    exchanged.notices.extend(rows::check(connection, merge, &plan).await?);
    if let Some(fresh) = &merge.fresh {
        run_all(connection, &fresh.first).await?;
        let survey = survey(connection, fresh).await?;
        if !survey.obstacles.is_empty() {
            return Err(CutoverError::Entangled { objects: survey.obstacles }.into());
        }
        run_all(connection, &survey.script(fresh)).await?;
        exchanged.notices.extend(survey.notices);
        exchanged.follow_up.extend(survey.follow_up);
    }
    run_all(connection, &merge.after).await?;
    exchanged.follow_up.extend(merge.follow_up.iter().cloned());
    finale.run(connection, &exchanged).await.map_err(Failed::For)?;
    connection
        .execute("-- commit_merge\nCOMMIT")
        .await
        .map_err(|source| CutoverError::from(PgError::database("committing the merge", source)))?;
    Ok(exchanged)
}

/// A trigger that an import made: it would put the present moment where the dump has another.
#[derive(Clone, Debug, sqlx::FromRow)]
struct OwnTrigger {
    table: String,
    name: String,
    enabled: String,
}

impl OwnTrigger {
    fn switch(&self, words: &str) -> Statement {
        Statement::new(
            format!("trigger {}", self.name),
            format!("ALTER TABLE {} {words} TRIGGER {}", self.table, quote(&self.name)),
        )
    }

    fn words_to_enable(&self) -> &'static str {
        match &*self.enabled {
            "R" => "ENABLE REPLICA",
            "A" => "ENABLE ALWAYS",
            _ => "ENABLE",
        }
    }
}
