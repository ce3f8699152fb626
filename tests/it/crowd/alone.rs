//! What they cost while there is nothing to do, and how they come back when the server was away.
//! `./dev crowd` does it with more of them.

use std::time::{Duration, Instant};

use relevo_tests::{
    FaultProxy, OwnPostgres, Process, TestDatabase, free_port, planted, wait_for, watch_statements,
};
use sqlx::PgPool;

use crate::cli::Relevo;
use crate::kills::rest::{assert_alive, from_env};

/// How many there are.
const WORKERS_ENV: &str = "RELEVO_TEST_CROWD";

const PATIENCE: Duration = Duration::from_secs(120);
/// Statements a second and worker: two on average, and some passes of upkeep may fall into the time.
const RATE_MAX: f64 = 2.5;
/// How long they are watched.
const WATCH: Duration = Duration::from_secs(15);
/// Of a worker itself: heartbeat, claim, finish, listen; and at times that of its reconciler.
const OWN_CONNECTIONS: usize = 5;
/// What its pool may open.
const POOL: usize = 2;
/// How long the server is away.
const AWAY: Duration = Duration::from_secs(6);
/// In so short a time not everybody asks at once.
const MOMENT: Duration = Duration::from_millis(100);

async fn wait_sessions(pool: &PgPool, count: i64) {
    wait_for("the workers' sessions to be alive", PATIENCE, async || {
        let alive = "SELECT count(*) FROM relevo.session
                     WHERE ended_at IS NULL AND heartbeat_at > clock_timestamp() - ttl";
        let alive: i64 = sqlx::query_scalar(alive).fetch_one(pool).await.ok()?;
        (alive == count).then_some(())
    })
    .await;
}

async fn completed(pool: &PgPool) -> i64 {
    let completed = "SELECT count(*) FROM relevo.job_history
                     WHERE kind = 'Noop' AND state = 'completed'";
    sqlx::query_scalar(completed).fetch_one(pool).await.unwrap_or(-1)
}

/// How many connections are asked for in each moment while the server is away.
async fn attempts(proxy: &FaultProxy, watch: Duration) -> Vec<u64> {
    let mut moments = Vec::new();
    let mut look = tokio::time::interval(MOMENT);
    look.tick().await;
    let (begun, mut before) = (Instant::now(), proxy.accepted());
    while begun.elapsed() < watch {
        look.tick().await;
        let now = proxy.accepted();
        moments.push(now - before);
        before = now;
    }
    moments
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_costs_little_at_rest_and_comes_back_without_a_herd() {
    let count = from_env(WORKERS_ENV, 10);
    let workers = usize::try_from(count).unwrap();
    let server = OwnPostgres::start().await;
    let (database, _target) = TestDatabase::pair_on(&server, &server).await;
    let url = url::Url::parse(database.url()).unwrap();
    planted::plant(url.password().expect("the server asks for a password"));
    let proxy = FaultProxy::start(database.url()).await;
    let relevo = Relevo::new()
        .env("RELEVO_DATABASE_URL", proxy.before(database.url()))
        .env("RELEVO_DATABASE_MAX_CONNECTIONS", POOL.to_string());
    let processes: Vec<Process> = (0..workers)
        .map(|_| {
            let listen = format!("127.0.0.1:{}", free_port());
            relevo.process(&["worker", "--listen", &listen]).spawn()
        })
        .collect();
    let sessions = i64::try_from(workers).unwrap();
    let pool = database.pool();
    wait_sessions(pool, sessions).await;
    // Each has had work once, so that every connection it will have is there.
    let queue = relevo_queue::Queue::new(pool.clone());
    let job = || relevo_queue::NewJob::new("Noop", &serde_json::json!({"sleep_ms": 20})).unwrap();
    let jobs = vec![job(); workers * 20];
    queue.enqueue_many(&jobs).await.unwrap();
    let done = i64::try_from(jobs.len()).unwrap();
    wait_for("all to be done", PATIENCE, async || (completed(pool).await == done).then_some(()))
        .await;

    let watched = watch_statements(pool, "relevo%", WATCH).await;
    #[expect(clippy::cast_precision_loss, reason = "some thousand statements")]
    let rate = watched.statements as f64 / WATCH.as_secs_f64() / workers as f64;
    println!("{workers} idle workers: {rate:.2} statements a second each, {watched:?}");
    assert!(rate < RATE_MAX, "{rate} statements a second and worker: {watched:?}");
    assert!(watched.sessions <= workers * (OWN_CONNECTIONS + POOL), "{watched:?}");

    // The server goes, and is away for a while.
    server.crash();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let moments = attempts(&proxy, AWAY).await;
    let (all, most) = (moments.iter().sum::<u64>(), *moments.iter().max().unwrap());
    println!("while the server was away: {all} attempts to connect, {most} in the busiest moment");
    // Each of a worker's connections is tried again after at most two seconds, at its own time.
    let connections = u64::try_from(workers * (OWN_CONNECTIONS + POOL)).unwrap();
    assert!(all >= count, "nobody tries again: {moments:?}");
    assert!(all <= connections * AWAY.as_secs() * 2, "too often: {moments:?}");
    assert!(most <= (connections / 3).max(6), "all at once: {moments:?}");

    server.start_again();
    let back = Instant::now();
    wait_sessions(pool, sessions).await;
    println!("all sessions alive {:.1} s after the server", back.elapsed().as_secs_f64());
    wait_for("work to be taken again", PATIENCE, async || {
        queue.enqueue(job()).await.ok().map(drop)
    })
    .await;
    wait_for("it to be done", PATIENCE, async || (completed(pool).await > done).then_some(()))
        .await;
    assert_alive(&processes);
    for process in &processes {
        process.terminate();
    }
    for process in &processes {
        assert!(process.wait_exit(PATIENCE).await.success(), "{}", process.output());
    }
}
