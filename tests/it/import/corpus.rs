//! Whole dumps against their manifests, as `./dev corpus` checks them.

use std::path::Path;
use std::process::Stdio;

use relevo_tests::{TestDatabase, binary_path};
use tokio::process::Command;

/// Imports every dump of a folder with the real binary.
async fn assert_as_described(folder: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Its server is what is wanted: each dump gets a database of its own there.
    let server = TestDatabase::empty().await;
    let output = Command::new("python3")
        .arg("-B")
        .arg(root.join("corpus/run.py"))
        .arg(binary_path("relevo"))
        .arg(folder)
        .arg(server.url())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("python3");
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{wrong}");
    assert!(said.contains("dumps as their manifest says"), "{said}");
}

#[tokio::test]
async fn the_projects_own_dumps_are_as_their_manifest_says() {
    assert_as_described(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data")).await;
}

#[tokio::test]
async fn dumps_of_others_are_as_their_manifest_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    if !folder.join("manifest.json").exists() {
        eprintln!("skipped: {} is not there", folder.display());
        return;
    }
    assert_as_described(&folder).await;
}
