//! `relevo.enqueue()`: jobs from SQL, in the caller's own transaction, for a role without any other
//! right.

use std::str::FromStr as _;
use std::time::Duration;

use relevo_jobs::{JobKind, KindSpec, UniqueUntil};
use relevo_queue::{JobId, JobState, JobView, Queue};
use relevo_runs::kinds;
use relevo_tests::{TestDatabase, wait_blocked};
use sqlx::postgres::{PgConnectOptions, PgListener};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};

/// A control plane with published kinds, and a role that may enqueue and nothing else.
struct Fixture {
    database: TestDatabase,
    role: String,
}

impl Fixture {
    async fn new() -> Self {
        let database = TestDatabase::new().await;
        let own = KindSpec {
            name: "Reprice".to_owned(),
            payload_version: 2,
            queue: "prices".to_owned(),
            priority: 3,
            max_attempts: 7,
            unique: Some(("sku".to_owned(), UniqueUntil::Finished)),
            ..KindSpec::of_built_in(JobKind::Noop)
        };
        let known = [JobKind::Noop, JobKind::Notify].map(KindSpec::of_built_in);
        let known: Vec<KindSpec> = known.into_iter().chain([own]).collect();
        kinds::publish(database.pool(), &known, "tests").await.unwrap();
        let role = format!("{}_shop", database.name());
        let fixture = Self { database, role };
        fixture.run(&format!("CREATE ROLE {} LOGIN", fixture.role)).await;
        fixture.run(&format!("GRANT USAGE ON SCHEMA relevo TO {}", fixture.role)).await;
        fixture
    }

    async fn granted() -> Self {
        let fixture = Self::new().await;
        fixture.run(&format!("GRANT EXECUTE ON FUNCTION relevo.enqueue TO {}", fixture.role)).await;
        fixture
    }

    fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    async fn run(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(self.pool()).await.unwrap();
    }

    /// A connection of the role.
    async fn connect(&self) -> PgConnection {
        let options = PgConnectOptions::from_str(self.database.url()).unwrap();
        PgConnection::connect_with(&options.username(&self.role)).await.unwrap()
    }

    async fn jobs(&self) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM relevo.job").fetch_one(self.pool()).await.unwrap()
    }

    async fn job(&self, id: i64) -> JobView {
        Queue::new(self.pool().clone()).job(JobId(id)).await.unwrap().expect("the job")
    }

    /// Ends the test: a role outlives its database.
    async fn end(self) {
        self.run(&format!("DROP OWNED BY {role}; DROP ROLE {role}", role = self.role)).await;
    }
}

/// Calls the function with these arguments.
async fn enqueue(
    connection: &mut PgConnection,
    arguments: &str,
) -> Result<(i64, bool), sqlx::Error> {
    let sql = format!("SELECT id, duplicate FROM relevo.enqueue({arguments})");
    sqlx::query_as(AssertSqlSafe(sql)).fetch_one(connection).await
}

/// The SQLSTATE of a refusal.
fn code(refused: Result<(i64, bool), sqlx::Error>) -> String {
    let error = refused.expect_err("it is refused");
    error.as_database_error().unwrap().code().unwrap().into_owned()
}

#[tokio::test]
async fn nobody_enqueues_before_it_is_granted_and_then_nothing_more() {
    let fixture = Fixture::new().await;
    let mut shop = fixture.connect().await;
    assert_eq!(code(enqueue(&mut shop, "'Noop'").await), "42501");
    fixture.run(&format!("GRANT EXECUTE ON FUNCTION relevo.enqueue TO {}", fixture.role)).await;
    let (id, duplicate) = enqueue(&mut shop, "'Noop', '{\"tag\": 4}'").await.unwrap();
    assert!(!duplicate);
    let job = fixture.job(id).await;
    assert_eq!(
        (job.state, job.queue.as_str(), job.max_attempts),
        (JobState::Available, "default", 5)
    );
    assert_eq!(job.payload.get(), r#"{"tag": 4}"#);
    let looked = sqlx::query("SELECT * FROM relevo.job").execute(&mut shop).await;
    assert_eq!(looked.unwrap_err().as_database_error().unwrap().code().unwrap(), "42501");
    shop.close().await.unwrap();
    fixture.end().await;
}

#[tokio::test]
async fn a_job_exists_when_the_callers_transaction_commits_and_is_announced_then() {
    let fixture = Fixture::granted().await;
    let mut listener = PgListener::connect_with(fixture.pool()).await.unwrap();
    listener.listen("relevo_job").await.unwrap();
    let mut shop = fixture.connect().await;
    let mut tx = shop.begin().await.unwrap();
    enqueue(&mut tx, "'Noop', queue => 'never'").await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(fixture.jobs().await, 0);
    let mut tx = shop.begin().await.unwrap();
    let (id, _) = enqueue(&mut tx, "'Reprice', '{\"sku\": \"a\"}'").await.unwrap();
    // Not due yet: nobody is woken for it.
    enqueue(&mut tx, "'Noop', queue => 'later', delay => '1 hour'").await.unwrap();
    assert_eq!(fixture.jobs().await, 0, "not before the commit");
    tx.commit().await.unwrap();
    assert_eq!(fixture.jobs().await, 2);
    let told = tokio::time::timeout(Duration::from_secs(60), listener.recv()).await;
    assert_eq!(told.expect("a notification").unwrap().payload(), "prices");
    let more = listener.next_buffered().map(|more| more.payload().to_owned());
    assert_eq!(more, None, "one for each queue with something to do");
    let job = fixture.job(id).await;
    assert_eq!((job.priority, job.payload_version, job.max_attempts), (3, 2, 7), "its policy");
    shop.close().await.unwrap();
    fixture.end().await;
}

#[tokio::test]
async fn a_trigger_enqueues_with_the_row_that_it_is_about() {
    let fixture = Fixture::granted().await;
    fixture
        .run(&format!(
            "CREATE TABLE article (sku text PRIMARY KEY, cents bigint);
             GRANT ALL ON article TO {role};
             CREATE FUNCTION article_changed() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN
                 PERFORM relevo.enqueue('Reprice', jsonb_build_object('sku', new.sku));
                 RETURN NULL;
             END $$;
             CREATE TRIGGER article_changed AFTER INSERT OR UPDATE ON article
                 FOR EACH ROW EXECUTE FUNCTION article_changed()",
            role = fixture.role
        ))
        .await;
    let mut shop = fixture.connect().await;
    for _ in 0..2 {
        // The second changes the same rows: the kind is unique by sku.
        let insert = "INSERT INTO article SELECT 's' || n, n FROM generate_series(1, 10) AS n
                      ON CONFLICT (sku) DO UPDATE SET cents = excluded.cents + 1";
        sqlx::query(insert).execute(&mut shop).await.unwrap();
        assert_eq!(fixture.jobs().await, 10);
    }
    shop.close().await.unwrap();
    fixture.end().await;
}

#[tokio::test]
async fn the_same_key_gives_the_same_job_also_while_its_transaction_is_open() {
    let fixture = Fixture::granted().await;
    let (mut one, mut two) = (fixture.connect().await, fixture.connect().await);
    for (arguments, commits) in [
        ("'Noop', idempotency_key => 'order-1'", true),
        ("'Noop', idempotency_key => 'order-2'", false),
        ("'Noop', unique_key => 'u-1'", true),
        ("'Noop', unique_key => 'u-2'", false),
    ] {
        let mut tx = one.begin().await.unwrap();
        let (first, duplicate) = enqueue(&mut tx, arguments).await.unwrap();
        assert!(!duplicate);
        let second = async { enqueue(&mut two, arguments).await.unwrap() };
        let first_ends = async {
            wait_blocked(fixture.pool(), 1).await;
            if commits { tx.commit().await.unwrap() } else { tx.rollback().await.unwrap() }
        };
        let ((id, duplicate), ()) = tokio::join!(second, first_ends);
        assert_eq!((id == first, duplicate), (commits, commits), "{arguments}");
    }
    // Both keys at once: a repeat by the idempotency key names the job that the unique key found.
    let held = enqueue(&mut one, "'Noop', unique_key => 'u-1'").await.unwrap().0;
    let both = "'Noop', idempotency_key => 'order-3', unique_key => 'u-1'";
    assert_eq!(enqueue(&mut one, both).await.unwrap(), (held, true));
    let repeat = "'Noop', idempotency_key => 'order-3'";
    assert_eq!(enqueue(&mut two, repeat).await.unwrap(), (held, true));
    // An expired key is free again.
    fixture.run("UPDATE relevo.idempotency_key SET expires_at = now()").await;
    assert!(!enqueue(&mut two, repeat).await.unwrap().1);
    one.close().await.unwrap();
    two.close().await.unwrap();
    fixture.end().await;
}

#[tokio::test]
async fn a_job_stands_in_line_and_under_a_limit_as_its_caller_or_its_kind_says() {
    let fixture = Fixture::granted().await;
    let own = KindSpec {
        name: "Ship".to_owned(),
        order: Some(("customer".to_owned(), true)),
        limit_key: Some("carrier".to_owned()),
        ..KindSpec::of_built_in(JobKind::Noop)
    };
    kinds::publish(fixture.pool(), &[own], "tests").await.unwrap();
    let mut shop = fixture.connect().await;
    let mut ids = Vec::new();
    for arguments in [
        "'Ship', '{\"customer\": 7}'",
        "'Ship', '{\"customer\": 7}'",
        "'Noop', ordering_key => 'x', on_dead => 'block', limit_key => 'carrier'",
        "'Noop'",
    ] {
        ids.push(enqueue(&mut shop, arguments).await.unwrap().0);
    }
    let keys = async |id| {
        let job = fixture.job(id).await;
        (job.state, job.ordering_key, job.limit_key)
    };
    let waiting =
        |order: &str| (JobState::Waiting, Some(order.to_owned()), Some("carrier".to_owned()));
    assert_eq!(keys(ids[0]).await, waiting("kind/Ship/7"));
    assert_eq!(keys(ids[2]).await, waiting("x"));
    assert_eq!(keys(ids[3]).await, (JobState::Available, None, None));
    Queue::new(fixture.pool().clone()).stage().await.unwrap();
    assert_eq!(fixture.job(ids[0]).await.state, JobState::Available);
    assert_eq!(fixture.job(ids[1]).await.state, JobState::Waiting);
    assert_eq!(fixture.job(ids[2]).await.state, JobState::Available);
    shop.close().await.unwrap();
    fixture.end().await;
}

#[tokio::test]
async fn what_no_job_can_be_is_refused_with_its_reason() {
    let fixture = Fixture::granted().await;
    let mut shop = fixture.connect().await;
    for (arguments, wanted) in [
        ("'Nop'", "22023"),
        // A step of Relevo's own would steer a run.
        ("'Notify'", "42501"),
        ("'Noop', '[]'", "22023"),
        ("'Noop', NULL", "22023"),
        ("'Noop', jsonb_build_object('a', repeat('x', 1100000))", "22023"),
        ("'Noop', payload_version => 2", "22023"),
        ("'Noop', queue => ''", "22023"),
        ("'Noop', priority => 40000", "22023"),
        ("'Noop', delay => '-1 s'", "22023"),
        ("'Noop', run_at => 'infinity'", "22023"),
        ("'Noop', idempotency_key => ''", "22023"),
        ("'Noop', idempotency_key => 'k', idempotency_ttl => NULL", "22023"),
        ("'Noop', idempotency_key => 'k', idempotency_ttl => '0 s'", "22023"),
        ("'Noop', unique_key => repeat('u', 401)", "22023"),
        ("'Noop', unique_until => 'claimed'", "22023"),
        ("'Noop', unique_key => 'u', unique_until => 'later'", "22023"),
        ("'Noop', ordering_key => ''", "22023"),
        ("'Noop', on_dead => 'skip'", "22023"),
        ("'Noop', ordering_key => 'k', on_dead => 'later'", "22023"),
        ("'Noop', limit_key => repeat('l', 101)", "22023"),
        ("'Reprice', jsonb_build_object('sku', repeat('x', 600))", "22023"),
    ] {
        assert_eq!(code(enqueue(&mut shop, arguments).await), wanted, "{arguments}");
    }
    assert_eq!(fixture.jobs().await, 0);
    shop.close().await.unwrap();
    fixture.end().await;
}
