//! Every type with the forms its values take in dumps, and what becomes of them.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use relevo_mysqldump::{
    BatchStats, DumpSplitter, Event, InvalidTextPolicy, JsonType, LossPolicy, RowEncoder, SetType,
    SplitOptions, TranslateOptions,
};

/// Encodes the rows of a dump; returns the COPY text and what was counted.
fn encode(
    dump: &[u8],
    options: &TranslateOptions,
) -> Result<(String, BatchStats), Box<dyn std::error::Error>> {
    let mut splitter = DumpSplitter::new(SplitOptions::default());
    let (mut copy, mut stats) = (Vec::new(), BatchStats::default());
    let mut failure = None;
    let mut sink = |event: Event<'_>| {
        if let Event::Rows(batch) = event {
            let encoded = RowEncoder::new(&batch.table, &batch.insert, options)
                .map_err(|error| error.to_string())
                .and_then(|mut encoder| {
                    encoder.encode(batch.bytes, &mut copy).map_err(|error| error.to_string())
                });
            match encoded {
                Ok(more) => stats += &more,
                Err(error) => failure = Some(error),
            }
        }
        Ok(())
    };
    splitter.feed(dump, &mut sink)?;
    splitter.finish(&mut sink)?;
    match failure {
        Some(failure) => Err(failure.into()),
        None => Ok((String::from_utf8(copy)?, stats)),
    }
}

/// One column of a type, one value: the COPY text without the newline.
fn one_with(ty: &str, value: &str, options: &TranslateOptions) -> Result<String, String> {
    let dump = format!(
        "SET NAMES utf8mb4;\nSET TIME_ZONE='+00:00';\nCREATE TABLE t (c {ty});\nINSERT INTO t \
         VALUES ({value});\n"
    );
    encode(dump.as_bytes(), options)
        .map(|(copy, _)| copy.strip_suffix('\n').unwrap().to_owned())
        .map_err(|error| error.to_string())
}

fn one(ty: &str, value: &str) -> String {
    one_with(ty, value, &TranslateOptions::default()).unwrap()
}

#[test]
fn every_type() {
    let cases: &[(&str, &str, &str)] = &[
        // NULL, and the texts that look like it
        ("int", "NULL", r"\N"),
        ("text", "NULL", r"\N"),
        ("text", "'NULL'", "NULL"),
        ("text", "''", ""),
        ("text", r"'\\N'", r"\\N"),
        ("text", r"'\\.'", r"\\."),
        // integers
        ("tinyint", "-128", "-128"),
        ("tinyint unsigned", "255", "255"),
        ("tinyint unsigned", "256", "255"),
        ("tinyint", "-129", "-128"),
        ("int(7) unsigned zerofill", "0000012", "12"),
        ("int", "'12'", "12"),
        ("int", " 12 ", "12"),
        ("int", "/* c */ -5", "-5"),
        ("int", "1.5", "2"),
        ("int", "TRUE", "1"),
        ("int", "0x10", "16"),
        ("bigint", "-9223372036854775808", "-9223372036854775808"),
        ("bigint unsigned", "18446744073709551615", "18446744073709551615"),
        // decimals
        ("decimal(10,2)", "-0.50", "-0.50"),
        ("decimal(10,2)", "1", "1.00"),
        ("decimal(10,2)", "'1.005'", "1.01"),
        ("decimal(3,1)", "100", "99.9"),
        ("decimal(4,4)", "0.1234", "0.1234"),
        ("decimal(20,0)", "12345678901234567890", "12345678901234567890"),
        (
            "decimal(65,30)",
            "12345678901234567890123456789012345.123456789012345678901234567890",
            "12345678901234567890123456789012345.123456789012345678901234567890",
        ),
        // floats
        ("float", "3.40282e38", "3.40282e38"),
        ("float", "1e39", "3.4028234663852886e38"),
        ("double", "-1.7976931348623157e308", "-1.7976931348623157e308"),
        ("double", "5e-324", "5e-324"),
        ("double", ".5", ".5"),
        // bits
        ("bit(1)", r"'\0'", "f"),
        ("bit(1)", "b'1'", "t"),
        ("bit(1)", "_binary '\u{1}'", "t"),
        ("bit(4)", "0b101", "0101"),
        ("bit(4)", "5", "0101"),
        ("bit(64)", "0xFFFFFFFFFFFFFFFF", &"1".repeat(64)),
        // dates and times
        ("date", "'2024-02-29'", "2024-02-29"),
        ("date", "'2023-02-31'", r"\N"),
        ("date", "'0000-00-00'", r"\N"),
        ("date", "'2023-00-01'", r"\N"),
        ("date", "20240229", "2024-02-29"),
        ("datetime", "'2024-02-29 23:59:59'", "2024-02-29 23:59:59"),
        ("datetime", "'2024-02-29'", "2024-02-29 00:00:00"),
        ("datetime", "'0000-00-00 00:00:00'", r"\N"),
        ("datetime(3)", "'2024-02-29 23:59:59.120'", "2024-02-29 23:59:59.12"),
        ("datetime(6)", "'2024-02-29 23:59:59.000000'", "2024-02-29 23:59:59"),
        ("timestamp", "'2024-02-29 23:59:59'", "2024-02-29 23:59:59+00"),
        ("time", "'23:59:59'", "23:59:59"),
        ("time", "'-838:59:59'", "-838:59:59"),
        ("time(3)", "'00:00:01.500'", "00:00:01.5"),
        ("year", "2024", "2024"),
        ("year", "'0000'", "0"),
        ("year", "69", "2069"),
        ("year", "1899", "0"),
        // text
        (
            "text",
            r#"'it\'s \"q\" 100\% a\_b \\ \n\r\t\b\Z'"#,
            "it's \"q\" 100\\\\% a\\\\_b \\\\ \\n\\r\\t\\b\u{1a}",
        ),
        ("text", "'it''s'", "it's"),
        ("text", "'a\tb\nc\u{b}\u{c}'", r"a\tb\nc\v\f"),
        ("text", "\"double ' quoted\"", "double ' quoted"),
        ("text", "'a' 'b'", "ab"),
        ("text", "_latin1'a'", "a"),
        ("text", "0x6162", "ab"),
        ("text", r"'a\0b'", "ab"),
        ("text", "'ñ€😀'", "ñ€😀"),
        ("varchar(3)", "'ñññ'", "ñññ"),
        ("varchar(3)", "'ññññ'", "ñññ"),
        ("varchar(3)", "'abc  '", "abc"),
        ("varchar(3)", r"'\\\\\\'", r"\\\\\\"),
        ("text", "12", "12"),
        // enums and sets
        ("enum('a','b''c','d\\\\e')", "'b\\'c'", "b'c"),
        ("enum('a','b''c','d\\\\e')", r"'d\\e'", r"d\\e"),
        ("enum('a','b')", "'A'", "a"),
        ("enum('a','b')", "2", "b"),
        ("enum('a','b')", "''", ""),
        ("set('a','b','c d','null')", "'a,c d'", r#"{a,"c d"}"#),
        ("set('a','b','c d','null')", "'null'", r#"{"null"}"#),
        ("set('a','b')", "''", "{}"),
        ("set('a','b')", "3", "{a,b}"),
        // JSON
        ("json", r#"'{\"a\": \"x\\ny\"}'"#, r#"{"a": "x\\ny"}"#),
        ("json", r#"'{\"a\": \"\\u0000x\"}'"#, r#"{"a": "x"}"#),
        ("json", r#"'{\"a\": \"\\\\u0000\"}'"#, r#"{"a": "\\\\u0000"}"#),
        ("longtext CHECK (json_valid(`c`))", "'[1]'", "[1]"),
        // bytes
        ("blob", "0xDEADBEEF", r"\\xdeadbeef"),
        ("blob", "x'0A'", r"\\x0a"),
        ("blob", "''", r"\\x"),
        ("blob", r"'\0\'\\\n\Z'", r"\\x00275c0a1a"),
        ("blob", "_binary 'ab'", r"\\x6162"),
        ("binary(4)", "'ab'", r"\\x61620000"),
        ("varbinary(4)", "'ab'", r"\\x6162"),
        ("point", r"'\0\0\0\0'", r"\\x00000000"),
        // MariaDB
        ("uuid", "'123e4567-e89b-12d3-a456-426614174000'", "123e4567-e89b-12d3-a456-426614174000"),
        ("inet6", "'2001:db8::ff'", "2001:db8::ff"),
    ];
    for (ty, value, wanted) in cases {
        assert_eq!(one(ty, value), *wanted, "{ty}: {value}");
    }
}

#[test]
fn options_choose_types() {
    let default = TranslateOptions::default();
    let boolean = TranslateOptions { tinyint1_as_boolean: true, ..default.clone() };
    assert_eq!(one_with("tinyint(1)", "1", &boolean).as_deref(), Ok("t"));
    assert!(one_with("tinyint(1)", "2", &boolean).unwrap_err().contains("neither 0 nor 1"));
    let text = TranslateOptions { set: SetType::Text, json: JsonType::Text, ..default };
    assert_eq!(one_with("set('a','b')", "'b,a'", &text).as_deref(), Ok("a,b"));
    assert_eq!(one_with("json", r#"'"\\u0000"'"#, &text).as_deref(), Ok(r#""\\u0000""#));
}

#[test]
fn a_label_with_a_nul_character_is_one_without() {
    assert_eq!(one(r"enum('\0a','b')", r"'\0a'"), "a");
}

#[test]
fn policies_refuse() {
    let strict = TranslateOptions {
        invalid_dates: LossPolicy::Fail,
        nul_chars: LossPolicy::Fail,
        out_of_range: LossPolicy::Fail,
        invalid_text: InvalidTextPolicy::Fail,
        ..TranslateOptions::default()
    };
    for (ty, value) in [
        ("date", "'0000-00-00'"),
        ("text", r"'a\0'"),
        ("tinyint", "200"),
        ("varchar(2)", "'abc'"),
        ("enum('a')", "'b'"),
        ("int NOT NULL", "NULL"),
        ("int", "'12abc'"),
    ] {
        let error = one_with(ty, value, &strict).unwrap_err();
        assert!(error.contains("table t, row 1 of the batch, column \"c\", byte 1"), "{error}");
    }
}

#[test]
fn losses_are_counted() {
    let dump = b"SET NAMES utf8;CREATE TABLE t (d date, e date NOT NULL, x text, n tinyint NOT NULL);\n\
        INSERT INTO t VALUES ('0000-00-00','2020-00-00','a\\0',300),(NULL,'2020-01-01','\xff',NULL);";
    let (copy, stats) = encode(dump, &TranslateOptions::default()).unwrap();
    assert_eq!(copy, "\\N\t\\N\ta\t127\n\\N\t2020-01-01\t?\t0\n");
    assert_eq!(stats.nulled_dates["d"], 1);
    assert_eq!(stats.nulled_dates["e"], 1);
    assert_eq!((stats.stripped_nuls, stats.replaced_text, stats.adapted_values), (1, 1, 2));
    let mut twice = stats.clone();
    twice += &stats;
    assert_eq!((twice.rows, twice.nulled_dates["d"]), (4, 2));
    let json = serde_json::to_string(&stats).unwrap();
    assert_eq!(serde_json::from_str::<BatchStats>(&json).unwrap(), stats);
}

#[test]
fn rows_that_do_not_fit_the_table_are_named() {
    for (values, wanted) in [
        ("(1)", "the row has 1 values, not 2"),
        ("(1,2,3)", "more values"),
        ("()", "the row has 0 values"),
        ("(1,uuid())", "`uuid` is an expression"),
        ("(1,2 3)", "expected `,` or `)`"),
    ] {
        let dump = format!("CREATE TABLE t (a int, b int); INSERT INTO t VALUES (5,6),{values};");
        let error = encode(dump.as_bytes(), &TranslateOptions::default()).unwrap_err().to_string();
        assert!(error.contains(wanted) && error.contains("row 2"), "{values}: {error}");
    }
}

#[test]
fn character_sets() {
    let table = "CREATE TABLE t (c text, b blob);\nINSERT INTO t VALUES ('";
    let run = |head: &str, bytes: &[u8]| {
        let mut dump = format!("{head}{table}").into_bytes();
        dump.extend_from_slice(bytes);
        dump.extend_from_slice(b"','");
        dump.extend_from_slice(bytes);
        dump.extend_from_slice(b"');");
        let (copy, _) = encode(&dump, &TranslateOptions::default()).unwrap();
        copy.trim_end().to_owned()
    };
    assert_eq!(run("SET NAMES latin1;", b"\x93caf\xe9\x94"), "“café”\t\\\\x93636166e994");
    assert_eq!(run("SET NAMES koi8r;", b"\xc1"), "а\t\\\\xc1");
    assert_eq!(run("SET NAMES sjis;", b"\x95\x5c"), "表\t\\\\x955c");
    assert_eq!(run("SET NAMES gbk;", b"\x81\x5c\\'"), "乗'\t\\\\x815c27");
    assert_eq!(run("", "é".as_bytes()), "é\t\\\\xc3a9");
    assert_eq!(run("", b"\xe9"), "é\t\\\\xe9");
    // Each column in its own character set.
    let dump =
        b"SET NAMES binary; CREATE TABLE t (a text CHARACTER SET latin1, b text CHARACTER SET \
                 utf8mb4) DEFAULT CHARSET=utf8mb4; INSERT INTO t VALUES ('\xe9','\xc3\xa9');";
    assert_eq!(encode(dump, &TranslateOptions::default()).unwrap().0, "é\té\n");
}

#[test]
fn modes_change_how_strings_end() {
    let dump = br#"SET SQL_MODE='NO_BACKSLASH_ESCAPES,ANSI_QUOTES'; CREATE TABLE "t" ("c" text);
        INSERT INTO "t" VALUES ('a\'),('it''s');"#;
    assert_eq!(encode(dump, &TranslateOptions::default()).unwrap().0, "a\\\\\nit's\n");
}

#[test]
fn zones() {
    let run = |zone: &str| {
        let dump = format!(
            "{zone}CREATE TABLE t (c timestamp); INSERT INTO t VALUES ('2024-07-01 12:00:00');"
        );
        encode(dump.as_bytes(), &TranslateOptions::default()).map(|(copy, _)| copy)
    };
    assert_eq!(run("SET TIME_ZONE='-06:00';").unwrap(), "2024-07-01 12:00:00-06\n");
    assert_eq!(
        run("SET TIME_ZONE='America/Mexico_City';").unwrap(),
        "2024-07-01 12:00:00 America/Mexico_City\n"
    );
    assert_eq!(run("").unwrap(), "2024-07-01 12:00:00+00\n");
    assert!(run("SET TIME_ZONE='x y';").unwrap_err().to_string().contains("time zone"));
}

#[test]
fn columns_that_are_not_listed() {
    let dump = b"CREATE TABLE t (a int NOT NULL, b varchar(5) NOT NULL, c int DEFAULT 3, i int \
                 /*!80023 INVISIBLE */, g int AS (a + 1) STORED);\nINSERT INTO t (c, a) VALUES (1,2);";
    let mut splitter = DumpSplitter::new(SplitOptions::default());
    let mut seen = None;
    splitter
        .feed(dump, &mut |event| {
            if let Event::Rows(batch) = event {
                let mut encoder =
                    RowEncoder::new(&batch.table, &batch.insert, &TranslateOptions::default())?;
                let mut copy = Vec::new();
                // Batches may be joined by commas.
                let joined = [b" ,".as_slice(), batch.bytes, b",", batch.bytes, b" , "].concat();
                assert_eq!(encoder.encode(&joined, &mut copy)?.rows, 2);
                seen = Some((encoder.copy_statement("s"), copy, Arc::clone(&batch.table)));
            }
            Ok(())
        })
        .unwrap();
    let (statement, copy, table) = seen.unwrap();
    assert_eq!(
        statement,
        "-- copy_rows\nCOPY \"s\".\"t\" (\"c\", \"a\", \"b\") FROM STDIN (FORMAT text)"
    );
    assert_eq!(copy, b"1\t2\t\n1\t2\t\n");
    assert!(table.columns[3].invisible);
}
