//! Alerts: what is open, since when, when people were told, and what is over.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use relevo_notify::{Alert, Occasion, alerts, message};
use relevo_settings::{Language, Settings};

use super::view::{Freshness, cell, figure, moment, moment_or, number, page, pager};
use super::visitor::Visitor;
use super::words::Words;
use crate::app::App;
use crate::error::ApiError;
use crate::page::LIMIT_DEFAULT;

/// The page.
const PATH: &str = "/console/alerts";

pub(super) async fn list(visitor: Visitor, State(app): State<App>) -> Result<Response, ApiError> {
    let fields = &visitor.fields;
    let open_only = fields.get("open") == Some("true");
    let before = fields.number("before")?;
    let found = alerts::list(&app.pool, open_only, before, LIMIT_DEFAULT).await?;
    let full = found.len() >= usize::from(LIMIT_DEFAULT);
    let next_before = found.last().filter(|_| full).map(|alert| alert.id);
    let settings = app.settings();
    let words = visitor.words;
    let freshness = if before.is_none() { Freshness::Refreshed } else { Freshness::Still };
    let content = html! {
        h1 { (words.alerts) }
        p.filters {
            @if open_only { a href=(PATH) { (words.show_all) } }
            @else { a href={ (PATH) "?open=true" } { (words.open_only) } }
        }
        section.panel {
            @if found.is_empty() { p.empty { (words.no_alerts) } }
            @else { (table(words, &settings, &found)) }
        }
        (pager(words, PATH, fields, &["open"], next_before))
    };
    Ok(page(&visitor, words.alerts, freshness, &content))
}

fn table(words: &Words, settings: &Settings, alerts: &[Alert]) -> Markup {
    html! {
        table.stack {
            thead { tr {
                th { (words.what) } th { (words.state) } th { (words.since) } th { (words.told) }
                th { (words.last_seen) } th { (words.over) } th.figure { (words.times_seen) }
            } }
            tbody { @for alert in alerts { tr.bad[alert.resolved_at.is_none()] {
                (cell(words.what, html! {
                    strong { (alert.subject) } " " span.quiet { code { (alert.rule) } }
                    br; (sentence(words, settings, alert))
                }))
                (cell(words.state, html! {
                    @if alert.resolved_at.is_none() { span.badge.failed { (words.open) } }
                    @else { span.badge.succeeded { (words.over) } }
                }))
                (cell(words.since, moment(words, alert.opened_at)))
                (cell(words.told, moment_or(words, alert.told_at, words.never)))
                (cell(words.last_seen, moment(words, alert.last_seen_at)))
                (cell(words.over, moment_or(words, alert.resolved_at, "")))
                (figure(words.times_seen, number(alert.occurrences)))
            } } }
        }
    }
}

/// What people are told of it, in the page's language.
fn sentence(words: &Words, settings: &Settings, alert: &Alert) -> String {
    let language = if words.code == "es" { Language::Es } else { Language::En };
    let alert = alert.clone();
    let occasion = if alert.resolved_at.is_some() {
        Occasion::Resolved(alert)
    } else {
        Occasion::Alert(alert)
    };
    message::compose(&occasion, "console", language, settings).text
}
