//! Nothing that Relevo produces holds a secret: logs, errors, payloads, traces, pages, answers.
//!
//! Every cluster of every test is searched when it ends (`relevo_tests::planted`); here secrets are
//! wherever the settings take one, and things go wrong wherever errors could repeat them.

use std::time::Duration;

use relevo_tests::gateway::{API_KEY, Fault};
use relevo_tests::planted::{self, DATABASE_PASSWORD, HOOK_SECRET, SMTP_PASSWORD};
use relevo_tests::{Cluster, Rotel, free_port, wait_for};
use reqwest::Method;
use serde_json::{Value, json};

/// How long a run may take on a busy machine.
const RUN_TIMEOUT: Duration = Duration::from_secs(120);

/// Starts a run over the API and waits for its end; the run.
async fn run(cluster: &Cluster, source: &str, mode: &str) -> Value {
    let path = format!("/api/v1/backups/{source}");
    let started = cluster.request(Method::POST, &path).json(&json!({"mode": mode}));
    let started: Value = started.send().await.unwrap().json().await.unwrap();
    let id = started["run_id"].as_i64().unwrap_or_else(|| panic!("{started}"));
    wait_for("the end of the run", RUN_TIMEOUT, async || {
        let answer = cluster.request(Method::GET, &format!("/api/v1/runs/{id}")).send().await;
        let run: Value = answer.ok()?.json().await.ok()?;
        (!run["finished_at"].is_null()).then_some(run)
    })
    .await
}

/// What an address answers, with every secret looked for in it.
async fn look(cluster: &Cluster, path: &str) -> String {
    let answer = cluster.request(Method::GET, path).send().await.unwrap();
    let headers = format!("{:?}", answer.headers());
    let text = format!("{headers}\n{}", answer.text().await.unwrap());
    planted::assert_absent(path, &text);
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_was_produced_holds_a_secret() {
    let rotel = Rotel::start().await;
    let closed = free_port();
    let broken = "backup.rota";
    let cluster = Cluster::builder()
        .set("telemetry.log_level", "debug")
        .set("telemetry.otlp_endpoint", rotel.url())
        .set("smtp.host", "127.0.0.1")
        .set("smtp.port", closed.to_string())
        .set("smtp.security", "none")
        .set("smtp.user", "relevo@tienda.test")
        .set("smtp.password", SMTP_PASSWORD)
        .set("notify.email", "dueno@tienda.test")
        .set("notify.webhook_url", format!("http://127.0.0.1:{closed}/services/{HOOK_SECRET}"))
        .set("outbound.allow", json!([format!("127.0.0.1:{closed}")]))
        .set(&format!("{broken}.gateway_url"), format!("http://127.0.0.1:{closed}"))
        .set(&format!("{broken}.api_key"), API_KEY)
        .set(
            &format!("{broken}.target_url"),
            format!("postgres://tienda:{DATABASE_PASSWORD}@127.0.0.1:{closed}/nada"),
        )
        .set(&format!("{broken}.schedule_enabled"), false)
        .start()
        .await;

    // A success by webhook; then a gateway that refuses, and repeats what it was told.
    let good = run(&cluster, "sicar", "webhook").await;
    assert_eq!(good["state"], "succeeded", "{good}");
    let echo = format!("the key {API_KEY} may not do this");
    cluster.gateway().plan(vec![Fault::FailBackup { error: echo }.always()]).await;
    let path = "/api/v1/backups/sicar";
    let asked = cluster.request(Method::POST, path).json(&json!({"mode": "sync"}));
    let bad: Value = asked.send().await.unwrap().json().await.unwrap();
    let log = format!("/api/v1/runs/{}/log", bad["run_id"]);
    wait_for("the gateway's refusal", RUN_TIMEOUT, async || {
        look(&cluster, &log).await.contains("may not do this").then_some(())
    })
    .await;
    // It would ask again, minutes later.
    cluster.relevo(["run", "cancel", &bad["run_id"].to_string()]).await;
    // A source whose gateway and target are not there; it would be tried for hours.
    let path = "/api/v1/backups/rota";
    let hopeless: Value =
        cluster.request(Method::POST, path).send().await.unwrap().json().await.unwrap();
    let log = format!("/api/v1/runs/{}/log", hopeless["run_id"]);
    wait_for("a first failure", RUN_TIMEOUT, async || {
        let text = look(&cluster, &log).await;
        let tried = look(&cluster, "/api/v1/jobs?state=retryable,scheduled").await;
        (text.contains("gateway") && tried.contains("RequestBackup")).then_some(())
    })
    .await;

    // Commands look at everything and fail in their own ways; their output is searched.
    for command in [
        vec!["config", "check"],
        vec!["config", "check", "--json"],
        vec!["doctor"],
        vec!["run", "list", "--json"],
        vec!["run", "show", "2"],
        vec!["run", "log", "1", "--json"],
        vec!["job", "list", "--json"],
        vec!["dead", "list"],
        vec!["key", "list", "--json"],
        vec!["connection", "list", "--json"],
        vec!["schedule", "list"],
        vec!["backup", "run", "--source", "rota"],
        vec!["run", "cancel", "3"],
    ] {
        cluster.relevo(command).await;
    }
    let unreachable = format!("postgres://tienda:{DATABASE_PASSWORD}@127.0.0.1:{closed}/nada");
    let dump = concat!(env!("CARGO_MANIFEST_DIR"), "/data/shop.sql.gz");
    let refused =
        cluster.relevo(["dump", "import", dump, "--to", &unreachable, "--schema", "x"]).await;
    assert!(!refused.status.success());

    // Every answer and every page.
    for path in [
        "/metrics",
        "/readyz",
        "/openapi.json",
        "/api/v1/runs",
        "/api/v1/runs/1",
        "/api/v1/runs/2/log",
        "/api/v1/jobs?limit=500",
        "/api/v1/dead-letters",
        "/api/v1/queues",
        "/api/v1/sources",
        "/api/v1/schedules",
        "/api/v1/keys",
        "/api/v1/audit",
        "/api/v1/connections",
    ] {
        look(&cluster, path).await;
    }
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
    let client = client.build().unwrap();
    let entered = client
        .post(format!("{}/console/login", cluster.api_url()))
        .header("origin", cluster.api_url())
        .body(format!("key={}", cluster.api_key()))
        .send()
        .await
        .unwrap();
    let cookie = entered.headers()["set-cookie"].to_str().unwrap();
    let (cookie, _) = cookie.split_once(';').unwrap();
    planted::plant(cookie.split_once('=').unwrap().1);
    for page in [
        "",
        "/runs",
        "/runs/1",
        "/runs/2",
        "/runs/3",
        "/sources",
        "/queues",
        "/jobs",
        "/jobs/1",
        "/dead-letters",
        "/schedules",
    ] {
        let url = format!("{}/console{page}", cluster.api_url());
        let answer = client.get(&url).header("cookie", cookie).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{page}");
        planted::assert_absent(&url, &answer.text().await.unwrap());
    }

    // Traces as they arrived elsewhere; what its process wrote is searched at its end too.
    rotel.wait("traces", RUN_TIMEOUT, |spans| (spans.len() > 20).then_some(())).await;
    planted::assert_absent("the traces", &rotel.output());
    assert_eq!(cluster.find_secrets().await, Vec::<String>::new());

    // The search does find what is there.
    let leak = "INSERT INTO relevo.audit (actor, action, object, after)
                VALUES ('test', 'test.leak', 'x', jsonb_build_object('a', $1::text))";
    sqlx::query(leak)
        .bind(format!("x{SMTP_PASSWORD}x"))
        .execute(cluster.control().pool())
        .await
        .unwrap();
    let found = cluster.find_secrets().await;
    assert!(found.len() == 1 && found[0].starts_with("relevo.audit"), "{found:?}");
    sqlx::query("DELETE FROM relevo.audit WHERE action = 'test.leak'")
        .execute(cluster.control().pool())
        .await
        .unwrap();
}
