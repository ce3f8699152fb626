//! Two-way synchronisation with Supabase: two real databases, and a peer that speaks PostgREST
//! between them.

#![expect(clippy::unwrap_used, reason = "a test that fails says where by the line of its unwrap")]

mod conflicts;
mod failover;
mod lines;
mod peer;
mod pulling;
mod pushing;
mod setting_up;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use peer::{Postgrest, SECRET_KEY};
use relevo_supabase::reconcile::{Difference, Repair};
use relevo_supabase::rest::Rest;
use relevo_supabase::{Config, Engine, SyncError, conflicts as records, init, status, store};
use serde::Serialize;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use tokio_util::sync::CancellationToken;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A database of the test server, dropped when the test has ended.
struct TestDatabase {
    url: String,
    pool: PgPool,
}

impl TestDatabase {
    async fn empty() -> Self {
        let admin = std::env::var("RELEVO_TEST_POSTGRES_URL")
            .expect("RELEVO_TEST_POSTGRES_URL: run the tests by `./dev test`, which sets it");
        let nth = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("relevo_supabase_{}_{nth}", std::process::id());
        let pool = PgPool::connect(&admin).await.unwrap();
        run_sql(&pool, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        run_sql(&pool, &format!("CREATE DATABASE {name} TEMPLATE template0")).await;
        pool.close().await;
        let mut url = url::Url::parse(&admin).unwrap();
        url.set_path(&name);
        let pool = PgPool::connect(url.as_str()).await.unwrap();
        Self { url: url.to_string(), pool }
    }

    fn url(&self) -> &str {
        &self.url
    }

    fn pool(&self) -> &PgPool {
        &self.pool
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let mut admin = url::Url::parse(&self.url).unwrap();
        let name = admin.path().trim_start_matches('/').to_owned();
        admin.set_path("postgres");
        // A runtime of its own: that of the test may be ending.
        let done = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let pool = PgPool::connect(admin.as_str()).await.unwrap();
                run_sql(&pool, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
            });
        });
        done.join().ok();
    }
}

/// Waits for a state that stays.
async fn wait_for(what: &str, timeout: Duration, mut probe: impl AsyncFnMut() -> Option<()>) {
    let started = Instant::now();
    while probe().await.is_none() {
        assert!(started.elapsed() < timeout, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Tables as a clinic has them, in small.
const TABLES: [&str; 3] = ["patients", "invoices", "invoice_items"];

/// What both sides have; `updated_at` is maintained on each.
const SCHEMA: &str = "
    CREATE FUNCTION set_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN NEW.updated_at := clock_timestamp(); RETURN NEW; END $$;
    CREATE TYPE mood AS ENUM ('calm', 'worried');
    CREATE TABLE patients (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), name text NOT NULL,
        big bigint, amount numeric, notes jsonb, photo bytea, tags text[], feeling mood,
        shout text GENERATED ALWAYS AS (upper(name)) STORED,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(), deleted_at timestamptz);
    CREATE TABLE invoices (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), number integer UNIQUE,
        patient_id uuid NOT NULL REFERENCES patients,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(), deleted_at timestamptz);
    CREATE TABLE invoice_items (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
        invoice_id uuid NOT NULL REFERENCES invoices, quantity integer CHECK (quantity > 0),
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        updated_at timestamptz NOT NULL DEFAULT clock_timestamp(), deleted_at timestamptz);
    CREATE TRIGGER touch BEFORE UPDATE ON patients FOR EACH ROW EXECUTE FUNCTION set_updated_at();
    CREATE TRIGGER touch BEFORE UPDATE ON invoices FOR EACH ROW EXECUTE FUNCTION set_updated_at();
    CREATE TRIGGER touch BEFORE UPDATE ON invoice_items
        FOR EACH ROW EXECUTE FUNCTION set_updated_at();";

/// What an operation answered: 0 and a document, or 1.
#[derive(Debug)]
struct Answer {
    code: i32,
    document: Value,
    error: String,
}

impl Answer {
    fn new(document: &impl Serialize, good: bool) -> Self {
        let document = serde_json::to_value(document).unwrap();
        Self { code: i32::from(!good), document, error: String::new() }
    }

    fn json(&self) -> Value {
        assert!(self.error.is_empty(), "{self:?}");
        self.document.clone()
    }
}

/// Both sides and the way between them.
struct Clinic {
    local: TestDatabase,
    remote: TestDatabase,
    peer: Postgrest,
    config: String,
}

impl Clinic {
    /// Both sides empty; not set up yet.
    async fn bare(max_rows: usize, more: &str) -> Self {
        let (local, remote) = (TestDatabase::empty().await, TestDatabase::empty().await);
        sqlx::raw_sql(SCHEMA).execute(local.pool()).await.unwrap();
        sqlx::raw_sql(SCHEMA).execute(remote.pool()).await.unwrap();
        let peer = Postgrest::start(remote.url(), max_rows).await;
        let config = configuration(&local, &peer, more);
        Self { local, remote, peer, config }
    }

    /// Set up.
    async fn new() -> Self {
        let clinic = Self::bare(1000, "").await;
        clinic.ok(&["init", "--suppress-triggers"]).await;
        clinic
    }

    /// Does what the command line names so.
    async fn run(&self, args: &[&str]) -> Answer {
        let answer = match Box::pin(self.operate(args)).await {
            Ok(answer) => answer,
            Err(error) => Answer { code: 1, document: Value::Null, error: error.line() },
        };
        assert!(!format!("{answer:?}").contains(SECRET_KEY), "{answer:?}");
        answer
    }

    async fn operate(&self, args: &[&str]) -> Result<Answer, SyncError> {
        let config = Config::parse(&self.config)?;
        let has = |flag: &str| args.contains(&flag);
        let pool = store::connect(&config).await?;
        match args {
            ["init", "--print-remote-sql"] => Ok(Answer::new(&init::remote_sql(&config), true)),
            ["init", ..] => {
                let rest = Rest::new(&config)?;
                let allowed = init::Allowed {
                    suppress_triggers: has("--suppress-triggers"),
                    maintain_updated_at: has("--maintain-updated-at"),
                };
                let plan = init::plan(&pool, &rest, &config, allowed).await?;
                if has("--dry-run") {
                    return Ok(Answer::new(&plan, true));
                }
                init::carry_out(&pool, &plan).await?;
                Ok(Answer::new(&Engine::open(config).await?.cycle(None).await?, true))
            }
            ["run", "--once"] => {
                let cycle = Engine::open(config).await?.cycle(None).await?;
                Ok(Answer::new(&cycle, cycle.errors.is_empty()))
            }
            ["status"] => {
                let status = status::read(&pool).await?;
                Ok(Answer::new(&status, status.healthy))
            }
            ["conflicts", "list", ..] => {
                Ok(Answer::new(&records::list(&pool, has("--open")).await?, true))
            }
            ["conflicts", "restore", id] => {
                let id = id.parse().unwrap();
                Ok(Answer::new(&records::restore(&pool, &config, id).await?, true))
            }
            ["reconcile", ..] => {
                let repair = Repair {
                    repair: has("--repair"),
                    many_deletions: has("--allow-many-deletions"),
                };
                let found = Engine::open(config).await?.reconcile(None, repair).await?;
                Ok(Answer::new(&found, found.iter().all(Difference::is_equal)))
            }
            [word @ ("pause" | "resume")] => {
                status::pause(&pool, *word == "pause").await?;
                Ok(Answer::new(&json!({}), true))
            }
            ["remove"] => {
                init::remove(&pool, &config, false).await?;
                Ok(Answer::new(&json!({}), true))
            }
            other => panic!("{other:?} is nothing to do"),
        }
    }

    async fn ok(&self, args: &[&str]) -> Value {
        let answer = self.run(args).await;
        assert_eq!(answer.code, 0, "{args:?}: {answer:?}");
        answer.json()
    }

    /// One cycle, whatever it says.
    async fn cycle(&self) -> Value {
        self.run(&["run", "--once"]).await.json()
    }

    /// The service as it runs all day, until it is killed.
    fn service(&self) -> Service {
        let config = Config::parse(&self.config).unwrap();
        Service(tokio::spawn(async move {
            // The one that was killed a moment ago may still hold the lock.
            loop {
                match Engine::open(Config::clone(&config)).await {
                    Ok(mut engine) => return engine.run(&CancellationToken::new()).await,
                    Err(SyncError::Busy) => tokio::time::sleep(Duration::from_millis(20)).await,
                    Err(error) => return Err(error),
                }
            }
        }))
    }

    async fn equal(&self) {
        for table in TABLES {
            let (here, there) =
                (all(self.local.pool(), table).await, all(self.remote.pool(), table).await);
            assert_eq!(here, there, "{table} differs");
        }
    }
}

/// A running service; killed between any two of its steps.
struct Service(tokio::task::JoinHandle<Result<(), SyncError>>);

impl Service {
    async fn kill(self) {
        self.0.abort();
        self.0.await.ok();
    }
}

/// The configuration; `more` stands at its end.
fn configuration(local: &TestDatabase, peer: &Postgrest, more: &str) -> String {
    let url = url::Url::parse(local.url()).unwrap();
    format!(
        "[supabase]\nurl = \"{}\"\nservice_key = \"{SECRET_KEY}\"\n\
         [local_postgres]\nhost = \"{}\"\nport = {}\ndatabase = \"{}\"\nuser = \"{}\"\npassword = \"{}\"\n\
         [sync]\ninterval_seconds = 1\nbatch_size = 100\nretry_max_attempts = 3\n\
         retry_delay_seconds = 0\ntables = {TABLES:?}\n{more}",
        peer.url(),
        url.host_str().unwrap(),
        url.port().unwrap_or(5432),
        url.path().trim_start_matches('/'),
        url.username(),
        url.password().unwrap_or_default(),
    )
}

/// Every row of a table, exactly.
async fn all(pool: &PgPool, table: &str) -> Vec<String> {
    let mut connection = pool.acquire().await.unwrap();
    sqlx::raw_sql("SET TimeZone = 'UTC'").execute(&mut *connection).await.unwrap();
    sqlx::query_scalar(AssertSqlSafe(format!(
        "SELECT to_jsonb(t)::text FROM {table} t ORDER BY id"
    )))
    .fetch_all(&mut *connection)
    .await
    .unwrap()
}

async fn run_sql(pool: &PgPool, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(pool)
        .await
        .unwrap_or_else(|error| panic!("{error}: {sql}"));
}

async fn number(pool: &PgPool, sql: &str) -> i64 {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(pool).await.unwrap()
}

async fn text(pool: &PgPool, sql: &str) -> String {
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(pool).await.unwrap()
}

/// The nth id that tests use.
fn id(nth: u32) -> String {
    format!("00000000-0000-4000-8000-{nth:012}")
}
