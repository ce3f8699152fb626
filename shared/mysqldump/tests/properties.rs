//! Properties that hold for every dump: how it is cut into slices makes no difference, and what
//! is encoded reads back as what was written.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use proptest::prelude::*;
use relevo_mysqldump::{Checksum, DumpSplitter, Event, RowEncoder, SplitOptions, TranslateOptions};

/// A cell of the test table.
#[derive(Debug, Clone, PartialEq)]
struct Row {
    number: Option<i32>,
    text: Option<String>,
    bytes: Vec<u8>,
    amount: i64,
}

const TABLE: &str = "CREATE TABLE `t` (\n  `number` int(11) DEFAULT NULL,\n  `text` longtext,\n  \
                     `bytes` longblob NOT NULL,\n  `amount` decimal(20,3) NOT NULL\n) \
                     ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;\n";

/// Escapes as the servers do (`mysql_real_escape_string`).
fn escape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for &byte in bytes {
        match byte {
            0 => out.extend_from_slice(b"\\0"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            0x1a => out.extend_from_slice(b"\\Z"),
            b'\'' | b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ => out.push(byte),
        }
    }
    out
}

/// Ways of writing a dump that mean the same.
#[derive(Debug, Clone, Copy)]
struct Style {
    hex: bool,
    extended: bool,
    binary: bool,
    doubled: bool,
    newlines: bool,
    columns: bool,
}

fn dump(rows: &[Row], style: Style) -> Vec<u8> {
    let mut out = b"-- MySQL dump 10.13\n/*!40101 SET NAMES utf8mb4 */;\n".to_vec();
    out.extend_from_slice(TABLE.as_bytes());
    let head: &[u8] = if style.columns {
        b"INSERT INTO `t` (`number`, `text`, `bytes`, `amount`) VALUES "
    } else {
        b"INSERT INTO `t` VALUES "
    };
    for (index, row) in rows.iter().enumerate() {
        if index == 0 || !style.extended {
            out.extend_from_slice(head);
        }
        out.push(b'(');
        match row.number {
            Some(number) => out.extend_from_slice(number.to_string().as_bytes()),
            None => out.extend_from_slice(b"NULL"),
        }
        out.push(b',');
        match &row.text {
            Some(text) if style.doubled => {
                out.push(b'\'');
                let text = text.replace('\\', "\\\\").replace('\'', "''");
                out.extend_from_slice(text.as_bytes());
                out.push(b'\'');
            }
            Some(text) => {
                out.push(b'\'');
                out.extend_from_slice(&escape(text.as_bytes()));
                out.push(b'\'');
            }
            None => out.extend_from_slice(b"NULL"),
        }
        out.push(b',');
        if style.hex && !row.bytes.is_empty() {
            out.extend_from_slice(b"0x");
            row.bytes.iter().for_each(|b| out.extend_from_slice(format!("{b:02X}").as_bytes()));
        } else {
            out.extend_from_slice(if style.binary { b"_binary '" } else { b"'" });
            out.extend_from_slice(&escape(&row.bytes));
            out.push(b'\'');
        }
        let sign = if row.amount < 0 { "-" } else { "" };
        let (whole, part) = (row.amount.unsigned_abs() / 1000, row.amount.unsigned_abs() % 1000);
        out.extend_from_slice(format!(",{sign}{whole}.{part:03})").as_bytes());
        let last = index + 1 == rows.len();
        out.extend_from_slice(match (style.extended && !last, style.newlines) {
            (true, true) => b",\n",
            (true, false) => b",",
            (false, _) => b";\n",
        });
    }
    out.extend_from_slice(b"-- Dump completed on 2026-01-01\n");
    out
}

/// Splits and encodes a dump fed in slices that end at the given places.
fn encode(dump: &[u8], cuts: &[usize]) -> (Vec<u8>, Checksum, u64, bool) {
    let mut splitter = DumpSplitter::new(SplitOptions::default());
    let mut encoder: Option<RowEncoder> = None;
    let (mut copy, mut checksum, mut rows) = (Vec::new(), Checksum::default(), 0);
    let mut sink = |event: Event<'_>| {
        if let Event::Rows(batch) = event {
            let encoder = match &mut encoder {
                Some(encoder) => encoder,
                None => encoder.insert(RowEncoder::new(
                    &batch.table,
                    &batch.insert,
                    &TranslateOptions::default(),
                )?),
            };
            let stats = encoder.encode(batch.bytes, &mut copy)?;
            assert_eq!(stats.rows, batch.rows);
            assert!(dump[usize::try_from(batch.offset).unwrap()..].starts_with(batch.bytes));
            checksum += stats.checksum;
            rows += stats.rows;
        }
        Ok(())
    };
    let mut start = 0;
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (dump.len() + 1)).collect();
    cuts.sort_unstable();
    for cut in cuts.into_iter().chain([dump.len()]) {
        splitter.feed(&dump[start..cut], &mut sink).unwrap();
        start = cut;
    }
    let summary = splitter.finish(&mut sink).unwrap();
    (copy, checksum, rows, summary.complete)
}

/// One field of COPY text: `None` for NULL.
fn field(text: &[u8]) -> Option<Vec<u8>> {
    if text == b"\\N" {
        return None;
    }
    let mut out = Vec::new();
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next().unwrap() {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 0x08,
            b'v' => 0x0b,
            b'f' => 0x0c,
            b'\\' => b'\\',
            other => panic!("COPY knows no escape {:?}", *other as char),
        });
    }
    Some(out)
}

fn decode(copy: &[u8]) -> Vec<Row> {
    copy.split_inclusive(|&b| b == b'\n')
        .map(|line| {
            let line = line.strip_suffix(b"\n").unwrap();
            let fields: Vec<_> = line.split(|&b| b == b'\t').map(field).collect();
            let text = |at: usize| {
                fields[at].clone().map(|bytes: Vec<u8>| String::from_utf8(bytes).unwrap())
            };
            let hex = text(2).unwrap();
            let hex = hex.strip_prefix("\\x").unwrap();
            let bytes = (0..hex.len() / 2)
                .map(|at| u8::from_str_radix(&hex[at * 2..at * 2 + 2], 16).unwrap())
                .collect();
            Row {
                number: text(0).map(|n| n.parse().unwrap()),
                text: text(1),
                bytes,
                amount: text(3).unwrap().replace('.', "").parse().unwrap(),
            }
        })
        .collect()
}

/// Text with all that could confuse a reader.
fn hostile_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("'".to_owned()),
        Just("\\".to_owned()),
        Just("\"".to_owned()),
        Just("),(".to_owned()),
        Just(");\nINSERT INTO `t` VALUES (".to_owned()),
        Just("\\N".to_owned()),
        Just("\\.".to_owned()),
        Just("\t\n\r\u{8}\u{b}\u{c}\u{1a}".to_owned()),
        Just("-- /* */ #".to_owned()),
        Just("ñ😀日本".to_owned()),
        "[a-z ]{0,40}",
        any::<char>().prop_filter("Postgres stores no NUL", |c| *c != '\0').prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

fn row() -> impl Strategy<Value = Row> {
    (
        any::<Option<i32>>(),
        prop::option::of(hostile_text()),
        prop_oneof![
            prop::collection::vec(any::<u8>(), 0..40),
            hostile_text().prop_map(String::into_bytes)
        ],
        -9_999_999_999_999_999..9_999_999_999_999_999_i64,
    )
        .prop_map(|(number, text, bytes, amount)| Row { number, text, bytes, amount })
}

fn style() -> impl Strategy<Value = Style> {
    any::<[bool; 6]>().prop_map(|[hex, extended, binary, doubled, newlines, columns]| Style {
        hex,
        extended,
        binary,
        doubled,
        newlines,
        columns,
    })
}

proptest! {
    #[test]
    fn rows_come_back(
        rows in prop::collection::vec(row(), 1..12),
        style in style(),
        cuts in prop::collection::vec(any::<usize>(), 0..12),
    ) {
        let dump = dump(&rows, style);
        let (copy, checksum, count, complete) = encode(&dump, &cuts);
        prop_assert!(complete);
        prop_assert_eq!(count, rows.len() as u64);
        prop_assert_eq!(decode(&copy), rows);
        let mut lines = Checksum::default();
        copy.split_inclusive(|&b| b == b'\n').for_each(|l| lines.add_row(&l[..l.len() - 1]));
        prop_assert_eq!(lines, checksum);
    }

    #[test]
    fn slices_make_no_difference(
        rows in prop::collection::vec(row(), 1..5),
        style in style(),
        length in 1_usize..9,
    ) {
        let dump = dump(&rows, style);
        let cuts: Vec<usize> = (0..dump.len()).step_by(length).collect();
        prop_assert_eq!(encode(&dump, &cuts), encode(&dump, &[]));
    }

    #[test]
    fn any_bytes_end_in_an_answer(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        text in "(CREATE|TABLE|INSERT INTO|VALUES|`t`|\\(|\\)|,|;|'|\"|/\\*!50001|\\*/|--|\\n| |int|1|DELIMITER|x){0,60}",
    ) {
        for input in [bytes.as_slice(), text.as_bytes()] {
            let mut splitter = DumpSplitter::new(SplitOptions::default());
            let mut sink = |event: Event<'_>| {
                if let Event::Rows(batch) = event {
                    let options = TranslateOptions::default();
                    let mut encoder = RowEncoder::new(&batch.table, &batch.insert, &options)?;
                    encoder.encode(batch.bytes, &mut Vec::new())?;
                }
                Ok(())
            };
            if splitter.feed(input, &mut sink).is_ok() {
                let _ = splitter.finish(&mut sink);
            }
        }
    }

    #[test]
    fn any_values_end_in_an_answer(values in "(1|-|'|\\\\|0x|_binary|NULL|,|\\)|\\(|\\.|e| |b|ñ|/\\*|\\*/|:){0,40}") {
        let dump = format!("{TABLE}INSERT INTO `t` VALUES ({values});");
        let mut splitter = DumpSplitter::new(SplitOptions::default());
        let mut encoder = None;
        let mut sink = |event: Event<'_>| {
            if let Event::Rows(batch) = event {
                let compiled =
                    RowEncoder::new(&batch.table, &batch.insert, &TranslateOptions::default())?;
                let encoder: &mut RowEncoder = encoder.insert(compiled);
                let mut out = Vec::new();
                if let Ok(stats) = encoder.encode(batch.bytes, &mut out) {
                    assert_eq!(stats.rows as usize, out.iter().filter(|b| **b == b'\n').count());
                }
                drop(Arc::clone(&batch.table));
            }
            Ok(())
        };
        if splitter.feed(dump.as_bytes(), &mut sink).is_ok() {
            let _ = splitter.finish(&mut sink);
        }
    }
}
