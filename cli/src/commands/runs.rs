//! `relevo run …` and `relevo backup …`.

use anyhow::Context as _;
use relevo_jobs::RequestMode;
use relevo_rollback::RollbackError;
use relevo_runs::backup;
use relevo_runs::{Run, RunError, RunEvent, RunFilter, RunId, RunState};
use serde_json::{Value, json};

use crate::args::operate::{ModeArg, PageArgs};
use crate::args::{BackupCommand, RunCommand};
use crate::audited::{Audited, actor};
use crate::commands::handover;
use crate::control::ControlPlane;
use crate::failure::{Advise as _, Exit, Failure, OrFail as _};
use crate::output::{Output, clean, compact, moment, moment_or_none, record, table, write_out};
use crate::{certificate, embedded, shutdown, watch};

/// Lines of a log read at a time.
const LOG_PAGE: u32 = 500;

/// Runs `relevo run …`.
pub async fn run(control: &ControlPlane, command: RunCommand, out: Output) -> Result<(), Failure> {
    match command {
        RunCommand::List { source, state, page } => list(control, source, state, &page, out).await,
        RunCommand::Show { id } => {
            let run = found(control, RunId(id)).await?;
            out.document(&run, || describe(&run))
        }
        RunCommand::Log { id, follow } => log(control, RunId(id), follow, out).await,
        RunCommand::Watch { id } => {
            found(control, RunId(id)).await?;
            to_the_end(control, RunId(id), out).await
        }
        RunCommand::Cancel { id } => cancel(control, RunId(id), out).await,
        RunCommand::Rollback { id } => rollback(control, RunId(id), out).await,
    }
}

async fn rollback(control: &ControlPlane, id: RunId, out: Output) -> Result<(), Failure> {
    // Interrupted, it lets go of the target's tables before it ends.
    let stop = shutdown::on_signal()?;
    let by = actor();
    let mut settings = control.settings.clone();
    embedded::find_targets(&mut settings).await?;
    let outcome = relevo_rollback::roll_back(&control.pool, &settings, id, &by, &stop).await;
    let (exit, advice) = match &outcome {
        Ok(_) => (Exit::Failed, None),
        Err(RollbackError::NotFound(id)) => return Err(no_run(*id)),
        Err(RollbackError::UnknownSource(_)) => (Exit::Configuration, None),
        Err(RollbackError::ControlPlane(_) | RollbackError::NotNoted { .. }) => {
            (Exit::ControlPlane, Some("run the same command again"))
        }
        Err(_) if stop.is_cancelled() => (Exit::Interrupted, None),
        Err(error) if error.is_transient() => (Exit::Failed, Some("try the same command again")),
        Err(_) => (Exit::Failed, None),
    };
    let outcome = outcome.or_exit(exit);
    let done = match advice {
        Some(advice) => outcome.advise(advice)?,
        None => outcome?,
    };
    out.document(&done, || {
        let mut text = record(&[
            ("run", id.to_string()),
            ("rolled back", moment(done.rolled_back_at)),
            ("again in place", done.tables.join(", ")),
            ("in schema", done.schema.clone()),
            ("the run's own", format!("in schema {}", done.previous_schema)),
            ("taken away", done.retired.join(", ")),
        ]);
        if done.already {
            text.push_str("\nIt had been rolled back before; nothing was changed now.\n");
        }
        for notice in &done.notices {
            text.push_str(&format!("note: {}\n", clean(notice)));
        }
        text
    })
}

/// Runs `relevo backup …`.
pub async fn backup(
    control: &ControlPlane,
    command: BackupCommand,
    out: Output,
) -> Result<(), Failure> {
    let BackupCommand::Run { source, mode, file, force, wait } = command;
    check_source(control, &source, mode)?;
    let mode = match mode {
        None => RequestMode::Auto,
        Some(ModeArg::Webhook) => RequestMode::Webhook,
        Some(ModeArg::Sync) => RequestMode::Sync,
    };
    let upload = match file {
        Some(path) => Some(handover::hand_over(control, &source, &path).await?),
        None => None,
    };
    let options = backup::StartOptions { mode, force, upload };
    let mut audited = Audited::begin(control).await?;
    let by = actor().label();
    let started = backup::start_in(&mut audited.tx, &control.queue, &source, &options, &by).await;
    let id = match started {
        Ok(id) => id,
        Err(error @ RunError::AlreadyActive { run }) => {
            return Err(error)
                .with_context(|| format!("no run of {source} was started"))
                .or_exit(Exit::Failed)
                .advise(format!(
                    "follow it: relevo run watch {run}; or end it: relevo run cancel {run}"
                ));
        }
        Err(error) => {
            return Err(anyhow::Error::from(error).context("the run can't be started").into());
        }
    };
    let after = json!({"run_id": id, "options": options});
    audited.commit("backup.start", &source, None, Some(after)).await?;
    if !wait {
        return out.document(&json!({"run_id": id}), || {
            format!("run {id} is started; follow it: relevo run watch {id}")
        });
    }
    if !out.is_json() {
        eprintln!("run {id} is started");
    }
    to_the_end(control, id, out).await
}

fn check_source(
    control: &ControlPlane,
    source: &str,
    mode: Option<ModeArg>,
) -> Result<(), Failure> {
    let sources = &control.settings.backup;
    if !sources.contains_key(source) {
        let known: Vec<&str> = sources.keys().map(String::as_str).collect();
        let advice = if known.is_empty() {
            format!(
                "no source is configured; add [backup.{source}] to relevo.toml (docs/backup-import.md)"
            )
        } else {
            format!("configured are: {}", known.join(", "))
        };
        return Err(
            Failure::new(Exit::NotFound, format!("there is no source `{source}`")).advise(advice)
        );
    }
    if mode == Some(ModeArg::Webhook) && control.settings.api.public_url.is_none() {
        return Err(Failure::new(
            Exit::Configuration,
            "webhook mode needs api.public_url, where the gateway can reach this API",
        )
        .advise("set it, or use --mode sync"));
    }
    Ok(())
}

async fn found(control: &ControlPlane, id: RunId) -> Result<Run, Failure> {
    let run = control.runs.get(id).await.context("looking for the run failed")?;
    run.ok_or_else(|| no_run(id))
}

fn no_run(id: RunId) -> Failure {
    Failure::new(Exit::NotFound, format!("there is no run {id}"))
        .advise("`relevo run list` shows them")
}

async fn list(
    control: &ControlPlane,
    source: Option<String>,
    state: Option<String>,
    page: &PageArgs,
    out: Output,
) -> Result<(), Failure> {
    let filter = RunFilter {
        pipeline: None,
        source,
        state: state.map(|state| state.parse()).transpose().or_exit(Exit::Usage)?,
        before: page.before.map(RunId),
        limit: u32::from(page.limit),
    };
    let runs = control.runs.list(&filter).await.context("listing runs failed")?;
    out.document(&runs, || {
        let rows: Vec<Vec<String>> = runs
            .iter()
            .map(|run| {
                vec![
                    run.id.to_string(),
                    run.pipeline.clone(),
                    run.source.clone(),
                    run.state.to_string(),
                    run.phase.clone(),
                    run.trigger.clone(),
                    moment(run.created_at),
                    moment_or_none(run.finished_at),
                    run.error.clone().unwrap_or_default(),
                ]
            })
            .collect();
        let headers = [
            "ID", "PIPELINE", "SOURCE", "STATE", "PHASE", "TRIGGER", "CREATED", "FINISHED", "ERROR",
        ];
        table(&headers, &rows, "no runs; `relevo backup run --source NAME` starts one")
    })
}

/// A run for people: its fields, then its certificate or its error.
pub fn describe(run: &Run) -> String {
    // Of an ended run the certificate or the error tells more.
    let progress = run.progress.as_ref().filter(|_| !run.state.is_ended());
    let mut text = record(&[
        ("run", run.id.to_string()),
        ("pipeline", run.pipeline.clone()),
        ("source", run.source.clone()),
        ("state", run.state.to_string()),
        ("phase", run.phase.clone()),
        ("cancel", if run.cancel_requested { "requested".to_owned() } else { String::new() }),
        ("trigger", run.trigger.clone()),
        ("options", compact(&run.options)),
        ("created", moment(run.created_at)),
        ("started", moment_or_none(run.started_at)),
        ("finished", moment_or_none(run.finished_at)),
        ("progress", progress.map(watch::progress_text).unwrap_or_default()),
        ("figures", compact(&run.stats)),
        ("error", run.error.clone().unwrap_or_default()),
        ("rolled back", moment_or_none(run.rolled_back_at)),
        ("by", run.rolled_back_by.clone().unwrap_or_default()),
    ]);
    if let Some(document) = &run.certificate {
        text.push('\n');
        text.push_str(&certificate::text(document));
    }
    text
}

async fn log(control: &ControlPlane, id: RunId, follow: bool, out: Output) -> Result<(), Failure> {
    found(control, id).await?;
    if !follow {
        let mut events = Vec::new();
        loop {
            let after = events.last().map(|event: &RunEvent| event.id);
            let page =
                control.runs.logs(id, after, LOG_PAGE).await.context("reading the log failed")?;
            let last = page.len() < LOG_PAGE as usize;
            events.extend(page);
            if last {
                break;
            }
        }
        return out.document(&events, || events.iter().map(log_line).collect());
    }
    let mut after = None;
    loop {
        // The state first: what is logged before the end is read after it was seen.
        let ended = found(control, id).await?.state.is_ended();
        let page =
            control.runs.logs(id, after, LOG_PAGE).await.context("reading the log failed")?;
        after = page.last().map(|event| event.id).or(after);
        for event in &page {
            // One document a line: a follower reads them as they come.
            write_out(&if out.is_json() {
                format!("{}\n", serde_json::to_string(event).context("writing JSON failed")?)
            } else {
                log_line(event)
            })?;
        }
        if ended && page.len() < LOG_PAGE as usize {
            return Ok(());
        }
        if page.len() < LOG_PAGE as usize {
            tokio::time::sleep(watch::PAUSE_MAX).await;
        }
    }
}

fn log_line(event: &RunEvent) -> String {
    let fields = compact(&event.fields);
    let space = if fields.is_empty() { "" } else { "  " };
    format!(
        "{}  {:5}  {}{space}{}\n",
        moment(event.at),
        event.level.as_str(),
        clean(&event.message),
        clean(&fields)
    )
}

/// Follows a run to its end; the exit code tells how it ended.
async fn to_the_end(control: &ControlPlane, id: RunId, out: Output) -> Result<(), Failure> {
    let stop = shutdown::on_signal()?;
    let run = watch::to_the_end(control, id, out, &stop).await?;
    report(&run, out)?;
    match run.state {
        RunState::Succeeded => Ok(()),
        RunState::Pending | RunState::Running => Err(interrupted(id)),
        RunState::Failed => {
            let previous = if run.is_undecided() {
                "whether the target shows the previous data or the new ones is not known"
            } else {
                "the previous data are untouched"
            };
            Err(Failure::new(Exit::Failed, format!("run {id} failed: {}", error_of(&run)))
                .advise(format!("{previous}; `relevo run log {id}` tells what happened")))
        }
        RunState::Cancelled => Err(Failure::new(Exit::Failed, format!("run {id} was cancelled"))
            .advise("the previous data are untouched")),
    }
}

fn error_of(run: &Run) -> String {
    run.error.clone().unwrap_or_default()
}

fn interrupted(id: RunId) -> Failure {
    Failure::new(Exit::Interrupted, format!("run {id} goes on; only the watching has ended"))
        .advise(format!("`relevo run watch {id}` takes it up again"))
}

/// The result on standard output: the run as a document, or its certificate.
fn report(run: &Run, out: Output) -> Result<(), Failure> {
    out.document(run, || match &run.certificate {
        Some(document) => certificate::text(document),
        None => String::new(),
    })
}

async fn cancel(control: &ControlPlane, id: RunId, out: Output) -> Result<(), Failure> {
    let reason = format!("by {}", actor().label());
    let mut audited = Audited::begin(control).await?;
    let ended = match control.runs.request_cancel_in(&mut audited.tx, id, &reason).await {
        Err(RunError::NotFound(id)) => return Err(no_run(id)),
        other => other.context("cancelling the run failed")?,
    };
    if let Some(state) = ended {
        return Err(Failure::new(Exit::Failed, format!("run {id} has ended already: {state}")));
    }
    let after = json!({"reason": reason});
    audited.commit("run.cancel", &id.to_string(), None, Some(after)).await?;
    let jobs = control.runs.cancel_jobs(id, &reason).await.context("cancelling its jobs failed")?;
    let document: Value = json!({"id": id, "cancel_requested": true, "jobs": jobs});
    out.document(&document, || format!("run {id} ends as soon as its {jobs} job(s) have stopped"))
}
