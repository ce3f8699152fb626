//! Settings that change while every process goes on: new sources, limits, and connections that
//! sources name in place of addresses.

use std::path::Path;
use std::time::Duration;

use relevo_queue::JobFilter;
use relevo_runs::backup::BackupMode;
use relevo_runs::schedules;
use relevo_runs::{RunId, RunState};
use relevo_tests::gateway::API_KEY;
use relevo_tests::{ShopDump, TestDatabase, planted, reference, wait_for};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use url::Url;

use super::cluster::{Cluster, RUN_TIMEOUT, prepare};
use crate::notify::receiver::Receiver;

/// How long a changed file may take to be in force everywhere, on a busy machine.
const TAKEN_UP: Duration = Duration::from_secs(60);

/// Replaces a file as an editor does: whole, under its name.
fn write(path: &Path, text: &str) {
    let unfinished = path.with_extension("new");
    std::fs::write(&unfinished, text).unwrap();
    std::fs::rename(&unfinished, path).unwrap();
}

/// Starts a backup over HTTP.
async fn start(cluster: &Cluster, source: &str) -> (StatusCode, Value) {
    let path = format!("/api/v1/backups/{source}");
    let answer = cluster.request(Method::POST, &path).json(&json!({"mode": "sync"})).send().await;
    let answer = answer.unwrap();
    (answer.status(), answer.json().await.unwrap())
}

async fn compare(target: &TestDatabase, dump: &ShopDump) {
    let differences = reference::compare(target.url(), "public", &dump.reference).await;
    assert!(differences.is_empty(), "{} differences", differences.len());
}

/// `host:port` of an address.
fn host_and_port(url: &str) -> String {
    let url = Url::parse(url).unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port_or_known_default().unwrap_or(5432))
}

#[tokio::test]
async fn a_new_source_is_taken_up_by_every_process_and_one_that_is_gone_is_let_go() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    let other = TestDatabase::empty().await;
    let before = std::fs::read_to_string(cluster.config()).unwrap();
    assert_eq!(start(&cluster, "second").await.0, StatusCode::NOT_FOUND);

    let gateway = cluster.gateway().url();
    let second = format!(
        "{before}\n[backup.second]\ngateway_url = \"{gateway}\"\napi_key = \"{API_KEY}\"\n\
         allow_http_fallback = true\ntarget_url = \"{}\"\nfirst_slot = \"03:07\"\n",
        planted::with_password(other.url())
    );
    write(cluster.config(), &second);
    let run = wait_for("the API to know the source", TAKEN_UP, async || {
        let (status, started) = start(&cluster, "second").await;
        (status == StatusCode::ACCEPTED).then(|| started["run_id"].as_i64().unwrap())
    })
    .await;
    // The worker may take it up a moment later, and is asked again then.
    let run = cluster.ended(RunId(run)).await;
    assert_eq!(run.state, RunState::Succeeded, "{:?}", run.error);
    compare(&other, &dump).await;
    wait_for("the schedule of the source", TAKEN_UP, async || {
        let listed = schedules::list(cluster.pool(), None).await.unwrap();
        listed.iter().any(|one| one.name == "backup/second" && one.active).then_some(())
    })
    .await;

    // What makes no sense changes nothing.
    write(cluster.config(), &format!("{second}colour = \"blue\"\n"));
    wait_for("the leader to say so", TAKEN_UP, async || {
        let state = schedules::file_state(cluster.pool()).await.unwrap()?;
        state.problem.filter(|problem| problem.contains("colour"))
    })
    .await;
    assert_eq!(start(&cluster, "second").await.0, StatusCode::ACCEPTED);

    write(cluster.config(), &before);
    wait_for("the API to forget the source", TAKEN_UP, async || {
        let status = start(&cluster, "second").await.0;
        (status == StatusCode::NOT_FOUND).then_some(())
    })
    .await;
    wait_for("the schedule to be gone", TAKEN_UP, async || {
        let listed = schedules::list(cluster.pool(), None).await.unwrap();
        listed.iter().all(|one| one.name != "backup/second" || !one.active).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_changed_limit_holds_without_a_restart_and_the_rest_is_named() {
    let dump = ShopDump::committed();
    let cluster = Cluster::start(prepare(&dump)).await;
    let refused = async || {
        for _ in 0..5 {
            let answer = cluster.request(Method::GET, "/api/v1/queues").send().await.unwrap();
            if answer.status() == StatusCode::TOO_MANY_REQUESTS {
                return true;
            }
        }
        false
    };
    assert!(!refused().await);
    let before = std::fs::read_to_string(cluster.config()).unwrap();
    let slower = before.replace("[api]\n", "[api]\nrate_limit_per_second = 1\n");
    let slower = slower.replace("chunk_size_bytes = 65536", "chunk_size_bytes = 131072");
    assert_ne!(slower, before);
    write(cluster.config(), &slower);
    wait_for("requests to be refused", TAKEN_UP, async || refused().await.then_some(())).await;
    wait_for("the log to name what waits", TAKEN_UP, async || {
        let told = cluster.api.as_ref().unwrap().output();
        told.contains("chunk_store.chunk_size_bytes").then_some(())
    })
    .await;
    write(cluster.config(), &before);
    wait_for("requests to be taken again", TAKEN_UP, async || (!refused().await).then_some(()))
        .await;
}

#[tokio::test]
async fn a_source_goes_by_connections_and_takes_up_their_changes() {
    let dump = ShopDump::committed();
    let receiver = Receiver::start().await;
    let (first, second) = (TestDatabase::empty().await, TestDatabase::empty().await);
    let prepared = prepare(&dump)
        .set("backup.sicar.target_url", "connection:warehouse")
        .set("backup.sicar.gateway_url", "connection:gateway")
        .set("backup.sicar.api_key", "not-the-key-of-the-gateway")
        .set("backup.sicar.heartbeat_url", "connection:beat")
        .set("alerts.disk_low", false)
        .set("outbound.allow", json!([host_and_port(first.url()), receiver.address()]));
    let cluster = Cluster::start(prepared).await;
    let kept = async |verb: &str, name: &str, kind: &str, url: &str, key: Option<&str>| {
        let file = cluster.data_dir().join(format!("{name}.url"));
        std::fs::create_dir_all(cluster.data_dir()).unwrap();
        std::fs::write(&file, url).unwrap();
        let file = file.to_string_lossy().into_owned();
        let mut arguments = vec!["connection", verb, name, "--url-file", &file];
        if verb == "add" {
            arguments.extend(["--kind", kind]);
        }
        let key_file = cluster.data_dir().join("key");
        if let Some(key) = key {
            std::fs::write(&key_file, key).unwrap();
            arguments.extend(["--api-key-file", key_file.to_str().unwrap()]);
        }
        drop(cluster.relevo(arguments).await.success());
        let _ = std::fs::remove_file(&file);
        let _ = std::fs::remove_file(&key_file);
    };

    // Not there yet: the run waits, says so, and goes on once it is.
    let run = cluster.start_run(BackupMode::Sync).await;
    let error = wait_for("the job to say what is missing", RUN_TIMEOUT, async || {
        let jobs = cluster.queue().jobs(&JobFilter::run(run.0)).await.unwrap();
        jobs.into_iter().find_map(|job| job.last_error)
    })
    .await;
    assert!(error.contains("there is none") && error.contains("connection add"), "{error}");
    let report = cluster.relevo(["doctor", "--json"]).await.stdout;
    let report: Value = serde_json::from_str(&report).unwrap();
    let found = report["findings"].as_array().unwrap().iter();
    let found: Vec<&Value> =
        found.filter(|finding| finding["check"] == "connection.reference").collect();
    assert_eq!(found.len(), 2, "one of the addresses, one of the heartbeat: {report}");
    // A gateway that is kept here and not allowed by name is refused like any other address.
    let gateway = cluster.gateway().url().to_owned();
    kept("add", "warehouse", "postgres", &planted::with_password(first.url()), None).await;
    kept("add", "beat", "webhook", &receiver.url("/beat"), None).await;
    kept("add", "gateway", "gateway", &gateway, Some(API_KEY)).await;
    wait_for("the job to say what is not allowed", RUN_TIMEOUT, async || {
        let jobs = cluster.queue().jobs(&JobFilter::run(run.0)).await.unwrap();
        let error = jobs.into_iter().find_map(|job| job.last_error)?;
        (error.contains("outbound.allow")).then_some(())
    })
    .await;
    let file = std::fs::read_to_string(cluster.config()).unwrap();
    let allowed = host_and_port(&gateway);
    let file = file.replace("allow = [", &format!("allow = [\"{allowed}\","));
    write(cluster.config(), &file);
    let run = cluster.ended(run).await;
    assert_eq!(run.state, RunState::Succeeded, "{:?}", run.error);
    compare(&first, &dump).await;
    receiver
        .wait("the heartbeat", "/beat", RUN_TIMEOUT, |heard| (!heard.is_empty()).then_some(()))
        .await;

    // Another address under the same name: the next run goes there, without a restart.
    kept("set", "warehouse", "", &planted::with_password(second.url()), None).await;
    for _ in 0..2 {
        let id = cluster.start_run(BackupMode::Sync).await;
        let run = cluster.ended(id).await;
        assert_eq!(run.state, RunState::Succeeded, "{:?}", run.error);
    }
    compare(&second, &dump).await;
    let newest = cluster.runs().list(&relevo_runs::RunFilter::default()).await.unwrap()[0].id;
    let done = cluster.relevo(["run", "rollback", &newest.to_string(), "--json"]).await.json();
    assert_eq!(done["already"], false, "{done}");

    let report = cluster.relevo(["doctor", "--json", "--all"]).await.stdout;
    let report: Value = serde_json::from_str(&report).unwrap();
    let found = report["findings"].as_array().unwrap().iter();
    let target = found.filter(|finding| finding["subject"] == "backup.sicar.target").count();
    assert!(target > 0, "the target behind the name is asked: {report}");
    let tried = cluster.relevo(["connection", "test", "backup.sicar.gateway", "--json"]).await;
    assert_eq!(tried.json()[0]["ok"], true);
    let listed = cluster.relevo(["connection", "list"]).await.stdout;
    assert!(listed.contains("connection:warehouse"), "{listed}");
}
