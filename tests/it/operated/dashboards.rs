//! The shape of the dashboards.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{names, text};

/// Every dashboard, by the name of its file.
pub(super) fn all() -> Vec<(String, Value)> {
    let read = |name: String| {
        let path = format!("grafana/dashboards/{name}.json");
        let board = serde_json::from_str(&text(&path)).unwrap_or_else(|e| panic!("{path}: {e}"));
        (name, board)
    };
    names("grafana/dashboards", ".json").into_iter().map(read).collect()
}

/// Those panels of a dashboard that show something.
pub(super) fn panels(board: &Value) -> Vec<&Value> {
    let panels = board["panels"].as_array().expect("panels").iter();
    panels.filter(|panel| panel["type"] != "row").collect()
}

#[test]
fn every_panel_says_what_it_shows_and_asks_the_chosen_source() {
    let boards = all();
    let found: Vec<_> = boards.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(found, ["relevo-backup", "relevo-overview", "relevo-postgres", "relevo-queue"]);
    let mut run_links = 0;
    for (name, board) in &boards {
        assert_eq!(board["uid"], name.as_str());
        for key in ["title", "description", "schemaVersion", "time", "refresh"] {
            assert!(!board[key].is_null(), "{name} has no {key}");
        }
        let variables = board["templating"]["list"].as_array().unwrap();
        let known: BTreeSet<_> =
            variables.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert!(known.contains("datasource") && known.contains("console"), "{name}: {known:?}");
        assert_eq!(variables[0]["type"], "datasource", "others are asked of it");

        let every = board["panels"].as_array().unwrap();
        let ids: BTreeSet<_> = every.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
        assert_eq!(ids.len(), every.len(), "{name}: two panels have one id");
        let mut titles = BTreeSet::new();
        for panel in panels(board) {
            let title = panel["title"].as_str().unwrap();
            assert!(titles.insert(title), "{name}: two panels are called {title}");
            let description = panel["description"].as_str().unwrap_or_default();
            assert!(description.len() > 20 && description.ends_with('.'), "{name}: {title}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{name}: {title}");
            let place = &panel["gridPos"];
            let (x, w) = (place["x"].as_u64().unwrap(), place["w"].as_u64().unwrap());
            assert!(w > 0 && x + w <= 24 && place["h"].as_u64() > Some(0), "{name}: {title}");
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{name}: {title}");
            for target in targets {
                let asked = target["expr"].as_str().unwrap();
                let used = asked.split('$').skip(1).map(|rest| {
                    rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap()
                });
                for variable in used.filter(|name| !name.starts_with("__")) {
                    assert!(known.contains(variable), "{name}: {title} uses ${variable}");
                }
            }
            let links = panel["fieldConfig"]["defaults"]["links"].as_array();
            for link in links.into_iter().flatten() {
                let url = link["url"].as_str().unwrap();
                assert!(url.starts_with("${console}/console/"), "{name}: {title}: {url}");
                run_links += usize::from(url.contains("/console/runs"));
            }
        }
        // No two panels lie over one another.
        let mut taken = BTreeSet::new();
        for panel in every {
            let side = |key: &str| panel["gridPos"][key].as_u64().unwrap();
            for x in side("x")..side("x") + side("w") {
                for y in side("y")..side("y") + side("h") {
                    assert!(taken.insert((x, y)), "{name}: {} lies over another", panel["title"]);
                }
            }
        }
    }
    assert!(run_links > 5, "only {run_links} panels lead to runs");
}
