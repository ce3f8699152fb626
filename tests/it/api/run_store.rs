//! `relevo_runs::Runs`: what a run lets be done to it, and what not.

use std::time::Duration;

use relevo_queue::Queue;
use relevo_runs::backup::{self, StartOptions};
use relevo_runs::retention::{self, Keep};
use relevo_runs::{LogLevel, NewRun, RunError, RunFilter, RunId, RunState, Runs};
use relevo_tests::{TestDatabase, wait_blocked};
use serde_json::json;

fn new_run(source: &str) -> NewRun {
    NewRun {
        pipeline: "backup".to_owned(),
        source: source.to_owned(),
        trigger: "test".to_owned(),
        options: json!({"mode": "sync"}),
    }
}

async fn create(db: &TestDatabase, source: &str) -> (Runs, RunId) {
    let runs = Runs::new(db.pool().clone());
    let mut conn = db.pool().acquire().await.unwrap();
    let id = runs.create_in(&mut conn, &new_run(source)).await.unwrap();
    (runs, id)
}

#[tokio::test]
async fn a_run_passes_from_pending_to_its_end() {
    let db = TestDatabase::new().await;
    let (runs, id) = create(&db, "shop").await;
    let get = async || runs.get(id).await.unwrap().unwrap();
    let mut conn = db.pool().acquire().await.unwrap();

    let run = get().await;
    assert_eq!((run.state, run.phase.as_str()), (RunState::Pending, "waiting"));
    assert_eq!((run.started_at, run.finished_at), (None, None));

    runs.set_phase_in(&mut conn, id, "downloading").await.unwrap();
    runs.progress(id, 5, Some(10), "bytes", "half").await.unwrap();
    runs.add_stats_in(&mut conn, id, &json!({"bytes": 10, "tries": 1})).await.unwrap();
    runs.add_stats_in(&mut conn, id, &json!({"tries": 2})).await.unwrap();
    runs.merge_notes_in(&mut conn, id, &json!({"batch": 4})).await.unwrap();
    runs.merge_notes_in(&mut conn, id, &json!({"file": "a"})).await.unwrap();
    let run = get().await;
    assert_eq!((run.state, run.phase.as_str()), (RunState::Running, "downloading"));
    assert_eq!(
        run.progress,
        Some(json!({"done": 5, "total": 10, "unit": "bytes", "message": "half"}))
    );
    assert_eq!(run.notes, json!({"batch": 4, "file": "a"}));
    assert!(run.started_at.is_some());

    let certificate = json!({"tables": []});
    let ended = runs.succeed_in(&mut conn, id, &json!({"rows": 7}), Some(&certificate)).await;
    assert!(ended.unwrap());
    let run = get().await;
    assert_eq!(run.state, RunState::Succeeded);
    assert_eq!(run.stats, json!({"bytes": 10, "tries": 2, "rows": 7}));
    assert_eq!(run.certificate, Some(certificate));
    assert!(run.finished_at.is_some());
}

#[tokio::test]
async fn an_ended_run_never_changes() {
    let db = TestDatabase::new().await;
    let (runs, id) = create(&db, "shop").await;
    let mut conn = db.pool().acquire().await.unwrap();
    assert!(runs.fail_in(&mut conn, id, "the gateway is gone").await.unwrap());
    let before = runs.get(id).await.unwrap().unwrap();
    assert_eq!(before.error.as_deref(), Some("the gateway is gone"));

    let ended = |result: Result<(), RunError>| {
        let error = result.expect_err("it has ended");
        assert!(matches!(error, RunError::Ended { state: RunState::Failed, .. }), "{error}");
    };
    ended(runs.start_in(&mut conn, id).await);
    ended(runs.set_phase_in(&mut conn, id, "loading").await);
    ended(runs.add_stats_in(&mut conn, id, &json!({"a": 1})).await);
    ended(runs.merge_notes_in(&mut conn, id, &json!({"a": 1})).await);
    runs.progress(id, 1, None, "rows", "late").await.unwrap();
    assert!(!runs.succeed_in(&mut conn, id, &json!({}), None).await.unwrap());
    assert!(!runs.fail_in(&mut conn, id, "again").await.unwrap());
    assert!(!runs.cancel_in(&mut conn, id).await.unwrap());
    assert_eq!(runs.get(id).await.unwrap().unwrap(), before);

    let missing = RunId(id.0 + 1);
    let error = runs.set_phase_in(&mut conn, missing, "x").await.unwrap_err();
    assert!(matches!(error, RunError::NotFound(run) if run == missing), "{error}");
    assert!(!runs.fail_in(&mut conn, missing, "x").await.unwrap());
}

#[tokio::test]
async fn a_source_has_one_active_run() {
    let db = TestDatabase::new().await;
    let (runs, id) = create(&db, "shop").await;
    let mut tx = db.pool().begin().await.unwrap();
    let error = runs.create_in(&mut tx, &new_run("shop")).await.unwrap_err();
    assert!(matches!(error, RunError::AlreadyActive { run } if run == id), "{error}");
    // The transaction goes on.
    let other = runs.create_in(&mut tx, &new_run("other")).await.unwrap();
    tx.commit().await.unwrap();
    let active: Vec<_> = runs.active().await.unwrap().iter().map(|run| run.id).collect();
    assert_eq!(active, [id, other]);
    assert_eq!(runs.active_of("backup", "shop").await.unwrap().unwrap().id, id);
    assert!(runs.active_of("backup", "none").await.unwrap().is_none());
}

#[tokio::test]
async fn a_run_and_its_first_job_exist_together() {
    let db = TestDatabase::new().await;
    let queue = Queue::new(db.pool().clone());
    let runs = Runs::new(db.pool().clone());
    let mut tx = db.pool().begin().await.unwrap();
    backup::start_in(&mut tx, &queue, "shop", &StartOptions::default(), "cli").await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(runs.active().await.unwrap(), []);
    let jobs: i64 =
        sqlx::query_scalar("SELECT count(*) FROM relevo.job").fetch_one(db.pool()).await.unwrap();
    assert_eq!(jobs, 0);
}

#[tokio::test]
async fn ended_runs_wait_to_be_cleaned_up() {
    let db = TestDatabase::new().await;
    let (runs, id) = create(&db, "shop").await;
    assert_eq!(runs.uncleaned("backup", &[], 10).await.unwrap(), []);
    runs.mark_cleaned(id).await.unwrap();
    assert_eq!(runs.get(id).await.unwrap().unwrap().cleaned_at, None, "not before it ended");
    let mut conn = db.pool().acquire().await.unwrap();
    runs.cancel_in(&mut conn, id).await.unwrap();
    assert_eq!(runs.uncleaned("backup", &[], 10).await.unwrap()[0].id, id);
    // A source whose target cannot be reached does not keep the others waiting.
    let except = ["shop".to_owned()];
    assert_eq!(runs.uncleaned("backup", &except, 10).await.unwrap(), []);
    let (_, other) = create(&db, "other").await;
    runs.cancel_in(&mut conn, other).await.unwrap();
    assert_eq!(runs.uncleaned("backup", &except, 1).await.unwrap()[0].id, other);
    assert_eq!(runs.uncleaned("replica", &[], 10).await.unwrap(), []);
    runs.mark_cleaned(other).await.unwrap();
    runs.mark_cleaned(id).await.unwrap();
    assert_eq!(runs.uncleaned("backup", &[], 10).await.unwrap(), []);
}

#[tokio::test]
async fn whatever_is_logged_fits() {
    let db = TestDatabase::new().await;
    let (runs, id) = create(&db, "shop").await;
    let log = async |message: &str, fields| {
        runs.log(id, LogLevel::Warn, message, &fields).await.unwrap();
        runs.logs(id, None, 0).await.unwrap().pop().unwrap()
    };
    let event = log(&"x".repeat(10_000), json!({})).await;
    assert_eq!(event.message.chars().count(), 4_000);
    assert_eq!(event.level, LogLevel::Warn);
    assert_eq!(log("", json!({})).await.message, "-");
    assert_eq!(log("a\0b", json!({})).await.message, "a\u{fffd}b");
    let event = log("large", json!({"a": "x".repeat(40_000)})).await;
    assert_eq!(event.fields["not_stored"], "too large");
    let event = log("nul", json!({"a": "\0"})).await;
    assert!(event.fields["not_stored"].is_string());
    let event = log("list", json!([1])).await;
    assert!(event.fields["not_stored"].is_string());
    // The largest that is let through is stored, however Postgres prints it.
    let event = log("many", json!({"a": vec![1; 10_000]})).await;
    assert_eq!(event.fields["a"].as_array().unwrap().len(), 10_000);
    let event = log("long numbers", json!({"a": vec![1e300; 4_000]})).await;
    assert_eq!(event.fields["a"][3_999], 1e300);

    runs.log(RunId(id.0 + 1), LogLevel::Info, "nobody's", &json!({})).await.unwrap();
    assert_eq!(runs.logs(RunId(id.0 + 1), None, 0).await.unwrap(), []);

    let mut conn = db.pool().acquire().await.unwrap();
    runs.fail_in(&mut conn, id, &"e".repeat(50_000)).await.unwrap();
    let error = runs.get(id).await.unwrap().unwrap().error.unwrap();
    assert_eq!(error.chars().count(), 20_000);
}

#[tokio::test]
async fn a_full_log_still_takes_warnings() {
    let db = TestDatabase::new().await;
    let (runs, id) = create(&db, "shop").await;
    sqlx::query(
        "INSERT INTO relevo.run_event (run_id, level, message)
         SELECT $1, 'info', 'chatter' FROM generate_series(1, 10000)",
    )
    .bind(id)
    .execute(db.pool())
    .await
    .unwrap();
    runs.log(id, LogLevel::Info, "one too many", &json!({})).await.unwrap();
    runs.log(id, LogLevel::Error, "the end", &json!({})).await.unwrap();
    let count: i64 = sqlx::query_scalar("SELECT count(*) FROM relevo.run_event")
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert_eq!(count, 10_001);
    let last = runs.logs(id, None, 0).await.unwrap();
    assert_eq!(last.len(), 1_000, "a page is bounded");
}

#[tokio::test]
async fn nobody_who_follows_a_log_misses_a_line() {
    let db = TestDatabase::new().await;
    let (runs, id) = create(&db, "shop").await;
    let mut slow = db.pool().begin().await.unwrap();
    runs.log_in(&mut slow, id, LogLevel::Info, "slow", &json!({})).await.unwrap();
    let fast = tokio::spawn({
        let runs = runs.clone();
        async move { runs.log(id, LogLevel::Info, "fast", &json!({})).await }
    });
    // The second line waits for the first, so a reader never sees it alone.
    wait_blocked(db.pool(), 1).await;
    assert_eq!(runs.logs(id, None, 0).await.unwrap(), []);
    slow.commit().await.unwrap();
    fast.await.unwrap().unwrap();
    let lines: Vec<_> =
        runs.logs(id, None, 0).await.unwrap().into_iter().map(|event| event.message).collect();
    assert_eq!(lines, ["slow", "fast"]);
}

#[tokio::test]
async fn pages_are_bounded() {
    let db = TestDatabase::new().await;
    let (runs, _) = create(&db, "shop").await;
    let filter = RunFilter { limit: u32::MAX, ..RunFilter::default() };
    assert_eq!(runs.list(&filter).await.unwrap().len(), 1);
    assert_eq!(runs.list(&RunFilter::default()).await.unwrap().len(), 1);
}

#[tokio::test]
async fn the_table_refuses_states_that_make_no_sense() {
    let db = TestDatabase::new().await;
    let (_, id) = create(&db, "shop").await;
    for change in [
        "state = 'running'",
        "state = 'succeeded'",
        "state = 'failed', finished_at = now()",
        "state = 'cancelled', finished_at = now()",
        "started_at = now()",
        "finished_at = now()",
        "error = 'x'",
        "certificate = '{}'",
        "cleaned_at = now()",
        "options = '[]'",
        "phase = ''",
    ] {
        let sql = format!("UPDATE relevo.run SET {change} WHERE id = {id}");
        let error = sqlx::query(sqlx::AssertSqlSafe(sql)).execute(db.pool()).await.unwrap_err();
        let code = error.as_database_error().unwrap().code().unwrap().into_owned();
        assert_eq!(code, "23514", "{change}: {error}");
    }
}

#[tokio::test]
async fn old_runs_are_forgotten_but_the_last_success_of_a_source_stays() {
    let db = TestDatabase::new().await;
    let runs = Runs::new(db.pool().clone());
    let mut conn = db.pool().acquire().await.unwrap();
    // Of each source: how its runs ended and how many days ago, oldest first.
    let of_shop = [("succeeded", 90), ("succeeded", 80), ("failed", 70), ("succeeded", 2)];
    let of_other = [("succeeded", 90), ("cancelled", 80), ("failed", 70)];
    let mut ids = Vec::new();
    for (source, history) in [("shop", &of_shop[..]), ("other", &of_other[..])] {
        for (state, days) in history {
            let id = runs.create_in(&mut conn, &new_run(source)).await.unwrap();
            runs.log_in(&mut conn, id, LogLevel::Info, "a line", &json!({})).await.unwrap();
            match *state {
                "succeeded" => runs.succeed_in(&mut conn, id, &json!({}), Some(&json!({}))).await,
                "failed" => runs.fail_in(&mut conn, id, "a reason").await,
                _ => runs.cancel_in(&mut conn, id).await,
            }
            .unwrap();
            sqlx::query("UPDATE relevo.run SET finished_at = now() - make_interval(days => $2) WHERE id = $1")
                .bind(id)
                .bind(days)
                .execute(&mut *conn)
                .await
                .unwrap();
            runs.mark_cleaned(id).await.unwrap();
            ids.push(id);
        }
    }
    let uncleaned = runs.create_in(&mut conn, &new_run("third")).await.unwrap();
    runs.fail_in(&mut conn, uncleaned, "a reason").await.unwrap();
    let active = runs.create_in(&mut conn, &new_run("third")).await.unwrap();
    sqlx::query("UPDATE relevo.run SET finished_at = now() - interval '1 year' WHERE id = $1")
        .bind(uncleaned)
        .execute(&mut *conn)
        .await
        .unwrap();
    for days in [400, 1] {
        sqlx::query(
            "INSERT INTO relevo.audit (at, actor, action, object)
             VALUES (now() - make_interval(days => $1), 'cli:test', 'run.cancel', '1')",
        )
        .bind(days)
        .execute(&mut *conn)
        .await
        .unwrap();
    }
    let day = Duration::from_secs(24 * 3600);
    let keep = Keep { runs: 30 * day, audit: 365 * day };
    assert_eq!(retention::prune(db.pool(), keep).await.unwrap(), 5 + 1);
    assert_eq!(retention::prune(db.pool(), keep).await.unwrap(), 0);

    let mut left: Vec<RunId> = Vec::new();
    for id in ids.iter().copied().chain([uncleaned, active]) {
        left.extend(runs.get(id).await.unwrap().map(|run| run.id));
    }
    // The newest success of each source, what is not cleaned up, what has not ended.
    assert_eq!(left, [ids[3], ids[4], uncleaned, active]);
    let lines: i64 = sqlx::query_scalar("SELECT count(*) FROM relevo.run_event")
        .fetch_one(db.pool())
        .await
        .unwrap();
    assert_eq!(lines, 2, "the log goes with its run");
}
