//! The end of a run is told: once to each channel, failures in a row once, with what was healed.

use axum::http::StatusCode;
use relevo_runs::backup::BackupMode;
use relevo_tests::ShopDump;
use relevo_tests::gateway::Fault;
use serde_json::json;

use super::cluster::{Cluster, RUN_TIMEOUT, prepare};
use crate::notify::receiver::Receiver;

const HOOK: &str = "/services/secreto";

#[tokio::test]
async fn success_and_failure_are_told_with_figures_and_a_streak_of_failures_once() {
    let receiver = Receiver::start().await;
    // The first message is refused, as a receiver that restarts does.
    receiver.answer(HOOK, StatusCode::SERVICE_UNAVAILABLE);
    let dump = ShopDump::committed();
    let prepared = prepare(&dump)
        .set("outbound.allow", json!([receiver.address()]))
        .set("notify.webhook_url", receiver.url(HOOK))
        // The disk of the machine that tests may be full.
        .set("alerts.disk_low", false)
        .set("channel.jefe.kind", "slack")
        .set("channel.jefe.url", receiver.url("/jefe"))
        .set("channel.jefe.events", json!(["failure"]))
        .set("channel.jefe.language", "es")
        .set("backup.sicar.heartbeat_url", receiver.url("/ping"));
    let cluster = Cluster::start(prepared).await;
    let told = async |path: &str, count: usize| {
        let what = format!("{count} messages at {path}");
        receiver
            .wait(&what, path, RUN_TIMEOUT, |bodies| {
                (bodies.len() >= count).then(|| bodies.to_vec())
            })
            .await
    };
    cluster.import(BackupMode::Sync, &dump).await;
    let messages = told(HOOK, 2).await;
    assert_eq!(messages[0], messages[1]);
    assert_eq!(messages[1]["event"], "run.succeeded");
    assert_eq!(messages[1]["stats"]["rows"], dump.reference.rows());
    // The dead man's switch is touched; who hears of failures only hears nothing.
    told("/ping", 1).await;
    assert!(receiver.heard("/jefe").is_empty());

    let refuses = Fault::RefuseBackup { error: "no".to_owned(), status: 200 };
    cluster.gateway().plan(vec![refuses.always()]).await;
    let first = cluster.start_run(BackupMode::Sync).await;
    cluster.ended(first).await;
    let message = told(HOOK, 3).await.remove(2);
    assert_eq!(message["event"], "run.failed");
    assert!(message["text"].as_str().unwrap().contains("FAILED"), "{message}");
    let message = told("/jefe", 1).await.remove(0);
    assert!(message["text"].as_str().unwrap().contains("FALLÓ"), "{message}");
    let second = cluster.start_run(BackupMode::Sync).await;
    cluster.ended(second).await;

    cluster.gateway().plan(Vec::new()).await;
    cluster.import(BackupMode::Sync, &dump).await;
    let messages = told(HOOK, 4).await;
    let message = &messages[3];
    assert_eq!(message["event"], "run.succeeded", "the second failure in a row was told too");
    assert!(message["text"].as_str().unwrap().contains("Resolved"), "{message}");
    assert_eq!(message["alert"]["occurrences"], 2, "{message}");
    // Who was told of the failure is told that it is over.
    let message = told("/jefe", 2).await.remove(1);
    assert!(message["text"].as_str().unwrap().contains("Resuelto"), "{message}");
    told("/ping", 2).await;
    assert_eq!((receiver.heard("/jefe").len(), receiver.heard("/ping").len()), (2, 2));
    for process in cluster.workers.iter().chain(&cluster.scheduler) {
        assert!(!process.output().contains("secreto"), "the webhook's address is in a log");
    }
}
