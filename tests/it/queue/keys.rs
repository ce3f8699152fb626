//! Idempotency keys and unique keys, also under concurrency.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use rand::seq::SliceRandom as _;
use relevo_queue::{JobError, JobState, NewJob, RetryOutcome, UniqueScope};
use tokio_util::sync::CancellationToken;

use super::support::{Fixture, config, job};

const HOUR: Duration = Duration::from_secs(3600);

#[tokio::test]
async fn an_idempotency_key_outlives_its_job_and_expires() {
    let fixture = Fixture::new().await;
    let keyed = || job().idempotency_key("import/1", HOUR);
    let first = fixture.queue.enqueue(keyed()).await.unwrap();
    assert!(!first.duplicate);
    let again = fixture.queue.enqueue(keyed()).await.unwrap();
    assert_eq!((again.id, again.duplicate), (first.id, true));

    let worker = fixture.worker(config(), |_| async { Ok(()) });
    fixture.reaches(first.id, JobState::Completed).await;
    let after = fixture.queue.enqueue(keyed()).await.unwrap();
    assert_eq!((after.id, after.duplicate), (first.id, true), "the job in history is the answer");
    worker.stop().await;

    fixture.execute("UPDATE relevo.idempotency_key SET expires_at = now()").await;
    let anew = fixture.queue.enqueue(keyed()).await.unwrap();
    assert!(!anew.duplicate && anew.id != first.id);
}

#[tokio::test]
async fn the_second_with_a_key_never_fails_its_batch() {
    let fixture = Fixture::new().await;
    let unique = |key: &str| job().unique(key, UniqueScope::Finished);
    let keyed = |key: &str| job().idempotency_key(key, HOUR);
    let first = fixture
        .queue
        .enqueue_many(&[keyed("a"), unique("u"), job(), keyed("a"), unique("u")])
        .await
        .unwrap();
    assert_eq!(
        first.iter().map(|one| one.duplicate).collect::<Vec<_>>(),
        [false, false, false, true, true]
    );
    assert_eq!((first[3].id, first[4].id), (first[0].id, first[1].id));

    let second = fixture
        .queue
        .enqueue_many(&[
            unique("u"),
            keyed("b"),
            keyed("a"),
            unique("u").idempotency_key("c", HOUR),
        ])
        .await
        .unwrap();
    assert_eq!(
        second.iter().map(|one| one.duplicate).collect::<Vec<_>>(),
        [true, false, true, true]
    );
    assert_eq!((second[0].id, second[2].id, second[3].id), (first[1].id, first[0].id, first[1].id));
    // A key taken for a job that was not inserted names the job that was there.
    let third = fixture.queue.enqueue(keyed("c")).await.unwrap();
    assert_eq!((third.id, third.duplicate), (first[1].id, true));
    assert_eq!(fixture.unfinished().await, 4);
}

#[tokio::test]
async fn one_job_per_key_whoever_comes_at_once() {
    let fixture = Fixture::new().await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let queue = fixture.queue.clone();
        tasks.spawn(async move {
            // Every task meets the others in every key, in an order of its own.
            let mut jobs: Vec<(usize, NewJob)> = (0..40)
                .map(|n| {
                    let job = NewJob::new("test", &n).unwrap();
                    (
                        n,
                        match n % 3 {
                            0 => job.idempotency_key(format!("i{n}"), HOUR),
                            1 => job.unique(format!("u{n}"), UniqueScope::Finished),
                            _ => job
                                .idempotency_key(format!("i{n}"), HOUR)
                                .unique(format!("u{n}"), UniqueScope::Claimed),
                        },
                    )
                })
                .collect();
            jobs.shuffle(&mut rand::rng());
            let (numbers, jobs): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
            let enqueued = queue.enqueue_many(&jobs).await.unwrap();
            numbers.into_iter().zip(enqueued).collect::<Vec<_>>()
        });
    }
    let mut ids: HashMap<usize, BTreeSet<_>> = HashMap::new();
    let mut inserted = 0;
    for (number, enqueued) in tasks.join_all().await.into_iter().flatten() {
        ids.entry(number).or_default().insert(enqueued.id);
        inserted += usize::from(!enqueued.duplicate);
    }
    assert_eq!(inserted, 40);
    assert!(ids.values().all(|ids| ids.len() == 1), "everybody got the same answer");
    assert_eq!(fixture.unfinished().await, 40);
}

#[tokio::test]
async fn a_unique_key_is_held_until_claimed_or_until_finished() {
    let fixture = Fixture::new().await;
    let until_claimed = || job().unique("c", UniqueScope::Claimed);
    let until_finished = || job().unique("f", UniqueScope::Finished);
    let claimed = fixture.queue.enqueue(until_claimed()).await.unwrap();
    let finished = fixture.queue.enqueue(until_finished()).await.unwrap();
    assert_eq!(fixture.queue.enqueue(until_claimed()).await.unwrap().id, claimed.id);

    let go = CancellationToken::new();
    let worker = fixture.worker(config(), {
        let go = go.clone();
        move |job| {
            let go = go.clone();
            async move {
                go.cancelled().await;
                // The first run of each fails, so that the key is also met in state retryable.
                if job.attempt == 1 { Err(JobError::retry("once more")) } else { Ok(()) }
            }
        }
    });
    fixture.reaches(claimed.id, JobState::Running).await;
    fixture.reaches(finished.id, JobState::Running).await;
    let next = fixture.queue.enqueue(until_claimed()).await.unwrap();
    assert!(!next.duplicate, "an event during the run makes the next run");
    assert!(fixture.queue.enqueue(until_finished()).await.unwrap().duplicate);
    go.cancel();
    fixture.settles().await;
    assert!(!fixture.queue.enqueue(until_finished()).await.unwrap().duplicate);
    worker.stop().await;
}

#[tokio::test]
async fn a_dead_letter_holds_no_key_and_takes_it_back_if_it_can() {
    let fixture = Fixture::new().await;
    let unique = || job().unique("k", UniqueScope::Finished);
    let dead = fixture.queue.enqueue(unique()).await.unwrap();
    let worker = fixture.worker(config(), |_| async { Err(JobError::fail("never")) });
    fixture.reaches(dead.id, JobState::Dead).await;
    worker.stop().await;

    let holder = fixture.queue.enqueue(unique()).await.unwrap();
    assert!(!holder.duplicate);
    assert_eq!(fixture.queue.retry(dead.id).await.unwrap(), RetryOutcome::UniqueKeyHeld(holder.id));
    assert_eq!(fixture.state(dead.id).await, JobState::Dead, "nothing moved");
    fixture.queue.cancel(holder.id, "makes room").await.unwrap();
    assert_eq!(fixture.queue.retry(dead.id).await.unwrap(), RetryOutcome::Retried);
    assert_eq!(fixture.queue.enqueue(unique()).await.unwrap().id, dead.id);
}
