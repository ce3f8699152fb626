//! `relevo schedule …`.

use anyhow::Context as _;
use chrono_tz::Tz;
use relevo_scheduler::rhythm::Rhythm;
use relevo_scheduler::schedule::{self, Action, NewSchedule, Origin};
use relevo_scheduler::settle::{MissedRuns, Policy};
use serde_json::json;

use crate::args::ScheduleCommand;
use crate::args::operate::ScheduleAddArgs;
use crate::audited::Audited;
use crate::commands::jobs::payload;
use crate::control::ControlPlane;
use crate::failure::{Advise as _, Exit, Failure, OrFail as _};
use crate::output::{Output, moment, moment_or_none, table};

/// Runs it.
pub async fn schedule(
    control: &ControlPlane,
    command: ScheduleCommand,
    out: Output,
) -> Result<(), Failure> {
    match command {
        ScheduleCommand::List => list(control, out).await,
        ScheduleCommand::Add(args) => add(control, args, out).await,
        ScheduleCommand::Remove { name } => {
            let mut audited = Audited::begin(control).await?;
            let removed =
                schedule::remove_in(&mut audited.tx, &name).await.context("removing failed")?;
            if !removed {
                return Err(Failure::new(
                    Exit::NotFound,
                    format!(
                        "there is no schedule `{name}` that was added by `relevo schedule add`"
                    ),
                )
                .advise(
                    "those of the configuration end with schedule_enabled = false in their section",
                ));
            }
            audited.commit("schedule.remove", &name, None, None).await?;
            out.document(&json!({"name": name, "removed": true}), || {
                format!("schedule {name} is removed")
            })
        }
    }
}

async fn add(control: &ControlPlane, args: ScheduleAddArgs, out: Output) -> Result<(), Failure> {
    let rhythm = Rhythm::cron(&args.cron).or_exit(Exit::Usage)?;
    let zone: Tz = args
        .timezone
        .parse()
        .with_context(|| format!("`{}` is not a time zone", args.timezone))
        .or_exit(Exit::Usage)
        .advise("write an IANA name, for instance America/Mexico_City")?;
    let missed: MissedRuns = args.missed.parse().or_exit(Exit::Usage)?;
    let payload = payload(&args.payload)?;
    // Refused now rather than at every slot.
    relevo_runs::job_from_json(&args.kind, &payload)
        .context("the schedule is not stored")
        .or_exit(Exit::Usage)?;
    let wanted = NewSchedule {
        name: args.name.clone(),
        rhythm,
        zone,
        action: Action::Job { kind: args.kind, payload },
        policy: Policy {
            missed,
            max_age: chrono::Duration::minutes(i64::from(args.missed_max_age)),
        },
    };
    let mut audited = Audited::begin(control).await?;
    let stored =
        schedule::put_in(&mut audited.tx, &wanted, Origin::Operator, "relevo schedule add")
            .await
            .context("storing the schedule failed")?;
    if !stored {
        return Err(Failure::new(
            Exit::Usage,
            format!("`{}` is the name of a schedule of the configuration", wanted.name),
        )
        .advise("choose another name"));
    }
    let after = json!({"rhythm": args.cron, "timezone": args.timezone});
    audited.commit("schedule.put", &wanted.name, None, Some(after)).await?;
    let next = wanted.rhythm.next_after(zone, chrono::Utc::now());
    out.document(&json!({"name": wanted.name, "next_slot": next}), || match next {
        Some(next) => {
            format!("schedule {} is stored; its next slot is {}", wanted.name, moment(next))
        }
        None => format!("schedule {} is stored, but it never comes due", wanted.name),
    })
}

async fn list(control: &ControlPlane, out: Output) -> Result<(), Failure> {
    let schedules = schedule::list(&control.pool).await.context("listing schedules failed")?;
    out.document(&schedules, || {
        let rows: Vec<Vec<String>> = schedules
            .iter()
            .map(|schedule| {
                let last =
                    match (&schedule.last_outcome, schedule.last_run_id, schedule.last_job_id) {
                        (Some(outcome), Some(run), _) => format!("{outcome} run {run}"),
                        (Some(outcome), None, Some(job)) => format!("{outcome} job {job}"),
                        (Some(outcome), None, None) => format!(
                            "{outcome}: {}",
                            schedule.last_reason.as_deref().unwrap_or_default()
                        ),
                        (None, _, _) => String::new(),
                    };
                vec![
                    schedule.name.clone(),
                    schedule.starts.clone(),
                    schedule.rhythm.clone(),
                    schedule.timezone.clone(),
                    if schedule.active {
                        moment_or_none(schedule.next_slot)
                    } else {
                        "inactive".to_owned()
                    },
                    moment_or_none(schedule.last_slot),
                    last,
                ]
            })
            .collect();
        let headers = ["NAME", "STARTS", "RHYTHM", "ZONE", "NEXT", "LAST", "OUTCOME"];
        table(
            &headers,
            &rows,
            "no schedules; those of backup sources appear when a scheduler leads",
        )
    })
}
