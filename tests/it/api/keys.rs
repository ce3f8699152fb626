//! API keys: who gets in, and how far.

use std::time::Duration;

use relevo_runs::api_keys::{self, Scope};
use relevo_tests::wait_for;
use reqwest::Method;
use serde_json::json;

use super::conform::operations;
use super::server::{Server, answer};

/// Every route that needs a key, with the scope it needs, as the document says.
fn routes() -> Vec<(Method, String, Scope)> {
    let described = operations().into_iter().filter_map(|described| {
        let scope = described.scope()?.parse().unwrap();
        let path = described.path.replace("{id}", "77777").replace(['{', '}'], "");
        Some((described.method.parse().unwrap(), path, scope))
    });
    let routes: Vec<_> = described.collect();
    assert!(routes.len() > 25, "{routes:?}");
    routes
}

#[tokio::test]
async fn no_route_opens_without_a_key() {
    let server = Server::start().await;
    for (method, path, _) in routes() {
        let request = server.client.request(method.clone(), server.url(&path));
        let refused = answer(request).await;
        refused.refused(401, "missing_api_key");
        assert!(refused.headers["www-authenticate"].to_str().unwrap().starts_with("Bearer"));
        // Before the body is looked at, too.
        let request = server.client.request(method, server.url(&path)).body("{");
        answer(request).await.refused(401, "missing_api_key");
    }
}

#[tokio::test]
async fn each_route_needs_its_scope() {
    let server = Server::start().await;
    for scope in Scope::ALL {
        let (_, key) = server.key_for(&[scope]).await;
        for (method, path, needed) in routes() {
            let request = server.client.request(method.clone(), server.url(&path));
            let got = answer(request.header("X-API-Key", &key)).await;
            if needed == scope || scope == Scope::Admin {
                assert!(got.status != 401 && got.status != 403, "{scope} {method} {path}: {got:?}");
            } else {
                got.refused(403, "missing_scope");
                assert_eq!(got.body["scope"], needed.as_str(), "{method} {path}");
            }
        }
    }
    let (_, key) =
        server.key_for(&[Scope::Enqueue, Scope::Read, Scope::Work, Scope::Operate]).await;
    for (method, path, needed) in routes() {
        if needed == Scope::Admin {
            continue;
        }
        let request = server.client.request(method, server.url(&path));
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
    // Revoked elsewhere, it is believed for a second at most.
    wait_for("the key to open nothing", Duration::from_secs(3), async || {
        (ask().await.status == 401).then_some(())
    })
    .await;
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
    wait_for("the use to be noted", Duration::from_secs(3), async || {
        ask().await;
        (last_used().await >= Some(first)).then_some(())
    })
    .await;
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

#[tokio::test]
async fn keys_are_made_replaced_and_revoked_over_http() {
    let server = Server::start().await;
    let body = json!({"name": "shop", "scopes": ["read"]});
    let made = server.post_json("/api/v1/keys", &body).await.ok(201);
    let old = made["secret"].as_str().unwrap().to_owned();
    let id = made["key"]["id"].as_i64().unwrap();
    let ask = async |key: &str| {
        answer(server.client.get(server.url("/api/v1/queues")).header("x-api-key", key)).await
    };
    ask(&old).await.ok(200);

    let path = format!("/api/v1/keys/{id}/rotate");
    let rotated = server.post_json(&path, &json!({"overlap_seconds": 600})).await.ok(201);
    let new = rotated["secret"].as_str().unwrap().to_owned();
    assert_eq!(rotated["key"]["replaces"], id);
    assert_eq!(rotated["key"]["scopes"], json!(["read"]));
    ask(&new).await.ok(200);
    ask(&old).await.ok(200);

    // Again, without an overlap: the end is brought forward, and at once for this API.
    server.post_json(&path, &json!({"overlap_seconds": 0})).await.ok(201);
    ask(&old).await.refused(401, "invalid_api_key");
    server.post(&path).await.refused(404, "key_not_found");

    let new_id = rotated["key"]["id"].as_i64().unwrap();
    let path = format!("/api/v1/keys/{new_id}");
    assert_eq!(server.delete(&path).await.status, 204);
    ask(&new).await.refused(401, "invalid_api_key");
    server.delete(&path).await.refused(404, "key_not_found");

    let good = server.get("/api/v1/keys?good=true").await.ok(200);
    let ids: Vec<_> = good["keys"].as_array().unwrap().iter().map(|key| &key["id"]).collect();
    assert!(!ids.contains(&&json!(id)) && !ids.contains(&&json!(new_id)), "{ids:?}");
    let page = server.get("/api/v1/keys?limit=2").await.ok(200);
    assert_eq!(page["keys"].as_array().unwrap().len(), 2);
    let rest = server.get(page["next"].as_str().unwrap()).await.ok(200);
    assert_eq!(rest["keys"].as_array().unwrap().len(), 2);
    assert!(!rest.to_string().contains("rk_"), "no secret is listed");
}
