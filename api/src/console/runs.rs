//! The history of runs.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use relevo_runs::{Run, RunFilter, RunId, RunState};

use super::overview::run_span;
use super::view::{Freshness, cell, figure, first_line, moment, page, pager, run_badge};
use super::visitor::Visitor;
use super::words::Words;
use crate::app::App;
use crate::error::ApiError;
use crate::page::LIMIT_DEFAULT;

pub(super) async fn list(visitor: Visitor, State(app): State<App>) -> Result<Response, ApiError> {
    let fields = &visitor.fields;
    let state = match fields.get("state") {
        None => None,
        Some(state) => Some(
            state
                .parse::<RunState>()
                .map_err(|error| ApiError::bad_request("invalid_query", error.to_string()))?,
        ),
    };
    let filter = RunFilter {
        pipeline: None,
        source: fields.name("source")?,
        state,
        before: fields.number("before")?.map(RunId),
        limit: u32::from(LIMIT_DEFAULT),
    };
    let runs = app.runs.list(&filter).await?;
    let words = visitor.words;
    let settings = app.settings();
    let known: Vec<&str> = settings.backup.keys().map(String::as_str).collect();
    let full = runs.len() >= usize::from(LIMIT_DEFAULT);
    let next_before = runs.last().filter(|_| full).map(|run| run.id.0);
    // Older pages do not change; the newest one does.
    let freshness = if filter.before.is_none() { Freshness::Refreshed } else { Freshness::Still };
    let content = html! {
        h1 { (words.runs) }
        (filters(words, &known, filter.source.as_deref(), state))
        section.panel {
            @if runs.is_empty() {
                p.empty { @if fields.get("state").or(fields.get("source")).is_some() { (words.none_match) } @else { (words.no_runs) } }
            } @else { (table(words, &runs)) }
        }
        (pager(words, "/console/runs", fields, &["source", "state"], next_before))
    };
    Ok(page(&visitor, words.runs, freshness, &content))
}

fn filters(words: &Words, known: &[&str], source: Option<&str>, state: Option<RunState>) -> Markup {
    // A source that has left the configuration can be asked for by its address.
    let other = source.filter(|source| !known.contains(source));
    html! {
        form.filters method="get" action="/console/runs" {
            label { span { (words.source) }
                select name="source" {
                    option value="" { (words.any) }
                    @for name in known.iter().copied().chain(other) {
                        option value=(name) selected[source == Some(name)] { (name) }
                    }
                }
            }
            label { span { (words.state) }
                select name="state" {
                    option value="" { (words.any) }
                    @for each in RunState::ALL {
                        option value=(each.as_str()) selected[state == Some(each)] {
                            (words.run_state(each))
                        }
                    }
                }
            }
            button type="submit" { (words.filter) }
            @if source.is_some() || state.is_some() { a href="/console/runs" { (words.clear) } }
        }
    }
}

/// Runs, one a line.
pub(super) fn table(words: &Words, runs: &[Run]) -> Markup {
    html! {
        table.stack {
            thead { tr {
                th { (words.run) } th { (words.source) } th { (words.state) } th { (words.trigger) }
                th { (words.created) } th.figure { (words.took) } th { (words.error) }
            } }
            tbody { @for run in runs { tr {
                (cell(words.run, html! { a href={ "/console/runs/" (run.id) } { "№ " (run.id) } }))
                (cell(words.source, &run.source))
                (cell(words.state, html! {
                    (run_badge(words, run.state))
                    @if run.state == RunState::Running {
                        " " span.quiet { (words.phase(&run.phase)) }
                    }
                }))
                (cell(words.trigger, &run.trigger))
                (cell(words.created, moment(words, run.created_at)))
                (figure(words.took, run_span(run).unwrap_or_default()))
                td.long data-column=[run.error.as_ref().map(|_| words.error)] {
                    @if let Some(error) = &run.error { (first_line(error)) }
                }
            } } }
        }
    }
}
