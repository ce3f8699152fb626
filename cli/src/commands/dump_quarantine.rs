//! `relevo dump quarantine`: rows that imports set aside.

use std::collections::BTreeMap;

use relevo_import::ImportError;
use relevo_import::quarantine::{self, QuarantineFilter, QuarantinedRow};
use relevo_pg::{PoolOptions, connect};
use secrecy::SecretString;
use serde_json::{Value, json};
use sqlx::PgPool;

use super::dumps::refused;
use crate::args::quarantine::{QuarantineCommand, RowsArgs, TargetArgs};
use crate::failure::{Exit, Failure};
use crate::output::{Output, moment, moment_or_none, record, table};

/// Rows that are worked off at a time.
const PAGE_ROWS: i64 = 1_000;

/// Runs it.
pub async fn run(command: QuarantineCommand, out: Output) -> Result<(), Failure> {
    match command {
        QuarantineCommand::List { target, import, table, all, after, limit } => {
            let filter = QuarantineFilter { import, table, ended: all, after, limit };
            let rows = quarantine::list(&pool(&target).await?, &filter).await.map_err(failed)?;
            out.document(&rows, || list(&rows))
        }
        QuarantineCommand::Show { row, target } => {
            let row = quarantine::get(&pool(&target).await?, row).await.map_err(failed)?;
            out.document(&row, || describe(&row))
        }
        QuarantineCommand::Edit { row, target, values, nulls, retry } => {
            let pool = pool(&target).await?;
            let values = values.into_iter().map(|(column, value)| (column, Some(value)));
            let nulls = nulls.into_iter().map(|column| (column, None));
            let values: BTreeMap<String, Option<String>> = values.chain(nulls).collect();
            let edited = quarantine::edit(&pool, row, &values).await.map_err(failed)?;
            if retry {
                quarantine::retry(&pool, row).await.map_err(failed)?;
                return out
                    .document(&json!({"loaded": [row]}), || format!("row {row} is loaded\n"));
            }
            out.document(&edited, || describe(&edited))
        }
        QuarantineCommand::Retry { rows } => retry(rows, out).await,
        QuarantineCommand::Discard { rows } => discard(rows, out).await,
    }
}

async fn pool(target: &TargetArgs) -> Result<PgPool, Failure> {
    let options = PoolOptions::named("relevo dump quarantine").max_connections(2);
    let pool = connect(&SecretString::from(target.to.clone()), options).await;
    pool.map_err(|error| failed(error.into()))
}

fn failed(error: ImportError) -> Failure {
    let missing = matches!(error, ImportError::NotQuarantined { .. });
    let usage = matches!(error, ImportError::NoColumn { .. });
    match (missing, usage) {
        (true, _) => Failure::with(Exit::NotFound, error.into()),
        (_, true) => Failure::with(Exit::Usage, error.into()),
        _ => refused(error, "the quarantine can't be worked on"),
    }
}

/// The numbers asked for; of all that wait, page by page.
async fn wanted(pool: &PgPool, rows: &RowsArgs) -> Result<Vec<i64>, Failure> {
    if !rows.all {
        return Ok(rows.rows.clone());
    }
    let mut numbers = Vec::new();
    loop {
        let after = numbers.last().copied().unwrap_or_default();
        let filter = QuarantineFilter { after, limit: PAGE_ROWS, ..QuarantineFilter::default() };
        let page = quarantine::list(pool, &filter).await.map_err(failed)?;
        if page.is_empty() {
            return Ok(numbers);
        }
        numbers.extend(page.iter().map(|row| row.id));
    }
}

/// Each row by itself: one that is refused again does not keep the others back.
async fn retry(rows: RowsArgs, out: Output) -> Result<(), Failure> {
    let pool = pool(&rows.target).await?;
    let numbers = wanted(&pool, &rows).await?;
    let (mut loaded, mut left) = (Vec::new(), Vec::new());
    for row in numbers {
        match quarantine::retry(&pool, row).await {
            Ok(()) => loaded.push(row),
            Err(error @ ImportError::NotQuarantined { .. }) => return Err(failed(error)),
            Err(error) => left.push((row, error.chain())),
        }
    }
    let document = json!({
        "loaded": loaded,
        "refused": left.iter().map(|(row, why)| json!({"row": row, "reason": why})).collect::<Vec<_>>(),
    });
    out.document(&document, || {
        let refused = left.iter().map(|(row, reason)| format!("row {row}: {reason}\n"));
        format!("{} row(s) loaded\n{}", loaded.len(), refused.collect::<String>())
    })?;
    if left.is_empty() {
        return Ok(());
    }
    let message = format!("{} row(s) were refused again", left.len());
    Err(Failure::new(Exit::Failed, message).advise("relevo dump quarantine edit ROW --set …"))
}

async fn discard(rows: RowsArgs, out: Output) -> Result<(), Failure> {
    let pool = pool(&rows.target).await?;
    let numbers = wanted(&pool, &rows).await?;
    for row in &numbers {
        quarantine::discard(&pool, *row).await.map_err(failed)?;
    }
    let text = || format!("{} row(s) discarded\n", numbers.len());
    out.document(&json!({"discarded": numbers}), text)
}

fn list(rows: &[QuarantinedRow]) -> String {
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![
                row.id.to_string(),
                format!("{}.{}", row.schema, row.table_name),
                values(&row.row_key),
                row.state.clone(),
                row.reason.clone(),
            ]
        })
        .collect();
    table(&["ROW", "TABLE", "KEY", "STATE", "REASON"], &lines, "no rows in quarantine\n")
}

/// `column=value` pairs.
fn values(row: &Value) -> String {
    let Some(fields) = row.as_object() else { return String::new() };
    let shown = fields.iter().map(|(column, value)| match value.as_str() {
        Some(text) => format!("{column}={text}"),
        None => format!("{column}=NULL"),
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn describe(row: &QuarantinedRow) -> String {
    let place = match row.dump_line {
        Some(line) => format!("byte {}, line {line}", row.dump_offset),
        None => format!("in the chunk from byte {} on", row.dump_offset),
    };
    let mut text = record(&[
        ("row", row.id.to_string()),
        ("table", format!("{}.{}", row.schema, row.table_name)),
        ("key", values(&row.row_key)),
        ("state", row.state.clone()),
        ("reason", row.reason.clone()),
        ("in the dump", place),
        ("import", row.import_id.clone()),
        ("set aside", moment(row.created_at)),
        ("edited", moment_or_none(row.edited_at)),
        ("ended", moment_or_none(row.ended_at)),
    ]);
    text.push('\n');
    let empty = serde_json::Map::new();
    let fields: Vec<(&str, String)> = row
        .data
        .as_object()
        .unwrap_or(&empty)
        .iter()
        .map(|(column, value)| (column.as_str(), value.as_str().unwrap_or("NULL").to_owned()))
        .collect();
    text.push_str(&record(&fields));
    text
}
