//! The progress deadline: a session proves that its process lives, movement that a handler does.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use relevo_queue::{CancelReason, JobError, JobState, Outcome, Progress, WorkerConfig};
use relevo_tests::wait_for;

use super::support::{Closure, Fixture, PATIENCE, config, job};

fn report(done: i64, message: &str) -> Progress {
    Progress { done, message: message.to_owned(), ..Progress::default() }
}

#[tokio::test]
async fn a_handler_that_hangs_is_cancelled_past_its_progress_deadline_and_tried_again() {
    let fixture = Fixture::new().await;
    let heard = Arc::new(AtomicUsize::new(0));
    let mut handler = Closure::new({
        let heard = Arc::clone(&heard);
        move |job| {
            let heard = Arc::clone(&heard);
            async move {
                match job.attempt {
                    // Listens, and stops.
                    1 => {
                        job.cancelled().cancelled().await;
                        if job.cancel_reason() == Some(CancelReason::Stalled) {
                            heard.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(JobError::retry("the line is silent"))
                    }
                    // Says the same again and again: that is no movement.
                    2 => loop {
                        job.progress(&report(7, "copying")).await?;
                        tokio::task::yield_now().await;
                    },
                    _ => Ok(()),
                }
            }
        }
    });
    handler.timeout = Some(Duration::from_secs(600));
    handler.progress_deadline = Some(Duration::from_millis(250));
    let worker = fixture.worker_with(config(), handler);
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    let retried = fixture.reaches(id, JobState::Completed).await;
    assert_eq!(retried.attempt, 3);
    assert_eq!(retried.last_error.as_deref(), Some("no progress within 0.25 s"));
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    assert_eq!(worker.counts.outcome(Outcome::Retried), 2);
    worker.stop().await;
}

#[tokio::test]
async fn a_handler_that_moves_may_take_as_long_as_it_needs() {
    let fixture = Fixture::new().await;
    let deadline = Duration::from_secs(1);
    let mut handler = Closure::new(move |job| async move {
        let mut block = tokio::time::interval(deadline / 20);
        // Bytes arrive, then a step has three phases that count from zero each.
        let started = Instant::now();
        while started.elapsed() < deadline * 2 {
            block.tick().await;
            job.moved();
        }
        for phase in ["indexes", "keys", "statistics"] {
            for done in 0..10 {
                block.tick().await;
                job.progress(&report(done, phase)).await?;
            }
        }
        Ok(())
    });
    handler.progress_deadline = Some(deadline);
    let worker = fixture.worker_with(config(), handler);
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    let completed = fixture.reaches(id, JobState::Completed).await;
    assert_eq!((completed.attempt, completed.last_error), (1, None));
    worker.stop().await;
}

/// A gate that blocks the thread of whoever waits at it.
#[derive(Default)]
struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn wait(&self) {
        let guard = self.is_open.lock().unwrap();
        drop(self.opened.wait_while(guard, |is_open| !*is_open).unwrap());
    }

    fn open(&self) {
        *self.is_open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_handler_that_does_not_yield_loses_its_lease_and_changes_nothing_more() {
    let fixture = Fixture::new().await;
    let gate = Arc::new(Gate::default());
    let late = Arc::new(Mutex::new(None));
    let mut handler = Closure::new({
        let (gate, late) = (Arc::clone(&gate), Arc::clone(&late));
        move |job| {
            let (gate, late) = (Arc::clone(&gate), Arc::clone(&late));
            async move {
                if job.attempt > 1 {
                    return Ok(());
                }
                gate.wait();
                let refused = job.progress(&report(1, "late")).await;
                *late.lock().unwrap() = Some(refused.is_err());
                Ok(())
            }
        }
    });
    handler.progress_deadline = Some(Duration::from_millis(200));
    let worker = fixture.worker_with(WorkerConfig { concurrency: 2, ..config() }, handler);
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    // Its first handler still blocks a thread while the second attempt runs to its end.
    let completed = fixture.reaches(id, JobState::Completed).await;
    assert_eq!((completed.attempt, completed.lease_epoch), (2, 2));
    assert_eq!(completed.last_error.as_deref(), Some("no progress within 0.2 s"));
    assert_eq!(worker.counts.stuck(), 1);
    assert_eq!(worker.counts.sessions_lost(), 0);
    gate.open();
    let was_refused = wait_for("the late handler", PATIENCE, async || *late.lock().unwrap()).await;
    assert!(was_refused, "it has no lease any more");
    worker.stop().await;
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.job_history").await, 1);
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.job").await, 0);
}
