//! Writes a dump as a script for psql: schema, tables, COPY blocks, and all that follows the load.

use std::collections::BTreeMap;
use std::sync::Arc;

use thiserror::Error;

use crate::ddl::{self, Note};
use crate::encoder::{BatchStats, RowEncoder};
use crate::error::{EncoderError, RowError};
use crate::event::{Event, InsertHeader, RowBatch, SkippedKind, SkippedObject};
use crate::options::TranslateOptions;
use crate::schema::TableDef;

/// Ends the data of a COPY in a script.
const COPY_END: &[u8] = b"\\.\n";

/// Why a script cannot be written on.
#[derive(Debug, Error)]
pub enum SqlError {
    /// No encoder can be built for a table.
    #[error(transparent)]
    Encoder(#[from] EncoderError),
    /// A row cannot be carried over.
    #[error("the batch at byte {offset} of the dump")]
    Row {
        /// Byte offset of the batch in the dump.
        offset: u64,
        /// Which row and why.
        #[source]
        source: RowError,
    },
}

/// Turns events into a script, piece by piece; the caller writes out what is appended.
#[derive(Debug)]
pub struct SqlTranslator {
    schema: Option<String>,
    options: TranslateOptions,
    tables: BTreeMap<String, Vec<Arc<TableDef>>>,
    /// Views and sequences by schema, to be written after the tables.
    objects: BTreeMap<String, Vec<SkippedObject>>,
    open: Option<(Arc<InsertHeader>, Arc<TableDef>, RowEncoder)>,
    stats: BatchStats,
    notes: Vec<Note>,
    begun: bool,
}

impl SqlTranslator {
    /// A translator into one schema; with `None`, each database of the dump becomes a schema of
    /// its name, and tables of no named database go to `public`.
    pub fn new(schema: Option<String>, options: TranslateOptions) -> Self {
        Self {
            schema,
            options,
            tables: BTreeMap::new(),
            objects: BTreeMap::new(),
            open: None,
            stats: BatchStats::default(),
            notes: Vec::new(),
            begun: false,
        }
    }

    /// Appends what an event of the splitter means. Skipped objects and warnings become comments.
    pub fn event(&mut self, event: &Event<'_>, out: &mut Vec<u8>) -> Result<(), SqlError> {
        match event {
            Event::Rows(batch) => return self.rows(batch, out),
            Event::Table(table) => {
                self.close(out);
                self.begin(out);
                let schema = self.schema_of(table.database.as_deref());
                if !self.tables.contains_key(&schema) {
                    let name = ddl::quote(&schema);
                    append(out, &format!("CREATE SCHEMA IF NOT EXISTS {name};\n"));
                }
                let translated = ddl::create_table(table, &schema, &self.options);
                append(out, &format!("\n{};\n", translated.sql));
                self.notes.extend(translated.notes);
                self.tables.entry(schema).or_default().push(Arc::clone(table));
            }
            Event::Altered(table) => {
                let schema = self.schema_of(table.database.as_deref());
                let known = self.tables.entry(schema).or_default();
                if let Some(entry) = known.iter_mut().find(|known| known.name == table.name) {
                    *entry = Arc::clone(table);
                }
            }
            Event::Dropped(table) => {
                self.close(out);
                let schema = self.schema_of(table.database.as_deref());
                let known = self.tables.entry(schema.clone()).or_default();
                known.retain(|known| known.name != table.name);
                let name = ddl::quote(&ddl::table_name(table));
                append(out, &format!("\nDROP TABLE {}.{name};\n", ddl::quote(&schema)));
            }
            Event::Skipped(object) => {
                self.close(out);
                match object.kind {
                    SkippedKind::View | SkippedKind::Sequence => {
                        let schema = self.schema_of(object.database.as_deref());
                        self.objects.entry(schema).or_default().push(object.clone());
                    }
                    _ => skipped(object, out),
                }
            }
            Event::Warning(warning) => {
                self.close(out);
                comment(out, &format!("byte {}: {}", warning.offset, warning.message));
            }
        }
        Ok(())
    }

    /// Appends keys, indexes and the rest; returns what happened to the rows and what differs.
    pub fn finish(mut self, out: &mut Vec<u8>) -> (BatchStats, Vec<Note>) {
        self.close(out);
        for (schema, tables) in &self.tables {
            let tables: Vec<TableDef> = tables.iter().map(|t| TableDef::clone(t)).collect();
            let plan = ddl::post_load(&tables, schema, &self.options);
            for statement in plan.statements {
                append(out, &format!("\n{};\n", statement.sql));
            }
            for setval in
                tables.iter().filter_map(|t| ddl::identity_setval(t, schema, &self.options))
            {
                append(out, &format!("\n{setval};\n"));
            }
            self.notes.extend(plan.notes);
        }
        for (schema, objects) in std::mem::take(&mut self.objects) {
            self.begin(out);
            self.write_objects(&schema, &objects, out);
        }
        for note in &self.notes {
            comment(out, &format!("{} {}: {}", note.table, note.object, note.message));
        }
        (self.stats, self.notes)
    }

    /// Sequences and views; what cannot be translated becomes a comment.
    fn write_objects(&mut self, schema: &str, objects: &[SkippedObject], out: &mut Vec<u8>) {
        let tables: Vec<TableDef> =
            self.tables.get(schema).into_iter().flatten().map(|t| TableDef::clone(t)).collect();
        if tables.is_empty() {
            append(out, &format!("CREATE SCHEMA IF NOT EXISTS {};\n", ddl::quote(schema)));
        }
        let plan = ddl::objects(objects, &tables, schema, &self.options);
        for object in plan.statements {
            append(out, &format!("\n{};\n", object.sql));
            if !object.note.is_empty() {
                let (table, object_name) = (object.name.clone(), String::new());
                self.notes.push(Note { table, object: object_name, message: object.note });
            }
        }
        plan.left.iter().for_each(|object| skipped(object, out));
    }

    fn schema_of(&self, database: Option<&str>) -> String {
        self.schema.as_deref().or(database).unwrap_or("public").to_owned()
    }

    fn begin(&mut self, out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.begun, true) {
            append(
                out,
                "\\set ON_ERROR_STOP on\nSET client_encoding = 'UTF8';\nSET \
                 standard_conforming_strings = on;\nSET check_function_bodies = off;\n",
            );
        }
    }

    fn rows(&mut self, batch: &RowBatch<'_>, out: &mut Vec<u8>) -> Result<(), SqlError> {
        let same = self.open.as_ref().is_some_and(|(insert, table, _)| {
            Arc::ptr_eq(insert, &batch.insert) && table.name == batch.table.name
        });
        if !same {
            self.close(out);
            let encoder = RowEncoder::new(&batch.table, &batch.insert, &self.options)?;
            let schema = self.schema_of(batch.table.database.as_deref());
            append(out, &format!("\n{};\n", encoder.copy_statement(&schema)));
            let (insert, table) = (Arc::clone(&batch.insert), Arc::clone(&batch.table));
            self.open = Some((insert, table, encoder));
        }
        if let Some((_, _, encoder)) = &mut self.open {
            let stats = encoder
                .encode(batch.bytes, out)
                .map_err(|source| SqlError::Row { offset: batch.offset, source })?;
            self.stats += &stats;
        }
        Ok(())
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if self.open.take().is_some() {
            out.extend_from_slice(COPY_END);
        }
    }
}

fn append(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn skipped(object: &SkippedObject, out: &mut Vec<u8>) {
    comment(out, &format!("skipped {:?} {}:\n{}", object.kind, object.name, object.source));
}

fn comment(out: &mut Vec<u8>, text: &str) {
    out.push(b'\n');
    for line in text.lines() {
        append(out, &format!("-- {line}\n"));
    }
}
