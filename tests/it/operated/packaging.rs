//! What a release says about itself, and what its packages take along.

use std::collections::BTreeSet;

use relevo_tests::{clean_command, programs_of};
use serde_json::Value;

use super::{root, run, text};

/// What `deploy/release/inventory.py` says.
fn inventory(what: &str) -> String {
    let output = std::process::Command::new("python3")
        .args(["-B", "deploy/release/inventory.py", what])
        .current_dir(root())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_bill_of_materials_is_right_and_names_what_the_binary_links() {
    let bill = inventory("sbom");
    assert_eq!(bill, inventory("sbom"), "the same sources give the same bill");
    let python = programs_of("cyclonedx-python-lib[validation]==11.12.0").join("python3");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &bill).unwrap();
    let validate = "import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
error = JsonStrictValidator(SchemaVersion.V1_6).validate_str(open(sys.argv[1]).read())
sys.exit(error and str(error))";
    let (python, file) = (python.to_str().unwrap(), file.path().to_str().unwrap());
    run(python, &["-c", validate, file], ".");

    let bill: Value = serde_json::from_str(&bill).unwrap();
    let version =
        String::from_utf8(clean_command("relevo").arg("--version").output().unwrap().stdout);
    let own = &bill["metadata"]["component"];
    assert_eq!(version.unwrap().trim(), format!("relevo {}", own["version"].as_str().unwrap()));
    let components = bill["components"].as_array().unwrap();
    let names: BTreeSet<_> = components.iter().map(|one| one["name"].as_str().unwrap()).collect();
    for linked in ["sqlx", "tokio", "aws-lc-sys", "relevo-queue"] {
        assert!(names.contains(linked), "{linked} is missing");
    }
    for foreign in ["proptest", "apalis-postgres", "relevo-tests", "stateright"] {
        assert!(!names.contains(foreign), "{foreign} is not linked");
    }
    for one in components {
        let own = one["name"].as_str().unwrap().starts_with("relevo");
        assert!(own || one["hashes"][0]["content"].is_string(), "{one}");
        assert!(one["licenses"][0]["expression"].is_string(), "{one}");
    }

    // The notices name each of the others' with its licence.
    let notices = inventory("notices");
    for one in components.iter().filter(|one| one["hashes"].is_array()) {
        let [name, version, licence] =
            [&one["name"], &one["version"], &one["licenses"][0]["expression"]]
                .map(|value| value.as_str().unwrap());
        let line =
            notices.lines().find(|line| line.trim().starts_with(&format!("{name} {version} ")));
        assert!(line.is_some_and(|line| line.ends_with(licence)), "{name} {version}: {line:?}");
    }
    assert!(notices.matches("Permission is hereby granted").count() > 20);
}

#[test]
fn what_the_debian_package_takes_along_is_there() {
    let manifest = text("cli/Cargo.toml");
    let assets = manifest.split_once("\nassets = [").unwrap().1.split_once("\n]").unwrap().0;
    let sources: Vec<_> = assets
        .lines()
        .filter_map(|line| line.trim().strip_prefix("[\"")?.split('"').next())
        .collect();
    assert!(sources.len() > 8, "{sources:?}");
    // What is built is not there yet.
    for source in sources.iter().filter_map(|source| source.strip_prefix("../")) {
        if source.starts_with("target/") {
            continue;
        }
        let (folder, name) = source.rsplit_once('/').unwrap_or((".", source));
        let (start, end) = name.split_once('*').unwrap_or((name, ""));
        let found = std::fs::read_dir(root().join(folder)).unwrap().any(|entry| {
            let name = entry.unwrap().file_name().into_string().unwrap();
            name.starts_with(start) && name.ends_with(end)
        });
        assert!(found, "{source}");
    }
    for script in ["postinst", "prerm", "postrm"] {
        let script = text(&format!("deploy/debian/{script}"));
        assert!(script.starts_with("#!/bin/sh\n") && script.contains("\nset -e\n"));
    }
}
