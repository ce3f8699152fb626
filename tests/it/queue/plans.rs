//! The plans of the statements that run all the time: what they read does not grow with what they
//! cannot take, whether the planner knows the table or not.

use std::time::Duration;

use relevo_queue::{JobState, KnownKind, NewJob, Statement, statements};
use relevo_tests::wait_for;
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::support::{Fixture, KIND, PATIENCE, config, job};

/// Pages a statement may read: a few descents of indexes, and the rows of a claim.
const PAGES_MAX: i64 = 900;

fn kinds() -> Vec<KnownKind> {
    let known = |kind: &str| KnownKind { kind: kind.to_owned(), max_payload_version: 2 };
    vec![known(KIND), known("second"), known("absent")]
}

/// The values of a statement's parameters, as SQL.
fn arguments(name: &str) -> &'static str {
    match name {
        "claim_jobs" => "(1::bigint, 'default', 1::bigint)",
        "probe_queues" => "('{}'::text[])",
        "find_claimed_jobs" => "(7::bigint, 1::bigint)",
        "lock_orphaned_jobs" => "('{1,2,3}'::bigint[])",
        "give_turns" => "('{held,free,absent}'::text[])",
        "admit_jobs" => "('full')",
        "waiting_ordering_keys" | "waiting_limit_keys" => "('')",
        _ => "",
    }
}

/// Runs it for its plan, and takes back what it did.
async fn explain(connection: &mut PgConnection, statement: &Statement) -> Value {
    let run = async |connection: &mut PgConnection, sql: String| {
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await.unwrap();
    };
    // A connection of a worker stays one: the settings go with the transaction.
    let mut transaction = connection.begin().await.unwrap();
    let types = match statement.name {
        "claim_jobs" => "(bigint, text, bigint)",
        "probe_queues" => "(text[])",
        "find_claimed_jobs" => "(bigint, bigint)",
        "lock_orphaned_jobs" => "(bigint[])",
        "give_turns" => "(text[])",
        "admit_jobs" | "waiting_ordering_keys" | "waiting_limit_keys" => "(text)",
        _ => "",
    };
    if let Some(settings) = statement.settings {
        run(&mut transaction, settings.replace("false)", "true)")).await;
    }
    run(&mut transaction, format!("PREPARE looked_at {types} AS {}", statement.sql)).await;
    let sql = format!(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE looked_at {}",
        arguments(statement.name)
    );
    let plan: Value =
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut *transaction).await.unwrap();
    run(&mut transaction, "DEALLOCATE looked_at".to_owned()).await;
    transaction.rollback().await.unwrap();
    plan[0]["Plan"].clone()
}

/// Every node of a plan.
fn nodes(plan: &Value) -> Vec<&Value> {
    let mut all = vec![plan];
    for child in plan["Plans"].as_array().into_iter().flatten() {
        all.extend(nodes(child));
    }
    all
}

async fn check_all(fixture: &Fixture, when: &str) {
    if let Some(complaint) = complaint(fixture).await {
        panic!("{when}: {complaint}");
    }
}

/// What the first statement does that reads more than it may.
async fn complaint(fixture: &Fixture) -> Option<String> {
    let mut connection = fixture.database.pool().acquire().await.unwrap();
    for statement in statements(&kinds()) {
        let plan = explain(&mut connection, &statement).await;
        let pages = ["Shared Hit Blocks", "Shared Read Blocks"]
            .map(|key| plan[key].as_i64().unwrap_or(0))
            .iter()
            .sum::<i64>();
        if pages > PAGES_MAX {
            return Some(format!("{} reads {pages} pages\n{plan:#}", statement.name));
        }
        for node in nodes(&plan) {
            let is_scan_of_jobs = node["Node Type"] == "Seq Scan" && node["Relation Name"] == "job";
            let removed = node["Rows Removed by Filter"].as_i64().unwrap_or(0);
            // An empty table has no page that a scan could read.
            if removed > if is_scan_of_jobs { 0 } else { 64 } {
                return Some(format!("{} passes rows\n{plan:#}", statement.name));
            }
        }
    }
    None
}

/// What no worker of [`kinds`] can take from the queue `default` now.
const OTHERS: &str = "
    INSERT INTO relevo.job (kind, payload, payload_version, queue, priority, max_attempts,
                            max_deaths, run_at, state)
    SELECT CASE n % 4 WHEN 0 THEN 'unknown' ELSE 'test' END, '{}', CASE n % 4 WHEN 1 THEN 9 ELSE 1 END,
           CASE n % 4 WHEN 2 THEN 'elsewhere' ELSE 'default' END, 10, 3, 3,
           now() + CASE n % 4 WHEN 3 THEN interval '1 day' ELSE interval '-1 day' END,
           CASE n % 4 WHEN 3 THEN 'scheduled' ELSE 'available' END::relevo.job_state
    FROM generate_series(1, 80000) AS n";

/// Behind one key that somebody holds, and under one limit that is full.
const WAITING: &str = "
    INSERT INTO relevo.job (kind, payload, payload_version, queue, max_attempts, max_deaths, state,
                            ordering_key, on_dead, limit_key, in_turn, run_at)
    SELECT 'test', '{}', 1, 'default', 3, 3,
           CASE WHEN n = 1 OR n > 100000 THEN 'available' ELSE 'waiting' END::relevo.job_state,
           CASE WHEN n <= 50000 THEN 'held' END,
           CASE WHEN n <= 50000 THEN 'block' END::relevo.order_on_dead,
           CASE WHEN n > 50000 THEN 'full' END, n = 1, now() + interval '1 second' * (n % 7)
    FROM generate_series(1, 100002) AS n";

const LEASED: &str = "
    INSERT INTO relevo.job (kind, payload, payload_version, queue, max_attempts, max_deaths, state,
                            session_id, claimed_at, claim_no, attempt, lease_epoch)
    SELECT 'test', '{}', 1, 'default', 3, 3, 'running', 100 + n % 5, now() - interval '1 hour', 1, 1, 1
    FROM generate_series(1, 20000) AS n";

const SESSIONS: &str = "
    INSERT INTO relevo.session (id, ttl, pid, concurrency, name, host, queues)
    OVERRIDING SYSTEM VALUE
    SELECT n, interval '1 hour', 1, 1, 'planned', 'planned', '{}'
    FROM unnest(ARRAY[1, 2, 3, 7, 100, 101, 102, 103, 104]) AS n";

const HISTORY: &str = "
    INSERT INTO relevo.job_history (id, lease_epoch, run_at, created_at, session_id, finished_at,
                                    state, attempt, max_attempts, priority, deaths, max_deaths,
                                    payload_version, queue, kind, payload)
    SELECT n, 1, now(), now(), 1, now(), 'completed', 1, 1, 0, 0, 1, 1, 'default', 'test', '{}'
    FROM generate_series(1, 50000) AS n";

#[tokio::test]
async fn what_cannot_be_taken_is_not_read() {
    let fixture = Fixture::new().await;
    // The planner is to know only what the test tells it.
    fixture.execute("ALTER TABLE relevo.job SET (autovacuum_enabled = off)").await;
    fixture.execute(SESSIONS).await;
    check_all(&fixture, "empty").await;
    fixture.execute("ANALYZE relevo.job").await;
    check_all(&fixture, "empty and analysed").await;

    fixture.execute("INSERT INTO relevo.job_limit (name, concurrency) VALUES ('full', 2)").await;
    for fill in [OTHERS, WAITING, LEASED, HISTORY] {
        fixture.execute(fill).await;
    }
    let mine = [job(), NewJob::new("second", &1).unwrap().payload_version(2)];
    fixture.queue.enqueue_many(&mine).await.unwrap();
    check_all(&fixture, "full, known as empty").await;
    fixture.execute("ANALYZE relevo.job").await;
    check_all(&fixture, "full and analysed").await;

    fixture.execute("DELETE FROM relevo.job WHERE payload_version = 9 OR kind = 'unknown'").await;
    check_all(&fixture, "with dead rows").await;
    fixture.execute("DELETE FROM relevo.job WHERE session_id IS NULL").await;
    // Who looks at this database meanwhile, as an automatic ANALYZE does, keeps rows from going.
    wait_for("nothing to be read of what is gone", Duration::from_secs(60), async || {
        fixture.execute("VACUUM relevo.job").await;
        complaint(&fixture).await.is_none().then_some(())
    })
    .await;
}

#[tokio::test]
async fn priority_goes_before_kind_and_no_kind_starves_another() {
    let fixture = Fixture::new().await;
    let of = |kind: &str, priority: i16, back: i64| {
        NewJob::new(kind, &serde_json::json!({}))
            .unwrap()
            .priority(priority)
            .run_at(chrono::Utc::now() - chrono::Duration::seconds(back))
    };
    // Enqueued in an order that is not the one they are to run in.
    let jobs = [
        of("second", 0, 50),
        of(KIND, 9, 10),
        of("second", 5, 10),
        of(KIND, 0, 90),
        of(KIND, 5, 20),
        of("second", 9, 30),
    ];
    let ids: Vec<_> =
        fixture.queue.enqueue_many(&jobs).await.unwrap().into_iter().map(|e| e.id).collect();
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = order.clone();
    let mut settings = config();
    settings.kinds = kinds();
    settings.concurrency = 1;
    settings.prefetch_max = 0;
    let worker = fixture.worker(settings, move |job| {
        seen.lock().unwrap().push(job.id);
        async { Ok(()) }
    });
    fixture.settles().await;
    worker.stop().await;
    let expected: Vec<_> = [5, 1, 4, 2, 3, 0].into_iter().map(|at: usize| ids[at]).collect();
    assert_eq!(*order.lock().unwrap(), expected);
}

/// The last kind in turn has low ones too, which must not fill the claim before another's better
/// ones.
#[tokio::test]
async fn what_is_left_of_a_claim_goes_by_priority_too() {
    let fixture = Fixture::new().await;
    let jobs = [(KIND, 10), (KIND, 3), ("second", 5), ("second", 1)]
        .map(|(kind, priority)| NewJob::new(kind, &1).unwrap().priority(priority));
    let ids: Vec<_> =
        fixture.queue.enqueue_many(&jobs).await.unwrap().into_iter().map(|e| e.id).collect();
    let started = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let gate = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let mut settings = config();
    settings.kinds = kinds();
    settings.concurrency = 3;
    settings.prefetch_max = 0;
    let worker = fixture.worker(settings, {
        let (started, gate) = (started.clone(), gate.clone());
        move |job| {
            started.lock().unwrap().push(job.id);
            let gate = gate.clone();
            async move {
                let _ = gate.acquire().await;
                Ok(())
            }
        }
    });
    let mut first = wait_for("the first claim to run", PATIENCE, async || {
        let started = started.lock().unwrap();
        (started.len() == 3).then(|| started.clone())
    })
    .await;
    first.sort_unstable();
    assert_eq!(first, [ids[0], ids[1], ids[2]]);
    gate.add_permits(4);
    fixture.settles().await;
    worker.stop().await;
}

#[tokio::test]
async fn kinds_and_versions_that_are_not_known_stay_where_they_are() {
    let fixture = Fixture::new().await;
    let unknown = NewJob::new("unknown", &1).unwrap().priority(100);
    let newer = job().payload_version(3).priority(100);
    let known = [job().payload_version(2), job(), NewJob::new("second", &1).unwrap()];
    let left = fixture.queue.enqueue_many(&[unknown, newer]).await.unwrap();
    fixture.queue.enqueue_many(&known).await.unwrap();
    let mut settings = config();
    settings.kinds = kinds();
    let worker = fixture.worker(settings, |_| async { Ok(()) });
    wait_for("the known jobs to end", Duration::from_secs(60), async || {
        (fixture.in_state(JobState::Completed).await.len() == 3).then_some(())
    })
    .await;
    worker.stop().await;
    for enqueued in left {
        assert_eq!(fixture.state(enqueued.id).await, JobState::Available);
    }
}

#[tokio::test]
async fn who_has_waited_too_long_goes_with_the_best_of_its_queue() {
    let fixture = Fixture::new().await;
    let of = |priority: i16, back_minutes: i64| {
        job()
            .priority(priority)
            .run_at(chrono::Utc::now() - chrono::Duration::minutes(back_minutes))
    };
    let old_elsewhere = of(-5, 90).queue("other");
    let jobs = [of(0, 90), of(1, 70), of(0, 10), of(9, 5), old_elsewhere];
    let enqueued = fixture.queue.enqueue_many(&jobs).await.unwrap();
    assert_eq!(fixture.queue.age(Duration::from_secs(3600)).await.unwrap(), 2);
    assert_eq!(fixture.queue.age(Duration::from_secs(3600)).await.unwrap(), 0);
    let mut priorities = Vec::new();
    for one in &enqueued {
        priorities.push(fixture.view(one.id).await.priority);
    }
    assert_eq!(priorities, [9, 9, 0, 9, -5], "alone in its queue, nobody is before the last");
}

#[tokio::test]
async fn a_heavier_queue_gets_more_claims_and_the_others_their_turn() {
    let fixture = Fixture::new().await;
    let of = |queue: &str| job().queue(queue);
    let jobs: Vec<NewJob> = (0..12).map(|at| of(["heavy", "light"][at / 8])).collect();
    fixture.queue.enqueue_many(&jobs).await.unwrap();
    let order = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut settings = config();
    settings.concurrency = 1;
    settings.prefetch_max = 0;
    settings.queues = vec!["heavy".to_owned(), "light".to_owned()];
    settings.queue_weights = [("heavy".to_owned(), 3)].into();
    let worker = fixture.worker(settings, {
        let order = order.clone();
        move |job| {
            order.lock().unwrap().push(job.queue);
            async { Ok(()) }
        }
    });
    fixture.settles().await;
    worker.stop().await;
    let order = order.lock().unwrap().clone();
    // Which queue is looked at first is chance; then three to one.
    let from = order.iter().position(|queue| queue == "heavy").unwrap();
    let turns: Vec<&str> = order[from..].iter().map(String::as_str).take(7).collect();
    assert_eq!(turns, ["heavy", "heavy", "heavy", "light", "heavy", "heavy", "heavy"]);
}
