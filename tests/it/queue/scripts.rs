//! Any mix of jobs, whatever each does at each attempt, ends where its script says, in exactly one
//! place, and every batch's books balance.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use proptest::prelude::*;
use relevo_queue::{
    BatchId, FailedMemberPolicy, Job, JobError, JobId, JobState, NewJob, WorkerConfig,
};
use serde::{Deserialize, Serialize};

use super::support::{Fixture, KIND, config};

/// What a job does at one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Step {
    Succeed,
    SucceedInTx,
    Retry,
    Snooze,
    GiveBack,
    Panic,
    Fail,
    Cancel,
}

#[derive(Debug, Clone)]
struct Script {
    /// One per run; after the last the job succeeds.
    steps: Vec<Step>,
    max_attempts: i32,
    batch: Option<usize>,
    priority: i16,
}

impl Script {
    /// Where it must end, after how many attempts and claims.
    fn end(&self) -> (JobState, i32, i64) {
        let (mut attempt, mut claims) = (0, 0);
        for step in self.steps.iter().chain(std::iter::once(&Step::Succeed)) {
            claims += 1;
            attempt += 1;
            match step {
                Step::Succeed | Step::SucceedInTx => {
                    return (JobState::Completed, attempt, claims);
                }
                Step::Fail => return (JobState::Dead, attempt, claims),
                Step::Cancel => return (JobState::Cancelled, attempt, claims),
                Step::Snooze | Step::GiveBack => attempt -= 1,
                Step::Retry | Step::Panic if attempt >= self.max_attempts => {
                    return (JobState::Dead, attempt, claims);
                }
                Step::Retry | Step::Panic => {}
            }
        }
        unreachable!("the last step succeeds")
    }
}

fn script() -> impl Strategy<Value = Script> {
    let step = prop_oneof![
        3 => Just(Step::Succeed),
        2 => Just(Step::SucceedInTx),
        3 => Just(Step::Retry),
        2 => Just(Step::Snooze),
        1 => Just(Step::Panic),
        1 => Just(Step::Fail),
        1 => Just(Step::Cancel),
    ];
    (proptest::collection::vec(step, 0..5), 1..4_i32, proptest::option::of(0..3_usize), -1..2_i16)
        .prop_map(|(steps, max_attempts, batch, priority)| Script {
            steps,
            max_attempts,
            batch,
            priority,
        })
}

async fn play(job: Job, pool: sqlx::PgPool) -> Result<(), JobError> {
    let steps: Vec<Step> = serde_json::from_str(job.payload.get())?;
    // Every run is one claim, so the epoch says which it is.
    let run = usize::try_from(job.epoch)? - 1;
    match steps.get(run).copied().unwrap_or(Step::Succeed) {
        Step::Succeed => Ok(()),
        Step::SucceedInTx => {
            let mut transaction = pool.begin().await?;
            job.fence(&mut transaction).await?;
            job.complete_in(&mut transaction).await?;
            transaction.commit().await?;
            Ok(())
        }
        Step::Retry => Err(JobError::retry("as told")),
        Step::Snooze => Err(JobError::snooze(Duration::ZERO)),
        Step::GiveBack => Err(JobError::give_back()),
        Step::Panic => panic!("as told"),
        Step::Fail => Err(JobError::fail("as told")),
        Step::Cancel => Err(JobError::cancel("as told")),
    }
}

async fn run(scripts: &[Script], policy: FailedMemberPolicy) {
    let fixture = Fixture::new().await;
    let pool = fixture.database.pool().clone();
    let mut batches = Vec::new();
    let mut transaction = pool.begin().await.unwrap();
    for _ in 0..3 {
        let completion = NewJob::new("completion", &1).unwrap();
        batches.push(fixture.queue.open_batch(&mut transaction, completion, policy).await.unwrap());
    }
    transaction.commit().await.unwrap();
    let workers: Vec<_> = (0..2)
        .map(|_| {
            let pool = pool.clone();
            let config = WorkerConfig { concurrency: 4, ..config() };
            fixture.worker(config, move |job| play(job, pool.clone()))
        })
        .collect();
    let jobs: Vec<NewJob> = scripts
        .iter()
        .map(|script| {
            let job = NewJob::new(KIND, &script.steps)
                .unwrap()
                .max_attempts(script.max_attempts)
                .priority(script.priority);
            match script.batch {
                Some(batch) => job.batch_id(batches[batch]),
                None => job,
            }
        })
        .collect();
    let enqueued = fixture.queue.enqueue_many(&jobs).await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    for batch in &batches {
        fixture.queue.seal_batch(&mut transaction, *batch).await.unwrap();
    }
    transaction.commit().await.unwrap();

    let mut expected: BTreeMap<BatchId, (i64, i64, i64)> = BTreeMap::new();
    for (script, enqueued) in scripts.iter().zip(&enqueued) {
        let (state, attempt, claims) = script.end();
        let view = fixture.reaches(enqueued.id, state).await;
        assert_eq!((view.attempt, view.lease_epoch), (attempt, claims), "{script:?}");
        if let Some(batch) = script.batch {
            let counts = expected.entry(batches[batch]).or_default();
            match state {
                JobState::Completed => counts.0 += 1,
                JobState::Cancelled => counts.1 += 1,
                _ => counts.2 += 1,
            }
        }
    }
    for worker in workers {
        assert_eq!(worker.counts.lost(), 0);
        worker.stop().await;
    }
    for batch in &batches {
        let view = fixture.queue.batch(*batch).await.unwrap().unwrap();
        let counts = expected.get(batch).copied().unwrap_or_default();
        assert_eq!((view.completed, view.cancelled, view.dead), counts);
        let blocks = policy == FailedMemberPolicy::Wait && counts.2 > 0;
        assert_eq!(view.completion_job_id.is_some(), !blocks);
        assert_eq!(view.pending, if blocks { counts.2 } else { 0 });
    }
    // Every id is in exactly one place.
    let places: Vec<(JobId, i64)> = sqlx::query_as(
        "SELECT id, count(*) FROM (SELECT id FROM relevo.job UNION ALL
             SELECT id FROM relevo.job_history UNION ALL SELECT id FROM relevo.dead_letter) AS p
         GROUP BY id HAVING count(*) <> 1",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(places.is_empty(), "{places:?}");
}

fn runtime() -> &'static tokio::runtime::Runtime {
    static RUNTIME: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    RUNTIME.get_or_init(|| tokio::runtime::Runtime::new().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 20, ..ProptestConfig::default() })]
    #[test]
    fn every_script_ends_where_it_says(
        scripts in proptest::collection::vec(script(), 1..40),
        waits in any::<bool>(),
    ) {
        let policy = if waits { FailedMemberPolicy::Wait } else { FailedMemberPolicy::Complete };
        runtime().block_on(run(&scripts, policy));
    }
}

#[test]
fn a_give_back_without_a_drain_is_a_snooze() {
    let script = Script {
        steps: vec![Step::GiveBack, Step::SucceedInTx],
        max_attempts: 1,
        batch: Some(0),
        priority: 0,
    };
    runtime().block_on(run(&[script], FailedMemberPolicy::Complete));
}
