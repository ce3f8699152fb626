//! `relevo job …`.

use std::io::Read as _;
use std::time::Duration;

use anyhow::Context as _;
use relevo_queue::{
    CancelOutcome, IdempotencyKey, JobFilter, JobId, JobState, JobView, OnDead, Ordering,
    RetryOutcome, Unique, UniqueScope,
};
use serde_json::json;
use serde_json::value::RawValue;

use crate::args::JobCommand;
use crate::args::operate::{EnqueueArgs, JobListArgs, PageArgs};
use crate::audited::Audited;
use crate::control::ControlPlane;
use crate::failure::{Advise as _, Exit, Failure, OrFail as _};
use crate::output::{Output, moment, moment_or_none, record, table};

/// How long a key given by `--idempotency-key` is remembered.
const IDEMPOTENCY_TTL: Duration = Duration::from_secs(24 * 3600);

/// Runs `relevo job …`.
pub async fn job(control: &ControlPlane, command: JobCommand, out: Output) -> Result<(), Failure> {
    match command {
        JobCommand::Enqueue(args) => enqueue(control, args, out).await,
        JobCommand::List(args) => list(control, args, out).await,
        JobCommand::Show { id } => show(control, JobId(id), out).await,
        JobCommand::Cancel { id, reason } => cancel(control, JobId(id), &reason, out).await,
        JobCommand::Retry { id } => retry(control, JobId(id), "job.retry", out).await,
    }
}

pub(super) fn not_dead(id: JobId, job: &JobView) -> Failure {
    Failure::new(Exit::Failed, format!("job {id} is {}, no dead letter", job.state))
}

async fn enqueue(control: &ControlPlane, args: EnqueueArgs, out: Output) -> Result<(), Failure> {
    let payload = payload(&args.payload)?;
    let mut job = control
        .kinds(&args.kind)
        .await?
        .job(&args.kind, &payload)
        .context("nothing was enqueued")
        .or_exit(Exit::Usage)?;
    if let Some(queue) = args.queue {
        job.queue = queue;
    }
    if let Some(priority) = args.priority {
        job.priority = priority;
    }
    job.run_at = args.run_at;
    job.delay = args.delay.map(Duration::from_secs);
    job.idempotency_key =
        args.idempotency_key.map(|key| IdempotencyKey { key, ttl: IDEMPOTENCY_TTL });
    if let Some(key) = args.unique_key {
        job.unique = Some(Unique { key, scope: UniqueScope::Finished });
    }
    if let Some(key) = args.ordering_key {
        let on_dead = args.on_dead.as_deref().map_or(Ok(OnDead::Block), str::parse);
        let on_dead = on_dead.map_err(|error| Failure::new(Exit::Usage, error))?;
        job.ordering = Some(Ordering { key, on_dead });
    }
    if args.limit_key.is_some() {
        job.limit_key = args.limit_key;
    }
    let enqueued = match control.queue.enqueue(job).await {
        Ok(enqueued) => enqueued,
        Err(error @ relevo_queue::QueueError::InvalidJob(_)) => {
            return Err(error).context("nothing was enqueued").or_exit(Exit::Usage);
        }
        Err(error) => {
            return Err(anyhow::Error::from(error).context("nothing was enqueued").into());
        }
    };
    out.document(&enqueued, || {
        if enqueued.duplicate {
            format!("job {} had this key already; nothing was enqueued", enqueued.id)
        } else {
            format!("job {} is enqueued", enqueued.id)
        }
    })
}

/// The payload of a flag: JSON itself, `@FILE`, or `@-` for standard input.
pub fn payload(given: &str) -> Result<Box<RawValue>, Failure> {
    let text = match given.strip_prefix('@') {
        None => given.to_owned(),
        Some("-") => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("standard input can't be read as text")
                .or_exit(Exit::Usage)?;
            text
        }
        Some(path) => std::fs::read_to_string(path)
            .with_context(|| format!("the payload's file {path} can't be read"))
            .or_exit(Exit::NotFound)?,
    };
    serde_json::from_str(&text)
        .context("the payload isn't JSON")
        .or_exit(Exit::Usage)
        .advise("write an object, for instance --payload '{\"run_id\": 12}'")
}

pub(super) fn filter(kind: Option<String>, queue: Option<String>, page: &PageArgs) -> JobFilter {
    JobFilter {
        kinds: kind.into_iter().collect(),
        queue,
        before: page.before.map(JobId),
        limit: Some(page.limit),
        ..JobFilter::default()
    }
}

async fn list(control: &ControlPlane, args: JobListArgs, out: Output) -> Result<(), Failure> {
    let mut filter = filter(args.kind, args.queue, &args.page);
    if let Some(state) = args.state {
        let state = state.parse::<JobState>().map_err(|error| Failure::new(Exit::Usage, error))?;
        filter.states = vec![state];
    }
    filter.run_id = args.run;
    let jobs = control.queue.jobs(&filter).await.context("listing jobs failed")?;
    out.document(&jobs, || jobs_table(&jobs, "no jobs"))
}

pub(super) fn jobs_table(jobs: &[JobView], empty: &str) -> String {
    let rows: Vec<Vec<String>> = jobs
        .iter()
        .map(|job| {
            vec![
                job.id.to_string(),
                job.state.to_string(),
                job.kind.clone(),
                job.queue.clone(),
                format!("{}/{}", job.attempt, job.max_attempts),
                moment(job.created_at),
                job.run_id.map(|run| run.to_string()).unwrap_or_default(),
                job.last_error.clone().unwrap_or_default(),
            ]
        })
        .collect();
    table(&["ID", "STATE", "KIND", "QUEUE", "ATTEMPT", "CREATED", "RUN", "ERROR"], &rows, empty)
}

pub(super) async fn found(control: &ControlPlane, id: JobId) -> Result<JobView, Failure> {
    control.queue.job(id).await.context("looking for the job failed")?.ok_or_else(|| no_job(id))
}

pub(super) fn no_job(id: JobId) -> Failure {
    Failure::new(Exit::NotFound, format!("there is no job {id}"))
        .advise("`relevo job list` shows the newest; finished ones are deleted after a while")
}

async fn show(control: &ControlPlane, id: JobId, out: Output) -> Result<(), Failure> {
    let job = found(control, id).await?;
    out.document(&job, || {
        let progress = job.progress.as_ref().map(|progress| {
            let total = progress.total.map(|total| format!(" of {total}")).unwrap_or_default();
            format!("{}{total} {} {}", progress.done, progress.unit, progress.message)
        });
        record(&[
            ("job", job.id.to_string()),
            ("kind", job.kind.clone()),
            ("queue", job.queue.clone()),
            ("state", job.state.to_string()),
            ("attempt", format!("{} of {}", job.attempt, job.max_attempts)),
            ("deaths", format!("{} of {}", job.deaths, job.max_deaths)),
            ("priority", job.priority.to_string()),
            ("ordering key", job.ordering_key.clone().unwrap_or_default()),
            ("limit", job.limit_key.clone().unwrap_or_default()),
            ("run", job.run_id.map(|run| run.to_string()).unwrap_or_default()),
            ("created", moment(job.created_at)),
            ("not before", moment(job.run_at)),
            ("claimed", moment_or_none(job.claimed_at)),
            ("finished", moment_or_none(job.finished_at)),
            ("progress", progress.unwrap_or_default()),
            ("payload", job.payload.to_string()),
            ("cancelled because", job.cancel_reason.clone().unwrap_or_default()),
            ("error", job.last_error.clone().unwrap_or_default()),
        ])
    })
}

async fn cancel(
    control: &ControlPlane,
    id: JobId,
    reason: &str,
    out: Output,
) -> Result<(), Failure> {
    let mut audited = Audited::begin(control).await?;
    let outcome =
        control.queue.cancel_in(&mut audited.tx, id, reason).await.context("cancelling failed")?;
    let text = match outcome {
        CancelOutcome::Cancelled => format!("job {id} is cancelled"),
        CancelOutcome::Requested => {
            format!("job {id} is running; its worker was told to stop it")
        }
        CancelOutcome::AlreadyEnded(state) => {
            return Err(Failure::new(Exit::Failed, format!("job {id} is {state} already")));
        }
        CancelOutcome::NotFound => return Err(no_job(id)),
    };
    let after = json!({"outcome": outcome, "reason": reason});
    audited.commit("job.cancel", &id.to_string(), None, Some(after)).await?;
    out.document(&json!({"id": id, "outcome": outcome}), || text)
}

pub(super) async fn retry(
    control: &ControlPlane,
    id: JobId,
    action: &'static str,
    out: Output,
) -> Result<(), Failure> {
    let mut audited = Audited::begin(control).await?;
    retry_in(control, &mut audited, id).await?;
    audited.commit(action, &id.to_string(), None, None).await?;
    out.document(&json!({"id": id, "outcome": RetryOutcome::Retried}), || {
        format!("job {id} is available again")
    })
}

/// Makes a job available in the change's transaction, or says why it can't be.
pub(super) async fn retry_in(
    control: &ControlPlane,
    audited: &mut Audited,
    id: JobId,
) -> Result<(), Failure> {
    match control.queue.retry_in(&mut audited.tx, id).await.context("retrying failed")? {
        RetryOutcome::Retried => Ok(()),
        RetryOutcome::NotRetryable(state) => Err(Failure::new(
            Exit::Failed,
            format!("job {id} is {state}: there is nothing to retry"),
        )),
        RetryOutcome::UniqueKeyHeld(holder) => Err(Failure::new(
            Exit::Failed,
            format!("job {holder} holds the unique key of job {id} by now"),
        )
        .advise(format!("wait for its end, or cancel it: relevo job cancel {holder}"))),
        RetryOutcome::NotFound => Err(no_job(id)),
    }
}
