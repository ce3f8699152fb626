//! A target database, and the questions tests ask it.

use std::sync::{Arc, Mutex};

use relevo_import::{
    Certificate, DirectOptions, ImportError, ImportOptions, ImportProgress, NoProgress, Phase,
    ProgressEvent, import_file,
};
use relevo_tests::TestDatabase;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor, PgPool};

use super::dump::Dump;

/// An empty database to import into.
pub struct Target {
    database: TestDatabase,
}

impl Target {
    pub async fn new() -> Self {
        Self { database: TestDatabase::empty().await }
    }

    pub fn url(&self) -> &str {
        self.database.url()
    }

    pub fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    /// Runs statements as the superuser.
    pub async fn run(&self, sql: &str) {
        self.pool()
            .execute(AssertSqlSafe(sql.to_owned()))
            .await
            .unwrap_or_else(|error| panic!("{sql}\n{error}"));
    }

    /// The one value that a query yields, as text.
    pub async fn ask(&self, sql: &str) -> String {
        ask(self.pool(), sql).await.unwrap_or_else(|error| panic!("{sql}\n{error}"))
    }

    pub async fn count(&self, table: &str) -> i64 {
        let rows = self.ask(&format!("SELECT count(*)::text FROM {table}")).await;
        rows.parse().expect("a count")
    }

    /// Options for a direct import, quick to give up.
    pub fn options(&self) -> DirectOptions {
        let mut options = DirectOptions::new(self.url().into());
        options.import = quick(ImportOptions::default());
        options
    }

    /// Imports a dump directly into `public`.
    pub async fn import(&self, dump: &Dump) -> Result<Certificate, ImportError> {
        import_file(dump.reader(), self.options(), Arc::new(NoProgress)).await
    }

    /// Schemas of ours that are there beside the ledger, in order.
    pub async fn own_schemas(&self) -> String {
        self.ask(
            "SELECT coalesce(string_agg(nspname, ' ' ORDER BY nspname), '') FROM pg_namespace
             WHERE nspname LIKE 'relevo\\_%' AND nspname <> 'relevo_ledger'",
        )
        .await
    }

    /// All rows of the tables in one text: two imports of the same dump must agree.
    pub async fn content(&self, schema: &str) -> String {
        let mut content = String::new();
        for (table, key) in
            [("departamento", "dep_id"), ("categoria", "cat_id"), ("articulo", "art_id")]
        {
            let rows = self
                .ask(&format!(
                    "SELECT coalesce(string_agg(t::text, E'\\n' ORDER BY {key}), '')
                     FROM {schema}.{table} t"
                ))
                .await;
            content.push_str(&format!("{table}\n{rows}\n"));
        }
        content
    }

    /// Makes a role that lives as long as this database's test.
    pub async fn role(&self, part: &str) -> Role {
        let name = format!("{}_{part}", self.database.name());
        self.run(&format!("CREATE ROLE {name} LOGIN")).await;
        Role {
            name,
            admin_url: self.url().to_owned(),
            options: self.pool().connect_options().as_ref().clone(),
        }
    }
}

/// Gives up after seconds rather than minutes.
pub fn quick(mut options: ImportOptions) -> ImportOptions {
    options.cutover.lock_wait_seconds = 20;
    options.cutover.snapshot_wait_seconds = 20;
    options
}

/// The one value that a query yields, as text.
pub async fn ask(pool: &PgPool, sql: &str) -> Result<String, sqlx::Error> {
    sqlx::query_scalar::<_, Option<String>>(AssertSqlSafe(sql.to_owned()))
        .fetch_one(pool)
        .await
        .map(Option::unwrap_or_default)
}

/// A database role, dropped with what it owns.
pub struct Role {
    pub name: String,
    admin_url: String,
    options: PgConnectOptions,
}

impl Role {
    /// A pool whose sessions act as this role.
    pub async fn pool(&self) -> PgPool {
        PgPoolOptions::new()
            .max_connections(4)
            .connect_with(self.options.clone().options([("role", &self.name)]))
            .await
            .expect("connect as the role")
    }

    /// The database's URL for this role.
    pub fn url(&self) -> String {
        let separator = if self.admin_url.contains('?') { '&' } else { '?' };
        format!("{}{separator}options=-c%20role%3D{}", self.admin_url, self.name)
    }

    /// Drops the role; call it at the test's end.
    pub async fn drop(self) {
        let pool = PgPoolOptions::new().connect_with(self.options.clone()).await.expect("connect");
        for sql in
            [format!("DROP OWNED BY {} CASCADE", self.name), format!("DROP ROLE {}", self.name)]
        {
            pool.execute(AssertSqlSafe(sql)).await.expect("drop the role");
        }
        pool.close().await;
    }
}

/// Remembers what it hears and calls back at each phase.
pub struct Listener {
    pub phases: Mutex<Vec<Phase>>,
    pub notices: Mutex<Vec<String>>,
    at_phase: Box<dyn Fn(Phase) + Send + Sync>,
}

impl Listener {
    pub fn new(at_phase: impl Fn(Phase) + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self {
            phases: Mutex::default(),
            notices: Mutex::default(),
            at_phase: Box::new(at_phase),
        })
    }
}

impl ImportProgress for Listener {
    fn report(&self, event: ProgressEvent<'_>) {
        match event {
            ProgressEvent::Phase(phase) => {
                self.phases.lock().unwrap().push(phase);
                (self.at_phase)(phase);
            }
            ProgressEvent::Notice(notice) => self.notices.lock().unwrap().push(notice.to_owned()),
            _ => {}
        }
    }
}
