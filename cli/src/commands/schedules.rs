//! `relevo schedule …`.

use anyhow::Context as _;
use relevo_runs::RunError;
use relevo_runs::backup::{self, StartOptions};
use relevo_runs::schedules::definition::check_name;
use relevo_runs::schedules::store::{put_in, remove_in, set_active_in};
use relevo_runs::schedules::{self, Draft, Edited, Origin, Stored, StoredSchedule};
use serde_json::{Value, json};

use crate::args::schedule::{ScheduleAddArgs, ScheduleCommand, ScheduleEditArgs};
use crate::audited::{Audited, actor};
use crate::commands::jobs::payload;
use crate::control::ControlPlane;
use crate::failure::{Advise as _, Exit, Failure, OrFail as _};
use crate::output::{Output, moment, moment_or_none, record, table};

/// Runs it.
pub async fn schedule(
    control: &ControlPlane,
    command: ScheduleCommand,
    out: Output,
) -> Result<(), Failure> {
    match command {
        ScheduleCommand::List => list(control, out).await,
        ScheduleCommand::Show { name, slots } => show(control, &name, slots.into(), out).await,
        ScheduleCommand::Add(args) => add(control, args, out).await,
        ScheduleCommand::Edit(args) => edit(control, args, out).await,
        ScheduleCommand::Enable { name } => set_active(control, &name, true, out).await,
        ScheduleCommand::Disable { name } => set_active(control, &name, false, out).await,
        ScheduleCommand::Run { name } => run(control, &name, out).await,
        ScheduleCommand::Remove { name } => remove(control, &name, out).await,
    }
}

async fn find(control: &ControlPlane, name: &str) -> Result<StoredSchedule, Failure> {
    let found = schedules::list(&control.pool, Some(name))
        .await
        .context("the schedule can't be read")?
        .into_iter()
        .next();
    found.ok_or_else(|| none_of_that_name(name))
}

fn none_of_that_name(name: &str) -> Failure {
    Failure::new(Exit::NotFound, format!("there is no schedule `{name}`"))
        .advise("`relevo schedule list` shows those there are")
}

fn of_configuration(name: &str) -> Failure {
    Failure::new(
        Exit::Usage,
        format!("the schedule `{name}` belongs to the configuration, which alone changes it"),
    )
    .advise(
        "change its table in relevo.toml; a running scheduler takes it up by itself. That of a \
         source ends with schedule_enabled = false",
    )
}

/// `--cron` or `--every` as a rhythm.
fn rhythm(cron: Option<String>, every: Option<String>) -> Option<String> {
    cron.map(|cron| format!("cron {cron}")).or(every.map(|every| format!("every {every}")))
}

async fn add(control: &ControlPlane, args: ScheduleAddArgs, out: Output) -> Result<(), Failure> {
    check_name(&args.name).or_exit(Exit::Usage)?;
    let draft = Draft {
        rhythm: rhythm(args.cron, args.every).unwrap_or_default(),
        timezone: Some(args.timezone),
        kind: args.kind,
        payload: args.payload.as_deref().map(payload).transpose()?,
        backup_source: args.backup,
        missed_runs: Some(args.missed),
        missed_max_age_minutes: Some(args.missed_max_age),
        jitter_seconds: Some(args.jitter),
        enabled: Some(!args.disabled),
    };
    put(control, &args.name, draft, out).await
}

async fn edit(control: &ControlPlane, args: ScheduleEditArgs, out: Output) -> Result<(), Failure> {
    let before = find(control, &args.name).await?;
    if before.origin != "operator" {
        return Err(of_configuration(&args.name));
    }
    let mut draft = before.draft();
    if let Some(rhythm) = rhythm(args.cron, args.every) {
        draft.rhythm = rhythm;
    }
    if let Some(kind) = args.kind {
        // Another kind has another payload.
        (draft.kind, draft.payload, draft.backup_source) = (Some(kind), None, None);
    }
    if let Some(source) = args.backup {
        (draft.kind, draft.payload, draft.backup_source) = (None, None, Some(source));
    }
    if let Some(given) = args.payload {
        draft.payload = Some(payload(&given)?);
    }
    draft.timezone = args.timezone.or(draft.timezone);
    draft.missed_runs = args.missed.or(draft.missed_runs);
    draft.missed_max_age_minutes = args.missed_max_age.or(draft.missed_max_age_minutes);
    draft.jitter_seconds = args.jitter.or(draft.jitter_seconds);
    put(control, &args.name, draft, out).await
}

async fn put(control: &ControlPlane, name: &str, draft: Draft, out: Output) -> Result<(), Failure> {
    let kinds = control.kinds(draft.kind.as_deref().unwrap_or_default()).await?;
    let wanted = draft
        .check(name, |source| control.settings.backup.contains_key(source), Some(&kinds))
        .context("the schedule is not stored")
        .or_exit(Exit::Usage)?;
    let mut audited = Audited::begin(control).await?;
    let before = stored_in(&mut audited, name).await?;
    let by = actor().label();
    let stored = put_in(&mut audited.tx, &wanted, Origin::Operator, &by)
        .await
        .context("storing the schedule failed")?;
    if stored == Stored::NameTaken {
        return Err(of_configuration(name));
    }
    let after = stored_in(&mut audited, name).await?;
    audited.commit("schedule.put", name, before, after).await?;
    let schedule = find(control, name).await?;
    let next = schedule.next_slots(1).first().copied();
    out.document(&json!({"name": name, "next_slot": next}), || match next {
        Some(next) => format!("schedule {name} is stored; its next slot is {}", moment(next)),
        None => format!("schedule {name} is stored and rests"),
    })
}

/// The definition, for the audit log.
async fn stored_in(audited: &mut Audited, name: &str) -> Result<Option<Value>, Failure> {
    let found = schedules::find_in(&mut audited.tx, name).await;
    Ok(found.context("the schedule can't be read")?.map(|schedule| schedule.definition()))
}

async fn set_active(
    control: &ControlPlane,
    name: &str,
    active: bool,
    out: Output,
) -> Result<(), Failure> {
    let mut audited = Audited::begin(control).await?;
    let by = actor().label();
    let edited = set_active_in(&mut audited.tx, name, active, &by)
        .await
        .context("changing the schedule failed")?;
    match edited {
        Edited::NotFound => return Err(none_of_that_name(name)),
        Edited::OfConfiguration => return Err(of_configuration(name)),
        Edited::Done | Edited::Unchanged => {}
    }
    let action = if active { "schedule.enable" } else { "schedule.disable" };
    audited.commit(action, name, None, None).await?;
    let next = find(control, name).await?.next_slots(1).first().copied();
    let document = json!({"name": name, "active": active, "next_slot": next});
    out.document(&document, || match next {
        Some(next) => format!("schedule {name} fires; its next slot is {}", moment(next)),
        None => format!("schedule {name} rests"),
    })
}

async fn remove(control: &ControlPlane, name: &str, out: Output) -> Result<(), Failure> {
    let mut audited = Audited::begin(control).await?;
    let before = stored_in(&mut audited, name).await?;
    match remove_in(&mut audited.tx, name).await.context("removing the schedule failed")? {
        Edited::NotFound => return Err(none_of_that_name(name)),
        Edited::OfConfiguration => return Err(of_configuration(name)),
        Edited::Done | Edited::Unchanged => {}
    }
    audited.commit("schedule.remove", name, before, None).await?;
    out.document(&json!({"name": name, "removed": true}), || format!("schedule {name} is removed"))
}

async fn run(control: &ControlPlane, name: &str, out: Output) -> Result<(), Failure> {
    let schedule = find(control, name).await?;
    let mut audited = Audited::begin(control).await?;
    let (started, text) = if let Some(source) = &schedule.backup_source {
        let (options, by) = (StartOptions::default(), actor().label());
        let run = backup::start_in(&mut audited.tx, &control.queue, source, &options, &by).await;
        let run = match run {
            Ok(run) => run,
            Err(error @ RunError::AlreadyActive { run }) => {
                return Err(error)
                    .context("nothing was started")
                    .or_exit(Exit::Failed)
                    .advise(format!("follow that one: relevo run watch {run}"));
            }
            Err(error) => {
                return Err(anyhow::Error::from(error).context("nothing was started").into());
            }
        };
        let text = format!("run {run} is started; follow it: relevo run watch {run}");
        (json!({"run_id": run, "job_id": null}), text)
    } else {
        let kind = schedule.job_kind.as_deref().unwrap_or_default();
        let payload = schedule.job_payload.map(|payload| payload.0).unwrap_or_default();
        let job = control
            .kinds(kind)
            .await?
            .job(kind, &payload)
            .context("nothing was started")
            .or_exit(Exit::Failed)?;
        let enqueued = control
            .queue
            .enqueue_in(&mut audited.tx, &[job])
            .await
            .context("nothing was started")?;
        let id = enqueued.first().map(|enqueued| enqueued.id);
        let text = id.map(|id| format!("job {id} is enqueued")).unwrap_or_default();
        (json!({"run_id": null, "job_id": id}), text)
    };
    audited.commit("schedule.run", name, None, Some(started.clone())).await?;
    out.document(&started, || text)
}

/// What it starts, in words.
fn starts(schedule: &StoredSchedule) -> String {
    match (&schedule.backup_source, &schedule.job_kind) {
        (Some(source), _) => format!("backup {source}"),
        (None, kind) => format!("job {}", kind.as_deref().unwrap_or_default()),
    }
}

/// What became of the last slot, in words.
fn outcome(schedule: &StoredSchedule) -> String {
    match (&schedule.last_outcome, schedule.last_run_id, schedule.last_job_id) {
        (Some(outcome), Some(run), _) => format!("{outcome} run {run}"),
        (Some(outcome), None, Some(job)) => format!("{outcome} job {job}"),
        (Some(outcome), None, None) => {
            format!("{outcome}: {}", schedule.last_reason.as_deref().unwrap_or_default())
        }
        (None, _, _) => String::new(),
    }
}

fn document(schedule: &StoredSchedule, slots: usize) -> Value {
    let next_slots = schedule.next_slots(slots);
    json!({
        "name": schedule.name,
        "origin": schedule.origin,
        "active": schedule.active,
        "rhythm": schedule.rhythm,
        "timezone": schedule.timezone,
        "starts": starts(schedule),
        "backup_source": schedule.backup_source,
        "job_kind": schedule.job_kind,
        "job_payload": schedule.job_payload,
        "missed_runs": schedule.missed_runs,
        "missed_max_age_minutes": schedule.missed_max_age_seconds / 60,
        "jitter_seconds": schedule.jitter_seconds,
        "next_slot": next_slots.first(),
        "next_slots": next_slots,
        "last_slot": schedule.last_slot,
        "last_outcome": schedule.last_outcome,
        "last_reason": schedule.last_reason,
        "last_run_id": schedule.last_run_id,
        "last_job_id": schedule.last_job_id,
        "updated_at": schedule.updated_at,
        "updated_by": schedule.updated_by,
    })
}

/// Says on standard error when the leader's file is not what is in force.
async fn warn_of_file(control: &ControlPlane) -> Result<(), Failure> {
    let state = schedules::file_state(&control.pool)
        .await
        .context("the state of the configuration file can't be read")?;
    if let Some((state, problem)) =
        state.as_ref().and_then(|state| Some((state, state.problem.as_deref()?)))
    {
        eprintln!(
            "warning: the leading scheduler's configuration file {} is not in force: {problem}. \
             What was read at {} stays in force ({})",
            state.path.as_deref().unwrap_or_default(),
            moment(state.loaded_at),
            state.reported_by,
        );
    }
    Ok(())
}

async fn show(
    control: &ControlPlane,
    name: &str,
    slots: usize,
    out: Output,
) -> Result<(), Failure> {
    let schedule = find(control, name).await?;
    out.document(&document(&schedule, slots), || {
        let next: Vec<String> = schedule.next_slots(slots).into_iter().map(moment).collect();
        let payload = schedule.job_payload.as_ref().map(|payload| payload.0.get().to_owned());
        record(&[
            ("name", schedule.name.clone()),
            ("made by", schedule.origin.clone()),
            ("fires", if schedule.active { "yes" } else { "no, it rests" }.to_owned()),
            ("rhythm", schedule.rhythm.clone()),
            ("zone", schedule.timezone.clone()),
            ("starts", starts(&schedule)),
            ("payload", payload.unwrap_or_default()),
            ("missed", schedule.missed_runs.clone()),
            ("missed up to", format!("{} minutes", schedule.missed_max_age_seconds / 60)),
            ("jitter", format!("{} s", schedule.jitter_seconds)),
            ("next", next.join(", ")),
            ("last slot", moment_or_none(schedule.last_slot)),
            ("outcome", outcome(&schedule)),
            ("changed", moment(schedule.updated_at)),
            ("changed by", schedule.updated_by.clone()),
        ])
    })
}

async fn list(control: &ControlPlane, out: Output) -> Result<(), Failure> {
    let schedules =
        schedules::list(&control.pool, None).await.context("listing schedules failed")?;
    let documents: Vec<Value> = schedules.iter().map(|schedule| document(schedule, 1)).collect();
    out.document(&documents, || {
        let rows: Vec<Vec<String>> = schedules
            .iter()
            .map(|schedule| {
                vec![
                    schedule.name.clone(),
                    starts(schedule),
                    schedule.rhythm.clone(),
                    schedule.timezone.clone(),
                    if schedule.active {
                        moment_or_none(schedule.next_slots(1).first().copied())
                    } else {
                        "inactive".to_owned()
                    },
                    moment_or_none(schedule.last_slot),
                    outcome(schedule),
                ]
            })
            .collect();
        let headers = ["NAME", "STARTS", "RHYTHM", "ZONE", "NEXT", "LAST", "OUTCOME"];
        table(
            &headers,
            &rows,
            "no schedules; a source's own appears when a scheduler leads and its schedule_enabled is true",
        )
    })?;
    warn_of_file(control).await
}
