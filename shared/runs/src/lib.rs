//! Runs and what belongs to them: the control plane's schema, the run with its log and certificate,
//! API keys, backup requests, and the typed bridge from `relevo-jobs` to `relevo-queue`.

pub mod control_plane;
