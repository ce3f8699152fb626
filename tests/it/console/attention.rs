//! Connections, alerts, uploads and rollbacks in headless Chromium.

use relevo_tests::{Browser, Cluster, planted};
use serde_json::json;

use super::pages::{all_was_well, log_in, picture};
use crate::notify::receiver::Receiver;

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_tried_changed_and_forgotten_without_showing_its_secret() {
    let receiver = Receiver::start().await;
    let cluster = Cluster::builder()
        .workers(0)
        .set("outbound.allow", json!([receiver.address()]))
        .set("channel.ops.kind", "webhook")
        .set("channel.ops.connection", "hook")
        .start()
        .await;
    let browser = Browser::start("en").await;
    log_in(&browser, &cluster).await;
    let list = format!("{}/console/connections", cluster.api_url());
    let press = "document.querySelector";

    browser.open(&list).await;
    assert!(browser.text("table").await.contains("backup.sicar.target"));
    browser.click("#add summary").await;
    browser.fill("#add input[name=name]", "hook").await;
    browser.script(&format!("{press}('#add select').value = 'webhook'")).await;
    let url = receiver.url(&format!("/services/{}", planted::HOOK_SECRET));
    browser.fill("#add input[name=url]", &url).await;
    picture(&browser, "connections-add").await;
    browser.click("#add button").await;
    browser.wait("location.pathname === '/console/connections/hook'").await;
    browser.wait("document.querySelector('.notice')").await;
    picture(&browser, "connection").await;
    let page = browser.script("return document.documentElement.outerHTML").await;
    let page = page.as_str().unwrap();
    planted::assert_absent("the connection's page", page);
    assert!(page.contains("channel.ops.connection"), "who uses it is named: {page}");

    // The test button says that it works, and for how long it took.
    browser.open(&list).await;
    browser.click("form.action:has(input[value=hook]) button").await;
    browser.wait("document.querySelector('#trial.notice')").await;
    assert!(browser.text("#trial").await.contains("works"));
    picture(&browser, "connections").await;

    // Another address, which may not be reached.
    browser.open(&format!("{list}/hook")).await;
    browser.click("details:has(form.fields) summary").await;
    let secret = format!("https://10.1.2.3/{}", planted::HOOK_SECRET);
    browser.fill("form.fields input[name=url]", &secret).await;
    browser.click("form.fields button").await;
    browser.wait("document.querySelector('.notice')").await;
    assert!(browser.text("dl.facts").await.contains("https://10.1.2.3"));
    browser.open(&list).await;
    browser.click("form.action:has(input[value=hook]) button").await;
    browser.wait("document.querySelector('#trial.warning')").await;
    assert!(browser.text("#trial").await.contains("outbound.allow"));

    browser.open(&format!("{list}/hook")).await;
    browser.click("details.danger summary").await;
    assert!(browser.text("details.danger .warning").await.contains("channel.ops.connection"));
    browser.click("details.danger form.action button").await;
    browser.wait("location.pathname === '/console/connections'").await;
    browser.wait("document.querySelector('.notice')").await;
    assert!(!browser.text("table").await.contains("hook"));
    let actions: Vec<String> = sqlx::query_scalar(
        "SELECT action FROM relevo.audit WHERE actor = 'console:tests' ORDER BY id",
    )
    .fetch_all(cluster.control().pool())
    .await
    .unwrap();
    let expected = ["console.log_in", "connection.add", "connection.set", "connection.remove"];
    assert_eq!(actions, expected);
    all_was_well(&browser, &cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn alerts_and_uploads_are_listed_in_the_language_of_the_browser() {
    // A leader would see that there is nothing to be alarmed about.
    let cluster = Cluster::builder().workers(0).without_scheduler().start().await;
    let pool = cluster.control().pool();
    for (key, rule, subject, over) in [
        ("overdue/backup/sicar", "overdue", "backup/sicar", false),
        ("dead_letters/queue", "dead_letters", "queue", true),
    ] {
        sqlx::query(
            "INSERT INTO relevo.alert
                    (key, rule, subject, details, level, told_level, opened_at, last_seen_at,
                     told_at, resolved_at)
             VALUES ($1, $2, $3, '{\"interval_hours\": 12}', 3, 3, now() - interval '2 hours',
                     now() - interval '1 hour', now() - interval '90 min',
                     CASE WHEN $4 THEN now() END)",
        )
        .bind(key)
        .bind(rule)
        .bind(subject)
        .bind(over)
        .execute(pool)
        .await
        .unwrap();
    }
    let announced = cluster
        .request(reqwest::Method::POST, "/api/v1/uploads")
        .json(&json!({"source": "sicar", "filename": "shop.sql.gz", "total_bytes": 4096}))
        .send()
        .await
        .unwrap();
    let upload: serde_json::Value = announced.json().await.unwrap();
    let piece = cluster
        .request(reqwest::Method::PATCH, &format!("/api/v1/uploads/{}", upload["id"]))
        .header("content-type", "application/offset+octet-stream")
        .header("upload-offset", "0")
        .body(vec![7_u8; 1_024])
        .send()
        .await
        .unwrap();
    assert!(piece.status().is_success(), "{piece:?}");

    let browser = Browser::start("es-MX").await;
    log_in(&browser, &cluster).await;
    assert!(browser.text(".warning a[href*=alerts]").await.contains("alertas abiertas"));
    browser.open(&format!("{}/console/alerts", cluster.api_url())).await;
    picture(&browser, "alerts").await;
    let table = browser.text("table").await;
    assert!(table.contains("está atrasado") && table.contains("hace 2 h"), "{table}");
    let rows = "return document.querySelectorAll('tbody tr').length";
    assert_eq!(browser.script(rows).await, 2);
    browser.click("p.filters a").await;
    browser.wait("document.querySelectorAll('tbody tr').length === 1").await;
    assert!(browser.text("tbody").await.contains("backup/sicar"));

    browser.open(&format!("{}/console/uploads", cluster.api_url())).await;
    picture(&browser, "uploads").await;
    let table = browser.text("table").await;
    assert!(table.contains("shop.sql.gz") && table.contains("4.0 KiB"), "{table}");
    let bar = browser.script("return document.querySelector('progress').value").await;
    assert_eq!(bar, 1_024);
    all_was_well(&browser, &cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_rolled_back_from_its_page_after_it_was_said_what_happens() {
    let cluster = Cluster::builder().start().await;
    let mut last = 0;
    for _ in 0..2 {
        let run = cluster.relevo(["backup", "run", "--source", "sicar", "--wait", "--json"]).await;
        let run = run.json();
        assert_eq!(run["state"], "succeeded", "{run}");
        last = run["id"].as_i64().unwrap();
    }
    let browser = Browser::start("en").await;
    log_in(&browser, &cluster).await;
    let page = |run: i64| format!("{}/console/runs/{run}", cluster.api_url());
    // What an older run replaced is gone: its page offers nothing.
    browser.open(&page(last - 1)).await;
    let links = "return document.querySelectorAll('a[href$=\"/rollback\"]').length";
    assert_eq!(browser.script(links).await, 0);
    browser.open(&page(last)).await;
    browser.click("a[href$='/rollback']").await;
    browser.wait("document.querySelector('form[action$=\"/rollback\"]')").await;
    picture(&browser, "rollback").await;
    let said = browser.text("main").await;
    for part in ["sicar", "public", "articulo", "until the next import succeeds"] {
        assert!(said.contains(part), "{part}: {said}");
    }
    browser.click("form[action$='/rollback'] button").await;
    browser.wait("document.querySelector('.notice')?.textContent.includes('previous data')").await;
    assert!(browser.text("dl.facts").await.contains("console:tests"));
    assert_eq!(browser.script(links).await, 0, "it is done once");
    let noted: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM relevo.audit
          WHERE action = 'run.rollback' AND actor = 'console:tests' AND object = $1",
    )
    .bind(last.to_string())
    .fetch_one(cluster.control().pool())
    .await
    .unwrap();
    assert_eq!(noted, 1);
    all_was_well(&browser, &cluster).await;
}
