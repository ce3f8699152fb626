//! `relevo dump …`: a dump file, without queue and control plane.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal as _, Read, Write};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use relevo_import::{
    Certificate, Completion, CutoverMode, DirectOptions, ImportError, OldSnapshots, Readers,
    Selection,
};
use relevo_pg::PgError;
use secrecy::SecretString;

use super::{dump_inspect, dump_quarantine};
use crate::args::DumpCommand;
use crate::args::dump::{Cutover, ImportArgs, IntoExisting, OldSnapshotPolicy, TranslateArgs};
use crate::certificate;
use crate::failure::{Exit, Failure, OrFail as _, StdoutClosed};
use crate::import_view::ImportView;
use crate::output::{Output, clean};
use crate::shutdown;

/// Bytes handed to the reader of SQL in one piece at least.
const OUT_BUFFER_BYTES: usize = 256 * 1024;

/// Runs it.
pub async fn dump(command: DumpCommand, out: Output) -> Result<(), Failure> {
    match command {
        DumpCommand::Import(args) => import(*args, out).await,
        DumpCommand::Translate(args) => translate(args, out).await,
        DumpCommand::Inspect(args) => dump_inspect::inspect(args, out).await,
        DumpCommand::Quarantine(command) => dump_quarantine::run(command, out).await,
    }
}

/// A dump to read, and its size where it has one.
pub(super) struct Input {
    pub(super) reader: Box<dyn Read + Send>,
    pub(super) size_bytes: Option<u64>,
    /// What it is known by when it is read again.
    pub(super) source: Option<String>,
}

pub(super) fn open(path: &Path) -> Result<Input, Failure> {
    if path == Path::new("-") {
        if io::stdin().is_terminal() {
            return Err(Failure::new(Exit::Usage, "standard input is a terminal, no dump")
                .advise("send a dump: mariadb-dump shop | relevo dump import - …"));
        }
        return Ok(Input { reader: Box::new(io::stdin()), size_bytes: None, source: None });
    }
    let mut file = File::open(path)
        .with_context(|| format!("the dump {} can't be read", path.display()))
        .or_exit(Exit::NotFound)?;
    let metadata = file
        .metadata()
        .with_context(|| format!("the dump {} can't be read", path.display()))
        .or_exit(Exit::NotFound)?;
    if metadata.is_dir() {
        return Err(Failure::new(
            Exit::NotFound,
            format!("{} is a folder, no dump", path.display()),
        ));
    }
    // A named pipe has no size.
    let size_bytes = metadata.is_file().then_some(metadata.len());
    let source = relevo_import::source_of(&mut file)
        .with_context(|| format!("the dump {} can't be read", path.display()))?;
    Ok(Input { reader: Box::new(file), size_bytes, source })
}

async fn import(args: ImportArgs, out: Output) -> Result<(), Failure> {
    let (file, maps, two_pass) = (args.file.clone(), args.map.clone(), args.two_pass);
    let single = args.single_transaction;
    if two_pass && file == Path::new("-") {
        return Err(Failure::new(Exit::Usage, "standard input can be read once only")
            .advise("save the dump to a file, or leave --two-pass out"));
    }
    let options = options_of(args)?;
    if maps.is_empty() {
        let imported = import_one(&file, options, (two_pass, single), out).await?;
        out.document(&imported, || certificate_text(&imported))?;
        return judge([&imported]);
    }
    if maps.len() > 1 && file == Path::new("-") {
        return Err(Failure::new(Exit::Usage, "standard input can be read once only")
            .advise("save the dump to a file, or map one database"));
    }
    let (count, mut imported) = (maps.len(), Vec::with_capacity(maps.len()));
    for (place, (database, schema)) in maps.into_iter().enumerate() {
        let mut options = options.clone();
        options.more_follow = place + 1 < count;
        options.import.database = Some(database);
        options.import.schema = schema;
        imported.push(import_one(&file, options, (two_pass, single), out).await?);
    }
    let text = || imported.iter().map(certificate_text).collect::<Vec<_>>().join("\n");
    out.document(&imported, text)?;
    judge(&imported)
}

fn options_of(args: ImportArgs) -> Result<DirectOptions, Failure> {
    let mut options = DirectOptions::new(SecretString::from(args.to));
    options.import.schema = args.schema;
    options.import.guard.force = args.force;
    if args.allow_incomplete {
        options.import.completion = Completion::NotRequired;
    }
    options.import.database = args.database;
    options.import.selection = Selection {
        only: args.only,
        exclude: args.exclude,
        rename: args.rename.into_iter().collect(),
    };
    options.import.schema_only = args.schema_only;
    options.import.existing_only = args.data_only || args.into_existing.is_some();
    options.import.cutover.mode = match (args.into_existing, args.cutover) {
        (Some(IntoExisting::Merge), _) => CutoverMode::Upsert,
        (Some(IntoExisting::Replace), _) | (None, Cutover::Merge) => CutoverMode::Merge,
        (None, Cutover::Swap) if args.data_only => CutoverMode::Merge,
        (None, Cutover::Swap) => CutoverMode::Swap,
    };
    options.import.cutover.old_snapshots = match args.old_snapshots {
        OldSnapshotPolicy::Refuse => OldSnapshots::Refuse,
        OldSnapshotPolicy::Proceed => OldSnapshots::Proceed,
    };
    options.import.cutover.snapshot_wait_seconds = args.snapshot_wait;
    options.import.translate = args.translation.into_options();
    options.import.filters = args.filters.into_iter().collect();
    options.import.unpack_limit = args.unpack_limit;
    options.import.quarantine = args.quarantine;
    options.commit_bytes = args.commit_size << 20;
    options.jobs = usize::from(args.jobs);
    options.cancel = shutdown::on_signal()?;
    Ok(options)
}

async fn import_one(
    file: &Path,
    mut options: DirectOptions,
    (two_pass, single): (bool, bool),
    out: Output,
) -> Result<Certificate, Failure> {
    if two_pass {
        choose_types(file, &mut options, out).await?;
    }
    let input = open(file)?;
    options.source = input.source;
    let resumable = options.source.is_some() && !single;
    let stopped = options.cancel.clone();
    let view = Arc::new(ImportView::new(out, input.size_bytes));
    let progress = Arc::clone(&view);
    let outcome = if single {
        relevo_import::import_in_one_transaction(input.reader, options, progress).await
    } else {
        relevo_import::import_file(input.reader, options, progress).await
    };
    view.finish();
    let error = match outcome {
        Ok(imported) => return Ok(imported),
        Err(error) => error,
    };
    if stopped.is_cancelled() && error.readers() == Readers::SeePrevious {
        return Err(Failure::new(Exit::Interrupted, "the import was interrupted")
            .advise("the previous data are untouched, what was loaded is removed"));
    }
    let cut_off = resumable && error.is_cut_off();
    let context = match error.readers() {
        Readers::SeePrevious => "the import failed; the previous data are untouched",
        Readers::SeeNew => "the import is done: the new data are live",
        Readers::Unknown => {
            "the import was cut off in its last moment; whether the new data are live, the \
             target's table relevo_ledger.import says"
        }
    };
    let failure = refused(error, context);
    Err(if cut_off {
        failure.advise("run it again when the target is back: it goes on where it was cut off")
    } else {
        failure
    })
}

/// Rows that are missing are no success.
fn judge<'a>(imported: impl IntoIterator<Item = &'a Certificate>) -> Result<(), Failure> {
    match imported.into_iter().map(Certificate::rows_quarantined).sum() {
        0_u64 => Ok(()),
        rows => {
            let message =
                format!("the new data are live, but {rows} row(s) were refused: they are missing");
            Err(Failure::new(Exit::Quarantined, message)
                .advise("relevo dump quarantine list shows them"))
        }
    }
}

/// The first pass: types that the values allow.
async fn choose_types(
    file: &Path,
    options: &mut DirectOptions,
    out: Output,
) -> Result<(), Failure> {
    let input = open(file)?;
    let view = Arc::new(ImportView::new(out, input.size_bytes));
    let (progress, import) = (Arc::clone(&view), options.import.clone());
    let work = move || relevo_import::choose_types(input.reader, &import, &*progress);
    let chosen = blocking(work).await;
    view.finish();
    let chosen =
        chosen?.map_err(|error| refused(error, "the first pass failed; nothing was imported"))?;
    options.import.translate.columns.extend(chosen);
    Ok(())
}

fn certificate_text(imported: &Certificate) -> String {
    match serde_json::to_value(imported) {
        Ok(document) => certificate::text(&document),
        // Nothing in a certificate can fail to be written as JSON.
        Err(_) => "imported\n".to_owned(),
    }
}

/// What is wrong with the URL is the command line's fault; everything else was tried.
pub(super) fn refused(error: ImportError, context: &'static str) -> Failure {
    let exit = match &error {
        ImportError::Target(PgError::Url { .. }) => Exit::Usage,
        _ => Exit::Failed,
    };
    let edited = matches!(error, ImportError::Incomplete);
    let failure = Failure::with(exit, anyhow::Error::from(error).context(context));
    if edited {
        return failure.advise("--allow-incomplete takes a dump whose end was removed by hand");
    }
    failure
}

async fn translate(args: TranslateArgs, out: Output) -> Result<(), Failure> {
    let input = open(&args.file)?;
    let options = args.translation.into_options();
    // The SQL itself is the output; progress would only stand between its lines on a terminal.
    let silent = Output::new(out.is_json() || io::stdout().is_terminal());
    let view = Arc::new(ImportView::new(silent, input.size_bytes));
    let progress = Arc::clone(&view);
    let outcome = blocking(move || {
        let mut sql = BufWriter::with_capacity(OUT_BUFFER_BYTES, io::stdout());
        let translated =
            relevo_import::translate(input.reader, &mut sql, &args.schema, &options, &*progress);
        translated.and_then(|translated| {
            sql.flush().map_err(ImportError::Read)?;
            Ok(translated)
        })
    })
    .await;
    view.finish();
    let translated = match outcome? {
        Ok(translated) => translated,
        Err(error) if closed(&error) => return Err(anyhow::Error::from(StdoutClosed).into()),
        Err(error) => return Err(refused(error, "the translation is not complete")),
    };
    if out.is_json() {
        // Standard output carries the SQL.
        let document = serde_json::to_string(&translated).context("writing JSON failed")?;
        eprintln!("{document}");
    } else {
        for notice in &translated.notices {
            eprintln!("note: {}", clean(notice));
        }
    }
    Ok(())
}

fn closed(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let broken = error
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe);
        if broken {
            return true;
        }
        cause = error.source();
    }
    false
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    Ok(tokio::task::spawn_blocking(work).await.context("reading the dump panicked")?)
}
