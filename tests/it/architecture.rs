//! ARCHITECTURE.md names the tests that guard the invariants, and the documents link to one another:
//! each of those names exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The names of this binary's tests, such as `queue::fencing::a_stale_epoch_changes_nothing`.
fn tests() -> BTreeSet<String> {
    let list = Command::new(std::env::current_exe().unwrap())
        .args(["--list", "--format", "terse"])
        .output()
        .unwrap();
    let text = String::from_utf8(list.stdout).unwrap();
    text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// What stands between backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

#[test]
fn every_test_that_guards_an_invariant_exists() {
    let tests = tests();
    let page = std::fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let table = page.split_once("## Invariants").expect("the chapter").1;
    let rows = table.lines().filter(|line| line.starts_with("| ") && line.contains("::"));
    let mut named = 0;
    for name in rows.flat_map(quoted).filter(|name| name.contains("::")) {
        named += 1;
        let exists = match name.strip_suffix("::*") {
            Some(module) => tests.iter().any(|test| test.starts_with(&format!("{module}::"))),
            None => tests.contains(name),
        };
        assert!(exists, "ARCHITECTURE.md names the test {name}, which does not exist");
    }
    assert!(named > 10, "only {named} tests found in the table of invariants");
}

/// The Markdown files of the project.
fn documents() -> Vec<PathBuf> {
    let listed = Command::new("git")
        .args(["ls-files", "-co", "--exclude-standard", "*.md"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let paths = String::from_utf8(listed.stdout).unwrap();
    paths.lines().map(|path| root().join(path)).filter(|path| path.exists()).collect()
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let documents = documents();
    assert!(documents.len() > 5, "{documents:?}");
    for document in documents {
        let text = std::fs::read_to_string(&document).unwrap();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
            let path = link.0.split('#').next().unwrap_or_default();
            if path.is_empty() || path.contains("://") || path.contains(' ') {
                continue;
            }
            let target = document.parent().unwrap().join(path);
            assert!(target.exists(), "{} links to {path}", document.display());
        }
    }
}
