//! `relevo notify test`: each way to tell people, and how it fails.

use axum::http::StatusCode;
use relevo_tests::{MailServer, TestDatabase, mail};
use serde_json::{Value, json};

use super::TOLD_TIMEOUT;
use super::receiver::Receiver;
use crate::cli::Relevo;

/// A command line that mails through `server`.
fn mailing(database: &TestDatabase, server: &MailServer, security: &str) -> Relevo {
    let relevo = Relevo::on(database)
        .env("NOTIFICATION_EMAIL", "ops@example.com,jefe@example.com")
        .env("RELEVO_SMTP_HOST", "localhost")
        .env("RELEVO_SMTP_PORT", server.port().to_string())
        .env("RELEVO_SMTP_SECURITY", security)
        .env("RELEVO_SMTP_FROM", "relevo@example.com")
        .env("RELEVO_SMTP_CA_FILE", server.ca_file().to_str().unwrap());
    if security == "none" {
        return relevo;
    }
    relevo.env("RELEVO_SMTP_USER", mail::USER).env("RELEVO_SMTP_PASSWORD", mail::PASSWORD)
}

#[tokio::test]
async fn mail_leaves_encrypted_and_with_a_password() {
    let database = TestDatabase::new().await;
    for security in ["starttls", "tls", "none"] {
        let server = MailServer::start(security).await;
        let relevo = mailing(&database, &server, security).env("RELEVO_NOTIFY_LANGUAGE", "es");
        let tested = relevo.json(&["notify", "test"]).await;
        assert_eq!(
            tested,
            json!([{"channel": "email", "kind": "email", "ok": true, "error": null}]),
            "{security}"
        );
        let message = server.wait(1, TOLD_TIMEOUT).await.remove(0);
        assert_eq!(message["tls"], security != "none");
        assert_eq!(
            message["user"],
            if security == "none" { Value::Null } else { mail::USER.into() }
        );
        assert_eq!(message["from"], "relevo@example.com");
        assert_eq!(message["to"], json!(["ops@example.com", "jefe@example.com"]));
        assert_eq!(message["auto"], "auto-generated");
        assert!(message["id"].as_str().unwrap().contains("@example.com"), "{message}");
        assert!(message["text"].as_str().unwrap().contains("prueba del canal email"), "{message}");
    }
}

#[tokio::test]
async fn mail_that_cannot_leave_says_why_and_keeps_the_password_to_itself() {
    let database = TestDatabase::new().await;
    let server = MailServer::start("starttls").await;
    let good = || mailing(&database, &server, "starttls");
    for (relevo, words) in [
        (good().env("RELEVO_SMTP_PASSWORD", "wr0ng-mail"), "535"),
        (good().env("RELEVO_SMTP_CA_FILE", "/nowhere/ca.pem"), "/nowhere/ca.pem"),
        (good().env("NOTIFICATION_EMAIL", "refused@example.com"), "550"),
        (good().env("RELEVO_SMTP_PORT", "1"), "refused"),
    ] {
        let answer = relevo.run(&["notify", "test"]).await;
        assert_eq!(answer.code, 1, "{answer:?}");
        assert!(answer.out.contains("FAILED") && answer.out.contains(words), "{words}: {answer:?}");
        for secret in [mail::PASSWORD, "wr0ng-mail"] {
            assert!(!answer.out.contains(secret) && !answer.err.contains(secret), "{answer:?}");
        }
    }
    // A certificate nobody vouches for, and a server that offers no encryption.
    let mut untrusted = good();
    untrusted = untrusted.env("RELEVO_SMTP_CA_FILE", "");
    let answer = untrusted.run(&["notify", "test"]).await;
    assert!(answer.code == 1 && answer.out.contains("certificate"), "{answer:?}");
    let plain = MailServer::start("none").await;
    let answer = mailing(&database, &plain, "starttls").run(&["notify", "test"]).await;
    assert!(answer.code == 1 && answer.out.contains("FAILED"), "{answer:?}");
    assert!(server.messages().is_empty() && plain.messages().is_empty());
}

/// A command line with these channels.
fn with_channels(database: &TestDatabase, receiver: &Receiver, more: &str) -> Relevo {
    let relevo = Relevo::on(database);
    let address = receiver.address();
    let text = format!(
        r#"
        [outbound]
        allow = ["{address}"]

        [channel.hook]
        url = "http://{address}/hook"
        template = '{{"content": "Relevo: {{{{text}}}}", "event": "{{{{event}}}}"}}'

        [channel.equipo]
        kind = "slack"
        url = "http://{address}/services/s3cret"
        language = "es"

        [channel.bot]
        kind = "telegram"
        url = "http://{address}"
        token = "123:s3cret"
        chat_id = "-1001"
        {more}
        "#
    );
    let config = relevo.file("relevo.toml", text);
    relevo.env("RELEVO_CONFIG", config)
}

#[tokio::test]
async fn each_channel_speaks_its_own_way_and_language() {
    let database = TestDatabase::new().await;
    let receiver = Receiver::start().await;
    let relevo = with_channels(&database, &receiver, "");
    let tested = relevo.json(&["notify", "test"]).await;
    let ok: Vec<_> = tested.as_array().unwrap().iter().map(|tested| &tested["ok"]).collect();
    assert_eq!(ok, [true, true, true], "{tested}");
    let english = "This is a test of the channel";
    assert_eq!(
        receiver.heard("/hook")[0].body,
        json!({"content": format!("Relevo: {english} hook: messages from Relevo arrive."), "event": "test"})
    );
    let slack = &receiver.heard("/services/s3cret")[0].body;
    assert!(slack["text"].as_str().unwrap().contains("prueba del canal equipo"), "{slack}");
    assert_eq!(slack.as_object().unwrap().len(), 1);
    let bot = &receiver.heard("/bot123:s3cret/sendMessage")[0].body;
    assert_eq!(bot["chat_id"], "-1001");
    assert!(bot["text"].as_str().unwrap().starts_with(english), "{bot}");

    // One alone, by its name.
    relevo.ok(&["notify", "test", "--channel", "hook"]).await;
    assert_eq!(receiver.heard("/hook").len(), 2);
    assert_eq!(receiver.heard("/services/s3cret").len(), 1);
    relevo.fails(&["notify", "test", "--channel", "nobody"], 5).await;
    let listed = relevo.json(&["notify", "channels"]).await;
    assert_eq!(listed[1]["name"], "equipo");
    assert_eq!((&listed[1]["language"], &listed[1]["kind"]), (&"es".into(), &"slack".into()));
}

#[tokio::test]
async fn private_addresses_and_redirects_are_refused_and_secret_addresses_not_told() {
    let database = TestDatabase::new().await;
    let receiver = Receiver::start().await;
    let relevo =
        with_channels(&database, &receiver, "").env("RELEVO_OUTBOUND_ALLOW", "10.0.0.1:80");
    let answer = relevo.run(&["notify", "test"]).await;
    assert_eq!(answer.code, 1);
    assert_eq!(answer.out.matches("is a private address").count(), 3, "{answer:?}");
    assert!(answer.out.contains(&format!("outbound.allow names {}", receiver.address())));
    for path in ["/hook", "/services/s3cret", "/bot123:s3cret/sendMessage"] {
        assert!(receiver.heard(path).is_empty(), "{path}");
    }

    let relevo = with_channels(&database, &receiver, "");
    receiver.always(Some(StatusCode::FOUND));
    let redirected = relevo.run(&["notify", "test"]).await;
    assert!(redirected.code == 1 && redirected.out.contains("HTTP 302"), "{redirected:?}");
    assert!(receiver.heard("/followed").is_empty());
    receiver.always(Some(StatusCode::UNAUTHORIZED));
    let refused = relevo.run(&["notify", "test"]).await;
    assert!(refused.out.contains("check its address, key or chat"), "{refused:?}");
    for answer in [answer, redirected, refused] {
        assert!(!answer.out.contains("s3cret") && !answer.err.contains("s3cret"), "{answer:?}");
    }
}
