//! `relevo console …`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use anyhow::Context as _;
use relevo_runs::api_keys::Scope;
use relevo_runs::console;
use serde_json::json;

use crate::args::ConsoleCommand;
use crate::audited::{Audited, actor};
use crate::control::ControlPlane;
use crate::failure::Failure;
use crate::output::Output;

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

/// Where browsers find the API: its public address, else the one it listens on.
fn base(control: &ControlPlane) -> String {
    let api = &control.settings.api;
    if let Some(url) = &api.public_url {
        return url.clone();
    }
    let mut address = api.listen;
    match address.ip() {
        // Everywhere is also here.
        IpAddr::V4(ip) if ip.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(ip) if ip.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    format!("http://{address}")
}
