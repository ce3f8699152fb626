//! Which jobs tell what: one for each channel that hears of it.

use relevo_jobs::Notify;
use relevo_queue::NewJob;
use relevo_runs::{Run, typed_job};
use relevo_settings::{ChannelEvent, Settings};

use crate::alerts::{Alert, Rule};
use crate::channels::{HEARTBEAT, channels};
use crate::message::Occasion;

/// The job that finds out who hears of an alert, and enqueues one job for each. To be enqueued in
/// the transaction that raised or resolved it.
#[must_use]
pub fn alert_job(alert_id: i64, resolved: bool) -> NewJob {
    typed_job(&Notify::of_alert(alert_id, resolved))
}

/// The jobs that tell of a run's end. `failing` is the state of failing that it goes on with or, for
/// a success, ends: then those are told too who had heard of the failures only.
#[must_use]
pub fn run_jobs(settings: &Settings, run: &Run, failing: Option<i64>) -> Vec<NewJob> {
    let event = Occasion::Run(Box::new(run.clone()), None).event();
    let succeeded = event == ChannelEvent::Success;
    let heartbeat = settings.backup.get(&run.source).is_some_and(|s| s.heartbeat_url.is_some());
    let told = channels(settings).into_iter().filter(|channel| {
        channel.hears(event, Some(&run.source))
            || (succeeded
                && failing.is_some()
                && channel.hears(ChannelEvent::Failure, Some(&run.source)))
    });
    let names = told.map(|channel| channel.name);
    let heartbeat = (succeeded && heartbeat).then(|| HEARTBEAT.to_owned());
    names
        .chain(heartbeat)
        .map(|channel| {
            run.in_trace(typed_job(&Notify {
                channel: Some(channel),
                alert_id: failing,
                ..Notify::of_run(run.id.0)
            }))
        })
        .collect()
}

/// The jobs that tell of an alert. A channel is not told of itself.
#[must_use]
pub fn alert_jobs(settings: &Settings, alert: &Alert, resolved: bool) -> Vec<NewJob> {
    let occasion = Occasion::Alert(alert.clone());
    let itself = (alert.rule == Rule::Channel.as_str()).then_some(&alert.subject);
    channels(settings)
        .into_iter()
        .filter(|channel| Some(&channel.name) != itself)
        .filter(|channel| channel.hears(ChannelEvent::Alert, occasion.source()))
        .map(|channel| {
            typed_job(&Notify {
                channel: Some(channel.name),
                ..Notify::of_alert(alert.id, resolved)
            })
        })
        .collect()
}
