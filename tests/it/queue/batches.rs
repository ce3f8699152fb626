//! Batches: the completion job comes once, when it should, whatever happens to the members.

use std::time::Duration;

use relevo_queue::{
    BatchId, BatchState, BatchView, FailedMemberPolicy, JobError, JobFilter, JobId, JobState,
    NewJob, QueueError, RetryOutcome, WorkerConfig,
};
use relevo_tests::wait_for;

use super::support::{Fixture, KIND, PATIENCE, config, job};

const COMPLETION: &str = "completion";

impl Fixture {
    async fn open_batch(&self, policy: FailedMemberPolicy) -> BatchId {
        let mut transaction = self.database.pool().begin().await.unwrap();
        let completion = NewJob::new(COMPLETION, &serde_json::json!(null)).unwrap().run_id(7);
        let batch = self.queue.open_batch(&mut transaction, completion, policy).await.unwrap();
        transaction.commit().await.unwrap();
        batch
    }

    async fn seal(&self, batch: BatchId) {
        let mut transaction = self.database.pool().begin().await.unwrap();
        self.queue.seal_batch(&mut transaction, batch).await.unwrap();
        transaction.commit().await.unwrap();
    }

    async fn batch(&self, batch: BatchId) -> BatchView {
        self.queue.batch(batch).await.unwrap().unwrap()
    }

    async fn member(&self, batch: BatchId, payload: &str) -> JobId {
        let job = NewJob::new(KIND, payload).unwrap().batch_id(batch).max_attempts(1);
        self.queue.enqueue(job).await.unwrap().id
    }

    async fn completions(&self) -> usize {
        let filter = JobFilter {
            kinds: vec![COMPLETION.to_owned()],
            limit: Some(1000),
            ..JobFilter::default()
        };
        self.queue.jobs(&filter).await.unwrap().len()
    }
}

/// Does what the payload says.
async fn obey(job: relevo_queue::Job) -> Result<(), JobError> {
    match job.payload.get() {
        "\"fail\"" => Err(JobError::fail("as told")),
        "\"cancel\"" => Err(JobError::cancel("as told")),
        _ => Ok(()),
    }
}

#[tokio::test]
async fn it_completes_when_sealed_and_nothing_is_pending() {
    let fixture = Fixture::new().await;
    let batch = fixture.open_batch(FailedMemberPolicy::Complete).await;
    let member = fixture.member(batch, "ok").await;
    let worker = fixture.worker(config(), obey);
    fixture.reaches(member, JobState::Completed).await;
    let view = fixture.batch(batch).await;
    assert_eq!((view.state, view.total, view.pending), (BatchState::Open, 1, 0));
    assert_eq!(fixture.completions().await, 0, "it is still open");
    fixture.seal(batch).await;
    fixture.seal(batch).await;
    let view = fixture.batch(batch).await;
    assert_eq!((view.state, view.completed), (BatchState::Completed, 1));
    assert_eq!(fixture.completions().await, 1);
    let completion = fixture.view(view.completion_job_id.unwrap()).await;
    assert_eq!((completion.kind.as_str(), completion.payload.get()), (COMPLETION, "null"));
    assert_eq!((completion.state, completion.run_id), (JobState::Available, Some(7)));
    worker.stop().await;
}

#[tokio::test]
async fn a_sealed_batch_takes_no_members_and_an_unknown_one_is_named() {
    let fixture = Fixture::new().await;
    let batch = fixture.open_batch(FailedMemberPolicy::Complete).await;
    let keyed = || job().batch_id(batch).idempotency_key("member", Duration::from_secs(60));
    fixture.queue.enqueue(keyed()).await.unwrap();
    fixture.seal(batch).await;
    let refused = fixture.queue.enqueue(job().batch_id(batch)).await;
    assert!(matches!(refused, Err(QueueError::BatchSealed(id)) if id == batch), "{refused:?}");
    assert!(fixture.queue.enqueue(keyed()).await.unwrap().duplicate, "a repeat is no new member");
    let refused = fixture.queue.enqueue(job().batch_id(BatchId(99))).await;
    assert!(matches!(refused, Err(QueueError::BatchNotFound(BatchId(99)))), "{refused:?}");
    assert_eq!(fixture.unfinished().await, 1);
    assert_eq!(fixture.batch(batch).await.total, 1);
}

#[tokio::test]
async fn policy_complete_goes_on_without_the_dead() {
    let fixture = Fixture::new().await;
    let batch = fixture.open_batch(FailedMemberPolicy::Complete).await;
    for payload in ["ok", "cancel", "ok"] {
        fixture.member(batch, payload).await;
    }
    let dead = fixture.member(batch, "fail").await;
    fixture.seal(batch).await;
    let worker = fixture.worker(config(), obey);
    let view = completed(&fixture, batch).await;
    assert_eq!((view.completed, view.cancelled, view.dead, view.pending), (2, 1, 1, 0));
    // Retried after the end it works on its own, and the batch does not complete again.
    assert_eq!(fixture.queue.retry(dead).await.unwrap(), RetryOutcome::Retried);
    let dead = fixture.reaches(dead, JobState::Dead).await;
    assert_eq!(dead.batch_id, None);
    assert_eq!(fixture.batch(batch).await.dead, 0);
    assert_eq!(fixture.completions().await, 1);
    worker.stop().await;
}

#[tokio::test]
async fn policy_wait_waits_until_the_dead_are_retried_or_discarded() {
    let fixture = Fixture::new().await;
    let batch = fixture.open_batch(FailedMemberPolicy::Wait).await;
    let first = fixture.member(batch, "fail").await;
    let second = fixture.member(batch, "fail").await;
    fixture.seal(batch).await;
    let worker = fixture.worker(config(), obey);
    fixture.reaches(first, JobState::Dead).await;
    fixture.reaches(second, JobState::Dead).await;
    let view = fixture.batch(batch).await;
    assert_eq!((view.state, view.pending, view.dead), (BatchState::Sealed, 2, 2));

    fixture.queue.retry(first).await.unwrap();
    let again = fixture.reaches(first, JobState::Dead).await;
    assert_eq!(again.batch_id, Some(batch));
    assert!(fixture.queue.discard_dead(first).await.unwrap());
    assert!(!fixture.queue.discard_dead(first).await.unwrap());
    assert_eq!(fixture.state(first).await, JobState::Cancelled);
    assert_eq!(fixture.batch(batch).await.pending, 1);
    assert!(fixture.queue.discard_dead(second).await.unwrap());
    let view = completed(&fixture, batch).await;
    assert_eq!((view.dead, view.cancelled, view.pending), (0, 2, 0));
    assert_eq!(fixture.completions().await, 1);
    worker.stop().await;
}

#[tokio::test]
async fn under_policy_complete_a_dead_member_may_come_back_before_the_end() {
    let fixture = Fixture::new().await;
    let batch = fixture.open_batch(FailedMemberPolicy::Complete).await;
    let dead = fixture.member(batch, "fail").await;
    let worker = fixture.worker(config(), obey);
    fixture.reaches(dead, JobState::Dead).await;
    worker.stop().await;
    assert_eq!(fixture.batch(batch).await.pending, 0);
    fixture.queue.retry(dead).await.unwrap();
    let view = fixture.batch(batch).await;
    assert_eq!((view.pending, view.dead), (1, 0));
    fixture.seal(batch).await;
    assert_eq!(fixture.batch(batch).await.state, BatchState::Sealed);
    fixture.queue.cancel(dead, "enough").await.unwrap();
    assert_eq!(completed(&fixture, batch).await.cancelled, 1);
}

#[tokio::test]
async fn many_batches_complete_once_each_under_concurrent_finishes() {
    const BATCHES: usize = 30;
    const MEMBERS: usize = 40;
    let fixture = Fixture::new().await;
    let mut batches = Vec::new();
    for _ in 0..BATCHES {
        batches.push(fixture.open_batch(FailedMemberPolicy::Complete).await);
    }
    let workers: Vec<_> = (0..4)
        .map(|_| fixture.worker(WorkerConfig { concurrency: 16, ..config() }, obey))
        .collect();
    // Members of all batches are interleaved, so that every finish meets many batches, while other
    // tasks still enqueue into them.
    let mut tasks = tokio::task::JoinSet::new();
    for part in 0..4 {
        let (queue, batches) = (fixture.queue.clone(), batches.clone());
        tasks.spawn(async move {
            for n in 0..MEMBERS / 4 {
                let jobs: Vec<NewJob> = batches
                    .iter()
                    .map(|batch| {
                        let payload = if (n + part) % 10 == 9 { "cancel" } else { "ok" };
                        NewJob::new(KIND, payload).unwrap().batch_id(*batch)
                    })
                    .collect();
                queue.enqueue_many(&jobs).await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    for batch in &batches {
        fixture.seal(*batch).await;
    }
    for batch in &batches {
        let view = completed(&fixture, *batch).await;
        assert_eq!(usize::try_from(view.completed + view.cancelled).unwrap(), MEMBERS);
    }
    assert_eq!(fixture.completions().await, BATCHES);
    for worker in workers {
        assert_eq!(worker.counts.lost(), 0);
        worker.stop().await;
    }
}

async fn completed(fixture: &Fixture, batch: BatchId) -> BatchView {
    wait_for("the batch to complete", PATIENCE, async || {
        let view = fixture.batch(batch).await;
        (view.state == BatchState::Completed).then_some(view)
    })
    .await
}
