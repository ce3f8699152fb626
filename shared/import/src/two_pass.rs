//! The first of two passes over a dump: types that depend on the data. A `bigint unsigned` whose
//! values all fit becomes `bigint`, a `tinyint(1)` that holds nothing but 0 and 1 becomes `boolean`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::sync::Arc;

use relevo_mysqldump::{
    ColumnChoice, ColumnType, InsertHeader, IntSize, RowBatch, RowEncoder, TableDef,
    TranslateOptions, TypeChoice, ddl,
};

use crate::error::ImportError;
use crate::options::ImportOptions;
use crate::progress::ImportProgress;
use crate::scan::{Found, ScanOptions, scan};

/// A column, by its table's name in Postgres and its own in the dump.
type Place = (String, String);

/// Reads a dump to its end and returns the types that its values allow, by `table.column`, for
/// [`TranslateOptions::columns`]. Columns that somebody chose a type for are left alone; so are
/// keys between columns of which one does not fit.
///
/// # Errors
/// Damaged or cut off dumps, rows that cannot be carried over.
pub fn choose_types(
    input: impl Read + Send,
    options: &ImportOptions,
    progress: &dyn ImportProgress,
) -> Result<BTreeMap<String, ColumnChoice>, ImportError> {
    let scan_options = ScanOptions {
        completion: options.completion,
        database: options.database.as_deref(),
        selection: &options.selection,
        schema_only: options.schema_only,
        unpack_limit: options.unpack_limit,
        translate: &options.translate,
    };
    let mut pass = Pass { translate: &options.translate, open: None, unfit: BTreeSet::new() };
    let tally = scan(input, &scan_options, progress, &mut |found| match found {
        Found::Rows(batch) => pass.take(&batch),
        Found::Table(_) => Ok(()),
    })?;
    let mut unfit = pass.unfit;
    let tables: Vec<&TableDef> = tally.tables.iter().map(|table| &*table.definition).collect();
    spread(&tables, &mut unfit);
    let mut chosen = BTreeMap::new();
    for table in tables {
        let name = ddl::table_name(table);
        for column in &table.columns {
            let key = format!("{}.{}", table.qualified_name(), column.name);
            let known = [&key, &format!("{}.{}", table.name, column.name)]
                .into_iter()
                .any(|key| options.translate.columns.contains_key(key));
            let Some(pg_type) = candidate(&column.ty).filter(|_| !known) else { continue };
            if !unfit.contains(&(name.clone(), column.name.clone())) && !column.auto_increment {
                chosen.insert(key, ColumnChoice { name: None, pg_type: Some(pg_type) });
            }
        }
    }
    Ok(chosen)
}

/// What a type becomes when its values allow it.
fn candidate(ty: &ColumnType) -> Option<TypeChoice> {
    match ty {
        ColumnType::Int { size: IntSize::Big, unsigned: true, .. } => Some(TypeChoice::Bigint),
        ColumnType::Int { size: IntSize::Tiny, width: Some(1), .. } => Some(TypeChoice::Boolean),
        _ => None,
    }
}

/// Both sides of a foreign key are of one type.
fn spread(tables: &[&TableDef], unfit: &mut BTreeSet<Place>) {
    let mut pairs: Vec<(Place, Place)> = Vec::new();
    for table in tables {
        for key in &table.foreign_keys {
            let other = tables.iter().find(|other| other.name == key.references_table);
            let Some(other) = other else { continue };
            for (from, to) in key.columns.iter().zip(&key.references_columns) {
                let from = (ddl::table_name(table), from.clone());
                pairs.push((from, (ddl::table_name(other), to.clone())));
            }
        }
    }
    loop {
        let before = unfit.len();
        for (from, to) in &pairs {
            if unfit.contains(from) || unfit.contains(to) {
                unfit.insert(from.clone());
                unfit.insert(to.clone());
            }
        }
        if unfit.len() == before {
            return;
        }
    }
}

/// An encoder and the columns of its text that are looked at.
struct Open {
    table: Arc<TableDef>,
    insert: Arc<InsertHeader>,
    encoder: RowEncoder,
    /// Place in the text, column, type it may become.
    watched: Vec<(usize, Place, TypeChoice)>,
}

struct Pass<'a> {
    translate: &'a TranslateOptions,
    open: Option<Open>,
    unfit: BTreeSet<Place>,
}

impl Pass<'_> {
    fn take(&mut self, batch: &RowBatch<'_>) -> Result<(), ImportError> {
        let fits = self.open.as_ref().is_some_and(|open| {
            Arc::ptr_eq(&open.table, &batch.table) && Arc::ptr_eq(&open.insert, &batch.insert)
        });
        if !fits {
            self.open = Some(self.begin(batch)?);
        }
        let Some(open) = self.open.as_mut().filter(|open| !open.watched.is_empty()) else {
            return Ok(());
        };
        let mut text = Vec::new();
        open.encoder.encode(batch.bytes, &mut text).map_err(|source| ImportError::RowAt {
            offset: batch.offset + source.offset as u64,
            line: batch.line + source.line,
            source,
        })?;
        for line in text.split(|byte| *byte == b'\n') {
            // Watched columns hold digits only, so no TAB in them is escaped.
            let mut values = line.split(|byte| *byte == b'\t');
            let mut passed = 0;
            for (at, place, pg_type) in &open.watched {
                let value = values.nth(at - passed);
                passed = at + 1;
                if value.is_some_and(|value| !fits_type(value, *pg_type)) {
                    self.unfit.insert(place.clone());
                }
            }
        }
        Ok(())
    }

    fn begin(&self, batch: &RowBatch<'_>) -> Result<Open, ImportError> {
        let encoder = RowEncoder::new(&batch.table, &batch.insert, self.translate)?;
        let made = ddl::create_table(&batch.table, "", self.translate);
        let name = ddl::table_name(&batch.table);
        let order: Vec<usize> = match &batch.insert.columns {
            Some(columns) => columns.clone(),
            None => (0..batch.table.columns.len()).collect(),
        };
        let sent = order.into_iter().filter(|column| !made.columns[*column].generated);
        let watched = sent
            .enumerate()
            .filter_map(|(at, column)| {
                let column = &batch.table.columns[column];
                let place = (name.clone(), column.name.clone());
                candidate(&column.ty).map(|pg_type| (at, place, pg_type))
            })
            .collect();
        Ok(Open {
            table: Arc::clone(&batch.table),
            insert: Arc::clone(&batch.insert),
            encoder,
            watched,
        })
    }
}

fn fits_type(value: &[u8], pg_type: TypeChoice) -> bool {
    if value.is_empty() || value == b"\\N" {
        return true;
    }
    match pg_type {
        TypeChoice::Boolean => matches!(value, b"0" | b"1" | b"t" | b"f"),
        _ => std::str::from_utf8(value).is_ok_and(|text| text.parse::<i64>().is_ok()),
    }
}
