//! `relevo dump inspect`: what a dump holds and what an import would make of it.

use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use relevo_import::{ImportOptions, InspectedTable, Inspection};
use relevo_mysqldump::{SkippedKind, SkippedObject};

use super::dumps::{blocking, open, refused};
use crate::args::dump::InspectArgs;
use crate::failure::{Exit, Failure};
use crate::import_view::ImportView;
use crate::output::{Output, clean, count, size, table};

/// Reads the whole dump, and fails when a row of it would stop an import.
pub async fn inspect(args: InspectArgs, out: Output) -> Result<(), Failure> {
    let input = open(&args.file)?;
    let options = ImportOptions {
        translate: args.translation.into_options(),
        unpack_limit: args.unpack_limit,
        ..ImportOptions::default()
    };
    let view = Arc::new(ImportView::new(out, input.size_bytes));
    let progress = Arc::clone(&view);
    let work = move || relevo_import::inspect(input.reader, &options, &*progress);
    let outcome = blocking(work).await;
    view.finish();
    let found = outcome?.map_err(|error| refused(error, "the dump can't be read to its end"))?;
    out.document(&found, || describe(&found, args.list_columns))?;
    if found.is_refused() {
        let error =
            anyhow!("an import of this dump would fail: it holds rows that can't be carried over");
        return Err(Failure::with(Exit::Failed, error));
    }
    Ok(())
}

fn describe(found: &Inspection, columns: bool) -> String {
    let rows: Vec<Vec<String>> = found
        .tables
        .iter()
        .map(|table| {
            vec![
                table.source_name.clone(),
                count(table.rows),
                size(table.rows_bytes),
                table.columns.len().to_string(),
            ]
        })
        .collect();
    let mut text = table(&["TABLE", "ROWS", "SIZE", "COLUMNS"], &rows, "no tables\n");
    if columns {
        text.push_str(&column_list(&found.tables));
    }
    let total: u64 = found.tables.iter().map(|table| table.rows).sum();
    text.push_str(&format!("\n{} table(s), {} rows\n", found.tables.len(), count(total)));
    text.push_str(&format!(
        "an import takes roughly {} and {} in the target\n",
        duration(Duration::from_millis(found.estimate.duration_ms)),
        size(found.estimate.target_bytes)
    ));
    text.push_str(if found.summary.complete {
        "the dump ends with its completion line\n"
    } else {
        "the dump has NO completion line: it may be cut off\n"
    });
    for object in &found.objects {
        text.push_str(&format!("made too: {}\n", clean(object)));
    }
    for object in &found.skipped {
        text.push_str(&format!("not carried over: {}\n", clean(&object_text(object))));
        if columns {
            let source = object.source.lines().map(|line| format!("    {}\n", clean(line)));
            text.extend(source);
        }
    }
    for table in &found.tables {
        for finding in findings(table) {
            text.push_str(&format!("{}: {}\n", clean(&table.source_name), clean(&finding)));
        }
    }
    for warning in &found.warnings {
        text.push_str(&format!("note: {}\n", clean(&warning.message)));
    }
    text
}

fn column_list(tables: &[InspectedTable]) -> String {
    let rows: Vec<Vec<String>> = tables
        .iter()
        .flat_map(|table| {
            table.columns.iter().zip(&table.definition.columns).map(|(column, mysql)| {
                vec![
                    clean(&format!("{}.{}", table.source_name, column.name)),
                    mysql.ty.mysql_name(),
                    column.pg_type.clone(),
                ]
            })
        })
        .collect();
    format!("\n{}", crate::output::table(&["COLUMN", "IN THE DUMP", "IN POSTGRES"], &rows, ""))
}

/// What encoding changes or refuses, and what the translation leaves out.
fn findings(table: &InspectedTable) -> Vec<String> {
    let mut findings: Vec<String> =
        table.refused.iter().map(|reason| format!("REFUSED: {reason}")).collect();
    // Statistics are numbers and names: nothing in them can fail to be written as JSON.
    let stats = serde_json::to_value(&table.stats).unwrap_or_default();
    findings.extend(crate::certificate::changes(&stats));
    findings.extend(table.notes.iter().cloned());
    findings
}

fn duration(estimate: Duration) -> String {
    match estimate.as_secs() {
        seconds @ 0..120 => format!("{} s", seconds.max(1)),
        seconds => format!("{} min", seconds / 60),
    }
}

fn object_text(object: &SkippedObject) -> String {
    let kind = match object.kind {
        SkippedKind::View => "view",
        SkippedKind::Trigger => "trigger",
        SkippedKind::Routine => "routine",
        SkippedKind::Event => "event",
        SkippedKind::Sequence => "sequence",
        SkippedKind::Statement => "statement",
    };
    format!("{kind} {}", object.name)
}
