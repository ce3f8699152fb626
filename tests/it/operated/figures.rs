//! What a running cluster exports: what dashboards and rules ask for, what the documentation says,
//! and not too much.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use relevo_queue::Queue;
use relevo_runs::typed_job;
use relevo_tests::{Cluster, SOURCE, wait_for};
use serde_json::json;

use super::{after, dashboards, figures_in, text};

const LONG: Duration = Duration::from_secs(60);

/// What a process exports.
async fn scrape(client: &reqwest::Client, address: &str) -> String {
    let answer = client.get(format!("http://{address}/metrics")).send().await.unwrap();
    answer.error_for_status().unwrap().text().await.unwrap()
}

/// Each series of a scrape: its name, and its value.
fn series(scraped: &str) -> impl Iterator<Item = (&str, f64)> {
    scraped.lines().filter(|line| !line.starts_with('#')).map(|line| {
        let (series, value) = line.rsplit_once(' ').unwrap();
        (series, value.parse().unwrap())
    })
}

#[tokio::test]
async fn dashboards_rules_and_documentation_name_what_is_exported() {
    let cluster =
        Cluster::builder().set(&format!("backup.{SOURCE}.schedule_enabled"), true).start().await;
    let request = cluster.request(reqwest::Method::POST, "/api/v1/jobs");
    let answer = request.json(&json!({"kind": "Noop"})).send().await.unwrap();
    answer.error_for_status().unwrap();
    let _ = cluster.relevo(["backup", "run", "--source", SOURCE, "--wait"]).await.success();

    let recorded = text("deploy/prometheus/relevo.rules.yml");
    let alerts = text("deploy/prometheus/relevo.alerts.yml");
    let records: BTreeSet<_> = after(&recorded, "- record:").into_iter().collect();
    let mut wanted = figures_in(&recorded);
    wanted.extend(figures_in(&alerts));
    for (_, board) in dashboards::all() {
        let variables = board["templating"]["list"].as_array().unwrap().clone();
        let asked = dashboards::panels(&board).into_iter().flat_map(|panel| {
            panel["targets"].as_array().unwrap().iter().map(|target| target["expr"].clone())
        });
        let queries = variables.into_iter().map(|variable| variable["definition"].clone());
        for text in asked.chain(queries).filter_map(|text| text.as_str().map(str::to_owned)) {
            wanted.extend(figures_in(&text));
        }
    }
    assert!(wanted.len() > 40, "{wanted:?}");

    let table = text("docs/metrics.md");
    let table = table.split_once("<!-- figures -->").unwrap().1;
    let documented: BTreeSet<_> = after(table, "| `relevo_")
        .into_iter()
        .map(|rest| format!("relevo_{}", rest.split('`').next().unwrap()))
        .collect();

    // The worker exports the last phase of a run a moment after the run has ended.
    let missing = |exported: &BTreeSet<String>, families: &BTreeSet<String>| {
        let asked = wanted.iter().filter(|name| !records.contains(name.as_str()));
        let asked = asked.filter(|name| !exported.contains(*name));
        asked.chain(documented.difference(families)).cloned().collect::<Vec<_>>()
    };
    let client = reqwest::Client::new();
    let mut last = Vec::new();
    let families = wait_for("every figure to be exported", LONG, async || {
        let mut text = String::new();
        for address in cluster.metrics_addresses() {
            text += &scrape(&client, &address).await;
        }
        let name = |series: &str| series.split('{').next().unwrap().to_owned();
        let exported: BTreeSet<_> = series(&text).map(|(series, _)| name(series)).collect();
        let families: BTreeSet<String> = after(&text, "# HELP relevo_")
            .into_iter()
            .map(|rest| format!("relevo_{}", rest.split(' ').next().unwrap()))
            .collect();
        let now = missing(&exported, &families);
        if now != last {
            eprintln!("not exported: {now:?}");
            last.clone_from(&now);
        }
        now.is_empty().then_some(families)
    })
    .await;
    let undocumented: Vec<_> = families.difference(&documented).collect();
    assert!(undocumented.is_empty(), "docs/metrics.md lacks {undocumented:?}");
}

/// The most series that one process may export with fifty queues.
const SERIES_MAX: usize = 2_000;

/// And how long its answer may take, in a build without optimisation, at its best.
const SCRAPE_MAX: Duration = Duration::from_millis(20);

#[tokio::test]
async fn fifty_queues_cost_few_series_and_replicas_add_up() {
    const QUEUES: usize = 50;
    const EACH: usize = 4;
    const REPLICAS: usize = 20;

    // One that has seen every queue, then many.
    let builder = Cluster::builder().workers(1).without_scheduler();
    let mut cluster = builder.set("database.max_connections", 3).start().await;
    let queue = Queue::new(cluster.control().pool().clone());
    let jobs: Vec<_> = (0..QUEUES * EACH)
        .map(|n| typed_job(&relevo_jobs::Noop::default()).queue(format!("queue-{}", n % QUEUES)))
        .collect();
    queue.enqueue_many(&jobs).await.unwrap();
    // A dead letter keeps each queue among those that the leader exports.
    let fatal = relevo_jobs::Noop {
        fail: Some(relevo_jobs::NoopFailure::Fatal),
        ..relevo_jobs::Noop::default()
    };
    let dead: Vec<_> = (0..QUEUES).map(|n| typed_job(&fatal).queue(format!("queue-{n}"))).collect();
    queue.enqueue_many(&dead).await.unwrap();
    let client = reqwest::Client::new();
    let sum = async |workers: &[String], wanted: &str, label: &str| -> f64 {
        let mut sum = 0.0;
        for address in workers {
            let scraped = scrape(&client, address).await;
            let found = series(&scraped).filter(|(series, _)| {
                series.starts_with(wanted) && series.contains(label) && series.contains("Noop")
            });
            sum += found.map(|(_, value)| value).sum::<f64>();
        }
        sum
    };
    #[expect(clippy::cast_precision_loss, reason = "small numbers")]
    let (all, lost) = ((QUEUES * EACH) as f64, QUEUES as f64);
    let ended = async |workers: &[String], all: f64| {
        wait_for("the jobs", LONG, async || {
            let done = sum(workers, "relevo_jobs_finished_total", "outcome=\"completed\"").await;
            let dead = sum(workers, "relevo_dead_letters_moved_total", "").await;
            (done >= all && dead >= lost).then_some(())
        })
        .await;
    };
    ended(&cluster.metrics_addresses().split_off(1), all).await;
    for _ in 1..REPLICAS {
        cluster.start_worker().await;
    }
    queue.enqueue_many(&jobs).await.unwrap();
    let workers = cluster.metrics_addresses().split_off(1);
    let all = 2.0 * all;
    ended(&workers, all).await;
    let done = sum(&workers, "relevo_jobs_finished_total", "outcome=\"completed\"").await;
    let waits = sum(&workers, "relevo_job_wait_seconds_count", "").await;
    assert!((done - all).abs() < 0.5 && (waits - all - lost).abs() < 0.5, "{done}, {waits}");

    cluster.start_scheduler().await;
    let standby = cluster.start_standby().await;
    let addresses = cluster.metrics_addresses();
    // Only the leader exports what is in the database.
    let depth = "relevo_dead_letters_present{queue=\"queue-7\"} 1";
    wait_for("the leader's figures", LONG, async || {
        let mut seen = 0;
        for address in &addresses {
            seen += usize::from(scrape(&client, address).await.contains(depth));
        }
        assert!(seen < 2, "{seen} processes export the same");
        (seen == 1).then_some(())
    })
    .await;
    for address in &addresses {
        let count = series(&scrape(&client, address).await).count();
        // The best of many: whatever else this machine does, once it must have been this fast.
        let mut best = Duration::MAX;
        for _ in 0..20 {
            let begun = Instant::now();
            let _ = scrape(&client, address).await;
            best = best.min(begun.elapsed());
        }
        eprintln!("{address}: {count} series in {best:?}");
        assert!(count < SERIES_MAX, "{address} exports {count} series");
        assert!(best < SCRAPE_MAX, "{address} takes {best:?}");
    }
    drop(standby);
}
