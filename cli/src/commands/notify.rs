//! `relevo notify …`.

use std::sync::Arc;

use anyhow::Context as _;
use relevo_notify::{Occasion, Sender, alerts};
use serde::Serialize;

use crate::args::NotifyCommand;
use crate::control::ControlPlane;
use crate::failure::{Advise as _, Exit, Failure};
use crate::output::{Output, moment, moment_or_none, table};

/// Runs it.
pub async fn notify(
    control: &ControlPlane,
    command: NotifyCommand,
    out: Output,
) -> Result<(), Failure> {
    match command {
        NotifyCommand::Test { channel } => test(control, channel.as_deref(), out).await,
        NotifyCommand::Channels => channels(control, out),
        NotifyCommand::Alerts { all, limit } => {
            let alerts = alerts::list(&control.pool, !all, None, limit)
                .await
                .context("listing alerts failed")?;
            out.document(&alerts, || {
                let rows: Vec<Vec<String>> = alerts
                    .iter()
                    .map(|alert| {
                        vec![
                            alert.id.to_string(),
                            alert.rule.clone(),
                            alert.subject.clone(),
                            moment(alert.opened_at),
                            moment_or_none(alert.resolved_at),
                            alert.occurrences.to_string(),
                        ]
                    })
                    .collect();
                let headers = ["ID", "RULE", "SUBJECT", "SINCE", "RESOLVED", "SEEN"];
                table(&headers, &rows, "no alerts")
            })
        }
    }
}

/// What became of one channel's test.
#[derive(Serialize)]
struct Tested {
    channel: String,
    kind: &'static str,
    ok: bool,
    error: Option<String>,
}

async fn test(control: &ControlPlane, only: Option<&str>, out: Output) -> Result<(), Failure> {
    let sender = Sender::new(&control.pool, Arc::new(control.settings.clone()))
        .await
        .context("the channels can't be set up")?;
    let all = sender.channels();
    let wanted: Vec<_> =
        all.iter().filter(|channel| only.is_none_or(|only| only == channel.name)).collect();
    if wanted.is_empty() {
        let message = match only {
            Some(name) => format!("there is no channel {name}"),
            None => "there is no channel".to_owned(),
        };
        return Err(Failure::new(Exit::NotFound, message)).advise(
            "set notify.webhook_url, or notify.email and [smtp], or a [channel.NAME]; docs/notifications.md tells more",
        );
    }
    let tested = futures::future::join_all(wanted.into_iter().map(async |channel| {
        let sent = sender.tell(channel, &Occasion::Test).await;
        Tested {
            channel: channel.name.clone(),
            kind: channel.kind(),
            ok: sent.is_ok(),
            error: sent.err().map(|error| relevo_errors::chain(&error)),
        }
    }))
    .await;
    out.document(&tested, || {
        let lines = tested.iter().map(|tested| match &tested.error {
            None => format!("{} ({}): the message was taken", tested.channel, tested.kind),
            Some(error) => format!("{} ({}): FAILED: {error}", tested.channel, tested.kind),
        });
        lines.collect::<Vec<_>>().join("\n")
    })?;
    let failed = tested.iter().filter(|tested| !tested.ok).count();
    if failed == 0 {
        return Ok(());
    }
    Err(Failure::new(Exit::Failed, format!("{failed} channel(s) did not take the message")))
}

fn channels(control: &ControlPlane, out: Output) -> Result<(), Failure> {
    #[derive(Serialize)]
    struct Shown {
        name: String,
        kind: &'static str,
        language: &'static str,
        events: Vec<&'static str>,
        sources: Vec<String>,
    }
    let shown: Vec<Shown> = relevo_notify::channels(&control.settings)
        .into_iter()
        .map(|channel| Shown {
            kind: channel.kind(),
            language: channel.language.as_str(),
            events: channel.events.iter().map(|event| event.as_str()).collect(),
            name: channel.name,
            sources: channel.sources,
        })
        .collect();
    out.document(&shown, || {
        let rows: Vec<Vec<String>> = shown
            .iter()
            .map(|channel| {
                let sources = channel.sources.join(" ");
                vec![
                    channel.name.clone(),
                    channel.kind.to_owned(),
                    channel.language.to_owned(),
                    channel.events.join(" "),
                    if sources.is_empty() { "all".to_owned() } else { sources },
                ]
            })
            .collect();
        table(&["NAME", "KIND", "LANGUAGE", "EVENTS", "SOURCES"], &rows, "no channels")
    })
}
