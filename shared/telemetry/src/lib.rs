//! How a process shows itself: log lines, Prometheus figures, health, traces.
//!
//! Every process has one [`metrics::Metrics`] with a registry of its own, and serves it on
//! `/metrics` beside `/livez` and `/readyz`: the API through [`router`], the others through
//! [`serve_metrics`]. What is counted, by which labels and why stands in [`metrics::names`];
//! figures that are read from the database are exported by the scheduler's leader alone, so that
//! sums over replicas are right.

mod http;
mod logging;
pub mod metrics;
pub mod redact;
mod rotating;
pub mod trace;

pub use http::{ReadyCheck, router, serve_metrics, track_http};
pub use logging::{LoggingError, init_logging};
pub use relevo_settings::LogFormat;
