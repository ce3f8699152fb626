//! Settling slots: each with its own transaction, proved by the leader's term.
//!
//! In one transaction: the term is proved, the slot's row inserted, the run or
//! job made, the schedule moved on. Killed anywhere, either all of it happened
//! or none; a second leader with the same slot finds the row and does nothing.

use chrono::{DateTime, Utc};
use relevo_errors::chain;
use relevo_queue::{Queue, QueueError};
use relevo_runs::backup::{self, StartOptions};
use relevo_runs::schedules::{FileState, put_file_state_in};
use relevo_runs::{KindBook, RunError};
use relevo_telemetry::trace;
use sqlx::{Acquire, PgConnection, PgPool};

use crate::lease::Tenure;
use crate::schedule::{self, Action, NewSchedule, Schedule};
use crate::settle::Verdict;
use crate::watch::Wanted;

/// Why a slot was not settled; it stays due.
#[derive(Debug, thiserror::Error)]
pub enum FireError {
    /// Somebody else leads.
    #[error("this process no longer leads; the slot is left to the new leader")]
    TermOver,
    /// The schedule was changed, disabled or removed since it was read.
    #[error("the schedule was changed meanwhile; it is read again")]
    Changed,
    /// The run could not be created.
    #[error("the run could not be started")]
    Run(#[source] RunError),
    /// The job could not be enqueued.
    #[error("the job could not be enqueued")]
    Enqueue(#[source] QueueError),
    /// The database failed.
    #[error("the control plane's database failed")]
    Database(#[from] sqlx::Error),
}

/// What became of a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fired {
    /// A run was started.
    Run(i64),
    /// A job was enqueued.
    Job(i64),
    /// Nothing was started; the text tells why.
    Skipped(String),
    /// The slot had its row already.
    SettledBefore,
}

/// Settles one slot of `schedule` as the leader of `tenure`.
///
/// # Errors
/// When the term is over, the definition is not the one that was read any more, or the run or job
/// cannot be made: then nothing changed, and the slot is still due if it is one.
pub async fn settle_slot(
    pool: &PgPool,
    queue: &Queue,
    tenure: &Tenure,
    schedule: &Schedule,
    slot: DateTime<Utc>,
    verdict: &Verdict,
) -> Result<Fired, FireError> {
    let mut tx = pool.begin().await?;
    if !tenure.prove_in(&mut tx).await? {
        return Err(FireError::TermOver);
    }
    let revision = schedule.revision;
    let schedule = &schedule.wanted;
    if !is_unchanged(&mut tx, &schedule.name, revision).await? {
        return Err(FireError::Changed);
    }
    let fired = if is_settled(&mut tx, &schedule.name, slot).await? {
        Fired::SettledBefore
    } else {
        let fired = match verdict {
            Verdict::Skip(reason) => Fired::Skipped((*reason).to_owned()),
            Verdict::Start => {
                let work = trace::root("fire of a schedule", || {
                    [
                        ("relevo.schedule", schedule.name.clone().into()),
                        ("relevo.slot", slot.to_rfc3339().into()),
                    ]
                });
                work.run(start(&mut tx, queue, schedule)).await?
            }
        };
        record(&mut tx, &schedule.name, slot, tenure.term, &fired).await?;
        fired
    };
    move_on(&mut tx, &schedule.name, slot).await?;
    tx.commit().await?;
    Ok(fired)
}

/// Moves a schedule past slots that are too old to be recorded one by one.
///
/// # Errors
/// When the term is over, or errors of the database.
pub async fn pass_over(
    pool: &PgPool,
    tenure: &Tenure,
    name: &str,
    to: DateTime<Utc>,
) -> Result<(), FireError> {
    let mut tx = pool.begin().await?;
    if !tenure.prove_in(&mut tx).await? {
        return Err(FireError::TermOver);
    }
    move_on(&mut tx, name, to).await?;
    tx.commit().await?;
    Ok(())
}

async fn start(
    tx: &mut PgConnection,
    queue: &Queue,
    schedule: &NewSchedule,
) -> Result<Fired, FireError> {
    match &schedule.action {
        Action::Backup { source } => {
            let trigger = format!("schedule:{}", schedule.name);
            // A savepoint, so that a refusal cannot take the slot's row with it.
            let mut inner = tx.begin().await?;
            let options = StartOptions::default();
            match backup::start_in(&mut inner, queue, source, &options, &trigger).await {
                Ok(run) => {
                    inner.commit().await?;
                    Ok(Fired::Run(run.0))
                }
                Err(RunError::AlreadyActive { run }) => {
                    inner.rollback().await?;
                    Ok(Fired::Skipped(format!(
                        "run {run} of the source `{source}` was still active"
                    )))
                }
                Err(error) => Err(FireError::Run(error)),
            }
        }
        Action::Job { kind, payload } => {
            let kinds = KindBook::load_for(tx, kind).await?;
            let job = match kinds.job(kind, payload) {
                Ok(job) => job,
                // No later try would fare better: the slot is settled, and says so.
                Err(error) => {
                    return Ok(Fired::Skipped(format!("its job is refused: {}", chain(&error))));
                }
            };
            let enqueued = queue.enqueue_in(tx, &[job]).await.map_err(FireError::Enqueue)?;
            // One job in, one answer out.
            match enqueued.first() {
                Some(enqueued) => Ok(Fired::Job(enqueued.id.0)),
                None => Ok(Fired::Skipped("the queue took no job".to_owned())),
            }
        }
    }
}

/// Makes the stored schedules those of the configuration, and says what the file is like.
///
/// # Errors
/// When the term is over, or errors of the database.
pub(crate) async fn follow(
    pool: &PgPool,
    tenure: &Tenure,
    wanted: &Wanted,
) -> Result<(), FireError> {
    let mut tx = pool.begin().await?;
    if !tenure.prove_in(&mut tx).await? {
        return Err(FireError::TermOver);
    }
    let by = format!("term {} of {}", tenure.term, tenure.holder());
    let taken = schedule::follow_configuration_in(&mut tx, &wanted.schedules, &by).await?;
    for name in &taken {
        tracing::error!(
            schedule = name,
            "a schedule of the configuration has a name that an operator's schedule has already; \
             it does not fire"
        );
    }
    let taken = taken.first().map(|name| {
        let problem = format!(
            "[schedule.{name}]: an operator's schedule has this name; remove that one, or choose \
             another name"
        );
        (problem, wanted.loaded_at)
    });
    let (problem, problem_at) = wanted.problem.clone().or(taken).unzip();
    let state = FileState {
        path: wanted.path.as_ref().map(|path| path.display().to_string()),
        loaded_at: wanted.loaded_at,
        problem,
        problem_at,
        reported_by: tenure.holder().to_owned(),
    };
    put_file_state_in(&mut tx, &state, tenure.term).await?;
    tx.commit().await?;
    Ok(())
}

/// Whether the definition is still the one that was read, and keeps it so until `tx` ends: once
/// somebody has disabled or changed a schedule, it does not fire as it was.
async fn is_unchanged(
    tx: &mut PgConnection,
    schedule: &str,
    revision: i64,
) -> Result<bool, sqlx::Error> {
    let found: Option<bool> = sqlx::query_scalar(
        "-- is_schedule_unchanged
         SELECT active AND revision = $2 FROM relevo.schedule WHERE name = $1
            FOR NO KEY UPDATE",
    )
    .bind(schedule)
    .bind(revision)
    .fetch_optional(tx)
    .await?;
    Ok(found.unwrap_or(false))
}

async fn is_settled(
    tx: &mut PgConnection,
    schedule: &str,
    slot: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    // The proved term keeps every other leader out until this transaction ends,
    // so looking first is safe; the unique key stands behind it.
    sqlx::query_scalar(
        "-- is_slot_settled
         SELECT EXISTS (SELECT FROM relevo.schedule_fire WHERE schedule = $1 AND slot = $2)",
    )
    .bind(schedule)
    .bind(slot)
    .fetch_one(tx)
    .await
}

async fn record(
    tx: &mut PgConnection,
    schedule: &str,
    slot: DateTime<Utc>,
    term: i64,
    fired: &Fired,
) -> Result<(), sqlx::Error> {
    let (outcome, reason, run_id, job_id) = match fired {
        Fired::Run(run) => ("started", None, Some(*run), None),
        Fired::Job(job) => ("started", None, None, Some(*job)),
        Fired::Skipped(reason) => ("skipped", Some(reason), None, None),
        Fired::SettledBefore => return Ok(()),
    };
    sqlx::query(
        "-- record_fire
         INSERT INTO relevo.schedule_fire (schedule, slot, outcome, reason, run_id, job_id, term)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
    )
    .bind(schedule)
    .bind(slot)
    .bind(outcome)
    .bind(reason)
    .bind(run_id)
    .bind(job_id)
    .bind(term)
    .execute(tx)
    .await
    .map(|_| ())
}

async fn move_on(
    tx: &mut PgConnection,
    schedule: &str,
    settled_to: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- move_schedule_on
         UPDATE relevo.schedule SET settled_to = $2 WHERE name = $1 AND settled_to < $2",
    )
    .bind(schedule)
    .bind(settled_to)
    .execute(tx)
    .await
    .map(|_| ())
}
