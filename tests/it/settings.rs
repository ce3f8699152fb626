//! The configuration: file, environment and flags; and below: what is refused, what is never shown,
//! what the documents say.

mod documents;
mod dump_choices;
mod refused;
mod secrets;

use std::collections::HashMap;
use std::path::PathBuf;

use relevo_settings::{
    Explained, GatewayMode, Key, Kind, Loaded, LogFormat, MissedRuns, Origin, Preset, Section,
    Settings, SettingsError, load,
};
use secrecy::ExposeSecret as _;

/// What one loading sees: a file, if any, and an environment of its own.
#[derive(Default)]
struct World {
    folder: Option<tempfile::TempDir>,
    env: HashMap<String, String>,
}

impl World {
    fn file(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("relevo.toml"), text).unwrap();
        Self { folder: Some(folder), env: HashMap::new() }
    }

    fn env<const N: usize>(variables: [(&str, &str); N]) -> Self {
        Self::default().and(variables)
    }

    fn and<const N: usize>(mut self, variables: [(&str, &str); N]) -> Self {
        self.env.extend(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        self
    }

    fn path(&self) -> Option<PathBuf> {
        self.folder.as_ref().map(|folder| folder.path().join("relevo.toml"))
    }

    fn try_load(&self) -> Result<Loaded, SettingsError> {
        load(self.path().as_deref(), &|name| self.env.get(name).cloned())
    }

    fn load(&self) -> Loaded {
        self.try_load().unwrap_or_else(|error| panic!("{error}"))
    }

    fn settings(&self) -> Settings {
        self.load().settings
    }

    fn refusal(&self) -> String {
        match self.try_load() {
            Ok(loaded) => panic!("loaded: {loaded:?}"),
            Err(error) => error.to_string(),
        }
    }
}

fn explained(loaded: &Loaded, key: &str) -> Explained {
    loaded.explain().into_iter().find(|line| line.key == key).unwrap()
}

const TUNNEL: [(&str, &str); 2] =
    [("TUNNEL_API_URL", "https://tunnel.example.com/"), ("TUNNEL_API_KEY", "key-1")];

#[test]
fn without_a_word_everything_has_a_default() {
    let settings = World::default().settings();
    assert!(settings.data_dir.is_absolute());
    assert!(settings.database.url.is_none());
    assert_eq!(settings.database.max_connections, 10);
    assert_eq!(settings.api.listen.to_string(), "127.0.0.1:8080");
    assert_eq!(settings.api.public_url, None);
    assert_eq!(settings.worker.concurrency, 4);
    assert!(settings.worker.queues.is_empty());
    assert_eq!((settings.worker.lease_ttl_seconds, settings.worker.grace_seconds), (15, 30));
    assert_eq!(settings.worker.poll_interval_ms, 1_000);
    assert_eq!(settings.scheduler.missed_runs, MissedRuns::Once);
    assert_eq!(settings.telemetry.log_level, "info");
    assert_eq!(settings.telemetry.log_format, LogFormat::Text);
    let chunks = format!("file://{}/chunks", settings.data_dir.display());
    assert_eq!(settings.chunk_store.url, chunks);
    assert_eq!(settings.chunk_store.chunk_size_bytes, 32 << 20);
    assert!(settings.backup.is_empty());
}

#[test]
fn the_gateways_names_alone_make_the_default_source() {
    let settings = World::env(TUNNEL).settings();
    let source = &settings.backup["sicar"];
    // The slash is dropped, so that paths can be appended.
    assert_eq!(source.gateway_url, "https://tunnel.example.com");
    assert_eq!(source.api_key.expose_secret(), "key-1");
    assert_eq!(source.mode, GatewayMode::Auto);
    assert!(!source.allow_http_fallback && !source.dump.translate.tinyint1_as_boolean);
    assert_eq!(source.target_schema, "public");
    assert_eq!(source.timezone.name(), "America/Mexico_City");
    assert_eq!((source.sync_interval_hours, source.retention_days), (12, 7));
    assert_eq!(source.first_slot.format("%H:%M").to_string(), "06:00");
    assert_eq!((source.webhook_timeout_seconds, source.sync_timeout_seconds), (900, 720));
    assert_eq!(source.guard_shrink_percent, 30);
    assert!(source.schedule_enabled);
    // No database anywhere: the target is one of the embedded server's.
    assert_eq!(settings.embedded_targets(), [("sicar".to_owned(), "sicar".to_owned())]);
}

#[test]
fn every_name_that_the_requirements_fix() {
    let world = World::env(TUNNEL).and([
        ("DATABASE_URL", "postgres://app:secret@db/shop"),
        ("SYNC_INTERVAL_HOURS", "6"),
        ("BACKUP_RETENTION_DAYS", "3"),
        ("NOTIFICATION_EMAIL", "ops@example.com"),
        ("LOG_LEVEL", "DEBUG"),
    ]);
    let loaded = world.load();
    let settings = &loaded.settings;
    let source = &settings.backup["sicar"];
    assert_eq!(source.target_url.expose_secret(), "postgres://app:secret@db/shop");
    assert_eq!((source.sync_interval_hours, source.retention_days), (6, 3));
    assert_eq!(settings.notify.email.as_deref(), Some("ops@example.com"));
    assert_eq!(settings.telemetry.log_level, "debug");
    // The control plane lives beside the target when nothing else is said.
    let control_plane = settings.database.url.as_ref().unwrap();
    assert_eq!(control_plane.expose_secret(), "postgres://app:secret@db/shop");
    assert_eq!(explained(&loaded, "database.url").origin, Origin::Env("DATABASE_URL".to_owned()));

    let world = world.and([("RELEVO_DATABASE_URL", "postgres://q:pw@db/queue")]);
    let settings = world.settings();
    let control_plane = settings.database.url.unwrap();
    assert_eq!(control_plane.expose_secret(), "postgres://q:pw@db/queue");
    let target = &settings.backup["sicar"].target_url;
    assert_eq!(target.expose_secret(), "postgres://app:secret@db/shop");
}

#[test]
fn a_database_url_alone_is_a_control_plane_and_no_source() {
    let settings = World::env([("DATABASE_URL", "postgres://db/app")]).settings();
    assert!(settings.database.url.is_some() && settings.backup.is_empty());
    // The file's word on the control plane is stronger than the beside-the-target rule.
    let world = World::file("[database]\nurl = 'postgres://db/queue'\n");
    let settings = world.and([("DATABASE_URL", "postgres://db/app")]).settings();
    assert_eq!(settings.database.url.unwrap().expose_secret(), "postgres://db/queue");
}

#[test]
fn the_fixed_names_speak_of_the_default_source_only() {
    let world = World::file(
        "[backup.other]\ngateway_url = 'https://o.example.com'\napi_key = 'k'\n\
         target_url = 'postgres://db/other'\n",
    )
    .and(TUNNEL)
    .and([("SYNC_INTERVAL_HOURS", "8"), ("DATABASE_URL", "postgres://db/shop")])
    .and([("RELEVO_BACKUP_OTHER_RETENTION_DAYS", "1")]);
    let settings = world.settings();
    let (other, sicar) = (&settings.backup["other"], &settings.backup["sicar"]);
    assert_eq!((other.sync_interval_hours, sicar.sync_interval_hours), (12, 8));
    assert_eq!((other.retention_days, sicar.retention_days), (1, 7));
    assert_eq!(other.target_url.expose_secret(), "postgres://db/other");
}

#[test]
fn flag_over_own_name_over_fixed_name_over_file_over_default() {
    let loaded = World::default().load();
    assert_eq!(explained(&loaded, "telemetry.log_level").origin, Origin::Default);

    let world = World::file("# a comment\n[telemetry]\nlog_level = 'warn'\n");
    let loaded = world.load();
    let line = explained(&loaded, "telemetry.log_level");
    assert_eq!(line.value.as_deref(), Some("warn"));
    assert_eq!(line.origin, Origin::File { path: world.path().unwrap(), line: 3 });

    let world = world.and([("LOG_LEVEL", "error")]);
    let loaded = world.load();
    assert_eq!(loaded.settings.telemetry.log_level, "error");

    // An empty variable is an unset one.
    let world = world.and([("RELEVO_TELEMETRY_LOG_LEVEL", "")]);
    assert_eq!(world.settings().telemetry.log_level, "error");
    let world = world.and([("RELEVO_TELEMETRY_LOG_LEVEL", "trace")]);
    let mut loaded = world.load();
    assert_eq!(loaded.settings.telemetry.log_level, "trace");

    loaded.set_flag("telemetry.log_level", "off", "--log-level").unwrap();
    assert_eq!(loaded.settings.telemetry.log_level, "off");
    let line = explained(&loaded, "telemetry.log_level");
    assert_eq!(line.origin.to_string(), "flag --log-level");
    // A bad flag changes nothing.
    let error = loaded.set_flag("api.listen", "everywhere", "--listen").unwrap_err().to_string();
    assert!(error.contains("flag --listen") && error.contains("`everywhere`"), "{error}");
    assert_eq!(loaded.settings.api.listen.port(), 8080);
    assert!(loaded.set_flag("api.listne", "1", "--x").is_err());
}

/// A value that each key takes and that isn't its default.
fn other_value(section: &str, key: &Key) -> String {
    match (section, key.name, key.kind) {
        (_, _, Kind::Boolean) => {
            if key.preset == Preset::Value("true") {
                "false".into()
            } else {
                "true".into()
            }
        }
        (_, _, Kind::Integer { min, max }) => {
            let default = matches!(key.preset, Preset::Value(text) if text == min.to_string());
            if default { max.to_string() } else { min.to_string() }
        }
        (_, "queues", _) => "imports,default".into(),
        ("worker", "kinds", _) => "Noop,Notify".into(),
        ("worker", "queue_weights", _) => "imports=3,default=2".into(),
        (_, "listen" | "metrics_listen", _) => "127.0.0.1:9999".into(),
        (_, "public_url" | "gateway_url", _) => "https://x.example.com".into(),
        (_, "webhook_url", _) => "https://hooks.example.com/T1".into(),
        (_, "target_url", _) => "postgres://u:p@db/t".into(),
        ("database", "pooler", _) => "transaction".into(),
        ("database", "url" | "direct_url", _) => "postgres://u:p@db/q".into(),
        ("chunk_store", "url", _) => "file:///var/chunks".into(),
        (_, "data_dir", _) => "/var/x".into(),
        (_, "missed_runs", _) => "catch_up".into(),
        (_, "log_level", _) => "info,relevo_worker=debug".into(),
        (_, "log_format", _) => "json".into(),
        (_, "log_file", _) => "/var/log/relevo.log".into(),
        (_, "otlp_endpoint", _) => "http://127.0.0.1:4318".into(),
        (_, "otlp_headers", _) => "x-team=shop".into(),
        (_, "trace_ratio", _) => "0.25".into(),
        (_, "service_name", _) => "relevo-shop".into(),
        (_, "email" | "from" | "to", _) => "a@b".into(),
        ("channel.ops", "url", _) => "https://hooks.example.com/T1".into(),
        ("channel.ops", "token", _) => "123:abc".into(),
        ("channel.ops", "chat_id", _) => "-100".into(),
        ("channel.ops", "connection", _) => "hooks".into(),
        ("channel.ops", "sources", _) => "sicar".into(),
        ("channel.ops", "events", _) => "failure".into(),
        ("channel.ops", "template", _) => "{}".into(),
        ("channel.ops", "kind", _) => "slack".into(),
        ("connection.mail", "kind", _) => "gateway".into(),
        ("connection.mail", "url", _) => "https://hooks.example.com/T1".into(),
        (_, "language", _) => "es".into(),
        ("smtp", "host", _) => "mail.example.com".into(),
        ("smtp", "port", _) => "2525".into(),
        ("smtp", "security", _) => "tls".into(),
        ("smtp", "user" | "password", _) => "a@b".into(),
        ("smtp", "ca_file", _) => "/etc/ca.pem".into(),
        ("outbound", "allow", _) => "10.0.0.1:80".into(),
        ("secrets", "key", _) => "0a".repeat(32),
        ("secrets", "keys_path", _) => "/etc/relevo.key".into(),
        (_, "cutover", _) => "merge".into(),
        (_, "old_snapshots", _) => "proceed".into(),
        ("backup.sicar", "kind", _) => "upload".into(),
        ("backup.sicar", "path", _) => "/srv/backups".into(),
        ("backup.sicar", "pattern", _) => "shop-*.sql".into(),
        ("backup.sicar", "url", _) => "https://backups.example.com/a.sql.gz".into(),
        ("backup.sicar", "headers", _) => "Authorization: Bearer x".into(),
        (_, "heartbeat_url", _) => "https://hc.example.com/1".into(),
        (_, "mode", _) => "sync".into(),
        (_, "timezone", _) => "Europe/Madrid".into(),
        (_, "first_slot", _) => "07:30".into(),
        ("schedule.nightly", "rhythm", _) => "every 15m".into(),
        ("schedule.nightly", "kind" | "backup_source", _) => "other".into(),
        ("schedule.nightly", "payload", _) => "{}".into(),
        (_, "target_schema" | "api_key", _) => "other".into(),
        ("backup.sicar", name, _) => dump_choices::other_value(name).into(),
        (section, name, _) => panic!("give a value for {section}.{name}"),
    }
}

fn every_key() -> impl Iterator<Item = (String, &'static Key)> {
    Section::ALL.iter().flat_map(|section| {
        let name = if section.is_repeated() {
            format!("{}.{}", section.name, section.example_name())
        } else {
            section.name.to_owned()
        };
        section.keys.iter().map(move |key| (name.clone(), key))
    })
}

/// What a section needs beside one of its keys, as lines of the file.
fn company(section: &str, key: &str) -> String {
    let lines: &[(&str, &str)] = match section {
        "channel.ops" => &[("url", "https://h/x")],
        "connection.mail" => &[("kind", "webhook"), ("url", "https://h/x")],
        "schedule.nightly" => &[("rhythm", "every 5m")],
        "smtp" => &[("user", "a@b")],
        _ => &[],
    };
    let lines = lines.iter().filter(|(name, _)| *name != key);
    lines.map(|(name, value)| format!("{name} = '{value}'\n")).collect()
}

#[test]
fn every_key_is_taken_from_the_environment_and_from_the_file() {
    let target = ("DATABASE_URL", "postgres://u:p@db/default");
    for (section, key) in every_key() {
        let name = key.full_name(&section);
        let value = other_value(&section, key);
        let variable = key.env_name(&section);
        let header = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
        let base = format!("{header}{}", company(&section, key.name));
        // A table of the default source alone would be one without its gateway.
        let base = if section.starts_with("backup.") { String::new() } else { base };
        let world = World::file(&base).and(TUNNEL).and([target, (&variable, &value)]);
        let line = explained(&world.load(), &name);
        assert_eq!(line.origin, Origin::Env(variable), "{name}");

        let literal = match key.kind {
            Kind::Integer { .. } | Kind::Boolean => value.clone(),
            Kind::List => format!("{:?}", value.split(',').collect::<Vec<_>>()),
            Kind::Text | Kind::Secret => format!("{value:?}"),
        };
        let lines = if base.is_empty() { header } else { base };
        let world = World::file(&format!("{lines}{} = {literal}\n", key.name));
        let world = match (section.as_str(), key.name) {
            // What the environment says is stronger, so what the file says must be left out there.
            ("backup.sicar", "gateway_url") => world.and([TUNNEL[1], target]),
            ("backup.sicar", "api_key") => world.and([TUNNEL[0], target]),
            ("backup.sicar", "target_url") => world.and(TUNNEL),
            _ => world.and(TUNNEL).and([target]),
        };
        let line_in_file = explained(&world.load(), &name);
        assert!(matches!(line_in_file.origin, Origin::File { .. }), "{name}: {line_in_file:?}");
        assert_eq!(line_in_file.value, line.value, "{name}");
        if key.kind != Kind::Secret {
            assert_eq!(line.value.as_deref(), Some(value.as_str()), "{name}");
        }
    }
}

#[test]
fn an_embedded_target_is_replaced_by_the_real_one() {
    let text = "[backup.shop-2]\ngateway_url = 'https://x'\napi_key = 'k'\n";
    let mut settings = World::file(text).settings();
    let wanted = settings.embedded_targets();
    assert_eq!(wanted, [("shop-2".to_owned(), "shop_2".to_owned())]);
    settings.set_target("shop-2", "postgres://127.0.0.1/shop_2".into());
    assert!(settings.embedded_targets().is_empty());
}
