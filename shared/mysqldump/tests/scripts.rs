//! Scripts by hand and exports of other tools than mysqldump: what they hold and it never writes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;

use relevo_mysqldump::{DumpSplitter, Event, RowEncoder, SplitOptions, TranslateOptions};

/// COPY text of each table, fed in slices of so many bytes; and the warnings.
fn load_in(dump: &str, slice: usize) -> Result<(BTreeMap<String, String>, Vec<String>), String> {
    let options = TranslateOptions::default();
    let mut splitter = DumpSplitter::new(SplitOptions::default());
    let (mut tables, mut warnings) = (BTreeMap::new(), Vec::new());
    let mut sink = |event: Event<'_>| {
        match event {
            Event::Rows(batch) => {
                let mut encoder = RowEncoder::new(&batch.table, &batch.insert, &options)?;
                let mut out = Vec::new();
                encoder.encode(batch.bytes, &mut out)?;
                let copy: &mut String = tables.entry(batch.table.name.clone()).or_default();
                copy.push_str(&String::from_utf8(out)?);
            }
            Event::Warning(warning) => warnings.push(warning.message),
            _ => {}
        }
        Ok(())
    };
    let mut read = || {
        for piece in dump.as_bytes().chunks(slice) {
            splitter.feed(piece, &mut sink)?;
        }
        std::mem::replace(&mut splitter, DumpSplitter::new(SplitOptions::default()))
            .finish(&mut sink)
    };
    read().map_err(|error| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        text
    })?;
    Ok((tables, warnings))
}

fn load(dump: &str) -> BTreeMap<String, String> {
    let whole = load_in(dump, usize::MAX).unwrap().0;
    for slice in [1, 7, 64] {
        assert_eq!(load_in(dump, slice).unwrap().0, whole, "in slices of {slice}");
    }
    whole
}

#[test]
fn comments_by_version_hold_columns_and_values() {
    // As the sample database sakila has them.
    let tables = load(
        "CREATE TABLE address (\n  id INT NOT NULL,\n  /*!50705 location GEOMETRY */ /*!80003 SRID 0 */ \
         /*!50705 NOT NULL,*/\n  last_update TIMESTAMP NOT NULL,\n  /*!50705 SPATIAL KEY \
         `i` (location),*/\n  PRIMARY KEY (id)\n);\nINSERT INTO address VALUES \
         (1,/*!50705 0x000000000101,*/'2014-09-25 22:30:27'),\n(2,/*!50705 \
         0x01,*/'2014-09-25 22:30:09'),(3,/* ) */'',/*! '2014-09-25 22:30:09'*/);",
    );
    assert_eq!(
        tables["address"],
        "1\t\\\\x000000000101\t2014-09-25 22:30:27+00\n2\t\\\\x01\t2014-09-25 \
         22:30:09+00\n3\t\\\\x\t2014-09-25 22:30:09+00\n"
    );
}

#[test]
fn rows_that_the_server_numbers() {
    let tables = load(
        "CREATE TABLE g (id INT NOT NULL AUTO_INCREMENT, n NVARCHAR(9), PRIMARY KEY (id));
         INSERT INTO g (n) VALUES (N'a'), ( 'b' );
         INSERT INTO g VALUES (NULL, 'c'), (DEFAULT, 'd'), (0, 'e');
         INSERT INTO g VALUES (50, 'f');
         INSERT INTO `g` (`n`, `id`) VALUES ('g', null), ('h', null);
         INSERT INTO g VALUES ('60', 'i');
         INSERT INTO g SET n = 'j';
         INSERT INTO g () VALUES ();
         SET SQL_MODE='NO_AUTO_VALUE_ON_ZERO';
         INSERT INTO g VALUES (0, 'k');
         REPLACE INTO g VALUES (NULL, 'l');
         CREATE TABLE h (n int, id bigint unsigned AUTO_INCREMENT, KEY (id)) AUTO_INCREMENT=7;
         INSERT INTO h VALUES (1, NULL), (2, NULL);
         INSERT INTO h (n) VALUES (3);
         ALTER TABLE h AUTO_INCREMENT = 20;
         INSERT INTO h (n) VALUES (4);
         DROP TABLE h;
         CREATE TABLE h (id int PRIMARY KEY AUTO_INCREMENT, n int);
         INSERT INTO h (n) VALUES (5);",
    );
    assert_eq!(
        tables["g"],
        "1\ta\n2\tb\n3\tc\n4\td\n5\te\n50\tf\ng\t51\nh\t52\n60\ti\n61\tj\n62\n0\tk\n63\tl\n"
    );
    assert_eq!(tables["h"], "1\t7\n2\t8\n9\t3\n20\t4\n1\t5\n");
}

#[test]
fn rows_that_cannot_be_numbered_are_refused() {
    let rows: Vec<String> = (1..=100_001).map(|at| format!("({at},1)")).collect();
    let filled = format!(
        "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY, n int);\nINSERT INTO t VALUES {};\n",
        rows.join(",")
    );
    for (row, wanted) in [
        ("INSERT INTO t VALUES (NULL, 1);", "asks MySQL to number the row"),
        ("INSERT INTO t VALUES (DEFAULT, 1);", "asks MySQL to number the row"),
        ("INSERT INTO t VALUES (0, 1);", "asks MySQL to number the row"),
        ("INSERT INTO t (n) VALUES (1);", "leaves `id` to be numbered by the server"),
    ] {
        let error = load_in(&format!("{filled}{row}"), usize::MAX).unwrap_err();
        assert!(error.contains(wanted), "{error}");
    }
    let mixed = "CREATE TABLE t (id INT AUTO_INCREMENT PRIMARY KEY); INSERT INTO t VALUES (NULL),(9),(NULL);";
    assert_eq!(load(mixed)["t"], "1\n9\n10\n");
    let more = format!("{mixed} INSERT INTO t VALUES (12);");
    assert_eq!(load(&more)["t"], "1\n9\n10\n12\n");
    let error = load_in(&format!("{more} INSERT INTO t VALUES (NULL);"), usize::MAX).unwrap_err();
    assert!(error.contains("asks MySQL to number the row"), "{error}");
    let set = format!("{filled}SET SQL_MODE='NO_AUTO_VALUE_ON_ZERO'; INSERT INTO t VALUES (0, 1);");
    assert!(load_in(&set, usize::MAX).is_ok());
}

#[test]
fn values_that_are_expressions() {
    let tables = load(
        "CREATE TABLE t (a datetime, b varchar(30), c bit(1), d point, e blob, f int, g varchar(9));
         INSERT INTO t VALUES
         (CAST('2020-01-02' AS DATETIME), CONCAT('a', CHAR(10), 'b'), CONV('1', 2, 10) + 0,
          ST_GeomFromText('POINT(1 2)'), UNHEX('00FF'), (2 + 3) * 4, 1e3),
         ({ts '2020-01-02 03:04:05'}, _utf8mb4'x' COLLATE utf8mb4_bin, b'0', POINT(1, 2),
          FROM_BASE64('AP8='), - 7, .50);",
    );
    let point = "\\\\x000000000101000000000000000000f03f0000000000000040";
    assert_eq!(
        tables["t"],
        format!(
            "2020-01-02 00:00:00\ta\\nb\tt\t{point}\t\\\\x00ff\t20\t1000\n\
             2020-01-02 03:04:05\tx\tf\t{point}\t\\\\x00ff\t-7\t0.50\n"
        )
    );
}

#[test]
fn what_needs_a_server_is_named() {
    let table = "CREATE TABLE t (a int, b varchar(40));\n";
    for (statement, wanted) in [
        ("INSERT INTO t VALUES (1, UUID());", "`uuid` is an expression that only the server"),
        ("INSERT INTO t VALUES (1, (SELECT 1));", "`select` is an expression"),
        ("INSERT INTO t VALUES (LAST_INSERT_ID(), 'x');", "`last_insert_id` is an expression"),
        ("INSERT INTO t VALUES (@id, 'x');", "unexpected '@'"),
        ("source more.sql ;", "put the files into one"),
        ("\\. more.sql", "put the files into one"),
        ("CREATE TEMPORARY TABLE x (a int);", "temporary table"),
    ] {
        let error = load_in(&format!("{table}{statement}\n"), usize::MAX).unwrap_err();
        assert!(error.contains(wanted), "{statement}: {error}");
    }
    let error = load_in("source first.sql\n", usize::MAX).unwrap_err();
    assert!(error.contains("put the files into one"), "{error}");
}

#[test]
fn triggers_before_rows_are_told_of() {
    let dump = "CREATE TABLE film (id int); CREATE TABLE film_text (id int);\nDELIMITER ;;\n\
                CREATE TRIGGER ins_film AFTER INSERT ON `film` FOR EACH ROW INSERT INTO film_text \
                VALUES (new.id);;\nCREATE TRIGGER upd BEFORE UPDATE ON `film` FOR EACH ROW SET \
                new.id = 1;;\nDELIMITER ;\nINSERT INTO film VALUES (1);\nINSERT INTO film VALUES \
                (2);\n";
    let (tables, warnings) = load_in(dump, usize::MAX).unwrap();
    assert_eq!(tables["film"], "1\n2\n");
    let [warning] = &warnings[..] else { panic!("{warnings:?}") };
    assert!(warning.contains("`ins_film` comes before rows of table `film`"), "{warning}");
    let after = "CREATE TABLE t (id int); INSERT INTO t VALUES (1);\nCREATE TRIGGER x BEFORE \
                 INSERT ON t FOR EACH ROW SET new.id = 1;";
    assert!(load_in(after, usize::MAX).unwrap().1.is_empty());
}
