//! A database that hangs up in the middle of everything.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relevo_queue::{Job, JobError, JobState, NewJob, WorkerConfig};
use relevo_tests::wait_for;

use super::support::{Fixture, KIND, PATIENCE, config, job};

/// Ends every connection of the workers.
const HANG_UP: &str = "SELECT count(*) FROM (
     SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE application_name LIKE 'relevo %' AND datname = current_database()) AS ended";

#[tokio::test]
async fn connections_cut_again_and_again_lose_nothing_and_leave_nothing_leased() {
    const JOBS: i64 = 4_000;
    let fixture = Fixture::new().await;
    let runs: Arc<Mutex<HashMap<i64, u32>>> = Arc::default();
    let run = {
        let runs = Arc::clone(&runs);
        move |job: Job| {
            *runs.lock().unwrap().entry(job.id.0).or_default() += 1;
            async move {
                tokio::time::sleep(Duration::from_millis(1)).await;
                // Some fail once, so that every kind of write-back meets a cut connection.
                if job.attempt == 1 && job.id.0 % 7 == 0 {
                    return Err(JobError::retry("the first time"));
                }
                Ok(())
            }
        }
    };
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let config = WorkerConfig {
                concurrency: 16,
                prefetch_max: 64,
                lease_ttl: Duration::from_secs(10),
                ..config()
            };
            fixture.worker(config, run.clone())
        })
        .collect();
    let jobs: Vec<NewJob> = (0..JOBS).map(|n| NewJob::new(KIND, &n).unwrap()).collect();
    fixture.queue.enqueue_many(&jobs).await.unwrap();
    let mut cuts = 0;
    wait_for("every job to end", PATIENCE * 3, async || {
        fixture.queue.stage().await.unwrap();
        cuts += fixture.count(HANG_UP).await;
        (fixture.unfinished().await == 0).then_some(())
    })
    .await;
    assert!(cuts > 10, "only {cuts} connections were cut");
    let completed: i64 = fixture
        .count("SELECT count(DISTINCT id) FROM relevo.job_history WHERE state = 'completed'")
        .await;
    assert_eq!(completed, JOBS);
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.job_history").await, JOBS);
    // No session was lost, so nothing ran more often than its attempts say.
    let lost: usize = workers.iter().map(|worker| worker.counts.sessions_lost()).sum();
    let extra: u32 =
        runs.lock().unwrap().iter().map(|(id, runs)| runs - if id % 7 == 0 { 2 } else { 1 }).sum();
    assert!(lost > 0 || extra == 0, "{extra} runs too many, {lost} sessions lost");
    for worker in workers {
        worker.stop().await;
    }
}

#[tokio::test]
async fn an_outage_longer_than_the_lease_costs_no_attempt_and_no_death() {
    let fixture = Fixture::new().await;
    let worker = fixture.worker(
        WorkerConfig { lease_ttl: Duration::from_secs(1), ..config() },
        |job| async move {
            if job.epoch == 1 {
                job.cancelled().cancelled().await;
                return Err(JobError::retry("interrupted"));
            }
            Ok(())
        },
    );
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    fixture.reaches(id, JobState::Running).await;
    // Nobody new gets in, and who is in is thrown out: for the worker the database is gone.
    let mut admin = sqlx::postgres::PgConnection::connect_beside(&fixture).await;
    block(&mut admin, fixture.database.name(), true).await;
    wait_for("the session to be given up", PATIENCE, async || {
        (worker.counts.sessions_lost() == 1).then_some(())
    })
    .await;
    block(&mut admin, fixture.database.name(), false).await;
    // Nobody rescued meanwhile: the worker itself gives the job back, and runs it again.
    let completed = wait_for("the job to complete", PATIENCE, async || {
        let view = fixture.queue.job(id).await.ok()??;
        (view.state == JobState::Completed).then_some(view)
    })
    .await;
    assert_eq!((completed.attempt, completed.deaths, completed.lease_epoch), (1, 0, 2));
    worker.stop().await;
}

trait Beside {
    async fn connect_beside(fixture: &Fixture) -> Self;
}

impl Beside for sqlx::PgConnection {
    /// A connection to another database of the same server.
    async fn connect_beside(fixture: &Fixture) -> Self {
        use sqlx::ConnectOptions as _;
        let options = fixture.database.pool().connect_options().as_ref().clone();
        options.database("postgres").connect().await.unwrap()
    }
}

async fn block(admin: &mut sqlx::PgConnection, database: &str, is_blocked: bool) {
    let limit = if is_blocked { 0 } else { -1 };
    // A superuser passes a connection limit of 0, so connecting as such is refused altogether.
    for sql in [
        format!("ALTER DATABASE {database} WITH ALLOW_CONNECTIONS {}", !is_blocked),
        format!("ALTER DATABASE {database} WITH CONNECTION LIMIT {limit}"),
        format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE {is_blocked} AND datname = '{database}'"
        ),
    ] {
        sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&mut *admin).await.unwrap();
    }
}
