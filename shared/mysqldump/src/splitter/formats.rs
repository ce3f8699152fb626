//! Tells what an input is that is no dump of MySQL, by its first bytes.

/// Bytes at the beginning that are looked at.
pub(super) const HEAD_BYTES: usize = 512;

/// Name of the format, and what to do.
pub(super) type Format = (&'static str, &'static str);

/// Rows without statements around them.
pub(super) const TEXT_ROWS: Format = (
    "rows of text without SQL, as mysqldump --tab, SELECT … INTO OUTFILE or a CSV export write \
     them",
    "dump without --tab (or --fields-…), so that tables and rows are in one file of SQL",
);

/// Anything that holds no statement.
pub(super) const NO_SQL: Format = ("no SQL", "give it a file that mysqldump or phpMyAdmin wrote");

/// Whether the first line is made of fields between TABs.
pub(super) fn first_line_has_tab(head: &[u8]) -> bool {
    head.split(|&byte| byte == b'\n').next().is_some_and(|line| line.contains(&b'\t'))
}

/// Recognises what is no dump. `None`: nothing speaks against it.
pub(super) fn recognise(head: &[u8]) -> Option<Format> {
    match head {
        [0x1f, 0x8b, ..]
        | [0x28, 0xb5, 0x2f, 0xfd, ..]
        | [0xfd, b'7', b'z', b'X', b'Z', ..]
        | [b'B', b'Z', b'h', b'1'..=b'9', ..]
        | [b'P', b'K', 3, 4, ..] => {
            return Some(("a packed file", "unpack it first"));
        }
        [0xfe, b'b', b'i', b'n', ..] => {
            return Some(("a binary log of MySQL", "make a dump with mysqldump or mariadb-dump"));
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [b'-', 0, b'-', 0, ..] | [0, b'-', 0, b'-', ..] => {
            return Some((
                "text in UTF-16, as PowerShell's > writes it",
                "make the dump with mysqldump --result-file=FILE",
            ));
        }
        [b'P', b'G', b'D', b'M', b'P', ..] => {
            return Some(("an archive of pg_dump", "load it with pg_restore"));
        }
        _ if head.starts_with(b"SQLite format 3") => {
            return Some(("a database file of SQLite", "load it with pgloader"));
        }
        _ => {}
    }
    let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let text = String::from_utf8_lossy(text).to_ascii_lowercase();
    let begins = |words: &[&str]| words.iter().any(|word| text.starts_with(word));
    if begins(&["<!doctype html", "<html"]) {
        return Some((
            "a web page",
            "the download went wrong: open the address, it is a login or an error",
        ));
    }
    if begins(&["<?xml", "<mysqldump", "<resultset"]) {
        return Some(("XML, as mysqldump --xml writes it", "dump without --xml"));
    }
    if begins(&["{", "["]) && !begins(&["[mysqld", "[client"]) {
        if text.contains("quote_character") || text.contains("[config]") {
            return Some(MYDUMPER);
        }
        return Some(("JSON", "make a dump with mysqldump or mariadb-dump"));
    }
    if begins(&["# started dump at", "started dump at"]) {
        return Some(MYDUMPER);
    }
    if text.contains("-- postgresql database dump") {
        return Some(("a dump of Postgres", "load it with psql"));
    }
    if begins(&["pragma foreign_keys"]) {
        return Some(("a dump of SQLite", "load it with pgloader"));
    }
    if begins(&["use [", "set ansi_nulls"]) || text.contains("\ngo\r\n") {
        return Some(("a script of SQL Server", "Relevo reads such servers directly, not scripts"));
    }
    None
}

const MYDUMPER: Format = (
    "the description of a folder that mydumper wrote",
    "join the folder's SQL, tables first: cat *-schema.sql *.sql | relevo dump import -, or dump \
     with mysqldump",
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_dump_is_named() {
        for (head, name) in [
            (&b"<?xml version=\"1.0\"?>\n<mysqldump>"[..], "XML"),
            (b"\n<!DOCTYPE html><html>", "web page"),
            (b"PGDMP\x01", "pg_dump"),
            (b"--\n-- PostgreSQL database dump\n--", "Postgres"),
            (b"PRAGMA foreign_keys=OFF;\nBEGIN TRANSACTION;", "SQLite"),
            (b"# Started dump at: 2024-01-01 00:00:00", "mydumper"),
            (b"[config]\nquote_character = BACKTICK\n", "mydumper"),
            (b"[{\"id\": 1}]", "JSON"),
            (b"\xff\xfe-\0-\0", "UTF-16"),
            (b"\x1f\x8b\x08", "packed"),
            (b"\xfebin\0", "binary log"),
            (b"USE [master]\r\nGO\r\n", "SQL Server"),
        ] {
            let found = recognise(head).map(|(found, _)| found).unwrap_or_default();
            assert!(found.contains(name), "{name}: {found:?}");
        }
        for head in [
            &b"-- MySQL dump 10.13"[..],
            b"/*M!999999\\- enable the sandbox mode */",
            b"\xef\xbb\xbf-- phpMyAdmin SQL Dump",
            b"/*!40101 SET NAMES binary*/;\n/*!40014 SET FOREIGN_KEY_CHECKS=0*/;",
            b"",
        ] {
            assert_eq!(recognise(head), None);
        }
    }
}
