//! `relevo limits …`.

use std::time::Duration;

use anyhow::Context as _;
use relevo_queue::{Limit, QueueError, Rate};
use serde_json::json;

use crate::args::LimitsCommand;
use crate::args::operate::LimitSetArgs;
use crate::audited::Audited;
use crate::control::ControlPlane;
use crate::failure::{Exit, Failure, OrFail as _};
use crate::output::{Output, table};

/// Runs it.
pub async fn limits(
    control: &ControlPlane,
    command: LimitsCommand,
    out: Output,
) -> Result<(), Failure> {
    match command {
        LimitsCommand::List => list(control, out).await,
        LimitsCommand::Set(args) => set(control, args, out).await,
        LimitsCommand::Remove { name } => remove(control, &name, out).await,
    }
}

async fn set(control: &ControlPlane, args: LimitSetArgs, out: Output) -> Result<(), Failure> {
    let rate = match (args.rate, args.per) {
        (Some(jobs), Some(seconds)) => {
            let period = Duration::try_from_secs_f64(seconds)
                .context("--per is no length of time")
                .or_exit(Exit::Usage)?;
            Some(Rate { jobs, period })
        }
        _ => None,
    };
    let limit = Limit { name: args.name, concurrency: args.concurrency, rate };
    let mut audited = Audited::begin(control).await?;
    match control.queue.set_limit_in(&mut audited.tx, &limit).await {
        Err(error @ (QueueError::InvalidJob(_) | QueueError::InvalidLimit(_))) => {
            return Err(error).context("nothing was changed").or_exit(Exit::Usage);
        }
        other => other.context("the limit can't be set")?,
    }
    let after = json!({
        "concurrency": limit.concurrency, "rate": args.rate, "period_seconds": args.per,
    });
    audited.commit("limit.set", &limit.name, None, Some(after.clone())).await?;
    let document = json!({"limit": limit.name, "set": after});
    out.document(&document, || format!("limit {} is set", limit.name))
}

async fn remove(control: &ControlPlane, name: &str, out: Output) -> Result<(), Failure> {
    let mut audited = Audited::begin(control).await?;
    let removed = control
        .queue
        .remove_limit_in(&mut audited.tx, name)
        .await
        .context("the limit can't be removed")?;
    if removed {
        audited.commit("limit.remove", name, None, None).await?;
    }
    out.document(&json!({"limit": name, "removed": removed}), || {
        if removed {
            format!("limit {name} is gone; nothing holds its jobs back")
        } else {
            format!("there is no limit {name}")
        }
    })
}

async fn list(control: &ControlPlane, out: Output) -> Result<(), Failure> {
    let limits = control.queue.limits().await.context("the limits can't be read")?;
    out.document(&limits, || {
        let rows: Vec<Vec<String>> = limits
            .iter()
            .map(|limit| {
                let rate = match (limit.rate, limit.period_seconds) {
                    (Some(jobs), Some(seconds)) => format!("{jobs} in {seconds} s"),
                    _ => String::new(),
                };
                vec![
                    limit.name.clone(),
                    limit.concurrency.map(|jobs| jobs.to_string()).unwrap_or_default(),
                    limit.live.to_string(),
                    rate,
                    limit.begun.to_string(),
                    limit.waiting.to_string(),
                ]
            })
            .collect();
        table(
            &["LIMIT", "CONCURRENCY", "LIVE", "RATE", "BEGUN", "WAITING"],
            &rows,
            "no limits are set",
        )
    })
}
