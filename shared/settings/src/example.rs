//! The example file, made from the table of keys.

use crate::schema::{BACKUP, CHANNEL, CONNECTION, Key, Kind, Preset, SCHEDULE, Section};

/// `relevo.example.toml`: every key with its meaning; defaults are commented out.
pub fn example() -> String {
    let mut out = String::new();
    for section in Section::ALL {
        if !section.name.is_empty() {
            out.push('\n');
        }
        comment(&mut out, section.help);
        match section.name {
            "" => out.push('\n'),
            name if section.is_repeated() => {
                out.push_str(&format!("# [{name}.{}]\n", section.example_name()));
            }
            name => out.push_str(&format!("[{name}]\n")),
        }
        for key in section.keys {
            line(&mut out, section, key);
        }
    }
    out
}

fn comment(out: &mut String, text: &str) {
    let mut width = 0;
    for word in text.split_whitespace() {
        if width == 0 || width + word.len() + 1 > 98 {
            if width > 0 {
                out.push('\n');
            }
            out.push('#');
            width = 1;
        }
        out.push(' ');
        out.push_str(word);
        width += word.len() + 1;
    }
    out.push('\n');
}

fn line(out: &mut String, section: &Section, key: &Key) {
    let mut help = key.help.to_owned();
    match key.preset {
        Preset::Computed(words) => help.push_str(&format!(" Default: {words}.")),
        Preset::Absent(words) => help.push_str(&format!(" Without it: {words}.")),
        Preset::Required => help.push_str(" Required."),
        Preset::Value(_) => {}
    }
    if let Some(name) = key.fixed_env {
        help.push_str(&format!(" Also {name}."));
    }
    comment(out, &help);
    let value = match (key.kind, key.preset) {
        (Kind::Integer { .. } | Kind::Boolean, Preset::Value(text)) => text.to_owned(),
        (Kind::List, _) => "[]".to_owned(),
        (_, Preset::Value(text)) => format!("{text:?}"),
        (_, _) => format!("{:?}", sample(section.name, key.name)),
    };
    out.push_str(&format!("# {} = {value}\n", key.name));
    if key.kind == Kind::Secret {
        out.push_str(&format!("# {}_file = \"/run/secrets/{}\"\n", key.name, key.name));
    }
}

/// A fitting value for a key without a fixed default.
fn sample(section: &str, key: &str) -> &'static str {
    match (section, key) {
        ("", "data_dir") => "/var/lib/relevo",
        ("database", "url" | "direct_url") => {
            "postgres://relevo:${DB_PASSWORD}@db.example.com/relevo?sslmode=require"
        }
        ("api", "public_url") => "https://relevo.example.com",
        ("worker", "metrics_listen") => "127.0.0.1:9101",
        ("scheduler", "metrics_listen") => "127.0.0.1:9102",
        ("telemetry", "log_file") => "/var/log/relevo/relevo.log",
        ("telemetry", "otlp_endpoint") => "http://localhost:4318",
        ("telemetry", "otlp_headers") => "Authorization=Bearer ${OTLP_TOKEN}",
        ("telemetry", "service_name") => "relevo",
        ("chunk_store", "url") => "file:///var/lib/relevo/chunks",
        ("notify", "webhook_url") => "https://hooks.example.com/services/${HOOK}",
        ("notify", "email") => "ops@example.com",
        (CHANNEL, "url") => "https://hooks.example.com/services/${HOOK}",
        (CHANNEL, "token") => "${BOT_TOKEN}",
        (CHANNEL, "chat_id") => "-1001234567890",
        (CHANNEL, "connection") => "hooks",
        (CHANNEL, "language") => "es",
        (CHANNEL, "template") => r#"{"content": "{{text}}", "rows": "{{stats.rows}}"}"#,
        ("smtp", "host") => "smtp.example.com",
        ("smtp", "port") => "587",
        ("smtp", "user") => "relevo@example.com",
        ("smtp", "password") => "${SMTP_PASSWORD}",
        ("smtp" | CONNECTION, "from") => "relevo@example.com",
        ("smtp", "ca_file") => "/etc/relevo/mail-ca.pem",
        ("secrets", "key") => "${SEALING_KEY}",
        ("secrets", "keys_path") => "/etc/relevo/secret.key",
        (CONNECTION, "kind") => "smtp",
        (CONNECTION, "url") => "smtp+starttls://relevo:${SMTP_PASSWORD}@smtp.example.com",
        (CONNECTION, "api_key") => "${TUNNEL_KEY}",
        (BACKUP, "gateway_url") => "https://tunnel.example.com",
        (BACKUP, "api_key") => "${TUNNEL_KEY}",
        (BACKUP, "path") => "/srv/backups",
        (BACKUP, "url") => "https://backups.example.com/shop.sql.gz",
        (BACKUP, "headers") => "Authorization: Bearer ${TUNNEL_KEY}",
        (BACKUP, "heartbeat_url") => "https://hc-ping.example.com/${HEARTBEAT}",
        (BACKUP, "target_url") => "postgres://shop:${SHOP_PASSWORD}@db.example.com/shop",
        (SCHEDULE, "rhythm") => "cron 30 2 * * *",
        (SCHEDULE, "kind") => "Noop",
        (SCHEDULE, "payload") => "{}",
        (SCHEDULE, "backup_source") => "sicar",
        _ => "",
    }
}
