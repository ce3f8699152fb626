//! What every step of the import shares: entering it, and ending it otherwise than well.

use std::{cmp::Ordering, time::Duration};

/// An error and its causes in one line.
pub(crate) use relevo_errors::chain as describe;
use relevo_import::{Fence, Guard, ImportError, ImportId, ImportOptions};
use relevo_jobs::{JobKind, RequestBackup, RequestMode};
use relevo_queue::{Job, JobError};
use relevo_runs::{
    LogLevel, Run, RunId, RunState,
    backup::PIPELINE,
    backup_requests::{self, AskMode, BackupRequest, RequestState},
};
use relevo_settings::{BackupSource, SourceKind};
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use sqlx::{PgConnection, PgPool};

use super::{
    ending::{self, Previous},
    offered::upload_of,
    request,
    run_names::RunKey,
};
use crate::context::Context;

/// How often a run asks for a backup before it fails: a second time as it was asked, then in
/// synchronous mode.
pub(crate) const ROUNDS_MAX: i32 = 3;

/// For how long a worker that was started before a restore leaves a job to others.
const STALE_PAUSE: Duration = Duration::from_secs(10);

/// A step of an active run.
pub(crate) struct Step<'a> {
    pub(crate) context: &'a Context,
    pub(crate) job: &'a Job,
    pub(crate) run: Run,
    pub(crate) source: &'a BackupSource,
}

/// How a step ends when it does not succeed.
pub(crate) enum Stop {
    /// The job ends like this; the run goes on.
    Job(JobError),
    /// The run fails, for this reason.
    Run(String),
    /// The backup at hand is no good, for this reason: another one has to be asked for.
    Backup(String),
    /// Somebody asked for the run's end.
    Cancelled,
}

/// Whatever fails without a decision is tried again.
impl<E: Into<anyhow::Error>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Job(JobError::from(error.into()))
    }
}

impl<'a> Step<'a> {
    /// Enters a step. `None` when there is nothing to do any more: the run has ended.
    pub(crate) async fn enter(
        context: &'a Context,
        job: &'a Job,
        run_id: i64,
    ) -> Result<Option<Self>, JobError> {
        let Some(run) = context.runs.get(RunId(run_id)).await? else {
            return Err(JobError::cancel(format!("there is no run {run_id}")));
        };
        if run.state.is_ended() {
            return Ok(None);
        }
        match run.incarnation.cmp(&context.identity.incarnation) {
            Ordering::Equal => {}
            // The reconciler ends it as its target says.
            Ordering::Less => {
                return Err(JobError::cancel("the control plane was restored since its run began"));
            }
            // This process is of the past; it is about to find out, and to end.
            Ordering::Greater => return Err(JobError::snooze(STALE_PAUSE)),
        }
        let Some(source) = context.source(&run.source) else {
            // Its job may be in the hands of a worker that was started with other settings.
            return Err(JobError::retry(format!(
                "source {:?} of run {run_id} is not configured here; every worker needs the same \
                 [backup.*] settings",
                run.source
            )));
        };
        // Somebody may be about to add or mend the connection.
        let source = source.map_err(|error| JobError::retry(describe(error)))?;
        Ok(Some(Self { context, job, run, source }))
    }

    /// Turns the outcome of a step into the outcome of its job.
    pub(crate) async fn end(
        &self,
        outcome: Result<(), Stop>,
        request: Option<&BackupRequest>,
    ) -> Result<(), JobError> {
        match outcome {
            Ok(()) => Ok(()),
            Err(Stop::Job(error)) => {
                self.tell_of_failure(&error).await;
                Err(error)
            }
            Err(Stop::Run(reason)) => self.fail_run(&reason).await,
            Err(Stop::Backup(reason)) => match request {
                Some(request) => self.ask_again(request, &reason).await,
                None => self.fail_run(&reason).await,
            },
            Err(Stop::Cancelled) => {
                // The reconciler ends the run once its jobs are told to stop.
                self.context.run_ended.notify_one();
                Err(JobError::cancel("the run is being cancelled"))
            }
        }
    }

    /// Writes the failure of an attempt into the run's log, where people look first: every one at
    /// first, ever fewer as they repeat themselves.
    async fn tell_of_failure(&self, error: &JobError) {
        let attempt = self.job.attempt;
        if error.is_failure() && attempt.count_ones() == 1 && attempt < self.job.max_attempts {
            let text = error.to_string();
            // What becomes of the job is the queue's affair.
            let text = text.strip_prefix(&format!("{}: ", error.as_str())).unwrap_or(&text);
            let message = format!("attempt {attempt} of {} failed: {text}", self.job.kind);
            let fields = json!({ "job_id": self.job.id, "attempt": attempt });
            self.log(LogLevel::Warn, &message, fields).await;
        }
    }

    /// Ends the job, and the run as failed, unless the run does not depend on the job any more.
    async fn fail_run(&self, reason: &str) -> Result<(), JobError> {
        let mut tx = self.context.fenced(self.job).await?;
        let run = self.run.id;
        let ended = ending::fail_by_in(self.context, &mut tx, self.job, run, reason).await?;
        self.job.complete_in(&mut tx).await?;
        tx.commit().await?;
        if ended {
            ending::ended(self.context, &self.run, RunState::Failed);
        }
        Ok(())
    }

    /// Gives up the backup of `request`, asks for another one if rounds are left, and ends the job.
    async fn ask_again(&self, request: &BackupRequest, reason: &str) -> Result<(), JobError> {
        let mut tx = self.context.fenced(self.job).await?;
        let ended = next_round_in(self, &mut tx, request, reason).await?;
        self.job.complete_in(&mut tx).await?;
        tx.commit().await?;
        if ended {
            ending::ended(self.context, &self.run, RunState::Failed);
        }
        Ok(())
    }

    /// What the run's dump comes from, for people.
    fn from(&self) -> &'static str {
        if upload_of(&self.run).is_some() {
            return "the upload";
        }
        match self.source.kind {
            SourceKind::Gateway => "the gateway",
            SourceKind::Folder => "the folder",
            SourceKind::File => "the file",
            SourceKind::Url => "the server",
            SourceKind::Upload => "the uploads",
        }
    }

    /// The run, as what it leaves outside is named after it.
    pub(crate) fn key(&self) -> RunKey {
        RunKey::from(&self.run)
    }

    /// The fence of this job's writes in the target.
    pub(crate) fn fence(&self) -> Fence {
        Fence {
            incarnation: self.context.identity.incarnation,
            job_id: self.job.id.0,
            epoch: self.job.epoch,
        }
    }

    /// The import of this run's `request_id`th request.
    pub(crate) fn import(&self, request_id: i64) -> Result<ImportId, Stop> {
        import_id(self.context, self.key(), request_id).map_err(|error| Stop::Run(describe(&error)))
    }

    /// The target's pool; an address or login that is wrong fails the run, a target that is down
    /// does not.
    pub(crate) async fn target(&self) -> Result<PgPool, Stop> {
        match self.context.targets.pool(&self.run.source, self.source).await {
            Ok(pool) => Ok(pool),
            Err(error) if error.is_transient() => Err(error.into()),
            Err(error) => Err(Stop::Run(describe(&error))),
        }
    }

    /// What the target's ledger is told about the import.
    pub(crate) fn import_options(&self) -> ImportOptions {
        let force = self.run.options.get("force").and_then(serde_json::Value::as_bool);
        let mut options = ImportOptions {
            schema: self.source.target_schema.clone(),
            owner: self.context.identity.cluster_id.clone(),
            guard: Guard {
                shrink_percent: self.source.guard_shrink_percent,
                force: force.unwrap_or(false),
            },
            // The gateway's dumps are made by a tool that writes the line, whatever its header says.
            completion: relevo_import::Completion::Required,
            ..ImportOptions::default()
        };
        let dump = &self.source.dump;
        options.translate = dump.translate.clone();
        options.database.clone_from(&dump.database);
        options.selection = relevo_import::Selection {
            only: dump.only.clone(),
            exclude: dump.exclude.clone(),
            rename: dump.rename.clone(),
        };
        options.filters.clone_from(&dump.filters);
        options.quarantine = dump.quarantine;
        options.cutover.mode = match self.source.cutover {
            relevo_settings::CutoverMode::Swap => relevo_import::CutoverMode::Swap,
            relevo_settings::CutoverMode::Merge => relevo_import::CutoverMode::Merge,
        };
        options.cutover.old_snapshots = match self.source.old_snapshots {
            relevo_settings::OldSnapshots::Refuse => relevo_import::OldSnapshots::Refuse,
            relevo_settings::OldSnapshots::Proceed => relevo_import::OldSnapshots::Proceed,
        };
        options.cutover.snapshot_wait_seconds = self.source.snapshot_wait_seconds;
        let patience = self.source.cutover_patience_seconds;
        options.cutover.lock_wait_seconds = options.cutover.lock_wait_seconds.min(patience);
        options
    }

    /// Counts an error that says that the data are not to be put into place.
    pub(crate) fn count_refusal(&self, error: &ImportError) {
        let reason = match error {
            ImportError::Guard { .. } => "guard",
            ImportError::RowsDiffer { .. }
            | ImportError::ValuesDiffer { .. }
            | ImportError::Recount { .. } => "mismatch",
            _ => return,
        };
        let labels = [PIPELINE, self.run.source.as_str(), reason];
        self.context.metrics.pipeline_refusals.with_label_values(&labels).inc();
    }

    /// Writes a line into the run's log and the process's.
    pub(crate) async fn log(&self, level: LogLevel, message: &str, fields: serde_json::Value) {
        match level {
            LogLevel::Debug => tracing::debug!(%fields, "{message}"),
            LogLevel::Info => tracing::info!(%fields, "{message}"),
            LogLevel::Warn => tracing::warn!(%fields, "{message}"),
            LogLevel::Error => tracing::error!(%fields, "{message}"),
        }
        if let Err(error) = self.context.runs.log(self.run.id, level, message, &fields).await {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "a line of the run's log could not be written");
        }
    }
}

/// What a person can do about an error of the target that is tried again all the same.
fn remedy(error: &ImportError) -> Option<&'static str> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(answer) = current.downcast_ref::<sqlx::Error>() {
            return match relevo_pg::error::sqlstate(answer)?.as_str() {
                "53100" => Some("make room on the disk of the target's server"),
                "25006" => Some("point target_url to the primary"),
                _ => None,
            };
        }
        cause = current.source();
    }
    None
}

/// What a target's error means for a step.
pub(crate) fn import_stop(error: ImportError) -> Stop {
    match &error {
        _ if error.is_transient() => match remedy(&error) {
            Some(remedy) => Stop::from(anyhow::anyhow!("{}; {remedy}", describe(&error))),
            None => error.into(),
        },
        // A later writer, or the run's end, has taken the import out of our hands.
        ImportError::Fenced { .. } | ImportError::Ended { .. } | ImportError::Cancelled => {
            Stop::Job(JobError::cancel(describe(&error)))
        }
        // Nothing is wrong with the target or the settings, only with this dump.
        ImportError::Truncated { .. }
        | ImportError::Damaged { .. }
        | ImportError::Incomplete
        | ImportError::ChunkDamaged { .. }
        | ImportError::OtherDump { .. } => Stop::Backup(describe(&error)),
        _ => Stop::Run(describe(&error)),
    }
}

/// Gives up `request` and opens the next round, or fails the run when it was the last one. Changes
/// nothing when another request has taken its place already. True when this has ended the run:
/// [`ending::ended`] is due after the commit.
pub(crate) async fn next_round_in(
    step: &Step<'_>,
    tx: &mut PgConnection,
    request: &BackupRequest,
    reason: &str,
) -> anyhow::Result<bool> {
    let context = step.context;
    // The run first, then the request: everybody's order.
    let Some(run) = context.runs.get_for_update_in(tx, step.run.id).await? else {
        return Ok(false);
    };
    if run.state.is_ended() {
        return Ok(false);
    }
    // Behind the run's lock: what it shows stands until this transaction ends.
    let requests = backup_requests::of_run_in(tx, run.id).await?;
    if !is_current(&requests, request.id) {
        return Ok(false);
    }
    backup_requests::close_in(tx, request.id, backup_requests::CloseAs::Expired, reason).await?;
    // Its chunks are void; sealed, its batch does not stay open for ever, and the finish that it
    // completes with finds that it is not wanted.
    if let Some(batch) = super::download::batch_of(&run, request.id) {
        context.queue.seal_batch(tx, batch).await?;
    }
    let asked = requests.iter().map(|request| request.round).max().unwrap_or(request.round);
    // An upload stays what it is, however often it is read.
    if asked >= ROUNDS_MAX || run.cancel_requested || upload_of(&run).is_some() {
        let from = step.from();
        let reason = format!("no usable backup after {asked} request(s) to {from}: {reason}");
        return ending::fail_in(context, tx, &run, Previous::Untouched, &reason).await;
    }
    let round = asked + 1;
    let mode = request::mode_of_round(request.mode, round);
    let pause = request::pause_before_round(step.source, round);
    // Opened here and not by its job: from now on the old request is not current any more.
    request::open_round_in(step, tx, round, mode, pause).await?;
    let mode = match mode {
        AskMode::Webhook => RequestMode::Webhook,
        AskMode::Sync => RequestMode::Sync,
    };
    let payload = RequestBackup { run_id: run.id.0, mode, round };
    let job = Context::child(step.job, &payload).delay(pause);
    context.queue.enqueue_in(tx, &[job]).await?;
    context.runs.set_phase_in(tx, run.id, "request").await?;
    let message =
        format!("asking {} again, request {round} of {ROUNDS_MAX}: {reason}", step.from());
    tracing::warn!(run_id = run.id.0, round, "{message}");
    let fields = json!({ "request_id": request.id, "round": round });
    context.runs.log_in(tx, run.id, LogLevel::Warn, &message, &fields).await?;
    Ok(false)
}

/// Whether the run still goes by this request: no other one waits for the gateway or was delivered
/// later. (A request that was given up may be delivered after all, so the round alone says
/// nothing.)
pub(crate) fn is_current(requests: &[BackupRequest], id: i64) -> bool {
    let Some(own) = requests.iter().find(|request| request.id == id) else { return false };
    requests.iter().filter(|other| other.id != id).all(|other| match other.state {
        RequestState::Failed | RequestState::Expired => true,
        _ if own.state != RequestState::Delivered => other.round < own.round,
        // A delivery closes what waits; what waits now was opened because of it.
        RequestState::Asked | RequestState::Answered => false,
        RequestState::Delivered => other.delivered_at < own.delivered_at,
    })
}

/// Whether it matters to the run what becomes of a job: it carries the import forward, and works
/// for the request that the run goes by. Jobs of a request that was given up do not matter, nor do
/// those that ask for a backup, or wait for it, once it was delivered.
pub(crate) fn is_wanted(requests: &[BackupRequest], kind: &str, payload: &RawValue) -> bool {
    #[derive(Deserialize)]
    struct Names {
        request_id: Option<i64>,
        round: Option<i32>,
    }
    let asks = match kind.parse() {
        Ok(JobKind::RequestBackup | JobKind::BackupDeadline) => true,
        Ok(JobKind::DownloadDump | JobKind::TranslateChunk | JobKind::FinishImport) => false,
        Ok(JobKind::Notify | JobKind::Noop) | Err(_) => return false,
    };
    let delivered = |request: &BackupRequest| {
        request.state == RequestState::Delivered && is_current(requests, request.id)
    };
    if asks && requests.iter().any(delivered) {
        return false;
    }
    match serde_json::from_str(payload.get()) {
        Ok(Names { request_id: Some(id), .. }) => is_current(requests, id),
        Ok(Names { round: Some(round), .. }) => {
            requests.iter().all(|request| request.round <= round)
        }
        Ok(Names { request_id: None, round: None }) | Err(_) => true,
    }
}

/// The import of one request of a run.
pub(crate) fn import_id(
    context: &Context,
    run: RunKey,
    request_id: i64,
) -> Result<ImportId, ImportError> {
    ImportId::new(context.names.import(run, request_id))
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn request(id: i64, state: RequestState, delivered_at: Option<i64>) -> BackupRequest {
        let moment = |seconds| DateTime::from_timestamp(seconds, 0).expect("a moment");
        BackupRequest {
            id,
            run_id: RunId(1),
            round: i32::try_from(id).expect("small"),
            mode: AskMode::Webhook,
            state,
            gateway_job_id: None,
            download_url: None,
            filename: None,
            filesize_bytes: None,
            filesize_mb: None,
            expires_at: None,
            asked_at: moment(id),
            answered_at: None,
            delivered_at: delivered_at.map(moment),
            ended_at: None,
            next_job_id: None,
            error: None,
            token_issued_at: None,
        }
    }

    /// Ids of the requests that count as current.
    fn current(requests: &[BackupRequest]) -> Vec<i64> {
        requests.iter().map(|request| request.id).filter(|id| is_current(requests, *id)).collect()
    }

    #[test]
    fn a_run_goes_by_one_request_at_a_time() {
        use RequestState::{Answered, Asked, Delivered, Expired, Failed};
        assert_eq!(current(&[request(1, Answered, None)]), [1]);
        // The first dump was no good, the second is on its way, then there.
        assert_eq!(current(&[request(1, Delivered, Some(5)), request(2, Asked, None)]), [2]);
        let both = [request(1, Delivered, Some(5)), request(2, Delivered, Some(9))];
        assert_eq!(current(&both), [2]);
        // The second failed too: its own deadline job goes on from there.
        assert!(current(&[request(1, Delivered, Some(5)), request(2, Failed, None)]).contains(&2));
        // Given up and delivered after all, which closed the second.
        assert!(current(&[request(1, Delivered, Some(9)), request(2, Expired, None)]).contains(&1));
        // That one was no good either.
        let late =
            [request(1, Delivered, Some(9)), request(2, Expired, None), request(3, Asked, None)];
        assert_eq!(current(&late), [3]);
        assert!(!is_current(&late, 99));
    }

    #[test]
    fn jobs_of_a_request_that_was_given_up_do_not_matter() {
        let requests =
            [request(1, RequestState::Delivered, Some(5)), request(2, RequestState::Asked, None)];
        let wanted = |kind: &str, text: &str| {
            let payload = RawValue::from_string(text.to_owned()).expect("is JSON");
            is_wanted(&requests, kind, &payload)
        };
        assert!(!wanted("TranslateChunk", r#"{"run_id": 1, "request_id": 1, "ordinal": 3}"#));
        assert!(wanted("BackupDeadline", r#"{"run_id": 1, "request_id": 2}"#));
        assert!(!wanted("FinishImport", r#"{"run_id": 1, "request_id": 1, "round": 9}"#));
        assert!(!wanted("RequestBackup", r#"{"run_id": 1, "round": 1}"#));
        assert!(wanted("RequestBackup", r#"{"run_id": 1, "round": 2}"#));
        assert!(!wanted("Notify", r#"{"run_id": 1}"#));
    }

    #[test]
    fn who_asks_does_not_matter_once_the_backup_is_there() {
        let requests = [request(1, RequestState::Delivered, Some(5))];
        let wanted = |kind: &str, text: &str| {
            let payload = RawValue::from_string(text.to_owned()).expect("is JSON");
            is_wanted(&requests, kind, &payload)
        };
        assert!(!wanted("BackupDeadline", r#"{"run_id": 1, "request_id": 1}"#));
        assert!(!wanted("RequestBackup", r#"{"run_id": 1, "round": 1}"#));
        assert!(wanted("DownloadDump", r#"{"run_id": 1, "request_id": 1}"#));
    }
}
