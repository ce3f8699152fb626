//! Rows that the translation or the server refuses: set aside within bounds, counted, mended and
//! loaded by a person.

use serde_json::Value;

use super::target::Target;
use crate::cli::Relevo;

/// Rows of `nota`; those named are refused: the server takes no such text for a `uuid`, and the
/// translation no 2 for a `boolean`.
fn dump(rows: u32, bad_texts: &[u32], bad_flags: &[u32]) -> String {
    let values: Vec<String> = (1..=rows)
        .map(|id| {
            let digits = if bad_texts.contains(&id) { "no" } else { "00000000" };
            let flag = if bad_flags.contains(&id) { 2 } else { id % 2 };
            format!("({id},'{digits}-0000-4000-8000-{id:012}',{flag},0xff0{})", id % 10)
        })
        .collect();
    let inserts: String = values
        .chunks(500)
        .map(|chunk| format!("INSERT INTO `nota` VALUES\n{};\n", chunk.join(",\n")))
        .collect();
    format!(
        "-- MySQL dump 10.13  Distrib 8.0.36, for Linux (x86_64)\n/*!40101 SET NAMES utf8mb4 */;\n\
         CREATE TABLE `nota` (\n  `id` int NOT NULL,\n  `ref` char(36) DEFAULT NULL,\n  `leida` \
         tinyint(1) DEFAULT NULL,\n  `foto` varbinary(20) DEFAULT NULL,\n  PRIMARY KEY (`id`)\n);\n\
         {inserts}-- Dump completed on 2026-11-22  6:00:00\n"
    )
}

const BAD: ([u32; 4], [u32; 3]) = ([1, 700, 701, 3_000], [2, 1_500, 2_999]);

fn words(line: &[String]) -> Vec<&str> {
    line.iter().map(String::as_str).collect()
}

/// Runs what prints what it did and ends with this code all the same; all that it said.
async fn ends(relevo: &Relevo, args: &[&str], code: i32) -> String {
    let answer = relevo.run(args).await;
    assert_eq!(answer.code, code, "relevo {args:?}: {answer:?}");
    answer.out + &answer.err
}

async fn rows(relevo: &Relevo, url: &str) -> Vec<Value> {
    let listed = relevo.json(&["dump", "quarantine", "list", "--to", url]).await;
    listed.as_array().unwrap().clone()
}

#[tokio::test]
async fn refused_rows_are_set_aside_mended_and_loaded() {
    let target = Target::new().await;
    let relevo = Relevo::new();
    relevo.file("nota.sql", dump(3_000, &BAD.0, &BAD.1));
    let args = [
        "dump",
        "import",
        "nota.sql",
        "--to",
        target.url(),
        "--column",
        "nota.leida=boolean",
        "--column",
        "nota.ref=uuid",
    ];

    // Off by default: all or nothing, and the row is named.
    relevo.refuses(&args, 1, &["\"leida\"", "line 12"]).await;
    // One too few.
    let short = [&args[..], &["--quarantine", "6"]].concat();
    relevo.refuses(&short, 1, &["more than 6 row(s) are refused"]).await;
    assert_eq!(target.own_schemas().await, "");

    let enough = [&args[..], &["--quarantine", "7"]].concat();
    let said = ends(&relevo, &enough, 6).await;
    assert!(said.contains("7 row(s) were refused"), "{said}");
    assert_eq!(target.count("nota").await, 2_993);
    let figures = "SELECT certificate -> 'tables' -> 0 ->> 'rows_quarantined'
                   FROM relevo_ledger.import WHERE state = 'live'";
    assert_eq!(target.ask(figures).await, "7");

    let aside = rows(&relevo, target.url()).await;
    let mut keys: Vec<u32> =
        aside.iter().map(|row| row["row_key"]["id"].as_str().unwrap().parse().unwrap()).collect();
    keys.sort_unstable();
    assert_eq!(keys, [1, 2, 700, 701, 1_500, 2_999, 3_000]);
    let by_key = |key: &str| {
        let row = aside.iter().find(|row| row["row_key"]["id"] == key).unwrap();
        (row, row["id"].to_string())
    };
    // Everything a person needs to mend it: values, reason, place.
    let (row, number) = by_key("2");
    assert_eq!(row["data"]["leida"], "2", "{row}");
    assert_eq!(row["data"]["foto"], "\\xff02", "{row}");
    assert_eq!((&row["dump_line"], &row["state"]), (&12.into(), &"waiting".into()));
    assert!(row["reason"].as_str().unwrap().contains("column leida"), "{row}");
    let (text, text_number) = by_key("700");
    let reason = text["reason"].as_str().unwrap();
    assert!(reason.contains("uuid") && reason.contains("column ref"), "{text}");
    assert_eq!((&text["dump_line"], &text["data"]["leida"]), (&711.into(), &"f".into()));

    let url = target.url();
    let of = |verb: &'static str, more: &[&'static str], number: &str| {
        let words = ["dump", "quarantine", verb, number, "--to", url];
        words.iter().chain(more).map(|word| (*word).to_owned()).collect::<Vec<String>>()
    };
    let retry = of("retry", &[], &number);
    let retry = words(&retry);
    ends(&relevo, &retry, 1).await;
    let edit = of("edit", &["--set", "leida=true", "--null", "foto"], &number);
    let edit = words(&edit);
    relevo.ok(&edit).await;
    relevo.ok(&retry).await;
    let loaded = "SELECT concat_ws(' ', id, leida, foto IS NULL, right(ref::text, 3)) FROM nota WHERE id = 2";
    assert_eq!(target.ask(loaded).await, "2 t t 002");
    // It is loaded: nobody loads it twice.
    relevo.fails(&retry, 5).await;

    relevo.ok(&words(&of("discard", &[], &text_number))).await;
    assert_eq!(rows(&relevo, target.url()).await.len(), 5);
    relevo.fails(&words(&of("edit", &["--set", "nada=1"], &by_key("701").1)), 2).await;

    // A later import replaces the table: what is left belongs to none any more.
    relevo.file("nota.sql", dump(3_000, &[], &[]));
    relevo.ok(&args).await;
    let all = ["dump", "quarantine", "retry", "--all", "--to", url];
    let said = ends(&relevo, &all, 1).await;
    assert!(said.contains("was replaced since"), "{said}");
    assert_eq!(target.count("nota").await, 3_000);
}

#[tokio::test]
async fn rows_that_wait_for_a_table_that_is_still_theirs_outlive_many_imports() {
    let target = Target::new().await;
    let relevo = Relevo::new();
    let url = target.url();
    relevo.file("nota.sql", dump(10, &[3], &[]));
    let args = ["dump", "import", "nota.sql", "--to", url, "--column", "nota.ref=uuid"];
    ends(&relevo, &[&args[..], &["--quarantine", "1"]].concat(), 6).await;
    // More than are kept, all of them later.
    let many = "INSERT INTO relevo_ledger.import (id, owner, schema, staging, state,
                    fence_incarnation, fence_job_id, fence_epoch, options, ended_at)
                SELECT 'many_' || n, '', 'public', '', 'failed', 0, 0, 0, '{}', clock_timestamp()
                FROM generate_series(1, 60) n
                RETURNING (SELECT count(*)::text FROM relevo_ledger.import)";
    assert_eq!(target.ask(many).await, "1");
    let other = ["dump", "import", "nota.sql", "--to", url, "--rename", "nota=otra"];
    relevo.ok(&other).await;
    assert_eq!(rows(&relevo, url).await.len(), 1);
    // Once the table is replaced they are of no use, and go with the record of their import.
    relevo.file("nota.sql", dump(10, &[], &[]));
    relevo.ok(&[&args[..], &["--force"]].concat()).await;
    assert_eq!(rows(&relevo, url).await.len(), 0);
}

#[tokio::test]
async fn thousands_of_refusals_cost_no_more_than_they_must() {
    let target = Target::new().await;
    let relevo = Relevo::new();
    let bad: Vec<u32> = (1..=3_000).map(|place| place * 2).collect();
    relevo.file("nota.sql", dump(8_000, &bad, &[]));
    let args = ["dump", "import", "nota.sql", "--to", target.url(), "--column", "nota.ref=uuid"];
    // Were all rows behind a refused one sent again each time, it would take minutes.
    ends(&relevo, &[&args[..], &["--quarantine", "3000"]].concat(), 6).await;
    assert_eq!(target.count("nota").await, 5_000);
    let sent =
        "SELECT string_agg(DISTINCT (row_key ->> 'id')::int % 2 || '', ' ') || ' ' || count(*)
                FROM relevo_ledger.quarantine";
    assert_eq!(target.ask(sent).await, "0 3000");
}
