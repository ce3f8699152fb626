//! Drives the splitter over an input and keeps the tally: which tables, how many rows.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use relevo_mysqldump::{
    DumpError, DumpSplitter, DumpSummary, DumpWarning, Event, RowBatch, SkippedObject, TableDef,
    TranslateOptions, ddl,
};

use crate::error::ImportError;
use crate::input::{self, Counters};
use crate::options::Completion;
use crate::packing::Packing;
use crate::progress::{ImportProgress, ProgressEvent};
use crate::selection::{Renamer, Selection};

const NO_LAST_LINE: &str = "the dump's tool ends a dump with the line \"-- Dump completed\", which is \
    missing here: whether the rest of it is all there cannot be told";

/// What a scan hands on.
pub(crate) enum Found<'a> {
    /// A table's definition.
    Table(&'a Arc<TableDef>),
    /// A table without rows is dropped again by the dump itself.
    Dropped(&'a Arc<TableDef>),
    /// Whole rows.
    Rows(RowBatch<'a>),
}

/// What a dump held.
pub(crate) struct Tally {
    pub(crate) packing: Packing,
    pub(crate) input_bytes: u64,
    pub(crate) summary: DumpSummary,
    pub(crate) tables: Vec<TableTally>,
    pub(crate) skipped: Vec<SkippedObject>,
    pub(crate) warnings: Vec<DumpWarning>,
}

/// One table of a dump, as it stands at the dump's end.
pub(crate) struct TableTally {
    pub(crate) name: String,
    pub(crate) definition: Arc<TableDef>,
    pub(crate) rows: u64,
    pub(crate) rows_bytes: u64,
}

/// What a scan takes and what it insists on.
pub(crate) struct ScanOptions<'a> {
    pub(crate) completion: Completion,
    pub(crate) database: Option<&'a str>,
    pub(crate) selection: &'a Selection,
    /// Pass over all rows.
    pub(crate) schema_only: bool,
    /// Names and types chosen for tables and columns.
    pub(crate) translate: &'a TranslateOptions,
}

/// Reads a dump to its end.
pub(crate) fn scan(
    input: impl Read + Send,
    options: &ScanOptions<'_>,
    progress: &dyn ImportProgress,
    sink: &mut dyn FnMut(Found<'_>) -> Result<(), ImportError>,
) -> Result<Tally, ImportError> {
    let counters = Counters::default();
    let mut scan = Scan {
        options,
        sink,
        places: HashMap::new(),
        tables: Vec::new(),
        skipped: Vec::new(),
        warnings: Vec::new(),
        passed_over: Vec::new(),
        renamer: Renamer::default(),
    };
    let (packing, summary) = input::read(input, &counters, |mut buffers| {
        let mut splitter = DumpSplitter::new(relevo_mysqldump::SplitOptions::of(options.translate));
        while let Some(buffer) = buffers.next()? {
            splitter
                .feed(&buffer, &mut |event| scan.take(event).map_err(Into::into))
                .map_err(unwrap_sink)?;
            progress.report(ProgressEvent::Read {
                input_bytes: buffers.counters.input_bytes.load(Ordering::Relaxed),
                raw_bytes: buffers.counters.raw_bytes.load(Ordering::Relaxed),
            });
            buffers.recycle(buffer);
        }
        splitter.finish(&mut |event| scan.take(event).map_err(Into::into)).map_err(unwrap_sink)
    })?;
    if options.completion.is_missed_by(&summary) {
        return Err(ImportError::Incomplete);
    }
    let Scan { tables, skipped, mut warnings, passed_over, .. } = scan;
    if summary.completion_expected && !summary.complete {
        warnings.push(DumpWarning { offset: summary.bytes, message: NO_LAST_LINE.to_owned() });
    }
    if tables.is_empty() {
        let hint = if !passed_over.is_empty() {
            Some(format!(
                " of database {}; it holds {}",
                options.database.unwrap_or_default(),
                passed_over.join(", ")
            ))
        } else {
            (!options.selection.is_all()).then(|| " that fits what was asked for".to_owned())
        };
        return Err(ImportError::Empty { hint });
    }
    Ok(Tally {
        packing,
        input_bytes: counters.input_bytes.load(Ordering::Relaxed),
        summary,
        tables,
        skipped,
        warnings,
    })
}

/// An error of our own sink comes back wrapped.
pub(crate) fn unwrap_sink(error: DumpError) -> ImportError {
    match error {
        DumpError::Sink(source) => match source.downcast::<ImportError>() {
            Ok(own) => *own,
            Err(other) => ImportError::Sink(other),
        },
        other => ImportError::Dump(other),
    }
}

struct Scan<'a> {
    options: &'a ScanOptions<'a>,
    sink: &'a mut dyn FnMut(Found<'_>) -> Result<(), ImportError>,
    /// Index into `tables` by Postgres name.
    places: HashMap<String, usize>,
    tables: Vec<TableTally>,
    skipped: Vec<SkippedObject>,
    warnings: Vec<DumpWarning>,
    /// Databases whose tables were not wanted.
    passed_over: Vec<String>,
    renamer: Renamer,
}

impl Scan<'_> {
    fn take(&mut self, event: Event<'_>) -> Result<(), ImportError> {
        match event {
            Event::Table(table) if self.wanted(&table) => {
                let table = self.rename(table);
                self.table(table)
            }
            Event::Altered(table) if self.wanted(&table) => {
                let table = self.rename(table);
                if let Some(place) = self.places.get(&ddl::table_name(&table)) {
                    self.tables[*place].definition = table;
                }
                Ok(())
            }
            Event::Dropped(table) if self.wanted(&table) => {
                let table = self.rename(table);
                self.dropped(&table)
            }
            Event::Rows(_) if self.options.schema_only => Ok(()),
            Event::Rows(batch) if self.wanted(&batch.table) => {
                let table = self.rename(Arc::clone(&batch.table));
                self.rows(RowBatch { table, ..batch })
            }
            Event::Skipped(object) => {
                self.skipped.push(object);
                Ok(())
            }
            Event::Warning(warning) => {
                self.warnings.push(warning);
                Ok(())
            }
            Event::Table(_) | Event::Altered(_) | Event::Dropped(_) | Event::Rows(_) => Ok(()),
        }
    }

    fn rename(&mut self, table: Arc<TableDef>) -> Arc<TableDef> {
        self.renamer.rename(self.options.selection, table)
    }

    fn wanted(&mut self, table: &TableDef) -> bool {
        if !self.options.selection.takes(table) {
            return false;
        }
        let (Some(wanted), Some(database)) = (self.options.database, &table.database) else {
            return true;
        };
        if wanted == database {
            return true;
        }
        if !self.passed_over.contains(database) {
            self.passed_over.push(database.clone());
        }
        false
    }

    fn table(&mut self, table: Arc<TableDef>) -> Result<(), ImportError> {
        let name = ddl::table_name(&table);
        if let Some(place) = self.places.get(&name) {
            let other = &self.tables[*place].definition;
            if other.database == table.database {
                return Err(ImportError::TableTwice { table: name });
            }
            let databases = [other, &table]
                .iter()
                .map(|table| table.database.clone().unwrap_or_else(|| "unnamed".to_owned()))
                .collect();
            return Err(ImportError::SeveralDatabases { databases, table: name });
        }
        (self.sink)(Found::Table(&table))?;
        self.places.insert(name.clone(), self.tables.len());
        self.tables.push(TableTally { name, definition: table, rows: 0, rows_bytes: 0 });
        Ok(())
    }

    fn dropped(&mut self, table: &Arc<TableDef>) -> Result<(), ImportError> {
        let name = ddl::table_name(table);
        let Some(place) = self.places.remove(&name) else { return Ok(()) };
        if self.tables[place].rows > 0 {
            return Err(ImportError::TableTwice { table: name });
        }
        (self.sink)(Found::Dropped(table))?;
        self.tables.remove(place);
        for later in self.places.values_mut().filter(|later| **later > place) {
            *later -= 1;
        }
        Ok(())
    }

    fn rows(&mut self, batch: RowBatch<'_>) -> Result<(), ImportError> {
        // The latest table is nearly always the one.
        let latest = self.tables.len().wrapping_sub(1);
        let place = match self.tables.get(latest) {
            Some(tally) if Arc::ptr_eq(&tally.definition, &batch.table) => latest,
            _ => match self.places.get(&ddl::table_name(&batch.table)) {
                Some(place) => *place,
                None => return Ok(()),
            },
        };
        let tally = &mut self.tables[place];
        tally.rows += batch.rows;
        tally.rows_bytes += batch.bytes.len() as u64;
        (self.sink)(Found::Rows(batch))
    }
}
