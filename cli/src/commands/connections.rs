//! `relevo connection …` and `relevo secret …`.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use relevo_connections::{
    Change, Connections, Keyring, NewConnection, Outbound, Shown, StoreError, Trial, keyring,
    try_out,
};
use relevo_settings::ConnectionKind;
use relevo_telemetry::redact;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::json;

use crate::args::{ConnectionCommand, SecretCommand, outside::ConnectionParts};
use crate::audited::{Audited, actor};
use crate::control::{self, ControlPlane};
use crate::embedded;
use crate::failure::{Advise as _, Exit, Failure, OrFail as _};
use crate::output::{Output, moment_or_none, record, table};

/// The largest URL or key that is read.
const SECRET_BYTES_MAX: u64 = 16 << 10;

/// Runs `relevo connection`.
pub async fn connection(
    control: &ControlPlane,
    command: ConnectionCommand,
    out: Output,
) -> Result<(), Failure> {
    // Targets on the embedded server get their addresses.
    let mut settings = control.settings.clone();
    embedded::find_into(&mut settings).await?;
    let connections = Connections::new(control.pool.clone(), Arc::new(settings));
    match command {
        ConnectionCommand::List => {
            let all = connections.list().await.map_err(failed)?;
            out.document(&all, || list(&all))
        }
        ConnectionCommand::Show { name } => {
            let shown = connections.show(&name).await.map_err(failed)?;
            let shown = shown.ok_or_else(|| failed(StoreError::NotFound(name)))?;
            out.document(&shown, || show(&shown))
        }
        ConnectionCommand::Add { name, kind, parts } => {
            let kind = ConnectionKind::parse(&kind)
                .map_err(|reason| Failure::new(Exit::Usage, format!("--kind: {reason}")))?;
            let parts = read(parts)?;
            let url = parts.url.ok_or_else(|| {
                Failure::new(Exit::Usage, "give --url, or --url-file for one that holds a secret")
            })?;
            let new = NewConnection { kind, url, api_key: parts.api_key, from: parts.from };
            let mut audited = Audited::begin(control).await?;
            let by = actor().label();
            let shown =
                connections.add_in(&mut audited.tx, &name, &new, &by).await.map_err(failed)?;
            audited.commit("connection.add", &name, None, Some(json!(shown))).await?;
            out.document(&shown, || format!("connection {name} is kept: {}", shown.address))
        }
        ConnectionCommand::Set { name, parts } => {
            let change = read(parts)?;
            let mut audited = Audited::begin(control).await?;
            let by = actor().label();
            let before = connections.show(&name).await.map_err(failed)?;
            let shown =
                connections.set_in(&mut audited.tx, &name, &change, &by).await.map_err(failed)?;
            let before = before.map(|before| json!(before));
            audited.commit("connection.set", &name, before, Some(json!(shown))).await?;
            out.document(&shown, || format!("connection {name} is changed: {}", shown.address))
        }
        ConnectionCommand::Remove { name } => {
            let mut audited = Audited::begin(control).await?;
            connections.remove_in(&mut audited.tx, &name).await.map_err(failed)?;
            audited.commit("connection.remove", &name, None, None).await?;
            out.document(&json!({"name": name, "removed": true}), || {
                format!("connection {name} is forgotten")
            })
        }
        ConnectionCommand::Test { name } => test(control, &connections, name, out).await,
    }
}

/// Each refusal with its exit code.
fn failed(error: StoreError) -> Failure {
    let exit = match &error {
        StoreError::NotFound(_) => Exit::NotFound,
        StoreError::Invalid { .. } | StoreError::Exists(_) | StoreError::ReadOnly(_) => Exit::Usage,
        StoreError::Key(_) => Exit::Configuration,
        StoreError::Sealed { .. } | StoreError::TooMany => Exit::Failed,
        StoreError::Database(_) => return anyhow::Error::from(error).into(),
    };
    Failure::with(exit, anyhow::Error::from(error))
}

fn read(parts: ConnectionParts) -> Result<Change, Failure> {
    let stdin = Path::new("-");
    if parts.url_file.as_deref() == Some(stdin) && parts.api_key_file.as_deref() == Some(stdin) {
        let message = "only one of --url-file and --api-key-file can be standard input";
        return Err(Failure::new(Exit::Usage, message));
    }
    let url = match (parts.url, parts.url_file) {
        (Some(url), _) => Some(SecretString::from(url)),
        (None, Some(path)) => Some(secret(&path)?),
        (None, None) => None,
    };
    let api_key = parts.api_key_file.map(|path| secret(&path)).transpose()?;
    for secret in url.iter().chain(&api_key) {
        redact::hide(secret.expose_secret());
    }
    Ok(Change { url, api_key, from: parts.from })
}

/// A file's only line, or that of standard input.
fn secret(path: &PathBuf) -> Result<SecretString, Failure> {
    let mut text = String::new();
    let read = if path.as_os_str() == "-" {
        std::io::stdin().take(SECRET_BYTES_MAX).read_to_string(&mut text)
    } else {
        std::fs::File::open(path)
            .and_then(|file| file.take(SECRET_BYTES_MAX).read_to_string(&mut text))
    };
    read.with_context(|| format!("{} can't be read", path.display())).or_exit(Exit::Usage)?;
    let text = text.trim_end_matches(['\n', '\r']);
    if text.is_empty() || text.chars().any(char::is_control) {
        let message = format!("{} does not hold one line", path.display());
        return Err(Failure::new(Exit::Usage, message));
    }
    Ok(SecretString::from(text))
}

fn list(all: &[Shown]) -> String {
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|shown| {
            vec![
                shown.name.clone(),
                shown.kind.to_owned(),
                shown.origin.as_str().to_owned(),
                shown.address.clone(),
                moment_or_none(shown.updated_at),
            ]
        })
        .collect();
    table(&["NAME", "KIND", "KEPT IN", "ADDRESS", "CHANGED"], &rows, "no connections")
}

fn show(shown: &Shown) -> String {
    record(&[
        ("name", shown.name.clone()),
        ("kind", shown.kind.to_owned()),
        ("kept in", shown.origin.as_str().to_owned()),
        ("address", shown.address.clone()),
        ("key", if shown.has_api_key { "set" } else { "" }.to_owned()),
        ("from", shown.from.clone().unwrap_or_default()),
        ("changed", moment_or_none(shown.updated_at)),
        ("by", shown.updated_by.clone().unwrap_or_default()),
    ])
}

async fn test(
    control: &ControlPlane,
    connections: &Connections,
    name: Option<String>,
    out: Output,
) -> Result<(), Failure> {
    let names = match name {
        Some(name) => vec![name],
        None => {
            let all = connections.list().await.map_err(failed)?;
            all.into_iter().map(|shown| shown.name).collect()
        }
    };
    let outbound = Outbound::new(&control.settings);
    let tried = futures::future::join_all(names.into_iter().map(async |name| {
        match connections.find(&name).await {
            Ok(Some(endpoint)) => Ok(try_out(&endpoint, &outbound).await),
            Ok(None) => Err(failed(StoreError::NotFound(name))),
            Err(error @ (StoreError::Key(_) | StoreError::Sealed { .. })) => {
                Ok(Trial { name, ok: false, message: relevo_errors::chain(&error), duration_ms: 0 })
            }
            Err(error) => Err(failed(error)),
        }
    }))
    .await;
    let tried: Vec<Trial> = tried.into_iter().collect::<Result<_, _>>()?;
    out.document(&tried, || {
        let rows: Vec<Vec<String>> = tried
            .iter()
            .map(|trial| {
                let verdict = if trial.ok { "ok" } else { "FAILED" };
                vec![trial.name.clone(), verdict.to_owned(), format!("{} ms", trial.duration_ms)]
            })
            .collect();
        let mut text = table(&["NAME", "", "TOOK"], &rows, "no connections");
        for trial in &tried {
            text.push_str(&format!("\n{}: {}", trial.name, crate::output::clean(&trial.message)));
        }
        text
    })?;
    let unusable = tried.iter().filter(|trial| !trial.ok).count();
    if unusable == 0 {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("{unusable} connection(s) cannot be used")))
}

/// Runs `relevo secret`.
pub async fn secrets(
    config: Option<&Path>,
    command: SecretCommand,
    out: Output,
) -> Result<(), Failure> {
    match command {
        SecretCommand::Generate => {
            let key = keyring::generate().or_exit(Exit::Failed)?;
            // The one place that shows it: the person who asked, once.
            let shown = key.expose_secret();
            out.document(&json!({"key": shown}), || shown.to_owned())
        }
        SecretCommand::Init => {
            let settings = control::load(config)?.settings;
            let keys = Keyring::load_or_make(&settings).or_exit(Exit::Configuration)?;
            let document = json!({"path": keys.path(), "keys": keys.ids()});
            out.document(&document, || match keys.path() {
                Some(path) => format!(
                    "the key is in {}; copy it to every host that works here, and keep a copy elsewhere",
                    path.display()
                ),
                None => "the key is the one of secrets.key".to_owned(),
            })
        }
        SecretCommand::Rotate => {
            let control = ControlPlane::open(config).await?;
            let settings = Arc::new(control.settings.clone());
            let connections = Connections::new(control.pool.clone(), Arc::clone(&settings));
            let advice = "nothing is lost: what was sealed before opens with the keys at hand";
            let mut audited = Audited::begin(&control).await?;
            let rotation = connections.rotate_in(&mut audited.tx, &actor().label()).await;
            let rotation = rotation.map_err(failed).advise(advice)?;
            let sealed = rotation.sealed;
            let after = Some(json!({"sealed": sealed}));
            audited.commit("secret.rotate", "connections", None, after).await?;
            rotation.end().map_err(failed).advise(advice)?;
            let in_file = settings.secrets.key.is_none();
            out.document(&json!({"sealed": sealed}), || {
                let next = if in_file {
                    "copy the key file to the other hosts"
                } else {
                    "the old key can be taken out of secrets.key"
                };
                format!("{sealed} connection(s) are sealed with a new key; {next}")
            })
        }
    }
}
