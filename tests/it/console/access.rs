//! Who gets in, and whose forms count.

use std::time::Duration;

use relevo_runs::api_keys::{self, Scope};
use relevo_runs::{audit, console};
use relevo_tests::wait_for;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder, Response, StatusCode};

use crate::api::server::Server;

/// A client that stays where it is sent, so that each answer can be looked at.
fn client() -> Client {
    Client::builder().redirect(Policy::none()).timeout(Duration::from_secs(60)).build().unwrap()
}

fn origin(server: &Server) -> String {
    format!("http://{}", server.address)
}

/// A form as a browser on the console's own page sends it.
fn form(server: &Server, path: &str, fields: &[(&str, &str)]) -> RequestBuilder {
    let mut body = url::form_urlencoded::Serializer::new(String::new());
    body.extend_pairs(fields);
    client()
        .post(server.url(path))
        .header("origin", origin(server))
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body.finish())
}

async fn log_in(server: &Server, key: &str) -> Response {
    form(server, "/console/login", &[("key", key)]).send().await.unwrap()
}

/// The cookie that a log-in gave, as it is shown from then on.
fn cookie(response: &Response) -> String {
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    cookie.split(';').next().unwrap().to_owned()
}

/// A session's cookie and the token of its forms.
async fn session(server: &Server, key: &str) -> (String, String) {
    let response = log_in(server, key).await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    let cookie = cookie(&response);
    let page = get(server, "/console", &cookie).await;
    assert_eq!(page.status(), StatusCode::OK);
    let page = page.text().await.unwrap();
    let (_, rest) = page.split_once("name=\"form_token\" value=\"").expect("a form on the page");
    (cookie, rest.split('"').next().unwrap().to_owned())
}

async fn get(server: &Server, path: &str, cookie: &str) -> Response {
    client().get(server.url(path)).header("cookie", cookie).send().await.unwrap()
}

#[tokio::test]
async fn a_key_opens_a_session_whose_cookie_no_script_or_other_site_gets() {
    let server = Server::start().await;
    let response = log_in(&server, &server.key).await;
    assert_eq!(response.headers()["location"], "/console");
    let set = response.headers()["set-cookie"].to_str().unwrap().to_owned();
    for part in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(set.contains(part), "{set}");
    }
    assert!(!set.contains("Secure"), "over plain HTTP a browser would drop it: {set}");
    let cookie = cookie(&response);
    let token = cookie.split_once('=').unwrap().1;
    let stored: Vec<Vec<u8>> =
        sqlx::query_scalar("SELECT token_sha256 FROM relevo.console_session")
            .fetch_all(server.db.pool())
            .await
            .unwrap();
    assert_eq!(stored.len(), 1);
    let dump: String = sqlx::query_scalar("SELECT s::text FROM relevo.console_session AS s")
        .fetch_one(server.db.pool())
        .await
        .unwrap();
    assert!(!dump.contains(token), "only the hash is kept");
    let page = get(&server, "/console", &cookie).await;
    let policy = page.headers()["content-security-policy"].to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page.headers()["cache-control"], "no-store");
    let text = page.text().await.unwrap();
    assert!(!text.contains("<style") && !text.contains(" style=") && !text.contains(" onclick"));
    assert!(!text.contains(token));
}

#[tokio::test]
async fn over_https_the_cookie_is_secure() {
    let server = Server::start().await;
    // As a proxy passes it on: the public address is https://relevo.test.
    let response = client()
        .post(server.url("/console/login"))
        .header("origin", "https://relevo.test")
        .body(format!("key={}", server.key))
        .send()
        .await
        .unwrap();
    let set = response.headers()["set-cookie"].to_str().unwrap();
    assert!(set.starts_with("__Host-relevo_session=") && set.contains("; Secure"), "{set}");
}

#[tokio::test]
async fn without_a_session_every_page_leads_to_the_log_in() {
    let server = Server::start().await;
    let forged = format!("relevo_session={}", "0".repeat(64));
    for path in ["/console", "/console/runs", "/console/jobs/1", "/console/runs/1/events"] {
        for cookie in ["", "relevo_session=x", &forged] {
            let response = get(&server, path, cookie).await;
            assert_eq!(response.status(), StatusCode::SEE_OTHER, "{path} {cookie}");
            assert_eq!(response.headers()["location"], "/console/login");
        }
    }
    // An API key is for the API: it opens no page.
    let response =
        client().get(server.url("/console")).header("x-api-key", &server.key).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    // And a session is for the pages: it opens no API.
    let (cookie, _) = session(&server, &server.key).await;
    let response = get(&server, "/api/v1/queues", &cookie).await;
    assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn wrong_keys_are_refused_and_too_many_have_to_wait() {
    let server = Server::start().await;
    let (_, enqueue_only) = server.key_for(&[Scope::Enqueue]).await;
    assert_eq!(log_in(&server, &enqueue_only).await.status(), StatusCode::FORBIDDEN);
    let mut statuses = Vec::new();
    for _ in 0..11 {
        statuses.push(log_in(&server, "rk_00000000_wrong").await.status().as_u16());
    }
    assert_eq!(statuses[..10], [401; 10]);
    assert_eq!(statuses[10], 429);
    let response = log_in(&server, &server.key).await;
    assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(response.headers()["retry-after"], "60");
    assert!(!response.text().await.unwrap().contains(&server.key));
}

#[tokio::test]
async fn forms_of_other_sites_do_nothing() {
    let server = Server::start().await;
    let (cookie, token) = session(&server, &server.key).await;
    let post = |origin: Option<&str>, fields: String| {
        let mut request =
            client().post(server.url("/console/queues/pause")).header("cookie", &cookie);
        if let Some(origin) = origin {
            request = request.header("origin", origin);
        }
        request.body(fields)
    };
    let own = origin(&server);
    let whole = format!("queue=backup&form_token={token}");
    let other = format!("queue=backup&form_token={}", "0".repeat(64));
    let port = format!("http://127.0.0.1:{}", server.address.port() + 1);
    for (origin, fields) in [
        (None, &whole),
        (Some("null"), &whole),
        (Some("https://evil.test"), &whole),
        (Some(port.as_str()), &whole),
        (Some(own.as_str()), &other),
        (Some(own.as_str()), &"queue=backup".to_owned()),
    ] {
        let response = post(origin, fields.clone()).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{origin:?} {fields}");
        assert!(response.text().await.unwrap().contains("foreign_form"));
    }
    let paused = async || server.deps.queue.stats().await.unwrap().iter().any(|one| one.paused);
    assert!(!paused().await);
    let response = post(Some(&own), whole).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    assert!(paused().await);
}

#[tokio::test]
async fn who_may_only_read_sees_no_buttons_and_does_nothing() {
    let server = Server::start().await;
    let (_, key) = server.key_for(&[Scope::Read]).await;
    server.deps.queue.pause("backup").await.unwrap();
    let (cookie, token) = session(&server, &key).await;
    let page = get(&server, "/console/queues", &cookie).await.text().await.unwrap();
    assert!(page.contains("backup") && !page.contains("/console/queues/resume"));
    for path in [
        "/console/queues/pause",
        "/console/queues/resume",
        "/console/runs/1/cancel",
        "/console/jobs/1/cancel",
        "/console/jobs/1/retry",
        "/console/dead-letters/all",
        "/console/dead-letters/1/retry",
        "/console/dead-letters/1/discard",
        "/console/dead-letters/1/payload",
        "/console/schedules/run",
        "/console/schedules/enable",
        "/console/schedules/disable",
        "/console/sources/start",
        "/console/runs/1/rollback",
        "/console/connections",
        "/console/connections/mail/set",
        "/console/connections/mail/forget",
        "/console/connection-trial",
    ] {
        let fields = [("form_token", token.as_str()), ("queue", "backup"), ("source", "sicar")];
        let response = form(&server, path, &fields).header("cookie", &cookie).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path}");
        assert!(response.text().await.unwrap().contains("missing_scope"), "{path}");
    }
}

#[tokio::test]
async fn who_may_operate_changes_no_connection() {
    let server = Server::start().await;
    let (_, key) = server.key_for(&[Scope::Read, Scope::Operate]).await;
    let (cookie, token) = session(&server, &key).await;
    let page = get(&server, "/console/connections", &cookie).await.text().await.unwrap();
    assert!(!page.contains("<form class=\"action\""), "no buttons: {page}");
    for path in
        ["/console/connections", "/console/connections/x/forget", "/console/connection-trial"]
    {
        let fields = [("form_token", token.as_str()), ("name", "database")];
        let response = form(&server, path, &fields).header("cookie", &cookie).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path}");
        assert!(response.text().await.unwrap().contains("missing_scope"), "{path}");
    }
}

#[tokio::test]
async fn many_open_pages_cost_one_count() {
    let server = Server::start().await;
    let (cookie, token) = session(&server, &server.key).await;
    server.deps.queue.pause("fresh").await.unwrap();
    // Counting is held up, so that all come while somebody counts.
    let mut holder = server.db.pool().begin().await.unwrap();
    sqlx::query("LOCK TABLE relevo.dead_letter").execute(&mut *holder).await.unwrap();
    // Whoever acts wants to see what came of it: what was counted before is forgotten.
    let fields = [("form_token", token.as_str()), ("queue", "other")];
    let done = form(&server, "/console/queues/pause", &fields).header("cookie", &cookie).send();
    assert_eq!(done.await.unwrap().status(), StatusCode::SEE_OTHER);
    let counting = async || -> i64 {
        sqlx::query_scalar(
            "SELECT count(*) FROM pg_stat_activity
              WHERE datname = current_database() AND wait_event_type = 'Lock'
                AND query LIKE '-- queue_stats%'",
        )
        .fetch_one(&mut *server.db.pool().acquire().await.unwrap())
        .await
        .unwrap()
    };
    let pages =
        futures::future::join_all((0..20).map(|_| get(&server, "/console/queues", &cookie)));
    let looks = async {
        wait_for("somebody to count", Duration::from_secs(60), async || {
            (counting().await == 1).then_some(())
        })
        .await;
        for _ in 0..20 {
            assert_eq!(counting().await, 1, "one counts for all");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        holder.rollback().await.unwrap();
    };
    let (pages, ()) = tokio::join!(pages, looks);
    for page in pages {
        let text = page.text().await.unwrap();
        assert!(text.contains("fresh") && text.contains("other"), "{text}");
    }
}

#[tokio::test]
async fn sessions_end_with_their_key_by_logging_out_and_by_themselves() {
    let server = Server::start().await;
    let pool = server.db.pool();
    let open = async |cookie: &str| get(&server, "/console", cookie).await.status() == 200;
    let (id, key) = server.key_for(&[Scope::Read]).await;
    let (of_key, _) = session(&server, &key).await;
    let (of_admin, token) = session(&server, &server.key).await;
    assert!(open(&of_key).await && open(&of_admin).await);
    api_keys::revoke(pool, id).await.unwrap();
    assert!(!open(&of_key).await && open(&of_admin).await);

    let fields = [("form_token", token.as_str())];
    let out = form(&server, "/console/logout", &fields).header("cookie", &of_admin);
    let out = out.send().await.unwrap();
    assert!(out.headers()["set-cookie"].to_str().unwrap().contains("Max-Age=0"));
    assert!(!open(&of_admin).await);

    let (idle, _) = session(&server, &server.key).await;
    sqlx::query("UPDATE relevo.console_session SET used_at = now() - interval '121 minutes'")
        .execute(pool)
        .await
        .unwrap();
    assert!(!open(&idle).await, "idle for more than two hours");
    let (old, _) = session(&server, &server.key).await;
    let aged = "UPDATE relevo.console_session
                SET created_at = now() - interval '13 hours', expires_at = now() - interval '1 s'";
    sqlx::query(aged).execute(pool).await.unwrap();
    assert!(!open(&old).await, "older than twelve hours");
    session(&server, &server.key).await;
    let left: i64 = sqlx::query_scalar("SELECT count(*) FROM relevo.console_session")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(left, 1, "what has expired is swept at the next log-in");
}

#[tokio::test]
async fn a_link_opens_one_session_and_is_asked_for_twice_in_vain() {
    let server = Server::start().await;
    let pool = server.db.pool();
    let mut tx = pool.begin().await.unwrap();
    let life = Duration::from_secs(60);
    let link = console::make_link(&mut tx, "ana", &[Scope::Read], life).await.unwrap();
    tx.commit().await.unwrap();
    let path = format!("/console/link/{}", link.expose());
    // Whoever only looks at it (a chat's preview) uses nothing up.
    for _ in 0..3 {
        assert_eq!(get(&server, &path, "").await.status(), StatusCode::OK);
    }
    let follow = || form(&server, "/console/link", &[("token", link.expose())]).send();
    // At the same moment by many: one gets in.
    let (one, two, three) = tokio::join!(follow(), follow(), follow());
    let answers = [one.unwrap(), two.unwrap(), three.unwrap()];
    let opened: Vec<&Response> =
        answers.iter().filter(|answer| answer.status() == StatusCode::SEE_OTHER).collect();
    assert_eq!(opened.len(), 1);
    assert_eq!(get(&server, "/console", &cookie(opened[0])).await.status(), StatusCode::OK);
    let entries = audit::list(pool, &audit::AuditFilter { limit: 9, ..Default::default() }).await;
    let entries = entries.unwrap();
    assert_eq!((&*entries[0].actor, &*entries[0].action), ("console:ana", "console.log_in"));

    let mut tx = pool.begin().await.unwrap();
    let link = console::make_link(&mut tx, "ana", &[Scope::Read], life).await.unwrap();
    tx.commit().await.unwrap();
    let late = "UPDATE relevo.console_link
                SET created_at = now() - interval '2 min', expires_at = now() - interval '1 min'";
    sqlx::query(late).execute(pool).await.unwrap();
    let answer = form(&server, "/console/link", &[("token", link.expose())]).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn what_is_shown_is_text_whatever_it_holds() {
    let server = Server::start().await;
    let bad = "<script>alert(1)</script>\"'><img src=x>";
    server.deps.queue.pause(bad).await.unwrap();
    let (cookie, _) = session(&server, &server.key).await;
    let page = get(&server, "/console/queues", &cookie).await.text().await.unwrap();
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script>alert"), "{page}");
    assert!(!page.contains("<img"));
    for (path, status) in [
        ("/console/jobs/99", 404),
        ("/console/jobs/x", 400),
        ("/console/runs/99", 404),
        ("/console/nowhere", 404),
        ("/console/runs?state=odd", 400),
        ("/console/jobs?before=%00", 400),
        ("/console/jobs?queue=%00", 400),
        ("/console/dead-letters/all", 400),
        ("/console/connections/none", 404),
        ("/console/runs/99/rollback", 404),
        ("/console/alerts?before=x", 400),
        ("/console/assets/..%2f..%2fCargo.toml", 404),
    ] {
        let response = get(&server, path, &cookie).await;
        assert_eq!(response.status().as_u16(), status, "{path}");
        assert_eq!(response.headers()["content-type"], "text/html; charset=utf-8", "{path}");
    }
    let back = get(&server, "/console/language?to=es&back=https://evil.test", &cookie).await;
    assert_eq!(back.headers()["location"], "/console");
}
