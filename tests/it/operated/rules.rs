//! Alert rules by Prometheus' own tools, and their runbooks.

use std::collections::BTreeSet;

use relevo_tests::clean_command;

use super::{after, names, run, text};

const ALERTS: &str = "deploy/prometheus/relevo.alerts.yml";

fn alerts() -> BTreeSet<String> {
    after(&text(ALERTS), "- alert:").into_iter().map(str::to_owned).collect()
}

#[test]
fn every_alert_fires_when_it_should_and_not_otherwise() {
    let folder = "deploy/prometheus";
    // With the rule files that it names.
    run("promtool", &["check", "config", "prometheus.yml"], folder);
    run("amtool", &["check-config", "alertmanager.yml"], folder);
    let mut cases = String::new();
    let mut arguments = vec!["test".to_owned(), "rules".to_owned()];
    for name in names("deploy/prometheus/tests", ".yml") {
        cases += &text(&format!("deploy/prometheus/tests/{name}.yml"));
        arguments.push(format!("tests/{name}.yml"));
    }
    run("promtool", &arguments.iter().map(String::as_str).collect::<Vec<_>>(), folder);
    let cases = after(&cases, "- name:");
    for alert in alerts() {
        for how in ["fires", "is quiet"] {
            let start = format!("{alert} {how} ");
            assert!(cases.iter().any(|case| case.starts_with(&start)), "no test that {start}");
        }
    }
}

#[test]
fn every_alert_has_a_runbook_in_both_languages_and_its_commands_exist() {
    let alerts = alerts();
    let rules = text(ALERTS);
    let mut commands = BTreeSet::new();
    for folder in ["docs/runbooks", "docs/es/runbooks"] {
        let mut pages = names(folder, ".md");
        assert!(pages.remove("README"), "{folder} has no list of its pages");
        assert_eq!(pages, alerts, "{folder} has other pages than there are alerts");
        for page in pages {
            let text = text(&format!("{folder}/{page}.md"));
            assert_eq!(text.matches("\n## ").count(), 4, "{folder}/{page}.md lacks a part");
            let fenced = text.split("```").skip(1).step_by(2).flat_map(str::lines);
            commands.extend(fenced.filter(|line| !line.is_empty()).map(str::to_owned));
        }
    }
    for alert in &alerts {
        let runbook = format!("runbook: docs/runbooks/{alert}.md");
        assert!(rules.contains(&runbook), "{alert} does not name its runbook");
    }
    assert!(commands.len() > 15, "{commands:?}");
    for command in commands {
        let words: Vec<_> = command.split(' ').collect();
        assert_eq!(words[0], "relevo", "{command}");
        // Which refuses commands and flags that do not exist.
        let output = clean_command("relevo").args(&words[1..]).arg("--help").output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "a runbook says `{command}`: {told}");
    }
}
