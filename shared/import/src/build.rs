//! Everything that is built on loaded tables, on several connections at once: counts, keys,
//! indexes, statistics, foreign keys.
//!
//! A task either has its table to itself (ALTER TABLE, ANALYZE) or shares it (CREATE INDEX,
//! counting). Connections take the first task whose table allows it, so none waits for a lock of
//! another while there is work elsewhere. What changes the schema is noted in the ledger in its own
//! transaction, whose last statement proves the fence: after a kill, the rest is built, nothing
//! twice.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use relevo_mysqldump::Checksum;
use relevo_pg::copy::copy_out;
use relevo_pg::{PgError, Session, ident};
use sqlx::{AssertSqlSafe, Executor, PgPool};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::error::ImportError;
use crate::identity::{Fence, ImportId};
use crate::ledger;
use crate::progress::{ImportProgress, Phase, ProgressEvent};

/// The longest a single statement may take: an index over a very large table.
const STATEMENT_LIMIT: Duration = Duration::from_secs(6 * 3600);
/// The longest silence while a table is read back.
const READ_IDLE_LIMIT: Duration = Duration::from_secs(300);
/// Memory for building one index, unless the server gives more by itself.
const INDEX_MEMORY_MB: i64 = 256;

/// One thing to build or to find out.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    /// The phase it is shown under.
    pub(crate) phase: Phase,
    /// Its table's name in Postgres.
    pub(crate) table: String,
    /// What it makes, for people.
    pub(crate) name: String,
    /// What to do.
    pub(crate) work: Work,
    /// Whether it has the table to itself.
    pub(crate) exclusive: bool,
    /// Whether the import goes on, with a notice, when the server refuses it.
    pub(crate) optional: bool,
}

impl Task {
    /// Whether it gives a column of one of `tables` its last type.
    pub(crate) fn is_type_of(&self, tables: &BTreeSet<String>) -> bool {
        tables.contains(&self.table)
            && matches!(&self.work, Work::Build { step, .. } if step.starts_with("Type "))
    }
}

/// What a task does.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// A statement that changes the schema, noted in the ledger under `step`.
    Build {
        /// Unique within the import.
        step: String,
        /// The statement.
        sql: String,
    },
    /// Takes rows out again; noted in the ledger under `step`, with their number.
    Filter {
        /// Unique within the import.
        step: String,
        /// The DELETE.
        sql: String,
    },
    /// A statement that may be run again, outside a transaction, and is not noted.
    Run {
        /// The statement.
        sql: String,
    },
    /// Counts the table's rows.
    Count,
    /// Reads the table back and hashes every row; counts too.
    Hash {
        /// The `COPY … TO STDOUT` that mirrors how the rows were loaded.
        statement: String,
    },
}

/// What counting tasks found, by table.
pub(crate) type Counted = BTreeMap<String, (u64, Option<Checksum>)>;

/// What came of a round of tasks.
#[derive(Debug, Default)]
pub(crate) struct Built {
    /// What counting tasks found.
    pub(crate) counted: Counted,
    /// Optional tasks that the server refused.
    pub(crate) notices: Vec<String>,
}

/// Where and for whom to build.
pub(crate) struct Builder<'a> {
    pub(crate) pool: &'a PgPool,
    pub(crate) id: &'a ImportId,
    pub(crate) fence: Fence,
    pub(crate) jobs: usize,
    pub(crate) progress: &'a dyn ImportProgress,
    pub(crate) cancel: &'a CancellationToken,
}

impl Builder<'_> {
    /// Runs all tasks, in their order as far as their tables allow.
    pub(crate) async fn run(&self, tasks: Vec<Task>) -> Result<Built, ImportError> {
        if tasks.is_empty() {
            return Ok(Built::default());
        }
        let done = self.steps_done().await?;
        let tasks: Vec<Task> = tasks
            .into_iter()
            .filter(|task| {
                !matches!(&task.work, Work::Build { step, .. } | Work::Filter { step, .. }
                    if done.contains(step))
            })
            .collect();
        let workers = self.jobs.clamp(1, tasks.len().max(1));
        let board = Board::new(tasks);
        // The first failure stops the others too: nothing of this import will be used.
        let stop = self.cancel.child_token();
        let work = (0..workers).map(|_| async {
            let outcome = self.work(&board, &stop).await;
            if outcome.is_err() {
                stop.cancel();
                board.changed.notify_waiters();
            }
            outcome
        });
        let mut first_error = None;
        let mut cancelled = false;
        for outcome in futures::future::join_all(work).await {
            match outcome {
                Ok(()) => {}
                Err(ImportError::Target(PgError::Cancelled { .. }) | ImportError::Cancelled) => {
                    cancelled = true;
                }
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        match first_error {
            Some(error) => Err(error),
            None if cancelled => Err(ImportError::Cancelled),
            None => Ok(board.into_built()),
        }
    }

    async fn steps_done(&self) -> Result<HashSet<String>, ImportError> {
        sqlx::query_scalar(
            "-- list_steps_done
             SELECT name FROM relevo_ledger.import_step WHERE import_id = $1",
        )
        .bind(self.id.as_str())
        .fetch_all(self.pool)
        .await
        .map(|names: Vec<String>| names.into_iter().collect())
        .map_err(|source| ImportError::database("reading the ledger's steps", source))
    }

    /// One connection's share.
    async fn work(&self, board: &Board, stop: &CancellationToken) -> Result<(), ImportError> {
        let mut session = self.open_session().await?;
        while let Some((at, task)) = board.take(stop).await {
            let outcome = self.perform(&mut session, &task, stop).await;
            let (done, total) = board.give_back(at);
            match outcome {
                Ok(Some(figures)) => board.note(&task.table, figures),
                Ok(None) => {}
                Err(error @ ImportError::Build { .. })
                    if task.optional && !error.is_transient() =>
                {
                    board.notice(error.chain());
                }
                Err(error) => return Err(error),
            }
            self.progress.report(ProgressEvent::Step {
                phase: task.phase,
                done,
                total,
                name: &task.name,
            });
        }
        if stop.is_cancelled() {
            return Err(ImportError::Cancelled);
        }
        session.close().await;
        Ok(())
    }

    async fn open_session(&self) -> Result<Session, ImportError> {
        let name = format!("{} build", self.id.program());
        let mut session = Session::open(self.pool, &name, &[("synchronous_commit", "off")]).await?;
        let sql = format!(
            "-- open_build_session
             SELECT set_config('maintenance_work_mem', '{INDEX_MEMORY_MB}MB', false)
             FROM pg_settings
             WHERE name = 'maintenance_work_mem' AND setting::bigint < {INDEX_MEMORY_MB} * 1024"
        );
        session
            .connection()
            .execute(AssertSqlSafe(sql))
            .await
            .map_err(|source| ImportError::database("preparing a connection", source))?;
        Ok(session)
    }

    async fn perform(
        &self,
        session: &mut Session,
        task: &Task,
        stop: &CancellationToken,
    ) -> Result<Option<(u64, Option<Checksum>)>, ImportError> {
        let killer = session.killer();
        let what = format!("building {} of {}", task.name, task.table);
        let table = ident::quote_qualified(&self.id.staging_schema(), &task.table);
        match &task.work {
            Work::Build { step, sql } | Work::Filter { step, sql } => {
                let build = self.build(session, task, step, sql);
                killer.guard_all(&what, STATEMENT_LIMIT, stop, build).await?;
                Ok(None)
            }
            Work::Run { sql } => {
                let sql = AssertSqlSafe(format!("-- run_task\n{sql}"));
                let run = session.connection().execute(sql);
                killer.guard(&what, STATEMENT_LIMIT, stop, run).await?;
                Ok(None)
            }
            Work::Count => {
                let sql = AssertSqlSafe(format!("-- count_rows\nSELECT count(*) FROM {table}"));
                let count = sqlx::query_scalar::<_, i64>(sql).fetch_one(session.connection());
                let rows = killer.guard(&what, STATEMENT_LIMIT, stop, count).await?;
                Ok(Some((rows.unsigned_abs(), None)))
            }
            Work::Hash { statement } => {
                let (mut rows, mut checksum) = (0_u64, Checksum::default());
                copy_out(session, statement, &what, READ_IDLE_LIMIT, stop, |line| {
                    rows += 1;
                    checksum.add_row(line.strip_suffix(b"\n").unwrap_or(line));
                })
                .await?;
                Ok(Some((rows, Some(checksum))))
            }
        }
    }

    /// Builds and notes it, or neither.
    async fn build(
        &self,
        session: &mut Session,
        task: &Task,
        step: &str,
        sql: &str,
    ) -> Result<(), ImportError> {
        let refused = |source| ImportError::Build {
            table: task.table.clone(),
            name: task.name.clone(),
            source,
        };
        let connection = session.connection();
        connection.execute("-- build\nBEGIN").await.map_err(refused)?;
        let outcome = if matches!(task.work, Work::Filter { .. }) {
            // A prepared statement is one statement, whatever the condition says.
            sqlx::query(AssertSqlSafe(sql.to_owned()))
                .persistent(false)
                .execute(&mut *connection)
                .await
        } else {
            connection.execute(AssertSqlSafe(sql.to_owned())).await
        };
        let rows = match outcome {
            Ok(done) => done.rows_affected(),
            Err(source) => {
                let _ = connection.execute("-- build\nROLLBACK").await;
                return Err(refused(source));
            }
        };
        let noted = sqlx::query(
            "-- note_step
             INSERT INTO relevo_ledger.import_step (import_id, name, rows)
             SELECT id, $5, $6 FROM relevo_ledger.import
             WHERE id = $1 AND state = 'sealed'
               AND (fence_incarnation, fence_job_id, fence_epoch) = ($2, $3, $4)
             FOR SHARE",
        )
        .bind(self.id.as_str())
        .bind(self.fence.incarnation)
        .bind(self.fence.job_id)
        .bind(self.fence.epoch)
        .bind(step)
        .bind(i64::try_from(rows).unwrap_or(i64::MAX))
        .execute(&mut *connection)
        .await
        .map_err(refused)?;
        if noted.rows_affected() != 1 {
            let _ = connection.execute("-- build\nROLLBACK").await;
            return Err(ledger::why_refused(self.pool, self.id).await);
        }
        connection.execute("-- build\nCOMMIT").await.map_err(refused)?;
        Ok(())
    }
}

/// The tasks that are left, and which tables are in use.
struct Board {
    state: Mutex<BoardState>,
    changed: Notify,
}

struct BoardState {
    left: Vec<Option<Task>>,
    running: BTreeMap<usize, (String, bool)>,
    done: u64,
    built: Built,
}

impl Board {
    fn new(tasks: Vec<Task>) -> Self {
        let state = BoardState {
            left: tasks.into_iter().map(Some).collect(),
            running: BTreeMap::new(),
            done: 0,
            built: Built::default(),
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    fn state(&self) -> std::sync::MutexGuard<'_, BoardState> {
        // A panic while it was held can only have left whole values behind.
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The next task whose table is free for it; `None` when all are taken or `stop` was called.
    async fn take(&self, stop: &CancellationToken) -> Option<(usize, Task)> {
        loop {
            // Registered before looking: a table given back in between is not missed.
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if stop.is_cancelled() {
                return None;
            }
            match self.state().next() {
                Next::Task(at, task) => return Some((at, *task)),
                Next::Nothing => return None,
                Next::Wait => {}
            }
            tokio::select! {
                () = changed => {}
                () = stop.cancelled() => return None,
            }
        }
    }

    fn give_back(&self, at: usize) -> (u64, u64) {
        let mut state = self.state();
        state.running.remove(&at);
        state.done += 1;
        let figures = (state.done, state.left.len() as u64);
        drop(state);
        self.changed.notify_waiters();
        figures
    }

    fn note(&self, table: &str, figures: (u64, Option<Checksum>)) {
        self.state().built.counted.insert(table.to_owned(), figures);
    }

    fn notice(&self, notice: String) {
        self.state().built.notices.push(notice);
    }

    fn into_built(self) -> Built {
        self.state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).built
    }
}

enum Next {
    Task(usize, Box<Task>),
    Wait,
    Nothing,
}

impl BoardState {
    fn next(&mut self) -> Next {
        let free = |task: &Task, running: &BTreeMap<usize, (String, bool)>| {
            !running
                .values()
                .any(|(table, exclusive)| *table == task.table && (*exclusive || task.exclusive))
        };
        // An exclusive task that has to wait also holds back later ones of its table, or it
        // would never get its turn while shared ones follow one another.
        let mut held_back: HashSet<&str> = HashSet::new();
        let mut found = None;
        for (at, slot) in self.left.iter().enumerate() {
            let Some(task) = slot else { continue };
            if held_back.contains(task.table.as_str()) {
                continue;
            }
            if free(task, &self.running) {
                found = Some(at);
                break;
            }
            held_back.insert(&task.table);
        }
        match found {
            Some(at) => match self.left[at].take() {
                Some(task) => {
                    self.running.insert(at, (task.table.clone(), task.exclusive));
                    Next::Task(at, Box::new(task))
                }
                None => Next::Wait,
            },
            None if self.left.iter().all(Option::is_none) => Next::Nothing,
            None => Next::Wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(table: &str, name: &str, exclusive: bool) -> Task {
        Task {
            phase: Phase::Index,
            table: table.to_owned(),
            name: name.to_owned(),
            work: Work::Count,
            exclusive,
            optional: false,
        }
    }

    fn next_name(state: &mut BoardState) -> Option<(usize, String)> {
        match state.next() {
            Next::Task(at, task) => Some((at, task.name)),
            Next::Wait | Next::Nothing => None,
        }
    }

    #[test]
    fn a_table_is_shared_or_taken_alone_and_order_holds_within_it() {
        let board = Board::new(vec![
            task("big", "key", true),
            task("big", "index", false),
            task("big", "count", false),
            task("big", "analyze", true),
            task("small", "key", true),
        ]);
        let mut state = board.state();
        let (key, name) = next_name(&mut state).unwrap();
        assert_eq!(name, "key");
        assert_eq!(next_name(&mut state).unwrap().1, "key", "the other table's");
        assert_eq!(next_name(&mut state), None, "the first table is taken");
        state.running.remove(&key);
        assert_eq!(next_name(&mut state).unwrap().1, "index");
        assert_eq!(next_name(&mut state).unwrap().1, "count", "shared with the index");
        assert_eq!(next_name(&mut state), None, "analyze waits for both");
        state.running.clear();
        assert_eq!(next_name(&mut state).unwrap().1, "analyze");
        state.running.clear();
        assert!(matches!(state.next(), Next::Nothing));
    }
}
