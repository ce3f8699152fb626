//! Queues: what waits where, since when, and whether it may move.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use relevo_queue::QueueStats;

use super::back_to;
use super::view::{Freshness, address, button, cell, count, figure, moment_or, page};
use super::visitor::{Posted, Visitor};
use super::words::Words;
use crate::app::App;
use crate::error::ApiError;
use crate::routes::queues::set_paused;

pub(super) async fn list(visitor: Visitor, State(app): State<App>) -> Result<Response, ApiError> {
    let queues = app.figures.queues(&app.queue).await?;
    let words = visitor.words;
    let content = html! {
        h1 { (words.queues) }
        section.panel {
            @if queues.is_empty() { p.empty { (words.no_queues) } }
            @else { (table(words, &queues, Some(&visitor))) }
        }
    };
    Ok(page(&visitor, words.queues, Freshness::Refreshed, &content))
}

/// Queues, one a line; with buttons for a visitor who may use them.
pub(super) fn table(words: &Words, queues: &[QueueStats], visitor: Option<&Visitor>) -> Markup {
    let operator = visitor.filter(|visitor| visitor.may_operate());
    let jobs = |queue: &QueueStats, state: &str, number: i64| {
        let address =
            address("/console/jobs", &[("queue", Some(&queue.queue)), ("state", Some(state))]);
        html! { a href=(address) { (count(number)) } }
    };
    html! {
        table.stack {
            thead { tr {
                th { (words.queue) } th.figure { (words.waiting) } th { (words.oldest) }
                th.figure { (words.running) } th.figure { (words.later) }
                th.figure { (words.held) }
                th.figure { (words.retrying) } th.figure { (words.dead) }
                @if operator.is_some() { th { span.hidden { (words.actions) } } }
            } }
            tbody { @for queue in queues { tr {
                (cell(words.queue, html! {
                    strong { (queue.queue) }
                    @if queue.paused { " " span.badge.retryable { (words.paused) } }
                }))
                (figure(words.waiting, jobs(queue, "available", queue.available)))
                (cell(words.oldest, moment_or(words, queue.oldest_available, "")))
                (figure(words.running, jobs(queue, "running", queue.running)))
                (figure(words.later, jobs(queue, "scheduled", queue.scheduled)))
                (figure(words.held, jobs(queue, "waiting", queue.waiting)))
                (figure(words.retrying, jobs(queue, "retryable", queue.retryable)))
                (figure(words.dead, html! {
                    a href=(address("/console/dead-letters", &[("queue", Some(&queue.queue))])) {
                        @if queue.dead > 0 { strong.bad { (queue.dead) } } @else { (count(0)) }
                    }
                }))
                @if let Some(visitor) = operator {
                    td.actions {
                        @let field = [("queue", queue.queue.as_str())];
                        @if queue.paused {
                            (button(visitor, "/console/queues/resume", words.resume, &field))
                        } @else {
                            (button(visitor, "/console/queues/pause", words.pause, &field))
                        }
                    }
                }
            } } }
        }
    }
}

pub(super) async fn pause(State(app): State<App>, posted: Posted) -> Result<Response, ApiError> {
    set_paused(&app, posted.operator()?, posted.fields.needed("queue")?, true).await?;
    Ok(back_to("/console/queues", "paused"))
}

pub(super) async fn resume(State(app): State<App>, posted: Posted) -> Result<Response, ApiError> {
    set_paused(&app, posted.operator()?, posted.fields.needed("queue")?, false).await?;
    Ok(back_to("/console/queues", "resumed"))
}
