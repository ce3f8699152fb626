//! Staging and pruning, the history's partitions.

use std::time::Duration;

use relevo_queue::{FailedMemberPolicy, JobError, JobState, Progress, Retention};

use super::support::{Fixture, config, job};

const DAY: Duration = Duration::from_secs(24 * 3600);
const KEEP: Retention =
    Retention { history: Duration::from_secs(7 * 24 * 3600), dead_letters: None };

#[tokio::test]
async fn staging_moves_what_is_due_in_bulk_and_nothing_else() {
    let fixture = Fixture::new().await;
    let mut jobs = vec![job().delay(Duration::from_secs(60)); 6_000];
    jobs.extend(vec![job().delay(Duration::from_secs(3600)); 10]);
    fixture.queue.enqueue_many(&jobs).await.unwrap();
    assert_eq!(fixture.queue.stage().await.unwrap(), 0, "nothing is due");
    // A minute and a half later, as the rows see it.
    fixture.execute("UPDATE relevo.job SET run_at = run_at - interval '90 s'").await;
    assert_eq!(fixture.queue.stage().await.unwrap(), 6_000);
    assert_eq!(fixture.queue.stage().await.unwrap(), 0);
    let stats = fixture.queue.stats().await.unwrap();
    assert_eq!((stats[0].available, stats[0].scheduled), (6_000, 10));
}

#[tokio::test]
async fn partitions_are_made_ahead_and_dropped_when_over() {
    let fixture = Fixture::new().await;
    let partitions = async || {
        fixture
            .count(
                "SELECT count(*) FROM pg_inherits WHERE inhparent = 'relevo.job_history'::regclass",
            )
            .await
    };
    // The default one, today and three days: what the migration makes.
    assert_eq!(partitions().await, 5);
    fixture.queue.prune(KEEP).await.unwrap();
    assert_eq!(partitions().await, 9);
    assert_eq!(fixture.queue.prune(KEEP).await.unwrap(), 0, "once is enough");

    // As if upkeep had not run for a month: history of three days without partitions of their own.
    fixture
        .execute(
            "INSERT INTO relevo.job_history
                 (id, lease_epoch, run_at, created_at, finished_at, state, attempt, max_attempts,
                  priority, deaths, max_deaths, payload_version, queue, kind, payload)
             SELECT n, 1, now(), now(), now() - n * interval '1 day', 'completed', 1, 1, 0, 0, 1, 1,
                    'q', 'k', '{}'
             FROM unnest(ARRAY[3, 5, 30]) AS n",
        )
        .await;
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.job_history_default").await, 3);
    assert_eq!(fixture.queue.prune(KEEP).await.unwrap(), 1, "the one of a month ago");
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.job_history_default").await, 0);
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.job_history").await, 2);
    assert_eq!(partitions().await, 11, "the other two have their days");

    let keep = Retention { history: 4 * DAY, ..KEEP };
    assert_eq!(fixture.queue.prune(keep).await.unwrap(), 1, "the partition of five days ago");
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.job_history").await, 1);
    assert_eq!(partitions().await, 10);
}

#[tokio::test]
async fn a_reader_of_the_history_delays_pruning_and_not_finishing() {
    let fixture = Fixture::new().await;
    fixture.queue.prune(KEEP).await.unwrap();
    fixture
        .execute(
            "CREATE TABLE relevo.job_history_20200101 PARTITION OF relevo.job_history
                  FOR VALUES FROM ('2020-01-01 00:00:00+00') TO ('2020-01-02 00:00:00+00')",
        )
        .await;
    let mut reader = fixture.database.pool().begin().await.unwrap();
    sqlx::query("SELECT count(*) FROM relevo.job_history").execute(&mut *reader).await.unwrap();
    assert_eq!(fixture.queue.prune(KEEP).await.unwrap(), 0);
    let worker = fixture.worker(config(), |_| async { Ok(()) });
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    fixture.reaches(id, JobState::Completed).await;
    reader.rollback().await.unwrap();
    assert_eq!(fixture.queue.prune(KEEP).await.unwrap(), 1);
    worker.stop().await;
}

#[tokio::test]
async fn what_has_ended_long_ago_goes_and_what_is_alive_stays() {
    let fixture = Fixture::new().await;
    let worker = fixture.worker(config(), |job| async move {
        job.progress(&Progress { done: 1, ..Progress::default() }).await?;
        if job.max_attempts == 1 { Err(JobError::fail("dead")) } else { Ok(()) }
    });
    let keyed = job().idempotency_key("key", DAY);
    let completed = fixture.queue.enqueue(keyed.clone()).await.unwrap().id;
    let dead = fixture.queue.enqueue(job().max_attempts(1)).await.unwrap().id;
    fixture.reaches(completed, JobState::Completed).await;
    fixture.reaches(dead, JobState::Dead).await;
    worker.stop().await;
    let mut transaction = fixture.database.pool().begin().await.unwrap();
    for _ in 0..2 {
        let batch = fixture
            .queue
            .open_batch(&mut transaction, job(), FailedMemberPolicy::Wait)
            .await
            .unwrap();
        fixture.queue.enqueue_in(&mut transaction, &[job().batch_id(batch)]).await.unwrap();
    }
    transaction.commit().await.unwrap();
    fixture.queue.prune(KEEP).await.unwrap();
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.batch").await, 2);

    fixture.execute("UPDATE relevo.batch SET created_at = now() - interval '30 days'").await;
    fixture
        .execute("DELETE FROM relevo.job WHERE batch_id = (SELECT min(id) FROM relevo.batch)")
        .await;
    fixture.execute("UPDATE relevo.job_progress SET updated_at = now() - interval '30 days'").await;
    fixture.execute("UPDATE relevo.idempotency_key SET expires_at = now()").await;
    fixture.execute("UPDATE relevo.dead_letter SET died_at = now() - interval '30 days'").await;
    fixture.queue.prune(KEEP).await.unwrap();
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.batch").await, 1, "one has a member");
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.idempotency_key").await, 0);
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.job_progress").await, 1, "of the dead");
    assert_eq!(fixture.state(dead).await, JobState::Dead, "dead letters wait for a person");

    let keep = Retention { dead_letters: Some(7 * DAY), ..KEEP };
    assert_eq!(fixture.queue.prune(keep).await.unwrap(), 1);
    assert_eq!(fixture.state(dead).await, JobState::Cancelled);
}

#[tokio::test]
async fn a_running_job_without_a_session_is_rescued() {
    let fixture = Fixture::new().await;
    let id = fixture.queue.enqueue(job()).await.unwrap().id;
    let unwanted = fixture.queue.enqueue(job()).await.unwrap().id;
    fixture
        .execute(
            "UPDATE relevo.job SET state = 'running', session_id = 999, claim_no = 1, attempt = 1,
                    lease_epoch = 1, claimed_at = now() - interval '2 minutes'",
        )
        .await;
    fixture.queue.cancel(unwanted, "by hand").await.unwrap();
    assert_eq!(fixture.queue.rescue().await.unwrap(), relevo_queue::Rescued::default());
    fixture.queue.prune(KEEP).await.unwrap();
    let mut connection = fixture.database.pool().acquire().await.unwrap();
    assert!(fixture.queue.upkeep_due_on(&mut connection).await.unwrap().rescue);
    let rescued = fixture.queue.rescue().await.unwrap();
    assert_eq!((rescued.jobs, rescued.cancelled), (1, 1));
    let view = fixture.view(id).await;
    assert_eq!((view.state, view.attempt, view.lease_epoch), (JobState::Available, 0, 1));
    assert_eq!(view.deaths, 0, "nobody died under it");
    assert_eq!(fixture.state(unwanted).await, JobState::Cancelled);
    assert_eq!(fixture.count("SELECT count(*) FROM relevo.session").await, 0);
}
