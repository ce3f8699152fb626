//! Cancelling in every state, with and without being told.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use relevo_queue::{CancelOutcome, CancelReason, JobError, JobId, JobState, WorkerConfig};
use tokio_util::sync::CancellationToken;

use super::support::{Fixture, config, job};

#[tokio::test]
async fn a_waiting_job_is_cancelled_at_once() {
    let fixture = Fixture::new().await;
    let available = fixture.queue.enqueue(job()).await.unwrap().id;
    let scheduled = fixture.queue.enqueue(job().delay(Duration::from_secs(60))).await.unwrap().id;
    for id in [available, scheduled] {
        let outcome = fixture.queue.cancel(id, "not wanted").await.unwrap();
        assert_eq!(outcome, CancelOutcome::Cancelled);
        let view = fixture.view(id).await;
        assert_eq!(view.state, JobState::Cancelled);
        assert_eq!(view.cancel_reason.as_deref(), Some("not wanted"));
        let again = fixture.queue.cancel(id, "again").await.unwrap();
        assert_eq!(again, CancelOutcome::AlreadyEnded(JobState::Cancelled));
    }
    let unknown = fixture.queue.cancel(JobId(i64::MAX), "unknown").await.unwrap();
    assert_eq!(unknown, CancelOutcome::NotFound);
}

/// Listens for its cancel and says how it ended.
fn listening(fixture: &Fixture, config: WorkerConfig) -> super::support::Worker {
    fixture.worker(config, |job| async move {
        job.cancelled().cancelled().await;
        assert_eq!(job.cancel_reason(), Some(CancelReason::Requested));
        Err(JobError::retry("stopped in the middle"))
    })
}

#[tokio::test]
async fn a_running_job_is_told_at_once() {
    let fixture = Fixture::new().await;
    // Its next heartbeat is twenty seconds away.
    let worker =
        listening(&fixture, WorkerConfig { lease_ttl: Duration::from_secs(60), ..config() });
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    fixture.reaches(id, JobState::Running).await;
    let asked = Instant::now();
    assert_eq!(fixture.queue.cancel(id, "stop").await.unwrap(), CancelOutcome::Requested);
    let view = fixture.reaches(id, JobState::Cancelled).await;
    assert!(asked.elapsed() < Duration::from_secs(10), "it was told, not found out");
    assert_eq!(view.cancel_reason.as_deref(), Some("stop"));
    worker.stop().await;
}

#[tokio::test]
async fn a_running_job_learns_it_when_no_notification_arrives() {
    let fixture = Fixture::new().await;
    let worker = listening(&fixture, config());
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    fixture.reaches(id, JobState::Running).await;
    // What cancel does, without its NOTIFY.
    fixture
        .execute("UPDATE relevo.job SET cancel_requested_at = now(), cancel_reason = 'unheard'")
        .await;
    assert!(fixture.view(id).await.cancel_requested);
    let view = fixture.reaches(id, JobState::Cancelled).await;
    assert_eq!(view.cancel_reason.as_deref(), Some("unheard"));
    worker.stop().await;
}

#[tokio::test]
async fn a_handler_that_does_not_listen_is_dropped() {
    let fixture = Fixture::new().await;
    let dropped = Arc::new(AtomicUsize::new(0));
    struct OnDrop(Arc<AtomicUsize>);
    impl Drop for OnDrop {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let worker = fixture.worker(config(), {
        let dropped = Arc::clone(&dropped);
        move |_| {
            let guard = OnDrop(Arc::clone(&dropped));
            async move {
                std::future::pending::<()>().await;
                drop(guard);
                Ok(())
            }
        }
    });
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    fixture.reaches(id, JobState::Running).await;
    fixture.queue.cancel(id, "stop").await.unwrap();
    fixture.reaches(id, JobState::Cancelled).await;
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_handler_that_finishes_all_the_same_has_finished() {
    let fixture = Fixture::new().await;
    let worker = fixture.worker(config(), |job| async move {
        job.cancelled().cancelled().await;
        Ok(())
    });
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    fixture.reaches(id, JobState::Running).await;
    fixture.queue.cancel(id, "too late").await.unwrap();
    assert_eq!(fixture.reaches(id, JobState::Completed).await.cancel_reason, None);
    worker.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_does_not_come_back_when_its_handler_never_hears_of_it() {
    let fixture = Fixture::new().await;
    let go = CancellationToken::new();
    let worker =
        fixture.worker(WorkerConfig { lease_ttl: Duration::from_secs(600), ..config() }, {
            let go = go.clone();
            move |_| {
                let go = go.clone();
                async move {
                    go.cancelled().await;
                    Err(JobError::retry("fails for a reason of its own"))
                }
            }
        });
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    fixture.reaches(id, JobState::Running).await;
    fixture
        .execute("UPDATE relevo.job SET cancel_requested_at = now(), cancel_reason = 'unheard'")
        .await;
    go.cancel();
    let view = fixture.reaches(id, JobState::Cancelled).await;
    assert_eq!(view.cancel_reason.as_deref(), Some("unheard"));
    worker.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_whose_worker_dies_is_cancelled_by_rescue() {
    let fixture = Fixture::new().await;
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    let mut child = super::child::ChildWorker::start(&fixture, super::child::Mode::Hang);
    fixture.reaches(id, JobState::Running).await;
    child.stop();
    fixture.queue.cancel(id, "stop").await.unwrap();
    child.kill();
    fixture.age_sessions().await;
    let rescued = fixture.queue.rescue().await.unwrap();
    assert_eq!((rescued.cancelled, rescued.jobs), (1, 0));
    assert_eq!(fixture.view(id).await.cancel_reason.as_deref(), Some("stop"));
}
