//! Waking up: by notification at once, by polling in any case, and rarely when there is nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use relevo_queue::{JobState, WorkerConfig};
use relevo_tests::{wait_for, watch_statements};
use tokio::sync::Semaphore;

use super::support::{Fixture, PATIENCE, Worker, config, job};

/// Polls so rarely that only a notification can be quick.
fn rarely() -> WorkerConfig {
    WorkerConfig { poll_interval: Duration::from_secs(60), ..config() }
}

/// Waits until the worker has probed for the first time, and found nothing.
async fn is_idle(fixture: &Fixture, worker: &Worker) {
    let first = fixture.queue.enqueue(job()).await.unwrap().id;
    fixture.reaches(first, JobState::Completed).await;
    assert_eq!(worker.counts.sessions_opened(), 1);
}

#[tokio::test]
async fn an_enqueue_wakes_an_idle_worker() {
    let fixture = Fixture::new().await;
    let worker = fixture.worker(rarely(), |_| async { Ok(()) });
    is_idle(&fixture, &worker).await;
    let started = Instant::now();
    let by_one = fixture.queue.enqueue(job()).await.unwrap().id;
    fixture.reaches(by_one, JobState::Completed).await;
    // Within the throttle of the one before: announced at its end.
    let by_many = fixture.queue.enqueue_many(&[job(), job()]).await.unwrap()[1].id;
    fixture.reaches(by_many, JobState::Completed).await;
    let mut transaction = fixture.database.pool().begin().await.unwrap();
    let within = fixture.queue.enqueue_in(&mut transaction, &[job()]).await.unwrap()[0].id;
    transaction.commit().await.unwrap();
    fixture.reaches(within, JobState::Completed).await;
    let staged = fixture.queue.enqueue(job().delay(Duration::from_millis(1))).await.unwrap().id;
    fixture.reaches(staged, JobState::Completed).await;
    assert!(started.elapsed() < Duration::from_secs(20), "polling would have taken longer");
    worker.stop().await;
}

#[tokio::test]
async fn without_listening_jobs_are_found_by_polling_and_listening_comes_back() {
    let fixture = Fixture::new().await;
    let worker = fixture.worker(config(), |_| async { Ok(()) });
    is_idle(&fixture, &worker).await;
    wait_for("the listener's end", PATIENCE, async || {
        let ended = fixture
            .count(
                "SELECT count(*) FROM (SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                 WHERE application_name = 'relevo listen' AND datname = current_database()) AS t",
            )
            .await;
        (ended > 0).then_some(())
    })
    .await;
    // A job that nobody announces.
    fixture
        .execute(
            "INSERT INTO relevo.job (queue, kind, payload, payload_version, max_attempts,
                                     max_deaths, state)
             VALUES ('default', 'test', '1', 1, 1, 1, 'available')",
        )
        .await;
    wait_for("the job to be found", PATIENCE, async || {
        (fixture.unfinished().await == 0).then_some(())
    })
    .await;
    wait_for("the listener's return", PATIENCE, async || {
        let listening = fixture
            .count(
                "SELECT count(*) FROM pg_stat_activity
                 WHERE application_name = 'relevo listen' AND datname = current_database()",
            )
            .await;
        (listening == 1).then_some(())
    })
    .await;
    worker.stop().await;
}

#[tokio::test]
async fn a_worker_of_some_queues_leaves_the_others_alone() {
    let fixture = Fixture::new().await;
    let config = WorkerConfig { queues: vec!["mine".to_owned(), "ours".to_owned()], ..config() };
    let worker = fixture.worker(config, |_| async { Ok(()) });
    let other = fixture.queue.enqueue(job().queue("other")).await.unwrap().id;
    for queue in ["mine", "ours", "mine"] {
        let id = fixture.queue.enqueue(job().queue(queue)).await.unwrap().id;
        fixture.reaches(id, JobState::Completed).await;
    }
    assert_eq!(fixture.state(other).await, JobState::Available);
    worker.stop().await;
}

#[tokio::test]
async fn a_full_queue_does_not_starve_another() {
    let fixture = Fixture::new().await;
    let gate = Arc::new(Semaphore::new(0));
    let worker = fixture.worker(WorkerConfig { concurrency: 2, prefetch_max: 0, ..config() }, {
        let gate = Arc::clone(&gate);
        move |job| {
            let gate = Arc::clone(&gate);
            async move {
                if job.queue == "full" {
                    gate.acquire().await?.forget();
                }
                Ok(())
            }
        }
    });
    fixture.queue.enqueue_many(&vec![job().queue("full"); 1_000]).await.unwrap();
    let small = fixture.queue.enqueue(job().queue("small")).await.unwrap().id;
    // Jobs of the full queue end one by one, as this lets them, until the other one has run.
    wait_for("the job of the small queue", PATIENCE, async || {
        gate.add_permits(1);
        (fixture.state(small).await == JobState::Completed).then_some(())
    })
    .await;
    assert!(fixture.unfinished().await > 500, "it did not have to wait for the full one");
    gate.add_permits(1_000);
    worker.stop().await;
}

#[tokio::test]
async fn an_idle_worker_asks_less_than_twice_a_second() {
    let fixture = Fixture::new().await;
    let worker = fixture.worker(WorkerConfig::default_with_kinds(), |_| async { Ok(()) });
    is_idle(&fixture, &worker).await;
    let seconds = 5;
    let pool = fixture.database.pool();
    let watched = watch_statements(pool, "relevo %", Duration::from_secs(seconds)).await;
    assert!(watched.sessions <= 4, "heartbeat, claim, finish, listen");
    let asked = watched.statements;
    assert!(asked < 2 * usize::try_from(seconds).unwrap(), "{asked} statements in {seconds} s");
    worker.stop().await;
}

trait DefaultWithKinds {
    fn default_with_kinds() -> Self;
}

impl DefaultWithKinds for WorkerConfig {
    /// The defaults a real worker has.
    fn default_with_kinds() -> Self {
        Self { kinds: config().kinds, ..Self::default() }
    }
}
