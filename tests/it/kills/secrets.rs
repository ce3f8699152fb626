//! The rotation of the key that seals secrets, killed.

use std::path::Path;

use relevo_tests::TestDatabase;

use super::gate::{Gate, Place};
use crate::cli::Relevo;

const NAMES: [&str; 3] = ["uno", "dos", "tres"];

/// How many keys a key file holds.
fn keys(path: &Path) -> usize {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().filter(|line| !line.starts_with('#')).count()
}

/// Every secret opens: the address that comes out is looked for.
async fn assert_all_open(relevo: &Relevo) {
    for name in NAMES {
        let tried = relevo.run(&["connection", "test", name, "--json"]).await;
        assert!(tried.out.contains("cannot be resolved"), "{name}: {tried:?}");
    }
}

async fn sealed_by(database: &TestDatabase) -> Vec<String> {
    let sql = "SELECT DISTINCT key_id FROM relevo.connection";
    sqlx::query_scalar(sql).fetch_all(database.pool()).await.unwrap()
}

/// Kills a rotation at a place, and then lets another one end.
async fn killed_at(place: Place<'_>, committed: bool) {
    let database = TestDatabase::new().await;
    let relevo = Relevo::on(&database);
    for name in NAMES {
        let url = format!("https://{name}.hooks.test/s3cret-of-a-connection");
        let add = ["connection", "add", name, "--kind", "webhook", "--url-file", "-"];
        let added = relevo.run_with(&add, url.as_bytes()).await;
        assert_eq!(added.code, 0, "{added:?}");
    }
    let before = sealed_by(&database).await;
    let key_file = relevo.folder().join("data/secret.key");

    let gate = Gate::close(&database, place).await;
    let rotation = relevo.process(&["secret", "rotate"]).spawn();
    gate.reached().await;
    rotation.kill();
    // The dead one's transaction still stands there: nobody is hindered from using what is sealed.
    assert_all_open(&relevo).await;
    gate.open().await;
    let after = sealed_by(&database).await;
    assert_eq!((after.len(), after != before), (1, committed), "{before:?} {after:?}");
    assert_eq!(keys(&key_file), 2, "either may be needed");
    assert_all_open(&relevo).await;
    let audited = "SELECT count(*) FROM relevo.audit WHERE action = 'secret.rotate'";
    let audited: i64 = sqlx::query_scalar(audited).fetch_one(database.pool()).await.unwrap();
    assert_eq!(audited, i64::from(committed), "the audit log tells what has happened");

    // What a kill while the file was written leaves.
    std::fs::write(key_file.with_extension("new1"), "unfinished").unwrap();
    let rotated = relevo.json(&["secret", "rotate"]).await;
    assert_eq!(rotated["sealed"], NAMES.len());
    assert_eq!(keys(&key_file), 1);
    assert_all_open(&relevo).await;
    let files = std::fs::read_dir(relevo.folder().join("data")).unwrap();
    let files: Vec<_> = files.map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files, ["secret.key"], "key material lies about");
}

#[tokio::test]
async fn a_rotation_killed_half_way_has_changed_no_secret_and_can_be_repeated() {
    killed_at(Place::Update("relevo.connection", "OLD.name = 'tres'"), false).await;
}

#[tokio::test]
async fn a_rotation_killed_in_its_commit_has_happened_and_can_be_repeated() {
    killed_at(Place::Commit("relevo.connection", "OLD.name = 'tres'"), true).await;
}
