//! Sources: where data come from, how they stand, and starting one now.

use std::collections::HashMap;

use axum::extract::State;
use axum::response::{IntoResponse as _, Redirect, Response};
use chrono::{DateTime, Utc};
use maud::{Markup, html};
use relevo_runs::backup::{BackupMode, PIPELINE, StartOptions};
use relevo_runs::console::{self, SourceSummary};
use relevo_runs::schedules;
use relevo_settings::BackupSource;
use secrecy::ExposeSecret as _;

use super::view::{Freshness, fact, form_token, moment_or, page, run_badge};
use super::visitor::{Posted, Visitor};
use crate::app::App;
use crate::error::ApiError;
use crate::routes::backups::start_run;
use crate::routes::schedules::next_slots;
use crate::routes::sources::without_secrets;

/// A source as it is configured, and how it stands.
pub(super) struct SourceRow {
    pub(super) name: String,
    pub(super) source: BackupSource,
    pub(super) summary: SourceSummary,
    /// When the clock starts it next.
    pub(super) next_start: Option<DateTime<Utc>>,
}

/// Every configured source.
pub(super) async fn rows(app: &App) -> Result<Vec<SourceRow>, ApiError> {
    let settings = app.settings();
    let names: Vec<String> = settings.backup.keys().cloned().collect();
    let summaries = console::sources(&app.pool, PIPELINE, &names).await?;
    let mut next: HashMap<String, DateTime<Utc>> = HashMap::new();
    for schedule in schedules::list(&app.pool, None).await? {
        let soonest = next_slots(app, &schedule).into_iter().min();
        if let (Some(source), Some(soonest)) = (schedule.backup_source, soonest) {
            next.entry(source).and_modify(|at| *at = soonest.min(*at)).or_insert(soonest);
        }
    }
    let rows = settings.backup.iter().zip(summaries);
    Ok(rows
        .map(|((name, source), summary)| SourceRow {
            next_start: next.get(name).copied(),
            name: name.clone(),
            source: source.clone(),
            summary,
        })
        .collect())
}

pub(super) async fn list(visitor: Visitor, State(app): State<App>) -> Result<Response, ApiError> {
    let rows = rows(&app).await?;
    let words = visitor.words;
    let content = html! {
        h1 { (words.sources) }
        @if rows.is_empty() { section.panel { p.empty { (words.no_sources) } } }
        @for row in &rows { (source(&visitor, &app, row)) }
    };
    Ok(page(&visitor, words.sources, Freshness::Refreshed, &content))
}

fn source(visitor: &Visitor, app: &App, row: &SourceRow) -> Markup {
    let words = visitor.words;
    let summary = &row.summary;
    let target = without_secrets(row.source.target_url.expose_secret());
    html! {
        section.panel {
            h2 { (row.name) }
            dl.facts {
                (fact(words.last_run, Some(html! {
                    @if let (Some(run), Some(state)) = (summary.last_run, summary.last_state) {
                        a href={ "/console/runs/" (run) } { "№ " (run) } " " (run_badge(words, state))
                    } @else { span.quiet { (words.never) } }
                })))
                (fact(words.last_success, Some(html! {
                    (moment_or(words, summary.succeeded_at, words.never))
                    @if let Some(run) = summary.succeeded_run {
                        " " a href={ "/console/runs/" (run) } { "№ " (run) }
                    }
                })))
                (fact(words.next_start, Some(moment_or(words, row.next_start, words.by_hand_only))))
                (fact(words.from, Some(html! { code { (row.source.origin()) } })))
                (fact(words.to, Some(html! { code { (target) } " " (row.source.target_schema) })))
            }
            @if visitor.may_start() { (start_form(visitor, app, &row.name)) }
        }
    }
}

fn start_form(visitor: &Visitor, app: &App, name: &str) -> Markup {
    let words = visitor.words;
    html! {
        form.action.start method="post" action="/console/sources/start" {
            (form_token(visitor))
            input type="hidden" name="source" value=(name);
            label { span { (words.mode) }
                select name="mode" {
                    option value="auto" { "auto" }
                    @if app.settings().api.public_url.is_some() { option value="webhook" { "webhook" } }
                    option value="sync" { "sync" }
                }
            }
            label.check { input type="checkbox" name="force" value="true"; " " (words.force) }
            button.primary type="submit" { (words.run_now) }
        }
    }
}

pub(super) async fn start(State(app): State<App>, posted: Posted) -> Result<Response, ApiError> {
    let actor = posted.starter()?;
    let fields = &posted.fields;
    let source = fields.needed("source")?;
    let mode: BackupMode = fields
        .get("mode")
        .unwrap_or("auto")
        .parse()
        .map_err(|_| ApiError::bad_request("invalid_query", "mode is auto, webhook or sync"))?;
    let force = fields.get("force") == Some("true");
    let options = StartOptions { mode, force, upload: None };
    let run = start_run(&app, actor, "backup.start", source, source, &options).await?;
    Ok(Redirect::to(&format!("/console/runs/{run}?done=started")).into_response())
}
