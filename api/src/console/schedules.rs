//! Schedules: what the clock starts, when next, and what became of the last slot.

use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use maud::{Markup, html};
use relevo_runs::schedules::{self, StoredSchedule};

use super::back_to;
use super::view::{Freshness, button, cell, moment, page};
use super::visitor::{Posted, Visitor};
use super::words::Words;
use crate::app::App;
use crate::error::ApiError;
use crate::routes::schedules::{next_slots, run_schedule, set_active};

/// Slots to come that are shown.
const SLOTS: usize = 3;

pub(super) async fn list(visitor: Visitor, State(app): State<App>) -> Result<Response, ApiError> {
    let schedules = schedules::list(&app.pool, None).await?;
    let file = schedules::file_state(&app.pool).await?;
    let problem = file.and_then(|file| file.problem);
    let words = visitor.words;
    let content = html! {
        h1 { (words.schedules) }
        @if let Some(problem) = problem {
            p.warning role="alert" { (words.file_problem) }
            pre.error { (problem) }
        }
        section.panel {
            @if schedules.is_empty() { p.empty { (words.no_schedules) } }
            @else {
                table.stack {
                    thead { tr {
                        th { (words.name) } th { (words.starts) } th { (words.rhythm) }
                        th { (words.next_fires) } th { (words.last_fire) }
                        @if visitor.may_operate() { th { span.hidden { (words.actions) } } }
                    } }
                    tbody { @for schedule in &schedules { (row(&visitor, &app, schedule)) } }
                }
            }
        }
    };
    Ok(page(&visitor, words.schedules, Freshness::Refreshed, &content))
}

fn row(visitor: &Visitor, app: &App, schedule: &StoredSchedule) -> Markup {
    let words = visitor.words;
    let slots = next_slots(app, schedule);
    html! {
        tr {
            (cell(words.name, html! { strong { (schedule.name) } }))
            (cell(words.starts, html! {
                @if let Some(source) = &schedule.backup_source { (source) }
                @else if let Some(kind) = &schedule.job_kind { code { (kind) } }
            }))
            (cell(words.rhythm, html! {
                code { (schedule.rhythm) } " " span.quiet { (schedule.timezone) }
            }))
            (cell(words.next_fires, html! {
                @if schedule.active {
                    @for (nth, slot) in slots.iter().take(SLOTS).enumerate() {
                        @if nth > 0 { span.quiet { " · " (moment(words, *slot)) } }
                        @else { (moment(words, *slot)) }
                    }
                } @else { span.quiet { (words.inactive) } }
            }))
            (cell(words.last_fire, last(words, schedule)))
            @if visitor.may_operate() {
                td.actions {
                    @let field = [("name", schedule.name.as_str())];
                    (button(visitor, "/console/schedules/run", words.run_now, &field))
                    // Those of the file are changed in the file.
                    @if schedule.origin == "operator" {
                        @if schedule.active {
                            (button(visitor, "/console/schedules/disable", words.disable, &field))
                        } @else {
                            (button(visitor, "/console/schedules/enable", words.enable, &field))
                        }
                    }
                }
            }
        }
    }
}

fn last(words: &Words, schedule: &StoredSchedule) -> Markup {
    html! {
        @if let Some(slot) = schedule.last_slot {
            (moment(words, slot)) " "
            @if let Some(run) = schedule.last_run_id { a href={ "/console/runs/" (run) } { (words.run) " № " (run) } }
            @else if let Some(job) = schedule.last_job_id { a href={ "/console/jobs/" (job) } { (words.job) " № " (job) } }
            @if let Some(reason) = &schedule.last_reason { span.quiet { (reason) } }
        } @else { span.quiet { (words.never) } }
    }
}

pub(super) async fn enable(State(app): State<App>, posted: Posted) -> Result<Response, ApiError> {
    set_active(&app, posted.operator()?, posted.fields.needed("name")?, true).await?;
    Ok(back_to("/console/schedules", "enabled"))
}

pub(super) async fn disable(State(app): State<App>, posted: Posted) -> Result<Response, ApiError> {
    set_active(&app, posted.operator()?, posted.fields.needed("name")?, false).await?;
    Ok(back_to("/console/schedules", "disabled"))
}

pub(super) async fn run(State(app): State<App>, posted: Posted) -> Result<Response, ApiError> {
    let actor = posted.operator()?;
    let started = run_schedule(&app, actor, posted.fields.needed("name")?).await?;
    let to = match (started.run, started.job) {
        (Some(run), _) => format!("/console/runs/{run}?done=started"),
        (None, Some(job)) => format!("/console/jobs/{job}?done=started"),
        (None, None) => "/console/schedules?done=started".to_owned(),
    };
    Ok(Redirect::to(&to).into_response())
}
