//! Properties of each option and policy: what is encoded reads back as the value, or is counted, or
//! is refused, as the policy says.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use proptest::prelude::*;
use relevo_mysqldump::{
    BatchStats, BigintUnsigned, DumpSplitter, Event, InvalidTextPolicy, JsonType, LossPolicy,
    RowEncoder, SetType, SplitOptions, TranslateOptions,
};

/// The one value of a column, unescaped from COPY text; `None` is NULL. `Err`: it was refused.
fn value(
    ty: &str,
    literal: &[u8],
    options: &TranslateOptions,
) -> Result<(Option<Vec<u8>>, BatchStats), String> {
    let mut dump = b"SET NAMES utf8mb4;\nCREATE TABLE t (c ".to_vec();
    dump.extend_from_slice(ty.as_bytes());
    dump.extend_from_slice(b");\nINSERT INTO t VALUES (");
    dump.extend_from_slice(literal);
    dump.extend_from_slice(b");\n");
    let mut splitter = DumpSplitter::new(SplitOptions::of(options));
    let mut found = None;
    splitter
        .feed(&dump, &mut |event| {
            if let Event::Rows(batch) = event {
                let mut encoder = RowEncoder::new(&batch.table, &batch.insert, options)?;
                let mut out = Vec::new();
                let stats = encoder.encode(batch.bytes, &mut out)?;
                found = Some((unescape(out.strip_suffix(b"\n").unwrap()), stats));
            }
            Ok(())
        })
        .map_err(|error| error.to_string())?;
    Ok(found.unwrap())
}

fn unescape(copy: &[u8]) -> Option<Vec<u8>> {
    if copy == b"\\N" {
        return None;
    }
    let mut out = Vec::new();
    let mut bytes = copy.iter();
    while let Some(&byte) = bytes.next() {
        out.push(match byte {
            b'\\' => match bytes.next().unwrap() {
                b'n' => b'\n',
                b't' => b'\t',
                b'r' => b'\r',
                b'b' => 8,
                b'f' => 12,
                b'v' => 11,
                &other => other,
            },
            byte => byte,
        });
    }
    Some(out)
}

/// A string as the servers write it.
fn quoted(bytes: &[u8]) -> Vec<u8> {
    let mut out = b"'".to_vec();
    for &byte in bytes {
        match byte {
            0 => out.extend_from_slice(b"\\0"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\'' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            _ => out.push(byte),
        }
    }
    out.push(b'\'');
    out
}

fn policy() -> impl Strategy<Value = LossPolicy> {
    prop_oneof![Just(LossPolicy::Adapt), Just(LossPolicy::Fail)]
}

/// Labels as MySQL takes them: different from each other, whatever the case, and without commas.
fn labels() -> impl Strategy<Value = Vec<String>> {
    proptest::collection::vec("[a-z'\"\\\\{} ñ]{0,5}[a-z]", 1..8).prop_map(|mut labels| {
        labels.sort();
        labels.dedup();
        labels
    })
}

fn type_of(kind: &str, labels: &[String]) -> String {
    let list: Vec<_> =
        labels.iter().map(|label| String::from_utf8(quoted(label.as_bytes())).unwrap()).collect();
    format!("{kind}({})", list.join(","))
}

/// The elements of an array of texts as Postgres prints it.
fn elements(array: &str) -> Vec<String> {
    let inner = array.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
    let (mut found, mut element, mut quoted) = (Vec::new(), String::new(), false);
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => quoted = !quoted,
            '\\' => element.push(chars.next().unwrap()),
            ',' if !quoted => found.push(std::mem::take(&mut element)),
            c => element.push(c),
        }
    }
    if !inner.is_empty() {
        found.push(element);
    }
    found
}

proptest! {
    #[test]
    fn nul_characters(text in "[a\0ñ'\\\\\n]{0,12}", nul_chars in policy()) {
        let options = TranslateOptions { nul_chars, ..TranslateOptions::default() };
        let found = value("text", &quoted(text.as_bytes()), &options);
        let held = text.contains('\0');
        prop_assert_eq!(found.is_err(), held && nul_chars == LossPolicy::Fail);
        if let Ok((found, stats)) = found {
            prop_assert_eq!(found.unwrap(), text.replace('\0', "").into_bytes());
            prop_assert_eq!(stats.stripped_nuls, u64::from(held));
        }
    }

    #[test]
    fn bytes_that_are_no_text(bytes in proptest::collection::vec(1_u8.., 0..12)) {
        let text = std::str::from_utf8(&bytes).ok();
        for invalid_text in [
            InvalidTextPolicy::AsServer,
            InvalidTextPolicy::Fail,
            InvalidTextPolicy::Replace,
            InvalidTextPolicy::Windows1252,
        ] {
            let options = TranslateOptions { invalid_text, ..TranslateOptions::default() };
            let found = value("text", &quoted(&bytes), &options);
            if let Some(text) = text {
                let (found, stats) = found.unwrap();
                prop_assert_eq!(found.unwrap(), text.as_bytes());
                prop_assert_eq!(stats.replaced_text, 0);
                continue;
            }
            if invalid_text == InvalidTextPolicy::Fail {
                prop_assert!(found.is_err());
                continue;
            }
            let (found, stats) = found.unwrap();
            let found = String::from_utf8(found.unwrap()).unwrap();
            prop_assert_eq!(stats.replaced_text, 1);
            match invalid_text {
                // One question mark a byte: what is text stays.
                InvalidTextPolicy::AsServer => {
                    let valid: String =
                        bytes.utf8_chunks().map(|chunk| {
                            format!("{}{}", chunk.valid(), "?".repeat(chunk.invalid().len()))
                        }).collect();
                    prop_assert_eq!(found, valid);
                }
                InvalidTextPolicy::Replace => {
                    prop_assert_eq!(found, String::from_utf8_lossy(&bytes).into_owned());
                }
                _ => prop_assert_eq!(found.chars().count(), bytes.len()),
            }
        }
    }

    #[test]
    fn zero_dates(
        year in 0_u32..2100, month in 0_u32..14, day in 0_u32..33, invalid_dates in policy(),
        ty in prop_oneof![Just("date"), Just("datetime"), Just("timestamp NULL"), Just("date NOT NULL")],
    ) {
        let options = TranslateOptions { invalid_dates, ..TranslateOptions::default() };
        let date = format!("{year:04}-{month:02}-{day:02}");
        let clock = if ty.starts_with("date ") || ty == "date" { "" } else { " 01:02:03" };
        let found = value(ty, format!("'{date}{clock}'").as_bytes(), &options);
        let leap = year % 4 == 0 && year % 100 != 0 || year % 400 == 0;
        let days = [31, if leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let real = year > 0 && (1..13).contains(&month) && (1..=days[month as usize - 1]).contains(&day);
        prop_assert_eq!(found.is_err(), !real && invalid_dates == LossPolicy::Fail);
        if let Ok((found, stats)) = found {
            prop_assert_eq!(stats.nulled_dates.get("c").copied(), (!real).then_some(1));
            let zone = if ty.starts_with("timestamp") { "+00" } else { "" };
            let wanted = real.then(|| format!("{date}{clock}{zone}").into_bytes());
            prop_assert_eq!(found, wanted);
        }
    }

    #[test]
    fn small_numbers_as_booleans(number in -128_i32..128, tinyint1_as_boolean: bool) {
        let options = TranslateOptions { tinyint1_as_boolean, ..TranslateOptions::default() };
        let found = value("tinyint(1)", number.to_string().as_bytes(), &options);
        let wanted = match (tinyint1_as_boolean, number) {
            (false, number) => Some(number.to_string()),
            (true, 0) => Some("f".to_owned()),
            (true, 1) => Some("t".to_owned()),
            (true, _) => None,
        };
        prop_assert_eq!(found.ok().map(|(found, _)| found.unwrap()), wanted.map(String::into_bytes));
    }

    #[test]
    fn numbers_out_of_range(number: i64, out_of_range in policy()) {
        let options = TranslateOptions { out_of_range, ..TranslateOptions::default() };
        let types = [
            ("tinyint", -128_i64, 127_i64), ("smallint unsigned", 0, 65_535),
            ("mediumint", -8_388_608, 8_388_607), ("int unsigned", 0, 4_294_967_295),
            ("bigint", i64::MIN, i64::MAX),
        ];
        for (ty, min, max) in types {
            for number in [number, number >> 32, number >> 48, number >> 56] {
                let found = value(ty, number.to_string().as_bytes(), &options);
                let fits = (min..=max).contains(&number);
                prop_assert_eq!(found.is_err(), !fits && out_of_range == LossPolicy::Fail);
                if let Ok((found, stats)) = found {
                    let wanted = number.clamp(min, max).to_string();
                    prop_assert_eq!(found.unwrap(), wanted.into_bytes());
                    prop_assert_eq!(stats.adapted_values, u64::from(!fits));
                }
            }
        }
    }

    #[test]
    fn large_unsigned_numbers(number: u64, narrow: bool) {
        let bigint_unsigned = if narrow { BigintUnsigned::Bigint } else { BigintUnsigned::Numeric };
        let options = TranslateOptions { bigint_unsigned, ..TranslateOptions::default() };
        for number in [number, number >> 1] {
            let found = value("bigint unsigned", number.to_string().as_bytes(), &options);
            let fits = !narrow || i64::try_from(number).is_ok();
            let wanted = fits.then(|| number.to_string().into_bytes());
            prop_assert_eq!(found.ok().map(|(found, _)| found.unwrap()), wanted);
        }
    }

    #[test]
    fn labels_of_enums(labels in labels(), at in any::<prop::sample::Index>(), out_of_range in policy()) {
        let options = TranslateOptions { out_of_range, ..TranslateOptions::default() };
        let ty = type_of("enum", &labels);
        let label = at.get(&labels);
        let (found, stats) = value(&ty, &quoted(label.as_bytes()), &options).unwrap();
        prop_assert_eq!(String::from_utf8(found.unwrap()).unwrap(), label.as_str());
        prop_assert_eq!(stats.adapted_values, 0);
        // By number, from 1; and the server's mark for what was none of them.
        let number = (labels.iter().position(|known| known == label).unwrap() + 1).to_string();
        let (found, _) = value(&ty, number.as_bytes(), &options).unwrap();
        prop_assert_eq!(String::from_utf8(found.unwrap()).unwrap(), label.as_str());
        prop_assert_eq!(value(&ty, b"''", &options).unwrap().0, Some(Vec::new()));
        let unknown = value(&ty, b"'0 is none'", &options);
        prop_assert_eq!(unknown.is_err(), out_of_range == LossPolicy::Fail);
        if let Ok((found, stats)) = unknown {
            prop_assert_eq!((found, stats.adapted_values), (Some(Vec::new()), 1));
        }
    }

    #[test]
    fn members_of_sets(labels in labels(), chosen: u8) {
        let members: Vec<_> = labels
            .iter()
            .enumerate()
            .filter(|(at, _)| chosen >> at & 1 == 1)
            .map(|(_, label)| label.clone())
            .collect();
        let ty = type_of("set", &labels);
        let literal = quoted(members.join(",").as_bytes());
        let options = TranslateOptions::default();
        let (found, _) = value(&ty, &literal, &options).unwrap();
        prop_assert_eq!(&elements(&String::from_utf8(found.unwrap()).unwrap()), &members);
        let options = TranslateOptions { set: SetType::Text, ..options };
        let (found, _) = value(&ty, &literal, &options).unwrap();
        prop_assert_eq!(String::from_utf8(found.unwrap()).unwrap(), members.join(","));
    }

    #[test]
    fn documents(text in "[a-z0-9ñ'{}\\[\\]:, ]{0,20}", at in prop_oneof![
        Just(JsonType::Jsonb), Just(JsonType::Json), Just(JsonType::Text)
    ], nul_chars in policy()) {
        let options = TranslateOptions { json: at, nul_chars, ..TranslateOptions::default() };
        let document = format!("\"{text}\"");
        let (found, _) = value("json", &quoted(document.as_bytes()), &options).unwrap();
        prop_assert_eq!(found.unwrap(), document.into_bytes());
        // The escape of U+0000 stays in text, and goes by the policy elsewhere.
        let document = format!("\"{text}\\u0000\"");
        let found = value("json", &quoted(document.as_bytes()), &options);
        let kept = at == JsonType::Text;
        prop_assert_eq!(found.is_err(), !kept && nul_chars == LossPolicy::Fail);
        if let Ok((found, stats)) = found {
            let wanted = if kept { document } else { format!("\"{text}\"") };
            prop_assert_eq!(found.unwrap(), wanted.into_bytes());
            prop_assert_eq!(stats.stripped_nuls, u64::from(!kept));
        }
    }

    #[test]
    fn moments_of_a_dump_without_a_zone(hours in -12_i32..15, half: bool) {
        let minutes = if half { 30 } else { 0 };
        let zone = format!("{hours:+03}:{minutes:02}");
        let options = TranslateOptions { source_time_zone: zone, ..TranslateOptions::default() };
        let found = value("timestamp NULL", b"'2024-02-29 23:59:59'", &options);
        if hours == 14 && half {
            return Ok(());
        }
        let offset = if half { format!("{hours:+03}:30") } else { format!("{hours:+03}") };
        let wanted = format!("2024-02-29 23:59:59{offset}");
        prop_assert_eq!(String::from_utf8(found.unwrap().0.unwrap()).unwrap(), wanted);
    }
}
