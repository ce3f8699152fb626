//! A lease that was taken away changes nothing any more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use relevo_queue::{
    CancelReason, Job, JobError, JobState, Outcome, Progress, QueueError, WorkerConfig,
};
use relevo_tests::wait_for;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::support::{Fixture, PATIENCE, config, job};

/// A worker whose handler hands its job out and waits for `go`.
fn held(
    fixture: &Fixture,
    config: WorkerConfig,
    go: &CancellationToken,
) -> (super::support::Worker, mpsc::Receiver<Job>) {
    let (jobs_out, jobs) = mpsc::channel(10);
    let go = go.clone();
    let worker = fixture.worker(config, move |job| {
        let (jobs_out, go) = (jobs_out.clone(), go.clone());
        async move {
            jobs_out.send(job).await.map_err(|_| "the test is over")?;
            go.cancelled().await;
            Ok(())
        }
    });
    (worker, jobs)
}

#[tokio::test]
async fn a_stale_epoch_changes_nothing() {
    let fixture = Fixture::new().await;
    let go = CancellationToken::new();
    // Its handlers get long to notice, so that they are still there to try.
    let deaf = WorkerConfig { cancel_grace: Duration::from_secs(20), ..config() };
    let (worker, mut jobs) = held(&fixture, deaf, &go);
    let id = fixture.queue.enqueue(job().max_deaths(9)).await.unwrap().id;
    let stale = jobs.recv().await.unwrap();
    stale.progress(&Progress { done: 5, ..Progress::default() }).await.unwrap();

    // The session is declared dead behind its back; the same job is claimed anew.
    fixture.age_sessions().await;
    let rescued = fixture.queue.rescue().await.unwrap();
    assert_eq!((rescued.sessions, rescued.jobs), (1, 1));
    let (second_worker, mut second_jobs) = held(&fixture, config(), &go);
    let current = second_jobs.recv().await.unwrap();
    assert_eq!((current.id, current.epoch, stale.epoch), (id, 2, 1));
    assert_ne!(current.session, stale.session);

    let lost = |result: Result<(), QueueError>| {
        assert!(result.as_ref().is_err_and(QueueError::is_lease_lost), "{result:?}");
    };
    lost(stale.progress(&Progress { done: 99, ..Progress::default() }).await);
    let mut transaction = fixture.database.pool().begin().await.unwrap();
    lost(stale.fence(&mut transaction).await);
    lost(stale.complete_in(&mut transaction).await);
    transaction.rollback().await.unwrap();
    assert_eq!(fixture.view(id).await.progress.unwrap().done, 5);

    // The first worker learns it, cancels the handler, and opens a new session.
    wait_for("the loss to be noticed", PATIENCE, async || {
        (stale.cancel_reason() == Some(CancelReason::LeaseLost)).then_some(())
    })
    .await;
    let view = fixture.view(id).await;
    assert_eq!((view.state, view.lease_epoch), (JobState::Running, 2));

    // Both handlers say Ok now; only the second one's word counts.
    go.cancel();
    let completed = fixture.reaches(id, JobState::Completed).await;
    assert_eq!((completed.lease_epoch, completed.session_id), (2, Some(current.session)));
    wait_for("the refusal to be counted", PATIENCE, async || {
        (worker.counts.lost() == 1 && worker.counts.sessions_opened() == 2).then_some(())
    })
    .await;
    assert_eq!(worker.counts.outcome(Outcome::Completed), 0);
    assert_eq!(second_worker.counts.outcome(Outcome::Completed), 1);
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.job_history").await, 1);
    worker.stop().await;
    second_worker.stop().await;
}

#[tokio::test]
async fn a_worker_goes_on_after_losing_its_session() {
    let fixture = Fixture::new().await;
    let runs = Arc::new(AtomicUsize::new(0));
    let worker = fixture.worker(config(), {
        let runs = Arc::clone(&runs);
        move |job| {
            let runs = Arc::clone(&runs);
            async move {
                if runs.fetch_add(1, Ordering::SeqCst) == 0 {
                    job.cancelled().cancelled().await;
                }
                Ok(())
            }
        }
    });
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    fixture.reaches(id, JobState::Running).await;
    fixture.age_sessions().await;
    fixture.queue.rescue().await.unwrap();
    let completed = fixture.reaches(id, JobState::Completed).await;
    assert_eq!((completed.deaths, completed.attempt, completed.lease_epoch), (1, 1, 2));
    assert_eq!(worker.counts.sessions_lost(), 1);
    worker.stop().await;
    fixture.queue.rescue().await.unwrap();
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.session").await, 0);
}

#[tokio::test]
async fn a_fence_keeps_rescue_out_until_its_transaction_ends() {
    let fixture = Fixture::new().await;
    let go = CancellationToken::new();
    let (worker, mut jobs) = held(&fixture, config(), &go);
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    let job = jobs.recv().await.unwrap();

    let mut transaction = fixture.database.pool().begin().await.unwrap();
    job.fence(&mut transaction).await.unwrap();
    // Its own progress, on another connection, does not wait for it.
    job.progress(&Progress { done: 1, ..Progress::default() }).await.unwrap();
    fixture.age_sessions().await;
    let rescued = fixture.queue.rescue().await.unwrap();
    assert_eq!((rescued.sessions, rescued.jobs), (1, 0));
    assert_eq!(fixture.state(id).await, JobState::Running);
    job.complete_in(&mut transaction).await.unwrap();
    transaction.commit().await.unwrap();
    assert_eq!(fixture.queue.rescue().await.unwrap().jobs, 0);
    assert_eq!(fixture.state(id).await, JobState::Completed);
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.session WHERE died").await, 0);
    go.cancel();
    worker.stop().await;
}

#[tokio::test]
async fn a_handler_that_never_commits_what_it_completed_is_given_up() {
    let fixture = Fixture::new().await;
    let pool = fixture.database.pool().clone();
    let worker = fixture.worker(config(), move |job| {
        let pool = pool.clone();
        async move {
            let mut transaction = pool.begin().await?;
            job.complete_in(&mut transaction).await?;
            transaction.rollback().await?;
            Ok(())
        }
    });
    let id = fixture.queue.enqueue(job().max_attempts(2)).await.unwrap().id;
    let dead = fixture.reaches(id, JobState::Dead).await;
    worker.stop().await;
    assert_eq!(dead.attempt, 3, "one more than it may have: each might have been committed");
    assert!(dead.last_error.unwrap().contains("complete_in was not committed"));
}

#[tokio::test]
async fn effects_and_end_commit_together_or_not_at_all() {
    let fixture = Fixture::new().await;
    fixture.execute("CREATE TABLE effect (job bigint, attempt integer)").await;
    let pool = fixture.database.pool().clone();
    let worker = fixture.worker(config(), move |job| {
        let pool = pool.clone();
        async move {
            let mut transaction = pool.begin().await?;
            job.fence(&mut transaction).await?;
            sqlx::query("INSERT INTO effect VALUES ($1, $2)")
                .bind(job.id)
                .bind(job.attempt)
                .execute(&mut *transaction)
                .await?;
            job.complete_in(&mut transaction).await?;
            match job.attempt {
                // Forgets to commit and says Ok.
                1 => transaction.rollback().await?,
                // Sees the commit fail and says so.
                2 => {
                    transaction.rollback().await?;
                    return Err(JobError::retry("COMMIT failed"));
                }
                // Commits, but never hears of it.
                _ => {
                    transaction.commit().await?;
                    return Err(JobError::retry("no answer to COMMIT"));
                }
            }
            Ok(())
        }
    });
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    let completed = fixture.reaches(id, JobState::Completed).await;
    assert_eq!(completed.attempt, 3);
    worker.stop().await;
    let effects: Vec<(i64, i32)> =
        sqlx::query_as("SELECT * FROM effect").fetch_all(fixture.database.pool()).await.unwrap();
    assert_eq!(effects, [(id.0, 3)]);
    assert_eq!(fixture.unfinished().await, 0);
}
