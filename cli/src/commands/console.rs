//! `relevo console …`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use relevo_runs::api_keys::Scope;
use relevo_runs::console;
use relevo_settings::Settings;
use serde_json::json;
use tokio::net::TcpListener;

use crate::args::ConsoleCommand;
use crate::audited::{Audited, actor};
use crate::control::ControlPlane;
use crate::failure::Failure;
use crate::output::Output;

/// File of the data directory that tells where the API listens.
const ADDRESS_FILE: &str = "api-address";

/// Runs it.
pub async fn console(
    control: &ControlPlane,
    command: ConsoleCommand,
    out: Output,
) -> Result<(), Failure> {
    let ConsoleCommand::Link { read_only, minutes } = command;
    let scopes: &[Scope] =
        if read_only { &[Scope::Read] } else { &[Scope::Enqueue, Scope::Read, Scope::Operate] };
    let name = actor().label();
    let mut audited = Audited::begin(control).await?;
    let life = Duration::from_secs(u64::from(minutes) * 60);
    let token = console::make_link(&mut audited.tx, &name, scopes, life)
        .await
        .context("the link can't be made")?;
    let after = json!({"scopes": scopes, "minutes": minutes});
    audited.commit("console.link", "console", None, Some(after)).await?;
    // The one place that shows it: the person who asked, once.
    let url = format!("{}/console/link/{}", base(control), token.expose());
    out.document(&json!({"url": url, "minutes": minutes, "scopes": scopes}), || {
        format!("Open this within {minutes} min; it works once:\n\n  {url}\n")
    })
}

/// Keeps where the API listens, for commands beside it. It does without when the folder cannot be
/// written to. Left behind by a kill, the file misleads nobody for long: the next start writes it
/// anew.
pub fn keep_address(settings: &Settings, listener: &TcpListener) {
    let path = address_file(settings);
    let unfinished = path.with_extension("new");
    let kept = listener.local_addr().and_then(|address| {
        std::fs::create_dir_all(&settings.data_dir)?;
        std::fs::write(&unfinished, format!("{address}\n"))?;
        // In place of one that another user has left, too.
        std::fs::rename(&unfinished, &path)
    });
    if let Err(error) = kept {
        tracing::warn!(%error, "the API's address can't be kept for `relevo console link`");
    }
}

fn address_file(settings: &Settings) -> PathBuf {
    settings.data_dir.join(ADDRESS_FILE)
}

/// Where browsers find the API: its public address, else the one it listens on: as it kept it when
/// it started, or as configured.
fn base(control: &ControlPlane) -> String {
    let api = &control.settings.api;
    if let Some(url) = &api.public_url {
        return url.clone();
    }
    let kept = std::fs::read_to_string(address_file(&control.settings)).ok();
    let mut address = kept.and_then(|address| address.trim().parse().ok()).unwrap_or(api.listen);
    match address.ip() {
        // Everywhere is also here.
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    format!("http://{address}")
}
