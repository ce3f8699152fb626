//! Reads every dump of a folder (`RELEVO_CORPUS`) whole and compares tables, rows, keys and zero
//! dates with its `manifest.json`. Without the variable there is nothing to do.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use flate2::read::MultiGzDecoder;
use relevo_mysqldump::{
    BatchStats, DumpSplitter, Event, RowEncoder, SkippedKind, SplitOptions, TableDef,
    TranslateOptions, ddl,
};
use serde_json::Value;

/// What was found in one dump.
#[derive(Default)]
struct Found {
    tables: BTreeMap<(Option<String>, String), Arc<TableDef>>,
    stats: BTreeMap<(Option<String>, String), BatchStats>,
    triggers: u64,
    views: u64,
}

#[test]
fn every_dump_of_the_corpus_is_read_whole() {
    let Ok(folder) = std::env::var("RELEVO_CORPUS") else { return };
    let folder = Path::new(&folder);
    let manifest = std::fs::read(folder.join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    for entry in manifest["files"].as_array().unwrap() {
        let file = entry["file"].as_str().unwrap();
        let found = read(&folder.join(file)).unwrap_or_else(|error| panic!("{file}: {error}"));
        check(file, entry, &found);
    }
}

fn read(path: &Path) -> Result<Found, Box<dyn std::error::Error>> {
    let mut found = Found::default();
    let options = TranslateOptions::default();
    let mut splitter = DumpSplitter::new(SplitOptions::default());
    let mut sink = |event: Event<'_>| {
        match event {
            Event::Table(table) | Event::Altered(table) => {
                found.tables.insert((table.database.clone(), table.name.clone()), table);
            }
            Event::Dropped(table) => {
                found.tables.remove(&(table.database.clone(), table.name.clone()));
            }
            Event::Rows(batch) => {
                let mut encoder = RowEncoder::new(&batch.table, &batch.insert, &options)?;
                let stats = encoder.encode(batch.bytes, &mut Vec::new())?;
                assert_eq!(stats.rows, batch.rows);
                let key = (batch.table.database.clone(), batch.table.name.clone());
                *found.stats.entry(key).or_default() += &stats;
            }
            Event::Skipped(object) => match object.kind {
                SkippedKind::Trigger => found.triggers += 1,
                SkippedKind::View => found.views += 1,
                other => panic!("{other:?}: {}", object.source),
            },
            Event::Warning(_) => {}
        }
        Ok(())
    };
    let mut input = MultiGzDecoder::new(std::fs::File::open(path)?);
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = input.read(&mut buffer)?;
        if length == 0 {
            break;
        }
        splitter.feed(&buffer[..length], &mut sink)?;
    }
    splitter.finish(&mut sink)?;
    Ok(found)
}

fn check(file: &str, entry: &Value, found: &Found) {
    let counts = &entry["counts"];
    let count = |name: &str| counts[name].as_u64().unwrap();
    assert_eq!(found.tables.len() as u64, count("tables"), "{file}: tables");
    let rows: u64 = found.stats.values().map(|s| s.rows).sum();
    assert_eq!(rows, count("rows"), "{file}: rows");
    let zero_dates: u64 = found.stats.values().flat_map(|s| s.nulled_dates.values()).sum();
    assert_eq!(zero_dates, count("zero_dates"), "{file}: zero dates");
    assert_eq!(found.triggers, count("triggers"), "{file}: triggers");
    assert_eq!(found.views, count("views"), "{file}: views");
    for (name, tables) in entry["databases"].as_object().unwrap() {
        for (table, wanted) in tables["tables"].as_object().unwrap() {
            let key = [Some(name.clone()), None]
                .into_iter()
                .map(|database| (database, table.clone()))
                .find(|key| found.tables.contains_key(key))
                .unwrap_or_else(|| panic!("{file}: no table {table}"));
            let rows = found.stats.get(&key).map_or(0, |s| s.rows);
            assert_eq!(rows, wanted["rows"].as_u64().unwrap(), "{file}: rows of {table}");
            let columns = found.tables[&key].columns.len() as u64;
            assert_eq!(columns, wanted["ncolumns"].as_u64().unwrap(), "{file}: columns of {table}");
        }
    }
    let tables: Vec<TableDef> = found.tables.values().map(|t| TableDef::clone(t)).collect();
    let plan = ddl::post_load(&tables, "public", &TranslateOptions::default());
    let phase = |phase| plan.statements.iter().filter(|s| s.phase == phase).count() as u64;
    assert_eq!(phase(ddl::Phase::PrimaryKey), count("primary_keys"), "{file}: primary keys");
    assert_eq!(phase(ddl::Phase::ForeignKey), count("foreign_keys"), "{file}: foreign keys");
    let indexes = phase(ddl::Phase::PrimaryKey) + phase(ddl::Phase::Index);
    assert_eq!(indexes, count("indexes"), "{file}: indexes");
}
