//! Connections: the named endpoints, tried out, kept, changed and forgotten. A secret goes in, and
//! never comes out.

use axum::extract::State;
use axum::response::Response;
use maud::{Markup, html};
use relevo_connections::{Change, NewConnection, Origin, Shown, StoreError, Trial};
use relevo_settings::{ConnectionKind, Settings};
use secrecy::SecretString;

use super::back_to;
use super::view::{Freshness, button, cell, fact, form_token, moment_or, page};
use super::visitor::{Fields, Posted, Visitor};
use super::words::Words;
use crate::app::App;
use crate::error::ApiError;
use crate::extract::Named;
use crate::routes::connections::{
    add_connection, change_connection, remove_connection, try_connection,
};

/// The page.
const PATH: &str = "/console/connections";

pub(super) async fn list(visitor: Visitor, State(app): State<App>) -> Result<Response, ApiError> {
    listed(&visitor, &app, None).await
}

/// The page, with what became of a trial.
async fn listed(visitor: &Visitor, app: &App, trial: Option<&Trial>) -> Result<Response, ApiError> {
    let words = visitor.words;
    let all = app.connections().list().await?;
    let content = html! {
        h1 { (words.connections) }
        @if let Some(trial) = trial {
            p.notice[trial.ok].warning[!trial.ok] role="status" #trial {
                strong { (trial.name) } " " (if trial.ok { words.works } else { words.works_not })
                ": " (trial.message) " (" (trial.duration_ms) " ms)"
            }
        }
        section.panel {
            @if all.is_empty() { p.empty { (words.no_connections) } }
            @else { (table(visitor, &all)) }
        }
        @if visitor.may_administer() { (add_form(visitor)) }
    };
    Ok(page(visitor, words.connections, Freshness::Still, &content))
}

fn table(visitor: &Visitor, all: &[Shown]) -> Markup {
    let words = visitor.words;
    let own_page = |shown: &Shown| {
        let is_ours = shown.origin == Origin::Stored && visitor.may_administer();
        is_ours.then(|| format!("{PATH}/{}", shown.name))
    };
    html! {
        table.stack {
            thead { tr {
                th { (words.name) } th { (words.kind) } th { (words.address) } th { (words.kept_in) }
                th { (words.changed_at) }
                @if visitor.may_administer() { th { span.hidden { (words.actions) } } }
            } }
            tbody { @for shown in all { tr {
                (cell(words.name, html! {
                    @if let Some(own_page) = own_page(shown) { a href=(own_page) { (shown.name) } }
                    @else { strong { (shown.name) } }
                }))
                (cell(words.kind, shown.kind))
                (cell(words.address, html! {
                    code { (shown.address) }
                    @if shown.has_api_key { " " span.quiet { (words.has_key) } }
                }))
                (cell(words.kept_in, origin(words, shown)))
                (cell(words.changed_at, moment_or(words, shown.updated_at, "")))
                @if visitor.may_administer() {
                    td.actions {
                        (button(visitor, "/console/connection-trial", words.test, &[("name", &shown.name)]))
                    }
                }
            } } }
        }
    }
}

fn origin(words: &Words, shown: &Shown) -> &'static str {
    match shown.origin {
        Origin::File => words.in_file,
        Origin::Stored => words.in_control_plane,
    }
}

fn add_form(visitor: &Visitor) -> Markup {
    let words = visitor.words;
    html! {
        details.panel #add {
            summary { (words.add_connection) "…" }
            p.quiet { (words.add_hint) }
            form.fields method="post" action=(PATH) {
                (form_token(visitor))
                label { span { (words.name) }
                    input name="name" required maxlength="40" pattern="[a-z0-9_\\-]+" autocomplete="off";
                }
                label { span { (words.kind) }
                    select name="kind" {
                        @for kind in ConnectionKind::ALL { option { (kind.as_str()) } }
                    }
                }
                (secret_fields(words, true))
                button.primary type="submit" { (words.save) }
            }
        }
    }
}

/// Where the secrets go in; nothing stands in them at first.
fn secret_fields(words: &Words, is_new: bool) -> Markup {
    html! {
        label { span { (words.url) }
            input type="password" name="url" required[is_new] maxlength="8192" autocomplete="new-password";
        }
        label { span { (words.key_of_gateway) }
            input type="password" name="api_key" maxlength="8192" autocomplete="new-password";
        }
        label { span { (words.from_address) }
            input type="email" name="from" maxlength="320" autocomplete="off";
        }
    }
}

pub(super) async fn show(
    visitor: Visitor,
    State(app): State<App>,
    Named(name): Named<String>,
) -> Result<Response, ApiError> {
    let shown = app.connections().show(&name).await?;
    let shown = shown.ok_or_else(|| StoreError::NotFound(name.clone()))?;
    let words = visitor.words;
    let users = used_by(&app.settings(), &name);
    let may_change = shown.origin == Origin::Stored && visitor.may_administer();
    let here = format!("{PATH}/{name}");
    let content = html! {
        h1 { (name) " " span.source { (shown.kind) } }
        section.panel {
            dl.facts {
                (fact(words.address, Some(html! { code { (shown.address) } })))
                (fact(words.kept_in, Some(html! { (origin(words, &shown)) })))
                (fact(words.from_address, shown.from.as_ref().map(|from| html! { (from) })))
                (fact(words.changed_at, shown.updated_at.map(|at| html! {
                    (moment_or(words, Some(at), "")) " " (words.by) " "
                    (shown.updated_by.as_deref().unwrap_or_default())
                })))
                @if !users.is_empty() {
                    (fact(words.used_by, Some(html! {
                        @for user in &users { code { (user) } " " }
                    })))
                }
            }
            @if may_change {
                details {
                    summary { (words.change_connection) "…" }
                    p.quiet { (words.change_hint) }
                    form.fields method="post" action={ (here) "/set" } {
                        (form_token(&visitor))
                        (secret_fields(words, false))
                        button.primary type="submit" { (words.save) }
                    }
                }
                details.danger {
                    summary { (words.forget) "…" }
                    p { (words.forget_explained) }
                    @if !users.is_empty() {
                        p.warning { (words.used_by) ": " @for user in &users { code { (user) } " " } }
                    }
                    (button(&visitor, &format!("{here}/forget"), words.yes_forget, &[]))
                }
            }
        }
        p { a href=(PATH) { "← " (words.connections) } }
    };
    Ok(page(&visitor, &name, Freshness::Still, &content))
}

/// The keys of the configuration that name a connection.
fn used_by(settings: &Settings, connection: &str) -> Vec<String> {
    let mut users = Vec::new();
    for (name, source) in &settings.backup {
        let keys = source.connections().into_iter().filter(|(.., named)| *named == connection);
        users.extend(keys.map(|(key, ..)| format!("backup.{name}.{key}")));
    }
    let channels = settings.channel.iter();
    let of_channels = channels.filter(|(_, one)| one.connection.as_deref() == Some(connection));
    users.extend(of_channels.map(|(name, _)| format!("channel.{name}.connection")));
    users
}

fn secret(fields: &Fields, name: &str) -> Option<SecretString> {
    fields.get(name).map(SecretString::from)
}

pub(super) async fn add(State(app): State<App>, posted: Posted) -> Result<Response, ApiError> {
    let actor = posted.administrator()?;
    let fields = &posted.fields;
    let kind = ConnectionKind::parse(fields.needed("kind")?)
        .map_err(|reason| ApiError::unprocessable("invalid_body", format!("kind: {reason}")))?;
    let new = NewConnection {
        kind,
        url: SecretString::from(fields.needed("url")?),
        api_key: secret(fields, "api_key"),
        from: fields.get("from").map(str::to_owned),
    };
    let shown = add_connection(&app, actor, fields.needed("name")?, &new).await?;
    Ok(back_to(&format!("{PATH}/{}", shown.name), "kept"))
}

pub(super) async fn set(
    State(app): State<App>,
    Named(name): Named<String>,
    posted: Posted,
) -> Result<Response, ApiError> {
    let actor = posted.administrator()?;
    let fields = &posted.fields;
    let change = Change {
        url: secret(fields, "url"),
        api_key: secret(fields, "api_key"),
        from: fields.get("from").map(str::to_owned),
    };
    let shown = change_connection(&app, actor, &name, &change).await?;
    Ok(back_to(&format!("{PATH}/{}", shown.name), "changed"))
}

pub(super) async fn forget(
    State(app): State<App>,
    Named(name): Named<String>,
    posted: Posted,
) -> Result<Response, ApiError> {
    remove_connection(&app, posted.administrator()?, &name).await?;
    Ok(back_to(PATH, "forgotten"))
}

pub(super) async fn test(State(app): State<App>, posted: Posted) -> Result<Response, ApiError> {
    let actor = posted.administrator()?;
    let trial = try_connection(&app, &actor, posted.fields.needed("name")?).await?;
    listed(posted.visitor(), &app, Some(&trial)).await
}
