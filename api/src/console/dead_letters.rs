//! Dead letters: look, mend, run again or throw away, one or all that match.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use relevo_queue::{JobFilter, JobId, JobView};
use relevo_runs::dead_letters::BULK_MAX;
use serde_json::value::RawValue;

use super::back_to;
use super::jobs::{error_cell, filter, filters};
use super::view::{
    Freshness, address, button, cell, figure, form_token, moment_or, number, page, pager,
};
use super::visitor::{Fields, Posted, Visitor};
use crate::app::App;
use crate::error::ApiError;
use crate::extract::Named;
use crate::page::LIMIT_DEFAULT;
use crate::routes::dead_letters::{discard_dead, edit_dead, retry_dead};
use crate::routes::dead_letters_bulk::{Act, act_on_matching};

/// The page.
const PATH: &str = "/console/dead-letters";
/// What narrows the list.
const FILTERS: [&str; 3] = ["kind", "queue", "run_id"];

pub(super) async fn list(visitor: Visitor, State(app): State<App>) -> Result<Response, ApiError> {
    let fields = &visitor.fields;
    let filter = filter(fields)?;
    let jobs = app.queue.dead_letters(&filter).await?;
    let words = visitor.words;
    let kinds = app.kinds.book().await?;
    let full = jobs.len() >= usize::from(LIMIT_DEFAULT);
    let next_before = jobs.last().filter(|_| full).map(|job| job.id.0);
    let content = html! {
        h1 { (words.dead_letters) }
        (filters(words, PATH, fields, None, &kinds))
        section.panel {
            @if jobs.is_empty() {
                p.empty { @if is_narrowed(fields) { (words.none_match) } @else { (words.no_dead) } }
            } @else {
                @if visitor.may_operate() {
                    div.actions {
                        a.button href=(all_address(fields, "retry")) { (words.retry_all) }
                        a.button href=(all_address(fields, "discard")) { (words.discard_all) }
                    }
                }
                (table(&visitor, &jobs))
            }
        }
        (pager(words, PATH, fields, &FILTERS, next_before))
    };
    Ok(page(&visitor, words.dead_letters, Freshness::Still, &content))
}

fn is_narrowed(fields: &Fields) -> bool {
    FILTERS.iter().any(|name| fields.get(name).is_some())
}

fn all_address(fields: &Fields, action: &str) -> String {
    let mut parameters: Vec<(&str, Option<&str>)> =
        FILTERS.iter().map(|name| (*name, fields.get(name))).collect();
    parameters.push(("action", Some(action)));
    address("/console/dead-letters/all", &parameters)
}

fn table(visitor: &Visitor, jobs: &[JobView]) -> Markup {
    let words = visitor.words;
    html! {
        table.stack {
            thead { tr {
                th { (words.job) } th { (words.kind) } th { (words.queue) } th { (words.run) }
                th.figure { (words.attempts) } th { (words.finished) } th { (words.error) }
                @if visitor.may_operate() { th { span.hidden { (words.actions) } } }
            } }
            tbody { @for job in jobs { tr {
                (cell(words.job, html! { a href={ "/console/jobs/" (job.id) } { "№ " (job.id) } }))
                (cell(words.kind, &job.kind))
                (cell(words.queue, &job.queue))
                (cell(words.run, html! {
                    @if let Some(run) = job.run_id { a href={ "/console/runs/" (run) } { "№ " (run) } }
                }))
                (figure(words.attempts, html! { (job.attempt) " / " (job.max_attempts) }))
                (cell(words.finished, moment_or(words, job.finished_at, "")))
                (error_cell(words, job))
                @if visitor.may_operate() {
                    td.actions {
                        (button(visitor, &format!("{PATH}/{}/retry", job.id), words.retry, &[]))
                    }
                }
            } } }
        }
    }
}

/// What is to be done to all that match.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ToAll {
    Retry,
    Discard,
}

impl ToAll {
    fn read(fields: &Fields) -> Result<Self, ApiError> {
        match fields.needed("action")? {
            "retry" => Ok(Self::Retry),
            "discard" => Ok(Self::Discard),
            _ => Err(ApiError::bad_request("invalid_query", "action is retry or discard")),
        }
    }
}

fn all_filter(fields: &Fields) -> Result<JobFilter, ApiError> {
    Ok(JobFilter { before: None, limit: None, ..filter(fields)? })
}

/// Says how many match, and asks.
pub(super) async fn ask(visitor: Visitor, State(app): State<App>) -> Result<Response, ApiError> {
    let fields = &visitor.fields;
    let action = ToAll::read(fields)?;
    let matching = app.queue.count_dead(&all_filter(fields)?).await?;
    if matching > u64::from(BULK_MAX) {
        return Err(ApiError::unprocessable(
            "too_many_jobs",
            format!("{matching} match, more than {BULK_MAX}: narrow the filter"),
        ));
    }
    let words = visitor.words;
    let (question, label) = match action {
        ToAll::Retry => (words.bulk_retry_asks, words.retry),
        ToAll::Discard => (words.bulk_discard_asks, words.discard),
    };
    let kept = FILTERS.iter().filter_map(|name| Some((*name, fields.get(name)?)));
    let back: Vec<(&str, Option<&str>)> =
        FILTERS.iter().map(|name| (*name, fields.get(name))).collect();
    let content = html! {
        h1 { (question) }
        section.panel {
            p.headline { strong.large { (number(matching)) } " " (words.matching) }
            dl.facts {
                @for (name, value) in kept.clone() { div { dt { (name) } dd { code { (value) } } } }
            }
            form method="post" action="/console/dead-letters/all" {
                (form_token(&visitor))
                input type="hidden" name="action" value=(fields.get("action").unwrap_or_default());
                input type="hidden" name="expected" value=(matching);
                @for (name, value) in kept { input type="hidden" name=(name) value=(value); }
                div.actions {
                    @if matching > 0 && visitor.may_operate() {
                        button.primary type="submit" { (label) " (" (number(matching)) ")" }
                    }
                    a.button href=(address(PATH, &back)) { (words.go_back) }
                }
            }
        }
    };
    Ok(page(&visitor, question, Freshness::Still, &content))
}

/// Does it to as many as were counted, or to none.
pub(super) async fn act(State(app): State<App>, posted: Posted) -> Result<Response, ApiError> {
    let actor = posted.operator()?;
    let fields = &posted.fields;
    let filter = all_filter(fields)?;
    let expected = fields.number("expected")?.and_then(|number| u32::try_from(number).ok());
    let expected = expected.ok_or_else(|| {
        ApiError::bad_request("invalid_query", "expected says how many are meant")
    })?;
    let done = match ToAll::read(fields)? {
        ToAll::Retry => {
            act_on_matching(&app, actor, Act::Retry, &filter, expected).await?;
            "retried"
        }
        ToAll::Discard => {
            act_on_matching(&app, actor, Act::Discard, &filter, expected).await?;
            "discarded"
        }
    };
    Ok(back_to(PATH, done))
}

pub(super) async fn retry(
    State(app): State<App>,
    Named(id): Named<JobId>,
    posted: Posted,
) -> Result<Response, ApiError> {
    retry_dead(&app, posted.operator()?, id).await?;
    Ok(back_to(PATH, "retried"))
}

pub(super) async fn discard(
    State(app): State<App>,
    Named(id): Named<JobId>,
    posted: Posted,
) -> Result<Response, ApiError> {
    discard_dead(&app, posted.operator()?, id).await?;
    Ok(back_to(PATH, "discarded"))
}

pub(super) async fn edit(
    State(app): State<App>,
    Named(id): Named<JobId>,
    posted: Posted,
) -> Result<Response, ApiError> {
    let actor = posted.operator()?;
    let text = posted.fields.needed("payload")?;
    let payload: &RawValue = serde_json::from_str(text).map_err(|error| {
        ApiError::unprocessable("malformed_json", format!("the payload is no JSON: {error}"))
    })?;
    let then_retry = posted.fields.get("then") == Some("retry");
    edit_dead(&app, actor, id, payload, then_retry).await?;
    let done = if then_retry { "retried" } else { "saved" };
    Ok(back_to(&format!("/console/jobs/{id}"), done))
}
