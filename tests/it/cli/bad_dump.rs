//! Dumps that are cut off, damaged, missing or empty: refused, and the present data stay.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use relevo_tests::TestDatabase;
use sqlx::{AssertSqlSafe, Executor as _};

use super::Relevo;

const HEADER: &str = "-- MariaDB dump 10.19  Distrib 10.11.6-MariaDB, for debian-linux-gnu (x86_64)\n\
    /*!40101 SET NAMES utf8mb4 */;\n";
const COMPLETED: &str = "-- Dump completed on 2026-11-22 18:00:00\n";

/// A dump of one table with so many rows.
pub fn dump(rows: u32) -> String {
    let values: Vec<String> =
        (1..=rows).map(|id| format!("({id},'artículo {id}',{id}.50)")).collect();
    let insert = if values.is_empty() {
        String::new()
    } else {
        format!("INSERT INTO `articulo` VALUES {};\n", values.join(","))
    };
    format!(
        "{HEADER}CREATE TABLE `articulo` (\n  `art_id` int(11) NOT NULL AUTO_INCREMENT,\n  \
         `descripcion` text NOT NULL,\n  `precio1` decimal(10,2) NOT NULL,\n  \
         PRIMARY KEY (`art_id`)\n) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;\n{insert}{COMPLETED}"
    )
}

/// The same as a file.
pub fn gzip(text: &str) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

/// A target that holds one import of 100 rows, and a binary to import more.
async fn target() -> (TestDatabase, Relevo) {
    let target = TestDatabase::empty().await;
    let relevo = Relevo::new();
    relevo.file("good.sql", dump(100));
    let args = ["dump", "import", "good.sql", "--to", target.url()];
    let certificate = relevo.json(&args).await;
    assert_eq!(certificate["rows"], 100);
    assert_eq!(certificate["tables"][0]["table"], "articulo");
    assert_eq!(certificate["tables"][0]["rows_dump"], 100);
    assert_eq!(certificate["tables"][0]["rows_target"], 100);
    (target, relevo)
}

/// The good import is there, and nothing else.
async fn assert_untouched(target: &TestDatabase) {
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM public.articulo WHERE art_id <= 100")
        .fetch_one(target.pool())
        .await
        .unwrap();
    assert_eq!(rows, 100);
    let staging: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'relevo\\_stage%'",
    )
    .fetch_one(target.pool())
    .await
    .unwrap();
    assert_eq!(staging, 0, "a staging schema is left");
}

#[tokio::test]
async fn a_damaged_dump_is_refused_and_the_data_stay() {
    let (target, relevo) = target().await;
    let whole = gzip(&dump(5_000));
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 0xff;
    let mut wrong_sum = whole.clone();
    let sum = wrong_sum.len() - 6;
    wrong_sum[sum] ^= 0xff;
    let cut_text = &dump(5_000)[..40_000];
    let no_line = dump(5_000).replace(COMPLETED, "");
    for (name, content, parts) in [
        ("cut.sql.gz", whole[..whole.len() / 2].to_vec(), &["cut off"][..]),
        ("flipped.sql.gz", flipped, &["damaged"]),
        ("sum.sql.gz", wrong_sum, &["damaged"]),
        ("cut.sql", cut_text.as_bytes().to_vec(), &["truncated"]),
        ("incomplete.sql", no_line.into_bytes(), &["Dump completed"]),
        ("empty.sql", Vec::new(), &["no table"]),
        ("no_dump.sql", b"this is no SQL at all".to_vec(), &["previous data are untouched"]),
        ("shrunk.sql", dump(10).into_bytes(), &["articulo", "--force"]),
        ("emptied.sql", dump(0).into_bytes(), &["articulo", "--force"]),
    ] {
        relevo.file(name, content);
        let args = ["dump", "import", name, "--to", target.url()];
        relevo.refuses(&args, 1, parts).await;
        assert_untouched(&target).await;
    }
    // What was refused for its size only is taken when a person insists.
    relevo.ok(&["dump", "import", "shrunk.sql", "--to", target.url(), "--force"]).await;
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM public.articulo")
        .fetch_one(target.pool())
        .await
        .unwrap();
    assert_eq!(rows, 10);
}

#[tokio::test]
async fn a_missing_dump_or_target_is_told_apart() {
    let relevo = Relevo::new();
    relevo.file("good.sql", dump(3));
    let database = TestDatabase::empty().await;
    let to = database.url();
    relevo.refuses(&["dump", "import", "nowhere.sql", "--to", to], 5, &["nowhere.sql"]).await;
    relevo.refuses(&["dump", "import", ".", "--to", to], 5, &["folder"]).await;
    relevo.refuses(&["dump", "inspect", "nowhere.sql"], 5, &["nowhere.sql"]).await;
    relevo.refuses(&["dump", "translate", "nowhere.sql"], 5, &["nowhere.sql"]).await;
    for url in ["mysql://u:geheim@127.0.0.1/shop", "geheim"] {
        let args = ["dump", "import", "good.sql", "--to", url];
        let text = relevo.refuses(&args, 2, &["postgres://"]).await;
        assert!(!text.contains("geheim"), "{text}");
    }
    let args = ["dump", "import", "good.sql", "--to", "postgres://u:geheim@127.0.0.1:1/shop"];
    let text = relevo.refuses(&args, 1, &["127.0.0.1:1"]).await;
    assert!(!text.contains("geheim"), "{text}");
}

#[tokio::test]
async fn missing_rights_in_the_target_are_named() {
    let target = TestDatabase::empty().await;
    let relevo = Relevo::new();
    relevo.file("good.sql", dump(3));
    let role = format!("loader_{}", std::process::id());
    let create = format!("CREATE ROLE {role} LOGIN PASSWORD 'weak'");
    target.pool().execute(AssertSqlSafe(create)).await.unwrap();
    let (scheme, rest) = target.url().split_once("://").unwrap();
    let address = rest.rsplit_once('@').map_or(rest, |(_, address)| address);
    let url = format!("{scheme}://{role}:weak@{address}");
    let args = ["dump", "import", "good.sql", "--to", &url];
    relevo.refuses(&args, 1, &["GRANT", &role]).await;
    let drop = format!("DROP ROLE {role}");
    target.pool().execute(AssertSqlSafe(drop)).await.unwrap();
}

#[tokio::test]
async fn inspect_and_translate_say_what_a_dump_holds() {
    let relevo = Relevo::new();
    relevo.file("good.sql.gz", gzip(&dump(1_200)));
    let text = relevo.ok(&["dump", "inspect", "good.sql.gz"]).await;
    assert!(text.contains("articulo") && text.contains("1,200"), "{text}");
    let json = relevo.json(&["dump", "inspect", "good.sql.gz"]).await;
    assert_eq!(json["tables"][0]["rows"], 1_200);
    assert_eq!(json["summary"]["complete"], true);
    // From standard input the same.
    let answer = relevo.run_with(&["dump", "inspect", "-", "--json"], &gzip(&dump(7))).await;
    let json: serde_json::Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!(json["tables"][0]["rows"], 7);

    let args = ["dump", "translate", "good.sql.gz", "--schema", "tienda"];
    let sql = relevo.ok(&args).await;
    assert!(sql.contains("CREATE TABLE") && sql.contains("tienda"), "{}", &sql[..300]);
    assert!(sql.contains("artículo 1200"));
    relevo.file("cut.sql.gz", &gzip(&dump(1_200))[..300]);
    let answer = relevo.run(&["dump", "translate", "cut.sql.gz"]).await;
    assert_eq!(answer.code, 1);
    assert!(answer.err.contains("cut off"), "{answer:?}");
}
