//! Every state is reached by a worker, and every word of a handler means what it says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::Utc;
use relevo_queue::{CancelReason, JobError, JobState, NewJob, Outcome, Progress, RetryOutcome};
use relevo_tests::wait_for;
use tokio_util::sync::CancellationToken;

use super::support::{Closure, Fixture, KIND, PATIENCE, config, job};

#[tokio::test]
async fn a_job_goes_through_its_life() {
    let fixture = Fixture::new().await;
    let id = fixture.queue.enqueue(job().delay(Duration::from_millis(50))).await.unwrap().id;
    assert_eq!(fixture.state(id).await, JobState::Scheduled);
    fixture.reaches(id, JobState::Available).await;

    let go = CancellationToken::new();
    let worker = fixture.worker(config(), {
        let go = go.clone();
        move |job| {
            let go = go.clone();
            async move {
                go.cancelled().await;
                match job.attempt {
                    1 => Err(JobError::retry_after("not yet", Duration::from_secs(3600))),
                    _ => Ok(()),
                }
            }
        }
    });
    let running = fixture.reaches(id, JobState::Running).await;
    assert_eq!((running.attempt, running.lease_epoch), (1, 1));
    assert!(running.session_id.is_some() && running.claimed_at.is_some());
    go.cancel();
    let retryable = fixture.reaches(id, JobState::Retryable).await;
    assert_eq!(retryable.last_error.as_deref(), Some("not yet"));
    assert!(retryable.session_id.is_none());
    assert_eq!(fixture.queue.retry(id).await.unwrap(), RetryOutcome::Retried);
    let completed = fixture.reaches(id, JobState::Completed).await;
    assert_eq!((completed.attempt, completed.lease_epoch), (2, 2));
    assert!(completed.finished_at.unwrap() >= completed.claimed_at.unwrap());
    assert_eq!(completed.last_error.as_deref(), Some("not yet"), "history keeps what went wrong");
    assert_eq!(
        fixture.queue.retry(id).await.unwrap(),
        RetryOutcome::NotRetryable(JobState::Completed)
    );
    worker.stop().await;
}

#[tokio::test]
async fn the_last_attempt_makes_a_dead_letter_and_a_retry_by_hand_starts_over() {
    let fixture = Fixture::new().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let id = fixture.queue.enqueue(job().max_attempts(3)).await.unwrap().id;
    let worker = fixture.worker(config(), {
        let runs = Arc::clone(&runs);
        move |_| {
            let run = runs.fetch_add(1, Ordering::SeqCst);
            async move {
                if run < 3 {
                    Err(std::io::Error::other(format!("failure {run}")))?;
                }
                Ok(())
            }
        }
    });
    let dead = fixture.reaches(id, JobState::Dead).await;
    assert_eq!((dead.attempt, dead.last_error.as_deref()), (3, Some("failure 2")));
    wait_for("the counts", PATIENCE, async || {
        (worker.counts.outcome(Outcome::Dead) == 1).then_some(())
    })
    .await;
    assert_eq!(worker.counts.outcome(Outcome::Retried), 2);
    assert_eq!(fixture.queue.dead_letters(&Default::default()).await.unwrap().len(), 1);

    assert_eq!(fixture.queue.retry(id).await.unwrap(), RetryOutcome::Retried);
    let completed = fixture.reaches(id, JobState::Completed).await;
    assert_eq!((completed.attempt, completed.lease_epoch), (1, 4), "epochs are never reset");
    worker.stop().await;
}

#[tokio::test]
async fn a_failure_for_good_tells_who_depends_on_it_in_the_same_transaction() {
    let fixture = Fixture::new().await;
    fixture.execute("CREATE TABLE told (job bigint, error text)").await;
    let mut handler = Closure::new(|_| async { Err(JobError::fail("never")) });
    handler.on_dead = Some(Box::new(|tx, job, error| {
        Box::pin(async move {
            sqlx::query("INSERT INTO told VALUES ($1, $2)")
                .bind(job.id)
                .bind(error)
                .execute(&mut *tx)
                .await?;
            if job.payload.get() == "2" {
                Err("what depends on it cannot be told")?;
            }
            assert_ne!(job.payload.get(), "3", "a bad handler");
            Ok(())
        })
    }));
    let worker = fixture.worker_with(config(), handler);
    for n in 1..=3 {
        let new = NewJob::new(KIND, &n).unwrap();
        let id = fixture.queue.enqueue(new).await.unwrap().id;
        let dead = fixture.reaches(id, JobState::Dead).await;
        assert_eq!((dead.attempt, dead.last_error.as_deref()), (1, Some("never")));
    }
    // The second and third refused; what they wrote is undone, their dead letters stay.
    assert_eq!(fixture.count("SELECT count(*) FROM told WHERE error = 'never'").await, 1);
    worker.stop().await;
}

#[tokio::test]
async fn a_snooze_spends_no_attempt() {
    let fixture = Fixture::new().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let id = fixture.queue.enqueue(job().max_attempts(1)).await.unwrap().id;
    let worker = fixture.worker(config(), {
        let runs = Arc::clone(&runs);
        move |_| {
            let run = runs.fetch_add(1, Ordering::SeqCst);
            async move {
                match run {
                    0 => Err(JobError::snooze(Duration::from_secs(3600))),
                    1 => Err(JobError::snooze(Duration::ZERO)),
                    _ => Ok(()),
                }
            }
        }
    });
    let snoozed = fixture.reaches(id, JobState::Scheduled).await;
    assert_eq!((snoozed.attempt, snoozed.last_error), (0, None));
    assert!(snoozed.run_at > Utc::now() + chrono::Duration::minutes(50));
    fixture.queue.retry(id).await.unwrap();
    let completed = fixture.reaches(id, JobState::Completed).await;
    assert_eq!((completed.attempt, completed.lease_epoch), (1, 3));
    worker.stop().await;
}

#[tokio::test]
async fn a_handlers_own_cancel_ends_the_job() {
    let fixture = Fixture::new().await;
    let worker = fixture.worker(config(), |_| async { Err(JobError::cancel("the run ended")) });
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    let cancelled = fixture.reaches(id, JobState::Cancelled).await;
    assert_eq!(cancelled.cancel_reason.as_deref(), Some("the run ended"));
    worker.stop().await;
}

#[tokio::test]
async fn a_panic_is_a_failed_attempt() {
    let fixture = Fixture::new().await;
    let worker = fixture.worker(config(), |job| async move {
        assert!(job.attempt > 1, "not at once");
        Ok(())
    });
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    let completed = fixture.reaches(id, JobState::Completed).await;
    assert_eq!(completed.attempt, 2);
    let error = completed.last_error.unwrap();
    assert!(error.contains("panicked") && error.contains("not at once"), "{error}");
    worker.stop().await;
}

#[tokio::test]
async fn a_job_past_its_time_is_cancelled_and_tried_again() {
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
                        if job.cancel_reason() == Some(CancelReason::Timeout) {
                            heard.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(JobError::fail("what a handler says when it is told to stop"))
                    }
                    // Does not listen: dropped.
                    2 => std::future::pending().await,
                    _ => Ok(()),
                }
            }
        }
    });
    handler.timeout = Some(Duration::from_millis(100));
    let worker = fixture.worker_with(config(), handler);
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    let completed = fixture.reaches(id, JobState::Completed).await;
    assert_eq!(completed.attempt, 3);
    assert_eq!(completed.last_error.as_deref(), Some("timed out after 0.1 s"));
    assert_eq!(heard.load(Ordering::SeqCst), 1);
    worker.stop().await;
}

#[tokio::test]
async fn backoff_has_full_jitter_under_its_ceiling() {
    let fixture = Fixture::new().await;
    let mut handler = Closure::new(|_| async { Err(JobError::retry("again")) });
    handler.backoff = Duration::from_secs(1000);
    let worker = fixture.worker_with(config(), handler);
    let jobs = vec![job(); 200];
    fixture.queue.enqueue_many(&jobs).await.unwrap();
    wait_for("200 failures", PATIENCE, async || {
        (worker.counts.outcome(Outcome::Retried) == 200).then_some(())
    })
    .await;
    let delays_seconds: Vec<f64> = sqlx::query_scalar(
        "SELECT extract(epoch FROM run_at - now())::float8 FROM relevo.job
         WHERE state = 'retryable'",
    )
    .fetch_all(fixture.database.pool())
    .await
    .unwrap();
    assert_eq!(delays_seconds.len(), 200);
    assert!(delays_seconds.iter().all(|delay| (-30.0..=1000.0).contains(delay)));
    // Uniform over the whole range: 200 of them reach both fifths.
    assert!(delays_seconds.iter().any(|delay| *delay < 200.0));
    assert!(delays_seconds.iter().any(|delay| *delay > 800.0));
    worker.stop().await;
}

#[tokio::test]
async fn only_known_kinds_and_versions_are_claimed_and_higher_priority_first() {
    let fixture = Fixture::new().await;
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let enqueue = async |job: NewJob| fixture.queue.enqueue(job).await.unwrap().id;
    let unknown = enqueue(NewJob::new("unknown", &1).unwrap().priority(9)).await;
    let future = enqueue(job().payload_version(2).priority(9)).await;
    let low = enqueue(job().priority(-1)).await;
    let first = enqueue(job()).await;
    let second = enqueue(job()).await;
    let high = enqueue(job().priority(5)).await;
    let worker = fixture.worker(relevo_queue::WorkerConfig { concurrency: 1, ..config() }, {
        let order = Arc::clone(&order);
        move |job| {
            order.lock().unwrap().push(job.id);
            async { Ok(()) }
        }
    });
    fixture.reaches(low, JobState::Completed).await;
    assert_eq!(*order.lock().unwrap(), [high, first, second, low]);
    for left in [unknown, future] {
        let view = fixture.view(left).await;
        assert_eq!((view.state, view.attempt), (JobState::Available, 0));
    }
    worker.stop().await;
}

#[tokio::test]
async fn progress_is_seen_and_kept() {
    let fixture = Fixture::new().await;
    let go = CancellationToken::new();
    let worker = fixture.worker(config(), {
        let go = go.clone();
        move |job| {
            let go = go.clone();
            async move {
                for done in [10, 20] {
                    job.progress(&Progress {
                        done,
                        total: Some(40),
                        unit: "rows".to_owned(),
                        message: "loading".to_owned(),
                    })
                    .await?;
                }
                go.cancelled().await;
                Ok(())
            }
        }
    });
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    let progress = wait_for("progress", PATIENCE, async || {
        fixture.view(id).await.progress.filter(|progress| progress.done == 20)
    })
    .await;
    assert_eq!((progress.total, progress.unit.as_str()), (Some(40), "rows"));
    go.cancel();
    let completed = fixture.reaches(id, JobState::Completed).await;
    assert_eq!(completed.progress.unwrap().done, 20);
    worker.stop().await;
}

#[tokio::test]
async fn paused_queues_are_left_alone_until_resumed() {
    let fixture = Fixture::new().await;
    assert!(fixture.queue.pause("default").await.unwrap());
    assert!(!fixture.queue.pause("default").await.unwrap());
    let worker = fixture.worker(config(), |_| async { Ok(()) });
    let other = fixture.queue.enqueue(job().queue("other")).await.unwrap().id;
    let paused = fixture.queue.enqueue(job()).await.unwrap().id;
    fixture.reaches(other, JobState::Completed).await;
    assert_eq!(fixture.state(paused).await, JobState::Available);
    assert!(fixture.queue.stats().await.unwrap().iter().any(|queue| queue.paused));
    assert!(fixture.queue.resume("default").await.unwrap());
    assert!(!fixture.queue.resume("default").await.unwrap());
    fixture.reaches(paused, JobState::Completed).await;
    worker.stop().await;
}
