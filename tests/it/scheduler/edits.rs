//! Schedules that are changed while a leader has read them.

use std::time::Duration;

use relevo_queue::Queue;
use relevo_runs::schedules::store::{remove_in, set_active_in};
use relevo_runs::schedules::{Edited, Jitter, MissedRuns};
use relevo_scheduler::fire::{self, FireError, Fired};
use relevo_scheduler::schedule::{self, Origin, Stored};
use relevo_scheduler::settle::Verdict;
use relevo_tests::{TestDatabase, free_port, wait_for};

use super::{LONG, count, fires, noop, put, scheduler, slot, stored, tenure, wait_leader};

#[tokio::test]
async fn once_changed_rested_or_removed_a_schedule_does_not_fire_as_it_was() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    let queue = Queue::new(pool.clone());
    let mut wanted = noop("nightly", "0 2 * * *", MissedRuns::Once);
    put(pool, &wanted, Origin::Operator).await;
    let leader = tenure(pool, LONG).await;
    let mut conn = pool.acquire().await.unwrap();
    let settle = async |read: &schedule::Schedule| {
        let at = slot("2030-01-01T02:00:00Z");
        fire::settle_slot(pool, &queue, &leader, read, at, &Verdict::Start).await
    };

    let read = stored(pool, "nightly").await;
    let same = schedule::put_in(&mut conn, &wanted, Origin::Operator, "test").await.unwrap();
    assert_eq!(same, Stored::Unchanged);
    wanted.jitter = Jitter::of("nightly", 60);
    let changed = schedule::put_in(&mut conn, &wanted, Origin::Operator, "test").await.unwrap();
    assert_eq!(changed, Stored::Changed);
    assert!(matches!(settle(&read).await, Err(FireError::Changed)));

    let read = stored(pool, "nightly").await;
    let rested = set_active_in(&mut conn, "nightly", false, "test").await.unwrap();
    assert_eq!(rested, Edited::Done);
    assert!(matches!(settle(&read).await, Err(FireError::Changed)));
    assert_eq!(
        set_active_in(&mut conn, "nightly", false, "test").await.unwrap(),
        Edited::Unchanged
    );

    let before = read.settled_to;
    set_active_in(&mut conn, "nightly", true, "test").await.unwrap();
    let read = stored(pool, "nightly").await;
    assert!(read.settled_to > before, "what passed while it rested does not fire");
    assert_eq!(remove_in(&mut conn, "nightly").await.unwrap(), Edited::Done);
    assert!(matches!(settle(&read).await, Err(FireError::Changed)));
    assert_eq!(remove_in(&mut conn, "nightly").await.unwrap(), Edited::NotFound);
    assert_eq!(count(pool, "SELECT count(*) FROM relevo.job").await, 0);

    put(pool, &wanted, Origin::Configuration).await;
    let read = stored(pool, "nightly").await;
    for refused in [
        set_active_in(&mut conn, "nightly", false, "test").await.unwrap(),
        remove_in(&mut conn, "nightly").await.unwrap(),
    ] {
        assert_eq!(refused, Edited::OfConfiguration);
    }
    assert!(matches!(settle(&read).await, Ok(Fired::Job(_))));
}

#[tokio::test]
async fn a_running_leader_takes_up_what_is_added_rested_and_removed() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    let process = scheduler(&database, 3, free_port());
    wait_leader(pool, LONG, 0).await;
    let mut wanted = noop("spread", "* * * * * *", MissedRuns::CatchUp);
    wanted.jitter = Jitter::of("spread", 2);
    put(pool, &wanted, Origin::Operator).await;
    wait_for("its slots", LONG, async || (fires(pool).await > 5).then_some(())).await;
    let early = "SELECT count(*) FROM relevo.schedule_fire WHERE fired_at < slot";
    assert_eq!(count(pool, early).await, 0);

    let mut conn = pool.acquire().await.unwrap();
    set_active_in(&mut conn, "spread", false, "test").await.unwrap();
    let had = fires(pool).await;
    // Long enough for a leader that had not noticed to fire again.
    let quiet = Duration::from_secs(3);
    let mut look = tokio::time::interval(Duration::from_millis(100));
    let started = std::time::Instant::now();
    while started.elapsed() < quiet {
        look.tick().await;
        assert_eq!(fires(pool).await, had, "it fired after it was disabled");
    }
    set_active_in(&mut conn, "spread", true, "test").await.unwrap();
    wait_for("its slots again", LONG, async || (fires(pool).await > had).then_some(())).await;
    remove_in(&mut conn, "spread").await.unwrap();
    assert_eq!(fires(pool).await, 0, "its history goes with it");
    process.terminate();
    assert!(process.wait_exit(LONG).await.success(), "{}", process.output());
}
