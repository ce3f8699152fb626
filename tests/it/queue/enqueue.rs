//! Enqueuing without keys.

use std::time::Duration;

use chrono::Utc;
use relevo_queue::{JobFilter, JobState, NewJob, QueueError};
use serde_json::value::RawValue;

use super::support::{Fixture, KIND, job};

#[tokio::test]
async fn what_is_enqueued_is_what_is_seen() {
    let fixture = Fixture::new().await;
    let new = NewJob::new("Kind", &serde_json::json!({"a": [1, "ñ"]}))
        .unwrap()
        .queue("q")
        .payload_version(3)
        .priority(-2)
        .max_attempts(7)
        .max_deaths(2)
        .run_id(41)
        .traceparent("00-trace");
    let id = fixture.queue.enqueue(new).await.unwrap().id;
    let view = fixture.view(id).await;
    assert_eq!((view.kind.as_str(), view.queue.as_str()), ("Kind", "q"));
    assert_eq!(view.payload.get(), r#"{"a": [1, "ñ"]}"#);
    assert_eq!((view.payload_version, view.priority), (3, -2));
    assert_eq!((view.attempt, view.max_attempts, view.max_deaths), (0, 7, 2));
    assert_eq!((view.run_id, view.traceparent.as_deref()), (Some(41), Some("00-trace")));
    assert_eq!((view.state, view.lease_epoch), (JobState::Available, 0));
}

#[tokio::test]
async fn many_are_answered_in_their_order() {
    let fixture = Fixture::new().await;
    // More than one statement's worth.
    let jobs: Vec<NewJob> = (0..12_345).map(|n| NewJob::new(KIND, &n).unwrap().run_id(n)).collect();
    let enqueued = fixture.queue.enqueue_many(&jobs).await.unwrap();
    assert_eq!(enqueued.len(), jobs.len());
    for at in [0, 1, 4_999, 5_000, 12_344] {
        let view = fixture.view(enqueued[at].id).await;
        assert_eq!(view.payload.get(), at.to_string());
        assert_eq!(view.run_id, Some(i64::try_from(at).unwrap()));
        assert!(!enqueued[at].duplicate);
    }
    assert_eq!(fixture.queue.enqueue_many(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn mixed_jobs_are_answered_in_their_order_too() {
    let fixture = Fixture::new().await;
    let jobs: Vec<NewJob> = (0..50)
        .map(|n| {
            let job = NewJob::new(KIND, &n).unwrap();
            match n % 4 {
                0 => job,
                1 => job.delay(Duration::from_secs(3600)),
                2 => job.unique(format!("key {}", 50 - n), relevo_queue::UniqueScope::Finished),
                _ => job.idempotency_key(format!("key {n}"), Duration::from_secs(60)),
            }
        })
        .collect();
    let enqueued = fixture.queue.enqueue_many(&jobs).await.unwrap();
    for (at, enqueued) in enqueued.iter().enumerate() {
        let view = fixture.view(enqueued.id).await;
        assert_eq!(view.payload.get(), at.to_string());
        let state = if at % 4 == 1 { JobState::Scheduled } else { JobState::Available };
        assert_eq!(view.state, state);
    }
}

#[tokio::test]
async fn a_transaction_decides_over_what_is_enqueued_in_it() {
    let fixture = Fixture::new().await;
    let mut transaction = fixture.database.pool().begin().await.unwrap();
    let kept = fixture.queue.enqueue_in(&mut transaction, &[job()]).await.unwrap();
    assert!(fixture.queue.job(kept[0].id).await.unwrap().is_none(), "not before the commit");
    transaction.commit().await.unwrap();
    assert_eq!(fixture.state(kept[0].id).await, JobState::Available);

    let mut transaction = fixture.database.pool().begin().await.unwrap();
    let undone = fixture.queue.enqueue_in(&mut transaction, &[job()]).await.unwrap();
    transaction.rollback().await.unwrap();
    assert!(fixture.queue.job(undone[0].id).await.unwrap().is_none());
}

#[tokio::test]
async fn delays_count_by_the_databases_clock() {
    let fixture = Fixture::new().await;
    let enqueue = async |job: NewJob| fixture.queue.enqueue(job).await.unwrap().id;
    let later = enqueue(job().delay(Duration::from_secs(60))).await;
    let at_once = enqueue(job().delay(Duration::ZERO)).await;
    let past = enqueue(job().run_at(Utc::now() - chrono::Duration::hours(1))).await;
    let future = enqueue(job().run_at(Utc::now() + chrono::Duration::hours(1))).await;
    assert_eq!(fixture.state(later).await, JobState::Scheduled);
    assert_eq!(fixture.state(at_once).await, JobState::Available);
    assert_eq!(fixture.state(past).await, JobState::Available);
    assert_eq!(fixture.state(future).await, JobState::Scheduled);
    let view = fixture.view(later).await;
    let delay = view.run_at - view.created_at;
    assert_eq!(delay.num_milliseconds(), 60_000);
}

#[tokio::test]
async fn a_bad_job_is_refused_with_a_reason_and_spoils_nothing() {
    let fixture = Fixture::new().await;
    let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
    let bad = [
        NewJob::from_raw(KIND, raw(r#""\u0000""#)),
        NewJob::from_raw(KIND, raw(r#""\ud800""#)),
        NewJob::from_raw(KIND, raw(&format!("{:?}", "x".repeat(1024 * 1024)))),
        job().queue(""),
        job().max_attempts(0),
    ];
    for bad in bad {
        let refused = fixture.queue.enqueue_many(&[job(), bad.clone()]).await;
        assert!(matches!(refused, Err(QueueError::InvalidJob(_))), "{refused:?}");
        let refused = fixture.queue.enqueue(bad).await;
        assert!(matches!(refused, Err(QueueError::InvalidJob(_))), "{refused:?}");
    }
    assert_eq!(fixture.unfinished().await, 0);
}

#[tokio::test]
async fn lists_are_filtered_and_paged_over_all_places() {
    let fixture = Fixture::new().await;
    let mut ids = Vec::new();
    for n in 0..10_i64 {
        let job = job().queue(if n % 2 == 0 { "even" } else { "odd" }).run_id(n / 5);
        ids.push(fixture.queue.enqueue(job).await.unwrap().id);
    }
    fixture.queue.cancel(ids[3], "not wanted").await.unwrap();
    let all = fixture.queue.jobs(&JobFilter::default()).await.unwrap();
    assert_eq!(all.iter().map(|view| view.id).collect::<Vec<_>>(), {
        ids.iter().rev().copied().collect::<Vec<_>>()
    });
    let page = JobFilter { before: Some(ids[5]), limit: Some(3), ..JobFilter::default() };
    let page = fixture.queue.jobs(&page).await.unwrap();
    assert_eq!(page.iter().map(|view| view.id).collect::<Vec<_>>(), [ids[4], ids[3], ids[2]]);
    assert_eq!(page[1].state, JobState::Cancelled);
    assert_eq!(page[1].cancel_reason.as_deref(), Some("not wanted"));

    let filter = JobFilter {
        queue: Some("odd".to_owned()),
        states: vec![JobState::Available, JobState::Dead],
        kinds: vec![KIND.to_owned(), "other".to_owned()],
        ..JobFilter::run(0)
    };
    let found = fixture.queue.jobs(&filter).await.unwrap();
    assert_eq!(found.iter().map(|view| view.id).collect::<Vec<_>>(), [ids[1]]);

    let stats = fixture.queue.stats().await.unwrap();
    assert_eq!(stats.len(), 2);
    assert_eq!((stats[0].queue.as_str(), stats[0].available), ("even", 5));
    assert_eq!((stats[1].queue.as_str(), stats[1].available), ("odd", 4));
    assert!(stats[0].oldest_available.is_some() && !stats[0].paused);
}
