//! Processes that die or stand still: their jobs go on elsewhere, poison does not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use relevo_queue::{FailedMemberPolicy, JobId, JobState, Progress, WorkerConfig};
use relevo_tests::wait_for;

use super::child::{ChildWorker, Mode};
use super::support::{Fixture, PATIENCE, config, job};

/// Waits until the child runs the job.
async fn claimed(fixture: &Fixture, id: JobId) {
    fixture.reaches(id, JobState::Running).await;
}

/// Rescues until a session was found dead.
async fn rescued(fixture: &Fixture) -> relevo_queue::Rescued {
    wait_for("the killed session to be found dead", PATIENCE, async || {
        let rescued = fixture.queue.rescue().await.unwrap();
        (rescued.sessions > 0).then_some(rescued)
    })
    .await
}

#[tokio::test]
async fn the_job_of_a_killed_process_runs_elsewhere_and_spends_no_attempt() {
    let fixture = Fixture::new().await;
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    let mut child = ChildWorker::start(&fixture, Mode::Hang);
    claimed(&fixture, id).await;
    child.kill();
    let rescued = rescued(&fixture).await;
    assert_eq!((rescued.sessions, rescued.jobs, rescued.poisoned.len()), (1, 1, 0));
    let waiting = fixture.view(id).await;
    assert_eq!((waiting.state, waiting.attempt, waiting.deaths), (JobState::Available, 0, 1));
    let worker = fixture.worker(config(), |_| async { Ok(()) });
    let completed = fixture.reaches(id, JobState::Completed).await;
    assert_eq!((completed.attempt, completed.deaths, completed.lease_epoch), (1, 1, 2));
    worker.stop().await;
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.session WHERE died").await, 0);
}

#[tokio::test]
async fn a_job_under_which_workers_die_is_poison() {
    let fixture = Fixture::new().await;
    let mut transaction = fixture.database.pool().begin().await.unwrap();
    let batch = fixture
        .queue
        .open_batch(&mut transaction, job(), FailedMemberPolicy::Complete)
        .await
        .unwrap();
    transaction.commit().await.unwrap();
    let new = job().max_deaths(2).batch_id(batch);
    let id = fixture.queue.enqueue(new).await.unwrap().id;
    for _ in 0..2 {
        let mut child = ChildWorker::start(&fixture, Mode::Hang);
        claimed(&fixture, id).await;
        // From the second time on the child marks it before its handler runs.
        if fixture.view(id).await.deaths > 0 {
            wait_for("the mark", PATIENCE, async || {
                let marked = fixture.count("SELECT count(*) FROM relevo.job WHERE started").await;
                (marked == 1).then_some(())
            })
            .await;
        }
        child.kill();
        rescued(&fixture).await;
    }
    let dead = fixture.view(id).await;
    assert_eq!((dead.state, dead.deaths, dead.attempt), (JobState::Dead, 2, 1));
    assert!(dead.last_error.unwrap().starts_with("poison: 2 workers died"));
    assert_eq!(fixture.queue.batch(batch).await.unwrap().unwrap().dead, 1);
}

#[tokio::test]
async fn an_innocent_beside_poison_is_not_poisoned() {
    let fixture = Fixture::new().await;
    let id = fixture.queue.enqueue(job().max_deaths(2)).await.unwrap().id;
    // Once it died with a worker; then it only lay prefetched when three more died.
    fixture.execute("UPDATE relevo.job SET deaths = 1").await;
    for epoch in 1..=3 {
        sqlx::query(
            "WITH opened AS (
                 INSERT INTO relevo.session (ttl, pid, concurrency, name, host, queues, heartbeat_at)
                 VALUES ('1ms', 1, 1, 'gone', 'gone', '{}', now() - interval '1 hour') RETURNING id
             )
             UPDATE relevo.job
             SET state = 'running', session_id = opened.id, claimed_at = now(), claim_no = 1,
                 attempt = 1, lease_epoch = $1
             FROM opened",
        )
        .bind(epoch)
        .execute(fixture.database.pool())
        .await
        .unwrap();
        let rescued = fixture.queue.rescue().await.unwrap();
        assert_eq!((rescued.jobs, rescued.poisoned.len()), (1, 0));
    }
    let view = fixture.view(id).await;
    assert_eq!((view.state, view.deaths), (JobState::Available, 1));
}

#[tokio::test]
async fn progress_beyond_the_furthest_clears_deaths_and_less_does_not() {
    let fixture = Fixture::new().await;
    let new = async |done| {
        let id = fixture.queue.enqueue(job()).await.unwrap().id;
        sqlx::query(
            "WITH before AS (UPDATE relevo.job SET deaths = 2 WHERE id = $1)
             INSERT INTO relevo.job_progress (job_id, lease_epoch, done, done_max, unit, message)
             VALUES ($1, 1, 1, $2, 'rows', '')",
        )
        .bind(id)
        .bind(done)
        .execute(fixture.database.pool())
        .await
        .unwrap();
        id
    };
    let (further, not_further) = (new(9).await, new(10).await);
    let worker = fixture.worker(config(), |job| async move {
        job.progress(&Progress { done: 10, ..Progress::default() }).await?;
        Ok(())
    });
    assert_eq!(fixture.reaches(further, JobState::Completed).await.deaths, 0);
    assert_eq!(fixture.reaches(not_further, JobState::Completed).await.deaths, 2);
    worker.stop().await;
}

#[tokio::test]
async fn a_process_that_stood_still_past_its_lease_changes_nothing() {
    let fixture = Fixture::new().await;
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    let child = ChildWorker::start(&fixture, Mode::Linger);
    claimed(&fixture, id).await;
    child.stop();
    rescued(&fixture).await;
    let worker = fixture.worker(config(), |_| async { Ok(()) });
    let completed = fixture.reaches(id, JobState::Completed).await;
    assert_eq!(completed.lease_epoch, 2);
    child.resume();
    // It wakes, ends its handler, finds its lease lost, and works on under a new session.
    let again = fixture.queue.enqueue(job().queue("later")).await.unwrap().id;
    worker.stop().await;
    fixture.reaches(again, JobState::Completed).await;
    wait_for("its new session", PATIENCE, async || {
        (fixture.queue.sessions().await.unwrap().len() == 1).then_some(())
    })
    .await;
    assert_eq!(fixture.view(id).await.session_id, completed.session_id);
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.job_history").await, 2);
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_processes_are_killed_again_and_again() {
    const JOBS: usize = 2_000;
    let fixture = Fixture::new().await;
    fixture.queue.enqueue_many(&vec![job().max_deaths(100); JOBS]).await.unwrap();
    let mut children = [Mode::Finish; 3].map(|mode| ChildWorker::start(&fixture, mode));
    for round in 0..6 {
        // Somewhere in the middle of the work, while there is any.
        let goal = i64::try_from(JOBS / 8 * (round + 1)).unwrap();
        wait_for("some jobs to end", PATIENCE, async || {
            fixture.queue.rescue().await.unwrap();
            let ended = fixture.count("SELECT count(*) FROM relevo.job_history").await;
            (ended >= goal).then_some(())
        })
        .await;
        let at = round % children.len();
        children[at].kill();
        children[at] = ChildWorker::start(&fixture, Mode::Finish);
    }
    fixture.settles().await;
    let (ended, distinct): (i64, i64) =
        sqlx::query_as("SELECT count(*), count(DISTINCT id) FROM relevo.job_history")
            .fetch_one(fixture.database.pool())
            .await
            .unwrap();
    assert_eq!((ended, distinct), (2_000, 2_000));
}

#[tokio::test]
async fn a_healthy_worker_is_left_alone() {
    let fixture = Fixture::new().await;
    let ttl = Duration::from_secs(2);
    // Its handler blocks the only thread of the runtime for several leases; the heartbeat has a
    // thread of its own.
    let worker = fixture.worker(WorkerConfig { lease_ttl: ttl, ..config() }, move |_| async move {
        block_for(ttl * 4);
        Ok(())
    });
    // The test's own runtime is blocked too; a thread of its own rescues meanwhile.
    let over = Arc::new(AtomicBool::new(false));
    let rescuer = std::thread::spawn({
        let (url, over) = (fixture.database.url().to_owned(), Arc::clone(&over));
        move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let queue = relevo_queue::Queue::new(sqlx::PgPool::connect(&url).await.unwrap());
                let mut look = tokio::time::interval(Duration::from_millis(50));
                while !over.load(Ordering::SeqCst) {
                    look.tick().await;
                    let rescued = queue.rescue().await.unwrap();
                    assert_eq!(rescued.sessions, 0, "a live session was declared dead");
                }
            });
        }
    });
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    let completed = fixture.reaches(id, JobState::Completed).await;
    over.store(true, Ordering::SeqCst);
    tokio::task::spawn_blocking(move || rescuer.join().unwrap()).await.unwrap();
    assert_eq!((completed.attempt, completed.lease_epoch), (1, 1));
    assert_eq!(worker.counts.sessions_lost(), 0);
    worker.stop().await;
}

#[expect(clippy::disallowed_methods, reason = "blocking the runtime is what is tested")]
fn block_for(time: Duration) {
    std::thread::sleep(time);
}
