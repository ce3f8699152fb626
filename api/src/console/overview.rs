//! The first page: whether all is well, at a glance.

use axum::extract::State;
use axum::response::Response;
use chrono::Utc;
use maud::{Markup, html};
use relevo_notify::alerts;
use relevo_queue::{QueueStats, SessionView};
use relevo_runs::console::{self, Leader};
use relevo_runs::{Run, RunFilter};

use super::sources::{self, SourceRow};
use super::view::{
    Freshness, NOTHING, cell, count, figure, moment, moment_or, number, page, run_badge,
};
use super::visitor::Visitor;
use super::words::Words;
use super::{queues, runs};
use crate::app::App;
use crate::error::ApiError;

/// Runs shown.
const RUNS: u32 = 8;
/// Open alerts counted.
const ALERTS: u16 = 1_000;
/// Workers shown.
const WORKERS: usize = 20;

pub(super) async fn show(visitor: Visitor, State(app): State<App>) -> Result<Response, ApiError> {
    let queues = app.figures.queues(&app.queue).await?;
    let workers = alive(app.queue.sessions().await?);
    let leader = console::leader(&app.pool).await?;
    let alerts = alerts::list(&app.pool, true, None, ALERTS).await?.len();
    let sources = sources::rows(&app).await?;
    let newest = RunFilter { limit: RUNS, ..RunFilter::default() };
    let recent = app.runs.list(&newest).await?;
    let words = visitor.words;
    let content = html! {
        h1 { (words.overview) }
        (alarms(words, &workers, leader.as_ref(), alerts))
        (tiles(words, &queues, &workers, leader.as_ref()))
        section.panel {
            h2 { a href="/console/sources" { (words.sources) } }
            @if sources.is_empty() { p.empty { (words.no_sources) } }
            @else { (source_table(words, &sources)) }
        }
        section.panel {
            h2 { a href="/console/runs" { (words.recent_runs) } }
            @if recent.is_empty() { p.empty { (words.no_runs) } }
            @else { (runs::table(words, &recent)) }
        }
        div.columns {
            section.panel {
                h2 { a href="/console/queues" { (words.queues) } }
                @if queues.is_empty() { p.empty { (words.no_queues) } }
                @else { (queues::table(words, &queues, None)) }
            }
            section.panel {
                h2 { (words.workers) }
                @if workers.is_empty() { p.empty { (words.no_workers) } }
                @else { (worker_table(words, &workers)) }
            }
        }
    };
    Ok(page(&visitor, words.overview, Freshness::Refreshed, &content))
}

fn alive(workers: Vec<SessionView>) -> Vec<SessionView> {
    let now = Utc::now();
    workers.into_iter().filter(|worker| worker.expires_at > now).collect()
}

fn alarms(
    words: &Words,
    workers: &[SessionView],
    leader: Option<&Leader>,
    alerts: usize,
) -> Markup {
    html! {
        @if alerts > 0 {
            p.warning role="alert" {
                a href="/console/alerts?open=true" { (alerts) " " (words.open_alerts) }
            }
        }
        @if workers.is_empty() { p.warning role="alert" { (words.no_workers) } }
        @if !leader.is_some_and(|leader| leader.is_held) {
            p.warning role="alert" { (words.no_scheduler) }
        }
    }
}

fn tiles(
    words: &Words,
    queues: &[QueueStats],
    workers: &[SessionView],
    leader: Option<&Leader>,
) -> Markup {
    let sum = |of: fn(&QueueStats) -> i64| queues.iter().map(of).sum::<i64>();
    let oldest = queues.iter().filter_map(|queue| queue.oldest_available).min();
    let dead = sum(|queue| queue.dead);
    let is_led = leader.is_some_and(|leader| leader.is_held);
    let busy: i64 = workers.iter().map(|worker| i64::from(worker.running)).sum();
    let room: i64 = workers.iter().map(|worker| i64::from(worker.concurrency)).sum();
    html! {
        div.tiles {
            a.tile href="/console/queues" {
                span.label { (words.waiting) }
                strong { (number(sum(|queue| queue.available))) }
                span.detail {
                    @if let Some(at) = oldest { (words.oldest) ": " (moment(words, at)) }
                    @else { (number(sum(|queue| queue.scheduled))) " " (words.later) }
                }
            }
            a.tile href="/console/jobs?state=running" {
                span.label { (words.running) }
                strong { (number(sum(|queue| queue.running))) }
                span.detail { (number(sum(|queue| queue.retryable))) " " (words.retrying) }
            }
            a.tile href="/console/dead-letters" .bad[dead > 0] {
                span.label { (words.dead_letters) }
                strong { (number(dead)) }
                span.detail { (NOTHING) }
            }
            div.tile .bad[workers.is_empty()] {
                span.label { (words.workers) }
                strong { (workers.len()) }
                span.detail { (busy) " / " (room) " " (words.running) }
            }
            a.tile href="/console/schedules" .bad[!is_led] {
                span.label { (words.scheduler) }
                strong.word { @if is_led { (words.scheduler_leads) } @else { (words.scheduler_absent) } }
                span.detail title=[leader.and_then(|leader| leader.holder.as_deref())] {
                    @if let Some(leader) = leader { (words.term) " " (leader.term) }
                }
            }
        }
    }
}

fn source_table(words: &Words, sources: &[SourceRow]) -> Markup {
    html! {
        table.stack {
            thead { tr {
                th { (words.source) } th { (words.last_run) } th { (words.last_success) }
                th { (words.next_start) }
            } }
            tbody { @for row in sources { tr {
                (cell(words.source, html! { strong { (row.name) } }))
                (cell(words.last_run, html! {
                    @if let (Some(run), Some(state)) = (row.summary.last_run, row.summary.last_state) {
                        a href={ "/console/runs/" (run) } { "№ " (run) } " " (run_badge(words, state))
                    } @else { span.quiet { (words.never) } }
                }))
                (cell(words.last_success, moment_or(words, row.summary.succeeded_at, words.never)))
                (cell(words.next_start, moment_or(words, row.next_start, words.by_hand_only)))
            } } }
        }
    }
}

fn worker_table(words: &Words, workers: &[SessionView]) -> Markup {
    html! {
        table.stack {
            thead { tr {
                th { (words.name) } th { (words.host) } th.figure { (words.running) }
                th { (words.last_seen) }
            } }
            tbody { @for worker in workers.iter().take(WORKERS) { tr {
                (cell(words.name, html! {
                    (worker.name)
                    @if worker.draining { " " span.badge { (words.draining) } }
                }))
                (cell(words.host, &worker.host))
                (figure(words.running, html! { (count(worker.running.into())) " / " (worker.concurrency) }))
                (cell(words.last_seen, moment(words, worker.heartbeat_at)))
            } } }
        }
        @if workers.len() > WORKERS { p.quiet { "+ " (workers.len() - WORKERS) } }
    }
}

/// How long a run took, or takes so far.
pub(super) fn run_span(run: &Run) -> Option<String> {
    let from = run.started_at?;
    Some(super::view::span(from, run.finished_at.unwrap_or_else(Utc::now)))
}
