//! Drives the splitter over an input and keeps the tally: which tables, how many rows.

use std::collections::{BTreeMap, HashMap};
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
use crate::recount::{self, Recount};
use crate::selection::{Renamer, Selection};

const NO_LAST_LINE: &str = "the dump's tool ends a dump with the line \"-- Dump completed\", which is \
    missing here: whether the rest of it is all there cannot be told";

/// What a scan hands on.
pub(crate) enum Found<'a> {
    /// A table's definition: before its first rows or, of a table without rows, at the dump's end.
    /// What a dump makes and drops again is never handed on, so that who reads it a second time,
    /// with the tables of the first time in the target, finds the same ones.
    Table(&'a Arc<TableDef>),
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
    /// As counted a second time in another way.
    pub(crate) rows_recounted: Option<u64>,
    /// What the second count names it by.
    key: String,
    /// Whether it was handed on.
    handed_on: bool,
}

/// What a scan takes and what it insists on.
pub(crate) struct ScanOptions<'a> {
    pub(crate) completion: Completion,
    pub(crate) database: Option<&'a str>,
    pub(crate) selection: &'a Selection,
    /// Pass over all rows.
    pub(crate) schema_only: bool,
    /// How many times its size a packed dump may grow to.
    pub(crate) unpack_limit: u32,
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
        read: HashMap::new(),
        reading: None,
    };
    let mut recount = Recount::new();
    let (packing, summary) = input::read(input, options.unpack_limit, &counters, |mut buffers| {
        let mut splitter = DumpSplitter::new(relevo_mysqldump::SplitOptions::of(options.translate));
        while let Some(buffer) = buffers.next()? {
            recount.feed(&buffer);
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
    scan.note_rows();
    scan.hand_on_the_rest()?;
    let Scan { mut tables, skipped, mut warnings, passed_over, read, .. } = scan;
    let recounted = recount.finish();
    compare(&read, &recounted)?;
    for table in &mut tables {
        table.rows_recounted = recounted.get(&table.key).copied();
    }
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

fn key_of(table: &TableDef) -> String {
    recount::key(table.database.as_deref(), &table.name)
}

/// Both ways of counting must agree where the second is sure of itself.
fn compare(
    read: &HashMap<String, u64>,
    recounted: &BTreeMap<String, u64>,
) -> Result<(), ImportError> {
    let differing = recounted.iter().find(|(key, rows)| read.get(*key) != Some(*rows));
    match differing {
        Some((key, recounted)) => Err(ImportError::Recount {
            table: key.trim_start_matches('.').to_owned(),
            rows: read.get(key).copied().unwrap_or_default(),
            recounted: *recounted,
        }),
        None => Ok(()),
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
    /// Rows by table as the dump names it, wanted or not.
    read: HashMap<String, u64>,
    /// The table that rows came for last.
    reading: Option<(Arc<TableDef>, u64)>,
}

impl Scan<'_> {
    fn take(&mut self, event: Event<'_>) -> Result<(), ImportError> {
        match event {
            Event::Table(table) if self.wanted(&table) => {
                let key = key_of(&table);
                let table = self.rename(table);
                self.table(table, key)
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
                self.dropped(&ddl::table_name(&table))
            }
            Event::Rows(batch) => {
                self.note(&batch);
                if self.options.schema_only || !self.wanted(&batch.table) {
                    return Ok(());
                }
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
            Event::Table(_) | Event::Altered(_) | Event::Dropped(_) => Ok(()),
        }
    }

    /// Counts what the reader found, wanted or not.
    fn note(&mut self, batch: &RowBatch<'_>) {
        match &mut self.reading {
            Some((table, rows)) if Arc::ptr_eq(table, &batch.table) => *rows += batch.rows,
            _ => {
                self.note_rows();
                self.reading = Some((Arc::clone(&batch.table), batch.rows));
            }
        }
    }

    fn note_rows(&mut self) {
        if let Some((table, rows)) = self.reading.take() {
            *self.read.entry(key_of(&table)).or_default() += rows;
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

    fn table(&mut self, table: Arc<TableDef>, key: String) -> Result<(), ImportError> {
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
        self.places.insert(name.clone(), self.tables.len());
        self.tables.push(TableTally {
            name,
            definition: table,
            rows: 0,
            rows_bytes: 0,
            rows_recounted: None,
            key,
            handed_on: false,
        });
        Ok(())
    }

    /// Tables without rows.
    fn hand_on_the_rest(&mut self) -> Result<(), ImportError> {
        for tally in self.tables.iter_mut().filter(|tally| !tally.handed_on) {
            tally.handed_on = true;
            (self.sink)(Found::Table(&tally.definition))?;
        }
        Ok(())
    }

    fn dropped(&mut self, name: &str) -> Result<(), ImportError> {
        let Some(place) = self.places.remove(name) else { return Ok(()) };
        if self.tables[place].handed_on {
            return Err(ImportError::TableTwice { table: name.to_owned() });
        }
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
        if !tally.handed_on {
            tally.handed_on = true;
            (self.sink)(Found::Table(&tally.definition))?;
        }
        tally.rows += batch.rows;
        tally.rows_bytes += batch.bytes.len() as u64;
        (self.sink)(Found::Rows(batch))
    }
}
