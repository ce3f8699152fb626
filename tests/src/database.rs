//! A database of its own for every test, cloned from a migrated template.
//!
//! Databases, not schemas, because imports create staging schemas. The template is named by the
//! checksums of the migrations, so it is migrated once per server and set of migrations, whichever
//! test process comes first.

use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use relevo_runs::control_plane;
use sha2::{Digest, Sha256};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};

use crate::OwnPostgres;

/// Where the tests' superuser connection goes; `./dev test` starts a server and sets it.
const ADMIN_URL_ENV: &str = "RELEVO_TEST_POSTGRES_URL";

/// Advisory lock under which the template is made and cloned: a clone wants a quiet template.
const TEMPLATE_LOCK: i64 = 0x7465_6d70_6c61_7465;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A database that lives as long as this value.
///
/// Its name carries the process that made it; what a killed test leaves is dropped by the next
/// test process that asks for a database.
pub struct TestDatabase {
    name: String,
    url: String,
    pool: PgPool,
    /// Whether it is on the server that all tests share; else it goes with its own.
    shared: bool,
}

impl TestDatabase {
    /// A database with Relevo's control plane migrated.
    pub async fn new() -> Self {
        Self::create(true).await
    }

    /// A database with nothing in it: an import's target.
    pub async fn empty() -> Self {
        Self::create(false).await
    }

    /// A control plane and an empty target.
    pub async fn pair() -> (Self, Self) {
        (Self::new().await, Self::empty().await)
    }

    /// A control plane and an empty target, each on a server of the test's own: to be asked for
    /// again and again while that is restarted.
    pub async fn pair_on(control: &OwnPostgres, target: &OwnPostgres) -> (Self, Self) {
        let on = async |server: &OwnPostgres, name: &str| {
            let url = server.database(name).await;
            let pool = connect(&url).await;
            Self { name: name.to_owned(), url, pool, shared: false }
        };
        let (control, target) = (on(control, "relevo").await, on(target, "tienda").await);
        control_plane::migrate(control.pool()).await.expect("migrate the control plane");
        (control, target)
    }

    /// The connection string, with superuser rights.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The database's name on the test server.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A pool of at most eight connections.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    async fn create(migrated: bool) -> Self {
        let mut admin = connect_admin().await;
        sweep(&mut admin).await;
        let (pid, started) = own_process();
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("relevo_test_{pid}_{started}_{nth}");
        // The lock is the session's: it ends with this connection, whatever happens here.
        sqlx::query("SELECT pg_advisory_lock($1)")
            .bind(TEMPLATE_LOCK)
            .execute(&mut admin)
            .await
            .expect("lock the template");
        let template =
            if migrated { migrated_template(&mut admin).await } else { "template1".to_owned() };
        run(&mut admin, &format!("CREATE DATABASE {name} TEMPLATE {template}")).await;
        admin.close().await.ok();

        let url = url_of(&name);
        let pool = connect(&url).await;
        if migrated {
            // The template's clones are control planes of their own.
            sqlx::query(
                "UPDATE relevo.control
                 SET cluster_id = left(replace(gen_random_uuid()::text, '-', ''), 8)",
            )
            .execute(&pool)
            .await
            .expect("give the control plane an id of its own");
        }
        Self { name, url, pool, shared: true }
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if !self.shared {
            return;
        }
        let name = self.name.clone();
        // Dropping is asynchronous work, and the test's own runtime may be gone or single-threaded.
        let dropper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Ok(runtime) = runtime {
                runtime.block_on(async {
                    if let Ok(mut admin) = PgConnection::connect(&admin_url()).await {
                        drop_database(&mut admin, &name).await;
                    }
                });
            }
        });
        dropper.join().ok();
    }
}

/// A pool of at most eight connections.
async fn connect(url: &str) -> PgPool {
    let options = PgConnectOptions::from_str(url).expect("the URL of a test's database");
    PgPoolOptions::new()
        .max_connections(8)
        .acquire_timeout(Duration::from_secs(20))
        .connect_with(options)
        .await
        .unwrap_or_else(|error| panic!("connect to {url}: {error}"))
}

fn admin_url() -> String {
    std::env::var(ADMIN_URL_ENV).unwrap_or_else(|_| {
        panic!(
            "{ADMIN_URL_ENV} is not set: run the tests by `./dev test`, which starts a Postgres \
             for them, or point it to a superuser on a server that may be filled with test \
             databases, such as postgres://postgres@127.0.0.1:5432/postgres"
        )
    })
}

fn url_of(database: &str) -> String {
    let admin = admin_url();
    let (base, parameters) = admin.split_once('?').unwrap_or((&admin, ""));
    let (server, _) = base.rsplit_once('/').expect("a Postgres URL that names a database");
    if parameters.is_empty() {
        format!("{server}/{database}")
    } else {
        format!("{server}/{database}?{parameters}")
    }
}

async fn connect_admin() -> PgConnection {
    let url = admin_url();
    PgConnection::connect(&url).await.unwrap_or_else(|error| {
        panic!("connect to the test server {url} ({ADMIN_URL_ENV}): {error}")
    })
}

async fn run(connection: &mut PgConnection, sql: &str) {
    connection
        .execute(AssertSqlSafe(sql.to_owned()))
        .await
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
}

/// Makes the template if this set of migrations has none yet, and returns its name.
async fn migrated_template(admin: &mut PgConnection) -> String {
    let mut digest = Sha256::new();
    for migration in control_plane::MIGRATIONS.iter() {
        digest.update(&migration.checksum);
    }
    let template = format!("relevo_template_{}", hex(&digest.finalize()[..8]));
    let templates: Vec<String> = sqlx::query_scalar(
        "SELECT datname FROM pg_database WHERE datname LIKE 'relevo\\_template\\_%'",
    )
    .fetch_all(&mut *admin)
    .await
    .expect("list the templates");
    if templates.contains(&template) {
        return template;
    }
    // Those of other sets of migrations would pile up while one is being written.
    for old in &templates {
        drop_database(admin, old).await;
    }
    // Under another name first: a template that exists is complete.
    let unfinished = format!("{template}_unfinished");
    run(admin, &format!("CREATE DATABASE {unfinished} TEMPLATE template1")).await;
    let pool = PgPoolOptions::new()
        .max_connections(1)
        .connect(&url_of(&unfinished))
        .await
        .expect("connect to the new template");
    control_plane::migrate(&pool).await.expect("migrate the template");
    pool.close().await;
    run(admin, &format!("ALTER DATABASE {unfinished} RENAME TO {template}")).await;
    template
}

async fn drop_database(admin: &mut PgConnection, name: &str) {
    let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
    // Another process sweeping the same leftover may win; either way it is gone.
    admin.execute(AssertSqlSafe(sql)).await.ok();
}

/// Drops the databases of test processes that are gone.
async fn sweep(admin: &mut PgConnection) {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT datname FROM pg_database WHERE datname LIKE 'relevo\\_test\\_%'",
    )
    .fetch_all(&mut *admin)
    .await
    .expect("list the test databases");
    for name in names {
        let mut parts = name.split('_').skip(2).map(str::parse::<u64>);
        if let (Some(Ok(pid)), Some(Ok(started))) = (parts.next(), parts.next())
            && process_started(pid) != Some(started)
        {
            drop_database(admin, &name).await;
        }
    }
}

/// This process's id and its start in clock ticks since boot: together unique until a reboot.
fn own_process() -> (u64, u64) {
    let pid = u64::from(std::process::id());
    (pid, process_started(pid).unwrap_or(0))
}

fn process_started(pid: u64) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold spaces and parentheses; the fields follow its last one.
    let (_, fields) = stat.rsplit_once(')')?;
    // Field 22 of the line is the start time; the first after the name is field 3.
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// Bytes in lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").ok();
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn databases_are_separate_and_dropped() {
        let (one, two) = TestDatabase::pair().await;
        sqlx::query("CREATE TABLE public.only_here (id integer)")
            .execute(one.pool())
            .await
            .unwrap();
        let there: bool = sqlx::query_scalar("SELECT to_regclass('only_here') IS NOT NULL")
            .fetch_one(two.pool())
            .await
            .unwrap();
        assert!(!there);
        let name = one.name().to_owned();
        drop(one);
        let gone: bool =
            sqlx::query_scalar("SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
                .bind(&name)
                .fetch_one(two.pool())
                .await
                .unwrap();
        assert!(gone, "{name} is still there");
    }

    #[tokio::test]
    async fn leftovers_of_dead_processes_are_swept() {
        let mut admin = connect_admin().await;
        // No process has this start time, whoever has the id.
        let leftover = format!("relevo_test_{}_1_0", std::process::id());
        run(&mut admin, &format!("CREATE DATABASE {leftover}")).await;
        let other = TestDatabase::empty().await;
        let gone: bool =
            sqlx::query_scalar("SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = $1)")
                .bind(&leftover)
                .fetch_one(other.pool())
                .await
                .unwrap();
        assert!(gone);
    }
}
