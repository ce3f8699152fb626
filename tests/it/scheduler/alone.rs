//! Three schedulers, and a leader that is killed or frozen again and again.

use std::time::Duration;

use relevo_tests::{Process, TestDatabase, free_port, wait_for};

use super::{
    LONG, assert_neither_missed_nor_doubled, count, fast_schedules, fires, leader, scheduler,
    wait_leader,
};

/// Slots to be fired in all.
const SLOTS: i64 = 1_000;
/// Schedules that are due every second.
const SCHEDULES: usize = 20;

/// What happens to a leader.
#[derive(Clone, Copy, Debug)]
enum Blow {
    /// SIGKILL; another process takes its place among the three.
    Killed,
    /// SIGSTOP until another leads and has fired, then SIGCONT.
    Frozen,
}

#[tokio::test]
async fn a_thousand_slots_are_neither_missed_nor_doubled_though_leaders_die_and_freeze() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    fast_schedules(pool, SCHEDULES).await;
    let start = || scheduler(&database, 3, free_port());
    let mut processes: Vec<Process> = (0..3).map(|_| start()).collect();
    let mut blows = Vec::new();
    let mut leading = wait_leader(pool, LONG, 0).await;
    while fires(pool).await < SLOTS || blows.len() < 4 {
        // Each kind at least twice, then as chance will have it; at a moment of chance, too.
        let blow = match blows.len() {
            0 | 2 => Blow::Killed,
            1 | 3 => Blow::Frozen,
            _ if rand::random() => Blow::Killed,
            _ => Blow::Frozen,
        };
        let goal = fires(pool).await + i64::from(rand::random::<u8>()) / 2;
        let moment = Duration::from_millis(u64::from(rand::random::<u8>()) * 2);
        wait_for("slots to be settled", LONG, async || (fires(pool).await > goal).then_some(()))
            .await;
        tokio::time::sleep(moment).await;
        // Whoever leads at this moment, unless it is between two terms.
        if let Some(now) = leader(pool).await {
            leading = now;
        }
        let struck = processes.iter().position(|process| process.id() == leading).unwrap();
        match blow {
            Blow::Killed => {
                processes.remove(struck).kill();
                processes.push(start());
                leading = wait_leader(pool, LONG, leading).await;
            }
            Blow::Frozen => {
                processes[struck].stop();
                let next = wait_leader(pool, LONG, leading).await;
                let had = fires(pool).await;
                wait_for("the new leader's slots", LONG, async || {
                    (fires(pool).await > had).then_some(())
                })
                .await;
                processes[struck].resume();
                leading = next;
            }
        }
        blows.push(blow);
    }
    let had = fires(pool).await;
    wait_for("the last leader to go on", LONG, async || {
        (fires(pool).await > had + 20).then_some(())
    })
    .await;
    for process in &processes {
        process.terminate();
        assert!(process.wait_exit(LONG).await.success(), "{blows:?}: {}", process.output());
    }
    assert_neither_missed_nor_doubled(pool, SCHEDULES).await;
    let terms = count(pool, "SELECT count(DISTINCT term) FROM relevo.schedule_fire").await;
    assert!(terms > i64::try_from(blows.len()).unwrap(), "{terms} terms after {blows:?}");
}
