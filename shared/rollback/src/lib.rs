//! Taking an import back: the data from before a run return to their place, and the run says so.
//!
//! A crate of its own because the API and the command line both do it, and it needs what neither
//! the runs nor the imports know of each other. It happens at once, without a job: who takes data
//! back does so because something is wrong, perhaps with the workers too.
//!
//! Killed here, then what? The exchange in the target is one transaction with its ledger's word for
//! it. Killed before that, nothing has happened; after it, the same call finds it done and only
//! notes it on the run.

use std::sync::Arc;

use relevo_connections::{Connections, ReferenceError};
use relevo_import::steps;
pub use relevo_import::steps::RolledBack;
use relevo_import::{Certificate, ImportError};
use relevo_pg::{PgError, PoolOptions};
use relevo_runs::audit::{self, Action, Actor};
use relevo_runs::{LogLevel, Run, RunError, RunId, RunState, Runs};
use relevo_settings::Settings;
use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

/// Connections to the target: one exchanges, one asks the ledger.
const CONNECTIONS_MAX: u32 = 3;

/// Why a run was not rolled back. Readers of the target see what they saw before, unless the error
/// says that this is not known.
#[derive(Debug, thiserror::Error)]
pub enum RollbackError {
    /// There is no such run.
    #[error("there is no run {0}")]
    NotFound(RunId),
    /// It has nothing to take back.
    #[error("run {run} is {state}; only a run that succeeded has put data into place")]
    NotSucceeded {
        /// The run.
        run: RunId,
        /// How it stands.
        state: RunState,
    },
    /// It succeeded without an import.
    #[error("run {0} has no certificate of an import")]
    NoImport(RunId),
    /// The source is busy.
    #[error("run {active} of the same source is under way; wait for its end or cancel it")]
    Active {
        /// The run that is under way.
        active: RunId,
    },
    /// The settings do not know the target any more.
    #[error("the source {0:?} is not configured here, so its target is not known")]
    UnknownSource(String),
    /// The source names a connection that cannot be had.
    #[error("the target of run {run} cannot be used")]
    Connection {
        /// The run.
        run: RunId,
        /// Why.
        #[source]
        source: Box<ReferenceError>,
    },
    /// The target's ledger does not know the import: it keeps the newest ones only.
    #[error("the target does not know the import of run {0} any more")]
    Forgotten(RunId),
    /// A later import has taken its place.
    #[error("the import of run {run} is no longer in place: {newer} came after it")]
    Superseded {
        /// The run.
        run: RunId,
        /// The later import.
        newer: String,
    },
    /// There was nothing before.
    #[error("run {0} replaced no tables that were kept: there is nothing to put back")]
    NothingKept(RunId),
    /// What was before is gone.
    #[error("the tables from before run {run} are not in schema {schema} any more")]
    PreviousGone {
        /// The run.
        run: RunId,
        /// Where they were kept.
        schema: String,
    },
    /// The target, or what stands in the way there.
    #[error("the target could not put the previous tables back")]
    Target(#[source] Box<ImportError>),
    /// The target cannot be reached.
    #[error("the target of run {run} cannot be used")]
    Unreachable {
        /// The run.
        run: RunId,
        /// Why.
        #[source]
        source: PgError,
    },
    /// It is done, but the run does not say so yet.
    #[error(
        "the previous tables are back in their place, but that could not be noted on run {run}; ask \
         again to note it"
    )]
    NotNoted {
        /// The run.
        run: RunId,
        /// Why.
        #[source]
        source: RunError,
    },
    /// The control plane failed before anything was done.
    #[error("the control plane failed")]
    ControlPlane(#[from] RunError),
}

impl RollbackError {
    /// A stable name of the reason, for machines.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFound(_) => "run_not_found",
            Self::NotSucceeded { .. } => "run_not_succeeded",
            Self::NoImport(_) => "run_without_import",
            Self::Active { .. } => "run_active",
            Self::UnknownSource(_) => "source_not_configured",
            Self::Connection { .. } => "connection_unusable",
            Self::Forgotten(_) => "import_forgotten",
            Self::Superseded { .. } => "import_superseded",
            Self::NothingKept(_) => "nothing_kept",
            Self::PreviousGone { .. } => "previous_gone",
            Self::Target(_) => "target_refused",
            Self::Unreachable { .. } => "target_unreachable",
            Self::NotNoted { .. } => "not_noted",
            Self::ControlPlane(_) => "control_plane_failed",
        }
    }

    /// Whether the same call may succeed later without anyone changing anything.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Target(error) => error.is_transient(),
            Self::Unreachable { source, .. } => source.is_transient(),
            Self::NotNoted { .. } | Self::ControlPlane(_) => true,
            Self::NotFound(_)
            | Self::NotSucceeded { .. }
            | Self::NoImport(_)
            | Self::Active { .. }
            | Self::UnknownSource(_)
            | Self::Connection { .. }
            | Self::Forgotten(_)
            | Self::Superseded { .. }
            | Self::NothingKept(_)
            | Self::PreviousGone { .. } => false,
        }
    }
}

/// Puts the tables back that a run's import replaced, and notes it on the run and in the audit log.
/// Asked again, it says what it did the first time.
///
/// # Errors
/// [`RollbackError`], each reason by its own name.
pub async fn roll_back(
    control: &PgPool,
    settings: &Settings,
    id: RunId,
    by: &Actor,
    cancel: &CancellationToken,
) -> Result<RolledBack, RollbackError> {
    let runs = Runs::new(control.clone());
    let run = runs.get(id).await?.ok_or(RollbackError::NotFound(id))?;
    let certificate = certificate_of(&run)?;
    // The target's ledger would not let both go live, but whoever comes second loses much time.
    if let Some(active) = runs.active_of(&run.pipeline, &run.source).await? {
        return Err(RollbackError::Active { active: active.id });
    }
    let source = settings.backup.get(&run.source);
    let source = source.ok_or_else(|| RollbackError::UnknownSource(run.source.clone()))?;
    let options = PoolOptions::named("relevo-rollback")
        .max_connections(CONNECTIONS_MAX)
        .setting("statement_timeout", format!("{}s", source.statement_timeout_seconds))
        .setting("lock_timeout", format!("{}ms", source.lock_timeout_ms));
    let connections = Connections::new(control.clone(), Arc::new(settings.clone()));
    let source = connections
        .resolve_source(&run.source, source)
        .await
        .map_err(|source| RollbackError::Connection { run: id, source: Box::new(source) })?;
    let target = relevo_pg::connect(&source.target_url, options)
        .await
        .map_err(|source| RollbackError::Unreachable { run: id, source })?;
    let done = exchange(&target, &certificate, id, cancel).await;
    target.close().await;
    let done = done?;
    note(&runs, &run, &done, by)
        .await
        .map_err(|source| RollbackError::NotNoted { run: id, source })?;
    Ok(done)
}

/// The certificate of a run that can have something to take back.
fn certificate_of(run: &Run) -> Result<Certificate, RollbackError> {
    if run.state != RunState::Succeeded {
        return Err(RollbackError::NotSucceeded { run: run.id, state: run.state });
    }
    let stored = run.certificate.clone().ok_or(RollbackError::NoImport(run.id))?;
    serde_json::from_value(stored).map_err(|_| RollbackError::NoImport(run.id))
}

async fn exchange(
    target: &PgPool,
    certificate: &Certificate,
    run: RunId,
    cancel: &CancellationToken,
) -> Result<RolledBack, RollbackError> {
    let explain = |error| match error {
        ImportError::Unknown { .. } | ImportError::NotLive { .. } => RollbackError::Forgotten(run),
        ImportError::Superseded { newer, .. } => RollbackError::Superseded { run, newer },
        ImportError::NothingKept { .. } => RollbackError::NothingKept(run),
        ImportError::PreviousGone { schema, .. } => RollbackError::PreviousGone { run, schema },
        other => RollbackError::Target(Box::new(other)),
    };
    let stored = steps::stored_options(target, &certificate.import).await.map_err(explain)?;
    let limits = stored.map(|options| options.cutover).unwrap_or_default();
    steps::rollback(target, &certificate.import, &limits, cancel).await.map_err(explain)
}

/// Notes the rollback on its run, once.
async fn note(runs: &Runs, run: &Run, done: &RolledBack, by: &Actor) -> Result<(), RunError> {
    let mut tx = runs.pool().begin().await?;
    let who = by.label();
    if !runs.rolled_back_in(&mut tx, run.id, done.rolled_back_at, &who).await? {
        return Ok(());
    }
    let message = format!(
        "rolled back by {who}: the {} table(s) from before this run are in schema {} again, its own \
         are in {} until the next import succeeds",
        done.tables.len(),
        done.schema,
        done.previous_schema
    );
    tracing::warn!(run_id = run.id.0, source = run.source, "{message}");
    let fields = json!({
        "tables": done.tables,
        "retired": done.retired,
        "notices": done.notices,
    });
    runs.log_in(&mut tx, run.id, LogLevel::Warn, &message, &fields).await?;
    let action = Action {
        action: "run.rollback",
        object: &run.id.to_string(),
        before: None,
        after: Some(json!({ "schema": done.schema, "tables": done.tables.len() })),
    };
    audit::record_in(&mut tx, by, action).await?;
    tx.commit().await?;
    Ok(())
}
