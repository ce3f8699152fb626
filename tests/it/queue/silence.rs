//! Connections that go silent, and a server that goes away and comes back: workers go on by
//! themselves.

use std::time::{Duration, Instant};

use relevo_queue::{JobFilter, JobState, Queue, WorkerConfig};
use relevo_tests::{FaultProxy, OwnPostgres, wait_for};
use sqlx::postgres::PgPoolOptions;

use super::support::{Fixture, PATIENCE, config, job};

#[tokio::test]
async fn connections_that_went_silent_are_noticed_within_seconds() {
    let fixture = Fixture::new().await;
    let proxy = FaultProxy::start(fixture.database.url()).await;
    let pool = PgPoolOptions::new().connect(&proxy.before(fixture.database.url())).await.unwrap();
    // The worker alone is behind the proxy.
    let behind = Fixture { queue: Queue::new(pool), ..Fixture::new().await };
    let settings = WorkerConfig { lease_ttl: Duration::from_secs(15), ..config() };
    let worker = behind.worker(settings, |_| async { Ok(()) });
    let first = fixture.queue.enqueue(job()).await.unwrap().id;
    fixture.reaches(first, JobState::Completed).await;

    // At least those that claimed and finished.
    assert!(proxy.silence() >= 2, "the worker has connections of its own");
    let silent_since = Instant::now();
    let second = fixture.queue.enqueue(job()).await.unwrap().id;
    let view = fixture.reaches(second, JobState::Completed).await;
    // Within the bound for an answer, with room for a machine that is busy.
    assert!(silent_since.elapsed() < Duration::from_secs(25), "{:?}", silent_since.elapsed());
    assert_eq!((view.attempt, view.deaths), (1, 0));
    assert_eq!(worker.counts.sessions_lost(), 0, "the session outlives its connections");

    // And when they are closed for all to see.
    proxy.cut();
    let third = fixture.queue.enqueue(job()).await.unwrap().id;
    fixture.reaches(third, JobState::Completed).await;
    worker.stop().await;
}

#[tokio::test]
async fn a_server_that_crashes_and_comes_back_finds_its_workers_waiting() {
    let server = OwnPostgres::start().await;
    let (database, _unused) = relevo_tests::TestDatabase::pair_on(&server, &server).await;
    let queue = Queue::new(database.pool().clone());
    let fixture = Fixture { database, queue };
    let settings = WorkerConfig { lease_ttl: Duration::from_secs(20), ..config() };
    let worker = fixture.worker(settings, |job| async move {
        // The first run is under way while the server crashes.
        if job.attempt == 1 && job.epoch == 1 {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    });
    let filter =
        JobFilter { states: vec![JobState::Completed], limit: Some(1000), ..JobFilter::default() };
    for _ in 0..2 {
        let ids = fixture.queue.enqueue_many(&vec![job(); 50]).await.unwrap();
        server.restart_at_once();
        wait_for("what was acknowledged to complete", PATIENCE * 2, async || {
            let done = fixture.queue.jobs(&filter).await.ok()?;
            ids.iter().all(|id| done.iter().any(|job| job.id == id.id)).then_some(())
        })
        .await;
    }
    assert_eq!(worker.counts.sessions_lost(), 0);
    worker.stop().await;
}
