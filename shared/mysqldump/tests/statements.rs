//! Whole dumps as the splitter sees them: what is found, skipped, warned of and refused.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use relevo_mysqldump::{
    DumpError, DumpSplitter, DumpSummary, Event, IndexKind, SplitOptions, TableDef,
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
    assert_eq!(
        events(
            "mysqldump: [Warning] Using a password on the command line interface can be insecure.\n\
             CREATE TABLE t (a int);\nDELETE FROM t;\nINSERT INTO t VALUES (1) ON DUPLICATE KEY \
             UPDATE a = 2;\nUPDATE t SET a = 1;\nALTER TABLE t ADD COLUMN b int;\nINSERT INTO t SET \
             a = 3;"
        ),
        [
            "warning line left out, it is no SQL: mysqldump: [Warning] Using a password on the \
             command line interface can be insecure.",
            "table t",
            "rows t 1 (1)",
            "warning the rows were read without regard to: ON DUPLICATE KEY              UPDATE a = 2",
            "warning statement left out: UPDATE t SET a = 1",
            "skipped Statement ",
            "warning change of table `t` left out: ADD COLUMN b int",
            "warning statement left out: INSERT INTO t SET \
             a = 3",
            "skipped Statement ",
        ]
        .map(|line| line.replace("              UPDATE", " UPDATE"))
    );
}

#[test]
fn the_end_of_a_dump() {
    let whole = "-- MySQL dump 10.13\nCREATE TABLE t (a int);\n-- Dump completed on 2024-01-01\n";
    let (_, summary) = read(whole, SplitOptions::default()).unwrap();
    assert!(summary.complete && summary.completion_expected);
    assert_eq!((summary.tables, summary.lines, summary.bytes), (1, 3, whole.len() as u64));
    // Cut off between statements: only the missing line tells.
    let (_, summary) = read(&whole[..43], SplitOptions::default()).unwrap();
    assert!(!summary.complete && summary.completion_expected);
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
