//! The built-in rules, as the leading scheduler and the workers see them.

use std::time::Duration;

use relevo_jobs::Noop;
use relevo_queue::{JobFilter, Queue};
use relevo_runs::typed_job;
use relevo_tests::{Cluster, ClusterBuilder, wait_for};
use serde_json::{Value, json};

use super::TOLD_TIMEOUT;
use super::receiver::Receiver;

const HOOK: &str = "/hook";

/// A cluster that looks at its rules every second and tells `receiver`.
fn watched(receiver: &Receiver) -> ClusterBuilder {
    Cluster::builder()
        .set("alerts.interval_seconds", 1)
        .set("alerts.no_worker_minutes", 0)
        // Between the scheduler's start and the worker's there is none.
        .set("alerts.no_worker", false)
        // The disk of the machine that tests may be full.
        .set("alerts.disk_low", false)
        .set("worker.lease_ttl_seconds", 3)
        .set("scheduler.upkeep_interval_ms", 200)
        .set("outbound.allow", json!([receiver.address()]))
        .set("channel.ops.url", receiver.url(HOOK))
}

/// Waits for the message about an alert.
async fn told(receiver: &Receiver, rule: &str, state: &str) -> Value {
    receiver
        .wait(&format!("{rule} {state}"), HOOK, TOLD_TIMEOUT, |bodies| {
            let wanted = |body: &&Value| body["rule"] == rule && body["state"] == state;
            bodies.iter().find(wanted).cloned()
        })
        .await
}

fn count(receiver: &Receiver, rule: &str) -> usize {
    receiver.heard(HOOK).iter().filter(|heard| heard.body["rule"] == rule).count()
}

#[tokio::test]
async fn no_worker_is_told_by_the_scheduler_itself_and_resolved_when_one_comes() {
    let receiver = Receiver::start().await;
    let mut cluster = watched(&receiver).set("alerts.no_worker", true).workers(0).start().await;
    let open = told(&receiver, "no_worker", "open").await;
    assert_eq!(open["event"], "alert.open");
    assert!(open["text"].as_str().unwrap().contains("no worker is alive"), "{open}");
    let shown = cluster.relevo(["notify", "alerts", "--json"]).await.json();
    assert_eq!(shown[0]["rule"], "no_worker");
    cluster.start_worker().await;
    let over = told(&receiver, "no_worker", "resolved").await;
    assert_eq!(over["alert_id"], open["alert_id"]);
    // Told once when it began, once when it was over, however often it was looked at.
    assert_eq!(count(&receiver, "no_worker"), 2);
    let answer = cluster.request(reqwest::Method::GET, "/api/v1/alerts?open=true").send().await;
    let open: Value = answer.unwrap().json().await.unwrap();
    assert_eq!(open["alerts"].as_array().unwrap().len(), 0, "{open}");
}

#[tokio::test]
async fn no_worker_is_told_though_another_rule_cannot_be_looked_at() {
    let receiver = Receiver::start().await;
    let mut cluster = watched(&receiver).set("alerts.no_worker", true).start().await;
    let pool = cluster.control().pool().clone();
    // Every look fails from here on, at a rule that comes later.
    sqlx::query("ALTER TABLE relevo.dead_letter RENAME TO dead_letter_away")
        .execute(&pool)
        .await
        .unwrap();
    cluster.workers.clear();
    told(&receiver, "no_worker", "open").await;
    sqlx::query("ALTER TABLE relevo.dead_letter_away RENAME TO dead_letter")
        .execute(&pool)
        .await
        .unwrap();
    cluster.start_worker().await;
    told(&receiver, "no_worker", "resolved").await;
    assert_eq!(count(&receiver, "no_worker"), 2);
}

#[tokio::test]
async fn what_is_not_configured_any_more_stays_no_open_alert() {
    let receiver = Receiver::start().await;
    let cluster = watched(&receiver).start().await;
    let pool = cluster.control().pool();
    sqlx::query(
        "INSERT INTO relevo.alert (key, rule, subject)
         SELECT rule || '/' || subject, rule, subject
           FROM (VALUES ('channel', 'gone'), ('channel', 'ops'), ('channel', 'heartbeat'),
                        ('failed', 'backup/otra'), ('failed', 'backup/sicar'))
                AS seen (rule, subject)",
    )
    .execute(pool)
    .await
    .unwrap();
    let open = async || -> Vec<String> {
        sqlx::query_scalar("SELECT key FROM relevo.alert WHERE resolved_at IS NULL ORDER BY key")
            .fetch_all(pool)
            .await
            .unwrap()
    };
    wait_for("three alerts to be over", TOLD_TIMEOUT, async || {
        (open().await.len() <= 2).then_some(())
    })
    .await;
    assert_eq!(open().await, ["channel/ops", "failed/backup/sicar"]);
    // Nothing has become better, so nobody is told.
    assert!(receiver.heard(HOOK).is_empty(), "{:?}", receiver.heard(HOOK));
}

#[tokio::test]
async fn dead_letters_and_overdue_sources_are_told_once_and_resolved() {
    let receiver = Receiver::start().await;
    let cluster = watched(&receiver).set("backup.sicar.schedule_enabled", true).start().await;
    let pool = cluster.control().pool();
    let queue = Queue::new(pool.clone());

    let failing: Noop = serde_json::from_value(json!({"fail": "fatal"})).unwrap();
    let id = queue.enqueue(typed_job(&failing).max_attempts(1)).await.unwrap().id;
    let open = told(&receiver, "dead_letters", "open").await;
    assert_eq!((&open["level"], &open["details"]["present"]), (&1.into(), &1.into()), "{open}");
    assert!(queue.discard_dead(id).await.unwrap());
    told(&receiver, "dead_letters", "resolved").await;

    // The source was scheduled two days ago and has never succeeded.
    wait_for("the schedule", TOLD_TIMEOUT, async || {
        let changed = sqlx::query(
            "UPDATE relevo.schedule SET created_at = now() - interval '2 days'
              WHERE name = 'backup/sicar'",
        )
        .execute(pool)
        .await
        .unwrap();
        (changed.rows_affected() == 1).then_some(())
    })
    .await;
    let open = told(&receiver, "overdue", "open").await;
    assert_eq!(open["subject"], "backup/sicar");
    assert!(open["text"].as_str().unwrap().contains("never succeeded"), "{open}");
    sqlx::query(
        "INSERT INTO relevo.run
                (pipeline, source, state, trigger, started_at, finished_at, cleaned_at, incarnation)
         SELECT 'backup', 'sicar', 'succeeded', 'test', now(), now(), now(), incarnation
           FROM relevo.control",
    )
    .execute(pool)
    .await
    .unwrap();
    told(&receiver, "overdue", "resolved").await;
    assert_eq!((count(&receiver, "overdue"), count(&receiver, "dead_letters")), (2, 2));
}

#[tokio::test]
async fn a_full_disk_is_told_once_by_whoever_sees_it() {
    let receiver = Receiver::start().await;
    let watched = watched(&receiver).set("alerts.disk_low", true);
    let mut cluster = watched.set("alerts.disk_free_percent_min", 99).start().await;
    let open = told(&receiver, "disk_low", "open").await;
    assert!(open["subject"].as_str().unwrap().ends_with("/data"), "{open}");
    // Worker and scheduler have looked several times since.
    let pool = cluster.control().pool().clone();
    wait_for("further looks", TOLD_TIMEOUT, async || {
        let seen: Option<i64> =
            sqlx::query_scalar("SELECT occurrences FROM relevo.alert WHERE rule = 'disk_low'")
                .fetch_optional(&pool)
                .await
                .unwrap();
        seen.filter(|seen| *seen > 4)
    })
    .await;
    assert_eq!(count(&receiver, "disk_low"), 1);

    // Switched off, it is over.
    let config = std::fs::read_to_string(cluster.config()).unwrap();
    let config = config.replace("disk_low = true", "disk_low = false");
    std::fs::write(cluster.config(), config).unwrap();
    cluster.workers.clear();
    cluster.start_scheduler().await;
    cluster.start_worker().await;
    told(&receiver, "disk_low", "resolved").await;
}

#[tokio::test]
async fn a_dead_channel_holds_up_nobody_and_is_told_to_the_others() {
    let receiver = Receiver::start().await;
    let dead = Receiver::start().await;
    dead.always(Some(reqwest::StatusCode::NOT_FOUND));
    let allow = json!([receiver.address(), dead.address()]);
    let cluster = watched(&receiver)
        .set("outbound.allow", allow)
        .set("channel.gone.url", dead.url("/services/s3cret"))
        .start()
        .await;
    let queue = Queue::new(cluster.control().pool().clone());
    let failing: Noop = serde_json::from_value(json!({"fail": "fatal"})).unwrap();
    queue.enqueue(typed_job(&failing).max_attempts(1)).await.unwrap();
    told(&receiver, "dead_letters", "open").await;
    let open = told(&receiver, "channel", "open").await;
    assert_eq!(open["subject"], "gone");
    assert!(open["text"].as_str().unwrap().contains("HTTP 404"), "{open}");
    // The given-up message counts as no dead letter of its own, or it would be told for ever.
    assert_eq!(queue.count_dead(&JobFilter::default()).await.unwrap(), 2);
    assert_eq!(count(&receiver, "dead_letters"), 1);

    dead.always(None);
    for letter in queue.dead_letters(&JobFilter::default()).await.unwrap() {
        if letter.kind == "Notify" {
            queue.retry(letter.id).await.unwrap();
        }
    }
    told(&receiver, "channel", "resolved").await;
    dead.wait("the late message", "/services/s3cret", Duration::from_secs(60), |bodies| {
        (bodies.len() >= 2).then_some(())
    })
    .await;
    for worker in &cluster.workers {
        assert!(!worker.output().contains("s3cret"), "an address is in a log");
    }
}
