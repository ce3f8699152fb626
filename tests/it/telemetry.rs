//! Traces as a real collector receives them, log files, and that no secret is in either.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use relevo_jobs::{Noop, NoopFailure};
use relevo_queue::Queue;
use relevo_runs::schedules::Jitter;
use relevo_runs::typed_job;
use relevo_scheduler::fire::{self, Fired};
use relevo_scheduler::lease::Tenure;
use relevo_scheduler::schedule::{self, Action, NewSchedule, Origin};
use relevo_scheduler::settle::{MissedRuns, Policy, Verdict};
use relevo_tests::rotel::Span;
use relevo_tests::{Cluster, Process, Rotel, SOURCE, TestDatabase, wait_for};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

const LONG: Duration = Duration::from_secs(60);
const RUN: Duration = Duration::from_secs(120);

async fn enqueue(cluster: &Cluster, job: &Value, traceparent: Option<&str>) -> String {
    let mut request = cluster.request(Method::POST, "/api/v1/jobs").json(job);
    if let Some(traceparent) = traceparent {
        request = request.header("traceparent", traceparent);
    }
    let answer = request.send().await.unwrap().error_for_status().unwrap();
    answer.json::<Value>().await.unwrap()["id"].to_string()
}

/// The spans of a job's attempts, in their order.
fn attempts<'a>(spans: &'a [Span], job: &str) -> Vec<&'a Span> {
    let mut found: Vec<_> = spans
        .iter()
        .filter(|span| span.facts.get("relevo.job.id").is_some_and(|id| id == job))
        .collect();
    found.sort_by_key(|span| span.facts["relevo.job.epoch"].parse::<i64>().unwrap());
    found
}

fn of_id<'a>(spans: &'a [Span], id: &str) -> Option<&'a Span> {
    spans.iter().find(|span| span.id == id)
}

#[tokio::test]
async fn one_trace_from_the_request_to_the_handler() {
    let rotel = Rotel::start().await;
    let cluster = Cluster::builder()
        .set("telemetry.otlp_endpoint", rotel.url())
        .set("scheduler.upkeep_interval_ms", 200)
        .start()
        .await;

    // A caller with a trace of its own: request and job belong to it.
    let (trace_id, caller) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    let traceparent = format!("00-{trace_id}-{caller}-01");
    let job = enqueue(&cluster, &json!({"kind": "Noop"}), Some(&traceparent)).await;
    let (request, handled) = rotel
        .wait("request and job of the caller's trace", LONG, |spans| {
            let handled = (*attempts(spans, &job).first()?).clone();
            Some((of_id(spans, &handled.parent_id)?.clone(), handled))
        })
        .await;
    assert_eq!((&*request.trace_id, &*request.parent_id), (trace_id, caller));
    assert_eq!((&*request.service, &*request.kind), ("relevo-api", "SERVER"));
    assert_eq!(request.name, "POST /api/v1/jobs");
    assert_eq!(request.facts["http.response.status_code"], "202");
    assert_eq!(handled.trace_id, trace_id);
    assert_eq!((&*handled.service, &*handled.kind), ("relevo-worker", "CONSUMER"));
    assert_eq!((&*handled.name, &*handled.status), ("Noop", "UNSET"));
    assert_eq!(handled.facts["messaging.destination.name"], "default");
    assert_eq!(handled.facts["relevo.job.outcome"], "completed");
    assert!(handled.links.is_empty());

    // Without one the request begins it. A retry is a span of its own, linked to the one before.
    let job = enqueue(&cluster, &json!({"kind": "Noop", "payload": {"fail": "once"}}), None).await;
    rotel.wait("its failure", LONG, |spans| attempts(spans, &job).first().map(drop)).await;
    // Not waiting for the backoff, unless it was so short that the second attempt is over already.
    let path = format!("/api/v1/jobs/{job}");
    wait_for("the first attempt to be written back", LONG, async || {
        let retry = cluster.request(Method::POST, &format!("{path}/retry"));
        if retry.send().await.unwrap().status().is_success() {
            return Some(());
        }
        let answer = cluster.request(Method::GET, &path).send().await.unwrap();
        answer.text().await.unwrap().contains("\"completed\"").then_some(())
    })
    .await;
    let (request, first, second) = rotel
        .wait("both attempts", RUN, |spans| {
            let attempts = attempts(spans, &job);
            let (first, second) = (*attempts.first()?, *attempts.get(1)?);
            Some((of_id(spans, &first.parent_id)?.clone(), first.clone(), second.clone()))
        })
        .await;
    assert!(request.parent_id.is_empty() && request.trace_id != trace_id);
    assert_eq!((&first.trace_id, &second.trace_id), (&request.trace_id, &request.trace_id));
    assert_eq!(second.parent_id, request.id);
    assert_eq!(
        (&*first.facts["relevo.job.attempt"], &*second.facts["relevo.job.attempt"]),
        ("1", "2")
    );
    assert_eq!((&*first.status, &*first.message), ("ERROR", "retry: asked to fail"));
    assert_eq!(first.facts["relevo.job.outcome"], "retry");
    assert_eq!(second.status, "UNSET");
    assert_eq!(second.links, [(first.trace_id, first.id)]);

    // A handler that panics has failed as well; what only looks leaves no trace.
    let payload = json!({"kind": "Noop", "payload": {"fail": "panic"}});
    let job = enqueue(&cluster, &payload, None).await;
    let panicked = rotel
        .wait("the panic", LONG, |spans| attempts(spans, &job).first().map(|span| (*span).clone()))
        .await;
    assert_eq!(
        (&*panicked.status, &*panicked.message),
        ("ERROR", "stopped from outside, or a panic")
    );
    assert!(rotel.spans().iter().all(|span| !span.name.contains("/readyz")));
}

#[tokio::test]
async fn every_job_of_a_run_is_in_one_trace() {
    const KINDS: [&str; 5] =
        ["RequestBackup", "DownloadDump", "TranslateChunk", "FinishImport", "Notify"];

    let rotel = Rotel::start().await;
    let cluster = Cluster::builder()
        .workers(2)
        .set("telemetry.otlp_endpoint", rotel.url())
        .set("telemetry.log_format", "json")
        .set("chunk_store.chunk_size_bytes", 1 << 18)
        .start()
        .await;
    // By command, the backup coming by webhook; then over HTTP, the gateway answering itself.
    for (door, mode) in [("relevo backup", "webhook"), ("POST /api/v1/backups/{source}", "sync")] {
        let run = if mode == "webhook" {
            let arguments = ["backup", "run", "--source", SOURCE, "--mode", mode, "--wait"];
            let _ = cluster.relevo(arguments).await.success();
            "1".to_owned()
        } else {
            let path = format!("/api/v1/backups/{SOURCE}");
            let answer = cluster.request(Method::POST, &path).json(&json!({"mode": mode})).send();
            let answer = answer.await.unwrap().error_for_status().unwrap();
            let run = answer.json::<Value>().await.unwrap()["run_id"].to_string();
            let _ = cluster.relevo(["run", "watch", &run]).await.success();
            run
        };
        let (root, jobs) = rotel
            .wait("the whole run", RUN, |spans| {
                let jobs: Vec<_> = spans
                    .iter()
                    .filter(|span| span.facts.get("relevo.run.id") == Some(&run))
                    .cloned()
                    .collect();
                // Each process exports its spans when it likes: the last job's may come before
                // those of the jobs that led to it.
                let names: BTreeSet<_> = jobs.iter().map(|span| span.name.as_str()).collect();
                KINDS.iter().all(|kind| names.contains(kind)).then_some(())?;
                let root = spans.iter().find(|span| span.name == door)?;
                Some((root.clone(), jobs))
            })
            .await;
        assert!(root.parent_id.is_empty());
        for job in &jobs {
            assert_eq!(job.trace_id, root.trace_id, "{} is in another trace", job.name);
        }
        let stored = cluster.relevo(["run", "show", &run, "--json"]).await.json().to_string();
        assert!(stored.contains(&root.trace_id), "the run doesn't tell its trace: {stored}");
    }
    for worker in &cluster.workers {
        lines_of_handlers_name_job_and_run(worker);
    }
}

/// Every line that a handler of the import wrote says for which job and run.
fn lines_of_handlers_name_job_and_run(worker: &Process) {
    let mut seen = 0;
    for line in worker.output().lines() {
        let line: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        let target = line["target"].as_str().unwrap_or_default();
        if target.starts_with("relevo_worker::backup") && !target.contains("reconcile") {
            let span = &line["spans"][0];
            assert!(span["job_id"].is_i64() && span["run_id"].is_i64(), "no ids in {line}");
            assert_eq!(span["trace_id"].as_str().map(str::len), Some(32), "no trace in {line}");
            seen += 1;
        }
    }
    assert!(seen > 0, "this worker's handlers said nothing");
}

#[tokio::test]
async fn a_schedules_fire_begins_a_trace() {
    let rotel = Rotel::start().await;
    let env = BTreeMap::from([("OTEL_EXPORTER_OTLP_ENDPOINT", rotel.url())]);
    let settings =
        relevo_settings::load(None, &|name| env.get(name).map(|text| (*text).to_owned()));
    relevo_telemetry::trace::init(&settings.unwrap().settings.telemetry, "scheduler").unwrap();

    let database = TestDatabase::new().await;
    let (pool, queue) = (database.pool(), Queue::new(database.pool().clone()));
    let schedule = NewSchedule {
        name: "hourly".to_owned(),
        rhythm: "cron 0 * * * *".parse().unwrap(),
        zone: chrono_tz::Tz::UTC,
        action: Action::Job {
            kind: "Noop".to_owned(),
            payload: serde_json::value::RawValue::from_string("{}".to_owned()).unwrap(),
        },
        policy: Policy { missed: MissedRuns::Once, max_age: chrono::Duration::hours(6) },
        jitter: Jitter::NONE,
        enabled: true,
    };
    let mut conn = pool.acquire().await.unwrap();
    schedule::put_in(&mut conn, &schedule, Origin::Operator, "test").await.unwrap();
    let schedule = schedule::active(pool).await.unwrap().remove(0).unwrap();
    let tenure = Tenure::begin(pool, "test", LONG).await.unwrap().unwrap();
    let slot = "2026-01-01T06:00:00Z".parse().unwrap();
    let fired = fire::settle_slot(pool, &queue, &tenure, &schedule, slot, &Verdict::Start).await;
    let Ok(Fired::Job(job)) = fired else { panic!("{fired:?}") };
    let traceparent: String =
        sqlx::query_scalar("SELECT traceparent FROM relevo.job WHERE id = $1")
            .bind(job)
            .fetch_one(pool)
            .await
            .unwrap();

    relevo_telemetry::trace::shutdown().await;
    let fire = rotel.wait("the fire", LONG, |spans| spans.first().cloned()).await;
    assert_eq!(traceparent, format!("00-{}-{}-01", fire.trace_id, fire.id));
    assert_eq!((&*fire.service, &*fire.name), ("relevo-scheduler", "fire of a schedule"));
    assert_eq!(fire.facts["relevo.schedule"], "hourly");
}

#[tokio::test]
async fn what_is_not_sampled_is_not_sent_and_keeps_its_trace() {
    let rotel = Rotel::start().await;
    let cluster = Cluster::builder()
        .without_scheduler()
        .set("telemetry.otlp_endpoint", rotel.url())
        .set("telemetry.trace_ratio", "0")
        .start()
        .await;
    let unsampled = enqueue(&cluster, &json!({"kind": "Noop"}), None).await;
    let refused = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    let refused = enqueue(&cluster, &json!({"kind": "Noop"}), Some(refused)).await;
    // The caller's decision is stronger than the ratio.
    let wanted = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let wanted = enqueue(&cluster, &json!({"kind": "Noop"}), Some(wanted)).await;
    rotel.wait("the wanted job", LONG, |spans| attempts(spans, &wanted).first().map(drop)).await;
    let spans = rotel.spans();
    assert!(attempts(&spans, &unsampled).is_empty() && attempts(&spans, &refused).is_empty());
    let job = cluster.request(Method::GET, &format!("/api/v1/jobs/{refused}")).send();
    let job: Value = job.await.unwrap().json().await.unwrap();
    let kept = job["traceparent"].as_str().unwrap();
    assert!(kept.starts_with("00-0af7651916cd43dd8448eb211c80319c-") && kept.ends_with("-00"));
}

#[tokio::test]
async fn a_collector_that_is_away_or_silent_costs_no_job() {
    // It takes connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent_url = format!("http://{}", silent.local_addr().unwrap());
    let held = tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = silent.accept().await {
            held.push(connection);
        }
    });
    let nobody = format!("http://127.0.0.1:{}", relevo_tests::free_port());
    for url in [nobody, silent_url] {
        let cluster = Cluster::builder()
            .without_scheduler()
            .set("telemetry.otlp_endpoint", url)
            .start()
            .await;
        for _ in 0..100 {
            enqueue(&cluster, &json!({"kind": "Noop"}), None).await;
        }
        wait_for("the jobs", LONG, async || {
            let done = "SELECT count(*) FROM relevo.job_history
                         WHERE kind = 'Noop' AND state = 'completed'";
            let done: i64 =
                sqlx::query_scalar(done).fetch_one(cluster.control().pool()).await.unwrap();
            (done == 100).then_some(())
        })
        .await;
        let worker = &cluster.workers[0];
        worker.wait_line("the collector takes no traces", LONG).await;
        let begun = Instant::now();
        worker.terminate();
        assert!(worker.wait_exit(LONG).await.success());
        // The drain of an idle worker, and the 3 s that the last traces may take.
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let told = worker.output().matches("the collector takes no traces").count();
        assert_eq!(told, 1, "told again and again");
    }
    held.abort();
}

/// Every process of a cluster writes to one file, which is put aside again and again: what they
/// said on standard error is what the files hold.
#[tokio::test]
async fn a_log_file_that_rotates_loses_no_line() {
    let folder = TempDir::with_prefix("relevo-log-").unwrap();
    let path = folder.path().join("logs/relevo.log");
    let mut cluster = Cluster::builder()
        .workers(2)
        .set("telemetry.log_file", path.to_str().unwrap())
        .set("telemetry.log_max_size_mb", 1)
        .set("telemetry.log_max_files", 100)
        .set("telemetry.log_level", "info")
        .set("telemetry.log_format", "json")
        .start()
        .await;
    // Each writes one line of about 260 bytes.
    let failing = typed_job(&Noop { fail: Some(NoopFailure::Fatal), ..Noop::default() });
    let queue = Queue::new(cluster.control().pool().clone());
    for _ in 0..14 {
        queue.enqueue_many(&vec![failing.clone(); 1_000]).await.unwrap();
    }
    let third = path.with_extension("log.3");
    wait_for("three files put aside", RUN, async || third.exists().then_some(())).await;
    let processes: Vec<_> = cluster
        .workers
        .drain(..)
        .chain(cluster.scheduler.take())
        .chain(cluster.api.take())
        .collect();
    let mut said = BTreeMap::new();
    for process in &processes {
        process.terminate();
        process.wait_exit(LONG).await;
        count_lines(&process.output(), &mut said);
    }
    let mut kept = BTreeMap::new();
    let (mut files, mut largest) = (0, 0);
    for entry in std::fs::read_dir(path.parent().unwrap()).unwrap() {
        let file = entry.unwrap().path();
        files += 1;
        largest = largest.max(std::fs::metadata(&file).unwrap().len());
        count_lines(&std::fs::read_to_string(&file).unwrap(), &mut kept);
    }
    assert!(files >= 4, "only {files} files");
    // Several processes may each write one line more before they notice.
    assert!(largest < (1 << 20) + (64 << 10), "a file of {largest} bytes");
    let lost: Vec<_> = said.iter().filter(|(line, count)| kept.get(*line) != Some(count)).collect();
    let added: Vec<_> = kept.keys().filter(|line| !said.contains_key(*line)).collect();
    assert!(lost.is_empty() && added.is_empty(), "lost {lost:#?}, added {added:#?}");
}

fn count_lines(text: &str, counts: &mut BTreeMap<String, usize>) {
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is torn");
    for line in text.lines() {
        *counts.entry(line.to_owned()).or_default() += 1;
    }
}

/// Everything at the most talkative level, with secrets wherever the settings take one, through a
/// backup that succeeds and one that fails.
#[tokio::test]
async fn no_secret_is_written_anywhere() {
    const PASSWORD: &str = "p4ss-of-the-target";
    const HOOK: &str = "T0SECRET/B0SECRET/hook-of-the-shop";
    const HEADER: &str = "token-of-the-collector";
    let rotel = Rotel::start().await;
    let folder = TempDir::with_prefix("relevo-secrets-").unwrap();
    let log = folder.path().join("relevo.log");
    let (control, target) = TestDatabase::pair().await;
    // The test's server trusts everybody: a password that it doesn't ask for is still a secret.
    let with_password = |url: &str| url.replacen('@', &format!(":{PASSWORD}@"), 1);
    let cluster = Cluster::builder()
        .set("telemetry.log_level", "trace,h2=debug,mio=info")
        .set("telemetry.log_file", log.to_str().unwrap())
        .set("telemetry.log_max_size_mb", 1_000)
        .set("telemetry.otlp_endpoint", rotel.url())
        .set("telemetry.otlp_headers", format!("Authorization=Bearer {HEADER}"))
        .set("database.url", with_password(control.url()))
        .set(&format!("backup.{SOURCE}.target_url"), with_password(target.url()))
        .set("notify.webhook_url", format!("http://127.0.0.1:9/services/{HOOK}"))
        .set("outbound.allow", serde_json::json!(["127.0.0.1:9"]))
        .start()
        .await;
    let mut told = String::new();
    for mode in ["webhook", "sync"] {
        let arguments = ["backup", "run", "--source", SOURCE, "--mode", mode, "--wait"];
        told += &cluster.relevo(arguments).await.success().stderr;
    }
    // A target that is not there: the address is in the error.
    drop(target);
    let failed = cluster.relevo(["backup", "run", "--source", SOURCE, "--mode", "sync"]).await;
    told += &failed.stdout;
    wait_for("a failure of the import", RUN, async || {
        cluster.workers[0].output().contains("did not complete").then_some(())
    })
    .await;
    told += &cluster.relevo(["config", "check"]).await.stdout;
    let missing = control.url().replacen(control.name(), "not_there", 1);
    let refused = cluster_command(&cluster, &with_password(&missing)).await;
    assert!(refused.contains("not_there"), "{refused}");
    told += &refused;

    let processes = cluster.workers.iter().chain(&cluster.scheduler).chain(&cluster.api);
    told.extend(processes.map(Process::output));
    told += &std::fs::read_to_string(&log).unwrap();
    told += &rotel.output();
    assert!(told.len() > 50_000, "too little was said: {} bytes", told.len());
    let key = cluster.api_key();
    let secrets = [
        PASSWORD,
        HOOK,
        HEADER,
        relevo_tests::gateway::API_KEY,
        // Its prefix may be shown.
        key.rsplit_once('_').unwrap().1,
    ];
    for secret in secrets {
        let line = told.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret} in: {}", line.unwrap_or_default());
    }
    // The gateway was told a token; nobody else was. All that Relevo makes have this form.
    let asked = cluster.gateway().record().await.asked;
    assert!(asked.iter().any(|asked| asked.webhook_url.is_some()), "no webhook was asked for");
    let hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
    let made = told.split(|c| !hex(c)).find(|word| word.len() >= 64);
    assert!(made.is_none(), "a secret of Relevo's own: {}", made.unwrap_or_default());
}

/// A command against another control plane; what it says.
async fn cluster_command(cluster: &Cluster, database_url: &str) -> String {
    let output = tokio::process::Command::from(relevo_tests::clean_command("relevo"))
        .env("RELEVO_CONFIG", cluster.config())
        .env("RELEVO_DATABASE_URL", database_url)
        .args(["run", "list"])
        .current_dir(cluster.config().parent().unwrap_or(Path::new("/")))
        .output()
        .await
        .unwrap();
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}
