//! Whole dumps as the splitter sees them: what is found, skipped, warned of and refused.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use relevo_mysqldump::{
    DefaultValue, DumpError, DumpSplitter, DumpSummary, Event, IndexKind, LossPolicy, RowEncoder,
    SplitOptions, TableDef, TranslateOptions, ddl,
};

/// Events as one line each; tables in their last state.
fn read(dump: &str, options: SplitOptions) -> Result<(Vec<String>, DumpSummary), DumpError> {
    let mut splitter = DumpSplitter::new(options);
    let mut lines = Vec::new();
    let mut sink = |event: Event<'_>| {
        lines.push(match event {
            Event::Table(table) => format!("table {}", table.qualified_name()),
            Event::Altered(table) => format!("altered {}", table.qualified_name()),
            Event::Dropped(table) => format!("dropped {}", table.qualified_name()),
            Event::Rows(batch) => format!(
                "rows {} {} {}",
                batch.table.qualified_name(),
                batch.rows,
                String::from_utf8_lossy(batch.bytes)
            ),
            Event::Skipped(object) => format!("skipped {:?} {}", object.kind, object.name),
            Event::Warning(warning) => format!("warning {}", warning.message),
        });
        Ok(())
    };
    splitter.feed(dump.as_bytes(), &mut sink)?;
    let summary = splitter.finish(&mut sink)?;
    Ok((lines, summary))
}

fn events(dump: &str) -> Vec<String> {
    read(dump, SplitOptions::default()).unwrap().0
}

/// The last definition of the only table.
fn definition(dump: &str) -> TableDef {
    let mut splitter = DumpSplitter::new(SplitOptions::default());
    let mut last = None;
    splitter
        .feed(dump.as_bytes(), &mut |event| {
            if let Event::Table(table) | Event::Altered(table) = event {
                last = Some(TableDef::clone(&table));
            }
            Ok(())
        })
        .unwrap();
    last.unwrap()
}

#[test]
fn several_databases() {
    assert_eq!(
        events(
            "CREATE DATABASE /*!32312 IF NOT EXISTS*/ `a`;\nUSE `a`;\nCREATE TABLE `t` (`x` int);\n\
             INSERT INTO `t` VALUES (1);\nUSE `b`;\nCREATE TABLE `T` (`x` int);\nINSERT INTO t VALUES \
             (2),(3);\nINSERT INTO `a`.`t` VALUES (4);"
        ),
        ["table a.t", "rows a.t 1 (1)", "table b.T", "rows b.T 2 (2),(3)", "rows a.t 1 (4)"]
    );
}

#[test]
fn views_triggers_routines() {
    let dump = "
-- Temporary table structure for view `v`
/*!50001 DROP VIEW IF EXISTS `v`*/;
/*!50001 CREATE TABLE `v` (
  `id` tinyint NOT NULL
) ENGINE=MyISAM */;
DELIMITER ;;
/*!50003 CREATE*/ /*!50017 DEFINER=`root`@`%`*/ /*!50003 TRIGGER `tr` BEFORE INSERT ON `t`
FOR EACH ROW BEGIN SET NEW.a = ';'; INSERT INTO u VALUES (1); END */;;
DELIMITER ;
DELIMITER $$
CREATE DEFINER=`root`@`%` PROCEDURE `p` () BEGIN SELECT 1; END$$
CREATE EVENT `e` ON SCHEDULE EVERY 1 DAY DO DELETE FROM t$$
DELIMITER ;
/*!50001 DROP TABLE IF EXISTS `v`*/;
/*!50001 CREATE ALGORITHM=UNDEFINED */
/*!50013 DEFINER=`root`@`%` SQL SECURITY DEFINER */
/*!50001 VIEW `v` AS select 1 AS `id` from `t` */;
/*!50001 CREATE VIEW `stub` AS SELECT
 1 AS `a`,
 NULL AS `b`*/;
CREATE SEQUENCE `s` start with 1;
";
    assert_eq!(
        events(dump),
        [
            "skipped Trigger tr",
            "skipped Routine p",
            "skipped Event e",
            "skipped View v",
            "skipped Sequence s",
        ]
    );
}

#[test]
fn phpmyadmin() {
    let dump = "-- phpMyAdmin SQL Dump\r\n-- Host: x\r\nSET SQL_MODE = \"NO_AUTO_VALUE_ON_ZERO\";\r\n\
        CREATE TABLE `t` (\r\n  `id` int(11) NOT NULL,\r\n  `n` varchar(20) NOT NULL\r\n) \
        ENGINE=InnoDB;\r\n\r\nINSERT INTO `t` (`id`, `n`) VALUES\r\n(1, 'a'),\r\n(2, 'b');\r\n\
        ALTER TABLE `t`\r\n  ADD PRIMARY KEY (`id`),\r\n  ADD UNIQUE KEY `n` (`n`),\r\n  ADD KEY `p` \
        (`n`(5)) USING BTREE;\r\nALTER TABLE `t` ADD FULLTEXT KEY `f` (`n`);\r\nALTER TABLE `t`\r\n  \
        MODIFY `id` int(11) NOT NULL AUTO_INCREMENT, AUTO_INCREMENT=3;\r\nALTER TABLE `t`\r\n  ADD \
        CONSTRAINT `c` FOREIGN KEY (`id`) REFERENCES `u` (`id`) ON DELETE CASCADE ON UPDATE NO \
        ACTION;\r\nCOMMIT;\r\n";
    let lines = events(dump);
    assert_eq!(lines[..2], ["table t", "rows t 2 (1, 'a'),\r\n(2, 'b')"]);
    let table = definition(dump);
    assert_eq!(table.primary_key.len(), 1);
    assert_eq!(table.auto_increment, Some(3));
    assert!(table.columns[0].auto_increment);
    let kinds: Vec<IndexKind> = table.indexes.iter().map(|i| i.kind).collect();
    assert_eq!(kinds, [IndexKind::Unique, IndexKind::Plain, IndexKind::FullText]);
    assert_eq!(table.indexes[1].parts[0].prefix, Some(5));
    assert_eq!(table.foreign_keys[0].on_update.as_deref(), Some("NO ACTION"));
}

#[test]
fn stand_ins_of_views_are_dropped_again() {
    assert_eq!(
        events(
            "-- Estructura para la vista `v`\nCREATE TABLE `v` (`a` int);\nDROP TABLE IF EXISTS \
             `v`;\nCREATE VIEW `v` AS SELECT `a` FROM `t`;"
        ),
        ["table v", "dropped v", "skipped View v"]
    );
    assert_eq!(
        events(
            "--\n-- Stand-in structure for view `v`\n-- (See below for the actual view)\n--\nCREATE \
             TABLE `v` (`a` int);"
        ),
        Vec::<String>::new()
    );
}

#[test]
fn what_is_no_part_of_a_dump() {
    let banner =
        "mysqldump: [Warning] Using a password on the command line interface can be insecure.";
    assert_eq!(
        events(&format!(
            "{banner}\nWelcome to host x\nCREATE TABLE t (a int);\nDELETE FROM t;\nUPDATE t SET a = \
             1;\nINSERT INTO t VALUES (1) ON DUPLICATE KEY UPDATE a = 2;\n{banner}\nUPDATE \
             mysql.user SET x = 1;\nINSERT INTO t SET a = 3;\nSELECT 1;"
        )),
        [
            &format!("warning line left out, it is no SQL: {banner}"),
            "warning line left out, it is no SQL: Welcome to host x",
            "table t",
            "rows t 1 (1)",
            "warning the rows were read without regard to: ON DUPLICATE KEY UPDATE a = 2; where it \
             would have changed a row, building the table's keys fails",
            &format!("warning line left out, it is no SQL: {banner}"),
            "warning statement left out: UPDATE mysql.user SET x = 1",
            "skipped Statement ",
            "rows t 1 (3)",
        ]
    );
}

#[test]
fn what_changes_rows_is_refused_or_reported_on_request() {
    let filled = "CREATE TABLE t (a int);\nINSERT INTO t VALUES (1);\n";
    for statement in [
        "UPDATE t SET a = 1;",
        "DELETE FROM t WHERE a = 1;",
        "TRUNCATE TABLE t;",
        "INSERT INTO t SELECT * FROM u;",
        "REPLACE INTO t SELECT 1;",
        "LOAD DATA INFILE 't.txt' INTO TABLE t;",
        "CALL fill();",
        "RENAME TABLE t TO u;",
        "ALTER TABLE t RENAME TO u;",
        "ALTER TABLE t DROP COLUMN a;",
        "ALTER TABLE t MODIFY a tinyint;",
        "ALTER TABLE t CHANGE a b int;",
        "CREATE TABLE u AS SELECT * FROM t;",
        "CREATE TABLE u (x int) SELECT a AS x FROM t;",
    ] {
        let dump = format!("{filled}{statement}");
        let error = read(&dump, SplitOptions::default()).unwrap_err();
        assert!(matches!(error, DumpError::Unsupported { line: 3, offset: 50, .. }), "{error}");
        assert!(error.to_string().contains(&statement[..statement.len() - 1]), "{error}");
        let lenient = SplitOptions { unsupported: LossPolicy::Adapt, ..SplitOptions::default() };
        let (lines, _) = read(&dump, lenient).unwrap();
        assert!(lines.iter().any(|l| l.starts_with("warning statement left out")), "{lines:?}");
    }
}

#[test]
fn damage_is_never_passed_over() {
    let filled = "CREATE TABLE t (a int);\nINSERT INTO t VALUES (1);\n";
    for line in ["INRERT INTO t VALUES (2);\n", "\u{1}NSERT INTO t\n VALUES (3);", ") garbage\n"] {
        let error = read(&format!("{filled}{line}"), SplitOptions::default()).unwrap_err();
        assert!(matches!(error, DumpError::Syntax { line: 3, .. }), "{line:?}: {error}");
    }
    let failed = "mysqldump: Error 2013: Lost connection to MySQL server during query\n";
    let error = read(&format!("{filled}{failed}"), SplitOptions::default()).unwrap_err();
    assert!(error.to_string().contains("Lost connection"), "{error}");
}

#[test]
fn other_formats_are_named() {
    for (input, wanted) in [
        ("<?xml version=\"1.0\"?>\n<mysqldump>", "--xml"),
        ("1\tone\t\\N\n2\ttwo\t\\N\n", "--tab"),
        ("hello world\n", "no SQL"),
        ("<!DOCTYPE html>", "web page"),
        ("# Started dump at: 2024-01-01\n", "mydumper"),
    ] {
        let error = read(input, SplitOptions::default()).unwrap_err();
        assert!(matches!(error, DumpError::Format { .. }), "{input}: {error}");
        assert!(error.to_string().contains(wanted), "{error}");
    }
    assert!(events("").is_empty());
}

#[test]
fn tables_are_changed_before_their_rows() {
    assert_eq!(
        events(
            "CREATE TABLE a (x int, y varchar(3));\nALTER TABLE a ADD COLUMN z int AFTER x, DROP \
             COLUMN y;\nRENAME TABLE a TO b;\nCREATE TABLE c LIKE b;\nINSERT INTO b VALUES \
             (1,2);\nINSERT INTO c (z) VALUES (3);"
        ),
        [
            "table a",
            "dropped a",
            "table a",
            "dropped a",
            "table b",
            "table c",
            "rows b 1 (1,2)",
            "rows c 1 (3)"
        ]
    );
    let table = definition(
        "CREATE TABLE a (x int, y varchar(3), KEY k (y), PRIMARY KEY (x));\nALTER TABLE a CHANGE y \
         w text FIRST, RENAME INDEX k TO l, ADD (q int, r int), DROP PRIMARY KEY, ALTER q SET \
         DEFAULT -7, CONVERT TO CHARACTER SET utf8mb4;",
    );
    let names: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
    assert_eq!(names, ["w", "x", "q", "r"]);
    assert_eq!(table.indexes[0].name, "l");
    assert!(table.primary_key.is_empty());
    assert_eq!(table.columns[2].default, Some(DefaultValue::Literal("-7".to_owned())));
}

#[test]
fn tables_are_widened_after_their_rows_but_then_take_no_more() {
    let dump = "CREATE TABLE a (x int, y varchar(3));\nINSERT INTO a VALUES (1,'y');\nALTER TABLE a \
                MODIFY x bigint NOT NULL DEFAULT 4, ADD z varchar(9) NOT NULL;\n";
    let table = definition(dump);
    assert_eq!(
        (&*table.added_later, &*table.widened_later),
        (&["z".to_owned()][..], &["x".to_owned()][..])
    );
    let plan = ddl::post_load(&[table], "s", &TranslateOptions::default());
    let sql: Vec<&str> = plan.statements.iter().map(|s| s.sql.as_str()).collect();
    assert_eq!(
        sql,
        [
            "-- changed_column\nALTER TABLE \"s\".\"a\" ALTER COLUMN \"x\" TYPE bigint, ALTER COLUMN \
             \"x\" SET DEFAULT 4, ALTER COLUMN \"x\" SET NOT NULL",
            "-- added_column\nDO $relevo$\nBEGIN\n  ALTER TABLE \"s\".\"a\" ADD COLUMN \"z\" \
             varchar(9) NOT NULL DEFAULT '';\n  ALTER TABLE \"s\".\"a\" ALTER COLUMN \"z\" DROP \
             DEFAULT;\nEND\n$relevo$",
        ]
    );
    let more = format!("{dump}INSERT INTO a VALUES (1,'y','z');");
    let error = read(&more, SplitOptions::default()).unwrap_err();
    assert!(matches!(error, DumpError::Syntax { line: 4, .. }), "{error}");
}

#[test]
fn a_table_too_wide_for_postgres_is_refused_by_name() {
    let columns: Vec<String> = (0..10_000).map(|at| format!("c{at} int")).collect();
    let dump = format!("\nCREATE TABLE wide ({});", columns.join(","));
    let error = read(&dump, SplitOptions::default()).unwrap_err().to_string();
    assert!(error.contains("line 2") && error.contains("`wide` has 10000 columns"), "{error}");
}

#[test]
fn names_are_chosen_and_misspelt_choices_are_told() {
    let translate: TranslateOptions = serde_json::from_str(
        r#"{"tables": {"t": {"name": "people"}, "nope": {"name": "x"}},
            "columns": {"t.a": {"name": "id", "type": "bigint"}, "t.z": {"type": "text"}},
            "types": {"tinyint(1)": "boolean"}}"#,
    )
    .unwrap();
    let dump = "CREATE TABLE t (a int, b tinyint(1), KEY k (a));\nINSERT INTO t VALUES (1,0);";
    let (lines, _) = read(dump, SplitOptions::of(&translate)).unwrap();
    assert_eq!(lines.len(), 4);
    assert!(
        lines[2].contains("tables.\"nope\"") && lines[3].contains("columns.\"t.z\""),
        "{lines:?}"
    );
    let mut splitter = DumpSplitter::new(SplitOptions::of(&translate));
    let mut sql = Vec::new();
    splitter
        .feed(dump.as_bytes(), &mut |event| {
            match event {
                Event::Table(table) => {
                    sql.push(ddl::create_table(&table, "s", &translate).sql);
                    let plan = ddl::post_load(&[TableDef::clone(&table)], "s", &translate);
                    sql.extend(plan.statements.into_iter().map(|s| s.sql));
                }
                Event::Rows(batch) => {
                    let mut encoder = RowEncoder::new(&batch.table, &batch.insert, &translate)?;
                    sql.push(encoder.copy_statement("s"));
                    let mut out = Vec::new();
                    encoder.encode(batch.bytes, &mut out)?;
                    sql.push(String::from_utf8(out)?);
                }
                _ => {}
            }
            Ok(())
        })
        .unwrap();
    assert_eq!(
        sql,
        [
            "-- create_table\nCREATE TABLE \"s\".\"people\" (\n  \"id\" bigint,\n  \"b\" boolean\n)",
            "-- index\nCREATE INDEX \"t_k\" ON \"s\".\"people\" (\"id\")",
            "-- copy_rows\nCOPY \"s\".\"people\" (\"id\", \"b\") FROM STDIN (FORMAT text)",
            "1\tf\n",
        ]
    );
    let wrong: TranslateOptions =
        serde_json::from_str(r#"{"columns": {"t.a": {"type": "uuid"}}}"#).unwrap();
    let error = read(dump, SplitOptions::of(&wrong)).unwrap_err().to_string();
    assert!(error.contains("line 1") && error.contains("column \"a\""), "{error}");
    assert!(serde_json::from_str::<TranslateOptions>(r#"{"colums": {}}"#).is_err());
}

#[test]
fn the_end_of_a_dump() {
    let whole = "-- MySQL dump 10.13\nCREATE TABLE t (a int);\n-- Dump completed on 2024-01-01\n";
    let (_, summary) = read(whole, SplitOptions::default()).unwrap();
    assert!(summary.complete && summary.completion_expected);
    assert_eq!((summary.tables, summary.lines, summary.bytes), (1, 3, whole.len() as u64));
    // Cut off between statements: only the missing line tells.
    let (_, summary) = read(&whole[..44], SplitOptions::default()).unwrap();
    assert!(!summary.complete && summary.completion_expected && !summary.trimmed);
    // Nobody's cut: an editor's.
    let (_, summary) = read(&whole[..43], SplitOptions::default()).unwrap();
    assert!(!summary.complete && summary.trimmed && !summary.restored);
    let put_back = "/*!40111 SET SQL_NOTES=@OLD_SQL_NOTES */;\n";
    let (_, summary) = read(
        &whole.replace("-- Dump completed", &format!("{put_back}-- ")),
        SplitOptions::default(),
    )
    .unwrap();
    assert!(!summary.complete && summary.restored);
    for cut in [
        "CREATE TABLE t (a int); INSERT INTO t VALUES (1,",
        "CREATE TABLE t (a int); INSERT INTO t VALUES (1)",
        "CREATE TABLE t (a int); INSERT INTO t VALUES ('x",
        "CREATE TABLE t (a int",
        "SET NAMES 'ut",
        "/* x",
    ] {
        let error = read(cut, SplitOptions::default()).unwrap_err();
        assert!(matches!(error, DumpError::Truncated { .. }), "{cut}: {error}");
    }
}

#[test]
fn errors_name_the_place() {
    let error = read("\nCREATE TABLE t (\n  a int,\n  b nosuch\n);", SplitOptions::default());
    let error = error.unwrap_err().to_string();
    assert!(error.contains("line 4") && error.contains("nosuch"), "{error}");
    let error = read("\nINSERT INTO nowhere VALUES (1);", SplitOptions::default()).unwrap_err();
    assert!(error.to_string().contains("byte 1 (line 2)"), "{error}");
    let error =
        read("CREATE TABLE t (a int);\nINSERT INTO t (b) VALUES (1);", SplitOptions::default());
    assert!(error.unwrap_err().to_string().contains("column `b`"));
}

#[test]
fn limits_hold() {
    let options = || SplitOptions {
        row_limit_bytes: 100,
        statement_limit_bytes: 100,
        ..SplitOptions::default()
    };
    let long = "x".repeat(200);
    let row = format!("CREATE TABLE t (a text);\nINSERT INTO t VALUES ('{long}");
    assert!(matches!(read(&row, options()), Err(DumpError::TooLong { line: 2, .. })));
    let statement = format!("SET @x = '{long}';");
    assert!(matches!(read(&statement, options()), Err(DumpError::TooLong { line: 1, .. })));
}

#[test]
fn tables_may_be_known_beforehand() {
    let table = definition("CREATE TABLE t (a int);");
    let options = SplitOptions { tables: vec![table], ..SplitOptions::default() };
    let (lines, _) = read("INSERT INTO `T` VALUES (1);", options).unwrap();
    assert_eq!(lines, ["rows t 1 (1)"]);
}

#[test]
fn definitions_are_serialisable() {
    let table = definition(
        "CREATE TABLE `t` (`a` enum('x','y') DEFAULT 'x', `g` int AS (1 + 1), KEY `k` ((lower(`a`)))) \
         COMMENT='c' DEFAULT CHARSET=latin1 AUTO_INCREMENT=7 PARTITION BY KEY (`a`);",
    );
    let json = serde_json::to_string(&table).unwrap();
    assert_eq!(serde_json::from_str::<TableDef>(&json).unwrap(), table);
    assert_eq!(table.partitioning.as_deref(), Some("PARTITION BY KEY (`a`)"));
    assert_eq!((table.auto_increment, table.comment.as_str()), (Some(7), "c"));
}

#[test]
fn of_a_foreign_key_both_sides_are_bigint_or_two_numeric_sides() {
    let options = TranslateOptions::default();
    let dump = "CREATE TABLE a (id bigint unsigned NOT NULL, PRIMARY KEY (id));
CREATE TABLE b (id bigint unsigned NOT NULL AUTO_INCREMENT PRIMARY KEY, a bigint unsigned, \
                 CONSTRAINT f FOREIGN KEY (a) REFERENCES a (id));
CREATE TABLE c (b bigint unsigned, CONSTRAINT g FOREIGN KEY (b) REFERENCES b (id));
CREATE TABLE d (a bigint unsigned);
INSERT INTO d VALUES (18446744073709551615);
ALTER TABLE d ADD CONSTRAINT h FOREIGN KEY (a) REFERENCES a (id);";
    let mut splitter = DumpSplitter::new(SplitOptions::default());
    let mut tables: Vec<TableDef> = Vec::new();
    splitter
        .feed(dump.as_bytes(), &mut |event| {
            if let Event::Table(table) | Event::Altered(table) = event {
                tables.retain(|known| known.name != table.name);
                tables.push(TableDef::clone(&table));
            }
            Ok(())
        })
        .unwrap();
    let types: Vec<String> = tables
        .iter()
        .map(|table| {
            let columns = ddl::create_table(table, "s", &options).columns;
            columns.into_iter().map(|column| column.pg_type).collect::<Vec<_>>().join(" ")
        })
        .collect();
    assert_eq!(types[..3], ["numeric(20,0)", "bigint numeric(20,0)", "bigint"]);
    let plan = ddl::post_load(&tables, "s", &options);
    let changed = plan.statements.iter().filter(|s| s.phase == ddl::Phase::Type);
    let changed: Vec<_> = changed.map(|s| format!("{}.{}", s.table, s.name)).collect();
    assert_eq!(changed, ["b.id", "c.b"]);
}

#[test]
fn defaults_of_another_type_are_left_out() {
    let table = definition(
        "CREATE TABLE `t` (`a` decimal(20,0) DEFAULT current_timestamp(), `b` datetime DEFAULT \
         current_timestamp(), `c` json DEFAULT '', `d` time DEFAULT current_timestamp(), `e` decimal(9,0) DEFAULT `a`, \
         `f` decimal(9,0) INVISIBLE DEFAULT -`a`);",
    );
    let made = ddl::create_table(&table, "public", &TranslateOptions::default());
    assert_eq!(made.sql.matches("DEFAULT").count(), 1, "{}", made.sql);
    let left: Vec<&str> = made.notes.iter().map(|note| note.object.as_str()).collect();
    assert_eq!(left, ["a", "c", "d", "e", "f"]);
}

#[test]
fn what_a_rule_gives_is_cut_to_its_column() {
    let table = definition(
        "CREATE TABLE `t` (`a` varchar(1), `b` varchar(1) GENERATED ALWAYS AS (concat(`a`,`a`)));",
    );
    let made = ddl::create_table(&table, "public", &TranslateOptions::default());
    assert!(made.sql.contains("::varchar(1)) STORED"), "{}", made.sql);
}
