//! The built-in rules, looked at by the leader.
//!
//! What is found is told by jobs, as everything is. When no worker is alive there is nobody to run
//! those: then the leader tells people itself, each channel until it has taken the message.

use std::collections::BTreeSet;
use std::time::Duration;

use relevo_notify::rules::{self, RuleError, Watch};
use relevo_notify::{Alert, Occasion, Sender, channels};
use relevo_settings::ChannelEvent;
use tokio_util::sync::CancellationToken;

use crate::SchedulerDeps;
use crate::upkeep::Step;

/// How long one look may take.
const LOOK_TIMEOUT: Duration = Duration::from_secs(60);

/// How long telling every channel may take; what is left is told after the next look.
const TELL_TIMEOUT: Duration = Duration::from_secs(90);

/// Looks until `over`.
pub async fn run(deps: SchedulerDeps, over: CancellationToken) {
    let host = rules::host();
    let mut step = Step::new("alerts", LOOK_TIMEOUT);
    let mut watch = Watch::default();
    let mut untold: Option<(Alert, BTreeSet<String>)> = None;
    while !over.is_cancelled() {
        let settings = deps.settings.now();
        let pause = Duration::from_secs(settings.alerts.interval_seconds);
        let look = async {
            let space = rules::space(&settings.data_dir).await;
            if let Some(space) = space {
                deps.metrics.set_disk(space.free_bytes, space.total_bytes);
            }
            watch.look(&deps.queue, &settings, &host, space).await?;
            if let Some((alert, _)) = &untold {
                let now = relevo_notify::alerts::get(&deps.pool, alert.id).await?;
                if now.is_none_or(|now| now.resolved_at.is_some()) {
                    untold = None;
                }
            }
            Ok::<_, RuleError>(())
        };
        step.run(&deps.metrics, &over, look).await;
        if let Some(begun) = watch.take_workerless() {
            untold = Some((begun, hearers(&deps)));
        }
        if let Some((alert, names)) = &mut untold {
            tokio::select! {
                () = over.cancelled() => return,
                _ = tokio::time::timeout(TELL_TIMEOUT, tell(&deps, alert, names)) => {}
            }
            if names.is_empty() {
                untold = None;
            }
        }
        tokio::select! {
            () = over.cancelled() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// The channels that hear of alerts.
fn hearers(deps: &SchedulerDeps) -> BTreeSet<String> {
    let all = channels(&deps.settings.now()).into_iter();
    all.filter(|channel| channel.hears(ChannelEvent::Alert, None))
        .map(|channel| channel.name)
        .collect()
}

/// Tells those of `names`; who has taken the message, or never will, is taken out.
async fn tell(deps: &SchedulerDeps, alert: &Alert, names: &mut BTreeSet<String>) {
    let sender = match Sender::new(&deps.pool, deps.settings.now()).await {
        Ok(sender) => sender,
        Err(error) => {
            tracing::warn!(error = %error, "nobody can be told that no worker is alive");
            return;
        }
    };
    let occasion = Occasion::Alert(alert.clone());
    for channel in sender.channels() {
        if !names.contains(&channel.name) {
            continue;
        }
        match sender.tell(&channel, &occasion).await {
            Ok(()) => {
                names.remove(&channel.name);
            }
            Err(error) => {
                let transient = error.is_transient();
                let error = relevo_errors::chain(&error);
                tracing::warn!(
                    channel = channel.name,
                    error,
                    "no worker is alive, and one channel could not be told"
                );
                if !transient {
                    names.remove(&channel.name);
                }
            }
        }
    }
}
