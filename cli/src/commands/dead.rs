//! `relevo dead …`.

use anyhow::Context as _;
use relevo_queue::{JobFilter, JobId, JobState};
use relevo_runs::dead_letters::{
    self, Acted, BulkError, DeadLetterAction, EditError, act_on_matching_in,
};
use serde_json::json;

use super::jobs::{filter, found, jobs_table, no_job, not_dead, payload, retry, retry_in};
use crate::args::DeadCommand;
use crate::args::operate::{DeadFilterArgs, DeadTargetArgs};
use crate::audited::{Audited, actor};
use crate::control::ControlPlane;
use crate::failure::{Advise as _, Exit, Failure, OrFail as _};
use crate::output::{Output, count, write_out};

/// Dead letters that the export reads at once.
const EXPORT_PAGE: u16 = 500;

/// Runs it.
pub async fn dead(
    control: &ControlPlane,
    command: DeadCommand,
    out: Output,
) -> Result<(), Failure> {
    match command {
        DeadCommand::List { kind, queue, page } => {
            let filter = filter(kind, queue, &page);
            let jobs = control.queue.dead_letters(&filter).await.context("listing failed")?;
            out.document(&jobs, || jobs_table(&jobs, "no dead letters"))
        }
        DeadCommand::Export { filter } => export(control, filter).await,
        DeadCommand::Edit { id, payload: given, retry } => {
            edit(control, JobId(id), &given, retry, out).await
        }
        DeadCommand::Retry(DeadTargetArgs { id: Some(id), .. }) => {
            let id = JobId(id);
            let job = found(control, id).await?;
            if job.state != JobState::Dead {
                return Err(not_dead(id, &job));
            }
            retry(control, id, "dead_letter.retry", out).await
        }
        DeadCommand::Discard(DeadTargetArgs { id: Some(id), .. }) => {
            discard(control, JobId(id), out).await
        }
        DeadCommand::Retry(args) => act(control, Act::Retry, args, out).await,
        DeadCommand::Discard(args) => act(control, Act::Discard, args, out).await,
    }
}

async fn discard(control: &ControlPlane, id: JobId, out: Output) -> Result<(), Failure> {
    let mut audited = Audited::begin(control).await?;
    let reason = format!("discarded by {}", actor().label());
    let discarded = control.queue.discard_dead_in(&mut audited.tx, id, &reason).await;
    if !discarded.context("discarding failed")? {
        return Err(not_dead(id, &found(control, id).await?));
    }
    audited.commit("dead_letter.discard", &id.to_string(), None, None).await?;
    out.document(&json!({"id": id, "discarded": true}), || format!("job {id} is discarded"))
}

async fn edit(
    control: &ControlPlane,
    id: JobId,
    given: &str,
    then_retry: bool,
    out: Output,
) -> Result<(), Failure> {
    let payload = payload(given)?;
    let mut audited = Audited::begin(control).await?;
    let edited = dead_letters::edit_in(&mut audited.tx, &control.queue, id, &payload).await;
    let edited = match edited {
        Err(EditError::NotFound(_)) => {
            let job = control.queue.job(id).await.context("looking for the job failed")?;
            return Err(job.map_or_else(|| no_job(id), |job| not_dead(id, &job)));
        }
        Err(error @ (EditError::Payload(_) | EditError::RunDiffers)) => {
            return Err(error).context("nothing was changed").or_exit(Exit::Usage);
        }
        other => other.context("nothing was changed")?,
    };
    if then_retry {
        retry_in(control, &mut audited, id).await?;
    }
    let before = json!({"payload": edited.before.payload});
    let after = json!({"payload": edited.payload, "retry": then_retry});
    audited.commit("dead_letter.edit", &id.to_string(), Some(before), Some(after)).await?;
    out.document(&json!({"id": id, "payload": edited.payload, "retried": then_retry}), || {
        let then = if then_retry { " and is available again" } else { "" };
        format!("job {id} has its new payload{then}")
    })
}

/// What is done to all that match.
#[derive(Clone, Copy)]
enum Act {
    Retry,
    Discard,
}

/// Counts what matches; does it to them when the person has said the same number.
async fn act(
    control: &ControlPlane,
    act: Act,
    args: DeadTargetArgs,
    out: Output,
) -> Result<(), Failure> {
    let filter = matching(args.filter);
    let (verb, done, audit) = match act {
        Act::Retry => ("retry", "available again", "dead_letter.retry_many"),
        Act::Discard => ("discard", "discarded", "dead_letter.discard_many"),
    };
    let Some(expected) = args.expected else {
        let matching = control.queue.count_dead(&filter).await.context("counting failed")?;
        return out.document(&json!({"matching": matching, "changed": 0}), || {
            format!(
                "{} dead letter(s) match; nothing was changed. To {verb} them, say the number: --expected {matching}",
                count(matching)
            )
        });
    };
    let reason = format!("discarded by {}", actor().label());
    let action = match act {
        Act::Retry => DeadLetterAction::Retry,
        Act::Discard => DeadLetterAction::Discard { reason: &reason },
    };
    let mut audited = Audited::begin(control).await?;
    let acted =
        act_on_matching_in(&mut audited.tx, &control.queue, &filter, expected, action).await;
    let Acted { matching, changed } = match acted {
        Err(error @ (BulkError::TooMany | BulkError::CountDiffers { .. })) => {
            return Err(error)
                .or_exit(Exit::Failed)
                .advise("count again: the same command without --expected");
        }
        other => other.context("nothing was changed")?,
    };
    let after = json!({
        "filter": {"kinds": filter.kinds, "queue": filter.queue, "run_id": filter.run_id,
                   "before": filter.before},
        "matching": matching, "changed": changed,
    });
    if changed > 0 {
        audited.commit(audit, "dead letters by filter", None, Some(after)).await?;
    }
    out.document(&json!({"matching": matching, "changed": changed}), || {
        let left = u64::from(matching) - changed;
        let left = match left {
            0 => String::new(),
            left => format!("; {} stay, their unique keys are held by other jobs", count(left)),
        };
        format!("{} dead letter(s) are {done}{left}", count(changed))
    })
}

/// One JSON document a line, newest first, read page by page.
async fn export(control: &ControlPlane, args: DeadFilterArgs) -> Result<(), Failure> {
    let mut filter = JobFilter { limit: Some(EXPORT_PAGE), ..matching(args) };
    loop {
        let jobs = control.queue.dead_letters(&filter).await.context("reading failed")?;
        for job in &jobs {
            let line = serde_json::to_string(job).context("a job can't be written as JSON")?;
            write_out(&format!("{line}\n"))?;
        }
        match jobs.last() {
            Some(last) if jobs.len() == usize::from(EXPORT_PAGE) => filter.before = Some(last.id),
            _ => return Ok(()),
        }
    }
}

fn matching(args: DeadFilterArgs) -> JobFilter {
    JobFilter {
        kinds: args.kinds,
        queue: args.queue,
        run_id: args.run,
        before: args.before.map(JobId),
        ..JobFilter::default()
    }
}
