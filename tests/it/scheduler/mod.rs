//! The scheduler: one leader, every slot once, whatever is killed.

mod alone;
mod edits;
mod file;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use relevo_queue::Queue;
use relevo_runs::backup::{self, StartOptions};
use relevo_runs::schedules::{self, Jitter};
use relevo_scheduler::fire::{self, FireError, Fired};
use relevo_scheduler::lease::Tenure;
use relevo_scheduler::schedule::{self, Action, NewSchedule, Origin, Schedule, Stored};
use relevo_scheduler::settle::{MissedRuns, Policy, Verdict};
use relevo_tests::{Process, TestDatabase, free_port, wait_for, watch_statements};
use serde_json::value::RawValue;
use sqlx::PgPool;

const LONG: Duration = Duration::from_secs(60);

fn noop(name: &str, cron: &str, missed: MissedRuns) -> NewSchedule {
    NewSchedule {
        name: name.to_owned(),
        rhythm: format!("cron {cron}").parse().unwrap(),
        zone: Tz::UTC,
        action: Action::Job {
            kind: "Noop".to_owned(),
            payload: RawValue::from_string("{}".to_owned()).unwrap(),
        },
        policy: Policy { missed, max_age: chrono::Duration::hours(6) },
        jitter: Jitter::NONE,
        enabled: true,
    }
}

async fn put(pool: &PgPool, schedule: &NewSchedule, origin: Origin) {
    let mut conn = pool.acquire().await.unwrap();
    let stored = schedule::put_in(&mut conn, schedule, origin, "test").await.unwrap();
    assert_eq!(stored, Stored::Created);
}

/// The schedule as a leader reads it.
async fn stored(pool: &PgPool, name: &str) -> Schedule {
    let active = schedule::active(pool).await.unwrap();
    let found = active.into_iter().map(Result::unwrap).find(|found| found.wanted.name == name);
    found.expect("it is stored and active")
}

async fn tenure(pool: &PgPool, ttl: Duration) -> Tenure {
    wait_for("the office", LONG, async || Tenure::begin(pool, "test", ttl).await.unwrap()).await
}

async fn count(pool: &PgPool, sql: &'static str) -> i64 {
    sqlx::query_scalar(sql).fetch_one(pool).await.unwrap()
}

fn slot(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

#[tokio::test]
async fn one_leads_and_terms_rise() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    let ttl = Duration::from_secs(2);
    let mut first = tenure(pool, ttl).await;
    assert!(Tenure::begin(pool, "other", ttl).await.unwrap().is_none());
    assert!(first.keep(pool).await.unwrap());
    first.give_up(pool).await.unwrap();
    assert!(!first.keep(pool).await.unwrap(), "what was given up cannot be kept");

    // Given up is free at once; left alone it is free when it has run out.
    let mut second = Tenure::begin(pool, "second", ttl).await.unwrap().expect("free at once");
    assert_eq!(second.term, first.term + 1);
    let third = tenure(pool, ttl).await;
    assert_eq!(third.term, second.term + 1);
    assert!(second.trusted_for().is_zero(), "distrusts itself before the database gives it away");
    assert!(!second.keep(pool).await.unwrap());
    second.give_up(pool).await.unwrap();
    assert!(
        Tenure::begin(pool, "fourth", ttl).await.unwrap().is_none(),
        "a former leader must not give up what is not its own"
    );
}

#[tokio::test]
async fn a_leader_that_stops_in_the_middle_blocks_nobody() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    let ttl = Duration::from_secs(1);
    let stopped = tenure(pool, ttl).await;
    let mut tx = pool.begin().await.unwrap();
    assert!(stopped.prove_in(&mut tx).await.unwrap());
    sqlx::query("UPDATE relevo.leader_lease SET holder = 'stale'").execute(&mut *tx).await.unwrap();
    // It does nothing any more. The database ends its transaction, and another leads.
    let next = tenure(pool, ttl).await;
    assert_eq!(next.term, stopped.term + 1);
    assert!(tx.commit().await.is_err(), "the stopped leader's transaction must be gone");
    let stale = count(pool, "SELECT count(*) FROM relevo.leader_lease WHERE holder = 'stale'");
    assert_eq!(stale.await, 0);
}

#[tokio::test]
async fn a_slot_is_settled_once_and_by_the_leader_only() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    let queue = Queue::new(pool.clone());
    let schedule = noop("nightly", "0 2 * * *", MissedRuns::Once);
    put(pool, &schedule, Origin::Operator).await;
    let schedule = stored(pool, "nightly").await;
    let former = tenure(pool, LONG).await;
    former.give_up(pool).await.unwrap();
    let leader = tenure(pool, LONG).await;
    let at = slot("2030-01-01T02:00:00Z");

    let refused = fire::settle_slot(pool, &queue, &former, &schedule, at, &Verdict::Start).await;
    assert!(matches!(refused, Err(FireError::TermOver)), "{refused:?}");
    assert_eq!(count(pool, "SELECT count(*) FROM relevo.schedule_fire").await, 0);
    assert_eq!(count(pool, "SELECT count(*) FROM relevo.job").await, 0);

    let settle = || fire::settle_slot(pool, &queue, &leader, &schedule, at, &Verdict::Start);
    let Fired::Job(job) = settle().await.unwrap() else { panic!("no job was enqueued") };
    assert_eq!(settle().await.unwrap(), Fired::SettledBefore);
    let jobs: Vec<i64> =
        sqlx::query_scalar("SELECT id FROM relevo.job").fetch_all(pool).await.unwrap();
    assert_eq!(jobs, [job]);
    let settled_to: DateTime<Utc> =
        sqlx::query_scalar("SELECT settled_to FROM relevo.schedule").fetch_one(pool).await.unwrap();
    assert_eq!(settled_to, at);
}

#[tokio::test]
async fn a_source_that_is_busy_skips_its_slot_with_the_reason() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    let queue = Queue::new(pool.clone());
    let schedule = NewSchedule {
        name: "backup/sicar".to_owned(),
        rhythm: "every 12h from 06:00".parse().unwrap(),
        action: Action::Backup { source: "sicar".to_owned() },
        ..noop("", "0 0 * * *", MissedRuns::Once)
    };
    put(pool, &schedule, Origin::Configuration).await;
    let schedule = stored(pool, &schedule.name).await;
    let leader = tenure(pool, LONG).await;
    let settle = async |at: &str, verdict: Verdict| {
        fire::settle_slot(pool, &queue, &leader, &schedule, slot(at), &verdict).await.unwrap()
    };

    let Fired::Run(run) = settle("2030-01-01T06:00:00Z", Verdict::Start).await else {
        panic!("no run was started")
    };
    let Fired::Skipped(reason) = settle("2030-01-01T18:00:00Z", Verdict::Start).await else {
        panic!("two runs of one source at once")
    };
    assert!(reason.contains(&format!("run {run}")), "{reason}");
    let missed = settle("2030-01-02T06:00:00Z", Verdict::Skip("missed: for the test")).await;
    assert_eq!(missed, Fired::Skipped("missed: for the test".to_owned()));

    assert_eq!(count(pool, "SELECT count(*) FROM relevo.run").await, 1);
    assert_eq!(count(pool, "SELECT count(*) FROM relevo.job WHERE run_id IS NOT NULL").await, 1);
    let skipped = "SELECT count(*) FROM relevo.schedule_fire WHERE outcome = 'skipped'";
    assert_eq!(count(pool, skipped).await, 2);

    // A run started by a person keeps the scheduler out in the same way.
    let mut tx = pool.begin().await.unwrap();
    let busy = backup::start_in(&mut tx, &queue, "sicar", &StartOptions::default(), "test").await;
    assert!(busy.is_err());
}

#[tokio::test]
async fn slots_of_the_past_do_not_fire_on_first_start_or_after_a_change() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    let settled_to = async || -> DateTime<Utc> {
        sqlx::query_scalar("SELECT settled_to FROM relevo.schedule").fetch_one(pool).await.unwrap()
    };
    let follow = async |wanted: &[NewSchedule]| {
        let mut conn = pool.acquire().await.unwrap();
        schedule::follow_configuration_in(&mut conn, wanted, "test").await.unwrap();
    };
    let before = Utc::now() - chrono::Duration::minutes(1);
    let mut wanted = noop("backup/sicar", "0 6 * * *", MissedRuns::Once);
    follow(std::slice::from_ref(&wanted)).await;
    assert!(settled_to().await > before, "begins now");

    // Away for a day; then only what doesn't touch its times has changed.
    sqlx::query("UPDATE relevo.schedule SET settled_to = settled_to - interval '1 day'")
        .execute(pool)
        .await
        .unwrap();
    wanted.policy.missed = MissedRuns::CatchUp;
    follow(std::slice::from_ref(&wanted)).await;
    assert!(settled_to().await < before, "what was missed is still to be settled");

    wanted.rhythm = "cron 30 6 * * *".parse().unwrap();
    follow(std::slice::from_ref(&wanted)).await;
    assert!(settled_to().await > before, "another rhythm begins now");

    follow(&[]).await;
    assert!(schedule::active(pool).await.unwrap().is_empty());
    assert_eq!(schedules::list(pool, None).await.unwrap().len(), 1, "it keeps its history");
    sqlx::query("UPDATE relevo.schedule SET settled_to = settled_to - interval '1 day'")
        .execute(pool)
        .await
        .unwrap();
    follow(std::slice::from_ref(&wanted)).await;
    assert!(settled_to().await > before, "coming back begins now");
}

#[tokio::test]
async fn the_configuration_leaves_an_operators_schedules_alone() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    put(pool, &noop("mine", "0 6 * * *", MissedRuns::Once), Origin::Operator).await;
    let mut conn = pool.acquire().await.unwrap();
    schedule::follow_configuration_in(&mut conn, &[], "test").await.unwrap();
    assert_eq!(schedule::active(pool).await.unwrap().len(), 1);
    let taken = noop("mine", "0 7 * * *", MissedRuns::Once);
    let stored = schedule::put_in(&mut conn, &taken, Origin::Configuration, "test").await.unwrap();
    assert_eq!(stored, Stored::NameTaken, "a name belongs to who had it first");
}

/// A running scheduler with a short lease.
fn scheduler(database: &TestDatabase, lease_seconds: u32, metrics_port: u16) -> Process {
    Process::builder("relevo")
        .args(["scheduler", "--listen"])
        .arg(format!("127.0.0.1:{metrics_port}"))
        .env("RELEVO_DATABASE_URL", database.url())
        .env("RELEVO_SCHEDULER_LEASE_SECONDS", lease_seconds.to_string())
        .env("RELEVO_SCHEDULER_MISSED_RUNS", "catch_up")
        .spawn()
}

/// The process id of who holds a lease that has not run out.
async fn leader(pool: &PgPool) -> Option<u32> {
    let holder: Option<String> = sqlx::query_scalar(
        "SELECT holder FROM relevo.leader_lease WHERE expires_at > clock_timestamp()",
    )
    .fetch_optional(pool)
    .await
    .unwrap()
    .flatten();
    holder?.rsplit(' ').next()?.parse().ok()
}

async fn wait_leader(pool: &PgPool, timeout: Duration, other_than: u32) -> u32 {
    let what = format!("a leader other than process {other_than}");
    wait_for(&what, timeout, async || leader(pool).await.filter(|pid| *pid != other_than)).await
}

async fn fires(pool: &PgPool) -> i64 {
    count(pool, "SELECT count(*) FROM relevo.schedule_fire").await
}

/// Every schedule's slots follow one another second by second, and each has exactly one job.
async fn assert_neither_missed_nor_doubled(pool: &PgPool, schedules: usize) {
    let rows: Vec<(String, DateTime<Utc>, Option<i64>)> =
        sqlx::query_as("SELECT schedule, slot, job_id FROM relevo.schedule_fire ORDER BY 1, 2")
            .fetch_all(pool)
            .await
            .unwrap();
    let mut by_schedule: BTreeMap<String, Vec<DateTime<Utc>>> = BTreeMap::new();
    let mut jobs = Vec::new();
    for (schedule, slot, job) in rows {
        by_schedule.entry(schedule).or_default().push(slot);
        jobs.push(job.expect("every slot started a job"));
    }
    assert_eq!(by_schedule.len(), schedules);
    for (schedule, slots) in &by_schedule {
        for pair in slots.windows(2) {
            let distance = pair[1] - pair[0];
            assert_eq!(distance, chrono::Duration::seconds(1), "{schedule} after {}", pair[0]);
        }
    }
    let fired = jobs.len();
    jobs.sort_unstable();
    jobs.dedup();
    assert_eq!(jobs.len(), fired, "a job stands for two slots");
    let enqueued = count(pool, "SELECT count(*) FROM relevo.job WHERE kind = 'Noop'").await;
    assert_eq!(enqueued, i64::try_from(fired).unwrap(), "jobs without a slot");
}

async fn fast_schedules(pool: &PgPool, schedules: usize) {
    for number in 0..schedules {
        let name = format!("pulse-{number:02}");
        put(pool, &noop(&name, "* * * * * *", MissedRuns::CatchUp), Origin::Operator).await;
    }
}

#[tokio::test]
async fn leaders_that_are_killed_neither_miss_nor_double_a_slot() {
    const SCHEDULES: usize = 12;
    const KILLS: usize = 4;
    let database = TestDatabase::new().await;
    let pool = database.pool();
    fast_schedules(pool, SCHEDULES).await;
    let mut processes =
        vec![scheduler(&database, 3, free_port()), scheduler(&database, 3, free_port())];
    let mut leading = wait_leader(pool, LONG, 0).await;
    for _ in 0..KILLS {
        let had = fires(pool).await;
        wait_for("slots to be settled", LONG, async || {
            (fires(pool).await > had + 30).then_some(())
        })
        .await;
        let killed = processes.iter().position(|process| process.id() == leading).unwrap();
        processes.remove(killed).kill();
        processes.push(scheduler(&database, 3, free_port()));
        leading = wait_leader(pool, LONG, leading).await;
    }
    let had = fires(pool).await;
    wait_for("the last leader to go on", LONG, async || {
        (fires(pool).await > had + 30).then_some(())
    })
    .await;
    for process in &processes {
        process.terminate();
    }
    for process in &processes {
        assert!(process.wait_exit(LONG).await.success(), "{}", process.output());
    }
    assert_neither_missed_nor_doubled(pool, SCHEDULES).await;
    let terms = count(pool, "SELECT count(DISTINCT term) FROM relevo.schedule_fire").await;
    assert!(terms > i64::try_from(KILLS).unwrap(), "only {terms} terms fired");
}

#[tokio::test]
async fn a_leader_frozen_past_its_lease_does_no_harm_when_it_wakes() {
    const SCHEDULES: usize = 6;
    let database = TestDatabase::new().await;
    let pool = database.pool();
    fast_schedules(pool, SCHEDULES).await;
    let processes = [scheduler(&database, 3, free_port()), scheduler(&database, 3, free_port())];
    let frozen_pid = wait_leader(pool, LONG, 0).await;
    wait_for("slots", LONG, async || (fires(pool).await > 6).then_some(())).await;
    let frozen = processes.iter().find(|process| process.id() == frozen_pid).unwrap();
    frozen.stop();
    let next = wait_leader(pool, LONG, frozen_pid).await;
    let had = fires(pool).await;
    frozen.resume();
    wait_for("the new leader's slots", LONG, async || (fires(pool).await > had + 20).then_some(()))
        .await;
    assert_eq!(leader(pool).await, Some(next), "the former leader must stand by");
    for process in &processes {
        process.terminate();
        assert!(process.wait_exit(LONG).await.success(), "{}", process.output());
    }
    assert_neither_missed_nor_doubled(pool, SCHEDULES).await;
}

#[tokio::test]
async fn a_scheduler_whose_connections_break_goes_on() {
    const SCHEDULES: usize = 6;
    let database = TestDatabase::new().await;
    let pool = database.pool();
    fast_schedules(pool, SCHEDULES).await;
    let process = scheduler(&database, 3, free_port());
    wait_leader(pool, LONG, 0).await;
    for _ in 0..5 {
        let had = fires(pool).await;
        let cut = sqlx::query(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
              WHERE datname = current_database() AND application_name = 'relevo-scheduler'",
        );
        cut.execute(pool).await.unwrap();
        wait_for("slots after the cut", LONG, async || {
            (fires(pool).await > had + 12).then_some(())
        })
        .await;
    }
    let fired = "SELECT count(DISTINCT schedule) FROM relevo.schedule_fire";
    wait_for("every schedule to have fired", LONG, async || {
        (count(pool, fired).await == i64::try_from(SCHEDULES).unwrap()).then_some(())
    })
    .await;
    process.terminate();
    assert!(process.wait_exit(LONG).await.success(), "{}", process.output());
    assert_neither_missed_nor_doubled(pool, SCHEDULES).await;
}

#[tokio::test]
async fn a_leader_that_is_told_to_stop_hands_over_before_its_lease_runs_out() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    let lease_seconds = 30;
    let ports = [free_port(), free_port()];
    let processes = [
        scheduler(&database, lease_seconds, ports[0]),
        scheduler(&database, lease_seconds, ports[1]),
    ];
    let first = wait_leader(pool, LONG, 0).await;
    let leading = processes.iter().position(|process| process.id() == first).unwrap();
    let standing_by = 1 - leading;
    let metrics = async |index: usize| -> String {
        let url = format!("http://127.0.0.1:{}/metrics", ports[index]);
        match reqwest::get(&url).await {
            Ok(answer) => answer.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    };
    wait_for("the leader's figures", LONG, async || {
        metrics(leading).await.contains("relevo_worker_sessions 0").then_some(())
    })
    .await;
    wait_for("the other's figures", LONG, async || {
        metrics(standing_by).await.contains("relevo_scheduler_is_leader 0").then_some(())
    })
    .await;
    let other = metrics(standing_by).await;
    assert!(!other.contains("relevo_worker_sessions"), "read from the database by the leader only");

    let told_at = Instant::now();
    processes[leading].terminate();
    assert!(processes[leading].wait_exit(LONG).await.success());
    let next = wait_leader(pool, LONG, first).await;
    assert_eq!(next, processes[standing_by].id());
    // The other asks three times per lease time.
    let handed_over = told_at.elapsed();
    assert!(handed_over < Duration::from_secs(u64::from(lease_seconds) / 2), "{handed_over:?}");
}

#[tokio::test]
async fn an_idle_leader_asks_less_than_twice_a_second() {
    let database = TestDatabase::new().await;
    let pool = database.pool();
    let port = free_port();
    let process = scheduler(&database, 15, port);
    wait_leader(pool, LONG, 0).await;
    // What is done every two minutes has been done, and is not done again while this watches.
    wait_for("the first pruning", LONG, async || {
        let answer = reqwest::get(format!("http://127.0.0.1:{port}/metrics")).await.ok()?;
        let text = answer.text().await.ok()?;
        text.contains("relevo_upkeep_seconds_count{step=\"prune\"} 1").then_some(())
    })
    .await;
    let seconds = 30;
    let watched = watch_statements(pool, "relevo-scheduler", Duration::from_secs(seconds)).await;
    let begun = watched.statements;
    // The share of the pruning in these seconds is added.
    let pruning = 5;
    let limit = 2 * usize::try_from(seconds).unwrap();
    assert!(begun + pruning < limit, "{begun} statements in {seconds} s");
    process.terminate();
    assert!(process.wait_exit(LONG).await.success(), "{}", process.output());
}
