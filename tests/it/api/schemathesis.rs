//! The API under requests that a tool of others makes from its description.

use std::time::Duration;

use relevo_runs::api_keys::{self, Scope};
use relevo_tests::schemathesis;
use serde_json::json;

use super::dead_letters::dead;
use super::server::Server;

/// How long it tries; more where this variable of the environment says so, in seconds.
const BUDGET: Duration = Duration::from_secs(30);
const BUDGET_VARIABLE: &str = "RELEVO_TEST_SCHEMATHESIS_SECONDS";

#[tokio::test(flavor = "multi_thread")]
async fn requests_made_from_the_description_find_nothing() {
    let server = Server::start().await;
    // Things to find by their numbers.
    dead(&server, 3).await;
    server.post_json("/api/v1/backups/sicar", &json!({})).await.ok(202);
    server.post_json("/api/v1/jobs", &json!({"kind": "Noop", "delay_seconds": 999})).await.ok(202);
    // Requests that revoke keys are among them: this one's number nobody comes upon.
    sqlx::query("ALTER TABLE relevo.api_key ALTER COLUMN id RESTART WITH 918273645463")
        .execute(server.db.pool())
        .await
        .unwrap();
    let (_, key) =
        api_keys::create(server.db.pool(), "schemathesis", &[Scope::Admin]).await.unwrap();
    let seconds = std::env::var(BUDGET_VARIABLE).ok().and_then(|text| text.parse().ok());
    let budget = seconds.map_or(BUDGET, Duration::from_secs);
    // Following a run goes on until the run ends; console::follow looks at that. Of many jobs each
    // is refused by itself, with an answer that accepts the request; api::fuzz looks into it.
    let left_out = ["followRun", "enqueueJobs"];
    let (is_good, told) = schemathesis::run(&server.url(""), key.expose(), budget, &left_out).await;
    assert!(is_good, "{told}");
    assert!(told.contains("generated"), "it has done nothing: {told}");
}
