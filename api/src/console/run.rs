//! One run: how it goes, live; its log; its certificate; its jobs; its end.

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use maud::{Markup, html};
use relevo_queue::JobFilter;
use relevo_runs::{LogLevel, Run, RunError, RunEvent, RunFilter, RunId, RunState};
use serde_json::Value;

use super::overview::run_span;
use super::view::{Freshness, button, cell, fact, figure, moment, number, page, pretty, run_badge};
use super::visitor::{Posted, Visitor};
use super::words::Words;
use super::{back_to, jobs, rollback};
use crate::app::App;
use crate::error::ApiError;
use crate::extract::Named;
use crate::routes::run_events::{FollowParams, follow_run};
use crate::routes::runs::cancel_run;

/// Lines of the log on the page at first.
const LOG_LINES: usize = 200;
/// Lines read at a time.
const LOG_PAGE: u32 = 1_000;
/// Jobs shown.
const JOBS: u16 = 50;

pub(super) async fn show(
    visitor: Visitor,
    State(app): State<App>,
    Named(id): Named<RunId>,
) -> Result<Response, ApiError> {
    let run = app.runs.get(id).await?.ok_or(RunError::NotFound(id))?;
    let whole_log = visitor.fields.get("log") == Some("all");
    let log = log(&app, id, whole_log).await?;
    let filter = JobFilter { limit: Some(JOBS), ..JobFilter::run(id.0) };
    let jobs = app.queue.jobs(&filter).await?;
    // What an older run replaced is gone already.
    let newest = RunFilter {
        pipeline: Some(run.pipeline.clone()),
        source: Some(run.source.clone()),
        state: Some(RunState::Succeeded),
        limit: 1,
        ..RunFilter::default()
    };
    let is_newest = app.runs.list(&newest).await?.first().is_some_and(|newest| newest.id == id);
    let words = visitor.words;
    let title = format!("{} № {id}", words.run);
    let last_line = log.lines.last().map_or(0, |line| line.id);
    let is_live = !run.state.is_ended();
    let events = is_live.then(|| format!("/console/runs/{id}/events?after={last_line}"));
    let content = html! {
        h1 { (title) " " span.source { (run.source) } }
        div #run data-events=[events] data-lost=(words.connection_lost) data-left=(words.time_left) {
            (state(&visitor, &run, is_newest))
            @if let Some(certificate) = &run.certificate { (self::certificate(words, certificate)) }
            section.panel {
                h2 {
                    (words.log)
                    @if is_live { " " span.live #connection { (words.live) } }
                }
                @if log.is_cut {
                    p { a href={ "/console/runs/" (id) "?log=all" } { "↑ " (words.log_beginning) } }
                }
                ol.log #log data-empty=(words.empty_log) {
                    @for line in &log.lines { (log_line(line)) }
                }
            }
            section.panel #jobs {
                h2 { a href={ "/console/jobs?run_id=" (id) } { (words.jobs) } }
                @if jobs.is_empty() { p.empty { (words.none_match) } }
                @else { (jobs::table(words, &jobs)) }
            }
        }
    };
    Ok(page(&visitor, &title, Freshness::Still, &content))
}

/// What of a log is shown.
struct Log {
    lines: Vec<RunEvent>,
    /// There is more before.
    is_cut: bool,
}

/// The newest lines, or all: a log has a bounded number.
async fn log(app: &App, id: RunId, whole: bool) -> Result<Log, ApiError> {
    let mut lines: Vec<RunEvent> = Vec::new();
    let mut is_cut = false;
    loop {
        let after = lines.last().map(|line| line.id);
        let more = app.runs.logs(id, after, LOG_PAGE).await?;
        let last = more.len() < LOG_PAGE as usize;
        lines.extend(more);
        if !whole && lines.len() > LOG_LINES {
            lines.drain(..lines.len() - LOG_LINES);
            is_cut = true;
        }
        if last {
            return Ok(Log { lines, is_cut });
        }
    }
}

fn log_line(line: &RunEvent) -> Markup {
    let fields = line.fields.as_object().filter(|fields| !fields.is_empty());
    html! {
        li class=(line.level.as_str()) value=(line.id) {
            time datetime=(line.at.to_rfc3339()) { (line.at.format("%H:%M:%S")) }
            span.level { (level(line.level)) }
            span.message {
                (line.message)
                @if let Some(fields) = fields { " " code { (compact(fields)) } }
            }
        }
    }
}

/// Ordinary lines need no word; only what stands out says so.
fn level(level: LogLevel) -> &'static str {
    match level {
        LogLevel::Info => "",
        level => level.as_str(),
    }
}

fn compact(fields: &serde_json::Map<String, Value>) -> String {
    let shown = |value: &Value| match value {
        Value::String(text) => text.clone(),
        value => value.to_string(),
    };
    let pairs: Vec<String> =
        fields.iter().map(|(name, value)| format!("{name}={}", shown(value))).collect();
    pairs.join(" ")
}

fn state(visitor: &Visitor, run: &Run, is_newest: bool) -> Markup {
    let words = visitor.words;
    let is_live = !run.state.is_ended();
    html! {
        section.panel.run {
            p.headline {
                span #state { (run_badge(words, run.state)) }
                " " span #phase { @if is_live { (words.phase(&run.phase)) } }
                @if run.cancel_requested && is_live {
                    " " span.badge.retryable { (words.cancelling) }
                }
            }
            @if is_live { (progress(run)) }
            @if let Some(error) = &run.error { pre.error { (error) } }
            dl.facts {
                (fact(words.trigger, Some(html! { (run.trigger) })))
                (fact(words.created, Some(moment(words, run.created_at))))
                (fact(words.finished, run.finished_at.map(|at| moment(words, at))))
                (fact(words.took, run_span(run).map(|span| html! { span #took { (span) } })))
                @if !is_live { (fact(words.phase, Some(html! { (words.phase(&run.phase)) }))) }
                (fact(words.options, object(&run.options)))
                (fact(words.rolled_back, run.rolled_back_at.map(|at| html! {
                    (moment(words, at)) " " (words.by) " " (run.rolled_back_by.as_deref().unwrap_or_default())
                })))
            }
            @if is_newest { (rollback::link(visitor, run)) }
            @if let Some(figures) = run.stats.as_object().filter(|figures| !figures.is_empty()) {
                details { summary { (words.figures) } pre { (pretty(figures)) } }
            }
            @if is_live && !run.cancel_requested && visitor.may_operate() {
                details.danger {
                    summary { (words.cancel_run) "…" }
                    p { (words.cancel_explained) }
                    (button(visitor, &format!("/console/runs/{}/cancel", run.id), words.yes_cancel, &[]))
                }
            }
        }
    }
}

/// The bar; the script moves it.
fn progress(run: &Run) -> Markup {
    let figure = |name: &str| {
        run.progress.as_ref().and_then(|progress| progress.get(name)).and_then(Value::as_u64)
    };
    let (done, total) = (figure("done"), figure("total").filter(|total| *total > 0));
    let text = |name: &str| {
        run.progress.as_ref().and_then(|progress| progress.get(name)).and_then(Value::as_str)
    };
    html! {
        progress #bar max=[total] value=[done.filter(|_| total.is_some())] {}
        p.progress {
            span #figures {
                @if let Some(done) = done {
                    (number(done)) @if let Some(total) = total { " / " (number(total)) }
                    " " (text("unit").unwrap_or_default())
                }
            }
            span #left {}
            span.quiet #message { (text("message").unwrap_or_default()) }
        }
    }
}

fn object(value: &Value) -> Option<Markup> {
    let fields = value.as_object().filter(|fields| !fields.is_empty())?;
    Some(html! { code { (compact(fields)) } })
}

/// What was moved, table by table. It is read as JSON, as it was stored: a certificate of an older
/// version shows what it has.
fn certificate(words: &Words, certificate: &Value) -> Markup {
    let empty = Vec::new();
    let list = |name: &str| certificate.get(name).and_then(Value::as_array).unwrap_or(&empty);
    let tables = list("tables");
    let sum = |name: &str| tables.iter().filter_map(|table| figure_of(table, name)).sum::<i64>();
    let columns = [words.rows_read, words.rows_loaded, words.difference, words.rows_before];
    html! {
        section.panel #certificate {
            h2 { (words.certificate) }
            table.dense {
                thead { tr {
                    th { (words.table) }
                    @for column in columns { th.figure { (column) } }
                    th { (words.contents) }
                } }
                tbody { @for table in tables { (certificate_row(words, table)) } }
                tfoot { tr {
                    (cell(words.table, html! { (words.total) }))
                    (figure(words.rows_read, number(sum("rows_dump"))))
                    (figure(words.rows_loaded, number(sum("rows_target"))))
                    (figure(words.difference, number(sum("rows_target") - sum("rows_dump"))))
                    td {} td {}
                } }
            }
            @let skipped = list("skipped");
            @if !skipped.is_empty() {
                h3 { (words.not_carried_over) }
                ul.plain { @for object in skipped { li {
                    (word_of(object, "kind")) " " code { (word_of(object, "name")) }
                } } }
            }
            @let notices = list("notices");
            @if !notices.is_empty() {
                h3 { (words.notes) }
                ul.plain { @for notice in notices.iter().filter_map(Value::as_str) { li { (notice) } } }
            }
            details { summary { (words.document) } pre { (pretty(certificate)) } }
        }
    }
}

fn certificate_row(words: &Words, table: &Value) -> Markup {
    let (read, loaded) = (figure_of(table, "rows_dump"), figure_of(table, "rows_target"));
    let difference = read.zip(loaded).map(|(read, loaded)| loaded - read);
    let shown = |value: Option<i64>| value.map(number).unwrap_or_default();
    let sums = (table.get("checksum_dump"), table.get("checksum_target"));
    let verdict = match sums {
        (Some(dump), Some(target)) if !target.is_null() => {
            if dump == target {
                words.equal
            } else {
                words.different
            }
        }
        _ => words.not_compared,
    };
    let is_bad = difference.is_some_and(|difference| difference != 0) || verdict == words.different;
    html! {
        tr.bad[is_bad] {
            (cell(words.table, html! { code { (word_of(table, "table")) } }))
            (figure(words.rows_read, shown(read)))
            (figure(words.rows_loaded, shown(loaded)))
            (figure(words.difference, html! {
                span.quiet[difference == Some(0)] { (shown(difference)) }
            }))
            (figure(words.rows_before, html! { span.quiet { (shown(figure_of(table, "rows_before"))) } }))
            (cell(words.contents, html! { span.quiet[!is_bad] { (verdict) } }))
        }
    }
}

fn figure_of(value: &Value, name: &str) -> Option<i64> {
    value.get(name).and_then(Value::as_i64)
}

fn word_of<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

pub(super) async fn follow(
    _: Visitor,
    State(app): State<App>,
    Named(id): Named<RunId>,
    Query(params): Query<FollowParams>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    follow_run(&app, id, &params, &headers).await
}

pub(super) async fn cancel(
    State(app): State<App>,
    Named(id): Named<RunId>,
    posted: Posted,
) -> Result<Response, ApiError> {
    let actor = posted.operator()?;
    let reason = format!("by {}", actor.label());
    cancel_run(&app, actor, id, &reason).await?;
    Ok(back_to(&format!("/console/runs/{id}"), "cancelled"))
}
