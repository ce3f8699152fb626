//! Connections: from the file and kept, sealed, rotated, tried out, guarded, never shown.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use relevo_tests::{MailServer, TestDatabase, mail};
use reqwest::Method;
use serde_json::{Value, json};

use super::receiver::Receiver;
use crate::api::server::{Server, answer};
use crate::cli::Relevo;

const SECRET: &str = "s3cret-of-a-connection";

/// Everything that the control plane holds of connections and of what was done to them, as text.
async fn all_rows(database: &TestDatabase) -> String {
    let rows: Vec<String> = sqlx::query_scalar(
        "SELECT row_to_json(c)::text FROM relevo.connection AS c
         UNION ALL SELECT row_to_json(a)::text FROM relevo.audit AS a",
    )
    .fetch_all(database.pool())
    .await
    .unwrap();
    rows.join("\n")
}

#[tokio::test]
async fn a_kept_connection_is_sealed_used_changed_and_forgotten() {
    let database = TestDatabase::new().await;
    let server = MailServer::start("none").await;
    let relevo =
        Relevo::on(&database).env("RELEVO_OUTBOUND_ALLOW", format!("localhost:{}", server.port()));
    let config = relevo.file(
        "relevo.toml",
        "[channel.ops]\nkind = 'email'\nto = ['ops@example.com']\nconnection = 'mail'\n\
         [connection.fixed]\nkind = 'webhook'\nurl = 'https://hooks.test/s3cret-of-a-connection'\n",
    );
    let relevo = relevo.env("RELEVO_CONFIG", config);
    let add = |name: &'static str, kind: &'static str| {
        [
            "connection",
            "add",
            name,
            "--kind",
            kind,
            "--url-file",
            "-",
            "--from",
            "relevo@example.com",
        ]
    };
    let url = format!("smtp://localhost:{}", server.port());
    let added = relevo.run_with(&add("mail", "smtp"), url.as_bytes()).await;
    assert_eq!(added.code, 0, "{added:?}");
    // The key was made, for this user alone.
    let key_file = relevo.folder().join("data/secret.key");
    let mode = std::fs::metadata(&key_file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    relevo.ok(&["notify", "test"]).await;
    assert_eq!(server.messages().len(), 1);
    let tried = relevo.json(&["connection", "test", "mail"]).await;
    assert_eq!(tried[0]["ok"], true, "{tried}");

    let secret_url = format!("smtp+starttls://relevo:{SECRET}@mail.test:2525");
    let add_other = add("other", "smtp");
    relevo.run_with(&add_other, secret_url.as_bytes()).await;
    let again = relevo.run_with(&add_other, secret_url.as_bytes()).await;
    assert!(again.code == 2 && again.err.contains("already"), "{again:?}");
    let shown = relevo.json(&["connection", "show", "other"]).await;
    assert_eq!(shown["address"], "smtp+starttls://mail.test:2525");
    assert_eq!((&shown["origin"], &shown["kind"]), (&"stored".into(), &"smtp".into()));
    relevo.ok(&["connection", "set", "other", "--from", "otro@example.com"]).await;
    let shown = relevo.json(&["connection", "show", "other"]).await;
    assert_eq!(shown["from"], "otro@example.com");
    let list = relevo.ok(&["connection", "list"]).await;
    assert!(list.contains("fixed") && list.contains("https://hooks.test"), "{list}");
    for text in [&list, &shown.to_string(), &all_rows(&database).await] {
        assert!(!text.contains(SECRET), "{text}");
    }

    // Those of the file are not changed from here; what does not exist is told so.
    let fixed = relevo.fails(&["connection", "remove", "fixed"], 2).await;
    assert!(fixed.contains("configuration file"), "{fixed}");
    relevo.fails(&["connection", "show", "nobody"], 5).await;
    relevo.fails(&["connection", "add", "Bad", "--kind", "smtp", "--url", "smtp://h"], 2).await;
    relevo.fails(&["connection", "add", "x", "--kind", "smtp", "--url", "https://h"], 2).await;
    relevo.ok(&["connection", "remove", "other"]).await;
    relevo.fails(&["connection", "show", "other"], 5).await;
}

#[tokio::test]
async fn keys_rotate_and_a_key_that_is_lost_or_open_to_others_is_told() {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    let key_path = relevo.folder().join("data/secret.key");
    relevo.ok(&["secret", "init"]).await;
    let first = std::fs::read_to_string(&key_path).unwrap();
    relevo.ok(&["secret", "init"]).await;
    assert_eq!(std::fs::read_to_string(&key_path).unwrap(), first, "it is made once");
    let url = format!("https://hooks.test/{SECRET}");
    let add = ["connection", "add", "hook", "--kind", "webhook", "--url-file", "-"];
    assert_eq!(relevo.run_with(&add, url.as_bytes()).await.code, 0);

    // Rotated by root, it stays the services' user's.
    let owner = if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(&key_path, Some(65_534), Some(65_534)).unwrap();
        65_534
    } else {
        std::fs::metadata(&key_path).unwrap().uid()
    };
    let rotated = relevo.json(&["secret", "rotate"]).await;
    assert_eq!(rotated["sealed"], 1);
    let metadata = std::fs::metadata(&key_path).unwrap();
    assert_eq!((metadata.uid(), metadata.mode() & 0o777), (owner, 0o600));
    let second = std::fs::read_to_string(&key_path).unwrap();
    assert_ne!(second, first);
    assert_eq!(second.lines().filter(|line| !line.starts_with('#')).count(), 1, "the old is gone");
    // Its address does not resolve, but it opens.
    let tried = relevo.run(&["connection", "test", "hook", "--json"]).await;
    assert!(tried.out.contains("cannot be resolved"), "{tried:?}");

    std::fs::write(&key_path, &first).unwrap();
    let tried = relevo.run(&["connection", "test", "hook"]).await;
    assert!(tried.code == 1 && tried.out.contains("not at hand"), "{tried:?}");
    std::fs::set_permissions(&key_path, std::fs::Permissions::from_mode(0o644)).unwrap();
    let tried = relevo.run(&["connection", "test", "hook"]).await;
    assert!(tried.out.contains("chmod 600"), "{tried:?}");
    std::fs::remove_file(&key_path).unwrap();
    let tried = relevo.run(&["connection", "test", "hook"]).await;
    assert!(tried.out.contains("no key to open secrets"), "{tried:?}");

    // The keys in the environment: the new one first, both open, then the old one goes.
    let old = second.lines().find(|line| !line.starts_with('#')).unwrap().to_owned();
    let new = relevo.ok(&["secret", "generate"]).await.trim().to_owned();
    let relevo = relevo.env("RELEVO_SECRETS_KEY", old.clone());
    relevo.fails(&["secret", "rotate"], 3).await;
    let relevo = relevo.env("RELEVO_SECRETS_KEY", format!("{new},{old}"));
    assert_eq!(relevo.json(&["secret", "rotate"]).await["sealed"], 1);
    let relevo = relevo.env("RELEVO_SECRETS_KEY", new);
    let tried = relevo.run(&["connection", "test", "hook"]).await;
    assert!(tried.out.contains("cannot be resolved"), "{tried:?}");
    assert!(!all_rows(&database).await.contains(SECRET));
}

#[tokio::test]
async fn over_http_connections_are_kept_tried_and_guarded() {
    let server = Server::start().await;
    let receiver = Receiver::start().await;
    let post = async |body: Value| server.post_json("/api/v1/connections", &body).await;
    let hook = receiver.url("/inside");
    let body = json!({"name": "inside", "kind": "webhook", "url": hook});
    let added = post(body.clone()).await.ok(201);
    assert_eq!(added["origin"], "stored");
    post(body).await.refused(409, "connection_exists");
    let unknown = json!({"name": "a", "kind": "pigeon", "url": "https://h"});
    post(unknown).await.refused(422, "invalid_body");
    for wrong in [
        json!({"name": "A b", "kind": "webhook", "url": "https://h"}),
        json!({"name": "a", "kind": "webhook", "url": "ftp://h"}),
        json!({"name": "a", "kind": "gateway", "url": "https://h"}),
        json!({"name": "a", "kind": "smtp", "url": "smtp://u:p@h"}),
    ] {
        post(wrong).await.refused(422, "invalid_connection");
    }
    // An administrator of the API cannot make it ask addresses of the inside.
    let tried = server.post("/api/v1/connections/inside/test").await.ok(200);
    assert_eq!(tried["ok"], false);
    assert!(tried["message"].as_str().unwrap().contains("private address"), "{tried}");
    let postgres = json!({"name": "pg", "kind": "postgres", "url": server.db.url()});
    post(postgres).await.ok(201);
    let tried = server.post("/api/v1/connections/pg/test").await.ok(200);
    assert_eq!(tried["ok"], false, "{tried}");
    let around = "postgres://public.example/db?host=127.0.0.1&port=54329";
    post(json!({"name": "around", "kind": "postgres", "url": around})).await.ok(201);
    let tried = server.post("/api/v1/connections/around/test").await.ok(200);
    assert!(tried["message"].as_str().unwrap().contains("before the question mark"), "{tried}");
    assert!(receiver.heard("/inside").is_empty());

    let url = format!("https://hooks.test/{SECRET}");
    let request = server.request(Method::PATCH, "/api/v1/connections/inside");
    let changed = answer(request.json(&json!({"url": url}))).await.ok(200);
    assert_eq!(changed["address"], "https://hooks.test");
    let listed = server.get("/api/v1/connections").await.ok(200);
    assert!(!listed.to_string().contains(SECRET), "{listed}");
    let names: Vec<_> =
        listed["connections"].as_array().unwrap().iter().map(|c| &c["name"]).collect();
    assert!(names.contains(&&json!("backup.sicar.gateway")), "{listed}");
    server
        .delete("/api/v1/connections/backup.sicar.gateway")
        .await
        .refused(409, "connection_read_only");
    server.get("/api/v1/connections/nobody").await.refused(404, "connection_not_found");
    server.post("/api/v1/connections/nobody/test").await.refused(404, "connection_not_found");
    server.delete("/api/v1/connections/inside").await.ok(204);
    assert!(!all_rows(&server.db).await.contains(SECRET));
}

#[tokio::test]
async fn a_source_is_tried_out_over_http() {
    let server = Server::start().await;
    let tried = server.post("/api/v1/sources/sicar/test").await.ok(200);
    let trials = tried["trials"].as_array().unwrap();
    assert_eq!(trials.len(), 2, "{tried}");
    assert_eq!((&trials[0]["ok"], &trials[1]["ok"]), (&false.into(), &false.into()));
    assert!(trials[1]["message"].as_str().unwrap().contains("127.0.0.1:1"), "{tried}");
    server.post("/api/v1/sources/nobody/test").await.refused(404, "source_not_found");
    let tested = server.post("/api/v1/notify/test").await.ok(200);
    assert_eq!(tested["tested"], json!([]));
    let refused = server.post_json("/api/v1/notify/test", &json!({"channel": "x"})).await;
    refused.refused(404, "channel_not_found");
}

#[tokio::test]
async fn trying_out_a_mail_server_sends_nothing() {
    let database = TestDatabase::new().await;
    let server = MailServer::start("tls").await;
    let relevo = Relevo::on(&database)
        .env("RELEVO_SMTP_HOST", "localhost")
        .env("RELEVO_SMTP_PORT", server.port().to_string())
        .env("RELEVO_SMTP_SECURITY", "tls")
        .env("RELEVO_SMTP_FROM", "relevo@example.com")
        .env("RELEVO_SMTP_USER", mail::USER)
        .env("RELEVO_SMTP_PASSWORD", mail::PASSWORD)
        .env("RELEVO_SMTP_CA_FILE", server.ca_file().to_str().unwrap());
    let tried = relevo.json(&["connection", "test", "smtp"]).await;
    assert_eq!(tried[0]["ok"], true, "{tried}");
    let wrong = relevo.env("RELEVO_SMTP_PASSWORD", "no").run(&["connection", "test", "smtp"]).await;
    assert!(wrong.code == 1 && wrong.out.contains("535"), "{wrong:?}");
    assert!(server.messages().is_empty());
}
