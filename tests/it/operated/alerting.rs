//! A fault of a real cluster, through Prometheus and Alertmanager to a receiver.
//!
//! They run with the files of `deploy/prometheus`, in which only addresses and times are others.

use std::path::{Path, PathBuf};
use std::time::Duration;

use relevo_tests::{Cluster, Process, free_port, wait_for};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::text;
use crate::notify::receiver::Receiver;

const LONG: Duration = Duration::from_secs(90);

/// A file of `deploy/prometheus` with these changes; each must change something.
fn changed(name: &str, changes: &[(&str, &str)]) -> String {
    let mut text = text(&format!("deploy/prometheus/{name}"));
    for (from, to) in changes {
        assert!(text.contains(from), "{name} has no {from}");
        text = text.replace(from, to);
    }
    text
}

struct Alerting {
    folder: TempDir,
    alertmanager: Process,
    prometheus: Process,
    prometheus_url: String,
    alertmanager_address: String,
}

impl Alerting {
    async fn start(receiver: &Receiver, targets: [&str; 3]) -> Self {
        let folder = TempDir::with_prefix("relevo-alerting-").unwrap();
        let at = |name: &str| folder.path().join(name);
        let alerts = changed("relevo.alerts.yml", &[]);
        // Every fault is believed at once.
        let lines = alerts.lines().filter(|line| !line.trim().starts_with("for: "));
        std::fs::write(at("relevo.alerts.yml"), lines.collect::<Vec<_>>().join("\n")).unwrap();
        std::fs::write(at("relevo.rules.yml"), changed("relevo.rules.yml", &[])).unwrap();
        let url = receiver.url("/alerts");
        let routes = changed(
            "alertmanager.yml",
            &[
                ("group_wait: 30s", "group_wait: 0s"),
                ("group_interval: 5m", "group_interval: 1s"),
                ("http://pager.example.internal/alerts", &url),
                ("http://tickets.example.internal/alerts", &url),
            ],
        );
        std::fs::write(at("alertmanager.yml"), routes).unwrap();
        let alertmanager_address = format!("127.0.0.1:{}", free_port());
        let prometheus_address = format!("127.0.0.1:{}", free_port());
        write_targets(folder.path(), &alertmanager_address, targets);
        let flag = |name: &str, value: PathBuf| format!("--{name}={}", value.display());
        let alertmanager = Process::program(Path::new("prometheus-alertmanager"))
            .arg(flag("config.file", at("alertmanager.yml")))
            .arg(flag("storage.path", at("alertmanager")))
            .args([format!("--web.listen-address={alertmanager_address}")])
            .args(["--cluster.listen-address=", "--log.level=warn"])
            .spawn();
        let prometheus = Process::program(Path::new("prometheus"))
            .arg(flag("config.file", at("prometheus.yml")))
            .arg(flag("storage.tsdb.path", at("prometheus")))
            .args([format!("--web.listen-address={prometheus_address}")])
            .args(["--web.enable-lifecycle", "--log.level=warn"])
            .spawn();
        let prometheus_url = format!("http://{prometheus_address}");
        for (url, process) in [
            (format!("{prometheus_url}/-/ready"), &prometheus),
            (format!("http://{alertmanager_address}/-/ready"), &alertmanager),
        ] {
            wait_for(&url, LONG, async || {
                assert!(process.exited().is_none(), "it ended:\n{}", process.output());
                reqwest::get(&url).await.ok()?.status().is_success().then_some(())
            })
            .await;
        }
        Self { folder, alertmanager, prometheus, prometheus_url, alertmanager_address }
    }

    /// Other targets from now on.
    async fn scrape(&self, targets: [&str; 3]) {
        write_targets(self.folder.path(), &self.alertmanager_address, targets);
        let reload = format!("{}/-/reload", self.prometheus_url);
        let answer = reqwest::Client::new().post(reload).send().await.unwrap();
        answer.error_for_status().unwrap();
    }

    /// Waits until a query yields something.
    async fn knows(&self, query: &str) {
        wait_for(query, LONG, async || {
            let running = [&self.alertmanager, &self.prometheus];
            assert!(running.iter().all(|process| process.exited().is_none()), "one has ended");
            let mut url: url::Url = self.prometheus_url.parse().unwrap();
            url.set_path("/api/v1/query");
            url.query_pairs_mut().append_pair("query", query);
            let answer: Value = reqwest::get(url).await.ok()?.json().await.ok()?;
            (!answer["data"]["result"].as_array()?.is_empty()).then_some(())
        })
        .await;
    }
}

fn write_targets(folder: &Path, alertmanager: &str, [api, scheduler, worker]: [&str; 3]) {
    let text = changed(
        "prometheus.yml",
        &[
            ("scrape_interval: 15s", "scrape_interval: 1s"),
            ("evaluation_interval: 15s", "evaluation_interval: 1s"),
            ("alertmanager:9093", alertmanager),
            ("relevo-api:8080", api),
            ("relevo-scheduler:9102", scheduler),
            ("relevo-worker:9101", worker),
        ],
    );
    std::fs::write(folder.join("prometheus.yml"), text).unwrap();
}

/// Waits until the receiver has heard of an alert, and yields it.
async fn told(receiver: &Receiver, alert: &str) -> Value {
    receiver
        .wait(alert, "/alerts", LONG, |bodies| {
            let alerts = bodies.iter().filter_map(|body| body["alerts"].as_array()).flatten();
            let mut wanted = alerts.filter(|one| one["labels"]["alertname"] == alert);
            wanted.find(|one| one["status"] == "firing").cloned()
        })
        .await
}

#[tokio::test]
async fn faults_of_a_cluster_arrive_at_a_receiver() {
    let receiver = Receiver::start().await;
    let mut cluster = Cluster::builder().workers(0).without_scheduler().start().await;
    let enqueue = |job: Value| cluster.request(Method::POST, "/api/v1/jobs").json(&job).send();
    enqueue(json!({"kind": "Noop"})).await.unwrap().error_for_status().unwrap();
    // What the leader finds first: work, and nobody to do it.
    cluster.start_scheduler().await;
    let nobody = format!("127.0.0.1:{}", free_port());
    let addresses = cluster.metrics_addresses();
    let alerting = Alerting::start(&receiver, [&addresses[0], &addresses[1], &nobody]).await;
    let found = told(&receiver, "RelevoWorkWithoutWorker").await;
    assert_eq!(found["labels"]["severity"], "page");
    assert_eq!(found["annotations"]["runbook"], "docs/runbooks/RelevoWorkWithoutWorker.md");
    let found = told(&receiver, "RelevoProcessDown").await;
    assert_eq!(found["labels"]["instance"], nobody);

    cluster.start_worker().await;
    let addresses = cluster.metrics_addresses();
    alerting.scrape([&addresses[0], &addresses[1], &addresses[2]]).await;
    // From here on it can see a rise.
    alerting.knows("relevo_dead_letters_moved_total{kind=\"Noop\"} == 0").await;
    let fatal = json!({"kind": "Noop", "payload": {"fail": "fatal"}});
    let enqueue = |job: Value| cluster.request(Method::POST, "/api/v1/jobs").json(&job).send();
    enqueue(fatal).await.unwrap().error_for_status().unwrap();
    let found = told(&receiver, "RelevoDeadLettersGrowing").await;
    assert_eq!(found["labels"]["queue"], "default");
    assert_eq!(found["labels"]["severity"], "ticket");
}
