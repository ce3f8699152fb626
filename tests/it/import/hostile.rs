//! Inputs that nobody means well with: cut, flipped, swollen, nested, far too wide. Refused with a
//! place, or taken and told; nothing is left behind and no memory is taken without bound.

use std::io::Write as _;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use relevo_import::{ImportError, ImportOptions, NoProgress, import_file, inspect};
use relevo_tests::Process;

use super::dump::{Dump, gzip};
use super::target::Target;
use crate::cli::Relevo;

/// How many damaged inputs are tried; more of them in a campaign.
const CASES_ENV: &str = "RELEVO_TEST_DAMAGED";

fn cases() -> u64 {
    std::env::var(CASES_ENV).map_or(150, |text| text.parse().expect("a number"))
}

const HEAD: &str =
    "-- MariaDB dump 10.19  Distrib 10.11.6-MariaDB, for debian-linux-gnu (x86_64)\n";
const END: &str = "-- Dump completed on 2026-11-22  6:00:00\n";

/// Nothing but the ledger is in the target.
async fn assert_clean(target: &Target) {
    assert_eq!(target.own_schemas().await, "");
    let tables = "SELECT count(*)::text FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(target.ask(tables).await, "0");
}

#[test]
fn flipped_bits_are_refused_or_read_as_what_they_then_are() {
    let mut random = StdRng::seed_from_u64(11);
    let options = ImportOptions::default();
    let (plain, packed) = (Dump::new(40, "x").sql().into_bytes(), Dump::new(40, "x").gzip());
    for case in 0..cases() {
        let mut text = plain.clone();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..text.len());
            text[at] ^= 1 << random.random_range(0..8);
        }
        // Whatever it says: no panic, no hang, and a reason that names a place.
        match inspect(&text[..], &options, &NoProgress) {
            Ok(_) | Err(ImportError::Empty { .. } | ImportError::TableTwice { .. }) => {}
            Err(ImportError::Dump(error)) => {
                let said = error.to_string();
                let placed = said.contains("byte") || said.contains("the input is");
                assert!(placed, "case {case}: {said}");
            }
            Err(error) => assert!(!error.to_string().is_empty(), "case {case}"),
        }
        // Past the header and before the length, every bit counts.
        let mut bytes = packed.clone();
        let at = random.random_range(10..bytes.len() - 8);
        bytes[at] ^= 1 << random.random_range(0..8);
        assert!(inspect(&bytes[..], &options, &NoProgress).is_err(), "case {case}: byte {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn dumps_cut_anywhere_are_refused_and_leave_nothing() {
    let target = Target::new().await;
    let mut random = StdRng::seed_from_u64(12);
    let whole = Dump::new(30, "x").sql().into_bytes();
    for _ in 0..8 {
        let at = random.random_range(HEAD.len() + 1..whole.len() - END.len());
        // The end of a statement without its line break is no cut of a tool's.
        let at = if whole[at - 1] == b';' { at - 1 } else { at };
        let cut = std::io::Cursor::new(whole[..at].to_vec());
        let error = import_file(cut, target.options(), std::sync::Arc::new(NoProgress)).await;
        let said = error.expect_err(&format!("cut at byte {at}")).to_string();
        let told = ["byte", "line", "completed", "no table"].iter().any(|word| said.contains(word));
        assert!(told, "cut at byte {at}: {said}");
        assert_clean(&target).await;
    }
}

#[tokio::test]
async fn a_schema_made_for_a_failed_import_goes_again() {
    let target = Target::new().await;
    let relevo = Relevo::new();
    relevo.file("cut.sql", &Dump::new(30, "x").sql()[..2_000]);
    let args = ["dump", "import", "cut.sql", "--to", target.url(), "--schema", "nuevo"];
    relevo.refuses(&args, 1, &["truncated"]).await;
    let there = "SELECT (to_regnamespace('nuevo') IS NULL)::text";
    assert_eq!(target.ask(there).await, "true");
}

#[tokio::test]
async fn a_bomb_is_refused_before_it_fills_anything() {
    let target = Target::new().await;
    let relevo = Relevo::new();
    let mut spaces = GzEncoder::new(Vec::new(), Compression::best());
    spaces.write_all(&vec![b' '; 4 << 20]).unwrap();
    let spaces = spaces.finish().unwrap();
    relevo.file("bomb.sql.gz", [gzip(HEAD.as_bytes()), spaces.repeat(70)].concat());
    let args = ["dump", "import", "bomb.sql.gz", "--to", target.url()];
    relevo.refuses(&args, 1, &["--unpack-limit", "times its size"]).await;
    relevo.refuses(&["dump", "inspect", "bomb.sql.gz"], 1, &["--unpack-limit"]).await;
    assert_clean(&target).await;
}

#[tokio::test]
async fn ten_thousand_columns_and_deep_nesting_are_refused_with_a_reason() {
    let target = Target::new().await;
    let relevo = Relevo::new();
    let columns: Vec<String> = (0..10_000).map(|n| format!("`c{n}` int DEFAULT NULL")).collect();
    let wide = format!("{HEAD}CREATE TABLE `w` ({});\n{END}", columns.join(","));
    relevo.file("wide.sql", wide);
    let args = ["dump", "import", "wide.sql", "--to", target.url()];
    relevo.refuses(&args, 1, &["line 2", "`w`", "at most 1600"]).await;

    let (open, close) = ("(".repeat(200_000), ")".repeat(200_000));
    for (name, inside) in [
        ("default.sql", format!("`a` int DEFAULT ({open}1{close})")),
        ("check.sql", format!("`a` int, CHECK ({open}`a` > 0{close})")),
        (
            "generated.sql",
            format!("`a` int, `b` int GENERATED ALWAYS AS ({open}`a`{close}) STORED"),
        ),
    ] {
        relevo.file(name, format!("{HEAD}CREATE TABLE `n` ({inside});\n{END}"));
        let answer = relevo.run(&["dump", "import", name, "--to", target.url(), "--force"]).await;
        assert!(answer.code == 0 || answer.code == 1, "{name}: {}", answer.code);
        let told = answer.code == 1 || answer.out.contains("note: n");
        assert!(told, "{name}: {} {}", answer.out, answer.err);
        target.run("DROP TABLE IF EXISTS public.n CASCADE; DROP SCHEMA IF EXISTS relevo_prev_public CASCADE").await;
    }
    assert_clean(&target).await;
}

#[tokio::test]
async fn bytes_that_are_no_text_are_counted_or_refused_with_their_line() {
    let target = Target::new().await;
    let relevo = Relevo::new();
    let mut dump = format!("{HEAD}SET NAMES utf8mb4;\nCREATE TABLE `t` (`id` int, `x` text);\nINSERT INTO `t` VALUES\n(1,'bien'),\n(2,'").into_bytes();
    dump.extend_from_slice(b"\xff\xfe mal");
    dump.extend_from_slice(format!("');\n{END}").as_bytes());
    relevo.file("bytes.sql", dump);
    let args = ["dump", "import", "bytes.sql", "--to", target.url(), "--invalid-text", "fail"];
    relevo.refuses(&args, 1, &["line 6", "column \"x\""]).await;
    assert_clean(&target).await;
    let args = ["dump", "import", "bytes.sql", "--to", target.url()];
    let certificate = relevo.json(&args).await;
    assert_eq!(certificate["tables"][0]["stats"]["replaced_text"], 1);
    // Told beforehand, too.
    let found = relevo.json(&["dump", "inspect", "bytes.sql"]).await;
    assert_eq!(found["tables"][0]["stats"]["replaced_text"], 1);
    let answer = relevo.run(&["dump", "inspect", "bytes.sql", "--invalid-text", "fail"]).await;
    assert_eq!(answer.code, 1, "{answer:?}");
    assert!(answer.out.contains("REFUSED: byte") && answer.out.contains("(line 6)"), "{answer:?}");
}

/// The most memory a process has held, in MB, asked until it ends.
async fn peak_mb(process: &Process) -> u64 {
    let mut peak = 0;
    let path = format!("/proc/{}/status", process.id());
    while process.exited().is_none() {
        let status = std::fs::read_to_string(&path).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
        peak = peak.max(kilobytes.unwrap_or(0) / 1024);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    peak
}

async fn import_file_of(target: &Target, path: &std::path::Path) -> u64 {
    let process = Process::builder("relevo")
        .args(["dump", "import"])
        .arg(path)
        .args(["--to", target.url()])
        .spawn();
    let peak = peak_mb(&process).await;
    let status = process.wait_exit(Duration::from_secs(60)).await;
    assert!(status.success(), "{}", process.output());
    peak
}

#[tokio::test(flavor = "multi_thread")]
async fn an_insert_of_hundreds_of_megabytes_takes_no_more_memory_than_a_small_one() {
    let target = Target::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.sql");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    write!(file, "{HEAD}CREATE TABLE `t` (`id` int NOT NULL, `x` text);\nINSERT INTO `t` VALUES ")
        .unwrap();
    let text = "y".repeat(2_000);
    for id in 0..100_000 {
        write!(file, "{}({id},'{text}')", if id == 0 { "" } else { "," }).unwrap();
    }
    write!(file, ";\n{END}").unwrap();
    file.into_inner().unwrap().sync_all().ok();
    let peak = import_file_of(&target, &path).await;
    assert!(peak < 96, "{peak} MB for an INSERT of 200 MB");
    assert_eq!(target.count("t").await, 100_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_64_megabytes_takes_a_few_times_its_size() {
    let target = Target::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("row.sql");
    let long = "z".repeat(64 << 20);
    let dump = format!(
        "{HEAD}CREATE TABLE `t` (`id` int NOT NULL, `x` longtext);\nINSERT INTO `t` VALUES \
         (1,'{long}'),(2,'corto');\n{END}"
    );
    std::fs::write(&path, dump).unwrap();
    let peak = import_file_of(&target, &path).await;
    assert!(peak < 420, "{peak} MB for a row of 64 MB");
    let lengths = "SELECT string_agg(length(x)::text, ' ' ORDER BY id) FROM t";
    assert_eq!(target.ask(lengths).await, format!("{} 5", 64 << 20));
}
