//! `relevo queue …`.

use std::time::Duration;

use anyhow::Context as _;
use relevo_jobs::JobKind;
use relevo_queue::{JobFilter, QueueError};
use serde_json::json;

use super::queue_top;
use crate::args::QueueCommand;
use crate::audited::Audited;
use crate::control::ControlPlane;
use crate::failure::{Exit, Failure, OrFail as _};
use crate::output::{Output, count, moment_or_none, table};

/// Runs it.
pub async fn queue(
    control: &ControlPlane,
    command: QueueCommand,
    out: Output,
) -> Result<(), Failure> {
    match command {
        QueueCommand::List => list(control, out).await,
        QueueCommand::Stats { minutes } => {
            queue_top::stats(control, Duration::from_secs(u64::from(minutes) * 60), out).await
        }
        QueueCommand::Top { interval, once } => {
            queue_top::top(control, Duration::from_secs(interval.into()), once, out).await
        }
        QueueCommand::Pause { queue } => {
            let changed = set_paused(control, &queue, true).await?;
            let is_known = is_known(control, &queue).await?;
            let document =
                json!({"queue": queue, "paused": true, "changed": changed, "known": is_known});
            out.document(&document, || {
                let already = if changed { "" } else { " already" };
                let doubt = if is_known {
                    ""
                } else {
                    "\nnote: no kind uses it by itself and no job is in it: is its name right?"
                };
                format!("queue {queue} is paused{already}; what runs goes on{doubt}")
            })
        }
        QueueCommand::Resume { queue } => {
            let changed = set_paused(control, &queue, false).await?;
            out.document(&json!({"queue": queue, "paused": false, "changed": changed}), || {
                if changed {
                    format!("queue {queue} goes on")
                } else {
                    format!("queue {queue} wasn't paused")
                }
            })
        }
    }
}

/// Whether a kind uses the queue by itself, or a job is in it.
async fn is_known(control: &ControlPlane, queue: &str) -> Result<bool, Failure> {
    if JobKind::ALL.iter().any(|kind| relevo_jobs::policy(*kind).queue == queue)
        || control.all_kinds().await?.own().any(|published| published.spec.queue == queue)
    {
        return Ok(true);
    }
    let filter =
        JobFilter { queue: Some(queue.to_owned()), limit: Some(1), ..JobFilter::default() };
    let jobs = control.queue.jobs(&filter).await.context("looking into the queue failed")?;
    Ok(!jobs.is_empty())
}

/// False when it was so before.
async fn set_paused(control: &ControlPlane, queue: &str, paused: bool) -> Result<bool, Failure> {
    let mut audited = Audited::begin(control).await?;
    let (outcome, action) = if paused {
        (control.queue.pause_in(&mut audited.tx, queue).await, "queue.pause")
    } else {
        (control.queue.resume_in(&mut audited.tx, queue).await, "queue.resume")
    };
    let changed = refuse_bad_name(outcome)?;
    if changed {
        audited.commit(action, queue, None, None).await?;
    }
    Ok(changed)
}

fn refuse_bad_name(outcome: Result<bool, QueueError>) -> Result<bool, Failure> {
    match outcome {
        Err(error @ QueueError::InvalidJob(_)) => Err(error).or_exit(Exit::Usage),
        other => Ok(other.context("changing the queue failed")?),
    }
}

async fn list(control: &ControlPlane, out: Output) -> Result<(), Failure> {
    let queues = control.queue.stats().await.context("counting the queues' jobs failed")?;
    out.document(&queues, || {
        let rows: Vec<Vec<String>> = queues
            .iter()
            .map(|queue| {
                vec![
                    queue.queue.clone(),
                    count(queue.available),
                    count(queue.running),
                    count(queue.scheduled),
                    count(queue.waiting),
                    count(queue.retryable),
                    count(queue.dead),
                    moment_or_none(queue.oldest_available),
                    if queue.paused { "paused".to_owned() } else { String::new() },
                ]
            })
            .collect();
        let headers = [
            "QUEUE",
            "AVAILABLE",
            "RUNNING",
            "SCHEDULED",
            "WAITING",
            "RETRYABLE",
            "DEAD",
            "OLDEST",
            "STATE",
        ];
        table(&headers, &rows, "every queue is empty")
    })
}
