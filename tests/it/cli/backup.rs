//! `relevo backup run`, `relevo run …` as an operator uses them, against the gateway's simulator.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use relevo_tests::gateway::{API_KEY, Fault};
use relevo_tests::{Gateway, Process, ShopDump, TestDatabase, binary_path, wait_for};
use serde_json::Value;

use super::Relevo;
use super::bad_dump::{dump, gzip};
use super::operate::{assert_has, service};

const LONG: Duration = Duration::from_secs(90);

/// A shop: its gateway, a control plane, a target, a worker and a scheduler.
struct Shop {
    relevo: Relevo,
    gateway: Gateway,
    target: TestDatabase,
    dump: ShopDump,
    worker: Process,
    scheduler: Process,
    _control: TestDatabase,
}

impl Shop {
    async fn open() -> Self {
        let dump = ShopDump::committed();
        let gateway = Gateway::start(&dump.path, 0.002).await;
        let (control, target) = TestDatabase::pair().await;
        let relevo = Relevo::on(&control)
            .env("TUNNEL_API_URL", gateway.url())
            .env("TUNNEL_API_KEY", API_KEY)
            .env("DATABASE_URL", target.url())
            .env("RELEVO_BACKUP_SICAR_RETRY_PAUSE_SECONDS", "1");
        let worker = service(&relevo, "worker");
        let scheduler = service(&relevo, "scheduler");
        Self { relevo, gateway, target, dump, worker, scheduler, _control: control }
    }

    async fn rows(&self, table: &str) -> u64 {
        let sql = format!("SELECT count(*) FROM public.{table}");
        let rows: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(self.target.pool())
            .await
            .unwrap();
        rows.try_into().unwrap()
    }

    async fn run_state(&self, id: &str) -> String {
        let run = self.relevo.json(&["run", "show", id]).await;
        run["state"].as_str().unwrap().to_owned()
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        // Before their databases go.
        self.worker.kill();
        self.scheduler.kill();
    }
}

#[tokio::test]
async fn a_backup_is_run_to_its_certificate() {
    let shop = Shop::open().await;
    let relevo = &shop.relevo;
    let answer = relevo.run(&["backup", "run", "--source", "sicar", "--wait"]).await;
    assert_eq!(answer.code, 0, "{answer:?}\n{}", shop.worker.output());
    assert!(answer.err.contains("run 1 is started"), "{answer:?}");
    assert!(answer.err.contains("download") || answer.err.contains("load"), "{answer:?}");
    // The certificate: every table with its rows on both sides.
    for (table, expected) in &shop.dump.reference.tables {
        let line = answer
            .out
            .lines()
            .find(|line| line.split_whitespace().next() == Some(table))
            .unwrap_or_else(|| panic!("{table} is not in the certificate: {}", answer.out));
        let columns: Vec<&str> = line.split_whitespace().collect();
        let shown = columns[1].replace(',', "");
        assert_eq!(shown, expected.rows.to_string(), "{line}");
        assert_eq!(columns[1], columns[2], "{line}");
        assert!(line.ends_with("equal"), "{line}");
    }
    assert_eq!(shop.rows("articulo").await, shop.dump.reference.tables["articulo"].rows);

    let run = relevo.json(&["run", "show", "1"]).await;
    assert_has(
        &run,
        &[
            "id",
            "pipeline",
            "source",
            "state",
            "phase",
            "trigger",
            "options",
            "created_at",
            "started_at",
            "finished_at",
            "progress",
            "stats",
            "certificate",
            "error",
            "cancel_requested",
        ],
    );
    assert_eq!(run["state"], "succeeded");
    assert!(run["trigger"].as_str().unwrap().starts_with("cli:"), "{run}");
    assert_has(&run["certificate"], &["tables", "rows", "duration_ms", "schema", "skipped"]);
    assert_has(&run["certificate"]["tables"][0], &["table", "rows_dump", "rows_target"]);
    let text = relevo.ok(&["run", "show", "1"]).await;
    assert!(text.contains("succeeded") && text.contains("ROWS IN DUMP"), "{text}");
    let list = relevo.json(&["run", "list", "--source", "sicar", "--state", "succeeded"]).await;
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert!(relevo.ok(&["run", "list"]).await.contains("succeeded"));

    let events = relevo.json(&["run", "log", "1"]).await;
    assert_has(&events[0], &["id", "run_id", "at", "level", "message", "fields"]);
    // An ended run's log ends by itself, one document a line.
    let followed = relevo.ok(&["run", "log", "1", "--follow", "--json"]).await;
    let lines: Vec<Value> =
        followed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), events.as_array().unwrap().len());
    // Watching what has ended tells its end.
    let watched = relevo.json(&["run", "watch", "1"]).await;
    assert_eq!(watched["state"], "succeeded");
    relevo.refuses(&["run", "cancel", "1"], 1, &["ended already"]).await;
}

#[tokio::test]
async fn a_failed_run_has_its_exit_code_and_reason_and_leaves_the_data() {
    let shop = Shop::open().await;
    let relevo = &shop.relevo;
    relevo.ok(&["backup", "run", "--source", "sicar", "--wait", "--mode", "sync"]).await;
    let before = shop.rows("articulo").await;
    shop.gateway.plan(vec![Fault::MissingCompleted.always()]).await;
    let args = ["backup", "run", "--source", "sicar", "--wait"];
    let answer = relevo.run(&args).await;
    assert_eq!(answer.code, 1, "{answer:?}");
    for part in ["error: run 2 failed", "Dump completed", "previous data are untouched"] {
        assert!(answer.err.contains(part), "{part}: {answer:?}");
    }
    assert_eq!(shop.rows("articulo").await, before);
    let run = relevo.json(&["run", "show", "2"]).await;
    assert!(run["error"].as_str().is_some_and(|error| error.contains("Dump completed")), "{run}");

    let answer = relevo.run(&["run", "watch", "2", "--json"]).await;
    assert_eq!(answer.code, 1);
    let run: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(run["state"], "failed");
    let error: Value = serde_json::from_str(answer.err.trim()).unwrap();
    assert_eq!(error["error"]["exit_code"], 1);
}

#[tokio::test]
async fn a_backup_that_has_shrunk_is_loaded_when_a_person_insists() {
    let shop = Shop::open().await;
    let relevo = &shop.relevo;
    let serve = async |rows: u32| {
        let path = relevo.file(&format!("{rows}.sql.gz"), gzip(&dump(rows)));
        shop.gateway.serve(Path::new(&path)).await;
    };
    let args = ["backup", "run", "--source", "sicar", "--wait"];
    serve(150).await;
    relevo.ok(&args).await;
    serve(10).await;
    let answer = relevo.run(&args).await;
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.err.contains("articulo") && answer.err.contains("--force"), "{answer:?}");
    assert_eq!(shop.rows("articulo").await, 150);
    relevo.ok(&[&args[..], &["--force"]].concat()).await;
    assert_eq!(shop.rows("articulo").await, 10);
}

#[tokio::test]
async fn the_watching_can_end_and_the_run_be_cancelled() {
    let shop = Shop::open().await;
    let relevo = &shop.relevo;
    shop.gateway.plan(vec![Fault::SlowBackup { seconds: 300.0 }.always()]).await;
    let mut watching = tokio::process::Command::new(binary_path("relevo"))
        .args(["backup", "run", "--source", "sicar", "--wait"])
        .env_clear()
        .envs(relevo.environment().iter().map(|(name, value)| (name, value)))
        .current_dir(relevo.folder())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    wait_for("the run to ask the gateway", LONG, async || {
        (!shop.gateway.record().await.asked.is_empty()).then_some(())
    })
    .await;
    let pid = rustix::process::Pid::from_raw(watching.id().unwrap().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let status = tokio::time::timeout(LONG, watching.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(130));
    assert_eq!(shop.run_state("1").await, "running", "only the watching has ended");

    let second = ["backup", "run", "--source", "sicar"];
    relevo.refuses(&second, 1, &["run 1", "relevo run watch 1", "relevo run cancel 1"]).await;
    relevo.refuses(&["backup", "run", "--source", "otra"], 5, &["otra", "sicar"]).await;
    let webhook = ["backup", "run", "--source", "sicar", "--mode", "webhook"];
    relevo.refuses(&webhook, 3, &["api.public_url"]).await;

    let cancelled = relevo.json(&["run", "cancel", "1"]).await;
    assert_eq!(cancelled["cancel_requested"], true);
    let answer = relevo.run(&["run", "watch", "1"]).await;
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.err.contains("cancelled"), "{answer:?}");
    assert_eq!(shop.run_state("1").await, "cancelled");
}
