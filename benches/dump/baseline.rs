//! What the import is measured against.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use flate2::read::MultiGzDecoder;
use relevo_import::NoProgress;
use relevo_mysqldump::{
    DumpSplitter, Event, InsertHeader, RowEncoder, SplitOptions, TableDef, TranslateOptions, ddl,
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

const BUFFER_BYTES: usize = 1024 * 1024;
const SCHEMA: &str = "bare";

/// Unpacks to nowhere.
pub fn gunzip(file: &Path) -> Result<()> {
    let mut source = open(file)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    while source.read(&mut buffer)? > 0 {}
    Ok(())
}

/// Unpacks, tokenises and encodes to nowhere, as `relevo dump translate` does.
pub fn translate(file: &Path) -> Result<()> {
    let options = TranslateOptions::default();
    relevo_import::translate(File::open(file)?, &mut io::sink(), SCHEMA, &options, &NoProgress)?;
    Ok(())
}

fn open(file: &Path) -> Result<Box<dyn Read>> {
    let mut start = [0; 2];
    let gzip = File::open(file)?.read_exact(&mut start).is_ok() && start == [0x1f, 0x8b];
    let source = File::open(file).with_context(|| format!("open {}", file.display()))?;
    Ok(if gzip { Box::new(MultiGzDecoder::new(source)) } else { Box::new(source) })
}

/// The dump's rows as files of COPY text, and the statements that go with them.
pub struct Encoded {
    pub rows: u64,
    pub raw_bytes: u64,
    pub text_bytes: u64,
    tables: Vec<TableDef>,
    copies: Vec<(String, PathBuf)>,
}

impl Encoded {
    pub fn new(file: &Path, folder: &Path) -> Result<Self> {
        let mut source = open(file)?;
        let mut encoding =
            Encoding { folder, tables: Vec::new(), copies: BTreeMap::new(), rows: 0 };
        let mut splitter = DumpSplitter::new(SplitOptions::default());
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let read = source.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            splitter
                .feed(&buffer[..read], &mut |event| encoding.take(event).map_err(Into::into))?;
        }
        let summary = splitter.finish(&mut |event| encoding.take(event).map_err(Into::into))?;
        let mut copies = Vec::new();
        let mut text_bytes = 0;
        for (statement, mut copy) in encoding.copies {
            copy.writer.flush()?;
            text_bytes += std::fs::metadata(&copy.path)?.len();
            copies.push((statement, copy.path));
        }
        Ok(Self {
            rows: encoding.rows,
            raw_bytes: summary.bytes,
            text_bytes,
            tables: encoding.tables.iter().map(|table| TableDef::clone(table)).collect(),
            copies,
        })
    }
}

struct Encoding<'a> {
    folder: &'a Path,
    tables: Vec<Arc<TableDef>>,
    copies: BTreeMap<String, Copy>,
    rows: u64,
}

struct Copy {
    insert: Arc<InsertHeader>,
    encoder: RowEncoder,
    path: PathBuf,
    writer: BufWriter<File>,
}

impl Encoding<'_> {
    fn take(&mut self, event: Event<'_>) -> Result<(), anyhow::Error> {
        match event {
            Event::Table(table) => self.tables.push(table),
            Event::Altered(table) => {
                if let Some(known) = self.tables.iter_mut().find(|known| known.name == table.name) {
                    *known = table;
                }
            }
            Event::Dropped(table) => self.tables.retain(|known| known.name != table.name),
            Event::Rows(batch) => {
                let options = TranslateOptions::default();
                let encoder = RowEncoder::new(&batch.table, &batch.insert, &options)?;
                let statement = encoder.copy_statement(SCHEMA);
                let number = self.copies.len();
                if !self.copies.contains_key(&statement) {
                    let path = self.folder.join(format!("{number}.copy"));
                    let writer = BufWriter::with_capacity(BUFFER_BYTES, File::create(&path)?);
                    let insert = Arc::clone(&batch.insert);
                    let copy = Copy { insert, encoder, path, writer };
                    self.copies.insert(statement.clone(), copy);
                } else if let Some(copy) = self.copies.get_mut(&statement)
                    && copy.insert != batch.insert
                {
                    copy.encoder = encoder;
                    copy.insert = Arc::clone(&batch.insert);
                }
                if let Some(copy) = self.copies.get_mut(&statement) {
                    let mut text = Vec::with_capacity(BUFFER_BYTES);
                    self.rows += copy.encoder.encode(batch.bytes, &mut text)?.rows;
                    copy.writer.write_all(&text)?;
                }
            }
            Event::Skipped(_) | Event::Warning(_) => {}
        }
        Ok(())
    }
}

/// How long the bare way took.
pub struct Bare {
    /// COPY alone, in one transaction.
    pub copy_s: f64,
    /// COPY, then keys, indexes, foreign keys, identities, ANALYZE, one after the other.
    pub all_s: f64,
}

/// Loads the encoded files over one connection.
pub async fn load(url: &str, encoded: &Encoded) -> Result<Bare> {
    let options = TranslateOptions::default();
    let mut connection = PgConnection::connect(url).await?;
    run(&mut connection, &format!("CREATE SCHEMA {SCHEMA}")).await?;
    for table in &encoded.tables {
        run(&mut connection, &ddl::create_table(table, SCHEMA, &options).sql).await?;
    }
    let started = Instant::now();
    run(&mut connection, "BEGIN").await?;
    let mut buffer = vec![0; BUFFER_BYTES];
    for (statement, path) in &encoded.copies {
        let mut file = File::open(path)?;
        let mut copy = connection.copy_in_raw(statement).await?;
        loop {
            let read = file.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            copy.send(&buffer[..read]).await?;
        }
        copy.finish().await?;
    }
    run(&mut connection, "COMMIT").await?;
    let copy_s = started.elapsed().as_secs_f64();
    let plan = ddl::post_load(&encoded.tables, SCHEMA, &options);
    for statement in &plan.statements {
        run(&mut connection, &statement.sql).await.with_context(|| statement.sql.clone())?;
    }
    for sql in
        encoded.tables.iter().filter_map(|table| ddl::identity_setval(table, SCHEMA, &options))
    {
        run(&mut connection, &sql).await?;
    }
    for table in &encoded.tables {
        let name = relevo_pg::ident::quote(&ddl::table_name(table));
        run(&mut connection, &format!("ANALYZE {SCHEMA}.{name}")).await?;
    }
    let all_s = started.elapsed().as_secs_f64();
    connection.close().await?;
    Ok(Bare { copy_s, all_s })
}

async fn run(connection: &mut PgConnection, sql: &str) -> Result<()> {
    connection.execute(AssertSqlSafe(sql.to_owned())).await?;
    Ok(())
}
