//! Stopping: what runs finishes or is given back, nothing is spent, and it ends in time.

use std::time::Duration;

use relevo_queue::{CancelReason, JobError, JobState, WorkerConfig};
use relevo_tests::wait_for;

use super::support::{Fixture, PATIENCE, Worker, config, job};

async fn runs(fixture: &Fixture, count: i64) {
    wait_for("the jobs to run", PATIENCE, async || {
        let running =
            fixture.count("SELECT count(*) FROM relevo.job WHERE state = 'running'").await;
        (running >= count).then_some(())
    })
    .await;
}

/// What a drain must leave behind: jobs that lost nothing, and no session.
async fn assert_given_back(fixture: &Fixture, worker: Worker, jobs: usize) {
    let grace = config().grace;
    let took = worker.stop().await;
    assert!(took <= grace + Duration::from_millis(500), "it took {took:?}");
    let available = fixture.in_state(JobState::Available).await;
    assert_eq!(available.len(), jobs);
    for view in available {
        assert_eq!((view.attempt, view.deaths, view.last_error), (0, 0, None));
    }
    assert!(fixture.queue.sessions().await.unwrap().is_empty());
}

#[tokio::test]
async fn a_handler_that_stops_at_a_safe_point_is_given_back_at_once() {
    let fixture = Fixture::new().await;
    let worker = fixture.worker(config(), |job| async move {
        job.draining().cancelled().await;
        Err(JobError::give_back())
    });
    fixture.queue.enqueue_many(&vec![job(); 30]).await.unwrap();
    runs(&fixture, 8).await;
    let started = std::time::Instant::now();
    assert_given_back(&fixture, worker, 30).await;
    assert!(started.elapsed() < Duration::from_secs(2), "nothing had to be waited for");
}

#[tokio::test]
async fn a_short_handler_just_finishes() {
    let fixture = Fixture::new().await;
    let worker = fixture.worker(config(), |job| async move {
        job.draining().cancelled().await;
        Ok(())
    });
    fixture.queue.enqueue_many(&vec![job(); 8]).await.unwrap();
    runs(&fixture, 8).await;
    worker.stop().await;
    assert_eq!(fixture.in_state(JobState::Completed).await.len(), 8);
}

#[tokio::test]
async fn a_handler_that_does_not_stop_by_itself_is_cancelled_and_given_back() {
    let fixture = Fixture::new().await;
    let worker = fixture.worker(config(), |job| async move {
        if job.id.0 % 2 == 0 {
            job.cancelled().cancelled().await;
            assert_eq!(job.cancel_reason(), Some(CancelReason::Grace));
            // Whatever it says now comes from being told to stop.
            Err(JobError::fail("interrupted"))
        } else {
            std::future::pending().await
        }
    });
    fixture.queue.enqueue_many(&vec![job(); 8]).await.unwrap();
    runs(&fixture, 8).await;
    assert_given_back(&fixture, worker, 8).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_blocks_its_thread_loses_its_lease() {
    let fixture = Fixture::new().await;
    let (release, released) = std::sync::mpsc::channel::<()>();
    let released = std::sync::Arc::new(std::sync::Mutex::new(released));
    let worker = fixture.worker(WorkerConfig { concurrency: 1, ..config() }, move |_| {
        let released = released.clone();
        async move {
            // Never yields: blocks a thread until the test's end.
            released.lock().unwrap().recv().ok();
            Ok(())
        }
    });
    fixture.queue.enqueue(job()).await.unwrap();
    runs(&fixture, 1).await;
    assert_given_back(&fixture, worker, 1).await;
    drop(release);
}

#[tokio::test]
async fn a_worker_stopped_before_it_began_ends() {
    let fixture = Fixture::new().await;
    let worker = fixture.worker(config(), |_| async { Ok(()) });
    worker.stop().await;
    let worker = fixture.worker(config(), |_| async { Ok(()) });
    wait_for("its session", PATIENCE, async || {
        (fixture.queue.sessions().await.unwrap().len() == 1).then_some(())
    })
    .await;
    let took = worker.stop().await;
    assert!(took < Duration::from_secs(2), "an idle worker stops at once, not after {took:?}");
}
