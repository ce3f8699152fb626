//! The integration tests: one binary, one module per front door.

mod api;
mod backup;
mod cli;
mod embedded;
mod import;
mod queue;
mod scheduler;
mod settings;
