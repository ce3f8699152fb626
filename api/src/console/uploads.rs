//! Uploads: dumps that somebody hands over, and how much of each has arrived.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use relevo_runs::uploads::Upload;

use super::view::{Freshness, cell, figure, moment, page, pager, size};
use super::visitor::Visitor;
use super::words::Words;
use crate::app::App;
use crate::error::ApiError;
use crate::page::LIMIT_DEFAULT;
use crate::routes::uploads::newest;

/// The page.
const PATH: &str = "/console/uploads";

pub(super) async fn list(visitor: Visitor, State(app): State<App>) -> Result<Response, ApiError> {
    let fields = &visitor.fields;
    let before = fields.number("before")?;
    let uploads = newest(&app, None, before, LIMIT_DEFAULT).await?;
    let full = uploads.len() >= usize::from(LIMIT_DEFAULT);
    let next_before = uploads.last().filter(|_| full).map(|(upload, _)| upload.id);
    let words = visitor.words;
    let content = html! {
        h1 { (words.uploads) }
        section.panel {
            @if uploads.is_empty() { p.empty { (words.no_uploads) } }
            @else {
                table.stack {
                    thead { tr {
                        th { "№" } th { (words.source) } th { (words.filename) }
                        th.figure { (words.size) } th { (words.progress) } th { (words.created) }
                        th { (words.expires) } th { (words.run) }
                    } }
                    tbody { @for (upload, received) in &uploads { (row(words, upload, *received)) } }
                }
            }
        }
        (pager(words, PATH, fields, &[], next_before))
    };
    let freshness = if before.is_none() { Freshness::Refreshed } else { Freshness::Still };
    Ok(page(&visitor, words.uploads, freshness, &content))
}

fn row(words: &Words, upload: &Upload, received: u64) -> Markup {
    let total = u64::try_from(upload.total_bytes).unwrap_or(0);
    html! {
        tr {
            (cell("№", upload.id))
            (cell(words.source, &upload.source))
            (cell(words.filename, &upload.filename))
            (figure(words.size, size(total)))
            (cell(words.progress, html! {
                @if upload.completed_at.is_some() { span.badge.succeeded { (words.complete) } }
                @else {
                    progress max=(total) value=(received) {}
                    " " (size(received))
                }
            }))
            (cell(words.created, moment(words, upload.created_at)))
            // What is complete goes with its run.
            (cell(words.expires, html! {
                @if upload.run_id.is_none() { (moment(words, upload.expires_at)) }
            }))
            (cell(words.run, html! {
                @if let Some(run) = upload.run_id { a href={ "/console/runs/" (run) } { "№ " (run) } }
            }))
        }
    }
}
