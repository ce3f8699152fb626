//! What the configuration refuses, and in which words.

use std::path::Path;

use relevo_settings::load;

use super::{TUNNEL, World};

#[test]
fn unknown_keys_are_refused_with_line_and_nearest_name() {
    for (text, parts) in [
        (
            "[worker]\nconcurency = 2\n",
            &["worker.concurency", ":2)", "did you mean concurrency?"][..],
        ),
        ("[wroker]\nconcurrency = 2\n", &["wroker", ":1)", "did you mean worker?"]),
        ("dat_dir = '/x'\n", &["dat_dir", "did you mean data_dir?"]),
        ("[api]\n\n\nbody_limit = 3\n", &["api.body_limit", ":4)", "body_limit_bytes?"]),
        ("[api]\nconcurrency = 3\n", &["api.concurrency", "belongs under [worker]"]),
        ("gateway_url = 'https://x'\n", &["gateway_url", "belongs under [backup.NAME]"]),
        ("[api]\nzzz = 3\n", &["api.zzz", "known here: listen, public_url"]),
        ("[backup]\ngateway_url = 'https://x'\n", &["backup.gateway_url", "[backup.NAME]"]),
        ("[backup.Big]\n", &["backup.Big", "small letters"]),
        ("[api]\nlisten_file = 'x'\n", &["api.listen_file", "did you mean listen?"]),
        ("api = 3\n", &["api", "is a section; write [api]"]),
    ] {
        let message = World::file(text).refusal();
        for part in parts {
            assert!(message.contains(part), "{text}: {part} in {message}");
        }
    }
}

#[test]
fn wrong_values_are_told_with_what_would_be_right() {
    let source = "[backup.sicar]\n";
    for (section, line, parts) in [
        ("[api]\n", "listen = '8080'", &["api.listen", "`8080`", "127.0.0.1:8080"][..]),
        ("[api]\n", "public_url = 'relevo.example.com'", &["https://host"]),
        ("[api]\n", "public_url = 'ftp://x'", &["http or https"]),
        ("[api]\n", "public_url = 'https://x/?a=b'", &["query"]),
        ("[api]\n", "public_url = 'https://u:p4ss@x'", &["must not carry a user"]),
        ("[database]\n", "url = 'mysql://u:p4ss@db/x'", &["mysql:", "postgres:// URL"]),
        ("[database]\n", "max_connections = 0", &["0 is outside 2 to 1000"]),
        ("[database]\n", "max_connections = 'ten'", &["`ten`", "whole number"]),
        ("[database]\n", "max_connections = 3.5", &["whole number", "a float"]),
        ("[worker]\n", "concurrency = -1", &["-1 is outside 1 to 1024"]),
        ("[worker]\n", "queues = 'a'\nconcurrency = [1]", &["whole number", "an array"]),
        ("[worker]\n", "queues = [1]", &["list of texts"]),
        ("[worker]\n", "metrics_listen = 'x'", &["worker.metrics_listen"]),
        ("[telemetry]\n", "log_file = '/var/log/'", &["names a folder"]),
        ("[telemetry]\n", "otlp_endpoint = 'localhost:4318'", &["http or https"]),
        ("[telemetry]\n", "otlp_headers = 'p4ss'", &["NAME=VALUE"]),
        ("[telemetry]\n", "trace_ratio = '2'", &["`2` is not a number from 0 to 1"]),
        ("[scheduler]\n", "missed_runs = 'never'", &["`never` is not one of skip, once, catch_up"]),
        ("[telemetry]\n", "log_level = 'verbos'", &["`verbos` is not a log level", "info"]),
        ("[telemetry]\n", "log_level = 'info,sqlx=loud'", &["`loud`"]),
        ("[telemetry]\n", "log_format = 'xml'", &["text, json"]),
        ("[chunk_store]\n", "url = 's3://bucket'", &["s3: stores are not supported"]),
        ("[chunk_store]\n", "url = '/var/chunks'", &["file:///"]),
        ("[notify]\n", "email = 'nobody'", &["not an e-mail address"]),
        ("[notify]\n", "webhook_url = 'p4ss'", &["notify.webhook_url", "not a URL"]),
        ("[notify]\n", "language = 'fr'", &["`fr` is not one of en, es"]),
        ("[channel.ops]\n", "kind = 'pigeon'", &["webhook, slack, telegram, email"]),
        ("[channel.ops]\n", "kind = 'slack'", &["channel.ops.url", "connection"]),
        ("[channel.ops]\n", "kind = 'telegram'", &["channel.ops.token", "channel.ops.chat_id"]),
        ("[channel.ops]\n", "kind = 'email'", &["channel.ops.to", "smtp.host"]),
        ("[channel.ops]\n", "url = 'https://h'\nsources = ['x']", &["there is no source `x`"]),
        ("[channel.ops]\n", "url = 'https://h'\ntemplate = '{'", &["template", "not JSON"]),
        ("[channel.ops]\n", "url = 'https://h'\nevents = ['end']", &["success, failure, alert"]),
        ("[channel.ops]\n", "token = 'p4ss/..'", &["not a bot's token"]),
        ("[channel.email]\n", "url = 'https://h'", &["Relevo uses itself"]),
        ("[channel]\n", "kind = 'slack'", &["[channel.NAME]", "[channel.ops]"]),
        ("[smtp]\n", "host = 'https://mail'", &["smtp.host", "without scheme"]),
        ("[smtp]\n", "host = 'mail'", &["smtp.from"]),
        ("[smtp]\n", "port = '0'", &["1 to 65535"]),
        (
            "[smtp]\n",
            "host = 'mail'\nsecurity = 'none'\nuser = 'a@b'\npassword = 'p4ss'",
            &["smtp.security", "in the clear"],
        ),
        ("[outbound]\n", "allow = ['10.0.0.1']", &["host:port"]),
        ("[secrets]\n", "key = 'p4ss'", &["64 hexadecimal digits"]),
        ("[connection.x]\n", "kind = 'smtp'\nurl = 'smtp://u:p4ss@h'", &["in the clear"]),
        ("[connection.x]\n", "kind = 'postgres'\nurl = 'mysql://u:p4ss@h'", &["postgres://"]),
        ("[connection.x]\n", "kind = 'ftp'", &["postgres, gateway, smtp, webhook"]),
        (source, "mode = 'hook'", &["auto, webhook, sync"]),
        (source, "mode = 'webhook'", &["needs api.public_url"]),
        (source, "timezone = 'America/Mexico'", &["did you mean America/Mexico_City?"]),
        (source, "first_slot = '6:00'", &["HH:MM"]),
        (source, "first_slot = '24:00'", &["HH:MM"]),
        (source, "sync_interval_hours = 0", &["0 is outside 1 to 24"]),
        (source, "sync_interval_hours = 25", &["25 is outside 1 to 24"]),
        (source, "allow_http_fallback = 'yes'", &["neither true nor false"]),
        (source, "allow_http_fallback = 1", &["true or false, not an integer"]),
        (source, "guard_shrink_percent = 101", &["101 is outside 0 to 100"]),
        (source, "target_schema = 'pg_x'", &["reserved"]),
        (source, "target_schema = 'relevo'", &["reserved"]),
        (source, "target_url = 'embedded:relevo'", &["is taken"]),
        (source, "target_url = 'embedded:Shop'", &["small letters"]),
        (source, "target_url = 'http://u:p4ss@db'", &["postgres:// URL"]),
        (source, "api_key = 'p4ss word'", &["backup.sicar.api_key", "blank"]),
    ] {
        let gateway = "gateway_url = 'https://x'\n";
        let key = "api_key = 'k'\n";
        let mut text = format!("{section}{line}\n");
        if section == source {
            text.push_str(gateway);
            if !line.starts_with("api_key") {
                text.push_str(key);
            }
        }
        let message = World::file(&text).refusal();
        for part in parts {
            assert!(message.contains(part), "{text}: {part} in {message}");
        }
        assert!(!message.contains("p4ss"), "{message}");
    }
}

#[test]
fn everything_wrong_is_reported_at_once() {
    let world = World::file("[api]\nlisten = 'x'\ntypo = 1\n[backup.sicar]\nfirst_slot = 'noon'\n");
    let message = world.and([("RELEVO_WORKER_CONCURRENCY", "many")]).refusal();
    for part in [
        "api.listen",
        "api.typo",
        "backup.sicar.first_slot",
        "worker.concurrency (environment variable RELEVO_WORKER_CONCURRENCY)",
        "backup.sicar.gateway_url: is missing",
        "TUNNEL_API_URL",
        "backup.sicar.api_key: is missing",
    ] {
        assert!(message.contains(part), "{part} in {message}");
    }
}

#[test]
fn a_source_needs_a_target_once_the_control_plane_is_elsewhere() {
    let world = World::env(TUNNEL).and([("RELEVO_DATABASE_URL", "postgres://db/queue")]);
    let message = world.refusal();
    assert!(message.contains("backup.sicar.target_url: is missing"), "{message}");
    assert!(message.contains("DATABASE_URL"), "{message}");
    let message = world.and([("DATABASE_URL", "embedded:shop")]).refusal();
    assert!(message.contains("asks for the embedded server"), "{message}");
}

#[test]
fn each_kind_of_source_says_what_it_needs() {
    let source = |text: &str| World::file(&format!("[backup.shop]\n{text}\n"));
    for (text, problem) in [
        ("kind = 'folder'", "backup.shop.path: is missing"),
        ("kind = 'file'", "backup.shop.path: is missing"),
        ("kind = 'url'", "backup.shop.url: is missing"),
        ("kind = 'url'\nurl = 'http://x/a.gz'", "plain http needs allow_http_fallback = true"),
        ("kind = 'url'\nurl = 'https://x/a'\nheaders = 'Bearer x'", "must be lines of NAME: VALUE"),
        ("kind = 'folder'\npath = '/a'\npattern = 'a/*'", "is no pattern for a file's name"),
        ("kind = 'folders'", "folder"),
        ("kind = 'gateway'", "backup.shop.gateway_url: is missing"),
    ] {
        let refusal = source(text).refusal();
        assert!(refusal.contains(problem), "{text}: {refusal}");
    }
    for (text, origin) in [
        ("kind = 'folder'\npath = '/srv/a'", "/srv/a/*.sql.gz"),
        ("kind = 'file'\npath = '/srv/a.sql'", "/srv/a.sql"),
        ("kind = 'url'\nurl = 'https://u:p@x.test/a.gz?firma=s'", "https://x.test/a.gz"),
        ("kind = 'upload'\nmode = 'webhook'", "uploads"),
    ] {
        let settings = source(text).settings();
        let source = &settings.backup["shop"];
        assert_eq!(source.origin(), origin);
        assert_eq!(source.schedule_enabled, text != "kind = 'upload'\nmode = 'webhook'");
    }
}

#[test]
fn a_named_file_must_exist_and_the_environment_can_name_it() {
    let missing = Path::new("/nowhere/relevo.toml");
    let error = load(Some(missing), &|_| None).unwrap_err();
    assert!(error.to_string().contains("/nowhere/relevo.toml"), "{error}");
    let world = World::file("[worker]\nconcurrency = 9\n");
    let path = world.path().unwrap().to_str().unwrap().to_owned();
    let env = |name: &str| (name == "RELEVO_CONFIG").then(|| path.clone());
    let loaded = load(None, &env).unwrap();
    assert_eq!(loaded.settings.worker.concurrency, 9);
    assert_eq!(loaded.file, world.path());
}

#[test]
fn mistyped_variables_are_found() {
    let loaded = World::env(TUNNEL).load();
    let names = [
        "RELEVO_API_LISTEN",
        "RELEVO_PG_BIN",
        "RELEVO_API_LISTNE",
        "PATH",
        "RELEVO_BACKUP_SICAR_API_KEY_FILE",
    ];
    let unknown = loaded.unknown_variables(names);
    let meant = Some("RELEVO_API_LISTEN".to_owned());
    assert_eq!(unknown, [("RELEVO_API_LISTNE".to_owned(), meant)]);
}
