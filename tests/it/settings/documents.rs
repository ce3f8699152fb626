//! The example file and the documents list what the code knows. `UPDATE_DOCS=1` writes them.

use std::path::{Path, PathBuf};

use relevo_settings::{Kind, Origin, Preset, Section, example};
use relevo_telemetry::metrics::names::{ALL, Exporter, Shape};

use super::{World, every_key, explained};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// Compares a file, or the part between two marks in it, with what the code says; with
/// `UPDATE_DOCS=1` writes it instead.
fn keeps_up(path: &str, marks: Option<(&str, &str)>, expected: &str) {
    let file = root().join(path);
    let current = std::fs::read_to_string(&file).unwrap_or_default();
    let wanted = match marks {
        None => expected.to_owned(),
        Some((begin, end)) => {
            let (before, rest) = current.split_once(begin).expect("the opening mark");
            let (_, after) = rest.split_once(end).expect("the closing mark");
            format!("{before}{begin}\n{expected}{end}{after}")
        }
    };
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&file, wanted).unwrap();
    } else {
        assert!(current == wanted, "{path} is not up to date; run this test with UPDATE_DOCS=1");
    }
}

#[test]
fn the_example_file_lists_every_key_and_parses() {
    let text = example();
    keeps_up("relevo.example.toml", None, &text);
    // As it is, and with every line switched on.
    World::file(&text).load();
    let switched_on: Vec<_> = text
        .lines()
        .filter(|line| !line.contains("_file = \"/run/secrets/"))
        .map(|line| {
            let bare = line.strip_prefix("# ").unwrap_or(line);
            let word = bare.split(' ').next().unwrap_or_default();
            let key = bare[word.len()..].starts_with(" = ")
                && word.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            let tables = Section::ALL.iter().filter(|section| section.is_repeated());
            let mut tables = tables.map(|section| format!("[{}.", section.name));
            let table = tables.any(|start| bare.starts_with(&start));
            if key || table { bare } else { line }
        })
        .collect();
    let world = World::file(&switched_on.join("\n")).and([
        ("DB_PASSWORD", "a"),
        ("OTLP_TOKEN", "e"),
        ("HOOK", "b"),
        ("TUNNEL_KEY", "c"),
        ("SHOP_PASSWORD", "d"),
        ("SMTP_PASSWORD", "f"),
        ("BOT_TOKEN", "123:abc"),
        ("HEARTBEAT", "g"),
        ("SEALING_KEY", "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"),
    ]);
    let loaded = world.load();
    for (section, key) in every_key() {
        let name = key.full_name(&section);
        let origin = explained(&loaded, &name).origin;
        assert!(matches!(origin, Origin::File { .. }), "{name} is not in the example: {origin}");
    }
    assert_eq!(explained(&loaded, "data_dir").value.as_deref(), Some("/var/lib/relevo"));
}

#[test]
fn the_document_lists_every_key() {
    let mut table = String::new();
    for section in Section::ALL {
        let (title, prefix) = match section.name {
            "" => ("At the top".to_owned(), String::new()),
            name if section.is_repeated() => (format!("`[{name}.NAME]`"), format!("{name}.NAME")),
            name => (format!("`[{name}]`"), name.to_owned()),
        };
        table.push_str(&format!("\n### {title}\n\n{}\n\n", section.help));
        table.push_str("| key | meaning | default | environment |\n|---|---|---|---|\n");
        for key in section.keys {
            let default = match key.preset {
                Preset::Value("") => "empty".to_owned(),
                Preset::Value(text) => format!("`{text}`"),
                Preset::Computed(words) => words.to_owned(),
                Preset::Absent(words) => format!("none: {words}"),
                Preset::Required => "required".to_owned(),
            };
            let mut meaning = key.help.to_owned();
            match key.kind {
                Kind::Integer { min, max } => meaning.push_str(&format!(" {min} to {max}.")),
                Kind::Secret => meaning.push_str(" Secret."),
                Kind::Text | Kind::Boolean | Kind::List => {}
            }
            let mut env = format!("`{}`", key.env_name(&prefix));
            if let Some(name) = key.fixed_env {
                env.push_str(&format!(", `{name}`"));
            }
            let row = format!("| `{}` | {meaning} | {default} | {env} |\n", key.name);
            table.push_str(&row);
        }
    }
    table.push('\n');
    keeps_up("docs/configuration.md", Some(("<!-- keys -->", "<!-- end of keys -->")), &table);
}

#[test]
fn the_document_lists_every_figure() {
    let mut table =
        "\n| name | kind | labels | meaning | exported by |\n|---|---|---|---|---|\n".to_owned();
    for metric in ALL {
        let kind = match metric.shape {
            Shape::Counter => "counter",
            Shape::Gauge => "gauge",
            Shape::Histogram(_) => "histogram",
        };
        let labels: Vec<_> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let exporter = match metric.exporter {
            Exporter::EveryProcess => "each process",
            Exporter::Leader => "the leader",
        };
        let row = format!(
            "| `{}` | {kind} | {} | {} | {exporter} |\n",
            metric.name,
            labels.join(", "),
            metric.help
        );
        table.push_str(&row);
    }
    table.push('\n');
    keeps_up("docs/metrics.md", Some(("<!-- figures -->", "<!-- end of figures -->")), &table);
}
