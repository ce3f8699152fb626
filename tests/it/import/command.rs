//! `relevo dump import` with the options that choose what goes where, and how.

use std::path::Path;
use std::time::Duration;

use relevo_tests::Process;
use tempfile::TempDir;

use super::dump::Dump;
use super::target::Target;

/// Runs the command on a file of this content; returns whether it succeeded and what it said.
async fn import(target: &Target, file: &Path, arguments: &[&str]) -> (bool, String) {
    let mut builder = Process::builder("relevo").arg("dump").arg("import").arg(file);
    builder = builder.arg("--to").arg(target.url());
    for argument in arguments {
        builder = builder.arg(*argument);
    }
    let process = builder.spawn();
    let status = process.wait_exit(Duration::from_secs(60)).await;
    (status.success(), process.output())
}

fn folder_with(name: &str, content: &[u8]) -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(name);
    std::fs::write(&file, content).unwrap();
    (folder, file)
}

const TWO_DATABASES: &str = "-- MySQL dump 10.13
CREATE DATABASE `tienda`;\nUSE `tienda`;
CREATE TABLE `cosa` (`id` int NOT NULL, `nombre` varchar(20), PRIMARY KEY (`id`));
INSERT INTO `cosa` VALUES (1,'uno'),(2,'dos');
CREATE DATABASE `bodega`;\nUSE `bodega`;
CREATE TABLE `cosa` (`id` int NOT NULL, PRIMARY KEY (`id`));
INSERT INTO `cosa` VALUES (7);
-- Dump completed on 2026-11-22  6:00:00
";

#[tokio::test(flavor = "multi_thread")]
async fn several_databases_are_chosen_from_or_mapped() {
    let target = Target::new().await;
    let (_folder, file) = folder_with("todo.sql", TWO_DATABASES.as_bytes());
    let (done, said) = import(&target, &file, &[]).await;
    assert!(!done && said.contains("choose one with --database"), "{said}");
    let (done, said) = import(&target, &file, &["--database", "bodega"]).await;
    assert!(done, "{said}");
    assert_eq!(target.count("public.cosa").await, 1);
    let (done, said) =
        import(&target, &file, &["--map", "tienda=tienda", "--map", "bodega=almacen"]).await;
    assert!(done, "{said}");
    assert_eq!(target.count("tienda.cosa").await, 2);
    assert_eq!(target.count("almacen.cosa").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_packed_dump_is_loaded_in_part_renamed_and_merged() {
    let target = Target::new().await;
    let packed = zstd(Dump::new(300, "uno").sql().as_bytes());
    let (_folder, file) = folder_with("tienda.sql.zst", &packed);
    let parts = ["--exclude", "articulo", "--rename", "categoria=category"];
    let (done, said) = import(&target, &file, &parts).await;
    assert!(done, "{said}");
    assert_eq!(target.count("category").await, 12);
    let place = "SELECT 'category'::regclass::oid::text";
    let before = target.ask(place).await;
    target.run("DELETE FROM category WHERE cat_id = 3").await;
    let merged = [&parts[..], &["--cutover", "merge"]].concat();
    let (done, said) = import(&target, &file, &merged).await;
    assert!(done, "{said}");
    assert_eq!(target.count("category").await, 12);
    assert_eq!(target.ask(place).await, before, "the same table");
    let (done, said) = import(&target, &file, &["--into-existing", "merge"]).await;
    assert!(!done && said.contains("is not there"), "{said}");
    let (done, said) = import(&target, &file, &["--rename", "categoria"]).await;
    assert!(!done && said.contains("two names with ="), "{said}");
}

/// Packs with the system's own program where it is there, and else not at all: the option reads
/// both.
fn zstd(text: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    use std::process::{Command, Stdio};
    let spawned = Command::new("zstd")
        .args(["-q", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn();
    let Ok(mut child) = spawned else { return text.to_vec() };
    child.stdin.take().expect("its input").write_all(text).expect("send the text");
    child.wait_with_output().expect("the packed text").stdout
}
