//! Readers of the target that look on throughout: every answer has to be one data set or the other,
//! whole.

use std::path::PathBuf;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relevo_tests::{TestDatabase, pg_dump};
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The application that reads: it may read the tables, and nothing else.
const APPLICATION: &str = "caja";
const PASSWORD: &str = "clave-de-la-caja-41c7";

/// Between two reads of one reader.
const PAUSE: Duration = Duration::from_millis(20);
/// Between two backups.
const DUMP_PAUSE: Duration = Duration::from_millis(150);

/// Tells when the target's server was restarted: odd while it is.
#[derive(Default)]
pub struct Restarts(AtomicU64);

impl Restarts {
    /// Runs a restart.
    pub fn during(&self, restart: impl FnOnce()) {
        self.0.fetch_add(1, Ordering::SeqCst);
        restart();
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    /// Whether a failure of what began then is the restart's.
    fn excuse(&self, begun: u64) -> bool {
        begun % 2 == 1 || self.now() != begun
    }
}

/// What every table holds, by one number each: the data sets that may be seen.
pub type Fingerprint = Vec<String>;

/// The question for one table's fingerprint, by its unqualified name.
fn question(table: &str) -> String {
    format!(
        "SELECT '{table} ' || count(*) || ' ' || coalesce(sum(hashtext(t::text)::bigint), 0) AS seen
         FROM {table} AS t"
    )
}

/// What the target holds now.
pub async fn fingerprint(target: &TestDatabase, tables: &[String]) -> Fingerprint {
    let mut seen = Fingerprint::new();
    for table in tables {
        let one = sqlx::query_scalar(AssertSqlSafe(question(table)));
        seen.push(one.fetch_one(target.pool()).await.unwrap());
    }
    seen
}

/// The readers.
pub struct Witnesses {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    seen: Arc<Seen>,
    _folder: TempDir,
}

/// What they have seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Whole data sets in one statement.
    pub reads: AtomicU64,
    /// Whole data sets in one transaction under REPEATABLE READ, table by table.
    pub repeatable_reads: AtomicU64,
    /// Backups by `pg_dump`.
    pub dumps: AtomicU64,
    /// What a restart of the server cut off.
    pub excused: AtomicU64,
    /// Holes, mixtures, refusals.
    wrong: Mutex<Vec<String>>,
}

/// What each reader knows.
#[derive(Clone)]
struct Witness {
    application: PgConnectOptions,
    admin_url: String,
    folder: PathBuf,
    tables: Arc<[String]>,
    allowed: Arc<[Fingerprint]>,
    restarts: Arc<Restarts>,
    seen: Arc<Seen>,
}

impl Witnesses {
    /// Makes the application's role, which may read the tables that are there now, and starts
    /// reading.
    pub async fn start(
        target: &TestDatabase,
        tables: &[String],
        allowed: &[Fingerprint],
        restarts: Arc<Restarts>,
    ) -> Self {
        target
            .pool()
            .execute(AssertSqlSafe(format!(
                "CREATE ROLE {APPLICATION} LOGIN PASSWORD '{PASSWORD}';
                 GRANT SELECT ON ALL TABLES IN SCHEMA public TO {APPLICATION}"
            )))
            .await
            .unwrap();
        let folder = TempDir::with_prefix("relevo-witnesses-").unwrap();
        let seen = Arc::new(Seen::default());
        let witness = Witness {
            application: PgConnectOptions::from_str(target.url())
                .unwrap()
                .username(APPLICATION)
                .password(PASSWORD)
                .application_name("caja 1"),
            admin_url: target.url().to_owned(),
            folder: folder.path().to_owned(),
            tables: tables.into(),
            allowed: allowed.into(),
            restarts,
            seen: Arc::clone(&seen),
        };
        let stop = CancellationToken::new();
        let tasks = vec![
            tokio::spawn(witness.clone().read(Isolation::Committed, stop.clone())),
            tokio::spawn(witness.clone().read(Isolation::Repeatable, stop.clone())),
            tokio::spawn(witness.dump(stop.clone())),
        ];
        Self { stop, tasks, seen, _folder: folder }
    }

    /// What they have seen and must not.
    pub fn wrong(&self) -> Vec<String> {
        self.seen.wrong.lock().unwrap().clone()
    }

    /// Ends them.
    pub async fn end(self) -> Arc<Seen> {
        self.stop.cancel();
        for task in self.tasks {
            task.await.expect("a reader that came to its end");
        }
        self.seen
    }
}

#[derive(Clone, Copy)]
enum Isolation {
    Committed,
    Repeatable,
}

impl Witness {
    /// Reads again and again, over one connection as long as it holds.
    async fn read(self, isolation: Isolation, stop: CancellationToken) {
        let mut connected: Option<(PgConnection, u64)> = None;
        while !stop.is_cancelled() {
            let since = connected.as_ref().map_or_else(|| self.restarts.now(), |open| open.1);
            let outcome = match &mut connected {
                None => match self.application.connect().await {
                    Ok(connection) => {
                        connected = Some((connection, since));
                        continue;
                    }
                    Err(error) => Err(error),
                },
                Some((connection, _)) => match isolation {
                    Isolation::Committed => self.whole(connection).await,
                    Isolation::Repeatable => self.table_by_table(connection).await,
                },
            };
            match outcome {
                Ok(seen) => self.judge(isolation, &seen),
                Err(error) => {
                    connected = None;
                    if is_cut_off(&error) && self.restarts.excuse(since) {
                        self.seen.excused.fetch_add(1, Ordering::Relaxed);
                    } else {
                        self.wrong(format!("a reader was told {error}"));
                    }
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Every table in one statement.
    async fn whole(&self, connection: &mut PgConnection) -> Result<Fingerprint, sqlx::Error> {
        let all: Vec<String> = self.tables.iter().map(|table| question(table)).collect();
        let all = all.join(" UNION ALL ");
        sqlx::query_scalar(AssertSqlSafe(all)).persistent(false).fetch_all(connection).await
    }

    /// Every table by itself, under one snapshot that is a little older than the first look.
    async fn table_by_table(
        &self,
        connection: &mut PgConnection,
    ) -> Result<Fingerprint, sqlx::Error> {
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await?;
        connection.execute("SELECT count(*) FROM pg_class, pg_sleep(0.03)").await?;
        let mut seen = Fingerprint::new();
        for table in self.tables.iter() {
            let one = sqlx::query_scalar(AssertSqlSafe(question(table))).persistent(false);
            seen.push(one.fetch_one(&mut *connection).await?);
        }
        connection.execute("COMMIT").await?;
        Ok(seen)
    }

    fn judge(&self, isolation: Isolation, seen: &Fingerprint) {
        let counter = match isolation {
            Isolation::Committed => &self.seen.reads,
            Isolation::Repeatable => &self.seen.repeatable_reads,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if !self.allowed.contains(seen) {
            let (one, other) = (&self.allowed[0], &self.allowed[1]);
            self.wrong(format!("neither {one:?} nor {other:?} was seen, but {seen:?}"));
        }
    }

    /// Backs the target up again and again, alone and with parallel workers.
    async fn dump(self, stop: CancellationToken) {
        let mut jobs = 1;
        while !stop.is_cancelled() {
            let since = self.restarts.now();
            let out = self.folder.join(format!("dump-{jobs}"));
            match pg_dump(&self.admin_url, &out, jobs).await {
                Ok(()) => drop(self.seen.dumps.fetch_add(1, Ordering::Relaxed)),
                Err(_) if self.restarts.excuse(since) => {
                    self.seen.excused.fetch_add(1, Ordering::Relaxed);
                }
                Err(said) => self.wrong(format!("pg_dump with {jobs} job(s) failed: {said}")),
            }
            std::fs::remove_dir_all(&out).or_else(|_| std::fs::remove_file(&out)).ok();
            jobs = 3 - jobs;
            tokio::time::sleep(DUMP_PAUSE).await;
        }
    }

    fn wrong(&self, what: String) {
        self.seen.wrong.lock().unwrap().push(what);
    }
}

/// Whether an error says no more than that the connection ended or could not begin.
fn is_cut_off(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        // Shut down by an administrator, after a crash, or not ready yet.
        sqlx::Error::Database(refused) => {
            matches!(refused.code().as_deref(), Some("57P01" | "57P02" | "57P03"))
        }
        _ => false,
    }
}
