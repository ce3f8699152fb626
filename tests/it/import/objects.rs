//! Views and sequences of the dump, conditions for rows, types that depend on the data.

use std::sync::Arc;

use relevo_import::{CutoverMode, NoProgress, OldSnapshots, import_file, steps};
use sqlx::{AssertSqlSafe, Executor};
use tokio_util::sync::CancellationToken;

use super::dump::Dump;
use super::target::Target;
use crate::cli::Relevo;

const END: &str = "-- Dump completed on 2026-11-22  6:00:00\n";

/// A table, a view over it as mariadb-dump writes it, and a sequence.
fn with_view(condition: &str) -> String {
    format!(
        "-- MariaDB dump 10.19  Distrib 10.11.6-MariaDB, for debian-linux-gnu (x86_64)\n\
         CREATE SEQUENCE `folio` start with 1 minvalue 1 maxvalue 9223372036854775806 increment by \
         1 cache 1000 nocycle ENGINE=InnoDB;\nDO SETVAL(`folio`, 2001, 0);\n\
         CREATE TABLE `venta` (`id` int(11) NOT NULL, `total` decimal(10,2) DEFAULT NULL, PRIMARY \
         KEY (`id`));\nINSERT INTO `venta` VALUES (1,5.00),(2,50.00),(3,500.00);\n\
         /*!50001 CREATE ALGORITHM=UNDEFINED */\n/*!50013 DEFINER=`root`@`localhost` SQL SECURITY \
         DEFINER */\n/*!50001 VIEW `grande` AS select `venta`.`id` AS `id`,`venta`.`total` AS \
         `total` from `venta` where `venta`.`total` {condition} */;\n{END}"
    )
}

#[tokio::test]
async fn views_and_sequences_come_along_and_are_made_anew_by_the_next_import() {
    let target = Target::new().await;
    let relevo = Relevo::new();
    let args = ["dump", "import", "v.sql", "--to", target.url()];
    relevo.file("v.sql", with_view("> 10"));
    let certificate = relevo.json(&args).await;
    assert_eq!(certificate["skipped"].as_array().unwrap().len(), 0, "{certificate}");
    assert_eq!(target.count("grande").await, 2);
    assert_eq!(target.ask("SELECT nextval('folio')::text").await, "2001");

    relevo.file("v.sql", with_view("> 100"));
    relevo.json(&args).await;
    assert_eq!(target.count("grande").await, 1);
    assert_eq!(target.ask("SELECT nextval('folio')::text").await, "2001");

    // What somebody else built upon it sees the new one, as long as the columns are the same.
    target.run("CREATE VIEW mine AS SELECT count(total) FROM grande").await;
    relevo.file("v.sql", with_view("> 10"));
    relevo.json(&args).await;
    assert_eq!(target.ask("SELECT count::text FROM mine").await, "2");
    relevo.file("v.sql", with_view("> 100").replace("`venta`.`total` AS `total`", "1 AS `uno`"));
    let certificate = relevo.json(&args).await;
    assert_eq!(target.ask("SELECT count::text FROM mine").await, "2");
    let notices = certificate["notices"].to_string();
    assert!(notices.contains("others depend on the columns of the present one"), "{notices}");
    assert_eq!(certificate["skipped"][0]["name"], "grande");
    // What is somebody else's stays.
    target.run("DROP VIEW grande CASCADE; CREATE VIEW grande AS SELECT 7 AS x").await;
    let certificate = relevo.json(&args).await;
    assert_eq!(target.ask("SELECT x::text FROM grande").await, "7");
    assert_eq!(certificate["skipped"][0]["kind"], "view");
}

/// As [`with_view`]; the table has one more column, the view another one, and there are a view over
/// that view and a new one.
fn with_other_columns() -> String {
    with_view("> 10")
        .replace("`total` decimal(10,2) DEFAULT NULL,", "`total` decimal(10,2), `caja` int,")
        .replace("(1,5.00),(2,50.00),(3,500.00)", "(1,5.00,7),(2,50.00,7),(3,500.00,8)")
        .replace("DO SETVAL(`folio`, 2001, 0)", "DO SETVAL(`folio`, 3001, 0)")
        .replace("`venta`.`total` AS `total` from", "`venta`.`caja` AS `caja` from")
        .replace(
            END,
            &format!(
                "{OVER}CREATE VIEW `cajas` AS select `venta`.`caja` AS `c` from `venta`;\n{END}"
            ),
        )
}

const OVER: &str = "CREATE VIEW `sobre` AS select `grande`.`id` AS `id` from `grande`;\n";

#[tokio::test]
async fn a_view_with_other_columns_takes_the_place_of_the_former_one_and_gives_it_back() {
    let target = Target::new().await;
    let app = target.role("app").await;
    let import = async |dump: String, mode| {
        let mut options = target.options();
        options.import.cutover.mode = mode;
        options.import.cutover.snapshot_wait_seconds = 0;
        options.import.cutover.old_snapshots = OldSnapshots::Proceed;
        let dump = std::io::Cursor::new(dump);
        import_file(dump, options, Arc::new(NoProgress)).await.unwrap()
    };
    let first = with_view("> 10").replace(END, &format!("{OVER}{END}"));
    import(first.clone(), CutoverMode::Swap).await;
    target
        .run(&format!(
            "GRANT USAGE ON SCHEMA public TO {0};
             GRANT SELECT ON grande TO {0}; GRANT SELECT (id) ON sobre TO {0};
             GRANT USAGE ON SEQUENCE folio TO {0}",
            app.name
        ))
        .await;
    let as_app = async |sql: &str| {
        let mut tx = target.pool().begin().await.unwrap();
        tx.execute(AssertSqlSafe(format!("SET LOCAL ROLE {}", app.name))).await.unwrap();
        let text: String =
            sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut *tx).await.unwrap();
        text
    };
    // A pg_dump that has listed everything and asks for the rest when all is exchanged.
    let mut reader = target.pool().begin().await.unwrap();
    reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await.unwrap();
    let listed = "SELECT oid::bigint FROM pg_class WHERE relname IN ('grande', 'sobre', 'folio') \
                  AND relnamespace = 'public'::regnamespace ORDER BY relname";
    let oids: Vec<i64> = sqlx::query_scalar(listed).fetch_all(&mut *reader).await.unwrap();

    let imported = import(with_other_columns(), CutoverMode::Swap).await;
    let seen: bool = sqlx::query_scalar(
        "SELECT pg_get_viewdef($1::oid) <> '' AND pg_get_viewdef($2::oid) <> ''
            AND (SELECT last_value FROM public.folio) = 3001
            AND 'public.folio'::regclass = $3::oid",
    )
    .bind(oids[1])
    .bind(oids[2])
    .bind(oids[0])
    .fetch_one(&mut *reader)
    .await
    .unwrap();
    assert!(seen);
    reader.rollback().await.unwrap();
    assert_eq!(as_app("SELECT sum(caja)::text FROM grande").await, "15");
    assert_eq!(as_app("SELECT max(id)::text FROM sobre").await, "3");
    assert_eq!(as_app("SELECT nextval('folio')::text").await, "3001");
    assert_eq!(target.count("cajas").await, 3);
    assert_eq!(imported.skipped.len(), 0, "{imported:?}");

    let limits = target.options().import.cutover;
    let never = CancellationToken::new();
    let done = steps::rollback(target.pool(), &imported.import, &limits, &never).await.unwrap();
    assert_eq!(done.tables, ["venta"]);
    assert_eq!(as_app("SELECT sum(total)::text FROM grande").await, "550.00");
    assert_eq!(as_app("SELECT max(id)::text FROM sobre").await, "3");
    assert_eq!(target.ask("SELECT coalesce(to_regclass('cajas')::text, 'gone')").await, "gone");

    // Both ways again, and nothing of the former views is in the way of what is dropped.
    import(with_other_columns(), CutoverMode::Swap).await;
    assert_eq!(as_app("SELECT sum(caja)::text FROM grande").await, "15");
    target.run("DROP VIEW cajas").await;
    import(first.clone(), CutoverMode::Swap).await;
    assert_eq!(as_app("SELECT sum(total)::text FROM grande").await, "550.00");
    assert_eq!(target.own_schemas().await, "relevo_prev_public");

    // Rows in place: the views and sequences of the dump come along all the same.
    import(first.replace("> 10", "> 100").replace("2001", "4001"), CutoverMode::Merge).await;
    assert_eq!(as_app("SELECT count(*)::text FROM grande").await, "1");
    assert_eq!(as_app("SELECT nextval('folio')::text").await, "4001");
    let renamed = first.replace("AS `total` from", "AS `suma` from");
    import(renamed, CutoverMode::Merge).await;
    assert_eq!(target.ask("SELECT sum(suma)::text FROM grande").await, "550.00");
}

#[tokio::test]
async fn a_condition_chooses_rows_and_what_it_takes_out_is_counted() {
    let target = Target::new().await;
    let relevo = Relevo::new();
    relevo.file("d.sql.gz", Dump::new(300, "uno").gzip());
    let import = |condition: &'static str| {
        ["dump", "import", "d.sql.gz", "--to", target.url(), "--force", "--where", condition]
    };
    let certificate = relevo.json(&import("articulo=art_id <= 100 -- the first")).await;
    let table = |name: &str| {
        let tables = certificate["tables"].as_array().unwrap();
        tables.iter().find(|table| table["table"] == name).unwrap().clone()
    };
    assert_eq!(table("articulo")["rows_dump"], 300);
    assert_eq!(table("articulo")["rows_recounted"], 300);
    assert_eq!(table("articulo")["rows_filtered"], 200);
    assert_eq!(table("articulo")["rows_target"], 100);
    assert!(table("categoria")["rows_filtered"].is_null());
    assert_eq!(target.count("articulo").await, 100);

    for (condition, said) in [
        (
            "articulo=true); DROP TABLE public.articulo; SELECT (true",
            "cannot insert multiple commands",
        ),
        ("articulo=nada > 1", "nada"),
        ("otra=true", "table otra, which the dump does not hold"),
        // Rows that others point to.
        ("categoria=cat_id > 6", "fk_articulo_categoria"),
    ] {
        relevo.refuses(&import(condition), 1, &[said]).await;
        assert_eq!(target.count("articulo").await, 100, "{condition}");
        assert_eq!(target.own_schemas().await, "", "{condition}");
    }
}

#[tokio::test]
async fn two_passes_find_the_types_that_the_values_allow() {
    let target = Target::new().await;
    let relevo = Relevo::new();
    let dump = "-- MySQL dump 10.13\nCREATE TABLE `t` (`a` tinyint(1) NOT NULL, `b` tinyint(1), `c` \
        bigint unsigned, `d` bigint unsigned, `e` tinyint(4));\nINSERT INTO `t` VALUES \
        (1,0,9223372036854775807,9223372036854775808,1),(0,2,NULL,1,0);\n";
    relevo.file("t.sql", format!("{dump}{END}"));
    let types =
        "SELECT string_agg(format_type(atttypid, NULL), ' ' ORDER BY attnum) FROM pg_attribute
                 WHERE attrelid = 'public.t'::regclass AND attnum > 0";
    let args = ["dump", "import", "t.sql", "--to", target.url()];
    relevo.ok(&args).await;
    assert_eq!(target.ask(types).await, "smallint smallint numeric numeric smallint");
    relevo.ok(&[&args[..], &["--two-pass"]].concat()).await;
    assert_eq!(target.ask(types).await, "boolean smallint bigint numeric smallint");
    // What is asked for outright counts more, and a value that it cannot hold is refused.
    relevo.ok(&[&args[..], &["--two-pass", "--column", "t.a=integer"]].concat()).await;
    assert_eq!(target.ask(types).await, "integer smallint bigint numeric smallint");
    let wrong = [&args[..], &["--column", "t.b=boolean"]].concat();
    relevo.refuses(&wrong, 1, &["byte", "line 3", "column \"b\""]).await;
    relevo
        .refuses(&["dump", "import", "-", "--two-pass", "--to", target.url()], 2, &["once"])
        .await;
}

#[tokio::test]
async fn columns_called_like_those_of_postgres_get_another_name() {
    let target = Target::new().await;
    let relevo = Relevo::new();
    relevo.file(
        "zona.sql",
        format!(
            "CREATE TABLE `zona` (`xmin` int NOT NULL, `xmin_` int, `ctid` varchar(9), `XMAX` int, \
             PRIMARY KEY (`xmin`), KEY `por_ctid` (`ctid`), CHECK (`xmin` < 10));\n\
             INSERT INTO `zona` (`xmin`,`xmin_`,`ctid`,`XMAX`) VALUES (1,2,'a',3),(4,5,'b',6);\n{END}"
        ),
    );
    let certificate = relevo.json(&["dump", "import", "zona.sql", "--to", target.url()]).await;
    let rows =
        "SELECT string_agg(concat_ws(',', xmin__, xmin_, ctid_, \"XMAX\"), ' ' ORDER BY xmin__)
                FROM zona";
    assert_eq!(target.ask(rows).await, "1,2,a,3 4,5,b,6");
    let said = certificate["notices"].to_string();
    assert!(said.contains("Postgres keeps the name for itself"), "{said}");
    let kept = "SELECT count(*)::text FROM pg_constraint
                WHERE conrelid = 'zona'::regclass AND contype IN ('p', 'c')";
    assert_eq!(target.ask(kept).await, "2");
}
