//! What people operate Relevo with: alert rules, runbooks, dashboards, figures, deployment files.

mod alerting;
mod begin;
mod dashboards;
mod deployment;
mod examples;
mod figures;
mod migrations;
mod packaging;
mod rolling;
mod rules;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The project's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// A file of the project.
fn text(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The names of a folder's files with this ending, without it.
fn names(folder: &str, ending: &str) -> BTreeSet<String> {
    let files = std::fs::read_dir(root().join(folder)).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names.filter_map(|name| name.strip_suffix(ending).map(str::to_owned)).collect()
}

/// What stands after `start` in the lines that begin with it, apart from space.
fn after<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.trim().strip_prefix(start)).map(str::trim).collect()
}

/// Runs a program of the system, whose end must be a good one; what it said comes back.
fn run(program: &str, arguments: &[&str], folder: &str) -> String {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(root().join(folder))
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}; `./dev test` installs it"));
    let told = [output.stdout, output.stderr].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}:\n{told}");
    told
}

/// The figures that an expression names: `relevo_…`, `relevo:…` and `process_…`.
fn figures_in(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
    let wanted = |word: &&str| {
        ["relevo_", "relevo:", "process_"].iter().any(|start| word.starts_with(start))
    };
    words.filter(wanted).map(str::to_owned).collect()
}
