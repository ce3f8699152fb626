//! Jobs: the list, and one job wherever it is.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use relevo_queue::{JobFilter, JobId, JobState, JobView};
use relevo_runs::KindBook;
use serde_json::Value;

use super::back_to;
use super::view::{
    Freshness, button, cell, fact, figure, first_line, form_token, job_badge, moment, number, page,
    pager, pretty,
};
use super::visitor::{Fields, Posted, Visitor};
use super::words::Words;
use crate::app::App;
use crate::error::ApiError;
use crate::extract::Named;
use crate::page::LIMIT_DEFAULT;
use crate::routes::jobs::{cancel_job, job_not_found, retry_job};

/// The states, in the order of a job's life.
const STATES: [JobState; 8] = [
    JobState::Scheduled,
    JobState::Waiting,
    JobState::Available,
    JobState::Running,
    JobState::Retryable,
    JobState::Completed,
    JobState::Cancelled,
    JobState::Dead,
];

/// The filters that a list of jobs takes, but for the state.
pub(super) fn filter(fields: &Fields) -> Result<JobFilter, ApiError> {
    Ok(JobFilter {
        kinds: fields.name("kind")?.into_iter().collect(),
        queue: fields.name("queue")?,
        run_id: fields.number("run_id")?,
        before: fields.number("before")?.map(JobId),
        limit: Some(LIMIT_DEFAULT),
        ..JobFilter::default()
    })
}

pub(super) async fn list(visitor: Visitor, State(app): State<App>) -> Result<Response, ApiError> {
    let fields = &visitor.fields;
    let mut filter = filter(fields)?;
    let state = fields
        .get("state")
        .map(str::parse::<JobState>)
        .transpose()
        .map_err(|error| ApiError::bad_request("invalid_query", error))?;
    filter.states = state.into_iter().collect();
    let jobs = app.queue.jobs(&filter).await?;
    let words = visitor.words;
    let kinds = app.kinds.book().await?;
    let full = jobs.len() >= usize::from(LIMIT_DEFAULT);
    let next_before = jobs.last().filter(|_| full).map(|job| job.id.0);
    let freshness = if filter.before.is_none() { Freshness::Refreshed } else { Freshness::Still };
    let content = html! {
        h1 { (words.jobs) }
        (filters(words, "/console/jobs", fields, Some(state), &kinds))
        section.panel {
            @if jobs.is_empty() { p.empty { (words.none_match) } } @else { (table(words, &jobs)) }
        }
        (pager(words, "/console/jobs", fields, &["state", "kind", "queue", "run_id"], next_before))
    };
    Ok(page(&visitor, words.jobs, freshness, &content))
}

/// The filters of a list, as a form. `state` where the list is of several.
pub(super) fn filters(
    words: &Words,
    path: &str,
    fields: &Fields,
    state: Option<Option<JobState>>,
    kinds: &KindBook,
) -> Markup {
    let given = ["state", "kind", "queue", "run_id"].iter().any(|name| fields.get(name).is_some());
    let kinds: Vec<&str> = kinds.names().collect();
    html! {
        form.filters method="get" action=(path) {
            @if let Some(state) = state {
                label { span { (words.state) }
                    select name="state" {
                        option value="" { (words.any) }
                        @for each in STATES {
                            option value=(each.as_str()) selected[state == Some(each)] {
                                (words.job_state(each))
                            }
                        }
                    }
                }
            }
            label { span { (words.kind) }
                select name="kind" {
                    option value="" { (words.any) }
                    @let chosen = fields.get("kind");
                    @let other = chosen.filter(|chosen| !kinds.contains(chosen));
                    @for kind in kinds.into_iter().chain(other) {
                        option value=(kind) selected[chosen == Some(kind)] { (kind) }
                    }
                }
            }
            label { span { (words.queue) }
                input type="text" name="queue" maxlength="100" value=[fields.get("queue")];
            }
            label { span { (words.run) }
                input.short type="text" inputmode="numeric" pattern="[0-9]*" name="run_id"
                    value=[fields.get("run_id")];
            }
            button type="submit" { (words.filter) }
            @if given { a href=(path) { (words.clear) } }
        }
    }
}

/// Jobs, one a line.
pub(super) fn table(words: &Words, jobs: &[JobView]) -> Markup {
    html! {
        table.stack {
            thead { tr {
                th { (words.job) } th { (words.kind) } th { (words.state) } th { (words.queue) }
                th.figure { (words.attempts) } th { (words.created) } th { (words.error) }
            } }
            tbody { @for job in jobs { tr {
                (cell(words.job, html! { a href={ "/console/jobs/" (job.id) } { "№ " (job.id) } }))
                (cell(words.kind, &job.kind))
                (cell(words.state, job_badge(words, job.state)))
                (cell(words.queue, &job.queue))
                (figure(words.attempts, html! { (job.attempt) " / " (job.max_attempts) }))
                (cell(words.created, moment(words, job.created_at)))
                (error_cell(words, job))
            } } }
        }
    }
}

/// Why its last attempt failed, in a line.
pub(super) fn error_cell(words: &Words, job: &JobView) -> Markup {
    html! {
        td.long data-column=[job.last_error.as_ref().map(|_| words.error)] {
            @if let Some(error) = &job.last_error { (first_line(error)) }
        }
    }
}

pub(super) async fn show(
    visitor: Visitor,
    State(app): State<App>,
    Named(id): Named<JobId>,
) -> Result<Response, ApiError> {
    let job = app.queue.job(id).await?.ok_or_else(|| job_not_found(id))?;
    let words = visitor.words;
    let title = format!("{} № {id}", words.job);
    let payload: Value = serde_json::from_str(job.payload.get()).unwrap_or_default();
    let content = html! {
        h1 { (title) " " span.source { (job.kind) } }
        section.panel {
            p.headline {
                (job_badge(words, job.state))
                @if job.cancel_requested { " " span.badge.retryable { (words.cancelling) } }
            }
            @if let Some(error) = &job.last_error { pre.error { (error) } }
            @if let Some(reason) = &job.cancel_reason { p { (words.cancel) ": " (reason) } }
            (facts(words, &job))
            (actions(&visitor, &job))
        }
        section.panel {
            h2 { (words.payload) }
            pre { (pretty(&payload)) }
            @if job.state == JobState::Dead && visitor.may_operate() {
                (editor(&visitor, id, &pretty(&payload)))
            }
        }
    };
    let freshness = if job.finished_at.is_none() { Freshness::Refreshed } else { Freshness::Still };
    Ok(page(&visitor, &title, freshness, &content))
}

fn facts(words: &Words, job: &JobView) -> Markup {
    let time = |at| Some(moment(words, at));
    html! {
        dl.facts {
            (fact(words.queue, Some(html! { (job.queue) })))
            (fact(words.run, job.run_id.map(|run| html! {
                a href={ "/console/runs/" (run) } { "№ " (run) }
            })))
            (fact(words.attempts, Some(html! { (job.attempt) " / " (job.max_attempts) })))
            (fact(words.deaths, (job.deaths > 0).then(|| html! { (job.deaths) " / " (job.max_deaths) })))
            (fact(words.priority, (job.priority != 0).then(|| html! { (job.priority) })))
            (fact(words.created, time(job.created_at)))
            (fact(words.not_before, (job.run_at > job.created_at).then(|| moment(words, job.run_at))))
            (fact(words.started, job.claimed_at.map(|at| moment(words, at))))
            (fact(words.finished, job.finished_at.map(|at| moment(words, at))))
            (fact(words.progress, job.progress.as_ref().map(|progress| html! {
                (number(progress.done))
                @if let Some(total) = progress.total { " / " (number(total)) }
                " " (progress.unit) " " span.quiet { (progress.message) }
            })))
        }
    }
}

fn actions(visitor: &Visitor, job: &JobView) -> Markup {
    let words = visitor.words;
    let at = |verb: &str| format!("/console/jobs/{}/{verb}", job.id);
    let dead = |verb: &str| format!("/console/dead-letters/{}/{verb}", job.id);
    html! {
        @if visitor.may_operate() {
            div.actions {
                @match job.state {
                    JobState::Dead => {
                        (button(visitor, &dead("retry"), words.retry, &[]))
                        details.danger {
                            summary { (words.discard) "…" }
                            (button(visitor, &dead("discard"), words.yes_discard, &[]))
                        }
                    }
                    JobState::Scheduled | JobState::Retryable => {
                        (button(visitor, &at("retry"), words.run_now, &[]))
                    }
                    _ => {}
                }
                @if job.finished_at.is_none() && !job.cancel_requested {
                    details.danger {
                        summary { (words.cancel) "…" }
                        (button(visitor, &at("cancel"), words.yes_cancel, &[]))
                    }
                }
            }
        }
    }
}

fn editor(visitor: &Visitor, id: JobId, payload: &str) -> Markup {
    let words = visitor.words;
    html! {
        details {
            summary { (words.edit_payload) }
            form.editor method="post" action={ "/console/dead-letters/" (id) "/payload" } {
                (form_token(visitor))
                label { span.hidden { (words.payload) }
                    textarea name="payload" rows="8" spellcheck="false" required { (payload) }
                }
                div.actions {
                    button type="submit" name="then" value="retry" { (words.save_and_retry) }
                    button type="submit" name="then" value="keep" { (words.save) }
                }
            }
        }
    }
}

pub(super) async fn cancel(
    State(app): State<App>,
    Named(id): Named<JobId>,
    posted: Posted,
) -> Result<Response, ApiError> {
    let actor = posted.operator()?;
    let reason = format!("by {}", actor.label());
    cancel_job(&app, actor, id, &reason).await?;
    Ok(back_to(&format!("/console/jobs/{id}"), "cancelled"))
}

pub(super) async fn retry(
    State(app): State<App>,
    Named(id): Named<JobId>,
    posted: Posted,
) -> Result<Response, ApiError> {
    retry_job(&app, posted.operator()?, id).await?;
    Ok(back_to(&format!("/console/jobs/{id}"), "retried"))
}
