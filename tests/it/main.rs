//! The integration tests: one binary, one module per front door.

#![expect(clippy::unwrap_used, reason = "a test that fails says where by the line of its unwrap")]

mod api;
mod architecture;
mod backup;
mod chaos;
mod cli;
mod console;
mod crowd;
mod differential;
mod embedded;
mod import;
mod kills;
mod notify;
mod open;
mod operated;
mod peers;
mod pools;
mod queue;
mod scheduler;
mod secrets;
mod settings;
mod telemetry;
