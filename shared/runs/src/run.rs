//! What a run is: its id, its state, its row.

use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use relevo_queue::NewJob;
use relevo_telemetry::trace;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The number of a run. Jobs that work for it carry the same number as their `run_id`.
#[derive(
    Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, sqlx::Type,
)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct RunId(pub i64);

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for RunId {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Where a run stands as a whole. The last three are final: a run never leaves them.
///
/// Statements read and write it as text: for a type of its own sqlx would ask every new connection
/// what that is.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum RunState {
    /// Created together with its first job; no handler has begun. Set by `create_in`.
    Pending,
    /// Some handler has begun. Set by the first `set_phase_in` or `progress`.
    Running,
    /// It did all it should, with a certificate. Set by `succeed_in`.
    Succeeded,
    /// It ended without success; the error says why. Set by `fail_in`.
    Failed,
    /// A person ended it. Set by `cancel_in`, after `request_cancel`.
    Cancelled,
}

impl RunState {
    /// Every state, in the order a run can pass through them.
    pub const ALL: [Self; 5] =
        [Self::Pending, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The name as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// True in the final states.
    #[must_use]
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }
}

impl fmt::Display for RunState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no run state.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no run state is called {0:?}; states are pending, running, succeeded, failed, cancelled")]
pub struct UnknownRunState(pub String);

impl FromStr for RunState {
    type Err = UnknownRunState;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownRunState(text.to_owned()))
    }
}

/// One execution of a pipeline for one source.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct Run {
    /// Its number.
    pub id: RunId,
    /// The control plane's incarnation when it was created: with the number, it names what the run
    /// leaves on disk and in targets.
    #[serde(skip)]
    pub incarnation: i64,
    /// What kind of run it is, for example `backup`.
    pub pipeline: String,
    /// The configured source it moves.
    pub source: String,
    /// Where it stands as a whole.
    pub state: RunState,
    /// The pipeline's own name for the step it is in, or ended in.
    pub phase: String,
    /// Who started it: `api`, `cli`, `schedule:<name>`.
    pub trigger: String,
    /// The trace context of who started it: all its jobs belong to that trace.
    pub traceparent: Option<String>,
    /// How it was asked for, for example `{"mode": "webhook"}`.
    pub options: Value,
    /// What one step of the pipeline left for the next. Of no use to people.
    #[serde(skip)]
    pub notes: Value,
    /// When it was asked for.
    pub created_at: DateTime<Utc>,
    /// When its first handler began.
    pub started_at: Option<DateTime<Utc>>,
    /// When it ended.
    pub finished_at: Option<DateTime<Utc>>,
    /// The last change of phase, progress or state.
    pub updated_at: DateTime<Utc>,
    /// `{done, total, unit, message}`.
    pub progress: Option<Value>,
    /// Figures gathered on the way.
    pub stats: Value,
    /// What was moved and how it was verified.
    pub certificate: Option<Value>,
    /// Why it failed.
    pub error: Option<String>,
    /// Somebody asked for its end.
    pub cancel_requested: bool,
    /// When what the run had left was cleared away after its end.
    pub cleaned_at: Option<DateTime<Utc>>,
    /// When the data from before it were put back into their place.
    pub rolled_back_at: Option<DateTime<Utc>>,
    /// Who did that.
    pub rolled_back_by: Option<String>,
}

/// The figure of a run that failed without anybody knowing what its target shows.
const PREVIOUS_DATA: &str = "previous_data";

impl Run {
    /// What is added to the figures of a run whose cutover was begun, and whose target could not be
    /// asked what became of it.
    #[must_use]
    pub fn undecided() -> Value {
        json!({ PREVIOUS_DATA: "unknown" })
    }

    /// Whether nobody knows if the target shows the data from before this run, or the run's.
    #[must_use]
    pub fn is_undecided(&self) -> bool {
        self.stats.get(PREVIOUS_DATA).is_some()
    }

    /// Puts a job of this run into the run's trace, whoever makes it: a webhook or a reconciler
    /// works in another trace, or in none.
    #[must_use]
    pub fn in_trace(&self, mut job: NewJob) -> NewJob {
        let of_run = self.traceparent.as_deref().and_then(trace::trace_id);
        let of_job = job.traceparent.as_deref().and_then(trace::trace_id);
        if of_run.is_some() && of_run != of_job {
            job.traceparent.clone_from(&self.traceparent);
        }
        job
    }
}

/// A run to be created.
#[derive(Clone, Debug)]
pub struct NewRun {
    /// What kind of run, 1 to 100 characters.
    pub pipeline: String,
    /// The source, 1 to 100 characters.
    pub source: String,
    /// Who starts it, 1 to 200 characters.
    pub trigger: String,
    /// How it is asked for: a JSON object, never with secrets.
    pub options: Value,
}

/// Which runs to list; every given field must match.
#[derive(Clone, Debug, Default)]
pub struct RunFilter {
    /// Only of this pipeline.
    pub pipeline: Option<String>,
    /// Only of this source.
    pub source: Option<String>,
    /// Only in this state.
    pub state: Option<RunState>,
    /// Only older than this one: the last id of the page before.
    pub before: Option<RunId>,
    /// At most so many; 1 to [`RunFilter::LIMIT_MAX`], 0 means [`RunFilter::LIMIT_DEFAULT`].
    pub limit: u32,
}

impl RunFilter {
    /// Page size when none is asked for.
    pub const LIMIT_DEFAULT: u32 = 50;
    /// Largest page.
    pub const LIMIT_MAX: u32 = 500;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_read_back_and_agree_with_serde() {
        for state in RunState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), Value::from(state.as_str()));
        }
        assert!("Pending".parse::<RunState>().is_err());
    }
}
