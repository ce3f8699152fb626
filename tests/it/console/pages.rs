//! The pages in headless Chromium, over a cluster of real processes.
//!
//! With SCREENSHOTS_FOLDER set to a folder, pictures of the pages are left there.

use std::path::PathBuf;
use std::time::Duration;

use relevo_queue::{JobId, JobState, NewJob, Queue};
use relevo_tests::gateway::Fault;
use relevo_tests::{Browser, Cluster, wait_for};
use serde_json::json;

use crate::api::dead_letters::give_up;

/// Every page that lists something.
const PAGES: [&str; 10] = [
    "/console",
    "/console/runs",
    "/console/sources",
    "/console/queues",
    "/console/jobs",
    "/console/dead-letters",
    "/console/schedules",
    "/console/alerts",
    "/console/connections",
    "/console/uploads",
];
/// How long a job may take to come to its end on a busy machine.
const JOB_TIMEOUT: Duration = Duration::from_secs(60);

pub async fn picture(browser: &Browser, name: &str) {
    if let Some(folder) = std::env::var_os("SCREENSHOTS_FOLDER") {
        let folder = PathBuf::from(folder);
        std::fs::create_dir_all(&folder).unwrap();
        browser.screenshot(&folder.join(format!("{name}.png"))).await;
    }
}

/// Logs in by the form.
pub async fn log_in(browser: &Browser, cluster: &Cluster) {
    browser.open(&format!("{}/console", cluster.api_url())).await;
    assert!(browser.address().await.ends_with("/console/login"));
    browser.fill("#key", cluster.api_key()).await;
    browser.click("form.login button").await;
    browser.wait("document.querySelector('nav a[aria-current]') !== null").await;
}

/// No page complained, and nothing came from elsewhere.
pub async fn all_was_well(browser: &Browser, cluster: &Cluster) {
    let complaints = browser.complaints().await;
    assert!(complaints.is_empty(), "{complaints:#?}");
    let requested = browser.requested().await;
    assert!(!requested.is_empty());
    let own = format!("{}/", cluster.api_url());
    let foreign: Vec<&String> = requested
        .iter()
        // The browser's own first page is made of addresses that lead nowhere.
        .filter(|url| url.starts_with("http") || url.starts_with("ws"))
        .filter(|url| !url.starts_with(&own))
        .collect();
    assert!(foreign.is_empty(), "{foreign:#?}");
}

/// A cluster that has given some jobs up.
async fn cluster_with_dead_letters(count: usize) -> (Cluster, Vec<JobId>) {
    // Before it has workers of its own, which would carry them out.
    let mut cluster = Cluster::builder().workers(0).start().await;
    let queue = Queue::new(cluster.control().pool().clone());
    let mut ids = Vec::new();
    for _ in 0..count {
        let job = NewJob::new("Noop", &json!({})).unwrap();
        ids.push(queue.enqueue(job).await.unwrap().id);
    }
    give_up(&queue, &ids.iter().map(|id| id.0).collect::<Vec<_>>()).await;
    cluster.start_worker().await;
    (cluster, ids)
}

/// Waits until a job has come to a state: a click may be told before its form has arrived.
async fn comes_to(queue: &Queue, id: JobId, state: JobState) {
    wait_for(&format!("job {id} to be {state}"), JOB_TIMEOUT, async || {
        let job = queue.job(id).await.ok()??;
        (job.state == state).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_is_started_and_watched_to_its_end() {
    let cluster = Cluster::builder().start().await;
    // Slow enough to be watched.
    cluster.gateway().plan(vec![Fault::SlowDownload { bytes_per_second: 20_000 }.always()]).await;
    let browser = Browser::start("en-GB").await;
    browser.open(&format!("{}/console/login", cluster.api_url())).await;
    picture(&browser, "login").await;
    log_in(&browser, &cluster).await;

    browser.open(&format!("{}/console/sources", cluster.api_url())).await;
    picture(&browser, "sources").await;
    browser.click("form.start button").await;
    browser.wait("location.pathname.startsWith('/console/runs/')").await;
    // Live: the bar moves and the log grows without the page being loaded again.
    browser.script("window.sameVisit = true").await;
    browser.wait("document.getElementById('figures').textContent.includes('%')").await;
    browser.wait("document.querySelectorAll('#log li').length > 2").await;
    browser.wait("document.getElementById('left').textContent.includes('left')").await;
    assert_eq!(browser.script("return window.sameVisit").await, true);
    assert!(browser.text("#connection").await.contains("live"));
    picture(&browser, "run-live").await;
    cluster.gateway().plan(Vec::new()).await;

    browser.wait("document.querySelector('#certificate tbody tr')").await;
    browser.wait("document.getElementById('state').textContent === 'succeeded'").await;
    picture(&browser, "run").await;
    let rows = "return [...document.querySelectorAll('#certificate tbody tr')].map((row) => \
                [...row.cells].map((cell) => cell.textContent))";
    let rows = browser.script(rows).await;
    let rows = rows.as_array().unwrap();
    assert!(rows.len() >= 10, "{rows:#?}");
    for row in rows {
        let table = row[0].as_str().unwrap();
        let sql = format!("SELECT count(*) FROM public.\"{table}\"");
        let counted: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql))
            .fetch_one(cluster.target().pool())
            .await
            .unwrap();
        let shown = |nth: usize| row[nth].as_str().unwrap().replace('\u{202f}', "");
        assert_eq!((shown(1), shown(2)), (counted.to_string(), counted.to_string()), "{table}");
        assert_eq!(shown(3), "0", "{table}");
    }
    browser.open(&format!("{}/console", cluster.api_url())).await;
    assert!(browser.text("table").await.contains("succeeded"));
    picture(&browser, "overview").await;
    all_was_well(&browser, &cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_retry_pause_and_start() {
    let (cluster, dead_ones) = cluster_with_dead_letters(4).await;
    let pool = cluster.control().pool();
    let queue = Queue::new(pool.clone());
    let later = NewJob::new("Noop", &json!({})).unwrap().queue("reports");
    queue.enqueue(later.delay(Duration::from_secs(3_600))).await.unwrap();
    cluster
        .relevo(["schedule", "add", "nightly", "--cron", "30 2 * * *", "--kind", "Noop", "--json"])
        .await
        .json();
    let browser = Browser::start("en").await;
    log_in(&browser, &cluster).await;
    let at = |path: &str| format!("{}{path}", cluster.api_url());

    // One dead letter goes back to work from the list.
    browser.open(&at("/console/dead-letters")).await;
    picture(&browser, "dead-letters").await;
    let first = format!("form[action='/console/dead-letters/{}/retry'] button", dead_ones[0]);
    browser.click(&first).await;
    browser.wait("document.querySelector('.notice')?.textContent === 'Back to work.'").await;
    comes_to(&queue, dead_ones[0], JobState::Completed).await;

    // One gets another payload first; what is no payload of its kind is refused.
    browser.open(&at(&format!("/console/jobs/{}", dead_ones[1]))).await;
    picture(&browser, "job").await;
    browser.click("details:has(form.editor) summary").await;
    browser.fill("form.editor textarea", "{\"stranger\": 1}").await;
    browser.click("form.editor button[value=retry]").await;
    browser.wait("document.querySelector('.warning')?.textContent.includes('stranger')").await;
    let complaints = browser.complaints().await;
    assert!(complaints.iter().all(|text| text.contains("422")), "{complaints:#?}");
    browser.open(&at(&format!("/console/jobs/{}", dead_ones[1]))).await;
    browser.click("details:has(form.editor) summary").await;
    browser.fill("form.editor textarea", "{}").await;
    browser.click("form.editor button[value=retry]").await;
    comes_to(&queue, dead_ones[1], JobState::Completed).await;

    // One is thrown away, which asks first; the rest go back together, counted before.
    browser.open(&at(&format!("/console/jobs/{}", dead_ones[2]))).await;
    browser.click("details.danger summary").await;
    browser.click("form[action$='/discard'] button").await;
    comes_to(&queue, dead_ones[2], JobState::Cancelled).await;
    browser.open(&at("/console/dead-letters?kind=Noop")).await;
    browser.click("a[href*='action=retry']").await;
    browser.wait("document.querySelector('.headline strong')?.textContent === '1'").await;
    picture(&browser, "dead-letters-all").await;
    browser.click("button.primary").await;
    comes_to(&queue, dead_ones[3], JobState::Completed).await;

    // A queue stands still, and goes on.
    let paused = async |name: &str| {
        let queues = queue.stats().await.unwrap();
        queues.into_iter().find(|queue| queue.queue == name).is_some_and(|queue| queue.paused)
    };
    browser.open(&at("/console/queues")).await;
    picture(&browser, "queues").await;
    browser.click("form[action$='/pause']:has(input[value=reports]) button").await;
    browser.wait("document.querySelector('tbody').textContent.includes('paused')").await;
    assert!(paused("reports").await);
    browser.click("form[action$='/resume']:has(input[value=reports]) button").await;
    browser.wait("!document.querySelector('tbody').textContent.includes('paused')").await;
    assert!(!paused("reports").await);

    // A schedule starts now what it would start at its slot.
    browser.open(&at("/console/schedules")).await;
    picture(&browser, "schedules").await;
    browser.click("form[action$='/schedules/run']:has(input[value=nightly]) button").await;
    browser.wait("location.pathname.startsWith('/console/jobs/')").await;
    browser.wait("document.querySelector('.badge.completed')").await;

    // It fires no more, then again.
    let active = async || -> bool {
        sqlx::query_scalar("SELECT active FROM relevo.schedule WHERE name = 'nightly'")
            .fetch_one(pool)
            .await
            .unwrap()
    };
    browser.open(&at("/console/schedules")).await;
    browser.click("form[action$='/disable']:has(input[value=nightly]) button").await;
    browser.wait("document.querySelector('form[action$=\"/enable\"]')").await;
    assert!(!active().await);
    browser.click("form[action$='/enable']:has(input[value=nightly]) button").await;
    browser.wait("document.querySelector('form[action$=\"/disable\"]')").await;
    assert!(active().await);

    // All of it stands in the audit log, under the name of the key.
    let actions: Vec<String> =
        sqlx::query_scalar("SELECT action FROM relevo.audit WHERE actor = $1 ORDER BY id")
            .bind("console:tests")
            .fetch_all(pool)
            .await
            .unwrap();
    assert_eq!(
        actions,
        [
            "console.log_in",
            "dead_letter.retry",
            "dead_letter.edit",
            "dead_letter.discard",
            "dead_letter.retry_many",
            "queue.pause",
            "queue.resume",
            "schedule.run",
            "schedule.disable",
            "schedule.enable"
        ]
    );
    all_was_well(&browser, &cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_fits_a_phone_in_both_languages_and_lights() {
    let (cluster, _) = cluster_with_dead_letters(3).await;
    let started = cluster.relevo(["backup", "run", "--source", "sicar", "--wait", "--json"]).await;
    let run = started.json()["id"].clone();
    let browser = Browser::start("es-MX").await;
    log_in(&browser, &cluster).await;
    assert_eq!(browser.text("h1").await, "Resumen");
    let mut pages: Vec<String> = PAGES.map(str::to_owned).into();
    pages.push(format!("/console/runs/{run}"));
    pages.push("/console/jobs/1".to_owned());
    pages.push("/console/dead-letters/all?action=discard".to_owned());
    for (width, height, is_mobile) in [(360, 740, true), (768, 1024, true), (1440, 900, false)] {
        browser.resize(width, height, is_mobile).await;
        for page in &pages {
            browser.prefer_dark(is_mobile).await;
            browser.open(&format!("{}{page}", cluster.api_url())).await;
            let overflow =
                browser.script("return document.documentElement.scrollWidth - innerWidth").await;
            assert!(overflow.as_i64().unwrap() <= 0, "{page} at {width}: {overflow} too wide");
            let name = page.trim_start_matches("/console").replace(['/', '?', '='], "-");
            picture(&browser, &format!("es-{width}{name}")).await;
        }
    }
    // The switch leads back to the same page, in the other language, and is remembered.
    browser.open(&format!("{}/console/queues", cluster.api_url())).await;
    assert_eq!(browser.text("h1").await, "Colas");
    browser.click("a.language").await;
    browser.wait("document.documentElement.lang === 'en'").await;
    assert_eq!(browser.text("h1").await, "Queues");
    browser.open(&format!("{}/console/jobs", cluster.api_url())).await;
    assert_eq!(browser.text("h1").await, "Jobs");
    browser.click(".person button").await;
    browser.wait("document.querySelector('.notice')").await;
    assert!(browser.address().await.contains("/console/login"));
    all_was_well(&browser, &cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_logs_in_once_and_may_only_look_when_told_so() {
    let cluster = Cluster::builder().start().await;
    let made = cluster.relevo(["console", "link", "--read-only", "--json"]).await;
    let url = made.json()["url"].as_str().unwrap().to_owned();
    let browser = Browser::start("en").await;
    browser.open(&url).await;
    picture(&browser, "link").await;
    browser.click("form.login button").await;
    browser.wait("document.querySelector('nav a[aria-current]')").await;
    browser.open(&format!("{}/console/sources", cluster.api_url())).await;
    assert_eq!(browser.script("return document.querySelectorAll('main form').length").await, 0);
    all_was_well(&browser, &cluster).await;
    let other = Browser::start("en").await;
    other.open(&url).await;
    other.click("form.login button").await;
    assert!(other.text(".warning").await.contains("has been used"));
}
