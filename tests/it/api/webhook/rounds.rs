//! Which request a delivery is for: by its token or by the promised id, in one round or another.

use relevo_runs::RunId;
use relevo_runs::backup_requests::{
    self, AskMode, CloseAs, RequestState, answered_in, close_in, issue_token_in, open_in,
};
use serde_json::json;

use super::super::server::{GATEWAY, Server};
use super::{Asked, accepted, ask, completed, deliver, path, request};

#[tokio::test]
async fn the_bare_path_takes_what_was_promised() {
    let asked = Asked::new().await;
    let bare = "/webhook/backup-ready";
    for body in [
        completed("backup_2"),
        completed("backup_1' OR '1'='1"),
        json!({"status": "completed", "download_url": format!("{GATEWAY}/a")}),
    ] {
        deliver(&asked.server, bare, &body).await.refused(404, "request_not_found");
    }
    assert_eq!(asked.downloads().await, 0);
    accepted(deliver(&asked.server, bare, &completed("backup_1")).await, "accepted");
    assert_eq!(asked.downloads().await, 1);
}

#[tokio::test]
async fn a_request_in_sync_mode_waits_for_no_webhook() {
    let server = Server::start().await;
    let (run, ..) = ask(&server, "sicar", "backup_1").await;
    let mut conn = server.db.pool().acquire().await.unwrap();
    let (second, _) = open_in(&mut conn, run, 2, AskMode::Sync).await.unwrap();
    assert!(answered_in(&mut conn, second.id, "log_2").await.unwrap());
    let bare = "/webhook/backup-ready";
    deliver(&server, bare, &completed("log_2")).await.refused(404, "request_not_found");
}

#[tokio::test]
async fn a_delivery_counts_when_the_promise_was_lost() {
    let server = Server::start().await;
    let mut conn = server.db.pool().acquire().await.unwrap();
    let (run, ..) = ask(&server, "sicar", "backup_1").await;
    let (second, _) = open_in(&mut conn, run, 2, AskMode::Webhook).await.unwrap();
    // The gateway was called twice for it, and only the first call arrived.
    let token = issue_token_in(&mut conn, second.id).await.unwrap();
    issue_token_in(&mut conn, second.id).await.unwrap();
    accepted(deliver(&server, &path(&token), &completed("backup_9")).await, "accepted");
    let second = request(&server, second.id).await;
    assert_eq!(second.gateway_job_id.as_deref(), Some("backup_9"));
    assert!(second.token_issued_at.is_some());
    // The answer that was on its way changes nothing any more.
    assert!(!answered_in(&mut conn, second.id, "backup_9").await.unwrap());
}

#[tokio::test]
async fn a_late_delivery_is_welcome_while_the_run_waits() {
    let asked = Asked::new().await;
    let mut conn = asked.server.db.pool().acquire().await.unwrap();
    assert!(close_in(&mut conn, asked.request, CloseAs::Expired, "no webhook").await.unwrap());
    assert!(!close_in(&mut conn, asked.request, CloseAs::Failed, "again").await.unwrap());
    let (second, token) = asked.next_round(2, "backup_2").await;

    // The first comes after all: it is taken, and the second is not needed any more.
    accepted(asked.deliver(&completed("backup_1")).await, "accepted");
    assert_eq!(asked.request().await.state, RequestState::Delivered);
    assert_eq!(request(&asked.server, second).await.state, RequestState::Expired);
    let late = deliver(&asked.server, &path(&token), &completed("backup_2")).await;
    accepted(late, "too_late");
    assert_eq!(asked.downloads().await, 1);
}

#[tokio::test]
async fn a_new_round_after_a_delivery_that_was_of_no_use() {
    let asked = Asked::new().await;
    accepted(asked.deliver(&completed("backup_1")).await, "accepted");
    // The file was gone when it was fetched; the run asked again.
    let (second, token) = asked.next_round(2, "backup_2").await;
    accepted(deliver(&asked.server, &path(&token), &completed("backup_2")).await, "accepted");
    assert_eq!(request(&asked.server, second).await.state, RequestState::Delivered);
    assert_eq!(asked.downloads().await, 2);
}

#[tokio::test]
async fn a_repeated_job_finds_its_own_request() {
    let server = Server::start().await;
    let (run, first, _) = ask(&server, "sicar", "backup_1").await;
    let mut conn = server.db.pool().acquire().await.unwrap();
    let (again, created) = open_in(&mut conn, run, 1, AskMode::Webhook).await.unwrap();
    assert_eq!((again.id, created), (first, false));
    assert_eq!(again.state, RequestState::Answered);
    let (second, created) = open_in(&mut conn, run, 2, AskMode::Sync).await.unwrap();
    assert!(created && second.id != first);
    let latest = backup_requests::latest_in(&mut conn, run).await.unwrap().unwrap();
    assert_eq!(latest.id, second.id);
    let all = backup_requests::of_run(server.db.pool(), run).await.unwrap();
    assert_eq!(all.len(), 2);
    assert!(open_in(&mut conn, RunId(run.0 + 9), 1, AskMode::Sync).await.is_err());
}

#[tokio::test]
async fn the_synchronous_answer_has_the_same_effect() {
    let asked = Asked::new().await;
    let queue = &asked.server.deps.queue;
    let delivery = backup_requests::Delivery {
        download_url: format!("{GATEWAY}/a.sql.gz"),
        filename: Some("a.sql.gz".to_owned()),
        filesize_bytes: Some(396_998_348),
        filesize_mb: Some(378.61),
        expires_at: None,
    };
    let mut tx = asked.server.db.pool().begin().await.unwrap();
    let told = backup_requests::BY_GATEWAY;
    let first = backup_requests::delivered_in(&mut tx, queue, asked.request, &delivery, told).await;
    assert!(first.unwrap());
    let again = backup_requests::delivered_in(&mut tx, queue, asked.request, &delivery, told).await;
    assert!(!again.unwrap());
    tx.commit().await.unwrap();
    assert_eq!(asked.request().await.filesize_bytes, Some(396_998_348));
    accepted(asked.deliver(&completed("backup_1")).await, "repeat");
    assert_eq!(asked.downloads().await, 1);
}

#[tokio::test]
async fn the_bare_path_knows_only_outstanding_requests() {
    let asked = Asked::new().await;
    let bare = "/webhook/backup-ready";
    let mut conn = asked.server.db.pool().acquire().await.unwrap();
    assert!(close_in(&mut conn, asked.request, CloseAs::Expired, "no webhook").await.unwrap());
    deliver(&asked.server, bare, &completed("backup_1")).await.refused(404, "request_not_found");

    let (second, token) = asked.next_round(2, "backup_2").await;
    accepted(deliver(&asked.server, bare, &completed("backup_2")).await, "accepted");
    accepted(deliver(&asked.server, bare, &completed("backup_2")).await, "repeat");
    // Gateways do not repeat themselves for longer than some minutes.
    sqlx::query(
        "UPDATE relevo.backup_request SET delivered_at = now() - interval '2 hours' WHERE id = $1",
    )
    .bind(second)
    .execute(&mut *conn)
    .await
    .unwrap();
    deliver(&asked.server, bare, &completed("backup_2")).await.refused(404, "request_not_found");

    let (_, later) = asked.next_round(3, "backup_3").await;
    assert!(asked.server.deps.runs.fail_in(&mut conn, asked.run, "a test").await.unwrap());
    deliver(&asked.server, bare, &completed("backup_3")).await.refused(404, "request_not_found");
    // Who has the token still gets an answer that ends the repeats.
    accepted(deliver(&asked.server, &path(&later), &completed("backup_3")).await, "too_late");
    accepted(deliver(&asked.server, &path(&token), &completed("backup_2")).await, "repeat");
    assert_eq!(asked.downloads().await, 1);
}

#[tokio::test]
async fn asked_twice_a_gateway_may_know_the_backup_by_either_id() {
    let asked = Asked::new().await;
    asked.deliver(&completed("backup_0")).await.refused(409, "other_backup");
    // The answer to a first call was lost, its webhook comes.
    let mut conn = asked.server.db.pool().acquire().await.unwrap();
    let earlier = issue_token_in(&mut conn, asked.request).await.unwrap();
    accepted(deliver(&asked.server, &path(&earlier), &completed("backup_0")).await, "accepted");
    accepted(asked.deliver(&completed("backup_1")).await, "repeat");
    assert_eq!(asked.downloads().await, 1);
}
