//! Runs and what belongs to them: the control plane's schema, the run with its log and certificate,
//! API keys, backup requests, and the typed bridge from `relevo-jobs` to `relevo-queue`.

pub mod api_keys;
mod bounded;
pub mod control_plane;
mod event;
mod run;
mod runs;
mod secret;

pub use event::{LogLevel, RunEvent};
pub use run::{NewRun, Run, RunFilter, RunId, RunState, UnknownRunState};
pub use runs::{CancelRequest, RunError, Runs};
pub use secret::NoRandomness;
