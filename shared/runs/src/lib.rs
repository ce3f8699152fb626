//! Runs and what belongs to them: the control plane's schema, the run with its log and certificate,
//! API keys, the console's sessions, the audit log, backup requests, and the typed bridge from `relevo-jobs` to `relevo-queue`.

pub mod api_keys;
pub mod audit;
pub mod backup;
pub mod backup_requests;
mod bounded;
mod cancel;
pub mod console;
pub mod control_plane;
pub mod dead_letters;
mod ends;
mod event;
pub mod kinds;
mod ownership;
pub mod retention;
mod run;
mod runs;
pub mod schedules;
mod secret;
pub mod state;
mod typed;
pub mod uploads;

pub use cancel::CancelRequest;
pub use event::{LogLevel, RunEvent};
pub use kinds::{KindBook, Kinds};
pub use ownership::owned_as;
pub use run::{NewRun, Run, RunFilter, RunId, RunState, UnknownRunState};
pub use runs::{RunError, Runs};
pub use secret::NoRandomness;
pub use typed::{PayloadError, UnknownKind, typed_job};
