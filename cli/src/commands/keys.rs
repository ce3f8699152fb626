//! `relevo key …`.

use std::time::Duration;

use anyhow::Context as _;
use relevo_runs::api_keys::{self, ApiKey, ApiKeyError, Scope, Secret};
use serde_json::json;

use crate::args::KeyCommand;
use crate::audited::Audited;
use crate::control::ControlPlane;
use crate::failure::{Advise as _, Exit, Failure, OrFail as _};
use crate::output::{Output, moment, moment_or_none, table};

/// Runs it.
pub async fn key(control: &ControlPlane, command: KeyCommand, out: Output) -> Result<(), Failure> {
    match command {
        KeyCommand::Create { name, scopes } => create(control, &name, &scopes, out).await,
        KeyCommand::List => list(control, out).await,
        KeyCommand::Rotate { id, overlap } => rotate(control, id, overlap, out).await,
        KeyCommand::Revoke { id } => {
            let mut audited = Audited::begin(control).await?;
            let revoked = api_keys::revoke_in(&mut audited.tx, id)
                .await
                .context("revoking the key failed")?;
            if !revoked {
                return Err(no_good_key(id));
            }
            audited.commit("key.revoke", &id.to_string(), None, None).await?;
            out.document(&json!({"id": id, "revoked": true}), || format!("key {id} is revoked"))
        }
    }
}

async fn create(
    control: &ControlPlane,
    name: &str,
    scopes: &[String],
    out: Output,
) -> Result<(), Failure> {
    let scopes: Vec<Scope> =
        scopes.iter().map(|scope| scope.parse()).collect::<Result<_, _>>().or_exit(Exit::Usage)?;
    let mut audited = Audited::begin(control).await?;
    let (key, secret) = match api_keys::create_in(&mut audited.tx, name, &scopes).await {
        Err(error @ (ApiKeyError::Name | ApiKeyError::NoScope)) => {
            return Err(error).or_exit(Exit::Usage);
        }
        other => other.context("making the key failed")?,
    };
    let after = json!({"name": key.name, "scopes": key.scopes});
    audited.commit("key.create", &key.id.to_string(), None, Some(after)).await?;
    show_once(&key, &secret, out)
}

async fn rotate(
    control: &ControlPlane,
    id: i64,
    overlap_seconds: u32,
    out: Output,
) -> Result<(), Failure> {
    let mut audited = Audited::begin(control).await?;
    let overlap = Duration::from_secs(overlap_seconds.into());
    let rotated = api_keys::rotate_in(&mut audited.tx, id, overlap)
        .await
        .context("making the key failed; the old one is as it was")?;
    let (key, secret) = rotated.ok_or_else(|| no_good_key(id))?;
    let after = json!({"new_key": key.id, "overlap_seconds": overlap_seconds});
    audited.commit("key.rotate", &id.to_string(), None, Some(after)).await?;
    show_once(&key, &secret, out)
}

fn no_good_key(id: i64) -> Failure {
    Failure::new(Exit::NotFound, format!("there is no key {id}, or it opens nothing any more"))
        .advise("`relevo key list` shows them")
}

/// The one place that shows a secret: to the person who asked, once.
fn show_once(key: &ApiKey, secret: &Secret, out: Output) -> Result<(), Failure> {
    let shown = secret.expose();
    out.document(&json!({"key": key, "secret": shown}), || {
        format!(
            "key {} ({}) is made. Its secret is shown this once:\n\n  {shown}\n\nUse it as `X-API-Key: …` or `Authorization: Bearer …`.",
            key.id, key.name
        )
    })
    .advise(format!("its secret couldn't be printed; revoke it: relevo key revoke {}", key.id))
}

async fn list(control: &ControlPlane, out: Output) -> Result<(), Failure> {
    let keys = api_keys::list(&control.pool).await.context("listing keys failed")?;
    out.document(&keys, || {
        let rows: Vec<Vec<String>> = keys
            .iter()
            .map(|key| {
                let scopes: Vec<&str> = key.scopes.iter().map(|scope| scope.as_str()).collect();
                vec![
                    key.id.to_string(),
                    key.name.clone(),
                    format!("rk_{}…", key.prefix),
                    scopes.join(" "),
                    moment(key.created_at),
                    moment_or_none(key.last_used_at),
                    moment_or_none(key.revoked_at),
                ]
            })
            .collect();
        let headers = ["ID", "NAME", "KEY", "SCOPES", "CREATED", "LAST USED", "REVOKED"];
        table(&headers, &rows, "no API keys; `relevo key create` makes one")
    })
}
