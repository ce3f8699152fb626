//! Taking a run's import back: first a page that says what will happen, then the deed.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use relevo_runs::{Run, RunError, RunId, RunState};

use super::back_to;
use super::view::{Freshness, button, fact, moment_or, page};
use super::visitor::{Posted, Visitor};
use crate::app::App;
use crate::error::ApiError;
use crate::extract::Named;
use crate::routes::rollback::roll_back;

/// Whether there may be something to take back; the target knows for certain.
fn may_be_taken_back(run: &Run) -> bool {
    run.state == RunState::Succeeded && run.certificate.is_some() && run.rolled_back_at.is_none()
}

/// The way to the question, on the page of a run that has something to take back.
pub(super) fn link(visitor: &Visitor, run: &Run) -> Markup {
    html! {
        @if visitor.may_operate() && may_be_taken_back(run) {
            p { a href={ "/console/runs/" (run.id) "/rollback" } { (visitor.words.roll_back) "…" } }
        }
    }
}

/// Says what will happen, and asks.
pub(super) async fn ask(
    visitor: Visitor,
    State(app): State<App>,
    Named(id): Named<RunId>,
) -> Result<Response, ApiError> {
    let run = app.runs.get(id).await?.ok_or(RunError::NotFound(id))?;
    let words = visitor.words;
    let certificate = run.certificate.as_ref();
    let tables: Vec<&str> = certificate
        .and_then(|certificate| certificate["tables"].as_array())
        .into_iter()
        .flatten()
        .filter_map(|table| table["table"].as_str())
        .collect();
    let schema = certificate.and_then(|certificate| certificate["schema"].as_str());
    let here = format!("/console/runs/{id}");
    let content = html! {
        h1 { (words.roll_back) "?" }
        section.panel {
            p { (words.roll_back_explained) }
            dl.facts {
                (fact(words.run, Some(html! { a href=(here) { "№ " (id) } })))
                (fact(words.source, Some(html! { strong { (run.source) } })))
                (fact(words.finished, Some(moment_or(words, run.finished_at, ""))))
                (fact(words.schema, schema.map(|schema| html! { code { (schema) } })))
                (fact(words.tables, Some(html! {
                    (tables.len()) ": " @for table in &tables { code { (table) } " " }
                })))
            }
            div.actions {
                @if visitor.may_operate() && may_be_taken_back(&run) {
                    (button(&visitor, &format!("{here}/rollback"), words.yes_roll_back, &[]))
                }
                " " a href=(here) { (words.go_back) }
            }
        }
    };
    Ok(page(&visitor, words.roll_back, Freshness::Still, &content))
}

pub(super) async fn act(
    State(app): State<App>,
    Named(id): Named<RunId>,
    posted: Posted,
) -> Result<Response, ApiError> {
    roll_back(&app, posted.operator()?, id).await?;
    Ok(back_to(&format!("/console/runs/{id}"), "rolled_back"))
}
