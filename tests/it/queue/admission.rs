//! Order, limits and rates: kept while workers fail, die and are killed, and in nobody else's way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relevo_queue::{
    FailedMemberPolicy, JobError, JobId, JobState, Limit, NewJob, OnDead, Rate, RetryOutcome,
    WorkerConfig,
};
use relevo_tests::wait_for;

use super::child::{ChildWorker, Mode};
use super::support::{Fixture, PATIENCE, config, job};

fn in_line(key: &str) -> NewJob {
    job().ordering_key(key, OnDead::Block)
}

fn at_once(name: &str, concurrency: u32) -> Limit {
    Limit { name: name.to_owned(), concurrency: Some(concurrency), rate: None }
}

async fn enqueue(fixture: &Fixture, jobs: &[NewJob]) -> Vec<JobId> {
    let enqueued = fixture.queue.enqueue_many(jobs).await.unwrap();
    enqueued.into_iter().map(|one| one.id).collect()
}

async fn states(fixture: &Fixture, ids: &[JobId]) -> Vec<JobState> {
    let mut states = Vec::new();
    for id in ids {
        states.push(fixture.state(*id).await);
    }
    states
}

/// Jobs of three lines, enqueued by turns, ended in the order of each line.
fn assert_in_order(ids: &[JobId], ended: &[JobId]) {
    for line in 0..3 {
        let expected: Vec<JobId> = ids.iter().skip(line).step_by(3).copied().collect();
        let came: Vec<JobId> = ended.iter().copied().filter(|id| expected.contains(id)).collect();
        assert_eq!(came, expected);
    }
}

#[tokio::test]
async fn order_is_kept_per_key_through_retries_and_snoozes() {
    let fixture = Fixture::new().await;
    let keys = ["a", "b", "c"];
    let jobs: Vec<NewJob> = (0..24).map(|at| in_line(keys[at % 3]).max_attempts(5)).collect();
    let ids = enqueue(&fixture, &jobs).await;
    let ended = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::new(Mutex::new(HashMap::<JobId, u32>::new()));
    let worker = fixture.worker(config(), {
        let (ended, seen) = (ended.clone(), seen.clone());
        move |job| {
            let runs = {
                let mut seen = seen.lock().unwrap();
                let runs = seen.entry(job.id).or_default();
                *runs += 1;
                *runs
            };
            let ended = ended.clone();
            async move {
                // Each fails once, is put off once, and ends the third time.
                match runs {
                    1 => return Err(JobError::retry("not yet")),
                    2 => return Err(JobError::snooze(Duration::from_millis(1))),
                    _ => {}
                }
                ended.lock().unwrap().push(job.id);
                Ok(())
            }
        }
    });
    fixture.settles().await;
    worker.stop().await;
    let ended = ended.lock().unwrap().clone();
    assert_in_order(&ids, &ended);
}

#[tokio::test]
async fn one_key_holds_one_job_through_a_killed_worker() {
    let fixture = Fixture::new().await;
    let ids = enqueue(&fixture, &[in_line("a"), in_line("a")]).await;
    assert_eq!(states(&fixture, &ids).await, [JobState::Available, JobState::Waiting]);
    let mut child = ChildWorker::start(&fixture, Mode::Hang);
    fixture.reaches(ids[0], JobState::Running).await;
    child.kill();
    wait_for("the killed session to be found dead", PATIENCE, async || {
        (fixture.queue.rescue().await.unwrap().jobs > 0).then_some(())
    })
    .await;
    // It keeps its turn: the second is not let past it.
    fixture.queue.stage().await.unwrap();
    assert_eq!(states(&fixture, &ids).await, [JobState::Available, JobState::Waiting]);
    let worker = fixture.worker(config(), |_| async { Ok(()) });
    fixture.settles().await;
    worker.stop().await;
    let (first, second) = (fixture.view(ids[0]).await, fixture.view(ids[1]).await);
    assert!(first.finished_at <= second.claimed_at);
}

#[tokio::test]
async fn a_dead_job_blocks_its_line_or_is_passed() {
    let fixture = Fixture::new().await;
    let skipping = || job().ordering_key("skip", OnDead::Skip);
    let ids =
        enqueue(&fixture, &[in_line("block"), in_line("block"), skipping(), skipping()]).await;
    let first_of = [ids[0], ids[2]];
    let dies = Arc::new(Mutex::new(true));
    let worker = fixture.worker(config(), {
        let dies = dies.clone();
        move |job| {
            let is_first = first_of.contains(&job.id) && *dies.lock().unwrap();
            async move { if is_first { Err(JobError::fail("no")) } else { Ok(()) } }
        }
    });
    fixture.reaches(ids[3], JobState::Completed).await;
    fixture.reaches(ids[0], JobState::Dead).await;
    fixture.queue.stage().await.unwrap();
    assert_eq!(fixture.state(ids[1]).await, JobState::Waiting);

    *dies.lock().unwrap() = false;
    assert_eq!(fixture.queue.retry(ids[0]).await.unwrap(), RetryOutcome::Retried);
    fixture.settles().await;
    let (first, second) = (fixture.view(ids[0]).await, fixture.view(ids[1]).await);
    assert_eq!((first.state, second.state), (JobState::Completed, JobState::Completed));
    assert!(first.finished_at <= second.claimed_at, "the retried one goes first");

    // Given up for good, it lets the line go on.
    worker.stop().await;
    let more = enqueue(&fixture, &[in_line("block"), in_line("block")]).await;
    let failing = fixture.worker(config(), {
        let first = more[0];
        move |job| async move { if job.id == first { Err(JobError::fail("no")) } else { Ok(()) } }
    });
    fixture.reaches(more[0], JobState::Dead).await;
    assert!(fixture.queue.discard_dead(more[0]).await.unwrap());
    fixture.reaches(more[1], JobState::Completed).await;
    failing.stop().await;
}

#[tokio::test]
async fn a_cancelled_job_leaves_its_line_and_its_room() {
    let fixture = Fixture::new().await;
    fixture.queue.set_limit(&at_once("two", 1)).await.unwrap();
    let limited = || job().limit_key("two");
    let ids = enqueue(&fixture, &[in_line("a"), in_line("a"), limited(), limited()]).await;
    fixture.queue.cancel(ids[0], "not wanted").await.unwrap();
    fixture.queue.cancel(ids[2], "not wanted").await.unwrap();
    // Nobody staged in between.
    assert_eq!(fixture.state(ids[1]).await, JobState::Available);
    assert_eq!(fixture.state(ids[3]).await, JobState::Available);
}

#[tokio::test]
async fn a_limit_holds_while_workers_are_killed() {
    let fixture = Fixture::new().await;
    fixture.queue.set_limit(&at_once("few", 3)).await.unwrap();
    let jobs: Vec<NewJob> = (0..60).map(|_| job().limit_key("few").max_deaths(100)).collect();
    enqueue(&fixture, &jobs).await;
    let check = async || {
        let live = fixture
            .count(
                "SELECT count(*) FROM relevo.job
                 WHERE limit_key = 'few' AND state IN ('available', 'running')",
            )
            .await;
        assert!(live <= 3, "{live} jobs are under way");
    };
    for _ in 0..3 {
        let mut child = ChildWorker::start(&fixture, Mode::Hang);
        wait_for("the child to hold jobs", PATIENCE, async || {
            check().await;
            fixture.queue.stage().await.unwrap();
            let running =
                fixture.count("SELECT count(*) FROM relevo.job WHERE state = 'running'").await;
            (running == 3).then_some(())
        })
        .await;
        child.kill();
        wait_for("its jobs to be taken back", PATIENCE, async || {
            check().await;
            (fixture.queue.rescue().await.unwrap().jobs > 0).then_some(())
        })
        .await;
    }
    let _finishing = ChildWorker::start(&fixture, Mode::Finish);
    wait_for("every job to end", PATIENCE * 2, async || {
        check().await;
        fixture.queue.stage().await.unwrap();
        fixture.queue.rescue().await.unwrap();
        (fixture.unfinished().await == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn no_period_sees_more_than_the_rate() {
    let fixture = Fixture::new().await;
    let rate = Rate { jobs: 4, period: Duration::from_millis(700) };
    let limit = Limit { name: "slow".to_owned(), concurrency: None, rate: Some(rate) };
    fixture.queue.set_limit(&limit).await.unwrap();
    let jobs: Vec<NewJob> = (0..14).map(|_| job().limit_key("slow")).collect();
    enqueue(&fixture, &jobs).await;
    // Some of the first come back once, and count again.
    let worker = fixture.worker(config(), |job| async move {
        if job.attempt == 1 && job.id.0 % 3 == 0 { Err(JobError::retry("again")) } else { Ok(()) }
    });
    fixture.settles().await;
    worker.stop().await;
    // By the claims' own records, kept until they are pruned.
    let most: i64 = fixture
        .count(
            "SELECT max(jobs)::bigint FROM (
                 SELECT sum(jobs) OVER (ORDER BY started_at
                                        RANGE BETWEEN '699 ms' PRECEDING AND CURRENT ROW) AS jobs
                 FROM relevo.limit_use WHERE limit_key = 'slow') AS w",
        )
        .await;
    assert!((1..=4).contains(&most), "{most} began within a period");
    let claims = fixture.count("SELECT sum(jobs)::bigint FROM relevo.limit_use").await;
    assert!(claims > 14, "retries count too");
}

#[tokio::test]
async fn what_no_limit_is_set_for_is_not_held_back_and_a_limit_counts_from_when_it_is_set() {
    let fixture = Fixture::new().await;
    let limited = || job().limit_key("later");
    let before = enqueue(&fixture, &[limited(), limited()]).await;
    assert_eq!(states(&fixture, &before).await, [JobState::Available; 2]);
    fixture.queue.set_limit(&at_once("later", 1)).await.unwrap();
    let after = enqueue(&fixture, &[limited()]).await;
    assert_eq!(states(&fixture, &after).await, [JobState::Waiting]);
    let views = fixture.queue.limits().await.unwrap();
    assert_eq!((views[0].live, views[0].waiting, views[0].concurrency), (2, 1, Some(1)));
    fixture.queue.set_limit(&at_once("later", 3)).await.unwrap();
    assert_eq!(states(&fixture, &after).await, [JobState::Available]);
    fixture.queue.set_limit(&at_once("later", 0)).await.unwrap();
    let held = enqueue(&fixture, &[limited()]).await;
    let mut connection = fixture.database.pool().acquire().await.unwrap();
    assert!(fixture.queue.remove_limit_in(&mut connection, "later").await.unwrap());
    drop(connection);
    assert_eq!(states(&fixture, &held).await, [JobState::Waiting]);
    fixture.queue.stage().await.unwrap();
    assert_eq!(states(&fixture, &held).await, [JobState::Available]);
}

#[tokio::test]
async fn a_paused_queue_takes_no_room_under_a_limit_of_many_queues() {
    let fixture = Fixture::new().await;
    fixture.queue.set_limit(&at_once("shared", 2)).await.unwrap();
    let of = |queue: &str| job().queue(queue).limit_key("shared");
    let paused = enqueue(&fixture, &[of("paused"), of("paused"), of("paused")]).await;
    fixture.queue.pause("paused").await.unwrap();
    let others = enqueue(&fixture, &[of("other"), of("other"), of("other")]).await;
    assert_eq!(states(&fixture, &paused).await, [JobState::Waiting; 3]);
    assert_eq!(
        states(&fixture, &others).await,
        [JobState::Available, JobState::Available, JobState::Waiting]
    );
    fixture.queue.resume("paused").await.unwrap();
    let worker = fixture.worker(config(), |_| async { Ok(()) });
    fixture.settles().await;
    worker.stop().await;
}

#[tokio::test]
async fn order_and_limit_hold_together_and_a_batch_ends_once() {
    let fixture = Fixture::new().await;
    fixture.queue.set_limit(&at_once("both", 2)).await.unwrap();
    let mut transaction = fixture.database.pool().begin().await.unwrap();
    let completion = job().limit_key("both").ordering_key("end", OnDead::Skip);
    let batch = fixture
        .queue
        .open_batch(&mut transaction, completion, FailedMemberPolicy::Complete)
        .await
        .unwrap();
    let members: Vec<NewJob> = (0..12)
        .map(|at| in_line(["a", "b", "c"][at % 3]).limit_key("both").batch_id(batch))
        .collect();
    // In the caller's transaction: admitted by the next staging.
    let ids: Vec<JobId> = fixture
        .queue
        .enqueue_in(&mut transaction, &members)
        .await
        .unwrap()
        .into_iter()
        .map(|one| one.id)
        .collect();
    fixture.queue.seal_batch(&mut transaction, batch).await.unwrap();
    transaction.commit().await.unwrap();
    let ended = Arc::new(Mutex::new(Vec::new()));
    let under_way = Arc::new(std::sync::atomic::AtomicI32::new(0));
    let worker = fixture.worker(WorkerConfig { concurrency: 8, ..config() }, {
        let (ended, under_way) = (ended.clone(), under_way.clone());
        move |job| {
            let (ended, under_way) = (ended.clone(), under_way.clone());
            async move {
                let now = under_way.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1;
                assert!(now <= 2, "{now} at once");
                tokio::task::yield_now().await;
                ended.lock().unwrap().push(job.id);
                under_way.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                Ok(())
            }
        }
    });
    let view = wait_for("the batch's completion job to end", PATIENCE, async || {
        fixture.queue.stage().await.unwrap();
        let view = fixture.queue.batch(batch).await.unwrap().unwrap();
        let completion = view.completion_job_id?;
        (fixture.state(completion).await == JobState::Completed).then_some(view)
    })
    .await;
    worker.stop().await;
    assert_eq!((view.completed, view.pending), (12, 0));
    let ended = ended.lock().unwrap().clone();
    assert_in_order(&ids, &ended);
}

#[tokio::test]
async fn many_admissions_of_the_same_keys_at_once_give_one_turn() {
    let fixture = Fixture::new().await;
    fixture.queue.set_limit(&at_once("one", 1)).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for at in 0..8 {
        let queue = fixture.queue.clone();
        tasks.spawn(async move {
            for _ in 0..5 {
                queue.enqueue(in_line("a")).await.unwrap();
                queue.enqueue(job().limit_key("one").priority(at)).await.unwrap();
                queue.stage().await.unwrap();
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.job WHERE in_turn").await, 1);
    assert_eq!(
        fixture
            .count(
                "SELECT count(*) FROM relevo.job WHERE limit_key = 'one' AND state = 'available'"
            )
            .await,
        1
    );
    let worker = fixture.worker(config(), |_| async { Ok(()) });
    fixture.settles().await;
    worker.stop().await;
}
