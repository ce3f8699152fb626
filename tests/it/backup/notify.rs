//! The end of a run is told to a webhook.

use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use relevo_runs::backup::BackupMode;
use relevo_tests::gateway::Fault;
use relevo_tests::{ShopDump, wait_for};
use serde_json::Value;

use super::cluster::{Cluster, RUN_TIMEOUT, prepare};

type Heard = Arc<Mutex<Vec<Value>>>;

/// Refuses the first message, as a receiver that restarts does.
async fn hear(State(heard): State<Heard>, Json(message): Json<Value>) -> StatusCode {
    let mut heard = heard.lock().unwrap();
    heard.push(message);
    if heard.len() == 1 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::NO_CONTENT }
}

#[tokio::test]
async fn success_and_failure_are_told_with_figures() {
    let heard = Heard::default();
    let router =
        Router::new().route("/services/secreto", post(hear)).with_state(Arc::clone(&heard));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/services/secreto", listener.local_addr().unwrap());
    let receiver = tokio::spawn(async move { axum::serve(listener, router).await });

    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump).set("notify.webhook_url", url)).await;
    cluster.import(BackupMode::Sync, &dump).await;
    let messages = wait_for("the message to be repeated", RUN_TIMEOUT, async || {
        let heard = heard.lock().unwrap().clone();
        (heard.len() == 2).then_some(heard)
    })
    .await;
    assert_eq!(messages[0], messages[1]);
    assert_eq!(messages[1]["event"], "run.succeeded");
    assert_eq!(messages[1]["stats"]["rows"], dump.reference.rows());

    let refuses = Fault::RefuseBackup { error: "no".to_owned(), status: 200 };
    cluster.gateway().plan(vec![refuses.always()]).await;
    let id = cluster.start_run(BackupMode::Sync).await;
    cluster.ended(id).await;
    let message = wait_for("the message about the failure", RUN_TIMEOUT, async || {
        heard.lock().unwrap().get(2).cloned()
    })
    .await;
    assert_eq!(message["event"], "run.failed");
    assert!(message["text"].as_str().unwrap().contains("FAILED"), "{message}");
    for worker in &cluster.workers {
        assert!(!worker.output().contains("secreto"), "the webhook's address is in a log");
    }
    receiver.abort();
}
