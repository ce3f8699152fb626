//! API keys: who gets in, and how far.

use relevo_runs::api_keys::{self, Scope};
use reqwest::Method;
use serde_json::json;

use super::server::{Server, answer};

/// Every route that needs a key, with the scope it needs.
fn routes() -> Vec<(Method, &'static str, Scope)> {
    use Scope::{Enqueue, Operate, Read};
    vec![
        (Method::POST, "/api/v1/jobs", Enqueue),
        (Method::GET, "/api/v1/jobs", Read),
        (Method::GET, "/api/v1/jobs/1", Read),
        (Method::POST, "/api/v1/jobs/1/cancel", Operate),
        (Method::POST, "/api/v1/jobs/1/retry", Operate),
        (Method::GET, "/api/v1/runs", Read),
        (Method::GET, "/api/v1/runs/1", Read),
        (Method::GET, "/api/v1/runs/1/log", Read),
        (Method::POST, "/api/v1/runs/1/cancel", Operate),
        (Method::POST, "/api/v1/backups/none", Enqueue),
        (Method::GET, "/api/v1/queues", Read),
        (Method::POST, "/api/v1/queues/q/pause", Operate),
        (Method::POST, "/api/v1/queues/q/resume", Operate),
        (Method::GET, "/api/v1/dead-letters", Read),
        (Method::POST, "/api/v1/dead-letters/1/retry", Operate),
        (Method::DELETE, "/api/v1/dead-letters/1", Operate),
    ]
}

#[tokio::test]
async fn no_route_opens_without_a_key() {
    let server = Server::start().await;
    for (method, path, _) in routes() {
        let request = server.client.request(method.clone(), server.url(path));
        let refused = answer(request).await;
        refused.refused(401, "missing_api_key");
        assert!(refused.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        // Before the body is looked at, too.
        let request = server.client.request(method, server.url(path)).body("{");
        answer(request).await.refused(401, "missing_api_key");
    }
}

#[tokio::test]
async fn each_route_needs_its_scope() {
    let server = Server::start().await;
    for scope in [Scope::Enqueue, Scope::Read, Scope::Operate] {
        let (_, key) = server.key_for(&[scope]).await;
        for (method, path, needed) in routes() {
            let request = server.client.request(method.clone(), server.url(path));
            let got = answer(request.header("X-API-Key", &key)).await;
            if needed == scope {
                assert!(got.status != 401 && got.status != 403, "{scope} {method} {path}: {got:?}");
            } else {
                got.refused(403, "missing_scope");
                assert_eq!(got.body["scope"], needed.as_str(), "{method} {path}");
            }
        }
    }
    let (_, key) = server.key_for(&[Scope::Enqueue, Scope::Read, Scope::Operate]).await;
    for (method, path, _) in routes() {
        let request = server.client.request(method, server.url(path));
        let got = answer(request.header("X-API-Key", &key)).await;
        assert!(got.status != 401 && got.status != 403, "{path}: {got:?}");
    }
}

#[tokio::test]
async fn a_key_comes_in_either_header() {
    let server = Server::start().await;
    let get = || server.client.get(server.url("/api/v1/queues"));
    answer(get().bearer_auth(&server.key)).await.ok(200);
    answer(get().header("Authorization", format!("bearer {}", server.key))).await.ok(200);
    answer(get().header("x-api-key", &server.key)).await.ok(200);
    answer(get().header("Authorization", &server.key)).await.refused(401, "missing_api_key");
    answer(get().basic_auth("rk", Some(&server.key))).await.refused(401, "missing_api_key");
    answer(get().header("x-api-key", &server.key).bearer_auth(&server.key))
        .await
        .refused(401, "missing_api_key");
}

#[tokio::test]
async fn a_wrong_key_opens_nothing() {
    let server = Server::start().await;
    let (prefix, secret) = server.key.rsplit_once('_').unwrap();
    let flipped = if secret.starts_with('0') { "1" } else { "0" };
    let wrong_secret = format!("{prefix}_{flipped}{}", &secret[1..]);
    let unknown_prefix = format!("rk_00000000_{secret}");
    let upper = server.key.to_uppercase();
    let longer = format!("{}0", server.key);
    let quoted = "rk_' OR '1'='1".to_owned();
    for key in
        [wrong_secret, unknown_prefix, upper, longer, quoted, "rk_".to_owned(), String::new()]
    {
        let request = server.client.get(server.url("/api/v1/queues")).header("x-api-key", &key);
        answer(request).await.refused(401, "invalid_api_key");
    }
    // Bytes that are no text.
    let request = server.client.get(server.url("/api/v1/queues"));
    let value = reqwest::header::HeaderValue::from_bytes(b"rk_\xff").unwrap();
    answer(request.header("x-api-key", value)).await.refused(401, "invalid_api_key");
}

#[tokio::test]
async fn a_revoked_key_opens_nothing_any_more() {
    let server = Server::start().await;
    let (id, key) = server.key_for(&[Scope::Read]).await;
    let ask = || answer(server.client.get(server.url("/api/v1/queues")).header("x-api-key", &key));
    ask().await.ok(200);
    assert!(api_keys::revoke(server.db.pool(), id).await.unwrap());
    ask().await.refused(401, "invalid_api_key");
    assert!(!api_keys::revoke(server.db.pool(), id).await.unwrap(), "once is enough");
    assert!(!api_keys::revoke(server.db.pool(), 99_999).await.unwrap());
    let listed = api_keys::list(server.db.pool()).await.unwrap();
    assert!(listed.iter().any(|key| key.id == id && key.revoked_at.is_some()));
}

#[tokio::test]
async fn the_use_of_a_key_is_noted_at_most_once_a_minute() {
    let server = Server::start().await;
    let (id, key) = server.key_for(&[Scope::Read]).await;
    let last_used = async || {
        let keys = api_keys::list(server.db.pool()).await.unwrap();
        keys.into_iter().find(|key| key.id == id).unwrap().last_used_at
    };
    let ask = async || {
        let request = server.client.get(server.url("/api/v1/queues"));
        answer(request.header("x-api-key", &key)).await.ok(200);
    };
    assert_eq!(last_used().await, None);
    ask().await;
    let first = last_used().await.expect("noted");
    ask().await;
    assert_eq!(last_used().await, Some(first));
    sqlx::query("UPDATE relevo.api_key SET last_used_at = now() - interval '2 minutes'")
        .execute(server.db.pool())
        .await
        .unwrap();
    ask().await;
    assert!(last_used().await >= Some(first));
}

#[tokio::test]
async fn of_a_key_only_its_hash_is_kept() {
    let server = Server::start().await;
    let secret = server.key.rsplit_once('_').unwrap().1;
    let rows: Vec<String> = sqlx::query_scalar("SELECT to_jsonb(k)::text FROM relevo.api_key k")
        .fetch_all(server.db.pool())
        .await
        .unwrap();
    assert!(rows.iter().all(|row| !row.contains(secret)));
    let listed = api_keys::list(server.db.pool()).await.unwrap();
    assert!(!format!("{listed:?}{}", json!(listed)).contains(secret));
}

#[tokio::test]
async fn a_key_that_makes_no_sense_is_not_made() {
    let server = Server::start().await;
    let create = async |name: &str, scopes: &[Scope]| {
        api_keys::create(server.db.pool(), name, scopes).await.map(drop)
    };
    assert!(create("", &[Scope::Read]).await.is_err());
    assert!(create(&"n".repeat(101), &[Scope::Read]).await.is_err());
    assert!(create("a\nb", &[Scope::Read]).await.is_err());
    assert!(create("a", &[]).await.is_err());
    assert!(create("año", &[Scope::Read, Scope::Read]).await.is_ok());
}
